//! Watches into stores.
//!
//! [`reflect`] is how a process here reads objects of the API at length: a watch that is kept up with backoff, a store
//! that mirrors it, and a call for each event so that the owner of derived state can look again. Stores are caches: read
//! them, never wait for them to hold one's own write. Who acts on a small part of each object keeps only that
//! ([`extract`](crate::extract)).
//!
//! Each object is decoded alone, without what no process reads ([`decode`](crate::decode)).

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

use crate::decode::{Lenient, lenient, reference};
use crate::tasks::Tasks;
use crate::watch_status::{Observer, WatchStatus};

/// What a store was just told.
#[derive(Debug)]
pub enum Change<'a, K> {
    /// The object is new or changed.
    Applied(&'a K),
    /// The object is gone; this was its last state.
    Deleted(&'a K),
    /// The store was filled anew: at start, and after a watch was lost. Anything may have changed.
    Replaced,
}

/// Watches `api` into a store by a task of `tasks`, and calls `changed` after each event has reached the store.
///
/// Await [`ready`] before relying on what it holds. Errors of the watch are reported ([`Tasks::watches`]) and retried
/// after a [`backoff`]; they never end the task. An object that cannot be decoded is reported, and stays in the store
/// as it was before.
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
    let known = store.clone();
    tasks.spawn("watch", async move {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            let Some(event) = decoded(event, &known, &()) else { continue };
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

/// What a [`mirror`] has heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A list is in the store: at start, and after a watch was lost. Anything may have changed.
    Listed,
    /// One object has changed, or is gone.
    Changed,
    /// The kind is not defined, so nothing can be listed. It is asked for again.
    Undefined,
}

/// As [`reflect`], but of a kind that only a value says, and with the objects as the API has them, managed fields included.
///
/// Returns the store, and what keeps it up until `shutdown`.
pub fn mirror(
    status: &WatchStatus,
    api: &Api<DynamicObject>,
    resource: ApiResource,
    config: watcher::Config,
    shutdown: CancellationToken,
    mut heard: impl FnMut(Heard) + Send + 'static,
) -> (Store<DynamicObject>, impl Future<Output = ()> + Send + 'static) {
    let mut writer = Writer::new(resource.clone());
    let store = writer.as_reader();
    let attempts = attempts::<DynamicObject, true>(status, api, &resource, config, shutdown);
    let known = store.clone();
    let keep_up = async move {
        // The items of a list do not say what they are.
        let types = TypeMeta { api_version: resource.api_version.clone(), kind: resource.kind.clone() };
        let mut attempts = std::pin::pin!(attempts);
        while let Some(attempt) = attempts.next().await {
            let event = match attempt {
                Ok(event) => decoded(event, &known, &resource),
                Err(error) => {
                    if is_undefined(&error) {
                        heard(Heard::Undefined);
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
                Event::InitDone => heard(Heard::Listed),
                Event::Apply(_) | Event::Delete(_) => heard(Heard::Changed),
                Event::Init | Event::InitApply(_) => {}
            }
        }
    };
    (store, keep_up)
}

/// Whether a list failed because the kind is not defined.
fn is_undefined(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}

/// The event as it concerns `store`: what cannot be decoded stays as it is known. None: it concerns nothing.
fn decoded<K, const WHOLE: bool>(
    event: Event<Lenient<K, WHOLE>>,
    store: &Store<K>,
    dynamic: &K::DynamicType,
) -> Option<Event<K>>
where
    K: Resource + Clone + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    let known = |metadata: &ObjectMeta| {
        let known = store.get(&reference(metadata, dynamic.clone()));
        known.map(|object| (*object).clone())
    };
    Some(match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::Apply(Lenient(Ok(object))) => Event::Apply(object),
        Event::Apply(Lenient(Err(_))) => return None,
        Event::InitApply(Lenient(Ok(object))) => Event::InitApply(object),
        Event::InitApply(Lenient(Err(undecoded))) => Event::InitApply(known(&undecoded.metadata)?),
        Event::Delete(Lenient(Ok(object))) => Event::Delete(object),
        Event::Delete(Lenient(Err(undecoded))) => Event::Delete(known(&undecoded.metadata)?),
    })
}

/// The events of a watch until `shutdown`. Its errors are reported, and it is tried again after a [`backoff`].
pub(crate) fn events<K>(
    status: &WatchStatus,
    api: Api<K>,
    config: watcher::Config,
    shutdown: CancellationToken,
) -> impl Stream<Item = Event<Lenient<K>>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let attempts = attempts::<K, false>(status, &api, &(), config, shutdown);
    attempts.filter_map(|event| std::future::ready(event.ok()))
}

/// The events of a watch until `shutdown`, and its errors, both of them reported; it is tried again after a [`backoff`].
fn attempts<K, const WHOLE: bool>(
    status: &WatchStatus,
    api: &Api<K>,
    dynamic: &K::DynamicType,
    config: watcher::Config,
    shutdown: CancellationToken,
) -> impl Stream<Item = Result<Event<Lenient<K, WHOLE>>, watcher::Error>> + Send + use<K, WHOLE>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut observer = status.add(&K::kind(dynamic));
    let api = lenient::<K, WHOLE>(api, dynamic, observed(api.clone().into_client(), observer.clone()));
    let events = watch(api, config).backoff(backoff()).take_until(shutdown.cancelled_owned());
    events.inspect(move |event| match event {
        Ok(event) => observer.saw(event),
        Err(error) => observer.failed(error),
    })
}

/// `client`, with `observer` hearing of each request that the API server answers as it should.
fn observed(client: Client, observer: Observer) -> Client {
    let namespace = client.default_namespace().to_owned();
    let send = move |request: Request<Body>| {
        let (client, observer) = (client.clone(), observer.clone());
        async move {
            let response = client.send(request).await?;
            if response.status().is_success() {
                observer.answered();
            }
            Ok::<_, kube::Error>(response)
        }
    };
    Client::new(tower::service_fn(send), namespace)
}

/// How long a watch that failed waits before it is tried again, at most. After an API server was away, this is for how
/// long nobody notices that it is back; the default of client-go and kube goes up to 60 s.
const LONGEST_BACKOFF: Duration = Duration::from_secs(6);
/// A watch that worked for so long begins anew.
const STABLE: Duration = Duration::from_secs(30);

/// How long a watch that failed waits before it is tried again: 0.5 s, doubling to 4 s, each up to half as long again by
/// chance. What the failed attempt took counts, so that a server that does not answer is not away for longer than one
/// that refuses.
///
/// What the stream takes for a success does not shorten it: kube's watcher begins each attempt to list with one.
pub fn backoff() -> impl Backoff {
    Pace { next: SHORTEST_BACKOFF, attempt: None }
}

const SHORTEST_BACKOFF: Duration = Duration::from_millis(500);

struct Pace {
    /// The next pause, without chance.
    next: Duration,
    /// When the attempt under way began.
    attempt: Option<Instant>,
}

impl Iterator for Pace {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let took = self.attempt.map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun));
        if took >= STABLE {
            self.next = SHORTEST_BACKOFF;
        }
        let period = self.next + self.next.mul_f64(chance() / 2.0);
        self.next = (self.next * 2).min(LONGEST_BACKOFF * 2 / 3);
        let pause = period.saturating_sub(took).max(SHORTEST_BACKOFF);
        self.attempt = Some(now + pause);
        Some(pause)
    }
}

impl Backoff for Pace {
    fn reset(&mut self) {}
}

/// At least 0, less than 1.
fn chance() -> f64 {
    // The standard library's hasher is seeded by the system's random numbers.
    let bits = u32::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or_default();
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

/// The watch behind a store has ended before its first list was in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a watch has ended before its first list was in")]
pub struct Ended;

/// Waits until the first list of `store` is in.
///
/// Of several that wait for one store, [`Store::wait_until_ready`] of kube 5.0 wakes only the one that asked last
/// (its `DelayedInit` keeps one waker), so each looks again now and then.
///
/// # Errors
///
/// [`Ended`].
pub async fn ready<K>(store: &Store<K>) -> Result<(), Ended>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    const LOOK_AGAIN: Duration = Duration::from_millis(20);
    loop {
        if let Ok(ready) = tokio::time::timeout(LOOK_AGAIN, store.wait_until_ready()).await {
            return ready.map_err(|_| Ended);
        }
    }
}

#[cfg(test)]
mod tests;
