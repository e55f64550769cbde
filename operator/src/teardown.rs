//! The deletion of a stack: one step a look, each of which can run twice.
//!
//! Workloads first, gone and not only asked to, so that speakers still have their rights while they withdraw; then
//! what the controller has told, and everything else; then the namespace, if the operator made it and nothing foreign
//! is in it.

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
use render::ownership::{is_imported, is_labelled, is_operators, taken_over_by};
use render::{Key, Kind};
use serde_json::Map;

use crate::api::{Api, Error, Precondition};
use crate::apply::json_of;
use crate::guest::{namespace_labels, owned_labels};
use crate::prune::{Inventory, Made, made};
use crate::release::release_unlabelled;
use crate::stack::Stack;
use crate::watch::{Caches, Seen};
use tokio::time::Instant;

/// How long pods have to end before the rest is removed regardless: longer than their grace period.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// How far a deletion is.
pub(crate) enum Progress {
    /// Something is still there.
    Waiting(String),
    /// All of it is gone; what had to be left behind, if anything.
    Done(Vec<String>),
}

/// How long everything but the pods has after `deadline`.
const REST: Duration = Duration::from_secs(5);

/// One look, and whatever can be done now. What is not gone by `deadline` (pods) or soon after it (everything else) is left
/// to end by itself, whether it takes its time or cannot be deleted. `unreleased` are objects of users that still name
/// the stack as their owner, and would be removed with it.
pub(crate) async fn step(
    api: &Api,
    caches: &Caches,
    stack: &Stack,
    namespace: &str,
    (deadline, unreleased): (Instant, &[String]),
) -> Result<Progress, Error> {
    let is_over = Instant::now() >= deadline + REST;
    let inventory = &stack.status.inventory;
    let mut left = Vec::new();
    let Inventory { mut made, unread } = made(api, caches, &stack.uid(), inventory).await;
    let workloads: Vec<&Made> = made.iter().filter(|made| made.key.kind.is_workload()).collect();
    if !workloads.is_empty() {
        let remaining = remove(api, &workloads).await?;
        if !remaining.is_empty() && Instant::now() < deadline {
            return Ok(Progress::Waiting(format!("waits for the pods of {} to end", remaining.join(", "))));
        }
        left.extend(remaining.iter().map(|name| format!("pods of {name} did not end in time")));
    }
    // The controller's has no owner: whichever of its pods leads writes it. What speakers have told goes with their
    // DaemonSet.
    let mut remaining =
        match api.delete_unowned(&ApiResource::erase::<ConfigurationState>(&()), namespace).await {
            Err(error @ Error::NotLeading) => return Err(error),
            Err(error) => vec![format!("ConfigurationStates ({})", error.explain())],
            Ok(remaining) => remaining,
        };
    made.retain(|made| !made.key.kind.is_workload() && made.key.kind != Kind::Namespace);
    remaining.extend(remove(api, &made.iter().collect::<Vec<_>>()).await?);
    remaining.extend(unreleased.iter().cloned());
    remaining.extend(unread.iter().map(|(entry, why)| format!("{} {} ({why})", entry.kind, entry.name)));
    if remaining.is_empty() || is_over {
        remaining.extend(release_unlabelled(api, &stack.uid()).await?);
    }
    if !remaining.is_empty() && !is_over {
        return Ok(Progress::Waiting(format!("removes {}", remaining.join(", "))));
    }
    left.extend(remaining);
    left.extend(match leave_namespace(api, caches, namespace, inventory).await {
        Err(error) if is_over && !matches!(error, Error::NotLeading) => {
            Some(format!("namespace {namespace}: {}", error.explain()))
        }
        result => result?,
    });
    Ok(Progress::Done(left))
}

/// Asks for the deletion of each that was not asked to go yet. Returns those that are still there, with the reason why one
/// cannot be deleted. None holds up another.
async fn remove(api: &Api, made: &[&Made]) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for made in made {
        let seen = Precondition::of(&made.live, made.key.kind.is_configuration());
        let gone = if made.leaving { Ok(false) } else { api.delete(&made.key, Some(seen)).await };
        match gone {
            Ok(true) => {}
            Ok(false) => names.push(made.key.to_string()),
            Err(error @ Error::NotLeading) => return Err(error),
            Err(error) => names.push(format!("{} ({})", made.key, error.explain())),
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
    let live = match caches.get(&key) {
        Seen::There(live) => Some((*live).clone()),
        // Its mirror may not be filled yet.
        Seen::NotThere => api.get(&key).await?,
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
        let kind = Kind::find(&resource.api_version, &resource.kind);
        let is_users = kind.is_some_and(Kind::is_configuration) && !is_labelled(&live)
            || is_imported(&live) && taken_over_by(&live).is_some();
        listed && is_operators(&live, listed) && !is_users
    };
    for resource in contents() {
        let objects = api.list(&resource, Some(name)).await?;
        let foreign = objects.iter().find(|object| {
            !ours(&resource, object)
                && !comes_by_itself(&resource, &object.name_any())
                && !goes_with_ours(object)
        });
        if let Some(foreign) = foreign {
            return Ok(Some(format!("namespace {name}: {} {} is in it", resource.kind, foreign.name_any())));
        }
    }
    let memberlist =
        Key { kind: Kind::Secret, namespace: Some(name.to_owned()), name: MEMBERLIST_SECRET.to_owned() };
    if api.get(&memberlist).await?.is_some() {
        return Ok(Some(format!("namespace {name}: Secret {MEMBERLIST_SECRET} is in it")));
    }
    api.delete(&key, Some(Precondition::of(&json_of(&live), false))).await?;
    Ok(None)
}

/// What is looked for in a namespace before it is removed: everything that runs or keeps data, how it is reached and
/// what limits it, and every kind of our own API. Leases and Events do not count, nor does what controller and
/// speakers write; Secrets cannot be listed (`docs/design/operator.md`).
fn contents() -> Vec<ApiResource> {
    let ours = Kind::ALL.iter().filter(|kind| kind.is_namespaced() && **kind != Kind::Secret);
    let mut contents: Vec<ApiResource> = ours.map(|kind| kind.api_resource()).collect();
    contents.extend([
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
    contents
}

/// Whether it is a ReplicaSet or a pod that ends with one of our workloads.
fn goes_with_ours(object: &DynamicObject) -> bool {
    let of_ours = object.labels().get(LABEL_MANAGED_BY).is_some_and(|manager| manager == OPERATOR);
    of_ours && object.metadata.deletion_timestamp.is_some()
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

#[cfg(test)]
mod tests {
    use render::rbac::{Process, Scope, TABLE};

    use super::*;

    #[test]
    fn requirement_9_no_object_of_a_users_own_goes_with_the_namespace() {
        let kinds: Vec<String> = contents().into_iter().map(|resource| resource.kind).collect();
        let own = Kind::ALL.iter().filter(|kind| kind.is_namespaced() && **kind != Kind::Secret);
        let workloads = ["Pod", "StatefulSet", "ReplicaSet", "ReplicationController", "Job", "CronJob"];
        let others =
            ["PersistentVolumeClaim", "Service", "Ingress", "ConfigMap", "AddressPool", "NetworkPolicy"];
        for kind in
            own.map(ToString::to_string).chain(workloads.iter().chain(&others).map(ToString::to_string))
        {
            assert!(kinds.contains(&kind), "{kind} is not looked for");
        }
    }

    #[test]
    fn whatever_is_looked_for_may_be_listed() {
        for ApiResource { group, plural, .. } in contents() {
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
