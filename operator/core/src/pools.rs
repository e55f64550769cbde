//! Pools given inline: an `IPAddressPool`, an `L2Advertisement` and, where there is something to keep back or to
//! limit, a `PoolPolicy` of the same name for each.

use crds::{
    AddressPool, IPAddressPool, IPAddressPoolSpec, L2Advertisement, L2AdvertisementSpec, ObjectMeta,
    PoolPolicy, PoolPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use rules::{Configuration, Objects, Severity};

use crate::validate::{Fault, ValidatedStack, from_finding, shared};
use crate::{Object, meta};

/// Inline pools, judged.
pub(crate) struct Judged {
    pub(crate) sound: Vec<AddressPool>,
    pub(crate) withheld: Vec<String>,
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
        pools: shared(listed().map(|(meta, pool)| ip_address_pool(meta, pool))),
        l2_advertisements: shared(listed().map(|(meta, pool)| l2_advertisement(meta, pool))),
        pool_policies: shared(listed().filter_map(|(meta, pool)| pool_policy(meta, pool))),
        ..Objects::default()
    };
    let (_, findings) = Configuration::from_objects(&objects);
    let mut judged = Judged { sound: Vec::new(), withheld: Vec::new(), faults: Vec::new() };
    for (index, pool) in pools.into_iter().enumerate() {
        let about = || findings.iter().filter(|finding| finding.object.name == pool.name);
        judged.faults.extend(about().map(|finding| from_finding(index, finding)));
        if about().any(|finding| finding.severity == Severity::Error) {
            judged.withheld.push(pool.name);
        } else {
            judged.sound.push(pool);
        }
    }
    judged
}

pub(crate) fn objects(stack: &ValidatedStack) -> Vec<Object> {
    let named = |pool: &AddressPool| meta::namespaced(stack, &pool.name, None);
    let pools = stack.pools.iter().map(|pool| ip_address_pool(named(pool), pool).into());
    let announced = stack.pools.iter().filter(|pool| pool.layer2.enabled);
    let policies = stack.pools.iter().filter_map(|pool| Some(pool_policy(named(pool), pool)?.into()));
    pools.chain(announced.map(|pool| l2_advertisement(named(pool), pool).into())).chain(policies).collect()
}

fn ip_address_pool(metadata: ObjectMeta, pool: &AddressPool) -> IPAddressPool {
    IPAddressPool {
        metadata,
        spec: IPAddressPoolSpec {
            addresses: pool.addresses.clone(),
            auto_assign: pool.auto_assign,
            avoid_buggy_ips: pool.avoid_buggy_ips,
            service_allocation: pool.service_allocation.clone(),
        },
        status: None,
    }
}

fn l2_advertisement(metadata: ObjectMeta, pool: &AddressPool) -> L2Advertisement {
    let given = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let selectors = &pool.layer2.node_selectors;
    L2Advertisement {
        metadata,
        spec: L2AdvertisementSpec {
            ip_address_pools: Some(vec![pool.name.clone()]),
            node_selectors: (!selectors.is_empty()).then(|| selectors.clone()),
            interfaces: given(&pool.layer2.interfaces),
            ..L2AdvertisementSpec::default()
        },
        status: None,
    }
}

fn pool_policy(metadata: ObjectMeta, pool: &AddressPool) -> Option<PoolPolicy> {
    let spec = PoolPolicySpec {
        pool: pool.name.clone(),
        reserved: pool.reserved.clone(),
        quotas: pool.quotas.clone(),
    };
    let says_something = !spec.reserved.is_empty() || !spec.quotas.is_empty();
    says_something.then_some(PoolPolicy { metadata, spec, status: None })
}
