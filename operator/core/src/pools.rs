//! Pools given inline: validated, and the objects of each.

use std::collections::BTreeSet;

use crds::{AddressPool, ObjectMeta};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use rules::{Configuration, Finding, Objects, Severity};

use crate::validate::{Fault, ValidatedStack, from_finding, shared};
use crate::{Object, meta};

/// Inline pools, judged.
pub(crate) struct Judged {
    pub(crate) sound: Vec<AddressPool>,
    pub(crate) withheld: Vec<String>,
    /// Those of the sound ones that another one conflicts with: which of the two is wrong is not known, so that
    /// what exists of them stays as it is.
    pub(crate) disputed: BTreeSet<String>,
    pub(crate) faults: Vec<Fault>,
}

/// Judges pools as everybody else will judge the objects that are made of them.
pub(crate) fn judge(namespace: &str, pools: Vec<AddressPool>) -> Judged {
    // Of two that clash the judge leaves the younger out: here, the one further down the list.
    let aged = |(index, pool): (usize, &AddressPool)| ObjectMeta {
        name: Some(pool.name.clone()),
        namespace: Some(namespace.to_owned()),
        creation_timestamp: i64::try_from(index)
            .ok()
            .and_then(|second| Timestamp::from_second(second).ok())
            .map(Time),
        ..ObjectMeta::default()
    };
    let listed = || pools.iter().enumerate().map(|entry| (aged(entry), entry.1));
    let objects = Objects {
        pools: shared(listed().map(|(meta, pool)| pool.ip_address_pool(meta))),
        l2_advertisements: shared(listed().filter_map(|(meta, pool)| pool.l2_advertisement(meta))),
        pool_policies: shared(listed().filter_map(|(meta, pool)| pool.pool_policy(meta))),
        ..Objects::default()
    };
    let (_, findings) = Configuration::from_objects(&objects);
    let failed = |finding: &Finding| finding.severity == Severity::Error;
    let invalid: BTreeSet<&str> = findings
        .iter()
        .filter(|finding| failed(finding) && finding.object.kind == POOL)
        .map(|finding| finding.object.name.as_str())
        .collect();
    let others =
        findings.iter().filter(|finding| failed(finding)).filter_map(|finding| finding.related.as_ref());
    let disputed = others.map(|other| other.name.clone()).collect();
    let mut judged = Judged { sound: Vec::new(), withheld: Vec::new(), disputed, faults: Vec::new() };
    for (index, pool) in pools.iter().enumerate() {
        let about = || {
            findings.iter().filter(|finding| {
                finding.object.name == pool.name
                    && !(invalid.contains(&*pool.name) && is_consequence(finding))
            })
        };
        judged.faults.extend(about().map(|finding| from_finding(index, finding)));
        if about().any(|finding| finding.severity == Severity::Error) {
            judged.withheld.push(pool.name.clone());
        } else {
            judged.sound.push(pool.clone());
        }
    }
    judged
}

const POOL: &str = "IPAddressPool";

/// Whether `finding` says of an advertisement or a policy that its pool is not there.
fn is_consequence(finding: &Finding) -> bool {
    finding.object.kind != POOL && matches!(finding.field.as_str(), "spec.ipAddressPools" | "spec.pool")
}

pub(crate) fn objects(stack: &ValidatedStack) -> Vec<Object> {
    let named = |pool: &AddressPool| meta::namespaced(stack, &pool.name, None);
    let pools = || stack.pools.iter();
    let addresses = pools().map(|pool| pool.ip_address_pool(named(pool)).into());
    let announced = pools().filter_map(|pool| Some(pool.l2_advertisement(named(pool))?.into()));
    let policies = pools().filter_map(|pool| Some(pool.pool_policy(named(pool))?.into()));
    addresses.chain(announced).chain(policies).collect()
}
