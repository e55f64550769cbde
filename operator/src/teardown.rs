//! The deletion of a stack: one step a look, each of which can run twice.
//!
//! Workloads first, gone and not only asked to, so that speakers still have their rights while they withdraw; then
//! what the controller has told, and everything else; then the namespace, if the operator made it and nothing foreign
//! is in it.

use std::time::{Duration, Instant};

use crds::names::{LABEL_MANAGED_BY, MEMBERLIST_SECRET, OPERATOR};
use crds::{ConfigurationState, InventoryEntry};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use render::{Key, Kind};
use serde_json::Map;

use crate::api::{Api, Error};
use crate::apply::{namespace_labels, owned_labels};
use crate::prune::{Made, made};
use crate::stack::Stack;
use crate::watch::{Caches, Seen};

/// How long pods have to end before the rest is removed regardless: longer than their grace period.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// How far a deletion is.
pub(crate) enum Progress {
    /// Something is still there.
    Waiting(String),
    /// All of it is gone; what had to be left behind, if anything.
    Done(Vec<String>),
}

/// One look, and whatever can be done now. What is not gone by `deadline` is left to end by itself.
pub(crate) async fn step(
    api: &Api,
    caches: &Caches,
    stack: &Stack,
    namespace: &str,
    deadline: Instant,
) -> Result<Progress, Error> {
    let inventory = &stack.status.inventory;
    let mut made = made(api, caches, &stack.uid(), inventory).await?;
    let mut left = Vec::new();
    let workloads: Vec<&Made> = made.iter().filter(|made| made.key.kind.is_workload()).collect();
    if !workloads.is_empty() {
        let names = remove(api, &workloads).await?;
        if !names.is_empty() && Instant::now() < deadline {
            return Ok(Progress::Waiting(format!("waits for the pods of {} to end", names.join(", "))));
        }
        left.extend(names.iter().map(|name| format!("pods of {name} did not end in time")));
    }
    // The controller's has no owner: whichever of its pods leads writes it. What speakers have told goes with their
    // DaemonSet.
    api.delete_unowned(&ApiResource::erase::<ConfigurationState>(&()), namespace).await?;
    made.retain(|made| !made.key.kind.is_workload() && made.key.kind != Kind::Namespace);
    let names = remove(api, &made.iter().collect::<Vec<_>>()).await?;
    if !names.is_empty() && Instant::now() < deadline {
        return Ok(Progress::Waiting(format!("removes {}", names.join(", "))));
    }
    left.extend(names);
    left.extend(leave_namespace(api, caches, namespace, inventory).await?);
    Ok(Progress::Done(left))
}

/// Asks for the deletion of each that was not asked to go yet. Returns those that are still there.
async fn remove(api: &Api, made: &[&Made]) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for made in made {
        let gone = !made.leaving && api.delete(&made.key, Some(made.uid.clone())).await?;
        if !gone {
            names.push(made.key.to_string());
        }
    }
    Ok(names)
}

/// Removes the namespace if the operator made it and nothing foreign is in it; from one that somebody else made,
/// only the labels that the operator put there. Returns why it was left, if it was ours.
async fn leave_namespace(
    api: &Api,
    caches: &Caches,
    name: &str,
    inventory: &[InventoryEntry],
) -> Result<Option<String>, Error> {
    let key = Key { kind: Kind::Namespace, namespace: None, name: name.to_owned() };
    let Seen::There(live) = caches.get(&key) else { return Ok(None) };
    if live.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    if live.labels().get(LABEL_MANAGED_BY).is_none_or(|manager| manager != OPERATOR) {
        if !owned_labels(&live).is_empty() {
            api.apply(&key, &namespace_labels(name, &Map::new()), false).await?;
        }
        return Ok(None);
    }
    let ours = |object: &DynamicObject| {
        object.uid().is_some_and(|uid| inventory.iter().any(|entry| entry.uid == uid))
    };
    for resource in contents() {
        let objects = api.list(&resource, name).await?;
        let foreign =
            objects.iter().find(|object| !ours(object) && !comes_by_itself(&resource, &object.name_any()));
        if let Some(foreign) = foreign {
            return Ok(Some(format!("namespace {name}: {} {} is in it", resource.kind, foreign.name_any())));
        }
    }
    let memberlist =
        Key { kind: Kind::Secret, namespace: Some(name.to_owned()), name: MEMBERLIST_SECRET.to_owned() };
    if api.get(&memberlist).await?.is_some() {
        return Ok(Some(format!("namespace {name}: Secret {MEMBERLIST_SECRET} is in it")));
    }
    api.delete(&key, live.uid()).await?;
    Ok(None)
}

/// What is looked for in a namespace before it is removed.
fn contents() -> Vec<ApiResource> {
    vec![
        ApiResource::erase::<Pod>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<ConfigMap>(&()),
        ApiResource::erase::<Deployment>(&()),
        ApiResource::erase::<DaemonSet>(&()),
        ApiResource::erase::<ServiceAccount>(&()),
        ApiResource::erase::<Role>(&()),
        ApiResource::erase::<RoleBinding>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
        Kind::IpAddressPool.api_resource(),
        Kind::L2Advertisement.api_resource(),
    ]
}

/// What Kubernetes puts into every namespace.
fn comes_by_itself(resource: &ApiResource, name: &str) -> bool {
    match resource.kind.as_str() {
        "ConfigMap" => name == "kube-root-ca.crt" || name == "openshift-service-ca.crt",
        "ServiceAccount" => matches!(name, "default" | "builder" | "deployer"),
        "RoleBinding" => name.starts_with("system:"),
        _ => false,
    }
}
