//! The configuration formats of MetalLB before v0.13, turned into today's objects (`reference/metallb.md` §1, §8).
//!
//! What can be read is converted, also when something else is wrong: a pool with a faulty address becomes an
//! `IPAddressPool` with that address, which is then left out by the judge and takes nothing away from anybody. What
//! cannot be mapped is a finding.

mod address_pool;
mod config_map;
mod names;
mod yaml;

use crds::{BFDProfile, BGPAdvertisement, BGPPeer, Community, IPAddressPool, L2Advertisement};

use crate::finding::Severity;

pub use address_pool::convert_address_pools;
pub use config_map::convert;

/// Today's objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Converted {
    /// Pools.
    pub pools: Vec<IPAddressPool>,
    /// One for each pool of protocol `layer2`.
    pub l2_advertisements: Vec<L2Advertisement>,
    /// Those of the pools of protocol `bgp`.
    pub bgp_advertisements: Vec<BGPAdvertisement>,
    /// Peers.
    pub bgp_peers: Vec<BGPPeer>,
    /// BFD profiles.
    pub bfd_profiles: Vec<BFDProfile>,
    /// At most one, with all names of communities.
    pub communities: Vec<Community>,
}

/// One thing to say about a line of the old text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineFinding {
    /// The line, from 1; 0 where none can be told.
    pub line: u64,
    /// What follows.
    pub severity: Severity,
    /// Path of the field, as `address-pools[0].protocol`.
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl std::fmt::Display for LineFinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}: {}; {}", self.line, self.field, self.problem, self.remedy)
    }
}

/// The text is no YAML that can be read at all, so nothing is converted and what was converted before shall stay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}; correct the text: until then what was imported last stays in force")]
pub struct Unreadable {
    /// The line, from 1; 0 where none can be told.
    pub line: u64,
    /// What is wrong.
    pub problem: String,
}

#[cfg(test)]
mod tests;
