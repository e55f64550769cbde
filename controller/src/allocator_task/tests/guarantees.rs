//! Guarantees to users, tested with a fake API server.

use k8s_openapi::jiff::Timestamp;
use runtime::reflect::Change;
use tokio::sync::mpsc::UnboundedReceiver;

use super::fake_api::{Answer, Server, serve_many_services};
use super::*;
use crate::reasons::ConditionReason;
use crate::statuses::STATE_NAME;

/// A context with `server`, whose changes of Services reach the store as by a watch.
pub(super) fn context_with_server(
    server: &Server,
    mut changes: UnboundedReceiver<Value>,
) -> (Context, Writers) {
    let (context, mut writers) = new_context();
    let client = server.client();
    // Leaked, since tasks are aborted when their set is dropped.
    let tasks = Box::leak(Box::new(Tasks::new()));
    let events = Events::start(tasks, client.clone(), COMPONENT, None, CancellationToken::new());
    let work_queue = context.watches.work_queue.clone();
    let mut of_services = std::mem::replace(&mut writers.services, kube::runtime::reflector::store().1);
    tokio::spawn(async move {
        while let Some(service) = changes.recv().await {
            let service: Service = serde_json::from_value(service).unwrap();
            of_services.apply_watcher_event(&Event::Apply(service.clone()));
            work_queue.add_service(&Change::Applied(&service));
        }
    });
    (Context { client, events, ..context }, writers)
}

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Runs a term over a pool with addresses and the one Service `web` for a day of virtual time.
async fn run_a_day(server: &Server, changes: UnboundedReceiver<Value>, web: Service, pools: &[&str]) {
    let (context, mut writers) = context_with_server(server, changes);
    for addresses in pools {
        writers.pools.apply_watcher_event(&Event::Apply(pool(addresses)));
    }
    let mut term = Term::new(&context, &InFlight::default());
    term.configure();
    term.restore(ServiceList::of(vec![web], 1, ""));
    let _ = tokio::time::timeout(DAY, term.run()).await;
}

/// Overwrites each status with its own address, as the load balancer of k3s does.
fn overwrite_like_k3s(object: &mut Value) -> Answer {
    let ours = object.clone();
    object["status"]["loadBalancer"]["ingress"] = json!([{"ip": "192.168.1.5"}]);
    object["metadata"]["managedFields"] = json!([{"manager": "k3s", "operation": "Update",
        "subresource": "status", "time": "2024-01-01T00:00:00Z", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:status": {"f:loadBalancer": {}}}}]);
    Answer::Done(ours)
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_status_is_repeatedly_overwritten_is_backed_off_and_the_writer_reported() {
    let web = service("shop", "web", None, &[]);
    let (server, changes) = Server::new(std::slice::from_ref(&web));
    server.on_write(overwrite_like_k3s);
    run_a_day(&server, changes, web, &["10.0.0.1-10.0.0.3"]).await;
    assert!((4..=25).contains(&server.writes()), "{} writes in a day", server.writes());
    let stored = server.service("web");
    assert_eq!(stored["status"]["loadBalancer"]["ingress"][0]["ip"], "192.168.1.5");
    let condition = &stored["status"]["conditions"][0];
    assert_eq!(
        (condition["status"].as_str(), condition["reason"].as_str()),
        (Some("False"), Some("StatusContested"))
    );
    for text in ["\"k3s\"", "--disable=servicelb", "10.0.0.1"] {
        assert!(condition["message"].as_str().unwrap().contains(text), "{condition}");
    }
    let events = server.events();
    assert!(
        events.iter().any(|(reason, event)| reason == "StatusContested" && event.contains("k3s")),
        "{events:?}"
    );
}

/// Overwrites each status with another address of our pools, as a second allocator would.
fn overwrite_with_the_next_address(object: &mut Value) -> Answer {
    let ours = object.clone();
    let ip =
        object.pointer("/status/loadBalancer/ingress/0/ip").and_then(Value::as_str).unwrap_or("10.0.0.0");
    let last: u8 = ip.rsplit_once('.').unwrap().1.parse().unwrap();
    overwrite_like_k3s(object);
    object["status"]["loadBalancer"]["ingress"] = json!([{"ip": format!("10.0.0.{}", last % 3 + 1)}]);
    Answer::Done(ours)
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_repeatedly_stores_another_address_of_our_pools_causes_back_off() {
    for asks in [json!({}), json!({"metallb.io/loadBalancerIPs": "10.0.0.1"})] {
        let mut web = json!(service("shop", "web", None, &[]));
        web["metadata"]["annotations"] = asks;
        let web: Service = serde_json::from_value(web).unwrap();
        let (server, changes) = Server::new(std::slice::from_ref(&web));
        server.on_write(overwrite_with_the_next_address);
        run_a_day(&server, changes, web, &["10.0.0.1-10.0.0.3"]).await;
        assert!((2..=30).contains(&server.writes()), "{} writes in a day", server.writes());
    }
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_repeatedly_replaces_the_whole_status_causes_back_off() {
    let web = service("shop", "web", None, &[]);
    let (server, changes) = Server::new(std::slice::from_ref(&web));
    server.on_write(|object| {
        let ours = object.clone();
        object["status"] = json!({"loadBalancer": {}});
        object["metadata"]["annotations"] = json!({});
        Answer::Done(ours)
    });
    run_a_day(&server, changes, web, &["10.0.0.1-10.0.0.3"]).await;
    assert!(server.writes() <= 30, "{} writes in a day", server.writes());
}

/// Runs a controller without pools on a Service with an entry of another load balancer.
pub(super) async fn with_a_foreign_entry(time: Duration) -> Server {
    let web = service("shop", "web", None, &["172.30.0.150"]);
    let (server, changes) = Server::new(std::slice::from_ref(&web));
    let (context, _writers) = context_with_server(&server, changes);
    let mut term = Term::new(&context, &InFlight::default());
    term.configure();
    term.services.insert_newer(web);
    term.sync_service(&ServiceKey::new("shop", "web"));
    let _ = tokio::time::timeout(time, term.run()).await;
    server
}

#[tokio::test(start_paused = true)]
async fn an_entry_of_another_load_balancer_is_not_removed_while_nothing_is_assigned() {
    let server = with_a_foreign_entry(DAY).await;
    let stored = server.service("web");
    assert_eq!(stored["status"]["loadBalancer"]["ingress"][0]["ip"], "172.30.0.150");
    assert_eq!(server.writes(), 1, "the condition, once");
    assert!(server.events().iter().all(|(reason, _)| reason != "ClearAssignment"), "{:?}", server.events());
}

#[tokio::test(start_paused = true)]
async fn an_assigned_address_replaces_an_entry_of_another_load_balancer() {
    let web = service("shop", "web", None, &["172.30.0.150"]);
    let (server, changes) = Server::new(std::slice::from_ref(&web));
    let (context, mut writers) = context_with_server(&server, changes);
    writers.pools.apply_watcher_event(&Event::Apply(pool("10.0.0.1-10.0.0.3")));
    let mut term = Term::new(&context, &InFlight::default());
    term.configure();
    term.services.insert_newer(web);
    term.sync_service(&ServiceKey::new("shop", "web"));
    let _ = tokio::time::timeout(Duration::from_secs(60), term.run()).await;
    assert_eq!(server.service("web")["status"]["loadBalancer"]["ingress"], json!([{"ip": "10.0.0.1"}]));
}

#[tokio::test(start_paused = true)]
async fn an_event_is_sent_for_a_write_that_was_carried_out_although_the_answer_was_an_error() {
    for code in [504, 409, 500] {
        let web = service("shop", "web", None, &[]);
        let (server, changes) = Server::new(std::slice::from_ref(&web));
        server.on_write(move |_| Answer::Error(code));
        run_a_day(&server, changes, web, &["10.0.0.1-10.0.0.3"]).await;
        assert_eq!(server.service("web")["status"]["loadBalancer"]["ingress"][0]["ip"], "10.0.0.1");
        let allocated = server.events().iter().filter(|(reason, _)| reason == "IPAllocated").count();
        assert_eq!(allocated, 1, "after {code}: {:?}", server.events());
    }
}

/// The pool and its policy are in the API, and the watch of policies is behind.
#[tokio::test(start_paused = true)]
async fn nothing_is_assigned_from_a_new_pool_before_the_earlier_policies_are_known() {
    let web = service("shop", "web", None, &[]);
    let (server, changes) = Server::new(std::slice::from_ref(&web));
    let (context, mut writers) = context_with_server(&server, changes);
    let mut term = Term::new(&context, &InFlight::default());
    term.configure();
    term.restore(ServiceList::of(vec![web], 1, ""));
    let reserves = json!({"pool": "lan", "reserved": [{"addresses": "10.0.0.1"}]});
    let mut policy: Value = json!(object::<crds::PoolPolicy>("PoolPolicy", "p", &reserves));
    policy["metadata"]["resourceVersion"] = json!("5");
    let mut lan = json!(pool("10.0.0.1-10.0.0.2"));
    lan["metadata"]["resourceVersion"] = json!("6");
    server.set_list("poolpolicies", vec![policy.clone()]);
    server.set_list("ipaddresspools", vec![lan.clone()]);
    server.set_list("namespaces", vec![json!(namespace("shop"))]);
    writers.pools.apply_watcher_event(&Event::Apply(serde_json::from_value(lan).unwrap()));
    context.watches.work_queue.add_configuration();
    let _ = tokio::time::timeout(Duration::from_secs(30), term.run()).await;
    assert_eq!(assigned(&term, "shop", "web"), Some(vec![]), "the policy is not known yet");
    writers.pool_policies.apply_watcher_event(&Event::Apply(serde_json::from_value(policy).unwrap()));
    context.watches.work_queue.add_configuration();
    let _ = tokio::time::timeout(Duration::from_secs(30), term.run()).await;
    assert_eq!(assigned(&term, "shop", "web"), Some(vec!["10.0.0.2".into()]));
}

/// Edits of a policy that are invalid, or whose reference does not resolve.
fn invalid_policy_specs() -> Vec<Value> {
    let quotas = |selector: Value| json!([{"maxAddresses": 1, "namespaceSelector": selector}]);
    let valid = |pool: &str, reserved: &str| json!({"pool": pool, "reserved": [{"addresses": reserved}]});
    let mut list = vec![valid("lan", "10.0.0.1x"), valid("lann", "10.0.0.1"), valid("lan", "10.10.0.1")];
    let mut mistyped = valid("lan", "10.0.0.1");
    mistyped["quotas"] = quotas(json!({"matchLabels": {"team": "shp"}}));
    list[0]["quotas"] = quotas(json!({"matchLabels": {"-": "no label"}}));
    list.push(mistyped);
    list
}

#[tokio::test]
async fn an_invalid_edit_of_a_policy_ends_no_reservation_and_no_quota() {
    for invalid in invalid_policy_specs() {
        let (context, mut writers) = new_context();
        let policy = |spec: Value| {
            let policy: crds::PoolPolicy = object("PoolPolicy", "p", &spec);
            Event::Apply(policy)
        };
        writers.pools.apply_watcher_event(&Event::Apply(pool("10.0.0.1-10.0.0.9")));
        let valid =
            json!({"pool": "lan", "reserved": [{"addresses": "10.0.0.1"}], "quotas": [{"maxAddresses": 1}]});
        writers.pool_policies.apply_watcher_event(&policy(valid));
        // A standby replica has seen the valid version too.
        context.history().build(&context.watches.objects(), Timestamp::now());
        writers.pool_policies.apply_watcher_event(&policy(invalid.clone()));
        let mut term = Term::new(&context, &InFlight::default());
        term.configure();
        term.restore(ServiceList::of(
            vec![service("shop", "a", None, &[]), service("shop", "b", None, &[])],
            1,
            "",
        ));
        assert_eq!(assigned(&term, "shop", "a"), Some(vec!["10.0.0.2".into()]), "{invalid}");
        assert_eq!(assigned(&term, "shop", "b"), Some(vec![]), "{invalid}");
        let due = term.due_statuses(&BTreeMap::new());
        let status =
            |name: &str| due.iter().find(|write| write.name == name).unwrap().patch["status"].clone();
        let ready = &status("p")["conditions"][0];
        assert_eq!((&ready["type"], &ready["status"]), (&json!("Ready"), &json!("False")), "{invalid}");
        assert!(ready["message"].as_str().unwrap().contains("last valid version"), "{ready}");
        let state = status(STATE_NAME);
        assert_eq!(state["result"], "Invalid", "the status of the stack includes it");
        assert!(state["errorSummary"].as_str().unwrap().starts_with("PoolPolicy p: spec."), "{state}");
    }
}

#[tokio::test]
async fn a_nodes_own_address_is_not_assigned_and_reports_name_the_node() {
    let (context, mut writers) = new_context();
    let nodes = [("node1", "10.0.0.1"), ("node2", "10.0.0.2")];
    let context = Context { watches: context.watches.clone().with_nodes(&nodes), ..context };
    writers.pools.apply_watcher_event(&Event::Apply(pool("10.0.0.1-10.0.0.5")));
    // On an interface of a node, as its speaker reports; the second is an address of a Service there.
    let state = json!({"metadata": {"name": "node4"}, "status": {"node": "node4", "interfaces": [
        {"name": "eth1", "mac": "02:00:00:00:00:01", "subnets": ["10.0.0.5/24", "10.0.0.4/32"]}]}});
    let states = vec![serde_json::from_value(state).unwrap()];
    let context = Context { watches: context.watches.clone().with_speaker_states(states), ..context };
    // The same in the annotation of an earlier release.
    let links =
        json!([{"name": "eth1", "mac": "02:00:00:00:00:01", "subnets": ["10.0.0.3/24", "10.0.0.4/32"]}]);
    let state: crds::ConfigurationState =
        serde_json::from_value(json!({"metadata": {"name": "speaker-node3",
        "labels": {"metallb.io/node-name": "node3"},
        "annotations": {"lbstack.dev/links": links.to_string()}}}))
        .unwrap();
    writers.states.apply_watcher_event(&Event::Apply(state));
    let mut term = Term::new(&context, &InFlight::default());
    term.configure();
    let mut asks = service("shop", "asks", None, &[]);
    asks.metadata.annotations = Some([("metallb.io/loadBalancerIPs".into(), "10.0.0.2".into())].into());
    let holds = service("shop", "holds", None, &["10.0.0.1"]);
    term.restore(ServiceList::of(vec![service("shop", "any", None, &[]), asks, holds], 1, ""));
    assert_eq!(assigned(&term, "shop", "any"), Some(vec!["10.0.0.4".into()]));
    assert_eq!(assigned(&term, "shop", "asks"), Some(vec![]));
    assert_eq!(assigned(&term, "shop", "holds"), Some(vec!["10.0.0.1".into()]), "a current address is kept");
    let refusal =
        term.allocator.assignment(&ServiceKey::new("shop", "asks")).unwrap().refusal.unwrap().to_string();
    assert!(refusal.contains("10.0.0.2") && refusal.contains("node2"), "{refusal}");
    let warning = term.conflict_condition(&["10.0.0.1".parse().unwrap()]).unwrap();
    assert!(warning.0 == ConditionReason::UsedByNode && warning.1.contains("node1"), "{warning:?}");
    let finding = term.findings.iter().find(|finding| finding.object.name == "lan").unwrap().to_string();
    assert!(["node1", "node2", "node3", "node4"].iter().all(|node| finding.contains(node)), "{finding}");
}

#[tokio::test]
async fn an_address_that_a_speaker_reports_as_held_by_a_node_is_treated_as_that_nodes_own() {
    let (context, mut writers) = new_context();
    writers.pools.apply_watcher_event(&Event::Apply(pool("10.0.0.1-10.0.0.2")));
    let spec = json!({"address": "10.0.0.1", "mac": "02:00:00:00:00:01", "node": "node1", "interface": "eth1",
        "heldByNode": true, "announced": false});
    let held = object("AddressConflict", "10-0-0-1", &spec);
    writers.conflicts.apply_watcher_event(&Event::Apply(held));
    let mut term = Term::new(&context, &InFlight::default());
    term.configure();
    let holds = service("shop", "holds", None, &["10.0.0.1"]);
    term.restore(ServiceList::of(vec![service("shop", "any", None, &[]), holds], 1, ""));
    assert_eq!(assigned(&term, "shop", "any"), Some(vec!["10.0.0.2".into()]));
    assert_eq!(assigned(&term, "shop", "holds"), Some(vec!["10.0.0.1".into()]), "a current address is kept");
    let (reason, text) = term.conflict_condition(&["10.0.0.1".parse().unwrap()]).unwrap();
    assert_eq!(reason, ConditionReason::UsedByNode);
    assert!(text.contains("node node1 (on eth1, 02:00:00:00:00:01)"), "{text}");
    let finding = term.findings.iter().find(|finding| finding.object.name == "lan").unwrap().to_string();
    assert!(finding.contains("10.0.0.1 of node node1"), "{finding}");
}

#[tokio::test(start_paused = true)]
async fn a_standby_replica_is_ready_and_causes_no_alert() {
    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = Metrics::register(&mut registry);
    let (context, mut writers) = new_context();
    let context = Context { metrics, leadership: Leadership::fixed(false), ..context };
    // The kinds that assignment does not depend on have no list yet.
    macro_rules! listed {
        ($($kind:ident),*) => {$(
            writers.$kind.apply_watcher_event(&Event::Init);
            writers.$kind.apply_watcher_event(&Event::InitDone);
        )*};
    }
    listed!(services, pools, pool_policies, namespaces, conflicts);
    let readiness = Readiness::new();
    let context = Context { ready: readiness.gate("restore"), ..context };
    let _ = tokio::time::timeout(
        Duration::from_secs(120),
        AllocatorTask::new(context).run(CancellationToken::new()),
    )
    .await;
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.lines().any(|line| line == "metallb_k8s_client_config_loaded_bool 1"), "{text}");
    assert!(readiness.waiting_for().is_empty());
}

/// Fills the stores and the server with a pool, the namespace and `web`, so that a term can begin.
pub(super) fn fill_stores(server: &Server, writers: &mut Writers, web: &Service) {
    let mut lan = json!(pool("10.0.0.1-10.0.0.3"));
    lan["metadata"]["resourceVersion"] = json!("6");
    server.set_list("ipaddresspools", vec![lan.clone()]);
    server.set_list("namespaces", vec![json!(namespace("shop"))]);
    for event in [Event::Init, Event::InitApply(serde_json::from_value(lan).unwrap()), Event::InitDone] {
        writers.pools.apply_watcher_event(&event);
    }
    for event in [Event::Init, Event::InitApply(namespace("shop")), Event::InitDone] {
        writers.namespaces.apply_watcher_event(&event);
    }
    for event in [Event::Init, Event::InitApply(web.clone()), Event::InitDone] {
        writers.services.apply_watcher_event(&event);
    }
    for event in [Event::Init, Event::InitDone] {
        writers.pool_policies.apply_watcher_event(&event);
    }
    for event in [Event::Init, Event::InitDone] {
        writers.conflicts.apply_watcher_event(&event);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pending_write_is_completed_before_the_lease_is_released() {
    let web = service("shop", "web", None, &[]);
    let (server, _changes) = Server::new(std::slice::from_ref(&web));
    server.delay_writes(Duration::from_millis(900));
    let (context, mut writers) = new_context();
    fill_stores(&server, &mut writers, &web);
    let context = Context { client: server.client(), ..context };
    let shutdown = CancellationToken::new();
    let run = tokio::spawn(AllocatorTask::new(context).run(shutdown.clone()));
    while server.begun() == 0 {
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    shutdown.cancel();
    run.await.unwrap().unwrap();
    assert_eq!(server.service("web")["status"]["loadBalancer"]["ingress"][0]["ip"], "10.0.0.1");
}

#[tokio::test(start_paused = true)]
async fn the_heartbeat_of_a_leader_stops_if_it_cannot_list_but_not_if_it_is_idle() {
    for fails in [true, false] {
        let web = service("shop", "web", None, &[]);
        let (server, _changes) = Server::new(std::slice::from_ref(&web));
        let (context, mut writers) = new_context();
        fill_stores(&server, &mut writers, &web);
        server.fail_lists(fails);
        let heartbeat = context.heartbeat.clone();
        let context = Context { client: server.client(), ..context };
        let run = AllocatorTask::new(context).run(CancellationToken::new());
        let _ = tokio::time::timeout(Duration::from_secs(60), run).await;
        assert_eq!(heartbeat.is_alive(tokio::time::Instant::now()), !fails, "fails: {fails}");
    }
}

/// Environment variable that is set in the process in which the memory is measured.
const MEMORY_TEST_ENV: &str = "LBSTACK_TEST_MEASURES_MEMORY";

fn kilobytes(of: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(of)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// In a separate process, in which nothing else uses memory.
#[test]
fn ten_thousand_services_with_large_managed_fields_are_restored_in_64_megabytes() {
    let name = concat!(
        "allocator_task::tests::guarantees::",
        "ten_thousand_services_with_large_managed_fields_are_restored_in_64_megabytes"
    );
    if std::env::var_os(MEMORY_TEST_ENV).is_none() {
        let this = std::env::current_exe().unwrap();
        let child = std::process::Command::new(this)
            .args(["--exact", name])
            .env(MEMORY_TEST_ENV, "1")
            .output()
            .unwrap();
        let events = String::from_utf8_lossy(&child.stdout).into_owned();
        assert!(child.status.success() && events.contains("1 passed"), "{events}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (context, _writers) = new_context();
        let client = serve_many_services(10_000, 50_000);
        let context = Context { client, ..context };
        let before = kilobytes("VmRSS:");
        let listed = ServiceList::from_api(&context).await.unwrap();
        let peak = kilobytes("VmHWM:") - before;
        let mut term = Term::new(&context, &InFlight::default());
        term.restore(listed);
        assert_eq!(term.allocator.services().count(), 10_000);
        assert!(peak < 64 * 1024, "{} MiB", peak / 1024);
    });
}
