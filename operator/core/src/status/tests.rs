use crds::ConfigurationState;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, DeploymentCondition};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::finding::SpecFinding;
use crate::object::{Key, Kind, Manifests};

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

fn deployment(ready: i32) -> Deployment {
    serde_json::from_value(json!({"metadata": {"generation": 1}, "spec": {"replicas": 2},
        "status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": ready}}))
    .unwrap()
}

fn daemon_set(desired: i32, ready: i32) -> DaemonSet {
    serde_json::from_value(json!({"metadata": {"generation": 1}, "status": {
        "observedGeneration": 1, "currentNumberScheduled": desired, "desiredNumberScheduled": desired,
        "updatedNumberScheduled": desired, "numberReady": ready}}))
    .unwrap()
}

fn inputs<'a>(
    applied: &'a Manifests<Applied>,
    controller: Option<&'a Deployment>,
    speaker: Option<&'a DaemonSet>,
) -> StatusInputs<'a> {
    StatusInputs {
        generation: Some(1),
        version: "0.1.0",
        errors: &[],
        warnings: &[],
        degraded: false,
        states: &[],
        speakers: &[],
        undecoded: &[],
        retained: &[],
        definitions: &[],
        applied,
        obstacles: &[],
        terminating: &[],
        controller,
        speaker,
        pods: &[],
        stalled: false,
    }
}

fn key(kind: Kind, name: &str) -> Key {
    Key { kind, namespace: Some("n".into()), name: name.into() }
}

fn status_and_reason(status: &LoadBalancerStackStatus, type_: &str) -> String {
    let condition = status.conditions.iter().find(|condition| condition.type_ == type_).unwrap();
    format!("{} {}", condition.status, condition.reason)
}

fn nothing() -> Manifests<Applied> {
    Manifests(vec![])
}

#[test]
fn available_requires_one_controller_and_half_of_the_speakers() {
    for (controller, desired, ready, expected) in [
        (2, 3, 3, "True Ready"),
        (1, 3, 2, "True Ready"),
        (1, 4, 2, "True Ready"),
        (1, 3, 1, "False SpeakersNotReady"),
        (0, 3, 3, "False ControllerNotReady"),
        (2, 0, 0, "False NoEligibleNodes"),
    ] {
        let (applied, controller, speaker) = (nothing(), deployment(controller), daemon_set(desired, ready));
        let inputs = inputs(&applied, Some(&controller), Some(&speaker));
        let status = status(&inputs, &LoadBalancerStackStatus::default(), &at(1));
        assert_eq!(status_and_reason(&status, "Available"), expected, "{desired} {ready}");
    }
}

#[test]
fn a_speaker_that_fails_after_the_rollout_is_degraded_and_not_progressing() {
    let (applied, controller) = (nothing(), deployment(2));
    let (up, down) = (daemon_set(3, 3), daemon_set(3, 2));
    let before =
        status(&inputs(&applied, Some(&controller), Some(&up)), &LoadBalancerStackStatus::default(), &at(1));
    assert_eq!(
        (status_and_reason(&before, "Progressing"), status_and_reason(&before, "Degraded")),
        ("False Complete".into(), "False AsExpected".into())
    );
    let pods = [PodIssue {
        component: "speaker".into(),
        node: Some("node2".into()),
        reason: "CrashLoopBackOff (exit code 1)".into(),
        stuck: true,
    }];
    let inputs = StatusInputs { pods: &pods, ..inputs(&applied, Some(&controller), Some(&down)) };
    let after = status(&inputs, &before, &at(2));
    assert_eq!(status_and_reason(&after, "Progressing"), "False Complete");
    assert_eq!(status_and_reason(&after, "Degraded"), "True SpeakersDown");
    assert_eq!(status_and_reason(&after, "Available"), "True Ready");
    let degraded = after.conditions.iter().find(|condition| condition.type_ == "Degraded").unwrap();
    assert!(degraded.message.contains("on node2: CrashLoopBackOff"), "{}", degraded.message);
    assert_eq!(after.speakers.as_deref(), Some("2/3"));
}

#[test]
fn starting_pods_are_progressing_and_not_degraded() {
    let (applied, controller, speaker) = (nothing(), deployment(0), daemon_set(3, 0));
    let pods =
        [PodIssue { component: "speaker".into(), node: None, reason: "is starting".into(), stuck: false }];
    let inputs = StatusInputs { pods: &pods, ..inputs(&applied, Some(&controller), Some(&speaker)) };
    let status = status(&inputs, &LoadBalancerStackStatus::default(), &at(1));
    assert_eq!(
        (status_and_reason(&status, "Progressing"), status_and_reason(&status, "Degraded")),
        ("True RollingOut".into(), "False AsExpected".into())
    );
}

#[test]
fn an_invalid_spec_leaves_the_workloads_unchanged() {
    let errors = [SpecFinding {
        field: "spec.x".into(),
        value: "y".into(),
        problem: "is bad".into(),
        hint: "do good".into(),
    }];
    let (applied, controller, speaker) = (nothing(), deployment(2), daemon_set(3, 3));
    let old = LoadBalancerStackStatus {
        inventory: vec![entry(&key(Kind::Role, "speaker"), "u")],
        ..LoadBalancerStackStatus::default()
    };
    let inputs = StatusInputs { errors: &errors, ..inputs(&applied, Some(&controller), Some(&speaker)) };
    let status = status(&inputs, &old, &at(1));
    assert_eq!(status_and_reason(&status, "Degraded"), "True InvalidSpec");
    assert_eq!(status_and_reason(&status, "ConfigurationValid"), "False InvalidSpec");
    assert_eq!(status_and_reason(&status, "Available"), "True Ready");
    assert_eq!(status.inventory, old.inventory);
}

#[test]
fn every_object_with_a_problem_is_reported_and_the_first_gives_the_reason() {
    let applied = Manifests(vec![
        Applied {
            key: key(Kind::Role, "speaker"),
            outcome: Outcome::Foreign("kept by helm".into()),
            uid: None,
        },
        Applied { key: key(Kind::Secret, "k"), outcome: Outcome::Failed("no".into()), uid: Some("2".into()) },
        Applied { key: key(Kind::DaemonSet, "speaker"), outcome: Outcome::AsRendered, uid: Some("1".into()) },
    ]);
    let (controller, speaker) = (deployment(2), daemon_set(3, 3));
    let status = status(
        &inputs(&applied, Some(&controller), Some(&speaker)),
        &LoadBalancerStackStatus::default(),
        &at(1),
    );
    assert_eq!(status_and_reason(&status, "Degraded"), "True ForeignObject");
    let summary: Vec<_> =
        status.components.iter().map(|c| (c.kind.as_str(), c.last_error.as_deref())).collect();
    assert_eq!(
        summary,
        [("Deployment", None), ("DaemonSet", None), ("Role", Some("kept by helm")), ("Secret", Some("no"))]
    );
    let kinds: Vec<_> = status.inventory.iter().map(|entry| entry.kind.as_str()).collect();
    assert_eq!(kinds, ["DaemonSet", "Secret"], "what is not ours is not in the inventory");
}

#[test]
fn retained_and_terminating_objects_stay_in_the_inventory() {
    let (retained, terminating) =
        ([entry(&key(Kind::IpAddressPool, "bad"), "u")], [entry(&key(Kind::Role, "old"), "v")]);
    let applied = nothing();
    let inputs = StatusInputs {
        degraded: true,
        retained: &retained,
        terminating: &terminating,
        ..inputs(&applied, None, None)
    };
    let status = status(&inputs, &LoadBalancerStackStatus::default(), &at(1));
    assert_eq!(status.inventory.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["bad", "old"]);
    assert_eq!(status_and_reason(&status, "Degraded"), "True InvalidConfiguration");
    assert_eq!(status_and_reason(&status, "ConfigurationValid"), "False InvalidConfiguration");
    assert_eq!(status_and_reason(&status, "Available"), "False NotCreated");
}

#[test]
fn configuration_states_are_summarized() {
    let state = |name: &str, labels: Value, status: Value| -> ConfigurationState {
        serde_json::from_value(json!({"apiVersion": "metallb.io/v1beta1", "kind": "ConfigurationState",
            "metadata": {"name": name, "labels": labels}, "status": status}))
        .unwrap()
    };
    let blocked = json!({"type": "lbstack.dev/BeaconsBlocked", "status": "True", "reason": "R", "message":
        "cannot hear n2",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let ignored = json!({"type": "lbstack.dev/ExcludeLabelIgnored", "status": "True", "reason": "R",
        "message": "on all",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let states = [
        state(
            "speaker-n1",
            json!({"metallb.io/node-name": "n1"}),
            json!({"result": "Invalid", "errorSummary": "pool a\npool b", "conditions": [blocked]}),
        ),
        state("controller", json!({}), json!({"result": "Invalid", "errorSummary": "pool b"})),
        state(
            "speaker-n3",
            json!({"metallb.io/node-name": "n3"}),
            json!({"result": "Valid", "conditions": [ignored]}),
        ),
    ];
    let applied = nothing();
    let status = status(
        &StatusInputs { states: &states, ..inputs(&applied, None, None) },
        &LoadBalancerStackStatus::default(),
        &at(1),
    );
    assert_eq!(status_and_reason(&status, "ConfigurationValid"), "False InvalidObjects");
    assert_eq!(status_and_reason(&status, "BeaconsBlocked"), "True NotHeard");
    let message = |type_: &str| {
        status.conditions.iter().find(|condition| condition.type_ == type_).unwrap().message.clone()
    };
    assert_eq!(message("ConfigurationValid"), "pool b; pool a");
    assert_eq!(message("BeaconsBlocked"), "n1: cannot hear n2");
    assert_eq!(status_and_reason(&status, "ExcludeLabelIgnored"), "True OnEveryNode");
    assert_eq!(message("ExcludeLabelIgnored"), "on all");
    let mut later = states[2].clone();
    let condition = &mut later.status.as_mut().unwrap().conditions[0];
    (condition.status, condition.last_transition_time) = ("False".to_owned(), at(2_000_000_000));
    let states = [states[2].clone(), later];
    let now = super::status(
        &StatusInputs { states: &states, ..inputs(&applied, None, None) },
        &LoadBalancerStackStatus::default(),
        &at(1),
    );
    assert_eq!(
        status_and_reason(&now, "ExcludeLabelIgnored"),
        "False AsExpected",
        "the latest report is right"
    );
}

#[test]
fn what_speakers_report_in_speaker_states_takes_the_place_of_what_earlier_releases_do() {
    let blocked = |status: &str, message: &str| -> Vec<Condition> {
        let condition = json!({"type": "lbstack.dev/BeaconsBlocked", "status": status, "reason": "R",
            "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"});
        vec![serde_json::from_value(condition).unwrap()]
    };
    let legacy = |node: &str| -> ConfigurationState {
        serde_json::from_value(json!({"apiVersion": "metallb.io/v1beta1", "kind": "ConfigurationState",
            "metadata": {"name": format!("speaker-{node}"), "labels": {"metallb.io/node-name": node}},
            "status": {"conditions": blocked("True", "reported before")}}))
        .unwrap()
    };
    let speaker = |node: &str, conditions| SpeakerConditions { node: node.to_owned(), conditions };
    let speakers = [speaker("n1", blocked("True", "does not hear n2")), speaker("n2", blocked("False", ""))];
    let states = ["n1", "n2", "n3"].map(legacy);
    let applied = nothing();
    let inputs = StatusInputs { states: &states, speakers: &speakers, ..inputs(&applied, None, None) };
    let status = status(&inputs, &LoadBalancerStackStatus::default(), &at(1));
    let message = |type_: &str| {
        status.conditions.iter().find(|condition| condition.type_ == type_).unwrap().message.clone()
    };
    assert_eq!(message("BeaconsBlocked"), "n1: does not hear n2; n3: reported before");
}

#[test]
fn kernels_that_answer_for_addresses_are_reported_in_a_condition() {
    let answers = json!({"type": "lbstack.dev/KernelsAnswer", "status": "True", "reason":
        "UnannouncedAnswers",
        "message": "n2 answers", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let name = "n".repeat(70);
    let state: ConfigurationState = serde_json::from_value(json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "ConfigurationState",
        "metadata": {
            "name": "speaker", "labels": {"metallb.io/node-name": "shortened"},
            "annotations": {"lbstack.dev/node": name},
        },
        "status": {"conditions": [answers]},
    }))
    .unwrap();
    let applied = nothing();
    let of = |states: &[ConfigurationState]| {
        let inputs = StatusInputs { states, ..inputs(&applied, None, None) };
        let status = status(&inputs, &LoadBalancerStackStatus::default(), &at(1));
        let condition =
            status.conditions.iter().find(|condition| condition.type_ == "KernelsAnswer").unwrap();
        (status_and_reason(&status, "KernelsAnswer"), condition.message.clone())
    };
    assert_eq!(of(&[state]), ("True UnannouncedAnswers".to_owned(), format!("{name}: n2 answers")));
    assert_eq!(of(&[]), ("False AsExpected".to_owned(), String::new()));
}

#[test]
fn unchanged_inputs_give_an_unchanged_status() {
    let (applied, controller, speaker) = (nothing(), deployment(2), daemon_set(3, 3));
    let inputs = inputs(&applied, Some(&controller), Some(&speaker));
    let first = status(&inputs, &LoadBalancerStackStatus::default(), &at(1));
    assert_eq!(status(&inputs, &first, &at(2)), first);
}

fn pod(status: &Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"labels": {"component": "speaker"}},
        "spec": {"nodeName": "node1", "containers": []}, "status": status}))
    .unwrap()
}

fn container(state: &Value, restarts: i32) -> Value {
    json!({"name": "speaker", "image": "i", "imageID": "", "ready": false, "restartCount": restarts,
        "state": state})
}

#[test]
fn a_pod_that_is_not_ready_is_reported_with_its_reason() {
    let waiting = |reason: &str| json!({"waiting": {"reason": reason, "message": "back-off"}});
    let crashed = |state: Value| {
        let mut container = container(&state, 3);
        container["lastState"] = json!({"terminated": {"exitCode": 1, "message": "no luck\n"}});
        json!({"containerStatuses": [container]})
    };
    for (status, expected, stuck) in [
        (
            json!({"containerStatuses": [container(&waiting("ImagePullBackOff"), 0)]}),
            "cannot pull image i",
            true,
        ),
        (json!({"containerStatuses": [container(&waiting("ErrImagePull"), 0)]}), "cannot pull image i", true),
        (json!({"containerStatuses": [container(&waiting("ContainerCreating"), 0)]}), "is starting", false),
        (
            json!({"containerStatuses": [container(&waiting("CreateContainerError"), 0)]}),
            "CreateContainerError (back-off)",
            true,
        ),
        (json!({"containerStatuses": [container(&json!({"running": {}}), 0)]}), "is starting", false),
        (crashed(waiting("CrashLoopBackOff")), "ends with exit code 1: no luck; see its log", true),
        (crashed(json!({"running": {}})), "has restarted and is not ready", true),
        (
            json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "no room"}]}),
            "cannot be scheduled: no room",
            true,
        ),
    ] {
        let pod_issue = pod_issue(&pod(&status)).unwrap();
        assert_eq!((pod_issue.reason.as_str(), pod_issue.stuck), (expected, stuck));
    }
    assert_eq!(pod_issue(&pod(&json!({"conditions": [{"type": "Ready", "status": "True"}]}))), None);
}

#[test]
fn pods_with_the_same_issue_are_grouped() {
    let pod = |node: &str, reason: &str| PodIssue {
        component: "speaker".into(),
        node: Some(node.into()),
        reason: reason.into(),
        stuck: true,
    };
    let mut pods: Vec<_> = (1..8).map(|n| pod(&format!("n{n}"), "b")).collect();
    pods.push(pod("m", "a"));
    assert_eq!(pods::summarize(pods.iter()), ["on m: a", "on n1, n2, n3, n4, n5 and 2 more: b"]);
}

fn message<'a>(status: &'a LoadBalancerStackStatus, type_: &str) -> &'a str {
    &status.conditions.iter().find(|condition| condition.type_ == type_).unwrap().message
}

#[test]
fn the_status_has_the_api_servers_reason_why_pods_cannot_be_created() {
    let why = "pods \"controller-6d4b\" is forbidden: failed quota: compute: must specify limits.memory for: \
               controller";
    let mut controller = deployment(0);
    let replica_failure = |status: &str| DeploymentCondition {
        type_: "ReplicaFailure".into(),
        status: status.into(),
        reason: Some("FailedCreate".into()),
        message: Some(why.into()),
        ..DeploymentCondition::default()
    };
    let rollout = controller.status.get_or_insert_default();
    rollout.replicas = Some(0);
    rollout.conditions = Some(vec![replica_failure("True")]);
    let (applied, running) = (nothing(), daemon_set(3, 3));
    let result = status(
        &inputs(&applied, Some(&controller), Some(&running)),
        &LoadBalancerStackStatus::default(),
        &at(1),
    );
    assert_eq!(status_and_reason(&result, "Degraded"), "True ControllerDown");
    for type_ in ["Degraded", "Available", "ControllerReady"] {
        let message = message(&result, type_);
        assert!(message.contains("failed quota: compute: must specify limits.memory"), "{message}");
        assert!(message.contains("spec.controller.resources"), "{message}");
        assert!(!message.contains("6d4b"), "the name changes with each attempt: {message}");
    }
    controller.status.get_or_insert_default().conditions = Some(vec![replica_failure("False")]);
    let result = status(
        &inputs(&applied, Some(&controller), Some(&running)),
        &LoadBalancerStackStatus::default(),
        &at(1),
    );
    assert_eq!(status_and_reason(&result, "Degraded"), "False AsExpected");

    let (controller, speaker) = (deployment(2), daemon_set(3, 0));
    let pods = [PodIssue::creation_failed(
        "speaker",
        "pods \"speaker-x7\" is forbidden: violates PodSecurity \"restricted:latest\": host namespaces",
    )];
    let inputs = StatusInputs { pods: &pods, ..inputs(&applied, Some(&controller), Some(&speaker)) };
    let result = status(&inputs, &LoadBalancerStackStatus::default(), &at(1));
    assert_eq!(status_and_reason(&result, "Degraded"), "True SpeakersDown");
    let expected = "0/3 speaker pods are ready: pods cannot be created: violates PodSecurity \
                    \"restricted:latest\": host namespaces";
    assert_eq!(message(&result, "Degraded"), expected);
}

#[test]
fn a_rollout_past_its_deadline_is_degraded_without_a_pod_issue() {
    let (applied, controller, speaker) = (nothing(), deployment(2), daemon_set(3, 0));
    let inputs = StatusInputs { stalled: true, ..inputs(&applied, Some(&controller), Some(&speaker)) };
    let result = status(&inputs, &LoadBalancerStackStatus::default(), &at(1));
    assert_eq!(status_and_reason(&result, "Progressing"), "True RollingOut");
    assert_eq!(status_and_reason(&result, "Degraded"), "True SpeakersDown");
    assert!(message(&result, "Degraded").contains("makes no progress"));
}

#[test]
fn a_retained_object_is_a_warning_and_does_not_degrade() {
    let retained = Applied {
        key: key(Kind::IpAddressPool, "default"),
        outcome: Outcome::Retained("is managed by kubectl".into()),
        uid: None,
    };
    let applied = Manifests(vec![retained]);
    let (controller, speaker) = (deployment(2), daemon_set(3, 3));
    let result = status(
        &inputs(&applied, Some(&controller), Some(&speaker)),
        &LoadBalancerStackStatus::default(),
        &at(1),
    );
    assert_eq!(status_and_reason(&result, "Degraded"), "False AsExpected");
    assert_eq!(status_and_reason(&result, "ConfigurationValid"), "True Warnings");
    assert_eq!(message(&result, "ConfigurationValid"), "IPAddressPool default: is managed by kubectl");
}

#[test]
fn objects_retained_because_of_an_error_are_named_with_the_error() {
    let errors = [SpecFinding {
        field: "ConfigMap config line 1".into(),
        value: String::new(),
        problem: "is empty".into(),
        hint: "correct it".into(),
    }];
    let retained = [entry(&key(Kind::IpAddressPool, "a"), "u")];
    let applied = nothing();
    let inputs = StatusInputs {
        warnings: &errors,
        degraded: true,
        retained: &retained,
        ..inputs(&applied, None, None)
    };
    let result = status(&inputs, &LoadBalancerStackStatus::default(), &at(1));
    for type_ in ["Degraded", "ConfigurationValid"] {
        assert!(message(&result, type_).ends_with("kept unchanged until then: IPAddressPool a"));
    }
}

#[test]
fn an_object_that_cannot_be_read_stays_in_the_inventory() {
    let failed =
        |kind| Applied { key: key(kind, "a"), outcome: Outcome::Failed("no answer".into()), uid: None };
    let foreign = Applied { key: key(Kind::Role, "b"), outcome: Outcome::Foreign("helm".into()), uid: None };
    let applied = Manifests(vec![failed(Kind::IpAddressPool), foreign]);
    let old = LoadBalancerStackStatus {
        inventory: vec![entry(&key(Kind::IpAddressPool, "a"), "u"), entry(&key(Kind::Role, "b"), "v")],
        ..LoadBalancerStackStatus::default()
    };
    let result = status(&inputs(&applied, None, None), &old, &at(1));
    assert_eq!(result.inventory, [old.inventory[0].clone()]);
}
