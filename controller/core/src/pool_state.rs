//! The assigned and free addresses of one pool.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rules::{Family, Pool};

use crate::address_claims::AddressClaims;
use crate::free_list::FreeList;
use crate::occupant::Occupant;
use crate::request::{Sharing, SharingKey};
use crate::shared_addresses::{JoinQuery, SharedAddresses};

/// The assigned and free addresses of one pool.
#[derive(Clone, Debug)]
pub(crate) struct PoolState {
    free: FreeList,
    shared: BTreeMap<(Family, SharingKey), SharedAddresses>,
    used_v4: u64,
    used_v6: u64,
    /// Distinct addresses of each namespace; counted only if the pool has quotas.
    by_namespace: BTreeMap<String, u32>,
}

impl PoolState {
    /// The state of `pool` with its part of `addresses` in use; Services may join those that are `joinable`.
    pub(crate) fn build(
        pool: &Pool,
        addresses: &BTreeMap<IpAddr, AddressClaims>,
        quarantine: &BTreeMap<IpAddr, Occupant>,
        joinable: impl Fn(IpAddr, &AddressClaims) -> bool,
    ) -> Self {
        let mut state = Self {
            free: FreeList::new(pool),
            shared: BTreeMap::new(),
            used_v4: 0,
            used_v6: 0,
            by_namespace: BTreeMap::new(),
        };
        for range in &pool.ranges {
            for (ip, _) in quarantine.range(range.first()..=range.last()) {
                state.free.remove(*ip);
            }
            for (ip, claims) in addresses.range(range.first()..=range.last()) {
                state.mark_used(*ip);
                if joinable(*ip, claims) {
                    state.update_shared(*ip, pool, None, Some(claims));
                }
                if !pool.quotas.is_empty() {
                    let namespaces: BTreeSet<_> =
                        claims.holders().into_iter().map(|(service, _)| &service.namespace).collect();
                    for namespace in namespaces {
                        state.count_namespace(namespace, true);
                    }
                }
            }
        }
        state
    }

    #[cfg(test)]
    pub(crate) fn cached_queries(&self) -> usize {
        self.shared.values().map(SharedAddresses::cached_queries).sum()
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

    /// Distinct addresses of `namespace`; correct only if the pool has quotas.
    pub(crate) fn addresses_of_namespace(&self, namespace: &str) -> u32 {
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
    pub(crate) fn mark_used(&mut self, ip: IpAddr) {
        *self.used_mut(Family::of(ip)) += 1;
        self.free.remove(ip);
    }

    /// The last claim on `ip` was removed.
    pub(crate) fn mark_free(&mut self, ip: IpAddr, pool: &Pool, quarantined: bool) {
        let used = self.used_mut(Family::of(ip));
        *used = used.saturating_sub(1);
        if !quarantined {
            self.free.insert(ip, pool);
        }
    }

    /// Whether a machine uses `ip`, which no Service claims, so that it is not assigned.
    pub(crate) fn set_quarantined(&mut self, ip: IpAddr, pool: &Pool, quarantined: bool) {
        if quarantined { self.free.remove(ip) } else { self.free.insert(ip, pool) }
    }

    /// The sharing key of `ip` was `before`. Now it is that of `claims`; without claims no Service may join
    /// it. A reserved address is joined only by Services that ask for it.
    pub(crate) fn update_shared(
        &mut self,
        ip: IpAddr,
        pool: &Pool,
        before: Option<SharingKey>,
        claims: Option<&AddressClaims>,
    ) {
        let Some(position) = self.free.position(ip).filter(|_| !pool.is_reserved(ip)) else { return };
        let family = Family::of(ip);
        let now = claims.and_then(|claims| Some((claims.sharing_key()?.clone(), claims)));
        if let Some(before) = before.filter(|before| now.as_ref().is_none_or(|(key, _)| key != before)) {
            let key = (family, before);
            if self.shared.get_mut(&key).is_some_and(|shared| shared.remove(position)) {
                self.shared.remove(&key);
            }
        }
        if let Some((key, claims)) = now {
            self.shared.entry((family, key)).or_default().insert(position, claims);
        }
    }

    /// The first address of `family` that a Service with `sharing` can have, shared or free.
    pub(crate) fn find_address(
        &mut self,
        family: Family,
        pool: &Pool,
        sharing: &Sharing,
        addresses: &BTreeMap<IpAddr, AddressClaims>,
    ) -> Option<IpAddr> {
        let free = self.free.first_free(family, pool);
        let shared = self.find_shared(family, sharing, None, addresses);
        match (free, shared) {
            (Some(free), Some(shared)) => Some(free.min(shared).1),
            (free, shared) => free.or(shared).map(|(_, ip)| ip),
        }
    }

    /// The first address of `family`, with its position, that a Service with `sharing` can join. If
    /// `namespace` is set, a Service of it must have the address already.
    pub(crate) fn find_shared(
        &mut self,
        family: Family,
        sharing: &Sharing,
        namespace: Option<&str>,
        addresses: &BTreeMap<IpAddr, AddressClaims>,
    ) -> Option<(u128, IpAddr)> {
        let shared = self.shared.get_mut(&(family, sharing.key.clone()?))?;
        let free = &self.free;
        let claims_at = |position| addresses.get(&free.address_at(family, position)?);
        let query = JoinQuery { ports: sharing.ports.clone(), namespace: namespace.map(str::to_owned) };
        let position = shared.first(&query, claims_at)?;
        Some((position, free.address_at(family, position)?))
    }

    /// Whether automatic assignment finds no free address of `family`.
    pub(crate) fn exhausted(&mut self, family: Family, pool: &Pool) -> bool {
        self.free.first_free(family, pool).is_none()
    }
}
