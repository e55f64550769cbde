//! What is rendered, as it goes to the API.

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

pub(crate) fn facts() -> Facts {
    Facts {
        default_image: Some("example.test/lbstack:v1".into()),
        beacon_key: BeaconKey::new([7; 32]),
        nodes: 3,
        legacy: legacy::Sources::default(),
        renewed_accounts: BTreeMap::new(),
    }
}

pub(crate) fn rendered(spec: Value) -> Vec<Object> {
    render(&validate(&stack(spec), facts()).unwrap()).0
}

fn json_of(objects: &[Object]) -> Vec<Value> {
    objects.iter().map(|object| object.to_json().unwrap()).collect()
}

fn find(objects: &[Object], kind: Kind, name: &str) -> Value {
    let found = objects.iter().find(|object| object.key().kind == kind && object.key().name == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}")).to_json().unwrap()
}

#[test]
fn an_empty_spec_is_the_whole_stack_without_pools() {
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
                    "conflictDetection": "Off", "beacon": {"port": 1234, "intervalMs": 50, "misses": 5}, "adminPort": 17472,
                    "updateStrategy": {"type": "RollingUpdate", "maxUnavailable": "10%"}},
    }));
    insta::assert_json_snapshot!("everything", json_of(&objects));
}

#[test]
fn the_admin_port_of_the_stack_moves_flag_and_container_port_and_the_probes_go_with_it() {
    let objects = rendered(json!({"speaker": {"adminPort": 17472}}));
    let container =
        |kind, name| find(&objects, kind, name)["spec"]["template"]["spec"]["containers"][0].clone();
    let (speaker, controller) =
        (container(Kind::DaemonSet, "speaker"), container(Kind::Deployment, "controller"));
    assert!(speaker["args"].as_array().unwrap().contains(&json!("--admin-address=[::]:17472")));
    assert_eq!(speaker["ports"][0]["containerPort"], 17472);
    // By name.
    for probe in ["livenessProbe", "readinessProbe"] {
        assert_eq!(speaker[probe]["httpGet"]["port"], speaker["ports"][0]["name"]);
    }
    // It shares no network with others, so that its port is nobody else's.
    assert_eq!(controller["ports"][0]["containerPort"], 7472);
}

#[test]
fn why_a_process_has_ended_reaches_the_status_of_its_pod() {
    let objects = rendered(json!({}));
    for (kind, name) in [(Kind::DaemonSet, "speaker"), (Kind::Deployment, "controller")] {
        let container = &find(&objects, kind, name)["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["terminationMessagePolicy"], "FallbackToLogsOnError");
    }
}

#[test]
fn rendering_twice_gives_the_same() {
    let spec = json!({"addressPools": [{"name": "a", "addresses": ["10.0.0.0/24"]}]});
    assert_eq!(rendered(spec.clone()), rendered(spec));
}

#[test]
fn a_disruption_budget_never_holds_the_only_node() {
    let budget = |nodes: i32, replicas: i32| {
        let stack = stack(json!({"controller": {"replicas": replicas}}));
        let objects = render(&validate(&stack, Facts { nodes, ..facts() }).unwrap()).0;
        objects.iter().any(|object| object.key().kind == Kind::PodDisruptionBudget)
    };
    assert!(budget(2, 2));
    assert!(!budget(1, 2), "what is evicted from the only node has nowhere to go");
    assert!(!budget(0, 2), "not known yet");
    assert!(!budget(3, 1), "a single replica could never be evicted gracefully");
}

#[test]
fn the_speaker_keeps_one_capability_of_root_and_the_controller_none() {
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
fn everything_but_the_namespace_is_owned_by_the_stack_and_labelled_as_ours() {
    for object in json_of(&rendered(json!({"addressPools": [{"name": "a", "addresses": ["10.0.0.0/24"]}]}))) {
        let owned = object["metadata"]["ownerReferences"][0]["kind"] == "LoadBalancerStack";
        assert_eq!(owned, object["kind"] != "Namespace", "{object}");
        assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/managed-by"], "lbstack-operator");
    }
}

#[test]
fn a_key_is_shown_nowhere() {
    let validated = validate(&stack(json!({})), facts()).unwrap();
    assert!(!format!("{validated:?}").contains("0707"));
}

#[test]
fn an_old_config_map_becomes_objects_that_yield_to_inline_pools() {
    let text = "address-pools:\n- name: old\n  protocol: layer2\n  addresses: [10.9.0.0/24]\n\
                - name: lan\n  protocol: layer2\n  addresses: [10.8.0.0/24]\n";
    let legacy = config_map(Some(text));
    let spec = json!({"addressPools": [{"name": "lan", "addresses": ["10.7.0.0/24"]}]});
    let validated = validate(&stack(spec), Facts { legacy, ..facts() }).unwrap();
    let objects = render(&validated).0;
    let old = find(&objects, Kind::IpAddressPool, "old");
    assert_eq!(old["spec"]["addresses"], json!(["10.9.0.0/24"]));
    assert_eq!(old["metadata"]["labels"][crds::names::LABEL_IMPORTED_FROM], legacy::CONFIG_MAP);
    assert_eq!(old["metadata"]["ownerReferences"][0]["kind"], "LoadBalancerStack");
    assert_eq!(find(&objects, Kind::IpAddressPool, "lan")["spec"]["addresses"], json!(["10.7.0.0/24"]));
    assert_eq!(objects.iter().filter(|object| object.key().kind == Kind::IpAddressPool).count(), 2);
    let said: Vec<String> = validated.doubts().iter().map(|fault| fault.field.clone()).collect();
    assert!(said.iter().any(|field| field.contains("IPAddressPool") && field.contains("lan")), "{said:?}");
    assert!(!said.iter().any(|field| field.contains("old")), "{said:?}");
}

pub(crate) fn config_map(text: Option<&str>) -> legacy::Sources {
    let data = text.map(|text| ("config".to_owned(), text.to_owned())).into_iter().collect();
    let config_map = legacy::ConfigMapText { name: "config".into(), key: "config".into(), data };
    let imported = BTreeSet::from([legacy::CONFIG_MAP]);
    legacy::Sources { config_map: Some(config_map), imported, ..legacy::Sources::default() }
}

#[test]
fn an_old_config_map_without_its_key_is_told_and_what_was_imported_stays() {
    let legacy = config_map(None);
    let validated = validate(&stack(json!({})), Facts { legacy, ..facts() }).unwrap();
    assert!(validated.is_spoiled());
    assert_eq!(validated.doubts()[0].problem, "has no key \"config\"");
    let key = Key { kind: Kind::IpAddressPool, namespace: Some("metallb-system".into()), name: "old".into() };
    assert!(validated.keeps(&key, Some(legacy::CONFIG_MAP)));
}

#[test]
fn an_imported_pool_does_not_take_the_place_of_an_inline_pool_with_an_error() {
    let text = "address-pools:\n- name: lan\n  protocol: layer2\n  addresses: [10.8.0.0/24]\n";
    let legacy = config_map(Some(text));
    let spec = json!({"addressPools": [{"name": "lan", "addresses": ["10.7.0.0/99"]}]});
    let validated = validate(&stack(spec), Facts { legacy, ..facts() }).unwrap();
    assert!(render(&validated).0.iter().all(|object| object.key().kind != Kind::IpAddressPool));
}

#[test]
fn an_account_made_anew_rolls_the_pods_that_hold_tokens_of_the_old_one() {
    let template = |facts: Facts, kind: Kind| {
        let objects = render(&validate(&stack(json!({})), facts).unwrap()).0;
        let workload = objects.into_iter().find(|object| object.key().kind == kind).unwrap();
        workload.to_json().unwrap()["spec"]["template"]["metadata"]["annotations"].clone()
    };
    let renewed = || Facts { renewed_accounts: BTreeMap::from([("speaker", "uid-2".to_owned())]), ..facts() };
    assert_eq!(template(renewed(), Kind::DaemonSet)["lbstack.dev/service-account"], "uid-2");
    assert_eq!(template(renewed(), Kind::Deployment), template(facts(), Kind::Deployment));
}

fn with_config_map(text: Option<&str>) -> ValidatedStack {
    validate(&stack(json!({})), Facts { legacy: config_map(text), ..facts() }).unwrap()
}

fn in_namespace(kind: Kind, name: &str) -> Key {
    Key { kind, namespace: Some("metallb-system".into()), name: name.into() }
}

#[test]
fn requirement_1_a_slip_in_the_old_config_map_takes_nothing_away_that_was_imported_before() {
    let pool = "name: a\n  protocol: layer2\n  addresses: [10.0.0.0/24]\n";
    let imported = [
        in_namespace(Kind::IpAddressPool, "a"),
        in_namespace(Kind::L2Advertisement, "a"),
        in_namespace(Kind::BgpPeer, "p"),
    ];
    for (slip, text) in [
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
        assert!(validated.is_spoiled() && !validated.doubts().is_empty(), "{slip} is reported");
        let rendered = render(&validated).0;
        for key in &imported {
            let same = rendered.iter().any(|object| object.key() == *key) && !validated.is_frozen(key);
            assert!(
                !same && validated.keeps(key, Some(legacy::CONFIG_MAP)),
                "{slip} changes or removes {key}"
            );
        }
        assert!(!validated.keeps(&imported[0], Some(legacy::ADDRESS_POOL)), "{slip}: of another source");
        assert!(!validated.keeps(&imported[0], None), "{slip}: not imported");
    }
    for text in ["address-pools: []\n", "peers: []\naddress-pools:\n"] {
        let validated = with_config_map(Some(text));
        assert!(
            !validated.is_spoiled() && !validated.keeps(&imported[0], Some(legacy::CONFIG_MAP)),
            "{text}"
        );
    }
}

#[test]
fn an_entry_with_an_error_changes_nothing_that_exists_and_the_others_are_brought_about() {
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
fn of_two_pools_that_conflict_neither_is_changed() {
    let text = "address-pools:\n- name: a\n  protocol: layer2\n  addresses: [10.0.0.0/24]\n\
                - name: b\n  protocol: layer2\n  addresses: [10.0.0.128/25]\n";
    let validated = with_config_map(Some(text));
    assert!(validated.is_spoiled());
    assert!(
        validated.is_frozen(&in_namespace(Kind::IpAddressPool, "a")),
        "it may be the one that was edited"
    );
    assert!(validated.is_frozen(&in_namespace(Kind::IpAddressPool, "b")));
    let said: Vec<String> = validated.doubts().iter().map(ToString::to_string).collect();
    assert!(said.iter().any(|said| said.starts_with("imported IPAddressPool b spec.addresses")), "{said:?}");

    let spec = json!({"addressPools": [{"name": "a", "addresses": ["10.0.0.0/24"]},
        {"name": "b", "addresses": ["10.0.0.128/25"]}, {"name": "c", "addresses": ["10.0.1.0/24"]}]});
    let validated = validate(&stack(spec), facts()).unwrap();
    assert!(validated.is_frozen(&in_namespace(Kind::IpAddressPool, "a")));
    assert!(validated.keeps(&in_namespace(Kind::IpAddressPool, "b"), None));
    assert!(!validated.is_frozen(&in_namespace(Kind::IpAddressPool, "c")));
}

#[test]
fn requirement_1_an_inline_pool_that_is_renamed_and_mistyped_in_one_edit_stays() {
    let pools = |pools: Value| validate(&stack(json!({"addressPools": pools})), facts()).unwrap();
    let mistyped = pools(json!([{"name": "lan2", "addresses": ["10.0.0.300"]}]));
    for kind in [Kind::IpAddressPool, Kind::L2Advertisement, Kind::PoolPolicy] {
        assert!(mistyped.keeps(&in_namespace(kind, "lan"), None), "{kind:?}");
    }
    assert!(!mistyped.keeps(&in_namespace(Kind::IpAddressPool, "old"), Some(legacy::CONFIG_MAP)));
    let renamed = pools(json!([{"name": "lan2", "addresses": ["10.0.0.0/24"]}]));
    assert!(!renamed.keeps(&in_namespace(Kind::IpAddressPool, "lan"), None));
}

#[test]
fn an_unrelated_config_map_of_that_name_is_nobodys_fault() {
    let legacy = |key: &str, text: &str, imported: bool| {
        let map = legacy::ConfigMapText {
            name: "config".into(),
            key: "config".into(),
            data: BTreeMap::from([(key.to_owned(), text.to_owned())]),
        };
        let imported = imported.then_some(legacy::CONFIG_MAP).into_iter().collect();
        legacy::Sources { config_map: Some(map), imported, ..legacy::Sources::default() }
    };
    let spoiled = |legacy| validate(&stack(json!({})), Facts { legacy, ..facts() }).unwrap().is_spoiled();
    let unrelated = "server:\n  listen: 0.0.0.0\n";
    assert!(!spoiled(legacy("config", unrelated, false)) && !spoiled(legacy("app.yaml", unrelated, false)));
    assert!(!spoiled(legacy("config", "", false)));
    assert!(spoiled(legacy("config", unrelated, true)), "what it replaced was imported");
    let pools = "address-pools:\n- {name: a, protocol: layer2, addresses: [10.0.0.0/24]}\n";
    assert!(spoiled(legacy("config.yaml", pools, false)), "only its key is wrong");
    assert!(!spoiled(legacy("config", pools, false)));
    for unrelated in [
        "routes:\n  bgp: true\n  layer2: no\n",
        "# see address-pools: and peer-address: of MetalLB\nmode: bgp\n",
        "text: the address-pool of a layer2 network has no auto-assign\npeers: [a, b]\n",
        "listeners:\n- protocol: BGP\n  port: 179\n",
        "{\"protocol\": \"tcp\", \"addresses\": [\"10.0.0.1\"]}",
    ] {
        assert!(!spoiled(legacy("config", unrelated, false)), "{unrelated:?}");
        assert!(!spoiled(legacy("app.yaml", unrelated, false)), "{unrelated:?}");
    }
    for mistaken in [
        "adress-pools:\n- name: a\n  protocol: layer2\n  addresses:\n  - 10.0.0.0/24\n",
        "config: |\n  address-pools:\n  - name: a\n",
        "{\"address-pools\":[{\"name\":\"a\"",
        "peers:\n- peer-address: 10.0.0.1\n  peer-asn: none\n",
    ] {
        assert!(spoiled(legacy("config", mistaken, false)), "{mistaken:?}");
    }
}

#[test]
fn requirement_1_a_config_map_that_does_not_exist_takes_nothing_away_unless_it_was_the_one_imported() {
    let validated = |named: &str, imported: &[&str]| {
        let legacy = legacy::Sources {
            named: named.to_owned(),
            imported: BTreeSet::from([legacy::CONFIG_MAP]),
            imported_config_maps: imported.iter().map(|&name| name.to_owned()).collect(),
            ..legacy::Sources::default()
        };
        validate(&stack(json!({})), Facts { legacy, ..facts() }).unwrap()
    };
    let pool = in_namespace(Kind::IpAddressPool, "lan");
    for imported in [&["config"][..], &["", "config"], &[""]] {
        let mistyped = validated("confg", imported);
        assert!(mistyped.is_spoiled() && mistyped.keeps(&pool, Some(legacy::CONFIG_MAP)), "{imported:?}");
        let said = mistyped.doubts()[0].to_string();
        assert!(said.starts_with("spec.legacyConfigMap.name \"confg\": there is no ConfigMap"), "{said}");
    }
    let deleted = validated("config", &["config"]);
    assert!(!deleted.is_spoiled() && !deleted.keeps(&pool, Some(legacy::CONFIG_MAP)));
    assert!(!validated("config", &[]).is_spoiled(), "most clusters have none");
}

#[test]
fn an_address_pool_that_cannot_be_decoded_takes_nothing_away() {
    let undecoded = vec![("old".to_owned(), "missing field `protocol`".to_owned())];
    let legacy = legacy::Sources { undecoded, ..legacy::Sources::default() };
    let validated = validate(&stack(json!({})), Facts { legacy, ..facts() }).unwrap();
    assert!(validated.is_spoiled());
    assert!(validated.keeps(&in_namespace(Kind::IpAddressPool, "old"), Some(legacy::ADDRESS_POOL)));
    assert!(validated.doubts()[0].to_string().starts_with("AddressPool old: cannot be decoded"));
}

#[test]
fn a_rejected_inline_pool_is_reported_without_what_follows_from_it() {
    let spec = json!({"addressPools": [{"name": "bad", "addresses": ["10.0.1.0/99"], "quotas": [{"maxAddresses": 1}]}]});
    let validated = validate(&stack(spec), facts()).unwrap();
    let said: Vec<String> = validated.doubts().iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("spec.addressPools[0].addresses"), "{said:?}");
}
