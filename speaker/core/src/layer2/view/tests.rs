use std::collections::BTreeSet;

use crds::ServiceL2Status;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rules::Configuration;
use serde_json::{Value, json};

use super::*;
use crate::cluster::ExcludeLabel;
use crate::cluster::link::{Families, LinkInfo, Scope};
use crate::cluster::objects::{
    AnnouncementInfo, ClusterObjects, EndpointSliceInfo, NodeInfo, ServiceInfo, SpeakerPodInfo,
};

/// A cluster, described as `kubectl` would print it.
#[derive(Clone)]
struct Cluster {
    objects: Objects,
    configured: rules::Objects,
    settings: ViewSettings,
    class: Option<String>,
}

#[derive(Clone, Default)]
struct Objects {
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    statuses: Vec<ServiceL2Status>,
    links: BTreeMap<NodeName, Vec<LinkInfo>>,
    own_links: Option<Vec<LinkInfo>>,
    other_addresses: BTreeMap<NodeName, BTreeMap<IpAddr, String>>,
}

/// The summaries of `objects`.
fn summaries<K: Clone, F>(objects: &[K], of: impl Fn(K) -> Option<F>) -> Vec<Arc<F>> {
    objects.iter().cloned().filter_map(of).map(Arc::new).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl Cluster {
    /// Nodes `a`, `b` and `c` with ready speakers, one pool, one advertisement of everything.
    fn new() -> Self {
        let settings = ViewSettings {
            me: "a".into(),
            placement: Placement::Balanced,
            exclude_label: ExcludeLabel::Auto,
        };
        let mut cluster = Self {
            objects: Objects::default(),
            configured: rules::Objects::default(),
            settings,
            class: None,
        };
        for node in ["a", "b", "c"] {
            cluster.node(node, &json!({}));
            cluster.pod(node, true);
        }
        cluster.pool("lan", "10.0.0.0/24");
        cluster.advertisement("all", &json!({}));
        cluster
    }

    fn node(&mut self, name: &str, more: &Value) {
        let mut node = json!({"metadata": {"name": name, "labels": {"name": name}}});
        merge(&mut node, more);
        let node: Node = serde_json::from_value(node).unwrap();
        self.objects.nodes.retain(|other| other.metadata.name != node.metadata.name);
        self.objects.nodes.push(node);
    }

    fn pod(&mut self, node: &str, ready: bool) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": format!("speaker-{node}"), "labels": {"pod-template-generation": "3"}},
            "spec": {"nodeName": node, "containers": []},
            "status": {
                "podIP": "192.168.0.1",
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            },
        }))
        .unwrap();
        self.objects.pods.retain(|other| other.metadata.name != pod.metadata.name);
        self.objects.pods.push(pod);
    }

    fn pool(&mut self, name: &str, addresses: &str) {
        let pool = serde_json::from_value(json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": {"name": name, "namespace": "metallb-system"},
            "spec": {"addresses": [addresses]},
        }));
        self.configured.pools.push(Arc::new(pool.unwrap()));
    }

    fn advertisement(&mut self, name: &str, spec: &Value) {
        let advertisement = serde_json::from_value(json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
            "metadata": {"name": name, "namespace": "metallb-system"}, "spec": spec,
        }));
        self.configured.l2_advertisements.push(Arc::new(advertisement.unwrap()));
    }

    /// A Service with addresses and one serving endpoint on each of `on`.
    fn service(&mut self, name: &str, addresses: &[&str], on: &[&str], more: &Value) {
        let ingress: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        let mut service = json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"type": "LoadBalancer"},
            "status": {"loadBalancer": {"ingress": ingress}},
        });
        merge(&mut service, more);
        let service: Service = serde_json::from_value(service).unwrap();
        self.objects.services.retain(|other| other.metadata.name != service.metadata.name);
        self.objects.services.push(service);
        let endpoints: Vec<Value> =
            on.iter().map(|node| json!({"addresses": [], "nodeName": node})).collect();
        self.slice(name, &endpoints);
    }

    fn slice(&mut self, service: &str, endpoints: &[Value]) {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4",
            "metadata": {
                "name": format!("{service}-1"), "namespace": "default",
                "labels": {"kubernetes.io/service-name": service},
            },
            "endpoints": endpoints,
        }))
        .unwrap();
        self.objects.slices.retain(|other| other.metadata.name != slice.metadata.name);
        self.objects.slices.push(slice);
    }

    /// One link with one subnet, as an earlier release publishes it.
    fn links(&mut self, node: &str, name: &str, subnet: &str) {
        self.objects.links.insert(node.into(), vec![link(node, name, &[subnet], None)]);
    }

    fn other_addresses(&mut self, node: &str, address: &str, interface: &str) {
        self.objects.other_addresses.insert(node.into(), [(ip(address), interface.to_owned())].into());
    }

    fn summaries(&self) -> ClusterObjects {
        let Objects { services, slices, nodes, pods, statuses, links, own_links, other_addresses } =
            &self.objects;
        ClusterObjects {
            services: summaries(services, |service| {
                ServiceInfo::from_service(service, self.class.as_deref())
            }),
            slices: summaries(slices, EndpointSliceInfo::from_slice),
            nodes: summaries(nodes, NodeInfo::from_node),
            pods: summaries(pods, |pod| SpeakerPodInfo::from_pod(&pod)),
            statuses: summaries(statuses, |status| AnnouncementInfo::from_status(status, "a")),
            states_listed: true,
            links: links.clone(),
            own_links: own_links.clone(),
            other_addresses: other_addresses.clone(),
        }
    }

    fn view(&self) -> View {
        self.view_after(None)
    }

    fn view_after(&self, previous: Option<&View>) -> View {
        let (configuration, _) = Configuration::from_objects(&self.configured);
        View::build(&self.settings, &self.summaries(), &configuration, previous)
    }

    /// The candidates of the only group, sorted by name.
    fn candidates(&self) -> Vec<String> {
        names(&self.view())
    }

    fn not_announced(&self) -> Option<NotAnnounced> {
        self.view().groups.values().next().unwrap().not_announced
    }
}

fn link(node: &str, name: &str, subnets: &[&str], families: Option<Families>) -> LinkInfo {
    let subnet = |text: &&str| {
        let (address, length) = text.split_once('/').unwrap();
        (ip(address), length.parse().unwrap())
    };
    LinkInfo {
        name: name.into(),
        mac: [2, 0, 0, 0, 0, node.as_bytes()[0]],
        subnets: subnets.iter().map(subnet).collect(),
        families,
    }
}

fn names(view: &View) -> Vec<String> {
    assert_eq!(view.groups.len(), 1);
    let group = view.groups.values().next().unwrap();
    let nodes: BTreeSet<String> = group.candidates.iter().map(|c| c.node.to_string()).collect();
    nodes.into_iter().collect()
}

fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more.clone(),
    }
}

fn with_service() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.service("web", &["10.0.0.5"], &["b"], &json!({}));
    cluster
}

#[test]
fn every_node_with_a_ready_speaker_is_a_candidate() {
    let mut cluster = with_service();
    assert_eq!(cluster.candidates(), ["a", "b", "c"]);
    cluster.pod("b", false);
    assert_eq!(cluster.candidates(), ["a", "c"]);
    cluster.objects.pods.retain(|pod| pod.metadata.name.as_deref() != Some("speaker-c"));
    assert_eq!(cluster.candidates(), ["a"]);
}

#[test]
fn a_node_that_is_not_ready_or_has_no_network_is_no_candidate() {
    for (type_, status, candidate) in [
        ("NetworkUnavailable", "True", false),
        ("NetworkUnavailable", "False", true),
        ("Ready", "False", false),
        ("Ready", "Unknown", false),
        ("Ready", "True", true),
    ] {
        let mut cluster = with_service();
        cluster.node("b", &json!({"status": {"conditions": [{"type": type_, "status": status}]}}));
        assert_eq!(cluster.candidates().contains(&"b".to_owned()), candidate, "{type_} {status}");
    }
}

#[test]
fn the_exclude_label_is_honoured_unless_every_node_has_it() {
    let excluded = json!({"metadata": {"labels": {crds::names::LABEL_EXCLUDE_NODE: ""}}});
    let mut cluster = with_service();
    cluster.node("a", &excluded);
    assert_eq!(cluster.candidates(), ["b", "c"]);
    cluster.node("b", &excluded);
    cluster.node("c", &excluded);
    assert_eq!(cluster.candidates(), ["a", "b", "c"]);
    assert!(cluster.view().label_ignored, "it is reported");
    cluster.settings.exclude_label = ExcludeLabel::Honour;
    assert_eq!(cluster.not_announced(), Some(NotAnnounced::NoCandidate));
    assert!(!cluster.view().label_ignored);
    cluster.settings.exclude_label = ExcludeLabel::Ignore;
    cluster.node("c", &json!({}));
    assert_eq!(cluster.candidates(), ["a", "b", "c"]);
    assert!(!cluster.view().label_ignored, "as configured");
}

#[test]
fn a_node_that_joins_without_the_exclude_label_changes_nothing_before_its_speaker_is_ready() {
    let excluded = json!({"metadata": {"labels": {crds::names::LABEL_EXCLUDE_NODE: ""}}});
    let mut cluster = with_service();
    for node in ["a", "b", "c"] {
        cluster.node(node, &excluded);
    }
    let before = cluster.view();
    cluster.node("d", &json!({}));
    for joined in [cluster.view_after(Some(&before)), cluster.view()] {
        assert!(joined.label_ignored, "in running and in restarted speakers");
        assert_eq!(names(&joined), ["a", "b", "c"]);
    }
    cluster.pod("d", true);
    let ready = cluster.view();
    assert!(!ready.label_ignored);
    assert_eq!(names(&ready), ["d"]);
    cluster.pod("d", false);
    assert!(cluster.view().label_ignored, "its speaker has not published anything");
    cluster.links("d", "eth0", "10.0.0.4/24");
    assert_eq!(
        cluster.not_announced(),
        Some(NotAnnounced::NoCandidate),
        "the other nodes were excluded on purpose"
    );
}

#[test]
fn without_a_serving_endpoint_nobody_announces() {
    let mut cluster = with_service();
    cluster.slice("web", &[]);
    assert_eq!(cluster.not_announced(), Some(NotAnnounced::NoEndpoints));
    for (conditions, serves) in [
        (json!({"ready": false}), false),
        (json!({"ready": true}), true),
        (json!({}), true),
        (json!({"ready": false, "serving": true, "terminating": true}), true),
    ] {
        cluster.slice("web", &[json!({"addresses": [], "nodeName": "b", "conditions": conditions})]);
        assert_eq!(cluster.not_announced().is_none(), serves, "{conditions}");
    }
}

#[test]
fn with_a_local_traffic_policy_only_nodes_with_an_endpoint_are_candidates() {
    let local = json!({"spec": {"externalTrafficPolicy": "Local"}});
    let mut cluster = Cluster::new();
    cluster.service("web", &["10.0.0.5"], &["b", "c"], &local);
    assert_eq!(cluster.candidates(), ["b", "c"]);
}

#[test]
fn advertisements_choose_nodes_links_and_services() {
    let mut cluster = with_service();
    cluster.configured.l2_advertisements.clear();
    assert_eq!(cluster.not_announced(), Some(NotAnnounced::NotAdvertised));
    let on = |node: &str, interface: &str| json!({"nodeSelectors": [{"matchLabels": {"name": node}}], "interfaces": [interface]});
    cluster.advertisement("a", &on("a", "eth0"));
    cluster.advertisement("b", &on("b", "eth1"));
    assert_eq!(cluster.candidates(), ["a", "b"]);
    let view = cluster.view();
    let scope = view.groups[&ip("10.0.0.5")].addresses.get(ip("10.0.0.5")).unwrap();
    assert_eq!(*scope, Scope::Named(["eth0".to_owned()].into()));

    cluster.configured.l2_advertisements.clear();
    cluster.advertisement("other", &json!({"serviceSelectors": [{"matchLabels": {"app": "other"}}]}));
    assert_eq!(cluster.not_announced(), Some(NotAnnounced::NotAdvertised));
    cluster.advertisement("pool", &json!({"ipAddressPools": ["elsewhere"]}));
    assert_eq!(cluster.not_announced(), Some(NotAnnounced::NotAdvertised));
}

#[test]
fn a_dual_stack_service_and_services_on_one_address_are_one_group() {
    let mut cluster = Cluster::new();
    cluster.pool("six", "fd00::/64");
    cluster.service("both", &["fd00::5", "10.0.0.5"], &["a"], &json!({}));
    cluster.service("shares", &["10.0.0.5"], &["a"], &json!({}));
    cluster.service("alone", &["10.0.0.6"], &["a"], &json!({}));
    let view = cluster.view();
    assert_eq!(view.groups.keys().copied().collect::<Vec<_>>(), [ip("10.0.0.5"), ip("10.0.0.6")]);
    let group = &view.groups[&ip("10.0.0.5")];
    assert_eq!(group.services.len(), 2);
    assert_eq!(group.addresses.keys().collect::<Vec<_>>(), [ip("10.0.0.5"), ip("fd00::5")]);
    assert_eq!(group.hashed, ip("fd00::5"), "the first address in the status");
}

#[test]
fn services_on_one_address_need_a_common_node_for_all_that_have_endpoints() {
    let local = json!({"spec": {"externalTrafficPolicy": "Local"}});
    let mut cluster = Cluster::new();
    cluster.service("one", &["10.0.0.5"], &["a", "b"], &local);
    cluster.service("two", &["10.0.0.5"], &["b", "c"], &local);
    assert_eq!(cluster.candidates(), ["b"]);
    cluster.service("two", &["10.0.0.5"], &["c"], &local);
    assert_eq!(cluster.not_announced(), Some(NotAnnounced::NoCommonCandidate));
    cluster.service("two", &["10.0.0.5"], &[], &local);
    assert_eq!(cluster.candidates(), ["a", "b"]);
}

#[test]
fn a_shared_address_is_not_announced_while_an_advertisement_selects_services() {
    let shared = json!({"metadata": {"annotations": {"metallb.io/allow-shared-ip": "key"}}});
    let mut cluster = Cluster::new();
    cluster.service("web", &["10.0.0.5"], &["a"], &shared);
    assert_eq!(cluster.candidates(), ["a", "b", "c"]);
    cluster.advertisement("some", &json!({"serviceSelectors": [{"matchExpressions": []}]}));
    assert_eq!(cluster.not_announced(), Some(NotAnnounced::SharedWithServiceSelector));
}

#[test]
fn services_of_other_types_or_classes_or_without_an_address_are_ignored() {
    for more in [
        json!({"spec": {"type": "NodePort"}}),
        json!({"spec": {"loadBalancerClass": "other"}}),
        json!({"status": {"loadBalancer": {"ingress": []}}}),
        json!({"status": {"loadBalancer": {"ingress": [{"hostname": "x"}, {"ip": "nonsense"}]}}}),
    ] {
        let mut cluster = Cluster::new();
        cluster.service("web", &["10.0.0.5"], &["a"], &more);
        assert!(cluster.view().groups.is_empty(), "{more}");
    }
    let mut cluster = Cluster::new();
    cluster.class = Some("ours".into());
    cluster.service("web", &["10.0.0.5"], &["a"], &json!({"spec": {"loadBalancerClass": "ours"}}));
    assert_eq!(cluster.view().groups.len(), 1);
}

fn first(cluster: &Cluster) -> String {
    cluster.view().groups.values().next().unwrap().candidates.first().unwrap().node.to_string()
}

#[test]
fn a_cordoned_node_comes_last_and_stays_a_candidate() {
    let mut cluster = with_service();
    let best = first(&cluster);
    cluster.node(&best, &json!({"spec": {"unschedulable": true}}));
    let view = cluster.view();
    let group = view.groups.values().next().unwrap();
    assert_eq!(*group.candidates.iter().nth(2).unwrap().node, *best);
    assert_ne!(*view.placed[&group.id], *best);
}

#[test]
fn a_node_without_the_advertised_interface_is_no_candidate() {
    let mut cluster = with_service();
    cluster.configured.l2_advertisements.clear();
    cluster.advertisement("eth1", &json!({"interfaces": ["eth1"]}));
    cluster.links("a", "eth0", "10.0.0.1/24");
    cluster.links("b", "eth1", "10.0.0.2/24");
    assert_eq!(cluster.candidates(), ["b", "c"], "c has not published its links");
}

#[test]
fn preferred_nodes_come_first() {
    let mut cluster = with_service();
    let worst =
        cluster.view().groups.values().next().unwrap().candidates.iter().nth(2).unwrap().node.to_string();
    let preference = json!({"weight": 50, "preference": {"matchLabels": {"name": worst}}});
    cluster.advertisement("prefers", &json!({"preferredNodeSelectors": [preference]}));
    assert_eq!(first(&cluster), worst);
    cluster.settings.placement = Placement::Hash;
    assert_eq!(first(&cluster), worst);
}

#[test]
fn the_last_owner_is_the_one_with_the_highest_epoch() {
    let mut cluster = with_service();
    for (node, epoch) in [("b", "3"), ("c", "12"), ("a", "")] {
        let object = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "ServiceL2Status",
            "metadata": {
                "name": node,
                "annotations": {crds::annotations::EPOCH: epoch},
                "labels": {
                    "metallb.io/node": node,
                    "metallb.io/service-name": "web",
                    "metallb.io/service-namespace": "default",
                },
            },
        });
        cluster.objects.statuses.push(serde_json::from_value(object).unwrap());
    }
    let view = cluster.view();
    assert_eq!(view.groups[&ip("10.0.0.5")].last, Some(("c".into(), 12)));
    let long = "node-".repeat(30);
    let annotations = cluster.objects.statuses[1].metadata.annotations.get_or_insert_default();
    annotations.insert(crds::annotations::NODE.into(), long.clone());
    let view = cluster.view();
    assert_eq!(view.groups[&ip("10.0.0.5")].last, Some((long.into(), 12)), "no label can hold that");
}

#[test]
fn a_view_does_not_depend_on_the_order_of_the_objects() {
    let mut cluster = Cluster::new();
    cluster.service("one", &["10.0.0.5"], &["a"], &json!({}));
    cluster.service("two", &["10.0.0.5"], &["a"], &json!({}));
    cluster.service("three", &["10.0.0.7"], &["b"], &json!({}));
    let view = cluster.view();
    let mut turned = cluster.clone();
    turned.objects.services.reverse();
    turned.objects.nodes.reverse();
    turned.objects.pods.reverse();
    turned.objects.slices.reverse();
    assert_eq!(turned.view(), view);
    assert_eq!(turned.view_after(Some(&view)), view);
}

mod changes;
mod cost;
mod invalid_edits;
mod node_addresses;
mod reachable;
mod speakers;
