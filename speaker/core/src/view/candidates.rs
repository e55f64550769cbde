//! Which nodes may announce, and which of them a Service's advertisements and endpoints leave.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crds::names::LABEL_EXCLUDE_NODE;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use rules::L2Advertisement;

use super::{ExcludeLabel, NodeName, Objects, Speaker};
use crate::beacon::NodeId;
use crate::link::{LinkFacts, Scope};

/// A node that passes every condition that does not depend on a Service.
#[derive(Debug)]
pub(super) struct Eligible<'a> {
    pub(super) name: NodeName,
    pub(super) id: NodeId,
    pub(super) labels: &'a BTreeMap<String, String>,
    pub(super) cordoned: bool,
    /// What it tells of its links; none if it has not told anything yet.
    pub(super) links: Option<&'a [LinkFacts]>,
}

impl Eligible<'_> {
    /// Whether it has one of the links that `scope` names.
    pub(super) fn has_link_of(&self, scope: &Scope) -> bool {
        self.links.is_none_or(|links| links.iter().any(|link| scope.covers(&link.name)))
    }

    /// Whether a subnet of such a link contains each of `addresses`.
    pub(super) fn reaches(&self, addresses: &BTreeMap<IpAddr, Scope>) -> bool {
        let Some(links) = self.links else { return true };
        addresses.keys().all(|address| links.iter().any(|link| link.reaches(*address)))
    }
}

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

fn labels(node: &Node) -> &BTreeMap<String, String> {
    node.metadata.labels.as_ref().unwrap_or(&NO_LABELS)
}

/// The status of a condition of a node.
fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == type_).map(|c| c.status.as_str())
}

/// The speakers by node. Of two pods on one node, as during a rolling upgrade, the ready one counts, else the
/// newer.
pub(super) fn speakers(pods: &[Arc<Pod>]) -> BTreeMap<NodeName, Speaker> {
    let mut speakers: BTreeMap<NodeName, Speaker> = BTreeMap::new();
    for pod in pods {
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) else { continue };
        let speaker = speaker(pod);
        let name: NodeName = node.into();
        let better = speakers
            .get(&name)
            .is_none_or(|other| (speaker.ready, speaker.generation) > (other.ready, other.generation));
        if better {
            speakers.insert(name, speaker);
        }
    }
    speakers
}

fn speaker(pod: &Pod) -> Speaker {
    let status = pod.status.as_ref();
    let ready = status
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|conditions| conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    let generation = pod.metadata.labels.as_ref().and_then(|l| l.get("pod-template-generation"));
    Speaker {
        address: status.and_then(|status| status.pod_ip.as_deref()).and_then(|ip| ip.parse().ok()),
        ready: ready && pod.metadata.deletion_timestamp.is_none(),
        generation: generation.and_then(|text| text.parse().ok()).unwrap_or(0),
        macs: BTreeSet::new(),
    }
}

/// The nodes that pass every condition that does not depend on a Service: a ready speaker, no NetworkUnavailable,
/// not NotReady, not excluded by label.
pub(super) fn eligible<'a>(
    objects: &'a Objects,
    speakers: &BTreeMap<NodeName, Speaker>,
    exclude: ExcludeLabel,
) -> Vec<Eligible<'a>> {
    let with_speaker: Vec<(&NodeName, &'a Node)> = objects
        .nodes
        .iter()
        .filter_map(|node| {
            let (name, speaker) = speakers.get_key_value(node.metadata.name.as_deref()?)?;
            speaker.ready.then_some((name, &**node))
        })
        .collect();
    let excluded = |node: &Node| labels(node).contains_key(LABEL_EXCLUDE_NODE);
    let honour = match exclude {
        ExcludeLabel::Honour => true,
        ExcludeLabel::Ignore => false,
        ExcludeLabel::Auto => !objects.nodes.iter().all(|node| excluded(node)),
    };
    let mut eligible: Vec<Eligible<'a>> = with_speaker
        .into_iter()
        .filter(|(_, node)| condition(node, "NetworkUnavailable") != Some("True"))
        .filter(|(_, node)| !matches!(condition(node, "Ready"), Some("False" | "Unknown")))
        .filter(|(_, node)| !(honour && excluded(node)))
        .map(|(name, node)| Eligible {
            name: name.clone(),
            id: NodeId::of(name),
            labels: labels(node),
            cordoned: node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false),
            links: objects.links.get(name).map(Vec::as_slice),
        })
        .collect();
    eligible.sort_by(|a, b| a.name.cmp(&b.name));
    eligible
}

/// The links that `advertisements` cover on a node: none if none of them covers it.
pub(super) fn scope_on(
    advertisements: &[Arc<L2Advertisement>],
    labels: &BTreeMap<String, String>,
) -> Option<Scope> {
    let covering = advertisements.iter().filter(|advertisement| advertisement.admits_node(labels));
    covering.map(|advertisement| scope_of(advertisement)).reduce(Scope::union)
}

fn scope_of(advertisement: &L2Advertisement) -> Scope {
    if advertisement.interfaces.is_empty() {
        Scope::All
    } else {
        Scope::Named(advertisement.interfaces.iter().cloned().collect())
    }
}

/// The sum of the weights by which `advertisements` prefer a node.
pub(super) fn preference(advertisements: &[Arc<L2Advertisement>], labels: &BTreeMap<String, String>) -> i64 {
    use crds::SelectorExt as _;
    let preferred = advertisements.iter().flat_map(|advertisement| &advertisement.preferred);
    preferred.filter(|p| p.selector.matches(labels)).map(|p| i64::from(p.weight)).sum()
}

/// Where the endpoints of a Service are that can serve.
#[derive(Debug, Default)]
pub(super) struct Serving {
    /// Whether there is any, on whatever node.
    pub(super) anywhere: bool,
    /// The nodes that have one.
    pub(super) nodes: BTreeSet<String>,
}

/// The serving endpoints by namespace and name of their Service.
pub(super) fn serving(slices: &[Arc<EndpointSlice>]) -> BTreeMap<(&str, &str), Serving> {
    let mut serving: BTreeMap<(&str, &str), Serving> = BTreeMap::new();
    for slice in slices {
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let labels = slice.metadata.labels.as_ref();
        let Some(service) = labels.and_then(|labels| labels.get("kubernetes.io/service-name")) else {
            continue;
        };
        let entry = serving.entry((namespace, service)).or_default();
        for endpoint in slice.endpoints.iter().filter(|endpoint| can_serve(endpoint)) {
            entry.anywhere = true;
            entry.nodes.extend(endpoint.node_name.clone());
        }
    }
    serving
}

/// As MetalLB: ready or not said, or serving while it terminates (`reference/metallb.md` §5.1).
fn can_serve(endpoint: &Endpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .is_none_or(|conditions| conditions.ready.unwrap_or(true) || conditions.serving == Some(true))
}
