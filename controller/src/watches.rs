//! What the controller watches.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crds::{
    AddressConflict, AddressConflictSpec, BFDProfile, BGPAdvertisement, BGPPeer, Community,
    ConfigurationState, IPAddressPool, L2Advertisement, PoolPolicy,
};
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::api::Api;
use kube::core::NamespaceResourceScope;
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use rules::Objects;
use runtime::client::CallError;
use runtime::reflect::{ready, reflect};
use runtime::tasks::Tasks;
use tokio_util::sync::CancellationToken;

use crate::dirty::Dirty;
use crate::list::catch_up;
use crate::statuses::STATE;

/// Stores of everything that the controller reads, and the marks of what changed in them.
#[derive(Clone)]
pub(crate) struct Watches {
    pub(crate) namespace: String,
    pub(crate) dirty: Dirty,
    pub(crate) services: Store<Service>,
    pools: Store<IPAddressPool>,
    l2_advertisements: Store<L2Advertisement>,
    bgp_advertisements: Store<BGPAdvertisement>,
    bgp_peers: Store<BGPPeer>,
    bfd_profiles: Store<BFDProfile>,
    communities: Store<Community>,
    pool_policies: Store<PoolPolicy>,
    conflicts: Store<AddressConflict>,
    states: Store<ConfigurationState>,
    namespaces: Store<Namespace>,
}

/// Starts watches of one namespace whose every event marks the configuration.
struct Starter<'a> {
    tasks: &'a mut Tasks,
    client: &'a Client,
    namespace: &'a str,
    shutdown: &'a CancellationToken,
    dirty: &'a Dirty,
}

impl Starter<'_> {
    fn start<K>(&mut self) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + serde::de::DeserializeOwned
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let mark = self.dirty.clone();
        let api = Api::namespaced(self.client.clone(), self.namespace);
        reflect(self.tasks, api, watcher::Config::default(), self.shutdown.clone(), move |_| {
            mark.configuration();
        })
    }
}

impl Watches {
    pub(crate) fn start(
        tasks: &mut Tasks,
        client: &Client,
        namespace: &str,
        shutdown: &CancellationToken,
    ) -> Self {
        let dirty = Dirty::default();
        let config = watcher::Config::default;
        let mark = dirty.clone();
        let services = reflect(tasks, Api::all(client.clone()), config(), shutdown.clone(), move |change| {
            mark.service(&change);
        });
        let mark = dirty.clone();
        let namespaces = reflect(tasks, Api::all(client.clone()), config(), shutdown.clone(), move |_| {
            mark.configuration();
        });
        let mut starter = Starter { tasks, client, namespace, shutdown, dirty: &dirty };
        Self {
            namespace: namespace.to_owned(),
            services,
            pools: starter.start(),
            l2_advertisements: starter.start(),
            bgp_advertisements: starter.start(),
            bgp_peers: starter.start(),
            bfd_profiles: starter.start(),
            communities: starter.start(),
            pool_policies: starter.start(),
            conflicts: starter.start(),
            states: starter.start(),
            namespaces,
            dirty,
        }
    }

    /// Waits until every store has its first list.
    pub(crate) async fn ready(&self) {
        // An error means that the watch's task ended, which ends the process.
        let _ = ready(&self.services).await;
        let _ = ready(&self.pools).await;
        let _ = ready(&self.l2_advertisements).await;
        let _ = ready(&self.bgp_advertisements).await;
        let _ = ready(&self.bgp_peers).await;
        let _ = ready(&self.bfd_profiles).await;
        let _ = ready(&self.communities).await;
        let _ = ready(&self.pool_policies).await;
        let _ = ready(&self.conflicts).await;
        let _ = ready(&self.states).await;
        let _ = ready(&self.namespaces).await;
    }

    /// Waits until the stores of all that assignment goes by have what the API has now.
    pub(crate) async fn catch_up(&self, client: &Client) -> Result<(), CallError> {
        catch_up(&self.pools, &self.api(client)).await?;
        catch_up(&self.pool_policies, &self.api(client)).await?;
        catch_up(&self.conflicts, &self.api(client)).await?;
        catch_up(&self.namespaces, &Api::all(client.clone())).await
    }

    fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(client.clone(), &self.namespace)
    }

    /// The objects to judge.
    pub(crate) fn objects(&self) -> Objects {
        Objects {
            pools: self.pools.state(),
            l2_advertisements: self.l2_advertisements.state(),
            bgp_advertisements: self.bgp_advertisements.state(),
            bgp_peers: self.bgp_peers.state(),
            bfd_profiles: self.bfd_profiles.state(),
            communities: self.communities.state(),
            pool_policies: self.pool_policies.state(),
            namespaces: self.namespaces.state(),
        }
    }

    /// The UID of an object of the configuration.
    pub(crate) fn uid(&self, kind: &str, name: &str) -> Option<String> {
        fn of<K: ResourceExt>(objects: &[Arc<K>], name: &str) -> Option<String> {
            objects.iter().find(|object| object.name_any() == name)?.uid()
        }
        match kind {
            "IPAddressPool" => of(&self.pools.state(), name),
            "L2Advertisement" => of(&self.l2_advertisements.state(), name),
            "BGPAdvertisement" => of(&self.bgp_advertisements.state(), name),
            "BGPPeer" => of(&self.bgp_peers.state(), name),
            "BFDProfile" => of(&self.bfd_profiles.state(), name),
            "Community" => of(&self.communities.state(), name),
            "PoolPolicy" => of(&self.pool_policies.state(), name),
            _ => None,
        }
    }

    /// Addresses that other hosts or nodes have, and who that is.
    pub(crate) fn conflicts(&self) -> BTreeMap<IpAddr, String> {
        let told = |conflict: &AddressConflict| {
            let AddressConflictSpec { address, mac, node, interface, announced, .. } = &conflict.spec;
            if conflict.spec.held_by_node {
                let on =
                    if interface.is_empty() { String::new() } else { format!(" (on {interface}, {mac})") };
                let held =
                    format!("{address} is an address of node {node}{on}, and no other node announces it");
                return Some((address.parse().ok()?, held));
            }
            let what = if *announced { "announced all the same" } else { "not announced until that ends" };
            let stranger = format!(
                "{address} is used by the machine with {mac}, seen by node {node} on {interface}, and {what}"
            );
            Some((address.parse().ok()?, stranger))
        };
        self.conflicts.state().iter().filter_map(|conflict| told(conflict)).collect()
    }

    /// Our `ConfigurationState`.
    pub(crate) fn state(&self) -> Option<Arc<ConfigurationState>> {
        self.states.find(|state| state.metadata.name.as_deref() == Some(STATE))
    }
}

#[cfg(test)]
pub(crate) mod by_hand {
    //! Stores that a test fills.

    use kube::runtime::reflector::store;
    use kube::runtime::reflector::store::Writer;

    use super::*;

    pub(crate) struct Writers {
        pub(crate) services: Writer<Service>,
        pub(crate) pools: Writer<IPAddressPool>,
        pub(crate) pool_policies: Writer<PoolPolicy>,
        pub(crate) namespaces: Writer<Namespace>,
    }

    pub(crate) fn watches(namespace: &str) -> (Watches, Writers) {
        let (services, of_services) = store();
        let (pools, of_pools) = store();
        let (pool_policies, of_pool_policies) = store();
        let (namespaces, of_namespaces) = store();
        let watches = Watches {
            namespace: namespace.to_owned(),
            dirty: Dirty::default(),
            services,
            pools,
            l2_advertisements: store().0,
            bgp_advertisements: store().0,
            bgp_peers: store().0,
            bfd_profiles: store().0,
            communities: store().0,
            pool_policies,
            conflicts: store().0,
            states: store().0,
            namespaces,
        };
        let writers = Writers {
            services: of_services,
            pools: of_pools,
            pool_policies: of_pool_policies,
            namespaces: of_namespaces,
        };
        (watches, writers)
    }
}
