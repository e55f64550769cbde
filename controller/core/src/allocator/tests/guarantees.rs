//! Guarantees to users, one per test.

use super::*;

fn with_quota(max: u32) -> Arc<Configuration> {
    let quota = json!({"pool": "lan", "quotas": [{"maxAddresses": max}]});
    configuration_with(&[("lan", addresses(&["10.0.0.1-10.0.0.9"]))], &[("q", quota)])
}

#[test]
fn a_service_keeps_its_requested_address_without_refusal_after_a_quota_was_lowered() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.9"]))]);
    assert_eq!(assign_and_write(&mut a, "a", with_ip(1, "10.0.0.1"), 1), ["10.0.0.1"]);
    assert_eq!(assign_and_write(&mut a, "b", in_pool(2, "lan"), 2), ["10.0.0.2"]);
    assert_eq!(assign_and_write(&mut a, "c", any(3), 3), ["10.0.0.3"]);
    a.set_configuration(with_quota(1), at(4));
    for name in ["a", "b", "c"] {
        let assignment = a.assignment(&key(name)).unwrap();
        assert_eq!(assignment.addresses.len(), 1, "{name} keeps its address");
        assert_eq!(assignment.refusal, None, "{name} has what it asks for");
    }
}

#[test]
fn after_a_restart_a_lowered_quota_refuses_no_current_address() {
    let mut a = Allocator::new();
    a.set_configuration(with_quota(0), at(0));
    let restored = existing("a", with_ip(1, "10.0.0.1"), &["10.0.0.1"]);
    a.restore(vec![ExistingService { pool: Some("lan".into()), ..restored }], at(1));
    assert_eq!(a.assignment(&key("a")).unwrap().refusal, None);
}

#[test]
fn the_longest_waiting_service_gets_the_address_of_one_that_leaves_and_begins_to_share_in_one_update() {
    let v6 = json!({"clusterIPs": ["fd00::1"]});
    let shared = json!({"allow-shared-ip": "k"});
    let mut a = allocator(&[("a", addresses(&["10.0.0.1-10.0.0.3", "fc00::2/128"]))]);
    a.assign(&key("holder"), request(6, &json!({}), &v6), &[], at(0));
    a.assign(&key("older"), request(0, &json!({}), &v6), &[], at(1));
    let of_younger = json!({"clusterIPs": ["fd00::1"], "ports": [{"port": 82}]});
    a.assign(&key("younger"), request(4, &shared, &of_younger), &[], at(2));
    assert_eq!((assigned(&a, "older"), assigned(&a, "younger")), (vec![], vec![]));
    a.assign(&key("holder"), request(6, &shared, &json!({})), &[], at(3));
    write_all(&mut a, 3);
    assert_eq!((assigned(&a, "older"), assigned(&a, "younger")), (vec!["fc00::2".to_owned()], vec![]));
}

#[test]
fn the_cache_of_queries_for_shared_addresses_is_bounded() {
    let mut a = allocator(&[("lan", addresses(&["10.0.0.0-10.0.0.249"]))]);
    for n in 0..250 {
        // All with port 80, so each has an address of its own.
        assign_and_write(&mut a, &format!("s{n}"), sharing(n, "k", 80), n);
    }
    for port in 0..2_000 {
        let ports = json!({"ports": [{"port": 80}, {"port": 1_000 + port}]});
        assign_and_write(&mut a, "edited", request(900, &json!({"allow-shared-ip": "k"}), &ports), 1_000);
    }
    assert!(a.pools["lan"].cached_queries() <= 128, "{} queries", a.pools["lan"].cached_queries());
}

#[test]
fn a_refusal_names_the_difference_that_prevents_sharing() {
    let sharer = |second: i64, key: Option<&str>, policy: &str, app: &str, port: u16| {
        let mut annotations = json!({"loadBalancerIPs": "10.0.0.1"});
        if let Some(key) = key {
            annotations["allow-shared-ip"] = json!(key);
        }
        let spec =
            json!({"externalTrafficPolicy": policy, "selector": {"app": app}, "ports": [{"port": port}]});
        request(second, &annotations, &spec)
    };
    let refusal = |holder: Request, asker: Request| {
        let mut a = allocator(&[("lan", addresses(&["10.0.0.1/32"]))]);
        assign_and_write(&mut a, "tls", holder, 1);
        assign_and_write(&mut a, "plain", asker, 2);
        refusal(&a, "plain")
    };
    let holder = || sharer(1, Some("web"), "Cluster", "web", 443);
    let local = |app| sharer(1, Some("web"), "Local", app, 443);
    for (holder, asker, said) in [
        (
            holder(),
            sharer(2, Some("web"), "Local", "web", 80),
            vec!["externalTrafficPolicy Cluster", "this one Local"],
        ),
        (
            local("web"),
            sharer(2, Some("web"), "Cluster", "web", 80),
            vec!["externalTrafficPolicy Local", "this one Cluster"],
        ),
        (
            local("web"),
            sharer(2, Some("web"), "Local", "api", 80),
            vec!["pod selector", "app=web", "app=api"],
        ),
        (
            holder(),
            sharer(2, Some("other"), "Cluster", "web", 80),
            vec!["allow-shared-ip", "\"web\"", "\"other\""],
        ),
        (
            holder(),
            sharer(2, None, "Cluster", "web", 80),
            vec!["allow-shared-ip", "this Service does not have"],
        ),
        (
            sharer(1, None, "Cluster", "web", 443),
            sharer(2, Some("web"), "Cluster", "web", 80),
            vec!["that Service does not have"],
        ),
        (holder(), sharer(2, Some("web"), "Cluster", "web", 443), vec!["TCP port 443"]),
    ] {
        let text = refusal(holder, asker);
        assert!(text.contains("shop/tls"), "{text}");
        assert!(said.iter().all(|part| text.contains(part)), "{text} lacks one of {said:?}");
    }
}

#[test]
fn a_message_is_short_however_long_the_annotations_are() {
    let long = "x".repeat(40_000);
    let mut a = allocator(&[("lan", addresses(&["10.0.0.1-10.0.0.9"]))]);
    assign_and_write(
        &mut a,
        "holder",
        request(1, &json!({"loadBalancerIPs": "10.0.0.1", "allow-shared-ip": "k"}), &json!({})),
        1,
    );
    for annotations in [
        json!({ "address-pool": long }),
        json!({ "loadBalancerIPs": long }),
        json!({"loadBalancerIPs": "10.0.0.2", "address-pool": long}),
        json!({"loadBalancerIPs": "10.0.0.1", "allow-shared-ip": long}),
    ] {
        assign_and_write(&mut a, "asker", request(2, &annotations, &json!({})), 2);
        let text = refusal(&a, "asker");
        assert!(text.len() <= 1_024, "{} bytes", text.len());
    }
}

#[test]
fn a_nodes_own_address_is_assigned_to_no_service() {
    let pools = [("lan", addresses(&["10.0.0.1-10.0.0.3"]))];
    let mut a = Allocator::new();
    a.configure(configuration(&pools), nodes(&["10.0.0.1", "10.0.0.3"]), at(0));
    assert_eq!(assign_and_write(&mut a, "first", any(1), 1), ["10.0.0.2"]);
    assert!(assign_and_write(&mut a, "second", any(2), 2).is_empty());
    assert!(assign_and_write(&mut a, "asks", with_ip(3, "10.0.0.3"), 3).is_empty());
    assert!(refusal(&a, "asks").contains("node1"), "{}", refusal(&a, "asks"));
    assert!(
        assign_and_write(
            &mut a,
            "both",
            request(4, &json!({"loadBalancerIPs": "10.0.0.3", "address-pool": "lan"}), &json!({})),
            4
        )
        .is_empty()
    );
    // The node was deleted: its address can be assigned again.
    a.configure(configuration(&pools), nodes(&["10.0.0.1"]), at(5));
    write_all(&mut a, 5);
    assert_eq!(assigned(&a, "second"), ["10.0.0.3"]);
}

#[test]
fn a_service_keeps_an_address_that_becomes_a_nodes_own() {
    let pools = [("lan", addresses(&["10.0.0.1-10.0.0.3"]))];
    let mut a = allocator(&pools);
    assign_and_write(&mut a, "any", any(1), 1);
    assign_and_write(&mut a, "asks", with_ip(2, "10.0.0.2"), 2);
    a.configure(configuration(&pools), nodes(&["10.0.0.1", "10.0.0.2"]), at(3));
    for (name, ip) in [("any", "10.0.0.1"), ("asks", "10.0.0.2")] {
        let assignment = a.assignment(&key(name)).unwrap();
        assert_eq!((texts(assignment), assignment.refusal), (vec![ip.to_owned()], None));
    }
}

fn dual_in(first: &str, second: &str, policy: &str, annotations: &Value) -> Request {
    let cluster = |family: &str| if family == "IPv4" { "10.96.0.1" } else { "fd00::1" };
    let spec = json!({"clusterIPs": [cluster(first), cluster(second)], "ipFamilies": [first, second],
        "ipFamilyPolicy": policy});
    request(1, annotations, &spec)
}

/// The addresses of a Service after pool `a` was reduced to `left`, while pool `b` has both families.
fn addresses_after_a_range_is_removed(request: Request, left: &str) -> Vec<String> {
    let both = ["10.0.0.1-10.0.0.3", "fc00::1-fc00::3"];
    let other = ("b", addresses(&["10.0.1.1-10.0.1.3", "fc01::1-fc01::3"]));
    let mut a = allocator(&[("a", addresses(&both)), other.clone()]);
    assert_eq!(assign_and_write(&mut a, "web", request, 1), ["10.0.0.1", "fc00::1"]);
    a.set_configuration(configuration(&[("a", addresses(&[left])), other]), at(2));
    write_all(&mut a, 2);
    assert_eq!(assigned(&a, "web"), ["10.0.0.1", "fc00::1"], "both are kept for the grace period");
    a.handle_timeout(at(7));
    write_all(&mut a, 7);
    assigned(&a, "web")
}

#[test]
fn prefer_dual_stack_moves_to_a_pool_with_both_families_when_its_primary_family_is_lost() {
    let none = json!({});
    let prefers = |first, second| dual_in(first, second, "PreferDualStack", &none);
    assert_eq!(
        addresses_after_a_range_is_removed(prefers("IPv4", "IPv6"), "fc00::1-fc00::3"),
        ["10.0.1.1", "fc01::1"]
    );
    assert_eq!(
        addresses_after_a_range_is_removed(prefers("IPv6", "IPv4"), "10.0.0.1-10.0.0.3"),
        ["10.0.1.1", "fc01::1"]
    );
}

#[test]
fn prefer_dual_stack_stays_when_its_second_family_is_lost_or_its_pool_was_requested() {
    let none = json!({});
    let prefers = |first, second| dual_in(first, second, "PreferDualStack", &none);
    assert_eq!(
        addresses_after_a_range_is_removed(prefers("IPv4", "IPv6"), "10.0.0.1-10.0.0.3"),
        ["10.0.0.1"]
    );
    assert_eq!(addresses_after_a_range_is_removed(prefers("IPv6", "IPv4"), "fc00::1-fc00::3"), ["fc00::1"]);
    let asks = dual_in("IPv4", "IPv6", "PreferDualStack", &json!({"address-pool": "a"}));
    assert_eq!(addresses_after_a_range_is_removed(asks, "fc00::1-fc00::3"), ["fc00::1"]);
}

#[test]
fn prefer_dual_stack_keeps_one_family_while_no_pool_has_both_families_free() {
    let mut a =
        allocator(&[("a", addresses(&["10.0.0.1/32", "fc00::1/128"])), ("b", addresses(&["10.0.1.1/32"]))]);
    assign_and_write(&mut a, "web", dual_in("IPv4", "IPv6", "PreferDualStack", &json!({})), 1);
    a.set_configuration(
        configuration(&[("a", addresses(&["fc00::1/128"])), ("b", addresses(&["10.0.1.1/32"]))]),
        at(2),
    );
    a.handle_timeout(at(7));
    write_all(&mut a, 7);
    assert_eq!(assigned(&a, "web"), ["fc00::1"]);
}

/// The pool `lan` after an edit that has an error in one of its entries.
fn after_an_invalid_edit() -> (Allocator, rules::LastValid) {
    let mut last_valid = rules::LastValid::default();
    let mut a = Allocator::new();
    let valid = objects(&["shop"], &[("lan", addresses(&["10.0.0.1-10.0.0.9", "10.0.1.1-10.0.1.9"]))], &[]);
    a.set_configuration(Arc::new(last_valid.configure(&valid).0), at(0));
    assert_eq!(assign_and_write(&mut a, "first", any(1), 1), ["10.0.0.1"]);
    assert_eq!(assign_and_write(&mut a, "asks", with_ip(2, "10.0.1.1"), 2), ["10.0.1.1"]);
    let invalid = objects(&["shop"], &[("lan", addresses(&["10.0.0.1-10.0.0.9", "10.0.1.1-10.0.1"]))], &[]);
    a.set_configuration(Arc::new(last_valid.configure(&invalid).0), at(3));
    (a, last_valid)
}

#[test]
fn an_invalid_edit_of_a_pool_withdraws_and_assigns_no_address() {
    let (mut a, _) = after_an_invalid_edit();
    a.handle_timeout(at(100));
    assert_eq!(
        (assigned(&a, "first"), assigned(&a, "asks")),
        (vec!["10.0.0.1".to_owned()], vec!["10.0.1.1".to_owned()])
    );
    assert_eq!((refusal(&a, "first"), refusal(&a, "asks")), (String::new(), String::new()));
    for (name, request) in [("new", any(4)), ("named", in_pool(5, "lan")), ("wants", with_ip(6, "10.0.0.7"))]
    {
        assert!(assign_and_write(&mut a, name, request, 101).is_empty());
        assert!(refusal(&a, name).contains("has an error"), "{}", refusal(&a, name));
    }
}

#[test]
fn after_a_restart_an_invalid_pool_still_withdraws_no_address() {
    let (a, _) = after_an_invalid_edit();
    let mut restarted = Allocator::new();
    let invalid = objects(&["shop"], &[("lan", addresses(&["10.0.0.1-10.0.0.9", "10.0.1.1-10.0.1"]))], &[]);
    restarted.set_configuration(Arc::new(Configuration::from_objects(&invalid).0), at(200));
    let restore = |name: &str, request: Request| ExistingService {
        current: a.assignment(&key(name)).unwrap().addresses.to_vec(),
        pool: Some("lan".into()),
        ..existing(name, request, &[])
    };
    restarted.restore(vec![restore("first", any(1)), restore("asks", with_ip(2, "10.0.1.1"))], at(200));
    restarted.handle_timeout(at(300));
    assert_eq!(assigned(&restarted, "first"), ["10.0.0.1"]);
    assert_eq!(assigned(&restarted, "asks"), ["10.0.1.1"]);
}
