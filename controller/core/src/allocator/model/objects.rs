//! The pools, policies and requests of the histories.

use crds::ServiceKey;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::allocator::tests::{objects, request as request_of};
use crate::request::Request;

/// Few Services and few addresses, so that they often interact.
pub(super) const SERVICES: u8 = 7;

#[derive(Clone, Debug)]
pub(super) struct RequestChoice {
    families: u8,
    wanted: u8,
    sharing: u8,
    port: u8,
    labelled: bool,
}

pub(super) fn request_choice() -> impl Strategy<Value = RequestChoice> {
    (0..4_u8, 0..16_u8, 0..4_u8, 0..3_u8, any::<bool>()).prop_map(
        |(families, wanted, sharing, port, labelled)| RequestChoice {
            families,
            wanted,
            sharing,
            port,
            labelled,
        },
    )
}

/// One family and few choices, so that many Services ask for the same and differ in the pools that admit
/// them.
pub(super) fn crowded_request() -> impl Strategy<Value = RequestChoice> {
    let wanted = prop::sample::select(vec![0, 1, 3, 6, 11, 12]);
    (wanted, 0..6_u8, any::<bool>()).prop_map(|(wanted, sharing, labelled)| RequestChoice {
        families: 0,
        wanted,
        // Rarely, since sharing makes room.
        sharing: if sharing == 5 { 2 } else { 0 },
        port: 0,
        labelled,
    })
}

/// The choices of pools with one or two addresses in total.
pub(super) const CROWDED: std::ops::RangeInclusive<u8> = 8..=10;

/// Most Services are in one namespace, some in another, with different pools and quotas.
pub(super) fn key(service: u8) -> ServiceKey {
    ServiceKey::new(if service % 3 == 2 { "bank" } else { "shop" }, format!("s{service}"))
}

/// The pools and policies of these choices.
pub(super) fn objects_of(pools: u8, policies: u8) -> rules::Objects {
    objects(&["shop", "bank"], &self::pools(pools), &self::policies(policies))
}

fn pools(choice: u8) -> Vec<(&'static str, Value)> {
    let both = ("a", json!({"addresses": ["10.0.0.1-10.0.0.3", "fc00::1-fc00::2"]}));
    let small = ("a", json!({"addresses": ["10.0.0.1-10.0.0.2"]}));
    let labelled = (
        "a",
        json!({"addresses": ["10.0.0.1-10.0.0.2"],
        "serviceAllocation": {"serviceSelectors": [{"matchLabels": {"app": "x"}}]}}),
    );
    let moved = ("b", json!({"addresses": ["10.0.0.3/32", "10.0.1.0/31"]}));
    let restricted = (
        "c",
        json!({"addresses": ["10.0.2.0/30"], "avoidBuggyIPs": true,
        "serviceAllocation": {"priority": 1, "namespaces": ["shop"]}}),
    );
    let rejected =
        ("c", json!({"addresses": ["10.0.2.0/31"], "serviceAllocation": {"namespaces": ["bank"]}}));
    let invalid = ("a", json!({"addresses": ["10.0.0.1-10.0.0.3", "10.0"]}));
    match choice {
        0 => vec![both],
        1 => vec![small, moved],
        2 => vec![both, restricted],
        3 => vec![both, rejected],
        4 => vec![invalid],
        5 => Vec::new(),
        6 => vec![("a", json!({"addresses": ["10.0.0.1-10.0.0.3"], "autoAssign": false}))],
        7 | 8 => vec![labelled, rejected],
        9 => vec![("a", json!({"addresses": ["10.0.0.1/32"]}))],
        10 => vec![small],
        _ => vec![moved, restricted],
    }
}

fn policies(choice: u8) -> Vec<(&'static str, Value)> {
    let of = |team: &str| json!({"matchLabels": {"team": team}});
    let each = ("q", json!({"pool": "a", "quotas": [{"maxAddresses": 1}]}));
    let teams = json!({"pool": "a", "quotas": [
        {"namespaceSelector": of("shop"), "maxAddresses": 2},
        {"namespaceSelector": of("bank"), "maxAddresses": 0}]});
    let kept = ("r", json!({"pool": "a", "reserved": [{"addresses": "10.0.0.2"}, {"addresses": "fc00::1"}]}));
    let elsewhere = json!({"pool": "b", "reserved": [{"addresses": "10.0.1.0"}],
        "quotas": [{"namespaceSelector": of("shop"), "maxAddresses": 1}]});
    match choice {
        0 | 1 => Vec::new(),
        2 => vec![each],
        3 => vec![kept],
        4 => vec![each, kept, ("e", elsewhere)],
        _ => vec![("q", teams), ("e", elsewhere)],
    }
}

pub(super) fn request(service: u8, request_choice: &RequestChoice) -> Request {
    let cluster = match request_choice.families {
        0 => json!({"clusterIPs": ["10.96.0.1"]}),
        1 => json!({"clusterIPs": ["fd00::1"]}),
        2 => json!({"clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilyPolicy": "PreferDualStack"}),
        _ => json!({"clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilyPolicy": "RequireDualStack"}),
    };
    let mut annotations = match request_choice.wanted {
        0 => json!({"loadBalancerIPs": "10.0.0.1"}),
        1 => json!({"loadBalancerIPs": "10.0.0.2"}),
        2 => json!({"loadBalancerIPs": "10.0.0.3"}),
        3 => json!({"address-pool": "a"}),
        4 => json!({"address-pool": "b"}),
        5 => json!({"address-pool": "c"}),
        6 => json!({"loadBalancerIPs": "10.0.0.1", "address-pool": "b"}),
        7 => json!({"loadBalancerIPs": "10.0.2.1"}),
        8 => json!({"loadBalancerIPs": "10.0.0.1,fc00::1"}),
        9 => json!({"loadBalancerIPs": "10.0.0.2,fc00::1"}),
        _ => json!({}),
    };
    if request_choice.sharing > 1 {
        annotations["allow-shared-ip"] = json!(format!("key{}", request_choice.sharing));
    }
    let mut spec = cluster;
    spec["ports"] = json!([{"port": 80 + u16::from(request_choice.port)}]);
    let mut request = request_of(i64::from(service), &annotations, &spec);
    if !request_choice.labelled {
        request.labels.clear();
    }
    request
}
