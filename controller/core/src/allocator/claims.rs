//! Claims: the only place where an address becomes used or free.

use std::net::IpAddr;
use std::sync::Arc;

use rules::Family;

use super::Allocator;
use crate::address_claims::{AddressClaims, ServiceRef};
use crate::wait_queue::WakeKey;

impl Allocator {
    /// Whether `ip` is a desired address of `service`, and not only one that the API may still store.
    pub(super) fn desires(&self, service: &ServiceRef, ip: IpAddr) -> bool {
        self.services.get(service).is_some_and(|entry| entry.desired.contains(&ip))
    }

    /// The desired and the stored addresses of `service`.
    pub(super) fn claimed(&self, service: &ServiceRef) -> Vec<IpAddr> {
        self.services.get(service).map(|entry| union(&entry.desired, &entry.stored)).unwrap_or_default()
    }

    /// Sets the desired or the stored addresses of `service`, or both, and updates its claims.
    pub(super) fn set_addresses(
        &mut self,
        service: &ServiceRef,
        desired: Option<Vec<IpAddr>>,
        stored: Option<Vec<IpAddr>>,
    ) {
        let Some(entry) = self.services.get_mut(service) else { return };
        let before = union(&entry.desired, &entry.stored);
        let mut desired_before = entry.desired.clone();
        if let Some(desired) = desired {
            desired_before = std::mem::replace(&mut entry.desired, desired);
        }
        if let Some(stored) = stored {
            entry.stored = stored;
        }
        let after = union(&entry.desired, &entry.stored);
        let desired_changed = |ip: &IpAddr| entry.desired.contains(ip) != desired_before.contains(ip);
        let desired_changed: Vec<IpAddr> =
            after.iter().filter(|ip| before.contains(ip) && desired_changed(ip)).copied().collect();
        for ip in after.iter().filter(|ip| !before.contains(ip)) {
            self.claim(service, *ip);
        }
        for ip in before.iter().filter(|ip| !after.contains(ip)) {
            self.unclaim(service, *ip);
        }
        for ip in desired_changed {
            self.update_joinable(ip);
        }
    }

    /// Whether Services may join those on `ip`: at least one of them stays there. An address that all its
    /// Services are about to leave, or that is being handed over, is for the Service that waits for it.
    pub(super) fn is_joinable(&self, ip: IpAddr, claims: &AddressClaims) -> bool {
        let stays = |holder: &ServiceRef| {
            let entry = self.services.get(holder);
            entry.is_some_and(|entry| entry.desired.contains(&ip) && entry.grace_deadline.is_none())
                && !self.reconciling.contains(holder)
        };
        !self.quarantine.contains_key(&ip) && !self.handoffs.contains_key(&ip) && claims.any(stays)
    }

    /// Updates whether Services may join those on `ip`, and records whom that may help.
    pub(super) fn update_joinable(&mut self, ip: IpAddr) {
        let Some(claims) = self.addresses.get(&ip) else { return };
        let joinable = self.is_joinable(ip, claims);
        if let Some(pool) = self.configuration.pool_of(ip)
            && let Some(state) = self.pools.get_mut(&pool.name)
        {
            state.update_shared(ip, pool, claims.sharing_key().cloned(), Some(claims).filter(|_| joinable));
        }
        if joinable && claims.sharing_key().is_some() {
            let holders = claims.holders().into_iter().map(|(holder, _)| Arc::clone(holder));
            for holder in holders.collect::<Vec<_>>() {
                self.record_wake_keys(ip, Some(&holder.namespace));
            }
        }
    }

    /// The same for all addresses of `service`.
    pub(super) fn update_joinable_of(&mut self, service: &ServiceRef) {
        for ip in self.claimed(service) {
            self.update_joinable(ip);
        }
    }

    /// No Service joins `service` on its addresses until [`Self::finish_reconcile`].
    pub(super) fn begin_reconcile(&mut self, service: &ServiceRef) {
        if self.services.get(service).is_some_and(|entry| entry.sharing.key.is_some()) {
            self.reconciling.insert(Arc::clone(service));
            self.update_joinable_of(service);
        }
    }

    /// `service` stays on the addresses that it has now.
    pub(super) fn finish_reconcile(&mut self, service: &ServiceRef) {
        if self.reconciling.remove(service) {
            self.update_joinable_of(service);
        }
    }

    /// Cancels the handoffs to `service`.
    pub(super) fn drop_handoffs_to(&mut self, service: &ServiceRef) {
        let to_it = self.handoffs.iter().filter(|(_, to)| *to == service);
        for ip in to_it.map(|(ip, _)| *ip).collect::<Vec<_>>() {
            self.handoffs.remove(&ip);
            self.update_joinable(ip);
        }
    }

    /// Updates the claims of `service` whose sharing is outdated. Other Services may be able to share with it
    /// then.
    pub(super) fn refresh_claims(&mut self, service: &ServiceRef) {
        let Some(sharing) = self.services.get(service).map(|entry| Arc::clone(&entry.sharing)) else {
            return;
        };
        for ip in self.claimed(service) {
            let held = self.addresses.get(&ip).and_then(|claims| claims.sharing_of(service));
            if held != Some(&*sharing) {
                self.claim(service, ip);
                self.record_wake_keys(ip, Some(&service.namespace));
            }
        }
    }

    fn claim(&mut self, service: &ServiceRef, ip: IpAddr) {
        let Some(entry) = self.services.get(service) else { return };
        let sharing = Arc::clone(&entry.sharing);
        let (before, first, first_in_namespace) = match self.addresses.get(&ip) {
            None => (None, true, true),
            Some(claims) => {
                let mine = claims.contains(service);
                let alone = !mine && !claims.other_in_namespace(&service.namespace, service);
                (claims.sharing_key().cloned(), false, alone)
            }
        };
        self.addresses
            .entry(ip)
            .and_modify(|claims| claims.claim(service, &sharing))
            .or_insert_with(|| AddressClaims::new(service, &sharing));
        let Some(claims) = self.addresses.get(&ip) else { return };
        let joinable = self.is_joinable(ip, claims);
        let Some(pool) = self.configuration.pool_of(ip) else { return };
        let Some(state) = self.pools.get_mut(&pool.name) else { return };
        if first {
            state.mark_used(ip);
        }
        if first_in_namespace && !pool.quotas.is_empty() {
            state.count_namespace(&service.namespace, true);
        }
        state.update_shared(ip, pool, before, Some(claims).filter(|_| joinable));
    }

    fn unclaim(&mut self, service: &ServiceRef, ip: IpAddr) {
        let Some(claims) = self.addresses.get_mut(&ip) else { return };
        let before = claims.sharing_key().cloned();
        let empty = claims.unclaim(service);
        let last_in_namespace = empty || !claims.other_in_namespace(&service.namespace, service);
        let quarantined = self.quarantine.contains_key(&ip);
        let Some(claims) = self.addresses.get(&ip) else { return };
        let joinable = !empty && self.is_joinable(ip, claims);
        if let Some(pool) = self.configuration.pool_of(ip)
            && let Some(state) = self.pools.get_mut(&pool.name)
        {
            state.update_shared(ip, pool, before, joinable.then_some(claims));
            if empty {
                state.mark_free(ip, pool, quarantined);
            }
            if last_in_namespace && !pool.quotas.is_empty() {
                state.count_namespace(&service.namespace, false);
            }
        }
        if empty {
            self.addresses.remove(&ip);
        }
        self.record_wake_keys(ip, Some(&service.namespace));
    }

    /// Records that other Services than before may be able to have `ip`. `namespace` is that of the Service
    /// whose claim changed, if one did.
    pub(super) fn record_wake_keys(&mut self, ip: IpAddr, namespace: Option<&str>) {
        self.wake_keys.insert(WakeKey::Address(ip));
        let Some(pool) = self.configuration.pool_of(ip) else { return };
        self.wake_keys.insert(WakeKey::InPool(pool.name.clone(), Family::of(ip)));
        if let Some(namespace) = namespace.filter(|namespace| pool.quota(namespace).is_some()) {
            self.wake_keys.insert(WakeKey::InQuota(pool.name.clone(), namespace.to_owned()));
        }
    }
}

/// Both lists without duplicates, desired addresses first.
pub(super) fn union(desired: &[IpAddr], stored: &[IpAddr]) -> Vec<IpAddr> {
    let mut all = desired.to_vec();
    all.extend(stored.iter().filter(|ip| !desired.contains(ip)));
    all
}
