use serde_json::{Value, json};

use super::*;
use crate::fixtures;

fn service(json: &Value) -> Service {
    let mut more = json!({"metadata": {"resourceVersion": "7"}});
    json_patch::merge(&mut more, json);
    fixtures::service("shop", "web", &more)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

fn assigned(addresses: &[IpAddr]) -> Assignment<'_> {
    Assignment { addresses, pool: Some("lan"), refusal: None }
}

fn reasons(write: &ServiceWrite) -> Vec<&str> {
    write.events.iter().map(|event| event.reason.as_str()).collect()
}

#[test]
fn a_service_that_metallb_served_needs_no_write() {
    let taken_over = service(&json!({
        "metadata": {"annotations": {"metallb.io/ip-allocated-from-pool": "lan"}},
        "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1", "ipMode": "VIP"}]}},
    }));
    assert_eq!(
        plan_write(&taken_over, Some(assigned(&[ip("10.0.0.1")])), &StatusInputs::default(), now()),
        None
    );
}

#[test]
fn a_new_address_is_written_with_pool_and_condition_and_reported_by_an_event() {
    let addresses = [ip("10.0.0.1")];
    let write = plan_write(&service(&json!({})), Some(assigned(&addresses)), &StatusInputs::default(), now())
        .unwrap();
    assert_eq!(write.patch["metadata"]["resourceVersion"], "7");
    assert_eq!(write.patch["metadata"]["annotations"]["metallb.io/ip-allocated-from-pool"], "lan");
    assert_eq!(write.patch["status"]["loadBalancer"]["ingress"], json!([{"ip": "10.0.0.1"}]));
    assert_eq!(write.patch["status"]["conditions"][0]["status"], "True");
    assert_eq!(reasons(&write), ["IPAllocated"]);
}

#[test]
fn after_the_write_no_other_write_is_planned() {
    let addresses = [ip("10.0.0.1"), ip("fc00::1")];
    let mut object = serde_json::to_value(service(&json!({}))).unwrap();
    let first = plan_write(&service(&json!({})), Some(assigned(&addresses)), &StatusInputs::default(), now())
        .unwrap();
    json_patch::merge(&mut object, &first.patch);
    let written: Service = serde_json::from_value(object).unwrap();
    assert_eq!(plan_write(&written, Some(assigned(&addresses)), &StatusInputs::default(), now()), None);
}

#[test]
fn a_refusal_is_reported_once_and_the_address_is_kept() {
    let refusal = Refusal::UnknownPool("gone".into());
    let addresses = [ip("10.0.0.1")];
    let assignment = Some(Assignment { addresses: &addresses, pool: Some("lan"), refusal: Some(&refusal) });
    let has = service(&json!({
        "metadata": {"annotations": {"metallb.io/ip-allocated-from-pool": "lan"}},
        "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}},
    }));
    let first = plan_write(&has, assignment, &StatusInputs::default(), now()).unwrap();
    assert_eq!(reasons(&first), ["LoadBalancerFailed"]);
    assert!(first.patch["status"].get("loadBalancer").is_none());
    let mut object = serde_json::to_value(&has).unwrap();
    json_patch::merge(&mut object, &first.patch);
    assert_eq!(
        plan_write(&serde_json::from_value(object).unwrap(), assignment, &StatusInputs::default(), now()),
        None
    );
}

#[test]
fn event_and_condition_of_a_pending_service_have_the_reason() {
    let refusal = Refusal::NoPools;
    let assignment = Some(Assignment { addresses: &[], pool: None, refusal: Some(&refusal) });
    let write = plan_write(&service(&json!({})), assignment, &StatusInputs::default(), now()).unwrap();
    assert_eq!(reasons(&write), ["AllocationFailed"]);
    let condition = &write.patch["status"]["conditions"][0];
    assert_eq!(
        (condition["status"].as_str(), condition["reason"].as_str()),
        (Some("False"), Some("NoPools"))
    );
}

#[test]
fn a_service_of_another_type_loses_everything_of_ours_and_nothing_else() {
    let other = service(&json!({
        "metadata": {"annotations": {"metallb.io/ip-allocated-from-pool": "lan", "mine": "stays"}},
        "spec": {"type": "ClusterIP"},
        "status": {
            "loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]},
            "conditions": [
                {"type": ADDRESS_ASSIGNED, "status": "True", "reason": "Assigned", "message": "",
                    "lastTransitionTime": "2024-01-01T00:00:00Z"},
                {"type": "Other", "status": "True", "reason": "R", "message": "",
                    "lastTransitionTime": "2024-01-01T00:00:00Z"},
            ],
        },
    }));
    assert!(has_leftovers(&other));
    let write = plan_write(&other, None, &StatusInputs::default(), now()).unwrap();
    let mut object = serde_json::to_value(&other).unwrap();
    json_patch::merge(&mut object, &write.patch);
    let left: Service = serde_json::from_value(object).unwrap();
    assert_eq!(stored_addresses(&left), Vec::<IpAddr>::new());
    assert_eq!(conditions(&left).len(), 1);
    assert_eq!(left.metadata.annotations.as_ref().unwrap().keys().collect::<Vec<_>>(), ["mine"]);
    assert!(!has_leftovers(&left));
    assert_eq!(reasons(&write), ["ClearAssignment"]);
}

#[test]
fn the_class_decides_whether_a_service_is_ours() {
    let of = |class: Value| service(&json!({"spec": {"loadBalancerClass": class}}));
    assert!(is_ours(&of(Value::Null), ""));
    assert!(!is_ours(&of(json!("x/y")), ""));
    assert!(is_ours(&of(json!("x/y")), "x/y"));
    assert!(!is_ours(&of(Value::Null), "x/y"));
    assert!(!is_ours(&service(&json!({"spec": {"type": "NodePort"}})), ""));
    assert!(!has_leftovers(&of(json!("x/y"))));
}

#[test]
fn deprecated_annotations_are_reported_when_the_address_changes() {
    let old = service(&json!({"metadata": {"annotations": {"metallb.universe.tf/address-pool": "lan"}}}));
    let write = plan_write(&old, Some(assigned(&[ip("10.0.0.1")])), &StatusInputs::default(), now()).unwrap();
    assert_eq!(reasons(&write), ["IPAllocated", "deprecatedAnnotation"]);
}

#[test]
fn a_foreign_host_that_uses_the_address_is_reported_once_and_so_is_its_end() {
    let addresses = [ip("10.0.0.1")];
    let assignment = Some(assigned(&addresses));
    let has = json!({
        "metadata": {"annotations": {"metallb.io/ip-allocated-from-pool": "lan"}},
        "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}},
    });
    let conflict_with = |text: &str| {
        let conflict = Some((ConditionReason::UsedByOthers, text.to_owned()));
        StatusInputs { conflict, ..StatusInputs::default() }
    };
    let mut object = serde_json::to_value(service(&has)).unwrap();
    let now = Timestamp::from_second(1_000_000).unwrap();
    let first = plan_write(&service(&has), assignment, &conflict_with("02:00 uses it"), now).unwrap();
    assert_eq!(reasons(&first), ["AddressConflict"]);
    assert!(first.events[0].warning && first.events[0].message.contains("02:00"), "{:?}", first.events);
    assert_eq!(first.patch["status"].get("loadBalancer"), None, "the Service keeps its address");
    json_patch::merge(&mut object, &first.patch);
    let written: Service = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(plan_write(&written, assignment, &conflict_with("02:00 uses it"), now), None);

    let last = plan_write(&written, assignment, &StatusInputs::default(), now).unwrap();
    assert_eq!(reasons(&last), ["AddressConflictEnded"]);
    json_patch::merge(&mut object, &last.patch);
    let ended: Service = serde_json::from_value(object).unwrap();
    let types: Vec<&str> = conditions(&ended).iter().map(|condition| condition.type_.as_str()).collect();
    assert_eq!(types, [ADDRESS_ASSIGNED], "the condition is removed when the conflict ends");
    assert_eq!(plan_write(&ended, assignment, &StatusInputs::default(), now), None);
}

#[test]
fn the_message_of_a_condition_is_within_the_limit_of_the_api_for_any_annotation() {
    let pools = (0..10).map(|n| (format!("{n}{}", "x".repeat(10_000)), ipam::PoolReason::Labels)).collect();
    let refusal = Refusal::NoPoolFits(pools);
    let assignment = Some(Assignment { addresses: &[], pool: None, refusal: Some(&refusal) });
    let first = plan_write(&service(&json!({})), assignment, &StatusInputs::default(), now()).unwrap();
    let message = first.patch["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.len() <= 32_768, "{} bytes", message.len());
    let mut object = serde_json::to_value(service(&json!({}))).unwrap();
    json_patch::merge(&mut object, &first.patch);
    let written: Service = serde_json::from_value(object).unwrap();
    assert_eq!(
        plan_write(&written, assignment, &StatusInputs::default(), now()),
        None,
        "a truncated message is not written again"
    );
}

#[test]
fn a_status_entry_of_another_load_balancer_stays_while_nothing_is_assigned() {
    let foreign = StatusInputs { foreign: true, ..StatusInputs::default() };
    let has = service(&json!({"status": {"loadBalancer": {"ingress": [{"ip": "172.30.0.150"}]}}}));
    let refusal = Refusal::NoPools;
    let waits = Some(Assignment { addresses: &[], pool: None, refusal: Some(&refusal) });
    let first = plan_write(&has, waits, &foreign, now()).unwrap();
    assert_eq!(first.patch["status"].get("loadBalancer"), None);
    assert_eq!(reasons(&first), ["AllocationFailed"], "no address is withdrawn");
    let message = first.patch["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("172.30.0.150") && message.contains("spec.loadBalancerClass"), "{message}");

    let addresses = [ip("10.0.0.1")];
    let assigned = plan_write(&has, Some(assigned(&addresses)), &foreign, now()).unwrap();
    assert_eq!(assigned.patch["status"]["loadBalancer"]["ingress"], json!([{"ip": "10.0.0.1"}]));
}

#[test]
fn of_a_contested_status_only_the_condition_is_written_and_names_the_other_writer() {
    let inputs =
        StatusInputs { contested: Some("\"k3s\" sets its status".into()), ..StatusInputs::default() };
    let has = service(&json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.168.1.5"}]}}}));
    let addresses = [ip("10.0.0.1")];
    let written = plan_write(&has, Some(assigned(&addresses)), &inputs, now()).unwrap();
    assert_eq!(written.patch["status"].get("loadBalancer"), None);
    assert_eq!(written.patch["metadata"].get("annotations"), None);
    let condition = &written.patch["status"]["conditions"][0];
    assert_eq!(
        (condition["status"].as_str(), condition["reason"].as_str()),
        (Some("False"), Some("StatusContested"))
    );
    assert!(condition["message"].as_str().unwrap().contains("k3s"));
}
