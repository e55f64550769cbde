//! Services that ask for each other's addresses.

use super::*;

#[test]
fn two_services_that_ask_for_each_others_address_exchange_them() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
    assign_and_write(&mut a, "old", any(1), 1);
    assign_and_write(&mut a, "young", any(2), 1);
    assign_and_write(&mut a, "outside", any(3), 1);
    assign_and_write(&mut a, "old", with_ip(1, "10.0.0.2"), 2);
    a.assign(&key("young"), with_ip(2, "10.0.0.1"), &ips(&["10.0.0.2"]), at(3));
    assert_eq!(assigned(&a, "young"), Vec::<String>::new(), "the younger Service gives up its address first");
    assert_eq!(assigned(&a, "old"), ["10.0.0.1"], "the older moves only then");
    write_all(&mut a, 4);
    assert_eq!(assigned(&a, "old"), ["10.0.0.2"]);
    assert_eq!(assigned(&a, "young"), ["10.0.0.1"]);
    assert_eq!(assigned(&a, "outside"), Vec::<String>::new());
}

#[test]
fn three_services_in_a_cycle_exchange_their_addresses() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.3"]))]);
    for (name, second) in [("a", 1), ("b", 2), ("c", 3)] {
        assign_and_write(&mut a, name, any(second), 1);
    }
    assign_and_write(&mut a, "a", with_ip(1, "10.0.0.2"), 2);
    assign_and_write(&mut a, "b", with_ip(2, "10.0.0.3"), 2);
    assign_and_write(&mut a, "c", with_ip(3, "10.0.0.1"), 2);
    write_all(&mut a, 3);
    assert_eq!(
        [assigned(&a, "a"), assigned(&a, "b"), assigned(&a, "c")],
        [["10.0.0.2"], ["10.0.0.3"], ["10.0.0.1"]]
    );
}

#[test]
fn services_in_full_pools_that_ask_for_each_others_pool_exchange_addresses() {
    let pools = || [("left", addresses(&["10.0.0.1-10.0.0.2"])), ("right", addresses(&["10.0.1.1/32"]))];
    let mut a = allocator(&pools());
    assign_and_write(&mut a, "stays", in_pool(1, "left"), 1);
    assign_and_write(&mut a, "old", in_pool(2, "left"), 1);
    assign_and_write(&mut a, "young", in_pool(3, "right"), 1);
    assign_and_write(&mut a, "queues", in_pool(4, "right"), 1);
    assign_and_write(&mut a, "old", in_pool(2, "right"), 2);
    assert_eq!(assigned(&a, "old"), ["10.0.0.2"], "it keeps what it has while it waits");
    assign_and_write(&mut a, "young", in_pool(3, "left"), 3);
    write_all(&mut a, 4);
    assert_eq!(assigned(&a, "old"), ["10.0.1.1"]);
    assert_eq!(assigned(&a, "young"), ["10.0.0.2"]);
    assert_eq!(assigned(&a, "stays"), ["10.0.0.1"], "a Service without a new request is not affected");
    assert_eq!(assigned(&a, "queues"), Vec::<String>::new(), "nor is a waiting Service outside of the cycle");
}

#[test]
fn a_request_for_a_pool_and_one_for_an_address_form_a_cycle() {
    let mut a = allocator(&[("left", addresses(&["10.0.0.1/32"])), ("right", addresses(&["10.0.1.1/32"]))]);
    assign_and_write(&mut a, "old", in_pool(1, "left"), 1);
    assign_and_write(&mut a, "young", in_pool(2, "right"), 1);
    assign_and_write(&mut a, "old", with_ip(1, "10.0.1.1"), 2);
    assign_and_write(&mut a, "young", in_pool(2, "left"), 3);
    write_all(&mut a, 4);
    assert_eq!(
        (assigned(&a, "old"), assigned(&a, "young")),
        (vec!["10.0.1.1".into()], vec!["10.0.0.1".into()])
    );
}

#[test]
fn no_exchange_begins_that_a_quota_would_stop() {
    let pools = [("left", addresses(&["10.0.0.1/32"])), ("right", addresses(&["10.0.1.1/32"]))];
    let mut a = allocator(&pools);
    assign_and_write(&mut a, "old", in_pool(1, "left"), 1);
    assign_and_write(&mut a, "young", in_pool(2, "right"), 1);
    let quota = json!({"pool": "right", "quotas": [{ "maxAddresses": 0 }]});
    a.set_configuration(configuration_with(&pools, &[("quota", quota)]), at(2));
    assign_and_write(&mut a, "old", in_pool(1, "right"), 3);
    assign_and_write(&mut a, "young", in_pool(2, "left"), 3);
    write_all(&mut a, 4);
    assert_eq!(
        (assigned(&a, "old"), assigned(&a, "young")),
        (vec!["10.0.0.1".into()], vec!["10.0.1.1".into()])
    );
}

/// In a cycle of two, each address is given up before it is assigned. A third Service with the same sharing
/// key does not get it in between.
#[test]
fn no_service_joins_on_an_address_that_is_being_handed_over() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
    let moves = |second, key: &str, ip: &str| {
        request(second, &json!({"allow-shared-ip": key, "loadBalancerIPs": ip}), &json!({}))
    };
    assign_and_write(&mut a, "old", sharing(1, "k", 80), 1);
    assign_and_write(&mut a, "young", sharing(2, "l", 80), 1);
    assign_and_write(&mut a, "old", moves(1, "k", "10.0.0.2"), 2);
    a.assign(&key("young"), moves(2, "l", "10.0.0.1"), &ips(&["10.0.0.2"]), at(3));
    for (name, request) in [("k", sharing(3, "k", 81)), ("l", sharing(4, "l", 81))] {
        a.assign(&key(name), request, &[], at(4));
        assert_eq!(assigned(&a, name), Vec::<String>::new());
    }
    write_all(&mut a, 5);
    assert_eq!([assigned(&a, "old"), assigned(&a, "young")], [["10.0.0.2"], ["10.0.0.1"]]);
    assert_eq!(
        [assigned(&a, "k"), assigned(&a, "l")],
        [["10.0.0.2"], ["10.0.0.1"]],
        "they share with the Services that stay"
    );
}

/// An address that becomes joinable is not free for the other Service of the cycle. Otherwise the exchange
/// would be cancelled and started again for ever.
#[test]
fn a_sharing_service_exchanges_one_of_its_addresses_with_another_restored_service() {
    let restored = |name: &str, second, ip: &str, sharing_key: Option<&str>, current: &[&str]| {
        let mut annotations = json!({"loadBalancerIPs": ip});
        if let Some(key) = sharing_key {
            annotations["allow-shared-ip"] = json!(key);
        }
        let cluster = if ip.contains(',') { vec!["10.96.0.1", "fd00::1"] } else { vec!["10.96.0.1"] };
        let policy = if ip.contains(',') { "PreferDualStack" } else { "SingleStack" };
        let spec = json!({"clusterIPs": cluster, "ipFamilyPolicy": policy});
        existing(name, request(second, &annotations, &spec), current)
    };
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.3", "fc00::1-fc00::2"]))]);
    let shares = restored("shares", 1, "10.0.0.2,fc00::1", Some("k"), &["10.0.0.2"]);
    let other = restored("other", 2, "10.0.0.2", None, &["10.0.0.1", "fc00::1"]);
    a.restore(vec![shares, other], at(9));
    write_all(&mut a, 10);
    assert_eq!(assigned(&a, "shares"), ["10.0.0.2", "fc00::1"]);
}

/// The model relies on this: proptest prints the input of a test that fails, but not of one that hangs.
#[test]
#[should_panic(expected = "an endless loop")]
fn an_endless_loop_of_reconciliations_panics_instead_of_hanging() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1/32"]))]);
    assign_and_write(&mut a, "web", any(1), 1);
    let web = a.services.keys().next().cloned().unwrap();
    loop {
        a.reconcile(&web, at(2));
    }
}
