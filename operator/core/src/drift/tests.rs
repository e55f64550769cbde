use serde_json::json;

use super::*;

fn desired() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "speaker", "labels": {"app":
        "x"}},
        "spec": {"template": {"spec": {"containers": [{"name": "speaker", "image": "i:1", "args": ["a", "b"],
            "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
            "resources": {"limits": {"cpu": "1000m"}}}]}}}})
}

fn ours() -> Value {
    json!({"manager": "lbstack-operator", "operation": "Apply", "fieldsV1": {
        "f:metadata": {"f:labels": {"f:app": {}}},
        "f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"speaker\"}": {
            ".": {}, "f:name": {}, "f:image": {}, "f:args": {},
            "f:env": {"k:{\"name\":\"NODE\"}": {".": {}, "f:name": {}, "f:valueFrom": {}}},
            "f:resources": {}}}}}}}})
}

/// As the API server stores it: defaults added, quantities in canonical form.
fn live(others: Vec<Value>) -> Value {
    let mut live = desired();
    let container = &mut live["spec"]["template"]["spec"]["containers"][0];
    container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] = json!("v1");
    container["resources"]["limits"]["cpu"] = json!("1");
    container["terminationMessagePath"] = json!("/dev/termination-log");
    live["spec"]["revisionHistoryLimit"] = json!(10);
    live["status"] = json!({"numberReady": 3});
    let mut entries = vec![ours()];
    entries.extend(others);
    live["metadata"]["managedFields"] = json!(entries);
    live
}

fn edit(fields: &Value) -> Value {
    json!({"manager": "kubectl-edit", "operation": "Update", "fieldsV1": fields})
}

fn in_container(fields: &Value) -> Value {
    edit(&json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"speaker\"}":
            fields}}}}}))
}

fn container(live: &mut Value) -> &mut Value {
    &mut live["spec"]["template"]["spec"]["containers"][0]
}

#[test]
fn defaults_canonical_quantities_and_status_are_no_drift() {
    assert_eq!(drift(&desired(), &live(vec![]), Extent::Whole), Drift::default());
}

#[test]
fn foreign_labels_annotations_and_a_rollout_restart_are_no_drift() {
    let restart = json!({"manager": "kubectl-rollout", "operation": "Update", "fieldsV1": {
        "f:spec": {"f:template": {"f:metadata": {"f:annotations": {".": {},
            "f:kubectl.kubernetes.io/restartedAt": {}}}}},
        "f:metadata": {"f:annotations": {"f:note": {}}}}});
    let mut live = live(vec![restart]);
    live["spec"]["template"]["metadata"] =
        json!({"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}});
    live["metadata"]["annotations"] = json!({"note": "x"});
    assert!(drift(&desired(), &live, Extent::Whole).is_none());
}

#[test]
fn an_edited_field_is_drift_and_names_the_manager() {
    let mut live = live(vec![in_container(&json!({"f:image": {}}))]);
    container(&mut live)["image"] = json!("evil:1");
    let drift = drift(&desired(), &live, Extent::Whole);
    assert_eq!(drift.differs, ["/spec/template/spec/containers/0/image"]);
    assert_eq!(drift.managers, BTreeSet::from(["kubectl-edit".to_owned()]));
    assert_eq!(drift.foreign, Vec::<String>::new());
    assert_eq!(container(&mut repaired(&desired(), &live))["image"], "i:1");
}

#[test]
fn values_that_others_add_are_removed_with_their_subtree() {
    let additions = in_container(&json!({
        "f:env": {"k:{\"name\":\"X\"}": {".": {}, "f:name": {}, "f:value": {}}},
        "f:lifecycle": {"f:preStop": {"f:exec": {"f:command": {}}}},
    }));
    let sidecar = edit(&json!({"f:spec": {"f:template": {"f:spec": {
        "f:hostPID": {},
        "f:containers": {"k:{\"name\":\"side\"}": {".": {}, "f:name": {}, "f:image": {}}}}}}}));
    let mut live = live(vec![additions, sidecar]);
    container(&mut live)["env"].as_array_mut().unwrap().insert(0, json!({"name": "X", "value": "1"}));
    container(&mut live)["lifecycle"] = json!({"preStop": {"exec": {"command": ["x"]}}});
    live["spec"]["template"]["spec"]["hostPID"] = json!(true);
    live["spec"]["template"]["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "side", "image": "s"}));
    let found = drift(&desired(), &live, Extent::Whole);
    assert_eq!(found.differs, Vec::<String>::new());
    assert_eq!(
        found.foreign,
        [
            "/spec/template/spec/containers/0/env/0",
            "/spec/template/spec/containers/0/lifecycle",
            "/spec/template/spec/containers/1",
            "/spec/template/spec/hostPID",
        ]
    );
    let repaired = repaired(&desired(), &live);
    assert_eq!(repaired["spec"]["template"]["spec"]["hostPID"], Value::Null);
    assert_eq!(repaired["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 1);
    assert_eq!(repaired["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap().len(), 1);
    assert_eq!(repaired["spec"]["revisionHistoryLimit"], 10, "defaults stay");
}

#[test]
fn an_environment_variable_changed_from_a_reference_to_a_value_is_repaired() {
    let mut live = live(vec![in_container(&json!({"f:env": {"k:{\"name\":\"NODE\"}": {"f:value": {}}}}))]);
    container(&mut live)["env"][0] = json!({"name": "NODE", "value": "x"});
    let found = drift(&desired(), &live, Extent::Whole);
    assert!(!found.differs.is_empty() && found.foreign == ["/spec/template/spec/containers/0/env/0/value"]);
    let mut repaired = repaired(&desired(), &live);
    assert_eq!(
        container(&mut repaired)["env"],
        desired()["spec"]["template"]["spec"]["containers"][0]["env"]
    );
}

#[test]
fn arguments_are_atomic() {
    let mut live = live(vec![in_container(&json!({"f:args": {}}))]);
    container(&mut live)["args"] = json!(["a", "b", "--more"]);
    assert_eq!(drift(&desired(), &live, Extent::Whole).differs, ["/spec/template/spec/containers/0/args"]);
}

#[test]
fn a_missing_label_is_drift_and_an_empty_list_may_be_absent() {
    let mut without_label = live(vec![]);
    without_label["metadata"]["labels"] = Value::Null;
    assert_eq!(drift(&desired(), &without_label, Extent::Rendered).differs, ["/metadata/labels/app"]);
    assert!(drift(&json!({"rules": []}), &json!({}), Extent::Whole).is_none());
}

#[test]
fn without_managed_fields_of_the_operator_nothing_is_removed() {
    let mut live = live(vec![in_container(&json!({"f:stdin": {}}))]);
    container(&mut live)["stdin"] = json!(true);
    live["metadata"]["managedFields"].as_array_mut().unwrap().remove(0);
    assert!(drift(&desired(), &live, Extent::Whole).is_none());
}

#[test]
fn fields_left_by_our_own_json_patch_are_removed() {
    let leftover = json!({"manager": "lbstack-operator", "operation": "Update",
        "fieldsV1": {"f:spec": {"f:minReadySeconds": {}}}});
    let mut live = live(vec![leftover]);
    live["spec"]["minReadySeconds"] = json!(5);
    let found = drift(&desired(), &live, Extent::Whole);
    assert_eq!(found.foreign, ["/spec/minReadySeconds"]);
    assert!(found.managers.is_empty(), "nobody else did it");
}

#[test]
fn a_field_that_is_no_longer_rendered_is_drift() {
    let mut desired = desired();
    desired["spec"]["template"]["spec"]["containers"][0].as_object_mut().unwrap().remove("resources");
    desired["metadata"]["labels"] = json!({});
    let drift = drift(&desired, &live(vec![]), Extent::Whole);
    assert_eq!(drift.differs, ["/metadata/labels/app", "/spec/template/spec/containers/0/resources"]);
}

#[test]
fn the_rendered_value_set_by_another_manager_is_no_drift() {
    let mut live = live(vec![in_container(&json!({"f:image": {}}))]);
    let fields = &mut live["metadata"]["managedFields"][0]["fieldsV1"];
    let ours = &mut fields["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"speaker\"}"];
    ours.as_object_mut().unwrap().remove("f:image");
    assert!(drift(&desired(), &live, Extent::Whole).is_none());
}

#[test]
fn an_object_without_kind_and_api_version_is_no_drift() {
    let mut live = live(vec![]);
    live.as_object_mut().unwrap().retain(|name, _| name != "kind" && name != "apiVersion");
    assert!(drift(&desired(), &live, Extent::Whole).is_none());
}

/// `nodeSelector` is an atomic map: whoever changes it owns all of it.
#[test]
fn a_label_added_to_the_node_selector_is_drift_and_is_removed() {
    let mut desired = desired();
    desired["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/os": "linux"});
    let theirs = edit(&json!({"f:spec": {"f:template": {"f:spec": {"f:nodeSelector": {}}}}}));
    let mut live = live(vec![theirs]);
    for added in [json!("ssd"), json!("")] {
        live["spec"]["template"]["spec"]["nodeSelector"] =
            json!({"kubernetes.io/os": "linux", "disk": added});
        let found = drift(&desired, &live, Extent::Whole);
        assert_eq!(found.differs, ["/spec/template/spec/nodeSelector/disk"]);
        assert_eq!(found.managers, BTreeSet::from(["kubectl-edit".to_owned()]));
        assert_eq!(
            repaired(&desired, &live)["spec"]["template"]["spec"]["nodeSelector"],
            json!({"kubernetes.io/os": "linux"})
        );
    }
}

/// An object in which another manager changed one atomic list.
fn with_edited(mut live: Value, list: &Value) -> Value {
    live["metadata"]["managedFields"] = json!([
        {"manager": "lbstack-operator", "operation": "Apply", "fieldsV1": {"f:spec": {"f:other": {}}}},
        edit(list),
    ]);
    live
}

#[test]
fn a_field_added_to_an_item_of_an_atomic_list_is_drift() {
    let rule = |more: Value| {
        let mut rule = json!({"apiGroups": [""], "resources": ["services/status"], "verbs": ["patch"]});
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"metadata": {"name": "lbstack-controller"}, "rules": [rule]})
    };
    let role = |more| with_edited(rule(more), &json!({"f:rules": {}}));
    let desired = rule(json!({}));
    let found = drift(&desired, &role(json!({"resourceNames": ["only-this"]})), Extent::Whole);
    assert_eq!(found.differs, ["/rules/0/resourceNames"]);
    assert!(drift(&desired, &role(json!({"resourceNames": []})), Extent::Whole).is_none());

    let spec = |selectors: Value| json!({"metadata": {"name": "lan"}, "spec": {"nodeSelectors": selectors}});
    let advertisement = |selectors| with_edited(spec(selectors), &json!({"f:spec": {"f:nodeSelectors": {}}}));
    let desired = spec(json!([{"matchLabels": {"edge": "yes"}}]));
    let narrowed = advertisement(json!([{"matchLabels": {"edge": "yes", "no": "where"}}]));
    assert_eq!(drift(&desired, &narrowed, Extent::Whole).differs, ["/spec/nodeSelectors/0/matchLabels/no"]);
    let widened = advertisement(json!([{"matchLabels": {"edge": "yes"}}, {}]));
    assert_eq!(drift(&desired, &widened, Extent::Whole).differs, ["/spec/nodeSelectors"]);
    assert_eq!(repaired(&desired, &narrowed)["spec"], desired["spec"]);

    let quotas =
        |selector: Value| json!({"spec": {"quotas": [{"maxAddresses": 1, "namespaceSelector": selector}]}});
    let edited = with_edited(
        quotas(json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]})),
        &json!({"f:spec": {"f:quotas": {}}}),
    );
    assert!(!drift(&quotas(json!({"matchLabels": {"a": "b"}})), &edited, Extent::Whole).is_none());
}

#[test]
fn a_value_set_by_an_admission_webhook_is_no_drift_and_any_other_value_is() {
    let mut answer = live(vec![]);
    container(&mut answer)["image"] = json!("mirror.test/i:1");
    let webhook_changes = webhook_changes(&desired(), &answer);
    let found =
        |live: &Value| drift(&desired(), live, Extent::Whole).without_webhook_changes(&webhook_changes, live);
    assert!(!drift(&desired(), &answer, Extent::Whole).is_none());
    assert!(found(&answer).is_none());
    let mut edited = answer.clone();
    container(&mut edited)["image"] = json!("evil:1");
    assert_eq!(found(&edited).differs, ["/spec/template/spec/containers/0/image"]);
    container(&mut edited)["image"] = json!("i:1");
    assert!(found(&edited).is_none(), "the rendered value is never a difference");
}
