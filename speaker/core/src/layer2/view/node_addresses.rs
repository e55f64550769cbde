//! Addresses of groups and pools that nodes of the cluster have.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use rules::IpRange;

use super::NodeAddress;
use crate::cluster::objects::ClusterObjects;
use crate::cluster::{NodeName, Speaker};

/// The addresses of Services and `pools` that nodes have: on a link that their speakers report, on one that
/// speakers do not use, or in the status of the Node, which is all that is known of a node without a speaker.
pub(super) fn node_addresses(
    objects: &ClusterObjects,
    speakers: &BTreeMap<NodeName, Speaker>,
    pools: &[IpRange],
) -> BTreeMap<IpAddr, NodeAddress> {
    let all = all(objects, speakers);
    let of_services = objects.services.iter().flat_map(|service| &service.addresses);
    let of_services = of_services.filter(|address| all.contains_key(*address)).copied();
    let of_pools = all.keys().filter(|address| pools.iter().any(|range| range.contains(**address))).copied();
    let wanted: Vec<IpAddr> = of_services.chain(of_pools).collect();
    wanted.into_iter().filter_map(|address| Some((address, all.get(&address)?.clone()))).collect()
}

/// All addresses of all nodes; the most specific source of an address counts. The report of a speaker that
/// does not run any more is not updated; probes find out whether its node still has such an address.
fn all(objects: &ClusterObjects, speakers: &BTreeMap<NodeName, Speaker>) -> HashMap<IpAddr, NodeAddress> {
    let mut all: HashMap<IpAddr, NodeAddress> = HashMap::new();
    for node in objects.nodes.iter().filter(|node| speakers.contains_key(&node.name)) {
        let links = objects.links.get(&node.name).map(Vec::as_slice).unwrap_or_default();
        let on = |interface: &str, mac| NodeAddress {
            node: node.name.clone(),
            interface: Some(interface.into()),
            mac,
        };
        for link in links {
            for (address, _) in &link.subnets {
                all.insert(address.to_canonical(), on(&link.name, Some(link.mac)));
            }
        }
        for (address, interface) in objects.other_addresses.get(&node.name).into_iter().flatten() {
            let address = address.to_canonical();
            // A kernel answers for its addresses on any link.
            let answering = links.iter().find(|link| link.reaches(address)).or(links.first());
            all.entry(address).or_insert_with(|| on(interface, answering.map(|link| link.mac)));
        }
    }
    for node in &objects.nodes {
        for address in &node.addresses {
            let holder = || NodeAddress { node: node.name.clone(), interface: None, mac: None };
            all.entry(address.to_canonical()).or_insert_with(holder);
        }
    }
    all
}
