//! Events of a Service as users list them.

use e2e::Env;
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
pub(crate) fn return_to_a_node(env: &Env) {
    let pool = env.pool("roam", "192.168.33.217-192.168.33.217");
    let deployment = e2e::web_on("roamer", "node1");
    env.apply(&deployment);
    env.apply(ROAMER);
    for node in ["node1", "node2", "node1", "node2"] {
        env.apply(&e2e::web_on("roamer", node));
        env.kubectl(&["rollout", "status", "deployment/roamer", "--timeout=120s"]);
        status_names(env, "roamer", node);
        poll(&format!("the newest event names {node}, in every listing"), REPLACED, || {
            (newest_by_last_timestamp(env)? == node
                && newest_described(env)? == node
                && newest_listed(env)? == node)
                .then_some(())
        });
    }
    env.delete(ROAMER);
    env.delete(&deployment);
    env.delete(&pool);
}

/// The node that an event's message names.
fn node_in(text: &str) -> Option<String> {
    ["node1", "node2", "node3"]
        .into_iter()
        .find(|node| text.contains(&format!("\"{node}\"")))
        .map(str::to_owned)
}

/// The newest by `kubectl get events --sort-by=.lastTimestamp`.
fn newest_by_last_timestamp(env: &Env) -> Option<String> {
    let list = env.get(&["events", "--field-selector", "involvedObject.name=roamer,reason=nodeAssigned"]);
    let last = |event: &Value| event["lastTimestamp"].as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array()?.clone();
    assert!(items.iter().all(|event| !last(event).is_empty()), "without lastTimestamp: {list}");
    node_in(items.iter().max_by_key(|event| last(event))?["message"].as_str()?)
}

/// The newest by `kubectl events`, which lists the oldest first.
fn newest_listed(env: &Env) -> Option<String> {
    let text = env.kubectl(&["events", "--for", "service/roamer"]);
    node_in(text.lines().rfind(|line| line.contains("nodeAssigned"))?)
}

/// The newest by `kubectl describe`, whose list is not sorted: the event with the smallest age.
fn newest_described(env: &Env) -> Option<String> {
    let text = env.kubectl(&["describe", "service", "roamer"]);
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
