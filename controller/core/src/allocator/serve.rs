//! Carrying out a choice, and serving who waits.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::choose::Choice;
use super::{Allocator, Wait};
use crate::refusal::Refusal;
use crate::request::{Families, Request, Wanted};
use crate::usage::ServiceRef;
use crate::waiting::{Class, Need, Place, PoolClass, sharing_class};

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
        entry.refusal = refusal.map(Box::new);
        if let Some(class) = class {
            let since = *entry.since.get_or_insert(now);
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
            entry.waits = Some(Box::new(Wait { class: class.clone(), place: place.clone(), leaves }));
            self.waiting.insert(class, place);
        } else if entry.refusal.is_none() {
            entry.since = None;
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

    /// What the Service waits for; none if nothing that becomes free would help.
    fn class(
        &self,
        service: &ServiceRef,
        request: &Request,
        has: &[IpAddr],
        refusal: &Refusal,
    ) -> Option<Class> {
        let (Ok(families), Ok(wanted)) = (&request.families, &request.wanted) else { return None };
        let sharing = sharing_class(&request.sharing);
        let pools = match (wanted, refusal) {
            (_, Refusal::Request(_) | Refusal::Lost { .. }) => return None,
            (Wanted::Addresses { addresses, .. }, _) => {
                return Some(Class::Addresses(addresses.clone(), sharing, Some(service.namespace.clone())));
            }
            (Wanted::Pool(name), _) => vec![name.clone()],
            (Wanted::Any, Refusal::Additional { pool, .. })
                if !matches!(families, Families::Dual { required: true, .. }) =>
            {
                vec![pool.clone()]
            }
            (Wanted::Any, _) => {
                let all = self.pinned.iter().chain(&self.plain);
                all.filter(|name| self.not_automatic(name, service, request).is_none()).cloned().collect()
            }
        };
        let need = match (*families, refusal) {
            (Families::Single(family), _) => Need::One(family),
            (Families::Dual { required: true, .. }, _) => Need::Both,
            (_, Refusal::Additional { family, .. }) => Need::One(*family),
            (Families::Dual { primary, .. }, _) => Need::Either(primary),
        };
        let bound = |name: &String| {
            self.configuration.pools.get(name).is_some_and(|pool| pool.quota(&service.namespace).is_some())
        };
        let namespace = pools.iter().any(bound).then(|| service.namespace.clone());
        let own = (!has.is_empty()).then(|| Arc::clone(service));
        Some(Class::Pools(PoolClass { pools, need, sharing, namespace, own }))
    }

    /// Gives what became free to who waits longest and fits, until nothing more fits.
    pub(super) fn serve(&mut self, now: Timestamp) {
        while !self.freed.is_empty() {
            let freed = std::mem::take(&mut self.freed);
            for ip in &freed.addresses {
                if let Some(heir) = self.pledges.remove(ip) {
                    self.resolve(&heir, now);
                }
            }
            let touched = self.waiting.touched(&freed);
            let mut first: BinaryHeap<Reverse<(Place, Class)>> = touched.into_iter().map(Reverse).collect();
            while let Some(Reverse((place, class))) = first.pop() {
                if self.waiting.first(&class) != Some(&place) {
                    continue;
                }
                self.resolve(&place.service, now);
                // Served, or at least no longer waiting for the same: the next of its class may fit too.
                if let Some(next) = self.waiting.first(&class).filter(|next| **next != place) {
                    first.push(Reverse((next.clone(), class)));
                }
            }
        }
    }
}
