//! What the API says, as far as announcing is concerned: which addresses belong together, who may announce them,
//! on which links, and who the other speakers are.
//!
//! The unit is the [`Group`]: all addresses tied together by a dual-stack Service or by sharing, with the
//! Services on them. One node owns a whole group, so neither is ever split.

mod addresses;
mod advertised;
mod build;
mod candidates;
mod held;
mod nominate;
mod partition;
mod ranking;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use rules::IpRange;

use crate::beacon::NodeId;
use crate::placement::Placement;
pub use addresses::Addresses;
pub use build::{ExcludeLabel, Maker, Settings};
pub(crate) use ranking::CHOICES;
pub use ranking::{Candidates, Iter};

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
    /// The addresses of all pools, those with an error included, as far as they can be read.
    pub pools: Vec<IpRange>,
    /// What there is to say about groups that nobody may own beyond [`Idle::message`].
    pub(crate) idle_details: BTreeMap<GroupId, Arc<str>>,
    /// The addresses of groups and pools that nodes of the cluster have themselves: an address of a node belongs to that
    /// node, and no other node announces it.
    pub held: BTreeMap<IpAddr, Holder>,
    /// Whether what speakers report of their nodes was known. Without it, [`Self::held`] may lack some addresses.
    pub states_listed: bool,
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
    /// Whether its process may run, and announce what it owns, as far as the API says.
    pub running: bool,
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
    /// Nobody may own it, and this node may go on announcing it if it owns it already: only the state of the node or of its
    /// speaker's pod keeps this node from being a candidate, and no other node can take over.
    pub retainable: bool,
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
    /// No link of the node that the group would be announced on has a subnet with the group's addresses, and another
    /// node's has.
    pub remote: bool,
    /// The node is cordoned: it keeps what it owns, and gets new groups only if there is nobody else.
    pub cordoned: bool,
    /// The negated sum of the weights by which advertisements prefer the node.
    pub preference: i64,
}

/// Why a group or Service is announced by nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Idle {
    /// None of its Services has an endpoint that can serve.
    NoEndpoints,
    /// No pool has the address, and the Service names none.
    NoPool,
    /// No advertisement is about it.
    NotAdvertised,
    /// A shared address and an advertisement with service selectors, which could tear its Services apart.
    SharedWithServiceSelector,
    /// No node is usable, not excluded, and has a ready speaker.
    NoCandidate,
    /// With `externalTrafficPolicy: Local`: no node that has an endpoint is one of these.
    NoLocalEndpoint,
    /// No advertisement admits any of these nodes.
    NoMatchingNode,
    /// None of these nodes has an advertised interface that is up.
    NoInterface,
    /// No such interface can announce IPv4: it cannot broadcast, or no packet socket could be opened on it.
    NoIpv4,
    /// No such interface can announce IPv6, for want of a link-local address or of a packet socket.
    NoIpv6,
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
            Self::NoLocalEndpoint => "NoLocalEndpoint",
            Self::NoMatchingNode => "NoMatchingNode",
            Self::NoInterface => "NoInterface",
            Self::NoIpv4 => "NoIPv4",
            Self::NoIpv6 => "NoIPv6",
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
                "no node can announce: none is ready and has a ready speaker pod and no label \
                 exclude-from-external-load-balancers; check the nodes, that label, and the speaker pods"
            }
            Self::NoLocalEndpoint => {
                "with externalTrafficPolicy Local only nodes with a ready endpoint announce, and none of these can; \
                 check their speaker pods and the label exclude-from-external-load-balancers"
            }
            Self::NoMatchingNode => {
                "no node that can announce matches the nodeSelectors of its L2Advertisements; correct the \
                 selectors or label the nodes (with externalTrafficPolicy Local only nodes with an endpoint count)"
            }
            Self::NoInterface => {
                "no node has the interface up; check the interfaces of its L2Advertisements and the links of the nodes"
            }
            Self::NoIpv4 => {
                "no node can announce IPv4 on these interfaces: they are no broadcast links, or the speaker cannot \
                 open a packet socket (it needs NET_RAW)"
            }
            Self::NoIpv6 => {
                "no node can announce all of its IPv6 addresses: the interfaces have no IPv6 link-local address, or \
                 the speaker cannot open a packet socket (it needs NET_RAW); enable IPv6 on the interface"
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

    /// Why nobody may own a group, for people; none if somebody may.
    pub fn why_idle(&self, group: &Group) -> Option<String> {
        let message = group.idle?.message();
        Some(match self.idle_details.get(&group.id) {
            Some(detail) => format!("{message} ({detail})"),
            None => message.to_owned(),
        })
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
