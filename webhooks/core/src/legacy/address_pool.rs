//! The `AddressPool` kind of MetalLB v0.11 to v0.13.

use std::collections::BTreeSet;
use std::sync::Arc;

use crds::names::LABEL_IMPORTED_FROM;
use crds::{
    BGPAdvertisement, BGPAdvertisementSpec, IPAddressPool, IPAddressPoolSpec, L2Advertisement,
    L2AdvertisementSpec, LegacyAddressPool, LegacyBgpAdvertisement, ResourceExt as _,
};

use super::{Converted, advertisement_name};
use crate::finding::{Finding, ObjectRef, Reporter};
use crate::precedence::oldest_first;
use crate::range::parse_addresses;

/// Converts each of `pools` to an `IPAddressPool` with the same name, and advertisements named after it.
pub fn convert_address_pools(pools: &[Arc<LegacyAddressPool>], namespace: &str) -> (Converted, Vec<Finding>) {
    let mut all = Converted::default();
    let mut findings = Vec::new();
    let names = pools.iter().map(|pool| pool.name_any()).collect();
    for object in oldest_first(pools) {
        let mut report = Reporter::new(ObjectRef::with_kind("AddressPool", &object.metadata), &mut findings);
        warn_deprecated(namespace, &mut report);
        let mut converted = Converted::default();
        convert(&object, &names, &mut converted, &mut report);
        converted.set_namespace(namespace);
        if report.failed() {
            converted.mark_all_invalid();
        }
        all.append(&mut converted);
    }
    (all, findings)
}

/// The command in the hint makes `kubectl` a manager of the converted objects, after which the operator
/// leaves them to the user.
fn warn_deprecated(namespace: &str, report: &mut Reporter<'_>) {
    report.warning(
        "kind",
        "AddressPool",
        "the kind is deprecated; it is converted to an IPAddressPool and advertisements",
        format!(
            "take those over: kubectl -n {namespace} get ipaddresspools,l2advertisements,bgpadvertisements \
             -l {LABEL_IMPORTED_FROM}=addresspool -o yaml | kubectl apply -f -; then delete the AddressPool"
        ),
    );
}

fn convert(
    object: &LegacyAddressPool,
    names: &BTreeSet<String>,
    converted: &mut Converted,
    report: &mut Reporter<'_>,
) {
    let (name, spec) = (object.name_any(), &object.spec);
    if spec.addresses.is_empty() {
        report.error("spec.addresses", "", "the pool has no addresses", "list at least one prefix or range");
    }
    for (index, text) in spec.addresses.iter().enumerate() {
        if let Err(error) = parse_addresses(text) {
            report.error(format!("spec.addresses[{index}]"), text, error.to_string(), error.hint());
        }
    }
    let pools = Some(vec![name.clone()]);
    let listed = spec.bgp_advertisements.clone().unwrap_or_default();
    match spec.protocol.as_str() {
        "layer2" => {
            if !listed.is_empty() {
                report.error(
                    "spec.bgpAdvertisements",
                    "",
                    "a pool of protocol layer2 has no BGP advertisements",
                    "remove them, or set the protocol to bgp",
                );
            }
            let spec = L2AdvertisementSpec { ip_address_pools: pools, ..L2AdvertisementSpec::default() };
            converted.add(L2Advertisement::new(&name, spec));
        }
        "bgp" => {
            let listed = if listed.is_empty() { vec![LegacyBgpAdvertisement::default()] } else { listed };
            for (advertisement, number) in listed.into_iter().zip(1..) {
                let name = advertisement_name(&name, number, names);
                let spec = BGPAdvertisementSpec {
                    aggregation_length: advertisement.aggregation_length.or(Some(32)),
                    aggregation_length_v6: advertisement.aggregation_length_v6.or(Some(128)),
                    local_pref: advertisement.local_pref,
                    communities: advertisement.communities,
                    ip_address_pools: pools.clone(),
                    ..BGPAdvertisementSpec::default()
                };
                converted.add(BGPAdvertisement::new(&name, spec));
            }
        }
        other => report.error(
            "spec.protocol",
            other,
            "is not a valid protocol, so the pool is not announced",
            "use layer2 or bgp",
        ),
    }
    let pool = IPAddressPoolSpec {
        addresses: spec.addresses.clone(),
        auto_assign: spec.auto_assign.unwrap_or(true),
        ..IPAddressPoolSpec::default()
    };
    converted.add(IPAddressPool::new(&name, pool));
}
