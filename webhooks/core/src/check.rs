//! Validation of a change of the configuration: only findings that the change causes count.

use std::collections::BTreeSet;

use crate::configuration::Configuration;
use crate::finding::{Finding, Severity};
use crate::objects::Objects;

/// Validates the change from `old` to `new`: one or several objects created, replaced or deleted.
///
/// Only new findings count. So a configuration with errors can be changed step by step, and a change is
/// rejected also if it makes another object invalid.
///
/// # Errors
///
/// The change causes an error: all new findings, errors first.
pub fn check(old: &Objects, new: &Objects) -> Result<Vec<Finding>, Vec<Finding>> {
    let (_, before) = Configuration::from_objects(old);
    let (_, after) = Configuration::from_objects(new);
    let old_findings: BTreeSet<Finding> = before.into_iter().collect();
    let (errors, warnings): (Vec<Finding>, Vec<Finding>) = after
        .into_iter()
        .filter(|finding| !old_findings.contains(finding))
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
    const NEWER: (&str, u8, &[&str]) = ("newer", 2, &["10.0.0.128/25"]);

    #[test]
    fn a_new_pool_that_overlaps_another_is_rejected_and_the_finding_names_the_other() {
        let findings = check(&pools(&[OLD]), &pools(&[OLD, ("new", 0, &["10.0.0.7/32"])])).unwrap_err();
        assert_eq!(findings[0].object.name, "new");
        assert_eq!(findings[0].related.as_ref().map(|other| other.name.as_str()), Some("old"));
    }

    #[test]
    fn an_older_pool_may_not_grow_over_a_newer_one() {
        let grown = ("old", 1, &["10.0.0.0/24"][..]);
        let findings = check(&pools(&[OLD, NEWER]), &pools(&[grown, NEWER])).unwrap_err();
        assert_eq!(findings[0].object.name, "newer", "the finding is on the object that becomes invalid");
    }

    #[test]
    fn an_existing_error_blocks_no_other_change() {
        let bad = ("bad", 3, &["10.0"][..]);
        let new = ("new", 0, &["10.0.1.0/24"][..]);
        assert_eq!(check(&pools(&[OLD, bad]), &pools(&[OLD, bad, new])), Ok(Vec::new()));
        assert_eq!(check(&pools(&[OLD, bad]), &pools(&[OLD])), Ok(Vec::new()));
        assert!(
            check(&pools(&[OLD, bad]), &pools(&[OLD, ("bad", 3, &["10.1"])])).is_err(),
            "a different error is new"
        );
    }

    #[test]
    fn a_change_that_causes_only_warnings_is_allowed() {
        let mixed = ("new", 0, &["10.0.1.1-fc00::1", "10.0.2.0/24"][..]);
        let warnings = check(&pools(&[OLD]), &pools(&[OLD, mixed])).unwrap();
        assert!(warnings.iter().any(|finding| finding.severity == Severity::Warning), "{warnings:?}");
    }
}
