//! Which of its current addresses a Service may keep.

use std::net::IpAddr;

use k8s_openapi::jiff::Timestamp;
use rules::{Family, Pool};

use super::{Allocator, GRACE};
use crate::address_claims::ServiceRef;
use crate::refusal::{LostReason, PoolReason, Refusal};
use crate::request::{Families, Request};

/// The current addresses of a Service that it may keep, at least for the grace period. Others are withdrawn
/// at once.
#[derive(Debug, Default)]
pub(super) struct Retention {
    /// In their order, each with whether it is lost, so that it is only kept for the grace period.
    addresses: Vec<(IpAddr, bool)>,
    /// The reason for the first lost address.
    lost: Option<Refusal>,
}

impl Retention {
    /// The addresses to keep, with or without the lost ones.
    pub(super) fn kept(&self, include_lost: bool) -> Vec<IpAddr> {
        self.addresses.iter().filter(|(_, lost)| include_lost || !lost).map(|(ip, _)| *ip).collect()
    }

    /// Whether any of `addresses` was lost.
    pub(super) fn loses_any_of(&self, addresses: &[IpAddr]) -> bool {
        self.addresses.iter().any(|(ip, lost)| *lost && addresses.contains(ip))
    }

    /// Whether anything was lost.
    pub(super) fn any_lost(&self) -> bool {
        self.lost.is_some()
    }
}

impl Allocator {
    /// The stored addresses of `service` that are neither handed over to another Service nor used by a
    /// machine.
    pub(super) fn reusable_stored(&self, service: &ServiceRef) -> Vec<IpAddr> {
        let Some(entry) = self.services.get(service) else { return Vec::new() };
        // Nor stored for another Service: another client that writes statuses may have written it to both.
        let alone = |ip: &IpAddr| {
            let claims = self.addresses.get(ip);
            claims.is_none_or(|claims| claims.blocker(service, &entry.sharing, |_| true).is_none())
        };
        let reusable = |ip: &&IpAddr| {
            !self.quarantine.contains_key(*ip)
                && self.handoffs.get(*ip).is_none_or(|to| to == service)
                && alone(ip)
        };
        entry.stored.iter().filter(reusable).copied().collect()
    }

    /// Which of the addresses `current` `service` may keep.
    pub(super) fn retention(&self, service: &ServiceRef, request: &Request, current: &[IpAddr]) -> Retention {
        let mut retention = Retention::default();
        let mut pool: Option<&str> = None;
        for ip in current {
            if request.families.as_ref().is_ok_and(|families| !families.wants(Family::of(*ip))) {
                continue;
            }
            // Of several addresses of one family, of which some may only be stored by a late write, the first
            // is kept.
            let same_family = |(other, lost): &(IpAddr, bool)| !lost && Family::of(*other) == Family::of(*ip);
            if retention.addresses.iter().any(same_family) {
                continue;
            }
            // A Service for which the address is only stored is about to lose it, and does not block others.
            let blocked = self.addresses.get(ip).and_then(|claims| {
                claims.blocker(service, &request.sharing, |other| self.desires(other, *ip))
            });
            if blocked.is_some() {
                continue;
            }
            let lost = match self.configuration.pool_of(*ip) {
                None if self.in_rejected_pool(service, *ip) => None,
                None => Some(LostReason::NoPool),
                Some(other) if pool.is_some_and(|pool| pool != other.name) => {
                    Some(LostReason::OtherPool(other.name.clone()))
                }
                Some(of) => {
                    pool = Some(&of.name);
                    lost_reason(of, *ip, service, request)
                }
            };
            retention.addresses.push((*ip, lost.is_some()));
            if let Some(reason) = lost {
                retention.lost.get_or_insert(Refusal::Lost { ip: *ip, reason });
            }
        }
        retention
    }

    /// Whether `ip` belongs to a pool that is rejected because of an error.
    fn in_rejected_pool(&self, service: &ServiceRef, ip: IpAddr) -> bool {
        let rejected = &self.configuration.rejected_pools;
        let pool = self.services.get(service).and_then(|entry| entry.pool.as_ref());
        pool.is_some_and(|pool| rejected.contains_key(pool))
            || rejected.values().flatten().any(|range| range.contains(ip))
    }

    /// Starts, continues or ends the grace period of lost addresses. Returns the reason of the loss during
    /// the period.
    pub(super) fn update_grace(
        &mut self,
        service: &ServiceRef,
        retention: &Retention,
        now: Timestamp,
    ) -> Option<Refusal> {
        let Some(lost) = &retention.lost else {
            self.end_grace(service);
            return None;
        };
        let entry = self.services.get_mut(service)?;
        if entry.desired.is_empty() {
            // It was withdrawn already, and is only still stored.
            return None;
        }
        let begins = entry.grace_deadline.is_none();
        let deadline =
            *entry.grace_deadline.get_or_insert_with(|| now.checked_add(GRACE).unwrap_or(Timestamp::MAX));
        if now >= deadline {
            self.end_grace(service);
            return None;
        }
        self.grace_deadlines.insert((deadline, service.clone()));
        if begins {
            self.update_joinable_of(service);
        }
        Some(lost.clone())
    }

    pub(super) fn end_grace(&mut self, service: &ServiceRef) {
        if let Some(deadline) = self.services.get_mut(service).and_then(|entry| entry.grace_deadline.take()) {
            self.grace_deadlines.remove(&(deadline, service.clone()));
            self.update_joinable_of(service);
        }
    }
}

/// Why the Service may not keep `ip` of `pool`; `None` if it may.
fn lost_reason(pool: &Pool, ip: IpAddr, service: &ServiceRef, request: &Request) -> Option<LostReason> {
    if pool.avoids(ip) {
        return Some(LostReason::Excluded(pool.name.clone()));
    }
    let unresolved = pool.allocation.as_ref().is_some_and(|allocation| allocation.unresolved);
    match admission_refusal(pool, service, request) {
        Some(PoolReason::Namespace(_)) if unresolved => None,
        reason => reason.map(|reason| LostReason::NotAdmitted(pool.name.clone(), reason)),
    }
}

/// Why the `serviceAllocation` of `pool` does not admit the Service; `None` if it does.
pub(super) fn admission_refusal(pool: &Pool, service: &ServiceRef, request: &Request) -> Option<PoolReason> {
    let allocation = pool.allocation.as_ref()?;
    if !allocation.admits_namespace(&service.namespace) {
        return Some(PoolReason::Namespace(service.namespace.clone()));
    }
    (!allocation.admits_labels(&request.labels)).then_some(PoolReason::Labels)
}

/// The families that are requested and that `addresses` lacks.
pub(super) fn missing_families(families: Families, addresses: &[IpAddr]) -> Vec<Family> {
    let present = |family: &Family| addresses.iter().any(|ip| Family::of(*ip) == *family);
    Family::ALL.into_iter().filter(|family| families.wants(*family) && !present(family)).collect()
}
