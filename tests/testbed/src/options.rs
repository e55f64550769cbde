//! Options of a testbed.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::progress::Progress;

/// The options of [`Cluster::up`](crate::Cluster::up). The default is three nodes on 192.168.33.0/24.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Options {
    /// Part of the name of everything that the testbed creates, so that several can run at once: at most 20
    /// lower-case letters, digits and dashes.
    pub id: String,
    /// Number of nodes.
    pub nodes: usize,
    /// Only etcd, API server and controller manager: no node, no scheduler, no registry. Up in about 3 s.
    pub control_plane_only: bool,
    /// The network that nodes and client share.
    pub lan: LanOptions,
    /// The mode of kube-proxy.
    pub kube_proxy: KubeProxy,
    /// Addresses of Services inside the cluster.
    pub services: Ranges,
    /// Addresses of pods: a /24 and a /64 of these for each node.
    pub pods: Ranges,
    /// The port on 127.0.0.1 at which the API server is reached from the machine itself; a free one by
    /// default.
    pub api_port: Option<u16>,
    /// Further flags of the API server.
    pub api_server_flags: Vec<String>,
    /// Further flags of the controller manager, such as `--node-monitor-grace-period=20s`.
    pub controller_manager_flags: Vec<String>,
    /// Whether the cluster outlives the process that created it. Otherwise it is removed when the
    /// [`Cluster`](crate::Cluster) is dropped, and also when its process is killed.
    pub keep: bool,
    /// Receives progress messages.
    #[serde(skip)]
    pub progress: Progress,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            id: "default".into(),
            nodes: 3,
            control_plane_only: false,
            lan: LanOptions::default(),
            kube_proxy: KubeProxy::Nftables,
            services: Ranges {
                v4: Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16),
                v6: Some(Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0), 112)),
            },
            pods: Ranges {
                v4: Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16),
                v6: Some(Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0), 48)),
            },
            api_port: None,
            api_server_flags: Vec::new(),
            controller_manager_flags: Vec::new(),
            keep: false,
            progress: Progress::default(),
        }
    }
}

/// The local network: its prefixes, and which host number each machine has in them.
///
/// Host number 11 in 192.168.33.0/24 is 192.168.33.11, and in fd00:33::/64 it is fd00:33::11: the digits are
/// the same, so that addresses are easy to recognize.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LanOptions {
    /// The IPv4 prefix, of any length that has room for the hosts.
    pub v4: Ipv4Net,
    /// The IPv6 prefix; none for a LAN without IPv6.
    pub v6: Option<Ipv6Net>,
    /// Host number of the gateway (the bridge itself, where the registry listens too).
    pub gateway: u32,
    /// Host number of the control plane.
    pub control_plane: u32,
    /// Host number of the client.
    pub client: u32,
    /// Host number of the first node; the others follow it.
    pub first_node: u32,
    /// How the bridge treats multicast.
    pub multicast: Multicast,
}

impl Default for LanOptions {
    fn default() -> Self {
        Self {
            v4: Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 33, 0), 24),
            v6: Some(Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x33, 0, 0, 0, 0, 0, 0), 64)),
            gateway: 1,
            control_plane: 2,
            client: 100,
            first_node: 11,
            multicast: Multicast::default(),
        }
    }
}

/// How the bridge treats multicast. A switch that snoops forwards a group only to ports that joined it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Multicast {
    /// Whether the bridge forwards multicast only to ports that joined the group.
    pub snooping: bool,
    /// Whether the bridge sends membership queries, without which snooping has no effect.
    pub querier: bool,
}

/// An address range per family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges {
    /// IPv4.
    pub v4: Ipv4Net,
    /// IPv6; none makes a single-stack cluster.
    pub v6: Option<Ipv6Net>,
}

/// Modes of kube-proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KubeProxy {
    /// Mode nftables.
    Nftables,
    /// Mode iptables.
    Iptables,
    /// No kube-proxy, so Services have no data path.
    None,
}

impl KubeProxy {
    /// The name as in kube-proxy's configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::None => "none",
        }
    }
}

impl std::str::FromStr for KubeProxy {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Nftables, Self::Iptables, Self::None]
            .into_iter()
            .find(|mode| mode.as_str() == name)
            .ok_or_else(|| format!("kube-proxy mode {name:?} is not one of nftables, iptables, none"))
    }
}
