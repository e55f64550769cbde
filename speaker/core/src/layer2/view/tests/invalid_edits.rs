//! An invalid edit never takes down what already works.

use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rules::LastValid;

use super::*;

const NEAR: &str = r#"[{"matchExpressions": [{"key": "k", "operator": "Near", "values": ["v"]}]}]"#;

fn unknown_operator() -> Value {
    serde_json::from_str(NEAR).unwrap()
}

/// A cluster whose Service `web` is announced with 10.0.0.5 from pool `lan`, as its annotation says.
fn serving() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.service("web", &["10.0.0.5"], &["b"], &from_pool("lan"));
    cluster
}

fn from_pool(pool: &str) -> Value {
    json!({"metadata": {"annotations": {"metallb.io/ip-allocated-from-pool": pool}}})
}

/// What the API server does on a write: another generation of the same object, or a new object.
fn succeed(new: &mut ObjectMeta, old: Option<ObjectMeta>) {
    static CREATED: AtomicUsize = AtomicUsize::new(0);
    new.generation = Some(1);
    new.uid = Some(format!("uid-{}", CREATED.fetch_add(1, Ordering::Relaxed)));
    if let Some(old) = old {
        new.generation = Some(old.generation.unwrap_or(1) + 1);
        new.uid = old.uid;
    }
}

impl Cluster {
    fn set_advertisement(&mut self, name: &str, spec: &Value) {
        let list = &mut self.configured.l2_advertisements;
        let old =
            list.iter().position(|a| a.metadata.name.as_deref() == Some(name)).map(|at| list.remove(at));
        self.advertisement(name, spec);
        let new = Arc::make_mut(self.configured.l2_advertisements.last_mut().unwrap());
        succeed(&mut new.metadata, old.map(|old| old.metadata.clone()));
    }

    fn set_pool(&mut self, name: &str, addresses: &str) {
        let list = &mut self.configured.pools;
        let old =
            list.iter().position(|a| a.metadata.name.as_deref() == Some(name)).map(|at| list.remove(at));
        self.pool(name, addresses);
        let new = Arc::make_mut(self.configured.pools.last_mut().unwrap());
        succeed(&mut new.metadata, old.map(|old| old.metadata.clone()));
    }

    fn was_announced(&mut self, service: &str) {
        let object = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "ServiceL2Status",
            "metadata": {"name": service, "labels": {
                "metallb.io/node": "a",
                "metallb.io/service-name": service, "metallb.io/service-namespace": "default",
            }},
        });
        self.objects.statuses.push(serde_json::from_value(object).unwrap());
    }

    /// The candidates in the view of a speaker with the last valid versions in `memory`.
    fn view_with(&self, memory: &mut LastValid) -> View {
        let (configuration, _) = memory.configure(&self.configured);
        View::build(&self.settings, &self.summaries(), &configuration, None)
    }

    fn candidates_of(&self, memory: &mut LastValid, address: &str) -> Vec<String> {
        let view = self.view_with(memory);
        let Some(group) = view.groups.get(&ip(address)) else { return Vec::new() };
        let names: BTreeSet<String> = group.candidates.iter().map(|c| c.node.to_string()).collect();
        names.into_iter().collect()
    }

    /// The same for a running speaker, and for one that has just been started without a snapshot.
    fn running_and_restarted(&self, memory: &mut LastValid) -> [Vec<String>; 2] {
        let restarted = self.candidates_of(&mut LastValid::default(), "10.0.0.5");
        [self.candidates_of(memory, "10.0.0.5"), restarted]
    }
}

fn all() -> Vec<String> {
    ["a", "b", "c"].map(String::from).into()
}

#[test]
fn an_advertisement_with_an_error_stays_in_effect_in_running_and_restarted_speakers() {
    for bad in [
        json!({"ipAddressPools": ["lan", "lan"]}),
        json!({"ipAddressPools": ["lan"], "nodeSelectors": unknown_operator()}),
        json!({"nodeSelectors": [{"matchLabels": {"name": "a"}}, unknown_operator()[0]]}),
        json!({"serviceSelectors": unknown_operator()}),
        json!({"ipAddressPoolSelectors": unknown_operator()}),
        json!({"preferredNodeSelectors": [{"weight": 1, "preference": unknown_operator()[0]}]}),
        json!({"ipAddressPools": ["lan"], "nodeSelectors": [
            {"matchExpressions": [{"key": "k", "operator": "In", "values": []}]}]}),
    ] {
        for good in [json!({}), json!({"ipAddressPools": ["lan"]})] {
            let mut cluster = serving();
            cluster.set_advertisement("all", &good);
            let mut memory = LastValid::default();
            assert_eq!(cluster.candidates_of(&mut memory, "10.0.0.5"), all());
            cluster.set_advertisement("all", &bad);
            assert_eq!(cluster.running_and_restarted(&mut memory), [all(), all()], "{bad}");
        }
    }
}

#[test]
fn the_last_valid_nodes_and_interfaces_stay_in_effect_and_survive_a_snapshot() {
    let mut cluster = serving();
    let good = json!({"nodeSelectors": [{"matchLabels": {"name": "b"}}], "interfaces": ["eth0"]});
    cluster.set_advertisement("all", &good);
    let mut memory = LastValid::default();
    cluster.view_with(&mut memory);
    cluster.set_advertisement("all", &json!({"nodeSelectors": unknown_operator(), "interfaces": ["eth7"]}));
    let mut read: LastValid = serde_json::from_str(&serde_json::to_string(&memory).unwrap()).unwrap();
    for memory in [&mut memory, &mut read] {
        let view = cluster.view_with(memory);
        assert_eq!(names(&view), ["b"]);
    }
}

#[test]
fn constraints_that_cannot_be_parsed_are_ignored_only_if_no_valid_advertisement_covers_the_service() {
    let mut cluster = serving();
    cluster.set_advertisement("all", &json!({"nodeSelectors": unknown_operator()}));
    assert_eq!(cluster.candidates(), all());
    cluster.advertisement("valid", &json!({"nodeSelectors": [{"matchLabels": {"name": "b"}}]}));
    assert_eq!(cluster.candidates(), ["b"]);
    let readable = json!({"matchLabels": {"name": "c"}});
    let half = json!({"nodeSelectors": [readable, unknown_operator()[0]]});
    cluster.set_advertisement("all", &half);
    assert_eq!(cluster.candidates(), ["b", "c"], "what can be read of it counts");
}

#[test]
fn a_deleted_advertisement_is_not_an_invalid_one() {
    let mut cluster = serving();
    let mut memory = LastValid::default();
    cluster.view_with(&mut memory);
    cluster.set_advertisement("all", &json!({"nodeSelectors": unknown_operator()}));
    cluster.view_with(&mut memory);
    cluster.configured.l2_advertisements.clear();
    cluster.was_announced("web");
    assert_eq!(cluster.running_and_restarted(&mut memory), [Vec::<String>::new(), Vec::new()]);
    assert_eq!(cluster.not_announced(), Some(NotAnnounced::NotAdvertised));
}

#[test]
fn a_pool_with_an_error_stays_in_effect_in_running_and_restarted_speakers() {
    for advertisement in [json!({}), json!({"ipAddressPools": ["lan"]})] {
        for bad in ["10.0.0.0/240", "10.0.0.0-", "10.0.0.9-10.0.0.1", "10.0.0.5", "nonsense", ""] {
            let mut cluster = serving();
            cluster.set_advertisement("all", &advertisement);
            let mut memory = LastValid::default();
            cluster.view_with(&mut memory);
            cluster.set_pool("lan", bad);
            assert_eq!(cluster.running_and_restarted(&mut memory), [all(), all()], "{bad:?} {advertisement}");
        }
    }
}

#[test]
fn the_labels_of_a_pool_with_an_error_still_select_it() {
    let mut cluster = serving();
    let selecting = |label: &str| json!({"ipAddressPoolSelectors": [{"matchLabels": {"zone": label}}]});
    cluster.set_pool("lan", "10.0.0.0/240");
    Arc::make_mut(&mut cluster.configured.pools[0]).metadata.labels =
        Some([("zone".to_owned(), "x".to_owned())].into());
    cluster.set_advertisement("all", &selecting("x"));
    assert_eq!(cluster.candidates(), all());
    cluster.set_advertisement("all", &selecting("y"));
    assert_eq!(cluster.not_announced(), Some(NotAnnounced::NotAdvertised));
}

#[test]
fn without_the_annotation_a_readable_entry_identifies_the_pool_and_else_every_advertisement_counts() {
    for (addresses, candidates) in [("10.0.0.0/24", true), ("nonsense", false)] {
        let mut cluster = with_service();
        cluster.configured.pools.clear();
        cluster.pool("lan", addresses);
        let pool = Arc::make_mut(&mut cluster.configured.pools[0]);
        pool.spec.addresses.push("and an error".into());
        cluster.set_advertisement("all", &json!({"ipAddressPools": ["lan"]}));
        cluster.advertisement(
            "other",
            &json!({
                "ipAddressPools": ["wan"], "nodeSelectors": [{"matchLabels": {"name": "a"}}],
                "preferredNodeSelectors": [{"weight": 7, "preference": {}}],
            }),
        );
        assert_eq!(cluster.candidates(), all());
        let view = cluster.view();
        let preferred = view.groups[&ip("10.0.0.5")].candidates.iter().any(|c| c.tier.preference != 0);
        assert_eq!(preferred, !candidates, "whether `other` counts");
    }
}

#[test]
fn an_address_whose_pool_is_deleted_stays_announced_in_running_and_restarted_speakers() {
    for (advertisement, stays) in [
        (json!({}), true),
        (json!({"ipAddressPools": ["lan"]}), true),
        (json!({"ipAddressPoolSelectors": [{"matchLabels": {"zone": "x"}}]}), true),
        (json!({"ipAddressPools": ["wan"]}), false),
    ] {
        let mut cluster = serving();
        cluster.set_advertisement("all", &advertisement);
        let mut memory = LastValid::default();
        cluster.view_with(&mut memory);
        cluster.configured.pools.clear();
        let expected = if stays { all() } else { Vec::new() };
        assert_eq!(
            cluster.running_and_restarted(&mut memory),
            [expected.clone(), expected],
            "{advertisement}"
        );
    }
    let mut foreign = with_service();
    foreign.configured.pools.clear();
    assert_eq!(foreign.not_announced(), Some(NotAnnounced::NoPool), "an address that nothing says is ours");
}

#[test]
fn a_pool_that_another_one_overlaps_keeps_its_own_advertisement() {
    let mut cluster = serving();
    cluster.set_advertisement("all", &json!({"ipAddressPools": ["lan"]}));
    let mut memory = LastValid::default();
    cluster.pool("aaa", "10.0.1.0/24");
    cluster.view_with(&mut memory);
    cluster.set_pool("aaa", "10.0.0.0/16");
    let (configuration, _) = Configuration::from_objects(&cluster.configured);
    assert_eq!(configuration.pool_of(ip("10.0.0.5")).unwrap().name, "aaa");
    assert_eq!(cluster.running_and_restarted(&mut memory), [all(), all()]);
}

#[test]
fn an_address_that_moved_to_another_pool_follows_that_pool_and_valid_edits_apply() {
    let mut cluster = serving();
    cluster.set_pool("lan", "10.9.0.0/24");
    assert_eq!(cluster.candidates(), all(), "its pool no longer contains it, and no other does");
    cluster.pool("new", "10.0.0.0/24");
    cluster.set_advertisement("all", &json!({"ipAddressPools": ["lan"]}));
    assert_eq!(cluster.not_announced(), Some(NotAnnounced::NotAdvertised));
    cluster.set_advertisement("all", &json!({"ipAddressPools": ["new"]}));
    assert_eq!(cluster.candidates(), all());
}

/// A fixed sequence of pseudo-random numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

/// A speaker: its last valid versions, those in its snapshot, and the objects that it sees.
struct Speaker {
    memory: LastValid,
    snapshot: String,
    sees: Cluster,
    connected: bool,
}

const SERVICES: [(&str, &str, &str); 3] =
    [("one", "10.0.0.5", "lan"), ("two", "10.0.0.6", "lan"), ("three", "10.1.0.5", "wan")];

/// An edit of a random object. Returns whether it is valid (or a deletion), after which other rules apply. An
/// edit that names a pool which does not exist takes effect when the pool does.
fn edit(random: &mut Random, cluster: &mut Cluster) -> bool {
    let valid = [
        json!({}),
        json!({"ipAddressPools": ["lan"]}),
        json!({"ipAddressPools": ["wan", "wan"]}),
        json!({"ipAddressPools": ["lan", "wan"], "nodeSelectors": [{"matchLabels": {"name": "a"}}]}),
    ];
    let mut invalid = random.one(&valid);
    let field = random.one(&["nodeSelectors", "serviceSelectors", "ipAddressPoolSelectors"]);
    invalid[field] = unknown_operator();
    let advertisement = random.one(&["x", "y"]);
    let (pool, good, bad) =
        random.one(&[("lan", "10.0.0.0/24", "10.0.0.0/33"), ("wan", "10.1.0.0/24", "10.1.0.9-10.1.0.1")]);
    let named = |object: &Arc<crds::IPAddressPool>| object.metadata.name.as_deref() == Some(pool);
    let is_new = !cluster.configured.pools.iter().any(named);
    match random.below(10) {
        0..3 => cluster.set_advertisement(advertisement, &invalid),
        3..6 => {
            cluster.set_pool(pool, bad);
            return is_new;
        }
        6 => cluster.configured.pools.retain(|object| !named(object)),
        7 => {
            cluster.set_pool(pool, good);
            return is_new;
        }
        8 => {
            cluster.set_advertisement(advertisement, &random.one(&valid));
            return true;
        }
        _ => {
            let others = |name: Option<&str>| name != Some(advertisement);
            cluster.configured.l2_advertisements.retain(|a| others(a.metadata.name.as_deref()));
            return true;
        }
    }
    false
}

/// Valid and invalid edits, restarts of any speaker with and without its snapshot, and times without an API
/// server: what is announced stays announced unless a valid edit or the deletion of an advertisement ends it.
#[test]
fn requirement_1_no_sequence_of_invalid_edits_and_restarts_ends_an_announcement() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut cluster = Cluster::new();
        cluster.configured = rules::Objects::default();
        cluster.pool("lan", "10.0.0.0/24");
        cluster.pool("wan", "10.1.0.0/24");
        cluster.advertisement("x", &json!({}));
        for (name, address, pool) in SERVICES {
            cluster.service(name, &[address], &["b"], &from_pool(pool));
            cluster.was_announced(name);
        }
        let speaker = |cluster: &Cluster| Speaker {
            memory: LastValid::default(),
            snapshot: String::from("{}"),
            sees: cluster.clone(),
            connected: true,
        };
        let mut speakers: Vec<Speaker> = (0..3).map(|_| speaker(&cluster)).collect();
        let announced = |speaker: &mut Speaker| {
            SERVICES.map(|(_, ip, _)| !speaker.sees.candidates_of(&mut speaker.memory, ip).is_empty())
        };
        for speaker in &mut speakers {
            assert_eq!(announced(speaker), [true; 3]);
        }
        // What a speaker announces that is always connected and never restarted.
        let mut ideal = speaker(&cluster);
        for step in 0..60 {
            let before = announced(&mut ideal);
            let ends = edit(&mut random, &mut cluster);
            ideal.sees = cluster.clone();
            let now = announced(&mut ideal);
            if !ends {
                for (was, is) in before.into_iter().zip(now) {
                    assert!(
                        is || !was,
                        "seed {seed} step {step}: an edit that is no valid one ended something"
                    );
                }
            }
            for speaker in &mut speakers {
                match random.below(8) {
                    0 => speaker.memory = LastValid::default(),
                    1 => speaker.memory = serde_json::from_str(&speaker.snapshot).unwrap(),
                    2 => speaker.connected = false,
                    3 => speaker.connected = true,
                    _ => {}
                }
                if speaker.connected {
                    speaker.sees = cluster.clone();
                }
                let found = announced(speaker);
                speaker.snapshot = serde_json::to_string(&speaker.memory).unwrap();
                if speaker.connected {
                    for ((service, ..), (mine, ideally)) in SERVICES.iter().zip(found.into_iter().zip(now)) {
                        assert!(mine || !ideally, "seed {seed} step {step}: {service} is dark");
                    }
                }
            }
        }
    }
}
