//! Waiting for states of API objects, by watching them.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use futures::StreamExt as _;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Kinds that can be waited for.
pub trait Watched: Resource + Clone + DeserializeOwned + Serialize + Debug + Send + Sync + 'static {}
impl<K> Watched for K where K: Resource + Clone + DeserializeOwned + Serialize + Debug + Send + Sync + 'static {}

/// Watches all objects of `api` until `check` returns a value, and returns that.
///
/// # Panics
///
/// `check` returned None for `limit`; the message shows the last state of the objects.
pub async fn until_all<K, T>(
    api: &Api<K>,
    what: &str,
    limit: Duration,
    mut check: impl FnMut(&[K]) -> Option<T>,
) -> T
where
    K: Watched,
    K::DynamicType: Default + Eq + Hash + Clone,
{
    let (store, writer): (Store<K>, _) = reflector::store();
    let stream = watcher(api.clone(), watcher::Config::default()).default_backoff().reflect(writer);
    let mut stream = std::pin::pin!(stream);
    let waiting = async {
        while let Some(event) = stream.next().await {
            let incomplete = matches!(event, Ok(watcher::Event::Init | watcher::Event::InitApply(_)));
            if event.is_err() || incomplete {
                continue;
            }
            let objects: Vec<K> = store.state().iter().map(|object| K::clone(object)).collect();
            if let Some(value) = check(&objects) {
                return value;
            }
        }
        unreachable!("a watcher never ends")
    };
    let Ok(value) = tokio::time::timeout(limit, waiting).await else {
        let objects: Vec<_> = store.state().iter().map(|o| serde_json::to_string(&**o).unwrap()).collect();
        panic!("waited {limit:?} until {what}; current state:\n{}", objects.join("\n"))
    };
    value
}

/// Watches the object `name` until `check` returns a value, and returns that. `check` gets `None` if it does
/// not exist.
///
/// # Panics
///
/// As [`until_all`].
pub async fn until<K, T>(
    api: &Api<K>,
    name: &str,
    what: &str,
    limit: Duration,
    mut check: impl FnMut(Option<&K>) -> Option<T>,
) -> T
where
    K: Watched,
    K::DynamicType: Default + Eq + Hash + Clone,
{
    until_all(api, &format!("{name}: {what}"), limit, |objects| {
        check(objects.iter().find(|object| object.meta().name.as_deref() == Some(name)))
    })
    .await
}

/// Polls `check` every 20 ms until it returns a value: for states that cannot be watched.
///
/// # Panics
///
/// `check` returned None for `limit`.
pub fn poll<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
