//! What the controller watches.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crds::annotations::LINKS;
use crds::names::LABEL_NODE_NAME;
use crds::{AddressConflict, AddressConflictSpec, ConfigurationState};
use ipam::Occupant;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
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
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::config_stores::{ConfigStores, Starter};
use crate::dirty::Dirty;
use crate::list::{PAGE, catch_up};
use crate::statuses::STATE;

/// A machine that uses an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) occupant: Occupant,
    /// Which machine that is, and what follows.
    pub(crate) text: String,
}

impl Conflict {
    /// What a speaker reports.
    pub(crate) fn of(spec: &AddressConflictSpec) -> Self {
        let AddressConflictSpec { address, mac, node, interface, announced, .. } = spec;
        if spec.held_by_node {
            let on = if interface.is_empty() { String::new() } else { format!(" (on {interface}, {mac})") };
            let text = format!("{address} is an address of node {node}{on}, and no other node announces it");
            return Self { occupant: Occupant::Node(node.clone()), text };
        }
        let what = if *announced { "announced all the same" } else { "not announced until that ends" };
        let text = format!(
            "{address} is used by the machine with {mac}, seen by node {node} on {interface}, and {what}"
        );
        Self { occupant: Occupant::ForeignHost, text }
    }
}

/// A node's own addresses, as its status has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeAddresses {
    pub(crate) node: String,
    pub(crate) addresses: Vec<IpAddr>,
}

impl NodeAddresses {
    pub(crate) fn of(node: Node) -> Option<Self> {
        let listed = node.status?.addresses?;
        let addresses: Vec<IpAddr> = listed
            .into_iter()
            .filter(|address| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"))
            .filter_map(|address| address.address.parse::<IpAddr>().ok())
            .map(|ip| ip.to_canonical())
            .collect();
        Some(Self { node: node.metadata.name?, addresses }).filter(|facts| !facts.addresses.is_empty())
    }
}

/// The address of a pool or Service that a speaker reports as a node's own.
fn held_address(spec: &AddressConflictSpec) -> Option<NodeAddresses> {
    let address = spec.address.parse().ok().filter(|_| spec.held_by_node)?;
    Some(NodeAddresses { node: spec.node.clone(), addresses: vec![address] })
}

/// A link of a node, as its speaker tells of it.
#[derive(Deserialize)]
struct LinkEntry {
    #[serde(default)]
    subnets: Vec<String>,
}

/// The addresses on the links of the node that `state` is about. One with the longest prefix is no node's own: load
/// balancers and kube-proxy's IPVS put the addresses of Services on links like that.
fn link_addresses(state: &ConfigurationState) -> Option<NodeAddresses> {
    let node = state.labels().get(LABEL_NODE_NAME)?.clone();
    let links: Vec<LinkEntry> = serde_json::from_str(state.annotations().get(LINKS)?).ok()?;
    let own = |subnet: &String| {
        let (ip, length) = subnet.split_once('/')?;
        let (ip, length): (IpAddr, u8) = (ip.parse().ok()?, length.parse().ok()?);
        (length < if ip.is_ipv4() { 32 } else { 128 }).then_some(ip.to_canonical())
    };
    let addresses = links.iter().flat_map(|link| &link.subnets).filter_map(own).collect();
    Some(NodeAddresses { node, addresses })
}

/// Stores of everything that the controller reads, and the marks of what changed in them.
#[derive(Clone)]
pub(crate) struct Watches {
    pub(crate) namespace: String,
    pub(crate) dirty: Dirty,
    pub(crate) services: Store<Service>,
    configuration: ConfigStores,
    conflicts: Store<AddressConflict>,
    states: Store<ConfigurationState>,
    namespaces: Store<Namespace>,
    nodes: Cache<NodeAddresses>,
    /// How the watches do.
    status: WatchStatus,
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
        // The Services of a large cluster are too many to decode many at a time.
        let pages = config().page_size(PAGE);
        let services = reflect(tasks, Api::all(client.clone()), pages, shutdown.clone(), move |change| {
            mark.service(&change);
        });
        let mark = dirty.clone();
        let namespaces = reflect(tasks, Api::all(client.clone()), config(), shutdown.clone(), move |_| {
            mark.configuration();
        });
        let mark = dirty.clone();
        let nodes = watch_projected(
            tasks,
            Api::all(client.clone()),
            config().page_size(PAGE),
            shutdown.clone(),
            NodeAddresses::of,
            |_, _| true,
            move || mark.configuration(),
        );
        let mut starter = Starter { tasks, client, namespace, shutdown, dirty: &dirty };
        Self {
            namespace: namespace.to_owned(),
            services,
            configuration: ConfigStores::start(&mut starter),
            conflicts: starter.start(),
            states: starter.start(),
            namespaces,
            nodes,
            status: starter.tasks.watches().clone(),
            dirty,
        }
    }

    /// Waits until the stores of all that assignment goes by have their first lists.
    pub(crate) async fn ready(&self) {
        // An error means that the watch's task ended, which ends the process.
        let _ = wait_synced(&self.services).await;
        let _ = wait_synced(&self.configuration.pools).await;
        let _ = wait_synced(&self.configuration.pool_policies).await;
        let _ = wait_synced(&self.conflicts).await;
        let _ = wait_synced(&self.namespaces).await;
    }

    /// Waits until the stores of the other kinds have theirs too. Whatever is wrong with one of them, addresses are
    /// assigned.
    pub(crate) async fn complete(&self) {
        self.configuration.wait_synced().await;
        let _ = wait_synced(&self.states).await;
    }

    /// Waits until the addresses of the nodes are known.
    pub(crate) async fn nodes_ready(&self) {
        let _ = self.nodes.wait_synced().await;
    }

    /// Waits until the stores of all that assignment goes by have what the API has now.
    pub(crate) async fn catch_up(&self, client: &Client) -> Result<(), CallError> {
        let namespace = Some(self.namespace.as_str());
        catch_up(&self.configuration.pools, client, namespace).await?;
        catch_up(&self.configuration.pool_policies, client, namespace).await?;
        catch_up(&self.conflicts, client, namespace).await?;
        catch_up(&self.namespaces, client, None).await
    }

    /// The objects to judge.
    pub(crate) fn objects(&self) -> Objects {
        Objects {
            namespaces: self.namespaces.state(),
            node_addresses: self.node_addresses(),
            ..self.configuration.objects()
        }
    }

    /// The UID of an object of the configuration or of our `ConfigurationState`.
    pub(crate) fn uid(&self, kind: &str, name: &str) -> Option<String> {
        let object = || self.states.find(|state| state.name_any() == name)?.uid();
        if kind == "ConfigurationState" { object() } else { self.configuration.uid(kind, name) }
    }

    /// The nodes' own addresses, by what the nodes say, else by what their speakers say.
    fn node_addresses(&self) -> BTreeMap<IpAddr, String> {
        let conflicts = self.conflicts.state();
        let held = conflicts.iter().filter_map(|conflict| held_address(&conflict.spec));
        let of_links = self.states.state();
        let of_links = of_links.iter().filter_map(|state| link_addresses(state));
        let of_nodes = self.nodes.all();
        let all = held.chain(of_links).chain(of_nodes.iter().map(|node| (**node).clone()));
        all.flat_map(|NodeAddresses { node, addresses }| {
            addresses.into_iter().map(move |ip| (ip, node.clone()))
        })
        .collect()
    }

    /// Addresses that machines use, and which those are.
    pub(crate) fn conflicts(&self) -> BTreeMap<IpAddr, Conflict> {
        let own = |(ip, node): (IpAddr, String)| {
            let text =
                format!("{ip} is the own address of node {node}, at which other machines reach that node");
            (ip, Conflict { occupant: Occupant::Node(node), text })
        };
        let reported = self.conflicts.state();
        let reported = |held: bool| {
            let specs = reported.iter().map(|conflict| &conflict.spec);
            let specs = specs.filter(move |spec| spec.held_by_node == held);
            specs.filter_map(|spec| Some((spec.address.parse().ok()?, Conflict::of(spec))))
        };
        reported(false).chain(self.node_addresses().into_iter().map(own)).chain(reported(true)).collect()
    }

    /// How the watches do: which objects cannot be decoded, and changes of that.
    pub(crate) fn status(&self) -> &WatchStatus {
        &self.status
    }

    /// The pools that cannot be decoded, by name.
    pub(crate) fn undecodable_pools(&self) -> BTreeSet<String> {
        self.status.undecodable_of("IPAddressPool")
    }

    /// Our `ConfigurationState`.
    pub(crate) fn state(&self) -> Option<Arc<ConfigurationState>> {
        self.states.find(|state| state.metadata.name.as_deref() == Some(STATE))
    }
}

#[cfg(test)]
pub(crate) mod by_hand {
    //! Stores that a test fills.

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
        /// With these nodes: name and address.
        pub(crate) fn with_nodes(self, nodes: &[(&str, &str)]) -> Self {
            let facts = nodes.iter().map(|(node, ip)| NodeAddresses {
                node: (*node).to_owned(),
                addresses: vec![ip.parse().unwrap()],
            });
            Self { nodes: Cache::fixed(facts.collect()), ..self }
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
            dirty: Dirty::default(),
            services,
            configuration: ConfigStores { pools, pool_policies, ..ConfigStores::unfilled() },
            conflicts,
            states,
            namespaces,
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
