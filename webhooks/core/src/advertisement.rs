//! `L2Advertisement` (`reference/metallb.md` §1.2, §4.3).

use std::collections::{BTreeMap, BTreeSet};

use crds::{Selector, SelectorExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::finding::Report;
use crate::pool::Pool;
use crate::selectors::{names, no_repeats, readable_selectors, single};

/// Announces pools on layer 2.
#[derive(Clone, Debug, PartialEq)]
pub struct L2Advertisement {
    /// Name of the object.
    pub name: String,
    /// The valid pools that it announces.
    pub pools: BTreeSet<String>,
    /// How it selects pools, for those that are not valid or no longer exist.
    pub selection: PoolSelection,
    /// Nodes that may announce, any one is enough; empty means all.
    pub node_selectors: Vec<Selector>,
    /// Interfaces to announce on; empty means all.
    pub interfaces: Vec<String>,
    /// Services to announce, any one is enough; empty means all.
    pub service_selectors: Vec<Selector>,
    /// Nodes to prefer.
    pub preferred: Vec<PreferredNodes>,
}

/// Which pools an advertisement selects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolSelection {
    /// By name.
    names: Vec<String>,
    /// By label.
    selectors: Vec<Selector>,
    /// Some selector could not be parsed.
    unreadable: bool,
}

impl PoolSelection {
    /// Whether it selects the pool of this name and, if they are known, these labels. None: that cannot be decided.
    pub fn selects(&self, name: &str, labels: Option<&BTreeMap<String, String>>) -> Option<bool> {
        let everything = self.names.is_empty() && self.selectors.is_empty() && !self.unreadable;
        let by_label = |labels| self.selectors.iter().any(|selector| selector.matches(labels));
        if everything || self.names.iter().any(|known| known == name) || labels.is_some_and(by_label) {
            return Some(true);
        }
        let undecided = self.unreadable || (labels.is_none() && !self.selectors.is_empty());
        (!undecided).then_some(false)
    }
}

/// What can be read of an advertisement that was rejected because of an error. Some of its constraints cannot be read.
#[derive(Clone, Debug, PartialEq)]
pub struct PartialL2Advertisement {
    readable: L2Advertisement,
    nodes_complete: bool,
    services_complete: bool,
}

impl PartialL2Advertisement {
    /// All of an advertisement: what it refers to does not exist, and an earlier version may have meant something else.
    pub(crate) fn whole(readable: L2Advertisement) -> Self {
        Self { readable, nodes_complete: true, services_complete: true }
    }

    /// Name of the object.
    pub fn name(&self) -> &str {
        &self.readable.name
    }

    /// The advertisement without the selectors that cannot be read; none if that leaves one of its lists empty, which
    /// would mean everything.
    pub fn narrow(&self) -> Option<L2Advertisement> {
        let nodes = self.nodes_complete || !self.readable.node_selectors.is_empty();
        let services = self.services_complete || !self.readable.service_selectors.is_empty();
        (nodes && services).then(|| self.readable.clone())
    }

    /// The advertisement without the lists that cannot be read completely: every node, every Service.
    pub fn wide(&self) -> L2Advertisement {
        let mut wide = self.readable.clone();
        if !self.nodes_complete {
            wide.node_selectors.clear();
        }
        if !self.services_complete {
            wide.service_selectors.clear();
        }
        wide
    }
}

/// Nodes to prefer, with what each gains.
#[derive(Clone, Debug, PartialEq)]
pub struct PreferredNodes {
    /// From 1 to 100.
    pub weight: i32,
    /// Which nodes.
    pub selector: Selector,
}

impl L2Advertisement {
    /// Whether a node with `labels` may announce.
    pub fn admits_node(&self, labels: &BTreeMap<String, String>) -> bool {
        self.node_selectors.is_empty() || self.node_selectors.iter().any(|s| s.matches(labels))
    }

    /// Whether a Service with `labels` is announced.
    pub fn admits_service(&self, labels: &BTreeMap<String, String>) -> bool {
        self.service_selectors.is_empty() || self.service_selectors.iter().any(|s| s.matches(labels))
    }

    /// Whether the two say the same under different names. MetalLB keeps one of such, unless either has preferences.
    fn same_as(&self, other: &Self) -> bool {
        self.preferred.is_empty()
            && other.preferred.is_empty()
            && self.pools == other.pools
            && self.selection == other.selection
            && self.node_selectors == other.node_selectors
            && self.interfaces == other.interfaces
            && self.service_selectors == other.service_selectors
    }
}

/// The advertisement that `object` describes; if it has an error, what can be read of it.
pub(crate) fn judge(
    object: &crds::L2Advertisement,
    pools: &BTreeMap<String, Pool>,
    report: &mut Report<'_>,
) -> Result<L2Advertisement, Box<PartialL2Advertisement>> {
    let spec = &object.spec;
    let selection =
        pool_selection(spec.ip_address_pools.as_ref(), spec.ip_address_pool_selectors.as_ref(), report);
    no_repeats(report, "spec.ipAddressPoolSelectors", spec.ip_address_pool_selectors.as_ref());
    no_repeats(report, "spec.nodeSelectors", spec.node_selectors.as_ref());
    no_repeats(report, "spec.serviceSelectors", spec.service_selectors.as_ref());
    let (node_selectors, nodes_complete) =
        readable_selectors(report, "spec.nodeSelectors", spec.node_selectors.as_ref());
    let (service_selectors, services_complete) =
        readable_selectors(report, "spec.serviceSelectors", spec.service_selectors.as_ref());
    let preferred =
        spec.preferred_node_selectors.iter().flatten().enumerate().filter_map(|(index, preferred)| {
            let path = format!("spec.preferredNodeSelectors[{index}].preference");
            let selector = single(report, &path, &preferred.preference)?;
            Some(PreferredNodes { weight: preferred.weight, selector })
        });
    let preferred = preferred.collect();
    let readable = L2Advertisement {
        name: object.metadata.name.clone().unwrap_or_default(),
        pools: selected(&selection, pools),
        selection,
        node_selectors,
        interfaces: names(report, "spec.interfaces", spec.interfaces.as_ref()),
        service_selectors,
        preferred,
    };
    if report.failed() {
        Err(Box::new(PartialL2Advertisement { readable, nodes_complete, services_complete }))
    } else {
        Ok(readable)
    }
}

/// The pools that an advertisement names or selects; with neither, every pool.
pub(crate) fn advertised_pools(
    named: Option<&Vec<String>>,
    by_label: Option<&Vec<LabelSelector>>,
    pools: &BTreeMap<String, Pool>,
    report: &mut Report<'_>,
) -> BTreeSet<String> {
    selected(&pool_selection(named, by_label, report), pools)
}

/// How an advertisement selects pools.
fn pool_selection(
    named: Option<&Vec<String>>,
    by_label: Option<&Vec<LabelSelector>>,
    report: &mut Report<'_>,
) -> PoolSelection {
    let names = names(report, "spec.ipAddressPools", named);
    let (selectors, complete) = readable_selectors(report, "spec.ipAddressPoolSelectors", by_label);
    PoolSelection { names, selectors, unreadable: !complete }
}

fn selected(selection: &PoolSelection, pools: &BTreeMap<String, Pool>) -> BTreeSet<String> {
    let selects = |pool: &&Pool| selection.selects(&pool.name, Some(&pool.labels)) == Some(true);
    pools.values().filter(selects).map(|pool| pool.name.clone()).collect()
}

/// The same list without those that only repeat an earlier one.
pub(crate) fn collapse(list: Vec<L2Advertisement>) -> Vec<L2Advertisement> {
    let mut kept: Vec<L2Advertisement> = Vec::with_capacity(list.len());
    for advertisement in list {
        if !kept.iter().any(|other| other.same_as(&advertisement)) {
            kept.push(advertisement);
        }
    }
    kept
}
