//! What a term makes of the stores. The API is asked by writes, which are queued here and never begun.

use k8s_openapi::api::core::v1::Service;
use kube::Config;
use kube::runtime::watcher::Event;
use runtime::admin::Readiness;
use runtime::tasks::Tasks;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::COMPONENT;
use crate::fixtures;
use crate::watches::by_hand::{Writers, watches};

mod api;
mod events;
mod isolation;
mod promises;

/// An API server that is away.
pub(super) fn nowhere() -> Client {
    Client::try_from(Config::new("http://127.0.0.1:9".parse().unwrap())).unwrap()
}

/// The owner over stores in which there is the namespace `shop`.
fn owner() -> (Owner, Writers) {
    let client = nowhere();
    let (watches, mut writers) = watches("metallb-system");
    writers.namespaces.apply_watcher_event(&Event::Apply(namespace("shop")));
    let owner = Owner {
        events: Events::start(&mut Tasks::new(), client.clone(), COMPONENT, None, CancellationToken::new()),
        client,
        class: String::new(),
        watches,
        leadership: Leadership::fixed(true),
        metrics: Metrics::default(),
        ready: Readiness::new().gate("adoption"),
        write_bound: Duration::from_secs(1),
        remind_every: Duration::from_secs(1_800),
        heartbeat: Heartbeat::new("addresses", Duration::from_secs(15)),
        judge: Mutex::default(),
    };
    (owner, writers)
}

fn object<K: DeserializeOwned>(kind: &str, name: &str, spec: &Value) -> K {
    fixtures::object(kind, name, &json!({ "spec": spec }))
}

fn pool(addresses: &str) -> IPAddressPool {
    object("IPAddressPool", "lan", &json!({"addresses": [addresses]}))
}

#[tokio::test]
async fn requirement_8_events_about_configuration_refer_to_it_by_its_uid_as_kubectl_describe_selects_them() {
    let (owner, mut writers) = owner();
    let mut pool = pool("10.0.0.0/24");
    pool.metadata.uid = Some("3d0e".into());
    writers.pools.apply_watcher_event(&Event::Apply(pool));
    let uid = |kind| status_object(kind, "lan", &owner.watches).uid;
    assert_eq!(uid("IPAddressPool").as_deref(), Some("3d0e"));
    assert_eq!(uid("L2Advertisement"), None, "another kind");
}

fn namespace(name: &str) -> k8s_openapi::api::core::v1::Namespace {
    fixtures::namespace(name, &json!({}))
}

/// A Service of this class whose status has these addresses.
fn service(namespace: &str, name: &str, class: Option<&str>, addresses: &[&str]) -> Service {
    let ingress: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    let more =
        json!({"spec": {"loadBalancerClass": class}, "status": {"loadBalancer": {"ingress": ingress}}});
    fixtures::service(namespace, name, &more)
}

/// What the Service of ours shall have; none if that is not decided.
fn has(term: &Term<'_>, namespace: &str, name: &str) -> Option<Vec<String>> {
    let outcome = term.allocator.outcome(&ServiceKey::new(namespace, name))?;
    Some(outcome.addresses.iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn what_a_service_of_another_class_still_has_is_not_given_to_one_of_ours() {
    let (owner, mut writers) = owner();
    writers.pools.apply_watcher_event(&Event::Apply(pool("10.0.0.1-10.0.0.3")));
    let mut term = Term::new(&owner, &Unsettled::default());
    term.configure();
    let all = vec![service("shop", "new", None, &[]), service("shop", "other", Some("x/y"), &["10.0.0.1"])];
    term.adopt(Listed::of(all, 1, ""));
    assert_eq!(has(&term, "shop", "new"), Some(vec!["10.0.0.2".into()]));

    writers.services.apply_watcher_event(&Event::Apply(service("shop", "late", Some("x/y"), &["10.0.0.3"])));
    term.look_at(&ServiceKey::new("shop", "late"));
    writers.services.apply_watcher_event(&Event::Apply(service("shop", "newer", None, &[])));
    term.look_at(&ServiceKey::new("shop", "newer"));
    assert_eq!(has(&term, "shop", "newer"), Some(vec![]));
}

#[tokio::test]
async fn a_service_is_left_undecided_until_the_store_has_its_namespace() {
    let (owner, mut writers) = owner();
    writers.pools.apply_watcher_event(&Event::Apply(pool("10.0.0.1/32")));
    let mut term = Term::new(&owner, &Unsettled::default());
    term.configure();
    term.adopt(Listed::of(vec![service("early", "web", None, &[])], 1, ""));
    assert_eq!(has(&term, "early", "web"), None);
    writers.namespaces.apply_watcher_event(&Event::Apply(namespace("early")));
    term.configure();
    assert_eq!(has(&term, "early", "web"), Some(vec!["10.0.0.1".into()]));
}

#[tokio::test]
async fn what_a_policy_reserves_is_not_given_away_when_the_policy_is_replaced() {
    let (owner, mut writers) = owner();
    let reserves = json!({"pool": "lan", "reserved": [{"addresses": "10.0.0.1"}]});
    let policy: crds::PoolPolicy = object("PoolPolicy", "kept", &reserves);
    writers.pools.apply_watcher_event(&Event::Apply(pool("10.0.0.1/32")));
    writers.pool_policies.apply_watcher_event(&Event::Apply(policy.clone()));
    let mut term = Term::new(&owner, &Unsettled::default());
    term.configure();
    term.adopt(Listed::of(vec![service("shop", "web", None, &[])], 1, ""));
    writers.pool_policies.apply_watcher_event(&Event::Delete(policy));
    term.configure();
    assert_eq!(has(&term, "shop", "web"), Some(vec![]));
    assert!(term.grace_deadline().is_some(), "it is looked at again when the grace is over");
}

#[tokio::test]
async fn nothing_is_said_of_a_pool_before_it_is_judged() {
    let (owner, mut writers) = owner();
    let mut term = Term::new(&owner, &Unsettled::default());
    term.configure();
    // It will be left out, but nobody has looked yet.
    writers.pools.apply_watcher_event(&Event::Apply(pool("10.0.0")));
    let told = |term: &Term<'_>| {
        let due = term.due_statuses(&BTreeMap::new());
        due.into_iter().find(|write| write.name == "lan").map(|write| write.patch["status"].clone())
    };
    assert_eq!(told(&term), None);
    term.configure();
    assert_eq!(told(&term).unwrap()["conditions"][0]["reason"], "ConfigurationError");
}
