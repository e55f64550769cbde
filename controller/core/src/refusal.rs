//! Why the request of a Service is not met: for users by `Display`, for programs by [`Refusal::reason`].

use std::fmt;
use std::net::IpAddr;

use crds::ServiceKey;
use rules::Family;

use crate::address_claims::SharingConflict;
use crate::request::{Protocol, RequestError};
use crate::text::{Quoted, Truncated};

crds::string_enum! {
    /// The reason of a [`Refusal`].
    pub enum RefusalReason {
        /// The annotations or fields of the Service are invalid.
        InvalidRequest = "InvalidRequest",
        /// There is no IPAddressPool.
        NoPools = "NoPools",
        /// No pool can assign an address automatically.
        NoPoolFits = "NoPoolFits",
        /// The requested pool cannot assign an address.
        PoolDoesNotFit = "PoolDoesNotFit",
        /// The requested pool does not exist.
        UnknownPool = "UnknownPool",
        /// The pool has an error.
        InvalidPool = "InvalidPool",
        /// The requested address is in no pool.
        OutsideEveryPool = "OutsideEveryPool",
        /// The requested addresses are in another pool than the requested one, or in two pools.
        PoolMismatch = "PoolMismatch",
        /// `avoidBuggyIPs` of the pool excludes the requested address.
        AddressExcluded = "AddressKeptBack",
        /// Another Service has the requested address and cannot share it.
        AddressInUse = "AddressInUse",
        /// A host outside the cluster uses the requested address.
        AddressConflict = "AddressConflict",
        /// The requested address is an address of a node.
        NodeAddress = "NodeAddress",
        /// The address is no longer in a pool that admits the Service, and is withdrawn after a grace period.
        AddressLost = "AddressLostByPool",
        /// The Service has an address of only one of its two families.
        OneFamilyOnly = "OneFamilyOnly",
    }
}

/// Why the request of a Service is not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request is invalid.
    Request(RequestError),
    /// There is no pool at all.
    NoPools,
    /// No pool can give an address automatically; the reason for each.
    NoPoolFits(Vec<(String, PoolReason)>),
    /// The pool that was asked for cannot give an address.
    Pool {
        /// Its name.
        pool: String,
        /// Why not.
        reason: PoolReason,
    },
    /// There is no pool of this name.
    UnknownPool(String),
    /// The pool has an error and assigns no address until that is corrected.
    InvalidPool(String),
    /// No pool contains the address that was asked for.
    OutsideEveryPool(IpAddr),
    /// The address is in another pool than the one asked for.
    NotInPool {
        /// The address.
        ip: IpAddr,
        /// The pool asked for.
        asked: String,
        /// The pool that contains it.
        pool: String,
    },
    /// The two addresses asked for are in two pools.
    TwoPools(String, String),
    /// `avoidBuggyIPs` of the pool excludes the address.
    Excluded {
        /// The address.
        ip: IpAddr,
        /// Its pool.
        pool: String,
    },
    /// Another Service has the address.
    Taken {
        /// The address.
        ip: IpAddr,
        /// The Service that has it.
        holder: ServiceKey,
        /// Why it cannot be shared.
        reason: SharingConflict,
    },
    /// A host on the network that does not belong to the cluster uses the address.
    Conflict(IpAddr),
    /// The address is a node's own address.
    NodeAddress {
        /// The address.
        ip: IpAddr,
        /// The node.
        node: String,
    },
    /// The address is in no pool any more, or its pool no longer admits the Service. It is withdrawn after a
    /// grace period.
    Lost {
        /// The address.
        ip: IpAddr,
        /// Why it is lost.
        reason: LostReason,
    },
    /// The Service has an address of only one of its two families.
    MissingFamily {
        /// The missing family.
        family: Family,
        /// The pool of its address.
        pool: String,
        /// Why the pool cannot assign an address of the other family.
        reason: PoolReason,
    },
}

/// Why a pool cannot assign an address to a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolReason {
    /// It has an error.
    Invalid,
    /// `autoAssign` is off, and the Service does not ask for the pool.
    AutoAssignOff,
    /// Its `serviceAllocation` does not admit the namespace.
    Namespace(String),
    /// Its `serviceAllocation` does not admit the Service's labels.
    Labels,
    /// It has no addresses of the family.
    NoFamily(Family),
    /// All its addresses of the family are assigned, reserved, excluded or used by other machines.
    Full {
        /// The family.
        family: Family,
        /// How many are in use.
        in_use: u128,
        /// How many there are.
        total: u128,
    },
    /// The namespace has reached its quota of the pool.
    Quota {
        /// The namespace.
        namespace: String,
        /// The quota.
        max: u32,
    },
}

/// Why a Service is about to lose an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LostReason {
    /// No pool contains it any more.
    NoPool,
    /// `avoidBuggyIPs` of its pool now excludes it.
    Excluded(String),
    /// Its pool no longer admits the Service.
    NotAdmitted(String, PoolReason),
    /// The Service's other address is in this pool, and both must be in one.
    OtherPool(String),
}

/// How many pools a message lists: an event holds 1024 bytes, and a reader wants fewer.
const MAX_POOLS_SHOWN: usize = 10;

impl Refusal {
    /// The reason for conditions and metrics.
    pub fn reason(&self) -> RefusalReason {
        match self {
            Self::Request(_) => RefusalReason::InvalidRequest,
            Self::NoPools => RefusalReason::NoPools,
            Self::NoPoolFits(_) => RefusalReason::NoPoolFits,
            Self::Pool { .. } => RefusalReason::PoolDoesNotFit,
            Self::UnknownPool(_) => RefusalReason::UnknownPool,
            Self::InvalidPool(_) => RefusalReason::InvalidPool,
            Self::OutsideEveryPool(_) => RefusalReason::OutsideEveryPool,
            Self::NotInPool { .. } | Self::TwoPools(..) => RefusalReason::PoolMismatch,
            Self::Excluded { .. } => RefusalReason::AddressExcluded,
            Self::Taken { .. } => RefusalReason::AddressInUse,
            Self::Conflict(_) => RefusalReason::AddressConflict,
            Self::NodeAddress { .. } => RefusalReason::NodeAddress,
            Self::Lost { .. } => RefusalReason::AddressLost,
            Self::MissingFamily { .. } => RefusalReason::OneFamilyOnly,
        }
    }

    /// Whether the pool that would meet the request does not exist, but may be about to be created with the
    /// Service.
    pub fn is_missing_pool(&self) -> bool {
        matches!(self, Self::NoPools | Self::UnknownPool(_) | Self::OutsideEveryPool(_))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(error) => write!(f, "{error}"),
            Self::NoPools => f.write_str("there is no IPAddressPool yet: create one"),
            Self::NoPoolFits(pools) => {
                f.write_str("no pool can give an address: ")?;
                for (index, (pool, reason)) in pools.iter().take(MAX_POOLS_SHOWN).enumerate() {
                    write!(f, "{}pool {pool}: {reason}", if index == 0 { "" } else { "; " })?;
                }
                match pools.len().saturating_sub(MAX_POOLS_SHOWN) {
                    0 => Ok(()),
                    more => write!(f, "; and {more} more pools"),
                }
            }
            Self::Pool { pool, reason } => write!(f, "pool {pool} was asked for, but: {reason}"),
            Self::UnknownPool(pool) => {
                write!(
                    f,
                    "pool {} was asked for, but there is no IPAddressPool of this name",
                    Truncated(pool)
                )
            }
            Self::InvalidPool(pool) => {
                write!(
                    f,
                    "pool {pool} has an error, shown on the IPAddressPool, and gives no address until \
                     that is corrected"
                )
            }
            Self::OutsideEveryPool(ip) => {
                write!(
                    f,
                    "{ip} was asked for, but no IPAddressPool contains it: ask for another, or add it to \
                     a pool"
                )
            }
            Self::NotInPool { ip, asked, pool } => {
                write!(
                    f,
                    "{ip} was asked for from pool {}, but it is in pool {pool}: remove one of the two \
                     requests",
                    Truncated(asked)
                )
            }
            Self::TwoPools(a, b) => {
                write!(f, "the addresses asked for are in two pools, {a} and {b}: both must be in one")
            }
            Self::Excluded { ip, pool } => {
                write!(f, "{ip} was asked for, but avoidBuggyIPs of pool {pool} excludes it")
            }
            Self::Taken { ip, holder, reason } => {
                write!(f, "{ip} was asked for, but Service {holder} has it and it cannot be shared: {reason}")
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
                    "{ip} was asked for, but it is node {node}'s own address, which no Service may have: \
                     ask for another"
                )
            }
            Self::Lost { ip, reason } => write!(f, "{ip} will be withdrawn: {reason}"),
            Self::MissingFamily { family, pool, reason } => {
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
                write!(
                    f,
                    "{in_use} of {total} {family} addresses in use, the others are reserved or excluded"
                )
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
            Self::NoPool => f.write_str("no IPAddressPool contains it any more"),
            Self::Excluded(pool) => write!(f, "avoidBuggyIPs of pool {pool} now excludes it"),
            Self::NotAdmitted(pool, reason) => write!(f, "pool {pool}: {reason}"),
            Self::OtherPool(pool) => {
                write!(f, "the Service's other address is in pool {pool}, and both must be in one")
            }
        }
    }
}

impl fmt::Display for SharingConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HolderHasNoKey => {
                f.write_str("both need the same metallb.io/allow-shared-ip, which that Service does not have")
            }
            Self::RequesterHasNoKey => {
                f.write_str("both need the same metallb.io/allow-shared-ip, which this Service does not have")
            }
            Self::Keys { holder, requester } => write!(
                f,
                "both need the same metallb.io/allow-shared-ip, and that Service has {}, this one {}",
                Quoted(holder),
                Quoted(requester)
            ),
            Self::TrafficPolicies { holder_is_local } => {
                let (holder, requester) =
                    if *holder_is_local { ("Local", "Cluster") } else { ("Cluster", "Local") };
                write!(
                    f,
                    "that Service has externalTrafficPolicy {holder}, this one {requester}: both need \
                     the same"
                )
            }
            Self::Selectors { holder, requester } => write!(
                f,
                "with externalTrafficPolicy Local both need the same pod selector, and that Service has {}, \
                 this one {}",
                Quoted(holder),
                Quoted(requester)
            ),
            Self::Port(protocol, port) => write!(f, "both use {protocol} port {port}"),
            Self::HolderLeaving => f.write_str(
                "that Service is about to give it up, and the Service that has waited longest gets it",
            ),
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
