//! An incrementally built view is equal to the result of a full rebuild.

use super::cost::{endpoints, key, large, node, node_name, pod, setup};
use super::*;
use crate::layer2::view::build::evaluated;

/// A fixed sequence of pseudo-random numbers.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.0 >> 33).unwrap() % limit
    }

    fn once_in(&mut self, times: u32) -> bool {
        self.below(times) == 0
    }
}

const NODES: u32 = 6;
const SERVICES: u32 = 12;

/// Few addresses, so that Services share them.
fn random_service(chance: &mut Chance, n: u32) -> Arc<ServiceInfo> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for _ in 0..=chance.below(2) {
        let last = u8::try_from(chance.below(14)).unwrap();
        let v6 = || IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)));
        addresses.push(if chance.once_in(3) { v6() } else { IpAddr::V4([10, 0, 0, last].into()) });
    }
    addresses.dedup();
    if chance.once_in(8) {
        addresses.clear();
    }
    Arc::new(ServiceInfo {
        uid: Box::default(),
        key: Arc::new(key(n)),
        addresses: addresses.into(),
        labels: [("app".into(), chance.below(2).to_string().into())].into(),
        local: chance.once_in(2),
        shared: chance.once_in(2),
        pool: chance.once_in(2).then(|| "lan".into()),
    })
}

fn random_links(chance: &mut Chance, n: u32) -> Vec<LinkInfo> {
    let subnet = if chance.once_in(2) { "10.0.0.0/28" } else { "10.1.0.0/16" };
    let families = Families { ipv4: !chance.once_in(5), ipv6: !chance.once_in(5) };
    let interface = if chance.once_in(4) { "eth1" } else { "eth0" };
    vec![link(&format!("{n}"), interface, &[subnet, "fd00::/64"], Some(families))]
}

fn change(chance: &mut Chance, objects: &mut ClusterObjects) {
    let (n, of) = (chance.below(NODES), chance.below(SERVICES));
    match chance.below(9) {
        0 | 1 => {
            objects.services.retain(|service| *service.key != key(of));
            if !chance.once_in(4) {
                objects.services.push(random_service(chance, of));
            }
        }
        2..=4 => {
            objects.slices.retain(|slice| slice.service != key(of) || chance.once_in(3));
            if !chance.once_in(4) {
                objects.slices.push(endpoints(of, [n, chance.below(NODES)]));
            }
        }
        5 => {
            objects.statuses.retain(|status| status.service != key(of) || chance.once_in(2));
            objects.statuses.push(Arc::new(AnnouncementInfo {
                name: format!("status-{of}-{n}").into(),
                service: key(of),
                node: node_name(n),
                epoch: chance.below(9).into(),
                interfaces: None,
            }));
        }
        6 => {
            objects.pods.retain(|pod| pod.node != node_name(n));
            objects.pods.push(pod(n, !chance.once_in(3)));
        }
        7 => {
            objects.nodes.retain(|node| node.name != node_name(n));
            if !chance.once_in(6) {
                objects.nodes.push(node(n, ["x", "y"][chance.below(2) as usize]));
            }
        }
        _ => {
            objects.links.insert(node_name(n), random_links(chance, n));
        }
    }
}

fn configurations() -> Vec<Configuration> {
    let with = |advertisements: &[Value]| {
        let mut cluster = Cluster::new();
        cluster.pool("six", "fd00::/64");
        cluster.configured.l2_advertisements.clear();
        for (number, spec) in advertisements.iter().enumerate() {
            cluster.advertisement(&format!("a{number}"), spec);
        }
        Configuration::from_objects(&cluster.configured).0
    };
    let zone = |zone: &str| json!({"nodeSelectors": [{"matchLabels": {"zone": zone}}]});
    let app = json!({"serviceSelectors": [{"matchLabels": {"app": "1"}}], "interfaces": ["eth1"]});
    vec![with(&[json!({})]), with(&[zone("x"), app]), with(&[json!({"interfaces": ["eth0"]}), zone("y")])]
}

#[test]
fn an_incrementally_built_view_is_equal_to_a_full_rebuild() {
    let configurations = configurations();
    for seed in 0..40 {
        let mut chance = Chance(seed);
        let placement = if seed % 2 == 0 { Placement::Balanced } else { Placement::Hash };
        let settings = ViewSettings { me: node_name(0), placement, exclude_label: ExcludeLabel::Auto };
        let mut objects = ClusterObjects {
            nodes: (0..NODES).map(|n| node(n, "x")).collect(),
            pods: (0..NODES).map(|n| pod(n, true)).collect(),
            ..ClusterObjects::default()
        };
        let (mut builder, mut view) = (ViewBuilder::new(settings.clone(), None), Arc::new(View::default()));
        let mut configuration = &configurations[0];
        for step in 0..120 {
            for _ in 0..=chance.below(3) {
                change(&mut chance, &mut objects);
            }
            if chance.once_in(20) {
                configuration = &configurations[chance.below(3) as usize];
            }
            let full = View::build(&settings, &objects, configuration, Some(&view));
            let made = builder.build(objects.clone(), configuration);
            assert!(*made == full, "seed {seed}, step {step}:\n{made:#?}\n{full:#?}");
            assert_eq!(Arc::ptr_eq(&made, &view), full == *view, "what says the same is the same object");
            view = made;
        }
    }
}

#[test]
fn requirement_7_a_change_of_one_service_evaluates_its_group_alone() {
    let (configuration, settings) = setup();
    let mut objects = large();
    let mut builder = ViewBuilder::new(settings, None);
    builder.build(objects.clone(), &configuration);
    let mut evaluated_after = |objects: &ClusterObjects| {
        let before = evaluated();
        builder.build(objects.clone(), &configuration);
        evaluated() - before
    };
    assert_eq!(evaluated_after(&objects), 0, "nothing has changed");
    objects.slices[50] = endpoints(50, [1, 2, 3]);
    assert_eq!(evaluated_after(&objects), 1, "other endpoints");
    objects.services[70] = Arc::new(ServiceInfo { local: true, ..ServiceInfo::clone(&objects.services[70]) });
    assert_eq!(evaluated_after(&objects), 1, "another traffic policy");
    let last = objects.services.pop().unwrap();
    assert_eq!(evaluated_after(&objects), 0, "a Service is deleted");
    objects.services.push(last);
    assert_eq!(evaluated_after(&objects), 1, "a Service comes");
    let other = ServiceKey::new("other", "cluster-ip");
    objects.slices.push(Arc::new(EndpointSliceInfo { service: other, nodes: [node_name(1)].into() }));
    assert_eq!(evaluated_after(&objects), 0, "endpoints of a Service without an address");
}

#[test]
fn the_cache_for_continuously_moving_endpoints_is_bounded() {
    let (configuration, settings) = setup();
    let mut objects = large();
    let mut builder = ViewBuilder::new(settings, None);
    let mut chance = Chance(1);
    for _ in 0..12_000 {
        objects.slices[50] = endpoints(50, [chance.below(200), chance.below(200), chance.below(200)]);
        builder.build(objects.clone(), &configuration);
    }
    assert!(builder.cached_classes() <= 1_000 + 4 * objects.services.len(), "{}", builder.cached_classes());
}
