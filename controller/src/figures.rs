//! How full pools are.

use std::collections::BTreeMap;

use ipam::{Allocator, PoolUsage};
use rules::Family;

/// How full one pool is, saturating at the largest number that MetalLB can show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PoolFigures {
    pub(crate) in_use_v4: i64,
    pub(crate) in_use_v6: i64,
    pub(crate) total_v4: i64,
    pub(crate) total_v6: i64,
    /// Families of the pool that automatic assignment finds nothing in.
    pub(crate) exhausted_v4: bool,
    pub(crate) exhausted_v6: bool,
}

/// How full every pool is.
pub(crate) fn figures(allocator: &mut Allocator) -> BTreeMap<String, PoolFigures> {
    let names: Vec<String> = allocator.configuration().pools.keys().cloned().collect();
    let saturated = |count: u128| i64::try_from(count).unwrap_or(i64::MAX);
    let exhausted = |usage: &PoolUsage| usage.total > 0 && usage.exhausted;
    let mut figures = BTreeMap::new();
    for name in names {
        let v4 = allocator.usage(&name, Family::V4).unwrap_or_default();
        let v6 = allocator.usage(&name, Family::V6).unwrap_or_default();
        let of_pool = PoolFigures {
            in_use_v4: saturated(v4.in_use),
            in_use_v6: saturated(v6.in_use),
            total_v4: saturated(v4.total),
            total_v6: saturated(v6.total),
            exhausted_v4: exhausted(&v4),
            exhausted_v6: exhausted(&v6),
        };
        figures.insert(name, of_pool);
    }
    figures
}
