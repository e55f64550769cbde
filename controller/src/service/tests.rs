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
    assert_eq!(plan(&taken_over, Some(assigned(&[ip("10.0.0.1")])), &Remarks::default(), now()), None);
}

#[test]
fn a_new_address_is_written_with_pool_and_condition_and_told_afterwards() {
    let addresses = [ip("10.0.0.1")];
    let plan = plan(&service(&json!({})), Some(assigned(&addresses)), &Remarks::default(), now()).unwrap();
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
    let first = plan(&service(&json!({})), Some(assigned(&addresses)), &Remarks::default(), now()).unwrap();
    json_patch::merge(&mut object, &first.patch);
    let written: Service = serde_json::from_value(object).unwrap();
    assert_eq!(plan(&written, Some(assigned(&addresses)), &Remarks::default(), now()), None);
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
    let first = plan(&has, outcome, &Remarks::default(), now()).unwrap();
    assert_eq!(reasons(&first), ["LoadBalancerFailed"]);
    assert!(first.patch["status"].get("loadBalancer").is_none());
    let mut object = serde_json::to_value(&has).unwrap();
    json_patch::merge(&mut object, &first.patch);
    assert_eq!(plan(&serde_json::from_value(object).unwrap(), outcome, &Remarks::default(), now()), None);
}

#[test]
fn a_pending_service_says_why_in_event_and_condition() {
    let refusal = Refusal::NoPools;
    let outcome = Some(Outcome { addresses: &[], pool: None, refusal: Some(&refusal) });
    let plan = plan(&service(&json!({})), outcome, &Remarks::default(), now()).unwrap();
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
    let plan = plan(&other, None, &Remarks::default(), now()).unwrap();
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
    let plan = plan(&old, Some(assigned(&[ip("10.0.0.1")])), &Remarks::default(), now()).unwrap();
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
    let told = |text: &str| {
        let conflict = Some(("UsedByOthers", text.to_owned()));
        Remarks { conflict, ..Remarks::default() }
    };
    let mut object = serde_json::to_value(service(&has)).unwrap();
    let now = Timestamp::from_second(1_000_000).unwrap();
    let first = plan(&service(&has), outcome, &told("02:00 has it"), now).unwrap();
    assert_eq!(reasons(&first), ["AddressConflict"]);
    assert!(first.notes[0].warning && first.notes[0].text.contains("02:00"), "{:?}", first.notes);
    assert_eq!(first.patch["status"].get("loadBalancer"), None, "the Service keeps its address");
    json_patch::merge(&mut object, &first.patch);
    let written: Service = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(plan(&written, outcome, &told("02:00 has it"), now), None);

    let last = plan(&written, outcome, &Remarks::default(), now).unwrap();
    assert_eq!(reasons(&last), ["AddressConflictEnded"]);
    json_patch::merge(&mut object, &last.patch);
    let ended: Service = serde_json::from_value(object).unwrap();
    let types: Vec<&str> = conditions(&ended).iter().map(|condition| condition.type_.as_str()).collect();
    assert_eq!(types, [ADDRESS_ASSIGNED], "a conflict that is over leaves no condition");
    assert_eq!(plan(&ended, outcome, &Remarks::default(), now), None);
}

#[test]
fn a_condition_is_one_that_the_api_takes_whatever_the_annotation_says() {
    let pools = (0..10).map(|n| (format!("{n}{}", "x".repeat(10_000)), ipam::PoolReason::Labels)).collect();
    let refusal = Refusal::NoneFits(pools);
    let outcome = Some(Outcome { addresses: &[], pool: None, refusal: Some(&refusal) });
    let first = plan(&service(&json!({})), outcome, &Remarks::default(), now()).unwrap();
    let message = first.patch["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.len() <= 32_768, "{} bytes", message.len());
    let mut object = serde_json::to_value(service(&json!({}))).unwrap();
    json_patch::merge(&mut object, &first.patch);
    let written: Service = serde_json::from_value(object).unwrap();
    assert_eq!(
        plan(&written, outcome, &Remarks::default(), now()),
        None,
        "what was cut is not written again"
    );
}

#[test]
fn a_status_entry_of_another_load_balancer_stays_while_there_is_nothing_to_assign_instead() {
    let foreign = Remarks { foreign: true, ..Remarks::default() };
    let has = service(&json!({"status": {"loadBalancer": {"ingress": [{"ip": "172.30.0.150"}]}}}));
    let refusal = Refusal::NoPools;
    let waits = Some(Outcome { addresses: &[], pool: None, refusal: Some(&refusal) });
    let first = plan(&has, waits, &foreign, now()).unwrap();
    assert_eq!(first.patch["status"].get("loadBalancer"), None);
    assert_eq!(reasons(&first), ["AllocationFailed"], "nothing is taken away");
    let message = first.patch["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("172.30.0.150") && message.contains("spec.loadBalancerClass"), "{message}");

    let addresses = [ip("10.0.0.1")];
    let assigned = plan(&has, Some(assigned(&addresses)), &foreign, now()).unwrap();
    assert_eq!(assigned.patch["status"]["loadBalancer"]["ingress"], json!([{"ip": "10.0.0.1"}]));
}

#[test]
fn of_a_contested_status_only_the_condition_is_written_and_names_the_other_writer() {
    let remarks = Remarks { contested: Some("\"k3s\" sets its status".into()), ..Remarks::default() };
    let has = service(&json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.168.1.5"}]}}}));
    let addresses = [ip("10.0.0.1")];
    let written = plan(&has, Some(assigned(&addresses)), &remarks, now()).unwrap();
    assert_eq!(written.patch["status"].get("loadBalancer"), None);
    assert_eq!(written.patch["metadata"].get("annotations"), None);
    let condition = &written.patch["status"]["conditions"][0];
    assert_eq!(
        (condition["status"].as_str(), condition["reason"].as_str()),
        (Some("False"), Some(CONTESTED))
    );
    assert!(condition["message"].as_str().unwrap().contains("k3s"));
}
