//! Mirrors of the stack and of every object of it.
//!
//! Objects are kept as the API has them, managed fields included: who owns which field is what repair goes by.
//! That is why this is [`runtime::reflect::reflect_dynamic`]: [`runtime::reflect::reflect`] drops them.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crds::names::{BEACON_KEY_SECRET, LABEL_IMPORTED_FROM, STACK};
use crds::{ConfigurationState, LegacyAddressPool};
use futures::future::join_all;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DynamicObject};
use kube::core::ApiResource;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use render::legacy::{ANNOTATION_CONFIG_MAP, CONFIG_MAP};
use render::{Key, Kind};
use runtime::reflect::StoreEvent;
use runtime::tasks::Tasks;
use runtime::watch_status::WatchStatus;
use tokio::sync::{Notify, watch as channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::stack::stack_resource;

/// How long a look waits for the first list of a mirror that it has just asked for.
const FIRST_LIST: Duration = Duration::from_secs(1);
/// How long a new leader waits for all first lists: longer than a watch that failed rests. A kind that cannot be listed
/// must not hold up the others for ever.
pub(crate) const FIRST_LISTS: Duration = Duration::from_secs(15);

/// One mirrored kind.
struct Cache {
    resource: ApiResource,
    store: Store<DynamicObject>,
    first_list: channel::Receiver<FirstList>,
}

/// How far the first list of a mirror is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FirstList {
    /// Nothing is known of the kind.
    Awaited,
    /// The kind is not defined, so there are no objects of it. It is asked for again.
    Undefined,
    /// It is in.
    In,
}

/// All that is mirrored.
pub(crate) struct Caches {
    stacks: Cache,
    owned: BTreeMap<Kind, Cache>,
    address_pools: Cache,
    states: Cache,
    config_map: Option<Followed>,
    namespace: Option<Followed>,
    watches: WatchStatus,
    client: Client,
    shutdown: CancellationToken,
    changed: Arc<Notify>,
}

/// The one ConfigMap or namespace that a stack names, mirrored while it does.
struct Followed {
    /// Where it is; none if it is a namespace itself.
    namespace: Option<String>,
    name: String,
    cache: Cache,
    stop: CancellationToken,
}

/// What a mirror says about an object.
pub(crate) enum Seen {
    /// It is there.
    There(Arc<DynamicObject>),
    /// It is not in the mirror: it may not exist, or not carry our labels, or not have arrived yet.
    NotThere,
}

impl Caches {
    /// Starts every watch; `changed` is notified of each event.
    pub(crate) fn start(
        tasks: &mut Tasks,
        client: &Client,
        shutdown: &CancellationToken,
        changed: &Arc<Notify>,
    ) -> Self {
        let mut start = |resource: ApiResource, config: watcher::Config| {
            let api = Api::all_with(client.clone(), &resource);
            let (cache, mirror) =
                mirror(tasks.watches(), &api, resource, config, shutdown.clone(), Arc::clone(changed));
            tasks.spawn("watch", async move {
                mirror.await;
                Ok::<(), Infallible>(())
            });
            cache
        };
        let stacks = start(stack_resource(), watcher::Config::default());
        let kinds = Kind::ALL.iter().filter(|kind| **kind != Kind::Namespace);
        let owned = kinds.map(|&kind| (kind, start(kind.api_resource(), config(kind)))).collect();
        let address_pools = start(ApiResource::erase::<LegacyAddressPool>(&()), watcher::Config::default());
        let states = start(ApiResource::erase::<ConfigurationState>(&()), watcher::Config::default());
        let (client, shutdown, changed) = (client.clone(), shutdown.clone(), Arc::clone(changed));
        let watches = tasks.watches().clone();
        Self {
            stacks,
            owned,
            address_pools,
            states,
            config_map: None,
            namespace: None,
            watches,
            client,
            shutdown,
            changed,
        }
    }

    /// Every `AddressPool` in `namespace`.
    pub(crate) fn address_pools(&self, namespace: &str) -> Vec<Arc<DynamicObject>> {
        within(&self.address_pools, namespace)
    }

    /// Whether the first list of `AddressPool`s is in.
    pub(crate) fn knows_address_pools(&self) -> bool {
        self.address_pools.is_filled()
    }

    /// Every `ConfigurationState` in `namespace`.
    pub(crate) fn states(&self, namespace: &str) -> Vec<Arc<DynamicObject>> {
        within(&self.states, namespace)
    }

    /// From which of the older kinds of configuration there are objects that were imported. One of which that is not
    /// known yet counts.
    pub(crate) fn imported(&self, sources: &[&'static str]) -> BTreeSet<&'static str> {
        let is_from = |object: &DynamicObject, source: &str| {
            object.labels().get(LABEL_IMPORTED_FROM).is_some_and(|from| from == source)
        };
        let has = |source: &str| {
            self.owned.iter().filter(|(kind, _)| kind.is_configuration()).any(|(_, cache)| {
                !cache.is_known() || cache.store.state().iter().any(|object| is_from(object, source))
            })
        };
        sources.iter().copied().filter(|source| has(source)).collect()
    }

    /// The names of the ConfigMaps from which objects were imported; an empty one where that is not known.
    pub(crate) fn imported_config_maps(&self) -> BTreeSet<String> {
        let configuration = self.owned.iter().filter(|(kind, _)| kind.is_configuration());
        let objects = configuration.flat_map(|(_, cache)| cache.store.state());
        let imported = objects
            .filter(|object| object.labels().get(LABEL_IMPORTED_FROM).is_some_and(|from| from == CONFIG_MAP));
        let name = |object: Arc<DynamicObject>| {
            object.annotations().get(ANNOTATION_CONFIG_MAP).cloned().unwrap_or_default()
        };
        // Of what is not mirrored yet it is not known.
        let unknown = self.owned.iter().any(|(kind, cache)| kind.is_configuration() && !cache.is_known());
        imported.map(name).chain(unknown.then(String::new)).collect()
    }

    /// The ConfigMap `name`, mirrored from the first call on; waits for the mirror to be filled. None: there is none.
    pub(crate) async fn config_map(&mut self, namespace: &str, name: &str) -> Option<Arc<DynamicObject>> {
        let resource = ApiResource::erase::<ConfigMap>(&());
        let before = self.config_map.take();
        self.config_map = Some(self.follow(before, resource, Some(namespace), name).await);
        within(&self.config_map.as_ref()?.cache, namespace).first().cloned()
    }

    /// Mirrors the namespace `name` from the first call on; waits for the mirror to be filled.
    pub(crate) async fn follow_namespace(&mut self, name: &str) {
        let resource = Kind::Namespace.api_resource();
        let before = self.namespace.take();
        self.namespace = Some(self.follow(before, resource, None, name).await);
    }

    /// Whether the mirror of the ConfigMap is filled: whether "none" means that there is none.
    pub(crate) fn knows_config_map(&self) -> bool {
        self.config_map.as_ref().is_some_and(|followed| followed.cache.is_filled())
    }

    /// Stops mirroring what a stack has named.
    pub(crate) fn forget_followed(&mut self) {
        for followed in [self.config_map.take(), self.namespace.take()].into_iter().flatten() {
            followed.stop.cancel();
        }
    }

    /// What mirrors the one object: `before`, if it does. A watch that cannot be had yet is tried again; meanwhile nothing
    /// is known of the object.
    async fn follow(
        &self,
        before: Option<Followed>,
        resource: ApiResource,
        namespace: Option<&str>,
        name: &str,
    ) -> Followed {
        let same = |followed: &Followed| followed.namespace.as_deref() == namespace && followed.name == name;
        let followed = match before {
            Some(followed) if same(&followed) => followed,
            other => {
                if let Some(other) = other {
                    other.stop.cancel();
                }
                self.begin_to_follow(resource, namespace, name)
            }
        };
        let _ = tokio::time::timeout(FIRST_LIST, followed.cache.store.wait_until_ready()).await;
        followed
    }

    fn begin_to_follow(&self, resource: ApiResource, namespace: Option<&str>, name: &str) -> Followed {
        let api = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let stop = self.shutdown.child_token();
        let (cache, mirror) =
            mirror(&self.watches, &api, resource, config, stop.clone(), Arc::clone(&self.changed));
        tokio::spawn(mirror);
        Followed { namespace: namespace.map(ToOwned::to_owned), name: name.to_owned(), cache, stop }
    }

    /// The stack, if there is one. None as long as the first list is not in.
    pub(crate) fn stack(&self) -> Option<Arc<DynamicObject>> {
        self.stacks.store.get(&ObjectRef::new_with(STACK, self.stacks.resource.clone()))
    }

    /// Whether the first list of stacks is in.
    pub(crate) fn knows_stacks(&self) -> bool {
        self.stacks.is_filled()
    }

    /// Waits for every first list, but not beyond `deadline`. Before, what is not in a mirror may exist all the same.
    pub(crate) async fn first_lists(&self, deadline: Instant) {
        let mirrors = self.owned.values().chain([&self.stacks, &self.address_pools, &self.states]);
        let _ = tokio::time::timeout_at(deadline, join_all(mirrors.map(Cache::first_list))).await;
    }

    /// Completes once this process is able to lead: it knows which stacks there are, and, if they can be listed, all
    /// other objects too.
    pub(crate) fn ready(&self) -> impl Future<Output = ()> + Send + 'static {
        let stacks = self.stacks.first_list.clone();
        let others = self.owned.values().chain([&self.address_pools, &self.states]);
        let others: Vec<_> = others.map(|cache| known(cache.first_list.clone())).collect();
        async move {
            known(stacks).await;
            let _ = tokio::time::timeout(FIRST_LISTS, join_all(others)).await;
        }
    }

    /// What the mirror has of `key`.
    pub(crate) fn get(&self, key: &Key) -> Seen {
        let namespace = || self.namespace.as_ref().map(|followed| &followed.cache);
        let cache = if key.kind == Kind::Namespace { namespace() } else { self.owned.get(&key.kind) };
        let Some(cache) = cache else { return Seen::NotThere };
        let mut reference = ObjectRef::new_with(&key.name, cache.resource.clone());
        if let Some(namespace) = &key.namespace {
            reference = reference.within(namespace);
        }
        cache.store.get(&reference).map_or(Seen::NotThere, Seen::There)
    }

    /// Every mirrored object of the stack with the UID `owner`.
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

/// What to watch of a kind: what the operator made, as far as a selector can say so.
fn config(kind: Kind) -> watcher::Config {
    match kind {
        // The only Secret that the operator may read.
        Kind::Secret => watcher::Config::default().fields(&format!("metadata.name={BEACON_KEY_SECRET}")),
        _ => watcher::Config::default().labels(&render::selector()),
    }
}

impl Cache {
    /// Whether the first list is in.
    fn is_filled(&self) -> bool {
        *self.first_list.borrow() == FirstList::In
    }

    /// Whether the first list is in, or known to be empty.
    fn is_known(&self) -> bool {
        *self.first_list.borrow() != FirstList::Awaited
    }

    /// Waits until the first list is in, or known to be empty.
    async fn first_list(&self) {
        known(self.first_list.clone()).await;
    }
}

/// Waits until the first list is in, or known to be empty.
async fn known(mut first_list: channel::Receiver<FirstList>) {
    // A watch that has ended (shutdown) will not tell more.
    let _ = first_list.wait_for(|list| *list != FirstList::Awaited).await;
}

fn within(cache: &Cache, namespace: &str) -> Vec<Arc<DynamicObject>> {
    cache.store.state_filter(|object: &DynamicObject| object.namespace().as_deref() == Some(namespace))
}

/// A mirror, and what keeps it up.
fn mirror(
    status: &WatchStatus,
    api: &Api<DynamicObject>,
    resource: ApiResource,
    config: watcher::Config,
    stop: CancellationToken,
    changed: Arc<Notify>,
) -> (Cache, impl Future<Output = ()> + Send + 'static) {
    let (progress, first_list) = channel::channel(FirstList::Awaited);
    let heard = move |heard| match heard {
        StoreEvent::Synced => {
            progress.send_replace(FirstList::In);
            changed.notify_one();
        }
        StoreEvent::Changed => changed.notify_one(),
        StoreEvent::Undefined => {
            let awaited = |list: &mut FirstList| {
                let first = *list == FirstList::Awaited;
                if first {
                    *list = FirstList::Undefined;
                }
                first
            };
            progress.send_if_modified(awaited);
        }
    };
    let (store, keep_up) =
        runtime::reflect::reflect_dynamic(status, api, resource.clone(), config, stop, heard);
    (Cache { resource, store, first_list }, keep_up)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use kube::runtime::reflector::store::Writer;

    use super::*;

    #[test]
    fn a_first_list_is_waited_for_unless_the_kind_is_not_defined() {
        for (list, known, filled) in [
            (FirstList::Awaited, false, false),
            (FirstList::Undefined, true, false),
            (FirstList::In, true, true),
        ] {
            let resource = Kind::DaemonSet.api_resource();
            let (progress, first_list) = channel::channel(FirstList::Awaited);
            let cache = Cache { store: Writer::new(resource.clone()).as_reader(), resource, first_list };
            let mut wait = Box::pin(cache.first_list());
            assert_eq!(wait.as_mut().now_or_never(), None);
            progress.send_replace(list);
            assert_eq!(wait.now_or_never().is_some(), known, "{list:?}");
            assert_eq!(cache.is_filled(), filled, "{list:?}");
        }
    }
}
