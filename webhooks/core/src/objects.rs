//! The objects to judge.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crds::{
    BFDProfile, BGPAdvertisement, BGPPeer, Community, IPAddressPool, L2Advertisement, PoolPolicy, Resource,
};
use k8s_openapi::api::core::v1::Namespace;

use crate::finding::ObjectRef;

/// Objects as the API has them, of the namespace of the stack. Shared, since they come out of caches.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Pools.
    pub pools: Vec<Arc<IPAddressPool>>,
    /// Layer-2 advertisements.
    pub l2_advertisements: Vec<Arc<L2Advertisement>>,
    /// BGP advertisements.
    pub bgp_advertisements: Vec<Arc<BGPAdvertisement>>,
    /// BGP peers.
    pub bgp_peers: Vec<Arc<BGPPeer>>,
    /// BFD profiles.
    pub bfd_profiles: Vec<Arc<BFDProfile>>,
    /// Names of BGP communities.
    pub communities: Vec<Arc<Community>>,
    /// Reservations and quotas.
    pub pool_policies: Vec<Arc<PoolPolicy>>,
    /// All namespaces of the cluster: pools select them by label. Who does not allocate may leave them out.
    pub namespaces: Vec<Arc<Namespace>>,
    /// The nodes' own addresses, with the node's name. Who does not allocate may leave them out.
    pub node_addresses: BTreeMap<IpAddr, String>,
}

/// Elder first: by creation, then by name, so that of two that clash everybody leaves out the same one.
///
/// An object without a creation time is about to be created: it is the youngest.
pub(crate) fn by_age<K: Resource>(a: &Arc<K>, b: &Arc<K>) -> Ordering {
    let age = |object: &Arc<K>| {
        let meta = object.meta();
        let created = meta.creation_timestamp.as_ref().map(|time| time.0);
        (created.is_none(), created, meta.name.clone())
    };
    age(a).cmp(&age(b))
}

/// `objects`, elder first.
pub(crate) fn elder_first<K: Resource>(objects: &[Arc<K>]) -> Vec<Arc<K>> {
    let mut sorted = objects.to_vec();
    sorted.sort_by(by_age);
    sorted
}

/// Which objects come after all others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Precedence {
    /// Those of which an earlier version stands in for the present one.
    pub(crate) last: BTreeSet<ObjectRef>,
    /// Those that were never valid: what such an object is refused for comes before it.
    pub(crate) never_valid: BTreeSet<ObjectRef>,
}

impl Precedence {
    /// Lower ranks come first.
    pub(crate) fn rank(&self, object: &ObjectRef) -> u8 {
        if self.never_valid.contains(object) { 2 } else { u8::from(self.last.contains(object)) }
    }
}

/// `objects`, of the given kind, oldest first; those in `last` come after all others.
pub(crate) fn oldest_first<K: Resource>(
    kind: &'static str,
    objects: &[Arc<K>],
    precedence: &Precedence,
) -> Vec<(ObjectRef, Arc<K>)> {
    let mut sorted: Vec<(ObjectRef, Arc<K>)> =
        objects.iter().map(|object| (ObjectRef::of(kind, &**object), Arc::clone(object))).collect();
    sorted.sort_by(|(a, left), (b, right)| {
        precedence.rank(a).cmp(&precedence.rank(b)).then_with(|| by_age(left, right))
    });
    sorted
}
