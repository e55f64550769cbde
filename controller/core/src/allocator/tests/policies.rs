//! Reservations, quotas, and the order of waiting Services.

use super::*;

fn of(namespace: &str, name: &str) -> ServiceKey {
    ServiceKey::new(namespace, name)
}

/// [`assign_and_write`] for a Service of any namespace.
fn assign_and_write_in(
    a: &mut Allocator,
    namespace: &str,
    name: &str,
    request: Request,
    second: i64,
) -> Vec<String> {
    let service = of(namespace, name);
    let stored = a.services.get(&service).map(|entry| entry.stored.clone()).unwrap_or_default();
    a.assign(&service, request, &stored, at(second));
    write_all(a, second);
    texts(a.assignment(&service).unwrap())
}

fn assigned_in(a: &Allocator, namespace: &str, name: &str) -> Vec<String> {
    texts(a.assignment(&of(namespace, name)).unwrap())
}

fn none() -> Vec<String> {
    Vec::new()
}

/// The pool `lan` with these addresses and this policy.
fn with_policy(list: &[&str], mut policy: Value) -> Allocator {
    policy["pool"] = json!("lan");
    let mut a = Allocator::new();
    a.set_configuration(configuration_with(&[("lan", addresses(list))], &[("policy", policy)]), at(0));
    a
}

fn quota(max: u32) -> Value {
    json!({"quotas": [{"maxAddresses": max}]})
}

fn reserved(range: &str) -> Value {
    json!({"reserved": [{"addresses": range}]})
}

#[test]
fn a_quota_applies_to_the_namespaces_that_its_selector_matches_and_no_others() {
    let of_shop =
        json!({"quotas": [{"namespaceSelector": {"matchLabels": {"team": "shop"}}, "maxAddresses": 1}]});
    let mut a = with_policy(&["10.0.0.1-10.0.0.9"], of_shop);
    assert_eq!(assign_and_write(&mut a, "a", any(1), 1), ["10.0.0.1"]);
    assert_eq!(assign_and_write(&mut a, "b", any(2), 1), none());
    assert_eq!(
        refusal(&a, "b"),
        "no pool can give an address: pool lan: namespace shop has reached its quota of 1 addresses"
    );
    for (name, given) in [("c", "10.0.0.2"), ("d", "10.0.0.3")] {
        assert_eq!(assign_and_write_in(&mut a, "bank", name, any(3), 1), [given]);
    }
}

#[test]
fn a_quota_without_selector_applies_to_each_namespace_separately() {
    let mut a = with_policy(&["10.0.0.1-10.0.0.9"], quota(1));
    for namespace in ["shop", "bank"] {
        assert_eq!(assign_and_write_in(&mut a, namespace, "first", any(1), 1).len(), 1, "{namespace}");
        assert_eq!(assign_and_write_in(&mut a, namespace, "second", any(2), 1), none(), "{namespace}");
    }
}

#[test]
fn the_lowest_of_several_quotas_applies_and_addresses_of_both_families_count() {
    for (quotas, given) in [
        (json!([{"maxAddresses": 3}, {"maxAddresses": 2}]), vec!["10.0.0.1", "fc00::1"]),
        (json!([{"maxAddresses": 1}]), vec!["10.0.0.1"]),
        (json!([{"maxAddresses": 0}]), Vec::new()),
    ] {
        let mut a = with_policy(&["10.0.0.1-10.0.0.9", "fc00::1-fc00::9"], json!({ "quotas": quotas }));
        assert_eq!(assign_and_write(&mut a, "a", dual(1, "PreferDualStack"), 1), given, "{quotas}");
    }
}

#[test]
fn a_shared_address_counts_once() {
    let mut a = with_policy(&["10.0.0.1-10.0.0.9"], quota(1));
    assert_eq!(assign_and_write(&mut a, "a", sharing(1, "k", 80), 1), ["10.0.0.1"]);
    assert_eq!(assign_and_write(&mut a, "b", sharing(2, "k", 443), 1), ["10.0.0.1"]);
    assert_eq!(assign_and_write(&mut a, "c", sharing(3, "k", 80), 1), none());
    a.remove(&key("a"), at(2));
    assert_eq!(assigned(&a, "c"), ["10.0.0.1"]);
}

#[test]
fn a_namespace_at_its_quota_shares_its_own_address_although_another_comes_first() {
    let mut a = with_policy(&["10.0.0.1-10.0.0.9"], quota(1));
    assign_and_write_in(&mut a, "bank", "first", sharing(1, "k", 80), 1);
    assert_eq!(assign_and_write(&mut a, "a", sharing(2, "k", 80), 1), ["10.0.0.2"]);
    assert_eq!(
        assign_and_write(&mut a, "b", sharing(3, "k", 443), 1),
        ["10.0.0.2"],
        "10.0.0.1 has the port free too"
    );
}

#[test]
fn an_address_that_a_namespace_gives_up_goes_to_its_longest_waiting_service() {
    let mut a = with_policy(&["10.0.0.1-10.0.0.3"], quota(1));
    assign_and_write(&mut a, "a", any(1), 1);
    assign_and_write_in(&mut a, "bank", "a", any(2), 1);
    assign_and_write_in(&mut a, "bank", "waits", any(3), 2);
    assign_and_write(&mut a, "late", any(5), 3);
    assign_and_write(&mut a, "later", any(4), 4);
    a.remove(&key("a"), at(5));
    assert_eq!(assigned(&a, "late"), ["10.0.0.1"], "it has waited longest of its namespace");
    assert_eq!((assigned(&a, "later"), assigned_in(&a, "bank", "waits")), (none(), none()));
    a.remove(&of("bank", "a"), at(6));
    assert_eq!(
        (assigned(&a, "later"), assigned_in(&a, "bank", "waits")),
        (none(), vec!["10.0.0.2".to_owned()])
    );
}

#[test]
fn an_address_refused_by_a_quota_is_assigned_when_the_namespace_gives_up_another() {
    let mut a = with_policy(&["10.0.0.1-10.0.0.3"], quota(1));
    assign_and_write(&mut a, "a", any(1), 1);
    assert_eq!(assign_and_write(&mut a, "asks", with_ip(2, "10.0.0.3"), 2), none());
    assert_eq!(
        refusal(&a, "asks"),
        "pool lan was asked for, but: namespace shop has reached its quota of 1 addresses"
    );
    assign_and_write_in(&mut a, "bank", "other", any(3), 3);
    a.remove(&of("bank", "other"), at(4));
    assert_eq!(assigned(&a, "asks"), none(), "room in the quota of another namespace does not help");
    a.remove(&key("a"), at(5));
    assert_eq!(assigned(&a, "asks"), ["10.0.0.3"]);
}

#[test]
fn a_service_moves_within_a_full_quota_although_one_that_cannot_asked_earlier() {
    let mut a = with_policy(&["10.0.0.1-10.0.0.3"], quota(1));
    assign_and_write_in(&mut a, "bank", "a", any(1), 1);
    assign_and_write(&mut a, "holds", any(2), 1);
    assign_and_write(&mut a, "new", with_ip(3, "10.0.0.1"), 2);
    assign_and_write(&mut a, "holds", with_ip(2, "10.0.0.1"), 3);
    a.remove(&of("bank", "a"), at(4));
    assert_eq!((assigned(&a, "holds"), assigned(&a, "new")), (vec!["10.0.0.1".to_owned()], none()));
}

#[test]
fn reserved_addresses_are_assigned_or_shared_only_on_request() {
    let mut a = with_policy(&["10.0.0.1-10.0.0.3"], reserved("10.0.0.1-10.0.0.2"));
    assert_eq!(assign_and_write(&mut a, "auto", any(1), 1), ["10.0.0.3"]);
    assert_eq!(assign_and_write(&mut a, "full", any(2), 1), none());
    assert_eq!(
        refusal(&a, "full"),
        "no pool can give an address: pool lan: 1 of 3 IPv4 addresses in use, \
         the others are reserved or excluded"
    );
    let with_port =
        |second, port: u16, annotations| request(second, annotations, &json!({"ports": [{"port": port}]}));
    let asks_and_shares = json!({"loadBalancerIPs": "10.0.0.1", "allow-shared-ip": "k"});
    assert_eq!(assign_and_write(&mut a, "asks", with_port(3, 80, &asks_and_shares), 2), ["10.0.0.1"]);
    assert_eq!(assign_and_write(&mut a, "shares", sharing(4, "k", 443), 3), none());
    assert_eq!(assign_and_write(&mut a, "both", with_port(5, 53, &asks_and_shares), 3), ["10.0.0.1"]);
    a.remove(&key("both"), at(4));
    assert_eq!(assigned(&a, "shares"), none(), "nor after another sharing Service left");
    a.remove(&key("asks"), at(5));
    assert_eq!((assigned(&a, "full"), assigned(&a, "shares")), (none(), none()));
}

#[test]
fn an_address_reserved_later_is_kept_by_its_service_and_not_assigned_again() {
    let pools = [("lan", addresses(&["10.0.0.1/32"]))];
    let mut a = allocator(&pools);
    assign_and_write(&mut a, "a", sharing(1, "k", 80), 1);
    let policy = json!({"pool": "lan", "reserved": [{"addresses": "10.0.0.1"}]});
    a.set_configuration(configuration_with(&pools, &[("policy", policy)]), at(2));
    assert_eq!((assigned(&a, "a"), a.next_deadline()), (vec!["10.0.0.1".to_owned()], None));
    assert_eq!(assign_and_write(&mut a, "b", sharing(2, "k", 443), 3), none());
    a.remove(&key("a"), at(4));
    assert_eq!(assigned(&a, "b"), none());
    a.set_configuration(configuration(&pools), at(5));
    assert_eq!(assigned(&a, "b"), ["10.0.0.1"]);
}

#[test]
fn a_service_that_is_not_admitted_blocks_no_other() {
    let pools = [(
        "lan",
        json!({"addresses": ["10.0.0.1/32"],
            "serviceAllocation": {"serviceSelectors": [{"matchLabels": {"app": "x"}}]}}),
    )];
    let mut unlabelled = in_pool(2, "lan");
    unlabelled.labels.clear();
    for (wrong, right) in [
        (unlabelled, in_pool(3, "lan")),
        (
            request(2, &json!({"loadBalancerIPs": "10.0.0.1", "address-pool": "typo"}), &json!({})),
            with_ip(3, "10.0.0.1"),
        ),
    ] {
        let mut a = allocator(&pools);
        assign_and_write(&mut a, "a", in_pool(1, "lan"), 1);
        assign_and_write(&mut a, "wrong", wrong, 2);
        assign_and_write(&mut a, "right", right, 3);
        a.remove(&key("a"), at(4));
        assert_eq!((assigned(&a, "wrong"), assigned(&a, "right")), (none(), vec!["10.0.0.1".to_owned()]));
    }
}

#[test]
fn a_service_that_is_admitted_later_has_waited_since_it_was_refused() {
    let pool = |namespace: &str| {
        [(
            "lan",
            json!({"addresses": ["10.0.0.1/32"], "serviceAllocation": {"namespaces": ["shop", namespace]}}),
        )]
    };
    let mut a = allocator(&pool("other"));
    assign_and_write(&mut a, "a", any(1), 1);
    assign_and_write_in(&mut a, "bank", "early", any(3), 2);
    assign_and_write(&mut a, "late", any(2), 3);
    a.set_configuration(configuration(&pool("bank")), at(4));
    a.remove(&key("a"), at(5));
    assert_eq!(
        (assigned_in(&a, "bank", "early"), assigned(&a, "late")),
        (vec!["10.0.0.1".to_owned()], none())
    );
}

#[test]
fn a_service_waits_for_a_missing_family_only_if_the_pool_has_it() {
    for (list, classes) in [(vec!["10.0.0.1-10.0.0.9"], 0), (vec!["10.0.0.1-10.0.0.9", "fc00::1/128"], 1)] {
        let mut a = allocator(&[("lan", addresses(&list))]);
        assign_and_write(&mut a, "holder", dual(1, "RequireDualStack"), 1);
        for second in 2..6 {
            assign_and_write(&mut a, &format!("s{second}"), dual(second, "PreferDualStack"), 1);
        }
        a.remove(&key("holder"), at(2));
        assign_and_write(&mut a, "s9", dual(9, "PreferDualStack"), 2);
        assert_eq!(a.queue.classes().len(), classes, "{list:?}");
    }
}

#[test]
fn a_freed_address_wakes_only_services_that_it_can_help() {
    let mut a = allocator(&[
        ("lan", addresses(&["10.0.0.1-10.0.0.2", "fc00::1/128"])),
        ("other", addresses(&["10.1.0.1/32"])),
    ]);
    assign_and_write(&mut a, "a", dual(1, "PreferDualStack"), 1);
    assign_and_write(&mut a, "b", dual(2, "PreferDualStack"), 1);
    assign_and_write(&mut a, "c", in_pool(3, "other"), 1);
    assign_and_write(&mut a, "d", with_ip(4, "10.0.0.1"), 1);
    assign_and_write(&mut a, "e", in_pool(5, "other"), 1);
    assign_and_write(&mut a, "f", in_pool(6, "lan"), 1);
    let woken_by = |key: WakeKey| -> Vec<String> {
        let woken = a.queue.woken_by(&BTreeSet::from([key]));
        woken.into_iter().map(|(key, _)| key.service.name.clone()).collect()
    };
    assert_eq!(woken_by(WakeKey::Address("10.0.0.1".parse().unwrap())), ["d"]);
    assert_eq!(woken_by(WakeKey::InPool("lan".into(), Family::V6)), ["b"]);
    assert_eq!(woken_by(WakeKey::InPool("lan".into(), Family::V4)), ["f"]);
    assert_eq!(woken_by(WakeKey::InPool("other".into(), Family::V4)), ["e"]);
    assert_eq!(woken_by(WakeKey::InPool("other".into(), Family::V6)), none());
}

#[test]
fn an_address_that_a_foreign_host_stops_using_goes_to_the_longest_waiting_service() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1/32"]))]);
    a.set_quarantine(foreign(&["10.0.0.1"]), at(1));
    assign_and_write(&mut a, "any", any(1), 2);
    assign_and_write(&mut a, "asks", with_ip(2, "10.0.0.1"), 3);
    a.set_quarantine(BTreeMap::new(), at(4));
    assert_eq!((assigned(&a, "any"), assigned(&a, "asks")), (vec!["10.0.0.1".to_owned()], none()));
    assert!(refusal(&a, "asks").contains("Service shop/any has it"), "{}", refusal(&a, "asks"));
}
