//! `cargo xtask bench view`: how long a speaker takes to update its view of the cluster. Run it in a release
//! build.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use announce::cluster::link::{Families, LinkInfo};
use announce::cluster::objects::{ClusterObjects, EndpointSliceInfo, NodeInfo, ServiceInfo, SpeakerPodInfo};
use announce::cluster::{ExcludeLabel, NodeName};
use announce::layer2::placement::Placement;
use announce::layer2::view::{View, ViewBuilder, ViewSettings};
use anyhow::{Context as _, ensure};
use crds::{IPAddressPool, IPAddressPoolSpec, L2Advertisement, L2AdvertisementSpec, ServiceKey};
use rules::{Configuration, Objects};

use crate::bench::resident;

/// Nodes and Services.
const SIZES: [(u32, u32); 6] =
    [(3, 10_000), (20, 500), (100, 1_000), (100, 10_000), (1_000, 10_000), (5_000, 2_000)];

/// Prints the table: processor time, which does not depend on other work on the machine. Each size runs in a
/// process of its own, since memory freed by a previous run would distort the result.
///
/// # Errors
///
/// A view is wrong, or a process could not be started.
pub(crate) fn run(size: Option<&str>) -> anyhow::Result<()> {
    if let Some(size) = size {
        let (nodes, services) = size.split_once('x').context("a size is NODESxSERVICES")?;
        return one(nodes.parse()?, services.parse()?);
    }
    println!(
        "{:>6} {:>9} {:>11} {:>13} {:>12} {:>11} {:>14} {:>15} {:>9}",
        "nodes",
        "Services",
        "first view",
        "other slice",
        "endpoints",
        "labels",
        "speaker gone",
        "speaker ready",
        "memory"
    );
    for (nodes, services) in SIZES {
        let mut process = Command::new(std::env::current_exe()?);
        let status = process.args(["bench", "view", &format!("{nodes}x{services}")]).status()?;
        ensure!(status.success(), "{nodes}x{services}: {status}");
    }
    Ok(())
}

/// The processor time that this thread has used.
fn processor_time() -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split(' ').next().context("/proc/thread-self/schedstat is empty")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}

/// The objects, and what makes views of them.
struct Cluster {
    configuration: Configuration,
    objects: ClusterObjects,
    builder: ViewBuilder,
}

impl Cluster {
    /// How long it takes to make the view anew after a change, the copy of all pointers to objects included.
    fn after(&mut self, change: impl FnOnce(&mut ClusterObjects)) -> anyhow::Result<Duration> {
        change(&mut self.objects);
        let start = processor_time()?;
        black_box(self.builder.build(self.objects.clone(), &self.configuration));
        Ok(processor_time()?.saturating_sub(start))
    }
}

fn one(nodes: u32, services: u32) -> anyhow::Result<()> {
    let settings =
        ViewSettings { me: name(0), placement: Placement::Balanced, exclude_label: ExcludeLabel::Auto };
    let configuration = configuration();
    let objects = objects(nodes, services);
    let before = resident()?;
    let start = processor_time()?;
    let mut builder = ViewBuilder::new(settings.clone(), None);
    let view = builder.build(objects.clone(), &configuration);
    let first = processor_time()?.saturating_sub(start);
    let memory = resident()?.saturating_sub(before);
    ensure!(view.placed.len() == services as usize, "{} of {services} are placed", view.placed.len());
    drop(view);
    let mut cluster = Cluster { configuration, objects, builder };
    let last = name(nodes - 1);
    let slice = cluster.after(|objects| {
        let service = ServiceKey::new("other", "cluster-ip");
        objects.slices.push(Arc::new(EndpointSliceInfo { service, nodes: [name(0)].into() }));
    })?;
    let endpoints = cluster.after(|objects| {
        let service = objects.services[0].key.as_ref().clone();
        objects.slices[0] = Arc::new(EndpointSliceInfo { service, nodes: [name(1)].into() });
    })?;
    let labels = cluster.after(|objects| Arc::make_mut(&mut objects.nodes[1]).labels.clear())?;
    let gone = cluster.after(|objects| objects.pods.retain(|pod| pod.node != last))?;
    let ready = cluster.after(|objects| objects.pods.push(pod(nodes - 1)))?;
    let Cluster { configuration, objects, mut builder } = cluster;
    let expected = View::build(&settings, &objects, &configuration, None);
    ensure!(*builder.build(objects, &configuration) == expected, "a new speaker sees something else");
    println!(
        "{nodes:>6} {services:>9} {:>11} {:>13} {:>12} {:>11} {:>14} {:>15} {:>9}",
        format!("{first:.1?}"),
        format!("{slice:.1?}"),
        format!("{endpoints:.1?}"),
        format!("{labels:.1?}"),
        format!("{gone:.1?}"),
        format!("{ready:.1?}"),
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

fn pod(n: u32) -> Arc<SpeakerPodInfo> {
    Arc::new(SpeakerPodInfo { node: name(n), address: None, ready: true, running: true, generation: 1 })
}

/// As a cluster would be: each Service has endpoints on three nodes, every tenth with `externalTrafficPolicy: Local`, and
/// all nodes are on one subnet.
fn objects(nodes: u32, services: u32) -> ClusterObjects {
    let key = |n: u32| ServiceKey::new(format!("namespace-{}", n % 100), format!("service-{n}"));
    let address = |n: u32| IpAddr::from(Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + n));
    let service = |n: u32| {
        let objects = ServiceInfo {
            key: Arc::new(key(n)),
            uid: Box::default(),
            addresses: [address(n)].into(),
            labels: Box::default(),
            local: n.is_multiple_of(10),
            shared: false,
            pool: Some("lan".into()),
        };
        Arc::new(objects)
    };
    let slice = |n: u32| {
        let on = (0..3).map(|replica| name((n + replica) % nodes)).collect();
        Arc::new(EndpointSliceInfo { service: key(n), nodes: on })
    };
    let node = |n: u32| {
        let labels = [("kubernetes.io/hostname".to_owned(), name(n).to_string())].into();
        Arc::new(NodeInfo {
            name: name(n),
            labels,
            usable: true,
            lost: false,
            cordoned: false,
            addresses: Box::default(),
        })
    };
    let links = |n: u32| {
        let [.., a, b] = n.to_be_bytes();
        let objects = LinkInfo {
            name: "eth0".to_owned(),
            mac: [2, 0, 0, 0, a, b],
            subnets: [(address(1_000_000 + n), 8)].into(),
            families: Some(Families { ipv4: true, ipv6: true }),
        };
        (name(n), vec![objects])
    };
    ClusterObjects {
        services: (0..services).map(service).collect(),
        slices: (0..services).map(slice).collect(),
        nodes: (0..nodes).map(node).collect(),
        pods: (0..nodes).map(pod).collect(),
        links: (0..nodes).map(links).collect(),
        ..ClusterObjects::default()
    }
}
