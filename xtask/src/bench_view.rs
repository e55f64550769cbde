//! `cargo xtask bench view`: what a speaker does when something of the cluster changes. Run it in a release build.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use announce::facts::{Facts, NodeFacts, PodFacts, ServiceFacts, SliceFacts};
use announce::placement::Placement;
use announce::view::{ExcludeLabel, NodeName, Settings, View};
use anyhow::ensure;
use crds::{IPAddressPool, IPAddressPoolSpec, L2Advertisement, L2AdvertisementSpec, ServiceKey};
use rules::{Configuration, Objects};

use crate::bench::resident;

/// Nodes and Services.
const SIZES: [(u32, u32); 5] = [(3, 1_000), (3, 10_000), (100, 1_000), (1_000, 1_000), (5_000, 1_000)];

/// Prints the table.
///
/// # Errors
///
/// A view is not what it should be.
pub(crate) fn run() -> anyhow::Result<()> {
    println!(
        "{:>6} {:>9} {:>14} {:>14} {:>16} {:>12}",
        "nodes", "Services", "first view", "nothing new", "a speaker less", "memory"
    );
    for (nodes, services) in SIZES {
        one(nodes, services)?;
    }
    Ok(())
}

fn one(nodes: u32, services: u32) -> anyhow::Result<()> {
    let settings =
        Settings { me: name(0), placement: Placement::Balanced, exclude_label: ExcludeLabel::Auto };
    let configuration = configuration();
    let mut facts = facts(nodes, services);
    let before = resident()?;
    let start = Instant::now();
    let first = View::build(&settings, &facts, &configuration, None);
    let first_took = start.elapsed();
    let memory = resident()?.saturating_sub(before);
    ensure!(first.placed.len() == services as usize, "{} of {services} are placed", first.placed.len());
    let start = Instant::now();
    let again = View::build(&settings, &facts, &configuration, Some(&first));
    let again_took = start.elapsed();
    ensure!(again == first, "nothing new gives another view");
    facts.pods.pop();
    let start = Instant::now();
    let fewer = View::build(&settings, &facts, &configuration, Some(&again));
    let fewer_took = start.elapsed();
    black_box((&first, &again, &fewer));
    println!(
        "{nodes:>6} {services:>9} {:>14} {:>14} {:>16} {:>12}",
        format!("{first_took:.2?}"),
        format!("{again_took:.2?}"),
        format!("{fewer_took:.2?}"),
        format!("{} MB", memory / 1_000_000),
    );
    Ok(())
}

fn configuration() -> Configuration {
    let spec = IPAddressPoolSpec {
        addresses: vec!["10.0.0.0/8".to_owned()],
        auto_assign: true,
        ..IPAddressPoolSpec::default()
    };
    let objects = Objects {
        pools: vec![Arc::new(IPAddressPool::new("lan", spec))],
        l2_advertisements: vec![Arc::new(L2Advertisement::new("lan", L2AdvertisementSpec::default()))],
        ..Objects::default()
    };
    Configuration::from_objects(&objects).0
}

fn name(node: u32) -> NodeName {
    format!("node-{node:04}").into()
}

/// As a cluster would be: each Service has endpoints on three nodes.
fn facts(nodes: u32, services: u32) -> Facts {
    let key = |n: u32| ServiceKey::new(format!("namespace-{}", n % 100), format!("service-{n}"));
    let service = |n: u32| {
        let address: IpAddr = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + n).into();
        let facts = ServiceFacts {
            key: Arc::new(key(n)),
            uid: Box::default(),
            addresses: [address].into(),
            labels: Box::default(),
            local: false,
            shared: false,
        };
        Arc::new(facts)
    };
    let slice = |n: u32| {
        let on = (0..3).map(|replica| name((n + replica) % nodes)).collect();
        Arc::new(SliceFacts { service: key(n), nodes: on })
    };
    let node = |n: u32| {
        let labels = [("kubernetes.io/hostname".to_owned(), name(n).to_string())].into();
        Arc::new(NodeFacts {
            name: name(n),
            labels,
            usable: true,
            cordoned: false,
            addresses: Box::default(),
        })
    };
    let pod = |n: u32| Arc::new(PodFacts { node: name(n), address: None, ready: true, generation: 1 });
    Facts {
        services: (0..services).map(service).collect(),
        slices: (0..services).map(slice).collect(),
        nodes: (0..nodes).map(node).collect(),
        pods: (0..nodes).map(pod).collect(),
        ..Facts::default()
    }
}
