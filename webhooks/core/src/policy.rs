//! `PoolPolicy`: reservations and quotas beside a pool.

use std::collections::BTreeMap;

use crds::{PoolPolicy, SelectorExt as _};

use crate::finding::Report;
use crate::objects::Objects;
use crate::pool::{Pool, Quota};
use crate::range::{IpRange, parse_addresses};
use crate::selectors::single;

/// Adds what `object` says to its pool. An entry with an error is left out, and the others hold: an address that is kept back
/// must not be given away for a slip elsewhere. Several policies for one pool add up.
pub(crate) fn apply(
    object: &PoolPolicy,
    pools: &mut BTreeMap<String, Pool>,
    objects: &Objects,
    report: &mut Report<'_>,
) {
    let spec = &object.spec;
    let Some(pool) = pools.get_mut(&spec.pool) else {
        report.warning(
            "spec.pool",
            &spec.pool,
            "there is no valid IPAddressPool of this name",
            "create it, or correct the name",
        );
        return;
    };
    let mut reserved = Vec::with_capacity(spec.reserved.len());
    for (index, reservation) in spec.reserved.iter().enumerate() {
        let field = format!("spec.reserved[{index}].addresses");
        let text = &reservation.addresses;
        let parsed = text.parse().map(|ip| Some(IpRange::single(ip))).or_else(|_| parse_addresses(text));
        match parsed {
            Err(fault) => report.error(field, text, fault.problem, fault.remedy),
            Ok(range) => {
                let range = range.filter(|range| pool.ranges.iter().any(|of_pool| of_pool.overlaps(range)));
                if range.is_none() {
                    let problem = format!("pool {} has none of these addresses", pool.name);
                    report.warning(field, text, problem, "correct the addresses, or remove the reservation");
                }
                reserved.extend(range);
            }
        }
    }
    let mut quotas = Vec::with_capacity(spec.quotas.len());
    let empty = BTreeMap::new();
    for (index, quota) in spec.quotas.iter().enumerate() {
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
    pool.reserved.extend(reserved);
    pool.quotas.extend(quotas);
}
