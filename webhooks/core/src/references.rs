//! What objects refer to, and edits that lose it.
//!
//! Objects may be applied in any order, so a reference to nothing is a warning. But an edit that puts such a reference
//! in the place of one that resolves is taken for a slip, since it would end what works. That the other object is
//! deleted is no edit of this one.

use std::collections::BTreeMap;

use crds::{
    BFDProfileSpec, BGPAdvertisementSpec, BGPPeerSpec, CommunitySpec, IPAddressPoolSpec, L2AdvertisementSpec,
    PoolPolicySpec, Resource, SelectorExt as _, parse_selector,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::bgp::CommunityValue;
use crate::finding::{Finding, ObjectRef, Report, Severity};
use crate::objects::Objects;
use crate::policy::parse_reservation;
use crate::pool::readable_ranges;
use crate::range::parse_addresses;

/// One reference of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// The kind of what it refers to; what is lost and what replaces it are of one kind.
    to: &'static str,
    field: String,
    value: String,
    resolves: bool,
    /// What is wrong with it if it does not resolve, and what to do.
    fault: (String, &'static str),
    /// Whether it gives a name. That a selector selects nothing at the moment needs no warning.
    by_name: bool,
}

/// A `spec` that may refer to other objects.
pub(crate) trait Refers {
    /// What it refers to among `objects`. Whether an object has an error makes no difference: that is reported on it.
    fn references(&self, objects: &Objects) -> Vec<Reference>;
}

/// Warns of references to nothing.
pub(crate) fn warn(spec: &impl Refers, objects: &Objects, report: &mut Report<'_>) {
    for reference in spec.references(objects) {
        if !reference.resolves && reference.by_name {
            let (problem, remedy) = reference.fault;
            report.warning(reference.field, reference.value, problem, remedy);
        }
    }
}

/// Whether `spec` has a reference to nothing.
pub(crate) fn any_unresolved(spec: &impl Refers, objects: &Objects) -> bool {
    spec.references(objects).iter().any(|reference| !reference.resolves)
}

/// The references of `new` to nothing that replace references of `old` to something, as errors of `object`. If `old` is
/// `held` in force for such already, it goes on whatever its own references are worth by now.
pub(crate) fn lost<S: Refers>(
    object: &ObjectRef,
    (old, held): (&S, bool),
    new: &S,
    objects: &Objects,
) -> Vec<Finding> {
    let (before, after) = (old.references(objects), new.references(objects));
    let replaces = |broken: &&Reference| {
        let lost = |known: &&Reference| known.to == broken.to && known.resolves && !after.contains(known);
        !broken.resolves && !before.contains(broken) && (held || before.iter().any(|known| lost(&known)))
    };
    let error = |Reference { field, value, fault: (problem, remedy), .. }: Reference| Finding {
        object: object.clone(),
        severity: Severity::Error,
        field,
        value,
        problem,
        remedy: remedy.to_owned(),
        other: None,
    };
    after.iter().filter(replaces).cloned().map(error).collect()
}

/// A reference by name.
fn named(to: &'static str, field: &str, name: &str, resolves: bool) -> Reference {
    let fault = (format!("there is no {to} of this name"), "create it, or correct the name");
    Reference { to, field: field.to_owned(), value: name.to_owned(), resolves, fault, by_name: true }
}

/// References by name; surrounding white space is reported elsewhere.
fn list(
    to: &'static str,
    field: &str,
    names: Option<&Vec<String>>,
    exists: impl Fn(&str) -> bool,
) -> Vec<Reference> {
    let names = names.into_iter().flatten().map(|name| name.trim());
    names.map(|name| named(to, field, name, exists(name))).collect()
}

/// What the selectors that can be parsed select among the objects of one kind.
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
        fault: (format!("this selects no {to}"), "correct the selector, or the labels"),
        by_name: false,
    };
    parsed.map(reference).collect()
}

/// A list that names and selects nothing means everything.
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
    const POOL: &str = "IPAddressPool";
    let mut listed = list(POOL, "spec.ipAddressPools", names, |name| exists(&objects.pools, name));
    let selectors = selectors.into_iter().flatten();
    listed.extend(selected(POOL, "spec.ipAddressPoolSelectors", selectors, &objects.pools));
    or_everything(POOL, listed, !objects.pools.is_empty())
}

const NAMESPACE: &str = "Namespace";

impl Refers for IPAddressPoolSpec {
    fn references(&self, objects: &Objects) -> Vec<Reference> {
        // Who does not allocate knows none.
        if objects.namespaces.is_empty() {
            return Vec::new();
        }
        let allocation = self.service_allocation.as_ref();
        let names = allocation.and_then(|allocation| allocation.namespaces.as_ref());
        let selectors = allocation.and_then(|allocation| allocation.namespace_selectors.as_ref());
        let mut listed = list(NAMESPACE, "spec.serviceAllocation.namespaces", names, |name| {
            exists(&objects.namespaces, name)
        });
        let field = "spec.serviceAllocation.namespaceSelectors";
        listed.extend(selected(NAMESPACE, field, selectors.into_iter().flatten(), &objects.namespaces));
        or_everything(NAMESPACE, listed, true)
    }
}

impl Refers for L2AdvertisementSpec {
    fn references(&self, objects: &Objects) -> Vec<Reference> {
        pools(self.ip_address_pools.as_ref(), self.ip_address_pool_selectors.as_ref(), objects)
    }
}

impl Refers for BGPAdvertisementSpec {
    fn references(&self, objects: &Objects) -> Vec<Reference> {
        let mut references =
            pools(self.ip_address_pools.as_ref(), self.ip_address_pool_selectors.as_ref(), objects);
        let peers =
            list("BGPPeer", "spec.peers", self.peers.as_ref(), |name| exists(&objects.bgp_peers, name));
        references.extend(or_everything("BGPPeer", peers, !objects.bgp_peers.is_empty()));
        for community in self.communities.iter().flatten().map(|community| community.trim()) {
            // A literal resolves by itself, and may be replaced by an alias.
            let literal = CommunityValue::parse(community).is_some();
            if literal || !community.contains(':') {
                let resolves = literal || is_alias(community, objects);
                references.push(Reference {
                    fault: (
                        "no Community object gives this name".to_owned(),
                        "create one that does, or write the community itself",
                    ),
                    ..named("Community", "spec.communities", community, resolves)
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

impl Refers for BGPPeerSpec {
    fn references(&self, objects: &Objects) -> Vec<Reference> {
        let profile = self.bfd_profile.as_deref().filter(|name| !name.is_empty());
        let reference =
            |name| named("BFDProfile", "spec.bfdProfile", name, exists(&objects.bfd_profiles, name));
        profile.map(reference).into_iter().collect()
    }
}

impl Refers for BFDProfileSpec {
    fn references(&self, _: &Objects) -> Vec<Reference> {
        Vec::new()
    }
}

impl Refers for CommunitySpec {
    fn references(&self, _: &Objects) -> Vec<Reference> {
        Vec::new()
    }
}

impl Refers for PoolPolicySpec {
    fn references(&self, objects: &Objects) -> Vec<Reference> {
        let pool = objects.pools.iter().find(|pool| pool.metadata.name.as_deref() == Some(&*self.pool));
        let mut references = vec![named("IPAddressPool", "spec.pool", &self.pool, pool.is_some())];
        if let Some(pool) = pool {
            let ranges = readable_ranges(pool);
            let readable = |text: &String| text.trim().is_empty() || parse_addresses(text.trim()).is_ok();
            let all_readable = pool.spec.addresses.iter().all(readable);
            for (index, reservation) in self.reserved.iter().enumerate() {
                let Ok(range) = parse_reservation(&reservation.addresses) else { continue };
                let within = range.is_some_and(|range| ranges.iter().any(|known| known.overlaps(&range)));
                references.push(Reference {
                    fault: (
                        format!("pool {} has none of these addresses", self.pool),
                        "correct the addresses, or remove the reservation",
                    ),
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
                let bound = selected(NAMESPACE, &field, &quota.namespace_selector, &objects.namespaces);
                let every = quota.namespace_selector.is_none();
                references.extend(if every { or_everything(NAMESPACE, bound, true) } else { bound });
            }
        }
        references
    }
}
