//! In which class of the queue a Service waits.

use std::net::IpAddr;
use std::sync::Arc;

use rules::{Family, Pool};

use super::Allocator;
use super::claims::union;
use super::judge::not_admitted;
use crate::refusal::{PoolReason, Refusal};
use crate::request::{Families, Request, Wanted};
use crate::usage::ServiceRef;
use crate::waiting::{Bound, Class, Need, Wants, sharing_class};

impl Allocator {
    /// What `service` waits for, which keeps `has`.
    ///
    /// None if nothing that becomes free would help, but only another request or another configuration: either has the
    /// Service looked at anyway, and in a class it would stand before those whom something free does help.
    pub(super) fn class(
        &self,
        service: &ServiceRef,
        request: &Request,
        has: &[IpAddr],
        refusal: &Refusal,
    ) -> Option<Class> {
        let wants = self.wants(service, request, refusal)?;
        let pools = match &wants {
            Wants::Addresses(addresses) => {
                let pool = addresses.iter().find_map(|ip| self.configuration.pool_of(*ip));
                pool.map(|pool| pool.name.clone()).into_iter().collect()
            }
            Wants::Pools(pools, _) => pools.clone(),
        };
        let binds = |pool: &Pool| pool.quota(&service.namespace).is_some();
        let bound: Vec<String> =
            pools.into_iter().filter(|name| self.configuration.pools.get(name).is_some_and(binds)).collect();
        let own = self.own_counts(service, has, refusal, &wants, &bound).then(|| Arc::clone(service));
        let quota = (!bound.is_empty()).then(|| Bound { namespace: service.namespace.clone(), pools: bound });
        Some(Class { wants, sharing: sharing_class(&request.sharing), quota, own })
    }

    fn wants(&self, service: &ServiceRef, request: &Request, refusal: &Refusal) -> Option<Wants> {
        let (Ok(families), Ok(wanted)) = (&request.families, &request.wanted) else { return None };
        if let Wanted::Addresses { addresses, .. } = wanted {
            let waits = matches!(
                refusal,
                Refusal::Taken { .. }
                    | Refusal::Conflict(_)
                    | Refusal::NodeAddress { .. }
                    | Refusal::Pool { reason: PoolReason::Quota { .. }, .. }
            );
            return waits.then(|| Wants::Addresses(addresses.clone()));
        }
        let (pools, need) = match refusal {
            Refusal::Pool { pool, .. } => (vec![pool.clone()], need(*families)),
            Refusal::NoneFits(_) => (self.automatic(service, request), need(*families)),
            Refusal::Additional { pool, .. } if moves_for_both(request) => {
                let mut pools = self.automatic(service, request);
                if !pools.contains(pool) {
                    pools.push(pool.clone());
                }
                (pools, Need::Both)
            }
            Refusal::Additional { pool, family, .. } => (vec![pool.clone()], Need::One(*family)),
            _ => return None,
        };
        let may_give = |name: &String| {
            let pool = self.configuration.pools.get(name);
            pool.is_some_and(|pool| offers(pool, need) && not_admitted(pool, service, request).is_none())
        };
        let pools: Vec<String> = pools.into_iter().filter(may_give).collect();
        (!pools.is_empty()).then_some(Wants::Pools(pools, need))
    }

    /// The pools that give to `service` without being asked for, in the order in which they are tried.
    fn automatic(&self, service: &ServiceRef, request: &Request) -> Vec<String> {
        let all = self.pinned.iter().chain(&self.plain);
        all.filter(|name| self.not_automatic(name, service, request).is_none()).cloned().collect()
    }

    /// Whether what the Service has, or may still have in the API, decides too: then no other stands for it.
    fn own_counts(
        &self,
        service: &ServiceRef,
        has: &[IpAddr],
        refusal: &Refusal,
        wants: &Wants,
        bound: &[String],
    ) -> bool {
        let stored = self.services.get(service).map(|entry| entry.stored.as_slice()).unwrap_or_default();
        let held = union(has, stored);
        // What it would give up makes room in a quota.
        let in_quota = |ip: &IpAddr| self.configuration.pool_of(*ip).is_some_and(|p| bound.contains(&p.name));
        match (wants, refusal) {
            (Wants::Addresses(wanted), _) => held.iter().any(|ip| wanted.contains(ip) || in_quota(ip)),
            (Wants::Pools(_, Need::Both), Refusal::Additional { .. }) => true,
            (Wants::Pools(..), Refusal::Additional { .. }) => {
                held.iter().any(|ip| !has.contains(ip) && in_quota(ip))
            }
            (Wants::Pools(..), _) => held.iter().any(in_quota),
        }
    }
}

/// Whether a Service that has one family would go elsewhere to have both.
fn moves_for_both(request: &Request) -> bool {
    request.wanted == Ok(Wanted::Any) && matches!(request.families, Ok(Families::Dual { required: true, .. }))
}

fn need(families: Families) -> Need {
    match families {
        Families::Single(family) => Need::One(family),
        Families::Dual { required: true, .. } => Need::Both,
        Families::Dual { primary, .. } => Need::Either(primary),
    }
}

/// Whether `pool` has the families for `need` at all.
fn offers(pool: &Pool, need: Need) -> bool {
    match need {
        Need::One(family) => pool.has(family),
        Need::Both => Family::ALL.into_iter().all(|family| pool.has(family)),
        Need::Either(_) => Family::ALL.into_iter().any(|family| pool.has(family)),
    }
}
