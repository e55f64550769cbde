//! Watches that keep facts instead of objects.
//!
//! An object of the API takes some kilobytes in memory, what a process acts on is often a hundredth of that. A process
//! that runs on every node of a large cluster therefore keeps of each object only what its `of` makes of it, and hears
//! of a change only if that has changed: a node tells every few minutes that it lives, which is nothing to look at.
//! Who needs the objects themselves, to write them back, takes [`reflect`](crate::reflect::reflect).

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

use crate::reflect::{Ended, events};
use crate::tasks::Tasks;

/// `namespace/name`, or the name alone where there is no namespace.
type Key = Box<str>;
type Kept<F> = BTreeMap<Key, Arc<F>>;

/// The facts about all objects of a kind, as a watch keeps them. A cache: read it, never wait for it to hold one's own
/// write.
#[derive(Debug)]
pub struct Mirror<F> {
    kept: Arc<RwLock<Kept<F>>>,
    listed: watch::Receiver<bool>,
}

impl<F> Clone for Mirror<F> {
    fn clone(&self) -> Self {
        Self { kept: Arc::clone(&self.kept), listed: self.listed.clone() }
    }
}

impl<F> Mirror<F> {
    /// Of these facts for ever: for tests.
    pub fn fixed(facts: Vec<F>) -> Self {
        let kept = facts.into_iter().enumerate();
        let kept = kept.map(|(index, fact)| (index.to_string().into(), Arc::new(fact))).collect();
        let listed = watch::channel(true).1;
        Self { kept: Arc::new(RwLock::new(kept)), listed }
    }

    /// All of them, in an order that only their names decide.
    pub fn all(&self) -> Vec<Arc<F>> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Waits until the first list is in.
    ///
    /// # Errors
    ///
    /// [`Ended`].
    pub async fn ready(&self) -> Result<(), Ended> {
        self.listed.clone().wait_for(|listed| *listed).await.map(|_| ()).map_err(|_| Ended)
    }
}

/// Watches `api` by a task of `tasks`, keeps what `of` makes of each object (none: nothing is kept), and calls `changed`
/// whenever what is kept has become something else.
///
/// Errors of the watch are logged and retried after a [`backoff`](crate::reflect::backoff); they never end the task.
pub fn extract<K, F>(
    tasks: &mut Tasks,
    api: Api<K>,
    config: watcher::Config,
    shutdown: CancellationToken,
    of: impl Fn(K) -> Option<F> + Send + 'static,
    changed: impl Fn() + Send + 'static,
) -> Mirror<F>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    F: PartialEq + Send + Sync + 'static,
{
    let (mut writer, mirror) = Writer::new();
    tasks.spawn("watch", async move {
        let mut events = std::pin::pin!(events(api, config, shutdown));
        while let Some(event) = events.next().await {
            if writer.take(event, &of) {
                changed();
            }
        }
        Ok::<(), std::convert::Infallible>(())
    });
    mirror
}

struct Writer<F> {
    kept: Arc<RwLock<Kept<F>>>,
    /// What a list has brought so far that is not complete.
    arriving: Kept<F>,
    listed: watch::Sender<bool>,
}

impl<F: PartialEq> Writer<F> {
    fn new() -> (Self, Mirror<F>) {
        let kept = Arc::new(RwLock::new(Kept::new()));
        let (listed, receiver) = watch::channel(false);
        let mirror = Mirror { kept: Arc::clone(&kept), listed: receiver };
        (Self { kept, arriving: Kept::new(), listed }, mirror)
    }

    /// Whether what is kept is something else after the event.
    fn take<K: Resource>(&mut self, event: Event<K>, of: impl Fn(K) -> Option<F>) -> bool {
        // Before the lock, which readers wait for.
        let event = match event {
            Event::Apply(object) => Event::Apply((key(&object), of(object))),
            Event::Delete(object) => Event::Delete((key(&object), None)),
            Event::InitApply(object) => Event::InitApply((key(&object), of(object))),
            Event::Init => Event::Init,
            Event::InitDone => Event::InitDone,
        };
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Apply((key, Some(facts))) if kept.get(&key).is_some_and(|known| **known == facts) => false,
            Event::Apply((key, Some(facts))) => {
                kept.insert(key, Arc::new(facts));
                true
            }
            Event::Apply((key, None)) | Event::Delete((key, _)) => kept.remove(&key).is_some(),
            Event::Init => {
                self.arriving.clear();
                false
            }
            Event::InitApply((key, facts)) => {
                if let Some(facts) = facts {
                    // What is known already is not held twice.
                    let known = kept.get(&key).filter(|known| ***known == facts).cloned();
                    self.arriving.insert(key, known.unwrap_or_else(|| Arc::new(facts)));
                }
                false
            }
            Event::InitDone => {
                let before = std::mem::replace(&mut *kept, std::mem::take(&mut self.arriving));
                let first = !self.listed.send_replace(true);
                first || before != *kept
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

    fn node(name: &str, labels: &[&str]) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some(name.into());
        node.metadata.resource_version = Some(format!("{labels:?}"));
        node.metadata.labels = Some(labels.iter().map(|label| ((*label).into(), String::new())).collect());
        node
    }

    /// The labels of nodes that have any.
    fn of(node: Node) -> Option<Vec<String>> {
        let labels: Vec<String> = node.metadata.labels?.into_keys().filter(|label| label != "time").collect();
        (!labels.is_empty()).then_some(labels)
    }

    fn all(mirror: &Mirror<Vec<String>>) -> Vec<String> {
        mirror.all().iter().flat_map(|labels| (**labels).clone()).collect()
    }

    #[test]
    fn only_what_is_kept_of_an_object_makes_a_change() {
        let (mut writer, facts) = Writer::new();
        assert!(writer.take(Apply(node("a", &["x"])), of));
        assert!(!writer.take(Apply(node("a", &["time", "x"])), of), "nothing that matters");
        assert!(writer.take(Apply(node("a", &["y"])), of));
        assert!(!writer.take(Apply(node("b", &["time"])), of), "nothing is kept of it");
        assert_eq!(all(&facts), ["y"]);
        assert!(writer.take(Apply(node("a", &[])), of), "there is nothing to keep any more");
        assert!(!writer.take(Delete(node("a", &[])), of));
        assert_eq!(all(&facts), Vec::<String>::new());
    }

    #[test]
    fn a_list_replaces_what_was_kept_once_it_is_complete() {
        let (mut writer, facts) = Writer::new();
        assert!(writer.take(Apply(node("gone", &["g"])), of));
        for event in [Init, InitApply(node("a", &["half"])), Init, InitApply(node("b", &["b"]))] {
            assert!(!writer.take(event, of));
            assert_eq!(all(&facts), ["g"], "half a list is none");
        }
        assert!(writer.take(InitDone, of));
        assert_eq!(all(&facts), ["b"]);
        for event in [Init, InitApply(node("b", &["b", "time"])), InitDone] {
            assert!(!writer.take(event, of), "a list that brings nothing new");
        }
    }

    #[tokio::test]
    async fn everybody_who_waits_hears_of_the_first_list_even_if_it_is_empty() {
        let (mut writer, facts) = Writer::new();
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let facts = facts.clone();
                tokio::spawn(async move { facts.ready().await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
        assert!(!writer.take(Init, of));
        assert!(writer.take(InitDone, of), "who waits for it has to look");
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), Ok(()));
        }
        drop(writer);
        assert_eq!(facts.ready().await, Ok(()));
    }

    #[tokio::test]
    async fn a_watch_that_ends_before_its_first_list_is_told() {
        let (writer, facts) = Writer::<()>::new();
        drop(writer);
        assert_eq!(facts.ready().await, Err(Ended));
    }
}
