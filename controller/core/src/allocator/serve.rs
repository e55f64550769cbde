//! Applying a choice, and serving waiting Services.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::choose::Choice;
use super::{Allocator, QueuePosition};
use crate::address_claims::ServiceRef;
use crate::request::{Request, Wanted};
use crate::wait_queue::{QueueKey, WaitClass, WakeKey};

impl Allocator {
    /// Makes `choice` the assignment of `service`.
    pub(super) fn apply_choice(
        &mut self,
        service: &ServiceRef,
        request: &Request,
        choice: Choice,
        now: Timestamp,
    ) {
        let Choice { addresses, refusal } = choice;
        self.dequeue(service);
        let class =
            refusal.as_ref().and_then(|refusal| self.wait_class(service, request, &addresses, refusal));
        let pool = addresses.first().and_then(|ip| self.configuration.pool_of(*ip)).map(|p| p.name.clone());
        let Some(entry) = self.services.get_mut(service) else { return };
        if entry.desired != addresses || entry.refusal.as_deref() != refusal.as_ref() {
            self.changed.insert(Arc::clone(service));
        }
        // The pool of an address that is in no pool at the moment is remembered, since it may be about to be
        // restored.
        if pool.is_some() || addresses.is_empty() {
            if entry.pool != pool {
                self.changed.insert(Arc::clone(service));
            }
            entry.pool.clone_from(&pool);
        }
        entry.waiting_since = refusal.as_ref().map(|_| entry.waiting_since.unwrap_or(now));
        entry.refusal = refusal.map(Box::new);
        if let (Some(class), Some(since)) = (class.map(Arc::new), entry.waiting_since) {
            let key = QueueKey { since, age: request.age.clone(), service: Arc::clone(service) };
            let leaving_pool = match request.wanted {
                Ok(Wanted::Pool(_) | Wanted::Addresses { .. }) => {
                    pool.or_else(|| entry.pool.clone()).filter(|_| !addresses.is_empty())
                }
                _ => None,
            };
            if let Some(pool) = leaving_pool.clone() {
                self.waiting_to_leave.entry(pool).or_default().insert(Arc::clone(service));
            }
            self.queue.insert(&class, key.clone());
            entry.queued = Some(Box::new(QueuePosition { class, key, leaving_pool }));
        }
        if entry.desired != addresses {
            self.set_addresses(service, Some(addresses), None);
        }
    }

    pub(super) fn dequeue(&mut self, service: &ServiceRef) {
        let Some(position) = self.services.get_mut(service).and_then(|entry| entry.queued.take()) else {
            return;
        };
        self.queue.remove(&position.class, &position.key);
        if let Some(pool) = position.leaving_pool
            && let Some(services) = self.waiting_to_leave.get_mut(&pool)
        {
            services.remove(service);
            if services.is_empty() {
                self.waiting_to_leave.remove(&pool);
            }
        }
    }

    /// Assigns what became free to the longest-waiting Services that fit, until no more fits. An address that
    /// a served Service leaves is again offered to all waiting Services.
    pub(super) fn serve_waiters(&mut self, now: Timestamp) {
        let mut candidates: BTreeSet<(QueueKey, Arc<WaitClass>)> = BTreeSet::new();
        loop {
            while !self.wake_keys.is_empty() {
                let keys = std::mem::take(&mut self.wake_keys);
                self.serve_handoffs(&keys, now);
                candidates.extend(self.queue.woken_by(&keys));
            }
            let Some((key, class)) = candidates.pop_first() else { return };
            if self.queue.first(&class) != Some(&key) {
                continue;
            }
            self.reconcile(&key.service, now);
            // It was served, or waits for something else: the next Service of its class may fit too.
            if let Some(next) = self.queue.first(&class).filter(|next| **next != key) {
                candidates.insert((next.clone(), class));
            }
        }
    }

    /// Assigns freed addresses that are handed over to their successors.
    fn serve_handoffs(&mut self, keys: &BTreeSet<WakeKey>, now: Timestamp) {
        for wake_key in keys {
            if let WakeKey::Address(ip) = wake_key
                && let Some(successor) = self.handoffs.get(ip).cloned()
                && self.is_free_for(*ip, &successor)
            {
                self.handoffs.remove(ip);
                self.update_joinable(*ip);
                self.reconcile(&successor, now);
            }
        }
    }

    /// Whether no Service but `successor` has `ip`. An address that only became joinable is not free for the
    /// successor.
    fn is_free_for(&self, ip: IpAddr, successor: &ServiceRef) -> bool {
        let claims = self.addresses.get(&ip);
        claims.is_none_or(|claims| claims.holders().into_iter().all(|(claimer, _)| claimer == successor))
    }
}
