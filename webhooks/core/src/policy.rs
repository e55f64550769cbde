//! `PoolPolicy`: reservations and quotas beside a pool.

use std::collections::BTreeMap;

use crds::{PoolPolicy, SelectorExt as _};

use crate::finding::Report;
use crate::objects::Objects;
use crate::pool::{Pool, Quota};
use crate::range::{AddressFault, IpRange, parse_addresses};
use crate::selectors::single;

/// Adds what `object` says to its pool. An entry with an error is left out, and the others hold: an address that is kept
/// back must not be given away for a slip elsewhere. So where there is no such pool, the pools that have the addresses
/// keep them back. Several policies for one pool add up.
pub(crate) fn apply(
    object: &PoolPolicy,
    pools: &mut BTreeMap<String, Pool>,
    objects: &Objects,
    report: &mut Report<'_>,
) {
    let reserved = reservations(object, report);
    let quotas = quotas(object, objects, report);
    let name = &object.spec.pool;
    let overlap = |pool: &Pool, range: &IpRange| pool.ranges.iter().any(|of_pool| of_pool.overlaps(range));
    if let Some(pool) = pools.get_mut(name) {
        let within: Vec<IpRange> = reserved.into_iter().filter(|range| overlap(pool, range)).collect();
        pool.reserved.extend(within);
        pool.quotas.extend(quotas);
    } else if !objects.pools.iter().any(|pool| pool.metadata.name.as_ref() == Some(name)) {
        for pool in pools.values_mut() {
            let within: Vec<IpRange> =
                reserved.iter().filter(|range| overlap(pool, range)).copied().collect();
            pool.reserved.extend(within);
        }
    }
}

/// The reservations that can be read.
fn reservations(object: &PoolPolicy, report: &mut Report<'_>) -> Vec<IpRange> {
    let mut reserved = Vec::with_capacity(object.spec.reserved.len());
    for (index, reservation) in object.spec.reserved.iter().enumerate() {
        let text = &reservation.addresses;
        match parse_reservation(text) {
            Err(fault) => {
                report.error(format!("spec.reserved[{index}].addresses"), text, fault.problem, fault.remedy);
            }
            Ok(range) => reserved.extend(range),
        }
    }
    reserved
}

/// The addresses of one reservation; none if it is a range that holds no addresses.
pub(crate) fn parse_reservation(text: &str) -> Result<Option<IpRange>, AddressFault> {
    text.parse().map(|ip| Some(IpRange::single(ip))).or_else(|_| parse_addresses(text))
}

/// The quotas that can be read.
fn quotas(object: &PoolPolicy, objects: &Objects, report: &mut Report<'_>) -> Vec<Quota> {
    let mut quotas = Vec::with_capacity(object.spec.quotas.len());
    let empty = BTreeMap::new();
    for (index, quota) in object.spec.quotas.iter().enumerate() {
        let field = format!("spec.quotas[{index}]");
        let Ok(max_addresses) = u32::try_from(quota.max_addresses) else {
            let value = quota.max_addresses.to_string();
            report.error(
                format!("{field}.maxAddresses"),
                value,
                "a quota cannot be negative",
                "use 0 or more",
            );
            continue;
        };
        let namespaces = match &quota.namespace_selector {
            None => None,
            Some(selector) => {
                let Some(selector) = single(report, &format!("{field}.namespaceSelector"), selector) else {
                    continue;
                };
                let bound = objects.namespaces.iter().filter(|namespace| {
                    selector.matches(namespace.metadata.labels.as_ref().unwrap_or(&empty))
                });
                Some(bound.filter_map(|namespace| namespace.metadata.name.clone()).collect())
            }
        };
        quotas.push(Quota { namespaces, max_addresses });
    }
    quotas
}
