//! Lists from the API itself: what another leader did last is among them, while a watch may not have told of it yet.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use kube::api::ListParams;
use kube::core::Request;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource};
use runtime::client::{CallError, bounded};
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// Between two looks whether a watch has caught up.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// After that many looks the API is asked anew: what was deleted since it was asked never comes.
const LOOKS: usize = 50;

/// The version in `metadata`, which grows with each write.
pub(crate) fn version(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// So many objects come at once: one page of large objects is all that is held of a list beside what is made of it.
pub(crate) const PAGE: u32 = 100;

/// One page of a list.
#[derive(Deserialize)]
struct Page {
    metadata: ListMeta,
    items: Vec<Sparse>,
}

/// An object that cannot be decoded: what is known of it all the same.
pub(crate) struct Undecodable {
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    object: Map<String, Value>,
}

impl Undecodable {
    fn new(object: Map<String, Value>) -> Self {
        let text = |field: &str| {
            let metadata = object.get("metadata")?;
            metadata.get(field)?.as_str().map(str::to_owned)
        };
        Self { namespace: text("namespace"), name: text("name").unwrap_or_default(), object }
    }

    /// What it has at this JSON pointer below `status`.
    pub(crate) fn status(&self, pointer: &str) -> Option<&Value> {
        self.object.get("status")?.pointer(pointer)
    }
}

/// The object without managed fields and without the copy that `kubectl apply` keeps of it, neither of which is even
/// decoded: they are the larger half of most objects.
fn decode<K: Resource<DynamicType = ()> + DeserializeOwned>(
    object: Map<String, Value>,
) -> Result<K, Undecodable> {
    K::deserialize(&Value::Object(object.clone())).map_err(|_| {
        let undecodable = Undecodable::new(object);
        let Undecodable { namespace, name, .. } = &undecodable;
        // Without the error, which may quote a value, and that may be a secret.
        tracing::warn!(kind = %K::kind(&()), namespace, name, "an object cannot be decoded and is left out");
        undecodable
    })
}

/// A JSON object, and the objects within `metadata`, without the entries that nobody reads.
struct Sparse(Map<String, Value>);

impl<'de> Deserialize<'de> for Sparse {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Sparse;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Sparse, A::Error> {
                let mut object = Map::new();
                while let Some(key) = entries.next_key::<String>()? {
                    match key.as_str() {
                        "managedFields" | "kubectl.kubernetes.io/last-applied-configuration" => {
                            entries.next_value::<IgnoredAny>()?;
                        }
                        "metadata" | "annotations" => {
                            let nested = entries.next_value::<Option<Sparse>>()?;
                            object.insert(key, nested.map_or(Value::Null, |Sparse(nested)| nested.into()));
                        }
                        _ => {
                            let value = entries.next_value()?;
                            object.insert(key, value);
                        }
                    }
                }
                Ok(Sparse(object))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Hands every object of the kind to `each`, from the API itself and without managed fields; each is decoded by itself.
/// Returns the version of the list.
///
/// # Errors
///
/// A page cannot be had.
pub(crate) async fn for_each<K>(
    client: &Client,
    namespace: Option<&str>,
    mut each: impl FnMut(Result<K, Undecodable>),
) -> Result<u64, CallError>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let request = Request::new(K::url_path(&(), namespace)).list(&parameters);
        let request = request.map_err(|error| CallError::Kube(kube::Error::BuildRequest(error)))?;
        let Page { metadata, items } = bounded(client.request(request)).await?;
        for Sparse(object) in items {
            each(decode(object));
        }
        match metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = ListParams::default().limit(PAGE).continue_token(&token),
            None => {
                return Ok(metadata.resource_version.and_then(|text| text.parse().ok()).unwrap_or_default());
            }
        }
    }
}

/// What a list says of one object, to compare a store with it.
struct Listed<K: Resource> {
    object: ObjectRef<K>,
    /// None if it cannot be decoded: then a store has it in an older version, or not at all.
    version: Option<u64>,
}

/// Waits until `store` has what `api` has now, or newer.
pub(crate) async fn catch_up<K>(
    store: &Store<K>,
    client: &Client,
    namespace: Option<&str>,
) -> Result<(), CallError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + 'static,
{
    loop {
        let mut listed = Vec::new();
        let version = for_each(client, namespace, |object: Result<K, Undecodable>| {
            listed.push(match object {
                Ok(object) => {
                    Listed { object: ObjectRef::from_obj(&object), version: Some(version(object.meta())) }
                }
                Err(Undecodable { namespace, name, .. }) => {
                    let object = ObjectRef::new(&name);
                    let object = match namespace {
                        Some(namespace) => object.within(&namespace),
                        None => object,
                    };
                    Listed { object, version: None }
                }
            });
        });
        let version = version.await?;
        for _ in 0..LOOKS {
            if is_as_new(store, &listed, version) {
                return Ok(());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        tracing::warn!(kind = %K::kind(&()), "the watch is behind the API, so nothing is assigned yet");
    }
}

/// Whether `store` has all that is `listed`, or newer, and nothing that a list of this version would have and lacks.
fn is_as_new<K>(store: &Store<K>, listed: &[Listed<K>], version: u64) -> bool
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let has = |listed: &Listed<K>| {
        let Some(version) = listed.version else { return true };
        store.get(&listed.object).is_some_and(|stored| self::version(stored.meta()) >= version)
    };
    let names: HashSet<&ObjectRef<K>> = listed.iter().map(|listed| &listed.object).collect();
    listed.iter().all(has)
        && store.state().iter().all(|stored| {
            self::version(stored.meta()) > version || names.contains(&ObjectRef::from_obj(&**stored))
        })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Namespace;
    use kube::runtime::reflector::store;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;

    fn namespace(name: &str, version: u64) -> Namespace {
        serde_json::from_value(json!({"metadata": {"name": name, "resourceVersion": version.to_string()}}))
            .unwrap()
    }

    #[test]
    fn managed_fields_and_the_copy_of_kubectl_are_not_even_decoded() {
        let text = json!({"metadata": {"name": "shop", "labels": {"metadata": "stays"},
            "managedFields": [{"manager": "m", "fieldsV1": {"f:metadata": {}}}],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "stays"}},
            "spec": {"finalizers": ["f"]}});
        let Sparse(object) = serde_json::from_value(text).unwrap();
        let Ok(read) = decode::<Namespace>(object) else { panic!("it can be decoded") };
        assert_eq!(read.metadata.managed_fields, None);
        assert_eq!(read.metadata.annotations.unwrap().into_keys().collect::<Vec<_>>(), ["mine"]);
        assert_eq!(read.metadata.labels.unwrap()["metadata"], "stays");
        assert_eq!(read.spec.unwrap().finalizers.unwrap(), ["f"]);
    }

    #[test]
    fn a_store_has_caught_up_once_it_knows_of_every_change_and_deletion_before_the_list() {
        let (store, mut writer) = store::<Namespace>();
        let listed = [("changed", 5), ("new", 7)].map(|(name, version)| Listed {
            object: ObjectRef::from_obj(&namespace(name, version)),
            version: Some(version),
        });
        let mut after = |event: Event<Namespace>| {
            writer.apply_watcher_event(&event);
            is_as_new(&store, &listed, 9)
        };
        assert!(!after(Event::Apply(namespace("deleted", 3))));
        assert!(!after(Event::Apply(namespace("changed", 4))));
        assert!(!after(Event::Apply(namespace("new", 7))));
        assert!(!after(Event::Apply(namespace("changed", 5))), "it still has what was deleted");
        assert!(after(Event::Delete(namespace("deleted", 8))));
        assert!(after(Event::Apply(namespace("changed", 11))));
        assert!(after(Event::Apply(namespace("newest", 10))), "the list is older than that");
    }
}
