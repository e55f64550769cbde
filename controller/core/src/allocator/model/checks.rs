//! The invariants after every step, and after everything is written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crds::ServiceKey;
use proptest::prelude::*;
use rules::Family;

use super::objects::key;
use super::steps::Step;
use super::world::{Object, World};
use crate::address_claims::sharing_conflict;
use crate::allocator::tests::at;
use crate::request::{Families, Request, Wanted};

/// The state before a step.
pub(super) struct Before {
    desired: BTreeMap<ServiceKey, Vec<IpAddr>>,
    /// The waiting Services, longest-waiting first.
    waiting: Vec<ServiceKey>,
    handed_off: BTreeSet<IpAddr>,
    /// The Service whose request changes in this step: an address that it frees goes to a waiting Service
    /// first.
    request_changed: Option<ServiceKey>,
}

impl Before {
    fn of(world: &World, step: &Step) -> Self {
        let request_changed = match step {
            Step::Apply(service, _) => Some(key(*service)),
            _ => None,
        };
        let age = |service: &ServiceKey| {
            world.objects.get(service).and_then(|object| Some(object.request.as_ref()?.age.clone()))
        };
        let mut waiting: Vec<ServiceKey> = world.waits.keys().cloned().collect();
        waiting.sort_by_key(|service| (world.waits.get(service), age(service)));
        let handed_off = world.allocator.handoffs.keys().copied().collect();
        Self { desired: world.all(), waiting, handed_off, request_changed }
    }
}

impl World {
    /// Executes the step and checks the invariants.
    pub(super) fn checked(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let before = Before::of(self, step);
        self.step(step);
        self.check_unique()?;
        self.check_grants(&before.desired)?;
        self.check_joins(&before)?;
        self.check_reserved(&before.desired)?;
        self.check_quotas(&before.desired)?;
        self.check_order(&before)?;
        self.check_grace()?;
        self.check_waiting()
    }

    /// The Services that each address is assigned to.
    fn assigned(&self) -> BTreeMap<IpAddr, BTreeSet<ServiceKey>> {
        let mut claims: BTreeMap<IpAddr, BTreeSet<ServiceKey>> = BTreeMap::new();
        for service in self.objects.keys() {
            for ip in self.desired(service) {
                claims.entry(ip).or_default().insert(service.clone());
            }
        }
        claims
    }

    /// No address is assigned to two Services that may not share it.
    pub(super) fn check_unique(&self) -> Result<(), TestCaseError> {
        let sharing = |service: &ServiceKey| {
            self.objects
                .get(service)
                .and_then(|object| object.request.clone())
                .map(|r| r.sharing)
                .unwrap_or_default()
        };
        for service in self.objects.keys() {
            let families: Vec<Family> = self.desired(service).into_iter().map(Family::of).collect();
            let twice = families.len() == 2 && families[0] == families[1];
            prop_assert!(families.len() <= 2 && !twice, "{service} has two addresses of one family");
        }
        for (ip, given) in self.assigned() {
            let given: Vec<_> = given.into_iter().collect();
            for (index, a) in given.iter().enumerate() {
                for b in &given[index + 1..] {
                    let conflict = sharing_conflict(&sharing(a), &sharing(b));
                    prop_assert!(conflict.is_none(), "{ip} is assigned to {a} and {b}: {conflict:?}");
                }
            }
        }
        Ok(())
    }

    /// No address is newly assigned that the API still stores for a Service which may not share it, except
    /// for one that a former leader has written which did not notice the loss of its Lease.
    pub(super) fn check_grants(
        &self,
        before: &BTreeMap<ServiceKey, Vec<IpAddr>>,
    ) -> Result<(), TestCaseError> {
        for (service, object) in &self.objects {
            let Some(request) = &object.request else { continue };
            let had = before.get(service).cloned().unwrap_or_default();
            for ip in
                self.desired(service).iter().filter(|ip| !had.contains(ip) && !object.stored.contains(ip))
            {
                prop_assert!(
                    !self.quarantine.contains_key(ip),
                    "{ip} is used by a machine and was assigned to {service}"
                );
                // An address of a pool with an error is kept by a Service for which it may still be stored.
                let rejected =
                    self.configuration.rejected_pools.values().flatten().any(|range| range.contains(*ip));
                prop_assert!(rejected || self.configuration.pool_of(*ip).is_some(), "{ip} is in no pool");
                let is_seen = |other: &ServiceKey| other != service && !self.unseen.contains(other);
                for (other, held) in self.objects.iter().filter(|(other, _)| is_seen(other)) {
                    let conflict = sharing_conflict(&held.sharing, &request.sharing);
                    prop_assert!(
                        conflict.is_none() || !held.stored.contains(ip),
                        "{ip} was assigned to {service} while the API has it for {other}"
                    );
                }
            }
        }
        Ok(())
    }

    /// The addresses that a step assigned, except those that may still have been stored for the same Service.
    fn granted(&self, before: &BTreeMap<ServiceKey, Vec<IpAddr>>) -> Vec<(ServiceKey, IpAddr)> {
        let mut granted = Vec::new();
        for service in self.objects.keys() {
            let had = before.get(service).map(Vec::as_slice).unwrap_or_default();
            let stored =
                self.allocator.services.get(service).map(|e| e.stored.as_slice()).unwrap_or_default();
            let new =
                self.desired(service).into_iter().filter(|ip| !had.contains(ip) && !stored.contains(ip));
            granted.extend(new.map(|ip| (service.clone(), ip)));
        }
        granted
    }

    fn request(&self, service: &ServiceKey) -> Option<&Request> {
        self.objects.get(service)?.request.as_ref()
    }

    /// A Service joins others on an address only if one of them stays: an address that all are about to leave
    /// is for the Service that waits for it. A Service that leaves in this step since its request became
    /// possible stayed until then.
    pub(super) fn check_joins(&self, before: &Before) -> Result<(), TestCaseError> {
        let served = |service: &ServiceKey| {
            before.request_changed.as_ref() != Some(service)
                && before.waiting.contains(service)
                && !self.waits.contains_key(service)
        };
        for (service, ip) in self.granted(&before.desired) {
            let mut others = self.allocator.holders(ip);
            others.retain(|other| *other != service);
            let stays = |other: &ServiceKey| self.desired(other).contains(&ip) || served(other);
            prop_assert!(
                others.is_empty() || others.iter().any(stays),
                "{service} joins {others:?} on {ip}, which they leave"
            );
        }
        Ok(())
    }

    /// Reserved addresses are assigned only to Services that ask for them.
    pub(super) fn check_reserved(
        &self,
        before: &BTreeMap<ServiceKey, Vec<IpAddr>>,
    ) -> Result<(), TestCaseError> {
        for (service, ip) in self.granted(before) {
            let reserved = self.configuration.pool_of(ip).is_some_and(|pool| pool.is_reserved(ip));
            let wanted = self.request(&service).map(|request| &request.wanted);
            let asks =
                matches!(wanted, Some(Ok(Wanted::Addresses { addresses, .. })) if addresses.contains(&ip));
            let rejected = self
                .configuration
                .pool_of(ip)
                .filter(|pool| self.configuration.rejected_pools.contains_key(&pool.name));
            prop_assert!(rejected.is_none(), "{ip} of a pool with an error was assigned to {service}");
            prop_assert!(!reserved || asks, "{ip} is reserved and was assigned to {service}");
        }
        Ok(())
    }

    /// No namespace gets more addresses of a pool than its quota.
    pub(super) fn check_quotas(
        &self,
        before: &BTreeMap<ServiceKey, Vec<IpAddr>>,
    ) -> Result<(), TestCaseError> {
        for (service, ip) in self.granted(before) {
            let Some(pool) = self.configuration.pool_of(ip) else { continue };
            let namespace = &service.namespace;
            let of_namespace = self.objects.keys().filter(|other| other.namespace == *namespace);
            let has: BTreeSet<IpAddr> =
                of_namespace.flat_map(|other| self.desired(other)).filter(|ip| pool.contains(*ip)).collect();
            let fits = pool.quota(namespace).is_none_or(|max| has.len() <= max as usize);
            prop_assert!(
                fits,
                "{ip} was assigned to {service}, and {namespace} has {has:?} of {}",
                &pool.name
            );
        }
        Ok(())
    }

    /// No Service is assigned an address that another one could have had which waited longer.
    ///
    /// Checks only Services for which that is easy to tell: those that wait for any address of one family.
    pub(super) fn check_order(&self, before: &Before) -> Result<(), TestCaseError> {
        let rank = |service: &ServiceKey| before.waiting.iter().position(|other| other == service);
        for (service, ip) in self.granted(&before.desired) {
            let Some(rank_of_service) = rank(&service) else { continue };
            if before.handed_off.contains(&ip) || self.allocator.holders(ip).len() != 1 {
                continue;
            }
            for other in &before.waiting[..rank_of_service] {
                let waits = before.request_changed.as_ref() != Some(other) && self.desired(other).is_empty();
                let overtaken = waits && self.could_have(other, ip);
                prop_assert!(!overtaken, "{ip} was assigned to {service}, but {other} waited longer");
            }
        }
        Ok(())
    }

    /// Whether `service`, which asks for any address, could have `ip` if it is free.
    fn could_have(&self, service: &ServiceKey, ip: IpAddr) -> bool {
        let (Some(request), Some(pool)) = (self.request(service), self.configuration.pool_of(ip)) else {
            return false;
        };
        self.decided(service)
            && request.wanted == Ok(Wanted::Any)
            && request.families == Ok(Families::Single(Family::of(ip)))
            && pool.auto_assign
            && pool.quota(&service.namespace).is_none()
            && self.could_take(service, ip)
    }

    /// An address that is in no pool is kept for the grace period, and no longer.
    pub(super) fn check_grace(&mut self) -> Result<(), TestCaseError> {
        let mut unpooled = BTreeMap::new();
        for service in self.objects.keys().filter(|service| self.decided(service)) {
            for ip in self.desired(service) {
                let rejected = &self.configuration.rejected_pools;
                let remembered = self.allocator.assignment(service).and_then(|assignment| assignment.pool);
                let invalid = remembered.is_some_and(|pool| rejected.contains_key(pool))
                    || rejected.values().flatten().any(|range| range.contains(ip));
                if self.configuration.pool_of(ip).is_none() && !invalid {
                    let since = self.unpooled.get(&(service.clone(), ip)).copied().unwrap_or(self.now);
                    prop_assert!(self.now - since < 5, "{ip} of {service} is kept after its grace period");
                    unpooled.insert((service.clone(), ip), since);
                }
            }
        }
        self.unpooled = unpooled;
        Ok(())
    }

    /// Once everything is written, neither processing the objects again nor a restart changes anything.
    pub(super) fn check_stable(&mut self) -> Result<(), TestCaseError> {
        let stable = self.all();
        for service in stable.keys() {
            self.sync(service);
        }
        prop_assert_eq!(&self.all(), &stable, "processing again changed something");
        let counted: BTreeSet<IpAddr> = stable.values().flatten().copied().collect();
        for pool in self.configuration.pools.values() {
            for family in Family::ALL {
                let in_pool =
                    counted.iter().filter(|ip| Family::of(**ip) == family && pool.contains(**ip)).count();
                let claims = self.allocator.usage(&pool.name, family).unwrap_or_default();
                prop_assert_eq!(claims.in_use, in_pool as u128, "{} {}", &pool.name, family);
            }
        }
        self.allocator.handle_timeout(at(self.now + 100));
        self.now += 100;
        self.converge()?;
        let stable = self.all();
        self.restart();
        prop_assert_eq!(&self.all(), &stable, "a restart changed something");
        Ok(())
    }

    /// No two Services are left that ask for the pool of the other and could have its address there.
    pub(super) fn check_exchanges(&self) -> Result<(), TestCaseError> {
        if !self.quarantine.is_empty() {
            return Ok(());
        }
        let claims = self.assigned();
        // The address of a single-stack Service that does not share it, if the Service asks for another pool.
        let moves = |(service, object): (&ServiceKey, &Object)| {
            let request = object.request.as_ref()?;
            let (Ok(Wanted::Pool(to)), Ok(Families::Single(family))) = (&request.wanted, &request.families)
            else {
                return None;
            };
            let desired = self.desired(service);
            let [ip] = desired.as_slice() else { return None };
            let alone = claims.get(ip).is_some_and(|holders| holders.len() == 1);
            let from = self.configuration.pool_of(*ip).filter(|_| alone && Family::of(*ip) == *family)?;
            (from.name != *to).then(|| (service.clone(), *ip, to.clone()))
        };
        let moves: Vec<(ServiceKey, IpAddr, String)> = self.objects.iter().filter_map(moves).collect();
        let could_take = |(service, _, to): &(ServiceKey, IpAddr, String), ip: IpAddr| {
            self.configuration.pool_of(ip).is_some_and(|pool| pool.name == *to)
                && self.could_take(service, ip)
        };
        for a in &moves {
            for b in &moves {
                prop_assert!(
                    !could_take(a, b.1) || !could_take(b, a.1),
                    "{} and {} wait for each other",
                    a.0,
                    b.0
                );
            }
        }
        Ok(())
    }

    /// Whether `service`, which asks for the pool of `ip`, could have `ip` if its holder gave it up.
    fn could_take(&self, service: &ServiceKey, ip: IpAddr) -> bool {
        let (Some(request), Some(pool)) = (self.request(service), self.configuration.pool_of(ip)) else {
            return false;
        };
        let admits = |a: &rules::Allocation| {
            a.admits_namespace(&service.namespace) && a.admits_labels(&request.labels)
        };
        let of_namespace = self.objects.keys().filter(|other| other.namespace == service.namespace);
        let mut has: BTreeSet<IpAddr> =
            of_namespace.flat_map(|other| self.desired(other)).filter(|ip| pool.contains(*ip)).collect();
        has.insert(ip);
        !self.configuration.rejected_pools.contains_key(&pool.name)
            && pool.allocation.as_ref().is_none_or(admits)
            && !pool.is_reserved(ip)
            && pool.quota(&service.namespace).is_none_or(|max| has.len() <= max as usize)
    }

    /// No Service waits without reason: reconciling all of them again assigns nothing.
    pub(super) fn check_waiting(&mut self) -> Result<(), TestCaseError> {
        let before = self.all();
        // A Service that has just lost an address may keep it after all if the Service with the better claim
        // is deleted before the write. That is not checked.
        let stored =
            |service: &ServiceKey| self.allocator.services.get(service).is_some_and(|e| !e.stored.is_empty());
        if before.iter().any(|(service, desired)| desired.is_empty() && stored(service)) {
            return Ok(());
        }
        for service in before.keys() {
            let found =
                self.allocator.services.get_key_value(service).map(|(service, _)| Arc::clone(service));
            if let Some(service) = found {
                self.allocator.reconcile(&service, at(self.now));
            }
        }
        prop_assert_eq!(self.all(), before, "a Service waited for a free address");
        Ok(())
    }
}
