//! What the API holds, and the views that nodes make of it.

use super::super::super::*;
use super::super::world::{address, mac, name};
use crate::EthernetAddress;
use crate::facts::{Facts, NodeFacts, PodFacts, ServiceFacts, SliceFacts, StatusFacts};
use crate::link::{Link, LinkFacts};
use crate::view::ServiceKey;
use rules::Configuration;

#[derive(Clone, Debug)]
pub(super) enum Change {
    /// The addresses of a Service, or none if it is gone.
    Service(u8, Option<Vec<IpAddr>>),
    /// The pod of a speaker: ready or not, or gone.
    Pod(usize, Option<bool>),
    /// Who announces a Service, and in which epoch.
    Status(u8, usize, Option<u64>),
    /// The exclude label of a node.
    Excluded(usize, bool),
    /// Whether a node is Ready and its network is there.
    Usable(usize, bool),
    /// Whether a node's link speaks IPv6.
    Ipv6(usize, bool),
    /// Which interface the advertisement names, if it does.
    Interface(Option<&'static str>),
    /// Which node the advertisement selects, if it does.
    Selected(Option<usize>),
}

impl Change {
    /// Changes of one kind of object come in their order, those of different kinds do not.
    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::Service(..) => 0,
            Self::Pod(..) => 1,
            Self::Status(..) => 2,
            Self::Excluded(..) | Self::Usable(..) => 3,
            Self::Ipv6(..) => 4,
            Self::Interface(_) | Self::Selected(_) => 5,
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
    pub(super) without_ipv6: BTreeSet<usize>,
    interface: Option<&'static str>,
    selected: Option<usize>,
}

/// The link of a node.
pub(super) fn link(node: usize, ipv6: bool) -> Link {
    Link {
        index: 1,
        name: "eth0".into(),
        mac: EthernetAddress(mac(node)),
        broadcast: true,
        link_local: ipv6.then(|| "fe80::1".parse().unwrap()),
        subnets: BTreeSet::new(),
        carrier_ups: 0,
    }
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
            Change::Ipv6(n, yes) => set(&mut self.without_ipv6, *n, !yes),
            Change::Interface(name) => self.interface = *name,
            Change::Selected(node) => self.selected = *node,
        }
    }

    pub(super) fn configuration(&self) -> Configuration {
        let pool = serde_json::json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": {"name": "lan", "namespace": "metallb-system"},
            "spec": {"addresses": ["10.0.0.0/24", "fd00::/64"]},
        });
        let interfaces: Vec<&str> = self.interface.into_iter().collect();
        let selectors: Vec<_> = self
            .selected
            .iter()
            .map(|node| serde_json::json!({"matchLabels": {"node": name(*node)}}))
            .collect();
        let advertisement = serde_json::json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
            "metadata": {"name": "lan", "namespace": "metallb-system"},
            "spec": {"interfaces": interfaces, "nodeSelectors": selectors},
        });
        let objects = rules::Objects {
            pools: vec![Arc::new(serde_json::from_value(pool).unwrap())],
            l2_advertisements: vec![Arc::new(serde_json::from_value(advertisement).unwrap())],
            ..rules::Objects::default()
        };
        Configuration::from_objects(&objects).0
    }

    pub(super) fn facts(&self, nodes: usize) -> Facts {
        let key = |n: &u8| ServiceKey::new("default", format!("s{n}"));
        let service = |(n, addresses): (&u8, &Vec<IpAddr>)| {
            Arc::new(ServiceFacts {
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
            Arc::new(NodeFacts { name: name(n), labels, usable, cordoned: false, addresses: Box::default() })
        };
        let pod = |(n, ready): (&usize, &bool)| {
            Arc::new(PodFacts { node: name(*n), address: Some(address(*n)), ready: *ready, generation: 1 })
        };
        let status = |((s, n), epoch): (&(u8, usize), &u64)| {
            Arc::new(StatusFacts {
                name: format!("l2-{s}-{n}").into(),
                service: key(s),
                node: name(*n),
                epoch: *epoch,
                interfaces: None,
            })
        };
        let slice = |n| Arc::new(SliceFacts { service: key(n), nodes: [name(0)].into() });
        let links = |n| vec![LinkFacts::from(&link(n, !self.without_ipv6.contains(&n)))];
        Facts {
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
            own_links: None,
            other_addresses: BTreeMap::new(),
        }
    }
}
