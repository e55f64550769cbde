//! Dual-stack Services.

use super::*;

#[test]
fn dual_stack_services_get_both_families_or_what_their_policy_allows() {
    let v4 = ("a-v4", addresses(&["10.0.0.0/24"]));
    let both = ("b-both", addresses(&["10.1.0.0/24", "fc00::/120"]));
    let mut a = allocator(&[v4.clone(), both]);
    assert_eq!(assign_and_write(&mut a, "prefer", dual(1, "PreferDualStack"), 1), ["10.1.0.0", "fc00::"]);
    assert_eq!(assign_and_write(&mut a, "require", dual(2, "RequireDualStack"), 1), ["10.1.0.1", "fc00::1"]);
    let mut a = allocator(&[v4]);
    assert_eq!(assign_and_write(&mut a, "prefer", dual(1, "PreferDualStack"), 1), ["10.0.0.0"]);
    assert_eq!(
        refusal(&a, "prefer"),
        "the IPv6 address is missing, since pool a-v4 cannot give one: it has no IPv6 addresses"
    );
    assert_eq!(assign_and_write(&mut a, "require", dual(2, "RequireDualStack"), 1), Vec::<String>::new());
}

#[test]
fn the_second_family_is_added_from_the_same_pool_when_it_becomes_free() {
    let mut a = allocator(&[("p", addresses(&["10.0.0.0/24", "fc00::/128"]))]);
    assign_and_write(&mut a, "first", dual(1, "PreferDualStack"), 1);
    assert_eq!(assign_and_write(&mut a, "second", dual(2, "PreferDualStack"), 1), ["10.0.0.1"]);
    a.remove(&key("first"), at(2));
    assert_eq!(assigned(&a, "second"), ["10.0.0.1", "fc00::"]);
}

#[test]
fn a_service_that_becomes_single_stack_releases_the_other_family() {
    let mut a = allocator(&[("p", addresses(&["10.0.0.0/24", "fc00::/120"]))]);
    assign_and_write(&mut a, "a", dual(1, "PreferDualStack"), 1);
    assert_eq!(assign_and_write(&mut a, "a", any(1), 2), ["10.0.0.0"]);
    assert_eq!(a.usage("p", Family::V6).unwrap().in_use, 0);
}

#[test]
fn addresses_keep_the_order_of_the_request() {
    let mut a = allocator(&[("p", addresses(&["10.0.0.0/24", "fc00::/120"]))]);
    let annotations = json!({"loadBalancerIPs": "fc00::7,10.0.0.7"});
    let asks = request(1, &annotations, &json!({"clusterIPs": ["10.96.0.1", "fd00::1"]}));
    assert_eq!(assign_and_write(&mut a, "a", asks.clone(), 1), ["fc00::7", "10.0.0.7"]);
    assert_eq!(assign_and_write(&mut a, "a", asks, 2), ["fc00::7", "10.0.0.7"]);
}

#[test]
fn a_service_with_one_family_does_not_overtake_one_that_waits_longer_for_the_other() {
    let (half, waits) =
        (dual(1, "PreferDualStack"), request(2, &json!({}), &json!({"clusterIPs": ["fd00::1"]})));
    let both = [("p", addresses(&["10.0.0.0/24", "fc00::/128"]))];
    let since = |second, existing| ExistingService { waiting_since: Some(at(second)), ..existing };
    let mut restored = allocator(&both);
    restored.restore(
        vec![
            since(5, existing("half", half.clone(), &["10.0.0.0"])),
            since(3, existing("waits", waits.clone(), &[])),
        ],
        at(6),
    );
    let mut configured = allocator(&[("p", addresses(&["10.0.0.0/24"]))]);
    assign_and_write(&mut configured, "waits", waits, 3);
    assign_and_write(&mut configured, "half", half, 5);
    configured.set_configuration(configuration(&both), at(6));
    for a in [restored, configured] {
        assert_eq!(
            (assigned(&a, "waits"), assigned(&a, "half")),
            (vec!["fc00::".to_owned()], vec!["10.0.0.0".to_owned()])
        );
    }
}
