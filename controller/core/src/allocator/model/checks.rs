//! What must hold after every step, and at rest.

use super::*;
use crate::request::{Families, Wanted};
use crate::usage::no_sharing;

impl World {
    /// What each address is given to or still stored for.
    fn claims(&self) -> BTreeMap<IpAddr, BTreeSet<ServiceKey>> {
        let mut claims: BTreeMap<IpAddr, BTreeSet<ServiceKey>> = BTreeMap::new();
        for service in self.objects.keys() {
            for ip in self.desired(service) {
                claims.entry(ip).or_default().insert(service.clone());
            }
        }
        claims
    }

    /// No address is given to two that may not share it, and none is given that another still has in the API.
    pub(super) fn check_doubles(&self) -> Result<(), TestCaseError> {
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
        for (ip, given) in self.claims() {
            let given: Vec<_> = given.into_iter().collect();
            for (index, a) in given.iter().enumerate() {
                for b in &given[index + 1..] {
                    let clash = no_sharing(&sharing(a), &sharing(b));
                    prop_assert!(clash.is_none(), "{ip} is given to {a} and {b}: {clash:?}");
                }
            }
        }
        Ok(())
    }

    /// Nothing is given newly that the API still stores for somebody who may not share it, but for what a controller has
    /// stored that did not notice the loss of its Lease.
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
                    "{ip} is under conflict and was given to {service}"
                );
                // An address of a pool with an error is left to whom it is believed to be stored for still.
                let left_out =
                    self.configuration.rejected_pools.values().flatten().any(|range| range.contains(*ip));
                prop_assert!(left_out || self.configuration.pool_of(*ip).is_some(), "{ip} is in no pool");
                let is_seen = |other: &ServiceKey| other != service && !self.unseen.contains(other);
                for (other, held) in self.objects.iter().filter(|(other, _)| is_seen(other)) {
                    let clash = no_sharing(&held.sharing, &request.sharing);
                    prop_assert!(
                        clash.is_none() || !held.stored.contains(ip),
                        "{ip} was given to {service} while the API has it for {other}"
                    );
                }
            }
        }
        Ok(())
    }

    /// What a step gave to whom: neither had before nor believed to be stored for the Service still.
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

    /// Whoever is given an address beside others is given it beside one that stays: what all are about to leave belongs to
    /// who waits for it. Who leaves in this step because what it waited for became possible has stayed until then.
    pub(super) fn check_joins(&self, before: &Before) -> Result<(), TestCaseError> {
        let served = |service: &ServiceKey| {
            before.renewed.as_ref() != Some(service)
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

    /// What a pool keeps back is given only to who asks for it.
    pub(super) fn check_kept_back(
        &self,
        before: &BTreeMap<ServiceKey, Vec<IpAddr>>,
    ) -> Result<(), TestCaseError> {
        for (service, ip) in self.granted(before) {
            let kept_back = self.configuration.pool_of(ip).is_some_and(|pool| pool.is_reserved(ip));
            let wanted = self.request(&service).map(|request| &request.wanted);
            let asks =
                matches!(wanted, Some(Ok(Wanted::Addresses { addresses, .. })) if addresses.contains(&ip));
            let closed = self
                .configuration
                .pool_of(ip)
                .filter(|pool| self.configuration.rejected_pools.contains_key(&pool.name));
            prop_assert!(closed.is_none(), "{ip} of a pool with an error was given to {service}");
            prop_assert!(!kept_back || asks, "{ip} is kept back and was given to {service}");
        }
        Ok(())
    }

    /// No namespace gets more addresses of a pool than it may have.
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
            prop_assert!(fits, "{ip} was given to {service}, and {namespace} has {has:?} of {}", &pool.name);
        }
        Ok(())
    }

    /// Nobody is given an address that another could have had who waited longer.
    ///
    /// Only looks at those for whom that is plain to see: who waits asks for any address of one family.
    pub(super) fn check_order(&self, before: &Before) -> Result<(), TestCaseError> {
        let place = |service: &ServiceKey| before.waiting.iter().position(|other| other == service);
        for (service, ip) in self.granted(&before.desired) {
            let Some(of_service) = place(&service) else { continue };
            if before.pledged.contains(&ip) || self.allocator.holders(ip).len() != 1 {
                continue;
            }
            for other in &before.waiting[..of_service] {
                let waits = before.renewed.as_ref() != Some(other) && self.desired(other).is_empty();
                let passed_over = waits && self.could_have(other, ip);
                prop_assert!(!passed_over, "{ip} was given to {service}, but {other} waited longer");
            }
        }
        Ok(())
    }

    /// Whether `service`, which asks for anything, could have `ip` if it is free.
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

    /// What is in no pool for a Service is kept for the time of grace, and no longer.
    pub(super) fn check_grace(&mut self) -> Result<(), TestCaseError> {
        let mut homeless = BTreeMap::new();
        for service in self.objects.keys().filter(|service| self.decided(service)) {
            for ip in self.desired(service) {
                let left_out = &self.configuration.rejected_pools;
                let remembered = self.allocator.outcome(service).and_then(|outcome| outcome.pool);
                let invalid = remembered.is_some_and(|pool| left_out.contains_key(pool))
                    || left_out.values().flatten().any(|range| range.contains(ip));
                if self.configuration.pool_of(ip).is_none() && !invalid {
                    let since = self.homeless.get(&(service.clone(), ip)).copied().unwrap_or(self.now);
                    prop_assert!(self.now - since < 5, "{ip} of {service} is kept after its grace");
                    homeless.insert((service.clone(), ip), since);
                }
            }
        }
        self.homeless = homeless;
        Ok(())
    }

    /// Once all is written, looking again and starting anew change nothing, and nobody waits for what is free.
    pub(super) fn check_rest(&mut self) -> Result<(), TestCaseError> {
        let rest = self.all();
        for service in rest.keys() {
            self.look(service);
        }
        prop_assert_eq!(&self.all(), &rest, "looking again changed something");
        let counted: BTreeSet<IpAddr> = rest.values().flatten().copied().collect();
        for pool in self.configuration.pools.values() {
            for family in Family::ALL {
                let in_pool =
                    counted.iter().filter(|ip| Family::of(**ip) == family && pool.contains(**ip)).count();
                let usage = self.allocator.usage(&pool.name, family).unwrap_or_default();
                prop_assert_eq!(usage.in_use, in_pool as u128, "{} {}", &pool.name, family);
            }
        }
        self.allocator.poll(at(self.now + 100));
        self.now += 100;
        self.settle()?;
        let rest = self.all();
        self.restart();
        prop_assert_eq!(&self.all(), &rest, "a restart changed something");
        Ok(())
    }

    /// No two Services are left that would each go to the pool where the other is, and could take its address there.
    pub(super) fn check_exchanges(&self) -> Result<(), TestCaseError> {
        if !self.quarantine.is_empty() {
            return Ok(());
        }
        let claims = self.claims();
        // The address that a Service has to itself, if it is the one of the one family that it wants, and its pool is
        // another than the one that it asks for.
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

    /// Whether nothing but who has `ip` now is in the way of `service`, which asks for the pool.
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

    /// Whoever waits, waits with reason: given the whole table anew, it still finds nothing.
    pub(super) fn check_waiting(&mut self) -> Result<(), TestCaseError> {
        let before = self.all();
        // Who just lost an address may keep it after all if he who had the better claim goes before the write: luck,
        // that nobody waits for.
        let stored =
            |service: &ServiceKey| self.allocator.services.get(service).is_some_and(|e| !e.stored.is_empty());
        if before.iter().any(|(service, desired)| desired.is_empty() && stored(service)) {
            return Ok(());
        }
        for service in before.keys() {
            let found =
                self.allocator.services.get_key_value(service).map(|(service, _)| Arc::clone(service));
            if let Some(service) = found {
                self.allocator.resolve(&service, at(self.now));
            }
        }
        prop_assert_eq!(self.all(), before, "somebody waited for what was free");
        Ok(())
    }
}
