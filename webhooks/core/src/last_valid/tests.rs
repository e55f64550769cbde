use serde_json::{Value, json};

use super::*;

mod lost_references;

#[test]
fn requirement_1_a_pool_that_was_never_valid_takes_no_addresses_of_one_with_an_error() {
    let elder: (&str, usize, &[&str]) = ("elder", 0, &["10.0.0.0/24"]);
    let mistyped: (&str, usize, &[&str]) = ("elder", 0, &["10.0.0.0/240"]);
    let younger: (&str, usize, &[&str]) = ("younger", 1, &["10.0.0.0/25"]);
    let names = |configuration: &Configuration| configuration.pools.keys().cloned().collect::<Vec<_>>();
    let mut memory = LastValid::default();
    memory.configure(&pools(&[elder, younger]));
    for objects in [pools(&[mistyped, younger]), pools(&[mistyped, younger]), pools(&[elder, younger])] {
        // A speaker that is started again reads this from its snapshot.
        let text = serde_json::to_string(&memory).unwrap();
        memory = serde_json::from_str(&text).unwrap();
        let (configuration, findings) = memory.configure(&objects);
        assert_eq!(names(&configuration), ["elder"]);
        let younger = |finding: &&Finding| finding.object.name == "younger";
        let reported: Vec<&Finding> = findings.iter().filter(younger).collect();
        assert!(matches!(&reported[..], [one] if one.problem.contains("overlaps")), "{findings:?}");
    }
    let (configuration, findings) = memory.configure(&pools(&[younger]));
    assert_eq!((names(&configuration), findings), (vec!["younger".to_owned()], vec![]), "it is deleted");
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
fn an_invalid_edit_of_a_pool_keeps_its_last_valid_addresses_and_is_reported() {
    let mut memory = LastValid::default();
    memory.configure(&pools(&[("lan", 0, &["10.0.0.0/24"])]));
    let (configuration, findings) = memory.configure(&pools(&[("lan", 0, &["10.0.0.0/240"])]));
    assert_eq!(pool_of(&configuration, "10.0.0.5").as_deref(), Some("lan"));
    assert!(configuration.left_out.contains_key("lan"), "no new address comes from it");
    assert!(findings[0].remedy.ends_with("the last valid version of this object stays in force"));
    let (configuration, findings) = memory.configure(&pools(&[("lan", 0, &["10.0.1.0/24"])]));
    assert_eq!((pool_of(&configuration, "10.0.0.5"), findings.len()), (None, 0), "a valid edit counts");
}

#[test]
fn an_invalid_edit_of_an_advertisement_keeps_its_last_valid_version_over_any_number_of_edits() {
    let mut memory = LastValid::default();
    let (valid, _) = memory.configure(&advertisement(&json!({"interfaces": ["eth0"]})));
    let unknown = json!([{"matchExpressions": [{"key": "k", "operator": "Near", "values": ["v"]}]}]);
    for field in ["nodeSelectors", "serviceSelectors", "ipAddressPoolSelectors"] {
        let (configuration, findings) = memory.configure(&advertisement(&json!({field: unknown})));
        assert_eq!(configuration.l2_advertisements, valid.l2_advertisements, "{field}");
        assert_eq!(configuration.partial_l2_advertisements, []);
        assert_eq!(findings.iter().filter(|finding| finding.severity == Severity::Error).count(), 1);
    }
}

#[test]
fn a_deleted_object_is_forgotten_at_once_and_another_one_of_its_name_does_not_inherit() {
    let good = pools(&[("lan", 0, &["10.0.0.0/24"])]);
    let bad = pools(&[("lan", 0, &["10.0"])]);
    let mut memory = LastValid::default();
    memory.configure(&good);
    memory.configure(&Objects::default());
    assert!(memory.configure(&bad).0.pools.is_empty());
    memory.configure(&good);
    let mut other = (*bad.pools[0]).clone();
    other.metadata.uid = Some("another".into());
    let other = Objects { pools: vec![Arc::new(other)], ..Objects::default() };
    assert!(memory.configure(&other).0.pools.is_empty());
}

#[test]
fn a_last_valid_pool_never_takes_addresses_from_a_valid_one() {
    let mut memory = LastValid::default();
    memory.configure(&pools(&[("old", 0, &["10.0.0.0/24"])]));
    let edited = pools(&[("old", 0, &["10.0"]), ("new", 1, &["10.0.0.128/25"])]);
    let (configuration, findings) = memory.configure(&edited);
    assert_eq!(pool_of(&configuration, "10.0.0.200").as_deref(), Some("new"));
    assert_eq!(pool_of(&configuration, "10.0.0.5").as_deref(), Some("old"));
    assert!(findings.iter().all(|finding| finding.object.name == "old"), "{findings:?}");
}

#[test]
fn a_pool_that_another_one_grows_over_keeps_what_is_left() {
    let mut memory = LastValid::default();
    memory.configure(&pools(&[("old", 0, &["10.0.0.0/25"]), ("young", 1, &["10.0.0.128-10.0.1.255"])]));
    let grown = pools(&[("old", 0, &["10.0.0.0/24"]), ("young", 1, &["10.0.0.128-10.0.1.255"])]);
    let (configuration, _) = memory.configure(&grown);
    assert_eq!(pool_of(&configuration, "10.0.0.200").as_deref(), Some("old"));
    assert_eq!(pool_of(&configuration, "10.0.1.7").as_deref(), Some("young"));
}

#[test]
fn what_would_make_a_valid_object_invalid_is_not_put_in_force() {
    let aggregated = json!({"aggregationLength": 24, "ipAddressPools": ["lan"]});
    let with = |addresses: &str| Objects {
        bgp_advertisements: vec![object("BGPAdvertisement", "lan", 0, &aggregated)],
        ..pools(&[("lan", 0, &[addresses]), ("wan", 1, &["10.1.0.0/24"])])
    };
    let mut memory = LastValid::default();
    memory.configure(&pools(&[("lan", 0, &["10.0.0.0/28"]), ("wan", 1, &["10.1.0.0/24"])]));
    let (configuration, _) = memory.configure(&with("10.0"));
    assert_eq!(configuration.bgp_advertisements.len(), 1, "it is valid while the pool is not");
    assert_eq!(configuration.pools.keys().collect::<Vec<_>>(), ["wan"]);
}

#[test]
fn it_survives_its_serialized_form() {
    let mut memory = LastValid::default();
    memory.configure(&advertisement(&json!({"interfaces": ["eth0"]})));
    let text = serde_json::to_string(&memory).unwrap();
    let mut read: LastValid = serde_json::from_str(&text).unwrap();
    let bad = json!({"nodeSelectors": [{"matchExpressions": [{"key": "k", "operator": "Is"}]}]});
    assert_eq!(read.configure(&advertisement(&bad)).0.l2_advertisements[0].interfaces, ["eth0"]);
    let mut empty: LastValid = serde_json::from_str("{}").unwrap();
    assert_eq!(empty.configure(&advertisement(&bad)).0.l2_advertisements, []);
}

#[test]
fn of_an_advertisement_that_may_have_been_valid_meanwhile_what_can_be_read_is_kept_too() {
    let at = |generation, spec: &Value| {
        let mut objects = advertisement(spec);
        Arc::make_mut(&mut objects.l2_advertisements[0]).metadata.generation = Some(generation);
        objects
    };
    let bad = json!({"nodeSelectors": [{"matchExpressions": [{"key": "k", "operator": "Is"}]}]});
    let partial = |memory: &mut LastValid, generation| {
        memory.configure(&at(generation, &bad)).0.partial_l2_advertisements.len()
    };
    let mut memory = LastValid::default();
    memory.configure(&at(1, &json!({"interfaces": ["eth0"]})));
    assert_eq!(partial(&mut memory, 2), 0, "nothing was missed");
    assert_eq!(partial(&mut memory, 3), 0);
    assert_eq!(partial(&mut memory, 5), 1, "generation 4 was");
    assert_eq!(partial(&mut memory, 6), 1);
    let (configuration, _) = memory.configure(&at(6, &bad));
    assert_eq!(configuration.l2_advertisements[0].interfaces, ["eth0"], "and the last one that is known");
}

#[test]
fn a_policy_and_its_pool_that_are_invalid_at_once_both_keep_their_last_valid_versions() {
    let objects = |addresses: &[&str], reserved: &str| {
        let policy = json!({"pool": "lan", "reserved": [{"addresses": reserved}]});
        Objects {
            pool_policies: vec![object("PoolPolicy", "p", 0, &policy)],
            ..pools(&[("lan", 0, addresses)])
        }
    };
    let mut memory = LastValid::default();
    memory.configure(&objects(&["10.0.0.0/24"], "10.0.0.1"));
    let (configuration, findings) = memory.configure(&objects(&["10.0.0.0/240"], "10.0.0.1x"));
    assert!(configuration.pools["lan"].keeps_back("10.0.0.1".parse().unwrap()));
    let about: Vec<(&str, Severity)> =
        findings.iter().map(|finding| (finding.object.kind, finding.severity)).collect();
    let errors = [("IPAddressPool", Severity::Error), ("PoolPolicy", Severity::Error)];
    assert_eq!(about, errors, "that the pool is rejected is not reported on the policy as well");
    let (configuration, _) = memory.configure(&objects(&["10.0.0.0/24"], "10.0.0.1x"));
    assert!(
        configuration.pools["lan"].keeps_back("10.0.0.1".parse().unwrap()),
        "the pool has been corrected"
    );
}

#[test]
fn requirement_1_the_readable_reservations_of_a_policy_with_an_error_hold_for_a_process_that_has_just_started()
 {
    let quota = json!([{"maxAddresses": 1}, {"maxAddresses": -1}]);
    let reserved = json!([{"addresses": "10.0.0.1x"}, {"addresses": "10.0.0.2"}]);
    let policy = json!({"pool": "lan", "reserved": reserved, "quotas": quota});
    let objects = Objects {
        pool_policies: vec![object("PoolPolicy", "p", 0, &policy)],
        ..pools(&[("lan", 0, &["10.0.0.0/24"])])
    };
    let (configuration, findings) = LastValid::default().configure(&objects);
    let lan = &configuration.pools["lan"];
    assert!(lan.keeps_back("10.0.0.2".parse().unwrap()) && !lan.keeps_back("10.0.0.1".parse().unwrap()));
    assert_eq!(lan.quota("shop"), Some(1));
    assert_eq!(findings.iter().filter(|finding| finding.severity == Severity::Error).count(), 2);
}
