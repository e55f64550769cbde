//! Services that share an address.

use super::*;

#[test]
fn sharing_services_need_equal_keys_and_different_ports() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.9"]))]);
    assert_eq!(assign_and_write(&mut a, "a", sharing(1, "k", 80), 1), ["10.0.0.1"]);
    assert_eq!(assign_and_write(&mut a, "b", sharing(2, "k", 443), 1), ["10.0.0.1"]);
    assert_eq!(assign_and_write(&mut a, "c", sharing(3, "k", 80), 1), ["10.0.0.2"]);
    assert_eq!(assign_and_write(&mut a, "d", sharing(4, "other", 81), 1), ["10.0.0.3"]);
    assert_eq!(assign_and_write(&mut a, "e", any(5), 1), ["10.0.0.4"]);
    assert_eq!(a.usage("lan", Family::V4).unwrap().in_use, 4, "a shared address counts once");
}

#[test]
fn a_sharing_service_that_leaves_makes_room_for_one_that_waits() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1/32"]))]);
    assign_and_write(&mut a, "a", sharing(1, "k", 80), 1);
    assign_and_write(&mut a, "b", sharing(2, "k", 443), 1);
    assert_eq!(assign_and_write(&mut a, "c", sharing(3, "k", 80), 1), Vec::<String>::new());
    a.remove(&key("a"), at(2));
    assert_eq!(assigned(&a, "c"), ["10.0.0.1"]);
}

#[test]
fn a_service_whose_new_port_conflicts_must_move_and_a_sole_holder_may_change_its_key() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
    assign_and_write(&mut a, "a", sharing(1, "k", 80), 1);
    assign_and_write(&mut a, "b", sharing(2, "k", 443), 1);
    assert_eq!(
        assign_and_write(&mut a, "a", sharing(1, "k", 443), 2),
        ["10.0.0.2"],
        "although it is older, since it changed"
    );
    assert_eq!(assign_and_write(&mut a, "b", sharing(2, "l", 443), 3), ["10.0.0.1"]);
}

#[test]
fn many_holders_of_one_key_are_searched_by_port() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.40"]))]);
    for second in 0..40 {
        assign_and_write(&mut a, &format!("s{second}"), sharing(second, "k", 80), 1);
    }
    assert_eq!(assign_and_write(&mut a, "dns", sharing(50, "k", 53), 1), ["10.0.0.1"]);
    assert_eq!(assign_and_write(&mut a, "full", sharing(51, "k", 80), 1), Vec::<String>::new());
    a.remove(&key("s20"), at(2));
    assert_eq!(assigned(&a, "full"), ["10.0.0.21"]);
}

/// The Service `holder` has the only address of pool `here`, which `waiting` waits for. Pool `there` has
/// another.
fn holder_and_waiting(holder: Request) -> Allocator {
    let mut a = allocator(&[("here", addresses(&["10.0.0.1/32"])), ("there", addresses(&["10.1.0.1/32"]))]);
    assert_eq!(assign_and_write(&mut a, "holder", holder, 1), ["10.0.0.1"]);
    assert_eq!(assign_and_write(&mut a, "waiting", in_pool(2, "here"), 2), Vec::<String>::new());
    a
}

/// A request for any address of this pool, to be shared by the key `k`.
fn sharing_in(second: i64, pool: &str, port: u16) -> Request {
    let annotations = json!({"allow-shared-ip": "k", "address-pool": pool});
    request(second, &annotations, &json!({"ports": [{"port": port}]}))
}

#[test]
fn no_service_joins_on_an_address_that_its_holder_is_about_to_leave() {
    let by_address = request(
        3,
        &json!({"allow-shared-ip": "k", "loadBalancerIPs": "10.0.0.1"}),
        &json!({"ports": [{"port": 81}]}),
    );
    for (joins, says) in [(sharing_in(3, "here", 81), "here"), (by_address, "is about to give it up")] {
        let mut a = holder_and_waiting(sharing_in(1, "here", 80));
        a.assign(&key("holder"), sharing_in(1, "there", 80), &ips(&["10.0.0.1"]), at(3));
        assert_eq!(assigned(&a, "holder"), ["10.1.0.1"]);
        a.assign(&key("joins"), joins, &[], at(4));
        assert_eq!(assigned(&a, "joins"), Vec::<String>::new());
        assert!(refusal(&a, "joins").contains(says), "{}", refusal(&a, "joins"));
        a.observed(&key("holder"), &ips(&["10.1.0.1"]), at(5));
        assert_eq!(assigned(&a, "waiting"), ["10.0.0.1"], "it has waited longest");
        assert_eq!(assigned(&a, "joins"), Vec::<String>::new());
    }
}

#[test]
fn no_service_joins_one_that_begins_to_share_in_the_update_that_asks_for_another_pool() {
    let mut a = holder_and_waiting(in_pool(1, "here"));
    a.assign(&key("joins"), sharing_in(3, "here", 81), &[], at(3));
    a.assign(&key("holder"), sharing_in(1, "there", 80), &ips(&["10.0.0.1"]), at(4));
    write_all(&mut a, 5);
    assert_eq!(
        (assigned(&a, "holder"), assigned(&a, "waiting")),
        (vec!["10.1.0.1".into()], vec!["10.0.0.1".into()])
    );
    assert_eq!(assigned(&a, "joins"), Vec::<String>::new());
}

#[test]
fn a_service_that_waits_to_join_another_joins_it_as_soon_as_it_stays() {
    let mut a = holder_and_waiting(in_pool(1, "here"));
    assert_eq!(assign_and_write(&mut a, "joins", sharing_in(3, "here", 81), 3), Vec::<String>::new());
    assign_and_write(&mut a, "holder", sharing_in(1, "here", 80), 4);
    assert_eq!(assigned(&a, "joins"), ["10.0.0.1"], "it begins to share");
    a.assign(&key("holder"), sharing_in(1, "there", 80), &ips(&["10.0.0.1"]), at(5));
    assert_eq!(
        assign_and_write(&mut a, "third", sharing_in(4, "here", 82), 6),
        ["10.0.0.1"],
        "the second sharing Service stays"
    );
}

#[test]
fn no_service_joins_one_whose_address_is_in_its_grace_period() {
    let of = |pool: &str, namespace: &str| {
        let spec = json!({"addresses": ["10.0.0.1/32"], "serviceAllocation": {"namespaces": [namespace]}});
        configuration(&[(pool, spec)])
    };
    let mut a = Allocator::new();
    a.set_configuration(of("here", "shop"), at(0));
    assign_and_write(&mut a, "holder", sharing(1, "k", 80), 1);
    a.set_configuration(of("there", "bank"), at(2));
    let joins = ServiceKey::new("bank", "joins");
    assert_eq!(texts(a.assign(&joins, sharing(2, "k", 81), &[], at(3))), Vec::<String>::new());
    a.set_configuration(of("here", "shop"), at(4));
    assert_eq!(assign_and_write(&mut a, "other", sharing(3, "k", 82), 5), ["10.0.0.1"], "it stays after all");
}

#[test]
fn at_a_restart_no_service_joins_one_that_is_about_to_leave() {
    let mut a = allocator(&[("p", addresses(&["10.0.0.1/32", "fc00::1/128"]))]);
    let of_pool = |existing| ExistingService { pool: Some("p".into()), ..existing };
    let v6 = json!({"clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilyPolicy": "PreferDualStack"});
    let joins = request(2, &json!({"allow-shared-ip": "k"}), &v6);
    let leaves = of_pool(existing("leaves", sharing(3, "k", 81), &["fc00::1"]));
    a.restore(vec![of_pool(existing("joins", joins, &["10.0.0.1"])), leaves], at(9));
    assert_eq!(assigned(&a, "joins"), ["10.0.0.1"], "the address that the other leaves is not free yet");
    write_all(&mut a, 10);
    assert_eq!(
        (assigned(&a, "joins"), assigned(&a, "leaves")),
        (vec!["10.0.0.1".into(), "fc00::1".into()], vec!["10.0.0.1".to_owned()])
    );
}

#[test]
fn a_service_that_moves_before_its_grace_period_ends_is_joined_at_the_new_address() {
    let quota = ("q", json!({"pool": "a", "quotas": [{"maxAddresses": 1}]}));
    let mut allocator = Allocator::new();
    allocator
        .set_configuration(configuration_with(&[("a", addresses(&["10.0.0.1-10.0.0.3"]))], &[quota]), at(0));
    let asking = request(
        1,
        &json!({"allow-shared-ip": "key", "loadBalancerIPs": "10.0.0.1"}),
        &json!({"ports": [{"port": 80}]}),
    );
    allocator.restore(
        vec![existing("moves", asking, &["192.168.1.5"]), existing("joins", sharing(2, "key", 81), &[])],
        at(1),
    );
    assert_eq!(assigned(&allocator, "moves"), ["10.0.0.1"]);
    assert_eq!(assigned(&allocator, "joins"), ["10.0.0.1"]);
}
