//! The writer with a mock API that records writes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use announce::EthernetAddress;
use announce::layer2::ownership::{Detection, Input, Ownership, OwnershipSettings};
use announce::layer2::responder::Observation;
use announce::layer2::view::View;
use axum::http::{Method, Request, Response};
use kube::client::Body;
use runtime::tasks::Tasks;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::*;
use crate::api::watches::WatchConfig;
use crate::fixtures::{address, view};
use crate::layer2::driver::Reports;

type Writes = Arc<Mutex<Vec<(Method, String, Value)>>>;

/// A mock API with empty lists, where nothing ever changes; and the writes to it.
fn api() -> (Client, Writes) {
    api_of(vec![])
}

/// The same with these `AddressConflict`s.
fn api_with(conflicts: Vec<Value>) -> (Client, Writes) {
    api_of(vec![("/addressconflicts", conflicts)])
}

/// The same with these objects, by the ends of the paths of their lists.
fn api_of(lists: Vec<(&'static str, Vec<Value>)>) -> (Client, Writes) {
    let writes = Writes::default();
    let written = Arc::clone(&writes);
    let answer = move |request: Request<Body>| {
        let (written, lists) = (Arc::clone(&written), lists.clone());
        async move {
            if request.uri().query().is_some_and(|query| query.contains("watch=")) {
                std::future::pending::<()>().await;
            }
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let body = if method == Method::GET {
                let items = lists.into_iter().find(|(end, _)| path.ends_with(end));
                let items = items.map(|(_, items)| items).unwrap_or_default();
                json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
            } else {
                let bytes = request.into_body().collect_bytes().await.unwrap();
                let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                written.lock().unwrap().push((method.clone(), path, body.clone()));
                if method == Method::DELETE {
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})
                } else {
                    merged(body)
                }
            };
            Response::builder().status(200).body(Body::from(body.to_string().into_bytes()))
        }
    };
    (Client::new(tower::service_fn(answer), "default"), writes)
}

/// The written object with the fields that are required for parsing it.
fn merged(mut body: Value) -> Value {
    if body["metadata"].is_null() {
        body["metadata"] = json!({});
    }
    if body["spec"].is_null() {
        body["spec"] = json!({});
    }
    body
}

fn caches(tasks: &mut Tasks, client: &Client, shutdown: &CancellationToken) -> Caches {
    let watch_config = WatchConfig { namespace: "lb".into(), node: "a".into(), pod: None, class: None };
    Caches::start(tasks, client, watch_config, None, &Arc::new(Notify::new()), shutdown)
}

fn observation(mac: [u8; 6]) -> Observation {
    let (mac, ours) = (EthernetAddress(mac), EthernetAddress([2, 0, 0, 0, 0, 1]));
    Observation { address: address(), mac, ours, link: 1, probing: false }
}

/// A speaker that owns the address.
fn owner(view: &Arc<View>, now: &mut Instant) -> Ownership {
    let settings = OwnershipSettings {
        me: "a".into(),
        interval: Duration::from_millis(100),
        detect_multiplier: 3,
        detection: Detection::Enforce,
        session: 1,
    };
    let mut owner = Ownership::new(settings);
    owner.handle(*now, Input::View(Arc::clone(view)));
    *now += Duration::from_secs(1);
    owner.handle(*now, Input::Deadline);
    owner.handle(*now, Input::ProbeClear(address()));
    assert!(owner.owned().contains_key(&address()));
    owner
}

#[tokio::test]
async fn requirement_6_frames_with_invented_hardware_addresses_cost_one_write_in_ten_seconds() {
    let (client, writes) = api();
    let (mut tasks, shutdown) = (Tasks::new(), CancellationToken::new());
    let caches = caches(&mut tasks, &client, &shutdown);
    let mut conflicts = Conflicts::new(client, "lb", "a".into(), caches);
    let (view, mut now) = (Arc::new(view()), Instant::now());
    let mut owner = owner(&view, &mut now);
    for frame in 0..3_000_u32 {
        let [_, _, a, b] = frame.to_be_bytes();
        owner.handle(now, Input::Contested(observation([2, 0, 0, 0x77, a, b])));
        let reports = Reports { conflicts: owner.conflicts().clone(), ..Reports::default() };
        let published = Published {
            settled: true,
            view: Arc::clone(&view),
            owned: Arc::new(owner.owned().clone()),
            reports: Arc::new(reports),
            ..Published::default()
        };
        conflicts.write(now, &published, &[], None).await.unwrap();
        now += Duration::from_millis(10);
        owner.handle(now, Input::Deadline);
    }
    let writes = writes.lock().unwrap();
    assert_eq!(writes.len(), 3, "of 3 000 frames in 30 s: {writes:?}");
    shutdown.cancel();
}

#[tokio::test]
async fn a_conflict_with_a_node_survives_a_restart_until_it_is_known_which_addresses_nodes_have() {
    let spec = json!({
        "address": address().to_string(), "mac": "02:00:00:00:00:0b", "node": "b", "interface": "eth0",
        "heldByNode": true, "announced": false,
    });
    let (client, writes) = api_with(vec![json!({
        "apiVersion": "lbstack.dev/v1alpha1", "kind": "AddressConflict",
        "metadata": {"name": "10.0.0.1", "namespace": "lb"}, "spec": spec,
    })]);
    let (mut tasks, shutdown) = (Tasks::new(), CancellationToken::new());
    let caches = caches(&mut tasks, &client, &shutdown);
    caches.conflicts.wait_synced().await.unwrap();
    let mut conflicts = Conflicts::new(client, "lb", "a".into(), caches);
    for listed in [false, true] {
        let mut view = view();
        view.states_listed = listed;
        let published = Published { settled: true, view: Arc::new(view), ..Published::default() };
        conflicts.write(Instant::now(), &published, &[], None).await.unwrap();
        let deleted = writes.lock().unwrap().iter().any(|(method, ..)| method == Method::DELETE);
        assert_eq!(deleted, listed);
    }
    shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn requirement_6_rounds_of_writes_begin_five_times_a_second_at_most() {
    let (client, _writes) = api();
    let (mut tasks, shutdown) = (Tasks::new(), CancellationToken::new());
    let caches = caches(&mut tasks, &client, &shutdown);
    let metrics = Metrics::default();
    let settings = StatusSettings { namespace: "lb".into(), beacon_port: 7_946, metrics: metrics.clone() };
    let events = Events::start(&mut tasks, client.clone(), "lbstack-speaker", None, shutdown.clone());
    let writer = StatusWriter::new(&client, &"a".into(), caches, events, settings);
    let (published, publications) = watch::channel(Published { view_known: true, ..Published::default() });
    let (_links, links) = watch::channel(Vec::new());
    let (_others, others) = watch::channel(OtherAddresses::new());
    let (_findings, findings) = watch::channel(Vec::new());
    let run = tokio::spawn(writer.run(publications, links, others, findings, shutdown.clone()));
    for _ in 0..2_000 {
        published.send_modify(|published| published.view = Arc::new(view()));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let rounds = metrics.rounds();
    assert!((5..=12).contains(&rounds), "{rounds} rounds in 2 s");
    shutdown.cancel();
    run.await.unwrap().unwrap();
}

#[tokio::test]
async fn requirement_6_the_state_of_a_speaker_is_written_at_most_once_in_five_seconds_and_the_last_change_too()
 {
    let (client, writes) = api();
    let (mut tasks, shutdown) = (Tasks::new(), CancellationToken::new());
    let caches = caches(&mut tasks, &client, &shutdown);
    let mut states = SpeakerStates::new(client, "lb", "a".into(), caches, 7_946);
    let (begun, others) = (Instant::now(), OtherAddresses::new());
    let written = || {
        let writes = writes.lock().unwrap();
        writes.iter().filter(|(_, path, _)| path.ends_with("/speakerstates/a/status")).count()
    };
    let mut put_off = 0;
    for tenth in 0..200_u32 {
        let owned = (0..=tenth).map(|n| (IpAddr::V4((0x0a00_0000 + n).into()), 1)).collect();
        let published = Published { settled: true, owned: Arc::new(owned), ..Published::default() };
        let node =
            speaker_state::Node { links: &[], other_addresses: &others, last_announced: BTreeMap::new() };
        let now = begun + Duration::from_millis(100) * tenth;
        if !states.write(now, &published, node, None).await.unwrap() {
            put_off += 1;
            assert!(states.next().is_some_and(|due| due > now && due <= now + Duration::from_secs(5)));
        }
    }
    assert_eq!((written(), put_off), (4, 196), "of 200 changes in 20 s");
    shutdown.cancel();
}

#[tokio::test]
async fn annotations_of_an_earlier_release_are_read_until_the_node_has_a_speaker_state() {
    let legacy = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "ConfigurationState",
        "metadata": {
            "name": "speaker-b", "namespace": "lb",
            "annotations": {
                "lbstack.dev/node": "b",
                "lbstack.dev/links": r#"[{"name":"eth0","mac":"02:00:00:00:00:0b","subnets":[],"families":["IPv4"]}]"#,
                "lbstack.dev/last-announced": r#"{"b":{"default/web":7}}"#,
            },
        },
    });
    let state = |node: &str| {
        json!({
            "apiVersion": "lbstack.dev/v1alpha1", "kind": "SpeakerState",
            "metadata": {"name": node, "namespace": "lb"},
            "status": {"node": node, "lastAnnounced": {node: {"default/db": 3}}},
        })
    };
    for (states, expected) in
        [(vec![state("c")], ["db", "web"]), (vec![state("b"), state("c")], ["db", "db"])]
    {
        let (client, _) =
            api_of(vec![("/speakerstates", states), ("/configurationstates", vec![legacy.clone()])]);
        let (mut tasks, shutdown) = (Tasks::new(), CancellationToken::new());
        let caches = caches(&mut tasks, &client, &shutdown);
        caches.reports_ready().await.unwrap();
        let mut services: Vec<String> =
            caches.remembered().iter().map(|status| status.service.name.clone()).collect();
        services.sort();
        assert_eq!(services, expected);
        shutdown.cancel();
    }
}
