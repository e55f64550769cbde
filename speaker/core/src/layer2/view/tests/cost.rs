//! The cost of a change, counted in hashes of a node with an address and in rebuilt groups.

use super::*;
use crate::layer2::placement::hashed;

const NODES: u32 = 200;
const SERVICES: u32 = 500;

pub(super) fn node_name(n: u32) -> NodeName {
    format!("node-{n:04}").into()
}

pub(super) fn key(n: u32) -> ServiceKey {
    ServiceKey::new("default", format!("service-{n}"))
}

pub(super) fn endpoints(n: u32, on: impl IntoIterator<Item = u32>) -> Arc<EndpointSliceInfo> {
    Arc::new(EndpointSliceInfo { service: key(n), nodes: on.into_iter().map(node_name).collect() })
}

pub(super) fn pod(n: u32, ready: bool) -> Arc<SpeakerPodInfo> {
    Arc::new(SpeakerPodInfo { node: node_name(n), address: None, ready, running: true, generation: 1 })
}

pub(super) fn node(n: u32, label: &str) -> Arc<NodeInfo> {
    let labels = [("zone".to_owned(), label.to_owned())].into();
    Arc::new(NodeInfo {
        name: node_name(n),
        labels,
        usable: true,
        lost: false,
        cordoned: false,
        addresses: Box::default(),
    })
}

pub(super) fn large() -> ClusterObjects {
    let service = |n: u32| ServiceInfo {
        uid: Box::default(),
        key: Arc::new(key(n)),
        addresses: [IpAddr::V4((0x0a00_0000 + n).into())].into(),
        labels: Box::default(),
        local: n.is_multiple_of(50),
        shared: false,
        pool: Some("lan".into()),
    };
    let links = |n: u32| {
        let objects = LinkInfo {
            name: "eth0".into(),
            mac: [2, 0, 0, 0, 0, n.to_be_bytes()[3]],
            subnets: [(IpAddr::V4((0x0a00_8000 + n).into()), 16)].into(),
            families: Some(Families { ipv4: true, ipv6: true }),
        };
        (node_name(n), vec![objects])
    };
    ClusterObjects {
        services: (0..SERVICES).map(|n| Arc::new(service(n))).collect(),
        slices: (0..SERVICES).map(|n| endpoints(n, [n % NODES, (n + 1) % NODES])).collect(),
        nodes: (0..NODES).map(|n| node(n, "x")).collect(),
        pods: (0..NODES).map(|n| pod(n, true)).collect(),
        links: (0..NODES).map(links).collect(),
        ..ClusterObjects::default()
    }
}

struct Cost {
    hashes: u64,
    groups: usize,
}

/// One pool for all, and node 0.
pub(super) fn setup() -> (Configuration, ViewSettings) {
    let mut cluster = Cluster::new();
    cluster.configured.pools.clear();
    cluster.pool("lan", "10.0.0.0/16");
    let settings = ViewSettings { me: node_name(0), ..cluster.settings.clone() };
    (Configuration::from_objects(&cluster.configured).0, settings)
}

/// Rebuilds the view, checks that it is equal to that of a new speaker, and counts.
fn rebuild(objects: &ClusterObjects, before: &View) -> (View, Cost) {
    let (configuration, settings) = setup();
    let start = hashed();
    let view = View::build(&settings, objects, &configuration, Some(before));
    let hashes = hashed() - start;
    let known = |group: &&Arc<Group>| before.groups.get(&group.id).is_some_and(|old| Arc::ptr_eq(old, group));
    let groups = view.groups.len() - view.groups.values().filter(known).count();
    assert!(View::build(&settings, objects, &configuration, None) == view);
    (view, Cost { hashes, groups })
}

#[test]
fn changes_that_cannot_affect_announcements_rebuild_no_group() {
    let mut objects = large();
    let (first, cost) = rebuild(&objects, &View::default());
    assert_eq!(cost.groups, SERVICES as usize);
    let other = ServiceKey::new("other", "cluster-ip");
    objects.slices.push(Arc::new(EndpointSliceInfo { service: other, nodes: [node_name(1)].into() }));
    objects.nodes[7] = node(7, "another");
    objects.slices[3] = endpoints(3, [9]);
    let (again, cost) = rebuild(&objects, &first);
    assert_eq!((cost.hashes, cost.groups), (0, 0), "endpoints elsewhere change nothing under policy Cluster");
    assert!(again == first);
}

#[test]
fn the_endpoints_of_one_service_rebuild_one_group() {
    let mut objects = large();
    let (first, _) = rebuild(&objects, &View::default());
    objects.slices[50] = endpoints(50, [1, 2, 3]);
    let (moved, cost) = rebuild(&objects, &first);
    assert_eq!(cost.groups, 1);
    assert!(cost.hashes <= 3, "{}", cost.hashes);
    objects.slices.remove(60);
    let (_, cost) = rebuild(&objects, &moved);
    assert_eq!((cost.groups, cost.hashes), (1, 0));
}

#[test]
fn a_removed_speaker_costs_nearly_no_hashes_and_an_added_one_costs_one_per_group() {
    let mut objects = large();
    let (mut view, _) = rebuild(&objects, &View::default());
    for removed in [11, 12, 13] {
        objects.pods[removed as usize] = pod(removed, false);
        let (without, cost) = rebuild(&objects, &view);
        assert!(cost.hashes < 20, "{removed}: {}", cost.hashes);
        view = without;
    }
    objects.pods[12] = pod(12, true);
    let (_, cost) = rebuild(&objects, &view);
    assert!(cost.hashes <= u64::from(SERVICES) + 20, "{}", cost.hashes);
}

#[test]
fn a_group_keeps_few_sorted_candidates_however_many_nodes_there_are() {
    let (view, _) = rebuild(&large(), &View::default());
    let sets: BTreeSet<*const ()> = view.groups.values().map(|group| group.candidates.set()).collect();
    assert!(sets.len() <= 1 + SERVICES as usize / 50, "{} sets", sets.len());
    let group = &view.groups[&ip("10.0.0.1")];
    assert_eq!(group.candidates.len(), NODES as usize, "all candidates are known");
    assert!(group.candidates.iter().all(|candidate| group.admits(&candidate.node)));
}
