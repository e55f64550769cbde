//! The controller's Deployment and PodDisruptionBudget.

use crds::names::CONTROLLER;
use crds::{ADMIN_PORT, ControllerSettings};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pod;
use crate::meta::pod_selector;
use crate::object::Object;
use crate::stack::ValidatedStack;

pub(crate) fn objects(stack: &ValidatedStack) -> Vec<Object> {
    std::iter::once(deployment(stack).into()).chain(disruption_budget(stack).map(Object::from)).collect()
}

fn deployment(stack: &ValidatedStack) -> Deployment {
    let ControllerSettings { replicas, pod: settings } = &stack.controller;
    let mut args = pod::common_args("controller", stack.log_level.as_str(), ADMIN_PORT);
    args.push(format!("--namespace={}", stack.meta.namespace));
    args.push(format!("--load-balancer-class={}", stack.load_balancer_class));
    let container = Container {
        env: Some(vec![
            pod::env_from_field("POD_NAME", "metadata.name"),
            pod::env_from_field("POD_NAMESPACE", "metadata.namespace"),
        ]),
        resources: Some(settings.resources.clone().unwrap_or_else(|| pod::resource_requests("50m", "32Mi"))),
        security_context: Some(pod::restricted_security_context(pod::NOBODY, &[])),
        ..pod::container(CONTROLLER, &stack.image, stack.image_pull_policy, args, ADMIN_PORT)
    };
    let spec = PodSpec {
        service_account_name: Some(CONTROLLER.to_owned()),
        // Set explicitly: the service account may be edited by others.
        automount_service_account_token: Some(true),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(10),
        priority_class_name: Some(
            settings.priority_class_name.clone().unwrap_or_else(|| "system-cluster-critical".to_owned()),
        ),
        node_selector: Some(pod::node_selector(settings)),
        tolerations: pod::non_empty(&settings.tolerations),
        affinity: Some(
            settings.affinity.clone().unwrap_or_else(|| pod::anti_affinity(pod_selector(CONTROLLER))),
        ),
        topology_spread_constraints: pod::non_empty(&settings.topology_spread_constraints),
        security_context: Some(pod::pod_security_context()),
        containers: vec![container],
        ..PodSpec::default()
    };
    Deployment {
        metadata: stack.meta.namespaced(CONTROLLER, Some(CONTROLLER)),
        spec: Some(DeploymentSpec {
            replicas: Some(*replicas),
            revision_history_limit: Some(3),
            selector: pod::selector(CONTROLLER),
            // Surge instead of unavailability, so that addresses are assigned throughout a rollout.
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(pod::metadata(CONTROLLER, settings)),
                spec: Some(spec),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// A drain evicts one controller at a time. In a cluster with a single node there is no budget: the evicted
/// controller could not be scheduled elsewhere, so the drain would never end.
fn disruption_budget(stack: &ValidatedStack) -> Option<PodDisruptionBudget> {
    (stack.nodes > 1 && stack.controller.replicas > 1).then(|| PodDisruptionBudget {
        metadata: stack.meta.namespaced(CONTROLLER, Some(CONTROLLER)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(pod::selector(CONTROLLER)),
            // A replica that is not healthy blocks no drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    })
}
