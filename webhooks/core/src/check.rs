//! What a change of the configuration brings: the judge, asked before and after.

use std::collections::BTreeSet;

use crate::configuration::Configuration;
use crate::finding::{Finding, Severity};
use crate::objects::Objects;

/// Judges the change from `old` to `new`: one object created, replaced or removed, or several.
///
/// Only what the change brings counts. So whoever has a configuration with faults can go on to change it, piece by
/// piece; and a change is held against its author although the object that it spoils is another one.
///
/// # Errors
///
/// The change spoils something: all new findings, the errors among them first.
pub fn check(old: &Objects, new: &Objects) -> Result<Vec<Finding>, Vec<Finding>> {
    let (_, before) = Configuration::from_objects(old);
    let (_, after) = Configuration::from_objects(new);
    let known: BTreeSet<Finding> = before.into_iter().collect();
    let (errors, warnings): (Vec<Finding>, Vec<Finding>) = after
        .into_iter()
        .filter(|finding| !known.contains(finding))
        .partition(|finding| finding.severity == Severity::Error);
    if errors.is_empty() { Ok(warnings) } else { Err(errors.into_iter().chain(warnings).collect()) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn pools(list: &[(&str, u8, &[&str])]) -> Objects {
        let object = |(name, minute, addresses): &(&str, u8, &[&str])| {
            let created = (*minute > 0).then(|| format!("2024-01-01T00:{minute:02}:00Z"));
            let object = json!({"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
                "metadata": {"name": name, "namespace": "metallb-system", "creationTimestamp": created},
                "spec": {"addresses": addresses}});
            Arc::new(serde_json::from_value(object).unwrap())
        };
        Objects { pools: list.iter().map(object).collect(), ..Objects::default() }
    }

    const OLD: (&str, u8, &[&str]) = ("old", 1, &["10.0.0.0/25"]);
    const YOUNG: (&str, u8, &[&str]) = ("young", 2, &["10.0.0.128/25"]);

    #[test]
    fn a_new_pool_that_overlaps_another_is_refused_and_the_other_named() {
        let refused = check(&pools(&[OLD]), &pools(&[OLD, ("new", 0, &["10.0.0.7/32"])])).unwrap_err();
        assert_eq!(refused[0].object.name, "new");
        assert_eq!(refused[0].other.as_ref().map(|other| other.name.as_str()), Some("old"));
    }

    #[test]
    fn an_elder_pool_may_not_grow_over_a_younger_one() {
        let grown = ("old", 1, &["10.0.0.0/24"][..]);
        let refused = check(&pools(&[OLD, YOUNG]), &pools(&[grown, YOUNG])).unwrap_err();
        assert_eq!(refused[0].object.name, "young", "the finding is on the object that it spoils");
    }

    #[test]
    fn a_fault_that_was_there_before_stops_no_other_change() {
        let bad = ("bad", 3, &["10.0"][..]);
        let new = ("new", 0, &["10.0.1.0/24"][..]);
        assert_eq!(check(&pools(&[OLD, bad]), &pools(&[OLD, bad, new])), Ok(Vec::new()));
        assert_eq!(check(&pools(&[OLD, bad]), &pools(&[OLD])), Ok(Vec::new()));
        assert!(
            check(&pools(&[OLD, bad]), &pools(&[OLD, ("bad", 3, &["10.1"])])).is_err(),
            "another fault is new"
        );
    }

    #[test]
    fn what_is_only_doubtful_is_let_through_with_a_warning() {
        let mixed = ("new", 0, &["10.0.1.1-fc00::1", "10.0.2.0/24"][..]);
        let warnings = check(&pools(&[OLD]), &pools(&[OLD, mixed])).unwrap();
        assert!(warnings.iter().any(|finding| finding.severity == Severity::Warning), "{warnings:?}");
    }
}
