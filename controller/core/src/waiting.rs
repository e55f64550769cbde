//! Who waits for an address, longest first.
//!
//! Waiting Services are kept in classes: all that determines whether one fits, its age aside. So if the first of
//! a class does not fit, none of it does, and serving a freed address costs a look at each class that it may help.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use rules::Family;

use crate::request::{Age, Port, Sharing, SharingPair};
use crate::usage::ServiceRef;

/// The place of a Service in the queue: since when it waits, then its age, then its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) since: Timestamp,
    pub(crate) age: Age,
    pub(crate) service: ServiceRef,
}

/// All that determines whether a waiting Service fits, its age aside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class {
    pub(crate) wants: Wants,
    pub(crate) sharing: Option<(SharingPair, BTreeSet<Port>)>,
    /// Set where a quota binds.
    pub(crate) quota: Option<Bound>,
    /// Set where it matters what the Service already has.
    pub(crate) own: Option<ServiceRef>,
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wants {
    /// Exactly these addresses.
    Addresses(Vec<IpAddr>),
    /// Any address of these pools, all of which admit the Service.
    Pools(Vec<String>, Need),
}

/// A namespace, and the pools that have a quota for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bound {
    pub(crate) namespace: String,
    pub(crate) pools: Vec<String>,
}

/// Which families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    One(Family),
    Both,
    Either(Family),
}

impl Need {
    /// The families of which an address may help.
    fn families(self) -> Vec<Family> {
        match self {
            Self::One(family) => vec![family],
            Self::Both | Self::Either(_) => Family::ALL.to_vec(),
        }
    }
}

/// Something that became possible, and may help who waits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Freed {
    /// The address is free, or can be shared with others than before.
    Address(IpAddr),
    /// So is some address of the family in the pool.
    InPool(String, Family),
    /// A Service of the namespace (second) gave up an address of the pool (first), which has a quota for it.
    InQuota(String, String),
}

impl Class {
    fn helped_by(&self) -> Vec<Freed> {
        let mut helped: Vec<Freed> = match &self.wants {
            Wants::Addresses(addresses) => addresses.iter().copied().map(Freed::Address).collect(),
            Wants::Pools(pools, need) => {
                let families = need.families();
                let of = |pool: &String| families.iter().map(|f| Freed::InPool(pool.clone(), *f)).collect();
                pools.iter().flat_map::<Vec<_>, _>(of).collect()
            }
        };
        if let Some(Bound { namespace, pools }) = &self.quota {
            helped.extend(pools.iter().map(|pool| Freed::InQuota(pool.clone(), namespace.clone())));
        }
        helped
    }
}

/// The part of a class that comes from sharing.
pub(crate) fn sharing_class(sharing: &Sharing) -> Option<(SharingPair, BTreeSet<Port>)> {
    sharing.pair.clone().map(|pair| (pair, sharing.ports.clone()))
}

/// The queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiting {
    classes: BTreeMap<Arc<Class>, BTreeSet<Place>>,
    /// Which classes each thing may help.
    helps: BTreeMap<Freed, BTreeSet<Arc<Class>>>,
}

impl Waiting {
    pub(crate) fn insert(&mut self, class: &Arc<Class>, place: Place) {
        if let Some(places) = self.classes.get_mut(class) {
            places.insert(place);
            return;
        }
        for freed in class.helped_by() {
            self.helps.entry(freed).or_default().insert(Arc::clone(class));
        }
        self.classes.insert(Arc::clone(class), BTreeSet::from([place]));
    }

    pub(crate) fn remove(&mut self, class: &Arc<Class>, place: &Place) {
        let Some(places) = self.classes.get_mut(class) else { return };
        places.remove(place);
        if !places.is_empty() {
            return;
        }
        self.classes.remove(class);
        for freed in class.helped_by() {
            if let Some(helped) = self.helps.get_mut(&freed) {
                helped.remove(class);
                if helped.is_empty() {
                    self.helps.remove(&freed);
                }
            }
        }
    }

    pub(crate) fn first(&self, class: &Arc<Class>) -> Option<&Place> {
        self.classes.get(class)?.first()
    }

    #[cfg(test)]
    pub(crate) fn classes(&self) -> Vec<&Class> {
        self.classes.keys().map(|class| &**class).collect()
    }

    /// The classes that something in `freed` may help, with their first.
    pub(crate) fn touched(&self, freed: &BTreeSet<Freed>) -> Vec<(Place, Arc<Class>)> {
        let touched: BTreeSet<&Arc<Class>> =
            freed.iter().filter_map(|freed| self.helps.get(freed)).flatten().collect();
        let first = |class: &Arc<Class>| Some((self.first(class)?.clone(), Arc::clone(class)));
        touched.into_iter().filter_map(first).collect()
    }
}
