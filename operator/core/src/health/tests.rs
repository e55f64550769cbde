use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::*;

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

fn deployment(ready: i32) -> Value {
    json!({"metadata": {"generation": 1}, "spec": {"replicas": 2},
        "status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": ready}})
}

fn daemon_set(desired: i32, ready: i32) -> Value {
    json!({"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "currentNumberScheduled": desired,
        "desiredNumberScheduled": desired, "updatedNumberScheduled": desired, "numberReady": ready}})
}

fn observed<'a>(
    applied: &'a Manifests<Applied>,
    controller: Option<&'a Value>,
    speaker: Option<&'a Value>,
) -> Observed<'a> {
    Observed {
        generation: Some(1),
        version: "0.1.0",
        faults: &[],
        doubts: &[],
        spoiled: false,
        states: &[],
        undecoded: &[],
        kept: &[],
        definitions: &[],
        applied,
        obstacles: &[],
        leaving: &[],
        controller,
        speaker,
        pods: &[],
        stalled: false,
    }
}

fn key(kind: Kind, name: &str) -> Key {
    Key { kind, namespace: Some("n".into()), name: name.into() }
}

fn words(status: &LoadBalancerStackStatus, type_: &str) -> String {
    let condition = status.conditions.iter().find(|condition| condition.type_ == type_).unwrap();
    format!("{} {}", condition.status, condition.reason)
}

fn nothing() -> Manifests<Applied> {
    Manifests(vec![])
}

#[test]
fn available_takes_one_controller_and_half_of_the_speakers() {
    for (controller, desired, ready, expected) in [
        (2, 3, 3, "True Ready"),
        (1, 3, 2, "True Ready"),
        (1, 4, 2, "True Ready"),
        (1, 3, 1, "False SpeakersNotReady"),
        (0, 3, 3, "False ControllerNotReady"),
        (2, 0, 0, "False NoEligibleNodes"),
    ] {
        let (applied, controller, speaker) = (nothing(), deployment(controller), daemon_set(desired, ready));
        let observed = observed(&applied, Some(&controller), Some(&speaker));
        let status = status(&observed, &LoadBalancerStackStatus::default(), &at(1));
        assert_eq!(words(&status, "Available"), expected, "{desired} {ready}");
    }
}

#[test]
fn a_speaker_that_goes_down_after_the_rollout_degrades_and_is_no_progress() {
    let (applied, controller) = (nothing(), deployment(2));
    let (up, down) = (daemon_set(3, 3), daemon_set(3, 2));
    let before = status(
        &observed(&applied, Some(&controller), Some(&up)),
        &LoadBalancerStackStatus::default(),
        &at(1),
    );
    assert_eq!(
        (words(&before, "Progressing"), words(&before, "Degraded")),
        ("False Complete".into(), "False AsExpected".into())
    );
    let pods = [PodTrouble {
        component: "speaker".into(),
        node: Some("node2".into()),
        reason: "CrashLoopBackOff (exit code 1)".into(),
        stuck: true,
    }];
    let observed = Observed { pods: &pods, ..observed(&applied, Some(&controller), Some(&down)) };
    let after = status(&observed, &before, &at(2));
    assert_eq!(words(&after, "Progressing"), "False Complete");
    assert_eq!(words(&after, "Degraded"), "True SpeakersDown");
    assert_eq!(words(&after, "Available"), "True Ready");
    let degraded = after.conditions.iter().find(|condition| condition.type_ == "Degraded").unwrap();
    assert!(degraded.message.contains("on node2: CrashLoopBackOff"), "{}", degraded.message);
    assert_eq!(after.speakers.as_deref(), Some("2/3"));
}

#[test]
fn pods_that_are_only_starting_are_progress_and_no_trouble() {
    let (applied, controller, speaker) = (nothing(), deployment(0), daemon_set(3, 0));
    let pods =
        [PodTrouble { component: "speaker".into(), node: None, reason: "is starting".into(), stuck: false }];
    let observed = Observed { pods: &pods, ..observed(&applied, Some(&controller), Some(&speaker)) };
    let status = status(&observed, &LoadBalancerStackStatus::default(), &at(1));
    assert_eq!(
        (words(&status, "Progressing"), words(&status, "Degraded")),
        ("True RollingOut".into(), "False AsExpected".into())
    );
}

#[test]
fn an_invalid_spec_leaves_what_runs_as_it_is() {
    let faults = [Fault {
        field: "spec.x".into(),
        value: "y".into(),
        problem: "is bad".into(),
        remedy: "do good".into(),
    }];
    let (applied, controller, speaker) = (nothing(), deployment(2), daemon_set(3, 3));
    let old = LoadBalancerStackStatus {
        inventory: vec![entry(&key(Kind::Role, "speaker"), "u")],
        ..LoadBalancerStackStatus::default()
    };
    let observed = Observed { faults: &faults, ..observed(&applied, Some(&controller), Some(&speaker)) };
    let status = status(&observed, &old, &at(1));
    assert_eq!(words(&status, "Degraded"), "True InvalidSpec");
    assert_eq!(words(&status, "ConfigurationValid"), "False InvalidSpec");
    assert_eq!(words(&status, "Available"), "True Ready");
    assert_eq!(status.inventory, old.inventory);
}

#[test]
fn every_object_with_a_problem_is_told_and_the_first_gives_the_reason() {
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
        &observed(&applied, Some(&controller), Some(&speaker)),
        &LoadBalancerStackStatus::default(),
        &at(1),
    );
    assert_eq!(words(&status, "Degraded"), "True ForeignObject");
    let told: Vec<_> = status.components.iter().map(|c| (c.kind.as_str(), c.last_error.as_deref())).collect();
    assert_eq!(
        told,
        [("Deployment", None), ("DaemonSet", None), ("Role", Some("kept by helm")), ("Secret", Some("no"))]
    );
    let kinds: Vec<_> = status.inventory.iter().map(|entry| entry.kind.as_str()).collect();
    assert_eq!(kinds, ["DaemonSet", "Secret"], "what is not ours is not in the inventory");
}

#[test]
fn what_is_kept_and_what_is_leaving_stays_in_the_inventory() {
    let (kept, leaving) =
        ([entry(&key(Kind::IpAddressPool, "bad"), "u")], [entry(&key(Kind::Role, "old"), "v")]);
    let applied = nothing();
    let observed =
        Observed { spoiled: true, kept: &kept, leaving: &leaving, ..observed(&applied, None, None) };
    let status = status(&observed, &LoadBalancerStackStatus::default(), &at(1));
    assert_eq!(status.inventory.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["bad", "old"]);
    assert_eq!(words(&status, "Degraded"), "True InvalidConfiguration");
    assert_eq!(words(&status, "ConfigurationValid"), "False InvalidConfiguration");
    assert_eq!(words(&status, "Available"), "False NotCreated");
}

#[test]
fn what_controller_and_speakers_say_is_summed_up() {
    let state = |name: &str, labels: Value, status: Value| -> ConfigurationState {
        serde_json::from_value(json!({"apiVersion": "metallb.io/v1beta1", "kind": "ConfigurationState",
            "metadata": {"name": name, "labels": labels}, "status": status}))
        .unwrap()
    };
    let blocked = json!({"type": "lbstack.dev/BeaconsBlocked", "status": "True", "reason": "R", "message": "cannot hear n2",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let ignored = json!({"type": "lbstack.dev/ExcludeLabelIgnored", "status": "True", "reason": "R", "message": "on all",
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
        &Observed { states: &states, ..observed(&applied, None, None) },
        &LoadBalancerStackStatus::default(),
        &at(1),
    );
    assert_eq!(words(&status, "ConfigurationValid"), "False InvalidObjects");
    assert_eq!(words(&status, "BeaconsBlocked"), "True NotHeard");
    let message = |type_: &str| {
        status.conditions.iter().find(|condition| condition.type_ == type_).unwrap().message.clone()
    };
    assert_eq!(message("ConfigurationValid"), "pool b; pool a");
    assert_eq!(message("BeaconsBlocked"), "n1: cannot hear n2");
    assert_eq!(words(&status, "ExcludeLabelIgnored"), "True OnEveryNode");
    assert_eq!(message("ExcludeLabelIgnored"), "on all");
    let mut later = states[2].clone();
    let said = &mut later.status.as_mut().unwrap().conditions[0];
    (said.status, said.last_transition_time) = ("False".to_owned(), at(2_000_000_000));
    let states = [states[2].clone(), later];
    let now = super::status(
        &Observed { states: &states, ..observed(&applied, None, None) },
        &LoadBalancerStackStatus::default(),
        &at(1),
    );
    assert_eq!(words(&now, "ExcludeLabelIgnored"), "False AsExpected", "who spoke last is right");
}

#[test]
fn requirement_3_kernels_that_answer_for_addresses_are_a_condition_of_the_stack() {
    let answers = json!({"type": "lbstack.dev/KernelsAnswer", "status": "True", "reason": "UnannouncedAnswers",
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
        let observed = Observed { states, ..observed(&applied, None, None) };
        let status = status(&observed, &LoadBalancerStackStatus::default(), &at(1));
        let condition =
            status.conditions.iter().find(|condition| condition.type_ == "KernelsAnswer").unwrap();
        (words(&status, "KernelsAnswer"), condition.message.clone())
    };
    assert_eq!(of(&[state]), ("True UnannouncedAnswers".to_owned(), format!("{name}: n2 answers")));
    assert_eq!(of(&[]), ("False AsExpected".to_owned(), String::new()));
}

#[test]
fn nothing_observed_anew_gives_the_same_status() {
    let (applied, controller, speaker) = (nothing(), deployment(2), daemon_set(3, 3));
    let observed = observed(&applied, Some(&controller), Some(&speaker));
    let first = status(&observed, &LoadBalancerStackStatus::default(), &at(1));
    assert_eq!(status(&observed, &first, &at(2)), first);
}

fn pod(status: &Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"labels": {"component": "speaker"}},
        "spec": {"nodeName": "node1", "containers": []}, "status": status}))
    .unwrap()
}

fn container(state: &Value, restarts: i32) -> Value {
    json!({"name": "speaker", "image": "i", "imageID": "", "ready": false, "restartCount": restarts, "state": state})
}

#[test]
fn a_pod_in_trouble_is_told_with_its_node_and_reason() {
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
        let trouble = trouble(&pod(&status)).unwrap();
        assert_eq!((trouble.reason.as_str(), trouble.stuck), (expected, stuck));
    }
    assert_eq!(trouble(&pod(&json!({"conditions": [{"type": "Ready", "status": "True"}]}))), None);
}

#[test]
fn pods_in_the_same_trouble_are_told_together() {
    let pod = |node: &str, reason: &str| PodTrouble {
        component: "speaker".into(),
        node: Some(node.into()),
        reason: reason.into(),
        stuck: true,
    };
    let mut pods: Vec<_> = (1..8).map(|n| pod(&format!("n{n}"), "b")).collect();
    pods.push(pod("m", "a"));
    assert_eq!(pods::told(pods.iter()), ["on m: a", "on n1, n2, n3, n4, n5 and 2 more: b"]);
}

fn message<'a>(status: &'a LoadBalancerStackStatus, type_: &str) -> &'a str {
    &status.conditions.iter().find(|condition| condition.type_ == type_).unwrap().message
}

#[test]
fn requirement_5_the_status_says_why_there_are_no_pods_in_the_api_servers_own_words() {
    let why = "pods \"controller-6d4b\" is forbidden: failed quota: compute: must specify limits.memory for: controller";
    let mut controller = deployment(0);
    controller["status"]["replicas"] = json!(0);
    controller["status"]["conditions"] =
        json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": why}]);
    let (applied, running) = (nothing(), daemon_set(3, 3));
    let found = status(
        &observed(&applied, Some(&controller), Some(&running)),
        &LoadBalancerStackStatus::default(),
        &at(1),
    );
    assert_eq!(words(&found, "Degraded"), "True ControllerDown");
    for type_ in ["Degraded", "Available", "ControllerReady"] {
        let message = message(&found, type_);
        assert!(message.contains("failed quota: compute: must specify limits.memory"), "{message}");
        assert!(message.contains("spec.controller.resources"), "{message}");
        assert!(!message.contains("6d4b"), "the name changes with each attempt: {message}");
    }
    controller["status"]["conditions"][0]["status"] = json!("False");
    let found = status(
        &observed(&applied, Some(&controller), Some(&running)),
        &LoadBalancerStackStatus::default(),
        &at(1),
    );
    assert_eq!(words(&found, "Degraded"), "False AsExpected");

    let (controller, speaker) = (deployment(2), daemon_set(3, 0));
    let pods = [PodTrouble::refused(
        "speaker",
        "pods \"speaker-x7\" is forbidden: violates PodSecurity \"restricted:latest\": host namespaces",
    )];
    let observed = Observed { pods: &pods, ..observed(&applied, Some(&controller), Some(&speaker)) };
    let found = status(&observed, &LoadBalancerStackStatus::default(), &at(1));
    assert_eq!(words(&found, "Degraded"), "True SpeakersDown");
    let expected = "0/3 speaker pods are ready: pods cannot be created: violates PodSecurity \"restricted:latest\": \
                    host namespaces";
    assert_eq!(message(&found, "Degraded"), expected);
}

#[test]
fn a_rollout_that_makes_no_progress_is_degraded_although_nothing_says_why() {
    let (applied, controller, speaker) = (nothing(), deployment(2), daemon_set(3, 0));
    let observed = Observed { stalled: true, ..observed(&applied, Some(&controller), Some(&speaker)) };
    let found = status(&observed, &LoadBalancerStackStatus::default(), &at(1));
    assert_eq!(words(&found, "Progressing"), "True RollingOut");
    assert_eq!(words(&found, "Degraded"), "True SpeakersDown");
    assert!(message(&found, "Degraded").contains("makes no progress"));
}

#[test]
fn what_is_retained_is_reported_and_degrades_nothing() {
    let retained = Applied {
        key: key(Kind::IpAddressPool, "default"),
        outcome: Outcome::Retained("is managed by kubectl".into()),
        uid: None,
    };
    let applied = Manifests(vec![retained]);
    let (controller, speaker) = (deployment(2), daemon_set(3, 3));
    let found = status(
        &observed(&applied, Some(&controller), Some(&speaker)),
        &LoadBalancerStackStatus::default(),
        &at(1),
    );
    assert_eq!(words(&found, "Degraded"), "False AsExpected");
    assert_eq!(words(&found, "ConfigurationValid"), "True Warnings");
    assert_eq!(message(&found, "ConfigurationValid"), "IPAddressPool default: is managed by kubectl");
}

#[test]
fn what_is_kept_for_an_error_is_named_beside_the_error() {
    let faults = [Fault {
        field: "ConfigMap config line 1".into(),
        value: String::new(),
        problem: "is empty".into(),
        remedy: "correct it".into(),
    }];
    let kept = [entry(&key(Kind::IpAddressPool, "a"), "u")];
    let applied = nothing();
    let observed = Observed { doubts: &faults, spoiled: true, kept: &kept, ..observed(&applied, None, None) };
    let found = status(&observed, &LoadBalancerStackStatus::default(), &at(1));
    for type_ in ["Degraded", "ConfigurationValid"] {
        assert!(message(&found, type_).ends_with("kept until then as they were: IPAddressPool a"));
    }
}

#[test]
fn what_cannot_be_looked_at_stays_in_the_inventory() {
    let failed =
        |kind| Applied { key: key(kind, "a"), outcome: Outcome::Failed("no answer".into()), uid: None };
    let foreign = Applied { key: key(Kind::Role, "b"), outcome: Outcome::Foreign("helm".into()), uid: None };
    let applied = Manifests(vec![failed(Kind::IpAddressPool), foreign]);
    let old = LoadBalancerStackStatus {
        inventory: vec![entry(&key(Kind::IpAddressPool, "a"), "u"), entry(&key(Kind::Role, "b"), "v")],
        ..LoadBalancerStackStatus::default()
    };
    let found = status(&observed(&applied, None, None), &old, &at(1));
    assert_eq!(found.inventory, [old.inventory[0].clone()]);
}
