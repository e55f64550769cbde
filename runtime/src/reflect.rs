//! Watches into stores.
//!
//! [`reflect`] watches objects of one kind with backoff, mirrors them in a store, and calls back after each
//! event, so that state derived from the objects can be updated. Stores are caches: never wait for one's own
//! write to appear in one. A process that needs only a small part of each object uses
//! [`watch_projected`](crate::cache::watch_projected).
//!
//! Each object is decoded on its own, without the parts that no process reads ([`decode`](crate::decode)).

use std::fmt::Debug;
use std::hash::{BuildHasher as _, Hash, Hasher as _, RandomState};
use std::time::Duration;

use axum::http::Request;
use futures::{Stream, StreamExt as _};
use kube::api::{Api, DynamicObject, ObjectMeta, TypeMeta};
use kube::client::Body;
use kube::core::ApiResource;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::decode::{Lenient, lenient, object_ref};
use crate::tasks::Tasks;
use crate::watch_status::{Observer, WatchStatus};

/// A change of a store.
#[derive(Debug)]
pub enum Change<'a, K> {
    /// The object was created or changed.
    Applied(&'a K),
    /// The object was deleted; this was its last state.
    Deleted(&'a K),
    /// The store was replaced by a list: at start, and after a watch was lost. Anything may have changed.
    Replaced,
}

/// Watches `api` into a store in a task of `tasks`, and calls `changed` after each event was applied to the
/// store.
///
/// Await [`wait_synced`] before relying on its contents. Errors of the watch are reported
/// ([`Tasks::watches`]) and retried after a [`backoff`]; they never end the task. An object that cannot be
/// decoded is reported, and its previous version stays in the store.
pub fn reflect<K>(
    tasks: &mut Tasks,
    api: Api<K>,
    config: watcher::Config,
    shutdown: CancellationToken,
    mut changed: impl FnMut(Change<'_, K>) + Send + 'static,
) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (store, mut writer) = reflector::store::<K>();
    let events = events(tasks.watches(), api, config, shutdown);
    let current = store.clone();
    tasks.spawn("watch", async move {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            let Some(event) = decoded(event, &current, &()) else { continue };
            writer.apply_watcher_event(&event);
            match &event {
                Event::Apply(object) => changed(Change::Applied(object)),
                Event::Delete(object) => changed(Change::Deleted(object)),
                Event::InitDone => changed(Change::Replaced),
                Event::Init | Event::InitApply(_) => {}
            }
        }
        Ok::<(), std::convert::Infallible>(())
    });
    store
}

/// An event of the store of [`reflect_dynamic`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// The store was replaced by a list: at start, and after a watch was lost. Anything may have changed.
    Synced,
    /// One object was created, changed or deleted.
    Changed,
    /// The kind is not defined, so it cannot be listed. The list is retried.
    Undefined,
}

/// Like [`reflect`], for a kind that is known only at run time, and with complete objects, managed fields
/// included.
///
/// Returns the store, and the future that keeps it up to date until `shutdown`.
pub fn reflect_dynamic(
    status: &WatchStatus,
    api: &Api<DynamicObject>,
    resource: ApiResource,
    config: watcher::Config,
    shutdown: CancellationToken,
    mut notify: impl FnMut(StoreEvent) + Send + 'static,
) -> (Store<DynamicObject>, impl Future<Output = ()> + Send + 'static) {
    let mut writer = Writer::new(resource.clone());
    let store = writer.as_reader();
    let results = results::<DynamicObject, true>(status, api, &resource, config, shutdown);
    let current = store.clone();
    let run = async move {
        // Items of a list have no apiVersion and kind.
        let types = TypeMeta { api_version: resource.api_version.clone(), kind: resource.kind.clone() };
        let mut results = std::pin::pin!(results);
        while let Some(result) = results.next().await {
            let event = match result {
                Ok(event) => decoded(event, &current, &resource),
                Err(error) => {
                    if is_undefined(&error) {
                        notify(StoreEvent::Undefined);
                    }
                    continue;
                }
            };
            let Some(event) = event.map(|event| event.modify(|object| object.types = Some(types.clone())))
            else {
                continue;
            };
            writer.apply_watcher_event(&event);
            match event {
                Event::InitDone => notify(StoreEvent::Synced),
                Event::Apply(_) | Event::Delete(_) => notify(StoreEvent::Changed),
                Event::Init | Event::InitApply(_) => {}
            }
        }
    };
    (store, run)
}

/// Whether a list failed because the kind is not defined.
fn is_undefined(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}

/// The event with decoded objects: one that cannot be decoded is replaced by its version in `store`. None if
/// the event changes nothing.
fn decoded<K, const FULL: bool>(
    event: Event<Lenient<K, FULL>>,
    store: &Store<K>,
    dynamic: &K::DynamicType,
) -> Option<Event<K>>
where
    K: Resource + Clone + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    let current = |metadata: &ObjectMeta| {
        let object = store.get(&object_ref(metadata, dynamic.clone()));
        object.map(|object| (*object).clone())
    };
    Some(match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::Apply(Lenient(Ok(object))) => Event::Apply(object),
        Event::Apply(Lenient(Err(_))) => return None,
        Event::InitApply(Lenient(Ok(object))) => Event::InitApply(object),
        Event::InitApply(Lenient(Err(undecoded))) => Event::InitApply(current(&undecoded.metadata)?),
        Event::Delete(Lenient(Ok(object))) => Event::Delete(object),
        Event::Delete(Lenient(Err(undecoded))) => Event::Delete(current(&undecoded.metadata)?),
    })
}

/// The events of a watch until `shutdown`. Its errors are reported, and it is retried after a [`backoff`].
pub(crate) fn events<K>(
    status: &WatchStatus,
    api: Api<K>,
    config: watcher::Config,
    shutdown: CancellationToken,
) -> impl Stream<Item = Event<Lenient<K>>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let results = results::<K, false>(status, &api, &(), config, shutdown);
    results.filter_map(|event| std::future::ready(event.ok()))
}

/// The events and errors of a watch until `shutdown`. Both are reported, and the watch is retried after a
/// [`backoff`].
fn results<K, const FULL: bool>(
    status: &WatchStatus,
    api: &Api<K>,
    dynamic: &K::DynamicType,
    config: watcher::Config,
    shutdown: CancellationToken,
) -> impl Stream<Item = Result<Event<Lenient<K, FULL>>, watcher::Error>> + Send + use<K, FULL>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut observer = status.add(&K::kind(dynamic));
    let api = lenient::<K, FULL>(api, dynamic, observed(api.clone().into_client(), observer.clone()));
    let events = watch(api, config).backoff(backoff()).take_until(shutdown.cancelled_owned());
    events.inspect(move |event| match event {
        Ok(event) => observer.observe(event),
        Err(error) => observer.failed(error),
    })
}

/// `client`, which reports each successful response to `observer`.
fn observed(client: Client, observer: Observer) -> Client {
    let namespace = client.default_namespace().to_owned();
    let send = move |request: Request<Body>| {
        let (client, observer) = (client.clone(), observer.clone());
        async move {
            let response = client.send(request).await?;
            if response.status().is_success() {
                observer.succeeded();
            }
            Ok::<_, kube::Error>(response)
        }
    };
    Client::new(tower::service_fn(send), namespace)
}

/// The longest delay before a failed watch is retried. This is how long it may take to notice that an API
/// server is back; the default of client-go and kube goes up to 60 s.
const MAX_BACKOFF: Duration = Duration::from_secs(6);
/// After a watch that worked for this time, the backoff starts from its minimum again.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// Delays before a failed watch is retried: 0.5 s, doubling to 4 s, each with up to 50 % jitter. The duration
/// of the failed attempt is subtracted, so that the return of a server that does not respond is noticed as
/// soon as that of one that refuses connections.
///
/// A reset by the stream is ignored: kube's watcher starts each attempt to list with an event that counts as
/// a success.
pub fn backoff() -> impl Backoff {
    WatchBackoff { next: MIN_BACKOFF, attempt_started: None }
}

const MIN_BACKOFF: Duration = Duration::from_millis(500);

struct WatchBackoff {
    /// The next delay, without jitter.
    next: Duration,
    /// When the current attempt started.
    attempt_started: Option<Instant>,
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let took = self.attempt_started.map_or(Duration::ZERO, |start| now.saturating_duration_since(start));
        if took >= STABLE_AFTER {
            self.next = MIN_BACKOFF;
        }
        let period = self.next + self.next.mul_f64(random_fraction() / 2.0);
        self.next = (self.next * 2).min(MAX_BACKOFF * 2 / 3);
        let delay = period.saturating_sub(took).max(MIN_BACKOFF);
        self.attempt_started = Some(now + delay);
        Some(delay)
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {}
}

/// A random number, at least 0 and less than 1.
fn random_fraction() -> f64 {
    // The standard library's hasher is seeded by the system's random numbers.
    let bits = u32::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or_default();
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

/// The watch ended before its initial list was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a watch ended before its initial list was complete")]
pub struct WatchEnded;

/// Waits until the initial list of `store` is complete.
///
/// If several tasks wait for one store, [`Store::wait_until_ready`] of kube 5.0 wakes only the last one (its
/// `DelayedInit` keeps one waker), so this polls.
///
/// # Errors
///
/// [`WatchEnded`].
pub async fn wait_synced<K>(store: &Store<K>) -> Result<(), WatchEnded>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    const POLL_INTERVAL: Duration = Duration::from_millis(20);
    loop {
        if let Ok(ready) = tokio::time::timeout(POLL_INTERVAL, store.wait_until_ready()).await {
            return ready.map_err(|_| WatchEnded);
        }
    }
}

#[cfg(test)]
mod tests;
