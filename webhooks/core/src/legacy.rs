//! The configuration formats of MetalLB before v0.13, turned into today's objects (`reference/metallb.md` §1, §8).
//!
//! What can be read is converted, also when something else is wrong. What cannot be mapped is a finding, and the objects
//! of an entry with an error are listed in [`Converted::faulty`], so that they replace nothing that works.
//!
//! Objects are named after what they stand for, never after their position: an entry that is added or removed
//! leaves the objects of all others alone.

mod address_pool;
mod config_map;
mod names;
mod yaml;

use std::collections::BTreeSet;

use crds::{BFDProfile, BGPAdvertisement, BGPPeer, Community, IPAddressPool, L2Advertisement};

use crate::finding::{ObjectRef, Severity};

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
    /// Those of the above whose entry has an error.
    pub faulty: BTreeSet<ObjectRef>,
}

impl Converted {
    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty()
            && self.l2_advertisements.is_empty()
            && self.bgp_advertisements.is_empty()
            && self.bgp_peers.is_empty()
            && self.bfd_profiles.is_empty()
            && self.communities.is_empty()
    }

    /// Marks `object` as one of an entry with an error.
    fn spoil<K: crds::Resource<DynamicType = ()>>(&mut self, kind: &'static str, object: &K) {
        self.faulty.insert(ObjectRef::of(kind, object));
    }
}

/// The name of the `n`th advertisement of `pool`, from 1: the first has the pool's name, and no other has that of another
/// pool.
fn advertisement_name(pool: &str, n: usize, pools: &BTreeSet<String>) -> String {
    let mut name = if n == 1 { pool.to_owned() } else { format!("{pool}-{n}") };
    while n > 1 && pools.contains(&name) {
        name.push_str("-bgp");
    }
    name
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

/// The text cannot be read as YAML or has nothing in it, so nothing is converted and what was converted before shall stay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}; correct the text: until then what was imported last stays in force")]
pub struct Unreadable {
    /// Nothing is written there: not even an empty list.
    pub empty: bool,
    /// The line, from 1; 0 where none can be told.
    pub line: u64,
    /// What is wrong.
    pub problem: String,
}

#[cfg(test)]
mod tests;
