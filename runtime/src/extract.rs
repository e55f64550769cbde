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

use crate::decode::Lenient;
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

    /// Whether anything is kept of the object `namespace/name`.
    pub fn contains(&self, key: &str) -> bool {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    /// Whether the first list is in.
    pub fn is_listed(&self) -> bool {
        *self.listed.borrow()
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

impl<F: Resource<DynamicType = ()>> Mirror<F> {
    /// Takes objects that an earlier process has known, to be called before the first list can be in: what that list
    /// has and cannot be decoded stays as it was. All others are as the list has them.
    pub fn recall(&self, objects: &[Arc<F>]) {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if !self.is_listed() {
            kept.extend(objects.iter().map(|object| (key(&**object), Arc::clone(object))));
        }
    }
}

/// Watches `api` by a task of `tasks`, keeps what `of` makes of each object (none: nothing is kept), and calls `changed`
/// whenever what is kept has become something else and, if that is about one object, `matters` says of what was kept
/// before and what is kept now that somebody has to know.
///
/// Errors of the watch are reported ([`Tasks::watches`]) and retried after a [`backoff`](crate::reflect::backoff); they
/// never end the task. What cannot be decoded is reported, and what is kept of it stays as it was.
pub fn extract<K, F>(
    tasks: &mut Tasks,
    api: Api<K>,
    config: watcher::Config,
    shutdown: CancellationToken,
    of: impl Fn(K) -> Option<F> + Send + 'static,
    matters: impl Fn(Option<&F>, Option<&F>) -> bool + Send + 'static,
    changed: impl Fn() + Send + 'static,
) -> Mirror<F>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    F: PartialEq + Send + Sync + 'static,
{
    let (mut writer, mirror) = Writer::new();
    let events = events(tasks.watches(), api, config, shutdown);
    tasks.spawn("watch", async move {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            if writer.take(event, &of, &matters) {
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

    /// Whether what is kept is something else after the event, and that matters.
    fn take<K: Resource>(
        &mut self,
        event: Event<Lenient<K>>,
        of: impl Fn(K) -> Option<F>,
        matters: impl Fn(Option<&F>, Option<&F>) -> bool,
    ) -> bool {
        // Before the lock, which readers wait for.
        let facts = |object: Lenient<K>| (key(&object), object.0.map(&of).map_err(drop));
        let event = match event {
            Event::Apply(object) => Event::Apply(facts(object)),
            Event::Delete(object) => Event::Delete((key(&object), Ok(None))),
            Event::InitApply(object) => Event::InitApply(facts(object)),
            Event::Init => Event::Init,
            Event::InitDone => Event::InitDone,
        };
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Apply((_, Err(()))) => false,
            Event::Apply((key, Ok(Some(facts)))) if kept.get(&key).is_some_and(|known| **known == facts) => {
                false
            }
            Event::Apply((key, Ok(Some(facts)))) => {
                let now = Arc::new(facts);
                let before = kept.insert(key, Arc::clone(&now));
                matters(before.as_deref(), Some(&now))
            }
            Event::Apply((key, Ok(None))) | Event::Delete((key, _)) => {
                kept.remove(&key).is_some_and(|before| matters(Some(&before), None))
            }
            Event::Init => {
                self.arriving.clear();
                false
            }
            Event::InitApply((key, facts)) => {
                let known = kept.get(&key).cloned();
                let facts = match facts {
                    // What is known already is not held twice.
                    Ok(Some(facts)) => {
                        Some(known.filter(|known| **known == facts).unwrap_or_else(|| Arc::new(facts)))
                    }
                    Ok(None) => None,
                    Err(()) => known,
                };
                self.arriving.extend(facts.map(|facts| (key, facts)));
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
    use crate::decode::undecodable;

    fn node(name: &str, labels: &[&str]) -> Lenient<Node> {
        let mut node = Node::default();
        node.metadata.name = Some(name.into());
        node.metadata.resource_version = Some(format!("{labels:?}"));
        node.metadata.labels = Some(labels.iter().map(|label| ((*label).into(), String::new())).collect());
        Lenient(Ok(node))
    }

    /// The labels of nodes that have any.
    fn of(node: Node) -> Option<Vec<String>> {
        let labels: Vec<String> = node.metadata.labels?.into_keys().filter(|label| label != "time").collect();
        (!labels.is_empty()).then_some(labels)
    }

    fn always<F>(_: Option<&F>, _: Option<&F>) -> bool {
        true
    }

    fn all(mirror: &Mirror<Vec<String>>) -> Vec<String> {
        mirror.all().iter().flat_map(|labels| (**labels).clone()).collect()
    }

    #[test]
    fn only_what_is_kept_of_an_object_makes_a_change() {
        let (mut writer, facts) = Writer::new();
        assert!(writer.take(Apply(node("a", &["x"])), of, always));
        assert!(!writer.take(Apply(node("a", &["time", "x"])), of, always), "nothing that matters");
        assert!(writer.take(Apply(node("a", &["y"])), of, always));
        assert!(!writer.take(Apply(node("b", &["time"])), of, always), "nothing is kept of it");
        assert_eq!(all(&facts), ["y"]);
        assert!(writer.take(Apply(node("a", &[])), of, always), "there is nothing to keep any more");
        assert!(!writer.take(Delete(node("a", &[])), of, always));
        assert_eq!(all(&facts), Vec::<String>::new());
    }

    #[test]
    fn a_change_of_one_object_is_passed_over_if_nobody_has_to_know() {
        let (mut writer, facts) = Writer::new();
        let longer = |before: Option<&Vec<String>>, now: Option<&Vec<String>>| {
            now.map_or(0, Vec::len) > before.map_or(0, Vec::len)
        };
        assert!(writer.take(Apply(node("a", &["x"])), of, longer));
        assert!(!writer.take(Apply(node("a", &["y"])), of, longer));
        assert_eq!(all(&facts), ["y"], "it is kept all the same");
        assert!(facts.contains("a") && !facts.contains("b"));
        assert!(!writer.take(Delete(node("a", &[])), of, longer));
        assert!(!facts.contains("a"));
    }

    #[test]
    fn a_list_replaces_what_was_kept_once_it_is_complete() {
        let (mut writer, facts) = Writer::new();
        assert!(writer.take(Apply(node("gone", &["g"])), of, always));
        for event in [Init, InitApply(node("a", &["half"])), Init, InitApply(node("b", &["b"]))] {
            assert!(!writer.take(event, of, always));
            assert_eq!(all(&facts), ["g"], "half a list is none");
        }
        assert!(writer.take(InitDone, of, always));
        assert_eq!(all(&facts), ["b"]);
        for event in [Init, InitApply(node("b", &["b", "time"])), InitDone] {
            assert!(!writer.take(event, of, always), "a list that brings nothing new");
        }
    }

    #[test]
    fn what_cannot_be_decoded_stays_as_it_was_known_until_it_is_deleted() {
        let (mut writer, facts) = Writer::new();
        assert!(writer.take(Apply(node("a", &["a"])), of, always));
        for event in [Apply(undecodable("a")), Apply(undecodable("new"))] {
            assert!(!writer.take(event, of, always));
        }
        assert_eq!(all(&facts), ["a"]);
        assert!(!writer.take(Init, of, always) && !writer.take(InitApply(undecodable("a")), of, always));
        assert!(!writer.take(InitApply(undecodable("new")), of, always));
        assert!(writer.take(InitDone, of, always), "it is the first list");
        assert_eq!(all(&facts), ["a"]);
        assert!(writer.take(Delete(undecodable("a")), of, always));
        assert_eq!(all(&facts), Vec::<String>::new());
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
        assert!(!writer.take(Init, of, always));
        assert!(writer.take(InitDone, of, always), "who waits for it has to look");
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

    #[test]
    fn requirement_1_what_an_earlier_process_has_known_stays_where_the_first_list_cannot_be_decoded() {
        let (mut writer, mirror) = Writer::new();
        mirror.recall(&["a", "b", "gone"].map(|name| Arc::new(node(name, &["known"]).0.unwrap())));
        let keep = |object: Node| Some(object);
        writer.take(Init, keep, always);
        writer.take(InitApply(undecodable("a")), keep, always);
        writer.take(InitApply(node("b", &["new"])), keep, always);
        writer.take(InitApply(undecodable("c")), keep, always);
        writer.take(InitDone, keep, always);
        let kept: Vec<Node> = mirror.all().iter().map(|node| (**node).clone()).collect();
        assert_eq!(kept, [node("a", &["known"]).0.unwrap(), node("b", &["new"]).0.unwrap()]);
    }
}
