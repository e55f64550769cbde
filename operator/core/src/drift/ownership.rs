//! Who owns an object, determined by the managers of its fields. A label alone proves nothing: it is copied
//! with the object, and it stays when a user takes the object over.
//!
//! An imported object belongs to the user as soon as anybody but the operator manages its content, by either
//! kind of apply or by an edit. From then on it is neither updated from its source nor deleted with it. (An
//! edit that only removes a field is recognized by [`crate::drift::is_field_removed`].)
//!
//! The *ownership marks* of the operator are its labels, its owner reference and its managed fields.

use std::collections::BTreeSet;

use crds::names::{LABEL_IMPORTED_FROM, LABEL_MANAGED_BY, LABEL_PART_OF, OPERATOR, PART_OF};
use serde_json::Value;

use crate::validate::legacy::ANNOTATION_CONFIG_MAP;

/// The annotation in which `kubectl apply` stores the last applied configuration.
const LAST_APPLIED: &str = "f:kubectl.kubernetes.io/last-applied-configuration";

/// Whether the object is labelled as created by the operator.
pub fn has_managed_by_label(live: &Value) -> bool {
    live["metadata"]["labels"][LABEL_MANAGED_BY] == OPERATOR
}

/// Whether the object was imported from an older kind of configuration.
pub fn is_imported(live: &Value) -> bool {
    live["metadata"]["labels"].get(LABEL_IMPORTED_FROM).is_some()
}

/// Whether the operator created the object. `in_inventory`: the inventory of the stack has its UID.
pub fn is_created_by_operator(live: &Value, in_inventory: bool) -> bool {
    let managers = managers(live);
    // Managed fields may have been cleared.
    let managed = managers.is_empty() || managers.iter().any(is_operators_apply);
    managed && (has_managed_by_label(live) || in_inventory)
}

/// The field manager that has taken over an imported object, if any.
pub fn taken_over_by(live: &Value) -> Option<&str> {
    let manages_content = |entry: &&Value| {
        let fields = &entry["fieldsV1"];
        entry["subresource"].as_str().unwrap_or_default().is_empty()
            && entry["manager"] != OPERATOR
            && (entry["operation"] == "Apply"
                || fields.get("f:spec").is_some()
                || fields["f:metadata"]["f:annotations"].get(LAST_APPLIED).is_some())
    };
    let entry = managers(live).iter().find(manages_content)?;
    Some(entry["manager"].as_str().unwrap_or("unknown"))
}

/// Who created the object, according to its label and managed fields.
pub fn creator(live: &Value) -> &str {
    let label = live["metadata"]["labels"][LABEL_MANAGED_BY].as_str().filter(|manager| *manager != OPERATOR);
    let manager =
        || managers(live).iter().find_map(|entry| entry["manager"].as_str().filter(|name| *name != OPERATOR));
    label.or_else(manager).unwrap_or("somebody else")
}

/// The field managers other than the operator that wrote the object last, according to its managed fields. (A
/// manager that only removes a field leaves no entry.)
pub fn last_writer(live: &Value) -> String {
    let others = managers(live).iter().filter(|entry| {
        entry["manager"] != OPERATOR && entry["subresource"].as_str().unwrap_or_default().is_empty()
    });
    let newest = others.clone().filter_map(|entry| entry["time"].as_str()).max();
    let last = others.filter(|entry| entry["time"].as_str() == newest);
    let names: BTreeSet<&str> = last.filter_map(|entry| entry["manager"].as_str()).collect();
    if names.is_empty() {
        return "a writer that the managed fields do not name".to_owned();
    }
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// Whether `live` has any ownership mark of the operator.
pub fn has_ownership_marks(live: &Value, stack: &str) -> bool {
    without_ownership_marks(live, stack) != *live
}

/// Whether the stack with the UID `stack` is an owner of `live`, so that garbage collection deletes it with
/// the stack.
pub fn is_owned_by(live: &Value, stack: &str) -> bool {
    live["metadata"]["ownerReferences"]
        .as_array()
        .is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == stack))
}

/// `live` without the ownership marks of the operator; `stack` is the UID of the stack.
pub fn without_ownership_marks(live: &Value, stack: &str) -> Value {
    let mut unmarked = live.clone();
    let metadata = &mut unmarked["metadata"];
    if let Some(labels) = metadata["labels"].as_object_mut() {
        labels.retain(|label, value| match label.as_str() {
            LABEL_MANAGED_BY => value != OPERATOR,
            LABEL_PART_OF => value != PART_OF,
            LABEL_IMPORTED_FROM => false,
            _ => true,
        });
    }
    if let Some(annotations) = metadata["annotations"].as_object_mut() {
        annotations.remove(ANNOTATION_CONFIG_MAP);
    }
    if let Some(owners) = metadata["ownerReferences"].as_array_mut() {
        owners.retain(|owner| owner["uid"] != stack);
    }
    if let Some(entries) = metadata["managedFields"].as_array_mut() {
        entries.retain(|entry| entry["manager"] != OPERATOR);
    }
    unmarked
}

fn managers(live: &Value) -> &[Value] {
    live["metadata"]["managedFields"].as_array().map_or(&[], Vec::as_slice)
}

fn is_operators_apply(entry: &Value) -> bool {
    entry["manager"] == OPERATOR && entry["operation"] == "Apply"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ours() -> Value {
        json!({"manager": OPERATOR, "operation": "Apply", "fieldsV1": {"f:spec": {"f:addresses": {}}}})
    }

    fn pool(managers: Value) -> Value {
        json!({"metadata": {"name": "default", "uid": "u",
            "labels": {LABEL_MANAGED_BY: OPERATOR, LABEL_PART_OF: PART_OF, LABEL_IMPORTED_FROM: "configmap",
                "mine": "x"},
            "ownerReferences": [{"uid": "stack"}, {"uid": "other"}], "managedFields": managers}, "spec": {}})
    }

    /// The managed fields left by each way of taking over an object.
    fn takeovers() -> Vec<Value> {
        let annotation = json!({"f:metadata": {"f:annotations": {".": {}, LAST_APPLIED: {}}}});
        vec![
            // Client-side apply of the very same values.
            json!({"manager": "kubectl-client-side-apply", "operation": "Update", "fieldsV1": annotation}),
            json!({"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:spec": {"f:addresses": {}}}}),
            json!({"manager": "kubectl-edit", "operation": "Update", "fieldsV1": {"f:spec": {"f:addresses":
                {}}}}),
            json!({"manager": "argocd", "operation": "Apply", "fieldsV1": {"f:metadata": {"f:labels":
                {"f:a": {}}}}}),
        ]
    }

    #[test]
    fn an_imported_object_that_a_user_applies_or_edits_belongs_to_the_user() {
        for theirs in takeovers() {
            let manager = theirs["manager"].as_str().unwrap().to_owned();
            assert_eq!(taken_over_by(&pool(json!([ours(), theirs]))), Some(manager.as_str()));
        }
    }

    #[test]
    fn writing_status_labels_or_annotations_is_no_takeover() {
        let label = json!({"f:metadata": {"f:labels": {"f:mine": {}}, "f:annotations": {"f:note": {}}}});
        let others = [
            json!({"manager": "lbstack-controller", "operation": "Apply", "subresource": "status",
                "fieldsV1": {"f:status": {}}}),
            json!({"manager": "kubectl-label", "operation": "Update", "fieldsV1": label}),
            json!({"manager": OPERATOR, "operation": "Update", "fieldsV1": {"f:spec": {"f:autoAssign": {}}}}),
        ];
        for other in others {
            assert_eq!(taken_over_by(&pool(json!([ours(), other]))), None);
        }
        assert_eq!(taken_over_by(&json!({})), None);
    }

    #[test]
    fn a_copy_with_our_label_and_owner_reference_is_not_ours() {
        let copy =
            pool(json!([{"manager": "kubectl-create", "operation": "Update", "fieldsV1": {"f:spec": {}}}]));
        assert!(!is_created_by_operator(&copy, false));
        let original = pool(json!([ours()]));
        assert!(is_created_by_operator(&original, false));
        let unlabelled = json!({"metadata": {"managedFields": [ours()]}});
        assert!(is_created_by_operator(&unlabelled, true) && !is_created_by_operator(&unlabelled, false));
        assert!(is_created_by_operator(&pool(json!([])), false), "cleared managed fields prove nothing");
    }

    #[test]
    fn the_last_writer_is_neither_the_operator_nor_a_status_writer() {
        let entry = |manager: &str, subresource: &str, time: &str| {
            json!({"manager": manager, "operation":
            "Update", "subresource": subresource, "time": time})
        };
        let written = pool(json!([
            entry("kubectl", "", "2026-01-01T00:00:00Z"),
            entry("rancher", "", "2026-01-01T00:00:07Z"),
            entry("lbstack-controller", "status", "2026-01-01T00:00:08Z"),
            entry(OPERATOR, "", "2026-01-01T00:00:09Z"),
        ]));
        assert_eq!(last_writer(&written), "rancher");
        let undated = json!([{"manager": "b"}, {"manager": "a"}, {"manager": "a"}]);
        assert_eq!(last_writer(&pool(undated)), "a, b");
        assert_eq!(last_writer(&pool(json!([ours()]))), "a writer that the managed fields do not name");
    }

    #[test]
    fn released_objects_lose_our_marks_and_keep_those_of_others() {
        let theirs = takeovers().remove(0);
        let without_ownership_marks = without_ownership_marks(&pool(json!([ours(), theirs])), "stack");
        assert!(
            !has_ownership_marks(&without_ownership_marks, "stack")
                && !is_owned_by(&without_ownership_marks, "stack")
        );
        assert_eq!(without_ownership_marks["metadata"]["labels"], json!({"mine": "x"}));
        assert_eq!(without_ownership_marks["metadata"]["ownerReferences"], json!([{"uid": "other"}]));
        assert_eq!(without_ownership_marks["metadata"]["managedFields"], json!([theirs]));
        assert!(
            !is_created_by_operator(&without_ownership_marks, true),
            "an outdated inventory does not make it ours again"
        );
        assert_eq!(creator(&without_ownership_marks), "kubectl-client-side-apply");
    }
}
