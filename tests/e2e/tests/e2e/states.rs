//! What speakers report of their nodes, as users see it.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::Env;
use serde_json::{Value, json};

/// A speaker writes its state at most once in five seconds.
const REPORTED: Duration = Duration::from_secs(30);

pub(crate) fn of_speakers(env: &Env) {
    let pool = env.pool("states", "192.168.33.230-192.168.33.231");
    let web = env.web();
    let service = env.service("states", "states", "");
    env.address("default", "states");
    let announcer = env.announcer("default", "states");
    let list = |kind: &str| -> Vec<Value> {
        let listed = env.get(&[kind, "--namespace", "metallb-system"]);
        listed["items"].as_array().cloned().unwrap_or_default()
    };
    let nodes: BTreeSet<String> = env.nodes().into_iter().collect();
    let states = e2e::wait::poll("every speaker reports its node and hears the others", REPORTED, || {
        let states = list("speakerstates");
        let heard = states.iter().all(|state| state["status"]["peers"] == "2/2");
        let owned = states.iter().any(|state| {
            state["status"]["node"] == announcer.as_str() && state["status"]["owned"].as_i64() >= Some(1)
        });
        (heard && owned && states.len() == nodes.len()).then_some(states)
    });
    for state in &states {
        let (metadata, status) = (&state["metadata"], &state["status"]);
        assert!(nodes.contains(metadata["name"].as_str().unwrap()), "{metadata}");
        assert_eq!(metadata["ownerReferences"][0]["kind"], "DaemonSet");
        assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
        let interface = &status["interfaces"][0];
        assert_eq!(interface["name"], "eth0");
        assert_eq!(interface["families"], json!(["IPv4", "IPv6"]));
        assert_eq!(interface["mac"].as_str().unwrap().split(':').count(), 6);
        let subnets = interface["subnets"].as_array().unwrap();
        assert!(subnets.iter().any(|subnet| subnet.as_str().unwrap().starts_with("192.168.33.")), "{status}");
    }
    let table = env.kubectl(&["get", "speakerstates", "--namespace", "metallb-system"]);
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(lines.next().unwrap(), ["NAME", "NODE", "INTERFACES", "OWNED", "PEERS", "VERSION", "AGE"]);
    assert!(
        lines.all(|line| line[1] == line[0] && line[2].starts_with("eth0") && line[4] == "2/2"),
        "{table}"
    );

    let speakers = list("configurationstates");
    let speakers: Vec<&Value> = speakers
        .iter()
        .filter(|state| state["metadata"]["labels"]["metallb.io/component-type"] == "speaker")
        .collect();
    assert_eq!(speakers.len(), nodes.len());
    for state in speakers {
        let labels = state["metadata"]["labels"].as_object().unwrap();
        let keys: Vec<&String> = labels.keys().collect();
        assert_eq!(keys, ["metallb.io/component-type", "metallb.io/node-name"]);
        assert_eq!(state["metadata"]["annotations"], Value::Null);
        let conditions = state["status"]["conditions"].as_array().unwrap();
        let types: Vec<&Value> = conditions.iter().map(|condition| &condition["type"]).collect();
        assert_eq!(types, ["configReconcilerValid"]);
    }
    for manifest in [service, web, pool] {
        env.delete(&manifest);
    }
}
