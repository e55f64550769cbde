//! Waiting for what the API says, by watching it.

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

/// Watches all objects of `api` until `answer` makes something of them, and returns that.
///
/// # Panics
///
/// `answer` said None for `limit`; the message shows the objects as they were last.
pub async fn until_all<K, T>(
    api: &Api<K>,
    what: &str,
    limit: Duration,
    mut answer: impl FnMut(&[K]) -> Option<T>,
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
            let begun = matches!(event, Ok(watcher::Event::Init | watcher::Event::InitApply(_)));
            if event.is_err() || begun {
                continue;
            }
            let objects: Vec<K> = store.state().iter().map(|object| K::clone(object)).collect();
            if let Some(answer) = answer(&objects) {
                return answer;
            }
        }
        unreachable!("a watcher never ends")
    };
    let Ok(answer) = tokio::time::timeout(limit, waiting).await else {
        let objects: Vec<_> = store.state().iter().map(|o| serde_json::to_string(&**o).unwrap()).collect();
        panic!("waited {limit:?} in vain until {what}; now:\n{}", objects.join("\n"))
    };
    answer
}

/// Watches the object `name` until `answer` makes something of it (`None`: it does not exist), and returns that.
///
/// # Panics
///
/// As [`until_all`].
pub async fn until<K, T>(
    api: &Api<K>,
    name: &str,
    what: &str,
    limit: Duration,
    mut answer: impl FnMut(Option<&K>) -> Option<T>,
) -> T
where
    K: Watched,
    K::DynamicType: Default + Eq + Hash + Clone,
{
    until_all(api, &format!("{name}: {what}"), limit, |objects| {
        answer(objects.iter().find(|object| object.meta().name.as_deref() == Some(name)))
    })
    .await
}

/// Asks every 20 ms until `answer` says something: for what no API can be watched for.
///
/// # Panics
///
/// `answer` said None for `limit`.
pub fn poll<T>(what: &str, limit: Duration, mut answer: impl FnMut() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
