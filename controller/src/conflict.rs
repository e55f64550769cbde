//! The addresses that machines use: what speakers and nodes report about them.

use std::net::IpAddr;

use crds::annotations::LINKS;
use crds::names::LABEL_NODE_NAME;
use crds::{AddressConflictSpec, ConfigurationState, SpeakerState};
use ipam::Occupant;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use serde::Deserialize;

/// A machine that uses an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) occupant: Occupant,
    /// The message about the machine.
    pub(crate) message: String,
}

impl Conflict {
    /// The conflict that a speaker reports.
    pub(crate) fn from_spec(spec: &AddressConflictSpec) -> Self {
        let AddressConflictSpec { address, mac, node, interface, announced, .. } = spec;
        if spec.held_by_node {
            let on = if interface.is_empty() { String::new() } else { format!(" (on {interface}, {mac})") };
            let message =
                format!("{address} is an address of node {node}{on}, and no other node announces it");
            return Self { occupant: Occupant::Node(node.clone()), message };
        }
        let what = if *announced { "is announced nevertheless" } else { "is not announced until that ends" };
        let message = format!(
            "{address} is used by the machine with {mac}, seen by node {node} on {interface}, and {what}"
        );
        Self { occupant: Occupant::ForeignHost, message }
    }
}

/// The addresses of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeAddresses {
    pub(crate) node: String,
    pub(crate) addresses: Vec<IpAddr>,
}

impl NodeAddresses {
    /// The addresses in the status of `node`; `None` if it has none.
    pub(crate) fn from_node(node: Node) -> Option<Self> {
        let listed = node.status?.addresses?;
        let addresses: Vec<IpAddr> = listed
            .into_iter()
            .filter(|address| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"))
            .filter_map(|address| address.address.parse::<IpAddr>().ok())
            .map(|ip| ip.to_canonical())
            .collect();
        Some(Self { node: node.metadata.name?, addresses }).filter(|node| !node.addresses.is_empty())
    }
}

/// The address of a pool or Service that a speaker reports as an address of a node.
pub(crate) fn held_address(spec: &AddressConflictSpec) -> Option<NodeAddresses> {
    let address = spec.address.parse().ok().filter(|_| spec.held_by_node)?;
    Some(NodeAddresses { node: spec.node.clone(), addresses: vec![address] })
}

/// A link of a node, as its speaker reports it.
#[derive(Deserialize)]
struct LinkEntry {
    #[serde(default)]
    subnets: Vec<String>,
}

/// The addresses on the interfaces of the node of `state`.
pub(crate) fn interface_addresses(state: SpeakerState) -> Option<NodeAddresses> {
    let status = state.status?;
    let subnets = status.interfaces.iter().flat_map(|interface| &interface.subnets);
    Some(NodeAddresses { addresses: own_addresses(subnets), node: status.node })
}

/// The same, from the annotation of an earlier release.
pub(crate) fn link_addresses(state: &ConfigurationState) -> Option<NodeAddresses> {
    let node = state.labels().get(LABEL_NODE_NAME)?.clone();
    let links: Vec<LinkEntry> = serde_json::from_str(state.annotations().get(LINKS)?).ok()?;
    Some(NodeAddresses { node, addresses: own_addresses(links.iter().flat_map(|link| &link.subnets)) })
}

/// The addresses of `subnets` that are the node's own. An address with the longest prefix is not: load balancers
/// and kube-proxy in IPVS mode add the addresses of Services like that.
fn own_addresses<'a>(subnets: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    let own = |subnet: &String| {
        let (ip, length) = subnet.split_once('/')?;
        let (ip, length): (IpAddr, u8) = (ip.parse().ok()?, length.parse().ok()?);
        (length < if ip.is_ipv4() { 32 } else { 128 }).then_some(ip.to_canonical())
    };
    subnets.filter_map(own).collect()
}
