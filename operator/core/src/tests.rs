//! What is rendered, as it goes to the API.

use std::collections::BTreeMap;

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
    let text = text.map(str::to_owned);
    let config_map = legacy::ConfigMapText { name: "config".into(), key: "config".into(), text };
    legacy::Sources { config_map: Some(config_map), ..legacy::Sources::default() }
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
