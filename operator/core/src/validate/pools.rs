//! The inline pools of a stack: their validation, and the objects rendered from each.

use std::collections::BTreeSet;
use std::sync::Arc;

use crds::{AddressPool, ObjectMeta};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use rules::{Configuration, Finding, Objects, Severity};

use crate::finding::SpecFinding;
use crate::meta::StackMeta;
use crate::object::Object;

/// The result of validating inline pools.
pub(crate) struct PoolValidation {
    pub(crate) valid: Vec<AddressPool>,
    pub(crate) rejected: Vec<String>,
    /// Valid pools with which another one conflicts. Which of the two is wrong is unknown, so their existing
    /// objects are not changed.
    pub(crate) conflicting: BTreeSet<String>,
    pub(crate) findings: Vec<SpecFinding>,
}

/// Validates pools with the same rules that apply to the objects rendered from them.
pub(crate) fn validate(namespace: &str, pools: Vec<AddressPool>) -> PoolValidation {
    // Of two conflicting objects the rules reject the younger one: here, the one further down the list.
    let meta_by_index = |(index, pool): (usize, &AddressPool)| ObjectMeta {
        name: Some(pool.name.clone()),
        namespace: Some(namespace.to_owned()),
        creation_timestamp: i64::try_from(index)
            .ok()
            .and_then(|second| Timestamp::from_second(second).ok())
            .map(Time),
        ..ObjectMeta::default()
    };
    let listed = || pools.iter().enumerate().map(|entry| (meta_by_index(entry), entry.1));
    let objects = Objects {
        pools: shared(listed().map(|(meta, pool)| pool.ip_address_pool(meta))),
        l2_advertisements: shared(listed().filter_map(|(meta, pool)| pool.l2_advertisement(meta))),
        pool_policies: shared(listed().filter_map(|(meta, pool)| pool.pool_policy(meta))),
        ..Objects::default()
    };
    let (_, findings) = Configuration::from_objects(&objects);
    let is_error = |finding: &Finding| finding.severity == Severity::Error;
    let invalid: BTreeSet<&str> = findings
        .iter()
        .filter(|finding| is_error(finding) && finding.object.kind == POOL)
        .map(|finding| finding.object.name.as_str())
        .collect();
    let others =
        findings.iter().filter(|finding| is_error(finding)).filter_map(|finding| finding.related.as_ref());
    let conflicting = others.map(|other| other.name.clone()).collect();
    let mut result =
        PoolValidation { valid: Vec::new(), rejected: Vec::new(), conflicting, findings: Vec::new() };
    for (index, pool) in pools.iter().enumerate() {
        let of_pool = || {
            findings.iter().filter(|finding| {
                finding.object.name == pool.name
                    && !(invalid.contains(&*pool.name) && follows_from_invalid_pool(finding))
            })
        };
        result.findings.extend(of_pool().map(|finding| from_finding(index, finding)));
        if of_pool().any(|finding| finding.severity == Severity::Error) {
            result.rejected.push(pool.name.clone());
        } else {
            result.valid.push(pool.clone());
        }
    }
    result
}

const POOL: &str = "IPAddressPool";

/// Whether `finding` says that the pool of an advertisement or policy does not exist.
fn follows_from_invalid_pool(finding: &Finding) -> bool {
    finding.object.kind != POOL && matches!(finding.field.as_str(), "spec.ipAddressPools" | "spec.pool")
}

/// Converts a `finding` of the rules about an inline pool into one about the field of the stack.
fn from_finding(index: usize, finding: &Finding) -> SpecFinding {
    let field = finding.field.strip_prefix("spec.").unwrap_or(&finding.field);
    SpecFinding {
        field: format!("spec.addressPools[{index}].{field}"),
        value: finding.value.clone(),
        problem: finding.problem.clone(),
        hint: finding.hint.clone(),
    }
}

/// Wraps each object in an `Arc`, as the rules expect.
fn shared<T>(objects: impl IntoIterator<Item = T>) -> Vec<Arc<T>> {
    objects.into_iter().map(Arc::new).collect()
}

/// The objects of `pools`: pools, then advertisements, then policies.
pub(crate) fn objects(meta: &StackMeta, pools: &[AddressPool]) -> Vec<Object> {
    let metadata = |pool: &AddressPool| meta.namespaced(&pool.name, None);
    let addresses = pools.iter().map(|pool| pool.ip_address_pool(metadata(pool)).into());
    let advertisements = pools.iter().filter_map(|pool| Some(pool.l2_advertisement(metadata(pool))?.into()));
    let policies = pools.iter().filter_map(|pool| Some(pool.pool_policy(metadata(pool))?.into()));
    addresses.chain(advertisements).chain(policies).collect()
}
