use std::sync::Arc;

use crds::L2Advertisement;
use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::fixtures;

fn now() -> Time {
    Time(Timestamp::from_second(1_000_000).unwrap())
}

fn object<K: serde::de::DeserializeOwned>(kind: &str, name: &str, more: &Value) -> Arc<K> {
    Arc::new(fixtures::object(kind, name, more))
}

/// The writes for `objects`, in which the pool `lan` has 3 addresses of which 3 are in use.
fn writes(objects: &Objects, state: Option<&ConfigurationState>, conflicts: &[&str]) -> Vec<Write> {
    let (configuration, findings) = Configuration::from_objects(objects);
    let full = PoolFigures { in_use_v4: 3, total_v4: 3, exhausted_v4: true, ..PoolFigures::default() };
    Facts {
        namespace: "metallb-system",
        objects,
        configuration: &configuration,
        findings: &findings,
        undecodable: &[],
        figures: &BTreeMap::from([("lan".to_owned(), full)]),
        conflicts: &conflicts
            .iter()
            .map(|ip| {
                let conflict = Conflict { occupant: Occupant::ForeignHost, text: String::new() };
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

fn condition<'a>(write: &'a Write, type_: &str) -> &'a Value {
    let conditions = write.patch["status"]["conditions"].as_array().unwrap();
    conditions.iter().find(|condition| condition["type"] == type_).unwrap()
}

#[test]
fn a_full_pool_says_so_and_once() {
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
    assert_eq!(state.iter().map(|write| write.name.as_str()).collect::<Vec<_>>(), [STATE]);
}

#[test]
fn an_advertisement_in_order_gets_no_word_and_one_with_an_error_does() {
    let good: Arc<L2Advertisement> = object("L2Advertisement", "good", &json!({}));
    let bad: Arc<L2Advertisement> = object(
        "L2Advertisement",
        "bad",
        &json!({"spec": {"nodeSelectors": [{"matchExpressions": [{"key": "a", "operator": "Like"}]}]}}),
    );
    let objects = Objects { l2_advertisements: vec![good, bad], ..Objects::default() };
    let all = writes(&objects, None, &[]);
    assert_eq!(all.iter().map(|write| write.name.as_str()).collect::<Vec<_>>(), ["bad", STATE]);
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
fn the_state_is_made_once_and_written_only_on_change() {
    let first = writes(&Objects::default(), None, &[]);
    assert!(first[0].create.is_some());
    let mut stored = json!({"apiVersion": "metallb.io/v1beta1", "kind": "ConfigurationState", "metadata": {"name": STATE}});
    json_patch::merge(&mut stored, &first[0].patch);
    let state: ConfigurationState = serde_json::from_value(stored).unwrap();
    assert_eq!(writes(&Objects::default(), Some(&state), &[]), []);
}

/// Whether the first write of the pool in each round is due, whose answer `store` makes the next object.
fn rounds(store: impl Fn(&mut Value)) -> Vec<writer::Due> {
    let target = ("IPAddressPool".to_owned(), "lan".to_owned());
    let mut memory = writer::Memory::default();
    let (mut pool, now) = (lan(), tokio::time::Instant::now());
    let mut due = Vec::new();
    for round in 0..4_u64 {
        let objects = Objects { pools: vec![pool.clone()], ..Objects::default() };
        let write = writes(&objects, None, &[]).into_iter().find(|write| write.name == "lan");
        let Some(write) = write else { break };
        due.push(memory.due(&target, &write, now));
        if due.last() == Some(&writer::Due::Now) {
            let mut stored = serde_json::to_value(&*pool).unwrap();
            json_patch::merge(&mut stored, &write.patch);
            memory.wrote(&target, writer::said(&write.patch), 10 * round + 1, now);
            stored["metadata"]["resourceVersion"] = json!((10 * round + 1).to_string());
            store(&mut stored);
            pool = Arc::new(serde_json::from_value(stored).unwrap());
        }
    }
    due
}

#[test]
fn what_an_older_definition_prunes_is_not_written_again_and_again() {
    let prune = |stored: &mut Value| drop(stored["status"].as_object_mut().unwrap().remove("conditions"));
    assert_eq!(rounds(prune), [writer::Due::Now, writer::Due::No, writer::Due::No, writer::Due::No]);
    assert_eq!(rounds(|_| {}), [writer::Due::Now], "what was stored is as it shall be");
}

#[test]
fn a_status_that_another_writer_undoes_is_not_answered_at_once() {
    let undo = |stored: &mut Value| {
        stored["status"]["conditions"] = json!([]);
        stored["metadata"]["resourceVersion"] = json!("999");
    };
    let due = rounds(undo);
    assert_eq!(due[0], writer::Due::Now);
    assert!(due[1..].iter().all(|due| matches!(due, writer::Due::Later(_))), "{due:?}");
}

#[test]
fn a_state_that_an_older_definition_prunes_is_not_written_again_and_again() {
    let target = ("ConfigurationState".to_owned(), STATE.to_owned());
    let (mut memory, now) = (writer::Memory::default(), tokio::time::Instant::now());
    let first = writes(&Objects::default(), None, &[]).remove(0);
    assert_eq!(memory.due(&target, &first, now), writer::Due::Now);
    memory.wrote(&target, writer::said(&first.patch), 7, now);
    let pruned = json!({"metadata": {"name": STATE, "resourceVersion": "7"}});
    let pruned: ConfigurationState = serde_json::from_value(pruned).unwrap();
    let second = writes(&Objects::default(), Some(&pruned), &[]).remove(0);
    assert_eq!(memory.due(&target, &second, now), writer::Due::No);
}

#[test]
fn a_status_that_cannot_be_written_is_tried_after_longer_and_longer() {
    let target = ("ConfigurationState".to_owned(), STATE.to_owned());
    let (mut memory, start) = (writer::Memory::default(), tokio::time::Instant::now());
    let write = writes(&Objects::default(), None, &[]).remove(0);
    let (mut now, mut attempts) = (start, 0);
    while now < start + std::time::Duration::from_secs(3_600) {
        match memory.due(&target, &write, now) {
            writer::Due::Now => {
                attempts += 1;
                memory.failed(target.clone(), now);
            }
            writer::Due::Later(at) => now = at,
            other => panic!("{other:?}"),
        }
    }
    assert!((10..=25).contains(&attempts), "{attempts} in an hour");
}
