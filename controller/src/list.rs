//! Lists from the API server. Unlike a watch, which may be behind, a list includes the last writes of another
//! leader.

use std::collections::HashSet;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use kube::api::ListParams;
use kube::core::Request;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource};
use runtime::client::{CallError, with_timeout};
use runtime::decode::{Lenient, object_ref};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Interval between two checks whether a watch has caught up.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// After this many checks the list is requested again, since an object that was deleted after the list never
/// arrives.
const CHECKS_PER_LIST: usize = 50;

/// The resource version in `metadata`, which increases with each write.
pub(crate) fn version(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Objects per page. At most one page of a list is held in memory at a time.
pub(crate) const PAGE: u32 = 100;

/// One page of a list.
#[derive(Deserialize)]
#[serde(bound = "K: DeserializeOwned")]
struct Page<K> {
    metadata: ListMeta,
    items: Vec<Lenient<K>>,
}

/// Lists all objects of the kind and calls `each` for every one. Objects that cannot be decoded are reported
/// by the watch of the kind. Returns the version of the list.
///
/// # Errors
///
/// A page cannot be read.
pub(crate) async fn for_each<K>(
    client: &Client,
    namespace: Option<&str>,
    mut each: impl FnMut(Lenient<K>),
) -> Result<u64, CallError>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let request = Request::new(K::url_path(&(), namespace)).list(&parameters);
        let request = request.map_err(|error| CallError::Kube(kube::Error::BuildRequest(error)))?;
        let Page { metadata, items } = with_timeout(client.request(request)).await?;
        items.into_iter().for_each(&mut each);
        match metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = ListParams::default().limit(PAGE).continue_token(&token),
            None => {
                return Ok(metadata.resource_version.and_then(|text| text.parse().ok()).unwrap_or_default());
            }
        }
    }
}

/// The entry of a list for one object, to compare a store with it.
struct Listed<K: Resource> {
    object: ObjectRef<K>,
    /// `None` if it cannot be decoded: then the store has an older version of it, or none.
    version: Option<u64>,
}

/// Waits until `store` has the present objects of the API, or newer versions.
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
        let version = for_each(client, namespace, |object: Lenient<K>| {
            let version = object.0.as_ref().ok().map(|object| version(object.meta()));
            listed.push(Listed { object: object_ref(object.meta(), ()), version });
        });
        let version = version.await?;
        for _ in 0..CHECKS_PER_LIST {
            if is_current(store, &listed, version) {
                return Ok(());
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
        tracing::warn!(kind = %K::kind(&()), "the watch is behind the API, so nothing is assigned yet");
    }
}

/// Whether `store` has all `listed` objects in at least the listed version, and no others up to the version
/// of the list.
fn is_current<K>(store: &Store<K>, listed: &[Listed<K>], version: u64) -> bool
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
    use crate::fixtures;

    fn namespace(name: &str, version: u64) -> Namespace {
        fixtures::namespace(name, &json!({"metadata": {"resourceVersion": version.to_string()}}))
    }

    #[test]
    fn a_store_has_caught_up_once_it_has_every_change_and_deletion_before_the_list() {
        let (store, mut writer) = store::<Namespace>();
        let listed = [("changed", 5), ("new", 7)].map(|(name, version)| Listed {
            object: ObjectRef::from_obj(&namespace(name, version)),
            version: Some(version),
        });
        let mut after = |event: Event<Namespace>| {
            writer.apply_watcher_event(&event);
            is_current(&store, &listed, 9)
        };
        assert!(!after(Event::Apply(namespace("deleted", 3))));
        assert!(!after(Event::Apply(namespace("changed", 4))));
        assert!(!after(Event::Apply(namespace("new", 7))));
        assert!(!after(Event::Apply(namespace("changed", 5))), "it still has the deleted object");
        assert!(after(Event::Delete(namespace("deleted", 8))));
        assert!(after(Event::Apply(namespace("changed", 11))));
        assert!(after(Event::Apply(namespace("newest", 10))), "that object is newer than the list");
    }
}
