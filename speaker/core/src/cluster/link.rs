//! The links of a node, as far as announcing is concerned.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use smoltcp::wire::EthernetAddress;

/// The kernel's index of a link.
pub type LinkIndex = u32;

/// A link that is up and on which frames may be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's index.
    pub index: LinkIndex,
    /// The interface's name.
    pub name: String,
    /// Its hardware address.
    pub mac: EthernetAddress,
    /// Whether it has a broadcast address, which ARP needs.
    pub broadcast: bool,
    /// Its link-local address, once duplicate address detection has completed; NDP needs one.
    pub link_local: Option<Ipv6Addr>,
    /// Its addresses with their prefix lengths.
    pub subnets: BTreeSet<(IpAddr, u8)>,
    /// The kernel's count of carrier changes to up; when it grows, everything is announced again (checklist
    /// C6).
    pub carrier_ups: u32,
}

impl Link {
    /// Whether the protocol of the address family works on it.
    pub(crate) fn supports_family(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(_) => self.broadcast,
            IpAddr::V6(_) => self.link_local.is_some(),
        }
    }
}

/// What is published about a link through the API.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LinkInfo {
    /// The interface's name.
    pub name: String,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its addresses with their prefix lengths.
    pub subnets: BTreeSet<(IpAddr, u8)>,
    /// The families whose addresses it can announce; none if that is unknown, as with earlier releases.
    #[serde(default)]
    pub families: Option<Families>,
}

/// The address families that a link can announce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Families {
    /// By ARP: it has a broadcast address, and a packet socket could be opened.
    pub ipv4: bool,
    /// By NDP: it has a link-local address, and a packet socket could be opened.
    pub ipv6: bool,
}

impl LinkInfo {
    /// Whether one of its subnets contains `address`.
    pub fn reaches(&self, address: IpAddr) -> bool {
        self.subnets.iter().any(|(own, length)| same_subnet(*own, address, *length))
    }

    /// Whether it can announce `address`, as far as is known.
    pub fn supports_family(&self, address: IpAddr) -> bool {
        self.families.is_none_or(|families| if address.is_ipv4() { families.ipv4 } else { families.ipv6 })
    }
}

impl From<&Link> for LinkInfo {
    fn from(link: &Link) -> Self {
        let families = Families { ipv4: link.broadcast, ipv6: link.link_local.is_some() };
        Self {
            name: link.name.clone(),
            mac: link.mac.0,
            subnets: link.subnets.clone(),
            families: Some(families),
        }
    }
}

/// `address` with all but the first `length` bits cleared.
pub(crate) fn network(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

/// Whether `a` and `b` have the first `length` bits in common.
pub fn same_subnet(a: IpAddr, b: IpAddr, length: u8) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (bits4(a) ^ bits4(b)).leading_zeros() >= u32::from(length.min(32)),
        (IpAddr::V6(a), IpAddr::V6(b)) => (bits6(a) ^ bits6(b)).leading_zeros() >= u32::from(length.min(128)),
        _ => false,
    }
}

fn bits4(address: Ipv4Addr) -> u32 {
    address.into()
}

fn bits6(address: Ipv6Addr) -> u128 {
    address.into()
}

/// The links on which an address is announced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// All links.
    All,
    /// The links with these names.
    Named(BTreeSet<String>),
}

impl Scope {
    /// Whether it contains a link of this name.
    pub fn covers(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(name),
        }
    }

    /// The links of either scope.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        match (self, other) {
            (Self::Named(mut a), Self::Named(b)) => {
                a.extend(b);
                Self::Named(a)
            }
            _ => Self::All,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_compared_by_their_prefix_and_family() {
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(same_subnet(at("10.0.0.1"), at("10.0.0.254"), 24));
        assert!(!same_subnet(at("10.0.0.1"), at("10.0.1.1"), 24));
        assert!(same_subnet(at("10.0.0.1"), at("99.0.1.1"), 0));
        assert!(same_subnet(at("fd00::1"), at("fd00::ffff"), 64));
        assert!(!same_subnet(at("fd00::1"), at("10.0.0.1"), 0));
        assert!(same_subnet(at("fd00::1"), at("fd00::1"), 200));
    }
}
