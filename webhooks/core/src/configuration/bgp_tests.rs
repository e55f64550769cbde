#![expect(clippy::needless_pass_by_value, reason = "values are written inline")]

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::finding::Severity;

fn object<K: DeserializeOwned>(kind: &str, name: &str, minute: u8, spec: Value) -> Arc<K> {
    let version = if kind == "BGPPeer" { "v1beta2" } else { "v1beta1" };
    let json = json!({"apiVersion": format!("metallb.io/{version}"), "kind": kind, "metadata": {
        "name": name, "namespace": "metallb-system", "creationTimestamp": format!("2024-01-01T00:{minute:02}:00Z")},
        "spec": spec});
    Arc::new(serde_json::from_value(json).unwrap())
}

fn peer(spec: Value) -> Value {
    let mut peer = json!({"myASN": 64512, "peerASN": 64513, "peerAddress": "10.0.0.1"});
    peer.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    peer.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    peer
}

/// Fields of errors and of warnings.
fn findings(objects: &Objects) -> (Vec<String>, Vec<String>) {
    let (_, findings) = Configuration::from_objects(objects);
    let of = |severity| findings.iter().filter(|f| f.severity == severity).map(|f| f.field.clone()).collect();
    (of(Severity::Error), of(Severity::Warning))
}

fn peer_findings(spec: Value) -> (Vec<String>, Vec<String>) {
    findings(&Objects { bgp_peers: vec![object("BGPPeer", "p", 0, peer(spec))], ..Objects::default() })
}

#[test]
fn peers_are_rejected_if_every_mode_of_metallb_rejects_them() {
    for (spec, field) in [
        (json!({"myASN": 0}), "spec.myASN"),
        (json!({"peerASN": null}), "spec.peerASN"),
        (json!({"peerASN": 0}), "spec.peerASN"),
        (json!({"dynamicASN": "external"}), "spec.peerASN"),
        (json!({"peerASN": null, "dynamicASN": "any"}), "spec.dynamicASN"),
        (json!({"peerASN": 64512, "ebgpMultiHop": true}), "spec.ebgpMultiHop"),
        (json!({"peerAddress": null}), "spec.peerAddress"),
        (json!({"interface": "eth0"}), "spec.peerAddress"),
        (json!({"peerAddress": "router"}), "spec.peerAddress"),
        (json!({"routerID": "one"}), "spec.routerID"),
        (json!({"sourceAddress": "10.0.0"}), "spec.sourceAddress"),
        (json!({"holdTime": "2s"}), "spec.holdTime"),
        (json!({"holdTime": "1500ms"}), "spec.holdTime"),
        (json!({"holdTime": "soon"}), "spec.holdTime"),
        (json!({"holdTime": "30s", "keepaliveTime": "31s"}), "spec.keepaliveTime"),
        (json!({"password": "x", "passwordSecret": {"name": "s"}}), "spec.passwordSecret"),
        (
            json!({"nodeSelectors": [{"matchExpressions": [{"key": "k", "operator": "Is"}]}]}),
            "spec.nodeSelectors[0]",
        ),
    ] {
        assert_eq!(peer_findings(spec.clone()).0, [field], "{spec}");
    }
}

#[test]
fn peers_are_accepted_if_any_mode_of_metallb_accepts_them() {
    for spec in [
        json!({}),
        json!({"peerASN": null, "dynamicASN": "internal"}),
        json!({"peerAddress": null, "interface": "eth0"}),
        json!({"holdTime": "0s"}),
        json!({"holdTime": "900ms"}),
        json!({"holdTime": "3s", "keepaliveTime": "1s"}),
        json!({"vrf": "red", "connectTime": "10s", "enableGracefulRestart": true, "localASN": 7}),
        json!({"passwordSecret": {"name": "s"}}),
        json!({"peerAddress": "fc00::1"}),
    ] {
        assert_eq!(peer_findings(spec.clone()), (vec![], vec![]), "{spec}");
    }
    assert_eq!(peer_findings(json!({"bfdProfile": "none"})), (vec![], vec!["spec.bfdProfile".to_owned()]));
    assert_eq!(peer_findings(json!({"disableMP": true})).1, ["spec.disableMP"]);
}

#[test]
fn differences_between_peers_that_only_frr_rejects_are_warnings() {
    let pair = |second: Value| Objects {
        bgp_peers: vec![
            object("BGPPeer", "a", 0, peer(json!({"routerID": "1.1.1.1"}))),
            object("BGPPeer", "b", 1, peer(second)),
        ],
        ..Objects::default()
    };
    let warnings = |second| findings(&pair(second)).1;
    assert_eq!(warnings(json!({"peerAddress": "10.0.0.2", "routerID": "1.1.1.1"})), Vec::<String>::new());
    assert_eq!(warnings(json!({"peerAddress": "10.0.0.2"})), ["spec.routerID"]);
    assert_eq!(warnings(json!({"routerID": "1.1.1.1"})), ["spec.peerAddress"]);
    assert_eq!(
        warnings(json!({"peerAddress": "10.0.0.2", "routerID": "1.1.1.1", "myASN": 1})),
        ["spec.myASN"]
    );
}

#[test]
fn input_with_only_one_possible_interpretation_is_a_warning_in_a_bgp_advertisement() {
    let selector = json!({"matchLabels": {"a": "b"}});
    for (spec, field) in [
        (json!({"ipAddressPools": ["v4", "v4"]}), "spec.ipAddressPools"),
        (json!({"communities": ["1:2", "1:2"]}), "spec.communities"),
        (json!({"peers": ["p", "p"]}), "spec.peers"),
        (json!({"nodeSelectors": [selector, selector]}), "spec.nodeSelectors[1]"),
    ] {
        let list = vec![object("BGPAdvertisement", "x", 0, spec.clone())];
        let objects = with_pools(Objects { bgp_advertisements: list, ..Objects::default() });
        let (errors, warnings) = findings(&objects);
        assert!(errors.is_empty() && warnings.iter().any(|warning| warning == field), "{spec}: {warnings:?}");
    }
}

fn with_pools(mut objects: Objects) -> Objects {
    objects.pools = vec![
        object("IPAddressPool", "v4", 0, json!({"addresses": ["10.0.0.0/24", "10.1.0.0/28"]})),
        object("IPAddressPool", "v6", 0, json!({"addresses": ["fc00::/120"]})),
    ];
    objects
}

#[test]
fn advertisements_are_validated_by_the_rules_of_metallb() {
    let selector = json!({"matchLabels": {"a": "b"}});
    for (spec, field) in [
        (json!({"communities": ["1:70000"]}), "spec.communities"),
        (json!({"communities": ["large:1:2"]}), "spec.communities"),
        (json!({"aggregationLength": 33, "ipAddressPools": ["v4"]}), "spec.aggregationLength"),
        (json!({"aggregationLengthV6": 129, "ipAddressPools": ["v4"]}), "spec.aggregationLengthV6"),
        (json!({"aggregationLength": 26, "ipAddressPools": ["v4"]}), "spec.aggregationLength"),
        (json!({"aggregationLengthV6": 119, "ipAddressPools": ["v6"]}), "spec.aggregationLengthV6"),
        (json!({"aggregationLength": 30, "serviceSelectors": [selector]}), "spec.serviceSelectors"),
    ] {
        let list = vec![object("BGPAdvertisement", "x", 0, spec.clone())];
        let objects = with_pools(Objects { bgp_advertisements: list, ..Objects::default() });
        assert_eq!(findings(&objects).0, [field], "{spec}");
    }
    for spec in [
        json!({}),
        json!({"aggregationLength": 28, "ipAddressPools": ["v4"]}),
        json!({"aggregationLength": 1, "ipAddressPools": ["v6"]}),
        json!({"communities": ["65535:65535", "large:4294967295:0:1"]}),
        json!({"serviceSelectors": [selector], "aggregationLength": 32, "aggregationLengthV6": 128}),
    ] {
        let list = vec![object("BGPAdvertisement", "x", 0, spec.clone())];
        let objects = with_pools(Objects { bgp_advertisements: list, ..Objects::default() });
        assert_eq!(findings(&objects), (vec![], vec![]), "{spec}");
    }
    let list = vec![object("BGPAdvertisement", "x", 0, json!({"communities": ["home"], "peers": ["p"]}))];
    let objects = with_pools(Objects { bgp_advertisements: list, ..Objects::default() });
    assert_eq!(findings(&objects), (vec![], vec!["spec.peers".to_owned(), "spec.communities".to_owned()]));
}

#[test]
fn one_prefix_with_two_preferences_is_rejected_unless_the_advertisements_are_separate() {
    let pair = |first: Value, second: Value| {
        let list =
            vec![object("BGPAdvertisement", "a", 0, first), object("BGPAdvertisement", "b", 1, second)];
        findings(&with_pools(Objects { bgp_advertisements: list, ..Objects::default() })).0
    };
    assert_eq!(pair(json!({"localPref": 1}), json!({"localPref": 2})), ["spec.localPref"]);
    assert_eq!(pair(json!({"localPref": 1}), json!({"localPref": 1})), Vec::<String>::new());
    for separate in [
        json!({"localPref": 2, "ipAddressPools": ["v6"]}),
        json!({"localPref": 2, "ipAddressPools": ["v4"], "aggregationLength": 30}),
        json!({"localPref": 2, "ipAddressPools": ["v4"], "serviceSelectors": [{"matchLabels": {"a": "b"}}]}),
    ] {
        let first = json!({"localPref": 1, "ipAddressPools": ["v4"]});
        assert_eq!(pair(first, separate.clone()), Vec::<String>::new(), "{separate}");
    }
}

#[test]
fn communities_and_profiles_are_validated_by_the_rules_of_metallb() {
    let community = |name: &str, minute, list: Value| {
        object::<crds::Community>("Community", name, minute, json!({"communities": list}))
    };
    let objects = Objects {
        communities: vec![
            community("a", 0, json!([{"name": "home", "value": "1:2"}])),
            community("again", 1, json!([{"name": "home", "value": "1:3"}])),
            community("twice", 2, json!([{"name": "x", "value": "1:3"}, {"name": "x", "value": "1:3"}])),
            community("bad", 3, json!([{"name": "y", "value": "1:x"}])),
        ],
        bfd_profiles: vec![object(
            "BFDProfile",
            "fast",
            0,
            json!({"receiveInterval": 5, "detectMultiplier": 256}),
        )],
        ..Objects::default()
    };
    let (configuration, findings) = Configuration::from_objects(&objects);
    assert_eq!(configuration.communities.len(), 1);
    assert!(configuration.bfd_profiles.is_empty());
    let objects: Vec<&str> = findings.iter().map(|finding| finding.object.name.as_str()).collect();
    assert_eq!(objects, ["fast", "fast", "again", "twice", "bad"]);
}

#[test]
fn ipv6_pools_are_rejected_for_a_peer_with_bfd_echo() {
    let objects = with_pools(Objects {
        bfd_profiles: vec![object("BFDProfile", "echo", 0, json!({"echoMode": true}))],
        bgp_peers: vec![object("BGPPeer", "p", 0, peer(json!({"bfdProfile": "echo"})))],
        bgp_advertisements: vec![
            object("BGPAdvertisement", "v4", 0, json!({"ipAddressPools": ["v4"]})),
            object("BGPAdvertisement", "v6", 0, json!({"ipAddressPools": ["v6"]})),
        ],
        ..Objects::default()
    });
    let (configuration, findings) = Configuration::from_objects(&objects);
    assert_eq!(configuration.bgp_advertisements.len(), 1);
    assert_eq!((findings.len(), findings[0].object.name.as_str()), (1, "v6"));
}

#[test]
fn policies_reserve_addresses_and_set_quotas_by_namespace() {
    let policy = |name: &str, spec: Value| {
        let json = json!({"apiVersion": "lbstack.dev/v1alpha1", "kind": "PoolPolicy",
            "metadata": {"name": name, "namespace": "metallb-system"}, "spec": spec});
        Arc::new(serde_json::from_value(json).unwrap())
    };
    let namespace = |name: &str, team: &str| {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {"team": team}}})).unwrap(),
        )
    };
    let objects = with_pools(Objects {
        pool_policies: vec![
            policy(
                "good",
                json!({"pool": "v4", "reserved": [{"addresses": "10.0.0.1"}, {"addresses": "10.0.0.8/30", "note": "printers"}],
                "quotas": [{"maxAddresses": 9}, {"namespaceSelector": {"matchLabels": {"team": "x"}}, "maxAddresses": 2}]}),
            ),
            policy("outside", json!({"pool": "v4", "reserved": [{"addresses": "10.9.0.1"}]})),
            policy(
                "bad",
                json!({"pool": "v4", "reserved": [{"addresses": "10.9"}, {"addresses": "10.0.0.2"}], "quotas": [{"maxAddresses": -1}]}),
            ),
            policy("lost", json!({"pool": "gone"})),
        ],
        namespaces: vec![namespace("a", "x"), namespace("b", "y")],
        ..Objects::default()
    });
    let (configuration, findings) = Configuration::from_objects(&objects);
    let pool = &configuration.pools["v4"];
    // The valid entries of the invalid policy apply.
    assert_eq!((pool.reserved.len(), pool.quota("a"), pool.quota("b")), (3, Some(2), Some(9)));
    let found: Vec<_> = findings.iter().map(|f| (f.object.name.as_str(), f.severity)).collect();
    assert_eq!(
        found,
        [
            ("bad", Severity::Error),
            ("bad", Severity::Error),
            ("lost", Severity::Warning),
            ("outside", Severity::Warning),
        ]
    );
}
