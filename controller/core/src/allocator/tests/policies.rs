//! Reservations, quotas, and who waits behind whom.

use super::*;

fn of(namespace: &str, name: &str) -> ServiceKey {
    ServiceKey::new(namespace, name)
}

/// [`settle`] for a Service of any namespace.
fn settle_in(a: &mut Allocator, namespace: &str, name: &str, request: Request, second: i64) -> Vec<String> {
    let service = of(namespace, name);
    let stored = a.services.get(&service).map(|entry| entry.stored.clone()).unwrap_or_default();
    a.assign(&service, request, &stored, at(second));
    write_all(a, second);
    texts(a.outcome(&service).unwrap())
}

fn has_in(a: &Allocator, namespace: &str, name: &str) -> Vec<String> {
    texts(a.outcome(&of(namespace, name)).unwrap())
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
fn a_quota_binds_each_namespace_that_its_selector_matches_and_no_other() {
    let of_shop =
        json!({"quotas": [{"namespaceSelector": {"matchLabels": {"team": "shop"}}, "maxAddresses": 1}]});
    let mut a = with_policy(&["10.0.0.1-10.0.0.9"], of_shop);
    assert_eq!(settle(&mut a, "a", plain(1), 1), ["10.0.0.1"]);
    assert_eq!(settle(&mut a, "b", plain(2), 1), none());
    assert_eq!(
        why(&a, "b"),
        "no pool can give an address: pool lan: namespace shop has reached its quota of 1 addresses"
    );
    for (name, given) in [("c", "10.0.0.2"), ("d", "10.0.0.3")] {
        assert_eq!(settle_in(&mut a, "bank", name, plain(3), 1), [given]);
    }
}

#[test]
fn without_a_selector_every_namespace_has_the_quota_to_itself() {
    let mut a = with_policy(&["10.0.0.1-10.0.0.9"], quota(1));
    for namespace in ["shop", "bank"] {
        assert_eq!(settle_in(&mut a, namespace, "first", plain(1), 1).len(), 1, "{namespace}");
        assert_eq!(settle_in(&mut a, namespace, "second", plain(2), 1), none(), "{namespace}");
    }
}

#[test]
fn the_lowest_of_several_quotas_counts_and_each_family_counts() {
    for (quotas, given) in [
        (json!([{"maxAddresses": 3}, {"maxAddresses": 2}]), vec!["10.0.0.1", "fc00::1"]),
        (json!([{"maxAddresses": 1}]), vec!["10.0.0.1"]),
        (json!([{"maxAddresses": 0}]), Vec::new()),
    ] {
        let mut a = with_policy(&["10.0.0.1-10.0.0.9", "fc00::1-fc00::9"], json!({ "quotas": quotas }));
        assert_eq!(settle(&mut a, "a", dual(1, "PreferDualStack"), 1), given, "{quotas}");
    }
}

#[test]
fn a_shared_address_counts_once() {
    let mut a = with_policy(&["10.0.0.1-10.0.0.9"], quota(1));
    assert_eq!(settle(&mut a, "a", shares(1, "k", 80), 1), ["10.0.0.1"]);
    assert_eq!(settle(&mut a, "b", shares(2, "k", 443), 1), ["10.0.0.1"]);
    assert_eq!(settle(&mut a, "c", shares(3, "k", 80), 1), none());
    a.forget(&key("a"), at(2));
    assert_eq!(has(&a, "c"), ["10.0.0.1"]);
}

#[test]
fn a_namespace_with_its_fill_shares_what_it_has_although_something_comes_before_that() {
    let mut a = with_policy(&["10.0.0.1-10.0.0.9"], quota(1));
    settle_in(&mut a, "bank", "first", shares(1, "k", 80), 1);
    assert_eq!(settle(&mut a, "a", shares(2, "k", 80), 1), ["10.0.0.2"]);
    assert_eq!(settle(&mut a, "b", shares(3, "k", 443), 1), ["10.0.0.2"], "10.0.0.1 has the port free too");
}

#[test]
fn what_a_namespace_gives_up_makes_room_for_its_longest_waiting() {
    let mut a = with_policy(&["10.0.0.1-10.0.0.3"], quota(1));
    settle(&mut a, "a", plain(1), 1);
    settle_in(&mut a, "bank", "a", plain(2), 1);
    settle_in(&mut a, "bank", "waits", plain(3), 2);
    settle(&mut a, "late", plain(5), 3);
    settle(&mut a, "later", plain(4), 4);
    a.forget(&key("a"), at(5));
    assert_eq!(has(&a, "late"), ["10.0.0.1"], "it waits longest of its namespace");
    assert_eq!((has(&a, "later"), has_in(&a, "bank", "waits")), (none(), none()));
    a.forget(&of("bank", "a"), at(6));
    assert_eq!((has(&a, "later"), has_in(&a, "bank", "waits")), (none(), vec!["10.0.0.2".to_owned()]));
}

#[test]
fn a_requested_address_that_a_quota_refused_is_given_when_the_namespace_gives_up_another() {
    let mut a = with_policy(&["10.0.0.1-10.0.0.3"], quota(1));
    settle(&mut a, "a", plain(1), 1);
    assert_eq!(settle(&mut a, "asks", asks(2, "10.0.0.3"), 2), none());
    assert_eq!(
        why(&a, "asks"),
        "pool lan was asked for, but: namespace shop has reached its quota of 1 addresses"
    );
    settle_in(&mut a, "bank", "other", plain(3), 3);
    a.forget(&of("bank", "other"), at(4));
    assert_eq!(has(&a, "asks"), none(), "another namespace's room is no help");
    a.forget(&key("a"), at(5));
    assert_eq!(has(&a, "asks"), ["10.0.0.3"]);
}

#[test]
fn a_service_moves_within_a_full_quota_although_one_that_cannot_asked_before() {
    let mut a = with_policy(&["10.0.0.1-10.0.0.3"], quota(1));
    settle_in(&mut a, "bank", "a", plain(1), 1);
    settle(&mut a, "holds", plain(2), 1);
    settle(&mut a, "new", asks(3, "10.0.0.1"), 2);
    settle(&mut a, "holds", asks(2, "10.0.0.1"), 3);
    a.forget(&of("bank", "a"), at(4));
    assert_eq!((has(&a, "holds"), has(&a, "new")), (vec!["10.0.0.1".to_owned()], none()));
}

#[test]
fn reserved_addresses_are_given_only_on_request_also_by_sharing() {
    let mut a = with_policy(&["10.0.0.1-10.0.0.3"], reserved("10.0.0.1-10.0.0.2"));
    assert_eq!(settle(&mut a, "auto", plain(1), 1), ["10.0.0.3"]);
    assert_eq!(settle(&mut a, "full", plain(2), 1), none());
    assert_eq!(
        why(&a, "full"),
        "no pool can give an address: pool lan: 1 of 3 IPv4 addresses in use, the others are kept back"
    );
    let wish =
        |second, port: u16, annotations| request(second, annotations, &json!({"ports": [{"port": port}]}));
    let asks_and_shares = json!({"loadBalancerIPs": "10.0.0.1", "allow-shared-ip": "k"});
    assert_eq!(settle(&mut a, "asks", wish(3, 80, &asks_and_shares), 2), ["10.0.0.1"]);
    assert_eq!(settle(&mut a, "shares", shares(4, "k", 443), 3), none());
    assert_eq!(settle(&mut a, "both", wish(5, 53, &asks_and_shares), 3), ["10.0.0.1"]);
    a.forget(&key("both"), at(4));
    assert_eq!(has(&a, "shares"), none(), "nor after another that shared it left");
    a.forget(&key("asks"), at(5));
    assert_eq!((has(&a, "full"), has(&a, "shares")), (none(), none()));
}

#[test]
fn an_address_reserved_later_stays_with_who_has_it_and_goes_to_nobody_after() {
    let pools = [("lan", addresses(&["10.0.0.1/32"]))];
    let mut a = allocator(&pools);
    settle(&mut a, "a", shares(1, "k", 80), 1);
    let policy = json!({"pool": "lan", "reserved": [{"addresses": "10.0.0.1"}]});
    a.set_configuration(configuration_with(&pools, &[("policy", policy)]), at(2));
    assert_eq!((has(&a, "a"), a.next_deadline()), (vec!["10.0.0.1".to_owned()], None));
    assert_eq!(settle(&mut a, "b", shares(2, "k", 443), 3), none());
    a.forget(&key("a"), at(4));
    assert_eq!(has(&a, "b"), none());
    a.set_configuration(configuration(&pools), at(5));
    assert_eq!(has(&a, "b"), ["10.0.0.1"]);
}

#[test]
fn who_is_not_admitted_stands_in_nobodys_way() {
    let pools = [(
        "lan",
        json!({"addresses": ["10.0.0.1/32"], "serviceAllocation": {"serviceSelectors": [{"matchLabels": {"app": "x"}}]}}),
    )];
    let mut unlabelled = from(2, "lan");
    unlabelled.labels.clear();
    for (wrong, right) in [
        (unlabelled, from(3, "lan")),
        (
            request(2, &json!({"loadBalancerIPs": "10.0.0.1", "address-pool": "typo"}), &json!({})),
            asks(3, "10.0.0.1"),
        ),
    ] {
        let mut a = allocator(&pools);
        settle(&mut a, "a", from(1, "lan"), 1);
        settle(&mut a, "wrong", wrong, 2);
        settle(&mut a, "right", right, 3);
        a.forget(&key("a"), at(4));
        assert_eq!((has(&a, "wrong"), has(&a, "right")), (none(), vec!["10.0.0.1".to_owned()]));
    }
}

#[test]
fn who_was_not_admitted_has_waited_since_then_once_it_is() {
    let pool = |namespace: &str| {
        [(
            "lan",
            json!({"addresses": ["10.0.0.1/32"], "serviceAllocation": {"namespaces": ["shop", namespace]}}),
        )]
    };
    let mut a = allocator(&pool("nobody"));
    settle(&mut a, "a", plain(1), 1);
    settle_in(&mut a, "bank", "early", plain(3), 2);
    settle(&mut a, "late", plain(2), 3);
    a.set_configuration(configuration(&pool("bank")), at(4));
    a.forget(&key("a"), at(5));
    assert_eq!((has_in(&a, "bank", "early"), has(&a, "late")), (vec!["10.0.0.1".to_owned()], none()));
}

#[test]
fn a_missing_family_is_waited_for_only_where_the_pool_has_it() {
    for (list, classes) in [(vec!["10.0.0.1-10.0.0.9"], 0), (vec!["10.0.0.1-10.0.0.9", "fc00::1/128"], 1)] {
        let mut a = allocator(&[("lan", addresses(&list))]);
        settle(&mut a, "holder", dual(1, "RequireDualStack"), 1);
        for second in 2..6 {
            settle(&mut a, &format!("s{second}"), dual(second, "PreferDualStack"), 1);
        }
        a.forget(&key("holder"), at(2));
        settle(&mut a, "s9", dual(9, "PreferDualStack"), 2);
        assert_eq!(a.waiting.classes().len(), classes, "{list:?}");
    }
}

#[test]
fn what_becomes_free_touches_only_those_whom_it_can_help() {
    let mut a = allocator(&[
        ("lan", addresses(&["10.0.0.1-10.0.0.2", "fc00::1/128"])),
        ("other", addresses(&["10.1.0.1/32"])),
    ]);
    settle(&mut a, "a", dual(1, "PreferDualStack"), 1);
    settle(&mut a, "b", dual(2, "PreferDualStack"), 1);
    settle(&mut a, "c", from(3, "other"), 1);
    settle(&mut a, "d", asks(4, "10.0.0.1"), 1);
    settle(&mut a, "e", from(5, "other"), 1);
    settle(&mut a, "f", from(6, "lan"), 1);
    let touched = |freed: Freed| -> Vec<String> {
        let touched = a.waiting.touched(&BTreeSet::from([freed]));
        touched.into_iter().map(|(place, _)| place.service.name.clone()).collect()
    };
    assert_eq!(touched(Freed::Address("10.0.0.1".parse().unwrap())), ["d"]);
    assert_eq!(touched(Freed::InPool("lan".into(), Family::V6)), ["b"]);
    assert_eq!(touched(Freed::InPool("lan".into(), Family::V4)), ["f"]);
    assert_eq!(touched(Freed::InPool("other".into(), Family::V4)), ["e"]);
    assert_eq!(touched(Freed::InPool("other".into(), Family::V6)), none());
}

#[test]
fn an_address_that_a_stranger_left_goes_to_the_longest_waiting_not_to_who_asked_for_it() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1/32"]))]);
    a.set_quarantine(foreign(&["10.0.0.1"]), at(1));
    settle(&mut a, "any", plain(1), 2);
    settle(&mut a, "asks", asks(2, "10.0.0.1"), 3);
    a.set_quarantine(BTreeMap::new(), at(4));
    assert_eq!((has(&a, "any"), has(&a, "asks")), (vec!["10.0.0.1".to_owned()], none()));
    assert!(why(&a, "asks").contains("Service shop/any has it"), "{}", why(&a, "asks"));
}
