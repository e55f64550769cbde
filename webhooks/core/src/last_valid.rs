//! The last valid version of each object, which stays in use while the present one is rejected.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::core::object::HasSpec;
use serde::{Deserialize, Serialize};

use crate::configuration::Configuration;
use crate::finding::{Finding, ObjectRef, Severity};
use crate::objects::{ConfigKind, Objects};
use crate::precedence::Precedence;
use crate::references::{self, HasReferences};
use crate::{config_kinds, for_each_config_kind};

macro_rules! last_valid {
    ($($(#[$doc:meta])* $list:ident: $kind:ident,)*) => {
        /// Stores the last valid `spec` of each object.
        ///
        /// It stays in use while the present version of the object is rejected, as far as it does not conflict
        /// with a valid object. An edit that replaces a resolved reference by an unresolved one counts as an
        /// error too. When an object is deleted, its `spec` is removed at once.
        #[derive(Clone, Debug, Default, Serialize, Deserialize)]
        #[serde(default)]
        pub struct LastValid {
            $($list: Versions<<crds::$kind as HasSpec>::Spec>,)*
            /// Objects that were never valid. One that was rejected because of a conflict does not become valid
            /// only because the other object has an error now.
            never_valid: NeverValid,
        }

        $(impl Versioned for crds::$kind {
            fn versions(last_valid: &LastValid) -> &Versions<Self::Spec> {
                &last_valid.$list
            }

            fn versions_mut(last_valid: &mut LastValid) -> &mut Versions<Self::Spec> {
                &mut last_valid.$list
            }
        })*
    };
}

config_kinds!(last_valid);

/// A kind of which [`LastValid`] stores versions.
trait Versioned: ConfigKind + HasSpec<Spec: HasReferences + Clone + PartialEq> {
    fn versions(last_valid: &LastValid) -> &Versions<Self::Spec>;
    fn versions_mut(last_valid: &mut LastValid) -> &mut Versions<Self::Spec>;
}

/// By `namespace/name`.
type Versions<S> = BTreeMap<String, Version<S>>;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Version<S> {
    uid: Option<String>,
    spec: S,
    /// The generation of the object when it was last observed, valid or not.
    generation: Option<i64>,
    /// Whether a version that may have been valid was not observed: after `spec`, or before it if `spec` has
    /// an unresolved reference.
    missed: bool,
    /// Whether the present version is rejected for an unresolved reference, until that resolves or is edited.
    #[serde(default, rename = "held")]
    retained: bool,
}

/// UIDs by `kind/namespace/name`.
type NeverValid = BTreeMap<String, Option<String>>;

/// The objects that need a decision, by their history.
#[derive(Default)]
struct History {
    /// Rejected objects with an earlier valid version.
    previously_valid: BTreeSet<ObjectRef>,
    /// Rejected objects without one.
    never_valid: BTreeSet<ObjectRef>,
    /// Objects that existed before and are valid for the first time: possibly because a conflicting object is
    /// rejected now.
    newly_valid: BTreeSet<ObjectRef>,
}

/// The configuration with earlier versions in place of rejected ones.
struct Substitution {
    configuration: Configuration,
    /// The objects whose earlier version is used.
    objects: BTreeSet<ObjectRef>,
    /// Errors of newly valid objects that conflict with these earlier versions.
    conflicts: Vec<Finding>,
}

impl LastValid {
    /// The configuration that `objects` describe, with the last valid versions of those that are rejected.
    ///
    /// The findings and the [`rejected_pools`](Configuration::rejected_pools) are those of the present
    /// versions: no new address is assigned from a pool with an error. If a later valid version of an
    /// advertisement may have been missed, the readable parts of the present one are used as well, whether it
    /// has an error or an unresolved reference.
    pub fn configure(&mut self, objects: &Objects) -> (Configuration, Vec<Finding>) {
        let (configuration, mut findings) = Configuration::from_objects(objects);
        let mut rejected = rejected(&findings);
        let mut broken = Vec::new();
        for_each_config_kind!(K => find_broken_references::<K>(self, objects, &rejected, &mut broken));
        rejected.extend(broken.iter().map(|finding| finding.object.clone()));
        let mut history = History::default();
        for_each_config_kind!(K => classify::<K>(self, objects, &rejected, &mut history));
        let substitution =
            (!history.previously_valid.is_empty()).then(|| self.substitute(objects, &rejected, &history));
        let conflicts = substitution.iter().flat_map(|substitution| substitution.conflicts.iter().cloned());
        findings.extend(conflicts.clone());
        rejected.extend(conflicts.map(|finding| finding.object));
        let (mut uncertain, mut never_valid) = (BTreeSet::new(), NeverValid::new());
        for_each_config_kind!(
            K => update::<K>(self, objects, &rejected, (&mut uncertain, &mut never_valid))
        );
        self.never_valid = never_valid;
        let Some(Substitution { configuration: mut in_use, objects: substituted, .. }) = substitution else {
            let mut in_use = configuration.clone();
            in_use.keep_uncertain(configuration, &uncertain);
            return (in_use, findings);
        };
        in_use.keep_rejected(&configuration);
        in_use.keep_uncertain(configuration, &uncertain);
        broken.retain(|finding| substituted.contains(&finding.object));
        let location =
            |finding: &Finding| (finding.object.clone(), finding.field.clone(), finding.value.clone());
        findings.retain(|finding| !broken.iter().any(|error| location(error) == location(finding)));
        findings.extend(broken);
        for finding in &mut findings {
            if finding.severity == Severity::Error && substituted.contains(&finding.object) {
                finding.hint = format!(
                    "{}; until then the last valid version of this object stays in use",
                    finding.hint
                );
            }
        }
        (in_use, findings)
    }

    /// Replaces rejected objects by their last valid versions: all of them or, if that would make a valid
    /// object invalid, one after the other those that do not.
    fn substitute(
        &self,
        objects: &Objects,
        rejected_now: &BTreeSet<ObjectRef>,
        history: &History,
    ) -> Substitution {
        let never_valid: BTreeSet<ObjectRef> =
            history.never_valid.union(&history.newly_valid).cloned().collect();
        let attempt = |chosen: BTreeSet<ObjectRef>| {
            let mut with = objects.clone();
            for_each_config_kind!(K => replace_specs::<K>(self, &mut with, &chosen));
            let precedence = Precedence { substituted: chosen, never_valid: never_valid.clone() };
            let (configuration, findings) = Configuration::with_precedence(&with, &precedence);
            let harmless = rejected(&findings)
                .iter()
                .all(|it| rejected_now.contains(it) || history.newly_valid.contains(it));
            let conflicts = findings.into_iter().filter(|finding| {
                finding.severity == Severity::Error && history.newly_valid.contains(&finding.object)
            });
            let (objects, conflicts) = (precedence.substituted, conflicts.collect());
            harmless.then_some(Substitution { configuration, objects, conflicts })
        };
        if let Some(all) = attempt(history.previously_valid.clone()) {
            return all;
        }
        let mut best = Substitution {
            configuration: Configuration::from_objects(objects).0,
            objects: BTreeSet::new(),
            conflicts: Vec::new(),
        };
        for object in &history.previously_valid {
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

/// Adds the references that an edit of a valid object has broken to `errors`.
fn find_broken_references<K: Versioned>(
    last_valid: &mut LastValid,
    objects: &Objects,
    rejected: &BTreeSet<ObjectRef>,
    errors: &mut Vec<Finding>,
) {
    let versions = K::versions_mut(last_valid);
    for object in K::of(objects) {
        let this = ObjectRef::of(&**object);
        let before = versions.get_mut(&key(&this)).filter(|version| version.uid == object.meta().uid);
        if let Some(version) = before.filter(|version| version.spec != *object.spec())
            && !rejected.contains(&this)
        {
            let broken =
                references::broken_by_edit(&this, (&version.spec, version.retained), object.spec(), objects);
            version.retained = !broken.is_empty();
            errors.extend(broken);
        }
    }
}

/// Adds the objects that need a decision to `history`.
fn classify<K: Versioned>(
    last_valid: &LastValid,
    objects: &Objects,
    rejected: &BTreeSet<ObjectRef>,
    history: &mut History,
) {
    for object in K::of(objects) {
        let this = ObjectRef::of(&**object);
        let (key, uid) = (key(&this), &object.meta().uid);
        if !rejected.contains(&this) {
            if last_valid.never_valid.get(&format!("{}/{key}", K::KIND)) == Some(uid) {
                history.newly_valid.insert(this);
            }
        } else if K::versions(last_valid).get(&key).is_some_and(|version| version.uid == *uid) {
            history.previously_valid.insert(this);
        } else {
            history.never_valid.insert(this);
        }
    }
}

/// Stores the valid objects, removes those that no longer exist, and adds to the last argument those of which
/// a valid version may have been missed, and those that were never valid.
fn update<K: Versioned>(
    last_valid: &mut LastValid,
    objects: &Objects,
    rejected: &BTreeSet<ObjectRef>,
    (uncertain, never_valid): (&mut BTreeSet<ObjectRef>, &mut NeverValid),
) {
    let versions = K::versions_mut(last_valid);
    let mut before = std::mem::take(versions);
    for object in K::of(objects) {
        let this = ObjectRef::of(&**object);
        let key = key(&this);
        let uid = object.meta().uid.clone();
        let generation = object.meta().generation;
        let before = before.remove(&key).filter(|version| version.uid == uid);
        let missed = match &before {
            Some(before) => before.missed || is_gap(before.generation.zip(generation)),
            // An object without a stored version has had other versions if it was edited.
            None => generation.is_some_and(|generation| generation > 1),
        };
        let version = if !rejected.contains(&this) {
            let missed = missed && references::any_unresolved(object.spec(), objects);
            Version { uid, spec: object.spec().clone(), generation, missed, retained: false }
        } else if let Some(version) = before {
            Version { generation, missed, ..version }
        } else {
            never_valid.insert(format!("{}/{key}", K::KIND), uid);
            continue;
        };
        if version.missed {
            uncertain.insert(this);
        }
        versions.insert(key, version);
    }
}

/// Whether there were other generations between the two.
fn is_gap(generations: Option<(i64, i64)>) -> bool {
    generations.is_some_and(|(last, now)| now != last && now != last.saturating_add(1))
}

/// Replaces the `spec` of the `chosen` objects by the stored one.
fn replace_specs<K: Versioned>(last_valid: &LastValid, objects: &mut Objects, chosen: &BTreeSet<ObjectRef>) {
    let versions = K::versions(last_valid);
    for object in K::of_mut(objects) {
        let this = ObjectRef::of(&**object);
        if chosen.contains(&this)
            && let Some(version) = versions.get(&key(&this))
        {
            *Arc::make_mut(object).spec_mut() = version.spec.clone();
        }
    }
}

#[cfg(test)]
mod tests;
