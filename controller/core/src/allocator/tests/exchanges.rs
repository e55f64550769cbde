//! Services that ask for each other's places.

use super::*;

#[test]
fn two_services_that_ask_for_each_others_address_exchange_them() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
    settle(&mut a, "old", plain(1), 1);
    settle(&mut a, "young", plain(2), 1);
    settle(&mut a, "stranger", plain(3), 1);
    settle(&mut a, "old", asks(1, "10.0.0.2"), 2);
    a.assign(&key("young"), asks(2, "10.0.0.1"), &ips(&["10.0.0.2"]), at(3));
    assert_eq!(has(&a, "young"), Vec::<String>::new(), "the younger is cleared first");
    assert_eq!(has(&a, "old"), ["10.0.0.1"], "and the elder moves only then");
    write_all(&mut a, 4);
    assert_eq!(has(&a, "old"), ["10.0.0.2"]);
    assert_eq!(has(&a, "young"), ["10.0.0.1"]);
    assert_eq!(has(&a, "stranger"), Vec::<String>::new());
}

#[test]
fn three_services_in_a_ring_exchange_their_addresses() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.3"]))]);
    for (name, second) in [("a", 1), ("b", 2), ("c", 3)] {
        settle(&mut a, name, plain(second), 1);
    }
    settle(&mut a, "a", asks(1, "10.0.0.2"), 2);
    settle(&mut a, "b", asks(2, "10.0.0.3"), 2);
    settle(&mut a, "c", asks(3, "10.0.0.1"), 2);
    write_all(&mut a, 3);
    assert_eq!([has(&a, "a"), has(&a, "b"), has(&a, "c")], [["10.0.0.2"], ["10.0.0.3"], ["10.0.0.1"]]);
}

#[test]
fn services_in_full_pools_that_ask_for_each_others_pool_exchange_their_places() {
    let pools = || [("left", addresses(&["10.0.0.1-10.0.0.2"])), ("right", addresses(&["10.0.1.1/32"]))];
    let mut a = allocator(&pools());
    settle(&mut a, "stays", from(1, "left"), 1);
    settle(&mut a, "old", from(2, "left"), 1);
    settle(&mut a, "young", from(3, "right"), 1);
    settle(&mut a, "queues", from(4, "right"), 1);
    settle(&mut a, "old", from(2, "right"), 2);
    assert_eq!(has(&a, "old"), ["10.0.0.2"], "it keeps what it has while it waits");
    settle(&mut a, "young", from(3, "left"), 3);
    write_all(&mut a, 4);
    assert_eq!(has(&a, "old"), ["10.0.1.1"]);
    assert_eq!(has(&a, "young"), ["10.0.0.2"]);
    assert_eq!(has(&a, "stays"), ["10.0.0.1"], "who asked for nothing else is left alone");
    assert_eq!(has(&a, "queues"), Vec::<String>::new(), "and who waits outside gains and loses nothing");
}

#[test]
fn a_request_for_a_pool_and_one_for_an_address_meet_in_an_exchange() {
    let mut a = allocator(&[("left", addresses(&["10.0.0.1/32"])), ("right", addresses(&["10.0.1.1/32"]))]);
    settle(&mut a, "old", from(1, "left"), 1);
    settle(&mut a, "young", from(2, "right"), 1);
    settle(&mut a, "old", asks(1, "10.0.1.1"), 2);
    settle(&mut a, "young", from(2, "left"), 3);
    write_all(&mut a, 4);
    assert_eq!((has(&a, "old"), has(&a, "young")), (vec!["10.0.1.1".into()], vec!["10.0.0.1".into()]));
}

#[test]
fn no_exchange_begins_that_a_quota_would_stop_half_way() {
    let pools = [("left", addresses(&["10.0.0.1/32"])), ("right", addresses(&["10.0.1.1/32"]))];
    let mut a = allocator(&pools);
    settle(&mut a, "old", from(1, "left"), 1);
    settle(&mut a, "young", from(2, "right"), 1);
    let quota = json!({"pool": "right", "quotas": [{ "maxAddresses": 0 }]});
    a.set_configuration(configuration_with(&pools, &[("quota", quota)]), at(2));
    settle(&mut a, "old", from(1, "right"), 3);
    settle(&mut a, "young", from(2, "left"), 3);
    write_all(&mut a, 4);
    assert_eq!((has(&a, "old"), has(&a, "young")), (vec!["10.0.0.1".into()], vec!["10.0.1.1".into()]));
}

/// A ring of two in which each address is given up before it is taken: a sharer of a third key does not come between.
#[test]
fn nobody_joins_on_an_address_that_is_pledged_to_another() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.2"]))]);
    let moves = |second, key: &str, ip: &str| {
        request(second, &json!({"allow-shared-ip": key, "loadBalancerIPs": ip}), &json!({}))
    };
    settle(&mut a, "old", shares(1, "k", 80), 1);
    settle(&mut a, "young", shares(2, "l", 80), 1);
    settle(&mut a, "old", moves(1, "k", "10.0.0.2"), 2);
    a.assign(&key("young"), moves(2, "l", "10.0.0.1"), &ips(&["10.0.0.2"]), at(3));
    for (name, wish) in [("k", shares(3, "k", 81)), ("l", shares(4, "l", 81))] {
        a.assign(&key(name), wish, &[], at(4));
        assert_eq!(has(&a, name), Vec::<String>::new());
    }
    write_all(&mut a, 5);
    assert_eq!([has(&a, "old"), has(&a, "young")], [["10.0.0.2"], ["10.0.0.1"]]);
    assert_eq!([has(&a, "k"), has(&a, "l")], [["10.0.0.2"], ["10.0.0.1"]], "it is shared with who stays");
}

/// That somebody may join one of the two where it is frees nothing for the other: the exchange would be given up before
/// it has begun, begin again, and never come to an end.
#[test]
fn a_service_that_shares_exchanges_one_of_its_addresses_with_another_that_is_restored_with_it() {
    let restored = |name: &str, second, ip: &str, pair: Option<&str>, current: &[&str]| {
        let mut annotations = json!({"loadBalancerIPs": ip});
        if let Some(pair) = pair {
            annotations["allow-shared-ip"] = json!(pair);
        }
        let cluster = if ip.contains(',') { vec!["10.96.0.1", "fd00::1"] } else { vec!["10.96.0.1"] };
        let policy = if ip.contains(',') { "PreferDualStack" } else { "SingleStack" };
        Adoptee {
            service: key(name),
            request: request(second, &annotations, &json!({"clusterIPs": cluster, "ipFamilyPolicy": policy})),
            current: ips(current),
            pool: None,
            waiting_since: None,
        }
    };
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.3", "fc00::1-fc00::2"]))]);
    let shares = restored("shares", 1, "10.0.0.2,fc00::1", Some("k"), &["10.0.0.2"]);
    let other = restored("other", 2, "10.0.0.2", None, &["10.0.0.1", "fc00::1"]);
    a.adopt(vec![shares, other], at(9));
    write_all(&mut a, 10);
    assert_eq!(has(&a, "shares"), ["10.0.0.2", "fc00::1"]);
}

/// What the histories of the model rely on: their input is printed when one fails, not when it hangs.
#[test]
#[should_panic(expected = "a loop without end")]
fn decisions_without_end_fail_instead_of_hanging() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1/32"]))]);
    settle(&mut a, "web", plain(1), 1);
    let web = a.services.keys().next().cloned().unwrap();
    loop {
        a.resolve(&web, at(2));
    }
}
