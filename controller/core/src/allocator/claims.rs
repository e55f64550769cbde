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
        let mut desired_before = entry.desired.clone();
        if let Some(desired) = desired {
            desired_before = std::mem::replace(&mut entry.desired, desired);
        }
        if let Some(stored) = stored {
            entry.stored = stored;
        }
        let after = union(&entry.desired, &entry.stored);
        let turned = |ip: &IpAddr| entry.desired.contains(ip) != desired_before.contains(ip);
        let turned: Vec<IpAddr> =
            after.iter().filter(|ip| before.contains(ip) && turned(ip)).copied().collect();
        for ip in after.iter().filter(|ip| !before.contains(ip)) {
            self.claim(service, *ip);
        }
        for ip in before.iter().filter(|ip| !after.contains(ip)) {
            self.unclaim(service, *ip);
        }
        for ip in turned {
            self.renew_joinable(ip);
        }
    }

    /// Whether Services may join those on `ip`: one of them is there to stay. Where all are about to leave, and where the
    /// address is pledged to another, it belongs to who waits for it.
    pub(super) fn is_joinable(&self, ip: IpAddr, usage: &Usage) -> bool {
        let stays = |holder: &ServiceRef| {
            let entry = self.services.get(holder);
            entry.is_some_and(|entry| entry.desired.contains(&ip) && entry.grace.is_none())
                && !self.undecided.contains(holder)
        };
        !self.quarantine.contains_key(&ip) && !self.pledges.contains_key(&ip) && usage.any(stays)
    }

    /// Enters anew whether Services may join those on `ip`, and serves who can then.
    pub(super) fn renew_joinable(&mut self, ip: IpAddr) {
        let Some(usage) = self.addresses.get(&ip) else { return };
        let joinable = self.is_joinable(ip, usage);
        if let Some(pool) = self.configuration.pool_of(ip)
            && let Some(state) = self.pools.get_mut(&pool.name)
        {
            state.share(ip, pool, usage.pair().cloned(), Some(usage).filter(|_| joinable));
        }
        if joinable && usage.pair().is_some() {
            let holders = usage.claims().into_iter().map(|(holder, _)| Arc::clone(holder));
            for holder in holders.collect::<Vec<_>>() {
                self.note_freed(ip, Some(&holder.namespace));
            }
        }
    }

    /// The same for all that `service` has.
    pub(super) fn renew_all_joinable(&mut self, service: &ServiceRef) {
        for ip in self.claimed(service) {
            self.renew_joinable(ip);
        }
    }

    /// Nobody joins `service` where it is until [`Self::decided`] says whether it stays there.
    pub(super) fn begin_to_decide(&mut self, service: &ServiceRef) {
        if self.services.get(service).is_some_and(|entry| entry.sharing.pair.is_some()) {
            self.undecided.insert(Arc::clone(service));
            self.renew_all_joinable(service);
        }
    }

    /// Where `service` is now, it stays.
    pub(super) fn decided(&mut self, service: &ServiceRef) {
        if self.undecided.remove(service) {
            self.renew_all_joinable(service);
        }
    }

    /// Nothing is pledged to `service` any more.
    pub(super) fn drop_pledges(&mut self, service: &ServiceRef) {
        let to_it = self.pledges.iter().filter(|(_, to)| *to == service);
        for ip in to_it.map(|(ip, _)| *ip).collect::<Vec<_>>() {
            self.pledges.remove(&ip);
            self.renew_joinable(ip);
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
        self.addresses
            .entry(ip)
            .and_modify(|usage| usage.claim(service, &sharing))
            .or_insert_with(|| Usage::new(service, &sharing));
        let Some(usage) = self.addresses.get(&ip) else { return };
        let joinable = self.is_joinable(ip, usage);
        let Some(pool) = self.configuration.pool_of(ip) else { return };
        let Some(state) = self.pools.get_mut(&pool.name) else { return };
        if first {
            state.taken(ip);
        }
        if first_in_namespace && !pool.quotas.is_empty() {
            state.count_namespace(&service.namespace, true);
        }
        state.share(ip, pool, before, Some(usage).filter(|_| joinable));
    }

    fn unclaim(&mut self, service: &ServiceRef, ip: IpAddr) {
        let Some(usage) = self.addresses.get_mut(&ip) else { return };
        let before = usage.pair().cloned();
        let empty = usage.unclaim(service);
        let last_in_namespace = empty || !usage.other_in_namespace(&service.namespace, service);
        let quarantined = self.quarantine.contains_key(&ip);
        let Some(usage) = self.addresses.get(&ip) else { return };
        let joinable = !empty && self.is_joinable(ip, usage);
        if let Some(pool) = self.configuration.pool_of(ip)
            && let Some(state) = self.pools.get_mut(&pool.name)
        {
            state.share(ip, pool, before, joinable.then_some(usage));
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
