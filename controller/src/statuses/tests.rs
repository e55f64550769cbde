use std::collections::BTreeMap;
use std::sync::Arc;

use crds::{ConfigurationState, IPAddressPool, L2Advertisement};
use ipam::Occupant;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use rules::{Configuration, Objects};
use serde_json::{Value, json};

use super::build::{STATE_NAME, StatusSources, StatusWrite};
use super::writer;
use crate::conflict::Conflict;
use crate::fixtures;
use crate::pool_stats::PoolStats;

fn now() -> Time {
    Time(Timestamp::from_second(1_000_000).unwrap())
}

fn object<K: serde::de::DeserializeOwned>(kind: &str, name: &str, more: &Value) -> Arc<K> {
    Arc::new(fixtures::object(kind, name, more))
}

/// The writes for `objects`, in which all 3 addresses of the pool `lan` are in use.
fn writes(objects: &Objects, state: Option<&ConfigurationState>, conflicts: &[&str]) -> Vec<StatusWrite> {
    let (configuration, findings) = Configuration::from_objects(objects);
    let full = PoolStats { in_use_v4: 3, total_v4: 3, exhausted_v4: true, ..PoolStats::default() };
    StatusSources {
        namespace: "metallb-system",
        objects,
        configuration: &configuration,
        findings: &findings,
        undecodable: &[],
        stats: &BTreeMap::from([("lan".to_owned(), full)]),
        conflicts: &conflicts
            .iter()
            .map(|ip| {
                let conflict = Conflict { occupant: Occupant::ForeignHost, message: String::new() };
                (ip.parse().unwrap(), conflict)
            })
            .collect(),
        state,
        now: now(),
    }
    .writes()
}

fn lan() -> Arc<IPAddressPool> {
    object("IPAddressPool", "lan", &json!({"spec": {"addresses": ["10.0.0.1-10.0.0.3"]}}))
}

fn condition<'a>(write: &'a StatusWrite, type_: &str) -> &'a Value {
    let conditions = write.patch["status"]["conditions"].as_array().unwrap();
    conditions.iter().find(|condition| condition["type"] == type_).unwrap()
}

#[test]
fn a_full_pool_is_reported_once() {
    let objects = Objects { pools: vec![lan()], ..Objects::default() };
    let first = writes(&objects, None, &["10.0.0.2", "10.9.9.9"]);
    let write = &first[0];
    assert_eq!(write.patch["status"]["assignedIPv4"], 3);
    assert_eq!(write.patch["status"]["availableIPv4"], 0);
    assert_eq!(condition(write, "Exhausted")["status"], "True");
    assert_eq!(condition(write, "Ready")["status"], "True");
    let conflict = condition(write, "Conflict")["message"].as_str().unwrap();
    assert!(conflict.contains("10.0.0.2") && !conflict.contains("10.9.9.9"));

    let mut stored = serde_json::to_value(&*objects.pools[0]).unwrap();
    json_patch::merge(&mut stored, &write.patch);
    let objects = Objects { pools: vec![Arc::new(serde_json::from_value(stored).unwrap())], ..objects };
    let state = writes(&objects, None, &["10.0.0.2", "10.9.9.9"]);
    assert_eq!(state.iter().map(|write| write.name.as_str()).collect::<Vec<_>>(), [STATE_NAME]);
}

#[test]
fn an_advertisement_with_an_error_gets_a_condition_and_a_valid_one_does_not() {
    let good: Arc<L2Advertisement> = object("L2Advertisement", "good", &json!({}));
    let bad: Arc<L2Advertisement> = object(
        "L2Advertisement",
        "bad",
        &json!({"spec": {"nodeSelectors": [{"matchExpressions": [{"key": "a", "operator": "Like"}]}]}}),
    );
    let objects = Objects { l2_advertisements: vec![good, bad], ..Objects::default() };
    let all = writes(&objects, None, &[]);
    assert_eq!(all.iter().map(|write| write.name.as_str()).collect::<Vec<_>>(), ["bad", STATE_NAME]);
    assert_eq!(condition(&all[0], "Ready")["reason"], "ConfigurationError");
    let state = &all[1];
    assert_eq!(state.patch["status"]["result"], "Invalid");
    assert_eq!(condition(state, "poolReconcilerValid")["status"], "False");
    assert!(
        state.patch["status"]["errorSummary"]
            .as_str()
            .unwrap()
            .starts_with("L2Advertisement bad: spec.nodeSelectors")
    );
}

#[test]
fn the_configuration_state_is_created_once_and_written_only_on_change() {
    let first = writes(&Objects::default(), None, &[]);
    assert!(first[0].create.is_some());
    let mut stored = json!({"apiVersion": "metallb.io/v1beta1", "kind": "ConfigurationState",
        "metadata": {"name": STATE_NAME}});
    json_patch::merge(&mut stored, &first[0].patch);
    let state: ConfigurationState = serde_json::from_value(stored).unwrap();
    assert_eq!(writes(&Objects::default(), Some(&state), &[]), []);
}

/// Whether the write of the pool is due in each of four rounds. `store` changes what the API server stores of
/// a write.
fn rounds(store: impl Fn(&mut Value)) -> Vec<writer::Due> {
    let key = ("IPAddressPool".to_owned(), "lan".to_owned());
    let mut history = writer::WriteHistory::default();
    let (mut pool, now) = (lan(), tokio::time::Instant::now());
    let mut due = Vec::new();
    for round in 0..4_u64 {
        let objects = Objects { pools: vec![pool.clone()], ..Objects::default() };
        let write = writes(&objects, None, &[]).into_iter().find(|write| write.name == "lan");
        let Some(write) = write else { break };
        due.push(history.due(&key, &write, now));
        if due.last() == Some(&writer::Due::Now) {
            let mut stored = serde_json::to_value(&*pool).unwrap();
            json_patch::merge(&mut stored, &write.patch);
            history.record_write(&key, writer::without_transition_times(&write.patch), 10 * round + 1, now);
            stored["metadata"]["resourceVersion"] = json!((10 * round + 1).to_string());
            store(&mut stored);
            pool = Arc::new(serde_json::from_value(stored).unwrap());
        }
    }
    due
}

#[test]
fn a_field_that_an_older_definition_prunes_is_not_written_repeatedly() {
    let prune = |stored: &mut Value| drop(stored["status"].as_object_mut().unwrap().remove("conditions"));
    assert_eq!(rounds(prune), [writer::Due::Now, writer::Due::No, writer::Due::No, writer::Due::No]);
    assert_eq!(rounds(|_| {}), [writer::Due::Now], "the status is up to date");
}

#[test]
fn a_status_that_another_writer_reverts_is_not_written_at_once() {
    let undo = |stored: &mut Value| {
        stored["status"]["conditions"] = json!([]);
        stored["metadata"]["resourceVersion"] = json!("999");
    };
    let due = rounds(undo);
    assert_eq!(due[0], writer::Due::Now);
    assert!(due[1..].iter().all(|due| matches!(due, writer::Due::Later(_))), "{due:?}");
}

#[test]
fn a_configuration_state_that_an_older_definition_prunes_is_not_written_repeatedly() {
    let key = ("ConfigurationState".to_owned(), STATE_NAME.to_owned());
    let (mut history, now) = (writer::WriteHistory::default(), tokio::time::Instant::now());
    let first = writes(&Objects::default(), None, &[]).remove(0);
    assert_eq!(history.due(&key, &first, now), writer::Due::Now);
    history.record_write(&key, writer::without_transition_times(&first.patch), 7, now);
    let pruned = json!({"metadata": {"name": STATE_NAME, "resourceVersion": "7"}});
    let pruned: ConfigurationState = serde_json::from_value(pruned).unwrap();
    let second = writes(&Objects::default(), Some(&pruned), &[]).remove(0);
    assert_eq!(history.due(&key, &second, now), writer::Due::No);
}

#[test]
fn a_status_that_cannot_be_written_is_retried_with_backoff() {
    let key = ("ConfigurationState".to_owned(), STATE_NAME.to_owned());
    let (mut history, start) = (writer::WriteHistory::default(), tokio::time::Instant::now());
    let write = writes(&Objects::default(), None, &[]).remove(0);
    let (mut now, mut attempts) = (start, 0);
    while now < start + std::time::Duration::from_secs(3_600) {
        match history.due(&key, &write, now) {
            writer::Due::Now => {
                attempts += 1;
                history.record_failure(key.clone(), now);
            }
            writer::Due::Later(at) => now = at,
            other => panic!("{other:?}"),
        }
    }
    assert!((10..=25).contains(&attempts), "{attempts} in an hour");
}
