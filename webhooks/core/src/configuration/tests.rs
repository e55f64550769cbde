#![expect(clippy::needless_pass_by_value, reason = "values are written inline")]

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::finding::Severity;

fn pool_json(name: &str, created: &str, spec: Value) -> Arc<crds::IPAddressPool> {
    let object = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
        "metadata": {"name": name, "namespace": "metallb-system", "creationTimestamp": created, "labels": {"pool": name}},
        "spec": spec,
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn pool(name: &str, created_minute: u8, addresses: &[&str]) -> Arc<crds::IPAddressPool> {
    pool_json(name, &format!("2024-01-01T00:{created_minute:02}:00Z"), json!({"addresses": addresses}))
}

fn advertisement(name: &str, spec: Value) -> Arc<crds::L2Advertisement> {
    let object = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
        "metadata": {"name": name, "namespace": "metallb-system"}, "spec": spec,
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn validate(objects: &Objects) -> (Configuration, Vec<Finding>) {
    Configuration::from_objects(objects)
}

fn names(configuration: &Configuration) -> Vec<&str> {
    configuration.pools.keys().map(String::as_str).collect()
}

#[test]
fn of_two_overlapping_pools_the_newer_is_rejected_and_all_others_are_used() {
    let objects = Objects {
        pools: vec![
            pool("newer", 2, &["10.0.0.128/25"]),
            pool("older", 1, &["10.0.0.0/24"]),
            pool("separate", 3, &["10.0.1.0/24"]),
        ],
        ..Objects::default()
    };
    let (configuration, findings) = validate(&objects);
    assert_eq!(names(&configuration), ["older", "separate"]);
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].object.name, "newer");
    assert_eq!(findings[0].related.as_ref().unwrap().name, "older");
    assert_eq!(configuration.pool_of("10.0.0.200".parse().unwrap()).unwrap().name, "older");
    assert!(configuration.pool_of("10.0.2.1".parse().unwrap()).is_none());
}

#[test]
fn of_two_overlapping_pools_of_the_same_age_the_first_by_name_stays() {
    let objects = Objects {
        pools: vec![pool("b", 1, &["10.0.0.0/24"]), pool("a", 1, &["10.0.0.0/24"])],
        ..Objects::default()
    };
    assert_eq!(names(&validate(&objects).0), ["a"]);
}

#[test]
fn a_pool_that_is_about_to_be_created_is_the_newest() {
    let mut new = (*pool("a", 1, &["10.0.0.0/24"])).clone();
    new.metadata.creation_timestamp = None;
    let objects =
        Objects { pools: vec![Arc::new(new), pool("b", 9, &["10.0.0.0/24"])], ..Objects::default() };
    assert_eq!(names(&validate(&objects).0), ["b"]);
}

#[test]
fn all_findings_of_a_pool_are_reported_together() {
    let spec = json!({
        "addresses": ["10.0.0.5", "10.1.0.0/24", "10.1.0.7/32"],
        "serviceAllocation": {
            "namespaces": ["a", "a"],
            "namespaceSelectors": [{"matchLabels": {"x": "y"}}, {"matchLabels": {"x": "y"}}],
            "serviceSelectors": [{"matchExpressions": [{"key": "k", "operator": "Near", "values": ["v"]}]}],
        },
    });
    let objects =
        Objects { pools: vec![pool_json("bad", "2024-01-01T00:00:00Z", spec)], ..Objects::default() };
    let (configuration, findings) = validate(&objects);
    assert!(configuration.pools.is_empty());
    let found: Vec<_> = findings.iter().map(|f| (f.field.as_str(), f.severity)).collect();
    assert_eq!(
        found,
        [
            ("spec.addresses[0]", Severity::Error),
            ("spec.addresses[2]", Severity::Warning),
            ("spec.serviceAllocation.namespaces", Severity::Warning),
            ("spec.serviceAllocation.namespaceSelectors[1]", Severity::Warning),
            ("spec.serviceAllocation.serviceSelectors[0]", Severity::Error),
        ]
    );
}

#[test]
fn a_pool_without_addresses_is_rejected_and_a_range_of_mixed_families_is_a_warning() {
    let objects = Objects {
        pools: vec![pool("none", 1, &[]), pool("mixed", 1, &["1.2.3.4-fc00::1"])],
        ..Objects::default()
    };
    let (configuration, findings) = validate(&objects);
    assert_eq!(names(&configuration), ["mixed"]);
    let severities: Vec<_> = findings.iter().map(|f| (f.object.name.as_str(), f.severity)).collect();
    assert_eq!(severities, [("mixed", Severity::Warning), ("none", Severity::Error)]);
}

#[test]
fn a_priority_alone_admits_every_service() {
    let spec = json!({"addresses": ["10.0.0.0/24"], "serviceAllocation": {"priority": 10}});
    let objects = Objects { pools: vec![pool_json("p", "2024-01-01T00:00:00Z", spec)], ..Objects::default() };
    let (configuration, findings) = validate(&objects);
    assert_eq!(findings, []);
    let allocation = configuration.pools["p"].allocation.as_ref().unwrap();
    assert!(allocation.admits_namespace("any") && allocation.admits_labels(&BTreeMap::new()));
    assert_eq!(allocation.priority, 10);
}

#[test]
fn namespaces_are_selected_by_name_and_by_label() {
    let spec = json!({"addresses": ["10.0.0.0/24"], "serviceAllocation": {
        "namespaces": ["a"], "namespaceSelectors": [{"matchLabels": {"team": "x"}}]}});
    let namespace = |name: &str, team: &str| {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {"team": team}}})).unwrap(),
        )
    };
    let objects = Objects {
        pools: vec![pool_json("p", "2024-01-01T00:00:00Z", spec)],
        namespaces: vec![namespace("b", "x"), namespace("c", "y")],
        ..Objects::default()
    };
    let allocation = validate(&objects).0.pools.remove("p").unwrap().allocation.unwrap();
    let admitted = ["a", "b", "c"].map(|name| allocation.admits_namespace(name));
    assert_eq!(admitted, [true, true, false]);
}

#[test]
fn an_advertisement_covers_the_pools_that_it_lists_and_selects_or_else_all() {
    let objects = Objects {
        pools: vec![
            pool("a", 1, &["10.0.0.0/24"]),
            pool("b", 1, &["10.0.1.0/24"]),
            pool("c", 1, &["10.0.2.0/24"]),
        ],
        l2_advertisements: vec![
            advertisement("all", json!({})),
            advertisement(
                "some",
                json!({"ipAddressPools": ["a", "gone"], "ipAddressPoolSelectors": [{"matchLabels": {"pool": "b"}}]}),
            ),
            advertisement("unknown", json!({"ipAddressPools": ["gone"]})),
        ],
        ..Objects::default()
    };
    let (configuration, findings) = validate(&objects);
    let pools: Vec<Vec<&str>> = configuration
        .l2_advertisements
        .iter()
        .map(|advertisement| advertisement.pools.iter().map(String::as_str).collect())
        .collect();
    assert_eq!(pools, [vec!["a", "b", "c"], vec!["a", "b"], vec![]]);
    assert!(findings.iter().all(|f| f.severity == Severity::Warning && f.value == "gone"));
}

#[test]
fn input_with_only_one_possible_interpretation_is_a_warning_in_an_advertisement() {
    let selector = json!({"matchLabels": {"a": "b"}});
    let expression = json!({"key": "k", "operator": "In", "values": ["v"]});
    let in_v = json!([{"matchExpressions": [expression]}]);
    for (spec, meant) in [
        (json!({"ipAddressPools": ["lan", "lan"]}), json!({"ipAddressPools": ["lan"]})),
        (json!({"ipAddressPools": [" lan"]}), json!({"ipAddressPools": ["lan"]})),
        (json!({"interfaces": ["eth0", "eth0 "]}), json!({"interfaces": ["eth0"]})),
        (
            json!({"ipAddressPoolSelectors": [selector, selector]}),
            json!({"ipAddressPoolSelectors": [selector]}),
        ),
        (json!({"nodeSelectors": [selector, selector]}), json!({"nodeSelectors": [selector]})),
        (json!({"serviceSelectors": [selector, selector]}), json!({"serviceSelectors": [selector]})),
        (
            json!({"nodeSelectors": [{"matchExpressions": [expression, expression]}]}),
            json!({"nodeSelectors": in_v}),
        ),
        (
            json!({"nodeSelectors": [{"matchExpressions": [{"key": "k", "operator": "In", "values": ["v", "v"]}]}]}),
            json!({"nodeSelectors": in_v}),
        ),
    ] {
        let of = |spec: &Value| Objects {
            pools: vec![pool("lan", 1, &["10.0.0.0/24"])],
            l2_advertisements: vec![advertisement("x", spec.clone())],
            ..Objects::default()
        };
        let (configuration, findings) = validate(&of(&spec));
        assert!(!findings.is_empty() && findings.iter().all(|f| f.severity == Severity::Warning), "{spec}");
        assert!(crate::check(&Objects::default(), &of(&spec)).is_ok(), "{spec}");
        let expected = validate(&of(&meant)).0.l2_advertisements;
        // Two equal expressions have the effect of one, and remain two.
        if spec["nodeSelectors"][0]["matchExpressions"].is_null() {
            assert_eq!(configuration.l2_advertisements, expected, "{spec}");
        }
        let v = [("k".to_owned(), "v".to_owned())].into();
        assert_eq!(configuration.l2_advertisements[0].admits_node(&v), expected[0].admits_node(&v));
    }
}

#[test]
fn an_empty_pool_name_does_not_select_every_pool() {
    for names in [json!([""]), json!([" ", ""])] {
        let objects = Objects {
            pools: vec![pool("lan", 1, &["10.0.0.0/24"])],
            l2_advertisements: vec![advertisement("x", json!({"ipAddressPools": names}))],
            ..Objects::default()
        };
        let (configuration, findings) = validate(&objects);
        assert!(configuration.l2_advertisements[0].pools.is_empty());
        assert!(findings.iter().all(|f| f.severity == Severity::Warning));
    }
}

#[test]
fn input_with_only_one_possible_interpretation_is_a_warning_in_a_pool() {
    for (addresses, meant) in [
        (&["10.0.0.0/24", "10.0.0.0/24"][..], &["10.0.0.0/24"][..]),
        (&["10.0.0.0/24", "10.0.0.7/32"], &["10.0.0.0/24"]),
        (
            &["10.0.0.5-10.0.0.9", "10.0.0.0/28"],
            &["10.0.0.5-10.0.0.9", "10.0.0.0-10.0.0.4", "10.0.0.10-10.0.0.15"],
        ),
        (&[" 10.0.0.0/24 "], &["10.0.0.0/24"]),
        (&["10.0.0.0/24", "", " "], &["10.0.0.0/24"]),
    ] {
        let of = |addresses| Objects { pools: vec![pool("p", 1, addresses)], ..Objects::default() };
        let (configuration, findings) = validate(&of(addresses));
        assert!(!findings.is_empty() && findings.iter().all(|f| f.severity == Severity::Warning));
        assert_eq!(configuration.pools, validate(&of(meant)).0.pools, "{addresses:?}");
    }
    let nothing = Objects { pools: vec![pool("p", 1, &["", " "])], ..Objects::default() };
    assert!(validate(&nothing).1.iter().any(|f| f.severity == Severity::Error), "no address at all");
}

#[test]
fn an_advertisement_with_an_invalid_selector_is_rejected_and_its_other_parts_are_available() {
    let bad = json!({"matchExpressions": [{"key": "k", "operator": "Is"}]});
    let good = json!({"matchLabels": {"a": "b"}});
    for (spec, narrow, nodes) in [
        (json!({"nodeSelectors": [bad], "interfaces": ["eth0"]}), false, 0),
        (json!({"nodeSelectors": [good, bad]}), true, 0),
        (json!({"nodeSelectors": [good], "serviceSelectors": [bad]}), false, 1),
        (
            json!({"preferredNodeSelectors": [{"weight": 1, "preference": bad}], "nodeSelectors": [good]}),
            true,
            1,
        ),
        (json!({"ipAddressPoolSelectors": [bad]}), true, 0),
    ] {
        let objects =
            Objects { l2_advertisements: vec![advertisement("x", spec.clone())], ..Objects::default() };
        let (configuration, findings) = validate(&objects);
        assert!(configuration.l2_advertisements.is_empty(), "{spec}");
        assert!(findings.iter().any(|f| f.severity == Severity::Error), "{spec}");
        let partial = &configuration.partial_l2_advertisements[0];
        assert_eq!(partial.narrow().is_some(), narrow, "{spec}");
        assert_eq!(partial.wide().node_selectors.len(), nodes, "{spec}");
        assert!(partial.wide().service_selectors.is_empty());
    }
}

#[test]
fn a_selection_of_pools_is_undecided_only_if_labels_or_selectors_are_unknown() {
    let bad = json!({"matchExpressions": [{"key": "k", "operator": "Is"}]});
    let lan = json!({"matchLabels": {"pool": "lan"}});
    let labels = BTreeMap::from([("pool".to_owned(), "lan".to_owned())]);
    for (spec, known, unknown) in [
        (json!({}), Some(true), Some(true)),
        (json!({"ipAddressPools": ["lan"]}), Some(true), Some(true)),
        (json!({"ipAddressPools": ["wan"]}), Some(false), Some(false)),
        (json!({"ipAddressPoolSelectors": [lan]}), Some(true), None),
        (json!({"ipAddressPoolSelectors": [bad]}), None, None),
        (json!({"ipAddressPoolSelectors": [bad], "ipAddressPools": ["wan"]}), None, None),
    ] {
        let objects =
            Objects { l2_advertisements: vec![advertisement("x", spec.clone())], ..Objects::default() };
        let configuration = validate(&objects).0;
        let partial = configuration.partial_l2_advertisements.first().map(PartialL2Advertisement::wide);
        let advertisement = configuration.l2_advertisements.first().cloned().or(partial).unwrap();
        assert_eq!(advertisement.selection.selects("lan", Some(&labels)), known, "{spec}");
        assert_eq!(advertisement.selection.selects("lan", None), unknown, "{spec}");
    }
}

#[test]
fn fields_that_change_with_each_assignment_do_not_affect_validation() {
    let reduced = |version: &str, assigned: u32, available: u32| {
        let mut pool = (*pool("lan", 1, &["10.0.0.0/24"])).clone();
        pool.metadata.resource_version = Some(version.to_owned());
        pool.status = Some(
            serde_json::from_value(json!({"assignedIPv4": assigned, "assignedIPv6": 0,
                "availableIPv4": available, "availableIPv6": 0}))
            .unwrap(),
        );
        crate::without_usage(pool)
    };
    assert_eq!(reduced("1", 1, 255), reduced("2", 2, 254));
    assert_eq!(reduced("1", 1, 255), reduced("3", 256, 0));
    assert_ne!(reduced("1", 1, 255), reduced("4", 0, 0), "it is rejected now");
}

#[test]
fn identical_advertisements_are_merged_unless_they_have_preferences() {
    let preferred = json!({"preferredNodeSelectors": [{"weight": 1, "preference": {}}]});
    for (spec, left) in [(json!({"interfaces": ["eth0"]}), 1), (preferred, 2)] {
        let list = vec![advertisement("a", spec.clone()), advertisement("b", spec)];
        let objects = Objects { l2_advertisements: list, ..Objects::default() };
        assert_eq!(validate(&objects).0.l2_advertisements.len(), left);
    }
}

#[test]
fn a_pool_that_contains_addresses_of_nodes_gets_a_warning_that_names_the_nodes() {
    let nodes = [("10.0.0.5", "node1"), ("10.0.1.5", "node2"), ("fc00::5", "node3")];
    let objects = Objects {
        pools: vec![pool("lan", 1, &["10.0.0.0/24", "fc00::/64"]), pool("other", 2, &["10.0.2.0/24"])],
        node_addresses: nodes.map(|(ip, node)| (ip.parse().unwrap(), node.to_owned())).into(),
        ..Objects::default()
    };
    let (configuration, findings) = Configuration::from_objects(&objects);
    assert_eq!(configuration.pools.len(), 2, "the other addresses of the pool are in use");
    assert!(findings.iter().all(|finding| finding.severity == Severity::Warning), "{findings:?}");
    let on: Vec<&str> = findings.iter().map(|finding| finding.object.name.as_str()).collect();
    assert_eq!(on, ["lan", "lan"]);
    assert!(findings[0].to_string().contains("10.0.0.5 of node node1"), "{}", findings[0]);
    assert!(findings[1].to_string().contains("fc00::5 of node node3"), "{}", findings[1]);
}

/// Validates two pools with the same addresses, created in the same second, in either order of the list.
/// Returns which one is rejected, and why.
fn rejected_of(a: Value, b: Value) -> (String, String) {
    let pool = |name: &str, more: &Value| -> Arc<crds::IPAddressPool> {
        let mut json = json!({"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": {"name": name, "namespace": "metallb-system", "creationTimestamp": "2024-01-01T00:00:00Z",
                "resourceVersion": more["version"]}, "spec": {"addresses": ["10.0.0.0/24"]}});
        if more["status"].is_object() {
            json["status"] = more["status"].clone();
        }
        Arc::new(serde_json::from_value(json).unwrap())
    };
    let rejected = |pools: Vec<Arc<crds::IPAddressPool>>| {
        let (_, findings) = Configuration::from_objects(&Objects { pools, ..Objects::default() });
        assert_eq!(findings.len(), 1, "{findings:?}");
        (findings[0].object.name.clone(), findings[0].problem.clone())
    };
    let result = rejected(vec![pool("a", &a), pool("b", &b)]);
    assert_eq!(rejected(vec![pool("b", &b), pool("a", &a)]), result);
    let reduced = |name: &str, more: &Value| Arc::new(crate::without_usage((*pool(name, more)).clone()));
    assert_eq!(
        rejected(vec![reduced("a", &a), reduced("b", &b)]),
        result,
        "speakers come to the same result"
    );
    result
}

#[test]
fn requirement_5_of_two_pools_of_one_second_the_one_in_use_or_applied_first_stays_and_the_finding_says_why() {
    let counts = json!({"assignedIPv4": 1, "assignedIPv6": 0, "availableIPv4": 255, "availableIPv6": 0});
    let none = json!({"assignedIPv4": 0, "assignedIPv6": 0, "availableIPv4": 0, "availableIPv6": 0});
    let ready = |status: &str| {
        let mut with = counts.clone();
        with["conditions"] = json!([{"type": "Ready", "status": status, "reason": "R", "message": "",
            "lastTransitionTime": "2024-01-01T00:00:00Z"}]);
        with
    };
    for (a, b, expected, reason) in [
        (json!({"version": "9"}), json!({"version": "7"}), "a", "was applied first"),
        (json!({"version": "7"}), json!({"version": "9"}), "b", "was applied first"),
        (
            json!({"version": "7", "status": ready("False")}),
            json!({"version": "9", "status": ready("True")}),
            "a",
            "is in use already",
        ),
        (json!({"version": "7"}), json!({"version": "9", "status": ready("True")}), "a", "is in use already"),
        (
            json!({"version": "9", "status": none}),
            json!({"version": "7", "status": counts}),
            "a",
            "is in use already",
        ),
        (
            json!({"version": "9", "status": counts}),
            json!({"version": "7", "status": counts}),
            "b",
            "comes first by name",
        ),
    ] {
        let (name, problem) = rejected_of(a, b);
        assert_eq!(name, expected, "{problem}");
        assert!(problem.contains("in the same second") && problem.contains(reason), "{problem}");
    }
}
