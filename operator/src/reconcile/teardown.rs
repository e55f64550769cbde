//! The teardown of a stack: one idempotent step per reconciliation.
//!
//! Workloads go first, and the rest follows only once their pods have terminated, so that speakers still have
//! their permissions while they withdraw addresses; then the controller's reports and all other objects; then
//! the namespace, if the operator created it and it contains nothing else.

use std::time::Duration;

use crds::names::{LABEL_MANAGED_BY, MEMBERLIST_SECRET, OPERATOR};
use crds::{ConfigurationState, InventoryEntry, LegacyAddressPool};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    ConfigMap, LimitRange, PersistentVolumeClaim, Pod, ReplicationController, ResourceQuota, Service,
};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use render::ownership::{has_managed_by_label, is_created_by_operator, is_imported, taken_over_by};
use render::{Key, Kind};
use serde_json::Map;

use super::apply::{namespace_labels, owned_labels};
use super::owned::{Owned, OwnedObjects, find_owned};
use super::release::release_unlabelled;
use crate::api::{Api, ApiError, NotLeading, Precondition, json_of};
use crate::stack::Stack;
use crate::watch::Caches;
use tokio::time::Instant;

/// How long to wait for pods before everything else is deleted regardless: longer than their grace period.
pub(crate) const POD_TIMEOUT: Duration = Duration::from_mins(1);

/// Why a step of the teardown failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TeardownError {
    /// This process does not lead.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    /// The namespace cannot be checked or deleted.
    #[error("cannot delete namespace {name}")]
    DeleteNamespace {
        /// The name of the namespace.
        name: String,
        /// The call that failed.
        source: ApiError,
    },
}

/// The progress of a teardown.
pub(crate) enum Progress {
    /// Some objects still exist.
    Waiting(String),
    /// Complete; the objects that were left behind, if any.
    Done(Vec<String>),
}

/// How long to wait for everything but the pods, after `deadline`.
const REMAINDER_TIMEOUT: Duration = Duration::from_secs(5);

/// Performs one step. Pods that have not terminated by `deadline`, and anything else soon after it, are left
/// behind, whether they are slow or cannot be deleted. `unreleased` are objects of users that still have the
/// stack as owner, and would be deleted with it.
pub(crate) async fn step(
    api: &Api,
    caches: &Caches,
    stack: &Stack,
    deadline: Instant,
    unreleased: &[String],
) -> Result<Progress, TeardownError> {
    let is_over = Instant::now() >= deadline + REMAINDER_TIMEOUT;
    let (namespace, inventory) = (&stack.namespace(), &stack.status.inventory);
    let mut left_behind = Vec::new();
    let OwnedObjects { objects: mut owned, unreadable } =
        find_owned(api, caches, &stack.uid(), inventory).await;
    let workloads: Vec<&Owned> = owned.iter().filter(|object| object.key.kind.is_workload()).collect();
    if !workloads.is_empty() {
        let remaining = delete_all(api, &workloads).await?;
        if !remaining.is_empty() && Instant::now() < deadline {
            return Ok(Progress::Waiting(format!(
                "waiting for the pods of {} to terminate",
                remaining.join(", ")
            )));
        }
        left_behind.extend(remaining.iter().map(|name| format!("pods of {name} did not terminate in time")));
    }
    // The controller's ConfigurationState has no owner, since all of its replicas may write it. Those of
    // speakers are owned by their DaemonSet.
    let mut remaining =
        match api.delete_unowned(&ApiResource::erase::<ConfigurationState>(&()), namespace).await {
            Err(error) => vec![format!("ConfigurationStates ({})", error.object_error()?.explain())],
            Ok(remaining) => remaining,
        };
    owned.retain(|object| !object.key.kind.is_workload() && object.key.kind != Kind::Namespace);
    remaining.extend(delete_all(api, &owned.iter().collect::<Vec<_>>()).await?);
    remaining.extend(unreleased.iter().cloned());
    remaining.extend(unreadable.iter().map(|(entry, why)| format!("{} {} ({why})", entry.kind, entry.name)));
    if remaining.is_empty() || is_over {
        remaining.extend(release_unlabelled(api, &stack.uid()).await?);
    }
    if !remaining.is_empty() && !is_over {
        return Ok(Progress::Waiting(format!("deleting {}", remaining.join(", "))));
    }
    left_behind.extend(remaining);
    match delete_namespace(api, caches, namespace, inventory).await {
        Ok(reason) => left_behind.extend(reason),
        Err(error) => match error.object_error()? {
            error if is_over => left_behind.push(format!("namespace {namespace}: {}", error.explain())),
            source => return Err(TeardownError::DeleteNamespace { name: namespace.clone(), source }),
        },
    }
    Ok(Progress::Done(left_behind))
}

/// Requests the deletion of each object that is not being deleted yet. Returns the objects that still exist,
/// with the error if one cannot be deleted. A failure does not stop the others.
async fn delete_all(api: &Api, owned: &[&Owned]) -> Result<Vec<String>, NotLeading> {
    let mut names = Vec::new();
    for object in owned {
        let seen = Precondition::of(&object.live, object.key.kind.is_configuration());
        let gone = if object.terminating { Ok(false) } else { api.delete(&object.key, Some(seen)).await };
        match gone {
            Ok(true) => {}
            Ok(false) => names.push(object.key.to_string()),
            Err(error) => names.push(format!("{} ({})", object.key, error.object_error()?.explain())),
        }
    }
    Ok(names)
}

/// Deletes the namespace if the operator created it and it contains nothing else; from a namespace that
/// somebody else created, only the operator's labels are removed. Returns why it was left behind, if the
/// operator created it.
async fn delete_namespace(
    api: &Api,
    caches: &Caches,
    name: &str,
    inventory: &[InventoryEntry],
) -> Result<Option<String>, ApiError> {
    let key = Key { kind: Kind::Namespace, namespace: None, name: name.to_owned() };
    let live = match caches.get(&key) {
        Some(live) => Some((*live).clone()),
        // The watch of the namespace may not be synced yet.
        None => api.get(&key).await?,
    };
    let Some(live) = live else { return Ok(None) };
    if live.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    if live.labels().get(LABEL_MANAGED_BY).is_none_or(|manager| manager != OPERATOR) {
        if !owned_labels(&live).is_empty() {
            api.apply(&key, &namespace_labels(name, &Map::new()), false).await?;
        }
        return Ok(None);
    }
    let ours = |resource: &ApiResource, object: &DynamicObject| {
        let (live, listed) =
            (json_of(object), inventory.iter().any(|entry| object.uid().as_ref() == Some(&entry.uid)));
        let kind = Kind::from_api(&resource.api_version, &resource.kind);
        let is_users = kind.is_some_and(Kind::is_configuration) && !has_managed_by_label(&live)
            || is_imported(&live) && taken_over_by(&live).is_some();
        listed && is_created_by_operator(&live, listed) && !is_users
    };
    for resource in checked_resources() {
        let objects = api.list(&resource, Some(name)).await?;
        let foreign = objects.iter().find(|object| {
            !ours(&resource, object)
                && !is_created_by_kubernetes(&resource, &object.name_any())
                && !terminates_with_ours(object)
        });
        if let Some(foreign) = foreign {
            return Ok(Some(format!(
                "namespace {name}: it contains {} {}",
                resource.kind,
                foreign.name_any()
            )));
        }
    }
    let memberlist =
        Key { kind: Kind::Secret, namespace: Some(name.to_owned()), name: MEMBERLIST_SECRET.to_owned() };
    if api.get(&memberlist).await?.is_some() {
        return Ok(Some(format!("namespace {name}: it contains Secret {MEMBERLIST_SECRET}")));
    }
    api.delete(&key, Some(Precondition::of(&json_of(&live), false))).await?;
    Ok(None)
}

/// The resources that are listed in a namespace before it is deleted: everything that runs or stores data,
/// how it is reached and what limits it, and every kind of our own API. Leases and Events are ignored, as is
/// what controller and speakers write; Secrets cannot be listed (`docs/design/operator.md`).
fn checked_resources() -> Vec<ApiResource> {
    let ours = Kind::ALL.iter().filter(|kind| kind.is_namespaced() && **kind != Kind::Secret);
    let mut checked_resources: Vec<ApiResource> = ours.map(|kind| kind.api_resource()).collect();
    checked_resources.extend([
        ApiResource::erase::<LegacyAddressPool>(&()),
        ApiResource::erase::<Pod>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<ConfigMap>(&()),
        ApiResource::erase::<PersistentVolumeClaim>(&()),
        ApiResource::erase::<ReplicationController>(&()),
        ApiResource::erase::<ResourceQuota>(&()),
        ApiResource::erase::<LimitRange>(&()),
        ApiResource::erase::<StatefulSet>(&()),
        ApiResource::erase::<ReplicaSet>(&()),
        ApiResource::erase::<Job>(&()),
        ApiResource::erase::<CronJob>(&()),
        ApiResource::erase::<Ingress>(&()),
        ApiResource::erase::<NetworkPolicy>(&()),
        ApiResource::erase::<HorizontalPodAutoscaler>(&()),
    ]);
    checked_resources
}

/// Whether it is a ReplicaSet or pod that is being deleted with one of our workloads.
fn terminates_with_ours(object: &DynamicObject) -> bool {
    let of_ours = object.labels().get(LABEL_MANAGED_BY).is_some_and(|manager| manager == OPERATOR);
    of_ours && object.metadata.deletion_timestamp.is_some()
}

/// Whether Kubernetes creates this object in every namespace.
fn is_created_by_kubernetes(resource: &ApiResource, name: &str) -> bool {
    match resource.kind.as_str() {
        "ConfigMap" => name == "kube-root-ca.crt" || name == "openshift-service-ca.crt",
        "ServiceAccount" => matches!(name, "default" | "builder" | "deployer"),
        "RoleBinding" => name.starts_with("system:"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use render::rbac::{Process, Scope, TABLE};

    use super::*;

    #[test]
    fn objects_of_users_prevent_the_deletion_of_the_namespace() {
        let kinds: Vec<String> = checked_resources().into_iter().map(|resource| resource.kind).collect();
        let own = Kind::ALL.iter().filter(|kind| kind.is_namespaced() && **kind != Kind::Secret);
        let workloads = ["Pod", "StatefulSet", "ReplicaSet", "ReplicationController", "Job", "CronJob"];
        let others =
            ["PersistentVolumeClaim", "Service", "Ingress", "ConfigMap", "AddressPool", "NetworkPolicy"];
        for kind in
            own.map(ToString::to_string).chain(workloads.iter().chain(&others).map(ToString::to_string))
        {
            assert!(kinds.contains(&kind), "{kind} is not checked");
        }
    }

    #[test]
    fn rbac_permits_listing_all_checked_resources() {
        for ApiResource { group, plural, .. } in checked_resources() {
            let may = TABLE.iter().any(|row| {
                row.process == Process::Operator
                    && row.scope == Scope::Cluster
                    && row.names.is_empty()
                    && row.group == group
                    && row.resources.contains(&plural.as_str())
                    && row.verbs.contains(&"list")
            });
            assert!(may, "{plural} of {group:?}");
        }
    }
}
