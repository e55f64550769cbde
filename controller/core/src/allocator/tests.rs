//! One rule a test; the invariants over random histories are in `model`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::request::RequestFault;

mod exchanges;
mod families;
mod policies;
mod promises;
mod sharing;

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

pub(crate) fn key(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name)
}

pub(crate) fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// These addresses are used by hosts that are not of the cluster.
pub(crate) fn foreign(texts: &[&str]) -> BTreeMap<IpAddr, Occupant> {
    ips(texts).into_iter().map(|ip| (ip, Occupant::ForeignHost)).collect()
}

/// These addresses are those of the node `node1`.
pub(crate) fn nodes(texts: &[&str]) -> BTreeMap<IpAddr, Occupant> {
    ips(texts).into_iter().map(|ip| (ip, Occupant::Node("node1".into()))).collect()
}

fn texts(outcome: Outcome<'_>) -> Vec<String> {
    outcome.addresses.iter().map(ToString::to_string).collect()
}

/// Pools by name and spec; elder first.
pub(crate) fn configuration(pools: &[(&str, Value)]) -> Arc<Configuration> {
    configuration_with(pools, &[])
}

/// The same with `PoolPolicy`s.
pub(crate) fn configuration_with(pools: &[(&str, Value)], policies: &[(&str, Value)]) -> Arc<Configuration> {
    configuration_in(&["shop", "bank"], pools, policies)
}

/// The same with these namespaces, which are labelled by the team that they are named after.
fn configuration_in(
    namespaces: &[&str],
    pools: &[(&str, Value)],
    policies: &[(&str, Value)],
) -> Arc<Configuration> {
    Arc::new(Configuration::from_objects(&objects(namespaces, pools, policies)).0)
}

/// The objects of that.
pub(crate) fn objects(
    namespaces: &[&str],
    pools: &[(&str, Value)],
    policies: &[(&str, Value)],
) -> rules::Objects {
    let object = |api: &str, kind: &str, (name, spec): &(&str, Value)| json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": "metallb-system"}, "spec": spec});
    let pool = |entry| {
        Arc::new(serde_json::from_value(object("metallb.io/v1beta1", "IPAddressPool", entry)).unwrap())
    };
    let policy = |entry| {
        Arc::new(serde_json::from_value(object("lbstack.dev/v1alpha1", "PoolPolicy", entry)).unwrap())
    };
    let namespace = |name: &&str| {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {"team": name}}})).unwrap(),
        )
    };
    rules::Objects {
        pools: pools.iter().map(pool).collect(),
        pool_policies: policies.iter().map(policy).collect(),
        namespaces: namespaces.iter().map(namespace).collect(),
        ..rules::Objects::default()
    }
}

fn addresses(list: &[&str]) -> Value {
    json!({ "addresses": list })
}

fn allocator(pools: &[(&str, Value)]) -> Allocator {
    let mut allocator = Allocator::new();
    allocator.set_configuration(configuration(pools), at(0));
    allocator
}

/// A request of a Service created at `second` with annotations (prefix left out) and more of the spec.
pub(crate) fn request(second: i64, annotations: &Value, more: &Value) -> Request {
    let mut spec = json!({"clusterIPs": ["10.96.0.1"], "ports": [{"port": 80}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let annotations: serde_json::Map<String, Value> = annotations
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| (format!("metallb.io/{key}"), value.clone()))
        .collect();
    let service = json!({"metadata": {"name": "x", "namespace": "shop", "annotations": annotations,
        "labels": {"app": "x"}, "creationTimestamp": at(second).to_string(), "uid": format!("uid-{second}")}, "spec": spec});
    Request::from_service(&serde_json::from_value(service).unwrap())
}

fn plain(second: i64) -> Request {
    request(second, &json!({}), &json!({}))
}

fn asks(second: i64, ip: &str) -> Request {
    request(second, &json!({"loadBalancerIPs": ip}), &json!({}))
}

fn from(second: i64, pool: &str) -> Request {
    request(second, &json!({"address-pool": pool}), &json!({}))
}

fn shares(second: i64, key: &str, port: u16) -> Request {
    request(second, &json!({"allow-shared-ip": key}), &json!({"ports": [{"port": port}]}))
}

fn dual(second: i64, policy: &str) -> Request {
    request(
        second,
        &json!({}),
        &json!({"clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": policy}),
    )
}

/// Assigns and confirms the write, as the controller does when all goes well.
fn settle(allocator: &mut Allocator, name: &str, request: Request, second: i64) -> Vec<String> {
    let stored = allocator.services.get(&key(name)).map(|entry| entry.stored.clone()).unwrap_or_default();
    let given = allocator.assign(&key(name), request, &stored, at(second)).addresses.to_vec();
    allocator.stored(&key(name), &given, at(second));
    write_all(allocator, second);
    texts(allocator.outcome(&key(name)).unwrap())
}

/// Confirms every outstanding write until nothing changes.
fn write_all(allocator: &mut Allocator, second: i64) {
    loop {
        let changed = allocator.take_changed();
        if changed.is_empty() {
            return;
        }
        for service in changed {
            let desired = allocator.outcome(&service).map(|o| o.addresses.to_vec()).unwrap_or_default();
            allocator.stored(&service, &desired, at(second));
        }
    }
}

fn has(allocator: &Allocator, name: &str) -> Vec<String> {
    texts(allocator.outcome(&key(name)).unwrap())
}

fn why(allocator: &Allocator, name: &str) -> String {
    allocator.outcome(&key(name)).unwrap().refusal.map(ToString::to_string).unwrap_or_default()
}

#[test]
fn the_first_service_gets_the_first_address_and_asking_again_changes_nothing() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.3"]))]);
    assert_eq!(settle(&mut a, "a", plain(1), 1), ["10.0.0.1"]);
    assert_eq!(settle(&mut a, "b", plain(2), 2), ["10.0.0.2"]);
    a.assign(&key("a"), plain(1), &ips(&["10.0.0.1"]), at(3));
    assert_eq!(a.take_changed(), []);
}

#[test]
fn a_full_pool_is_told_and_what_becomes_free_goes_to_the_longest_waiting() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1/32"]))]);
    settle(&mut a, "a", plain(1), 1);
    assert_eq!(settle(&mut a, "late", plain(3), 2), Vec::<String>::new());
    assert_eq!(settle(&mut a, "later", plain(2), 3), Vec::<String>::new());
    assert_eq!(why(&a, "late"), "no pool can give an address: pool lan: 1 of 1 IPv4 addresses in use");
    a.forget(&key("a"), at(4));
    assert_eq!(has(&a, "late"), ["10.0.0.1"], "it waits longest, although it is younger");
    assert_eq!(has(&a, "later"), Vec::<String>::new());
}

#[test]
fn an_address_is_free_only_when_the_write_that_takes_it_away_is_known() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1/32"]))]);
    settle(&mut a, "a", plain(1), 1);
    settle(&mut a, "b", plain(2), 2);
    a.release(&key("a"), &ips(&["10.0.0.1"]), at(3));
    assert_eq!(has(&a, "b"), Vec::<String>::new());
    a.stored(&key("a"), &[], at(4));
    assert_eq!(has(&a, "b"), ["10.0.0.1"]);
}

#[test]
fn what_the_status_of_a_service_of_another_class_has_is_given_to_nobody() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
    a.release(&key("other"), &ips(&["10.0.0.1"]), at(1));
    assert_eq!(settle(&mut a, "a", plain(1), 2), ["10.0.0.2"]);
    assert_eq!(settle(&mut a, "b", asks(2, "10.0.0.1"), 3), Vec::<String>::new());
    assert!(why(&a, "b").contains("Service shop/other has it"), "{}", why(&a, "b"));
    a.release(&key("other"), &[], at(4));
    assert_eq!(has(&a, "b"), ["10.0.0.1"]);
}

#[test]
fn a_service_that_comes_from_another_class_keeps_what_its_status_has() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
    a.release(&key("a"), &ips(&["10.0.0.2"]), at(1));
    assert_eq!(texts(a.assign(&key("a"), plain(1), &ips(&["10.0.0.2"]), at(2))), ["10.0.0.2"]);
}

#[test]
fn after_a_write_of_unknown_outcome_both_addresses_are_kept() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
    settle(&mut a, "a", plain(1), 1);
    a.assign(&key("a"), asks(1, "10.0.0.2"), &ips(&["10.0.0.1"]), at(2));
    a.uncertain(&key("a"), &ips(&["10.0.0.2"]));
    assert_eq!(texts(a.assign(&key("b"), plain(2), &[], at(3))), Vec::<String>::new());
    a.stored(&key("a"), &ips(&["10.0.0.2"]), at(4));
    assert_eq!(has(&a, "b"), ["10.0.0.1"]);
}

#[test]
fn in_a_clash_the_elder_keeps_the_address_whatever_the_order_of_adoption() {
    for reversed in [false, true] {
        let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
        let adoptee = |name: &str, second| Adoptee {
            service: key(name),
            request: plain(second),
            current: ips(&["10.0.0.1"]),
            pool: None,
            waiting_since: None,
        };
        let mut list = vec![adoptee("old", 1), adoptee("young", 2)];
        if reversed {
            list.reverse();
        }
        a.adopt(list, at(9));
        assert_eq!(has(&a, "old"), ["10.0.0.1"]);
        assert_eq!(has(&a, "young"), ["10.0.0.2"]);
    }
}

#[test]
fn adoption_keeps_everything_before_anything_is_assigned() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
    let adoptee = |name: &str, second, current: &[&str]| Adoptee {
        service: key(name),
        request: plain(second),
        current: ips(current),
        pool: None,
        waiting_since: None,
    };
    a.adopt(vec![adoptee("old-and-new", 1, &[]), adoptee("young", 2, &["10.0.0.1"])], at(9));
    assert_eq!(has(&a, "young"), ["10.0.0.1"]);
    assert_eq!(has(&a, "old-and-new"), ["10.0.0.2"]);
}

#[test]
fn a_status_that_has_only_what_the_service_may_not_keep_gives_it_no_precedence_at_adoption() {
    let mut allocator = allocator(&[("a", addresses(&["10.0.0.1/32"]))]);
    let adoptee = |name, request, current: &[&str], since| Adoptee {
        service: key(name),
        request,
        current: ips(current),
        pool: None,
        waiting_since: Some(at(since)),
    };
    let (wrong_family, waits) =
        (adoptee("wrong-family", plain(1), &["fc00::1"], 5), adoptee("waits", plain(2), &[], 4));
    allocator.adopt(vec![wrong_family, waits], at(6));
    assert_eq!(has(&allocator, "waits"), ["10.0.0.1"]);
    assert!(has(&allocator, "wrong-family").is_empty());
}

#[test]
fn a_requested_address_is_given_also_where_auto_assign_is_off() {
    let mut a = allocator(&[("quiet", json!({"addresses": ["10.0.0.1-10.0.0.9"], "autoAssign": false}))]);
    assert_eq!(settle(&mut a, "auto", plain(1), 1), Vec::<String>::new());
    assert_eq!(why(&a, "auto"), "no pool can give an address: pool quiet: autoAssign is off");
    assert_eq!(settle(&mut a, "asks", asks(2, "10.0.0.5"), 1), ["10.0.0.5"]);
    let named = request(3, &json!({"address-pool": "quiet"}), &json!({}));
    assert_eq!(settle(&mut a, "named", named, 1), ["10.0.0.1"]);
}

#[test]
fn a_request_that_cannot_be_met_keeps_what_the_service_has() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.3"]))]);
    settle(&mut a, "a", plain(1), 1);
    settle(&mut a, "b", plain(2), 1);
    for (wish, text) in [
        (json!({"loadBalancerIPs": "10.0.0.1"}), "10.0.0.1 was asked for, but Service shop/a has it"),
        (json!({"loadBalancerIPs": "10.9.9.9"}), "10.9.9.9 was asked for, but no IPAddressPool has it"),
        (json!({"loadBalancerIPs": "10.0.0"}), "which is not a valid IP address"),
        (json!({"address-pool": "gone"}), "pool gone was asked for, but there is no IPAddressPool"),
        (json!({"loadBalancerIPs": "10.0.0.3", "address-pool": "gone"}), "but it is in pool lan"),
    ] {
        assert_eq!(settle(&mut a, "b", request(2, &wish, &json!({})), 2), ["10.0.0.2"], "{wish}");
        assert!(why(&a, "b").contains(text), "{wish}: {}", why(&a, "b"));
    }
    assert_eq!(settle(&mut a, "b", plain(2), 3), ["10.0.0.2"]);
    assert_eq!(why(&a, "b"), "");
}

#[test]
fn who_asks_for_an_address_gets_it_as_soon_as_it_is_free_and_leaves_the_old_one() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
    settle(&mut a, "a", plain(1), 1);
    settle(&mut a, "b", plain(2), 1);
    settle(&mut a, "b", asks(2, "10.0.0.1"), 2);
    settle(&mut a, "c", plain(3), 3);
    a.forget(&key("a"), at(3));
    write_all(&mut a, 3);
    assert_eq!(has(&a, "b"), ["10.0.0.1"]);
    assert_eq!(has(&a, "c"), ["10.0.0.2"], "what it left goes to who waits");
}

#[test]
fn an_address_that_its_pool_lost_is_kept_for_the_time_of_grace() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
    settle(&mut a, "a", plain(1), 1);
    a.set_configuration(configuration(&[("lan", addresses(&["10.0.0.2-10.0.0.3"]))]), at(10));
    assert_eq!(has(&a, "a"), ["10.0.0.1"]);
    assert_eq!(why(&a, "a"), "10.0.0.1 is given up: no IPAddressPool has it any more");
    assert_eq!(a.next_deadline(), Some(at(15)));
    a.poll(at(14));
    assert_eq!(has(&a, "a"), ["10.0.0.1"]);
    a.poll(at(15));
    assert_eq!(has(&a, "a"), ["10.0.0.2"]);
    assert_eq!((a.next_deadline(), why(&a, "a")), (None, String::new()));
}

#[test]
fn a_range_can_move_from_one_pool_to_another() {
    let mut a = allocator(&[("one", addresses(&["10.0.0.1/32"]))]);
    settle(&mut a, "a", plain(1), 1);
    a.set_configuration(configuration(&[]), at(10));
    a.set_configuration(configuration(&[("two", addresses(&["10.0.0.0/24"]))]), at(12));
    assert_eq!((has(&a, "a"), a.next_deadline()), (vec!["10.0.0.1".to_owned()], None));
    assert_eq!(a.outcome(&key("a")).unwrap().pool, Some("two"));
}

#[test]
fn a_pool_with_an_error_takes_nothing_away_and_gives_nothing() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
    settle(&mut a, "a", plain(1), 1);
    a.set_configuration(configuration(&[("lan", addresses(&["10.0.0.1-10.0.0.2", "10.0.0"]))]), at(10));
    a.poll(at(100));
    assert_eq!(has(&a, "a"), ["10.0.0.1"]);
    assert_eq!(settle(&mut a, "b", plain(2), 100), Vec::<String>::new());
    assert_eq!(settle(&mut a, "c", asks(3, "10.0.0.2"), 100), Vec::<String>::new());
    assert!(why(&a, "c").starts_with("pool lan has an error"));
}

#[test]
fn pools_for_some_come_first_by_priority_and_admit_only_those() {
    let pool =
        |address: &str, allocation: Value| json!({"addresses": [address], "serviceAllocation": allocation});
    let mut a = allocator(&[
        ("a-plain", addresses(&["10.0.0.0/24"])),
        ("b-last", pool("10.1.0.0/24", json!({"namespaces": ["shop"]}))),
        ("c-first", pool("10.2.0.0/32", json!({"priority": 1, "namespaces": ["shop"]}))),
        (
            "d-second",
            pool("10.3.0.0/32", json!({"priority": 2, "serviceSelectors": [{"matchLabels": {"app": "x"}}]})),
        ),
        ("e-others", pool("10.4.0.0/24", json!({"namespaces": ["bank"]}))),
    ]);
    let given: Vec<_> = (0..4).flat_map(|n| settle(&mut a, &format!("s{n}"), plain(n), 1)).collect();
    assert_eq!(given, ["10.2.0.0", "10.3.0.0", "10.1.0.0", "10.1.0.1"]);
    let other = ServiceKey::new("other", "s");
    let mut unlabelled = plain(9);
    unlabelled.labels.clear();
    assert_eq!(texts(a.assign(&other, unlabelled, &[], at(1))), ["10.0.0.0"]);
    let refused = request(10, &json!({"address-pool": "e-others"}), &json!({}));
    settle(&mut a, "named", refused, 1);
    assert_eq!(why(&a, "named"), "pool e-others was asked for, but: namespace shop not allowed");
}

fn namespaces(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_service_waits_for_its_namespace_and_then_gets_what_that_is_admitted_to() {
    let of_shop = json!([{"matchLabels": {"team": "shop"}}]);
    let pools = [
        (
            "for-shop",
            json!({"addresses": ["10.0.0.1/32"], "serviceAllocation": {"namespaceSelectors": of_shop}}),
        ),
        ("plain", addresses(&["10.1.0.1/32"])),
    ];
    let mut a = Allocator::new();
    a.set_configuration(configuration_in(&[], &pools, &[]), at(0));
    a.set_namespaces(namespaces(&[]), at(0));
    a.assign(&key("a"), plain(1), &[], at(1));
    assert_eq!(a.outcome(&key("a")), None, "nothing is said of it yet");
    assert_eq!(a.take_changed(), []);
    a.set_configuration(configuration_in(&["shop"], &pools, &[]), at(2));
    a.set_namespaces(namespaces(&["shop"]), at(2));
    assert_eq!((has(&a, "a"), a.take_changed()), (vec!["10.0.0.1".to_owned()], vec![key("a")]));
}

#[test]
fn requirement_1_a_pool_that_names_a_namespace_that_does_not_exist_takes_nothing_away() {
    let known = ["shop", "bank"];
    let pool = |names: Value| {
        let spec = json!({"addresses": ["10.0.0.0/29"], "serviceAllocation": {"namespaces": names}});
        configuration_in(&known, &[("p", spec)], &[])
    };
    let mut a = Allocator::new();
    a.set_configuration(pool(json!(["shop", "bank"])), at(0));
    a.set_namespaces(namespaces(&known), at(0));
    settle(&mut a, "has", plain(1), 1);
    // A process that has just started knows no version before this one.
    a.set_configuration(pool(json!(["shpo", "bank"])), at(2));
    a.poll(at(1_000));
    assert_eq!(has(&a, "has"), ["10.0.0.0"]);
    settle(&mut a, "new", plain(2), 1_001);
    assert_eq!(has(&a, "new"), [] as [String; 0], "it gives nothing new");
    a.set_configuration(pool(json!(["bank"])), at(1_002));
    a.poll(at(3_000));
    assert_eq!(has(&a, "has"), [] as [String; 0], "that is what the pool says");
}

#[test]
fn a_service_whose_namespace_is_not_known_keeps_what_it_has_and_stands_in_nobodys_way() {
    let mut a = allocator(&[("p", addresses(&["10.0.0.1-10.0.0.2"]))]);
    a.set_namespaces(namespaces(&["shop", "bank"]), at(0));
    let of_bank = |name: &str| ServiceKey::new("bank", name);
    settle(&mut a, "has", plain(1), 1);
    a.assign(&of_bank("leaves"), plain(2), &[], at(1));
    settle(&mut a, "waits", plain(3), 2);
    a.assign(&of_bank("later"), plain(4), &[], at(3));
    a.set_namespaces(namespaces(&["bank"]), at(4));
    a.forget(&of_bank("leaves"), at(5));
    assert_eq!(texts(a.outcome(&of_bank("later")).unwrap()), ["10.0.0.2"]);
    a.poll(at(100));
    a.set_namespaces(namespaces(&["bank", "shop"]), at(100));
    assert_eq!((has(&a, "has"), has(&a, "waits")), (vec!["10.0.0.1".to_owned()], vec![]));
    assert_eq!(a.outcome(&key("waits")).unwrap().refusal.map(Refusal::reason), Some("NoPoolFits"));
}

#[test]
fn addresses_under_conflict_are_given_to_nobody_and_left_to_who_has_them() {
    let mut a = allocator(&[("p", addresses(&["10.0.0.1-10.0.0.3"]))]);
    settle(&mut a, "a", plain(1), 1);
    a.set_quarantine(foreign(&["10.0.0.1", "10.0.0.2"]), at(2));
    assert_eq!(has(&a, "a"), ["10.0.0.1"]);
    assert_eq!(settle(&mut a, "b", plain(2), 3), ["10.0.0.3"]);
    settle(&mut a, "c", asks(3, "10.0.0.2"), 3);
    assert!(why(&a, "c").contains("another machine on the network uses it"));
    a.forget(&key("a"), at(4));
    assert_eq!(settle(&mut a, "d", plain(4), 5), Vec::<String>::new());
    a.set_quarantine(BTreeMap::new(), at(6));
    assert_eq!([has(&a, "c"), has(&a, "d")], [["10.0.0.2"], ["10.0.0.1"]]);
}

#[test]
fn an_address_that_a_stranger_uses_is_given_to_nobody_when_a_pool_gets_it() {
    let mut a = allocator(&[]);
    settle(&mut a, "a", plain(1), 1);
    let pools = configuration(&[("p", addresses(&["10.0.0.1-10.0.0.2"]))]);
    a.configure(pools, foreign(&["10.0.0.1"]), at(2));
    assert_eq!(has(&a, "a"), ["10.0.0.2"]);
}

#[test]
fn an_address_that_a_stranger_leaves_is_given_to_nobody_when_its_pool_reserves_it() {
    let pools = [("p", addresses(&["10.0.0.1/32"]))];
    let mut a = allocator(&pools);
    a.set_quarantine(foreign(&["10.0.0.1"]), at(1));
    settle(&mut a, "a", plain(1), 2);
    let policy = json!({"pool": "p", "reserved": [{"addresses": "10.0.0.1"}]});
    a.configure(configuration_with(&pools, &[("policy", policy)]), BTreeMap::new(), at(3));
    assert_eq!(has(&a, "a"), Vec::<String>::new());
}

#[test]
fn a_request_without_cluster_address_gets_nothing() {
    let mut a = allocator(&[("p", addresses(&["10.0.0.1/32"]))]);
    settle(&mut a, "a", request(1, &json!({}), &json!({"clusterIPs": []})), 1);
    let outcome = a.outcome(&key("a")).unwrap();
    assert_eq!(outcome.refusal, Some(&Refusal::Request(RequestFault::NoClusterIp)));
    assert!(outcome.addresses.is_empty());
}
