//! The queue of Services that wait for an address, longest-waiting first.
//!
//! Services are grouped by everything except their age that determines whether they can be served
//! ([`WaitClass`]). If the first Service of a class cannot be served, no other of the class can. A freed
//! address therefore costs one attempt for each class that it may help ([`WakeKey`]), not one for each
//! Service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use rules::Family;

use crate::address_claims::ServiceRef;
use crate::request::{Age, ProtocolPort, Sharing, SharingKey};

/// The order of Services in the queue: time of waiting, then age, then name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QueueKey {
    pub(crate) since: Timestamp,
    pub(crate) age: Age,
    pub(crate) service: ServiceRef,
}

/// Everything except the age that determines whether a waiting Service can be served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WaitClass {
    pub(crate) target: WaitTarget,
    pub(crate) sharing: Option<(SharingKey, BTreeSet<ProtocolPort>)>,
    /// Set if a quota applies.
    pub(crate) quota: Option<QuotaScope>,
    /// Set if the current addresses of the Service matter, so that the class is for this Service alone.
    pub(crate) exclusive_to: Option<ServiceRef>,
}

/// What the Services of a class wait for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WaitTarget {
    /// Exactly these addresses.
    Addresses(Vec<IpAddr>),
    /// Any address of these pools, all of which admit the Service.
    Pools(Vec<String>, FamilyNeed),
}

/// A namespace and the pools that have a quota for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QuotaScope {
    pub(crate) namespace: String,
    pub(crate) pools: Vec<String>,
}

/// The families that are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FamilyNeed {
    /// An address of this family.
    One(Family),
    /// An address of each family.
    Both,
    /// An address of either family; this one is preferred.
    Either(Family),
}

impl FamilyNeed {
    /// The families whose free addresses may help.
    fn families(self) -> Vec<Family> {
        match self {
            Self::One(family) => vec![family],
            Self::Both | Self::Either(_) => Family::ALL.to_vec(),
        }
    }
}

/// Something that became possible and may allow waiting Services to be served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WakeKey {
    /// The address became free, or other Services than before can share it.
    Address(IpAddr),
    /// The same for any address of the family in the pool.
    InPool(String, Family),
    /// A Service of the namespace (second field) gave up an address of the pool (first field), which has a
    /// quota for the namespace.
    InQuota(String, String),
}

impl WaitClass {
    fn wake_keys(&self) -> Vec<WakeKey> {
        let mut keys: Vec<WakeKey> = match &self.target {
            WaitTarget::Addresses(addresses) => addresses.iter().copied().map(WakeKey::Address).collect(),
            WaitTarget::Pools(pools, need) => {
                let families = need.families();
                let of = |pool: &String| families.iter().map(|f| WakeKey::InPool(pool.clone(), *f)).collect();
                pools.iter().flat_map::<Vec<_>, _>(of).collect()
            }
        };
        if let Some(QuotaScope { namespace, pools }) = &self.quota {
            keys.extend(pools.iter().map(|pool| WakeKey::InQuota(pool.clone(), namespace.clone())));
        }
        keys
    }
}

/// [`WaitClass::sharing`] of a Service.
pub(crate) fn sharing_class(sharing: &Sharing) -> Option<(SharingKey, BTreeSet<ProtocolPort>)> {
    sharing.key.clone().map(|key| (key, sharing.ports.clone()))
}

/// The queue of waiting Services.
#[derive(Clone, Debug, Default)]
pub(crate) struct WaitQueue {
    classes: BTreeMap<Arc<WaitClass>, BTreeSet<QueueKey>>,
    /// The classes that each key may help.
    by_wake_key: BTreeMap<WakeKey, BTreeSet<Arc<WaitClass>>>,
}

impl WaitQueue {
    pub(crate) fn insert(&mut self, class: &Arc<WaitClass>, key: QueueKey) {
        if let Some(services) = self.classes.get_mut(class) {
            services.insert(key);
            return;
        }
        for wake_key in class.wake_keys() {
            self.by_wake_key.entry(wake_key).or_default().insert(Arc::clone(class));
        }
        self.classes.insert(Arc::clone(class), BTreeSet::from([key]));
    }

    pub(crate) fn remove(&mut self, class: &Arc<WaitClass>, key: &QueueKey) {
        let Some(services) = self.classes.get_mut(class) else { return };
        services.remove(key);
        if !services.is_empty() {
            return;
        }
        self.classes.remove(class);
        for wake_key in class.wake_keys() {
            if let Some(classes) = self.by_wake_key.get_mut(&wake_key) {
                classes.remove(class);
                if classes.is_empty() {
                    self.by_wake_key.remove(&wake_key);
                }
            }
        }
    }

    pub(crate) fn first(&self, class: &Arc<WaitClass>) -> Option<&QueueKey> {
        self.classes.get(class)?.first()
    }

    #[cfg(test)]
    pub(crate) fn classes(&self) -> Vec<&WaitClass> {
        self.classes.keys().map(|class| &**class).collect()
    }

    /// The classes that any of `keys` may help, each with its first Service.
    pub(crate) fn woken_by(&self, keys: &BTreeSet<WakeKey>) -> Vec<(QueueKey, Arc<WaitClass>)> {
        let woken: BTreeSet<&Arc<WaitClass>> =
            keys.iter().filter_map(|key| self.by_wake_key.get(key)).flatten().collect();
        let first = |class: &Arc<WaitClass>| Some((self.first(class)?.clone(), Arc::clone(class)));
        woken.into_iter().filter_map(first).collect()
    }
}
