//! The content of the API, and the views that nodes build from it.

use super::super::super::*;
use super::super::world::{mac, name};
use crate::EthernetAddress;
use crate::cluster::ServiceKey;
use crate::cluster::link::{Link, LinkInfo};
use crate::cluster::objects::{
    AnnouncementInfo, ClusterObjects, EndpointSliceInfo, NodeInfo, ServiceInfo, SpeakerPodInfo,
};
use rules::{Configuration, LastValid};

#[derive(Clone, Debug)]
pub(super) enum Change {
    /// The addresses of a Service, or none if it is deleted.
    Service(u8, Option<Vec<IpAddr>>),
    /// The pod of a speaker: ready or not, or deleted.
    Pod(usize, Option<bool>),
    /// The node that announces a Service, and its epoch.
    Status(u8, usize, Option<u64>),
    /// The exclude label of a node.
    Excluded(usize, bool),
    /// Whether a node is ready and has a network.
    Usable(usize, bool),
    /// Whether a node's links support IPv6.
    Ipv6(usize, bool),
    /// Whether a link of a node is up.
    Link(usize, &'static str, bool),
    /// Whether a node's links are on the subnet of the pool.
    OnSubnet(usize, bool),
    /// The address of the pool that a node has, if any.
    Holds(usize, Option<IpAddr>),
    /// The address of a speaker in the API, by how often its node has moved.
    Listed(usize, u8),
    /// The interface that the advertisement selects, if any.
    Interface(Option<&'static str>),
    /// The node that the advertisement selects, if any.
    Selected(Option<usize>),
    /// Whether an object has an error.
    Invalid(Object, bool),
}

/// An object of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Object {
    Pool,
    Advertisement,
}

impl Change {
    /// Changes of one kind of object arrive in order, those of different kinds do not.
    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::Service(..) => 0,
            Self::Pod(..) | Self::Listed(..) => 1,
            Self::Status(..) => 2,
            Self::Excluded(..) | Self::Usable(..) => 3,
            Self::Ipv6(..) | Self::Link(..) | Self::OnSubnet(..) | Self::Holds(..) => 4,
            Self::Interface(_) | Self::Selected(_) | Self::Invalid(Object::Advertisement, _) => 5,
            Self::Invalid(Object::Pool, _) => 6,
        }
    }

    /// The node whose links change.
    pub(super) fn of_links(&self) -> Option<usize> {
        match self {
            Self::Ipv6(n, _) | Self::Link(n, ..) | Self::OnSubnet(n, _) | Self::Holds(n, _) => Some(*n),
            _ => None,
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct Api {
    pub(super) services: BTreeMap<u8, Vec<IpAddr>>,
    pub(super) pods: BTreeMap<usize, bool>,
    pub(super) statuses: BTreeMap<(u8, usize), u64>,
    pub(super) excluded: BTreeSet<usize>,
    pub(super) unusable: BTreeSet<usize>,
    links: BTreeMap<usize, NodeLinks>,
    listed: BTreeMap<usize, u8>,
    invalid: BTreeSet<Object>,
    /// How often each object was changed.
    generations: BTreeMap<Object, i64>,
    interface: Option<&'static str>,
    selected: Option<usize>,
}

/// Properties of the links of a node.
#[derive(Clone, Default)]
struct NodeLinks {
    down: BTreeSet<&'static str>,
    without_ipv6: bool,
    off_subnet: bool,
    holds: Option<IpAddr>,
}

/// The address of a node that has moved this often.
pub(super) fn host(node: usize, moved: u8) -> IpAddr {
    IpAddr::V4([192, 168, moved, u8::try_from(node + 1).unwrap()].into())
}

impl Api {
    pub(super) fn apply(&mut self, change: &Change) {
        fn set<T: Ord>(set: &mut BTreeSet<T>, item: T, yes: bool) {
            if yes {
                set.insert(item);
            } else {
                set.remove(&item);
            }
        }
        match change {
            Change::Service(n, Some(addresses)) => drop(self.services.insert(*n, addresses.clone())),
            Change::Service(n, None) => drop(self.services.remove(n)),
            Change::Pod(n, Some(ready)) => drop(self.pods.insert(*n, *ready)),
            Change::Pod(n, None) => drop(self.pods.remove(n)),
            Change::Status(s, n, Some(epoch)) => drop(self.statuses.insert((*s, *n), *epoch)),
            Change::Status(s, n, None) => drop(self.statuses.remove(&(*s, *n))),
            Change::Excluded(n, yes) => set(&mut self.excluded, *n, *yes),
            Change::Usable(n, yes) => set(&mut self.unusable, *n, !yes),
            Change::Ipv6(n, yes) => self.links.entry(*n).or_default().without_ipv6 = !yes,
            Change::Link(n, link, yes) => set(&mut self.links.entry(*n).or_default().down, *link, !yes),
            Change::OnSubnet(n, yes) => self.links.entry(*n).or_default().off_subnet = !yes,
            Change::Holds(n, address) => self.links.entry(*n).or_default().holds = *address,
            Change::Listed(n, moved) => drop(self.listed.insert(*n, *moved)),
            Change::Interface(name) => self.interface = *name,
            Change::Selected(node) => self.selected = *node,
            Change::Invalid(object, yes) => set(&mut self.invalid, *object, *yes),
        }
        let edited = match change {
            Change::Interface(_) | Change::Selected(_) => Some(Object::Advertisement),
            Change::Invalid(object, _) => Some(*object),
            _ => None,
        };
        if let Some(object) = edited {
            *self.generations.entry(object).or_default() += 1;
        }
    }

    /// The links of a node that are up.
    pub(super) fn links(&self, node: usize) -> Vec<Link> {
        let links = self.links.get(&node).cloned().unwrap_or_default();
        let number = u16::try_from(node).unwrap();
        let mut subnets: BTreeSet<(IpAddr, u8)> = BTreeSet::new();
        if links.off_subnet {
            subnets.insert(([10, 9, 9, 1].into(), 24));
        } else {
            subnets.insert(([10, 0, 0, 100 + u8::try_from(node).unwrap()].into(), 24));
            subnets.insert(([0xfd00, 0, 0, 0, 0, 0, 1, number].into(), 64));
        }
        subnets.extend(links.holds.map(|address| (address, if address.is_ipv4() { 32 } else { 128 })));
        let up = [(1, "eth0"), (2, "eth1")].into_iter().filter(|(_, name)| !links.down.contains(name));
        up.map(|(index, name)| Link {
            index,
            name: name.into(),
            mac: EthernetAddress(mac(node)),
            broadcast: true,
            link_local: (!links.without_ipv6).then(|| "fe80::1".parse().unwrap()),
            subnets: subnets.clone(),
            carrier_ups: 0,
        })
        .collect()
    }

    /// Whether a node has the address.
    pub(super) fn holds(&self, node: usize, address: IpAddr) -> bool {
        self.links.get(&node).is_some_and(|links| links.holds == Some(address))
    }

    /// The effective configuration of a process with these last valid versions.
    pub(super) fn configuration(&self, memory: &mut LastValid) -> Configuration {
        let is_invalid = |object| self.invalid.contains(&object);
        let metadata = |object| {
            let generation = self.generations.get(&object).copied().unwrap_or_default();
            serde_json::json!({
                "name": "lan", "namespace": "metallb-system", "uid": "lan", "generation": 1 + generation,
            })
        };
        let broken = is_invalid(Object::Pool).then_some("10.0.0.999");
        let addresses: Vec<&str> = ["10.0.0.0/24", "fd00::/64"].into_iter().chain(broken).collect();
        let pool = serde_json::json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": metadata(Object::Pool),
            "spec": {"addresses": addresses},
        });
        let interfaces: Vec<&str> = self.interface.into_iter().collect();
        let selectors: Vec<_> = self
            .selected
            .iter()
            .map(|node| serde_json::json!({"matchLabels": {"node": name(*node)}}))
            .chain(is_invalid(Object::Advertisement).then(|| {
                serde_json::json!({"matchExpressions": [{"key": "k", "operator": "Near", "values": ["v"]}]})
            }))
            .collect();
        let advertisement = serde_json::json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
            "metadata": metadata(Object::Advertisement),
            "spec": {"interfaces": interfaces, "nodeSelectors": selectors},
        });
        let objects = rules::Objects {
            pools: vec![Arc::new(serde_json::from_value(pool).unwrap())],
            l2_advertisements: vec![Arc::new(serde_json::from_value(advertisement).unwrap())],
            ..rules::Objects::default()
        };
        memory.configure(&objects).0
    }

    /// The summaries on a node with these links.
    pub(super) fn objects(&self, nodes: usize, own_links: &[Link]) -> ClusterObjects {
        let key = |n: &u8| ServiceKey::new("default", format!("s{n}"));
        let service = |(n, addresses): (&u8, &Vec<IpAddr>)| {
            Arc::new(ServiceInfo {
                key: Arc::new(key(n)),
                addresses: addresses.clone().into(),
                labels: Box::default(),
                local: false,
                shared: true,
                pool: None,
                uid: Box::default(),
            })
        };
        let node = |n: usize| {
            let mut labels = BTreeMap::from([("node".to_owned(), name(n).to_string())]);
            if self.excluded.contains(&n) {
                labels.insert(crds::names::LABEL_EXCLUDE_NODE.to_owned(), String::new());
            }
            let usable = !self.unusable.contains(&n);
            Arc::new(NodeInfo {
                name: name(n),
                labels,
                usable,
                lost: false,
                cordoned: false,
                addresses: Box::default(),
            })
        };
        let pod = |(n, ready): (&usize, &bool)| {
            let moved = self.listed.get(n).copied().unwrap_or_default();
            let address = Some(host(*n, moved));
            Arc::new(SpeakerPodInfo { node: name(*n), address, ready: *ready, running: true, generation: 1 })
        };
        let status = |((s, n), epoch): (&(u8, usize), &u64)| {
            Arc::new(AnnouncementInfo {
                name: format!("l2-{s}-{n}").into(),
                service: key(s),
                node: name(*n),
                epoch: *epoch,
                interfaces: None,
            })
        };
        let slice = |n| Arc::new(EndpointSliceInfo { service: key(n), nodes: [name(0)].into() });
        let links = |n| self.links(n).iter().map(LinkInfo::from).collect();
        ClusterObjects {
            states_listed: true,
            services: self
                .services
                .iter()
                .filter(|(_, addresses)| !addresses.is_empty())
                .map(service)
                .collect(),
            slices: self.services.keys().map(slice).collect(),
            nodes: (0..nodes).map(node).collect(),
            pods: self.pods.iter().map(pod).collect(),
            statuses: self.statuses.iter().map(status).collect(),
            links: (0..nodes).map(|n| (name(n), links(n))).collect(),
            own_links: Some(own_links.iter().map(LinkInfo::from).collect()),
            other_addresses: BTreeMap::new(),
        }
    }
}
