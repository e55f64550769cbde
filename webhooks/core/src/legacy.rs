//! Conversion of the configuration formats of MetalLB before v0.13 to today's objects
//! (`docs/reference/metallb.md` §1, §8).
//!
//! What can be read is converted, also if something else is wrong. What cannot be converted is a finding, and
//! the objects of an entry with an error are listed in [`Converted::invalid`], so that they do not replace
//! valid ones.
//!
//! Objects are named after the name or address in their entry, never after its position: adding or removing
//! an entry does not change the objects of the others.

mod address_pool;
mod config_map;
mod names;
mod yaml;

use std::collections::BTreeSet;

use crds::{BFDProfile, BGPAdvertisement, BGPPeer, Community, IPAddressPool, L2Advertisement};

use crate::finding::ObjectRef;

pub use address_pool::convert_address_pools;
pub use config_map::convert;

/// The result of a conversion.
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
    /// At most one, with the aliases of all communities.
    pub communities: Vec<Community>,
    /// The objects above whose entry has an error.
    pub invalid: BTreeSet<ObjectRef>,
}

impl Converted {
    /// Whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty()
            && self.l2_advertisements.is_empty()
            && self.bgp_advertisements.is_empty()
            && self.bgp_peers.is_empty()
            && self.bfd_profiles.is_empty()
            && self.communities.is_empty()
    }

    /// Adds `object` to [`invalid`](Self::invalid).
    fn mark_invalid<K: crds::Resource<DynamicType = ()>>(&mut self, kind: &'static str, object: &K) {
        self.invalid.insert(ObjectRef::of(kind, object));
    }
}

/// The name of the `n`th advertisement of `pool`, counted from 1: the first has the name of the pool, and the
/// others no name of another pool.
fn advertisement_name(pool: &str, n: usize, pools: &BTreeSet<String>) -> String {
    let mut name = if n == 1 { pool.to_owned() } else { format!("{pool}-{n}") };
    while n > 1 && pools.contains(&name) {
        name.push_str("-bgp");
    }
    name
}

/// The text is not valid YAML or empty, so nothing is converted, and the objects of the last import stay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}; correct the text; until then the objects of the last import stay in force")]
pub struct ParseError {
    /// The text has no content, not even an empty list.
    pub empty: bool,
    /// The line, from 1; 0 if unknown.
    pub line: u64,
    /// What is wrong.
    pub problem: String,
}

#[cfg(test)]
mod tests;
