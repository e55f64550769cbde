//! Watches of the stack and all of its objects, and their caches.
//!
//! Objects are cached as stored, managed fields included, since drift detection depends on field ownership.
//! That is why [`runtime::reflect::reflect_dynamic`] is used: [`runtime::reflect::reflect`] drops managed fields.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crds::names::{BEACON_KEY_SECRET, LABEL_IMPORTED_FROM, STACK};
use crds::{ConfigurationState, LegacyAddressPool, SpeakerState, SpeakerStateStatus};
use futures::future::join_all;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DynamicObject};
use kube::core::ApiResource;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use render::legacy::{ANNOTATION_CONFIG_MAP, CONFIG_MAP};
use render::status::SpeakerConditions;
use render::{Key, Kind};
use runtime::cache::watch_projected;
use runtime::reflect::StoreEvent;
use runtime::tasks::Tasks;
use runtime::watch_status::WatchStatus;
use tokio::sync::{Notify, watch as channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::stack::stack_resource;

/// How long a reconciliation waits for the initial list of a watch that it has just started.
const INITIAL_LIST_WAIT: Duration = Duration::from_secs(1);
/// How long a new leader waits for all initial lists: longer than the backoff of a failed watch. A kind that
/// cannot be listed must not block the others forever.
pub(crate) const INITIAL_LISTS_LIMIT: Duration = Duration::from_secs(15);

/// The cache of one watch.
struct Cache {
    resource: ApiResource,
    store: Store<DynamicObject>,
    initial_list: channel::Receiver<InitialList>,
}

/// The progress of the initial list of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InitialList {
    /// The list is not complete, so absent objects may exist.
    Pending,
    /// The kind is not defined, so it has no objects. The list is retried.
    Undefined,
    /// The list is complete.
    Complete,
}

/// The caches of all watches.
pub(crate) struct Caches {
    stacks: Cache,
    owned: BTreeMap<Kind, Cache>,
    address_pools: Cache,
    configuration_states: Cache,
    speaker_states: runtime::cache::Cache<NamespacedConditions>,
    config_map: Option<SingleObjectWatch>,
    namespace: Option<SingleObjectWatch>,
    watches: WatchStatus,
    client: Client,
    shutdown: CancellationToken,
    changed: Arc<Notify>,
}

/// The watch of the one ConfigMap or namespace that a stack names.
struct SingleObjectWatch {
    /// The namespace of the object; none if it is a namespace itself.
    namespace: Option<String>,
    name: String,
    cache: Cache,
    stop: CancellationToken,
}

/// What the operator keeps of a `SpeakerState`. The rest changes more often, and is of no interest to it.
#[derive(PartialEq)]
struct NamespacedConditions {
    namespace: String,
    speaker: SpeakerConditions,
}

impl NamespacedConditions {
    fn from_state(state: SpeakerState) -> Option<Self> {
        let namespace = state.metadata.namespace?;
        let SpeakerStateStatus { node, conditions, .. } = state.status?;
        Some(Self { namespace, speaker: SpeakerConditions { node, conditions } })
    }
}

impl Caches {
    /// Starts all watches; `changed` is notified of each event.
    pub(crate) fn start(
        tasks: &mut Tasks,
        client: &Client,
        shutdown: &CancellationToken,
        changed: &Arc<Notify>,
    ) -> Self {
        let mut start = |resource: ApiResource, config: watcher::Config| {
            let api = Api::all_with(client.clone(), &resource);
            let (cache, update) =
                start_cache(tasks.watches(), &api, resource, config, shutdown.clone(), Arc::clone(changed));
            tasks.spawn("watch", async move {
                update.await;
                Ok::<(), Infallible>(())
            });
            cache
        };
        let stacks = start(stack_resource(), watcher::Config::default());
        let kinds = Kind::ALL.iter().filter(|kind| **kind != Kind::Namespace);
        let owned = kinds.map(|&kind| (kind, start(kind.api_resource(), config(kind)))).collect();
        let address_pools = start(ApiResource::erase::<LegacyAddressPool>(&()), watcher::Config::default());
        let configuration_states =
            start(ApiResource::erase::<ConfigurationState>(&()), watcher::Config::default());
        let notify = Arc::clone(changed);
        let speaker_states = watch_projected(
            tasks,
            Api::all(client.clone()),
            watcher::Config::default(),
            shutdown.clone(),
            NamespacedConditions::from_state,
            |_, _| true,
            move || notify.notify_one(),
        );
        let (client, shutdown, changed) = (client.clone(), shutdown.clone(), Arc::clone(changed));
        let watches = tasks.watches().clone();
        Self {
            stacks,
            owned,
            address_pools,
            configuration_states,
            speaker_states,
            config_map: None,
            namespace: None,
            watches,
            client,
            shutdown,
            changed,
        }
    }

    /// All `AddressPool`s in `namespace`.
    pub(crate) fn address_pools(&self, namespace: &str) -> Vec<Arc<DynamicObject>> {
        in_namespace(&self.address_pools, namespace)
    }

    /// Whether the initial list of `AddressPool`s is complete.
    pub(crate) fn address_pools_synced(&self) -> bool {
        self.address_pools.is_complete()
    }

    /// All `ConfigurationState`s in `namespace`.
    pub(crate) fn configuration_states(&self, namespace: &str) -> Vec<Arc<DynamicObject>> {
        in_namespace(&self.configuration_states, namespace)
    }

    /// The conditions that the speakers in `namespace` report.
    pub(crate) fn speaker_conditions(&self, namespace: &str) -> Vec<SpeakerConditions> {
        let states = self.speaker_states.all();
        let states = states.iter().filter(|state| state.namespace == namespace);
        states.map(|state| state.speaker.clone()).collect()
    }

    /// Those of `sources` from which cached objects were imported. While a kind has not been listed, all
    /// sources count.
    pub(crate) fn imported_sources(&self, sources: &[&'static str]) -> BTreeSet<&'static str> {
        let is_from = |object: &DynamicObject, source: &str| {
            object.labels().get(LABEL_IMPORTED_FROM).is_some_and(|from| from == source)
        };
        let has = |source: &str| {
            self.owned.iter().filter(|(kind, _)| kind.is_configuration()).any(|(_, cache)| {
                !cache.is_settled() || cache.store.state().iter().any(|object| is_from(object, source))
            })
        };
        sources.iter().copied().filter(|source| has(source)).collect()
    }

    /// The names of the ConfigMaps from which objects were imported; contains an empty string while some are
    /// unknown.
    pub(crate) fn imported_config_maps(&self) -> BTreeSet<String> {
        let configuration = self.owned.iter().filter(|(kind, _)| kind.is_configuration());
        let objects = configuration.flat_map(|(_, cache)| cache.store.state());
        let imported = objects
            .filter(|object| object.labels().get(LABEL_IMPORTED_FROM).is_some_and(|from| from == CONFIG_MAP));
        let name = |object: Arc<DynamicObject>| {
            object.annotations().get(ANNOTATION_CONFIG_MAP).cloned().unwrap_or_default()
        };
        // Objects that have not been listed may have been imported from any ConfigMap.
        let unknown = self.owned.iter().any(|(kind, cache)| kind.is_configuration() && !cache.is_settled());
        imported.map(name).chain(unknown.then(String::new)).collect()
    }

    /// The ConfigMap `name`, if it exists. It is watched from the first call on, which waits for the initial
    /// list.
    pub(crate) async fn config_map(&mut self, namespace: &str, name: &str) -> Option<Arc<DynamicObject>> {
        let resource = ApiResource::erase::<ConfigMap>(&());
        let current = self.config_map.take();
        self.config_map = Some(self.watch_single(current, resource, Some(namespace), name).await);
        in_namespace(&self.config_map.as_ref()?.cache, namespace).first().cloned()
    }

    /// Watches the namespace `name` from the first call on, and waits for the initial list.
    pub(crate) async fn watch_namespace(&mut self, name: &str) {
        let resource = Kind::Namespace.api_resource();
        let current = self.namespace.take();
        self.namespace = Some(self.watch_single(current, resource, None, name).await);
    }

    /// Whether the initial list of the ConfigMap is complete, so that an absent one does not exist.
    pub(crate) fn config_map_synced(&self) -> bool {
        self.config_map.as_ref().is_some_and(|watch| watch.cache.is_complete())
    }

    /// Stops watching the objects that a stack has named.
    pub(crate) fn stop_single_watches(&mut self) {
        for watch in [self.config_map.take(), self.namespace.take()].into_iter().flatten() {
            watch.stop.cancel();
        }
    }

    /// The watch of a single object: `current` if it watches that object, else a new one. A watch that fails
    /// to start is retried; until then the object is absent from the cache.
    async fn watch_single(
        &self,
        current: Option<SingleObjectWatch>,
        resource: ApiResource,
        namespace: Option<&str>,
        name: &str,
    ) -> SingleObjectWatch {
        let same = |watch: &SingleObjectWatch| watch.namespace.as_deref() == namespace && watch.name == name;
        let watch = match current {
            Some(watch) if same(&watch) => watch,
            other => {
                if let Some(other) = other {
                    other.stop.cancel();
                }
                self.start_single_watch(resource, namespace, name)
            }
        };
        let _ = tokio::time::timeout(INITIAL_LIST_WAIT, watch.cache.store.wait_until_ready()).await;
        watch
    }

    fn start_single_watch(
        &self,
        resource: ApiResource,
        namespace: Option<&str>,
        name: &str,
    ) -> SingleObjectWatch {
        let api = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let stop = self.shutdown.child_token();
        let (cache, update) =
            start_cache(&self.watches, &api, resource, config, stop.clone(), Arc::clone(&self.changed));
        tokio::spawn(update);
        SingleObjectWatch { namespace: namespace.map(ToOwned::to_owned), name: name.to_owned(), cache, stop }
    }

    /// The stack, if it exists. None while the initial list is not complete.
    pub(crate) fn stack(&self) -> Option<Arc<DynamicObject>> {
        self.stacks.store.get(&ObjectRef::new_with(STACK, self.stacks.resource.clone()))
    }

    /// Whether the initial list of stacks is complete.
    pub(crate) fn stacks_synced(&self) -> bool {
        self.stacks.is_complete()
    }

    /// Waits for all initial lists until `deadline`. Until they are complete, an object that is not cached
    /// may exist.
    pub(crate) async fn wait_initial_lists(&self, deadline: Instant) {
        let caches =
            self.owned.values().chain([&self.stacks, &self.address_pools, &self.configuration_states]);
        let _ = tokio::time::timeout_at(deadline, join_all(caches.map(Cache::wait_initial_list))).await;
    }

    /// Completes once this process is able to lead: stacks have been listed, and all other objects too if
    /// they can be.
    pub(crate) fn wait_synced(&self) -> impl Future<Output = ()> + Send + 'static {
        let stacks = self.stacks.initial_list.clone();
        let others = self.owned.values().chain([&self.address_pools, &self.configuration_states]);
        let others: Vec<_> = others.map(|cache| wait_settled(cache.initial_list.clone())).collect();
        async move {
            wait_settled(stacks).await;
            let _ = tokio::time::timeout(INITIAL_LISTS_LIMIT, join_all(others)).await;
        }
    }

    /// The cached object. An absent one may not exist, may lack the operator's label, or may not have been
    /// received yet.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<DynamicObject>> {
        let namespace = || self.namespace.as_ref().map(|watch| &watch.cache);
        let cache = if key.kind == Kind::Namespace { namespace() } else { self.owned.get(&key.kind) };
        let cache = cache?;
        let mut reference = ObjectRef::new_with(&key.name, cache.resource.clone());
        if let Some(namespace) = &key.namespace {
            reference = reference.within(namespace);
        }
        cache.store.get(&reference)
    }

    /// All cached objects of the stack with the UID `owner`.
    pub(crate) fn owned_by(&self, owner: &str) -> Vec<(Key, Arc<DynamicObject>)> {
        let mut found = Vec::new();
        for (&kind, cache) in &self.owned {
            for object in cache.store.state() {
                if object.owner_references().iter().any(|reference| reference.uid == owner) {
                    let key = Key { kind, namespace: object.namespace(), name: object.name_any() };
                    found.push((key, object));
                }
            }
        }
        found
    }
}

/// The selector for a kind: objects that the operator created, as far as a selector can express that.
fn config(kind: Kind) -> watcher::Config {
    match kind {
        // The only Secret that the operator may read.
        Kind::Secret => watcher::Config::default().fields(&format!("metadata.name={BEACON_KEY_SECRET}")),
        _ => watcher::Config::default().labels(&render::selector()),
    }
}

impl Cache {
    /// Whether the initial list is complete.
    fn is_complete(&self) -> bool {
        *self.initial_list.borrow() == InitialList::Complete
    }

    /// Whether the initial list is complete, or the kind is not defined.
    fn is_settled(&self) -> bool {
        *self.initial_list.borrow() != InitialList::Pending
    }

    /// Waits until the initial list is complete, or the kind is not defined.
    async fn wait_initial_list(&self) {
        wait_settled(self.initial_list.clone()).await;
    }
}

/// Waits until the initial list is complete, or the kind is not defined.
async fn wait_settled(mut initial_list: channel::Receiver<InitialList>) {
    // A watch that has ended (shutdown) sends no more updates.
    let _ = initial_list.wait_for(|list| *list != InitialList::Pending).await;
}

fn in_namespace(cache: &Cache, namespace: &str) -> Vec<Arc<DynamicObject>> {
    cache.store.state_filter(|object: &DynamicObject| object.namespace().as_deref() == Some(namespace))
}

/// A cache, and the future that keeps it up to date.
fn start_cache(
    status: &WatchStatus,
    api: &Api<DynamicObject>,
    resource: ApiResource,
    config: watcher::Config,
    stop: CancellationToken,
    changed: Arc<Notify>,
) -> (Cache, impl Future<Output = ()> + Send + 'static) {
    let (progress, initial_list) = channel::channel(InitialList::Pending);
    let on_event = move |event| match event {
        StoreEvent::Synced => {
            progress.send_replace(InitialList::Complete);
            changed.notify_one();
        }
        StoreEvent::Changed => changed.notify_one(),
        StoreEvent::Undefined => {
            let set_undefined = |list: &mut InitialList| {
                let is_pending = *list == InitialList::Pending;
                if is_pending {
                    *list = InitialList::Undefined;
                }
                is_pending
            };
            progress.send_if_modified(set_undefined);
        }
    };
    let (store, update) =
        runtime::reflect::reflect_dynamic(status, api, resource.clone(), config, stop, on_event);
    (Cache { resource, store, initial_list }, update)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use kube::runtime::reflector::store::Writer;

    use super::*;

    #[test]
    fn the_initial_list_is_waited_for_unless_the_kind_is_not_defined() {
        for (list, known, filled) in [
            (InitialList::Pending, false, false),
            (InitialList::Undefined, true, false),
            (InitialList::Complete, true, true),
        ] {
            let resource = Kind::DaemonSet.api_resource();
            let (progress, initial_list) = channel::channel(InitialList::Pending);
            let cache = Cache { store: Writer::new(resource.clone()).as_reader(), resource, initial_list };
            let mut wait = Box::pin(cache.wait_initial_list());
            assert_eq!(wait.as_mut().now_or_never(), None);
            progress.send_replace(list);
            assert_eq!(wait.now_or_never().is_some(), known, "{list:?}");
            assert_eq!(cache.is_complete(), filled, "{list:?}");
        }
    }
}
