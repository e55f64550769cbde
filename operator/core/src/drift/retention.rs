//! Objects that are no longer rendered, but are kept for now because deleting them would release an address
//! in use or withdraw its announcement.

use std::collections::{BTreeMap, BTreeSet};

use rules::{IpRange, parse_addresses};
use serde_json::Value;

use crate::object::{Key, Kind, Manifests, Object};
use crate::status::{Applied, Outcome};

/// The objects of `surplus` that are kept for now, with the reason. `surplus` are the objects in the cluster
/// that are not rendered; `applied` is the outcome of applying the `rendered` ones.
///
/// - A pool is kept until every rendered pool that has any of its addresses is in place.
/// - An advertisement and a policy are kept until their pool is gone, an advertisement also until every
///   rendered one of its pools is in place.
/// - Objects that peers and advertisements refer to are kept until those are gone.
pub fn retained(
    surplus: &BTreeMap<Key, Value>,
    rendered: &[Object],
    applied: &Manifests<Applied>,
) -> BTreeMap<Key, String> {
    let in_place: BTreeSet<&Key> = applied
        .0
        .iter()
        .filter(|applied| matches!(applied.outcome, Outcome::AsRendered))
        .map(|applied| &applied.key)
        .collect();
    let pending: Vec<&Object> = rendered
        .iter()
        .filter(|object| object.pool().is_some() && !in_place.contains(&object.key()))
        .collect();
    surplus
        .iter()
        .filter_map(|(key, live)| Some((key.clone(), reason(key, live, surplus, &pending)?)))
        .collect()
}

fn reason(key: &Key, live: &Value, surplus: &BTreeMap<Key, Value>, pending: &[&Object]) -> Option<String> {
    let waits_for = |object: &Object| format!("is kept until {} is in place", object.key());
    let until_gone = |key: &Key| format!("is kept until {key} is gone");
    match key.kind {
        Kind::IpAddressPool => {
            let ranges = ranges(live["spec"]["addresses"].as_array());
            let successor = |object: &&&Object| match object {
                Object::IpAddressPool(pool) => {
                    let theirs = pool.spec.addresses.iter().filter_map(|text| parse_addresses(text).ok());
                    theirs.flatten().any(|range| ranges.iter().any(|own| own.overlaps(&range)))
                }
                _ => false,
            };
            pending.iter().find(successor).map(|object| waits_for(object))
        }
        Kind::L2Advertisement | Kind::BgpAdvertisement => {
            let pools = advertised_pools(live);
            let of_pool = |key: &&Key| key.kind == Kind::IpAddressPool && pools.contains(key.name.as_str());
            let successor = |object: &&&Object| {
                object.key().kind == key.kind && object.pool().is_some_and(|pool| pools.contains(pool))
            };
            let pool = surplus.keys().find(of_pool).map(until_gone);
            pool.or_else(|| pending.iter().find(successor).map(|object| waits_for(object)))
        }
        Kind::PoolPolicy => {
            let of_pool =
                |key: &&Key| key.kind == Kind::IpAddressPool && live["spec"]["pool"] == key.name.as_str();
            surplus.keys().find(of_pool).map(until_gone)
        }
        Kind::BfdProfile | Kind::Community => {
            let refers = |key: &&Key| matches!(key.kind, Kind::BgpPeer | Kind::BgpAdvertisement);
            surplus.keys().find(refers).map(until_gone)
        }
        _ => None,
    }
}

/// The names of the pools that an advertisement lists.
pub fn advertised_pools(advertisement: &Value) -> BTreeSet<&str> {
    let named = advertisement["spec"]["ipAddressPools"].as_array();
    named.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether an advertisement may advertise `pool`: it lists the pool, selects pools by label, or advertises
/// every pool.
pub fn may_advertise(advertisement: &Value, pool: &str) -> bool {
    let named = advertised_pools(advertisement);
    let selectors = advertisement["spec"]["ipAddressPoolSelectors"].as_array();
    named.contains(pool) || named.is_empty() && selectors.is_none_or(Vec::is_empty)
}

fn ranges(addresses: Option<&Vec<Value>>) -> Vec<IpRange> {
    let texts = addresses.into_iter().flatten().filter_map(Value::as_str);
    texts.filter_map(|text| parse_addresses(text).ok()).flatten().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tests::rendered;

    fn key(kind: Kind, name: &str) -> Key {
        Key { kind, namespace: Some("metallb-system".to_owned()), name: name.to_owned() }
    }

    /// A pool `old` with its advertisement and policy.
    fn old() -> BTreeMap<Key, Value> {
        BTreeMap::from([
            (key(Kind::IpAddressPool, "old"), json!({"spec": {"addresses": ["10.0.0.0/24"]}})),
            (key(Kind::L2Advertisement, "old"), json!({"spec": {"ipAddressPools": ["old"]}})),
            (key(Kind::PoolPolicy, "old"), json!({"spec": {"pool": "old"}})),
        ])
    }

    fn new(addresses: &str) -> Vec<Object> {
        let mut objects = rendered(json!({"addressPools": [{"name": "new", "addresses": [addresses]}]}));
        objects.retain(|object| object.pool().is_some());
        objects
    }

    fn applied(objects: &[Object], outcome: &Outcome) -> Manifests<Applied> {
        let applied = |object: &Object| Applied { key: object.key(), outcome: outcome.clone(), uid: None };
        Manifests(objects.iter().map(applied).collect())
    }

    fn retained_keys(surplus: &BTreeMap<Key, Value>, objects: &[Object], outcome: &Outcome) -> Vec<String> {
        retained(surplus, objects, &applied(objects, outcome)).keys().map(ToString::to_string).collect()
    }

    #[test]
    fn a_renamed_pool_is_deleted_before_its_advertisement_and_its_policy() {
        let (objects, mut surplus) = (new("10.0.0.0/24"), old());
        assert_eq!(
            retained_keys(&surplus, &objects, &Outcome::AsRendered),
            ["PoolPolicy old", "L2Advertisement old"],
            "while the pool exists, whose deletion may have failed"
        );
        surplus.remove(&key(Kind::IpAddressPool, "old"));
        assert_eq!(retained_keys(&surplus, &objects, &Outcome::AsRendered), Vec::<String>::new());
    }

    #[test]
    fn a_renamed_pool_is_kept_until_the_new_one_is_in_place() {
        let failed = Outcome::Failed("the API server is away".to_owned());
        let foreign = Outcome::Foreign("taken".to_owned());
        for outcome in [failed, foreign] {
            assert_eq!(retained_keys(&old(), &new("10.0.0.128/25"), &outcome).len(), 3, "{outcome:?}");
            assert_eq!(
                retained_keys(&old(), &new("10.0.1.0/24"), &outcome).len(),
                2,
                "the failure of an unrelated pool delays nothing"
            );
        }
    }

    #[test]
    fn an_advertisement_under_an_old_name_is_kept_until_the_new_one_is_in_place() {
        let old = BTreeMap::from([(
            key(Kind::L2Advertisement, "l2advertisement1"),
            json!({"spec": {"ipAddressPools": ["new"]}}),
        )]);
        let objects = new("10.0.0.0/24");
        assert_eq!(
            retained_keys(&old, &objects, &Outcome::Failed("no".to_owned())),
            ["L2Advertisement l2advertisement1"]
        );
        assert_eq!(retained_keys(&old, &objects, &Outcome::AsRendered), Vec::<String>::new());
        assert_eq!(
            retained_keys(&old, &[], &Outcome::AsRendered),
            Vec::<String>::new(),
            "no advertisement is rendered"
        );
    }

    #[test]
    fn objects_that_peers_refer_to_are_deleted_after_the_peers() {
        let mut surplus = BTreeMap::from([
            (key(Kind::BgpPeer, "peer"), json!({})),
            (key(Kind::BfdProfile, "fast"), json!({})),
            (key(Kind::Community, "communities"), json!({})),
        ]);
        assert_eq!(
            retained_keys(&surplus, &[], &Outcome::AsRendered),
            ["BFDProfile fast", "Community communities"]
        );
        surplus.remove(&key(Kind::BgpPeer, "peer"));
        assert_eq!(retained_keys(&surplus, &[], &Outcome::AsRendered), Vec::<String>::new());
    }

    #[test]
    fn an_advertisement_that_names_no_pool_advertises_every_pool() {
        assert!(
            may_advertise(&json!({}), "a") && may_advertise(&json!({"spec": {"ipAddressPools": ["a"]}}), "a")
        );
        assert!(!may_advertise(&json!({"spec": {"ipAddressPools": ["b"]}}), "a"));
        assert!(
            !may_advertise(&json!({"spec": {"ipAddressPoolSelectors": [{}]}}), "a"),
            "it may or may not select the pool"
        );
    }
}
