//! The objects of the cluster with changed objects overlaid.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use crds::names::{LABEL_IMPORTED_FROM, LABEL_MANAGED_BY, OPERATOR};
use crds::{AddressConflict, AddressPool, LoadBalancerStack, ObjectMeta};
use k8s_openapi::api::core::v1::Service;
use kube::{Resource, ResourceExt as _};
use rules::Objects;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The objects of a cluster that determine the addresses of its Services.
#[derive(Clone, Debug, Default)]
pub(super) struct ClusterObjects {
    /// The namespace of the configuration.
    pub(super) namespace: String,
    /// The class of the Services that the stack serves. Empty: Services without a class.
    pub(super) class: String,
    pub(super) objects: Objects,
    pub(super) services: Vec<Arc<Service>>,
    pub(super) conflicts: Vec<Arc<AddressConflict>>,
}

/// The supported kinds.
const KINDS: &str = "LoadBalancerStack, IPAddressPool, L2Advertisement, BGPAdvertisement, BGPPeer, \
                     BFDProfile, Community, PoolPolicy, Namespace, Service, List";

impl ClusterObjects {
    /// Overlays every object of `text`.
    pub(super) fn apply(&mut self, text: &str) -> anyhow::Result<()> {
        let documents: Vec<Value> =
            serde_saphyr::from_str_multiple::<Value, Vec<Value>>(text).context("this is not valid YAML")?;
        for document in documents.into_iter().filter(|document| !document.is_null()) {
            self.apply_object(document)?;
        }
        Ok(())
    }

    fn apply_object(&mut self, object: Value) -> anyhow::Result<()> {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        let objects = &mut self.objects;
        let namespace = &self.namespace;
        match kind.as_str() {
            "List" => {
                for item in object["items"].as_array().cloned().unwrap_or_default() {
                    self.apply_object(item)?;
                }
                return Ok(());
            }
            "LoadBalancerStack" => self.apply_stack(object),
            "IPAddressPool" => overlay(&mut objects.pools, object, Some(namespace)),
            "L2Advertisement" => overlay(&mut objects.l2_advertisements, object, Some(namespace)),
            "BGPAdvertisement" => overlay(&mut objects.bgp_advertisements, object, Some(namespace)),
            "BGPPeer" => overlay(&mut objects.bgp_peers, object, Some(namespace)),
            "BFDProfile" => overlay(&mut objects.bfd_profiles, object, Some(namespace)),
            "Community" => overlay(&mut objects.communities, object, Some(namespace)),
            "PoolPolicy" => overlay(&mut objects.pool_policies, object, Some(namespace)),
            "Namespace" => overlay(&mut objects.namespaces, object, None),
            "Service" => overlay(&mut self.services, object, Some("default")),
            other => bail!("kind {other:?} is not supported: use {KINDS}"),
        }
        .with_context(|| format!("the {kind} cannot be read"))
    }

    /// Applies the stack like the operator: its inline pools replace those of the present stack.
    fn apply_stack(&mut self, object: Value) -> anyhow::Result<()> {
        let spec = serde_json::from_value::<LoadBalancerStack>(object)?.spec;
        anyhow::ensure!(
            spec.namespace == self.namespace,
            "its spec.namespace is {:?}, and the configuration of this cluster is in {:?}: the namespace of \
             a stack cannot change",
            spec.namespace,
            self.namespace
        );
        self.class = spec.load_balancer_class;
        let pools = &spec.address_pools;
        let objects = &mut self.objects;
        replace_inline(&mut objects.pools, pools, |pool, meta| Some(pool.ip_address_pool(meta)))?;
        replace_inline(&mut objects.l2_advertisements, pools, AddressPool::l2_advertisement)?;
        replace_inline(&mut objects.pool_policies, pools, AddressPool::pool_policy)
    }

    /// Removes the object `KIND/NAME` or `Service/NAMESPACE/NAME`.
    pub(super) fn delete(&mut self, target: &str) -> anyhow::Result<()> {
        let parts: Vec<&str> = target.split('/').collect();
        let objects = &mut self.objects;
        let found = match parts.as_slice() {
            ["IPAddressPool", name] => remove(&mut objects.pools, None, name),
            ["L2Advertisement", name] => remove(&mut objects.l2_advertisements, None, name),
            ["BGPAdvertisement", name] => remove(&mut objects.bgp_advertisements, None, name),
            ["BGPPeer", name] => remove(&mut objects.bgp_peers, None, name),
            ["BFDProfile", name] => remove(&mut objects.bfd_profiles, None, name),
            ["Community", name] => remove(&mut objects.communities, None, name),
            ["PoolPolicy", name] => remove(&mut objects.pool_policies, None, name),
            ["Namespace", name] => remove(&mut objects.namespaces, None, name),
            ["Service", namespace, name] => remove(&mut self.services, Some(namespace), name),
            _ => bail!("--delete {target:?}: write KIND/NAME, or Service/NAMESPACE/NAME; kinds are {KINDS}"),
        };
        anyhow::ensure!(found, "--delete {target:?}: the cluster has no such object");
        Ok(())
    }
}

/// Replaces the objects that were built from inline pools by those that `build` returns.
fn replace_inline<K: Resource<DynamicType = ()>>(
    list: &mut Vec<Arc<K>>,
    pools: &[AddressPool],
    build: impl Fn(&AddressPool, ObjectMeta) -> Option<K>,
) -> anyhow::Result<()> {
    let (old, others): (Vec<_>, Vec<_>) =
        std::mem::take(list).into_iter().partition(|object| is_inline(&**object));
    *list = others;
    for pool in pools {
        // An object that stays keeps its age, which decides conflicts; a new one is the youngest.
        let stays = old.iter().find(|object| object.name_any() == pool.name);
        let metadata = stays.map_or_else(
            || ObjectMeta { name: Some(pool.name.clone()), ..ObjectMeta::default() },
            |object| object.meta().clone(),
        );
        let Some(object) = build(pool, metadata) else { continue };
        anyhow::ensure!(
            list.iter().all(|other| other.name_any() != pool.name),
            "spec.addressPools has {:?}, and the cluster has {} of that name which is not the stack's: \
             choose another name, or delete that object first",
            pool.name,
            K::kind(&())
        );
        list.push(Arc::new(object));
    }
    Ok(())
}

/// Whether the operator created the object from an inline pool.
fn is_inline<K: Resource>(object: &K) -> bool {
    object.labels().get(LABEL_MANAGED_BY).is_some_and(|manager| manager == OPERATOR)
        && !object.labels().contains_key(LABEL_IMPORTED_FROM)
}

/// Replaces the object of the same name, whose age, identity and status are kept, or adds it.
fn overlay<K>(list: &mut Vec<Arc<K>>, mut object: Value, namespace: Option<&str>) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + serde::Serialize,
{
    if let Some(namespace) = namespace.filter(|_| object["metadata"]["namespace"].is_null()) {
        object["metadata"]["namespace"] = namespace.into();
    }
    let key = (object["metadata"]["namespace"].as_str(), object["metadata"]["name"].as_str());
    let same = |other: &Arc<K>| key == (other.namespace().as_deref(), other.meta().name.as_deref());
    let position = list.iter().position(same);
    if let Some(position) = position {
        let old = serde_json::to_value(&*list[position])?;
        for field in ["creationTimestamp", "uid", "resourceVersion"] {
            object["metadata"][field] = old["metadata"][field].clone();
        }
        object["status"] = old["status"].clone();
        if K::kind(&()) == "Service" {
            // Fields that the API server sets if a manifest lacks them.
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if object["spec"][field].is_null() {
                    object["spec"][field] = old["spec"][field].clone();
                }
            }
        }
    } else if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("creationTimestamp");
        }
    }
    if K::kind(&()) == "Service" {
        assume_cluster_ips(&mut object["spec"]);
    }
    let new = Arc::new(serde_json::from_value(object)?);
    match position {
        Some(position) => list[position] = new,
        None => list.push(new),
    }
    Ok(())
}

/// Sets cluster IPs on a Service that does not exist yet. Only their families matter here.
fn assume_cluster_ips(spec: &mut Value) {
    if !spec["clusterIP"].is_null() || !spec["clusterIPs"].is_null() || !spec.is_object() {
        return;
    }
    let dual = spec["ipFamilyPolicy"].as_str().is_some_and(|policy| policy != "SingleStack");
    let listed = spec["ipFamilies"].as_array().cloned().unwrap_or_default();
    let addresses: Vec<&str> = match listed.first().and_then(Value::as_str) {
        Some("IPv6") if dual => vec!["::", "0.0.0.0"],
        Some("IPv6") => vec!["::"],
        _ if dual || listed.len() > 1 => vec!["0.0.0.0", "::"],
        _ => vec!["0.0.0.0"],
    };
    spec["clusterIPs"] = addresses.into();
}

fn remove<K: Resource<DynamicType = ()>>(
    list: &mut Vec<Arc<K>>,
    namespace: Option<&str>,
    name: &str,
) -> bool {
    let before = list.len();
    list.retain(|object| {
        object.name_any() != name
            || namespace.is_some_and(|namespace| object.namespace().as_deref() != Some(namespace))
    });
    list.len() < before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_replace_those_of_the_same_name_and_new_ones_have_no_age() {
        let mut state = ClusterObjects { namespace: "metallb-system".into(), ..ClusterObjects::default() };
        let old = serde_json::json!({"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": {"name": "lan", "namespace": "metallb-system",
                "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"addresses": ["10.0.0.0/24"]}});
        state.objects.pools.push(Arc::new(serde_json::from_value(old).unwrap()));
        let text = "
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: lan, namespace: metallb-system}
spec: {addresses: [10.0.0.0/25]}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: new, creationTimestamp: null}
spec: {addresses: [10.1.0.0/25]}
---
";
        state.apply(text).unwrap();
        let pools = &state.objects.pools;
        assert_eq!(pools.len(), 2);
        assert_eq!(pools[0].spec.addresses, ["10.0.0.0/25"]);
        assert!(
            pools[0].metadata.creation_timestamp.is_some() && pools[1].metadata.creation_timestamp.is_none()
        );
        state.delete("IPAddressPool/lan").unwrap();
        assert_eq!(state.objects.pools[0].name_any(), "new");
    }

    #[test]
    fn a_stack_adds_its_inline_pools_and_removes_those_that_it_no_longer_has() {
        let pool = |name: &str, labels: Value| {
            let object = serde_json::json!({"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
                "metadata": {"name": name, "namespace": "metallb-system", "labels": labels,
                    "creationTimestamp": "2024-01-01T00:00:00Z"},
                "spec": {"addresses": ["10.0.0.0/24"]}});
            Arc::new(serde_json::from_value(object).unwrap())
        };
        let inline = serde_json::json!({ LABEL_MANAGED_BY: OPERATOR });
        let imported = serde_json::json!({ LABEL_MANAGED_BY: OPERATOR, LABEL_IMPORTED_FROM: "configmap" });
        let pools = vec![
            pool("stays", inline.clone()),
            pool("goes", inline),
            pool("imported", imported),
            pool("by-hand", serde_json::json!({})),
        ];
        let before = ClusterObjects {
            namespace: "metallb-system".into(),
            objects: Objects { pools, ..Objects::default() },
            ..ClusterObjects::default()
        };
        let stack = |fields: &str| {
            format!(
                "{{apiVersion: lbstack.dev/v1alpha1, kind: LoadBalancerStack, metadata: {{name: default}}, \
                 spec: {{{fields}}}}}"
            )
        };

        let mut after = before.clone();
        after
            .apply(&stack(
                "loadBalancerClass: c, addressPools: [{name: stays, addresses: [10.1.0.0/24]}, \
                 {name: new, addresses: [10.2.0.0/24]}]",
            ))
            .unwrap();
        let names: Vec<String> = after.objects.pools.iter().map(|pool| pool.name_any()).collect();
        assert_eq!(names, ["imported", "by-hand", "stays", "new"]);
        assert_eq!(after.objects.pools[2].spec.addresses, ["10.1.0.0/24"]);
        let ages = after.objects.pools.iter().map(|pool| pool.metadata.creation_timestamp.is_some());
        assert_eq!(ages.collect::<Vec<_>>(), [true, true, true, false]);
        let advertised: Vec<String> =
            after.objects.l2_advertisements.iter().map(|l2| l2.name_any()).collect();
        assert_eq!(advertised, ["stays", "new"]);
        assert_eq!(after.class, "c");

        let refused = |fields: &str| format!("{:#}", before.clone().apply(&stack(fields)).unwrap_err());
        let error = refused("addressPools: [{name: by-hand, addresses: [10.3.0.0/24]}]");
        assert!(error.contains("by-hand") && error.contains("not the stack's"), "{error}");
        let error = refused("namespace: elsewhere");
        assert!(error.contains("elsewhere") && error.contains("metallb-system"), "{error}");
    }

    #[test]
    fn unsupported_input_is_reported() {
        let mut state = ClusterObjects::default();
        let error = state.apply("kind: Pod\n").unwrap_err().to_string();
        assert!(error.contains("kind \"Pod\"") && error.contains("IPAddressPool"), "{error}");
        let error = state.delete("IPAddressPool/x").unwrap_err().to_string();
        assert!(error.contains("no such object"), "{error}");
        assert!(state.apply("a: [").is_err());
    }
}
