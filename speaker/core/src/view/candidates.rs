//! Which nodes may announce, and which of them a Service's advertisements and endpoints leave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rules::L2Advertisement;

use super::{Addresses, NodeName, ServiceKey, Speaker};
use crate::beacon::NodeId;
use crate::facts::{Facts, NodeFacts, SliceFacts};
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
    pub(super) fn reaches(&self, addresses: &Addresses) -> bool {
        let Some(links) = self.links else { return true };
        addresses.keys().all(|address| links.iter().any(|link| link.reaches(address)))
    }
}

/// Whether the exclude label is on every node, as in a cluster of one.
pub(super) fn all_excluded(nodes: &[Arc<NodeFacts>]) -> bool {
    !nodes.is_empty() && nodes.iter().all(|node| node.is_excluded())
}

/// The nodes that pass every condition that does not depend on a Service, in order of their names: a ready speaker, a
/// usable node, not excluded by label if the label is to be honoured.
pub(super) fn eligible<'a>(
    facts: &'a Facts,
    speakers: &BTreeMap<NodeName, Speaker>,
    honour_label: bool,
) -> Vec<Eligible<'a>> {
    let mut eligible: Vec<Eligible<'a>> = facts
        .nodes
        .iter()
        .filter(|node| speakers.get(&node.name).is_some_and(|speaker| speaker.ready))
        .filter(|node| node.usable && !(honour_label && node.is_excluded()))
        .map(|node| Eligible {
            name: node.name.clone(),
            id: NodeId::of(&node.name),
            labels: &node.labels,
            cordoned: node.cordoned,
            links: facts.links.get(&node.name).map(Vec::as_slice),
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
pub(super) struct Serving<'a> {
    /// Whether there is any, on whatever node.
    pub(super) anywhere: bool,
    /// The nodes that have one.
    pub(super) nodes: BTreeSet<&'a str>,
}

/// The serving endpoints by their Service.
pub(super) fn serving(slices: &[Arc<SliceFacts>]) -> BTreeMap<&ServiceKey, Serving<'_>> {
    let mut serving: BTreeMap<&ServiceKey, Serving<'_>> = BTreeMap::new();
    for slice in slices {
        let entry = serving.entry(&slice.service).or_default();
        entry.anywhere = true;
        entry.nodes.extend(slice.nodes.iter().map(|node| &**node));
    }
    serving
}
