//! What a Service shall have: keep, complete, move or refuse (`reference/metallb.md` §3.2, §3.3).

use std::net::IpAddr;
use std::sync::Arc;

use rules::{Configuration, Family, Pool};

use super::judge::{missing, not_admitted};
use super::{Allocator, Occupant};
use crate::refusal::{PoolReason, Refusal};
use crate::request::{Families, Request, Wanted};
use crate::usage::{NoSharing, ServiceRef};

/// What a Service shall have, and why not more.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) refusal: Option<Refusal>,
}

impl Choice {
    fn met(addresses: Vec<IpAddr>) -> Self {
        Self { addresses, refusal: None }
    }

    fn refused(kept: &[IpAddr], refusal: Refusal) -> Self {
        Self { addresses: kept.to_vec(), refusal: Some(refusal) }
    }
}

impl Allocator {
    /// What `service` shall have, which may keep `kept`; `lost` is set while some of that is only kept in grace.
    ///
    /// A request that cannot be met never takes away what the Service has.
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
            Wanted::Any => self.complete(service, request, kept, families),
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
            Ok(()) => Choice::met(wanted.to_vec()),
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
        // First what no waiting would change.
        let pool = self.pool_of_all(service, request, kept, wanted, asked)?;
        let new: Vec<IpAddr> = wanted.iter().copied().filter(|ip| !kept.contains(ip)).collect();
        for ip in new.iter().copied() {
            match self.quarantine.get(&ip) {
                Some(Occupant::ForeignHost) => return Err(Refusal::Conflict(ip)),
                Some(Occupant::Node(node)) => return Err(Refusal::NodeAddress { ip, node: node.clone() }),
                None => {}
            }
            if let Some(usage) = self.addresses.get(&ip)
                && let Some((by, why)) = usage.blocker(service, &request.sharing, |_| true)
            {
                return Err(Refusal::Taken { ip, by: (*by).clone(), why });
            }
            if let Some(by) = self.leaves(service, ip) {
                return Err(Refusal::Taken { ip, by: (*by).clone(), why: NoSharing::Leaves });
            }
        }
        // A quota that was lowered takes nothing away: only an addition is measured by it.
        let Some(pool) = pool.filter(|_| !new.is_empty()) else { return Ok(()) };
        self.check_quota(pool, service, wanted)
            .map_err(|reason| Refusal::Pool { pool: pool.name.clone(), reason })
    }

    /// Who has `ip` and is about to leave it, to another than `service`.
    fn leaves(&self, service: &ServiceRef, ip: IpAddr) -> Option<ServiceRef> {
        let usage = self.addresses.get(&ip)?;
        let pledged_to_it = self.pledges.get(&ip) == Some(service);
        if pledged_to_it || usage.claims_include(service) || self.is_joinable(ip, usage) {
            return None;
        }
        usage.claims().first().map(|(holder, _)| Arc::clone(holder))
    }

    /// The one pool that has `wanted` and gives it to `service` if free; none if all is kept and its pool is left out.
    fn pool_of_all(
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
                let left_out = &self.configuration.rejected_pools;
                let of = left_out.iter().find(|(_, ranges)| ranges.iter().any(|range| range.contains(ip)));
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
            if self.is_closed(&pool.name) {
                return Err(Refusal::InvalidPool(pool.name.clone()));
            }
            if pool.avoids(ip) {
                return Err(Refusal::Avoided { ip, pool: pool.name.clone() });
            }
            if let Some(reason) = not_admitted(pool, service, request) {
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
            return self.complete(service, request, kept, families);
        }
        if self.is_closed(name) {
            return Choice::refused(kept, Refusal::InvalidPool(name.to_owned()));
        }
        if !self.configuration.pools.contains_key(name) {
            return Choice::refused(kept, Refusal::UnknownPool(name.to_owned()));
        }
        match self.find_in(name, service, request, &choices_in_named(families)) {
            Ok(addresses) => self.complete(service, request, &addresses, families),
            Err(reason) => Choice::refused(kept, Refusal::Pool { pool: name.to_owned(), reason }),
        }
    }

    /// Automatic assignment: the pools that admit only some first, then the others.
    fn choose_any(&mut self, service: &ServiceRef, request: &Request, families: Families) -> Choice {
        let Configuration { pools, rejected_pools, .. } = &*self.configuration;
        if pools.is_empty() && rejected_pools.is_empty() {
            return Choice::refused(&[], Refusal::NoPools);
        }
        let unusable = rejected_pools.keys().filter(|name| !pools.contains_key(*name));
        let mut reasons: Vec<(String, PoolReason)> =
            unusable.map(|name| (name.clone(), PoolReason::Invalid)).collect();
        for group in [self.pinned.clone(), self.plain.clone()] {
            for (index, wish) in choices(families).iter().enumerate() {
                for name in &group {
                    if let Some(reason) = self.not_automatic(name, service, request) {
                        if index == 0 {
                            reasons.push((name.clone(), reason));
                        }
                        continue;
                    }
                    match self.find_in(name, service, request, std::slice::from_ref(wish)) {
                        Ok(addresses) => return self.complete(service, request, &addresses, families),
                        Err(reason) if index == 0 => reasons.push((name.clone(), reason)),
                        Err(_) => {}
                    }
                }
            }
        }
        reasons.sort_by(|a, b| a.0.cmp(&b.0));
        Choice::refused(&[], Refusal::NoneFits(reasons))
    }

    /// Whether the pool has an error: what was assigned from its last valid version stays, and nothing new is.
    pub(super) fn is_closed(&self, name: &str) -> bool {
        self.configuration.rejected_pools.contains_key(name)
    }

    /// Why the pool `name` gives nothing to `service` automatically.
    pub(super) fn not_automatic(
        &self,
        name: &str,
        service: &ServiceRef,
        request: &Request,
    ) -> Option<PoolReason> {
        let pool = self.configuration.pools.get(name)?;
        if self.is_closed(name) {
            return Some(PoolReason::Invalid);
        }
        if !pool.auto_assign {
            return Some(PoolReason::AutoAssignOff);
        }
        not_admitted(pool, service, request)
    }

    /// Adds the families that `has` lacks, from the same pool.
    fn complete(
        &mut self,
        service: &ServiceRef,
        request: &Request,
        has: &[IpAddr],
        families: Families,
    ) -> Choice {
        let lacks = missing(families, has);
        let Some(family) = lacks.first().copied() else { return Choice::met(has.to_vec()) };
        let Some(name) = has.first().and_then(|ip| self.configuration.pool_of(*ip)).map(|p| p.name.clone())
        else {
            let left_out =
                self.services.get(service).and_then(|entry| entry.pool.clone()).unwrap_or_default();
            return Choice::refused(has, Refusal::InvalidPool(left_out));
        };
        let reason = match self.find_beside(&name, service, request, has, &[family]) {
            Ok(more) => {
                let mut both = [has, &more].concat();
                both.sort();
                return Choice::met(both);
            }
            Err(reason) => reason,
        };
        let required = matches!(families, Families::Dual { required: true, .. });
        if required && request.wanted == Ok(Wanted::Any) {
            let elsewhere = self.choose_any(service, request, families);
            if elsewhere.refusal.is_none() {
                return elsewhere;
            }
        }
        Choice::refused(has, Refusal::Additional { family, pool: name, reason })
    }

    /// For a Service that prefers both families and has just lost the one that its clients use first: both from another
    /// pool, if there is one. Its clients have to learn a new address in any case, and without that it would have none
    /// of the family any more. Who loses the other family stays where it is.
    pub(super) fn both_elsewhere(
        &mut self,
        service: &ServiceRef,
        request: &Request,
        choice: &Choice,
    ) -> Option<Choice> {
        let Some(Refusal::Additional { family, .. }) = &choice.refusal else { return None };
        let (Ok(Families::Dual { primary, .. }), Ok(Wanted::Any)) = (&request.families, &request.wanted)
        else {
            return None;
        };
        if family != primary {
            return None;
        }
        let pools: Vec<String> = self.pinned.iter().chain(&self.plain).cloned().collect();
        let found = pools.iter().find_map(|name| {
            if self.not_automatic(name, service, request).is_some() {
                return None;
            }
            self.find_in(name, service, request, &[Family::ALL.to_vec()]).ok()
        });
        found.map(Choice::met)
    }

    /// Addresses from the pool `name`, by the first of `wishes` that it can fulfil.
    fn find_in(
        &mut self,
        name: &str,
        service: &ServiceRef,
        request: &Request,
        wishes: &[Vec<Family>],
    ) -> Result<Vec<IpAddr>, PoolReason> {
        let mut first_reason = None;
        for wish in wishes {
            match self.find_beside(name, service, request, &[], wish) {
                Ok(found) => return Ok(found),
                Err(reason) => first_reason = first_reason.or(Some(reason)),
            }
        }
        Err(first_reason.unwrap_or(PoolReason::AutoAssignOff))
    }

    /// One address of each family of `wish` from the pool `name`, to have beside `has`.
    fn find_beside(
        &mut self,
        name: &str,
        service: &ServiceRef,
        request: &Request,
        has: &[IpAddr],
        wish: &[Family],
    ) -> Result<Vec<IpAddr>, PoolReason> {
        let configuration = Arc::clone(&self.configuration);
        let (Some(pool), Some(state)) = (configuration.pools.get(name), self.pools.get_mut(name)) else {
            return Err(PoolReason::AutoAssignOff);
        };
        if configuration.rejected_pools.contains_key(name) {
            return Err(PoolReason::Invalid);
        }
        if let Some(reason) = not_admitted(pool, service, request) {
            return Err(reason);
        }
        let mut found = Vec::with_capacity(wish.len());
        for family in wish {
            let ip = state.find(*family, pool, &request.sharing, &self.addresses);
            found.push(ip.ok_or_else(|| none_free(pool, state.used(*family), *family))?);
        }
        let Err(reason) = self.check_quota(pool, service, &[has, &found].concat()) else {
            return Ok(found);
        };
        // Where the namespace has its fill, what it has can still be shared.
        self.joinable(pool, service, request, wish, &found)
            .into_iter()
            .find(|mix| self.check_quota(pool, service, &[has, mix].concat()).is_ok())
            .ok_or(reason)
    }

    /// `found` with one or all addresses replaced by such that the namespace has already and `service` can share.
    fn joinable(
        &mut self,
        pool: &Pool,
        service: &ServiceRef,
        request: &Request,
        wish: &[Family],
        found: &[IpAddr],
    ) -> Vec<Vec<IpAddr>> {
        let Some(state) = self.pools.get_mut(&pool.name) else { return Vec::new() };
        let namespace = Some(service.namespace.as_str());
        let mut own =
            |family: &Family| state.find_shared(*family, &request.sharing, namespace, &self.addresses);
        let own: Vec<Option<IpAddr>> = wish.iter().map(|family| own(family).map(|(_, ip)| ip)).collect();
        let replaced = |which: &dyn Fn(usize) -> bool| -> Option<Vec<IpAddr>> {
            let pairs = found.iter().zip(&own).enumerate();
            pairs.map(|(index, (any, own))| if which(index) { *own } else { Some(*any) }).collect()
        };
        let one = (0..wish.len()).map(|only| replaced(&|index| index == only));
        one.chain([replaced(&|_| true)]).flatten().collect()
    }

    /// Whether its namespace may have as many addresses of `pool` when `service` has `target` and nothing else.
    pub(super) fn check_quota(
        &self,
        pool: &Pool,
        service: &ServiceRef,
        target: &[IpAddr],
    ) -> Result<(), PoolReason> {
        let (Some(max), Some(state)) = (pool.quota(&service.namespace), self.pools.get(&pool.name)) else {
            return Ok(());
        };
        let namespace_alone = |ip: &IpAddr| {
            let usage = self.addresses.get(ip);
            usage.is_none_or(|usage| !usage.other_in_namespace(&service.namespace, service))
        };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        // What the Service is about to give up counts no more, or it could never move within a full quota.
        let claimed = self.claimed(service);
        let gives_up =
            claimed.iter().filter(|ip| pool.contains(**ip) && !target.contains(ip) && namespace_alone(ip));
        let adds = target.iter().filter(|ip| !claimed.contains(ip) && namespace_alone(ip));
        let has = state.namespace_has(&service.namespace).saturating_sub(count(gives_up.count()));
        if has.saturating_add(count(adds.count())) > max {
            return Err(PoolReason::Quota { namespace: service.namespace.clone(), max });
        }
        Ok(())
    }
}

/// Sets of families to try, best first, each over all pools.
fn choices(families: Families) -> Vec<Vec<Family>> {
    match families {
        Families::Single(family) => vec![vec![family]],
        Families::Dual { required: true, .. } => vec![Family::ALL.to_vec()],
        Families::Dual { primary, required: false } => {
            vec![Family::ALL.to_vec(), vec![primary], vec![primary.other()]]
        }
    }
}

/// The same in a pool that was asked for, where IPv4 comes before IPv6 whatever the primary family.
fn choices_in_named(families: Families) -> Vec<Vec<Family>> {
    match families {
        Families::Dual { required: false, .. } => {
            vec![Family::ALL.to_vec(), vec![Family::V4], vec![Family::V6]]
        }
        other => choices(other),
    }
}

fn none_free(pool: &Pool, in_use: u64, family: Family) -> PoolReason {
    if pool.has(family) {
        PoolReason::Full { family, in_use: in_use.into(), total: pool.capacity(family) }
    } else {
        PoolReason::NoFamily(family)
    }
}
