//! References between objects, and edits that break them.
//!
//! Objects may be applied in any order, so an unresolved reference is a warning. But an edit that replaces a
//! resolved reference by an unresolved one is treated as a mistake, since it would interrupt Services.
//! Deleting the other object is not an edit of this one.

use std::collections::BTreeMap;

use crds::{
    BFDProfile, BFDProfileSpec, BGPAdvertisementSpec, BGPPeer, BGPPeerSpec, Community, CommunitySpec,
    IPAddressPool, IPAddressPoolSpec, L2AdvertisementSpec, PoolPolicySpec, Resource, SelectorExt as _,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::bgp::CommunityValue;
use crate::finding::{Finding, ObjectRef, Reporter, Severity};
use crate::objects::{ConfigKind as _, Objects};
use crate::policy::parse_reservation;
use crate::pool::readable_ranges;
use crate::range::parse_addresses;
use crate::selectors::parse_selector;

/// A reference of an object to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// The kind that it refers to. A broken reference and its replacement have the same kind.
    to: &'static str,
    field: String,
    value: String,
    resolves: bool,
    /// What is wrong if it does not resolve.
    problem: String,
    /// How to fix that.
    hint: &'static str,
    /// Whether it refers by name. A selector that matches nothing at the moment is not worth a warning.
    by_name: bool,
}

/// A `spec` that may contain references.
pub(crate) trait HasReferences {
    /// Its references among `objects`. References to invalid objects resolve: the error is reported on those.
    fn references(&self, objects: &Objects) -> Vec<Reference>;
}

/// Warns of unresolved references.
pub(crate) fn warn_unresolved(spec: &impl HasReferences, objects: &Objects, report: &mut Reporter<'_>) {
    for reference in spec.references(objects) {
        if !reference.resolves && reference.by_name {
            report.warning(reference.field, reference.value, reference.problem, reference.hint);
        }
    }
}

/// Whether `spec` has an unresolved reference.
pub(crate) fn any_unresolved(spec: &impl HasReferences, objects: &Objects) -> bool {
    spec.references(objects).iter().any(|reference| !reference.resolves)
}

/// The unresolved references of `new` that replace resolved references of `old`, as errors of `object`. With
/// `retained`, `old` is in use because of such an error already, and its own references need not resolve any
/// more.
pub(crate) fn broken_by_edit<S: HasReferences>(
    object: &ObjectRef,
    (old, retained): (&S, bool),
    new: &S,
    objects: &Objects,
) -> Vec<Finding> {
    let (before, after) = (old.references(objects), new.references(objects));
    let is_broken = |new: &&Reference| {
        let replaced = |old: &&Reference| old.to == new.to && old.resolves && !after.contains(old);
        !new.resolves && !before.contains(new) && (retained || before.iter().any(|old| replaced(&old)))
    };
    let error = |Reference { field, value, problem, hint, .. }: Reference| Finding {
        object: object.clone(),
        severity: Severity::Error,
        field,
        value,
        problem,
        hint: hint.to_owned(),
        related: None,
    };
    after.iter().filter(is_broken).cloned().map(error).collect()
}

/// A reference by name.
fn named(to: &'static str, field: &str, name: &str, resolves: bool) -> Reference {
    Reference {
        to,
        field: field.to_owned(),
        value: name.to_owned(),
        resolves,
        problem: format!("there is no {to} with this name"),
        hint: "create it, or correct the name",
        by_name: true,
    }
}

/// References by name. Surrounding white space is ignored; it is reported elsewhere.
fn named_list(
    to: &'static str,
    field: &str,
    names: Option<&Vec<String>>,
    exists: impl Fn(&str) -> bool,
) -> Vec<Reference> {
    let names = names.into_iter().flatten().map(|name| name.trim());
    names.map(|name| named(to, field, name, exists(name))).collect()
}

/// References by the selectors that can be parsed, to the objects of one kind.
fn selected<'a, K: Resource + 'a>(
    to: &'static str,
    field: &str,
    selectors: impl IntoIterator<Item = &'a LabelSelector>,
    objects: &[std::sync::Arc<K>],
) -> Vec<Reference> {
    let none = BTreeMap::new();
    let parsed = selectors.into_iter().filter_map(|selector| parse_selector(selector).ok());
    let reference = |selector: crds::Selector| Reference {
        to,
        field: field.to_owned(),
        value: selector.to_string(),
        resolves: objects
            .iter()
            .any(|object| selector.matches(object.meta().labels.as_ref().unwrap_or(&none))),
        problem: format!("selects no {to}"),
        hint: "correct the selector, or the labels",
        by_name: false,
    };
    parsed.map(reference).collect()
}

/// `listed`, or a reference to everything if it is empty.
fn or_everything(to: &'static str, listed: Vec<Reference>, any: bool) -> Vec<Reference> {
    if listed.is_empty() { vec![Reference { by_name: false, ..named(to, "", "", any) }] } else { listed }
}

fn exists<K: Resource>(objects: &[std::sync::Arc<K>], name: &str) -> bool {
    objects.iter().any(|object| object.meta().name.as_deref() == Some(name))
}

fn pools(
    names: Option<&Vec<String>>,
    selectors: Option<&Vec<LabelSelector>>,
    objects: &Objects,
) -> Vec<Reference> {
    const POOL: &str = IPAddressPool::KIND;
    let mut listed = named_list(POOL, "spec.ipAddressPools", names, |name| exists(&objects.pools, name));
    let selectors = selectors.into_iter().flatten();
    listed.extend(selected(POOL, "spec.ipAddressPoolSelectors", selectors, &objects.pools));
    or_everything(POOL, listed, !objects.pools.is_empty())
}

const NAMESPACE: &str = "Namespace";

impl HasReferences for IPAddressPoolSpec {
    fn references(&self, objects: &Objects) -> Vec<Reference> {
        // A component that does not allocate has no namespaces.
        if objects.namespaces.is_empty() {
            return Vec::new();
        }
        let allocation = self.service_allocation.as_ref();
        let names = allocation.and_then(|allocation| allocation.namespaces.as_ref());
        let selectors = allocation.and_then(|allocation| allocation.namespace_selectors.as_ref());
        let mut listed = named_list(NAMESPACE, "spec.serviceAllocation.namespaces", names, |name| {
            exists(&objects.namespaces, name)
        });
        let field = "spec.serviceAllocation.namespaceSelectors";
        listed.extend(selected(NAMESPACE, field, selectors.into_iter().flatten(), &objects.namespaces));
        or_everything(NAMESPACE, listed, true)
    }
}

impl HasReferences for L2AdvertisementSpec {
    fn references(&self, objects: &Objects) -> Vec<Reference> {
        pools(self.ip_address_pools.as_ref(), self.ip_address_pool_selectors.as_ref(), objects)
    }
}

impl HasReferences for BGPAdvertisementSpec {
    fn references(&self, objects: &Objects) -> Vec<Reference> {
        let mut references =
            pools(self.ip_address_pools.as_ref(), self.ip_address_pool_selectors.as_ref(), objects);
        let peers = named_list(BGPPeer::KIND, "spec.peers", self.peers.as_ref(), |name| {
            exists(&objects.bgp_peers, name)
        });
        references.extend(or_everything(BGPPeer::KIND, peers, !objects.bgp_peers.is_empty()));
        for community in self.communities.iter().flatten().map(|community| community.trim()) {
            // A literal always resolves, and may be replaced by an alias.
            let literal = CommunityValue::parse(community).is_some();
            if literal || !community.contains(':') {
                let resolves = literal || is_alias(community, objects);
                references.push(Reference {
                    problem: "no Community object defines this alias".to_owned(),
                    hint: "create one that does, or use the value of the community",
                    ..named(Community::KIND, "spec.communities", community, resolves)
                });
            }
        }
        references
    }
}

fn is_alias(name: &str, objects: &Objects) -> bool {
    let aliases = objects.communities.iter().flat_map(|object| object.spec.communities.iter().flatten());
    aliases.into_iter().any(|alias| alias.name.as_deref() == Some(name))
}

impl HasReferences for BGPPeerSpec {
    fn references(&self, objects: &Objects) -> Vec<Reference> {
        let profile = self.bfd_profile.as_deref().filter(|name| !name.is_empty());
        let reference =
            |name| named(BFDProfile::KIND, "spec.bfdProfile", name, exists(&objects.bfd_profiles, name));
        profile.map(reference).into_iter().collect()
    }
}

impl HasReferences for BFDProfileSpec {
    fn references(&self, _: &Objects) -> Vec<Reference> {
        Vec::new()
    }
}

impl HasReferences for CommunitySpec {
    fn references(&self, _: &Objects) -> Vec<Reference> {
        Vec::new()
    }
}

impl HasReferences for PoolPolicySpec {
    fn references(&self, objects: &Objects) -> Vec<Reference> {
        let pool = objects.pools.iter().find(|pool| pool.metadata.name.as_deref() == Some(&*self.pool));
        let mut references = vec![named(IPAddressPool::KIND, "spec.pool", &self.pool, pool.is_some())];
        if let Some(pool) = pool {
            let ranges = readable_ranges(pool);
            let readable = |text: &String| text.trim().is_empty() || parse_addresses(text.trim()).is_ok();
            let all_readable = pool.spec.addresses.iter().all(readable);
            for (index, reservation) in self.reserved.iter().enumerate() {
                let Ok(range) = parse_reservation(&reservation.addresses) else { continue };
                let within = range.is_some_and(|range| ranges.iter().any(|of_pool| of_pool.overlaps(&range)));
                references.push(Reference {
                    problem: format!("pool {} contains none of these addresses", self.pool),
                    hint: "correct the addresses, or remove the reservation",
                    ..named(
                        "address",
                        &format!("spec.reserved[{index}].addresses"),
                        &reservation.addresses,
                        within || !all_readable,
                    )
                });
            }
        }
        if !objects.namespaces.is_empty() {
            for (index, quota) in self.quotas.iter().enumerate() {
                let field = format!("spec.quotas[{index}].namespaceSelector");
                let selected = selected(NAMESPACE, &field, &quota.namespace_selector, &objects.namespaces);
                let every = quota.namespace_selector.is_none();
                references.extend(if every { or_everything(NAMESPACE, selected, true) } else { selected });
            }
        }
        references
    }
}
