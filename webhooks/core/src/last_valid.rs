//! The last valid version of each object: what stays in force while the present one has an error.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::{
    BFDProfile, BFDProfileSpec, BGPAdvertisement, BGPAdvertisementSpec, BGPPeer, BGPPeerSpec, Community,
    CommunitySpec, IPAddressPool, IPAddressPoolSpec, L2Advertisement, L2AdvertisementSpec, PoolPolicy,
    PoolPolicySpec, Resource,
};
use kube::core::object::HasSpec;
use serde::{Deserialize, Serialize};

use crate::configuration::Configuration;
use crate::finding::{Finding, ObjectRef, Severity};
use crate::objects::{Objects, Precedence};
use crate::references::{self, Refers};

/// Remembers of each object the last `spec` that was valid.
///
/// An object that exists and has an error keeps the effect of that `spec`, as far as it does not contradict a valid
/// object that was valid with it. An edit that replaces a reference to something by one to nothing counts as an error
/// too. An object that no longer exists is forgotten at once: to delete it is not an error.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LastValid {
    pools: Versions<IPAddressPoolSpec>,
    l2_advertisements: Versions<L2AdvertisementSpec>,
    pool_policies: Versions<PoolPolicySpec>,
    bfd_profiles: Versions<BFDProfileSpec>,
    bgp_peers: Versions<BGPPeerSpec>,
    communities: Versions<CommunitySpec>,
    bgp_advertisements: Versions<BGPAdvertisementSpec>,
    /// Objects that were never valid: one that another object kept from being valid does not become so only because that
    /// one has an error now.
    never_valid: NeverValid,
}

/// By `namespace/name`.
type Versions<S> = BTreeMap<String, Version<S>>;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Version<S> {
    uid: Option<String>,
    spec: S,
    /// The generation of the object when it was last seen, valid or not.
    generation: Option<i64>,
    /// Some version that may have been valid was not seen: after `spec`, or before it while that has a reference to
    /// nothing.
    missed: bool,
    /// The present version is rejected for a reference to nothing, and is until that resolves or is edited.
    #[serde(default)]
    held: bool,
}

/// By `kind/namespace/name`, with the UIDs.
type NeverValid = BTreeMap<String, Option<String>>;

/// What is remembered of objects.
#[derive(Default)]
struct Known {
    /// Those that are rejected and of which a valid version is remembered.
    objects: BTreeSet<ObjectRef>,
    /// Those that are rejected and of which none is.
    never_valid: BTreeSet<ObjectRef>,
    /// Those that are valid now and never were before, though they existed: another object may have kept them from it.
    freed: BTreeSet<ObjectRef>,
}

/// What comes of putting earlier versions in place of the present ones.
struct Substituted {
    configuration: Configuration,
    /// The objects of which an earlier version is in place.
    objects: BTreeSet<ObjectRef>,
    /// Errors of objects that are kept from being valid by these.
    kept_out: Vec<Finding>,
}

/// Calls a function for each kind, with its name, the remembered versions and the objects.
macro_rules! for_each_kind {
    ($call:ident, [$($memory:tt)+], [$($objects:tt)+], $($more:expr),*) => {
        $call::<IPAddressPool>("IPAddressPool", $($memory)+.pools, $($objects)+.pools, $($more),*);
        $call::<L2Advertisement>("L2Advertisement", $($memory)+.l2_advertisements, $($objects)+.l2_advertisements, $($more),*);
        $call::<PoolPolicy>("PoolPolicy", $($memory)+.pool_policies, $($objects)+.pool_policies, $($more),*);
        $call::<BFDProfile>("BFDProfile", $($memory)+.bfd_profiles, $($objects)+.bfd_profiles, $($more),*);
        $call::<BGPPeer>("BGPPeer", $($memory)+.bgp_peers, $($objects)+.bgp_peers, $($more),*);
        $call::<Community>("Community", $($memory)+.communities, $($objects)+.communities, $($more),*);
        $call::<BGPAdvertisement>("BGPAdvertisement", $($memory)+.bgp_advertisements, $($objects)+.bgp_advertisements, $($more),*);
    };
}

impl LastValid {
    /// The configuration that `objects` describe together with the last valid versions of those that have an error.
    ///
    /// The findings are those on the objects as they are. The account of rejected pools
    /// ([`left_out`](Configuration::left_out)) is too: no new address comes from a pool that has an error. Where a later
    /// valid version of an advertisement may have been missed, what can be read of the present one is kept as well:
    /// whether it has an error, or a reference to nothing.
    pub fn configure(&mut self, objects: &Objects) -> (Configuration, Vec<Finding>) {
        let (configuration, mut findings) = Configuration::from_objects(objects);
        let mut rejected = rejected(&findings);
        let mut lost = Vec::new();
        for_each_kind!(lost_references, [&mut self], [&objects], objects, &rejected, &mut lost);
        rejected.extend(lost.iter().map(|finding| finding.object.clone()));
        let mut known = Known::default();
        for_each_kind!(recall, [&self], [&objects], &self.never_valid, &rejected, &mut known);
        let substituted = (!known.objects.is_empty()).then(|| self.substitute(objects, &rejected, &known));
        let kept_out = substituted.iter().flat_map(|substituted| substituted.kept_out.iter().cloned());
        findings.extend(kept_out.clone());
        rejected.extend(kept_out.map(|finding| finding.object));
        let (mut uncertain, mut never_valid) = (BTreeSet::new(), NeverValid::new());
        for_each_kind!(
            remember,
            [&mut self],
            [&objects],
            objects,
            &rejected,
            (&mut uncertain, &mut never_valid)
        );
        self.never_valid = never_valid;
        let Some(Substituted { configuration: mut in_force, objects: substituted, .. }) = substituted else {
            let mut in_force = configuration.clone();
            in_force.keep_uncertain(configuration, &uncertain);
            return (in_force, findings);
        };
        in_force.keep_rejected(&configuration);
        in_force.keep_uncertain(configuration, &uncertain);
        lost.retain(|finding| substituted.contains(&finding.object));
        let place =
            |finding: &Finding| (finding.object.clone(), finding.field.clone(), finding.value.clone());
        findings.retain(|finding| !lost.iter().any(|error| place(error) == place(finding)));
        findings.extend(lost);
        for finding in &mut findings {
            if finding.severity == Severity::Error && substituted.contains(&finding.object) {
                finding.remedy = format!(
                    "{}; until then the last valid version of this object stays in force",
                    finding.remedy
                );
            }
        }
        (in_force, findings)
    }

    /// Puts the last valid versions of `known` in place of the present ones: all of them or, where that would make a
    /// valid object invalid, one after the other those that do not.
    fn substitute(
        &self,
        objects: &Objects,
        rejected_now: &BTreeSet<ObjectRef>,
        known: &Known,
    ) -> Substituted {
        let never_valid: BTreeSet<ObjectRef> = known.never_valid.union(&known.freed).cloned().collect();
        let attempt = |chosen: BTreeSet<ObjectRef>| {
            let mut with = objects.clone();
            for_each_kind!(put, [&self], [&mut with], &chosen);
            let precedence = Precedence { last: chosen, never_valid: never_valid.clone() };
            let (configuration, findings) = Configuration::with_precedence(&with, &precedence);
            let harmless =
                rejected(&findings).iter().all(|it| rejected_now.contains(it) || known.freed.contains(it));
            let kept_out = findings.into_iter().filter(|finding| {
                finding.severity == Severity::Error && known.freed.contains(&finding.object)
            });
            let (objects, kept_out) = (precedence.last, kept_out.collect());
            harmless.then_some(Substituted { configuration, objects, kept_out })
        };
        if let Some(all) = attempt(known.objects.clone()) {
            return all;
        }
        let mut best = Substituted {
            configuration: Configuration::from_objects(objects).0,
            objects: BTreeSet::new(),
            kept_out: Vec::new(),
        };
        for object in &known.objects {
            let mut chosen = best.objects.clone();
            chosen.insert(object.clone());
            best = attempt(chosen).unwrap_or(best);
        }
        best
    }
}

fn rejected(findings: &[Finding]) -> BTreeSet<ObjectRef> {
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    errors.map(|finding| finding.object.clone()).collect()
}

fn key(object: &ObjectRef) -> String {
    format!("{}/{}", object.namespace.as_deref().unwrap_or_default(), object.name)
}

/// Adds to `errors` the references that an edit of a valid object has lost.
fn lost_references<K>(
    kind: &'static str,
    memory: &mut Versions<K::Spec>,
    objects: &[Arc<K>],
    all: &Objects,
    rejected: &BTreeSet<ObjectRef>,
    errors: &mut Vec<Finding>,
) where
    K: Resource + HasSpec,
    K::Spec: Refers + PartialEq,
{
    for object in objects {
        let this = ObjectRef::of(kind, &**object);
        let before = memory.get_mut(&key(&this)).filter(|version| version.uid == object.meta().uid);
        if let Some(version) = before.filter(|version| version.spec != *object.spec())
            && !rejected.contains(&this)
        {
            let lost = references::lost(&this, (&version.spec, version.held), object.spec(), all);
            version.held = !lost.is_empty();
            errors.extend(lost);
        }
    }
}

/// Adds to `known` what is remembered of the objects.
fn recall<K>(
    kind: &'static str,
    memory: &Versions<K::Spec>,
    objects: &[Arc<K>],
    never_valid: &NeverValid,
    rejected: &BTreeSet<ObjectRef>,
    known: &mut Known,
) where
    K: Resource + HasSpec,
{
    for object in objects {
        let this = ObjectRef::of(kind, &**object);
        let (key, uid) = (key(&this), &object.meta().uid);
        if !rejected.contains(&this) {
            if never_valid.get(&format!("{kind}/{key}")) == Some(uid) {
                known.freed.insert(this);
            }
        } else if memory.get(&key).is_some_and(|version| version.uid == *uid) {
            known.objects.insert(this);
        } else {
            known.never_valid.insert(this);
        }
    }
}

/// Remembers the valid objects, forgets those that no longer exist, and adds to the last argument those of which a valid
/// version may have been missed, and those that were never valid.
fn remember<K>(
    kind: &'static str,
    memory: &mut Versions<K::Spec>,
    objects: &[Arc<K>],
    all: &Objects,
    rejected: &BTreeSet<ObjectRef>,
    (uncertain, never_valid): (&mut BTreeSet<ObjectRef>, &mut NeverValid),
) where
    K: Resource + HasSpec,
    K::Spec: Refers + Clone,
{
    let mut before = std::mem::take(memory);
    for object in objects {
        let this = ObjectRef::of(kind, &**object);
        let key = key(&this);
        let uid = object.meta().uid.clone();
        let generation = object.meta().generation;
        let before = before.remove(&key).filter(|version| version.uid == uid);
        let missed = match &before {
            Some(before) => before.missed || is_gap(before.generation.zip(generation)),
            // An object of which nothing is remembered has had other versions if it was edited.
            None => generation.is_some_and(|generation| generation > 1),
        };
        let version = if !rejected.contains(&this) {
            let missed = missed && references::any_unresolved(object.spec(), all);
            Version { uid, spec: object.spec().clone(), generation, missed, held: false }
        } else if let Some(version) = before {
            Version { generation, missed, ..version }
        } else {
            never_valid.insert(format!("{kind}/{key}"), uid);
            continue;
        };
        if version.missed {
            uncertain.insert(this);
        }
        memory.insert(key, version);
    }
}

/// Whether there were generations between the two.
fn is_gap(generations: Option<(i64, i64)>) -> bool {
    generations.is_some_and(|(seen, now)| now != seen && now != seen.saturating_add(1))
}

/// Puts the remembered versions of the `chosen` objects in their place.
fn put<K>(
    kind: &'static str,
    memory: &Versions<K::Spec>,
    objects: &mut [Arc<K>],
    chosen: &BTreeSet<ObjectRef>,
) where
    K: Resource + HasSpec + Clone,
    K::Spec: Clone,
{
    for object in objects {
        let this = ObjectRef::of(kind, &**object);
        if chosen.contains(&this)
            && let Some(version) = memory.get(&key(&this))
        {
            *Arc::make_mut(object).spec_mut() = version.spec.clone();
        }
    }
}

#[cfg(test)]
mod tests;
