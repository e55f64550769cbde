//! Helpers of several cases.

use std::time::Duration;

use e2e::Env;
use e2e::wait::poll;
use serde_json::Value;

/// Timeout of what the API server or a speaker should do immediately, on a busy machine too.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// Timeout of the replacement of a pod, or of the start of a speaker with its probes.
pub(crate) const REPLACED: Duration = Duration::from_secs(60);

/// The names of the machines that answer the client's ARP request or neighbour solicitation for an address:
/// nodes by their names, anything else by its link-layer address.
pub(crate) fn answering(env: &Env, address: &str) -> Vec<String> {
    let nodes = env.cluster.nodes();
    let name = |mac: String| {
        let node = nodes.iter().find(|node| node.host.mac.to_string() == mac);
        node.map_or(mac, |node| node.host.name.clone())
    };
    env.who_has(address).into_iter().map(name).collect()
}

/// Waits until exactly one machine answers for an address, and returns its name.
pub(crate) fn only_responder(env: &Env, address: &str, limit: Duration) -> String {
    poll(&format!("exactly one machine answers for {address}"), limit, || {
        let mut names = answering(env, address);
        (names.len() == 1).then(|| names.remove(0))
    })
}

/// A client whose neighbour table is empty is served at `address`, and exactly one node answers for it.
pub(crate) fn serves_a_new_client(env: &Env, address: &str, limit: Duration) -> String {
    let node = only_responder(env, address, limit);
    env.cluster.client().flush_neighbours().unwrap();
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    env.served(&format!("http://{host}/"), limit);
    node
}

/// `kubectl get` of objects in the stack's namespace.
pub(crate) fn list(env: &Env, kind: &str) -> Vec<Value> {
    let list = env.get(&[kind, "--namespace", "metallb-system"]);
    list["items"].as_array().cloned().unwrap_or_default()
}

/// Waits until a condition of the stack has this status, and returns its message.
pub(crate) fn stack_condition(env: &Env, type_: &str, status: &str) -> String {
    poll(&format!("{type_} of the stack is {status}"), SOON, || {
        let stack = env.get(&["lbs", "default"]);
        let conditions = stack["status"]["conditions"].as_array()?.clone();
        let condition = conditions.into_iter().find(|c| c["type"] == type_ && c["status"] == status)?;
        Some(condition["message"].as_str().unwrap_or_default().to_owned())
    })
}

/// The nodes in the ServiceL2Statuses of a Service in namespace `default`.
pub(crate) fn status_nodes(env: &Env, service: &str) -> Vec<String> {
    let statuses = list(env, "servicel2statuses");
    let of_service = |status: &&Value| status["status"]["serviceName"] == service;
    let nodes = statuses.iter().filter(of_service).filter_map(|status| status["status"]["node"].as_str());
    nodes.filter(|node| !node.is_empty()).map(str::to_owned).collect()
}

/// Waits until the ServiceL2Statuses of a Service name this node and no other.
pub(crate) fn status_names(env: &Env, service: &str, node: &str) {
    poll(&format!("the status of {service} names {node}"), SOON, || {
        (status_nodes(env, service) == [node]).then_some(())
    });
}

/// Deletes every pod of a component, and waits until all of its pods are new and ready.
pub(crate) fn replace_pods(env: &Env, component: &str) {
    let selector = format!("component={component}");
    let uids = || -> Vec<String> {
        let pods = env.get(&["pods", "--namespace", "metallb-system", "--selector", &selector]);
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        pods.iter().filter_map(|pod| pod["metadata"]["uid"].as_str().map(str::to_owned)).collect()
    };
    let before = uids();
    env.kill_pods("metallb-system", &selector);
    poll(&format!("the pods of {component} are replaced"), REPLACED, || {
        let now = uids();
        (now.len() == before.len() && now.iter().all(|uid| !before.contains(uid))).then_some(())
    });
    let kind = if component == "speaker" { "daemonset/speaker" } else { "deployment/controller" };
    env.kubectl(&["rollout", "status", kind, "--namespace", "metallb-system", "--timeout=120s"]);
}
