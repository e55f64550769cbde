//! Which addresses of groups and pools are addresses of nodes.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use rules::IpRange;

use super::{Holder, NodeName, Speaker};
use crate::facts::Facts;

/// The addresses of Services and `pools` that nodes have themselves: on a link that their speakers report, on one that
/// speakers do not use, or by the status of the Node, which is all there is of a node without a speaker.
pub(super) fn held(
    facts: &Facts,
    speakers: &BTreeMap<NodeName, Speaker>,
    pools: &[IpRange],
) -> BTreeMap<IpAddr, Holder> {
    let all = all(facts, speakers);
    let of_services = facts.services.iter().flat_map(|service| &service.addresses);
    let of_services = of_services.filter(|address| all.contains_key(*address)).copied();
    let of_pools = all.keys().filter(|address| pools.iter().any(|range| range.contains(**address))).copied();
    let wanted: Vec<IpAddr> = of_services.chain(of_pools).collect();
    wanted.into_iter().filter_map(|address| Some((address, all.get(&address)?.clone()))).collect()
}

/// All addresses of all nodes. What says most about one counts. Nobody keeps up to date what a speaker has reported that is no
/// more; whether its node still has such an address is found out by probes.
fn all(facts: &Facts, speakers: &BTreeMap<NodeName, Speaker>) -> HashMap<IpAddr, Holder> {
    let mut all: HashMap<IpAddr, Holder> = HashMap::new();
    for node in facts.nodes.iter().filter(|node| speakers.contains_key(&node.name)) {
        let links = facts.links.get(&node.name).map(Vec::as_slice).unwrap_or_default();
        let on =
            |interface: &str, mac| Holder { node: node.name.clone(), interface: Some(interface.into()), mac };
        for link in links {
            for (address, _) in &link.subnets {
                all.insert(address.to_canonical(), on(&link.name, Some(link.mac)));
            }
        }
        for (address, interface) in facts.other_addresses.get(&node.name).into_iter().flatten() {
            let address = address.to_canonical();
            // A kernel answers for it on whatever link it is asked.
            let asked = links.iter().find(|link| link.reaches(address)).or(links.first());
            all.entry(address).or_insert_with(|| on(interface, asked.map(|link| link.mac)));
        }
    }
    for node in &facts.nodes {
        for address in &node.addresses {
            let holder = || Holder { node: node.name.clone(), interface: None, mac: None };
            all.entry(address.to_canonical()).or_insert_with(holder);
        }
    }
    all
}
