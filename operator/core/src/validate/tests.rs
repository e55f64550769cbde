use serde_json::json;

use super::*;
use crate::object::Kind;
use crate::tests::{inputs, stack};

fn errors(spec: serde_json::Value) -> Vec<String> {
    validate(&stack(spec), inputs()).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn every_error_names_field_value_and_hint() {
    let messages = errors(json!({
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
    assert_eq!(messages.len(), expected.len(), "{messages:#?}");
    for (message, expected) in messages.iter().zip(expected) {
        assert!(message.starts_with(expected), "{message} does not start with {expected}");
        assert!(message.contains("; "), "{message} has no hint");
    }
}

#[test]
fn without_any_image_the_hint_says_where_to_set_one() {
    let inputs = RenderInputs { default_image: None, ..inputs() };
    let errors = validate(&stack(json!({})), inputs.clone()).unwrap_err();
    assert!(errors[0].hint.contains("RELATED_IMAGE_LBSTACK"));
    assert!(validate(&stack(json!({"image": "a"})), inputs).is_ok());
}

#[test]
fn one_bad_pool_is_withheld_and_the_rest_works() {
    let spec = json!({"addressPools": [
        {"name": "good", "addresses": ["10.0.0.0/24"]},
        {"name": "bad", "addresses": ["10.0.1.0/24", "10.0.300.1-10.0.300.2"]},
        {"name": "clash", "addresses": ["10.0.0.128/25"]},
        {"name": "kept", "addresses": ["10.0.9.0/24"], "reserved": [{"addresses": "10.0.9.300"}]},
    ]});
    let validated = validate(&stack(spec), inputs()).unwrap();
    let pools = validated.configuration.iter().filter(|object| object.key().kind == Kind::IpAddressPool);
    assert_eq!(pools.map(|pool| pool.key().name).collect::<Vec<_>>(), ["good"]);
    assert_eq!(validated.rejected, ["bad", "clash", "kept"]);
    let warnings: Vec<String> = validated.warnings().iter().map(ToString::to_string).collect();
    assert!(warnings[0].starts_with("spec.addressPools[1].addresses"), "{warnings:#?}");
    assert!(
        warnings.iter().any(|warning| warning.starts_with("spec.addressPools[2].addresses")),
        "{warnings:#?}"
    );
}

#[test]
fn a_stored_key_that_is_too_short_is_rejected() {
    assert_eq!(BeaconKey::stored(b"short"), None);
    let key = BeaconKey::new([1; 32]);
    assert_eq!(BeaconKey::stored(&key.bytes().0), Some(key));
}

#[test]
fn a_config_map_that_cannot_be_parsed_retains_what_was_imported() {
    let with = |text: &str| RenderInputs { legacy: crate::tests::config_map(Some(text)), ..inputs() };
    let key = Key { kind: Kind::IpAddressPool, namespace: Some("metallb-system".into()), name: "a".into() };
    let unreadable = validate(&stack(json!({})), with("address-pools: [")).unwrap();
    assert!(unreadable.retains(&key, Some(legacy::CONFIG_MAP)) && unreadable.is_degraded());
    assert!(!unreadable.retains(&key, None) && !unreadable.retains(&key, Some(legacy::ADDRESS_POOL)));
    assert!(
        unreadable.warnings()[0].to_string().starts_with("ConfigMap config line 1"),
        "{:?}",
        unreadable.warnings()
    );
}
