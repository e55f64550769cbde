//! The Services that claim an address, and whether they can share it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::ServiceKey;

use crate::request::{Protocol, ProtocolPort, Sharing, SharingKey};

/// The name of a Service, shared between the maps that contain it.
pub(crate) type ServiceRef = Arc<ServiceKey>;

/// Why two Services cannot share an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharingConflict {
    /// The Service that has the address has no sharing key.
    HolderHasNoKey,
    /// The Service that asks for the address has no sharing key.
    RequesterHasNoKey,
    /// Their sharing keys differ.
    Keys {
        /// The key of the Service that has the address.
        holder: String,
        /// The key of the Service that asks for it.
        requester: String,
    },
    /// One serves only local endpoints, the other all.
    TrafficPolicies {
        /// Whether the Service that has the address is the one with local endpoints only.
        holder_is_local: bool,
    },
    /// Both serve only local endpoints, and select different pods.
    Selectors {
        /// The selector of the Service that has the address.
        holder: String,
        /// The selector of the Service that asks for it.
        requester: String,
    },
    /// Both use this port.
    Port(Protocol, u16),
    /// The Service that has the address is about to give it up, and the longest-waiting Service gets it.
    HolderLeaving,
}

/// Why `requester` cannot share an address with `holder`; `None` if it can.
pub(crate) fn sharing_conflict(holder: &Sharing, requester: &Sharing) -> Option<SharingConflict> {
    let Some(a) = &holder.key else { return Some(SharingConflict::HolderHasNoKey) };
    let Some(b) = &requester.key else { return Some(SharingConflict::RequesterHasNoKey) };
    if a.value != b.value {
        return Some(SharingConflict::Keys { holder: a.value.clone(), requester: b.value.clone() });
    }
    match (a.backend.as_str(), b.backend.as_str()) {
        (same, other) if same == other => {}
        ("", _) => return Some(SharingConflict::TrafficPolicies { holder_is_local: false }),
        (_, "") => return Some(SharingConflict::TrafficPolicies { holder_is_local: true }),
        (holder, requester) => {
            return Some(SharingConflict::Selectors {
                holder: holder.to_owned(),
                requester: requester.to_owned(),
            });
        }
    }
    holder
        .ports
        .intersection(&requester.ports)
        .next()
        .map(|(protocol, port)| SharingConflict::Port(*protocol, *port))
}

/// The claims on one address; there is at least one.
#[derive(Clone, Debug)]
pub(crate) enum AddressClaims {
    /// One Service that never shared the address: the usual case, kept small.
    Single(ServiceRef, Arc<Sharing>),
    /// Several Services, or the last of several.
    Shared(Box<SharedClaims>),
}

/// Claims with indexes to decide in O(log n) whether another Service fits.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedClaims {
    by_service: BTreeMap<ServiceRef, Arc<Sharing>>,
    ports: BTreeSet<(ProtocolPort, ServiceRef)>,
    /// How many Services have each sharing key.
    keys: BTreeMap<Option<SharingKey>, usize>,
}

impl SharedClaims {
    fn insert(&mut self, service: &ServiceRef, sharing: &Arc<Sharing>) {
        self.remove(service);
        self.ports.extend(sharing.ports.iter().map(|port| (*port, Arc::clone(service))));
        *self.keys.entry(sharing.key.clone()).or_default() += 1;
        self.by_service.insert(Arc::clone(service), Arc::clone(sharing));
    }

    fn remove(&mut self, service: &ServiceRef) {
        let Some(sharing) = self.by_service.remove(service) else { return };
        for port in &sharing.ports {
            self.ports.remove(&(*port, Arc::clone(service)));
        }
        if let Some(count) = self.keys.get_mut(&sharing.key) {
            *count -= 1;
            if *count == 0 {
                self.keys.remove(&sharing.key);
            }
        }
    }

    /// Whether `me` with `sharing` can share the address with all others.
    fn fits(&self, me: &ServiceKey, sharing: &Sharing) -> bool {
        let mine = self.by_service.get(me);
        if self.by_service.len() == usize::from(mine.is_some()) {
            return true;
        }
        let Some(key) = &sharing.key else { return false };
        let own_key = mine.map(|mine| &mine.key);
        let same = self
            .keys
            .iter()
            .all(|(other, count)| other.as_ref() == Some(key) || (own_key == Some(other) && *count == 1));
        same && sharing.ports.iter().all(|port| {
            let low = (*port, Arc::new(ServiceKey::new("", "")));
            let mut users = self.ports.range(low..).take_while(|(used, _)| used == port);
            users.all(|(_, user)| **user == *me)
        })
    }
}

impl AddressClaims {
    pub(crate) fn new(service: &ServiceRef, sharing: &Arc<Sharing>) -> Self {
        Self::Single(Arc::clone(service), Arc::clone(sharing))
    }

    /// Adds the claim of `service`, or changes it.
    pub(crate) fn claim(&mut self, service: &ServiceRef, sharing: &Arc<Sharing>) {
        match self {
            Self::Single(only, held) if only == service => *held = Arc::clone(sharing),
            Self::Single(only, held) => {
                let mut many = SharedClaims::default();
                many.insert(only, held);
                many.insert(service, sharing);
                *self = Self::Shared(Box::new(many));
            }
            Self::Shared(many) => many.insert(service, sharing),
        }
    }

    /// Removes the claim of `service`; true if no claim is left.
    pub(crate) fn unclaim(&mut self, service: &ServiceRef) -> bool {
        match self {
            Self::Single(only, _) => only == service,
            Self::Shared(many) => {
                many.remove(service);
                many.by_service.is_empty()
            }
        }
    }

    /// Every Service with a claim, and its sharing.
    pub(crate) fn holders(&self) -> Vec<(&ServiceRef, &Sharing)> {
        match self {
            Self::Single(only, sharing) => vec![(only, sharing)],
            Self::Shared(many) => {
                many.by_service.iter().map(|(service, sharing)| (service, &**sharing)).collect()
            }
        }
    }

    /// The sharing with which `service` claims the address; `None` if it does not claim it.
    pub(crate) fn sharing_of(&self, service: &ServiceRef) -> Option<&Sharing> {
        match self {
            Self::Single(only, sharing) => (only == service).then_some(&**sharing),
            Self::Shared(many) => many.by_service.get(service).map(AsRef::as_ref),
        }
    }

    /// Whether `service` has a claim.
    pub(crate) fn contains(&self, service: &ServiceRef) -> bool {
        match self {
            Self::Single(only, _) => only == service,
            Self::Shared(many) => many.by_service.contains_key(service),
        }
    }

    /// Whether `me` with `sharing` can share the address with all others.
    pub(crate) fn fits(&self, me: &ServiceKey, sharing: &Sharing) -> bool {
        match self {
            Self::Single(only, held) => **only == *me || sharing_conflict(held, sharing).is_none(),
            Self::Shared(many) => many.fits(me, sharing),
        }
    }

    /// The first other Service, of those that `counts` accepts, with which `me` cannot share the address.
    pub(crate) fn blocker(
        &self,
        me: &ServiceKey,
        sharing: &Sharing,
        counts: impl Fn(&ServiceRef) -> bool,
    ) -> Option<(ServiceRef, SharingConflict)> {
        if self.fits(me, sharing) {
            return None;
        }
        self.holders().into_iter().filter(|(other, _)| ***other != *me && counts(other)).find_map(
            |(other, held)| sharing_conflict(held, sharing).map(|reason| (Arc::clone(other), reason)),
        )
    }

    /// Whether `which` accepts any Service with a claim.
    pub(crate) fn any(&self, which: impl Fn(&ServiceRef) -> bool) -> bool {
        match self {
            Self::Single(only, _) => which(only),
            Self::Shared(many) => many.by_service.keys().any(which),
        }
    }

    /// Whether a Service of `namespace` other than `me` has a claim.
    pub(crate) fn other_in_namespace(&self, namespace: &str, me: &ServiceKey) -> bool {
        match self {
            Self::Single(only, _) => only.namespace == namespace && **only != *me,
            Self::Shared(many) => {
                let low = ServiceKey::new(namespace, "");
                let mut members =
                    many.by_service.range(low..).take_while(|(other, _)| other.namespace == namespace);
                members.any(|(other, _)| **other != *me)
            }
        }
    }

    /// Whether any Service of `namespace` has a claim.
    pub(crate) fn in_namespace(&self, namespace: &str) -> bool {
        self.other_in_namespace(namespace, &ServiceKey::new(namespace, ""))
    }

    /// The sharing key that all Services here have; `None` if the address cannot be shared.
    pub(crate) fn sharing_key(&self) -> Option<&SharingKey> {
        match self {
            Self::Single(_, sharing) => sharing.key.as_ref(),
            Self::Shared(many) if many.keys.len() == 1 => many.keys.keys().next()?.as_ref(),
            Self::Shared(_) => None,
        }
    }

    /// Whether any of `ports` is in use.
    pub(crate) fn uses_any(&self, ports: &BTreeSet<ProtocolPort>) -> bool {
        match self {
            Self::Single(_, sharing) => !sharing.ports.is_disjoint(ports),
            Self::Shared(many) => ports.iter().any(|port| {
                let low = (*port, Arc::new(ServiceKey::new("", "")));
                many.ports.range(low..).next().is_some_and(|(used, _)| used == port)
            }),
        }
    }
}
