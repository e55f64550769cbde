use serde_json::{Value, json};

use super::*;

mod broken_references;

#[test]
fn requirement_1_a_pool_that_was_never_valid_gets_no_addresses_of_one_with_an_error() {
    let older: (&str, usize, &[&str]) = ("older", 0, &["10.0.0.0/24"]);
    let mistyped: (&str, usize, &[&str]) = ("older", 0, &["10.0.0.0/240"]);
    let newer: (&str, usize, &[&str]) = ("newer", 1, &["10.0.0.0/25"]);
    let names = |configuration: &Configuration| configuration.pools.keys().cloned().collect::<Vec<_>>();
    let mut last_valid = LastValid::default();
    last_valid.configure(&pools(&[older, newer]));
    for objects in [pools(&[mistyped, newer]), pools(&[mistyped, newer]), pools(&[older, newer])] {
        // A speaker that restarts reads this from its snapshot.
        let text = serde_json::to_string(&last_valid).unwrap();
        last_valid = serde_json::from_str(&text).unwrap();
        let (configuration, findings) = last_valid.configure(&objects);
        assert_eq!(names(&configuration), ["older"]);
        let is_newer = |finding: &&Finding| finding.object.name == "newer";
        let reported: Vec<&Finding> = findings.iter().filter(is_newer).collect();
        assert!(matches!(&reported[..], [one] if one.problem.contains("overlaps")), "{findings:?}");
    }
    let (configuration, findings) = last_valid.configure(&pools(&[newer]));
    assert_eq!((names(&configuration), findings), (vec!["newer".to_owned()], vec![]), "it is deleted");
}

const CREATED: [&str; 3] = ["2024-01-01T00:00:00Z", "2024-01-01T00:01:00Z", "2024-01-01T00:02:00Z"];

fn object<K: serde::de::DeserializeOwned>(kind: &str, name: &str, age: usize, spec: &Value) -> Arc<K> {
    let object = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": kind,
        "metadata": {
            "name": name, "namespace": "metallb-system", "uid": format!("{kind}-{name}"),
            "creationTimestamp": CREATED[age], "labels": {"pool": name},
        },
        "spec": spec,
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn pools(list: &[(&str, usize, &[&str])]) -> Objects {
    let pool = |(name, age, addresses): &(&str, usize, &[&str])| {
        object("IPAddressPool", name, *age, &json!({"addresses": addresses}))
    };
    Objects { pools: list.iter().map(pool).collect(), ..Objects::default() }
}

fn advertisement(spec: &Value) -> Objects {
    let objects = pools(&[("lan", 0, &["10.0.0.0/24"])]);
    Objects { l2_advertisements: vec![object("L2Advertisement", "all", 0, spec)], ..objects }
}

fn pool_of(configuration: &Configuration, ip: &str) -> Option<String> {
    configuration.pool_of(ip.parse().unwrap()).map(|pool| pool.name.clone())
}

#[test]
fn after_an_invalid_edit_a_pool_keeps_its_last_valid_addresses_and_the_error_is_reported() {
    let mut last_valid = LastValid::default();
    last_valid.configure(&pools(&[("lan", 0, &["10.0.0.0/24"])]));
    let (configuration, findings) = last_valid.configure(&pools(&[("lan", 0, &["10.0.0.0/240"])]));
    assert_eq!(pool_of(&configuration, "10.0.0.5").as_deref(), Some("lan"));
    assert!(configuration.rejected_pools.contains_key("lan"), "no new address is assigned from it");
    assert!(findings[0].hint.ends_with("the last valid version of this object stays in use"));
    let (configuration, findings) = last_valid.configure(&pools(&[("lan", 0, &["10.0.1.0/24"])]));
    assert_eq!((pool_of(&configuration, "10.0.0.5"), findings.len()), (None, 0), "a valid edit counts");
}

#[test]
fn after_any_number_of_invalid_edits_an_advertisement_keeps_its_last_valid_version() {
    let mut last_valid = LastValid::default();
    let (valid, _) = last_valid.configure(&advertisement(&json!({"interfaces": ["eth0"]})));
    let unknown = json!([{"matchExpressions": [{"key": "k", "operator": "Near", "values": ["v"]}]}]);
    for field in ["nodeSelectors", "serviceSelectors", "ipAddressPoolSelectors"] {
        let (configuration, findings) = last_valid.configure(&advertisement(&json!({field: unknown})));
        assert_eq!(configuration.l2_advertisements, valid.l2_advertisements, "{field}");
        assert_eq!(configuration.partial_l2_advertisements, []);
        assert_eq!(findings.iter().filter(|finding| finding.severity == Severity::Error).count(), 1);
    }
}

#[test]
fn what_no_label_and_no_interface_can_be_called_is_an_error_and_keeps_the_last_valid_version() {
    let mut last_valid = LastValid::default();
    let (valid, _) = last_valid.configure(&advertisement(&json!({"interfaces": ["eth0"]})));
    let labels = |key: &str, value: &str| json!([{"matchLabels": {key: value}}]);
    for spec in [
        json!({"serviceSelectors": labels("bad key!", "x")}),
        json!({"nodeSelectors": labels("kubernetes.io/hostname", "bad value!")}),
        json!({"ipAddressPoolSelectors": labels("zone", "-")}),
        json!({"interfaces": ["a/b"]}),
        json!({"interfaces": ["waytoolonginterfacename", ""]}),
    ] {
        let (configuration, findings) = last_valid.configure(&advertisement(&spec));
        assert_eq!(configuration.l2_advertisements, valid.l2_advertisements, "{spec}");
        assert!(findings.iter().any(|finding| finding.severity == Severity::Error), "{spec}");
    }
    let (configuration, findings) =
        last_valid.configure(&advertisement(&json!({"interfaces": ["eth1", "a/b"]})));
    assert_eq!(configuration.l2_advertisements[0].interfaces, ["eth1", "a/b"], "one of them is possible");
    assert!(findings.iter().all(|finding| finding.severity == Severity::Warning) && findings.len() == 1);
}

#[test]
fn a_new_object_with_the_name_of_a_deleted_one_does_not_inherit_its_last_valid_version() {
    let good = pools(&[("lan", 0, &["10.0.0.0/24"])]);
    let bad = pools(&[("lan", 0, &["10.0"])]);
    let mut last_valid = LastValid::default();
    last_valid.configure(&good);
    last_valid.configure(&Objects::default());
    assert!(last_valid.configure(&bad).0.pools.is_empty());
    last_valid.configure(&good);
    let mut other = (*bad.pools[0]).clone();
    other.metadata.uid = Some("another".into());
    let other = Objects { pools: vec![Arc::new(other)], ..Objects::default() };
    assert!(last_valid.configure(&other).0.pools.is_empty());
}

#[test]
fn the_last_valid_version_of_a_pool_never_takes_addresses_from_a_valid_one() {
    let mut last_valid = LastValid::default();
    last_valid.configure(&pools(&[("older", 0, &["10.0.0.0/24"])]));
    let edited = pools(&[("older", 0, &["10.0"]), ("new", 1, &["10.0.0.128/25"])]);
    let (configuration, findings) = last_valid.configure(&edited);
    assert_eq!(pool_of(&configuration, "10.0.0.200").as_deref(), Some("new"));
    assert_eq!(pool_of(&configuration, "10.0.0.5").as_deref(), Some("older"));
    assert!(findings.iter().all(|finding| finding.object.name == "older"), "{findings:?}");
}

#[test]
fn a_pool_that_another_one_grows_over_keeps_its_other_addresses() {
    let mut last_valid = LastValid::default();
    last_valid.configure(&pools(&[("older", 0, &["10.0.0.0/25"]), ("newer", 1, &["10.0.0.128-10.0.1.255"])]));
    let grown = pools(&[("older", 0, &["10.0.0.0/24"]), ("newer", 1, &["10.0.0.128-10.0.1.255"])]);
    let (configuration, _) = last_valid.configure(&grown);
    assert_eq!(pool_of(&configuration, "10.0.0.200").as_deref(), Some("older"));
    assert_eq!(pool_of(&configuration, "10.0.1.7").as_deref(), Some("newer"));
}

#[test]
fn a_last_valid_version_that_would_make_a_valid_object_invalid_is_not_used() {
    let aggregated = json!({"aggregationLength": 24, "ipAddressPools": ["lan"]});
    let with = |addresses: &str| Objects {
        bgp_advertisements: vec![object("BGPAdvertisement", "lan", 0, &aggregated)],
        ..pools(&[("lan", 0, &[addresses]), ("wan", 1, &["10.1.0.0/24"])])
    };
    let mut last_valid = LastValid::default();
    last_valid.configure(&pools(&[("lan", 0, &["10.0.0.0/28"]), ("wan", 1, &["10.1.0.0/24"])]));
    let (configuration, _) = last_valid.configure(&with("10.0"));
    assert_eq!(configuration.bgp_advertisements.len(), 1, "it is valid while the pool is not");
    assert_eq!(configuration.pools.keys().collect::<Vec<_>>(), ["wan"]);
}

#[test]
fn it_survives_serialization() {
    let mut last_valid = LastValid::default();
    last_valid.configure(&advertisement(&json!({"interfaces": ["eth0"]})));
    let text = serde_json::to_string(&last_valid).unwrap();
    let mut read: LastValid = serde_json::from_str(&text).unwrap();
    let bad = json!({"nodeSelectors": [{"matchExpressions": [{"key": "k", "operator": "Is"}]}]});
    assert_eq!(read.configure(&advertisement(&bad)).0.l2_advertisements[0].interfaces, ["eth0"]);
    let mut empty: LastValid = serde_json::from_str("{}").unwrap();
    assert_eq!(empty.configure(&advertisement(&bad)).0.l2_advertisements, []);
}

#[test]
fn if_a_valid_version_of_an_advertisement_may_have_been_missed_its_readable_parts_are_kept_too() {
    let at = |generation, spec: &Value| {
        let mut objects = advertisement(spec);
        Arc::make_mut(&mut objects.l2_advertisements[0]).metadata.generation = Some(generation);
        objects
    };
    let bad = json!({"nodeSelectors": [{"matchExpressions": [{"key": "k", "operator": "Is"}]}]});
    let partial = |last_valid: &mut LastValid, generation| {
        last_valid.configure(&at(generation, &bad)).0.partial_l2_advertisements.len()
    };
    let mut last_valid = LastValid::default();
    last_valid.configure(&at(1, &json!({"interfaces": ["eth0"]})));
    assert_eq!(partial(&mut last_valid, 2), 0, "nothing was missed");
    assert_eq!(partial(&mut last_valid, 3), 0);
    assert_eq!(partial(&mut last_valid, 5), 1, "generation 4 was");
    assert_eq!(partial(&mut last_valid, 6), 1);
    let (configuration, _) = last_valid.configure(&at(6, &bad));
    assert_eq!(configuration.l2_advertisements[0].interfaces, ["eth0"], "and the last known valid version");
}

#[test]
fn a_policy_and_its_pool_that_are_invalid_at_the_same_time_both_keep_their_last_valid_versions() {
    let objects = |addresses: &[&str], reserved: &str| {
        let policy = json!({"pool": "lan", "reserved": [{"addresses": reserved}]});
        Objects {
            pool_policies: vec![object("PoolPolicy", "p", 0, &policy)],
            ..pools(&[("lan", 0, addresses)])
        }
    };
    let mut last_valid = LastValid::default();
    last_valid.configure(&objects(&["10.0.0.0/24"], "10.0.0.1"));
    let (configuration, findings) = last_valid.configure(&objects(&["10.0.0.0/240"], "10.0.0.1x"));
    assert!(configuration.pools["lan"].is_reserved("10.0.0.1".parse().unwrap()));
    let found: Vec<(&str, Severity)> =
        findings.iter().map(|finding| (finding.object.kind, finding.severity)).collect();
    let errors = [("IPAddressPool", Severity::Error), ("PoolPolicy", Severity::Error)];
    assert_eq!(found, errors, "the rejection of the pool is not reported on the policy as well");
    let (configuration, _) = last_valid.configure(&objects(&["10.0.0.0/24"], "10.0.0.1x"));
    assert!(
        configuration.pools["lan"].is_reserved("10.0.0.1".parse().unwrap()),
        "the pool has been corrected"
    );
}

#[test]
fn requirement_1_the_valid_reservations_of_a_policy_with_an_error_apply_after_a_restart() {
    let quota = json!([{"maxAddresses": 1}, {"maxAddresses": -1}]);
    let reserved = json!([{"addresses": "10.0.0.1x"}, {"addresses": "10.0.0.2"}]);
    let policy = json!({"pool": "lan", "reserved": reserved, "quotas": quota});
    let objects = Objects {
        pool_policies: vec![object("PoolPolicy", "p", 0, &policy)],
        ..pools(&[("lan", 0, &["10.0.0.0/24"])])
    };
    let (configuration, findings) = LastValid::default().configure(&objects);
    let lan = &configuration.pools["lan"];
    assert!(lan.is_reserved("10.0.0.2".parse().unwrap()) && !lan.is_reserved("10.0.0.1".parse().unwrap()));
    assert_eq!(lan.quota("shop"), Some(1));
    assert_eq!(findings.iter().filter(|finding| finding.severity == Severity::Error).count(), 2);
}
