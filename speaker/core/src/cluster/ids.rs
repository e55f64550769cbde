//! Identifiers of nodes, groups of addresses and Services.

use std::net::IpAddr;
use std::sync::Arc;

/// Name of a node of the cluster.
pub type NodeName = Arc<str>;
/// A group's lowest address, IPv4 first.
pub type GroupId = IpAddr;
/// Namespace and name of a Service.
pub type ServiceKey = crds::ServiceKey;

/// The id of a node in messages: the first eight bytes of SHA-256 of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The id of the node of that name.
    pub fn from_name(name: &str) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&digest.as_ref()[..8]);
        Self(u64::from_be_bytes(first))
    }
}
