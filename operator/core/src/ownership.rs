//! Whose an object is, by who manages its fields. A label alone proves nothing: it goes along when an object is copied,
//! and it stays when somebody else takes the object over.
//!
//! An imported object is the user's as soon as anybody but the operator manages its content: by an apply of either
//! kind, or by an edit. From then on it is neither kept in step with its source nor removed with it. (An edit that only
//! removes a field is recognized by [`crate::drift::is_field_removed`].)

use std::collections::BTreeSet;

use crds::names::{LABEL_IMPORTED_FROM, LABEL_MANAGED_BY, LABEL_PART_OF, OPERATOR, PART_OF};
use serde_json::Value;

use crate::legacy::ANNOTATION_CONFIG_MAP;

/// Where `kubectl apply` keeps what was last applied.
const LAST_APPLIED: &str = "f:kubectl.kubernetes.io/last-applied-configuration";

/// Whether the object says that the operator made it.
pub fn is_labelled(live: &Value) -> bool {
    live["metadata"]["labels"][LABEL_MANAGED_BY] == OPERATOR
}

/// Whether the object was imported from an older kind of configuration.
pub fn is_imported(live: &Value) -> bool {
    live["metadata"]["labels"].get(LABEL_IMPORTED_FROM).is_some()
}

/// Whether the operator made the object. `known`: its UID is in the inventory.
pub fn is_operators(live: &Value, known: bool) -> bool {
    let managers = managers(live);
    // Somebody may have cleared the managed fields.
    let managed = managers.is_empty() || managers.iter().any(is_operators_apply);
    managed && (is_labelled(live) || known)
}

/// Who has taken an imported object over, if anybody has.
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

/// Who made the object, as far as it tells.
pub fn maker(live: &Value) -> &str {
    let label = live["metadata"]["labels"][LABEL_MANAGED_BY].as_str().filter(|manager| *manager != OPERATOR);
    let manager =
        || managers(live).iter().find_map(|entry| entry["manager"].as_str().filter(|name| *name != OPERATOR));
    label.or_else(manager).unwrap_or("somebody else")
}

/// The field managers beside the operator that wrote the object last, as far as it tells: one that only removes a field
/// leaves no trace of its own there.
pub fn last_writer(live: &Value) -> String {
    let others = managers(live).iter().filter(|entry| {
        entry["manager"] != OPERATOR && entry["subresource"].as_str().unwrap_or_default().is_empty()
    });
    let newest = others.clone().filter_map(|entry| entry["time"].as_str()).max();
    let last = others.filter(|entry| entry["time"].as_str() == newest);
    let names: BTreeSet<&str> = last.filter_map(|entry| entry["manager"].as_str()).collect();
    if names.is_empty() {
        return "something that the managed fields do not name".to_owned();
    }
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// Whether `live` carries anything that [`released`] takes out.
pub fn is_marked(live: &Value, stack: &str) -> bool {
    released(live, stack) != *live
}

/// Whether the stack with the UID `stack` is an owner of `live`, so that garbage collection removes it with the stack.
pub fn is_owned_by(live: &Value, stack: &str) -> bool {
    live["metadata"]["ownerReferences"]
        .as_array()
        .is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == stack))
}

/// `live` without any mark of the operator: its labels, the stack with the UID `stack` as owner, and its managed fields.
pub fn released(live: &Value, stack: &str) -> Value {
    let mut released = live.clone();
    let metadata = &mut released["metadata"];
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
    released
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
            "labels": {LABEL_MANAGED_BY: OPERATOR, LABEL_PART_OF: PART_OF, LABEL_IMPORTED_FROM: "configmap", "mine": "x"},
            "ownerReferences": [{"uid": "stack"}, {"uid": "other"}], "managedFields": managers}, "spec": {}})
    }

    /// The managed fields that each way of taking an object over leaves.
    fn takeovers() -> Vec<Value> {
        let annotation = json!({"f:metadata": {"f:annotations": {".": {}, LAST_APPLIED: {}}}});
        vec![
            // Client-side apply of the very same values.
            json!({"manager": "kubectl-client-side-apply", "operation": "Update", "fieldsV1": annotation}),
            json!({"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:spec": {"f:addresses": {}}}}),
            json!({"manager": "kubectl-edit", "operation": "Update", "fieldsV1": {"f:spec": {"f:addresses": {}}}}),
            json!({"manager": "argocd", "operation": "Apply", "fieldsV1": {"f:metadata": {"f:labels": {"f:a": {}}}}}),
        ]
    }

    #[test]
    fn an_imported_object_that_a_user_applies_or_edits_is_the_users() {
        for theirs in takeovers() {
            let manager = theirs["manager"].as_str().unwrap().to_owned();
            assert_eq!(taken_over_by(&pool(json!([ours(), theirs]))), Some(manager.as_str()));
        }
    }

    #[test]
    fn a_status_a_label_and_an_annotation_take_nothing_over() {
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
    fn a_copy_that_carries_our_label_and_owner_is_not_ours() {
        let copy =
            pool(json!([{"manager": "kubectl-create", "operation": "Update", "fieldsV1": {"f:spec": {}}}]));
        assert!(!is_operators(&copy, false));
        let original = pool(json!([ours()]));
        assert!(is_operators(&original, false));
        let unlabelled = json!({"metadata": {"managedFields": [ours()]}});
        assert!(is_operators(&unlabelled, true) && !is_operators(&unlabelled, false));
        assert!(is_operators(&pool(json!([])), false), "cleared managed fields tell nothing");
    }

    #[test]
    fn who_wrote_an_object_last_is_named_and_neither_the_operator_nor_who_writes_its_status() {
        let entry = |manager: &str, subresource: &str, time: &str| json!({"manager": manager, "operation": "Update", "subresource": subresource, "time": time});
        let written = pool(json!([
            entry("kubectl", "", "2026-01-01T00:00:00Z"),
            entry("rancher", "", "2026-01-01T00:00:07Z"),
            entry("lbstack-controller", "status", "2026-01-01T00:00:08Z"),
            entry(OPERATOR, "", "2026-01-01T00:00:09Z"),
        ]));
        assert_eq!(last_writer(&written), "rancher");
        let undated = json!([{"manager": "b"}, {"manager": "a"}, {"manager": "a"}]);
        assert_eq!(last_writer(&pool(undated)), "a, b");
        assert_eq!(last_writer(&pool(json!([ours()]))), "something that the managed fields do not name");
    }

    #[test]
    fn what_is_released_carries_no_mark_of_ours_and_everything_of_others() {
        let theirs = takeovers().remove(0);
        let released = released(&pool(json!([ours(), theirs])), "stack");
        assert!(!is_marked(&released, "stack") && !is_owned_by(&released, "stack"));
        assert_eq!(released["metadata"]["labels"], json!({"mine": "x"}));
        assert_eq!(released["metadata"]["ownerReferences"], json!([{"uid": "other"}]));
        assert_eq!(released["metadata"]["managedFields"], json!([theirs]));
        assert!(!is_operators(&released, true), "an inventory that is not up to date does not bring it back");
        assert_eq!(maker(&released), "kubectl-client-side-apply");
    }
}
