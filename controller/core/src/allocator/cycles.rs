//! Cycles of Services that ask for each other's address, or for the full pool that the other is in.
//!
//! None of them can move first, since no address is assigned before it is free. So the youngest Service of
//! the cycle gives up its address, and each address of the cycle is reserved for its successor (*handoff*):
//! when the youngest's address is free, its successor gets it, whose own address becomes free in turn, and so
//! on. Services outside of the cycle lose nothing, since without the exchange no member would ever move.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use rules::Family;

use super::{Allocator, ServiceState};
use crate::address_claims::ServiceRef;
use crate::refusal::{PoolReason, Refusal};
use crate::request::{Families, Request, Wanted};

/// How many Services a search for a cycle visits: more than anyone moves at a time.
const MAX_VISITED: usize = 64;

impl Allocator {
    /// If `service` waits in a cycle, starts the exchange.
    pub(super) fn break_cycle(&mut self, service: &ServiceRef) {
        let members = self.find_cycle(service);
        let age = |member: &ServiceRef| {
            self.services.get(member).and_then(|entry| entry.request.clone()).map(|r| r.age.clone())
        };
        let Some(youngest) = members.iter().max_by_key(|member| (age(member), Arc::clone(member))).cloned()
        else {
            return;
        };
        if self.services.get(&youngest).is_none_or(|entry| entry.desired.is_empty()) {
            return;
        }
        let next = members.iter().cycle().skip(1);
        for (member, next) in members.iter().zip(next) {
            for ip in self.would_take(member, next) {
                self.handoffs.insert(ip, Arc::clone(member));
                self.update_joinable(ip);
            }
        }
        self.changed.insert(Arc::clone(&youngest));
        self.set_addresses(&youngest, Some(Vec::new()), None);
    }

    /// A shortest cycle of at least two Services, beginning with `service`, each of which waits for the
    /// addresses of the next; empty if there is none.
    fn find_cycle(&self, service: &ServiceRef) -> Vec<ServiceRef> {
        let mut predecessor: BTreeMap<ServiceRef, ServiceRef> = BTreeMap::new();
        let mut to_visit = VecDeque::from([Arc::clone(service)]);
        while let Some(member) = to_visit.pop_front() {
            for next in self.waits_on(&member) {
                if next == *service && member != *service {
                    let mut members = vec![Arc::clone(&member)];
                    while let Some(earlier) = members.last().and_then(|last| predecessor.get(last)) {
                        members.push(Arc::clone(earlier));
                    }
                    members.reverse();
                    return members;
                }
                if next != *service && predecessor.len() < MAX_VISITED && !predecessor.contains_key(&next) {
                    predecessor.insert(Arc::clone(&next), Arc::clone(&member));
                    to_visit.push_back(next);
                }
            }
        }
        Vec::new()
    }

    /// The Services each of which is the only obstacle for the request of `service`.
    fn waits_on(&self, service: &ServiceRef) -> Vec<ServiceRef> {
        let refusal = self.services.get(service).and_then(|entry| entry.refusal.as_deref());
        let blockers: Vec<ServiceRef> = match refusal {
            Some(Refusal::Taken { holder, .. }) => self
                .services
                .get_key_value(holder)
                .map(|(holder, _)| Arc::clone(holder))
                .into_iter()
                .collect(),
            Some(Refusal::Pool { pool, reason: PoolReason::Full { .. } }) => {
                self.waiting_to_leave.get(pool).into_iter().flatten().take(MAX_VISITED).cloned().collect()
            }
            _ => Vec::new(),
        };
        blockers.into_iter().filter(|other| !self.would_take(service, other).is_empty()).collect()
    }

    /// The addresses of `other` that `service` would get if `other` gave them up; empty if that would not
    /// help.
    fn would_take(&self, service: &ServiceRef, other: &ServiceRef) -> Vec<IpAddr> {
        let (Some(entry), Some(other_entry)) = (self.services.get(service), self.services.get(other)) else {
            return Vec::new();
        };
        let Some(request) = &entry.request else { return Vec::new() };
        let unclaimed_by_others = |ip: &IpAddr| {
            let claims = self.addresses.get(ip);
            claims.is_none_or(|claims| {
                claims.holders().into_iter().all(|(claimer, _)| claimer == other || claimer == service)
            })
        };
        let wanted = match &request.wanted {
            Ok(Wanted::Addresses { addresses, .. }) => addresses,
            Ok(Wanted::Pool(name)) if self.satisfies_pool_request(request, entry, other_entry, name) => {
                &other_entry.desired
            }
            _ => return Vec::new(),
        };
        let new: Vec<IpAddr> = wanted.iter().copied().filter(|ip| !entry.desired.contains(ip)).collect();
        let pool = wanted.first().and_then(|ip| self.configuration.pool_of(*ip));
        let allowed = pool.is_some_and(|pool| {
            !self.is_rejected(&pool.name) && self.check_quota(pool, service, wanted).is_ok()
        });
        if allowed && new.iter().all(unclaimed_by_others) { new } else { Vec::new() }
    }

    /// Whether the addresses of the other Service satisfy a request for the pool `name`: all are of that pool
    /// and of the requested families.
    fn satisfies_pool_request(
        &self,
        request: &Request,
        entry: &ServiceState,
        other_entry: &ServiceState,
        name: &str,
    ) -> bool {
        let families =
            |addresses: &[IpAddr]| addresses.iter().copied().map(Family::of).collect::<BTreeSet<_>>();
        let offered = families(&other_entry.desired);
        let has_families = match request.families {
            Ok(Families::Single(family)) => offered == BTreeSet::from([family]),
            Ok(Families::Dual { required: true, .. }) => offered.len() == 2,
            // It never gives up a family that it has.
            Ok(Families::Dual { .. }) => offered == families(&entry.desired),
            Err(_) => false,
        };
        let pool = self.configuration.pools.get(name);
        let assignable = |ip: &IpAddr| {
            pool.is_some_and(|pool| pool.contains(*ip) && !pool.is_reserved(*ip))
                && !self.quarantine.contains_key(ip)
        };
        has_families && other_entry.desired.iter().all(assignable)
    }
}
