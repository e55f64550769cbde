//! Services that share an address.

use super::*;

#[test]
fn sharers_need_equal_keys_and_different_ports() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.9"]))]);
    assert_eq!(settle(&mut a, "a", shares(1, "k", 80), 1), ["10.0.0.1"]);
    assert_eq!(settle(&mut a, "b", shares(2, "k", 443), 1), ["10.0.0.1"]);
    assert_eq!(settle(&mut a, "c", shares(3, "k", 80), 1), ["10.0.0.2"]);
    assert_eq!(settle(&mut a, "d", shares(4, "other", 81), 1), ["10.0.0.3"]);
    assert_eq!(settle(&mut a, "e", plain(5), 1), ["10.0.0.4"]);
    assert_eq!(a.usage("lan", Family::V4).unwrap().in_use, 4, "a shared address counts once");
}

#[test]
fn a_sharer_that_leaves_makes_room_for_one_that_waits() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1/32"]))]);
    settle(&mut a, "a", shares(1, "k", 80), 1);
    settle(&mut a, "b", shares(2, "k", 443), 1);
    assert_eq!(settle(&mut a, "c", shares(3, "k", 80), 1), Vec::<String>::new());
    a.forget(&key("a"), at(2));
    assert_eq!(has(&a, "c"), ["10.0.0.1"]);
}

#[test]
fn a_sharer_that_takes_a_port_of_another_must_move_and_a_sole_holder_may_change_its_key() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
    settle(&mut a, "a", shares(1, "k", 80), 1);
    settle(&mut a, "b", shares(2, "k", 443), 1);
    assert_eq!(settle(&mut a, "a", shares(1, "k", 443), 2), ["10.0.0.2"], "also the elder, since it changed");
    assert_eq!(settle(&mut a, "b", shares(2, "l", 443), 3), ["10.0.0.1"]);
}

#[test]
fn many_holders_of_one_key_are_searched_by_port() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.40"]))]);
    for second in 0..40 {
        settle(&mut a, &format!("s{second}"), shares(second, "k", 80), 1);
    }
    assert_eq!(settle(&mut a, "dns", shares(50, "k", 53), 1), ["10.0.0.1"]);
    assert_eq!(settle(&mut a, "full", shares(51, "k", 80), 1), Vec::<String>::new());
    a.forget(&key("s20"), at(2));
    assert_eq!(has(&a, "full"), ["10.0.0.21"]);
}

/// In pool `here` the Service `holder` has the only address, which `elder` waits for. Pool `there` has another.
fn holder_and_elder(holder: Request) -> Allocator {
    let mut a = allocator(&[("here", addresses(&["10.0.0.1/32"])), ("there", addresses(&["10.1.0.1/32"]))]);
    assert_eq!(settle(&mut a, "holder", holder, 1), ["10.0.0.1"]);
    assert_eq!(settle(&mut a, "elder", from(2, "here"), 2), Vec::<String>::new());
    a
}

/// A request for an address of the pool that shares by the key `k`.
fn shares_in(second: i64, pool: &str, port: u16) -> Request {
    let annotations = json!({"allow-shared-ip": "k", "address-pool": pool});
    request(second, &annotations, &json!({"ports": [{"port": port}]}))
}

#[test]
fn a_sharer_does_not_join_on_an_address_that_its_holder_is_about_to_leave() {
    let by_address = request(
        3,
        &json!({"allow-shared-ip": "k", "loadBalancerIPs": "10.0.0.1"}),
        &json!({"ports": [{"port": 81}]}),
    );
    for (joins, says) in [(shares_in(3, "here", 81), "here"), (by_address, "is about to give it up")] {
        let mut a = holder_and_elder(shares_in(1, "here", 80));
        a.assign(&key("holder"), shares_in(1, "there", 80), &ips(&["10.0.0.1"]), at(3));
        assert_eq!(has(&a, "holder"), ["10.1.0.1"]);
        a.assign(&key("joins"), joins, &[], at(4));
        assert_eq!(has(&a, "joins"), Vec::<String>::new());
        assert!(why(&a, "joins").contains(says), "{}", why(&a, "joins"));
        a.stored(&key("holder"), &ips(&["10.1.0.1"]), at(5));
        assert_eq!(has(&a, "elder"), ["10.0.0.1"], "it waits longest");
        assert_eq!(has(&a, "joins"), Vec::<String>::new());
    }
}

#[test]
fn nobody_joins_a_service_that_begins_to_share_in_the_update_that_asks_for_another_pool() {
    let mut a = holder_and_elder(from(1, "here"));
    a.assign(&key("joins"), shares_in(3, "here", 81), &[], at(3));
    a.assign(&key("holder"), shares_in(1, "there", 80), &ips(&["10.0.0.1"]), at(4));
    write_all(&mut a, 5);
    assert_eq!((has(&a, "holder"), has(&a, "elder")), (vec!["10.1.0.1".into()], vec!["10.0.0.1".into()]));
    assert_eq!(has(&a, "joins"), Vec::<String>::new());
}

#[test]
fn who_waits_to_join_a_service_joins_it_as_soon_as_it_stays() {
    let mut a = holder_and_elder(from(1, "here"));
    assert_eq!(settle(&mut a, "joins", shares_in(3, "here", 81), 3), Vec::<String>::new());
    settle(&mut a, "holder", shares_in(1, "here", 80), 4);
    assert_eq!(has(&a, "joins"), ["10.0.0.1"], "it begins to share");
    a.assign(&key("holder"), shares_in(1, "there", 80), &ips(&["10.0.0.1"]), at(5));
    assert_eq!(settle(&mut a, "third", shares_in(4, "here", 82), 6), ["10.0.0.1"], "the second sharer stays");
}

#[test]
fn nobody_joins_a_service_whose_address_is_only_kept_in_grace() {
    let of = |pool: &str, namespace: &str| {
        let spec = json!({"addresses": ["10.0.0.1/32"], "serviceAllocation": {"namespaces": [namespace]}});
        configuration(&[(pool, spec)])
    };
    let mut a = Allocator::new();
    a.set_configuration(of("here", "shop"), at(0));
    settle(&mut a, "holder", shares(1, "k", 80), 1);
    a.set_configuration(of("there", "bank"), at(2));
    let joins = ServiceKey::new("bank", "joins");
    assert_eq!(texts(a.assign(&joins, shares(2, "k", 81), &[], at(3))), Vec::<String>::new());
    a.set_configuration(of("here", "shop"), at(4));
    assert_eq!(settle(&mut a, "other", shares(3, "k", 82), 5), ["10.0.0.1"], "it stays after all");
}

#[test]
fn at_a_restart_nobody_joins_a_service_that_is_about_to_leave() {
    let mut a = allocator(&[("p", addresses(&["10.0.0.1/32", "fc00::1/128"]))]);
    let adoptee = |name: &str, request: Request, current: &[&str]| Adoptee {
        service: key(name),
        request,
        current: ips(current),
        pool: Some("p".into()),
        waiting_since: None,
    };
    let v6 = json!({"clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilyPolicy": "PreferDualStack"});
    let joins = request(2, &json!({"allow-shared-ip": "k"}), &v6);
    let leaves = adoptee("leaves", shares(3, "k", 81), &["fc00::1"]);
    a.adopt(vec![adoptee("joins", joins, &["10.0.0.1"]), leaves], at(9));
    assert_eq!(has(&a, "joins"), ["10.0.0.1"], "what the other leaves is not free yet");
    write_all(&mut a, 10);
    assert_eq!(
        (has(&a, "joins"), has(&a, "leaves")),
        (vec!["10.0.0.1".into(), "fc00::1".into()], vec!["10.0.0.1".to_owned()])
    );
}

#[test]
fn a_service_that_moves_before_its_grace_ends_is_joined_where_it_moves() {
    let quota = ("q", json!({"pool": "a", "quotas": [{"maxAddresses": 1}]}));
    let mut allocator = Allocator::new();
    allocator
        .set_configuration(configuration_with(&[("a", addresses(&["10.0.0.1-10.0.0.3"]))], &[quota]), at(0));
    let asking = request(
        1,
        &json!({"allow-shared-ip": "key", "loadBalancerIPs": "10.0.0.1"}),
        &json!({"ports": [{"port": 80}]}),
    );
    let adoptee = |name, request, current: &[&str]| Adoptee {
        service: key(name),
        request,
        current: ips(current),
        pool: None,
        waiting_since: None,
    };
    allocator.adopt(
        vec![adoptee("moves", asking, &["192.168.1.5"]), adoptee("joins", shares(2, "key", 81), &[])],
        at(1),
    );
    assert_eq!(has(&allocator, "moves"), ["10.0.0.1"]);
    assert_eq!(has(&allocator, "joins"), ["10.0.0.1"]);
}
