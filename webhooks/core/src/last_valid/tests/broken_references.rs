//! Edits that replace a resolved reference by an unresolved one.

use k8s_openapi::api::core::v1::Namespace;

use super::*;

/// Pools, a peer, a BFD profile, a community and namespaces, as targets of references.
fn cluster() -> Objects {
    let namespace = |name: &str| {
        let object = json!({"metadata": {"name": name, "labels": {"team": name}}});
        Arc::new(serde_json::from_value::<Namespace>(object).unwrap())
    };
    let alias = json!({"communities": [{"name": "vip", "value": "65000:1"}]});
    Objects {
        bgp_peers: vec![object("BGPPeer", "router", 0, &peer("fast"))],
        bfd_profiles: vec![object("BFDProfile", "fast", 0, &json!({}))],
        communities: vec![object("Community", "names", 0, &alias)],
        namespaces: vec![namespace("shop"), namespace("web")],
        ..pools(&[("lan", 0, &["10.0.0.0/24"]), ("wan", 1, &["10.1.0.0/24"])])
    }
}

fn peer(profile: &str) -> Value {
    json!({"myASN": 1, "peerASN": 2, "peerAddress": "10.9.0.1", "bfdProfile": profile})
}

/// The cluster with one additional or replaced object.
fn with(kind: &'static str, spec: &Value) -> Objects {
    let mut objects = cluster();
    match kind {
        "IPAddressPool" => objects.pools[0] = object(kind, "lan", 0, spec),
        "L2Advertisement" => objects.l2_advertisements = vec![object(kind, "it", 0, spec)],
        "BGPAdvertisement" => objects.bgp_advertisements = vec![object(kind, "it", 0, spec)],
        "BGPPeer" => objects.bgp_peers = vec![object(kind, "router", 0, spec)],
        _ => objects.pool_policies = vec![object(kind, "it", 0, spec)],
    }
    objects
}

fn errors(findings: &[Finding]) -> Vec<(&'static str, &str)> {
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    errors.map(|finding| (finding.object.kind, finding.field.as_str())).collect()
}

fn by_label(team: &str) -> Value {
    json!([{"matchLabels": {"team": team}}])
}

fn of_namespaces(allocation: &Value) -> Value {
    json!({"addresses": ["10.0.0.0/24"], "serviceAllocation": allocation})
}

fn reserved(pool: &str, addresses: &[&str]) -> Value {
    let reserved: Vec<Value> = addresses.iter().map(|text| json!({"addresses": text})).collect();
    json!({"pool": pool, "reserved": reserved})
}

/// Valid versions of objects, each with an edit that breaks a reference, and the field of the error.
fn breaking_edits() -> Vec<(&'static str, Value, Value, &'static str)> {
    let pool_label = |name: &str| json!({"ipAddressPoolSelectors": [{"matchLabels": {"pool": name}}]});
    let quota = |selector: &Value| json!({"pool": "lan", "quotas": [selector]});
    let quota_for = |team: &str| {
        let selector = json!({"matchLabels": {"team": team}});
        quota(&json!({"maxAddresses": 1, "namespaceSelector": selector}))
    };
    let mut edits = Vec::new();
    for kind in ["L2Advertisement", "BGPAdvertisement"] {
        for good in [json!({}), json!({"ipAddressPools": ["lan"]}), pool_label("lan")] {
            edits.push((kind, good.clone(), json!({"ipAddressPools": ["lann"]}), "spec.ipAddressPools"));
            edits.push((kind, good, pool_label("lann"), "spec.ipAddressPoolSelectors"));
        }
        let (two, one) =
            (json!({"ipAddressPools": ["lan", "wan"]}), json!({"ipAddressPools": ["lan", "wn"]}));
        edits.push((kind, two, one, "spec.ipAddressPools"));
    }
    let advertisement = [
        ("peers", json!([]), json!(["routr"])),
        ("peers", json!(["router"]), json!(["routr"])),
        ("communities", json!(["vip"]), json!(["vpi"])),
        ("communities", json!(["65000:1"]), json!(["vpi"])),
    ];
    for (field, good, bad) in advertisement {
        let path = if field == "peers" { "spec.peers" } else { "spec.communities" };
        edits.push(("BGPAdvertisement", json!({field: good}), json!({field: bad}), path));
    }
    edits.push(("BGPPeer", peer("fast"), peer("fats"), "spec.bfdProfile"));
    for good in [json!({}), json!({"namespaces": ["shop"]}), json!({"namespaceSelectors": by_label("shop")})]
    {
        for (field, bad) in [("namespaces", json!(["shp"])), ("namespaceSelectors", by_label("shp"))] {
            let path = format!("spec.serviceAllocation.{field}").leak();
            edits.push(("IPAddressPool", of_namespaces(&good), of_namespaces(&json!({field: bad})), path));
        }
    }
    let first = "spec.reserved[0].addresses";
    edits.push(("PoolPolicy", reserved("lan", &["10.0.0.1"]), reserved("lann", &["10.0.0.1"]), "spec.pool"));
    edits.push(("PoolPolicy", reserved("lan", &["10.0.0.1"]), reserved("wan", &["10.0.0.1"]), first));
    edits.push(("PoolPolicy", reserved("lan", &["10.0.0.1"]), reserved("lan", &["10.10.0.1"]), first));
    let two = ["10.0.0.9", "10.0.0.1"];
    let edited = reserved("lan", &["10.0.0.9", "10.10.0.1"]);
    edits.push(("PoolPolicy", reserved("lan", &two), edited, "spec.reserved[1].addresses"));
    let quotas = "spec.quotas[0].namespaceSelector";
    edits.push(("PoolPolicy", quota_for("shop"), quota_for("shp"), quotas));
    edits.push(("PoolPolicy", quota(&json!({"maxAddresses": 1})), quota_for("shp"), quotas));
    edits
}

#[test]
fn requirement_1_an_edit_that_breaks_a_reference_interrupts_nothing_and_is_reported() {
    for (kind, good, bad, field) in breaking_edits() {
        let mut last_valid = LastValid::default();
        let (before, findings) = last_valid.configure(&with(kind, &good));
        assert_eq!(findings, [], "{good}");
        for _ in 0..2 {
            let (after, findings) = last_valid.configure(&with(kind, &bad));
            assert_eq!(errors(&findings), [(kind, field)], "{good} -> {bad}: {findings:?}");
            assert!(findings[0].hint.ends_with("the last valid version of this object stays in use"));
            assert_eq!(findings.len(), 1, "it is not a warning as well");
            assert_eq!(after, before, "{good} -> {bad}");
        }
        let (_, findings) = last_valid.configure(&with(kind, &good));
        assert_eq!(findings, [], "it has been corrected");
    }
}

#[test]
fn a_new_object_may_refer_to_what_does_not_exist_yet() {
    for (kind, _, bad, _) in breaking_edits().into_iter().filter(|(kind, ..)| *kind != "IPAddressPool") {
        let (_, findings) = LastValid::default().configure(&with(kind, &bad));
        assert_eq!(errors(&findings), [], "{bad}");
    }
}

#[test]
fn an_edit_that_only_adds_or_only_removes_references_takes_effect() {
    let named = |names: &[&str]| json!({"ipAddressPools": names});
    for (good, new) in [
        (named(&["lan"]), named(&["lan", "later"])),
        (named(&["lan", "wan"]), named(&["lan"])),
        (named(&["lan"]), named(&["wan"])),
        (named(&["later"]), named(&["much-later"])),
        (named(&["lan", "later"]), named(&["lan", "much-later"])),
        (named(&["lan"]), json!({"ipAddressPools": ["lan"], "interfaces": ["no-such-link"]})),
    ] {
        let mut last_valid = LastValid::default();
        last_valid.configure(&with("L2Advertisement", &good));
        let objects = with("L2Advertisement", &new);
        let (configuration, findings) = last_valid.configure(&objects);
        assert_eq!(errors(&findings), [], "{good} -> {new}");
        assert_eq!(configuration, Configuration::from_objects(&objects).0, "{good} -> {new}");
    }
}

#[test]
fn deleting_a_pool_is_not_an_invalid_edit_of_the_objects_that_refer_to_it() {
    let named = |name: &str, objects: &mut Objects| {
        let spec = json!({"ipAddressPools": [name]});
        objects.l2_advertisements = vec![object("L2Advertisement", "it", 0, &spec)];
        objects.pool_policies = vec![object("PoolPolicy", "it", 0, &reserved(name, &["10.0.0.1"]))];
    };
    let mut last_valid = LastValid::default();
    let mut objects = cluster();
    named("lan", &mut objects);
    last_valid.configure(&objects);
    objects.pools.remove(0);
    let (_, findings) = last_valid.configure(&objects);
    assert_eq!(errors(&findings), []);
    named("new", &mut objects);
    let (configuration, findings) = last_valid.configure(&objects);
    assert_eq!(errors(&findings), [], "its previous reference does not resolve either");
    assert_eq!(configuration.l2_advertisements[0].selection.selects("new", None), Some(true));
}

#[test]
fn an_edit_takes_effect_when_the_object_that_it_refers_to_is_created() {
    let mut last_valid = LastValid::default();
    last_valid.configure(&with("L2Advertisement", &json!({"ipAddressPools": ["lan"]})));
    let mut objects = with("L2Advertisement", &json!({"ipAddressPools": ["new"]}));
    let (configuration, _) = last_valid.configure(&objects);
    assert_eq!(configuration.l2_advertisements[0].pools, BTreeSet::from(["lan".to_owned()]));
    objects.pools.push(object("IPAddressPool", "new", 2, &json!({"addresses": ["10.2.0.0/24"]})));
    let (configuration, findings) = last_valid.configure(&objects);
    assert_eq!(configuration.l2_advertisements[0].pools, BTreeSet::from(["new".to_owned()]));
    assert_eq!(findings, []);
}

#[test]
fn requirement_5_an_error_of_an_object_is_not_reported_on_the_objects_that_refer_to_it() {
    let mut objects = with(
        "BGPAdvertisement",
        &json!({
            "ipAddressPools": ["lan"], "peers": ["router"], "communities": ["vip"],
        }),
    );
    objects.pools[0] = object("IPAddressPool", "lan", 0, &json!({"addresses": ["10.0"]}));
    objects.l2_advertisements = vec![object("L2Advertisement", "it", 0, &json!({"ipAddressPools": ["lan"]}))];
    let mut router = peer("fast");
    router["myASN"] = json!(0);
    objects.bgp_peers = vec![object("BGPPeer", "router", 0, &router)];
    objects.bfd_profiles = vec![object("BFDProfile", "fast", 0, &json!({"minimumTtl": 0}))];
    let value = json!({"communities": [{"name": "vip", "value": "1"}]});
    objects.communities = vec![object("Community", "names", 0, &value)];
    let (_, findings) = LastValid::default().configure(&objects);
    let mut kinds: Vec<&str> = findings.iter().map(|finding| finding.object.kind).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["BFDProfile", "BGPPeer", "Community", "IPAddressPool"], "{findings:?}");
}

#[test]
fn the_reservations_of_a_policy_apply_after_a_restart_although_its_pool_is_mistyped() {
    let objects = with("PoolPolicy", &reserved("lann", &["10.0.0.1"]));
    let (configuration, _) = LastValid::default().configure(&objects);
    assert!(configuration.pools["lan"].is_reserved("10.0.0.1".parse().unwrap()));
}

#[test]
fn the_last_valid_version_takes_effect_again_when_its_pool_is_created_again() {
    let mut last_valid = LastValid::default();
    last_valid.configure(&with("L2Advertisement", &json!({"ipAddressPools": ["lan"]})));
    let mut objects = with("L2Advertisement", &json!({"ipAddressPools": ["lann"]}));
    last_valid.configure(&objects);
    let pool = objects.pools.remove(0);
    last_valid.configure(&objects);
    objects.pools.push(pool);
    let (configuration, findings) = last_valid.configure(&objects);
    assert_eq!(configuration.l2_advertisements[0].pools, BTreeSet::from(["lan".to_owned()]));
    assert_eq!(errors(&findings), [("L2Advertisement", "spec.ipAddressPools")]);
}

#[test]
fn an_edited_advertisement_with_an_unresolved_reference_is_uncertain_after_a_restart() {
    let at = |generation, name: &str| {
        let mut objects = with("L2Advertisement", &json!({"ipAddressPools": [name]}));
        Arc::make_mut(&mut objects.l2_advertisements[0]).metadata.generation = Some(generation);
        objects
    };
    for (generation, name, uncertain) in [(1, "lann", 0), (2, "lann", 1), (2, "lan", 0)] {
        let mut last_valid = LastValid::default();
        for _ in 0..2 {
            let (configuration, findings) = last_valid.configure(&at(generation, name));
            assert_eq!(configuration.partial_l2_advertisements.len(), uncertain, "{generation} {name}");
            assert_eq!(errors(&findings), []);
        }
        let corrected = last_valid.configure(&at(generation + 1, "lan")).0;
        assert_eq!(corrected.partial_l2_advertisements, []);
    }
}
