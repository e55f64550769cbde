use super::*;
use crate::layer2::view::{Addresses, Candidates, Tier};

fn candidates(nodes: &[&str]) -> Vec<Candidate> {
    nodes.iter().map(|node| Candidate::new((*node).into(), Tier::default())).collect()
}

fn ordered(nodes: &[&str], address: &str) -> Vec<String> {
    let candidates = Candidates::ranked(address.parse().unwrap(), candidates(nodes));
    candidates.iter().map(|candidate| candidate.node.to_string()).collect()
}

#[test]
fn the_order_is_that_of_metallb() {
    // docs/reference/metallb.md §5.1
    for (nodes, address, expected) in [
        (["node-a", "node-b", "node-c"], "10.0.0.1", ["node-b", "node-a", "node-c"]),
        (["node-a", "node-b", "node-c"], "10.0.0.2", ["node-b", "node-c", "node-a"]),
        (["node-a", "node-b", "node-c"], "192.168.1.240", ["node-a", "node-c", "node-b"]),
        (["node-a", "node-b", "node-c"], "fc00:f853:ccd:e799::1", ["node-b", "node-a", "node-c"]),
        (["node1", "node2", "node3"], "10.0.0.1", ["node2", "node1", "node3"]),
        (["node1", "node2", "node3"], "10.0.0.2", ["node2", "node3", "node1"]),
        (["node1", "node2", "node3"], "192.168.1.240", ["node3", "node1", "node2"]),
        (["node1", "node2", "node3"], "fc00:f853:ccd:e799::1", ["node2", "node3", "node1"]),
        (["worker-a", "worker-b", "worker-c"], "10.0.0.1", ["worker-a", "worker-c", "worker-b"]),
        (["worker-a", "worker-b", "worker-c"], "10.0.0.2", ["worker-c", "worker-b", "worker-a"]),
        (["worker-a", "worker-b", "worker-c"], "192.168.1.240", ["worker-a", "worker-c", "worker-b"]),
        (["worker-a", "worker-b", "worker-c"], "fc00:f853:ccd:e799::1", ["worker-a", "worker-b", "worker-c"]),
    ] {
        assert_eq!(ordered(&nodes, address), expected, "{address}");
    }
    assert_eq!(ordered(&["iris1", "iris2"], "10.20.30.1"), ["iris2", "iris1"]);
}

#[test]
fn a_lower_tier_comes_first_whatever_the_hash() {
    let mut candidates = candidates(&["node-a", "node-b"]);
    candidates[0].tier.preference = -10;
    let candidates = Candidates::ranked("10.0.0.1".parse().unwrap(), candidates);
    assert_eq!(&*candidates.first().unwrap().node, "node-a");
}

fn groups(count: u32, nodes: &[&str]) -> BTreeMap<GroupId, Arc<Group>> {
    let group = |n: u32| {
        let id = IpAddr::V4((0x0a00_0000 + n).into());
        let group = Group {
            id,
            hashed: id,
            addresses: Addresses::default(),
            services: Box::default(),
            candidates: Candidates::ranked(id, candidates(nodes)),
            not_announced: None,
            retainable: false,
            last: None,
        };
        (id, Arc::new(group))
    };
    (0..count).map(group).collect()
}

fn loads(placed: &BTreeMap<GroupId, NodeName>) -> BTreeMap<&str, usize> {
    let mut loads = BTreeMap::new();
    for node in placed.values() {
        *loads.entry(&**node).or_default() += 1;
    }
    loads
}

#[test]
fn balanced_gives_no_node_more_than_its_share() {
    let nodes = ["a", "b", "c", "d", "e"];
    for count in [1, 4, 5, 7, 23, 100] {
        let placed = Placement::Balanced.place(&groups(count, &nodes));
        assert_eq!(placed.len(), count as usize);
        let share = (count as usize).div_ceil(nodes.len());
        assert!(loads(&placed).values().all(|load| *load <= share), "{count}: {:?}", loads(&placed));
    }
}

#[test]
fn hash_follows_the_order_alone() {
    let groups = groups(50, &["a", "b", "c"]);
    for (id, node) in Placement::Hash.place(&groups) {
        assert_eq!(node, groups[&id].candidates.first().unwrap().node);
    }
}

#[test]
fn a_preferred_node_gets_the_group_even_when_it_is_full() {
    let mut groups = groups(4, &["a", "b"]);
    for group in groups.values_mut() {
        let group = Arc::make_mut(group);
        let mut candidates = candidates(&["a", "b"]);
        candidates[0].tier.preference = -1;
        group.candidates = Candidates::ranked(group.hashed, candidates);
    }
    assert!(Placement::Balanced.place(&groups).values().all(|node| &**node == "a"));
}
