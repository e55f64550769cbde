//! What several cases check.

use std::time::Duration;

use e2e::Bed;
use e2e::wait::poll;
use serde_json::Value;

/// What the API or a speaker does at once takes at most this long on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// A pod is replaced, or a speaker starts and probes, within this time.
pub(crate) const REPLACED: Duration = Duration::from_secs(60);

/// The names of the machines that answer the client's ARP request or neighbour solicitation for an address: nodes by
/// their names, anything else by its link-layer address.
pub(crate) fn answering(bed: &Bed, address: &str) -> Vec<String> {
    let nodes = bed.cluster.nodes();
    let name = |mac: String| {
        let node = nodes.iter().find(|node| node.host.mac.to_string() == mac);
        node.map_or(mac, |node| node.host.name.clone())
    };
    bed.who_has(address).into_iter().map(name).collect()
}

/// Waits until exactly one machine answers for an address, and returns its name.
pub(crate) fn only_answer(bed: &Bed, address: &str, limit: Duration) -> String {
    poll(&format!("exactly one machine answers for {address}"), limit, || {
        let mut names = answering(bed, address);
        (names.len() == 1).then(|| names.remove(0))
    })
}

/// A client whose neighbour table is empty is served at `address`, and exactly one node answers for it.
pub(crate) fn serves_a_new_client(bed: &Bed, address: &str, limit: Duration) -> String {
    let node = only_answer(bed, address, limit);
    bed.cluster.client().forget_neighbours().unwrap();
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    bed.served(&format!("http://{host}/"), limit);
    node
}

/// `kubectl get` of objects in the stack's namespace.
pub(crate) fn list(bed: &Bed, kind: &str) -> Vec<Value> {
    let list = bed.get(&[kind, "--namespace", "metallb-system"]);
    list["items"].as_array().cloned().unwrap_or_default()
}

/// Waits until the condition is as wanted on the stack, and returns its message.
pub(crate) fn stack_condition(bed: &Bed, type_: &str, status: &str) -> String {
    poll(&format!("{type_} of the stack is {status}"), SOON, || {
        let stack = bed.get(&["lbs", "default"]);
        let conditions = stack["status"]["conditions"].as_array()?.clone();
        let condition = conditions.into_iter().find(|c| c["type"] == type_ && c["status"] == status)?;
        Some(condition["message"].as_str().unwrap_or_default().to_owned())
    })
}

/// The nodes that ServiceL2Statuses name for a Service of the namespace `default`.
pub(crate) fn status_nodes(bed: &Bed, service: &str) -> Vec<String> {
    let statuses = list(bed, "servicel2statuses");
    let about = |status: &&Value| status["status"]["serviceName"] == service;
    let nodes = statuses.iter().filter(about).filter_map(|status| status["status"]["node"].as_str());
    nodes.filter(|node| !node.is_empty()).map(str::to_owned).collect()
}

/// Waits until the ServiceL2Statuses of a Service name this node and no other.
pub(crate) fn status_names(bed: &Bed, service: &str, node: &str) {
    poll(&format!("the status of {service} names {node}"), SOON, || {
        (status_nodes(bed, service) == [node]).then_some(())
    });
}

/// Deletes every pod of a component, and waits until all of its pods are new and ready.
pub(crate) fn replace_pods(bed: &Bed, component: &str) {
    let selector = format!("component={component}");
    let uids = || -> Vec<String> {
        let pods = bed.get(&["pods", "--namespace", "metallb-system", "--selector", &selector]);
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        pods.iter().filter_map(|pod| pod["metadata"]["uid"].as_str().map(str::to_owned)).collect()
    };
    let before = uids();
    bed.kill_pods("metallb-system", &selector);
    poll(&format!("the pods of {component} are replaced"), REPLACED, || {
        let now = uids();
        (now.len() == before.len() && now.iter().all(|uid| !before.contains(uid))).then_some(())
    });
    let kind = if component == "speaker" { "daemonset/speaker" } else { "deployment/controller" };
    bed.kubectl(&["rollout", "status", kind, "--namespace", "metallb-system", "--timeout=120s"]);
}
