//! Which nodes may announce, as far as that does not depend on a protocol or a Service.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::link::{LinkInfo, Scope};
use super::objects::{ClusterObjects, EndpointSliceInfo, NodeInfo, ServiceInfo, SpeakerPodInfo};
use super::{NodeId, NodeName, ServiceKey};

/// A node with a speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speaker {
    /// Where beacons to it are sent.
    pub address: Option<IpAddr>,
    /// Whether its pod is ready.
    pub ready: bool,
    /// Whether its process may be running and announcing what it owns, as far as the API shows.
    pub running: bool,
    /// Generation of its pod's template: shows which nodes have been upgraded during a rolling upgrade.
    pub generation: u64,
}

/// How `node.kubernetes.io/exclude-from-external-load-balancers` on a node is treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExcludeLabel {
    /// Honoured, unless every node whose speaker is ready or has published its links has it, as in a cluster
    /// of one.
    #[default]
    Auto,
    /// Honoured always.
    Honour,
    /// Ignored.
    Ignore,
}

/// A node that meets all conditions that do not depend on a Service.
#[derive(Debug)]
pub(crate) struct Eligible {
    pub(crate) info: Arc<NodeInfo>,
    pub(crate) id: NodeId,
    /// Its links as it has published them; none if it has not.
    published: Option<Vec<LinkInfo>>,
    /// For this node, if they are known: its links as it knows them itself.
    own: Option<Vec<LinkInfo>>,
}

impl Eligible {
    fn new(me: &NodeName, objects: &ClusterObjects, node: &Arc<NodeInfo>) -> Self {
        let published = objects.links.get(&node.name).cloned();
        let own = objects.own_links.clone().filter(|_| node.name == *me);
        Self { id: NodeId::from_name(&node.name), info: Arc::clone(node), published, own }
    }

    fn links(&self) -> Option<&[LinkInfo]> {
        self.own.as_deref().or(self.published.as_deref())
    }

    /// Whether a link in `scope` is up.
    pub(crate) fn has_link_of(&self, scope: &Scope) -> bool {
        self.links().is_none_or(|links| links.iter().any(|link| scope.covers(&link.name)))
    }

    /// Whether, for each of `addresses`, such a link can announce it.
    pub(crate) fn supports_family(&self, scope: &Scope, addresses: &[IpAddr]) -> bool {
        self.links().is_none_or(|links| {
            let one =
                |ip: &IpAddr| links.iter().any(|link| scope.covers(&link.name) && link.supports_family(*ip));
            addresses.iter().all(one)
        })
    }

    /// Whether, for each of `addresses`, such a link has a subnet that contains it; none if that is unknown.
    /// What only this node knows yet can rule it out, but not qualify it: otherwise each node that starts
    /// would consider itself the only one on the subnet.
    pub(crate) fn reaches(&self, scope: &Scope, addresses: &[IpAddr]) -> Option<bool> {
        let reach = |links: &[LinkInfo]| {
            let fits = |link: &LinkInfo, ip| {
                scope.covers(&link.name) && link.supports_family(ip) && link.reaches(ip)
            };
            addresses.iter().all(|ip| links.iter().any(|link| fits(link, *ip)))
        };
        match self.own.as_deref().map(reach) {
            Some(false) => Some(false),
            _ => self.published.as_deref().map(reach),
        }
    }
}

/// Whether every node that could announce has the exclude label, as in a cluster of one. A node counts as
/// soon as its speaker is ready or has published its links, so one that joins without the label changes
/// nothing before that, and one that restarts keeps counting.
pub(crate) fn all_excluded(objects: &ClusterObjects, speakers: &BTreeMap<NodeName, Speaker>) -> bool {
    let counts = |node: &&Arc<NodeInfo>| {
        let speaker = speakers.get(&node.name);
        speaker.is_some_and(|speaker| speaker.ready || objects.links.contains_key(&node.name))
    };
    let mut counted = objects.nodes.iter().filter(counts).peekable();
    if counted.peek().is_some() {
        counted.all(|node| node.is_excluded())
    } else {
        !objects.nodes.is_empty() && objects.nodes.iter().all(|node| node.is_excluded())
    }
}

/// The nodes that meet all conditions that do not depend on a Service, sorted by name: a ready speaker, a
/// usable node, not excluded by the label if it is honoured.
pub(crate) fn eligible(
    me: &NodeName,
    objects: &ClusterObjects,
    speakers: &BTreeMap<NodeName, Speaker>,
    honour_label: bool,
) -> Vec<Eligible> {
    let mut eligible: Vec<Eligible> = objects
        .nodes
        .iter()
        .filter(|node| speakers.get(&node.name).is_some_and(|speaker| speaker.ready))
        .filter(|node| node.usable && !(honour_label && node.is_excluded()))
        .map(|node| Eligible::new(me, objects, node))
        .collect();
    eligible.sort_by(|a, b| a.info.name.cmp(&b.info.name));
    eligible
}

/// This node, if only its own state or that of its speaker's pod keeps it from being eligible.
pub(crate) fn unready(
    me: &NodeName,
    objects: &ClusterObjects,
    speakers: &BTreeMap<NodeName, Speaker>,
    honour_label: bool,
) -> Option<Eligible> {
    let mine = objects.nodes.iter().find(|node| node.name == *me)?;
    let ready = mine.usable && speakers.get(&mine.name).is_some_and(|speaker| speaker.ready);
    let excluded = honour_label && mine.is_excluded();
    (!ready && !excluded).then(|| Eligible::new(me, objects, mine))
}

/// The sorted nodes of the endpoints that can serve, for each Service that has any. The nodes are only
/// collected for Services with a local traffic policy.
pub(crate) fn serving<'a>(
    services: &HashMap<&'a ServiceKey, &Arc<ServiceInfo>>,
    slices: &'a [Arc<EndpointSliceInfo>],
) -> HashMap<&'a ServiceKey, Vec<NodeName>> {
    let mut serving: HashMap<&ServiceKey, Vec<NodeName>> = HashMap::with_capacity(services.len());
    for slice in slices {
        let EndpointSliceInfo { service, nodes } = &**slice;
        let Some(info) = services.get(service) else { continue };
        let known = serving.entry(service).or_default();
        if info.local {
            known.extend(nodes.iter().cloned());
        }
    }
    for nodes in serving.values_mut() {
        nodes.sort_unstable();
        nodes.dedup();
    }
    serving
}

/// The speakers by node. Of two pods on one node, as during a rolling upgrade, the ready one counts, else the
/// newer one.
pub(crate) fn speakers(pods: &[Arc<SpeakerPodInfo>]) -> BTreeMap<NodeName, Speaker> {
    let mut speakers: BTreeMap<NodeName, Speaker> = BTreeMap::new();
    for pod in pods {
        let better = speakers
            .get(&pod.node)
            .is_none_or(|other| (pod.ready, pod.generation) > (other.ready, other.generation));
        if better {
            let SpeakerPodInfo { node: _, address, ready, running, generation } = **pod;
            speakers.insert(pod.node.clone(), Speaker { address, ready, running, generation });
        }
    }
    speakers
}
