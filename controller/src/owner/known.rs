//! The newest state of each Service that is known: of the store, or of a list or a write that the store has not
//! caught up with.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crds::ServiceKey;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::reflector::{ObjectRef, Store};

use crate::service::version;

/// A store, and what is newer than it.
#[derive(Debug)]
pub(super) struct Known {
    store: Store<Service>,
    newer: HashMap<ServiceKey, Arc<Service>>,
}

impl Known {
    pub(super) fn new(store: Store<Service>) -> Self {
        Self { store, newer: HashMap::new() }
    }

    fn in_store(&self, key: &ServiceKey) -> Option<Arc<Service>> {
        self.store.get(&ObjectRef::new(&key.name).within(&key.namespace))
    }

    /// The newest state; none if the Service does not exist.
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

    /// The API gave this state.
    pub(super) fn learn(&mut self, service: Service) {
        let key = ServiceKey::of(&service);
        let behind = self.in_store(&key).is_none_or(|stored| version(&stored) < version(&service));
        let newest = self.newer.get(&key).is_none_or(|newer| version(newer) < version(&service));
        if behind && newest {
            self.newer.insert(key, Arc::new(service));
        }
    }

    /// The watch saw a deletion.
    pub(super) fn deleted(&mut self, key: &ServiceKey, deletion: u64) {
        if self.newer.get(key).is_some_and(|newer| version(newer) <= deletion) {
            self.newer.remove(key);
        }
    }

    /// The API says that it does not exist.
    pub(super) fn gone(&mut self, key: &ServiceKey) {
        self.newer.remove(key);
    }

    /// Those that the store does not have: of `others`, and of what is newer than it.
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
    fn what_a_new_list_does_not_have_is_missing_whether_it_was_written_or_only_seen() {
        let (store, mut writer) = store::<Service>();
        let mut known = Known::new(store);
        let seen = ["a", "b", "c"].map(|name| ServiceKey::of(&service(name, 1)));
        for name in ["a", "b"] {
            writer.apply_watcher_event(&Event::Apply(service(name, 1)));
        }
        known.learn(service("c", 2));
        // A watch that was broken for too long lists anew, and tells of no deletion.
        for event in [Event::Init, Event::InitApply(service("a", 1)), Event::InitDone] {
            writer.apply_watcher_event(&event);
        }
        assert_eq!(known.missing(seen.iter()), seen[1..]);
    }
}
