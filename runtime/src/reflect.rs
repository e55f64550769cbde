//! Watches into stores.
//!
//! [`reflect`] is how a process here reads objects of the API at length: a watch that is kept up with backoff, a store
//! that mirrors it, and a call for each event so that the owner of derived state can look again. Stores are caches: read
//! them, never wait for them to hold one's own write. Who acts on a small part of each object keeps only that
//! ([`extract`](crate::extract)).
//!
//! Objects come without managed fields and without the annotation in which `kubectl apply` keeps a copy of the
//! object: no process reads those, and they are the larger half of most objects.

use std::fmt::Debug;
use std::time::Duration;

use backon::ExponentialBuilder;
use futures::{Stream, StreamExt as _};
use kube::api::Api;
use kube::runtime::reflector::{self, Store};
use kube::runtime::utils::{Backoff, ResetTimerBackoff};
use kube::runtime::watcher::{self, Event, ExponentialBackoff};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;

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
/// Await [`ready`] before relying on what it holds. Errors of the watch are logged and retried
/// after a [`backoff`]; they never end the task.
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
    tasks.spawn("watch", async move {
        let mut events = std::pin::pin!(events(api, config, shutdown));
        while let Some(event) = events.next().await {
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

/// The events of a watch until `shutdown`. Its errors are logged, and it is tried again after a [`backoff`].
pub(crate) fn events<K>(
    api: Api<K>,
    config: watcher::Config,
    shutdown: CancellationToken,
) -> impl Stream<Item = Event<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let kind = K::kind(&());
    let events = watch(api, config).backoff(backoff()).modify(trim);
    events.take_until(shutdown.cancelled_owned()).filter_map(move |event| {
        let event = event.inspect_err(|error| tracing::warn!(%kind, %error, "watch failed, trying again"));
        std::future::ready(event.ok())
    })
}

/// How long a watch that failed waits before it is tried again: 0.5 s, doubling to 5 s, each up to twice as long by
/// chance. After an API server was away, this is for how long nobody notices that it is back; the default of
/// client-go and kube goes up to 60 s.
pub fn backoff() -> impl Backoff {
    let delays = ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(500))
        .with_max_delay(Duration::from_secs(5))
        .with_factor(2.0)
        .with_jitter()
        .without_max_times();
    ResetTimerBackoff::new(ExponentialBackoff::from(delays), Duration::from_secs(30))
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

fn trim<K: Resource>(object: &mut K) {
    object.managed_fields_mut().clear();
    object.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;

    use super::*;

    #[test]
    fn a_server_that_is_back_is_noticed_within_ten_seconds_however_long_it_was_away() {
        let delays: Vec<_> = backoff().take(1000).collect();
        assert_eq!(delays.len(), 1000, "a watch is never given up");
        assert!(delays.iter().all(|delay| *delay <= Duration::from_secs(10)), "{delays:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_who_waits_for_a_store_hears_of_its_first_list() {
        let (store, mut writer) = reflector::store::<Service>();
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move { ready(&store).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitDone);
        for waiter in waiters {
            let heard = tokio::time::timeout(Duration::from_secs(1), waiter).await;
            assert_eq!(heard.unwrap().unwrap(), Ok(()));
        }
    }
}
