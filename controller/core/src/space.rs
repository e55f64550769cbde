//! The free addresses of one pool, as intervals.
//!
//! The ranges of a pool are tried in listed order, so each family's ranges are laid end to end on a line of
//! *positions*; the free addresses are intervals of that line, and the next one to give is the first of it. Every
//! operation costs O(log n) in ranges and fragments, whatever the number of addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rangemap::RangeInclusiveSet;
use rules::{Family, IpRange, Pool, bits};

/// The free addresses of one pool.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    v4: Line,
    v6: Line,
}

/// The ranges of one family laid end to end.
#[derive(Clone, Debug, Default)]
struct Line {
    /// First bits of a range → (its last bits, its position).
    by_bits: BTreeMap<u128, (u128, u128)>,
    /// Position of a range → its first bits.
    by_position: BTreeMap<u128, u128>,
    /// Positions that automatic assignment may give.
    free: RangeInclusiveSet<u128>,
}

impl Line {
    fn new<'a>(ranges: impl Iterator<Item = &'a IpRange>) -> Self {
        let mut line = Self::default();
        // The ranges of a family do not overlap, so the sum of their sizes reaches 2^128 at most, and then only
        // after the last of them.
        let mut next = 0_u128;
        for range in ranges {
            let (first, last) = range.bits();
            line.by_bits.insert(first, (last, next));
            line.by_position.insert(next, first);
            let end = next + (last - first);
            line.free.insert(next..=end);
            next = end.wrapping_add(1);
        }
        line
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

impl Space {
    /// Everything in `pool` is free but what it reserves.
    pub(crate) fn new(pool: &Pool) -> Self {
        let of = |family: Family| Line::new(pool.ranges.iter().filter(move |range| range.family() == family));
        let mut space = Self { v4: of(Family::V4), v6: of(Family::V6) };
        for reserved in &pool.reserved {
            space.take_range(reserved);
        }
        space
    }

    fn line(&self, family: Family) -> &Line {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn line_mut(&mut self, family: Family) -> &mut Line {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Where `ip` stands in the order in which addresses are tried.
    pub(crate) fn position(&self, ip: IpAddr) -> Option<u128> {
        self.line(Family::of(ip)).position(bits(ip))
    }

    /// The address at a position of a family.
    pub(crate) fn address_at(&self, family: Family, position: u128) -> Option<IpAddr> {
        self.line(family).bits_at(position).map(|bits| family.address(bits))
    }

    /// The first free address of `family`, with its position.
    ///
    /// Addresses that the pool avoids leave the free ones here, when they are first met, so that they need no
    /// memory before.
    pub(crate) fn first_free(&mut self, family: Family, pool: &Pool) -> Option<(u128, IpAddr)> {
        loop {
            let line = self.line_mut(family);
            let position = *line.free.first()?.start();
            let ip = family.address(line.bits_at(position)?);
            if !pool.avoids(ip) {
                return Some((position, ip));
            }
            line.free.remove(position..=position);
        }
    }

    /// Takes `ip` out of the free ones.
    pub(crate) fn take(&mut self, ip: IpAddr) {
        let line = self.line_mut(Family::of(ip));
        if let Some(position) = line.position(bits(ip)) {
            line.free.remove(position..=position);
        }
    }

    /// Puts `ip` back, unless the pool keeps it back.
    pub(crate) fn give_back(&mut self, ip: IpAddr, pool: &Pool) {
        if pool.is_reserved(ip) {
            return;
        }
        let line = self.line_mut(Family::of(ip));
        if let Some(position) = line.position(bits(ip)) {
            line.free.insert(position..=position);
        }
    }

    /// Takes the addresses that `reserved` has in common with the pool.
    fn take_range(&mut self, reserved: &IpRange) {
        let (first, last) = reserved.bits();
        let line = self.line_mut(reserved.family());
        let pieces: Vec<_> = line
            .by_bits
            .range(..=last)
            .filter(|(_, (end, _))| *end >= first)
            .map(|(start, (end, position))| {
                let (from, to) = ((*start).max(first), (*end).min(last));
                position + (from - start)..=position + (to - start)
            })
            .collect();
        for piece in pieces {
            line.free.remove(piece);
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

    fn drain(pool: &Pool, family: Family, limit: usize) -> Vec<String> {
        let mut space = Space::new(pool);
        std::iter::from_fn(|| {
            let (_, ip) = space.first_free(family, pool)?;
            space.take(ip);
            Some(ip.to_string())
        })
        .take(limit)
        .collect()
    }

    #[test]
    fn addresses_come_in_listed_order_lowest_first() {
        let pool = pool(&["10.0.0.9-10.0.0.10", "10.0.0.1-10.0.0.2", "fc00::/126"], &[], false);
        assert_eq!(drain(&pool, Family::V4, 9), ["10.0.0.9", "10.0.0.10", "10.0.0.1", "10.0.0.2"]);
        assert_eq!(drain(&pool, Family::V6, 9), ["fc00::", "fc00::1", "fc00::2", "fc00::3"]);
    }

    #[test]
    fn avoided_and_reserved_addresses_are_not_given() {
        let pool = pool(&["10.0.0.254-10.0.1.3"], &["10.0.1.2-10.0.1.9"], true);
        assert_eq!(drain(&pool, Family::V4, 9), ["10.0.0.254", "10.0.1.1"]);
    }

    #[test]
    fn an_address_given_back_is_the_next_to_be_given_if_it_is_the_first() {
        let pool = pool(&["10.0.0.1-10.0.0.3"], &[], false);
        let mut space = Space::new(&pool);
        for _ in 0..2 {
            let (_, ip) = space.first_free(Family::V4, &pool).unwrap();
            space.take(ip);
        }
        space.give_back("10.0.0.1".parse().unwrap(), &pool);
        assert_eq!(space.first_free(Family::V4, &pool).unwrap().1.to_string(), "10.0.0.1");
        assert_eq!(space.position("10.0.0.3".parse().unwrap()), Some(2));
        assert_eq!(space.position("10.0.0.4".parse().unwrap()), None);
        assert_eq!(space.address_at(Family::V4, 2).unwrap().to_string(), "10.0.0.3");
    }

    #[test]
    fn the_whole_of_both_families_fits() {
        let pool = pool(&["0.0.0.0/0", "::/0"], &[], false);
        assert_eq!(drain(&pool, Family::V4, 2), ["0.0.0.0", "0.0.0.1"]);
        let mut space = Space::new(&pool);
        space.take("::".parse().unwrap());
        space.take("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap());
        space.give_back("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(), &pool);
        assert_eq!(space.first_free(Family::V6, &pool).unwrap().1.to_string(), "::1");
    }
}
