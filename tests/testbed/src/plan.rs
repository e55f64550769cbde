//! The address plan: from the options to the address of every machine, pod network and Service. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::options::{LanOptions, Options, Ranges};

/// A link-layer address, written `02:00:c0:a8:21:0b`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
        bytes
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a link-layer address such as 02:00:00:00:00:01"))
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// One machine on the LAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its name, which is also the name of its bridge port.
    pub name: String,
    /// Its link-layer address.
    pub mac: Mac,
    /// Its IPv4 address with the LAN's prefix length.
    pub v4: Ipv4Net,
    /// Its IPv6 address with the LAN's prefix length.
    pub v6: Option<Ipv6Net>,
}

impl Machine {
    /// Its addresses with their prefix lengths, IPv4 first.
    pub fn nets(&self) -> Vec<IpNet> {
        std::iter::once(IpNet::V4(self.v4)).chain(self.v6.map(IpNet::V6)).collect()
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        std::iter::once(IpAddr::V4(self.v4.addr())).chain(self.v6.map(|v6| IpAddr::V6(v6.addr()))).collect()
    }
}

/// A node: a machine with a pod network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePlan {
    /// Where it is on the LAN.
    pub machine: Machine,
    /// Addresses of its pods.
    pub pods: Ranges,
}

/// The plan of a LAN.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LanPlan {
    /// Its options.
    pub options: LanOptions,
    /// The bridge's own addresses.
    pub gateway: Machine,
}

/// The addresses of all machines of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The LAN and its gateway.
    pub lan: LanPlan,
    /// The machine that etcd, API server, controller manager and scheduler run on.
    pub control_plane: Machine,
    /// The machine outside of the cluster.
    pub client: Machine,
    /// The nodes.
    pub nodes: Vec<NodePlan>,
    /// The first address of the service ranges, which is the API server's inside the cluster.
    pub api_service: Vec<IpAddr>,
    /// The address reserved for cluster DNS.
    pub dns_service: IpAddr,
}

impl LanPlan {
    /// Plans an empty LAN.
    pub fn new(options: &LanOptions) -> Result<Self> {
        let gateway = machine(options, "gateway", options.gateway)?;
        Ok(Self { options: options.clone(), gateway })
    }

    /// The machine with this name and host number.
    pub fn machine(&self, name: &str, number: u32) -> Result<Machine> {
        machine(&self.options, name, number)
    }

    /// The IPv4 address of a host number.
    pub fn v4(&self, number: u32) -> Result<Ipv4Addr> {
        host_v4(self.options.v4, number)
    }

    /// The IPv6 address of a host number, if the LAN has IPv6.
    pub fn v6(&self, number: u32) -> Result<Option<Ipv6Addr>> {
        self.options.v6.map(|net| host_v6(net, number)).transpose()
    }
}

impl Plan {
    /// Computes the plan; contradictory options are an error.
    pub fn new(options: &Options) -> Result<Self> {
        check_id(&options.id)?;
        let lan = LanPlan::new(&options.lan)?;
        let count = if options.control_plane_only { 0 } else { options.nodes };
        if count > 200 {
            return Err(Error::Options(format!("{count} nodes: a testbed has at most 200")));
        }
        let control_plane = lan.machine("cp", options.lan.control_plane)?;
        let client = lan.machine("client", options.lan.client)?;
        let nodes: Vec<NodePlan> = (0..count)
            .map(|index| {
                let offset = u32::try_from(index).unwrap_or(u32::MAX);
                let machine = lan.machine(&format!("node{}", index + 1), options.lan.first_node + offset)?;
                Ok(NodePlan { machine, pods: pod_ranges(&options.pods, offset + 1)? })
            })
            .collect::<Result<_>>()?;

        let machines =
            [&lan.gateway, &control_plane, &client].into_iter().chain(nodes.iter().map(|n| &n.machine));
        let mut seen: Vec<&Machine> = Vec::new();
        for machine in machines {
            if let Some(other) = seen.iter().find(|other| other.v4.addr() == machine.v4.addr()) {
                return Err(Error::Options(format!(
                    "{} and {} would both be {}: give them different host numbers",
                    other.name,
                    machine.name,
                    machine.v4.addr()
                )));
            }
            seen.push(machine);
        }
        check_disjoint(options)?;

        let api_service = [Some(IpAddr::V4(nth_v4(options.services.v4, 1)?)), nth_v6(options.services.v6, 1)];
        Ok(Self {
            lan,
            control_plane,
            client,
            nodes,
            api_service: api_service.into_iter().flatten().collect(),
            dns_service: IpAddr::V4(nth_v4(options.services.v4, 10)?),
        })
    }

    /// Every machine but the gateway.
    pub fn machines(&self) -> impl Iterator<Item = &Machine> {
        [&self.control_plane, &self.client].into_iter().chain(self.nodes.iter().map(|node| &node.machine))
    }
}

/// Checks an id, which becomes part of namespace, cgroup and file names.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let fits = (1..=20).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !id.starts_with('-');
    if fits {
        return Ok(());
    }
    Err(Error::Options(format!(
        "testbed id {id:?}: use 1 to 20 lower-case letters, digits and dashes, the first not a dash"
    )))
}

fn machine(lan: &LanOptions, name: &str, number: u32) -> Result<Machine> {
    let v4 = host_v4(lan.v4, number)?;
    let v6 = lan.v6.map(|net| Ok::<_, Error>(Ipv6Net::new_assert(host_v6(net, number)?, net.prefix_len())));
    let [a, b, c, d] = v4.octets();
    Ok(Machine {
        name: name.into(),
        // Locally administered, and derived from the IPv4 address.
        mac: Mac([0x02, 0x00, a, b, c, d]),
        v4: Ipv4Net::new_assert(v4, lan.v4.prefix_len()),
        v6: v6.transpose()?,
    })
}

fn host_v4(net: Ipv4Net, number: u32) -> Result<Ipv4Addr> {
    let first = u32::from(net.network());
    let address = first.checked_add(number).map(Ipv4Addr::from).filter(|address| net.contains(address));
    match address {
        Some(address) if number > 0 && address != net.broadcast() => Ok(address),
        _ => Err(Error::Options(format!(
            "there is no host number {number} in {net}: choose one from 1 to {}",
            (u32::from(net.broadcast()) - first).saturating_sub(1)
        ))),
    }
}

/// The host whose last digits read as the number does: 11 is `::11`.
fn host_v6(net: Ipv6Net, number: u32) -> Result<Ipv6Addr> {
    let digits = u128::from_str_radix(&number.to_string(), 16).unwrap_or_default();
    let address = Ipv6Addr::from(u128::from(net.network()) | digits);
    if net.contains(&address) && u128::from(net.network()) & digits == 0 {
        return Ok(address);
    }
    Err(Error::Options(format!(
        "there is no host ::{number} in {net}: choose a shorter prefix, such as a /64"
    )))
}

fn nth_v4(net: Ipv4Net, n: u32) -> Result<Ipv4Addr> {
    let address = Ipv4Addr::from(u32::from(net.network()).saturating_add(n));
    if net.contains(&address) {
        return Ok(address);
    }
    Err(Error::Options(format!("the service range {net} is too small: use at least a /27")))
}

fn nth_v6(net: Option<Ipv6Net>, n: u128) -> Option<IpAddr> {
    net.map(|net| IpAddr::V6(Ipv6Addr::from(u128::from(net.network()) | n)))
}

/// The `n`th /24 and /64 of the pod ranges.
fn pod_ranges(pods: &Ranges, n: u32) -> Result<Ranges> {
    let too_small = |net: IpNet| {
        Error::Options(format!(
            "the pod range {net} has no part number {n}: use a /16 for IPv4, a /48 for IPv6"
        ))
    };
    let v4 = Ipv4Addr::from(u32::from(pods.v4.network()).saturating_add(n << 8));
    if !pods.v4.contains(&v4) {
        return Err(too_small(pods.v4.into()));
    }
    let v6 = pods.v6.map(|net| {
        let first = Ipv6Addr::from(u128::from(net.network()) | (u128::from(n) << 64));
        if net.contains(&first) { Ok(Ipv6Net::new_assert(first, 64)) } else { Err(too_small(net.into())) }
    });
    Ok(Ranges { v4: Ipv4Net::new_assert(v4, 24), v6: v6.transpose()? })
}

fn check_disjoint(options: &Options) -> Result<()> {
    let named = [
        ("LAN", IpNet::V4(options.lan.v4)),
        ("service range", IpNet::V4(options.services.v4)),
        ("pod range", IpNet::V4(options.pods.v4)),
    ];
    let named_v6 =
        [("LAN", options.lan.v6), ("service range", options.services.v6), ("pod range", options.pods.v6)]
            .map(|(name, net)| net.map(|net| (name, IpNet::V6(net))));
    let all: Vec<(&str, IpNet)> = named.into_iter().chain(named_v6.into_iter().flatten()).collect();
    for (index, (name, net)) in all.iter().enumerate() {
        for (other_name, other) in &all[..index] {
            if net.contains(other) || other.contains(net) {
                return Err(Error::Options(format!(
                    "the {other_name} {other} and the {name} {net} overlap: choose disjoint ranges"
                )));
            }
        }
    }
    if options.lan.v6.is_none() && (options.services.v6.is_some() || options.pods.v6.is_some()) {
        return Err(Error::Options("a LAN without IPv6 needs service and pod ranges without IPv6".into()));
    }
    if options.services.v6.is_some() != options.pods.v6.is_some() {
        return Err(Error::Options("service and pod ranges must both have IPv6, or neither".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
