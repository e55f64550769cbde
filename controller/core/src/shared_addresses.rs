//! The addresses of one pool and family whose Services have one sharing key, and the search for the first of
//! them that another Service can join.

use std::collections::{BTreeMap, BTreeSet};

use crate::address_claims::AddressClaims;
use crate::request::ProtocolPort;

/// How many addresses are tried one by one before the result of a query is cached.
const SCAN_LIMIT: usize = 8;

/// The requirements of a Service that searches for an address to share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct JoinQuery {
    /// Ports that must be unused.
    pub(crate) ports: BTreeSet<ProtocolPort>,
    /// Set if a Service of this namespace must have the address already, so that a quota does not count it
    /// again.
    pub(crate) namespace: Option<String>,
}

impl JoinQuery {
    fn fits(&self, claims: &AddressClaims) -> bool {
        let in_namespace = |namespace: &String| claims.in_namespace(namespace);
        !claims.uses_any(&self.ports) && self.namespace.as_ref().is_none_or(in_namespace)
    }
}

/// How many queries are cached at most: a query that was made once must not cost memory and time for ever.
const MAX_CACHED: usize = 128;

/// The positions that satisfy one query.
#[derive(Clone, Debug)]
struct CachedQuery {
    positions: BTreeSet<u128>,
    /// Value of [`SharedAddresses::lookups`] at its last use.
    last_used: u64,
}

/// Positions of the addresses whose Services have one sharing key.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedAddresses {
    positions: BTreeSet<u128>,
    /// Queries that the first addresses did not satisfy, with the positions that do.
    cached: BTreeMap<JoinQuery, CachedQuery>,
    /// How often a cached query was used.
    lookups: u64,
}

impl SharedAddresses {
    /// The address at `position` now has `claims`.
    pub(crate) fn insert(&mut self, position: u128, claims: &AddressClaims) {
        self.positions.insert(position);
        for (query, cached) in &mut self.cached {
            if query.fits(claims) {
                cached.positions.insert(position);
            } else {
                cached.positions.remove(&position);
            }
        }
    }

    /// The address at `position` no longer has the sharing key. True if no address is left.
    pub(crate) fn remove(&mut self, position: u128) -> bool {
        self.positions.remove(&position);
        for cached in self.cached.values_mut() {
            cached.positions.remove(&position);
        }
        self.positions.is_empty()
    }

    /// The first position that satisfies `query`.
    pub(crate) fn first<'a>(
        &mut self,
        query: &JoinQuery,
        claims_at: impl Fn(u128) -> Option<&'a AddressClaims>,
    ) -> Option<u128> {
        let fits = |position: &u128| claims_at(*position).is_some_and(|claims| query.fits(claims));
        if let Some(position) = self.positions.iter().take(SCAN_LIMIT).find(|position| fits(position)) {
            return Some(*position);
        }
        if self.positions.len() <= SCAN_LIMIT {
            return None;
        }
        if !self.cached.contains_key(query) {
            self.evict_least_recently_used();
            let positions = self.positions.iter().copied().filter(|position| fits(position)).collect();
            self.cached.insert(query.clone(), CachedQuery { positions, last_used: 0 });
        }
        self.lookups += 1;
        let cached = self.cached.get_mut(query)?;
        cached.last_used = self.lookups;
        cached.positions.first().copied()
    }

    /// Makes room for another cached query by evicting the least recently used one.
    fn evict_least_recently_used(&mut self) {
        while self.cached.len() >= MAX_CACHED {
            let oldest =
                self.cached.iter().min_by_key(|(_, cached)| cached.last_used).map(|(query, _)| query.clone());
            let Some(oldest) = oldest else { return };
            self.cached.remove(&oldest);
        }
    }

    #[cfg(test)]
    pub(crate) fn cached_queries(&self) -> usize {
        self.cached.len()
    }
}
