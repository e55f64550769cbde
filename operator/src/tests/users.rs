//! Objects that users take over in ways that leave no managed field of theirs, or at the same moment as the operator writes.

use crds::names::OPERATOR;

use super::*;
use crate::fake::NAMESPACE;

/// Somebody takes every label off an object; that leaves nothing of his among the managed fields.
fn unlabel(rig: &Rig, at: &str) {
    rig.fake.edit(at, &Value::Null, |object| object["metadata"]["labels"] = json!({}));
}

/// Somebody removes a field of the spec: whoever managed it does not any more.
fn remove_field(rig: &Rig, at: &str, field: &str) {
    rig.fake.edit(at, &Value::Null, |object| {
        object["spec"].as_object_mut().unwrap().remove(field);
        for entry in object["metadata"]["managedFields"].as_array_mut().unwrap() {
            entry["fieldsV1"]["f:spec"].as_object_mut().unwrap().remove(&format!("f:{field}"));
        }
    });
}

fn owners(rig: &Rig, at: &str) -> Value {
    rig.fake.get(at).unwrap()["metadata"]["ownerReferences"].clone()
}

#[tokio::test(start_paused = true)]
async fn requirement_2_an_imported_object_without_our_label_is_released_from_the_stack() {
    let mut rig = imported().await;
    let pool = path("ipaddresspools", "default");
    unlabel(&rig, &pool);
    rig.settle().await;
    assert_eq!(owners(&rig, &pool), json!([]), "garbage collection would remove it with the stack");
    assert!(rig.fake.notes().iter().any(|note| note.contains("IPAddressPool default is managed by")));
    rig.fake.delete(CONFIG_MAP);
    rig.settle().await;
    assert_eq!(rig.fake.names("ipaddresspools"), ["default"]);
    rig.delete_stack().await;
    assert_eq!(rig.fake.names("ipaddresspools"), ["default"]);
}

#[tokio::test(start_paused = true)]
async fn requirement_2_an_imported_object_that_loses_our_label_and_its_source_at_once_outlives_the_stack() {
    let mut rig = imported().await;
    let pool = path("ipaddresspools", "default");
    unlabel(&rig, &pool);
    rig.fake.delete(CONFIG_MAP);
    rig.settle().await;
    rig.fake.edit(NAMESPACE, &Value::Null, |_| {});
    rig.delete_stack().await;
    assert_eq!(rig.fake.names("ipaddresspools"), ["default"]);
    assert_eq!(owners(&rig, &pool), json!([]), "garbage collection would remove it with the stack");
    assert!(rig.fake.get(NAMESPACE).is_some(), "what is a user's keeps its namespace");
    assert_eq!(rig.fake.get(STACK).unwrap()["metadata"]["finalizers"], json!([]), "the deletion completes");
}

#[tokio::test(start_paused = true)]
async fn requirement_2_an_edit_that_only_removes_a_field_of_an_imported_object_is_kept() {
    let mut rig = imported().await;
    let pool = path("ipaddresspools", "extra");
    remove_field(&rig, &pool, "autoAssign");
    rig.settle().await;
    assert_eq!(spec_of(&rig, &pool).get("autoAssign"), None, "{}", spec_of(&rig, &pool));
    assert!(!rig.is_marked(&pool));
    assert!(
        rig.condition("ConfigurationValid").contains("IPAddressPool extra"),
        "{}",
        rig.condition("ConfigurationValid")
    );
    rig.fake.delete(CONFIG_MAP);
    rig.settle().await;
    assert_eq!(rig.fake.names("ipaddresspools"), ["extra"]);
}

#[tokio::test(start_paused = true)]
async fn a_field_that_the_source_adds_or_the_api_server_prunes_takes_nothing_over() {
    let mut rig = imported().await;
    rig.config_map(&OLD.replace("addresses: [172.30.0.200", "auto-assign: false, addresses: [172.30.0.200"));
    rig.settle().await;
    let pool = path("ipaddresspools", "default");
    assert_eq!(spec_of(&rig, &pool)["autoAssign"], false);
    assert!(rig.is_marked(&pool));
    rig.fake.edit(&pool, &Value::Null, |object| {
        object["spec"].as_object_mut().unwrap().remove("autoAssign");
    });
    rig.settle().await;
    assert!(rig.is_marked(&pool), "its managed fields still have the field");
}

#[tokio::test(start_paused = true)]
async fn requirement_2_an_edit_that_comes_just_before_a_repair_is_kept() {
    let mut rig = imported().await;
    let pool = path("ipaddresspools", "default");
    let (edited, at) = (json!({"addresses": ["172.30.0.200-172.30.0.219"]}), pool.clone());
    let spec = edited.clone();
    rig.fake.interject(format!("PATCH {pool}"), move |fake| {
        let fields = json!({"f:spec": {"f:addresses": {}}});
        let manager = json!({"manager": "kubectl-edit", "operation": "Update", "fieldsV1": fields});
        fake.edit(&at, &manager, |object| object["spec"] = spec);
    });
    rig.config_map(&OLD.replace("172.30.0.210", "172.30.0.212"));
    rig.settle().await;
    assert_eq!(spec_of(&rig, &pool), edited);
    assert!(!rig.is_marked(&pool));
}

#[tokio::test(start_paused = true)]
async fn requirement_2_an_object_that_a_user_makes_just_before_ours_keeps_its_values() {
    let mut rig = Rig::new(json!({})).await;
    let pool = path("ipaddresspools", "lan");
    let (spec, at) = (json!({"addresses": ["10.9.0.0/24"]}), pool.clone());
    let theirs = spec.clone();
    rig.fake.interject(format!("PATCH {pool}"), move |fake| {
        let fields = json!({"f:spec": {"f:addresses": {}}});
        let manager = json!({"manager": "kubectl-create", "operation": "Update", "fieldsV1": fields});
        fake.edit(&at, &manager, |object| object["spec"] = theirs);
    });
    respec(&mut rig, inline(&json!([{"name": "lan", "addresses": ["10.0.0.0/24"]}]))).await;
    assert_eq!(spec_of(&rig, &pool), spec);
    let managers = rig.fake.get(&pool).unwrap()["metadata"]["managedFields"].to_string();
    assert!(!managers.contains(OPERATOR), "{managers}");
}
