//! One rule per test. The invariants over random histories are in `model`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::request::RequestError;

mod exchanges;
mod families;
mod guarantees;
mod policies;
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

/// These addresses, used by hosts that do not belong to the cluster.
pub(crate) fn foreign(texts: &[&str]) -> BTreeMap<IpAddr, Occupant> {
    ips(texts).into_iter().map(|ip| (ip, Occupant::ForeignHost)).collect()
}

/// These addresses, as those of the node `node1`.
pub(crate) fn nodes(texts: &[&str]) -> BTreeMap<IpAddr, Occupant> {
    ips(texts).into_iter().map(|ip| (ip, Occupant::Node("node1".into()))).collect()
}

fn texts(assignment: Assignment<'_>) -> Vec<String> {
    assignment.addresses.iter().map(ToString::to_string).collect()
}

/// The configuration with these pools (name and spec).
pub(crate) fn configuration(pools: &[(&str, Value)]) -> Arc<Configuration> {
    configuration_with(pools, &[])
}

/// The same with `PoolPolicy`s.
pub(crate) fn configuration_with(pools: &[(&str, Value)], policies: &[(&str, Value)]) -> Arc<Configuration> {
    configuration_in(&["shop", "bank"], pools, policies)
}

/// The same with these namespaces, each of which has its name as the label `team`.
fn configuration_in(
    namespaces: &[&str],
    pools: &[(&str, Value)],
    policies: &[(&str, Value)],
) -> Arc<Configuration> {
    Arc::new(Configuration::from_objects(&objects(namespaces, pools, policies)).0)
}

/// The objects of such a configuration.
pub(crate) fn objects(
    namespaces: &[&str],
    pools: &[(&str, Value)],
    policies: &[(&str, Value)],
) -> rules::Objects {
    let object = |api: &str, kind: &str, (name, spec): &(&str, Value)| {
        let metadata = json!({"name": name, "namespace": "metallb-system"});
        json!({"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec})
    };
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

/// The request of a Service created at `second` with these annotations (without prefix) and these fields in
/// its spec.
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
        "labels": {"app": "x"}, "creationTimestamp": at(second).to_string(), "uid": format!("uid-{second}")},
        "spec": spec});
    Request::from_service(&serde_json::from_value(service).unwrap())
}

/// A request for any address.
fn any(second: i64) -> Request {
    request(second, &json!({}), &json!({}))
}

/// A request for this address.
fn with_ip(second: i64, ip: &str) -> Request {
    request(second, &json!({"loadBalancerIPs": ip}), &json!({}))
}

/// A request for any address of this pool.
fn in_pool(second: i64, pool: &str) -> Request {
    request(second, &json!({"address-pool": pool}), &json!({}))
}

/// A request for any address, to be shared by this key.
fn sharing(second: i64, key: &str, port: u16) -> Request {
    request(second, &json!({"allow-shared-ip": key}), &json!({"ports": [{"port": port}]}))
}

fn dual(second: i64, policy: &str) -> Request {
    request(
        second,
        &json!({}),
        &json!({"clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": policy}),
    )
}

/// The Service `name` as it exists when a controller starts, with these addresses in its status.
pub(crate) fn existing(name: &str, request: Request, current: &[&str]) -> ExistingService {
    ExistingService { service: key(name), request, current: ips(current), pool: None, waiting_since: None }
}

/// Assigns and confirms the write, as the controller does if the write succeeds.
fn assign_and_write(allocator: &mut Allocator, name: &str, request: Request, second: i64) -> Vec<String> {
    let stored = allocator.services.get(&key(name)).map(|entry| entry.stored.clone()).unwrap_or_default();
    let given = allocator.assign(&key(name), request, &stored, at(second)).addresses.to_vec();
    allocator.observed(&key(name), &given, at(second));
    write_all(allocator, second);
    texts(allocator.assignment(&key(name)).unwrap())
}

/// Confirms every outstanding write until nothing changes.
fn write_all(allocator: &mut Allocator, second: i64) {
    loop {
        let changed = allocator.take_changed();
        if changed.is_empty() {
            return;
        }
        for service in changed {
            let desired = allocator.assignment(&service).map(|o| o.addresses.to_vec()).unwrap_or_default();
            allocator.observed(&service, &desired, at(second));
        }
    }
}

fn assigned(allocator: &Allocator, name: &str) -> Vec<String> {
    texts(allocator.assignment(&key(name)).unwrap())
}

fn refusal(allocator: &Allocator, name: &str) -> String {
    allocator.assignment(&key(name)).unwrap().refusal.map(ToString::to_string).unwrap_or_default()
}

#[test]
fn the_first_service_gets_the_first_address_and_assigning_again_changes_nothing() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.3"]))]);
    assert_eq!(assign_and_write(&mut a, "a", any(1), 1), ["10.0.0.1"]);
    assert_eq!(assign_and_write(&mut a, "b", any(2), 2), ["10.0.0.2"]);
    a.assign(&key("a"), any(1), &ips(&["10.0.0.1"]), at(3));
    assert_eq!(a.take_changed(), []);
}

#[test]
fn a_full_pool_is_reported_and_a_freed_address_goes_to_the_longest_waiting_service() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1/32"]))]);
    assign_and_write(&mut a, "a", any(1), 1);
    assert_eq!(assign_and_write(&mut a, "late", any(3), 2), Vec::<String>::new());
    assert_eq!(assign_and_write(&mut a, "later", any(2), 3), Vec::<String>::new());
    assert_eq!(refusal(&a, "late"), "no pool can give an address: pool lan: 1 of 1 IPv4 addresses in use");
    a.remove(&key("a"), at(4));
    assert_eq!(assigned(&a, "late"), ["10.0.0.1"], "it has waited longest, although it is younger");
    assert_eq!(assigned(&a, "later"), Vec::<String>::new());
}

#[test]
fn an_address_is_free_only_after_the_write_that_removes_it_is_confirmed() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1/32"]))]);
    assign_and_write(&mut a, "a", any(1), 1);
    assign_and_write(&mut a, "b", any(2), 2);
    a.release(&key("a"), &ips(&["10.0.0.1"]), at(3));
    assert_eq!(assigned(&a, "b"), Vec::<String>::new());
    a.observed(&key("a"), &[], at(4));
    assert_eq!(assigned(&a, "b"), ["10.0.0.1"]);
}

#[test]
fn an_address_in_the_status_of_a_service_of_another_class_is_not_assigned() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
    a.release(&key("other"), &ips(&["10.0.0.1"]), at(1));
    assert_eq!(assign_and_write(&mut a, "a", any(1), 2), ["10.0.0.2"]);
    assert_eq!(assign_and_write(&mut a, "b", with_ip(2, "10.0.0.1"), 3), Vec::<String>::new());
    assert!(refusal(&a, "b").contains("Service shop/other has it"), "{}", refusal(&a, "b"));
    a.release(&key("other"), &[], at(4));
    assert_eq!(assigned(&a, "b"), ["10.0.0.1"]);
}

#[test]
fn a_service_that_changes_to_our_class_keeps_the_address_in_its_status() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
    a.release(&key("a"), &ips(&["10.0.0.2"]), at(1));
    assert_eq!(texts(a.assign(&key("a"), any(1), &ips(&["10.0.0.2"]), at(2))), ["10.0.0.2"]);
}

#[test]
fn after_a_write_with_unknown_result_both_addresses_stay_claimed() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
    assign_and_write(&mut a, "a", any(1), 1);
    a.assign(&key("a"), with_ip(1, "10.0.0.2"), &ips(&["10.0.0.1"]), at(2));
    a.write_unknown(&key("a"), &ips(&["10.0.0.2"]));
    assert_eq!(texts(a.assign(&key("b"), any(2), &[], at(3))), Vec::<String>::new());
    a.observed(&key("a"), &ips(&["10.0.0.2"]), at(4));
    assert_eq!(assigned(&a, "b"), ["10.0.0.1"]);
}

#[test]
fn of_two_services_with_one_address_the_older_keeps_it_in_any_order_of_the_list() {
    for reversed in [false, true] {
        let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
        let mut list = vec![existing("old", any(1), &["10.0.0.1"]), existing("young", any(2), &["10.0.0.1"])];
        if reversed {
            list.reverse();
        }
        a.restore(list, at(9));
        assert_eq!(assigned(&a, "old"), ["10.0.0.1"]);
        assert_eq!(assigned(&a, "young"), ["10.0.0.2"]);
    }
}

#[test]
fn restoring_keeps_all_current_addresses_before_any_is_assigned() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
    a.restore(vec![existing("old-and-new", any(1), &[]), existing("young", any(2), &["10.0.0.1"])], at(9));
    assert_eq!(assigned(&a, "young"), ["10.0.0.1"]);
    assert_eq!(assigned(&a, "old-and-new"), ["10.0.0.2"]);
}

#[test]
fn an_address_that_a_restored_service_may_not_keep_gives_it_no_precedence() {
    let mut allocator = allocator(&[("a", addresses(&["10.0.0.1/32"]))]);
    let wrong_family =
        ExistingService { waiting_since: Some(at(5)), ..existing("wrong-family", any(1), &["fc00::1"]) };
    let waits = ExistingService { waiting_since: Some(at(4)), ..existing("waits", any(2), &[]) };
    allocator.restore(vec![wrong_family, waits], at(6));
    assert_eq!(assigned(&allocator, "waits"), ["10.0.0.1"]);
    assert!(assigned(&allocator, "wrong-family").is_empty());
}

#[test]
fn a_requested_address_is_assigned_although_auto_assign_is_off() {
    let mut a = allocator(&[("quiet", json!({"addresses": ["10.0.0.1-10.0.0.9"], "autoAssign": false}))]);
    assert_eq!(assign_and_write(&mut a, "auto", any(1), 1), Vec::<String>::new());
    assert_eq!(refusal(&a, "auto"), "no pool can give an address: pool quiet: autoAssign is off");
    assert_eq!(assign_and_write(&mut a, "asks", with_ip(2, "10.0.0.5"), 1), ["10.0.0.5"]);
    let named = request(3, &json!({"address-pool": "quiet"}), &json!({}));
    assert_eq!(assign_and_write(&mut a, "named", named, 1), ["10.0.0.1"]);
}

#[test]
fn a_service_whose_request_cannot_be_met_keeps_its_address() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.3"]))]);
    assign_and_write(&mut a, "a", any(1), 1);
    assign_and_write(&mut a, "b", any(2), 1);
    for (annotations, text) in [
        (json!({"loadBalancerIPs": "10.0.0.1"}), "10.0.0.1 was asked for, but Service shop/a has it"),
        (json!({"loadBalancerIPs": "10.9.9.9"}), "10.9.9.9 was asked for, but no IPAddressPool contains it"),
        (json!({"loadBalancerIPs": "10.0.0"}), "which is not a valid IP address"),
        (json!({"address-pool": "gone"}), "pool gone was asked for, but there is no IPAddressPool"),
        (json!({"loadBalancerIPs": "10.0.0.3", "address-pool": "gone"}), "but it is in pool lan"),
    ] {
        assert_eq!(
            assign_and_write(&mut a, "b", request(2, &annotations, &json!({})), 2),
            ["10.0.0.2"],
            "{annotations}"
        );
        assert!(refusal(&a, "b").contains(text), "{annotations}: {}", refusal(&a, "b"));
    }
    assert_eq!(assign_and_write(&mut a, "b", any(2), 3), ["10.0.0.2"]);
    assert_eq!(refusal(&a, "b"), "");
}

#[test]
fn a_service_moves_to_the_requested_address_as_soon_as_it_is_free() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
    assign_and_write(&mut a, "a", any(1), 1);
    assign_and_write(&mut a, "b", any(2), 1);
    assign_and_write(&mut a, "b", with_ip(2, "10.0.0.1"), 2);
    assign_and_write(&mut a, "c", any(3), 3);
    a.remove(&key("a"), at(3));
    write_all(&mut a, 3);
    assert_eq!(assigned(&a, "b"), ["10.0.0.1"]);
    assert_eq!(assigned(&a, "c"), ["10.0.0.2"], "the address that it left goes to the waiting Service");
}

#[test]
fn an_address_removed_from_its_pool_is_kept_for_the_grace_period() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
    assign_and_write(&mut a, "a", any(1), 1);
    a.set_configuration(configuration(&[("lan", addresses(&["10.0.0.2-10.0.0.3"]))]), at(10));
    assert_eq!(assigned(&a, "a"), ["10.0.0.1"]);
    assert_eq!(refusal(&a, "a"), "10.0.0.1 will be withdrawn: no IPAddressPool contains it any more");
    assert_eq!(a.next_deadline(), Some(at(15)));
    a.handle_timeout(at(14));
    assert_eq!(assigned(&a, "a"), ["10.0.0.1"]);
    a.handle_timeout(at(15));
    assert_eq!(assigned(&a, "a"), ["10.0.0.2"]);
    assert_eq!((a.next_deadline(), refusal(&a, "a")), (None, String::new()));
}

#[test]
fn a_range_can_move_from_one_pool_to_another() {
    let mut a = allocator(&[("one", addresses(&["10.0.0.1/32"]))]);
    assign_and_write(&mut a, "a", any(1), 1);
    a.set_configuration(configuration(&[]), at(10));
    a.set_configuration(configuration(&[("two", addresses(&["10.0.0.0/24"]))]), at(12));
    assert_eq!((assigned(&a, "a"), a.next_deadline()), (vec!["10.0.0.1".to_owned()], None));
    assert_eq!(a.assignment(&key("a")).unwrap().pool, Some("two"));
}

#[test]
fn a_pool_with_an_error_withdraws_and_assigns_no_address() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
    assign_and_write(&mut a, "a", any(1), 1);
    a.set_configuration(configuration(&[("lan", addresses(&["10.0.0.1-10.0.0.2", "10.0.0"]))]), at(10));
    a.handle_timeout(at(100));
    assert_eq!(assigned(&a, "a"), ["10.0.0.1"]);
    assert_eq!(assign_and_write(&mut a, "b", any(2), 100), Vec::<String>::new());
    assert_eq!(assign_and_write(&mut a, "c", with_ip(3, "10.0.0.2"), 100), Vec::<String>::new());
    assert!(refusal(&a, "c").starts_with("pool lan has an error"));
}

#[test]
fn restricted_pools_come_first_by_priority_and_admit_only_matching_services() {
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
    let given: Vec<_> = (0..4).flat_map(|n| assign_and_write(&mut a, &format!("s{n}"), any(n), 1)).collect();
    assert_eq!(given, ["10.2.0.0", "10.3.0.0", "10.1.0.0", "10.1.0.1"]);
    let other = ServiceKey::new("other", "s");
    let mut unlabelled = any(9);
    unlabelled.labels.clear();
    assert_eq!(texts(a.assign(&other, unlabelled, &[], at(1))), ["10.0.0.0"]);
    let refused = request(10, &json!({"address-pool": "e-others"}), &json!({}));
    assign_and_write(&mut a, "named", refused, 1);
    assert_eq!(refusal(&a, "named"), "pool e-others was asked for, but: namespace shop not allowed");
}

fn namespaces(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_service_waits_until_its_namespace_is_known_and_is_then_assigned_by_its_labels() {
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
    a.assign(&key("a"), any(1), &[], at(1));
    assert_eq!(a.assignment(&key("a")), None, "nothing is decided for it yet");
    assert_eq!(a.take_changed(), []);
    a.set_configuration(configuration_in(&["shop"], &pools, &[]), at(2));
    a.set_namespaces(namespaces(&["shop"]), at(2));
    assert_eq!((assigned(&a, "a"), a.take_changed()), (vec!["10.0.0.1".to_owned()], vec![key("a")]));
}

#[test]
fn a_pool_that_names_a_nonexistent_namespace_withdraws_no_address() {
    let known = ["shop", "bank"];
    let pool = |names: Value| {
        let spec = json!({"addresses": ["10.0.0.0/29"], "serviceAllocation": {"namespaces": names}});
        configuration_in(&known, &[("p", spec)], &[])
    };
    let mut a = Allocator::new();
    a.set_configuration(pool(json!(["shop", "bank"])), at(0));
    a.set_namespaces(namespaces(&known), at(0));
    assign_and_write(&mut a, "has", any(1), 1);
    // A process that has just started knows no version before this one.
    a.set_configuration(pool(json!(["shpo", "bank"])), at(2));
    a.handle_timeout(at(1_000));
    assert_eq!(assigned(&a, "has"), ["10.0.0.0"]);
    assign_and_write(&mut a, "new", any(2), 1_001);
    assert_eq!(assigned(&a, "new"), [] as [String; 0], "it assigns no new address");
    a.set_configuration(pool(json!(["bank"])), at(1_002));
    a.handle_timeout(at(3_000));
    assert_eq!(assigned(&a, "has"), [] as [String; 0], "the pool does not admit the namespace");
}

#[test]
fn a_service_whose_namespace_is_not_known_keeps_its_address_and_blocks_no_other() {
    let mut a = allocator(&[("p", addresses(&["10.0.0.1-10.0.0.2"]))]);
    a.set_namespaces(namespaces(&["shop", "bank"]), at(0));
    let of_bank = |name: &str| ServiceKey::new("bank", name);
    assign_and_write(&mut a, "has", any(1), 1);
    a.assign(&of_bank("leaves"), any(2), &[], at(1));
    assign_and_write(&mut a, "waits", any(3), 2);
    a.assign(&of_bank("later"), any(4), &[], at(3));
    a.set_namespaces(namespaces(&["bank"]), at(4));
    a.remove(&of_bank("leaves"), at(5));
    assert_eq!(texts(a.assignment(&of_bank("later")).unwrap()), ["10.0.0.2"]);
    a.handle_timeout(at(100));
    a.set_namespaces(namespaces(&["bank", "shop"]), at(100));
    assert_eq!((assigned(&a, "has"), assigned(&a, "waits")), (vec!["10.0.0.1".to_owned()], vec![]));
    assert_eq!(
        a.assignment(&key("waits")).unwrap().refusal.map(Refusal::reason),
        Some(RefusalReason::NoPoolFits)
    );
}

#[test]
fn addresses_in_conflict_are_not_assigned_and_kept_by_services_that_have_them() {
    let mut a = allocator(&[("p", addresses(&["10.0.0.1-10.0.0.3"]))]);
    assign_and_write(&mut a, "a", any(1), 1);
    a.set_quarantine(foreign(&["10.0.0.1", "10.0.0.2"]), at(2));
    assert_eq!(assigned(&a, "a"), ["10.0.0.1"]);
    assert_eq!(assign_and_write(&mut a, "b", any(2), 3), ["10.0.0.3"]);
    assign_and_write(&mut a, "c", with_ip(3, "10.0.0.2"), 3);
    assert!(refusal(&a, "c").contains("another machine on the network uses it"));
    a.remove(&key("a"), at(4));
    assert_eq!(assign_and_write(&mut a, "d", any(4), 5), Vec::<String>::new());
    a.set_quarantine(BTreeMap::new(), at(6));
    assert_eq!([assigned(&a, "c"), assigned(&a, "d")], [["10.0.0.2"], ["10.0.0.1"]]);
}

#[test]
fn an_address_used_by_a_foreign_host_is_not_assigned_when_a_pool_gets_it() {
    let mut a = allocator(&[]);
    assign_and_write(&mut a, "a", any(1), 1);
    let pools = configuration(&[("p", addresses(&["10.0.0.1-10.0.0.2"]))]);
    a.configure(pools, foreign(&["10.0.0.1"]), at(2));
    assert_eq!(assigned(&a, "a"), ["10.0.0.2"]);
}

#[test]
fn an_address_that_a_foreign_host_stops_using_is_not_assigned_if_it_is_reserved() {
    let pools = [("p", addresses(&["10.0.0.1/32"]))];
    let mut a = allocator(&pools);
    a.set_quarantine(foreign(&["10.0.0.1"]), at(1));
    assign_and_write(&mut a, "a", any(1), 2);
    let policy = json!({"pool": "p", "reserved": [{"addresses": "10.0.0.1"}]});
    a.configure(configuration_with(&pools, &[("policy", policy)]), BTreeMap::new(), at(3));
    assert_eq!(assigned(&a, "a"), Vec::<String>::new());
}

#[test]
fn a_service_without_cluster_ip_gets_no_address() {
    let mut a = allocator(&[("p", addresses(&["10.0.0.1/32"]))]);
    assign_and_write(&mut a, "a", request(1, &json!({}), &json!({"clusterIPs": []})), 1);
    let assignment = a.assignment(&key("a")).unwrap();
    assert_eq!(assignment.refusal, Some(&Refusal::Request(RequestError::NoClusterIp)));
    assert!(assignment.addresses.is_empty());
}
