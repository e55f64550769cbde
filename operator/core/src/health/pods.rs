//! Why a pod is not ready, for people.

use std::collections::BTreeMap;

use crds::names::{CONTROLLER, LABEL_COMPONENT};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// A pod that is not ready.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodTrouble {
    /// `controller` or `speaker`.
    pub component: String,
    /// The node, if it has one.
    pub node: Option<String>,
    /// What is the matter.
    pub reason: String,
    /// Whether it is more than a start that takes its time.
    pub stuck: bool,
}

impl PodTrouble {
    /// Pods of `component` that do not exist, since the API server refuses them; `why` are its own words.
    pub fn refused(component: &str, why: &str) -> Self {
        // Each attempt is for a pod of another name.
        let why = why.split_once(" is forbidden: ").map_or(why, |(_, why)| why);
        let advice = if why.contains("quota") || why.contains("usage per") {
            format!("; set spec.{component}.resources, or change the quota or limit range of the namespace")
        } else {
            String::new()
        };
        let reason = format!("pods cannot be created: {why}{advice}");
        Self { component: component.to_owned(), node: None, reason, stuck: true }
    }

    pub(super) fn refused_controller(why: &str) -> Self {
        Self::refused(CONTROLLER, why)
    }
}

/// Pods in the same trouble are told together: `on node1, node2: is starting`.
pub(crate) fn told<'a>(pods: impl Iterator<Item = &'a PodTrouble>) -> Vec<String> {
    let mut nodes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for pod in pods {
        nodes.entry(&pod.reason).or_default().extend(pod.node.as_deref());
    }
    let said = |(reason, nodes): (&str, Vec<&str>)| {
        if nodes.is_empty() { reason.to_owned() } else { format!("on {}: {reason}", few(&nodes)) }
    };
    nodes.into_iter().map(said).collect()
}

/// The first few, and how many more there are.
fn few(nodes: &[&str]) -> String {
    const SHOWN: usize = 5;
    let shown = nodes.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if nodes.len() > SHOWN { format!("{shown} and {} more", nodes.len() - SHOWN) } else { shown }
}

/// What is the matter with `pod`; none if it is ready or on its way out.
pub fn trouble(pod: &Pod) -> Option<PodTrouble> {
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
    let (reason, stuck) = if let Some(said) = containers.iter().find_map(said) {
        said
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
    Some(PodTrouble { component, node, reason, stuck })
}

/// What the kubelet says about a container that does not run, in words that stay the same while it tries again.
fn said(container: &ContainerStatus) -> Option<(String, bool)> {
    let state = container.state.as_ref()?;
    let ended = state.terminated.as_ref().or_else(|| container.last_state.as_ref()?.terminated.as_ref());
    if let Some(ended) = ended.filter(|_| state.running.is_none()) {
        let said = ended.message.as_deref().map(str::trim).filter(|said| !said.is_empty());
        let said = said.map_or_else(String::new, |said| format!(": {said}"));
        return Some((format!("ends with exit code {}{said}; see its log", ended.exit_code), true));
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
