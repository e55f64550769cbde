//! What a term does with the content of the stores. The writes that it queues are not sent here.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use crds::{IPAddressPool, ServiceKey};
use k8s_openapi::api::core::v1::Service;
use kube::runtime::watcher::Event;
use runtime::admin::Readiness;
use runtime::events::Events;
use runtime::heartbeat::Heartbeat;
use runtime::lease::Leadership;
use runtime::tasks::Tasks;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::service_list::ServiceList;
use super::task::AllocatorTask;
use super::term::Term;
use super::writes::InFlight;
use crate::api::COMPONENT;
use crate::fixtures::{self, unreachable_client};
use crate::metrics::Metrics;
use crate::watches::test_stores::{Writers, watches};

mod events;
mod fake_api;
mod guarantees;
mod isolation;
mod logs;

/// A context with stores that contain the namespace `shop`.
fn new_context() -> (Context, Writers) {
    let client = unreachable_client();
    let (watches, mut writers) = watches("metallb-system");
    writers.namespaces.apply_watcher_event(&Event::Apply(namespace("shop")));
    let context = Context {
        events: Events::start(&mut Tasks::new(), client.clone(), COMPONENT, None, CancellationToken::new()),
        client,
        class: String::new(),
        watches,
        leadership: Leadership::fixed(true),
        metrics: Metrics::default(),
        ready: Readiness::new().gate("restore"),
        write_timeout: Duration::from_secs(1),
        repeat_interval: Duration::from_secs(1_800),
        heartbeat: Heartbeat::new("addresses", Duration::from_secs(15)),
        history: Mutex::default(),
    };
    (context, writers)
}

fn object<K: DeserializeOwned>(kind: &str, name: &str, spec: &Value) -> K {
    fixtures::object(kind, name, &json!({ "spec": spec }))
}

fn pool(addresses: &str) -> IPAddressPool {
    object("IPAddressPool", "lan", &json!({"addresses": [addresses]}))
}

#[tokio::test]
async fn events_about_configuration_have_its_uid_by_which_kubectl_describe_selects_them() {
    let (context, mut writers) = new_context();
    let mut pool = pool("10.0.0.0/24");
    pool.metadata.uid = Some("3d0e".into());
    writers.pools.apply_watcher_event(&Event::Apply(pool));
    let uid = |kind| context.watches.status_object(kind, "lan").uid;
    assert_eq!(uid("IPAddressPool").as_deref(), Some("3d0e"));
    assert_eq!(uid("L2Advertisement"), None, "another kind");
}

fn namespace(name: &str) -> k8s_openapi::api::core::v1::Namespace {
    fixtures::namespace(name, &json!({}))
}

/// A Service of this class with these addresses in its status.
fn service(namespace: &str, name: &str, class: Option<&str>, addresses: &[&str]) -> Service {
    let ingress: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    let more =
        json!({"spec": {"loadBalancerClass": class}, "status": {"loadBalancer": {"ingress": ingress}}});
    fixtures::service(namespace, name, &more)
}

/// The assigned addresses of the Service; `None` if nothing is decided.
fn assigned(term: &Term<'_>, namespace: &str, name: &str) -> Option<Vec<String>> {
    let assignment = term.allocator.assignment(&ServiceKey::new(namespace, name))?;
    Some(assignment.addresses.iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn an_address_of_a_service_of_another_class_is_not_assigned() {
    let (context, mut writers) = new_context();
    writers.pools.apply_watcher_event(&Event::Apply(pool("10.0.0.1-10.0.0.3")));
    let mut term = Term::new(&context, &InFlight::default());
    term.configure();
    let all = vec![service("shop", "new", None, &[]), service("shop", "other", Some("x/y"), &["10.0.0.1"])];
    term.restore(ServiceList::of(all, 1, ""));
    assert_eq!(assigned(&term, "shop", "new"), Some(vec!["10.0.0.2".into()]));

    writers.services.apply_watcher_event(&Event::Apply(service("shop", "late", Some("x/y"), &["10.0.0.3"])));
    term.sync_service(&ServiceKey::new("shop", "late"));
    writers.services.apply_watcher_event(&Event::Apply(service("shop", "newer", None, &[])));
    term.sync_service(&ServiceKey::new("shop", "newer"));
    assert_eq!(assigned(&term, "shop", "newer"), Some(vec![]));
}

#[tokio::test]
async fn a_service_is_not_decided_until_the_store_has_its_namespace() {
    let (context, mut writers) = new_context();
    writers.pools.apply_watcher_event(&Event::Apply(pool("10.0.0.1/32")));
    let mut term = Term::new(&context, &InFlight::default());
    term.configure();
    term.restore(ServiceList::of(vec![service("early", "web", None, &[])], 1, ""));
    assert_eq!(assigned(&term, "early", "web"), None);
    writers.namespaces.apply_watcher_event(&Event::Apply(namespace("early")));
    term.configure();
    assert_eq!(assigned(&term, "early", "web"), Some(vec!["10.0.0.1".into()]));
}

#[tokio::test]
async fn a_reserved_address_is_not_assigned_while_its_policy_is_replaced() {
    let (context, mut writers) = new_context();
    let reserves = json!({"pool": "lan", "reserved": [{"addresses": "10.0.0.1"}]});
    let policy: crds::PoolPolicy = object("PoolPolicy", "kept", &reserves);
    writers.pools.apply_watcher_event(&Event::Apply(pool("10.0.0.1/32")));
    writers.pool_policies.apply_watcher_event(&Event::Apply(policy.clone()));
    let mut term = Term::new(&context, &InFlight::default());
    term.configure();
    term.restore(ServiceList::of(vec![service("shop", "web", None, &[])], 1, ""));
    writers.pool_policies.apply_watcher_event(&Event::Delete(policy));
    term.configure();
    assert_eq!(assigned(&term, "shop", "web"), Some(vec![]));
    assert!(term.grace_deadline().is_some(), "it is processed again after the grace period");
}

#[tokio::test]
async fn a_pool_gets_no_status_before_it_is_validated() {
    let (context, mut writers) = new_context();
    let mut term = Term::new(&context, &InFlight::default());
    term.configure();
    // It is invalid, but was not validated yet.
    writers.pools.apply_watcher_event(&Event::Apply(pool("10.0.0")));
    let status_of_pool = |term: &Term<'_>| {
        let due = term.due_statuses(&BTreeMap::new());
        due.into_iter().find(|write| write.name == "lan").map(|write| write.patch["status"].clone())
    };
    assert_eq!(status_of_pool(&term), None);
    term.configure();
    assert_eq!(status_of_pool(&term).unwrap()["conditions"][0]["reason"], "ConfigurationError");
}
