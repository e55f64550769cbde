use serde_json::{Value, json};

use super::*;

fn service(json: &Value) -> Service {
    let mut whole = json!({"metadata": {"name": "web", "namespace": "shop", "resourceVersion": "7"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1"}});
    json_patch::merge(&mut whole, json);
    serde_json::from_value(whole).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

fn assigned(addresses: &[IpAddr]) -> Outcome<'_> {
    Outcome { addresses, pool: Some("lan"), refusal: None }
}

fn reasons(plan: &Plan) -> Vec<&str> {
    plan.notes.iter().map(|note| note.reason).collect()
}

#[test]
fn a_service_that_metallb_served_needs_no_write() {
    let taken_over = service(&json!({
        "metadata": {"annotations": {"metallb.io/ip-allocated-from-pool": "lan"}},
        "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1", "ipMode": "VIP"}]}},
    }));
    assert_eq!(plan(&taken_over, Some(assigned(&[ip("10.0.0.1")])), None, now()), None);
}

#[test]
fn a_new_address_is_written_with_pool_and_condition_and_told_afterwards() {
    let addresses = [ip("10.0.0.1")];
    let plan = plan(&service(&json!({})), Some(assigned(&addresses)), None, now()).unwrap();
    assert_eq!(plan.patch["metadata"]["resourceVersion"], "7");
    assert_eq!(plan.patch["metadata"]["annotations"]["metallb.io/ip-allocated-from-pool"], "lan");
    assert_eq!(plan.patch["status"]["loadBalancer"]["ingress"], json!([{"ip": "10.0.0.1"}]));
    assert_eq!(plan.patch["status"]["conditions"][0]["status"], "True");
    assert_eq!(reasons(&plan), ["IPAllocated"]);
}

#[test]
fn after_the_write_nothing_more_is_written() {
    let addresses = [ip("10.0.0.1"), ip("fc00::1")];
    let mut object = serde_json::to_value(service(&json!({}))).unwrap();
    let first = plan(&service(&json!({})), Some(assigned(&addresses)), None, now()).unwrap();
    json_patch::merge(&mut object, &first.patch);
    let written: Service = serde_json::from_value(object).unwrap();
    assert_eq!(plan(&written, Some(assigned(&addresses)), None, now()), None);
}

#[test]
fn a_refusal_is_told_once_and_keeps_the_address() {
    let refusal = Refusal::UnknownPool("gone".into());
    let addresses = [ip("10.0.0.1")];
    let outcome = Some(Outcome { addresses: &addresses, pool: Some("lan"), refusal: Some(&refusal) });
    let has = service(&json!({
        "metadata": {"annotations": {"metallb.io/ip-allocated-from-pool": "lan"}},
        "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}},
    }));
    let first = plan(&has, outcome, None, now()).unwrap();
    assert_eq!(reasons(&first), ["LoadBalancerFailed"]);
    assert!(first.patch["status"].get("loadBalancer").is_none());
    let mut object = serde_json::to_value(&has).unwrap();
    json_patch::merge(&mut object, &first.patch);
    assert_eq!(plan(&serde_json::from_value(object).unwrap(), outcome, None, now()), None);
}

#[test]
fn a_pending_service_says_why_in_event_and_condition() {
    let refusal = Refusal::NoPools;
    let outcome = Some(Outcome { addresses: &[], pool: None, refusal: Some(&refusal) });
    let plan = plan(&service(&json!({})), outcome, None, now()).unwrap();
    assert_eq!(reasons(&plan), ["AllocationFailed"]);
    let condition = &plan.patch["status"]["conditions"][0];
    assert_eq!(
        (condition["status"].as_str(), condition["reason"].as_str()),
        (Some("False"), Some("NoPools"))
    );
}

#[test]
fn a_service_of_another_type_loses_all_that_is_ours_and_only_that() {
    let other = service(&json!({
        "metadata": {"annotations": {"metallb.io/ip-allocated-from-pool": "lan", "mine": "stays"}},
        "spec": {"type": "ClusterIP"},
        "status": {
            "loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]},
            "conditions": [
                {"type": ADDRESS_ASSIGNED, "status": "True", "reason": "Assigned", "message": "", "lastTransitionTime": "2024-01-01T00:00:00Z"},
                {"type": "Other", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2024-01-01T00:00:00Z"},
            ],
        },
    }));
    assert!(has_leftovers(&other));
    let plan = plan(&other, None, None, now()).unwrap();
    let mut object = serde_json::to_value(&other).unwrap();
    json_patch::merge(&mut object, &plan.patch);
    let left: Service = serde_json::from_value(object).unwrap();
    assert_eq!(stored(&left), Vec::<IpAddr>::new());
    assert_eq!(conditions(&left).len(), 1);
    assert_eq!(left.metadata.annotations.as_ref().unwrap().keys().collect::<Vec<_>>(), ["mine"]);
    assert!(!has_leftovers(&left));
    assert_eq!(reasons(&plan), ["ClearAssignment"]);
}

#[test]
fn the_class_decides_whose_a_service_is() {
    let of = |class: Value| service(&json!({"spec": {"loadBalancerClass": class}}));
    assert!(is_ours(&of(Value::Null), ""));
    assert!(!is_ours(&of(json!("x/y")), ""));
    assert!(is_ours(&of(json!("x/y")), "x/y"));
    assert!(!is_ours(&of(Value::Null), "x/y"));
    assert!(!is_ours(&service(&json!({"spec": {"type": "NodePort"}})), ""));
    assert!(!has_leftovers(&of(json!("x/y"))));
}

#[test]
fn deprecated_annotations_are_told_when_something_changes() {
    let old = service(&json!({"metadata": {"annotations": {"metallb.universe.tf/address-pool": "lan"}}}));
    let plan = plan(&old, Some(assigned(&[ip("10.0.0.1")])), None, now()).unwrap();
    assert_eq!(reasons(&plan), ["IPAllocated", "deprecatedAnnotation"]);
}

#[test]
fn a_stranger_that_uses_the_address_is_told_once_and_so_is_its_end() {
    let addresses = [ip("10.0.0.1")];
    let outcome = Some(assigned(&addresses));
    let has = json!({
        "metadata": {"annotations": {"metallb.io/ip-allocated-from-pool": "lan"}},
        "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}},
    });
    let told = |text: &str| Some(text.to_owned());
    let mut object = serde_json::to_value(service(&has)).unwrap();
    let now = Timestamp::from_second(1_000_000).unwrap();
    let first = plan(&service(&has), outcome, told("02:00 has it"), now).unwrap();
    assert_eq!(reasons(&first), ["AddressConflict"]);
    assert!(first.notes[0].warning && first.notes[0].text.contains("02:00"), "{:?}", first.notes);
    assert_eq!(first.patch["status"].get("loadBalancer"), None, "the Service keeps its address");
    json_patch::merge(&mut object, &first.patch);
    let written: Service = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(plan(&written, outcome, told("02:00 has it"), now), None);

    let last = plan(&written, outcome, None, now).unwrap();
    assert_eq!(reasons(&last), ["AddressConflictEnded"]);
    json_patch::merge(&mut object, &last.patch);
    let ended: Service = serde_json::from_value(object).unwrap();
    let types: Vec<&str> = conditions(&ended).iter().map(|condition| condition.type_.as_str()).collect();
    assert_eq!(types, [ADDRESS_ASSIGNED], "a conflict that is over leaves no condition");
    assert_eq!(plan(&ended, outcome, None, now), None);
}
