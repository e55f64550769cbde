//! The input of validation.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crds::{
    BFDProfile, BGPAdvertisement, BGPPeer, Community, IPAddressPool, L2Advertisement, PoolPolicy, Resource,
};
use k8s_openapi::api::core::v1::Namespace;

use crate::finding::ObjectRef;

/// API objects in the namespace of the stack. Shared, since they come from caches.
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
    /// Aliases of BGP communities.
    pub communities: Vec<Arc<Community>>,
    /// Reservations and quotas.
    pub pool_policies: Vec<Arc<PoolPolicy>>,
    /// All namespaces of the cluster, which pools select by label. May be empty in a component that does not
    /// allocate.
    pub namespaces: Vec<Arc<Namespace>>,
    /// The nodes' own addresses, with the node's name. May be empty in a component that does not allocate.
    pub node_addresses: BTreeMap<IpAddr, String>,
}

/// Oldest first: by creation time, then by name, so that of two conflicting objects every component rejects
/// the same one.
///
/// An object without a creation time is about to be created: it is the newest.
pub(crate) fn by_age<K: Resource>(a: &Arc<K>, b: &Arc<K>) -> Ordering {
    let age = |object: &Arc<K>| {
        let meta = object.meta();
        let created = meta.creation_timestamp.as_ref().map(|time| time.0);
        (created.is_none(), created, meta.name.clone())
    };
    age(a).cmp(&age(b))
}

/// `objects`, oldest first.
pub(crate) fn oldest_first<K: Resource>(objects: &[Arc<K>]) -> Vec<Arc<K>> {
    let mut sorted = objects.to_vec();
    sorted.sort_by(by_age);
    sorted
}

/// Which objects are validated after all others, so that conflicts are resolved against them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Precedence {
    /// Objects whose present version is replaced by an earlier one.
    pub(crate) substituted: BTreeSet<ObjectRef>,
    /// Objects that were never valid: the objects that they conflict with come before them.
    pub(crate) never_valid: BTreeSet<ObjectRef>,
}

impl Precedence {
    /// Objects of lower rank are validated first.
    pub(crate) fn rank(&self, object: &ObjectRef) -> u8 {
        if self.never_valid.contains(object) { 2 } else { u8::from(self.substituted.contains(object)) }
    }
}

/// `objects` of the given kind, in the order of validation: by rank, then oldest first.
pub(crate) fn by_precedence<K: Resource>(
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
