//! Services of both families.

use super::*;

#[test]
fn dual_stack_services_get_both_or_what_their_policy_allows() {
    let v4 = ("a-v4", addresses(&["10.0.0.0/24"]));
    let both = ("b-both", addresses(&["10.1.0.0/24", "fc00::/120"]));
    let mut a = allocator(&[v4.clone(), both]);
    assert_eq!(settle(&mut a, "prefer", dual(1, "PreferDualStack"), 1), ["10.1.0.0", "fc00::"]);
    assert_eq!(settle(&mut a, "require", dual(2, "RequireDualStack"), 1), ["10.1.0.1", "fc00::1"]);
    let mut a = allocator(&[v4]);
    assert_eq!(settle(&mut a, "prefer", dual(1, "PreferDualStack"), 1), ["10.0.0.0"]);
    assert_eq!(
        why(&a, "prefer"),
        "the IPv6 address is missing, since pool a-v4 cannot give one: it has no IPv6 addresses"
    );
    assert_eq!(settle(&mut a, "require", dual(2, "RequireDualStack"), 1), Vec::<String>::new());
}

#[test]
fn the_second_family_is_added_from_the_same_pool_when_it_can_be_had() {
    let mut a = allocator(&[("p", addresses(&["10.0.0.0/24", "fc00::/128"]))]);
    settle(&mut a, "first", dual(1, "PreferDualStack"), 1);
    assert_eq!(settle(&mut a, "second", dual(2, "PreferDualStack"), 1), ["10.0.0.1"]);
    a.forget(&key("first"), at(2));
    assert_eq!(has(&a, "second"), ["10.0.0.1", "fc00::"]);
}

#[test]
fn a_service_that_becomes_single_stack_gives_the_other_family_back() {
    let mut a = allocator(&[("p", addresses(&["10.0.0.0/24", "fc00::/120"]))]);
    settle(&mut a, "a", dual(1, "PreferDualStack"), 1);
    assert_eq!(settle(&mut a, "a", plain(1), 2), ["10.0.0.0"]);
    assert_eq!(a.usage("p", Family::V6).unwrap().in_use, 0);
}

#[test]
fn the_users_order_of_addresses_stays() {
    let mut a = allocator(&[("p", addresses(&["10.0.0.0/24", "fc00::/120"]))]);
    let wish = json!({"loadBalancerIPs": "fc00::7,10.0.0.7"});
    let asks = request(1, &wish, &json!({"clusterIPs": ["10.96.0.1", "fd00::1"]}));
    assert_eq!(settle(&mut a, "a", asks.clone(), 1), ["fc00::7", "10.0.0.7"]);
    assert_eq!(settle(&mut a, "a", asks, 2), ["fc00::7", "10.0.0.7"]);
}

#[test]
fn requirement_9_who_has_one_family_passes_nobody_that_waits_longer_for_the_other() {
    let (half, waits) =
        (dual(1, "PreferDualStack"), request(2, &json!({}), &json!({"clusterIPs": ["fd00::1"]})));
    let both = [("p", addresses(&["10.0.0.0/24", "fc00::/128"]))];
    let adoptee = |name: &str, request: &Request, current: &[&str], since: i64| Adoptee {
        service: key(name),
        request: request.clone(),
        current: ips(current),
        pool: None,
        waiting_since: Some(at(since)),
    };
    let mut adopted = allocator(&both);
    adopted.adopt(vec![adoptee("half", &half, &["10.0.0.0"], 5), adoptee("waits", &waits, &[], 3)], at(6));
    let mut configured = allocator(&[("p", addresses(&["10.0.0.0/24"]))]);
    settle(&mut configured, "waits", waits, 3);
    settle(&mut configured, "half", half, 5);
    configured.set_configuration(configuration(&both), at(6));
    for a in [adopted, configured] {
        assert_eq!(
            (has(&a, "waits"), has(&a, "half")),
            (vec!["fc00::".to_owned()], vec!["10.0.0.0".to_owned()])
        );
    }
}
