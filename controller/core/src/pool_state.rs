//! What is given out of one pool.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rules::{Family, Pool};

use crate::allocator::Occupant;
use crate::request::{Sharing, SharingPair};
use crate::shared::{Joiner, Shared};
use crate::space::Space;
use crate::usage::Usage;

/// What is given out of one pool.
#[derive(Clone, Debug)]
pub(crate) struct PoolState {
    space: Space,
    shared: BTreeMap<(Family, SharingPair), Shared>,
    used_v4: u64,
    used_v6: u64,
    /// Distinct addresses that each namespace has; kept only where a quota needs it.
    by_namespace: BTreeMap<String, u32>,
}

impl PoolState {
    /// The state of `pool` with those of `addresses` in use that are its own, of which some are `joinable`.
    pub(crate) fn build(
        pool: &Pool,
        addresses: &BTreeMap<IpAddr, Usage>,
        quarantine: &BTreeMap<IpAddr, Occupant>,
        joinable: impl Fn(IpAddr, &Usage) -> bool,
    ) -> Self {
        let mut state = Self {
            space: Space::new(pool),
            shared: BTreeMap::new(),
            used_v4: 0,
            used_v6: 0,
            by_namespace: BTreeMap::new(),
        };
        for range in &pool.ranges {
            for (ip, _) in quarantine.range(range.first()..=range.last()) {
                state.space.take(*ip);
            }
            for (ip, usage) in addresses.range(range.first()..=range.last()) {
                state.taken(*ip);
                if joinable(*ip, usage) {
                    state.share(*ip, pool, None, Some(usage));
                }
                if !pool.quotas.is_empty() {
                    let namespaces: BTreeSet<_> =
                        usage.claims().into_iter().map(|(service, _)| &service.namespace).collect();
                    for namespace in namespaces {
                        state.count_namespace(namespace, true);
                    }
                }
            }
        }
        state
    }

    #[cfg(test)]
    pub(crate) fn views(&self) -> usize {
        self.shared.values().map(Shared::views).sum()
    }

    fn used_mut(&mut self, family: Family) -> &mut u64 {
        match family {
            Family::V4 => &mut self.used_v4,
            Family::V6 => &mut self.used_v6,
        }
    }

    /// Distinct addresses of `family` in use.
    pub(crate) fn used(&self, family: Family) -> u64 {
        match family {
            Family::V4 => self.used_v4,
            Family::V6 => self.used_v6,
        }
    }

    /// Distinct addresses that `namespace` has; right only where the pool has quotas.
    pub(crate) fn namespace_has(&self, namespace: &str) -> u32 {
        self.by_namespace.get(namespace).copied().unwrap_or_default()
    }

    pub(crate) fn count_namespace(&mut self, namespace: &str, more: bool) {
        let count = self.by_namespace.entry(namespace.to_owned()).or_default();
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.by_namespace.remove(namespace);
        }
    }

    /// The first claim on `ip`.
    pub(crate) fn taken(&mut self, ip: IpAddr) {
        *self.used_mut(Family::of(ip)) += 1;
        self.space.take(ip);
    }

    /// The last claim on `ip` is gone.
    pub(crate) fn returned(&mut self, ip: IpAddr, pool: &Pool, quarantined: bool) {
        let used = self.used_mut(Family::of(ip));
        *used = used.saturating_sub(1);
        if !quarantined {
            self.space.give_back(ip, pool);
        }
    }

    /// `ip`, which nobody has, may be given again, or no longer.
    pub(crate) fn quarantine(&mut self, ip: IpAddr, pool: &Pool, on: bool) {
        if on { self.space.take(ip) } else { self.space.give_back(ip, pool) }
    }

    /// The pair of `ip` was `before`; now it is that of `usage`, or nobody may join it. What the pool keeps back is joined
    /// only on request.
    pub(crate) fn share(
        &mut self,
        ip: IpAddr,
        pool: &Pool,
        before: Option<SharingPair>,
        usage: Option<&Usage>,
    ) {
        let Some(position) = self.space.position(ip).filter(|_| !pool.is_reserved(ip)) else { return };
        let family = Family::of(ip);
        let now = usage.and_then(|usage| Some((usage.pair()?.clone(), usage)));
        if let Some(before) = before.filter(|before| now.as_ref().is_none_or(|(pair, _)| pair != before)) {
            let key = (family, before);
            if self.shared.get_mut(&key).is_some_and(|shared| shared.remove(position)) {
                self.shared.remove(&key);
            }
        }
        if let Some((pair, usage)) = now {
            self.shared.entry((family, pair)).or_default().insert(position, usage);
        }
    }

    /// The first address of `family` that a Service with `sharing` can have, shared or free.
    pub(crate) fn find(
        &mut self,
        family: Family,
        pool: &Pool,
        sharing: &Sharing,
        addresses: &BTreeMap<IpAddr, Usage>,
    ) -> Option<IpAddr> {
        let free = self.space.first_free(family, pool);
        let shared = self.find_shared(family, sharing, None, addresses);
        match (free, shared) {
            (Some(free), Some(shared)) => Some(free.min(shared).1),
            (free, shared) => free.or(shared).map(|(_, ip)| ip),
        }
    }

    /// The first address of `family`, with its position, that a Service with `sharing` can join, if need be beside one of
    /// `namespace`.
    pub(crate) fn find_shared(
        &mut self,
        family: Family,
        sharing: &Sharing,
        namespace: Option<&str>,
        addresses: &BTreeMap<IpAddr, Usage>,
    ) -> Option<(u128, IpAddr)> {
        let shared = self.shared.get_mut(&(family, sharing.pair.clone()?))?;
        let space = &self.space;
        let usage_at = |position| addresses.get(&space.address_at(family, position)?);
        let joiner = Joiner { ports: sharing.ports.clone(), namespace: namespace.map(str::to_owned) };
        let position = shared.first(&joiner, usage_at)?;
        Some((position, space.address_at(family, position)?))
    }

    /// Whether automatic assignment finds no free address of `family`.
    pub(crate) fn exhausted(&mut self, family: Family, pool: &Pool) -> bool {
        self.space.first_free(family, pool).is_none()
    }
}
