//! Takeovers by users that leave no managed field of theirs, or that race with a write of the operator.

use crds::names::OPERATOR;

use super::*;
use crate::fake_api::NAMESPACE;

/// Removes all labels of an object; no managed field shows who did.
fn unlabel(env: &TestEnv, at: &str) {
    env.fake.edit(at, &Value::Null, |object| object["metadata"]["labels"] = json!({}));
}

/// Removes a field of the spec: nobody manages it any more.
fn remove_field(env: &TestEnv, at: &str, field: &str) {
    env.fake.edit(at, &Value::Null, |object| {
        object["spec"].as_object_mut().unwrap().remove(field);
        for entry in object["metadata"]["managedFields"].as_array_mut().unwrap() {
            entry["fieldsV1"]["f:spec"].as_object_mut().unwrap().remove(&format!("f:{field}"));
        }
    });
}

fn owners(env: &TestEnv, at: &str) -> Value {
    env.fake.get(at).unwrap()["metadata"]["ownerReferences"].clone()
}

#[tokio::test(start_paused = true)]
async fn an_imported_object_without_our_label_is_released_from_the_stack() {
    let mut env = imported().await;
    let pool = path("ipaddresspools", "default");
    unlabel(&env, &pool);
    env.settle().await;
    assert_eq!(owners(&env, &pool), json!([]), "garbage collection would delete it with the stack");
    assert!(env.fake.notes().iter().any(|note| note.contains("IPAddressPool default is managed by")));
    env.fake.delete(CONFIG_MAP);
    env.settle().await;
    assert_eq!(env.fake.names("ipaddresspools"), ["default"]);
    env.delete_stack().await;
    assert_eq!(env.fake.names("ipaddresspools"), ["default"]);
}

#[tokio::test(start_paused = true)]
async fn an_imported_object_that_loses_our_label_and_its_source_outlives_the_stack() {
    let mut env = imported().await;
    let pool = path("ipaddresspools", "default");
    unlabel(&env, &pool);
    env.fake.delete(CONFIG_MAP);
    env.settle().await;
    env.fake.edit(NAMESPACE, &Value::Null, |_| {});
    env.delete_stack().await;
    assert_eq!(env.fake.names("ipaddresspools"), ["default"]);
    assert_eq!(owners(&env, &pool), json!([]), "garbage collection would delete it with the stack");
    assert!(env.fake.get(NAMESPACE).is_some(), "an object of a user keeps its namespace");
    assert_eq!(env.fake.get(STACK).unwrap()["metadata"]["finalizers"], json!([]), "the deletion completes");
}

#[tokio::test(start_paused = true)]
async fn an_edit_that_only_removes_a_field_of_an_imported_object_is_kept() {
    let mut env = imported().await;
    let pool = path("ipaddresspools", "extra");
    remove_field(&env, &pool, "autoAssign");
    env.settle().await;
    assert_eq!(spec_of(&env, &pool).get("autoAssign"), None, "{}", spec_of(&env, &pool));
    assert!(!env.has_ownership_marks(&pool));
    assert!(
        env.condition("ConfigurationValid").contains("IPAddressPool extra"),
        "{}",
        env.condition("ConfigurationValid")
    );
    env.fake.delete(CONFIG_MAP);
    env.settle().await;
    assert_eq!(env.fake.names("ipaddresspools"), ["extra"]);
}

#[tokio::test(start_paused = true)]
async fn a_field_that_the_source_adds_or_the_api_server_prunes_is_no_takeover() {
    let mut env = imported().await;
    env.config_map(
        &LEGACY_CONFIG.replace("addresses: [172.30.0.200", "auto-assign: false, addresses: [172.30.0.200"),
    );
    env.settle().await;
    let pool = path("ipaddresspools", "default");
    assert_eq!(spec_of(&env, &pool)["autoAssign"], false);
    assert!(env.has_ownership_marks(&pool));
    env.fake.edit(&pool, &Value::Null, |object| {
        object["spec"].as_object_mut().unwrap().remove("autoAssign");
    });
    env.settle().await;
    assert!(env.has_ownership_marks(&pool), "its managed fields still have the field");
}

#[tokio::test(start_paused = true)]
async fn an_edit_just_before_a_repair_is_kept() {
    let mut env = imported().await;
    let pool = path("ipaddresspools", "default");
    let (edited, at) = (json!({"addresses": ["172.30.0.200-172.30.0.219"]}), pool.clone());
    let spec = edited.clone();
    env.fake.before_write(format!("PATCH {pool}"), move |fake| {
        let fields = json!({"f:spec": {"f:addresses": {}}});
        let manager = json!({"manager": "kubectl-edit", "operation": "Update", "fieldsV1": fields});
        fake.edit(&at, &manager, |object| object["spec"] = spec);
    });
    env.config_map(&LEGACY_CONFIG.replace("172.30.0.210", "172.30.0.212"));
    env.settle().await;
    assert_eq!(spec_of(&env, &pool), edited);
    assert!(!env.has_ownership_marks(&pool));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_a_user_creates_just_before_ours_keeps_its_values() {
    let mut env = TestEnv::new(json!({})).await;
    let pool = path("ipaddresspools", "lan");
    let (spec, at) = (json!({"addresses": ["10.9.0.0/24"]}), pool.clone());
    let theirs = spec.clone();
    env.fake.before_write(format!("PATCH {pool}"), move |fake| {
        let fields = json!({"f:spec": {"f:addresses": {}}});
        let manager = json!({"manager": "kubectl-create", "operation": "Update", "fieldsV1": fields});
        fake.edit(&at, &manager, |object| object["spec"] = theirs);
    });
    set_spec(&mut env, inline_pools(&json!([{"name": "lan", "addresses": ["10.0.0.0/24"]}]))).await;
    assert_eq!(spec_of(&env, &pool), spec);
    let managers = env.fake.get(&pool).unwrap()["metadata"]["managedFields"].to_string();
    assert!(!managers.contains(OPERATOR), "{managers}");
}
