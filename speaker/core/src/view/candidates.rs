//! Which nodes may announce, and which of them suit a Service's advertisements, endpoints and addresses.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use rules::L2Advertisement;

use super::{NodeName, ServiceKey, Speaker, ViewSettings};
use crate::beacon::NodeId;
use crate::link::{LinkInfo, Scope};
use crate::objects::{ClusterObjects, EndpointSliceInfo, NodeInfo, ServiceInfo};

/// A node that meets all conditions that do not depend on a Service.
#[derive(Debug)]
pub(super) struct Eligible {
    pub(super) info: Arc<NodeInfo>,
    pub(super) id: NodeId,
    /// Its links as it has published them; none if it has not.
    published: Option<Vec<LinkInfo>>,
    /// For this node, if they are known: its links as it knows them itself.
    own: Option<Vec<LinkInfo>>,
}

impl Eligible {
    fn new(settings: &ViewSettings, objects: &ClusterObjects, node: &Arc<NodeInfo>) -> Self {
        let published = objects.links.get(&node.name).cloned();
        let own = objects.own_links.clone().filter(|_| node.name == settings.me);
        Self { id: NodeId::from_name(&node.name), info: Arc::clone(node), published, own }
    }

    fn links(&self) -> Option<&[LinkInfo]> {
        self.own.as_deref().or(self.published.as_deref())
    }

    /// Whether a link in `scope` is up.
    pub(super) fn has_link_of(&self, scope: &Scope) -> bool {
        self.links().is_none_or(|links| links.iter().any(|link| scope.covers(&link.name)))
    }

    /// Whether, for each of `addresses`, such a link can announce it.
    pub(super) fn supports_family(&self, scope: &Scope, addresses: &[IpAddr]) -> bool {
        self.links().is_none_or(|links| {
            let one =
                |ip: &IpAddr| links.iter().any(|link| scope.covers(&link.name) && link.supports_family(*ip));
            addresses.iter().all(one)
        })
    }

    /// Whether, for each of `addresses`, such a link has a subnet that contains it; none if that is unknown.
    /// What only this node knows yet can rule it out, but not qualify it: otherwise each node that starts
    /// would consider itself the only one on the subnet.
    pub(super) fn reaches(&self, scope: &Scope, addresses: &[IpAddr]) -> Option<bool> {
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
pub(super) fn all_excluded(objects: &ClusterObjects, speakers: &BTreeMap<NodeName, Speaker>) -> bool {
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
pub(super) fn eligible(
    settings: &ViewSettings,
    objects: &ClusterObjects,
    speakers: &BTreeMap<NodeName, Speaker>,
    honour_label: bool,
) -> Vec<Eligible> {
    let mut eligible: Vec<Eligible> = objects
        .nodes
        .iter()
        .filter(|node| speakers.get(&node.name).is_some_and(|speaker| speaker.ready))
        .filter(|node| node.usable && !(honour_label && node.is_excluded()))
        .map(|node| Eligible::new(settings, objects, node))
        .collect();
    eligible.sort_by(|a, b| a.info.name.cmp(&b.info.name));
    eligible
}

/// This node, if only its own state or that of its speaker's pod keeps it from being eligible.
pub(super) fn unready(
    settings: &ViewSettings,
    objects: &ClusterObjects,
    speakers: &BTreeMap<NodeName, Speaker>,
    honour_label: bool,
) -> Option<Eligible> {
    let mine = objects.nodes.iter().find(|node| node.name == settings.me)?;
    let ready = mine.usable && speakers.get(&mine.name).is_some_and(|speaker| speaker.ready);
    let excluded = honour_label && mine.is_excluded();
    (!ready && !excluded).then(|| Eligible::new(settings, objects, mine))
}

/// The links that `advertisements` cover on a node; none if no advertisement covers the node.
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

/// The sum of the weights with which `advertisements` prefer a node.
pub(super) fn preference(advertisements: &[Arc<L2Advertisement>], labels: &BTreeMap<String, String>) -> i64 {
    use crds::SelectorExt as _;
    let preferred = advertisements.iter().flat_map(|advertisement| &advertisement.preferred);
    preferred.filter(|p| p.selector.matches(labels)).map(|p| i64::from(p.weight)).sum()
}

/// The sorted nodes of the endpoints that can serve, for each Service that has any. The nodes are only
/// collected for Services with a local traffic policy.
pub(super) fn serving<'a>(
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

/// The subnets of all nodes' links. Two addresses with the same subnets are on the subnet of the same nodes.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Subnets {
    known: HashSet<(IpAddr, u8)>,
    lengths: [Vec<u8>; 2],
}

impl Subnets {
    pub(super) fn from_objects(objects: &ClusterObjects) -> Self {
        let links = objects.links.values().flatten().chain(objects.own_links.iter().flatten());
        let known: HashSet<(IpAddr, u8)> = links
            .flat_map(|link| &link.subnets)
            .map(|(ip, length)| (crate::link::network(*ip, *length), *length))
            .collect();
        let lengths = [true, false].map(|v4| {
            let of_family = known.iter().filter(|(ip, _)| ip.is_ipv4() == v4);
            let mut lengths: Vec<u8> = of_family.map(|(_, length)| *length).collect();
            lengths.sort_unstable();
            lengths.dedup();
            lengths
        });
        Self { known, lengths }
    }

    /// The subnets that contain `address`.
    pub(super) fn containing(&self, address: IpAddr) -> impl Iterator<Item = (IpAddr, u8)> + '_ {
        let [v4, v6] = &self.lengths;
        let lengths = if address.is_ipv4() { v4 } else { v6 };
        let subnets = lengths.iter().map(move |length| (crate::link::network(address, *length), *length));
        subnets.filter(|subnet| self.known.contains(subnet))
    }
}
