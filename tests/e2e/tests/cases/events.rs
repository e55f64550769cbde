//! What users read of the events of a Service.

use e2e::Bed;
use e2e::wait::poll;
use serde_json::Value;

use crate::support::{REPLACED, status_names};

const ROAMER: &str = "apiVersion: v1
kind: Service
metadata: {name: roamer, namespace: default, annotations: {metallb.io/address-pool: roam}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: roamer}
  ports: [{name: http, port: 80, targetPort: 8080}]
";

/// metallb/metallb#2310.
pub(crate) fn return_to_a_node(bed: &Bed) {
    let pool = bed.pool("roam", "192.168.33.217-192.168.33.217");
    let deployment = e2e::web_on("roamer", "node1");
    bed.apply(&deployment);
    bed.apply(ROAMER);
    for node in ["node1", "node2", "node1", "node2"] {
        bed.apply(&e2e::web_on("roamer", node));
        bed.kubectl(&["rollout", "status", "deployment/roamer", "--timeout=120s"]);
        status_names(bed, "roamer", node);
        poll(&format!("the newest event names {node}, however it is read"), REPLACED, || {
            (newest_by_last_timestamp(bed)? == node
                && newest_described(bed)? == node
                && newest_listed(bed)? == node)
                .then_some(())
        });
    }
    bed.delete(ROAMER);
    bed.delete(&deployment);
    bed.delete(&pool);
}

/// The node that an event's message names.
fn node_in(text: &str) -> Option<String> {
    ["node1", "node2", "node3"]
        .into_iter()
        .find(|node| text.contains(&format!("\"{node}\"")))
        .map(str::to_owned)
}

/// As by `kubectl get events --sort-by=.lastTimestamp`.
fn newest_by_last_timestamp(bed: &Bed) -> Option<String> {
    let list = bed.get(&["events", "--field-selector", "involvedObject.name=roamer,reason=nodeAssigned"]);
    let last = |event: &Value| event["lastTimestamp"].as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array()?.clone();
    assert!(items.iter().all(|event| !last(event).is_empty()), "without lastTimestamp: {list}");
    node_in(items.iter().max_by_key(|event| last(event))?["message"].as_str()?)
}

/// `kubectl events`, oldest first.
fn newest_listed(bed: &Bed) -> Option<String> {
    let text = bed.kubectl(&["events", "--for", "service/roamer"]);
    node_in(text.lines().rfind(|line| line.contains("nodeAssigned"))?)
}

/// `kubectl describe`, whose list is not in order: the one with the smallest age.
fn newest_described(bed: &Bed) -> Option<String> {
    let text = bed.kubectl(&["describe", "service", "roamer"]);
    let age = |line: &str| seconds(line.split_whitespace().nth(2)?);
    node_in(
        text.lines()
            .filter(|line| line.contains("nodeAssigned"))
            .min_by_key(|line| age(line).unwrap_or(u32::MAX))?,
    )
}

/// A duration as kubectl prints it, such as `2m5s`.
fn seconds(text: &str) -> Option<u32> {
    let (minutes, rest) = text.split_once('m').unwrap_or(("0", text));
    let rest = rest.trim_end_matches('s');
    Some(minutes.parse::<u32>().ok()? * 60 + if rest.is_empty() { 0 } else { rest.parse::<u32>().ok()? })
}
