//! Who waits for an address, longest first.
//!
//! Waiting Services are kept in classes: all that determines whether one fits, its age aside. So if the first of
//! a class does not fit, none of it does, and serving a freed address costs a look at each class that it touches.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::jiff::Timestamp;
use rules::Family;

use crate::request::{Age, Sharing};
use crate::request::{Port, SharingPair};
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
pub(crate) enum Class {
    /// Waits for exactly these addresses.
    Addresses(Vec<IpAddr>, Option<(SharingPair, BTreeSet<Port>)>, Option<String>),
    /// Waits for any address of these pools.
    Pools(PoolClass),
}

/// Waits for any address of some pools.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PoolClass {
    /// In the order in which they are tried.
    pub(crate) pools: Vec<String>,
    pub(crate) need: Need,
    pub(crate) sharing: Option<(SharingPair, BTreeSet<Port>)>,
    /// Set where a quota of one of the pools binds the namespace.
    pub(crate) namespace: Option<String>,
    /// Set where it matters what the Service already has.
    pub(crate) own: Option<ServiceRef>,
}

/// Which families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    One(Family),
    Both,
    Either(Family),
}

/// The part of a class that comes from sharing.
pub(crate) fn sharing_class(sharing: &Sharing) -> Option<(SharingPair, BTreeSet<Port>)> {
    sharing.pair.clone().map(|pair| (pair, sharing.ports.clone()))
}

/// What became free since the queue was last served.
#[derive(Clone, Debug, Default)]
pub(crate) struct Freed {
    pub(crate) pools: BTreeSet<String>,
    pub(crate) addresses: BTreeSet<IpAddr>,
}

impl Freed {
    pub(crate) fn is_empty(&self) -> bool {
        self.pools.is_empty() && self.addresses.is_empty()
    }
}

/// The queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiting {
    classes: BTreeMap<Class, BTreeSet<Place>>,
}

impl Waiting {
    pub(crate) fn insert(&mut self, class: Class, place: Place) {
        self.classes.entry(class).or_default().insert(place);
    }

    pub(crate) fn remove(&mut self, class: &Class, place: &Place) {
        if let Some(places) = self.classes.get_mut(class) {
            places.remove(place);
            if places.is_empty() {
                self.classes.remove(class);
            }
        }
    }

    pub(crate) fn first(&self, class: &Class) -> Option<&Place> {
        self.classes.get(class)?.first()
    }

    /// The classes that something in `freed` may help, with their first.
    pub(crate) fn touched(&self, freed: &Freed) -> Vec<(Place, Class)> {
        let helps = |class: &Class| match class {
            Class::Addresses(addresses, ..) => addresses.iter().any(|ip| freed.addresses.contains(ip)),
            Class::Pools(class) => class.pools.iter().any(|pool| freed.pools.contains(pool)),
        };
        let touched = self.classes.iter().filter(|(class, _)| helps(class));
        touched.filter_map(|(class, places)| Some((places.first()?.clone(), class.clone()))).collect()
    }
}
