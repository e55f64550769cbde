//! The rendered objects, as they are sent to the API server.

use std::collections::{BTreeMap, BTreeSet};

use crds::{LoadBalancerStack, LoadBalancerStackSpec};
use serde_json::{Value, json};

use super::*;

pub(crate) fn stack(spec: Value) -> LoadBalancerStack {
    let spec: LoadBalancerStackSpec = serde_json::from_value(spec).unwrap();
    let mut stack = LoadBalancerStack::new("default", spec);
    stack.metadata.uid = Some("11111111-2222-3333-4444-555555555555".to_owned());
    stack
}

pub(crate) fn inputs() -> RenderInputs {
    RenderInputs {
        default_image: Some("example.test/lbstack:v1".into()),
        beacon_key: BeaconKey::new([7; 32]),
        nodes: 3,
        legacy: legacy::Sources::default(),
        recreated_accounts: BTreeMap::new(),
    }
}

pub(crate) fn rendered(spec: Value) -> Vec<Object> {
    build(&validate(&stack(spec), inputs()).unwrap()).0
}

fn json_of(objects: &[Object]) -> Vec<Value> {
    objects.iter().map(|object| object.to_json().unwrap()).collect()
}

fn find(objects: &[Object], kind: Kind, name: &str) -> Value {
    let found = objects.iter().find(|object| object.key().kind == kind && object.key().name == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}")).to_json().unwrap()
}

#[test]
fn an_empty_spec_renders_the_whole_stack_without_pools() {
    insta::assert_json_snapshot!("empty", json_of(&rendered(json!({}))));
}

#[test]
fn every_setting_reaches_the_objects() {
    let objects = rendered(json!({
        "namespace": "lb",
        "image": "registry.test/x:1",
        "imagePullPolicy": "Always",
        "loadBalancerClass": "example.com/lan",
        "logLevel": "debug",
        "addressPools": [
            {"name": "lan", "addresses": ["192.168.33.20-192.168.33.30"], "avoidBuggyIPs": true,
             "reserved": [{"addresses": "192.168.33.21", "note": "printer"}],
             "quotas": [{"maxAddresses": 3, "namespaceSelector": {"matchLabels": {"a": "b"}}}]},
            {"name": "quiet", "addresses": ["fd00::/120"], "autoAssign": false, "layer2": {"enabled": false},
             "serviceAllocation": {"priority": 5, "namespaces": ["shop"]}},
            {"name": "edge", "addresses": ["10.1.0.0/24"],
             "layer2": {"interfaces": ["eth1"], "nodeSelectors": [{"matchLabels": {"edge": "yes"}}]}},
        ],
        "controller": {
            "replicas": 3,
            "resources": {"limits": {"cpu": "1000m"}},
            "nodeSelector": {"pool": "infra"},
            "tolerations": [{"key": "infra", "operator": "Exists"}],
            "affinity": {},
            "topologySpreadConstraints":
                [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
            "priorityClassName": "mine",
            "annotations": {"a.test/b": "c"},
            "labels": {"team": "net"},
        },
        "speaker": {"labels": {"team": "net"}, "tolerations": [{"key": "x", "operator": "Exists"}],
                    "excludeInterfaces": ["^a$", "^b$"], "excludeLabel": "Honour", "placement": "Hash",
                    "conflictDetection": "Off", "beacon": {"port": 1234, "intervalMs": 50, "misses": 5},
                        "adminPort": 17472,
                    "updateStrategy": {"type": "RollingUpdate", "maxUnavailable": "10%"}},
    }));
    insta::assert_json_snapshot!("everything", json_of(&objects));
}

#[test]
fn the_admin_port_sets_the_flag_the_container_port_and_the_probes() {
    let objects = rendered(json!({"speaker": {"adminPort": 17472}}));
    let container =
        |kind, name| find(&objects, kind, name)["spec"]["template"]["spec"]["containers"][0].clone();
    let (speaker, controller) =
        (container(Kind::DaemonSet, "speaker"), container(Kind::Deployment, "controller"));
    assert!(speaker["args"].as_array().unwrap().contains(&json!("--admin-address=[::]:17472")));
    assert_eq!(speaker["ports"][0]["containerPort"], 17472);
    // Probes refer to the port by name.
    for probe in ["livenessProbe", "readinessProbe"] {
        assert_eq!(speaker[probe]["httpGet"]["port"], speaker["ports"][0]["name"]);
    }
    // The controller does not use the host network, so its port cannot conflict.
    assert_eq!(controller["ports"][0]["containerPort"], 7472);
}

#[test]
fn the_last_log_lines_become_the_termination_message() {
    let objects = rendered(json!({}));
    for (kind, name) in [(Kind::DaemonSet, "speaker"), (Kind::Deployment, "controller")] {
        let container = &find(&objects, kind, name)["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["terminationMessagePolicy"], "FallbackToLogsOnError");
    }
}

#[test]
fn rendering_is_deterministic() {
    let spec = json!({"addressPools": [{"name": "a", "addresses": ["10.0.0.0/24"]}]});
    assert_eq!(rendered(spec.clone()), rendered(spec));
}

#[test]
fn a_disruption_budget_never_holds_the_only_node() {
    let budget = |nodes: i32, replicas: i32| {
        let stack = stack(json!({"controller": {"replicas": replicas}}));
        let objects = build(&validate(&stack, RenderInputs { nodes, ..inputs() }).unwrap()).0;
        objects.iter().any(|object| object.key().kind == Kind::PodDisruptionBudget)
    };
    assert!(budget(2, 2));
    assert!(!budget(1, 2), "what is evicted from the only node has nowhere to go");
    assert!(!budget(0, 2), "not known yet");
    assert!(!budget(3, 1), "a single replica could never be evicted gracefully");
}

#[test]
fn the_speaker_has_one_capability_and_the_controller_none() {
    let objects = rendered(json!({}));
    let context = |kind, name| {
        find(&objects, kind, name)["spec"]["template"]["spec"]["containers"][0]["securityContext"].clone()
    };
    let (speaker, controller) =
        (context(Kind::DaemonSet, "speaker"), context(Kind::Deployment, "controller"));
    assert_eq!(speaker["capabilities"], json!({"add": ["NET_RAW"], "drop": ["ALL"]}));
    assert_eq!(controller["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!((&speaker["runAsUser"], &controller["runAsUser"]), (&json!(0), &json!(65534)));
    for context in [speaker, controller] {
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
    }
}

#[test]
fn everything_but_the_namespace_is_owned_by_the_stack_and_labelled_as_managed() {
    for object in json_of(&rendered(json!({"addressPools": [{"name": "a", "addresses": ["10.0.0.0/24"]}]}))) {
        let owned = object["metadata"]["ownerReferences"][0]["kind"] == "LoadBalancerStack";
        assert_eq!(owned, object["kind"] != "Namespace", "{object}");
        assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/managed-by"], "lbstack-operator");
    }
}

#[test]
fn debug_output_does_not_contain_the_key() {
    let validated = validate(&stack(json!({})), inputs()).unwrap();
    assert!(!format!("{validated:?}").contains("0707"));
}

#[test]
fn a_legacy_config_map_is_imported_and_inline_pools_take_precedence() {
    let text = "address-pools:\n- name: old\n  protocol: layer2\n  addresses: [10.9.0.0/24]\n\
                - name: lan\n  protocol: layer2\n  addresses: [10.8.0.0/24]\n";
    let legacy = config_map(Some(text));
    let spec = json!({"addressPools": [{"name": "lan", "addresses": ["10.7.0.0/24"]}]});
    let validated = validate(&stack(spec), RenderInputs { legacy, ..inputs() }).unwrap();
    let objects = build(&validated).0;
    let old = find(&objects, Kind::IpAddressPool, "old");
    assert_eq!(old["spec"]["addresses"], json!(["10.9.0.0/24"]));
    assert_eq!(old["metadata"]["labels"][crds::names::LABEL_IMPORTED_FROM], legacy::CONFIG_MAP);
    assert_eq!(old["metadata"]["ownerReferences"][0]["kind"], "LoadBalancerStack");
    assert_eq!(find(&objects, Kind::IpAddressPool, "lan")["spec"]["addresses"], json!(["10.7.0.0/24"]));
    assert_eq!(objects.iter().filter(|object| object.key().kind == Kind::IpAddressPool).count(), 2);
    let messages: Vec<String> = validated.warnings().iter().map(|finding| finding.field.clone()).collect();
    assert!(
        messages.iter().any(|field| field.contains("IPAddressPool") && field.contains("lan")),
        "{messages:?}"
    );
    assert!(!messages.iter().any(|field| field.contains("old")), "{messages:?}");
}

pub(crate) fn config_map(text: Option<&str>) -> legacy::Sources {
    let data = text.map(|text| ("config".to_owned(), text.to_owned())).into_iter().collect();
    let config_map = legacy::ConfigMapText { name: "config".into(), key: "config".into(), data };
    let imported = BTreeSet::from([legacy::CONFIG_MAP]);
    legacy::Sources { config_map: Some(config_map), imported, ..legacy::Sources::default() }
}

#[test]
fn a_config_map_without_its_key_is_reported_and_imported_objects_are_retained() {
    let legacy = config_map(None);
    let validated = validate(&stack(json!({})), RenderInputs { legacy, ..inputs() }).unwrap();
    assert!(validated.is_degraded());
    assert_eq!(validated.warnings()[0].problem, "has no key \"config\"");
    let key = Key { kind: Kind::IpAddressPool, namespace: Some("metallb-system".into()), name: "old".into() };
    assert!(validated.retains(&key, Some(legacy::CONFIG_MAP)));
}

#[test]
fn an_imported_pool_does_not_replace_a_rejected_inline_pool() {
    let text = "address-pools:\n- name: lan\n  protocol: layer2\n  addresses: [10.8.0.0/24]\n";
    let legacy = config_map(Some(text));
    let spec = json!({"addressPools": [{"name": "lan", "addresses": ["10.7.0.0/99"]}]});
    let validated = validate(&stack(spec), RenderInputs { legacy, ..inputs() }).unwrap();
    assert!(build(&validated).0.iter().all(|object| object.key().kind != Kind::IpAddressPool));
}

#[test]
fn a_recreated_service_account_rolls_out_its_workload() {
    let template = |inputs: RenderInputs, kind: Kind| {
        let objects = build(&validate(&stack(json!({})), inputs).unwrap()).0;
        let workload = objects.into_iter().find(|object| object.key().kind == kind).unwrap();
        workload.to_json().unwrap()["spec"]["template"]["metadata"]["annotations"].clone()
    };
    let recreated =
        || RenderInputs { recreated_accounts: BTreeMap::from([("speaker", "uid-2".to_owned())]), ..inputs() };
    assert_eq!(template(recreated(), Kind::DaemonSet)["lbstack.dev/service-account"], "uid-2");
    assert_eq!(template(recreated(), Kind::Deployment), template(inputs(), Kind::Deployment));
}

fn with_config_map(text: Option<&str>) -> ValidatedStack {
    validate(&stack(json!({})), RenderInputs { legacy: config_map(text), ..inputs() }).unwrap()
}

fn in_namespace(kind: Kind, name: &str) -> Key {
    Key { kind, namespace: Some("metallb-system".into()), name: name.into() }
}

#[test]
fn an_error_in_the_config_map_deletes_nothing_that_was_imported_before() {
    let pool = "name: a\n  protocol: layer2\n  addresses: [10.0.0.0/24]\n";
    let imported = [
        in_namespace(Kind::IpAddressPool, "a"),
        in_namespace(Kind::L2Advertisement, "a"),
        in_namespace(Kind::BgpPeer, "p"),
    ];
    for (error, text) in [
        ("a mistyped key", Some(format!("adress-pools:\n- {pool}"))),
        ("nested once too often", Some("config: |\n  address-pools:\n  - name: a\n".to_owned())),
        ("a list where a map belongs", Some(format!("- {pool}"))),
        (
            "a mistyped name",
            Some("address-pools:\n- nam: a\n  protocol: layer2\n  addresses: [10.0.0.0/24]\n".to_owned()),
        ),
        (
            "a mistyped protocol",
            Some("address-pools:\n- name: a\n  protocol: Layer2\n  addresses: [10.0.0.0/24]\n".to_owned()),
        ),
        ("no protocol", Some("address-pools:\n- name: a\n  addresses: [10.0.0.0/24]\n".to_owned())),
        (
            "no addresses",
            Some("address-pools:\n- name: a\n  protocol: layer2\n  adresses: [10.0.0.0/24]\n".to_owned()),
        ),
        (
            "another entry with an error",
            Some("address-pools:\n- name: b\n  protocol: layer2\n  addresses: [10.300]\n".to_owned()),
        ),
        ("an empty text", Some(String::new())),
        ("only a comment", Some("# address-pools:\n".to_owned())),
        ("a list without a value", Some("address-pools:\n".to_owned())),
        ("no YAML", Some("address-pools: [\n".to_owned())),
        ("no such key", None),
    ] {
        let validated = with_config_map(text.as_deref());
        assert!(validated.is_degraded() && !validated.warnings().is_empty(), "{error} is reported");
        let rendered = build(&validated).0;
        for key in &imported {
            let same = rendered.iter().any(|object| object.key() == *key) && !validated.is_frozen(key);
            assert!(
                !same && validated.retains(key, Some(legacy::CONFIG_MAP)),
                "{error} changes or removes {key}"
            );
        }
        assert!(!validated.retains(&imported[0], Some(legacy::ADDRESS_POOL)), "{error}: of another source");
        assert!(!validated.retains(&imported[0], None), "{error}: not imported");
    }
    for text in ["address-pools: []\n", "peers: []\naddress-pools:\n"] {
        let validated = with_config_map(Some(text));
        assert!(
            !validated.is_degraded() && !validated.retains(&imported[0], Some(legacy::CONFIG_MAP)),
            "{text}"
        );
    }
}

#[test]
fn objects_of_an_entry_with_an_error_are_frozen_and_the_others_are_applied() {
    let text = "address-pools:\n- name: good\n  protocol: layer2\n  addresses: [10.0.0.0/24]\n\
                - name: bad\n  protocol: layer2\n  addresses: [10.0.1.0/24, 10.1]\n";
    let validated = with_config_map(Some(text));
    for kind in [Kind::IpAddressPool, Kind::L2Advertisement] {
        assert!(
            validated.is_frozen(&in_namespace(kind, "bad"))
                && !validated.is_frozen(&in_namespace(kind, "good"))
        );
    }
}

#[test]
fn of_two_conflicting_pools_neither_is_changed() {
    let text = "address-pools:\n- name: a\n  protocol: layer2\n  addresses: [10.0.0.0/24]\n\
                - name: b\n  protocol: layer2\n  addresses: [10.0.0.128/25]\n";
    let validated = with_config_map(Some(text));
    assert!(validated.is_degraded());
    assert!(
        validated.is_frozen(&in_namespace(Kind::IpAddressPool, "a")),
        "it may be the one that was edited"
    );
    assert!(validated.is_frozen(&in_namespace(Kind::IpAddressPool, "b")));
    let messages: Vec<String> = validated.warnings().iter().map(ToString::to_string).collect();
    assert!(
        messages.iter().any(|message| message.starts_with("imported IPAddressPool b spec.addresses")),
        "{messages:?}"
    );

    let spec = json!({"addressPools": [{"name": "a", "addresses": ["10.0.0.0/24"]},
        {"name": "b", "addresses": ["10.0.0.128/25"]}, {"name": "c", "addresses": ["10.0.1.0/24"]}]});
    let validated = validate(&stack(spec), inputs()).unwrap();
    assert!(validated.is_frozen(&in_namespace(Kind::IpAddressPool, "a")));
    assert!(validated.retains(&in_namespace(Kind::IpAddressPool, "b"), None));
    assert!(!validated.is_frozen(&in_namespace(Kind::IpAddressPool, "c")));
}

#[test]
fn an_inline_pool_renamed_with_an_error_in_one_edit_is_retained() {
    let pools = |pools: Value| validate(&stack(json!({"addressPools": pools})), inputs()).unwrap();
    let mistyped = pools(json!([{"name": "lan2", "addresses": ["10.0.0.300"]}]));
    for kind in [Kind::IpAddressPool, Kind::L2Advertisement, Kind::PoolPolicy] {
        assert!(mistyped.retains(&in_namespace(kind, "lan"), None), "{kind:?}");
    }
    assert!(!mistyped.retains(&in_namespace(Kind::IpAddressPool, "old"), Some(legacy::CONFIG_MAP)));
    let renamed = pools(json!([{"name": "lan2", "addresses": ["10.0.0.0/24"]}]));
    assert!(!renamed.retains(&in_namespace(Kind::IpAddressPool, "lan"), None));
}

#[test]
fn an_unrelated_config_map_of_that_name_is_ignored() {
    let legacy = |key: &str, text: &str, imported: bool| {
        let map = legacy::ConfigMapText {
            name: "config".into(),
            key: "config".into(),
            data: BTreeMap::from([(key.to_owned(), text.to_owned())]),
        };
        let imported = imported.then_some(legacy::CONFIG_MAP).into_iter().collect();
        legacy::Sources { config_map: Some(map), imported, ..legacy::Sources::default() }
    };
    let degraded =
        |legacy| validate(&stack(json!({})), RenderInputs { legacy, ..inputs() }).unwrap().is_degraded();
    let unrelated = "server:\n  listen: 0.0.0.0\n";
    assert!(!degraded(legacy("config", unrelated, false)) && !degraded(legacy("app.yaml", unrelated, false)));
    assert!(!degraded(legacy("config", "", false)));
    assert!(degraded(legacy("config", unrelated, true)), "what it replaced was imported");
    let pools = "address-pools:\n- {name: a, protocol: layer2, addresses: [10.0.0.0/24]}\n";
    assert!(degraded(legacy("config.yaml", pools, false)), "only its key is wrong");
    assert!(!degraded(legacy("config", pools, false)));
    for unrelated in [
        "routes:\n  bgp: true\n  layer2: no\n",
        "# see address-pools: and peer-address: of MetalLB\nmode: bgp\n",
        "text: the address-pool of a layer2 network has no auto-assign\npeers: [a, b]\n",
        "listeners:\n- protocol: BGP\n  port: 179\n",
        "{\"protocol\": \"tcp\", \"addresses\": [\"10.0.0.1\"]}",
    ] {
        assert!(!degraded(legacy("config", unrelated, false)), "{unrelated:?}");
        assert!(!degraded(legacy("app.yaml", unrelated, false)), "{unrelated:?}");
    }
    for mistaken in [
        "adress-pools:\n- name: a\n  protocol: layer2\n  addresses:\n  - 10.0.0.0/24\n",
        "config: |\n  address-pools:\n  - name: a\n",
        "{\"address-pools\":[{\"name\":\"a\"",
        "peers:\n- peer-address: 10.0.0.1\n  peer-asn: none\n",
    ] {
        assert!(degraded(legacy("config", mistaken, false)), "{mistaken:?}");
    }
}

#[test]
fn a_missing_config_map_deletes_nothing_unless_it_was_the_imported_one() {
    let validated = |named: &str, imported: &[&str]| {
        let legacy = legacy::Sources {
            named: named.to_owned(),
            imported: BTreeSet::from([legacy::CONFIG_MAP]),
            imported_config_maps: imported.iter().map(|&name| name.to_owned()).collect(),
            ..legacy::Sources::default()
        };
        validate(&stack(json!({})), RenderInputs { legacy, ..inputs() }).unwrap()
    };
    let pool = in_namespace(Kind::IpAddressPool, "lan");
    for imported in [&["config"][..], &["", "config"], &[""]] {
        let mistyped = validated("confg", imported);
        assert!(mistyped.is_degraded() && mistyped.retains(&pool, Some(legacy::CONFIG_MAP)), "{imported:?}");
        let message = mistyped.warnings()[0].to_string();
        assert!(
            message.starts_with("spec.legacyConfigMap.name \"confg\": there is no ConfigMap"),
            "{message}"
        );
    }
    let deleted = validated("config", &["config"]);
    assert!(!deleted.is_degraded() && !deleted.retains(&pool, Some(legacy::CONFIG_MAP)));
    assert!(!validated("config", &[]).is_degraded(), "most clusters have none");
}

#[test]
fn an_address_pool_that_cannot_be_decoded_deletes_nothing() {
    let undecoded = vec![("old".to_owned(), "missing field `protocol`".to_owned())];
    let legacy = legacy::Sources { undecoded, ..legacy::Sources::default() };
    let validated = validate(&stack(json!({})), RenderInputs { legacy, ..inputs() }).unwrap();
    assert!(validated.is_degraded());
    assert!(validated.retains(&in_namespace(Kind::IpAddressPool, "old"), Some(legacy::ADDRESS_POOL)));
    assert!(validated.warnings()[0].to_string().starts_with("AddressPool old: cannot be decoded"));
}

#[test]
fn a_rejected_inline_pool_is_reported_once() {
    let spec = json!({"addressPools": [{"name": "bad", "addresses": ["10.0.1.0/99"], "quotas":
        [{"maxAddresses": 1}]}]});
    let validated = validate(&stack(spec), inputs()).unwrap();
    let messages: Vec<String> = validated.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(messages[0].starts_with("spec.addressPools[0].addresses"), "{messages:?}");
}
