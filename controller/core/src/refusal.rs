//! Why a Service did not get what it asks for: for people by `Display`, for programs by [`Refusal::reason`].

use std::fmt;
use std::net::IpAddr;

use crds::ServiceKey;
use rules::Family;

use crate::request::{Protocol, RequestFault};
use crate::usage::NoSharing;

/// Why a Service did not get what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request cannot be understood.
    Request(RequestFault),
    /// There is no pool at all.
    NoPools,
    /// No pool can give an address automatically; the reason for each.
    NoneFits(Vec<(String, PoolReason)>),
    /// The pool that was asked for cannot give an address.
    Pool {
        /// Its name.
        pool: String,
        /// Why not.
        reason: PoolReason,
    },
    /// There is no pool of this name.
    UnknownPool(String),
    /// The pool has an error and is left out until that is mended.
    InvalidPool(String),
    /// No pool has the address that was asked for.
    OutsideEveryPool(IpAddr),
    /// The address is in another pool than the one asked for.
    NotInPool {
        /// The address.
        ip: IpAddr,
        /// The pool asked for.
        asked: String,
        /// The pool that has it.
        pool: String,
    },
    /// The two addresses asked for are in two pools.
    TwoPools(String, String),
    /// The pool keeps addresses ending in .0 and .255 back.
    Avoided {
        /// The address.
        ip: IpAddr,
        /// Its pool.
        pool: String,
    },
    /// Another Service has the address.
    Taken {
        /// The address.
        ip: IpAddr,
        /// Who has it.
        by: ServiceKey,
        /// Why it cannot be shared.
        why: NoSharing,
    },
    /// A host on the network that is not of the cluster uses the address.
    Conflict(IpAddr),
    /// The address is a node's own.
    NodeAddress {
        /// The address.
        ip: IpAddr,
        /// The node.
        node: String,
    },
    /// The address belongs to no pool any more, or its pool no longer admits the Service. It is about to be lost.
    Lost {
        /// The address.
        ip: IpAddr,
        /// Why.
        why: LostReason,
    },
    /// It has one family of the two that it prefers.
    Additional {
        /// The missing family.
        family: Family,
        /// The pool of the address that it has.
        pool: String,
        /// Why the pool cannot give the other.
        reason: PoolReason,
    },
}

/// Why a pool cannot give an address to a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolReason {
    /// It has an error.
    Invalid,
    /// It gives none to Services that do not ask for it.
    AutoAssignOff,
    /// Its `serviceAllocation` does not admit the namespace.
    Namespace(String),
    /// Its `serviceAllocation` does not admit the Service's labels.
    Labels,
    /// It has no addresses of the family.
    NoFamily(Family),
    /// All its addresses of the family are given, kept back, or used by other machines.
    Full {
        /// The family.
        family: Family,
        /// How many are in use.
        in_use: u128,
        /// How many there are.
        total: u128,
    },
    /// The namespace has as many addresses of the pool as it may.
    Quota {
        /// The namespace.
        namespace: String,
        /// How many it may have.
        max: u32,
    },
}

/// Why an address is about to be lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LostReason {
    /// It is in no pool any more.
    NoPool,
    /// Its pool now keeps it back.
    Avoided(String),
    /// Its pool no longer admits the Service.
    NotAdmitted(String, PoolReason),
    /// The Service's other address is in this other pool.
    OtherPool(String),
}

impl Refusal {
    /// One CamelCase word for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Request(_) => "InvalidRequest",
            Self::NoPools => "NoPools",
            Self::NoneFits(_) => "NoPoolFits",
            Self::Pool { .. } => "PoolDoesNotFit",
            Self::UnknownPool(_) => "UnknownPool",
            Self::InvalidPool(_) => "InvalidPool",
            Self::OutsideEveryPool(_) => "OutsideEveryPool",
            Self::NotInPool { .. } | Self::TwoPools(..) => "PoolMismatch",
            Self::Avoided { .. } => "AddressKeptBack",
            Self::Taken { .. } => "AddressInUse",
            Self::Conflict(_) => "AddressConflict",
            Self::NodeAddress { .. } => "NodeAddress",
            Self::Lost { .. } => "AddressLostByPool",
            Self::Additional { .. } => "OneFamilyOnly",
        }
    }

    /// Every word of [`Self::reason`], for metrics that count by it.
    pub const REASONS: [&'static str; 14] = [
        "InvalidRequest",
        "NoPools",
        "NoPoolFits",
        "PoolDoesNotFit",
        "UnknownPool",
        "InvalidPool",
        "OutsideEveryPool",
        "PoolMismatch",
        "AddressKeptBack",
        "AddressInUse",
        "AddressConflict",
        "NodeAddress",
        "AddressLostByPool",
        "OneFamilyOnly",
    ];
}

/// So many pools are listed: an event holds 1024 characters, and a person reads fewer.
const SHOWN: usize = 10;

/// What a user wrote, quoted, and cut so that the rest of the message is still seen: an event holds 1024 bytes, an
/// annotation 256 KiB.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 128;
        if self.0.len() <= LONGEST {
            return write!(f, "{:?}", self.0);
        }
        write!(f, "{:?}…", &self.0[..self.0.floor_char_boundary(LONGEST)])
    }
}

/// A pool's name, which need not be one.
struct Named<'a>(&'a str);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No object has a longer name.
        const LONGEST: usize = 253;
        if self.0.len() <= LONGEST {
            return f.write_str(self.0);
        }
        write!(f, "{}…", &self.0[..self.0.floor_char_boundary(LONGEST)])
    }
}

impl Refusal {
    /// Whether a pool that is created together with the Service ends it.
    pub fn lacks_pool(&self) -> bool {
        matches!(self, Self::NoPools | Self::UnknownPool(_) | Self::OutsideEveryPool(_))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(fault) => write!(f, "{fault}"),
            Self::NoPools => f.write_str("there is no IPAddressPool yet: create one"),
            Self::NoneFits(pools) => {
                f.write_str("no pool can give an address: ")?;
                for (index, (pool, reason)) in pools.iter().take(SHOWN).enumerate() {
                    write!(f, "{}pool {pool}: {reason}", if index == 0 { "" } else { "; " })?;
                }
                match pools.len().saturating_sub(SHOWN) {
                    0 => Ok(()),
                    more => write!(f, "; and {more} more pools"),
                }
            }
            Self::Pool { pool, reason } => write!(f, "pool {pool} was asked for, but: {reason}"),
            Self::UnknownPool(pool) => {
                write!(f, "pool {} was asked for, but there is no IPAddressPool of this name", Named(pool))
            }
            Self::InvalidPool(pool) => {
                write!(
                    f,
                    "pool {pool} has an error, shown on the IPAddressPool, and gives no address until that is corrected"
                )
            }
            Self::OutsideEveryPool(ip) => {
                write!(
                    f,
                    "{ip} was asked for, but no IPAddressPool has it: ask for another, or add it to a pool"
                )
            }
            Self::NotInPool { ip, asked, pool } => {
                write!(
                    f,
                    "{ip} was asked for from pool {}, but it is in pool {pool}: drop one of the two wishes",
                    Named(asked)
                )
            }
            Self::TwoPools(a, b) => {
                write!(f, "the addresses asked for are in two pools, {a} and {b}: both must be in one")
            }
            Self::Avoided { ip, pool } => {
                write!(f, "{ip} was asked for, but pool {pool} has avoidBuggyIPs on and keeps it back")
            }
            Self::Taken { ip, by, why } => {
                write!(f, "{ip} was asked for, but Service {by} has it and it cannot be shared: {why}")
            }
            Self::Conflict(ip) => {
                write!(
                    f,
                    "{ip} was asked for, but another machine on the network uses it (see its AddressConflict)"
                )
            }
            Self::NodeAddress { ip, node } => {
                write!(
                    f,
                    "{ip} was asked for, but it is node {node}'s own address, which no Service may have: ask for another"
                )
            }
            Self::Lost { ip, why } => write!(f, "{ip} is given up: {why}"),
            Self::Additional { family, pool, reason } => {
                write!(f, "the {family} address is missing, since pool {pool} cannot give one: {reason}")
            }
        }
    }
}

impl fmt::Display for PoolReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid => f.write_str(
                "it has an error, shown on the IPAddressPool, and gives no address until that is corrected",
            ),
            Self::AutoAssignOff => f.write_str("autoAssign is off"),
            Self::Namespace(namespace) => write!(f, "namespace {namespace} not allowed"),
            Self::Labels => f.write_str("serviceSelectors do not match the Service's labels"),
            Self::NoFamily(family) => write!(f, "it has no {family} addresses"),
            Self::Full { family, in_use, total } if in_use >= total => {
                write!(f, "{total} of {total} {family} addresses in use")
            }
            Self::Full { family, in_use, total } => {
                write!(f, "{in_use} of {total} {family} addresses in use, the others are kept back")
            }
            Self::Quota { namespace, max } => {
                write!(f, "namespace {namespace} has reached its quota of {max} addresses")
            }
        }
    }
}

impl fmt::Display for LostReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPool => f.write_str("no IPAddressPool has it any more"),
            Self::Avoided(pool) => write!(f, "pool {pool} now has avoidBuggyIPs on"),
            Self::NotAdmitted(pool, reason) => write!(f, "pool {pool}: {reason}"),
            Self::OtherPool(pool) => {
                write!(f, "the Service's other address is in pool {pool}, and both must be in one")
            }
        }
    }
}

impl fmt::Display for NoSharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HolderNotAsked => {
                f.write_str("both need the same metallb.io/allow-shared-ip, which that Service does not have")
            }
            Self::AskerNotAsked => {
                f.write_str("both need the same metallb.io/allow-shared-ip, which this Service does not have")
            }
            Self::Keys { holder, asker } => write!(
                f,
                "both need the same metallb.io/allow-shared-ip, and that Service has {}, this one {}",
                Shown(holder),
                Shown(asker)
            ),
            Self::TrafficPolicies { holder_is_local } => {
                let (holder, asker) =
                    if *holder_is_local { ("Local", "Cluster") } else { ("Cluster", "Local") };
                write!(
                    f,
                    "that Service has externalTrafficPolicy {holder}, this one {asker}: both need the same"
                )
            }
            Self::Selectors { holder, asker } => write!(
                f,
                "with externalTrafficPolicy Local both need the same pod selector, and that Service has {}, this one {}",
                Shown(holder),
                Shown(asker)
            ),
            Self::Port(protocol, port) => write!(f, "both use {protocol} port {port}"),
            Self::Leaves => {
                f.write_str("that Service is about to give it up, and who waits longest gets it then")
            }
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}
