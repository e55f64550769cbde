use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::Response;
use k8s_openapi::api::core::v1::{Namespace, Service};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::*;
use crate::client::limits::with_limits;

type Answer = Result<Response<Body>, kube::Error>;

fn response(code: u16, body: &Value) -> Response<Body> {
    Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).unwrap()
}

fn error_response(code: u16) -> Response<Body> {
    let message = "etcdserver: leader changed";
    response(code, &json!({"kind": "Status", "status": "Failure", "message": message, "code": code}))
}

fn list(items: &Value) -> Response<Body> {
    let metadata = json!({"resourceVersion": "5"});
    response(200, &json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}))
}

fn is_watch(request: &Request<Body>) -> bool {
    request.uri().query().is_some_and(|query| query.contains("watch=true"))
}

/// A client of an API server that responds to each request with `answer`.
fn client<F>(answer: impl Fn(Request<Body>) -> F + Clone + Send + Sync + 'static) -> Client
where
    F: Future<Output = Answer> + Send + 'static,
{
    with_limits(Client::new(tower::service_fn(answer), "ns"), None, "ns".to_owned(), None)
}

/// A watch, and a `Notify` that is notified when a list was applied to the store.
fn start<K>(tasks: &mut Tasks, client: Client) -> (Store<K>, Arc<Notify>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let listed = Arc::new(Notify::new());
    let notify = Arc::clone(&listed);
    let changed = move |change: Change<'_, K>| {
        if matches!(change, Change::Replaced) {
            notify.notify_one();
        }
    };
    let store =
        reflect(tasks, Api::all(client), watcher::Config::default(), CancellationToken::new(), changed);
    (store, listed)
}

#[test]
fn no_delay_between_two_attempts_is_longer_than_six_seconds() {
    let delays: Vec<_> = backoff().take(1000).collect();
    assert_eq!(delays.len(), 1000, "a watch is never given up");
    assert!(delays.iter().all(|delay| *delay <= MAX_BACKOFF), "{delays:?}");
}

#[tokio::test(start_paused = true)]
async fn requirement_7_a_rejected_list_is_retried_with_growing_delays() {
    let lists = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&lists);
    let rejected = client(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok(error_response(500)))
    });
    let mut tasks = Tasks::new();
    let _store = start::<Service>(&mut tasks, rejected);
    let begun = Instant::now();
    while lists.load(Ordering::Relaxed) < 160 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(150 * 4), "160 lists in {:?}", begun.elapsed());
    let watches = tasks.watches().subscribe();
    assert!(watches.borrow()[0].failure.as_ref().unwrap().error.contains("leader changed"));
}

/// What an API server, or a proxy in front of it, does during an outage.
#[derive(Clone, Copy, Debug)]
enum Outage {
    Rejects(u16),
    /// Responds with `Retry-After: 60`.
    RetryAfter(u16),
    RefusesConnections,
    /// Accepts the request and never responds, not even after the outage.
    NeverResponds,
}

async fn during_outage(kind: Outage) -> Answer {
    match kind {
        Outage::Rejects(code) => Ok(error_response(code)),
        Outage::RetryAfter(code) => {
            let mut response = error_response(code);
            response.headers_mut().insert("retry-after", axum::http::HeaderValue::from_static("60"));
            Ok(response)
        }
        Outage::RefusesConnections => {
            Err(kube::Error::Service(std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into()))
        }
        Outage::NeverResponds => std::future::pending().await,
    }
}

#[tokio::test(start_paused = true)]
async fn requirement_7_a_server_that_is_back_is_noticed_within_ten_seconds_after_any_outage() {
    use Outage::{NeverResponds, RefusesConnections, Rejects, RetryAfter};
    for kind in [
        Rejects(503),
        Rejects(504),
        Rejects(429),
        RetryAfter(503),
        RetryAfter(429),
        RefusesConnections,
        NeverResponds,
    ] {
        for outage in [1, 7, 31, 60, 301, 3_607].map(Duration::from_secs) {
            let back = Instant::now() + outage;
            let client = client(move |request| async move {
                match (Instant::now() < back, is_watch(&request)) {
                    (true, _) => during_outage(kind).await,
                    (false, true) => std::future::pending().await,
                    (false, false) => Ok(list(&json!([]))),
                }
            });
            let mut tasks = Tasks::new();
            let mut watches = tasks.watches().subscribe();
            let (_store, listed) = start::<Namespace>(&mut tasks, client);
            watches.wait_for(|watches| watches[0].failure.is_some()).await.unwrap();
            listed.notified().await;
            let late = Instant::now() - back;
            assert!(late <= Duration::from_secs(10), "{kind:?} for {outage:?}: noticed {late:?} after");
            assert!(watches.borrow()[0].failure.is_none(), "the outage is over");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_list_of_a_server_that_responds_is_awaited() {
    let client = client(|request| async move {
        match request.uri().path() {
            _ if is_watch(&request) => std::future::pending().await,
            "/api/v1/services" => {
                tokio::time::sleep(Duration::from_secs(50)).await;
                Ok(list(&json!([])))
            }
            _ => Ok(list(&json!([]))),
        }
    });
    let mut tasks = Tasks::new();
    let (_namespaces, listed) = start::<Namespace>(&mut tasks, client.clone());
    listed.notified().await;
    let (_services, listed) = start::<Service>(&mut tasks, client);
    let begun = Instant::now();
    listed.notified().await;
    assert!(begun.elapsed() < Duration::from_secs(51));
}

#[tokio::test(start_paused = true)]
async fn requirement_6_an_object_that_cannot_be_decoded_is_reported_by_name_and_the_others_are_stored() {
    let client = client(|request| async move {
        if is_watch(&request) {
            return std::future::pending().await;
        }
        let ports = json!({"ports": [{"port": "http"}]});
        let bad = json!({"metadata": {"name": "bad", "namespace": "ns"}, "spec": ports});
        Ok(list(&json!([{"metadata": {"name": "good"}}, bad])))
    });
    let mut tasks = Tasks::new();
    let (store, listed) = start::<Service>(&mut tasks, client);
    listed.notified().await;
    assert_eq!(store.len(), 1);
    let undecodable = tasks.watches().undecodable();
    assert_eq!(undecodable, ["Service ns/bad: spec.ports[0].port: invalid type: string, expected i32"]);
    let mut registry = prometheus_client::registry::Registry::default();
    tasks.watches().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("lbstack_undecodable_objects{kind=\"Service\"} 1"), "{text}");
}

#[test]
fn the_previous_version_of_an_object_that_cannot_be_decoded_stays() {
    use crate::decode::undecodable as bad;
    let (store, mut writer) = reflector::store::<Service>();
    let good = |name: &str| {
        Lenient::<Service, false>(Ok(serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()))
    };
    let mut names_after = |event| {
        if let Some(event) = decoded(event, &store, &()) {
            writer.apply_watcher_event(&event);
        }
        let mut names: Vec<_> =
            store.state().iter().filter_map(|object| object.metadata.name.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names_after(Event::Apply(good("a"))), ["a"]);
    assert_eq!(names_after(Event::Apply(bad("a"))), ["a"]);
    assert_eq!(names_after(Event::Apply(bad("b"))), ["a"]);
    for event in [Event::Init, Event::InitApply(bad("a")), Event::InitApply(bad("b"))] {
        names_after(event);
    }
    assert_eq!(names_after(Event::InitDone), ["a"]);
    assert_eq!(names_after(Event::Delete(bad("a"))), Vec::<String>::new());
}

#[test]
fn only_a_404_means_that_the_kind_is_not_defined() {
    use kube::core::Status;
    let answer = |code| kube::Error::Api(Box::new(Status { code, ..Status::default() }));
    assert!(is_undefined(&watcher::Error::InitialListFailed(answer(404))));
    assert!(!is_undefined(&watcher::Error::InitialListFailed(answer(403))));
    assert!(!is_undefined(&watcher::Error::InitialListFailed(answer(500))));
    assert!(!is_undefined(&watcher::Error::NoResourceVersion));
}

#[tokio::test(start_paused = true)]
async fn requirement_6_a_dynamic_reflector_reports_failures_and_undecodable_objects_until_it_ends() {
    let fails = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let refuse = Arc::clone(&fails);
    let client = client(move |request| {
        let refuse = refuse.load(Ordering::Relaxed);
        async move {
            if is_watch(&request) {
                return std::future::pending().await;
            }
            let managed = json!([{"manager": "kubectl", "operation": "Update", "apiVersion": "v1"}]);
            let good = json!({"metadata": {"name": "good", "namespace": "ns", "managedFields": managed}});
            let bad = json!({"metadata": {"name": "bad", "namespace": "ns", "generation": "secret"}});
            Ok(if refuse { error_response(403) } else { list(&json!([good, bad])) })
        }
    });
    let (tasks, stop, listed) = (Tasks::new(), CancellationToken::new(), Arc::new(Notify::new()));
    let resource = ApiResource::erase::<Service>(&());
    let api = Api::all_with(client, &resource);
    let notify = Arc::clone(&listed);
    let on_event = move |event| {
        if event == StoreEvent::Synced {
            notify.notify_one();
        }
    };
    let config = watcher::Config::default;
    let (store, run) =
        reflect_dynamic(tasks.watches(), &api, resource.clone(), config(), stop.clone(), on_event);
    let run = tokio::spawn(run);
    let mut watches = tasks.watches().subscribe();
    watches.wait_for(|watches| watches[0].failure.is_some()).await.unwrap();
    fails.store(false, Ordering::Relaxed);
    listed.notified().await;
    let object = store.state().remove(0);
    assert_eq!(object.metadata.managed_fields.as_ref().map(Vec::len), Some(1), "managed fields are included");
    assert_eq!(object.types.as_ref().map(|types| types.kind.as_str()), Some("Service"));
    let reported = watches.borrow()[0].clone();
    let reasons: Vec<String> =
        reported.undecodable.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    assert_eq!((reported.kind.as_str(), reported.failure.is_none(), reasons.len()), ("Service", true, 1));
    assert!(reasons[0].starts_with("ns/bad: ") && !reasons[0].contains("secret"), "{reasons:?}");
    stop.cancel();
    run.await.unwrap();
    assert!(watches.borrow()[0].undecodable.is_empty(), "a watch that has ended reports nothing");
    let _next = reflect_dynamic(tasks.watches(), &api, resource, config(), CancellationToken::new(), |_| {});
    assert_eq!(watches.borrow().len(), 1, "the next watch of the kind replaces it");
}

#[tokio::test(start_paused = true)]
async fn every_waiter_of_a_store_is_woken_by_its_initial_list() {
    let (store, mut writer) = reflector::store::<Service>();
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { wait_synced(&store).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    writer.apply_watcher_event(&Event::Init);
    writer.apply_watcher_event(&Event::InitDone);
    for waiter in waiters {
        let result = tokio::time::timeout(Duration::from_secs(1), waiter).await;
        assert_eq!(result.unwrap().unwrap(), Ok(()));
    }
}
