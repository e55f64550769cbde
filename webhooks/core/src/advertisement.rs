//! Validation of `L2Advertisement` (`docs/reference/metallb.md` §1.2, §4.3).

use std::collections::{BTreeMap, BTreeSet};

use crds::{Selector, SelectorExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::finding::Reporter;
use crate::pool::Pool;
use crate::selectors::{names, readable_selectors, single, warn_duplicates};

/// A valid advertisement of pools on layer 2.
#[derive(Clone, Debug, PartialEq)]
pub struct L2Advertisement {
    /// Name of the object.
    pub name: String,
    /// The valid pools that it announces.
    pub pools: BTreeSet<String>,
    /// How it selects pools, for pools that are rejected or no longer exist.
    pub selection: PoolSelection,
    /// Selectors of the nodes that may announce, any one is enough; empty means all.
    pub node_selectors: Vec<Selector>,
    /// Interfaces to announce on; empty means all.
    pub interfaces: Vec<String>,
    /// Selectors of the Services to announce, any one is enough; empty means all.
    pub service_selectors: Vec<Selector>,
    /// Preferences for nodes.
    pub preferred: Vec<PreferredNodes>,
}

/// Which pools an advertisement selects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolSelection {
    /// By name.
    names: Vec<String>,
    /// By label.
    selectors: Vec<Selector>,
    /// Whether a selector could not be parsed.
    incomplete: bool,
}

impl PoolSelection {
    /// Whether it selects the pool with this name and these labels, if they are known. None if that cannot be
    /// decided.
    pub fn selects(&self, name: &str, labels: Option<&BTreeMap<String, String>>) -> Option<bool> {
        let everything = self.names.is_empty() && self.selectors.is_empty() && !self.incomplete;
        let by_label = |labels| self.selectors.iter().any(|selector| selector.matches(labels));
        if everything || self.names.iter().any(|other| other == name) || labels.is_some_and(by_label) {
            return Some(true);
        }
        let undecided = self.incomplete || (labels.is_none() && !self.selectors.is_empty());
        (!undecided).then_some(false)
    }
}

/// The readable parts of an advertisement that was rejected. Some of its selectors could not be parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct PartialL2Advertisement {
    readable: L2Advertisement,
    nodes_complete: bool,
    services_complete: bool,
}

impl PartialL2Advertisement {
    /// An advertisement without unreadable parts, of which an earlier version may have referred to other
    /// objects.
    pub(crate) fn complete(readable: L2Advertisement) -> Self {
        Self { readable, nodes_complete: true, services_complete: true }
    }

    /// Name of the object.
    pub fn name(&self) -> &str {
        &self.readable.name
    }

    /// The most restrictive interpretation: without the selectors that could not be parsed. None if that
    /// leaves a list empty, which would mean everything.
    pub fn narrow(&self) -> Option<L2Advertisement> {
        let nodes = self.nodes_complete || !self.readable.node_selectors.is_empty();
        let services = self.services_complete || !self.readable.service_selectors.is_empty();
        (nodes && services).then(|| self.readable.clone())
    }

    /// The least restrictive interpretation: a list with a selector that could not be parsed selects
    /// everything.
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

/// A preference for nodes.
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

    /// Whether the two differ only in their names. MetalLB keeps one of them, unless either has preferences.
    fn is_duplicate_of(&self, other: &Self) -> bool {
        self.preferred.is_empty()
            && other.preferred.is_empty()
            && self.pools == other.pools
            && self.selection == other.selection
            && self.node_selectors == other.node_selectors
            && self.interfaces == other.interfaces
            && self.service_selectors == other.service_selectors
    }
}

/// The advertisement that `object` describes; if it has an error, its readable parts.
pub(crate) fn validate(
    object: &crds::L2Advertisement,
    pools: &BTreeMap<String, Pool>,
    report: &mut Reporter<'_>,
) -> Result<L2Advertisement, Box<PartialL2Advertisement>> {
    let spec = &object.spec;
    let selection =
        pool_selection(spec.ip_address_pools.as_ref(), spec.ip_address_pool_selectors.as_ref(), report);
    warn_duplicates(report, "spec.ipAddressPoolSelectors", spec.ip_address_pool_selectors.as_ref());
    warn_duplicates(report, "spec.nodeSelectors", spec.node_selectors.as_ref());
    warn_duplicates(report, "spec.serviceSelectors", spec.service_selectors.as_ref());
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
        interfaces: interfaces(report, spec.interfaces.as_ref()),
        service_selectors,
        preferred,
    };
    if report.failed() {
        Err(Box::new(PartialL2Advertisement { readable, nodes_complete, services_complete }))
    } else {
        Ok(readable)
    }
}

/// The interfaces that an advertisement names. A name that no interface can have is a warning; if all are like that, an
/// error, since nothing would be announced.
fn interfaces(report: &mut Reporter<'_>, list: Option<&Vec<String>>) -> Vec<String> {
    let names = names(report, "spec.interfaces", list);
    let possible = names.iter().any(|name| is_interface_name(name));
    for (index, name) in list.into_iter().flatten().enumerate() {
        if is_interface_name(name.trim()) {
            continue;
        }
        let field = format!("spec.interfaces[{index}]");
        let problem = "no interface can have this name: at most 15 bytes, without '/', ':' and white space";
        let hint = "correct the name, or remove it";
        if possible {
            report.warning(&field, name, problem, hint);
        } else {
            report.error(&field, name, problem, hint);
        }
    }
    names
}

/// Whether Linux allows an interface of this name (`dev_valid_name` of the kernel).
fn is_interface_name(name: &str) -> bool {
    let allowed = |c: char| !matches!(c, '/' | ':') && !c.is_whitespace();
    !name.is_empty() && name.len() <= 15 && name != "." && name != ".." && name.chars().all(allowed)
}

/// The pools that an advertisement lists or selects; all pools if it does neither.
pub(crate) fn advertised_pools(
    named: Option<&Vec<String>>,
    by_label: Option<&Vec<LabelSelector>>,
    pools: &BTreeMap<String, Pool>,
    report: &mut Reporter<'_>,
) -> BTreeSet<String> {
    selected(&pool_selection(named, by_label, report), pools)
}

/// Parses how an advertisement selects pools.
fn pool_selection(
    named: Option<&Vec<String>>,
    by_label: Option<&Vec<LabelSelector>>,
    report: &mut Reporter<'_>,
) -> PoolSelection {
    let names = names(report, "spec.ipAddressPools", named);
    let (selectors, complete) = readable_selectors(report, "spec.ipAddressPoolSelectors", by_label);
    PoolSelection { names, selectors, incomplete: !complete }
}

fn selected(selection: &PoolSelection, pools: &BTreeMap<String, Pool>) -> BTreeSet<String> {
    let selects = |pool: &&Pool| selection.selects(&pool.name, Some(&pool.labels)) == Some(true);
    pools.values().filter(selects).map(|pool| pool.name.clone()).collect()
}

/// `list` without duplicates of earlier advertisements.
pub(crate) fn dedup(list: Vec<L2Advertisement>) -> Vec<L2Advertisement> {
    let mut kept: Vec<L2Advertisement> = Vec::with_capacity(list.len());
    for advertisement in list {
        if !kept.iter().any(|other| other.is_duplicate_of(&advertisement)) {
            kept.push(advertisement);
        }
    }
    kept
}
