//! Whoever else writes what the operator writes is not answered without end, and is named.

use super::*;
use crate::fake::NAMESPACE;

const RANCHER: &str = "rancher";

fn by(manager: &str) -> Value {
    json!({"manager": manager, "operation": "Update", "time": "2026-01-01T00:00:00Z",
        "fieldsV1": {"f:metadata": {"f:annotations": {"f:by": {}}}}})
}

/// In ten turns, somebody reverses what the operator writes. Returns the operator's writes, without those of the
/// status.
async fn contend(rig: &mut Rig, mut reverse: impl FnMut(&Fake)) -> Vec<String> {
    let mut writes = Vec::new();
    for _ in 0..10 {
        reverse(&rig.fake);
        let _ = tokio::time::timeout(Duration::from_secs(1), rig.changed.notified()).await;
        rig.fake.take_writes();
        rig.reconciler.reconcile().await;
        writes.extend(rig.fake.take_writes());
    }
    writes.retain(|write| !write.ends_with("/status"));
    writes
}

/// So many writes of one object, the first one included, and no more.
fn assert_bounded(writes: &[String]) {
    let mut counted = std::collections::BTreeMap::<_, usize>::new();
    for write in writes {
        *counted.entry(write).or_default() += 1;
    }
    assert!(!writes.is_empty(), "what is reversed for the first time is put right");
    // What is repaired by a patch is applied after it.
    assert!(counted.values().all(|count| *count <= 6), "{counted:?}");
}

fn remove_labels(object: &mut Value) {
    let labels = object["metadata"]["labels"].as_object_mut().unwrap();
    labels.retain(|label, _| !label.contains("pod-security"));
}

#[tokio::test(start_paused = true)]
async fn requirement_3_labels_that_somebody_takes_off_the_namespace_again_and_again_are_left_alone() {
    let fake = Fake::default();
    fake.edit(STACK, &Value::Null, |stack| stack["spec"] = json!({}));
    fake.edit(NAMESPACE, &by("kubectl"), |namespace| namespace["metadata"]["labels"] = json!({"a": "b"}));
    let mut rig = Rig::on(fake).await;
    assert_eq!(rig.fake.get(NAMESPACE).unwrap()["metadata"]["labels"].as_object().unwrap().len(), 4);
    let writes = contend(&mut rig, |fake| fake.edit(NAMESPACE, &by(RANCHER), remove_labels)).await;
    assert_eq!(writes.len(), 3, "{writes:?}");
    let degraded = rig.condition("Degraded");
    assert!(degraded.starts_with("True ContestedObject: Namespace metallb-system: "), "{degraded}");
    assert!(degraded.contains(RANCHER) && degraded.contains("stop what removes them"), "{degraded}");
    rig.fake.edit(NAMESPACE, &by(RANCHER), |namespace| {
        for (label, value) in render::POD_SECURITY {
            namespace["metadata"]["labels"][label] = json!(value);
        }
    });
    rig.settle().await;
    assert!(!rig.condition("Degraded").contains("Contested"), "{}", rig.condition("Degraded"));
}

#[tokio::test(start_paused = true)]
async fn requirement_3_a_copy_that_gets_the_labels_of_ours_again_and_again_is_left_alone() {
    let mut rig = Rig::new(inline(&json!([{"name": "lan", "addresses": ["10.0.0.0/24"]}]))).await;
    let original = rig.fake.get(&path("ipaddresspools", "lan")).unwrap();
    let copy = path("ipaddresspools", "copy");
    let writes = contend(&mut rig, |fake| {
        fake.edit(&copy, &by("argocd-controller"), |object| {
            object["metadata"]["labels"] = original["metadata"]["labels"].clone();
            object["metadata"]["ownerReferences"] = original["metadata"]["ownerReferences"].clone();
            object["spec"] = json!({"addresses": ["10.0.1.0/24"]});
        });
    })
    .await;
    assert_eq!(writes.len(), 3, "{writes:?}");
    let degraded = rig.condition("Degraded");
    assert!(degraded.starts_with("True ContestedObject: IPAddressPool copy: "), "{degraded}");
    assert!(degraded.contains("argocd-controller"), "{degraded}");
    assert_eq!(rig.fake.names("ipaddresspools"), ["copy", "lan"]);
}

#[tokio::test(start_paused = true)]
async fn requirement_3_a_finalizer_that_somebody_removes_again_and_again_is_left_alone_and_holds_nothing_up()
{
    let mut rig = Rig::new(json!({})).await;
    let writes = contend(&mut rig, |fake| {
        fake.edit(STACK, &by("argocd-controller"), |stack| stack["metadata"]["finalizers"] = json!([]));
    })
    .await;
    assert_eq!(writes.len(), 2, "beside the first one: {writes:?}");
    let degraded = rig.condition("Degraded");
    assert!(degraded.starts_with("True ContestedObject: the stack: argocd-controller removes"), "{degraded}");
    rig.fake.delete(SPEAKER);
    rig.settle().await;
    assert!(rig.fake.get(SPEAKER).is_some());
}

#[tokio::test(start_paused = true)]
async fn requirement_3_a_finalizer_that_cannot_be_set_is_reported_and_holds_nothing_up() {
    let fake = Fake::default();
    fake.refuse(format!("PATCH {STACK}"), 403, "a policy forbids it");
    fake.edit(STACK, &Value::Null, |stack| stack["spec"] = json!({}));
    let rig = Rig::on(fake).await;
    assert!(rig.fake.get(SPEAKER).is_some());
    assert!(rig.condition("Degraded").contains("a policy forbids it"), "{}", rig.condition("Degraded"));
}

/// Where each object is that the operator makes, apart from the namespace.
fn made(rig: &Rig) -> Vec<String> {
    let mut paths = rig.fake.paths();
    paths.retain(|path| path != STACK && path != NAMESPACE);
    assert!(paths.len() >= 15, "{paths:?}");
    paths
}

async fn whole_stack() -> Rig {
    Rig::new(inline(&json!([{"name": "lan", "addresses": ["10.0.0.0/24"], "quotas": [{"maxAddresses": 3}]}])))
        .await
}

#[tokio::test(start_paused = true)]
async fn requirement_3_no_object_is_changed_back_without_end() {
    let mut rig = whole_stack().await;
    let paths = made(&rig);
    let writes = contend(&mut rig, |fake| {
        for path in &paths {
            fake.edit(path, &by(RANCHER), |object| object["metadata"]["labels"] = json!({}));
        }
    })
    .await;
    assert_bounded(&writes);
    let degraded = rig.condition("Degraded");
    assert!(degraded.starts_with("True ContestedObject: "), "{degraded}");
}

#[tokio::test(start_paused = true)]
async fn requirement_3_no_object_is_made_anew_without_end() {
    let mut rig = whole_stack().await;
    let paths = made(&rig);
    let writes = contend(&mut rig, |fake| paths.iter().for_each(|path| fake.delete(path))).await;
    assert_bounded(&writes);
    let degraded = rig.condition("Degraded");
    assert!(degraded.starts_with("True ContestedObject: "), "{degraded}");
    assert!(degraded.contains("somebody deletes it again and again"), "{degraded}");
    tokio::time::sleep(Duration::from_mins(10)).await;
    rig.settle().await;
    assert_eq!(made(&rig), paths, "nobody deletes them any more");
}

#[tokio::test(start_paused = true)]
async fn requirement_3_no_object_is_removed_without_end() {
    let mut rig = whole_stack().await;
    let at = path("ipaddresspools", "lan");
    let pool = rig.fake.get(&at).unwrap();
    respec(&mut rig, json!({})).await;
    assert!(rig.fake.get(&at).is_none());
    let writes = contend(&mut rig, |fake| {
        fake.edit(&at, &Value::Null, |object| {
            object["metadata"]["labels"] = pool["metadata"]["labels"].clone();
            object["metadata"]["ownerReferences"] = pool["metadata"]["ownerReferences"].clone();
            object["metadata"]["managedFields"] =
                json!([pool["metadata"]["managedFields"][0], by("another-operator")]);
        });
    })
    .await;
    assert!(writes.len() <= 3, "{writes:?}");
    let degraded = rig.condition("Degraded");
    assert!(degraded.starts_with("True ContestedObject: IPAddressPool lan: "), "{degraded}");
    assert!(degraded.contains("another-operator"), "{degraded}");
    // What the stack itself wants and does not want in turns is nobody else's doing.
    for _ in 0..5 {
        respec(&mut rig, inline(&json!([{"name": "lan", "addresses": ["10.0.0.0/24"]}]))).await;
        respec(&mut rig, json!({})).await;
        assert!(rig.fake.get(&at).is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn requirement_3_the_status_of_the_stack_is_not_fought_over() {
    let mut rig = Rig::new(json!({})).await;
    let other =
        json!({"manager": "other-operator", "operation": "Apply", "subresource": "status", "fieldsV1": {}});
    let mut writes = 0;
    for _ in 0..200 {
        rig.fake.edit(STACK, &other, |stack| stack["status"]["version"] = json!("9.9.9"));
        let _ = tokio::time::timeout(Duration::from_secs(1), rig.changed.notified()).await;
        rig.fake.take_writes();
        rig.reconciler.reconcile().await;
        writes += rig.fake.take_writes().iter().filter(|write| write.ends_with("/default/status")).count();
    }
    assert!(writes <= 4, "{writes} writes in two hundred looks");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let notes = rig.fake.notes();
    assert!(
        notes.iter().any(|note| note.contains("is written by other-operator again and again")),
        "{notes:?}"
    );
}
