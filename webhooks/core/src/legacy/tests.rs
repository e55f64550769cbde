use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::configuration::Configuration;
use crate::finding::Severity;

fn convert_valid(text: &str) -> Converted {
    let (converted, findings) = convert(text, "config", "metallb-system").unwrap();
    assert_eq!(findings, []);
    converted
}

fn fields_of_findings(text: &str) -> Vec<String> {
    let (_, findings) = convert(text, "config", "metallb-system").unwrap();
    findings.into_iter().map(|finding| finding.field).collect()
}

fn specs<K: serde::Serialize>(objects: &[Arc<K>]) -> Vec<(String, Value)> {
    let json = objects.iter().map(|object| serde_json::to_value(&**object).unwrap());
    json.map(|object| (object["metadata"]["name"].as_str().unwrap().to_owned(), object["spec"].clone()))
        .collect()
}

/// The configurations of three tutorials.
#[test]
fn the_pools_of_the_tutorials_become_pools_and_advertisements() {
    for (text, name, addresses) in [
        (
            "address-pools:\n- name: default\n  protocol: layer2\n  addresses:\n  - 192.168.0.230-192.168.1.250\n",
            "default",
            json!(["192.168.0.230-192.168.1.250"]),
        ),
        (
            "address-pools: # metalLB의 세부설정\n- name: nginx-ip-range\n  protocol: layer2 # metallb에서 제공하는 로드밸런서의 동작 방식\n  addresses: # metallb에서 제공하는 로드밸런스의 Ext 주소\n  - 192.168.1.11-192.168.1.13\n",
            "nginx-ip-range",
            json!(["192.168.1.11-192.168.1.13"]),
        ),
        (
            "address-pools:\n- name: default\n  protocol: layer2\n  addresses:\n  - 172.19.255.200-172.19.255.250\n",
            "default",
            json!(["172.19.255.200-172.19.255.250"]),
        ),
    ] {
        let converted = convert_valid(text);
        let pool = json!({"addresses": addresses, "autoAssign": true, "avoidBuggyIPs": false});
        assert_eq!(specs(&converted.objects.pools), [(name.to_owned(), pool)]);
        assert_eq!(
            specs(&converted.objects.l2_advertisements),
            [(name.to_owned(), json!({"ipAddressPools": [name]}))]
        );
        assert_eq!(converted.objects.pools[0].metadata.namespace.as_deref(), Some("metallb-system"));
    }
}

#[test]
fn every_field_of_the_old_format_is_converted() {
    let converted = convert_valid(
        r#"
peers:
- my-asn: 64512
  peer-asn: 64513
  peer-address: 10.0.0.1
  source-address: 10.0.0.2
  router-id: 10.0.0.3
  peer-port: 1179
  hold-time: 3m1500ms
  keepalive-time: 30s
  password: 0123
  bfd-profile: Fast_One
  ebgp-multihop: true
  node-selectors:
  - match-labels: {rack: "1"}
    match-expressions:
    - {key: zone, operator: In, values: [a, b]}
- {my-asn: 64512, peer-asn: 64514, peer-address: 10.0.0.9}
bgp-communities:
  world: 65000:2
  home: "large:1:2:3"
bfd-profiles:
- name: fast-one
  receive-interval: 35
  transmit-interval: 36
  echo-interval: 37
  detect-multiplier: 5
  minimum-ttl: 10
  echo-mode: false
  passive-mode: yes
address-pools:
- name: lan
  protocol: layer2
  addresses: [10.1.0.0/24]
  auto-assign: no
- name: wan
  protocol: bgp
  avoid-buggy-ips: true
  addresses: [10.2.0.0/24, "fc00::/120"]
  bgp-advertisements:
  - aggregation-length: 24
    aggregation-length-v6: 120
    localpref: 100
    communities: [world, "65000:1"]
  - {}
- name: bare
  protocol: bgp
  addresses: [10.3.0.0/24]
"#,
    );
    let named = |name: &str, spec: Value| (name.to_owned(), spec);
    assert_eq!(
        specs(&converted.objects.bgp_peers),
        [
            named(
                "peer-10-0-0-1",
                json!({"myASN": 64512, "peerASN": 64513, "peerAddress": "10.0.0.1", "sourceAddress": "10.0.0.2",
                "routerID": "10.0.0.3", "peerPort": 1179, "holdTime": "181s", "keepaliveTime": "30s", "password": "0123",
                "bfdProfile": "fast-one", "ebgpMultiHop": true, "nodeSelectors": [{"matchLabels": {"rack": "1"},
                "matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}]})
            ),
            named(
                "peer-10-0-0-9",
                json!({"myASN": 64512, "peerASN": 64514, "peerAddress": "10.0.0.9", "peerPort": 179, "holdTime": "90s"})
            ),
        ]
    );
    assert_eq!(
        specs(&converted.objects.communities),
        [named(
            "communities",
            json!({"communities": [
            {"name": "home", "value": "large:1:2:3"}, {"name": "world", "value": "65000:2"}]})
        )]
    );
    assert_eq!(
        specs(&converted.objects.bfd_profiles),
        [named(
            "fast-one",
            json!({"receiveInterval": 35, "transmitInterval": 36, "echoInterval": 37, "detectMultiplier": 5,
            "minimumTtl": 10, "echoMode": false, "passiveMode": true})
        )]
    );
    assert_eq!(
        specs(&converted.objects.pools),
        [
            named("lan", json!({"addresses": ["10.1.0.0/24"], "autoAssign": false, "avoidBuggyIPs": false})),
            named(
                "wan",
                json!({"addresses": ["10.2.0.0/24", "fc00::/120"], "autoAssign": true, "avoidBuggyIPs": true})
            ),
            named("bare", json!({"addresses": ["10.3.0.0/24"], "autoAssign": true, "avoidBuggyIPs": false})),
        ]
    );
    assert_eq!(
        specs(&converted.objects.l2_advertisements),
        [named("lan", json!({"ipAddressPools": ["lan"]}))]
    );
    assert_eq!(
        specs(&converted.objects.bgp_advertisements),
        [
            named(
                "wan",
                json!({"aggregationLength": 24, "aggregationLengthV6": 120, "localPref": 100,
                "communities": ["world", "65000:1"], "ipAddressPools": ["wan"]})
            ),
            named(
                "wan-2",
                json!({"aggregationLength": 32, "aggregationLengthV6": 128, "ipAddressPools": ["wan"]})
            ),
            named(
                "bare",
                json!({"aggregationLength": 32, "aggregationLengthV6": 128, "ipAddressPools": ["bare"]})
            ),
        ]
    );
    let (_, findings) = Configuration::from_objects(&converted.objects);
    assert!(findings.iter().all(|finding| finding.severity == Severity::Warning), "{findings:?}");
}

#[test]
fn what_cannot_be_converted_is_reported_with_its_line() {
    assert_eq!(
        fields_of_findings("address-pools:\n- name: a\n  protocol: arp\n  cidr:\n  - 10.0.0.0/24\n"),
        ["line 2 address-pools[0]", "line 3 address-pools[0].protocol", "line 4 address-pools[0].cidr",]
    );
    assert_eq!(fields_of_findings("pools: []\n"), ["line 1 pools"]);
    assert_eq!(
        fields_of_findings(
            "address-pools:\n- name: a\n  protocol: layer2\n  addresses:\n  - 10.0.0.0/24\n  - 10.0.1.5\n"
        ),
        ["line 6 address-pools[0].addresses[1]",]
    );
    assert_eq!(
        fields_of_findings("peers:\n- my-asn: 0\n  peer-asn: 1\n  peer-address: 10.0.0.1\n"),
        ["line 2 peers[0].my-asn", "line 2 peers[0]",]
    );
    assert_eq!(fields_of_findings("bgp-communities:\n  x: 1:70000\n"), ["line 2 bgp-communities.x"]);
    assert_eq!(
        fields_of_findings("bfd-profiles:\n- name: f\n  echo-interval: fast\n"),
        ["line 3 bfd-profiles[0].echo-interval"]
    );
    assert_eq!(fields_of_findings("address-pools: all\n"), ["line 1 address-pools"]);
    assert_eq!(
        fields_of_findings("address-pools:\n- all\n"),
        ["line 2 address-pools[0]", "line 2 address-pools[0]",]
    );
}

#[test]
fn a_pool_with_an_invalid_address_is_converted_so_that_no_service_loses_its_address() {
    let text = "address-pools:\n- name: a\n  protocol: layer2\n  addresses: [10.0.0.0/24, 10.1]\n";
    let (converted, _) = convert(text, "config", "n").unwrap();
    assert_eq!(converted.objects.pools[0].spec.addresses, ["10.0.0.0/24", "10.1"]);
}

#[test]
fn text_that_is_not_valid_yaml_is_an_error_with_its_line() {
    let error = convert("address-pools:\n- name: a\n  addresses: [\n", "config", "n").unwrap_err();
    assert!(error.line >= 3, "{error}");
    assert!(!error.empty);
}

#[test]
fn an_empty_text_does_not_mean_an_empty_configuration() {
    for text in
        ["", "  \n", "# nothing yet\n", "---\n", "address-pools:\n", "{}", "address-pools:\npeers: ~\n"]
    {
        assert!(convert(text, "config", "n").unwrap_err().empty, "{text:?}");
    }
    for text in ["address-pools: []\n", "address-pools:\npeers: []\n"] {
        assert_eq!(convert(text, "config", "n").unwrap(), (Converted::default(), vec![]), "{text:?}");
    }
}

#[test]
fn only_the_objects_of_an_entry_with_an_error_are_marked_as_invalid() {
    let pool = |name: &str, more: &str| {
        format!("- name: {name}\n  protocol: layer2\n  addresses: [10.0.0.0/24]\n{more}")
    };
    let invalid = |text: &str| -> Vec<String> {
        convert(text, "config", "n").unwrap().0.invalid.iter().map(ToString::to_string).collect()
    };
    let text = format!("address-pools:\n{}{}", pool("good", ""), pool("bad", "  auto-asign: false\n"));
    assert_eq!(invalid(&text), ["IPAddressPool bad", "L2Advertisement bad"]);
    let text = "address-pools:\n- name: bad\n  protocol: bgp\n  addresses: [10.0.0.0/24]\n  \
                bgp-advertisements: [{}, {localpref: much}]\n";
    assert_eq!(invalid(text), ["BGPAdvertisement bad", "BGPAdvertisement bad-2", "IPAddressPool bad"]);
    let text = format!("address-pools:\n{}{}", pool("twice", ""), pool("twice", ""));
    assert_eq!(invalid(&text), ["IPAddressPool twice", "L2Advertisement twice"], "either may be intended");
    let text = "bfd-profiles:\n- {name: f, echo-mode: maybe}\n- {name: g}\n\
                peers:\n- {my-asn: 1, peer-asn: 2, peer-address: 10.0.0.1, hold-time: 3}\n\
                bgp-communities: {x: y}\n";
    assert_eq!(invalid(text), ["BFDProfile f", "BGPPeer peer-10-0-0-1", "Community communities"]);
    let text = "bfd-profiles:\n- {name: f}\n- {name: f, echo-mode: true}\n";
    assert_eq!(invalid(text), ["BFDProfile f"]);
    let object = |spec: Value| {
        let json = json!({"apiVersion": "metallb.io/v1beta1", "kind": "AddressPool", "metadata": {"name": "a"}, "spec": spec});
        Arc::new(serde_json::from_value::<crds::LegacyAddressPool>(json).unwrap())
    };
    let (converted, _) =
        convert_address_pools(&[object(json!({"protocol": "layer2", "addresses": ["10.0.0.300"]}))], "n");
    assert_eq!(converted.invalid.len(), 2, "{:?}", converted.invalid);
}

#[test]
fn adding_or_removing_an_entry_does_not_change_the_objects_of_the_others() {
    let pool = |name: &str, net: &str| {
        format!(
            "- {{name: {name}, protocol: layer2, addresses: [{net}]}}\n- {{name: {name}-bgp, protocol: bgp, \
             addresses: [1{net}], bgp-advertisements: [{{}}, {{localpref: 7}}]}}\n"
        )
    };
    let peer = |address: &str| format!("- {{my-asn: 1, peer-asn: 2, peer-address: {address}}}\n");
    let (old, new) = (pool("old", "0.0.0.0/24"), pool("new", "0.0.1.0/24"));
    let before = format!("address-pools:\n{old}peers:\n{}", peer("fc00::1"));
    let after = format!("address-pools:\n{new}{old}peers:\n{}{}", peer("10.0.0.9"), peer("fc00::1"));
    let (before, after) = (convert_valid(&before).objects, convert_valid(&after).objects);
    assert!(before.pools.iter().all(|object| after.pools.contains(object)));
    assert!(before.l2_advertisements.iter().all(|object| after.l2_advertisements.contains(object)));
    assert!(before.bgp_advertisements.iter().all(|object| after.bgp_advertisements.contains(object)));
    assert!(before.bgp_peers.iter().all(|object| after.bgp_peers.contains(object)));
}

#[test]
fn no_two_objects_get_the_same_name() {
    let text = "address-pools:\n\
                - {name: a, protocol: bgp, addresses: [10.0.0.0/24], bgp-advertisements: [{}, {localpref: 1}]}\n\
                - {name: a-2, protocol: bgp, addresses: [10.0.1.0/24]}\n\
                peers:\n- {my-asn: 1, peer-asn: 2, peer-address: 10.0.0.1}\n\
                - {my-asn: 1, peer-asn: 2, peer-address: 10.0.0.1, peer-port: 1179}\n";
    let converted = convert_valid(text);
    let names = |list: Vec<(String, Value)>| list.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(specs(&converted.objects.bgp_advertisements)), ["a", "a-2-bgp", "a-2"]);
    assert_eq!(names(specs(&converted.objects.bgp_peers)), ["peer-10-0-0-1", "peer-10-0-0-1-2"]);
}

#[test]
fn empty_documents_at_the_end_are_ignored() {
    let text = "address-pools:\n- {name: a, protocol: layer2, addresses: [10.0.0.0/24]}\n";
    let plain = convert_valid(text);
    for text in [
        format!("{text}---\n"),
        format!("---\n{text}...\n"),
        format!("---\n{text}---\n\n# the end\n---\n"),
        format!("{text}---"),
    ] {
        assert_eq!(convert_valid(&text), plain, "{text:?}");
    }
}

#[test]
fn deeply_nested_text_is_rejected_before_it_exhausts_the_stack() {
    for depth in [64, 100, 255, 600, 2_000, 20_000] {
        for text in [
            "[".repeat(depth),
            format!("address-pools: {}{}", "[".repeat(depth), "]".repeat(depth)),
            format!("{}x{}", "{a: ".repeat(depth), "}".repeat(depth)),
            format!("{}x", "- ".repeat(depth)),
            (0..depth.min(600)).map(|level| format!("{}a:\n", " ".repeat(level))).collect(),
        ] {
            let read = || convert(&text, "config", "n").map(|_| ()).unwrap_err();
            // The size of the stack of a worker thread.
            let error = std::thread::scope(|scope| {
                std::thread::Builder::new().stack_size(2 << 20).spawn_scoped(scope, read).unwrap().join()
            });
            let error = error.expect("the reader must not exhaust the stack");
            assert!(error.problem.contains("nested deeper"), "{depth}: {error}");
        }
    }
}

#[test]
fn the_hint_for_an_address_pool_is_a_command_that_makes_the_user_the_manager_of_its_objects() {
    let json = json!({"apiVersion": "metallb.io/v1beta1", "kind": "AddressPool", "metadata": {"name": "a"},
        "spec": {"protocol": "layer2", "addresses": ["10.0.0.0/24"]}});
    let (_, findings) = convert_address_pools(&[Arc::new(serde_json::from_value(json).unwrap())], "lb");
    let label = crds::names::LABEL_IMPORTED_FROM;
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    assert!(finding.hint.contains(&format!(
        "kubectl -n lb get ipaddresspools,l2advertisements,bgpadvertisements -l {label}="
    )));
    assert!(finding.hint.contains("| kubectl apply -f -; then delete the AddressPool"), "{}", finding.hint);
}

#[test]
fn names_that_are_not_valid_are_converted_and_reported() {
    let text = "address-pools:\n- name: My_Pool\n  protocol: layer2\n  addresses: [10.0.0.0/24]\n- name: my-pool\n  protocol: layer2\n  addresses: [10.0.1.0/24]\n";
    let (converted, findings) = convert(text, "config", "n").unwrap();
    assert_eq!(specs(&converted.objects.pools).len(), 1);
    let found: Vec<_> = findings.iter().map(|finding| (finding.field.as_str(), finding.severity)).collect();
    assert_eq!(
        found,
        [("line 2 address-pools[0].name", Severity::Warning), ("line 5 address-pools", Severity::Error)]
    );
}

#[test]
fn an_address_pool_is_converted_to_a_pool_and_its_advertisements() {
    let object = |name: &str, spec: Value| {
        let json = json!({"apiVersion": "metallb.io/v1beta1", "kind": "AddressPool", "metadata": {"name": name}, "spec": spec});
        Arc::new(serde_json::from_value::<crds::LegacyAddressPool>(json).unwrap())
    };
    let (converted, findings) = convert_address_pools(
        &[
            object("lan", json!({"protocol": "layer2", "addresses": ["10.0.0.0/24"], "autoAssign": false})),
            object(
                "wan",
                json!({"protocol": "bgp", "addresses": ["10.1.0.0/24"], "bgpAdvertisements": [{"localPref": 7}, {}]}),
            ),
            object("bad", json!({"protocol": "layer2", "addresses": [], "bgpAdvertisements": [{}]})),
            object("odd", json!({"protocol": "rip", "addresses": ["10.2.0.0/24"]})),
        ],
        "metallb-system",
    );
    let names = |list: Vec<(String, Value)>| list.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(specs(&converted.objects.pools)), ["bad", "lan", "odd", "wan"]);
    assert!(!converted.objects.pools[1].spec.auto_assign);
    assert_eq!(names(specs(&converted.objects.l2_advertisements)), ["bad", "lan"]);
    assert_eq!(names(specs(&converted.objects.bgp_advertisements)), ["wan", "wan-2"]);
    let errors: Vec<_> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .map(|finding| (finding.object.name.as_str(), finding.field.as_str()))
        .collect();
    assert_eq!(
        errors,
        [("bad", "spec.addresses"), ("bad", "spec.bgpAdvertisements"), ("odd", "spec.protocol")]
    );
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_conversion_panic(text in "(?s).{0,200}", shape in "[-a-z:\\[\\]{}\"'&*!|>#%@ \n]{0,200}") {
        let _ = convert(&text, "config", "n");
        let _ = convert(&shape, "config", "n");
        let _ = convert(&format!("address-pools:\n- name: {shape}"), "config", "n");
    }
}
