//! Carrying out a choice, and serving who waits.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::choose::Choice;
use super::{Allocator, Wait};
use crate::request::{Request, Wanted};
use crate::usage::ServiceRef;
use crate::waiting::{Class, Freed, Place};

impl Allocator {
    /// Makes `choice` what `service` shall have.
    pub(super) fn apply(&mut self, service: &ServiceRef, request: &Request, choice: Choice, now: Timestamp) {
        let Choice { addresses, refusal } = choice;
        self.leave_queue(service);
        let class = refusal.as_ref().and_then(|refusal| self.class(service, request, &addresses, refusal));
        let pool = addresses.first().and_then(|ip| self.configuration.pool_of(*ip)).map(|p| p.name.clone());
        let Some(entry) = self.services.get_mut(service) else { return };
        if entry.desired != addresses || entry.refusal.as_deref() != refusal.as_ref() {
            self.changed.insert(Arc::clone(service));
        }
        // The pool of an address that lies in none at the moment is remembered: it may be about to come back.
        if pool.is_some() || addresses.is_empty() {
            if entry.pool != pool {
                self.changed.insert(Arc::clone(service));
            }
            entry.pool.clone_from(&pool);
        }
        entry.since = refusal.as_ref().map(|_| entry.since.unwrap_or(now));
        entry.refusal = refusal.map(Box::new);
        if let (Some(class), Some(since)) = (class.map(Arc::new), entry.since) {
            let place = Place { since, age: request.age.clone(), service: Arc::clone(service) };
            let leaves = match request.wanted {
                Ok(Wanted::Pool(_) | Wanted::Addresses { .. }) => {
                    pool.or_else(|| entry.pool.clone()).filter(|_| !addresses.is_empty())
                }
                _ => None,
            };
            if let Some(pool) = leaves.clone() {
                self.leaving.entry(pool).or_default().insert(Arc::clone(service));
            }
            self.waiting.insert(&class, place.clone());
            entry.waits = Some(Box::new(Wait { class, place, leaves }));
        }
        if entry.desired != addresses {
            self.set_addresses(service, Some(addresses), None);
        }
    }

    pub(super) fn leave_queue(&mut self, service: &ServiceRef) {
        let Some(wait) = self.services.get_mut(service).and_then(|entry| entry.waits.take()) else { return };
        self.waiting.remove(&wait.class, &wait.place);
        if let Some(pool) = wait.leaves
            && let Some(services) = self.leaving.get_mut(&pool)
        {
            services.remove(service);
            if services.is_empty() {
                self.leaving.remove(&pool);
            }
        }
    }

    /// Gives what became free to who waits longest and fits, until nothing more fits. What one leaves that is served goes to
    /// the longest-waiting again, not only to those that were looked at so far.
    pub(super) fn serve(&mut self, now: Timestamp) {
        let mut first: BTreeSet<(Place, Arc<Class>)> = BTreeSet::new();
        loop {
            while !self.freed.is_empty() {
                let freed = std::mem::take(&mut self.freed);
                self.serve_heirs(&freed, now);
                first.extend(self.waiting.touched(&freed));
            }
            let Some((place, class)) = first.pop_first() else { return };
            if self.waiting.first(&class) != Some(&place) {
                continue;
            }
            self.resolve(&place.service, now);
            // Served, or at least no longer waiting for the same: the next of its class may fit too.
            if let Some(next) = self.waiting.first(&class).filter(|next| **next != place) {
                first.insert((next.clone(), class));
            }
        }
    }

    /// Gives those of `freed` that are pledged to their heirs.
    fn serve_heirs(&mut self, freed: &BTreeSet<Freed>, now: Timestamp) {
        for freed in freed {
            if let Freed::Address(ip) = freed
                && let Some(heir) = self.pledges.get(ip).cloned()
                && self.is_left_to(*ip, &heir)
            {
                self.pledges.remove(ip);
                self.renew_joinable(*ip);
                self.resolve(&heir, now);
            }
        }
    }

    /// Whether nobody but `heir` has `ip`. That somebody may be joined on it frees nothing for an heir.
    fn is_left_to(&self, ip: IpAddr, heir: &ServiceRef) -> bool {
        let usage = self.addresses.get(&ip);
        usage.is_none_or(|usage| usage.claims().into_iter().all(|(claimer, _)| claimer == heir))
    }
}
