//! Who has an address.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::ServiceKey;

use crate::request::{Port, Protocol, Sharing, SharingPair};

/// A Service, shared between the tables that name it.
pub(crate) type ServiceRef = Arc<ServiceKey>;

/// Why two Services may not have one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoSharing {
    /// The one that has the address has no sharing key.
    HolderNotAsked,
    /// The one that asks for it has none.
    AskerNotAsked,
    /// Their sharing keys differ.
    Keys {
        /// That of the one that has the address.
        holder: String,
        /// That of the one that asks for it.
        asker: String,
    },
    /// One serves only local endpoints, the other all.
    TrafficPolicies {
        /// Whether it is the one that has the address.
        holder_is_local: bool,
    },
    /// Both serve only local endpoints, and select different pods.
    Selectors {
        /// That of the one that has the address.
        holder: String,
        /// That of the one that asks for it.
        asker: String,
    },
    /// Both have this port.
    Port(Protocol, u16),
    /// The one that has the address is about to give it up, to who waits for it.
    Leaves,
}

/// Why `asker` may not join `holder`; none if it may.
pub(crate) fn no_sharing(holder: &Sharing, asker: &Sharing) -> Option<NoSharing> {
    let Some(a) = &holder.pair else { return Some(NoSharing::HolderNotAsked) };
    let Some(b) = &asker.pair else { return Some(NoSharing::AskerNotAsked) };
    if a.key != b.key {
        return Some(NoSharing::Keys { holder: a.key.clone(), asker: b.key.clone() });
    }
    match (a.backend.as_str(), b.backend.as_str()) {
        (same, other) if same == other => {}
        ("", _) => return Some(NoSharing::TrafficPolicies { holder_is_local: false }),
        (_, "") => return Some(NoSharing::TrafficPolicies { holder_is_local: true }),
        (holder, asker) => {
            return Some(NoSharing::Selectors { holder: holder.to_owned(), asker: asker.to_owned() });
        }
    }
    holder.ports.intersection(&asker.ports).next().map(|(protocol, port)| NoSharing::Port(*protocol, *port))
}

/// The claims on one address: at least one.
#[derive(Clone, Debug)]
pub(crate) enum Usage {
    /// The usual case, kept small.
    One(ServiceRef, Arc<Sharing>),
    /// Several, or one of several that is left.
    Many(Box<Many>),
}

/// Claims with what answers in O(log n) whether one more fits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Many {
    claims: BTreeMap<ServiceRef, Arc<Sharing>>,
    ports: BTreeSet<(Port, ServiceRef)>,
    pairs: BTreeMap<Option<SharingPair>, usize>,
}

impl Many {
    fn insert(&mut self, service: &ServiceRef, sharing: &Arc<Sharing>) {
        self.remove(service);
        self.ports.extend(sharing.ports.iter().map(|port| (*port, Arc::clone(service))));
        *self.pairs.entry(sharing.pair.clone()).or_default() += 1;
        self.claims.insert(Arc::clone(service), Arc::clone(sharing));
    }

    fn remove(&mut self, service: &ServiceRef) {
        let Some(sharing) = self.claims.remove(service) else { return };
        for port in &sharing.ports {
            self.ports.remove(&(*port, Arc::clone(service)));
        }
        if let Some(count) = self.pairs.get_mut(&sharing.pair) {
            *count -= 1;
            if *count == 0 {
                self.pairs.remove(&sharing.pair);
            }
        }
    }

    /// Whether `me` with `sharing` fits beside all others.
    fn fits(&self, me: &ServiceKey, sharing: &Sharing) -> bool {
        let mine = self.claims.get(me);
        if self.claims.len() == usize::from(mine.is_some()) {
            return true;
        }
        let Some(pair) = &sharing.pair else { return false };
        let own_pair = mine.map(|mine| &mine.pair);
        let same = self
            .pairs
            .iter()
            .all(|(other, count)| other.as_ref() == Some(pair) || (own_pair == Some(other) && *count == 1));
        same && sharing.ports.iter().all(|port| {
            let low = (*port, Arc::new(ServiceKey::new("", "")));
            let mut users = self.ports.range(low..).take_while(|(used, _)| used == port);
            users.all(|(_, user)| **user == *me)
        })
    }
}

impl Usage {
    pub(crate) fn new(service: &ServiceRef, sharing: &Arc<Sharing>) -> Self {
        Self::One(Arc::clone(service), Arc::clone(sharing))
    }

    /// Adds the claim of `service`, or changes it.
    pub(crate) fn claim(&mut self, service: &ServiceRef, sharing: &Arc<Sharing>) {
        match self {
            Self::One(only, held) if only == service => *held = Arc::clone(sharing),
            Self::One(only, held) => {
                let mut many = Many::default();
                many.insert(only, held);
                many.insert(service, sharing);
                *self = Self::Many(Box::new(many));
            }
            Self::Many(many) => many.insert(service, sharing),
        }
    }

    /// Removes the claim of `service`; true if none is left.
    pub(crate) fn unclaim(&mut self, service: &ServiceRef) -> bool {
        match self {
            Self::One(only, _) => only == service,
            Self::Many(many) => {
                many.remove(service);
                many.claims.is_empty()
            }
        }
    }

    /// Everyone with a claim.
    pub(crate) fn claims(&self) -> Vec<(&ServiceRef, &Sharing)> {
        match self {
            Self::One(only, sharing) => vec![(only, sharing)],
            Self::Many(many) => many.claims.iter().map(|(service, sharing)| (service, &**sharing)).collect(),
        }
    }

    /// By what the claim of `service` can be shared; none if it has none.
    pub(crate) fn sharing_of(&self, service: &ServiceRef) -> Option<&Sharing> {
        match self {
            Self::One(only, sharing) => (only == service).then_some(&**sharing),
            Self::Many(many) => many.claims.get(service).map(AsRef::as_ref),
        }
    }

    /// Whether `service` has a claim.
    pub(crate) fn claims_include(&self, service: &ServiceRef) -> bool {
        match self {
            Self::One(only, _) => only == service,
            Self::Many(many) => many.claims.contains_key(service),
        }
    }

    /// Whether `me` with `sharing` fits beside all others.
    pub(crate) fn fits(&self, me: &ServiceKey, sharing: &Sharing) -> bool {
        match self {
            Self::One(only, held) => **only == *me || no_sharing(held, sharing).is_none(),
            Self::Many(many) => many.fits(me, sharing),
        }
    }

    /// The first of the others that `me` does not fit beside, among those that `counts` accepts.
    pub(crate) fn blocker(
        &self,
        me: &ServiceKey,
        sharing: &Sharing,
        counts: impl Fn(&ServiceRef) -> bool,
    ) -> Option<(ServiceRef, NoSharing)> {
        if self.fits(me, sharing) {
            return None;
        }
        self.claims()
            .into_iter()
            .filter(|(other, _)| ***other != *me && counts(other))
            .find_map(|(other, held)| no_sharing(held, sharing).map(|reason| (Arc::clone(other), reason)))
    }

    /// Whether any claim is of a Service that `which` accepts.
    pub(crate) fn any(&self, which: impl Fn(&ServiceRef) -> bool) -> bool {
        match self {
            Self::One(only, _) => which(only),
            Self::Many(many) => many.claims.keys().any(which),
        }
    }

    /// Whether a Service of `namespace` other than `me` has a claim.
    pub(crate) fn other_in_namespace(&self, namespace: &str, me: &ServiceKey) -> bool {
        match self {
            Self::One(only, _) => only.namespace == namespace && **only != *me,
            Self::Many(many) => {
                let low = ServiceKey::new(namespace, "");
                let mut members =
                    many.claims.range(low..).take_while(|(other, _)| other.namespace == namespace);
                members.any(|(other, _)| **other != *me)
            }
        }
    }

    /// Whether any Service of `namespace` has a claim.
    pub(crate) fn in_namespace(&self, namespace: &str) -> bool {
        self.other_in_namespace(namespace, &ServiceKey::new(namespace, ""))
    }

    /// The pair that everybody here has; none if the address cannot be shared.
    pub(crate) fn pair(&self) -> Option<&SharingPair> {
        match self {
            Self::One(_, sharing) => sharing.pair.as_ref(),
            Self::Many(many) if many.pairs.len() == 1 => many.pairs.keys().next()?.as_ref(),
            Self::Many(_) => None,
        }
    }

    /// Whether any of `ports` is in use.
    pub(crate) fn uses_any(&self, ports: &BTreeSet<Port>) -> bool {
        match self {
            Self::One(_, sharing) => !sharing.ports.is_disjoint(ports),
            Self::Many(many) => ports.iter().any(|port| {
                let low = (*port, Arc::new(ServiceKey::new("", "")));
                many.ports.range(low..).next().is_some_and(|(used, _)| used == port)
            }),
        }
    }
}
