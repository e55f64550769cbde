//! Which of the addresses that a Service has may stay.

use std::net::IpAddr;

use k8s_openapi::jiff::Timestamp;
use rules::{Family, Pool};

use super::{Allocator, GRACE};
use crate::refusal::{LostReason, PoolReason, Refusal};
use crate::request::{Families, Request};
use crate::usage::ServiceRef;

/// The verdict on the addresses that a Service has. What is in neither list goes at once.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// In their order, with whether each is only kept for the time of grace.
    addresses: Vec<(IpAddr, bool)>,
    /// The first loss.
    lost: Option<Refusal>,
}

impl Judged {
    /// What stays: with grace also what was lost.
    pub(super) fn keep(&self, grace: bool) -> Vec<IpAddr> {
        self.addresses.iter().filter(|(_, lost)| grace || !lost).map(|(ip, _)| *ip).collect()
    }

    /// Whether any of `addresses` was lost.
    pub(super) fn loses_any_of(&self, addresses: &[IpAddr]) -> bool {
        self.addresses.iter().any(|(ip, lost)| *lost && addresses.contains(ip))
    }

    /// Whether anything was lost.
    pub(super) fn lost(&self) -> bool {
        self.lost.is_some()
    }
}

impl Allocator {
    /// What is stored for `service`, neither pledged to somebody else nor used by a machine.
    pub(super) fn still_stored(&self, service: &ServiceRef) -> Vec<IpAddr> {
        let Some(entry) = self.services.get(service) else { return Vec::new() };
        // Nor stored for another: a client that writes statuses too may have put it in both.
        let alone = |ip: &IpAddr| {
            let usage = self.addresses.get(ip);
            usage.is_none_or(|usage| usage.blocker(service, &entry.sharing, |_| true).is_none())
        };
        let free_to_keep = |ip: &&IpAddr| {
            !self.quarantine.contains_key(*ip)
                && self.pledges.get(*ip).is_none_or(|to| to == service)
                && alone(ip)
        };
        entry.stored.iter().filter(free_to_keep).copied().collect()
    }

    /// Judges the addresses `has` of `service`.
    pub(super) fn judge(&self, service: &ServiceRef, request: &Request, has: &[IpAddr]) -> Judged {
        let mut judged = Judged::default();
        let mut pool: Option<&str> = None;
        for ip in has {
            if request.families.as_ref().is_ok_and(|families| !families.wants(Family::of(*ip))) {
                continue;
            }
            // Of several of one family, of which some may only be stored by a late write, the first stays.
            let second = |(other, lost): &(IpAddr, bool)| !lost && Family::of(*other) == Family::of(*ip);
            if judged.addresses.iter().any(second) {
                continue;
            }
            // Who is only stored with the address is about to lose it and takes it from nobody.
            let taken = self
                .addresses
                .get(ip)
                .and_then(|usage| usage.blocker(service, &request.sharing, |other| self.desires(other, *ip)));
            if taken.is_some() {
                continue;
            }
            let lost = match self.configuration.pool_of(*ip) {
                None if self.left_out(service, *ip) => None,
                None => Some(LostReason::NoPool),
                Some(other) if pool.is_some_and(|pool| pool != other.name) => {
                    Some(LostReason::OtherPool(other.name.clone()))
                }
                Some(of) => {
                    pool = Some(&of.name);
                    lost_by(of, *ip, service, request)
                }
            };
            judged.addresses.push((*ip, lost.is_some()));
            if let Some(why) = lost {
                judged.lost.get_or_insert(Refusal::Lost { ip: *ip, why });
            }
        }
        judged
    }

    /// Whether `ip` belongs to a pool that is only left out because of an error.
    fn left_out(&self, service: &ServiceRef, ip: IpAddr) -> bool {
        let left_out = &self.configuration.rejected_pools;
        let pool = self.services.get(service).and_then(|entry| entry.pool.as_ref());
        pool.is_some_and(|pool| left_out.contains_key(pool))
            || left_out.values().flatten().any(|range| range.contains(ip))
    }

    /// Starts, goes on with or ends the grace of what was lost. While it lasts, says what was lost.
    pub(super) fn in_grace(
        &mut self,
        service: &ServiceRef,
        judged: &Judged,
        now: Timestamp,
    ) -> Option<Refusal> {
        let Some(lost) = &judged.lost else {
            self.end_grace(service);
            return None;
        };
        let entry = self.services.get_mut(service)?;
        if entry.desired.is_empty() {
            // It was taken away already, and is only still stored.
            return None;
        }
        let begins = entry.grace.is_none();
        let deadline = *entry.grace.get_or_insert_with(|| now.checked_add(GRACE).unwrap_or(Timestamp::MAX));
        if now >= deadline {
            self.end_grace(service);
            return None;
        }
        self.graces.insert((deadline, service.clone()));
        if begins {
            self.renew_all_joinable(service);
        }
        Some(lost.clone())
    }

    pub(super) fn end_grace(&mut self, service: &ServiceRef) {
        if let Some(deadline) = self.services.get_mut(service).and_then(|entry| entry.grace.take()) {
            self.graces.remove(&(deadline, service.clone()));
            self.renew_all_joinable(service);
        }
    }
}

/// Why `pool` no longer leaves `ip` to the Service.
fn lost_by(pool: &Pool, ip: IpAddr, service: &ServiceRef, request: &Request) -> Option<LostReason> {
    if pool.avoids(ip) {
        return Some(LostReason::Avoided(pool.name.clone()));
    }
    let unresolved = pool.allocation.as_ref().is_some_and(|allocation| allocation.unresolved);
    match not_admitted(pool, service, request) {
        Some(PoolReason::Namespace(_)) if unresolved => None,
        reason => reason.map(|reason| LostReason::NotAdmitted(pool.name.clone(), reason)),
    }
}

/// Why the `serviceAllocation` of `pool` does not admit the Service.
pub(super) fn not_admitted(pool: &Pool, service: &ServiceRef, request: &Request) -> Option<PoolReason> {
    let allocation = pool.allocation.as_ref()?;
    if !allocation.admits_namespace(&service.namespace) {
        return Some(PoolReason::Namespace(service.namespace.clone()));
    }
    (!allocation.admits_labels(&request.labels)).then_some(PoolReason::Labels)
}

/// The families of `families` that none of `addresses` is of.
pub(super) fn missing(families: Families, addresses: &[IpAddr]) -> Vec<Family> {
    let has = |family: &Family| addresses.iter().any(|ip| Family::of(*ip) == *family);
    Family::ALL.into_iter().filter(|family| families.wants(*family) && !has(family)).collect()
}
