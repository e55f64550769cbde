//! Claims: the one place where an address is taken or becomes free.

use std::net::IpAddr;
use std::sync::Arc;

use rules::Family;

use super::Allocator;
use crate::usage::{ServiceRef, Usage};
use crate::waiting::Freed;

impl Allocator {
    /// Whether `service` shall have `ip` (and not only may still have it in the API).
    pub(super) fn desires(&self, service: &ServiceRef, ip: IpAddr) -> bool {
        self.services.get(service).is_some_and(|entry| entry.desired.contains(&ip))
    }

    /// What `service` shall have or may still have in the API.
    pub(super) fn claimed(&self, service: &ServiceRef) -> Vec<IpAddr> {
        self.services.get(service).map(|entry| union(&entry.desired, &entry.stored)).unwrap_or_default()
    }

    /// Sets what `service` shall have, or what is stored for it, and moves its claims accordingly.
    pub(super) fn set_addresses(
        &mut self,
        service: &ServiceRef,
        desired: Option<Vec<IpAddr>>,
        stored: Option<Vec<IpAddr>>,
    ) {
        let Some(entry) = self.services.get_mut(service) else { return };
        let before = union(&entry.desired, &entry.stored);
        if let Some(desired) = desired {
            entry.desired = desired;
        }
        if let Some(stored) = stored {
            entry.stored = stored;
        }
        let after = union(&entry.desired, &entry.stored);
        for ip in after.iter().filter(|ip| !before.contains(ip)) {
            self.claim(service, *ip);
        }
        for ip in before.iter().filter(|ip| !after.contains(ip)) {
            self.unclaim(service, *ip);
        }
    }

    /// Renews those claims of `service` that are not as its sharing has them. Others may fit beside it then.
    pub(super) fn reclaim(&mut self, service: &ServiceRef) {
        let Some(sharing) = self.services.get(service).map(|entry| Arc::clone(&entry.sharing)) else {
            return;
        };
        for ip in self.claimed(service) {
            let held = self.addresses.get(&ip).and_then(|usage| usage.sharing_of(service));
            if held != Some(&*sharing) {
                self.claim(service, ip);
                self.note_freed(ip, Some(&service.namespace));
            }
        }
    }

    fn claim(&mut self, service: &ServiceRef, ip: IpAddr) {
        let Some(entry) = self.services.get(service) else { return };
        let sharing = Arc::clone(&entry.sharing);
        let (before, first, first_in_namespace) = match self.addresses.get(&ip) {
            None => (None, true, true),
            Some(usage) => {
                let mine = usage.claims_include(service);
                let alone = !mine && !usage.other_in_namespace(&service.namespace, service);
                (usage.pair().cloned(), false, alone)
            }
        };
        let usage = self
            .addresses
            .entry(ip)
            .and_modify(|usage| usage.claim(service, &sharing))
            .or_insert_with(|| Usage::new(service, &sharing));
        let Some(pool) = self.configuration.pool_of(ip) else { return };
        let Some(state) = self.pools.get_mut(&pool.name) else { return };
        if first {
            state.taken(ip);
        }
        if first_in_namespace && !pool.quotas.is_empty() {
            state.count_namespace(&service.namespace, true);
        }
        if !self.quarantine.contains_key(&ip) {
            state.share(ip, pool, before, Some(usage));
        }
    }

    fn unclaim(&mut self, service: &ServiceRef, ip: IpAddr) {
        let Some(usage) = self.addresses.get_mut(&ip) else { return };
        let before = usage.pair().cloned();
        let empty = usage.unclaim(service);
        let last_in_namespace = empty || !usage.other_in_namespace(&service.namespace, service);
        let quarantined = self.quarantine.contains_key(&ip);
        if let Some(pool) = self.configuration.pool_of(ip)
            && let Some(state) = self.pools.get_mut(&pool.name)
        {
            if !quarantined {
                state.share(ip, pool, before, (!empty).then_some(&*usage));
            }
            if empty {
                state.returned(ip, pool, quarantined);
            }
            if last_in_namespace && !pool.quotas.is_empty() {
                state.count_namespace(&service.namespace, false);
            }
        }
        if empty {
            self.addresses.remove(&ip);
        }
        self.note_freed(ip, Some(&service.namespace));
    }

    /// Something may fit on `ip` that did not before, since a Service of `namespace` changed its claim, if one did.
    pub(super) fn note_freed(&mut self, ip: IpAddr, namespace: Option<&str>) {
        self.freed.insert(Freed::Address(ip));
        let Some(pool) = self.configuration.pool_of(ip) else { return };
        self.freed.insert(Freed::InPool(pool.name.clone(), Family::of(ip)));
        if let Some(namespace) = namespace.filter(|namespace| pool.quota(namespace).is_some()) {
            self.freed.insert(Freed::InQuota(pool.name.clone(), namespace.to_owned()));
        }
    }
}

/// Both lists without repetition, what is desired first.
pub(super) fn union(desired: &[IpAddr], stored: &[IpAddr]) -> Vec<IpAddr> {
    let mut all = desired.to_vec();
    all.extend(stored.iter().filter(|ip| !desired.contains(ip)));
    all
}
