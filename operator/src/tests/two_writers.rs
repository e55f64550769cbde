//! Conflicts with another writer are not repeated without limit, and the other writer is named.

use super::*;
use crate::fake_api::NAMESPACE;

const RANCHER: &str = "rancher";

fn by(manager: &str) -> Value {
    json!({"manager": manager, "operation": "Update", "time": "2026-01-01T00:00:00Z",
        "fieldsV1": {"f:metadata": {"f:annotations": {"f:by": {}}}}})
}

/// Reverts ten times what the operator writes. Returns the operator's writes, without those of the status.
async fn contend(env: &mut TestEnv, mut revert: impl FnMut(&FakeApiServer)) -> Vec<String> {
    let mut writes = Vec::new();
    for _ in 0..10 {
        revert(&env.fake);
        let _ = tokio::time::timeout(Duration::from_secs(1), env.changed.notified()).await;
        env.fake.take_writes();
        env.reconcile().await;
        writes.extend(env.fake.take_writes());
    }
    writes.retain(|write| !write.ends_with("/status"));
    writes
}

/// Asserts the maximum number of writes per object.
fn assert_bounded(writes: &[String]) {
    let mut counted = std::collections::BTreeMap::<_, usize>::new();
    for write in writes {
        *counted.entry(write).or_default() += 1;
    }
    assert!(!writes.is_empty(), "the first change is repaired");
    // A repair may be a patch followed by an apply.
    assert!(counted.values().all(|count| *count <= 6), "{counted:?}");
}

fn remove_labels(object: &mut Value) {
    let labels = object["metadata"]["labels"].as_object_mut().unwrap();
    labels.retain(|label, _| !label.contains("pod-security"));
}

#[tokio::test(start_paused = true)]
async fn namespace_labels_that_somebody_keeps_removing_are_not_added_without_limit() {
    let fake = FakeApiServer::default();
    fake.edit(STACK, &Value::Null, |stack| stack["spec"] = json!({}));
    fake.edit(NAMESPACE, &by("kubectl"), |namespace| namespace["metadata"]["labels"] = json!({"a": "b"}));
    let mut env = TestEnv::start(fake).await;
    assert_eq!(env.fake.get(NAMESPACE).unwrap()["metadata"]["labels"].as_object().unwrap().len(), 4);
    let writes = contend(&mut env, |fake| fake.edit(NAMESPACE, &by(RANCHER), remove_labels)).await;
    assert_eq!(writes.len(), 3, "{writes:?}");
    let degraded = env.condition("Degraded");
    assert!(degraded.starts_with("True ContestedObject: Namespace metallb-system: "), "{degraded}");
    assert!(degraded.contains(RANCHER) && degraded.contains("stop the other writer"), "{degraded}");
    env.fake.edit(NAMESPACE, &by(RANCHER), |namespace| {
        for (label, value) in render::POD_SECURITY {
            namespace["metadata"]["labels"][label] = json!(value);
        }
    });
    env.settle().await;
    assert!(!env.condition("Degraded").contains("Contested"), "{}", env.condition("Degraded"));
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_keeps_getting_our_labels_is_left_alone() {
    let mut env = TestEnv::new(inline_pools(&json!([{"name": "lan", "addresses": ["10.0.0.0/24"]}]))).await;
    let original = env.fake.get(&path("ipaddresspools", "lan")).unwrap();
    let copy = path("ipaddresspools", "copy");
    let writes = contend(&mut env, |fake| {
        fake.edit(&copy, &by("argocd-controller"), |object| {
            object["metadata"]["labels"] = original["metadata"]["labels"].clone();
            object["metadata"]["ownerReferences"] = original["metadata"]["ownerReferences"].clone();
            object["spec"] = json!({"addresses": ["10.0.1.0/24"]});
        });
    })
    .await;
    assert_eq!(writes.len(), 3, "{writes:?}");
    let degraded = env.condition("Degraded");
    assert!(degraded.starts_with("True ContestedObject: IPAddressPool copy: "), "{degraded}");
    assert!(degraded.contains("argocd-controller"), "{degraded}");
    assert_eq!(env.fake.names("ipaddresspools"), ["copy", "lan"]);
}

#[tokio::test(start_paused = true)]
async fn a_finalizer_that_somebody_keeps_removing_is_left_alone_and_delays_nothing() {
    let mut env = TestEnv::new(json!({})).await;
    let writes = contend(&mut env, |fake| {
        fake.edit(STACK, &by("argocd-controller"), |stack| stack["metadata"]["finalizers"] = json!([]));
    })
    .await;
    assert_eq!(writes.len(), 2, "beside the first one: {writes:?}");
    let degraded = env.condition("Degraded");
    assert!(
        degraded.starts_with("True ContestedObject: the stack: argocd-controller keeps removing"),
        "{degraded}"
    );
    env.fake.delete(SPEAKER);
    env.settle().await;
    assert!(env.fake.get(SPEAKER).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_finalizer_that_cannot_be_set_is_reported_and_delays_nothing() {
    let fake = FakeApiServer::default();
    fake.fail(format!("PATCH {STACK}"), 403, "a policy forbids it");
    fake.edit(STACK, &Value::Null, |stack| stack["spec"] = json!({}));
    let env = TestEnv::start(fake).await;
    assert!(env.fake.get(SPEAKER).is_some());
    assert!(env.condition("Degraded").contains("a policy forbids it"), "{}", env.condition("Degraded"));
}

/// The paths of all objects that the operator creates, apart from the namespace.
fn created_paths(env: &TestEnv) -> Vec<String> {
    let mut paths = env.fake.paths();
    paths.retain(|path| path != STACK && path != NAMESPACE);
    assert!(paths.len() >= 15, "{paths:?}");
    paths
}

async fn stack_with_pool() -> TestEnv {
    TestEnv::new(inline_pools(
        &json!([{"name": "lan", "addresses": ["10.0.0.0/24"], "quotas": [{"maxAddresses": 3}]}]),
    ))
    .await
}

#[tokio::test(start_paused = true)]
async fn no_object_is_repaired_without_limit() {
    let mut env = stack_with_pool().await;
    let paths = created_paths(&env);
    let writes = contend(&mut env, |fake| {
        for path in &paths {
            fake.edit(path, &by(RANCHER), |object| object["metadata"]["labels"] = json!({}));
        }
    })
    .await;
    assert_bounded(&writes);
    let degraded = env.condition("Degraded");
    assert!(degraded.starts_with("True ContestedObject: "), "{degraded}");
}

#[tokio::test(start_paused = true)]
async fn no_object_is_recreated_without_limit() {
    let mut env = stack_with_pool().await;
    let paths = created_paths(&env);
    let writes = contend(&mut env, |fake| paths.iter().for_each(|path| fake.delete(path))).await;
    assert_bounded(&writes);
    let degraded = env.condition("Degraded");
    assert!(degraded.starts_with("True ContestedObject: "), "{degraded}");
    assert!(degraded.contains("another client keeps deleting it"), "{degraded}");
    tokio::time::sleep(Duration::from_mins(10)).await;
    env.settle().await;
    assert_eq!(created_paths(&env), paths, "nobody deletes them any more");
}

#[tokio::test(start_paused = true)]
async fn no_object_is_deleted_without_limit() {
    let mut env = stack_with_pool().await;
    let at = path("ipaddresspools", "lan");
    let pool = env.fake.get(&at).unwrap();
    set_spec(&mut env, json!({})).await;
    assert!(env.fake.get(&at).is_none());
    let writes = contend(&mut env, |fake| {
        fake.edit(&at, &Value::Null, |object| {
            object["metadata"]["labels"] = pool["metadata"]["labels"].clone();
            object["metadata"]["ownerReferences"] = pool["metadata"]["ownerReferences"].clone();
            object["metadata"]["managedFields"] =
                json!([pool["metadata"]["managedFields"][0], by("another-operator")]);
        });
    })
    .await;
    assert!(writes.len() <= 3, "{writes:?}");
    let degraded = env.condition("Degraded");
    assert!(degraded.starts_with("True ContestedObject: IPAddressPool lan: "), "{degraded}");
    assert!(degraded.contains("another-operator"), "{degraded}");
    // Changes of the stack itself are no conflict with another writer.
    for _ in 0..5 {
        set_spec(&mut env, inline_pools(&json!([{"name": "lan", "addresses": ["10.0.0.0/24"]}]))).await;
        set_spec(&mut env, json!({})).await;
        assert!(env.fake.get(&at).is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn the_status_of_the_stack_is_not_overwritten_without_limit() {
    let mut env = TestEnv::new(json!({})).await;
    let other =
        json!({"manager": "other-operator", "operation": "Apply", "subresource": "status", "fieldsV1": {}});
    let mut writes = 0;
    for _ in 0..200 {
        env.fake.edit(STACK, &other, |stack| stack["status"]["version"] = json!("9.9.9"));
        let _ = tokio::time::timeout(Duration::from_secs(1), env.changed.notified()).await;
        env.fake.take_writes();
        env.reconcile().await;
        writes += env.fake.take_writes().iter().filter(|write| write.ends_with("/default/status")).count();
    }
    assert!(writes <= 4, "{writes} writes in two hundred reconciliations");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let notes = env.fake.notes();
    assert!(
        notes.iter().any(|note| note.contains("other-operator keeps overwriting the status")),
        "{notes:?}"
    );
}
