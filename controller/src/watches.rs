//! The watches of the controller, and the stores that they fill.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crds::{AddressConflict, ConfigurationState};
use ipam::Occupant;
use k8s_openapi::api::core::v1::{Namespace, ObjectReference, Service};
use kube::api::Api;
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use rules::Objects;
use runtime::cache::{Cache, watch_projected};
use runtime::client::CallError;
use runtime::reflect::{reflect, wait_synced};
use runtime::tasks::Tasks;
use runtime::watch_status::WatchStatus;
use tokio_util::sync::CancellationToken;

use crate::api::object_reference;
use crate::config_stores::{ConfigStores, WatchStarter};
use crate::conflict::{Conflict, NodeAddresses, held_address, interface_addresses, link_addresses};
use crate::list::{PAGE, catch_up};
use crate::statuses::STATE_NAME;
use crate::work_queue::WorkQueue;

/// The stores of all objects that the controller reads, and the queue of their changes.
#[derive(Clone)]
pub(crate) struct Watches {
    pub(crate) namespace: String,
    pub(crate) work_queue: WorkQueue,
    pub(crate) services: Store<Service>,
    configuration: ConfigStores,
    conflicts: Store<AddressConflict>,
    states: Store<ConfigurationState>,
    /// The addresses on the interfaces of nodes, as their speakers report them.
    interfaces: Cache<NodeAddresses>,
    namespaces: Store<Namespace>,
    nodes: Cache<NodeAddresses>,
    /// The health of the watches.
    status: WatchStatus,
}

impl Watches {
    pub(crate) fn start(
        tasks: &mut Tasks,
        client: &Client,
        namespace: &str,
        shutdown: &CancellationToken,
    ) -> Self {
        let work_queue = WorkQueue::default();
        let config = watcher::Config::default;
        let queue = work_queue.clone();
        // Small pages limit the memory for decoding in a cluster with many Services.
        let pages = config().page_size(PAGE);
        let services = reflect(tasks, Api::all(client.clone()), pages, shutdown.clone(), move |change| {
            queue.add_service(&change);
        });
        let queue = work_queue.clone();
        let namespaces = reflect(tasks, Api::all(client.clone()), config(), shutdown.clone(), move |_| {
            queue.add_configuration();
        });
        let queue = work_queue.clone();
        let nodes = watch_projected(
            tasks,
            Api::all(client.clone()),
            config().page_size(PAGE),
            shutdown.clone(),
            NodeAddresses::from_node,
            |_, _| true,
            move || queue.add_configuration(),
        );
        let queue = work_queue.clone();
        let interfaces = watch_projected(
            tasks,
            Api::namespaced(client.clone(), namespace),
            config().page_size(PAGE),
            shutdown.clone(),
            interface_addresses,
            |_, _| true,
            move || queue.add_configuration(),
        );
        let mut starter = WatchStarter { tasks, client, namespace, shutdown, work_queue: &work_queue };
        Self {
            namespace: namespace.to_owned(),
            services,
            configuration: ConfigStores::start(&mut starter),
            conflicts: starter.start(),
            states: starter.start(),
            interfaces,
            namespaces,
            nodes,
            status: starter.tasks.watches().clone(),
            work_queue,
        }
    }

    /// Waits until the stores that assignment depends on have their first lists.
    pub(crate) async fn synced(&self) {
        // An error means that the task of the watch ended, which ends the process.
        let _ = wait_synced(&self.services).await;
        let _ = wait_synced(&self.configuration.pools).await;
        let _ = wait_synced(&self.configuration.pool_policies).await;
        let _ = wait_synced(&self.conflicts).await;
        let _ = wait_synced(&self.namespaces).await;
    }

    /// Waits until the stores of the other kinds have their first lists. Addresses are assigned without them.
    pub(crate) async fn optional_synced(&self) {
        self.configuration.wait_synced().await;
        let _ = wait_synced(&self.states).await;
        let _ = self.interfaces.wait_synced().await;
    }

    /// Waits until the addresses of the nodes are known.
    pub(crate) async fn nodes_synced(&self) {
        let _ = self.nodes.wait_synced().await;
    }

    /// Waits until the stores that assignment depends on have the present objects of the API.
    pub(crate) async fn catch_up(&self, client: &Client) -> Result<(), CallError> {
        let namespace = Some(self.namespace.as_str());
        catch_up(&self.configuration.pools, client, namespace).await?;
        catch_up(&self.configuration.pool_policies, client, namespace).await?;
        catch_up(&self.conflicts, client, namespace).await?;
        catch_up(&self.namespaces, client, None).await
    }

    /// The objects of the configuration.
    pub(crate) fn objects(&self) -> Objects {
        Objects {
            namespaces: self.namespaces.state(),
            node_addresses: self.node_addresses(),
            ..self.configuration.objects()
        }
    }

    /// The UID of a configuration object or of our `ConfigurationState`.
    pub(crate) fn uid(&self, kind: &str, name: &str) -> Option<String> {
        let object = || self.states.find(|state| state.name_any() == name)?.uid();
        if kind == "ConfigurationState" { object() } else { self.configuration.uid(kind, name) }
    }

    /// A reference to an object with a status of ours, in the namespace of the configuration.
    pub(crate) fn status_object(&self, kind: &str, name: &str) -> ObjectReference {
        object_reference(kind, Some(&self.namespace), name, self.uid(kind, name))
    }

    /// The addresses of the nodes, from the statuses of the nodes, else from the reports of their speakers.
    fn node_addresses(&self) -> BTreeMap<IpAddr, String> {
        let conflicts = self.conflicts.state();
        let held = conflicts.iter().filter_map(|conflict| held_address(&conflict.spec));
        let of_links = self.states.state();
        let of_links = of_links.iter().filter_map(|state| link_addresses(state));
        let (of_interfaces, of_nodes) = (self.interfaces.all(), self.nodes.all());
        let reported = of_interfaces.iter().chain(&of_nodes).map(|node| (**node).clone());
        let all = held.chain(of_links).chain(reported);
        all.flat_map(|NodeAddresses { node, addresses }| {
            addresses.into_iter().map(move |ip| (ip, node.clone()))
        })
        .collect()
    }

    /// The addresses that machines use, with the machine.
    pub(crate) fn conflicts(&self) -> BTreeMap<IpAddr, Conflict> {
        let own = |(ip, node): (IpAddr, String)| {
            let message =
                format!("{ip} is an address of node {node} itself, at which other machines reach that node");
            (ip, Conflict { occupant: Occupant::Node(node), message })
        };
        let reported = self.conflicts.state();
        let reported = |held: bool| {
            let specs = reported.iter().map(|conflict| &conflict.spec);
            let specs = specs.filter(move |spec| spec.held_by_node == held);
            specs.filter_map(|spec| Some((spec.address.parse().ok()?, Conflict::from_spec(spec))))
        };
        reported(false).chain(self.node_addresses().into_iter().map(own)).chain(reported(true)).collect()
    }

    /// The health of the watches, including the objects that cannot be decoded.
    pub(crate) fn status(&self) -> &WatchStatus {
        &self.status
    }

    /// The pools that cannot be decoded, by name.
    pub(crate) fn undecodable_pools(&self) -> BTreeSet<String> {
        self.status.undecodable_of("IPAddressPool")
    }

    /// Our `ConfigurationState`.
    pub(crate) fn state(&self) -> Option<Arc<ConfigurationState>> {
        self.states.find(|state| state.metadata.name.as_deref() == Some(STATE_NAME))
    }
}

#[cfg(test)]
pub(crate) mod test_stores {
    //! Stores that tests fill.

    use crds::{IPAddressPool, PoolPolicy};
    use kube::runtime::reflector::store;
    use kube::runtime::reflector::store::Writer;

    use super::*;

    pub(crate) struct Writers {
        pub(crate) services: Writer<Service>,
        pub(crate) pools: Writer<IPAddressPool>,
        pub(crate) pool_policies: Writer<PoolPolicy>,
        pub(crate) namespaces: Writer<Namespace>,
        pub(crate) conflicts: Writer<AddressConflict>,
        pub(crate) states: Writer<ConfigurationState>,
    }

    impl Watches {
        /// The same watches with these nodes (name and address).
        pub(crate) fn with_nodes(self, nodes: &[(&str, &str)]) -> Self {
            let nodes = nodes.iter().map(|(node, ip)| NodeAddresses {
                node: (*node).to_owned(),
                addresses: vec![ip.parse().unwrap()],
            });
            Self { nodes: Cache::fixed(nodes.collect()), ..self }
        }

        /// With what these `SpeakerState`s report.
        pub(crate) fn with_speaker_states(self, states: Vec<crds::SpeakerState>) -> Self {
            let interfaces = states.into_iter().filter_map(interface_addresses).collect();
            Self { interfaces: Cache::fixed(interfaces), ..self }
        }
    }

    pub(crate) fn watches(namespace: &str) -> (Watches, Writers) {
        let (services, of_services) = store();
        let (pools, of_pools) = store();
        let (pool_policies, of_pool_policies) = store();
        let (namespaces, of_namespaces) = store();
        let (conflicts, of_conflicts) = store();
        let (states, of_states) = store();
        let watches = Watches {
            namespace: namespace.to_owned(),
            work_queue: WorkQueue::default(),
            services,
            configuration: ConfigStores { pools, pool_policies, ..ConfigStores::unfilled() },
            conflicts,
            states,
            namespaces,
            interfaces: Cache::fixed(Vec::new()),
            nodes: Cache::fixed(Vec::new()),
            status: WatchStatus::default(),
        };
        let writers = Writers {
            services: of_services,
            pools: of_pools,
            pool_policies: of_pool_policies,
            namespaces: of_namespaces,
            conflicts: of_conflicts,
            states: of_states,
        };
        (watches, writers)
    }
}
