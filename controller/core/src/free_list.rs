//! The free addresses of one pool, as intervals.
//!
//! Addresses are assigned in the listed order of the ranges. The ranges of each family are therefore numbered
//! consecutively by *positions*. Free addresses are stored as intervals of positions, and the first position
//! is assigned next. Every operation is O(log n) in the number of ranges and fragments, whatever the number
//! of addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rangemap::RangeInclusiveSet;
use rules::{Family, IpRange, Pool, bits};

/// The free addresses of one pool.
#[derive(Clone, Debug)]
pub(crate) struct FreeList {
    v4: FamilyRanges,
    v6: FamilyRanges,
}

/// The ranges of one family, numbered consecutively.
#[derive(Clone, Debug, Default)]
struct FamilyRanges {
    /// First bits of a range → (its last bits, its position).
    by_bits: BTreeMap<u128, (u128, u128)>,
    /// Position of a range → its first bits.
    by_position: BTreeMap<u128, u128>,
    /// Positions that automatic assignment may use.
    free: RangeInclusiveSet<u128>,
}

impl FamilyRanges {
    fn new<'a>(ranges: impl Iterator<Item = &'a IpRange>) -> Self {
        let mut numbered = Self::default();
        // The ranges of a family do not overlap, so the sum of their sizes reaches 2^128 at most, and then
        // only after the last of them.
        let mut next = 0_u128;
        for range in ranges {
            let (first, last) = range.bits();
            numbered.by_bits.insert(first, (last, next));
            numbered.by_position.insert(next, first);
            let end = next + (last - first);
            numbered.free.insert(next..=end);
            next = end.wrapping_add(1);
        }
        numbered
    }

    fn position(&self, bits: u128) -> Option<u128> {
        let (first, (last, position)) = self.by_bits.range(..=bits).next_back()?;
        (bits <= *last).then(|| position + (bits - first))
    }

    fn bits_at(&self, position: u128) -> Option<u128> {
        let (start, first) = self.by_position.range(..=position).next_back()?;
        Some(first + (position - start))
    }
}

impl FreeList {
    /// All addresses of `pool` except the reserved ones.
    pub(crate) fn new(pool: &Pool) -> Self {
        let of = |family: Family| {
            FamilyRanges::new(pool.ranges.iter().filter(move |range| range.family() == family))
        };
        let mut free = Self { v4: of(Family::V4), v6: of(Family::V6) };
        for reserved in &pool.reserved {
            free.remove_range(reserved);
        }
        free
    }

    fn ranges(&self, family: Family) -> &FamilyRanges {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn ranges_mut(&mut self, family: Family) -> &mut FamilyRanges {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// The position of `ip` in the order of assignment.
    pub(crate) fn position(&self, ip: IpAddr) -> Option<u128> {
        self.ranges(Family::of(ip)).position(bits(ip))
    }

    /// The address at a position of a family.
    pub(crate) fn address_at(&self, family: Family, position: u128) -> Option<IpAddr> {
        self.ranges(family).bits_at(position).map(|bits| family.address(bits))
    }

    /// The first free address of `family`, with its position.
    ///
    /// Addresses that `avoidBuggyIPs` excludes are removed only when they are reached, so that they need no
    /// memory before.
    pub(crate) fn first_free(&mut self, family: Family, pool: &Pool) -> Option<(u128, IpAddr)> {
        loop {
            let ranges = self.ranges_mut(family);
            let position = *ranges.free.first()?.start();
            let ip = family.address(ranges.bits_at(position)?);
            if !pool.avoids(ip) {
                return Some((position, ip));
            }
            ranges.free.remove(position..=position);
        }
    }

    /// Removes `ip` from the free addresses.
    pub(crate) fn remove(&mut self, ip: IpAddr) {
        let ranges = self.ranges_mut(Family::of(ip));
        if let Some(position) = ranges.position(bits(ip)) {
            ranges.free.remove(position..=position);
        }
    }

    /// Adds `ip` to the free addresses, unless it is reserved or excluded.
    pub(crate) fn insert(&mut self, ip: IpAddr, pool: &Pool) {
        if pool.is_reserved(ip) {
            return;
        }
        let ranges = self.ranges_mut(Family::of(ip));
        if let Some(position) = ranges.position(bits(ip)) {
            ranges.free.insert(position..=position);
        }
    }

    /// Removes the addresses of the pool that are in `reserved`.
    fn remove_range(&mut self, reserved: &IpRange) {
        let (first, last) = reserved.bits();
        let ranges = self.ranges_mut(reserved.family());
        let parts: Vec<_> = ranges
            .by_bits
            .range(..=last)
            .filter(|(_, (end, _))| *end >= first)
            .map(|(start, (end, position))| {
                let (from, to) = ((*start).max(first), (*end).min(last));
                position + (from - start)..=position + (to - start)
            })
            .collect();
        for part in parts {
            ranges.free.remove(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn pool(addresses: &[&str], reserved: &[&str], avoid: bool) -> Pool {
        let parse = |texts: &[&str]| {
            texts.iter().map(|text| rules::parse_addresses(text).unwrap().unwrap()).collect::<Vec<_>>()
        };
        Pool {
            name: "p".into(),
            ranges: parse(addresses),
            auto_assign: true,
            avoid_buggy_ips: avoid,
            allocation: None,
            labels: BTreeMap::new(),
            reserved: parse(reserved),
            quotas: Vec::new(),
        }
    }

    fn all_free(pool: &Pool, family: Family, limit: usize) -> Vec<String> {
        let mut free = FreeList::new(pool);
        std::iter::from_fn(|| {
            let (_, ip) = free.first_free(family, pool)?;
            free.remove(ip);
            Some(ip.to_string())
        })
        .take(limit)
        .collect()
    }

    #[test]
    fn addresses_come_in_listed_order_lowest_first() {
        let pool = pool(&["10.0.0.9-10.0.0.10", "10.0.0.1-10.0.0.2", "fc00::/126"], &[], false);
        assert_eq!(all_free(&pool, Family::V4, 9), ["10.0.0.9", "10.0.0.10", "10.0.0.1", "10.0.0.2"]);
        assert_eq!(all_free(&pool, Family::V6, 9), ["fc00::", "fc00::1", "fc00::2", "fc00::3"]);
    }

    #[test]
    fn excluded_and_reserved_addresses_are_not_assigned() {
        let pool = pool(&["10.0.0.254-10.0.1.3"], &["10.0.1.2-10.0.1.9"], true);
        assert_eq!(all_free(&pool, Family::V4, 9), ["10.0.0.254", "10.0.1.1"]);
    }

    #[test]
    fn an_address_that_becomes_free_is_assigned_next_if_it_is_the_first() {
        let pool = pool(&["10.0.0.1-10.0.0.3"], &[], false);
        let mut free = FreeList::new(&pool);
        for _ in 0..2 {
            let (_, ip) = free.first_free(Family::V4, &pool).unwrap();
            free.remove(ip);
        }
        free.insert("10.0.0.1".parse().unwrap(), &pool);
        assert_eq!(free.first_free(Family::V4, &pool).unwrap().1.to_string(), "10.0.0.1");
        assert_eq!(free.position("10.0.0.3".parse().unwrap()), Some(2));
        assert_eq!(free.position("10.0.0.4".parse().unwrap()), None);
        assert_eq!(free.address_at(Family::V4, 2).unwrap().to_string(), "10.0.0.3");
    }

    #[test]
    fn a_pool_can_contain_all_addresses_of_both_families() {
        let pool = pool(&["0.0.0.0/0", "::/0"], &[], false);
        assert_eq!(all_free(&pool, Family::V4, 2), ["0.0.0.0", "0.0.0.1"]);
        let mut free = FreeList::new(&pool);
        free.remove("::".parse().unwrap());
        free.remove("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap());
        free.insert("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(), &pool);
        assert_eq!(free.first_free(Family::V6, &pool).unwrap().1.to_string(), "::1");
    }
}
