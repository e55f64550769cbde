//! Properties of the generated CustomResourceDefinitions.

use serde_json::Value;

use super::*;

fn crd_json() -> Vec<Value> {
    all().iter().map(|crd| serde_json::to_value(crd).unwrap()).collect()
}

fn schema_of(kind: &str) -> Value {
    let crd = crd_json().into_iter().find(|crd| crd["spec"]["names"]["kind"] == kind).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn walk(value: &Value, visit: &mut impl FnMut(&Value)) {
    visit(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
        Value::Object(fields) => fields.values().for_each(|field| walk(field, visit)),
        _ => {}
    }
}

#[test]
fn every_format_in_a_schema_is_known_to_kubernetes() {
    for crd in crd_json() {
        walk(&crd, &mut |node| {
            if let Some(format) = node.get("format").and_then(Value::as_str) {
                assert!(["int32", "int64", "double", "date-time", "byte"].contains(&format), "{format}");
            }
        });
    }
}

#[test]
fn an_empty_spec_is_a_complete_stack_with_defaults() {
    let spec: LoadBalancerStackSpec = serde_json::from_str("{}").unwrap();
    assert_eq!(spec, LoadBalancerStackSpec::default());
    assert_eq!((spec.namespace.as_str(), spec.controller.replicas), ("metallb-system", 2));
    let defaults = &schema_of("LoadBalancerStack")["properties"]["spec"]["properties"];
    assert_eq!(defaults["namespace"]["default"], "metallb-system");
    assert_eq!(defaults["controller"]["default"]["replicas"], 2);
}

#[test]
fn the_singleton_rule_is_at_the_root_of_the_schema() {
    let rules = &schema_of("LoadBalancerStack")["x-kubernetes-validations"];
    assert_eq!(rules[0]["rule"], "self.metadata.name == 'default'");
}

#[test]
fn conditions_and_pools_are_maps_so_that_several_managers_can_own_their_entries() {
    let schema = schema_of("LoadBalancerStack");
    let conditions = &schema["properties"]["status"]["properties"]["conditions"];
    assert_eq!(conditions["x-kubernetes-list-map-keys"][0], "type");
    let pools = &schema["properties"]["spec"]["properties"]["addressPools"];
    assert_eq!(pools["x-kubernetes-list-map-keys"][0], "name");
}

#[test]
fn metallb_kinds_keep_their_names_versions_and_required_fields() {
    let expected = [
        ("IPAddressPool", "ipaddresspools.metallb.io", "v1beta1", Some("addresses")),
        ("L2Advertisement", "l2advertisements.metallb.io", "v1beta1", None),
        ("BGPAdvertisement", "bgpadvertisements.metallb.io", "v1beta1", None),
        ("BGPPeer", "bgppeers.metallb.io", "v1beta2", Some("myASN")),
        ("BFDProfile", "bfdprofiles.metallb.io", "v1beta1", None),
        ("Community", "communities.metallb.io", "v1beta1", None),
        ("AddressPool", "addresspools.metallb.io", "v1beta1", Some("addresses")),
        ("ServiceL2Status", "servicel2statuses.metallb.io", "v1beta1", None),
        ("ServiceBGPStatus", "servicebgpstatuses.metallb.io", "v1beta1", None),
        ("ConfigurationState", "configurationstates.metallb.io", "v1beta1", None),
    ];
    for (kind, name, stored, required) in expected {
        let crd = crd_json().into_iter().find(|crd| crd["spec"]["names"]["kind"] == kind).unwrap();
        assert_eq!(crd["metadata"]["name"], name);
        assert_eq!(crd["spec"]["scope"], "Namespaced");
        let versions = crd["spec"]["versions"].as_array().unwrap();
        let version = versions.iter().find(|version| version["storage"] == true).unwrap();
        assert_eq!(version["name"], stored, "{kind}");
        let schema = &version["schema"]["openAPIV3Schema"];
        let spec_required = schema["required"].as_array().is_some_and(|r| r.contains(&Value::from("spec")));
        // An AddressPool without a spec would be useless, and its schema is not needed for new objects.
        let needs_spec = ["IPAddressPool", "AddressPool"].contains(&kind);
        assert_eq!(spec_required, needs_spec, "{kind}");
        assert_eq!(schema["properties"]["spec"]["required"][0].as_str(), required, "{kind}");
    }
}

#[test]
fn the_older_versions_are_served_and_deprecated_and_oldest_first() {
    for (kind, expected) in [("BGPPeer", ["v1beta1", "v1beta2"]), ("AddressPool", ["v1alpha1", "v1beta1"])] {
        let crd = crd_json().into_iter().find(|crd| crd["spec"]["names"]["kind"] == kind).unwrap();
        let versions = crd["spec"]["versions"].as_array().unwrap();
        let names: Vec<&str> = versions.iter().map(|version| version["name"].as_str().unwrap()).collect();
        assert_eq!(names, expected);
        assert!(versions.iter().all(|version| version["served"] == true));
        assert_eq!(versions[0]["deprecated"], true);
        let none = serde_json::json!({"strategy": "None"});
        assert_eq!(
            crd["spec"]["conversion"], none,
            "the versions have the same JSON; set explicitly, since MetalLB's definition has a webhook"
        );
    }
}

#[test]
fn a_peer_of_the_older_version_is_the_same_in_the_newer_and_back() {
    let json = serde_json::json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "BGPPeer", "metadata": {"name": "p"},
        "spec": {"myASN": 64512, "peerASN": 64513, "peerAddress": "10.0.0.1", "sourceAddress": "10.0.0.2",
            "peerPort": 179, "holdTime": "90s", "keepaliveTime": "30s", "routerID": "10.0.0.3",
            "nodeSelectors": [{"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]}],
            "password": "hunter2", "bfdProfile": "b", "ebgpMultiHop": true},
    });
    let older: bgp_peer::v1beta1::BGPPeer = serde_json::from_value(json.clone()).unwrap();
    let newer: BGPPeer = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(serde_json::to_value(&older).unwrap()["spec"], json["spec"]);
    let mut back = serde_json::to_value(&newer).unwrap()["spec"].clone();
    back.as_object_mut().unwrap().retain(|field, _| json["spec"].get(field).is_some());
    assert_eq!(back, json["spec"]);
    assert!(!format!("{older:?}{newer:?}").contains("hunter2"));
}

#[test]
fn defaults_are_those_that_metallb_writes_into_stored_objects() {
    let spec = |kind: &str| schema_of(kind)["properties"]["spec"]["properties"].clone();
    assert_eq!(spec("IPAddressPool")["autoAssign"]["default"], true);
    assert_eq!(spec("IPAddressPool")["avoidBuggyIPs"]["default"], false);
    assert_eq!(spec("BGPAdvertisement")["aggregationLength"]["default"], 32);
    assert_eq!(spec("BGPAdvertisement")["aggregationLengthV6"]["default"], 128);
    assert_eq!(spec("BGPPeer")["peerPort"]["default"], 179);
    assert_eq!(spec("AddressPool")["autoAssign"]["default"], true);
}

#[test]
fn a_status_that_an_older_definition_has_pruned_is_deserialized() {
    let metadata = serde_json::json!({"name": "lan"});
    let spec = serde_json::json!({"addresses": ["10.0.0.0/24"]});
    for status in [serde_json::json!({}), serde_json::json!({"assignedIPv4": 3})] {
        let pool = serde_json::json!({"metadata": metadata, "spec": spec, "status": status,
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool"});
        let pool: IPAddressPool = serde_json::from_value(pool).unwrap();
        assert_eq!(pool.status.unwrap().assigned_ipv6, 0);
    }
    for status in ["components", "inventory"] {
        let status = serde_json::json!({status: [{}]});
        assert!(serde_json::from_value::<LoadBalancerStackStatus>(status.clone()).is_ok(), "{status}");
    }
}

#[test]
fn every_field_of_a_status_is_optional() {
    macro_rules! read_empty {
        ($($status:ty),+) => { $(serde_json::from_str::<$status>("{}").unwrap();)+ };
    }
    read_empty!(
        IPAddressPoolStatus,
        ConfigurationStateStatus,
        ConfigurationStatus,
        ServiceL2StatusStatus,
        ServiceBGPStatusStatus,
        PoolPolicyStatus,
        LoadBalancerStackStatus
    );
}

#[test]
fn a_result_of_a_newer_version_is_unknown() {
    let read = |word: &str| serde_json::from_value::<ConfigurationResult>(word.into()).unwrap();
    assert_eq!(
        ["Valid", "Invalid", "Unknown", "Degraded"].map(read),
        [
            ConfigurationResult::Valid,
            ConfigurationResult::Invalid,
            ConfigurationResult::Unknown,
            ConfigurationResult::Unknown,
        ]
    );
}

#[test]
fn the_list_of_stacks_shows_whether_one_is_degraded() {
    let stack =
        crd_json().into_iter().find(|crd| crd["spec"]["names"]["kind"] == "LoadBalancerStack").unwrap();
    let columns = stack["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap().clone();
    let column = columns.iter().find(|column| column["name"] == "Degraded").unwrap();
    assert_eq!(column["jsonPath"], ".status.conditions[?(@.type=='Degraded')].status");
    assert!(column.get("priority").is_none_or(|priority| *priority == 0), "without -o wide");
}
