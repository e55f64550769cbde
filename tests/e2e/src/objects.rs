//! The objects of the operator.

use std::fmt;

use crds::LoadBalancerStack;
use kube::Api;
use serde_json::{Value, json};

use crate::Env;

/// An object of the stack's inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectName {
    /// Its API version.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace; empty if it has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

impl ObjectName {
    /// Arguments for kubectl: `Deployment.v1.apps`, the name, and the namespace.
    fn arguments(&self) -> Vec<String> {
        let kind = match self.api_version.split_once('/') {
            Some((group, version)) => format!("{}.{version}.{group}", self.kind),
            None => self.kind.clone(),
        };
        let namespace = (!self.namespace.is_empty()).then(|| format!("--namespace={}", self.namespace));
        [kind, self.name.clone()].into_iter().chain(namespace).collect()
    }

    /// A patch of its content that the API server accepts, if there is one.
    fn tampering_patch(&self) -> Option<Value> {
        Some(match self.kind.as_str() {
            "Deployment" => {
                json!({"spec": {"replicas": 5, "template": {"spec": {"terminationGracePeriodSeconds": 7}}}})
            }
            "DaemonSet" => json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 7}}}}),
            "Role" | "ClusterRole" => json!({"rules": []}),
            "RoleBinding" | "ClusterRoleBinding" => json!({"subjects": []}),
            "PodDisruptionBudget" => json!({"spec": {"maxUnavailable": "77%"}}),
            "Namespace" => {
                json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}})
            }
            "IPAddressPool" => json!({"spec": {"avoidBuggyIPs": true}}),
            "L2Advertisement" => json!({"spec": {"interfaces": ["none"]}}),
            // The content of the key is random, so any value is valid.
            "Secret" | "ServiceAccount" => return None,
            kind => panic!("no patch is defined for a {kind}"),
        })
    }
}

impl Env {
    /// The inventory in the stack's status.
    pub fn inventory(&self) -> Vec<ObjectName> {
        let api: Api<LoadBalancerStack> = Api::all(self.client.clone());
        let stack = self.runtime.block_on(api.get("default")).unwrap();
        let inventory = stack.status.unwrap_or_default().inventory;
        let name = |entry: crds::InventoryEntry| ObjectName {
            api_version: entry.api_version,
            kind: entry.kind,
            namespace: entry.namespace.unwrap_or_default(),
            name: entry.name,
        };
        inventory.into_iter().map(name).collect()
    }

    /// The object without the fields that the API server and its controllers set, and without random values.
    pub fn rendered(&self, object: &ObjectName) -> Value {
        self.rendered_opt(object).unwrap_or_else(|| panic!("{object} does not exist"))
    }

    /// The same; none if it does not exist or is being deleted.
    pub fn rendered_opt(&self, object: &ObjectName) -> Option<Value> {
        let mut value = self.cluster.get(object.arguments()).ok()?;
        if value["metadata"]["deletionTimestamp"].is_string() {
            return None;
        }
        let kept = ["name", "namespace", "labels", "annotations", "finalizers"];
        value["metadata"].as_object_mut()?.retain(|field, _| kept.contains(&field.as_str()));
        if let Some(annotations) = value["metadata"]["annotations"].as_object_mut() {
            annotations.retain(|key, _| {
                !key.starts_with("deployment.kubernetes.io/") && !key.starts_with("deprecated.daemonset.")
            });
        }
        let fields = value.as_object_mut()?;
        fields.remove("status");
        if object.kind == "Secret" {
            fields.remove("data");
        }
        if object.kind == "Namespace" {
            fields.remove("spec");
        }
        Some(value)
    }

    /// Changes the content of the object, its labels and, for a workload, its containers.
    pub fn tamper(&self, object: &ObjectName) {
        let patch = |kind_of_patch: &str, patch: &Value| {
            let (kind_of_patch, patch) = (format!("--type={kind_of_patch}"), format!("--patch={patch}"));
            let arguments = object.arguments();
            let words = std::iter::once("patch").chain(arguments.iter().map(String::as_str));
            self.kubectl(&words.chain([kind_of_patch.as_str(), patch.as_str()]).collect::<Vec<_>>());
        };
        if let Some(tampering) = object.tampering_patch() {
            patch("merge", &tampering);
        }
        if ["Deployment", "DaemonSet"].contains(&object.kind.as_str()) {
            let containers = "/spec/template/spec/containers";
            patch(
                "json",
                &json!([
                    {"op": "add", "path": format!("{containers}/0/args/-"), "value": "--foreign"},
                    {"op": "add", "path": format!("{containers}/0/env/-"), "value": {"name": "FOREIGN", "value": "1"}},
                    {"op": "add", "path": format!("{containers}/-"), "value": {"name": "foreign", "image": "testbed/web:1"}},
                ]),
            );
        }
        patch("merge", &json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "other"}}}));
    }

    /// Deletes the object, without waiting for its dependents.
    pub fn remove(&self, object: &ObjectName) {
        let arguments = object.arguments();
        let words = std::iter::once("delete").chain(arguments.iter().map(String::as_str));
        self.kubectl(&words.chain(["--wait=false"]).collect::<Vec<_>>());
    }
}
