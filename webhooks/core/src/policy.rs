//! Validation of `PoolPolicy`: reservations and quotas for a pool.

use std::collections::BTreeMap;

use crds::{PoolPolicy, SelectorExt as _};

use crate::finding::Reporter;
use crate::objects::Objects;
use crate::pool::{Pool, Quota};
use crate::range::{AddressError, IpRange, parse_addresses};
use crate::selectors::single;

/// Applies `object` to its pool. An entry with an error is ignored, and the others apply: a reserved address
/// must not be assigned because of a mistake elsewhere. So if the pool does not exist, the reservations apply
/// to all pools that contain the addresses. Several policies for one pool add up.
pub(crate) fn apply(
    object: &PoolPolicy,
    pools: &mut BTreeMap<String, Pool>,
    objects: &Objects,
    report: &mut Reporter<'_>,
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

/// The reservations that can be parsed.
fn reservations(object: &PoolPolicy, report: &mut Reporter<'_>) -> Vec<IpRange> {
    let mut reserved = Vec::with_capacity(object.spec.reserved.len());
    for (index, reservation) in object.spec.reserved.iter().enumerate() {
        let text = &reservation.addresses;
        match parse_reservation(text) {
            Err(error) => {
                report.error(
                    format!("spec.reserved[{index}].addresses"),
                    text,
                    error.to_string(),
                    error.hint(),
                );
            }
            Ok(range) => reserved.extend(range),
        }
    }
    reserved
}

/// The addresses of one reservation; none if it is a range without addresses.
pub(crate) fn parse_reservation(text: &str) -> Result<Option<IpRange>, AddressError> {
    text.parse().map(|ip| Some(IpRange::single(ip))).or_else(|_| parse_addresses(text))
}

/// The valid quotas.
fn quotas(object: &PoolPolicy, objects: &Objects, report: &mut Reporter<'_>) -> Vec<Quota> {
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
                let selected = objects.namespaces.iter().filter(|namespace| {
                    selector.matches(namespace.metadata.labels.as_ref().unwrap_or(&empty))
                });
                Some(selected.filter_map(|namespace| namespace.metadata.name.clone()).collect())
            }
        };
        quotas.push(Quota { namespaces, max_addresses });
    }
    quotas
}
