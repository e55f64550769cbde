//! Services that ask for each other's places: for the very address, or for a place in the pool, which is full.
//!
//! None of them can move first, since no address is given before it is free. So the youngest of the cycle is
//! cleared, and each address of the cycle is pledged to who takes its place: when the youngest's is free, it goes to
//! its heir, whose own becomes free in turn, and so on around. Nobody outside of the cycle loses by that: without it
//! none of its members would ever move.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use rules::Family;

use super::{Allocator, Entry};
use crate::refusal::{PoolReason, Refusal};
use crate::request::{Families, Request, Wanted};
use crate::usage::ServiceRef;

/// How many Services are looked at in search of a cycle: more than anybody moves about at a time.
const LONGEST: usize = 64;

impl Allocator {
    /// If `service` waits for a place in a cycle, starts the exchange.
    pub(super) fn break_cycle(&mut self, service: &ServiceRef) {
        let members = self.cycle(service);
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
            for ip in self.takes(member, next) {
                self.pledges.insert(ip, Arc::clone(member));
                self.renew_joinable(ip);
            }
        }
        self.changed.insert(Arc::clone(&youngest));
        self.set_addresses(&youngest, Some(Vec::new()), None);
    }

    /// A shortest cycle of at least two in which each waits for the next one's place, from `service` on; none is empty.
    fn cycle(&self, service: &ServiceRef) -> Vec<ServiceRef> {
        let mut before: BTreeMap<ServiceRef, ServiceRef> = BTreeMap::new();
        let mut ahead = VecDeque::from([Arc::clone(service)]);
        while let Some(member) = ahead.pop_front() {
            for next in self.waits_on(&member) {
                if next == *service && member != *service {
                    let mut members = vec![Arc::clone(&member)];
                    while let Some(earlier) = members.last().and_then(|last| before.get(last)) {
                        members.push(Arc::clone(earlier));
                    }
                    members.reverse();
                    return members;
                }
                if next != *service && before.len() < LONGEST && !before.contains_key(&next) {
                    before.insert(Arc::clone(&next), Arc::clone(&member));
                    ahead.push_back(next);
                }
            }
        }
        Vec::new()
    }

    /// The Services of which each alone stands between `service` and what it asks for.
    fn waits_on(&self, service: &ServiceRef) -> Vec<ServiceRef> {
        let refusal = self.services.get(service).and_then(|entry| entry.refusal.as_deref());
        let there: Vec<ServiceRef> = match refusal {
            Some(Refusal::Taken { by, .. }) => {
                self.services.get_key_value(by).map(|(by, _)| Arc::clone(by)).into_iter().collect()
            }
            Some(Refusal::Pool { pool, reason: PoolReason::Full { .. } }) => {
                self.leaving.get(pool).into_iter().flatten().take(LONGEST).cloned().collect()
            }
            _ => Vec::new(),
        };
        there.into_iter().filter(|other| !self.takes(service, other).is_empty()).collect()
    }

    /// The addresses that `service` would take from `other`, were `other` gone; none if that would not help.
    fn takes(&self, service: &ServiceRef, other: &ServiceRef) -> Vec<IpAddr> {
        let (Some(entry), Some(theirs)) = (self.services.get(service), self.services.get(other)) else {
            return Vec::new();
        };
        let Some(request) = &entry.request else { return Vec::new() };
        let clear = |ip: &IpAddr| {
            let usage = self.addresses.get(ip);
            usage.is_none_or(|usage| {
                usage.claims().into_iter().all(|(claimer, _)| claimer == other || claimer == service)
            })
        };
        let wanted = match &request.wanted {
            Ok(Wanted::Addresses { addresses, .. }) => addresses,
            Ok(Wanted::Pool(name)) if self.suits(request, entry, theirs, name) => &theirs.desired,
            _ => return Vec::new(),
        };
        let new: Vec<IpAddr> = wanted.iter().copied().filter(|ip| !entry.desired.contains(ip)).collect();
        let pool = wanted.first().and_then(|ip| self.configuration.pool_of(*ip));
        let allowed = pool.is_some_and(|pool| {
            !self.is_closed(&pool.name) && self.check_quota(pool, service, wanted).is_ok()
        });
        if allowed && new.iter().all(clear) { new } else { Vec::new() }
    }

    /// Whether what the other Service has would do for one that asks for the pool `name`: all of it from that pool, and of
    /// the families that it asks for.
    fn suits(&self, request: &Request, entry: &Entry, theirs: &Entry, name: &str) -> bool {
        let families =
            |addresses: &[IpAddr]| addresses.iter().copied().map(Family::of).collect::<BTreeSet<_>>();
        let offered = families(&theirs.desired);
        let of_families = match request.families {
            Ok(Families::Single(family)) => offered == BTreeSet::from([family]),
            Ok(Families::Dual { required: true, .. }) => offered.len() == 2,
            // It never gives up a family that it has.
            Ok(Families::Dual { .. }) => offered == families(&entry.desired),
            Err(_) => false,
        };
        let pool = self.configuration.pools.get(name);
        let given = |ip: &IpAddr| {
            pool.is_some_and(|pool| pool.contains(*ip) && !pool.is_reserved(*ip))
                && !self.quarantine.contains_key(ip)
        };
        of_families && theirs.desired.iter().all(given)
    }
}
