//! The newest known version of each Service: that of the store, or that of a list or a write which the store
//! does not have yet.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crds::ServiceKey;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::reflector::{ObjectRef, Store};

use crate::service::version;

/// A store, and the Services of which a newer version is known.
#[derive(Debug)]
pub(super) struct ServiceCache {
    store: Store<Service>,
    newer: HashMap<ServiceKey, Arc<Service>>,
}

impl ServiceCache {
    pub(super) fn new(store: Store<Service>) -> Self {
        Self { store, newer: HashMap::new() }
    }

    fn in_store(&self, key: &ServiceKey) -> Option<Arc<Service>> {
        self.store.get(&ObjectRef::new(&key.name).within(&key.namespace))
    }

    /// The newest version; `None` if the Service does not exist.
    pub(super) fn get(&mut self, key: &ServiceKey) -> Option<Arc<Service>> {
        let stored = self.in_store(key);
        let Some(newer) = self.newer.get(key) else { return stored };
        match stored {
            Some(stored) if version(&stored) >= version(newer) => {
                self.newer.remove(key);
                Some(stored)
            }
            _ => Some(Arc::clone(newer)),
        }
    }

    /// The API returned this version.
    pub(super) fn insert_newer(&mut self, service: Service) {
        let key = ServiceKey::of(&service);
        let behind = self.in_store(&key).is_none_or(|stored| version(&stored) < version(&service));
        let newest = self.newer.get(&key).is_none_or(|newer| version(newer) < version(&service));
        if behind && newest {
            self.newer.insert(key, Arc::new(service));
        }
    }

    /// The watch reported a deletion.
    pub(super) fn deleted(&mut self, key: &ServiceKey, deletion: u64) {
        if self.newer.get(key).is_some_and(|newer| version(newer) <= deletion) {
            self.newer.remove(key);
        }
    }

    /// The API reports that the Service does not exist.
    pub(super) fn remove(&mut self, key: &ServiceKey) {
        self.newer.remove(key);
    }

    /// The Services that the store does not have: of `others`, and of the newer ones.
    pub(super) fn missing<'a>(&'a self, others: impl Iterator<Item = &'a ServiceKey>) -> Vec<ServiceKey> {
        let all: BTreeSet<&ServiceKey> = self.newer.keys().chain(others).collect();
        all.into_iter().filter(|key| self.in_store(key).is_none()).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector::store;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;
    use crate::fixtures;

    fn service(name: &str, version: u64) -> Service {
        let more = json!({"metadata": {"resourceVersion": version.to_string()}});
        fixtures::service("default", name, &more)
    }

    #[test]
    fn services_that_a_new_list_lacks_are_missing_whether_written_or_only_seen() {
        let (store, mut writer) = store::<Service>();
        let mut cache = ServiceCache::new(store);
        let seen = ["a", "b", "c"].map(|name| ServiceKey::of(&service(name, 1)));
        for name in ["a", "b"] {
            writer.apply_watcher_event(&Event::Apply(service(name, 1)));
        }
        cache.insert_newer(service("c", 2));
        // A watch that was interrupted for too long lists again, without reporting deletions.
        for event in [Event::Init, Event::InitApply(service("a", 1)), Event::InitDone] {
            writer.apply_watcher_event(&event);
        }
        assert_eq!(cache.missing(seen.iter()), seen[1..]);
    }
}
