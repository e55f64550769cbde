//! Summaries of API objects: as much of them as a [`View`](crate::layer2::view::View) is built from.
//!
//! A speaker runs on every node and watches every Service, so the size of these summaries determines its
//! memory in a large cluster. The snapshot contains them as well.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crds::annotations::{self, ALLOW_SHARED_IP, EPOCH};
use crds::names::{LABEL_EXCLUDE_NODE, LABEL_NODE, LABEL_SERVICE_NAME, LABEL_SERVICE_NAMESPACE};
use crds::{ServiceKey, ServiceL2Status};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::cluster::NodeName;
use crate::cluster::link::LinkInfo;

/// All summaries.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ClusterObjects {
    /// The Services of our load balancer class that have an address.
    pub services: Vec<Arc<ServiceInfo>>,
    /// The endpoints that can serve.
    pub slices: Vec<Arc<EndpointSliceInfo>>,
    /// All nodes.
    pub nodes: Vec<Arc<NodeInfo>>,
    /// The speaker pods that are on a node.
    pub pods: Vec<Arc<SpeakerPodInfo>>,
    /// The nodes that announce Services, or did.
    pub statuses: Vec<Arc<AnnouncementInfo>>,
    /// Whether the states of the speakers have been listed: the links and other addresses of nodes.
    #[serde(default)]
    pub states_listed: bool,
    /// The links of each node, as it has published them.
    pub links: BTreeMap<NodeName, Vec<LinkInfo>>,
    /// The links of this node, as it knows them itself; none: as published.
    #[serde(skip)]
    pub own_links: Option<Vec<LinkInfo>>,
    /// The addresses that each node reports on links that it does not announce on, with the names of the
    /// interfaces.
    #[serde(default)]
    pub other_addresses: BTreeMap<NodeName, BTreeMap<IpAddr, String>>,
}

/// A Service of our load balancer class that has an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceInfo {
    /// Its name.
    pub key: Arc<ServiceKey>,
    /// Its UID, by which events refer to it.
    #[serde(default)]
    pub uid: Box<str>,
    /// Its addresses, in the order of its status.
    pub addresses: Box<[IpAddr]>,
    /// Its labels, by key.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Whether only nodes with an endpoint of it may receive its traffic.
    pub local: bool,
    /// Whether it may share its addresses.
    pub shared: bool,
    /// The pool of its addresses, from the controller's annotation.
    #[serde(default)]
    pub pool: Option<Box<str>>,
}

/// The endpoints of one EndpointSlice that can serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSliceInfo {
    /// The Service.
    pub service: ServiceKey,
    /// Their nodes, sorted. Endpoints need not be on a node.
    pub nodes: Box<[NodeName]>,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    pub name: NodeName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// It is ready and has a network, unless its conditions say otherwise.
    pub usable: bool,
    /// Its kubelet reports nothing any more.
    #[serde(default)]
    pub lost: bool,
    /// It is cordoned.
    pub cordoned: bool,
    /// Its addresses in its status (`InternalIP`, `ExternalIP`).
    #[serde(default)]
    pub addresses: Box<[IpAddr]>,
}

/// A pod of the speaker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeakerPodInfo {
    /// The node that it runs on.
    pub node: NodeName,
    /// Its address, which is the node's.
    pub address: Option<IpAddr>,
    /// It is ready, and is not being deleted.
    pub ready: bool,
    /// Its process runs, as far as the kubelet has reported.
    #[serde(default)]
    pub running: bool,
    /// Generation of the pod template that it was created from.
    pub generation: u64,
}

/// The content of a `ServiceL2Status`: the node that announces a Service, or did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncementInfo {
    /// Name of the object.
    pub name: Box<str>,
    /// The Service.
    pub service: ServiceKey,
    /// The node that announces it.
    pub node: NodeName,
    /// The epoch of its claim; 0 if it is unknown.
    pub epoch: u64,
    /// If it is about this node: the interfaces in its status; none if the status is not written yet, or is
    /// about something else.
    pub interfaces: Option<Vec<String>>,
}

impl ServiceInfo {
    /// None if the Service is not of type LoadBalancer, is of another class than `class` (none: has a class),
    /// or has no address.
    pub fn from_service(service: Service, class: Option<&str>) -> Option<Self> {
        let key = Arc::new(ServiceKey::of(&service));
        let uid = service.metadata.uid.as_deref().unwrap_or_default().into();
        let spec = service.spec?;
        if spec.type_.as_deref() != Some("LoadBalancer") || spec.load_balancer_class.as_deref() != class {
            return None;
        }
        let ingress = service.status?.load_balancer?.ingress?;
        let parse = |text: &str| text.parse().ok().map(|ip: IpAddr| ip.to_canonical());
        let addresses: Box<[IpAddr]> =
            ingress.iter().filter_map(|entry| parse(entry.ip.as_deref()?)).collect();
        if addresses.is_empty() {
            return None;
        }
        let labels = service.metadata.labels.unwrap_or_default();
        Some(Self {
            key,
            uid,
            addresses,
            labels: labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
            local: spec.external_traffic_policy.as_deref() == Some("Local"),
            shared: annotations::get(service.metadata.annotations.as_ref(), ALLOW_SHARED_IP).is_some(),
            pool: annotations::allocated_from(service.metadata.annotations.as_ref()).map(Box::from),
        })
    }
}

impl EndpointSliceInfo {
    /// None if no endpoint of the slice can serve, or the slice belongs to no Service.
    pub fn from_slice(slice: EndpointSlice) -> Option<Self> {
        let mut labels = slice.metadata.labels?;
        let service =
            ServiceKey::new(slice.metadata.namespace?, labels.remove("kubernetes.io/service-name")?);
        let serving = || slice.endpoints.iter().filter(|endpoint| can_serve(endpoint));
        serving().next()?;
        let mut nodes: Vec<&str> = serving().filter_map(|endpoint| endpoint.node_name.as_deref()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        Some(Self { service, nodes: nodes.into_iter().map(NodeName::from).collect() })
    }
}

/// As in MetalLB: ready or unknown, or serving while terminating (`docs/reference/metallb.md` §5.1).
fn can_serve(endpoint: &Endpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .is_none_or(|conditions| conditions.ready.unwrap_or(true) || conditions.serving == Some(true))
}

impl NodeInfo {
    /// None only for a node without a name.
    pub fn from_node(node: Node) -> Option<Self> {
        let status = node.status.unwrap_or_default();
        let addresses = status.addresses.iter().flatten();
        let addresses = addresses.filter(|address| matches!(&*address.type_, "InternalIP" | "ExternalIP"));
        let addresses = addresses.filter_map(|address| address.address.parse().ok()).collect();
        let conditions = status.conditions.unwrap_or_default();
        let says = |type_: &str| conditions.iter().find(|c| c.type_ == type_).map(|c| c.status.as_str());
        Some(Self {
            name: node.metadata.name?.into(),
            labels: node.metadata.labels.unwrap_or_default(),
            lost: says("Ready") == Some("Unknown"),
            usable: says("NetworkUnavailable") != Some("True")
                && !matches!(says("Ready"), Some("False" | "Unknown")),
            cordoned: node.spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
            addresses,
        })
    }

    /// Whether it has the label `node.kubernetes.io/exclude-from-external-load-balancers`.
    pub fn is_excluded(&self) -> bool {
        self.labels.contains_key(LABEL_EXCLUDE_NODE)
    }
}

impl SpeakerPodInfo {
    /// None if it is not on a node yet.
    pub fn from_pod(pod: &Pod) -> Option<Self> {
        let status = pod.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        let generation = label(&pod.metadata, "pod-template-generation");
        let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
        let mut states = containers.iter().filter_map(|container| container.state.as_ref());
        Some(Self {
            node: pod.spec.as_ref()?.node_name.as_deref()?.into(),
            address: status.and_then(|status| status.pod_ip.as_deref()).and_then(|ip| ip.parse().ok()),
            ready: ready && pod.metadata.deletion_timestamp.is_none(),
            running: states.all(|state| state.running.is_some()),
            generation: generation.and_then(|text| text.parse().ok()).unwrap_or(0),
        })
    }
}

impl AnnouncementInfo {
    /// None if its labels do not name the Service. `me` is this node.
    pub fn from_status(object: ServiceL2Status, me: &str) -> Option<Self> {
        let label = |name| label(&object.metadata, name);
        let service = ServiceKey::new(label(LABEL_SERVICE_NAMESPACE)?, label(LABEL_SERVICE_NAME)?);
        // A label cannot hold a name of more than 63 characters.
        let annotations = object.metadata.annotations.as_ref();
        let annotated = annotations.and_then(|annotations| annotations.get(annotations::NODE));
        let reported = object.status.as_ref().and_then(|status| status.node.as_ref());
        let node = annotated.or(reported).map(String::as_str).or(label(LABEL_NODE))?;
        let epoch = annotations.and_then(|annotations| annotations.get(EPOCH));
        let interfaces = object.status.as_ref().filter(|status| {
            node == me
                && status.node.as_deref() == Some(me)
                && status.service_name.as_ref() == Some(&service.name)
                && status.service_namespace.as_ref() == Some(&service.namespace)
        });
        Some(Self {
            name: object.metadata.name.as_deref()?.into(),
            node: node.into(),
            epoch: epoch.and_then(|text| text.parse().ok()).unwrap_or(0),
            interfaces: interfaces.map(|status| {
                status.interfaces.iter().flatten().filter_map(|interface| interface.name.clone()).collect()
            }),
            service,
        })
    }
}

fn label<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(name).map(String::as_str)
}

#[cfg(test)]
mod tests;
