//! What the controller watches.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crds::annotations::LINKS;
use crds::names::LABEL_NODE_NAME;
use crds::{
    AddressConflict, AddressConflictSpec, BFDProfile, BGPAdvertisement, BGPPeer, Community,
    ConfigurationState, IPAddressPool, L2Advertisement, PoolPolicy,
};
use ipam::Occupant;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use kube::api::Api;
use kube::core::NamespaceResourceScope;
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use rules::Objects;
use runtime::cache::{Cache, watch_projected};
use runtime::client::CallError;
use runtime::reflect::{reflect, wait_synced};
use runtime::tasks::Tasks;
use runtime::watch_status::WatchStatus;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

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
    nodes: Cache<NodeAddresses>,
    /// How the watches do.
    status: WatchStatus,
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
            nodes,
            status: starter.tasks.watches().clone(),
            dirty,
        }
    }

    /// Waits until the stores of all that assignment goes by have their first lists.
    pub(crate) async fn ready(&self) {
        // An error means that the watch's task ended, which ends the process.
        let _ = wait_synced(&self.services).await;
        let _ = wait_synced(&self.pools).await;
        let _ = wait_synced(&self.pool_policies).await;
        let _ = wait_synced(&self.conflicts).await;
        let _ = wait_synced(&self.namespaces).await;
    }

    /// Waits until the stores of the other kinds have theirs too. Whatever is wrong with one of them, addresses are
    /// assigned.
    pub(crate) async fn complete(&self) {
        let _ = wait_synced(&self.l2_advertisements).await;
        let _ = wait_synced(&self.bgp_advertisements).await;
        let _ = wait_synced(&self.bgp_peers).await;
        let _ = wait_synced(&self.bfd_profiles).await;
        let _ = wait_synced(&self.communities).await;
        let _ = wait_synced(&self.states).await;
    }

    /// Waits until the addresses of the nodes are known.
    pub(crate) async fn nodes_ready(&self) {
        let _ = self.nodes.wait_synced().await;
    }

    /// Waits until the stores of all that assignment goes by have what the API has now.
    pub(crate) async fn catch_up(&self, client: &Client) -> Result<(), CallError> {
        let namespace = Some(self.namespace.as_str());
        catch_up(&self.pools, client, namespace).await?;
        catch_up(&self.pool_policies, client, namespace).await?;
        catch_up(&self.conflicts, client, namespace).await?;
        catch_up(&self.namespaces, client, None).await
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
            node_addresses: self.node_addresses(),
        }
    }

    /// The UID of an object of the configuration or of our `ConfigurationState`.
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
            "ConfigurationState" => of(&self.states.state(), name),
            _ => None,
        }
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
            pools,
            l2_advertisements: store().0,
            bgp_advertisements: store().0,
            bgp_peers: store().0,
            bfd_profiles: store().0,
            communities: store().0,
            pool_policies,
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
