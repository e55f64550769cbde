//! What the pods of operator, controller and speaker have in common.

use std::collections::BTreeMap;

use crds::{ImagePullPolicy, PodSettings};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
    ObjectFieldSelector, PodAffinityTerm, PodAntiAffinity, PodSecurityContext, Probe, ResourceRequirements,
    SeccompProfile, SecurityContext, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::meta::{self, pod_selector};

const ADMIN_PORT_NAME: &str = "monitoring";
/// The user ID of `nobody`.
pub(crate) const NOBODY: i64 = 65534;

/// The arguments that every process takes. `[::]` means all addresses of each address family that the host
/// has.
pub(crate) fn common_args(command: &str, log_level: &str, admin_port: i32) -> Vec<String> {
    vec![command.to_owned(), format!("--log-level={log_level}"), format!("--admin-address=[::]:{admin_port}")]
}

/// A container with the settings that all containers share.
pub(crate) fn container(
    name: &str,
    image: &str,
    pull_policy: Option<ImagePullPolicy>,
    args: Vec<String>,
    admin_port: i32,
) -> Container {
    Container {
        name: name.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: pull_policy.map(|policy| policy.as_str().to_owned()),
        args: Some(args),
        ports: Some(vec![port(ADMIN_PORT_NAME, admin_port, "TCP")]),
        // A process that fails writes its error as termination message; for one that is killed, the end of
        // its log is used.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        liveness_probe: Some(probe("/healthz", 6)),
        readiness_probe: Some(Probe { period_seconds: Some(2), ..probe("/readyz", 3) }),
        ..Container::default()
    }
}

pub(crate) fn port(name: &str, number: i32, protocol: &str) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some(protocol.to_owned()),
        ..ContainerPort::default()
    }
}

fn probe(path: &str, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(ADMIN_PORT_NAME.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(10),
        timeout_seconds: Some(5),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

/// Drops all capabilities but `capabilities`, and disallows privilege escalation and writes to the root
/// filesystem.
pub(crate) fn restricted_security_context(user: i64, capabilities: &[&str]) -> SecurityContext {
    let added = capabilities.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    SecurityContext {
        run_as_user: Some(user),
        run_as_group: Some(user),
        run_as_non_root: Some(user != 0),
        allow_privilege_escalation: Some(false),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            add: (!added.is_empty()).then_some(added),
            drop: Some(vec!["ALL".to_owned()]),
        }),
        seccomp_profile: Some(seccomp()),
        ..SecurityContext::default()
    }
}

/// The security context of the pod.
pub(crate) fn pod_security_context() -> PodSecurityContext {
    PodSecurityContext { seccomp_profile: Some(seccomp()), ..PodSecurityContext::default() }
}

fn seccomp() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }
}

/// An environment variable whose value is a field of the pod.
pub(crate) fn env_from_field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { api_version: None, field_path: path.to_owned() }),
            ..EnvVarSource::default()
        }),
    }
}

/// An environment variable with a fixed value.
pub(crate) fn env_var(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

/// Default resource requests. There are no default limits: a process that serves traffic must not be
/// throttled.
pub(crate) fn resource_requests(cpu: &str, memory: &str) -> ResourceRequirements {
    let quantities = [("cpu", cpu), ("memory", memory)];
    ResourceRequirements {
        requests: Some(
            quantities
                .into_iter()
                .map(|(name, value)| (name.to_owned(), Quantity(value.to_owned())))
                .collect(),
        ),
        ..ResourceRequirements::default()
    }
}

/// Labels and annotations of a pod. The stack's own labels take precedence over the user's.
pub(crate) fn metadata(component: &str, settings: &PodSettings) -> ObjectMeta {
    let mut labels = settings.labels.clone();
    labels.append(&mut meta::labels(Some(component)));
    ObjectMeta {
        labels: Some(labels),
        annotations: (!settings.annotations.is_empty()).then(|| settings.annotations.clone()),
        ..ObjectMeta::default()
    }
}

/// Linux nodes that match the user's selector.
pub(crate) fn node_selector(settings: &PodSettings) -> BTreeMap<String, String> {
    let mut selector = BTreeMap::from([("kubernetes.io/os".to_owned(), "linux".to_owned())]);
    selector.extend(settings.node_selector.clone());
    selector
}

/// Prefers different nodes, but allows a single one.
pub(crate) fn anti_affinity(labels: BTreeMap<String, String>) -> Affinity {
    let selector = LabelSelector { match_labels: Some(labels), ..LabelSelector::default() };
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                weight: 100,
                pod_affinity_term: PodAffinityTerm {
                    label_selector: Some(selector),
                    topology_key: "kubernetes.io/hostname".to_owned(),
                    ..PodAffinityTerm::default()
                },
            }]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// The selector of a component's pods.
pub(crate) fn selector(component: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(pod_selector(component)), ..LabelSelector::default() }
}

/// `None` for an empty list, as the API server stores it.
pub(crate) fn non_empty<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}
