//! Watches that cache a projection of each object instead of the object.
//!
//! An API object takes some kilobytes of memory, of which a process often uses a hundredth. A process that
//! runs on every node of a large cluster therefore keeps only what its `project` function returns for each
//! object, and is notified only when that value changes: a node's status is updated every few minutes, mostly
//! without anything of interest in it. A process that needs whole objects, to write them back, uses
//! [`reflect`](crate::reflect::reflect).

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};

use futures::StreamExt as _;
use kube::api::Api;
use kube::runtime::watcher::{self, Event};
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::decode::Lenient;
use crate::reflect::{WatchEnded, events};
use crate::tasks::Tasks;

/// `namespace/name`, or the name alone where there is no namespace.
type Key = Box<str>;
type Entries<T> = BTreeMap<Key, Arc<T>>;

/// Projections of all objects of one kind, kept up to date by a watch. It lags behind the API server: never
/// wait for one's own write to appear in it.
#[derive(Debug)]
pub struct Cache<T> {
    entries: Arc<RwLock<Entries<T>>>,
    synced: watch::Receiver<bool>,
}

impl<T> Clone for Cache<T> {
    fn clone(&self) -> Self {
        Self { entries: Arc::clone(&self.entries), synced: self.synced.clone() }
    }
}

impl<T> Cache<T> {
    /// A synced cache with fixed contents, for tests.
    pub fn fixed(values: Vec<T>) -> Self {
        let values = values.into_iter().enumerate();
        let entries = values.map(|(index, value)| (index.to_string().into(), Arc::new(value))).collect();
        let synced = watch::channel(true).1;
        Self { entries: Arc::new(RwLock::new(entries)), synced }
    }

    /// All values, ordered by `namespace/name`.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Whether there is a value for the object `namespace/name`.
    pub fn contains(&self, key: &str) -> bool {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    /// Whether the initial list is complete.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits until the initial list is complete.
    ///
    /// # Errors
    ///
    /// [`WatchEnded`].
    pub async fn wait_synced(&self) -> Result<(), WatchEnded> {
        self.synced.clone().wait_for(|synced| *synced).await.map(|_| ()).map_err(|_| WatchEnded)
    }
}

impl<T: Resource<DynamicType = ()>> Cache<T> {
    /// Adds objects that an earlier process has known. Call it before the initial list can be complete: an object of that
    /// list that cannot be decoded stays as it was; all others are as the list has them.
    pub fn recall(&self, objects: &[Arc<T>]) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if !self.is_synced() {
            entries.extend(objects.iter().map(|object| (key(&**object), Arc::clone(object))));
        }
    }
}

/// Watches `api` in a task of `tasks` and caches what `project` returns for each object; nothing is cached
/// for `None`.
///
/// Calls `changed` when the cache has changed: after a change of one object only if `is_relevant` returns
/// true for the cached values before and after, after a relist always.
///
/// Errors of the watch are reported ([`Tasks::watches`]) and retried after a
/// [`backoff`](crate::reflect::backoff); they never end the task. An object that cannot be decoded is
/// reported, and its cached value stays.
pub fn watch_projected<K, T>(
    tasks: &mut Tasks,
    api: Api<K>,
    config: watcher::Config,
    shutdown: CancellationToken,
    project: impl Fn(K) -> Option<T> + Send + 'static,
    is_relevant: impl Fn(Option<&T>, Option<&T>) -> bool + Send + 'static,
    changed: impl Fn() + Send + 'static,
) -> Cache<T>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    T: PartialEq + Send + Sync + 'static,
{
    let (mut writer, cache) = Writer::new();
    let events = events(tasks.watches(), api, config, shutdown);
    tasks.spawn("watch", async move {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            if writer.apply(event, &project, &is_relevant) {
                changed();
            }
        }
        Ok::<(), std::convert::Infallible>(())
    });
    cache
}

struct Writer<T> {
    entries: Arc<RwLock<Entries<T>>>,
    /// Values of a list that is not complete yet.
    pending: Entries<T>,
    synced: watch::Sender<bool>,
}

impl<T: PartialEq> Writer<T> {
    fn new() -> (Self, Cache<T>) {
        let entries = Arc::new(RwLock::new(Entries::new()));
        let (synced, receiver) = watch::channel(false);
        let cache = Cache { entries: Arc::clone(&entries), synced: receiver };
        (Self { entries, pending: Entries::new(), synced }, cache)
    }

    /// Applies `event`, and returns whether it made a relevant change.
    fn apply<K: Resource>(
        &mut self,
        event: Event<Lenient<K>>,
        project: impl Fn(K) -> Option<T>,
        is_relevant: impl Fn(Option<&T>, Option<&T>) -> bool,
    ) -> bool {
        // Done before taking the lock, so that readers wait less.
        let projected = |object: Lenient<K>| (key(&object), object.0.map(&project).map_err(drop));
        let event = match event {
            Event::Apply(object) => Event::Apply(projected(object)),
            Event::Delete(object) => Event::Delete((key(&object), Ok(None))),
            Event::InitApply(object) => Event::InitApply(projected(object)),
            Event::Init => Event::Init,
            Event::InitDone => Event::InitDone,
        };
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Apply((_, Err(()))) => false,
            Event::Apply((key, Ok(Some(value)))) if entries.get(&key).is_some_and(|old| **old == value) => {
                false
            }
            Event::Apply((key, Ok(Some(value)))) => {
                let new = Arc::new(value);
                let old = entries.insert(key, Arc::clone(&new));
                is_relevant(old.as_deref(), Some(&new))
            }
            Event::Apply((key, Ok(None))) | Event::Delete((key, _)) => {
                entries.remove(&key).is_some_and(|old| is_relevant(Some(&old), None))
            }
            Event::Init => {
                self.pending.clear();
                false
            }
            Event::InitApply((key, value)) => {
                let old = entries.get(&key).cloned();
                let value = match value {
                    // An unchanged value is shared with the old entry instead of being held twice.
                    Ok(Some(value)) => {
                        Some(old.filter(|old| **old == value).unwrap_or_else(|| Arc::new(value)))
                    }
                    Ok(None) => None,
                    Err(()) => old,
                };
                self.pending.extend(value.map(|value| (key, value)));
                false
            }
            Event::InitDone => {
                let old = std::mem::replace(&mut *entries, std::mem::take(&mut self.pending));
                let first = !self.synced.send_replace(true);
                first || old != *entries
            }
        }
    }
}

fn key<K: Resource>(object: &K) -> Key {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()).into(),
        None => object.name_any().into(),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use kube::runtime::watcher::Event::{Apply, Delete, Init, InitApply, InitDone};

    use super::*;
    use crate::decode::undecodable;

    fn node(name: &str, labels: &[&str]) -> Lenient<Node> {
        let mut node = Node::default();
        node.metadata.name = Some(name.into());
        node.metadata.resource_version = Some(format!("{labels:?}"));
        node.metadata.labels = Some(labels.iter().map(|label| ((*label).into(), String::new())).collect());
        Lenient(Ok(node))
    }

    /// The labels except `time` of nodes that have any.
    fn labels_of(node: Node) -> Option<Vec<String>> {
        let labels: Vec<String> = node.metadata.labels?.into_keys().filter(|label| label != "time").collect();
        (!labels.is_empty()).then_some(labels)
    }

    fn always<T>(_: Option<&T>, _: Option<&T>) -> bool {
        true
    }

    fn all(cache: &Cache<Vec<String>>) -> Vec<String> {
        cache.all().iter().flat_map(|labels| (**labels).clone()).collect()
    }

    #[test]
    fn only_a_change_of_the_projected_value_is_reported() {
        let (mut writer, cache) = Writer::new();
        assert!(writer.apply(Apply(node("a", &["x"])), labels_of, always));
        assert!(
            !writer.apply(Apply(node("a", &["time", "x"])), labels_of, always),
            "the projected value is the same"
        );
        assert!(writer.apply(Apply(node("a", &["y"])), labels_of, always));
        assert!(!writer.apply(Apply(node("b", &["time"])), labels_of, always), "it has no projected value");
        assert_eq!(all(&cache), ["y"]);
        assert!(writer.apply(Apply(node("a", &[])), labels_of, always), "it has no projected value any more");
        assert!(!writer.apply(Delete(node("a", &[])), labels_of, always));
        assert_eq!(all(&cache), Vec::<String>::new());
    }

    #[test]
    fn an_irrelevant_change_of_one_object_is_cached_and_not_reported() {
        let (mut writer, cache) = Writer::new();
        let more_labels = |before: Option<&Vec<String>>, now: Option<&Vec<String>>| {
            now.map_or(0, Vec::len) > before.map_or(0, Vec::len)
        };
        assert!(writer.apply(Apply(node("a", &["x"])), labels_of, more_labels));
        assert!(!writer.apply(Apply(node("a", &["y"])), labels_of, more_labels));
        assert_eq!(all(&cache), ["y"], "it is cached all the same");
        assert!(cache.contains("a") && !cache.contains("b"));
        assert!(!writer.apply(Delete(node("a", &[])), labels_of, more_labels));
        assert!(!cache.contains("a"));
    }

    #[test]
    fn a_list_replaces_the_cached_values_once_it_is_complete() {
        let (mut writer, cache) = Writer::new();
        assert!(writer.apply(Apply(node("gone", &["g"])), labels_of, always));
        for event in [Init, InitApply(node("a", &["half"])), Init, InitApply(node("b", &["b"]))] {
            assert!(!writer.apply(event, labels_of, always));
            assert_eq!(all(&cache), ["g"], "an incomplete list has no effect");
        }
        assert!(writer.apply(InitDone, labels_of, always));
        assert_eq!(all(&cache), ["b"]);
        for event in [Init, InitApply(node("b", &["b", "time"])), InitDone] {
            assert!(!writer.apply(event, labels_of, always), "the list has nothing new");
        }
    }

    #[test]
    fn the_value_of_an_object_that_cannot_be_decoded_stays_until_it_is_deleted() {
        let (mut writer, cache) = Writer::new();
        assert!(writer.apply(Apply(node("a", &["a"])), labels_of, always));
        for event in [Apply(undecodable("a")), Apply(undecodable("new"))] {
            assert!(!writer.apply(event, labels_of, always));
        }
        assert_eq!(all(&cache), ["a"]);
        assert!(
            !writer.apply(Init, labels_of, always)
                && !writer.apply(InitApply(undecodable("a")), labels_of, always)
        );
        assert!(!writer.apply(InitApply(undecodable("new")), labels_of, always));
        assert!(writer.apply(InitDone, labels_of, always), "it is the initial list");
        assert_eq!(all(&cache), ["a"]);
        assert!(writer.apply(Delete(undecodable("a")), labels_of, always));
        assert_eq!(all(&cache), Vec::<String>::new());
    }

    #[tokio::test]
    async fn every_waiter_is_woken_by_the_initial_list_even_if_it_is_empty() {
        let (mut writer, cache) = Writer::new();
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let cache = cache.clone();
                tokio::spawn(async move { cache.wait_synced().await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
        assert!(!writer.apply(Init, labels_of, always));
        assert!(writer.apply(InitDone, labels_of, always), "a process waits for it");
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), Ok(()));
        }
        drop(writer);
        assert_eq!(cache.wait_synced().await, Ok(()));
    }

    #[tokio::test]
    async fn waiting_fails_if_the_watch_ends_before_its_initial_list() {
        let (writer, cache) = Writer::<()>::new();
        drop(writer);
        assert_eq!(cache.wait_synced().await, Err(WatchEnded));
    }

    #[test]
    fn what_an_earlier_process_has_known_stays_where_the_initial_list_cannot_be_decoded() {
        let (mut writer, cache) = Writer::new();
        cache.recall(&["a", "b", "gone"].map(|name| Arc::new(node(name, &["known"]).0.unwrap())));
        let keep = |object: Node| Some(object);
        writer.apply(Init, keep, always);
        writer.apply(InitApply(undecodable("a")), keep, always);
        writer.apply(InitApply(node("b", &["new"])), keep, always);
        writer.apply(InitApply(undecodable("c")), keep, always);
        writer.apply(InitDone, keep, always);
        let kept: Vec<Node> = cache.all().iter().map(|node| (**node).clone()).collect();
        assert_eq!(kept, [node("a", &["known"]).0.unwrap(), node("b", &["new"]).0.unwrap()]);
    }
}
