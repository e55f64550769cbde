//! The view of the API that announcing is based on: which addresses belong together, which nodes may announce
//! them on which links, and the other speakers.
//!
//! The unit is the [`Group`]: all addresses connected by a dual-stack Service or by sharing, with their
//! Services. One node owns a whole group, so neither is ever split.

mod addresses;
mod advertised;
mod build;
mod changes;
mod node_addresses;
mod partition;
mod ranking;
mod selection;
mod subnets;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use rules::IpRange;

use crate::cluster::{GroupId, NodeId, NodeName, ServiceKey, Speaker};
use crate::layer2::placement::Placement;
pub use addresses::Addresses;
pub use build::{ViewBuilder, ViewSettings};
pub(crate) use ranking::CHOICES;
pub use ranking::{Candidates, Iter};

/// A view of the API.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// The nodes with a speaker.
    pub speakers: BTreeMap<NodeName, Speaker>,
    /// The node with a speaker that has a hardware address.
    pub macs: BTreeMap<[u8; 6], NodeId>,
    /// All groups that have an address, including those that no node may announce.
    pub groups: BTreeMap<GroupId, Arc<Group>>,
    /// Where each group would go if no group had an owner.
    pub placed: BTreeMap<GroupId, NodeName>,
    /// How groups are spread.
    pub placement: Placement,
    /// Every node has the exclude label, which is therefore ignored.
    pub label_ignored: bool,
    /// The addresses of all pools, including those with an error as far as they can be parsed.
    pub pools: Vec<IpRange>,
    /// Details about groups without candidates, in addition to [`NotAnnounced::message`].
    pub(crate) not_announced_details: BTreeMap<GroupId, Arc<str>>,
    /// The addresses of groups and pools that nodes of the cluster have on an interface or in their status:
    /// such an address belongs to its node, and no other node announces it.
    pub node_addresses: BTreeMap<IpAddr, NodeAddress>,
    /// Whether the states of the speakers were listed. Without them, [`Self::node_addresses`] may be
    /// incomplete.
    pub states_listed: bool,
}

/// A node of the cluster that has an address of a group or pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// The node.
    pub node: NodeName,
    /// Its interface with the address; none if the address is only in the status of the Node.
    pub interface: Option<Box<str>>,
    /// The hardware address of that interface, if it is known.
    pub mac: Option<[u8; 6]>,
}

/// Addresses that always have the same owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its lowest address.
    pub id: GroupId,
    /// The address that determines the order of candidates: the first one in the status of its first Service,
    /// as in MetalLB.
    pub hashed: IpAddr,
    /// Its addresses, each with the links that this node would announce it on.
    pub addresses: Addresses,
    /// Their Services, in order.
    pub services: Box<[Arc<ServiceKey>]>,
    /// The nodes that may own it, best first. If there is none, [`Self::not_announced`] is the reason.
    pub candidates: Candidates,
    /// Why no node may announce it.
    pub not_announced: Option<NotAnnounced>,
    /// No node may own it, but this node may keep announcing it if it owns it already: only the state of the
    /// node or of its speaker's pod keeps this node from being a candidate, and no other node can take over.
    pub retainable: bool,
    /// The last owner and its epoch, from the statuses of the Services.
    pub last: Option<(NodeName, u64)>,
}

/// A node that may own a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// The node.
    pub node: NodeName,
    /// Its id in messages; cached, since it is a hash and is needed often.
    pub id: NodeId,
    /// Lower is better; within a tier the hash decides.
    pub tier: Tier,
}

/// The part of the order of candidates that precedes the hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tier {
    /// No link of the node that the group would be announced on has a subnet with the group's addresses,
    /// while another node has one.
    pub remote: bool,
    /// The node is cordoned: it keeps what it owns, and gets new groups only if there is no other candidate.
    pub cordoned: bool,
    /// The negated sum of the weights by which advertisements prefer the node.
    pub preference: i64,
}

/// Why no node announces a group or Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotAnnounced {
    /// None of its Services has an endpoint that can serve.
    NoEndpoints,
    /// No pool contains the address, and the Service names none.
    NoPool,
    /// No advertisement selects it.
    NotAdvertised,
    /// Its address is shared, and an advertisement has service selectors, which could split its Services.
    SharedWithServiceSelector,
    /// No node is usable, not excluded, and has a ready speaker.
    NoCandidate,
    /// With `externalTrafficPolicy: Local`: no node with an endpoint is one of these.
    NoLocalEndpoint,
    /// No advertisement selects any of these nodes.
    NoMatchingNode,
    /// None of these nodes has an advertised interface that is up.
    NoInterface,
    /// No such interface can announce IPv4: it cannot broadcast, or no packet socket could be opened.
    NoIpv4,
    /// No such interface can announce IPv6: it has no link-local address, or no packet socket could be
    /// opened.
    NoIpv6,
    /// Each of several Services on a shared address could be announced, but by no common node.
    NoCommonCandidate,
}

impl NotAnnounced {
    /// The CamelCase reason for events and conditions.
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

    /// The message for users: the problem, and how to fix it.
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
                "with externalTrafficPolicy Local only nodes with a ready endpoint announce, and none of \
                 these can; check their speaker pods and the label exclude-from-external-load-balancers"
            }
            Self::NoMatchingNode => {
                "no node that can announce matches the nodeSelectors of its L2Advertisements; correct the \
                 selectors or label the nodes (with externalTrafficPolicy Local only nodes with an endpoint \
                 count)"
            }
            Self::NoInterface => {
                "no node has the interface up; check the interfaces of its L2Advertisements and the links \
                 of the nodes"
            }
            Self::NoIpv4 => {
                "no node can announce IPv4 on these interfaces: they are not broadcast links, or the \
                 speaker cannot open a packet socket (it needs NET_RAW)"
            }
            Self::NoIpv6 => {
                "no node can announce all of its IPv6 addresses: the interfaces have no IPv6 link-local \
                 address, or the speaker cannot open a packet socket (it needs NET_RAW); enable IPv6 on the \
                 interface"
            }
            Self::NoCommonCandidate => {
                "the Services on this address can be announced, but by no node in common; with \
                 externalTrafficPolicy Local let their pods run on the same nodes, or do not share the \
                 address"
            }
        }
    }
}

impl View {
    /// Whether a Service may get this address: a pool contains it.
    pub fn is_in_pool(&self, address: IpAddr) -> bool {
        self.pools.iter().any(|range| range.contains(address))
    }

    /// Why no node may own a group, for users; none if a node may.
    pub fn why_not_announced(&self, group: &Group) -> Option<String> {
        let message = group.not_announced?.message();
        Some(match self.not_announced_details.get(&group.id) {
            Some(detail) => format!("{message} ({detail})"),
            None => message.to_owned(),
        })
    }

    /// Adds what `me` owned when it was stopped, which the objects of the API may not show yet.
    pub fn restore_claims(&mut self, me: &NodeName, claims: &BTreeMap<GroupId, u64>) {
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
        Self { id: NodeId::from_name(&node), node, tier }
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
