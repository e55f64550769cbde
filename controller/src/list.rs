//! Lists from the API itself: what another leader did last is among them, while a watch may not have told of it yet.

use std::collections::HashSet;
use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::{Api, ListParams};
use kube::runtime::reflector::{ObjectRef, Store};
use runtime::client::{CallError, bounded};
use serde::de::DeserializeOwned;

/// Between two looks whether a watch has caught up.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// After that many looks the API is asked anew: what was deleted since it was asked never comes.
const LOOKS: usize = 50;

/// The version in `metadata`, which grows with each write.
pub(crate) fn version(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// All objects of `api`, and the version of the list.
pub(crate) async fn list<K>(api: &Api<K>) -> Result<(Vec<K>, u64), CallError>
where
    K: Clone + DeserializeOwned + Debug,
{
    const PAGE: u32 = 500;
    let mut parameters = ListParams::default().limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = bounded(api.list(&parameters)).await?;
        let version = page.metadata.resource_version.and_then(|text| text.parse().ok());
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = ListParams::default().limit(PAGE).continue_token(&token),
            None => return Ok((objects, version.unwrap_or_default())),
        }
    }
}

/// Waits until `store` has what `api` has now, or newer.
pub(crate) async fn catch_up<K>(store: &Store<K>, api: &Api<K>) -> Result<(), CallError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + 'static,
{
    loop {
        let (listed, version) = list(api).await?;
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
fn is_as_new<K>(store: &Store<K>, listed: &[K], version: u64) -> bool
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let has = |object: &K| {
        let stored = store.get(&ObjectRef::from_obj(object));
        stored.is_some_and(|stored| self::version(stored.meta()) >= self::version(object.meta()))
    };
    let names: HashSet<ObjectRef<K>> = listed.iter().map(ObjectRef::from_obj).collect();
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
    fn a_store_has_caught_up_once_it_knows_of_every_change_and_deletion_before_the_list() {
        let (store, mut writer) = store::<Namespace>();
        let listed = [namespace("changed", 5), namespace("new", 7)];
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
