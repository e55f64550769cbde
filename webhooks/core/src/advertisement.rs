//! `L2Advertisement` (`reference/metallb.md` §1.2, §4.3).

use std::collections::{BTreeMap, BTreeSet};

use crds::{Selector, SelectorExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::finding::Report;
use crate::pool::Pool;
use crate::selectors::{names, no_repeats, selectors, single};

/// Announces pools on layer 2.
#[derive(Clone, Debug, PartialEq)]
pub struct L2Advertisement {
    /// Name of the object.
    pub name: String,
    /// The pools that it announces, resolved.
    pub pools: BTreeSet<String>,
    /// Nodes that may announce, any one is enough; empty means all.
    pub node_selectors: Vec<Selector>,
    /// Interfaces to announce on; empty means all.
    pub interfaces: Vec<String>,
    /// Services to announce, any one is enough; empty means all.
    pub service_selectors: Vec<Selector>,
    /// Nodes to prefer.
    pub preferred: Vec<PreferredNodes>,
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
            && self.node_selectors == other.node_selectors
            && self.interfaces == other.interfaces
            && self.service_selectors == other.service_selectors
    }
}

/// The advertisement that `object` describes; none if it has an error.
pub(crate) fn judge(
    object: &crds::L2Advertisement,
    pools: &BTreeMap<String, Pool>,
    report: &mut Report<'_>,
) -> Option<L2Advertisement> {
    let spec = &object.spec;
    let pools = advertised_pools(
        spec.ip_address_pools.as_ref(),
        spec.ip_address_pool_selectors.as_ref(),
        pools,
        report,
    );
    no_repeats(report, "spec.ipAddressPoolSelectors", spec.ip_address_pool_selectors.as_ref());
    no_repeats(report, "spec.nodeSelectors", spec.node_selectors.as_ref());
    no_repeats(report, "spec.serviceSelectors", spec.service_selectors.as_ref());
    let node_selectors = selectors(report, "spec.nodeSelectors", spec.node_selectors.as_ref());
    let service_selectors = selectors(report, "spec.serviceSelectors", spec.service_selectors.as_ref());
    let preferred =
        spec.preferred_node_selectors.iter().flatten().enumerate().filter_map(|(index, preferred)| {
            let path = format!("spec.preferredNodeSelectors[{index}].preference");
            let selector = single(report, &path, &preferred.preference)?;
            Some(PreferredNodes { weight: preferred.weight, selector })
        });
    let preferred = preferred.collect();
    (!report.failed()).then(|| L2Advertisement {
        name: object.metadata.name.clone().unwrap_or_default(),
        pools,
        node_selectors,
        interfaces: spec.interfaces.clone().unwrap_or_default(),
        service_selectors,
        preferred,
    })
}

/// The pools that an advertisement names or selects; with neither, every pool. Unknown names are only warned of.
pub(crate) fn advertised_pools(
    named: Option<&Vec<String>>,
    by_label: Option<&Vec<LabelSelector>>,
    pools: &BTreeMap<String, Pool>,
    report: &mut Report<'_>,
) -> BTreeSet<String> {
    let named = names(report, "spec.ipAddressPools", named);
    let by_label = selectors(report, "spec.ipAddressPoolSelectors", by_label);
    if named.is_empty() && by_label.is_empty() {
        return pools.keys().cloned().collect();
    }
    for name in named.iter().filter(|name| !pools.contains_key(*name)) {
        report.warning(
            "spec.ipAddressPools",
            name,
            "there is no valid IPAddressPool of this name",
            "create it, or correct the name",
        );
    }
    pools
        .values()
        .filter(|pool| named.contains(&pool.name) || by_label.iter().any(|s| s.matches(&pool.labels)))
        .map(|pool| pool.name.clone())
        .collect()
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
