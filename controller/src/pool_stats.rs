//! Statistics of the pools: addresses in use and in total.

use std::collections::BTreeMap;

use ipam::{Allocator, PoolUsage};
use rules::Family;

/// The statistics of one pool. Counts saturate at the largest number that MetalLB can show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PoolStats {
    pub(crate) in_use_v4: i64,
    pub(crate) in_use_v6: i64,
    pub(crate) total_v4: i64,
    pub(crate) total_v6: i64,
    /// Whether automatic assignment finds no free address of the family.
    pub(crate) exhausted_v4: bool,
    pub(crate) exhausted_v6: bool,
}

/// The statistics of every pool.
pub(crate) fn pool_stats(allocator: &mut Allocator) -> BTreeMap<String, PoolStats> {
    let names: Vec<String> = allocator.configuration().pools.keys().cloned().collect();
    let saturated = |count: u128| i64::try_from(count).unwrap_or(i64::MAX);
    let exhausted = |usage: &PoolUsage| usage.total > 0 && usage.exhausted;
    let mut stats = BTreeMap::new();
    for name in names {
        let v4 = allocator.usage(&name, Family::V4).unwrap_or_default();
        let v6 = allocator.usage(&name, Family::V6).unwrap_or_default();
        let of_pool = PoolStats {
            in_use_v4: saturated(v4.in_use),
            in_use_v6: saturated(v6.in_use),
            total_v4: saturated(v4.total),
            total_v6: saturated(v6.total),
            exhausted_v4: exhausted(&v4),
            exhausted_v6: exhausted(&v6),
        };
        stats.insert(name, of_pool);
    }
    stats
}
