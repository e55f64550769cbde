//! The operator's own manifest, from which `deploy/install.yaml` is generated.

use std::collections::BTreeMap;

use crds::names::{DEFAULT_NAMESPACE, LABEL_PART_OF, OPERATOR, PART_OF};
use crds::{ADMIN_PORT, ObjectMeta};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::{Container, Namespace, PodSpec, PodTemplateSpec, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use super::namespace::pod_security;
use super::pod;
use super::service_accounts::{role_ref, subject};
use crate::rbac;

/// The operator's namespace, unless OLM chooses another one.
pub const NAMESPACE: &str = "lbstack-system";
/// The image in the generated manifests.
pub const IMAGE: &str = concat!("lbstack/lbstack:v", env!("CARGO_PKG_VERSION"));
/// The environment variable with the default image of controller and speaker.
pub const RELATED_IMAGE: &str = "RELATED_IMAGE_LBSTACK";
/// The name of the operator's container.
const CONTAINER: &str = "operator";

/// The operator's objects, in the order to apply. The CustomResourceDefinitions must be applied before them.
pub fn objects(image: &str) -> Result<Vec<Value>, serde_json::Error> {
    Ok(vec![
        serde_json::to_value(namespace(NAMESPACE, BTreeMap::new()))?,
        // It exists so that pools can be applied before the stack. The operator does not own it, so it
        // outlives the stack.
        serde_json::to_value(namespace(DEFAULT_NAMESPACE, pod_security()))?,
        serde_json::to_value(ServiceAccount { metadata: namespaced(OPERATOR), ..ServiceAccount::default() })?,
        serde_json::to_value(ClusterRole {
            metadata: cluster_scoped(OPERATOR),
            rules: Some(rbac::operator_rules()),
            aggregation_rule: None,
        })?,
        serde_json::to_value(ClusterRoleBinding {
            metadata: cluster_scoped(OPERATOR),
            role_ref: role_ref("ClusterRole", OPERATOR),
            subjects: Some(vec![subject(NAMESPACE, OPERATOR)]),
        })?,
        serde_json::to_value(deployment(image))?,
    ])
}

fn deployment(image: &str) -> Deployment {
    let selector = BTreeMap::from([("app.kubernetes.io/name".to_owned(), OPERATOR.to_owned())]);
    let mut args = pod::common_args("operator", "info", ADMIN_PORT);
    args.push("--namespace=$(POD_NAMESPACE)".to_owned());
    let container = Container {
        env: Some(vec![
            pod::env_from_field("POD_NAME", "metadata.name"),
            pod::env_from_field("POD_NAMESPACE", "metadata.namespace"),
            pod::env_var(RELATED_IMAGE, image),
        ]),
        resources: Some(pod::resource_requests("20m", "32Mi")),
        security_context: Some(pod::restricted_security_context(pod::NOBODY, &[])),
        ..pod::container(CONTAINER, image, None, args, ADMIN_PORT)
    };
    let spec = PodSpec {
        service_account_name: Some(OPERATOR.to_owned()),
        // Set explicitly: the service account may be edited by others.
        automount_service_account_token: Some(true),
        enable_service_links: Some(false),
        // Long enough to finish a teardown of the stack that is in progress.
        termination_grace_period_seconds: Some(30),
        priority_class_name: Some("system-cluster-critical".to_owned()),
        node_selector: Some(pod::node_selector(&crds::PodSettings::default())),
        affinity: Some(pod::anti_affinity(selector.clone())),
        security_context: Some(pod::pod_security_context()),
        containers: vec![container],
        ..PodSpec::default()
    };
    let mut labels = labels();
    labels.extend(selector.clone());
    Deployment {
        metadata: namespaced(OPERATOR),
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            revision_history_limit: Some(3),
            selector: LabelSelector { match_labels: Some(selector), ..LabelSelector::default() },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                spec: Some(spec),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn namespace(name: &str, mut extra: BTreeMap<String, String>) -> Namespace {
    let mut metadata = cluster_scoped(name);
    metadata.labels.get_or_insert_default().append(&mut extra);
    Namespace { metadata, ..Namespace::default() }
}

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([(LABEL_PART_OF.to_owned(), PART_OF.to_owned())])
}

fn cluster_scoped(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), labels: Some(labels()), ..ObjectMeta::default() }
}

fn namespaced(name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some(NAMESPACE.to_owned()), ..cluster_scoped(name) }
}
