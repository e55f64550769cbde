//! What a change costs: counted in hashes of a node with an address, and in groups that are made anew.

use super::*;
use crate::placement::hashed;

const NODES: u32 = 200;
const SERVICES: u32 = 500;

pub(super) fn node_name(n: u32) -> NodeName {
    format!("node-{n:04}").into()
}

pub(super) fn key(n: u32) -> ServiceKey {
    ServiceKey::new("default", format!("service-{n}"))
}

pub(super) fn endpoints(n: u32, on: impl IntoIterator<Item = u32>) -> Arc<SliceFacts> {
    Arc::new(SliceFacts { service: key(n), nodes: on.into_iter().map(node_name).collect() })
}

pub(super) fn pod(n: u32, ready: bool) -> Arc<PodFacts> {
    Arc::new(PodFacts { node: node_name(n), address: None, ready, running: true, generation: 1 })
}

pub(super) fn node(n: u32, label: &str) -> Arc<NodeFacts> {
    let labels = [("zone".to_owned(), label.to_owned())].into();
    Arc::new(NodeFacts {
        name: node_name(n),
        labels,
        usable: true,
        lost: false,
        cordoned: false,
        addresses: Box::default(),
    })
}

pub(super) fn large() -> Facts {
    let service = |n: u32| ServiceFacts {
        uid: Box::default(),
        key: Arc::new(key(n)),
        addresses: [IpAddr::V4((0x0a00_0000 + n).into())].into(),
        labels: Box::default(),
        local: n.is_multiple_of(50),
        shared: false,
        pool: Some("lan".into()),
    };
    let links = |n: u32| {
        let facts = LinkFacts {
            name: "eth0".into(),
            mac: [2, 0, 0, 0, 0, n.to_be_bytes()[3]],
            subnets: [(IpAddr::V4((0x0a00_8000 + n).into()), 16)].into(),
            families: Some(Families { ipv4: true, ipv6: true }),
        };
        (node_name(n), vec![facts])
    };
    Facts {
        services: (0..SERVICES).map(|n| Arc::new(service(n))).collect(),
        slices: (0..SERVICES).map(|n| endpoints(n, [n % NODES, (n + 1) % NODES])).collect(),
        nodes: (0..NODES).map(|n| node(n, "x")).collect(),
        pods: (0..NODES).map(|n| pod(n, true)).collect(),
        links: (0..NODES).map(links).collect(),
        ..Facts::default()
    }
}

struct Cost {
    hashes: u64,
    groups: usize,
}

/// One pool for all, and node 0.
pub(super) fn setup() -> (Configuration, Settings) {
    let mut cluster = Cluster::new();
    cluster.configured.pools.clear();
    cluster.pool("lan", "10.0.0.0/16");
    let settings = Settings { me: node_name(0), ..cluster.settings.clone() };
    (Configuration::from_objects(&cluster.configured).0, settings)
}

/// Makes the view anew, checks that it is what a new speaker would come to, and counts.
fn rebuild(facts: &Facts, before: &View) -> (View, Cost) {
    let (configuration, settings) = setup();
    let start = hashed();
    let view = View::build(&settings, facts, &configuration, Some(before));
    let hashes = hashed() - start;
    let known = |group: &&Arc<Group>| before.groups.get(&group.id).is_some_and(|old| Arc::ptr_eq(old, group));
    let groups = view.groups.len() - view.groups.values().filter(known).count();
    assert!(View::build(&settings, facts, &configuration, None) == view);
    (view, Cost { hashes, groups })
}

#[test]
fn what_cannot_affect_an_announcement_makes_no_group_anew() {
    let mut facts = large();
    let (first, cost) = rebuild(&facts, &View::default());
    assert_eq!(cost.groups, SERVICES as usize);
    let other = ServiceKey::new("other", "cluster-ip");
    facts.slices.push(Arc::new(SliceFacts { service: other, nodes: [node_name(1)].into() }));
    facts.nodes[7] = node(7, "another");
    facts.slices[3] = endpoints(3, [9]);
    let (again, cost) = rebuild(&facts, &first);
    assert_eq!((cost.hashes, cost.groups), (0, 0), "endpoints elsewhere change nothing under policy Cluster");
    assert!(again == first);
}

#[test]
fn the_endpoints_of_one_service_make_one_group_anew() {
    let mut facts = large();
    let (first, _) = rebuild(&facts, &View::default());
    facts.slices[50] = endpoints(50, [1, 2, 3]);
    let (moved, cost) = rebuild(&facts, &first);
    assert_eq!(cost.groups, 1);
    assert!(cost.hashes <= 3, "{}", cost.hashes);
    facts.slices.remove(60);
    let (_, cost) = rebuild(&facts, &moved);
    assert_eq!((cost.groups, cost.hashes), (1, 0));
}

#[test]
fn a_speaker_that_goes_costs_next_to_no_hashes_and_one_that_comes_one_for_each_group() {
    let mut facts = large();
    let (mut view, _) = rebuild(&facts, &View::default());
    for gone in [11, 12, 13] {
        facts.pods[gone as usize] = pod(gone, false);
        let (without, cost) = rebuild(&facts, &view);
        assert!(cost.hashes < 20, "{gone}: {}", cost.hashes);
        view = without;
    }
    facts.pods[12] = pod(12, true);
    let (_, cost) = rebuild(&facts, &view);
    assert!(cost.hashes <= u64::from(SERVICES) + 20, "{}", cost.hashes);
}

#[test]
fn a_group_holds_few_candidates_in_order_however_many_nodes_there_are() {
    let (view, _) = rebuild(&large(), &View::default());
    let sets: BTreeSet<*const ()> = view.groups.values().map(|group| group.candidates.set()).collect();
    assert!(sets.len() <= 1 + SERVICES as usize / 50, "{} sets", sets.len());
    let group = &view.groups[&ip("10.0.0.1")];
    assert_eq!(group.candidates.len(), NODES as usize, "and who may own it is known exactly");
    assert!(group.candidates.iter().all(|candidate| group.admits(&candidate.node)));
}
