//! The objects that kubelets, schedulers and users would write.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use testbed::{Cluster, until};
use tokio::runtime::Runtime;

/// The namespace of the speakers' pods and of the configuration.
pub const NAMESPACE: &str = crds::names::DEFAULT_NAMESPACE;
/// Concurrent requests while Services are created.
const CONCURRENCY: usize = 16;

/// Creates the definitions, the namespace, and one pool with an advertisement for all addresses of the tests.
pub(super) fn prepare(cluster: &Cluster) {
    let mut items: Vec<Value> =
        crds::all().into_iter().map(|crd| serde_json::to_value(crd).unwrap()).collect();
    items.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}));
    apply(cluster, &items);
    until(Duration::from_secs(30), "the pool to be accepted", || {
        let pool = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": {"name": "all", "namespace": NAMESPACE},
            "spec": {"addresses": ["10.0.0.0/8", "192.168.0.0/16", "fd00::/8"]},
        });
        let advertisement = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
            "metadata": {"name": "all", "namespace": NAMESPACE},
        });
        try_apply(cluster, &[pool, advertisement])?;
        let account = ["--namespace", NAMESPACE, "get", "serviceaccount", "default"];
        cluster.kubectl(account).map(drop).map_err(|error| error.to_string())
    })
    .unwrap();
}

/// Creates nodes and the ready pods of their speakers.
pub(super) fn nodes(cluster: &Cluster, nodes: &[(String, Ipv4Addr)]) {
    let objects: Vec<Value> = nodes.iter().flat_map(|(name, _)| node_objects(name)).collect();
    apply(cluster, &objects);
    for (name, address) in nodes {
        pod_ready(cluster, name, *address, true);
    }
}

fn node_objects(name: &str) -> [Value; 2] {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("speaker-{name}"), "namespace": NAMESPACE,
            "labels": {"app": "metallb", "component": "speaker"},
        },
        "spec": {
            "nodeName": name,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "speaker", "image": "none"}],
        },
    });
    [node, pod]
}

pub(super) fn pod_ready(cluster: &Cluster, node: &str, address: Ipv4Addr, yes: bool) {
    let status = json!({"status": {
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": if yes { "True" } else { "False" }}],
    }});
    let pod = format!("speaker-{node}");
    let patch = status.to_string();
    cluster
        .kubectl(["--namespace", NAMESPACE, "patch", "pod", &pod, "--subresource=status", "--patch", &patch])
        .unwrap_or_else(|error| panic!("{error}"));
}

/// A Service with the fields that its user and the controller write.
pub(super) struct ServiceSpec {
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
    /// The nodes with an endpoint, if only those may announce it (`externalTrafficPolicy: Local`).
    pub(super) only: Vec<String>,
}

impl ServiceSpec {
    fn objects(&self) -> [Value; 2] {
        let Self { name, addresses, only } = self;
        let families: Vec<&str> =
            addresses.iter().map(|address| if address.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
        let policy = if families.len() > 1 { "RequireDualStack" } else { "SingleStack" };
        let nodes = if only.is_empty() { &["node1".to_owned()][..] } else { only };
        let endpoints: Vec<Value> = (1..)
            .zip(nodes)
            .map(|(n, node)| {
                json!({"addresses": [format!("10.99.0.{n}")], "conditions": {"ready": true}, "nodeName": node})
            })
            .collect();
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "type": "LoadBalancer", "ports": [{"port": 80, "protocol": "TCP"}],
                "allocateLoadBalancerNodePorts": false,
                "externalTrafficPolicy": if only.is_empty() { "Cluster" } else { "Local" },
                "ipFamilies": families, "ipFamilyPolicy": policy,
            },
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": name, "namespace": "default",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4", "ports": [{"port": 80}],
            "endpoints": endpoints,
        });
        [service, slice]
    }

    fn status(&self) -> Value {
        let ingress: Vec<Value> = self.addresses.iter().map(|ip| json!({"ip": ip})).collect();
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": self.name, "namespace": "default"},
            "status": {"loadBalancer": {"ingress": ingress}},
        })
    }
}

/// Writes Services concurrently.
pub(super) fn services(runtime: &Runtime, client: &Client, wanted: &[ServiceSpec]) {
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let slices: Api<EndpointSlice> = Api::default_namespaced(client.clone());
    let params = PatchParams::apply("test").force();
    let writes = wanted.iter().map(|wanted| async {
        let name = &wanted.name;
        let ([service, slice], status) = (wanted.objects(), wanted.status());
        services.patch(name, &params, &Patch::Apply(service)).await?;
        slices.patch(name, &params, &Patch::Apply(slice)).await?;
        services.patch_status(name, &params, &Patch::Apply(status)).await.map(drop)
    });
    let writes = stream::iter(writes).buffer_unordered(CONCURRENCY);
    runtime.block_on(writes.try_collect::<()>()).unwrap();
}

fn apply(cluster: &Cluster, objects: &[Value]) {
    try_apply(cluster, objects).unwrap_or_else(|error| panic!("{error}"));
}

fn try_apply(cluster: &Cluster, objects: &[Value]) -> Result<(), String> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    cluster.apply(&list.to_string()).map(drop).map_err(|error| error.to_string())
}
