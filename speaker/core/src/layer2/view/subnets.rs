//! The subnets of the links of all nodes.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::cluster::link::network;
use crate::cluster::objects::ClusterObjects;

/// The subnets of all nodes' links. Two addresses with the same subnets are on the subnet of the same nodes.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Subnets {
    known: HashSet<(IpAddr, u8)>,
    lengths: [Vec<u8>; 2],
}

impl Subnets {
    pub(super) fn from_objects(objects: &ClusterObjects) -> Self {
        let links = objects.links.values().flatten().chain(objects.own_links.iter().flatten());
        let known: HashSet<(IpAddr, u8)> = links
            .flat_map(|link| &link.subnets)
            .map(|(ip, length)| (network(*ip, *length), *length))
            .collect();
        let lengths = [true, false].map(|v4| {
            let of_family = known.iter().filter(|(ip, _)| ip.is_ipv4() == v4);
            let mut lengths: Vec<u8> = of_family.map(|(_, length)| *length).collect();
            lengths.sort_unstable();
            lengths.dedup();
            lengths
        });
        Self { known, lengths }
    }

    /// The subnets that contain `address`.
    pub(super) fn containing(&self, address: IpAddr) -> impl Iterator<Item = (IpAddr, u8)> + '_ {
        let [v4, v6] = &self.lengths;
        let lengths = if address.is_ipv4() { v4 } else { v6 };
        let subnets = lengths.iter().map(move |length| (network(address, *length), *length));
        subnets.filter(|subnet| self.known.contains(subnet))
    }
}
