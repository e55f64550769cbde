use serde_json::json;

use super::*;
use crate::tests::{facts, stack};

fn faults(spec: serde_json::Value) -> Vec<String> {
    validate(&stack(spec), facts()).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn every_fault_names_field_value_and_remedy() {
    let said = faults(json!({
        "namespace": "Not A Name",
        "loadBalancerClass": "/x",
        "controller": {"replicas": 0, "labels": {"app": "mine", "a b": "c", "ok": "not ok"},
                       "resources": {"requests": {"cpu": "much"}}},
        "speaker": {"annotations": {"-": ""}, "nodeSelector": {"a": "b c"},
                    "excludeInterfaces": ["^eth.*", "(", "^a{1,2}$"]},
    }));
    let expected = [
        "spec.namespace \"Not A Name\"",
        "spec.loadBalancerClass \"/x\"",
        "spec.controller.replicas \"0\"",
        "spec.controller.labels \"a b\"",
        "spec.controller.labels[ok] \"not ok\"",
        "spec.controller.labels \"app\"",
        "spec.controller.resources.requests \"much\"",
        "spec.speaker.nodeSelector[a] \"b c\"",
        "spec.speaker.annotations \"-\"",
        "spec.speaker.excludeInterfaces[1] \"(\"",
        "spec.speaker.excludeInterfaces[2] \"^a{1,2}$\"",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.starts_with(expected), "{said} does not tell of {expected}");
        assert!(said.contains("; "), "{said} has no remedy");
    }
}

#[test]
fn without_any_image_the_message_tells_where_to_set_one() {
    let facts = Facts { default_image: None, ..facts() };
    let faults = validate(&stack(json!({})), facts.clone()).unwrap_err();
    assert!(faults[0].remedy.contains("RELATED_IMAGE_LBSTACK"));
    assert!(validate(&stack(json!({"image": "a"})), facts).is_ok());
}

#[test]
fn one_bad_pool_is_withheld_and_the_rest_works() {
    let spec = json!({"addressPools": [
        {"name": "good", "addresses": ["10.0.0.0/24"]},
        {"name": "bad", "addresses": ["10.0.1.0/24", "10.0.300.1-10.0.300.2"]},
        {"name": "clash", "addresses": ["10.0.0.128/25"]},
        {"name": "kept", "addresses": ["10.0.9.0/24"], "reserved": [{"addresses": "10.0.9.300"}]},
    ]});
    let validated = validate(&stack(spec), facts()).unwrap();
    assert_eq!(validated.pools.iter().map(|pool| pool.name.as_str()).collect::<Vec<_>>(), ["good"]);
    assert_eq!(validated.withheld, ["bad", "clash", "kept"]);
    let doubts: Vec<String> = validated.doubts().iter().map(ToString::to_string).collect();
    assert!(doubts[0].starts_with("spec.addressPools[1].addresses"), "{doubts:#?}");
    assert!(doubts.iter().any(|doubt| doubt.starts_with("spec.addressPools[2].addresses")), "{doubts:#?}");
}

#[test]
fn a_stored_key_that_is_too_short_is_none() {
    assert_eq!(BeaconKey::stored(b"short"), None);
    let key = BeaconKey::new([1; 32]);
    assert_eq!(BeaconKey::stored(&key.bytes().0), Some(key));
}

#[test]
fn a_text_that_cannot_be_read_keeps_what_was_imported() {
    let with = |text: &str| Facts { legacy: crate::tests::config_map(Some(text)), ..facts() };
    let key =
        Key { kind: crate::Kind::IpAddressPool, namespace: Some("metallb-system".into()), name: "a".into() };
    let unreadable = validate(&stack(json!({})), with("address-pools: [")).unwrap();
    assert!(unreadable.keeps(&key, Some(legacy::CONFIG_MAP)) && unreadable.is_spoiled());
    assert!(!unreadable.keeps(&key, None) && !unreadable.keeps(&key, Some(legacy::ADDRESS_POOL)));
    assert!(
        unreadable.doubts()[0].to_string().starts_with("ConfigMap config line 1"),
        "{:?}",
        unreadable.doubts()
    );
}
