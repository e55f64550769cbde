//! What the API says, as far as announcing is concerned: which addresses belong together, who may announce them,
//! on which links, and who the other speakers are.
//!
//! The unit is the [`Group`]: all addresses tied together by a dual-stack Service or by sharing, with the
//! Services on them. One node owns a whole group, so neither is ever split.

mod addresses;
mod build;
mod candidates;
mod held;
mod ranking;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use rules::IpRange;

use crate::beacon::NodeId;
use crate::placement::Placement;
pub use addresses::Addresses;
pub use build::{ExcludeLabel, Settings};
pub use ranking::Candidates;

/// Name of a node of the cluster.
pub type NodeName = Arc<str>;
/// A group's lowest address, IPv4 first.
pub type GroupId = IpAddr;
/// Namespace and name of a Service.
pub type ServiceKey = crds::ServiceKey;

/// What the API says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// The nodes with a speaker.
    pub speakers: BTreeMap<NodeName, Speaker>,
    /// Which node with a speaker has which hardware address, in six bytes.
    pub macs: BTreeMap<[u8; 6], NodeId>,
    /// All groups that have an address, those that nobody may announce too.
    pub groups: BTreeMap<GroupId, Arc<Group>>,
    /// Where each group would go if nobody owned any.
    pub placed: BTreeMap<GroupId, NodeName>,
    /// How groups are spread.
    pub placement: Placement,
    /// Every node carries the exclude label, which therefore counts for nothing.
    pub label_ignored: bool,
    /// The addresses of all pools.
    pub pools: Vec<IpRange>,
    /// The addresses of groups and pools that nodes of the cluster have themselves: an address of a node belongs to that
    /// node, and no other node announces it.
    pub held: BTreeMap<IpAddr, Holder>,
    /// The advertisements behind each announced Service: where an address has lost its pool, these still hold.
    pub(crate) advertised: BTreeMap<Arc<ServiceKey>, Vec<Arc<rules::L2Advertisement>>>,
}

/// A node of the cluster that has an address of a group or pool itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The node.
    pub node: NodeName,
    /// Its interface with the address; none if only the Node's status says so.
    pub interface: Option<Box<str>>,
    /// The hardware address of that interface, if it is known.
    pub mac: Option<[u8; 6]>,
}

/// A node with a speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speaker {
    /// Where its beacons go.
    pub address: Option<IpAddr>,
    /// Whether its pod is ready.
    pub ready: bool,
    /// Generation of its pod's template: during a rolling upgrade, who has been upgraded already.
    pub generation: u64,
}

/// Addresses that move together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its lowest address.
    pub id: GroupId,
    /// The address that decides about the order of candidates: the first one in the status of its first Service,
    /// as in MetalLB.
    pub hashed: IpAddr,
    /// Its addresses, each with the links that this node would announce it on.
    pub addresses: Addresses,
    /// The Services on them, in order.
    pub services: Box<[Arc<ServiceKey>]>,
    /// Who may own it, best first. Empty if nobody may; then [`Self::idle`] says why.
    pub candidates: Candidates,
    /// Why nobody may announce it.
    pub idle: Option<Idle>,
    /// Who owned it last, and in which epoch, as far as its Services' statuses tell.
    pub last: Option<(NodeName, u64)>,
}

/// A node that may own a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// The node.
    pub node: NodeName,
    /// The same in messages; kept here, since it is a hash and is looked at often.
    pub id: NodeId,
    /// Lower is better; within a tier the hash decides.
    pub tier: Tier,
}

/// What comes before the hash in the order of candidates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tier {
    /// The node is cordoned: it keeps what it owns, and gets new groups only if there is nobody else.
    pub cordoned: bool,
    /// No link of the node has a subnet with the group's addresses.
    pub remote: bool,
    /// The negated sum of the weights by which advertisements prefer the node.
    pub preference: i64,
}

/// Why a group or Service is announced by nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Idle {
    /// None of its Services has an endpoint that can serve.
    NoEndpoints,
    /// No valid pool has the address.
    NoPool,
    /// No advertisement is about it.
    NotAdvertised,
    /// A shared address and an advertisement with service selectors, which could tear its Services apart.
    SharedWithServiceSelector,
    /// No node fulfils all conditions.
    NoCandidate,
    /// Each of several Services on a shared address could be announced, but by no node in common.
    NoCommonCandidate,
}

impl Idle {
    /// CamelCase, for events and conditions.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoEndpoints => "NoEndpoints",
            Self::NoPool => "NoPool",
            Self::NotAdvertised => "NotAdvertised",
            Self::SharedWithServiceSelector => "SharedIPWithServiceSelector",
            Self::NoCandidate => "NoCandidate",
            Self::NoCommonCandidate => "NoCommonCandidate",
        }
    }

    /// For people: what is so, and what to do about it.
    pub fn message(self) -> &'static str {
        match self {
            Self::NoEndpoints => {
                "no endpoint can serve; check that the Service's selector matches ready pods"
            }
            Self::NoPool => "no valid IPAddressPool has the address; create or correct the pool",
            Self::NotAdvertised => {
                "no L2Advertisement matches its pool and labels; create one, or correct its selectors"
            }
            Self::SharedWithServiceSelector => {
                "it shares its address while an L2Advertisement of the pool selects Services; drop \
                 spec.serviceSelectors there, or do not share the address"
            }
            Self::NoCandidate => {
                "no node may announce it; check nodeSelectors and interfaces of the L2Advertisement, the \
                 exclude-from-external-load-balancers label, the speaker pods, and, with externalTrafficPolicy \
                 Local, where the pods run"
            }
            Self::NoCommonCandidate => {
                "the Services on this address can be announced, but by no node in common; with \
                 externalTrafficPolicy Local let their pods run on the same nodes, or do not share the address"
            }
        }
    }
}

impl View {
    /// Whether a Service may get this address: a pool has it.
    pub fn may_be_given(&self, address: IpAddr) -> bool {
        self.pools.iter().any(|range| range.contains(address))
    }

    /// Notes what `me` owned when it was stopped, which the objects of the API may not tell yet.
    pub fn remember(&mut self, me: &NodeName, claims: &BTreeMap<GroupId, u64>) {
        for (id, epoch) in claims {
            let Some(group) = self.groups.get_mut(id) else { continue };
            if group.last.as_ref().is_none_or(|(_, known)| known <= epoch) {
                Arc::make_mut(group).last = Some((me.clone(), *epoch));
            }
        }
    }
}

impl Candidate {
    /// A node in a tier.
    pub fn new(node: NodeName, tier: Tier) -> Self {
        Self { id: NodeId::of(&node), node, tier }
    }
}

impl Group {
    /// Whether `node` may own it.
    pub fn admits(&self, node: &str) -> bool {
        self.candidates.contains(node)
    }
}

#[cfg(test)]
mod tests;
