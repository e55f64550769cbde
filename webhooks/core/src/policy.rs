//! `PoolPolicy`: reservations and quotas beside a pool.

use std::collections::BTreeMap;

use crds::{PoolPolicy, SelectorExt as _};

use crate::finding::Report;
use crate::objects::Objects;
use crate::pool::{Pool, Quota};
use crate::range::{IpRange, parse_addresses};
use crate::selectors::single;

/// Adds what `object` says to its pool. An entry with an error is left out, and the others hold: an address that is kept back
/// must not be given away for a slip elsewhere. Several policies for one pool add up. Errors are reported whether or not
/// there is the pool: `rejected` has those that were left out because of an error, which is reported on them.
pub(crate) fn apply(
    object: &PoolPolicy,
    pools: &mut BTreeMap<String, Pool>,
    rejected: &BTreeMap<String, Vec<IpRange>>,
    objects: &Objects,
    report: &mut Report<'_>,
) {
    let reserved = reservations(object, report);
    let quotas = quotas(object, objects, report);
    let name = &object.spec.pool;
    let Some(pool) = pools.get_mut(name) else {
        if !rejected.contains_key(name) {
            report.warning(
                "spec.pool",
                name,
                "there is no valid IPAddressPool of this name",
                "create it, or correct the name",
            );
        }
        return;
    };
    for (index, range) in reserved {
        let Some(range) = range.filter(|range| pool.ranges.iter().any(|of_pool| of_pool.overlaps(range)))
        else {
            let field = format!("spec.reserved[{index}].addresses");
            let text = object.spec.reserved.get(index).map(|entry| entry.addresses.clone());
            let problem = format!("pool {} has none of these addresses", pool.name);
            let remedy = "correct the addresses, or remove the reservation";
            report.warning(field, text.unwrap_or_default(), problem, remedy);
            continue;
        };
        pool.reserved.push(range);
    }
    pool.quotas.extend(quotas);
}

/// The reservations that can be read, with their place in the list; none of a range that holds no addresses.
fn reservations(object: &PoolPolicy, report: &mut Report<'_>) -> Vec<(usize, Option<IpRange>)> {
    let mut reserved = Vec::with_capacity(object.spec.reserved.len());
    for (index, reservation) in object.spec.reserved.iter().enumerate() {
        let text = &reservation.addresses;
        match text.parse().map(|ip| Some(IpRange::single(ip))).or_else(|_| parse_addresses(text)) {
            Err(fault) => {
                report.error(format!("spec.reserved[{index}].addresses"), text, fault.problem, fault.remedy);
            }
            Ok(range) => reserved.push((index, range)),
        }
    }
    reserved
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
