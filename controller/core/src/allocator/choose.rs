//! The choice of addresses for a Service: keep the current ones, add a family, move, or refuse.

use std::net::IpAddr;
use std::sync::Arc;

use rules::{Configuration, Family, Pool};

use super::Allocator;
use super::retention::{admission_refusal, missing_families};
use crate::address_claims::{ServiceRef, SharingConflict};
use crate::occupant::Occupant;
use crate::refusal::{PoolReason, Refusal};
use crate::request::{Families, Request, Wanted};

/// The addresses chosen for a Service, and why the request is not met, if so.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) refusal: Option<Refusal>,
}

impl Choice {
    fn fulfilled(addresses: Vec<IpAddr>) -> Self {
        Self { addresses, refusal: None }
    }

    fn refused(kept: &[IpAddr], refusal: Refusal) -> Self {
        Self { addresses: kept.to_vec(), refusal: Some(refusal) }
    }
}

impl Allocator {
    /// Chooses addresses for `service`, which may keep `kept`. `lost` is set during the grace period of one
    /// of these.
    ///
    /// A request that cannot be met never removes a current address.
    pub(super) fn choose(
        &mut self,
        service: &ServiceRef,
        request: &Request,
        kept: &[IpAddr],
        lost: Option<Refusal>,
    ) -> Choice {
        let (families, wanted) = match (&request.families, &request.wanted) {
            (Ok(families), Ok(wanted)) => (*families, wanted),
            (Err(fault), _) | (_, Err(fault)) => {
                return Choice::refused(kept, Refusal::Request(fault.clone()));
            }
        };
        match wanted {
            Wanted::Addresses { addresses, pool } => {
                self.choose_addresses(service, request, kept, lost, addresses, pool.as_deref())
            }
            _ if lost.is_some() => Choice { addresses: kept.to_vec(), refusal: lost },
            Wanted::Pool(name) => self.choose_in_pool(service, request, kept, families, name),
            Wanted::Any if kept.is_empty() => self.choose_any(service, request, families),
            Wanted::Any => self.add_missing_family(service, request, kept, families),
        }
    }

    fn choose_addresses(
        &mut self,
        service: &ServiceRef,
        request: &Request,
        kept: &[IpAddr],
        lost: Option<Refusal>,
        wanted: &[IpAddr],
        pool: Option<&str>,
    ) -> Choice {
        let has_all = wanted.len() == kept.len() && wanted.iter().all(|ip| kept.contains(ip));
        if has_all && lost.is_some() {
            return Choice { addresses: kept.to_vec(), refusal: lost };
        }
        match self.check_addresses(service, request, kept, wanted, pool) {
            Ok(()) => Choice::fulfilled(wanted.to_vec()),
            Err(refusal) => Choice::refused(kept, refusal),
        }
    }

    /// Whether `service` can have exactly `wanted`.
    fn check_addresses(
        &self,
        service: &ServiceRef,
        request: &Request,
        kept: &[IpAddr],
        wanted: &[IpAddr],
        asked: Option<&str>,
    ) -> Result<(), Refusal> {
        // First what does not change by waiting.
        let pool = self.common_pool(service, request, kept, wanted, asked)?;
        let new: Vec<IpAddr> = wanted.iter().copied().filter(|ip| !kept.contains(ip)).collect();
        for ip in new.iter().copied() {
            match self.quarantine.get(&ip) {
                Some(Occupant::ForeignHost) => return Err(Refusal::Conflict(ip)),
                Some(Occupant::Node(node)) => return Err(Refusal::NodeAddress { ip, node: node.clone() }),
                None => {}
            }
            if let Some(claims) = self.addresses.get(&ip)
                && let Some((holder, reason)) = claims.blocker(service, &request.sharing, |_| true)
            {
                return Err(Refusal::Taken { ip, holder: (*holder).clone(), reason });
            }
            if let Some(holder) = self.departing_holder(service, ip) {
                return Err(Refusal::Taken {
                    ip,
                    holder: (*holder).clone(),
                    reason: SharingConflict::HolderLeaving,
                });
            }
        }
        // A lowered quota removes no address: it applies only to additional ones.
        let Some(pool) = pool.filter(|_| !new.is_empty()) else { return Ok(()) };
        self.check_quota(pool, service, wanted)
            .map_err(|reason| Refusal::Pool { pool: pool.name.clone(), reason })
    }

    /// The holder of `ip` if all its holders are about to leave it and it is not handed over to `service`.
    fn departing_holder(&self, service: &ServiceRef, ip: IpAddr) -> Option<ServiceRef> {
        let claims = self.addresses.get(&ip)?;
        let handed_to_service = self.handoffs.get(&ip) == Some(service);
        if handed_to_service || claims.contains(service) || self.is_joinable(ip, claims) {
            return None;
        }
        claims.holders().first().map(|(holder, _)| Arc::clone(holder))
    }

    /// The pool that contains all of `wanted` and may assign it to `service`; `None` if all addresses are
    /// kept and their pool is rejected.
    fn common_pool(
        &self,
        service: &ServiceRef,
        request: &Request,
        kept: &[IpAddr],
        wanted: &[IpAddr],
        asked: Option<&str>,
    ) -> Result<Option<&Pool>, Refusal> {
        let mut first: Option<&Pool> = None;
        for ip in wanted.iter().copied() {
            let keeps = kept.contains(&ip);
            let Some(pool) = self.configuration.pool_of(ip) else {
                let rejected = &self.configuration.rejected_pools;
                let of = rejected.iter().find(|(_, ranges)| ranges.iter().any(|range| range.contains(ip)));
                return match of {
                    _ if keeps => continue,
                    Some((pool, _)) => Err(Refusal::InvalidPool(pool.clone())),
                    None => Err(Refusal::OutsideEveryPool(ip)),
                };
            };
            if let Some(asked) = asked.filter(|asked| *asked != pool.name) {
                return Err(Refusal::NotInPool { ip, asked: asked.to_owned(), pool: pool.name.clone() });
            }
            if let Some(first) = first.filter(|first| first.name != pool.name) {
                return Err(Refusal::TwoPools(first.name.clone(), pool.name.clone()));
            }
            first = Some(pool);
            if keeps {
                continue;
            }
            if self.is_rejected(&pool.name) {
                return Err(Refusal::InvalidPool(pool.name.clone()));
            }
            if pool.avoids(ip) {
                return Err(Refusal::Excluded { ip, pool: pool.name.clone() });
            }
            if let Some(reason) = admission_refusal(pool, service, request) {
                return Err(Refusal::Pool { pool: pool.name.clone(), reason });
            }
        }
        Ok(first)
    }

    fn choose_in_pool(
        &mut self,
        service: &ServiceRef,
        request: &Request,
        kept: &[IpAddr],
        families: Families,
        name: &str,
    ) -> Choice {
        if kept.first().and_then(|ip| self.configuration.pool_of(*ip)).is_some_and(|pool| pool.name == name) {
            return self.add_missing_family(service, request, kept, families);
        }
        if self.is_rejected(name) {
            return Choice::refused(kept, Refusal::InvalidPool(name.to_owned()));
        }
        if !self.configuration.pools.contains_key(name) {
            return Choice::refused(kept, Refusal::UnknownPool(name.to_owned()));
        }
        match self.find_first_of(name, service, request, &family_sets_in_named_pool(families)) {
            Ok(addresses) => self.add_missing_family(service, request, &addresses, families),
            Err(reason) => Choice::refused(kept, Refusal::Pool { pool: name.to_owned(), reason }),
        }
    }

    /// Automatic assignment: first from restricted pools, then from the others.
    fn choose_any(&mut self, service: &ServiceRef, request: &Request, families: Families) -> Choice {
        let Configuration { pools, rejected_pools, .. } = &*self.configuration;
        if pools.is_empty() && rejected_pools.is_empty() {
            return Choice::refused(&[], Refusal::NoPools);
        }
        let unusable = rejected_pools.keys().filter(|name| !pools.contains_key(*name));
        let mut reasons: Vec<(String, PoolReason)> =
            unusable.map(|name| (name.clone(), PoolReason::Invalid)).collect();
        for group in [self.restricted.clone(), self.unrestricted.clone()] {
            for (index, family_set) in family_sets(families).iter().enumerate() {
                for name in &group {
                    if let Some(reason) = self.auto_assign_refusal(name, service, request) {
                        if index == 0 {
                            reasons.push((name.clone(), reason));
                        }
                        continue;
                    }
                    match self.find_first_of(name, service, request, std::slice::from_ref(family_set)) {
                        Ok(addresses) => {
                            return self.add_missing_family(service, request, &addresses, families);
                        }
                        Err(reason) if index == 0 => reasons.push((name.clone(), reason)),
                        Err(_) => {}
                    }
                }
            }
        }
        reasons.sort_by(|a, b| a.0.cmp(&b.0));
        Choice::refused(&[], Refusal::NoPoolFits(reasons))
    }

    /// Whether the pool has an error: addresses of its last valid version are kept, and no new ones are
    /// assigned.
    pub(super) fn is_rejected(&self, name: &str) -> bool {
        self.configuration.rejected_pools.contains_key(name)
    }

    /// Why the pool `name` assigns no address to `service` automatically.
    pub(super) fn auto_assign_refusal(
        &self,
        name: &str,
        service: &ServiceRef,
        request: &Request,
    ) -> Option<PoolReason> {
        let pool = self.configuration.pools.get(name)?;
        if self.is_rejected(name) {
            return Some(PoolReason::Invalid);
        }
        if !pool.auto_assign {
            return Some(PoolReason::AutoAssignOff);
        }
        admission_refusal(pool, service, request)
    }

    /// Adds the family that `current` lacks, from the same pool.
    fn add_missing_family(
        &mut self,
        service: &ServiceRef,
        request: &Request,
        current: &[IpAddr],
        families: Families,
    ) -> Choice {
        let missing = missing_families(families, current);
        let Some(family) = missing.first().copied() else { return Choice::fulfilled(current.to_vec()) };
        let Some(name) =
            current.first().and_then(|ip| self.configuration.pool_of(*ip)).map(|p| p.name.clone())
        else {
            let rejected =
                self.services.get(service).and_then(|entry| entry.pool.clone()).unwrap_or_default();
            return Choice::refused(current, Refusal::InvalidPool(rejected));
        };
        let reason = match self.find_addresses(&name, service, request, current, &[family]) {
            Ok(more) => {
                let mut both = [current, &more].concat();
                both.sort();
                return Choice::fulfilled(both);
            }
            Err(reason) => reason,
        };
        let required = matches!(families, Families::Dual { required: true, .. });
        if required && request.wanted == Ok(Wanted::Any) {
            let moved = self.choose_any(service, request, families);
            if moved.refusal.is_none() {
                return moved;
            }
        }
        Choice::refused(current, Refusal::MissingFamily { family, pool: name, reason })
    }

    /// Addresses of both families from another pool, if one has them, for a Service that prefers two families
    /// and has lost its primary one. Its clients need a new address in any case, and in its current pool it
    /// would have no address of the primary family. A Service that loses the other family stays in its pool.
    pub(super) fn both_families_elsewhere(
        &mut self,
        service: &ServiceRef,
        request: &Request,
        choice: &Choice,
    ) -> Option<Choice> {
        let Some(Refusal::MissingFamily { family, .. }) = &choice.refusal else { return None };
        let (Ok(Families::Dual { primary, .. }), Ok(Wanted::Any)) = (&request.families, &request.wanted)
        else {
            return None;
        };
        if family != primary {
            return None;
        }
        let pools: Vec<String> = self.restricted.iter().chain(&self.unrestricted).cloned().collect();
        let found = pools.iter().find_map(|name| {
            if self.auto_assign_refusal(name, service, request).is_some() {
                return None;
            }
            self.find_first_of(name, service, request, &[Family::ALL.to_vec()]).ok()
        });
        found.map(Choice::fulfilled)
    }

    /// Addresses from the pool `name` for the first of `family_sets` that it has addresses for.
    fn find_first_of(
        &mut self,
        name: &str,
        service: &ServiceRef,
        request: &Request,
        family_sets: &[Vec<Family>],
    ) -> Result<Vec<IpAddr>, PoolReason> {
        let mut first_reason = None;
        for families in family_sets {
            match self.find_addresses(name, service, request, &[], families) {
                Ok(found) => return Ok(found),
                Err(reason) => first_reason = first_reason.or(Some(reason)),
            }
        }
        Err(first_reason.unwrap_or(PoolReason::AutoAssignOff))
    }

    /// One address of each of `families` from the pool `name`, in addition to `current`.
    fn find_addresses(
        &mut self,
        name: &str,
        service: &ServiceRef,
        request: &Request,
        current: &[IpAddr],
        families: &[Family],
    ) -> Result<Vec<IpAddr>, PoolReason> {
        let configuration = Arc::clone(&self.configuration);
        let (Some(pool), Some(state)) = (configuration.pools.get(name), self.pools.get_mut(name)) else {
            return Err(PoolReason::AutoAssignOff);
        };
        if configuration.rejected_pools.contains_key(name) {
            return Err(PoolReason::Invalid);
        }
        if let Some(reason) = admission_refusal(pool, service, request) {
            return Err(reason);
        }
        let mut found = Vec::with_capacity(families.len());
        for family in families {
            let ip = state.find_address(*family, pool, &request.sharing, &self.addresses);
            found.push(ip.ok_or_else(|| no_free_address(pool, state.used(*family), *family))?);
        }
        let Err(reason) = self.check_quota(pool, service, &[current, &found].concat()) else {
            return Ok(found);
        };
        // If the quota is reached, addresses that the namespace has already can still be shared.
        self.shared_alternatives(pool, service, request, families, &found)
            .into_iter()
            .find(|alternative| self.check_quota(pool, service, &[current, alternative].concat()).is_ok())
            .ok_or(reason)
    }

    /// `found` with one or all addresses replaced by addresses that the namespace has already and `service`
    /// can share.
    fn shared_alternatives(
        &mut self,
        pool: &Pool,
        service: &ServiceRef,
        request: &Request,
        families: &[Family],
        found: &[IpAddr],
    ) -> Vec<Vec<IpAddr>> {
        let Some(state) = self.pools.get_mut(&pool.name) else { return Vec::new() };
        let namespace = Some(service.namespace.as_str());
        let mut own =
            |family: &Family| state.find_shared(*family, &request.sharing, namespace, &self.addresses);
        let own: Vec<Option<IpAddr>> = families.iter().map(|family| own(family).map(|(_, ip)| ip)).collect();
        let replaced = |which: &dyn Fn(usize) -> bool| -> Option<Vec<IpAddr>> {
            let pairs = found.iter().zip(&own).enumerate();
            pairs.map(|(index, (any, own))| if which(index) { *own } else { Some(*any) }).collect()
        };
        let one = (0..families.len()).map(|only| replaced(&|index| index == only));
        one.chain([replaced(&|_| true)]).flatten().collect()
    }

    /// Whether the quota of its namespace in `pool` allows `service` to have exactly `target`.
    pub(super) fn check_quota(
        &self,
        pool: &Pool,
        service: &ServiceRef,
        target: &[IpAddr],
    ) -> Result<(), PoolReason> {
        let (Some(max), Some(state)) = (pool.quota(&service.namespace), self.pools.get(&pool.name)) else {
            return Ok(());
        };
        let only_holder_in_namespace = |ip: &IpAddr| {
            let claims = self.addresses.get(ip);
            claims.is_none_or(|claims| !claims.other_in_namespace(&service.namespace, service))
        };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        // Addresses that the Service is about to give up do not count, or it could never move within a full
        // quota.
        let claimed = self.claimed(service);
        let given_up = claimed
            .iter()
            .filter(|ip| pool.contains(**ip) && !target.contains(ip) && only_holder_in_namespace(ip));
        let added = target.iter().filter(|ip| !claimed.contains(ip) && only_holder_in_namespace(ip));
        let current =
            state.addresses_of_namespace(&service.namespace).saturating_sub(count(given_up.count()));
        if current.saturating_add(count(added.count())) > max {
            return Err(PoolReason::Quota { namespace: service.namespace.clone(), max });
        }
        Ok(())
    }
}

/// The sets of families to try, in order of preference, each in all pools.
fn family_sets(families: Families) -> Vec<Vec<Family>> {
    match families {
        Families::Single(family) => vec![vec![family]],
        Families::Dual { required: true, .. } => vec![Family::ALL.to_vec()],
        Families::Dual { primary, required: false } => {
            vec![Family::ALL.to_vec(), vec![primary], vec![primary.other()]]
        }
    }
}

/// The same for a requested pool, where IPv4 comes before IPv6 whatever the primary family.
fn family_sets_in_named_pool(families: Families) -> Vec<Vec<Family>> {
    match families {
        Families::Dual { required: false, .. } => {
            vec![Family::ALL.to_vec(), vec![Family::V4], vec![Family::V6]]
        }
        other => family_sets(other),
    }
}

fn no_free_address(pool: &Pool, in_use: u64, family: Family) -> PoolReason {
    if pool.has(family) {
        PoolReason::Full { family, in_use: in_use.into(), total: pool.capacity(family) }
    } else {
        PoolReason::NoFamily(family)
    }
}
