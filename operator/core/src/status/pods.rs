//! Why a pod is not ready, in the words of conditions and events.

use std::collections::BTreeMap;

use crds::names::{CONTROLLER, LABEL_COMPONENT};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// A pod that is not ready.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodIssue {
    /// `controller` or `speaker`.
    pub component: String,
    /// The node, if it has one.
    pub node: Option<String>,
    /// Why it is not ready.
    pub reason: String,
    /// Whether it needs attention; false while it is merely starting.
    pub stuck: bool,
}

impl PodIssue {
    /// Pods of `component` that cannot be created; `message` is the API server's explanation.
    pub fn creation_failed(component: &str, message: &str) -> Self {
        // Each attempt has a different pod name, which would change the message.
        let message = message.split_once(" is forbidden: ").map_or(message, |(_, message)| message);
        let advice = if message.contains("quota") || message.contains("usage per") {
            format!("; set spec.{component}.resources, or change the quota or limit range of the namespace")
        } else {
            String::new()
        };
        let reason = format!("pods cannot be created: {message}{advice}");
        Self { component: component.to_owned(), node: None, reason, stuck: true }
    }

    pub(super) fn controller_creation_failed(message: &str) -> Self {
        Self::creation_failed(CONTROLLER, message)
    }
}

/// Groups pods by issue: `on node1, node2: is starting`.
pub(crate) fn summarize<'a>(pods: impl Iterator<Item = &'a PodIssue>) -> Vec<String> {
    let mut nodes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for pod in pods {
        nodes.entry(&pod.reason).or_default().extend(pod.node.as_deref());
    }
    let describe = |(reason, nodes): (&str, Vec<&str>)| {
        if nodes.is_empty() { reason.to_owned() } else { format!("on {}: {reason}", first_n(&nodes)) }
    };
    nodes.into_iter().map(describe).collect()
}

/// The first few names, and the number of the others.
fn first_n(nodes: &[&str]) -> String {
    const SHOWN: usize = 5;
    let shown = nodes.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if nodes.len() > SHOWN { format!("{shown} and {} more", nodes.len() - SHOWN) } else { shown }
}

/// The issue of `pod`; none if it is ready or being deleted.
pub fn pod_issue(pod: &Pod) -> Option<PodIssue> {
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let condition = |type_: &str| conditions.iter().find(|condition| condition.type_ == type_);
    if condition("Ready").is_some_and(|ready| ready.status == "True")
        || pod.metadata.deletion_timestamp.is_some()
    {
        return None;
    }
    let component = pod.metadata.labels.as_ref()?.get(LABEL_COMPONENT)?.clone();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let containers = status.container_statuses.unwrap_or_default();
    let (reason, stuck) = if let Some(state) = containers.iter().find_map(container_state) {
        state
    } else if let Some(scheduled) = condition("PodScheduled").filter(|scheduled| scheduled.status == "False")
    {
        (format!("cannot be scheduled: {}", scheduled.message.clone().unwrap_or_default()), true)
    } else if containers.iter().any(|container| container.restart_count > 0) {
        ("has restarted and is not ready".to_owned(), true)
    } else if node.is_some() && containers.iter().any(|container| container.ready) {
        ("does not answer: the node may be down".to_owned(), true)
    } else {
        ("is starting".to_owned(), false)
    };
    Some(PodIssue { component, node, reason, stuck })
}

/// The issue of a container that does not run, in words that stay the same while it is restarted.
fn container_state(container: &ContainerStatus) -> Option<(String, bool)> {
    let state = container.state.as_ref()?;
    let ended = state.terminated.as_ref().or_else(|| container.last_state.as_ref()?.terminated.as_ref());
    if let Some(ended) = ended.filter(|_| state.running.is_none()) {
        let message = ended.message.as_deref().map(str::trim).filter(|message| !message.is_empty());
        let message = message.map_or_else(String::new, |message| format!(": {message}"));
        return Some((format!("ends with exit code {}{message}; see its log", ended.exit_code), true));
    }
    let waiting = state.waiting.as_ref()?;
    match waiting.reason.as_deref().unwrap_or("waiting") {
        "ContainerCreating" | "PodInitializing" => Some(("is starting".to_owned(), false)),
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" => {
            Some((format!("cannot pull image {}", container.image), true))
        }
        reason => {
            let detail = waiting.message.as_ref().map_or_else(String::new, |detail| format!(" ({detail})"));
            Some((format!("{reason}{detail}"), true))
        }
    }
}
