//! The class of the queue in which a Service waits.

use std::net::IpAddr;
use std::sync::Arc;

use rules::{Family, Pool};

use super::Allocator;
use super::claims::union;
use super::retention::admission_refusal;
use crate::address_claims::ServiceRef;
use crate::refusal::{PoolReason, Refusal};
use crate::request::{Families, Request, Wanted};
use crate::wait_queue::{FamilyNeed, QuotaScope, WaitClass, WaitTarget, sharing_class};

impl Allocator {
    /// The class of `service`, which keeps `current` and was refused for `refusal`.
    ///
    /// `None` if no address that becomes free would help, but only another request or another configuration.
    /// Either causes a reconciliation anyway, and in a class the Service would block others that a free
    /// address does help.
    pub(super) fn wait_class(
        &self,
        service: &ServiceRef,
        request: &Request,
        current: &[IpAddr],
        refusal: &Refusal,
    ) -> Option<WaitClass> {
        let target = self.wait_target(service, request, refusal)?;
        let pools = match &target {
            WaitTarget::Addresses(addresses) => {
                let pool = addresses.iter().find_map(|ip| self.configuration.pool_of(*ip));
                pool.map(|pool| pool.name.clone()).into_iter().collect()
            }
            WaitTarget::Pools(pools, _) => pools.clone(),
        };
        let has_quota = |pool: &Pool| pool.quota(&service.namespace).is_some();
        let quota_pools: Vec<String> = pools
            .into_iter()
            .filter(|name| self.configuration.pools.get(name).is_some_and(has_quota))
            .collect();
        let exclusive_to = self
            .depends_on_current(service, current, refusal, &target, &quota_pools)
            .then(|| Arc::clone(service));
        let quota = (!quota_pools.is_empty())
            .then(|| QuotaScope { namespace: service.namespace.clone(), pools: quota_pools });
        Some(WaitClass { target, sharing: sharing_class(&request.sharing), quota, exclusive_to })
    }

    fn wait_target(&self, service: &ServiceRef, request: &Request, refusal: &Refusal) -> Option<WaitTarget> {
        let (Ok(families), Ok(wanted)) = (&request.families, &request.wanted) else { return None };
        if let Wanted::Addresses { addresses, .. } = wanted {
            let may_become_possible = matches!(
                refusal,
                Refusal::Taken { .. }
                    | Refusal::Conflict(_)
                    | Refusal::NodeAddress { .. }
                    | Refusal::Pool { reason: PoolReason::Quota { .. }, .. }
            );
            return may_become_possible.then(|| WaitTarget::Addresses(addresses.clone()));
        }
        let (pools, need) = match refusal {
            Refusal::Pool { pool, .. } => (vec![pool.clone()], family_need(*families)),
            Refusal::NoPoolFits(_) => (self.auto_assign_pools(service, request), family_need(*families)),
            Refusal::MissingFamily { pool, .. } if moves_for_both_families(request) => {
                let mut pools = self.auto_assign_pools(service, request);
                if !pools.contains(pool) {
                    pools.push(pool.clone());
                }
                (pools, FamilyNeed::Both)
            }
            Refusal::MissingFamily { pool, family, .. } => (vec![pool.clone()], FamilyNeed::One(*family)),
            _ => return None,
        };
        let may_assign = |name: &String| {
            let pool = self.configuration.pools.get(name);
            pool.is_some_and(|pool| {
                offers_families(pool, need) && admission_refusal(pool, service, request).is_none()
            })
        };
        let pools: Vec<String> = pools.into_iter().filter(may_assign).collect();
        (!pools.is_empty()).then_some(WaitTarget::Pools(pools, need))
    }

    /// The pools that assign to `service` automatically, in the order in which they are tried.
    fn auto_assign_pools(&self, service: &ServiceRef, request: &Request) -> Vec<String> {
        let all = self.restricted.iter().chain(&self.unrestricted);
        all.filter(|name| self.auto_assign_refusal(name, service, request).is_none()).cloned().collect()
    }

    /// Whether the current or the stored addresses of the Service matter too, so that no other Service has
    /// the same class.
    fn depends_on_current(
        &self,
        service: &ServiceRef,
        current: &[IpAddr],
        refusal: &Refusal,
        target: &WaitTarget,
        quota_pools: &[String],
    ) -> bool {
        let stored = self.services.get(service).map(|entry| entry.stored.as_slice()).unwrap_or_default();
        let held = union(current, stored);
        // An address that it would give up makes room in a quota.
        let in_quota =
            |ip: &IpAddr| self.configuration.pool_of(*ip).is_some_and(|p| quota_pools.contains(&p.name));
        match (target, refusal) {
            (WaitTarget::Addresses(wanted), _) => held.iter().any(|ip| wanted.contains(ip) || in_quota(ip)),
            (WaitTarget::Pools(_, FamilyNeed::Both), Refusal::MissingFamily { .. }) => true,
            (WaitTarget::Pools(..), Refusal::MissingFamily { .. }) => {
                held.iter().any(|ip| !current.contains(ip) && in_quota(ip))
            }
            (WaitTarget::Pools(..), _) => held.iter().any(in_quota),
        }
    }
}

/// Whether a Service that has one family would move to another pool to have both.
fn moves_for_both_families(request: &Request) -> bool {
    request.wanted == Ok(Wanted::Any) && matches!(request.families, Ok(Families::Dual { required: true, .. }))
}

fn family_need(families: Families) -> FamilyNeed {
    match families {
        Families::Single(family) => FamilyNeed::One(family),
        Families::Dual { required: true, .. } => FamilyNeed::Both,
        Families::Dual { primary, .. } => FamilyNeed::Either(primary),
    }
}

/// Whether `pool` has ranges of the families for `need`.
fn offers_families(pool: &Pool, need: FamilyNeed) -> bool {
    match need {
        FamilyNeed::One(family) => pool.has(family),
        FamilyNeed::Both => Family::ALL.into_iter().all(|family| pool.has(family)),
        FamilyNeed::Either(_) => Family::ALL.into_iter().any(|family| pool.has(family)),
    }
}
