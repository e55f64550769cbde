//! What users rely on, over an API server that is played.

use runtime::reflect::Change;
use tokio::sync::mpsc::UnboundedReceiver;

use super::api::{Answer, Server, many_services};
use super::*;
use crate::service::CONTESTED;

/// The owner over `server`, whose changes of Services reach the store like by a watch.
pub(super) fn over(server: &Server, mut changes: UnboundedReceiver<Value>) -> (Owner, Writers) {
    let (owner, mut writers) = owner();
    let client = server.client();
    // As long as the test: they end with what holds them.
    let tasks = Box::leak(Box::new(Tasks::new()));
    let events = Events::start(tasks, client.clone(), COMPONENT, None, CancellationToken::new());
    let dirty = owner.watches.dirty.clone();
    let mut of_services = std::mem::replace(&mut writers.services, kube::runtime::reflector::store().1);
    tokio::spawn(async move {
        while let Some(service) = changes.recv().await {
            let service: Service = serde_json::from_value(service).unwrap();
            of_services.apply_watcher_event(&Event::Apply(service.clone()));
            dirty.service(&Change::Applied(&service));
        }
    });
    (Owner { client, events, ..owner }, writers)
}

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Runs a term over a pool with addresses and the one Service `web` for a day of virtual time.
async fn a_day(server: &Server, changes: UnboundedReceiver<Value>, web: Service, pools: &[&str]) {
    let (owner, mut writers) = over(server, changes);
    for addresses in pools {
        writers.pools.apply_watcher_event(&Event::Apply(pool(addresses)));
    }
    let mut term = Term::new(&owner, &Unsettled::default());
    term.configure();
    term.adopt(Listed::of(vec![web], 1, ""));
    let _ = tokio::time::timeout(DAY, term.run()).await;
}

/// What `k3s` does: whatever is written, it writes its own address.
fn insists(object: &mut Value) -> Answer {
    let ours = object.clone();
    object["status"]["loadBalancer"]["ingress"] = json!([{"ip": "192.168.1.5"}]);
    object["metadata"]["managedFields"] = json!([{"manager": "k3s", "operation": "Update", "subresource": "status",
        "time": "2024-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:status": {"f:loadBalancer": {}}}}]);
    Answer::Done(ours)
}

#[tokio::test(start_paused = true)]
async fn requirement_3_a_service_whose_status_another_writer_insists_on_is_left_alone_with_a_report_that_names_it()
 {
    let web = service("shop", "web", None, &[]);
    let (server, changes) = Server::new(std::slice::from_ref(&web));
    server.on_write(insists);
    a_day(&server, changes, web, &["10.0.0.1-10.0.0.3"]).await;
    assert!((4..=25).contains(&server.writes()), "{} writes in a day", server.writes());
    let stored = server.service("web");
    assert_eq!(stored["status"]["loadBalancer"]["ingress"][0]["ip"], "192.168.1.5");
    let condition = &stored["status"]["conditions"][0];
    assert_eq!(
        (condition["status"].as_str(), condition["reason"].as_str()),
        (Some("False"), Some(CONTESTED))
    );
    for text in ["\"k3s\"", "--disable=servicelb", "10.0.0.1"] {
        assert!(condition["message"].as_str().unwrap().contains(text), "{condition}");
    }
    let told = server.events();
    assert!(told.iter().any(|(reason, note)| reason == CONTESTED && note.contains("k3s")), "{told:?}");
}

/// Another allocator over the same pools: whatever is written, it writes the next address of them.
fn insists_on_another_of_ours(object: &mut Value) -> Answer {
    let ours = object.clone();
    let ip =
        object.pointer("/status/loadBalancer/ingress/0/ip").and_then(Value::as_str).unwrap_or("10.0.0.0");
    let last: u8 = ip.rsplit_once('.').unwrap().1.parse().unwrap();
    insists(object);
    object["status"]["loadBalancer"]["ingress"] = json!([{"ip": format!("10.0.0.{}", last % 3 + 1)}]);
    Answer::Done(ours)
}

#[tokio::test(start_paused = true)]
async fn requirement_3_who_stores_another_address_of_our_pools_again_and_again_is_left_alone_too() {
    for asks in [json!({}), json!({"metallb.io/loadBalancerIPs": "10.0.0.1"})] {
        let mut web = json!(service("shop", "web", None, &[]));
        web["metadata"]["annotations"] = asks;
        let web: Service = serde_json::from_value(web).unwrap();
        let (server, changes) = Server::new(std::slice::from_ref(&web));
        server.on_write(insists_on_another_of_ours);
        a_day(&server, changes, web, &["10.0.0.1-10.0.0.3"]).await;
        assert!((2..=30).contains(&server.writes()), "{} writes in a day", server.writes());
    }
}

#[tokio::test(start_paused = true)]
async fn who_writes_the_whole_status_again_and_again_is_left_alone_too() {
    let web = service("shop", "web", None, &[]);
    let (server, changes) = Server::new(std::slice::from_ref(&web));
    server.on_write(|object| {
        let ours = object.clone();
        object["status"] = json!({"loadBalancer": {}});
        object["metadata"]["annotations"] = json!({});
        Answer::Done(ours)
    });
    a_day(&server, changes, web, &["10.0.0.1-10.0.0.3"]).await;
    assert!(server.writes() <= 30, "{} writes in a day", server.writes());
}

/// A controller without pools runs for a while over a Service with the entry of another load balancer.
pub(super) async fn with_an_entry_of_another(time: Duration) -> Server {
    let web = service("shop", "web", None, &["172.30.0.150"]);
    let (server, changes) = Server::new(std::slice::from_ref(&web));
    let (owner, _writers) = over(&server, changes);
    let mut term = Term::new(&owner, &Unsettled::default());
    term.configure();
    term.known.learn(web);
    term.look_at(&ServiceKey::new("shop", "web"));
    let _ = tokio::time::timeout(time, term.run()).await;
    server
}

#[tokio::test(start_paused = true)]
async fn an_entry_of_another_load_balancer_is_never_taken_away_while_no_pool_has_anything_for_the_service() {
    let server = with_an_entry_of_another(DAY).await;
    let stored = server.service("web");
    assert_eq!(stored["status"]["loadBalancer"]["ingress"][0]["ip"], "172.30.0.150");
    assert_eq!(server.writes(), 1, "the condition, once");
    assert!(server.events().iter().all(|(reason, _)| reason != "ClearAssignment"), "{:?}", server.events());
}

#[tokio::test(start_paused = true)]
async fn what_is_assigned_replaces_an_entry_of_another_load_balancer() {
    let web = service("shop", "web", None, &["172.30.0.150"]);
    let (server, changes) = Server::new(std::slice::from_ref(&web));
    let (owner, mut writers) = over(&server, changes);
    writers.pools.apply_watcher_event(&Event::Apply(pool("10.0.0.1-10.0.0.3")));
    let mut term = Term::new(&owner, &Unsettled::default());
    term.configure();
    term.known.learn(web);
    term.look_at(&ServiceKey::new("shop", "web"));
    let _ = tokio::time::timeout(Duration::from_secs(60), term.run()).await;
    assert_eq!(server.service("web")["status"]["loadBalancer"]["ingress"], json!([{"ip": "10.0.0.1"}]));
}

#[tokio::test(start_paused = true)]
async fn an_event_is_sent_for_a_write_that_was_done_although_it_was_answered_by_an_error() {
    for code in [504, 409, 500] {
        let web = service("shop", "web", None, &[]);
        let (server, changes) = Server::new(std::slice::from_ref(&web));
        server.on_write(move |_| Answer::Error(code));
        a_day(&server, changes, web, &["10.0.0.1-10.0.0.3"]).await;
        assert_eq!(server.service("web")["status"]["loadBalancer"]["ingress"][0]["ip"], "10.0.0.1");
        let allocated = server.events().iter().filter(|(reason, _)| reason == "IPAllocated").count();
        assert_eq!(allocated, 1, "after {code}: {:?}", server.events());
    }
}

/// The pool and its policy are in the API; the watch of pools is faster.
#[tokio::test(start_paused = true)]
async fn a_pool_gives_nothing_before_the_policies_are_known_that_were_there_before_it() {
    let web = service("shop", "web", None, &[]);
    let (server, changes) = Server::new(std::slice::from_ref(&web));
    let (owner, mut writers) = over(&server, changes);
    let mut term = Term::new(&owner, &Unsettled::default());
    term.configure();
    term.adopt(Listed::of(vec![web], 1, ""));
    let reserves = json!({"pool": "lan", "reserved": [{"addresses": "10.0.0.1"}]});
    let mut policy: Value = json!(object::<crds::PoolPolicy>("PoolPolicy", "p", &reserves));
    policy["metadata"]["resourceVersion"] = json!("5");
    let mut lan = json!(pool("10.0.0.1-10.0.0.2"));
    lan["metadata"]["resourceVersion"] = json!("6");
    server.set_list("poolpolicies", vec![policy.clone()]);
    server.set_list("ipaddresspools", vec![lan.clone()]);
    server.set_list("namespaces", vec![json!(namespace("shop"))]);
    writers.pools.apply_watcher_event(&Event::Apply(serde_json::from_value(lan).unwrap()));
    owner.watches.dirty.configuration();
    let _ = tokio::time::timeout(Duration::from_secs(30), term.run()).await;
    assert_eq!(has(&term, "shop", "web"), Some(vec![]), "the policy has not been heard of");
    writers.pool_policies.apply_watcher_event(&Event::Apply(serde_json::from_value(policy).unwrap()));
    owner.watches.dirty.configuration();
    let _ = tokio::time::timeout(Duration::from_secs(30), term.run()).await;
    assert_eq!(has(&term, "shop", "web"), Some(vec!["10.0.0.2".into()]));
}

/// Edits of a policy that are invalid, or lose what they refer to.
fn invalid_policies() -> Vec<Value> {
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
async fn requirement_1_an_invalid_edit_of_a_policy_frees_no_reserved_address_and_drops_no_quota() {
    for invalid in invalid_policies() {
        let (owner, mut writers) = owner();
        let policy = |spec: Value| {
            let policy: crds::PoolPolicy = object("PoolPolicy", "p", &spec);
            Event::Apply(policy)
        };
        writers.pools.apply_watcher_event(&Event::Apply(pool("10.0.0.1-10.0.0.9")));
        let valid =
            json!({"pool": "lan", "reserved": [{"addresses": "10.0.0.1"}], "quotas": [{"maxAddresses": 1}]});
        writers.pool_policies.apply_watcher_event(&policy(valid));
        // A replica that stands by has seen the valid version too.
        owner.judge().configure(&owner.watches.objects(), Timestamp::now());
        writers.pool_policies.apply_watcher_event(&policy(invalid.clone()));
        let mut term = Term::new(&owner, &Unsettled::default());
        term.configure();
        term.adopt(Listed::of(vec![service("shop", "a", None, &[]), service("shop", "b", None, &[])], 1, ""));
        assert_eq!(has(&term, "shop", "a"), Some(vec!["10.0.0.2".into()]), "{invalid}");
        assert_eq!(has(&term, "shop", "b"), Some(vec![]), "{invalid}");
        let due = term.due_statuses(&BTreeMap::new());
        let status =
            |name: &str| due.iter().find(|write| write.name == name).unwrap().patch["status"].clone();
        let ready = &status("p")["conditions"][0];
        assert_eq!((&ready["type"], &ready["status"]), (&json!("Ready"), &json!("False")), "{invalid}");
        assert!(ready["message"].as_str().unwrap().contains("last valid version"), "{ready}");
        let state = status(statuses::STATE);
        assert_eq!(state["result"], "Invalid", "from which the stack takes it");
        assert!(state["errorSummary"].as_str().unwrap().starts_with("PoolPolicy p: spec."), "{state}");
    }
}

#[tokio::test]
async fn requirement_4_a_nodes_own_address_is_not_assigned_and_pool_and_services_name_the_node() {
    let (owner, mut writers) = owner();
    let nodes = [("node1", "10.0.0.1"), ("node2", "10.0.0.2")];
    let owner = Owner { watches: owner.watches.clone().with_nodes(&nodes), ..owner };
    writers.pools.apply_watcher_event(&Event::Apply(pool("10.0.0.1-10.0.0.5")));
    // On an interface of a node, as its speaker reports; the second is an address of a Service there.
    let state = json!({"metadata": {"name": "node4"}, "status": {"node": "node4", "interfaces": [
        {"name": "eth1", "mac": "02:00:00:00:00:01", "subnets": ["10.0.0.5/24", "10.0.0.4/32"]}]}});
    let states = vec![serde_json::from_value(state).unwrap()];
    let owner = Owner { watches: owner.watches.clone().with_speaker_states(states), ..owner };
    // The same in the annotation of an earlier release.
    let links =
        json!([{"name": "eth1", "mac": "02:00:00:00:00:01", "subnets": ["10.0.0.3/24", "10.0.0.4/32"]}]);
    let state: crds::ConfigurationState = serde_json::from_value(json!({"metadata": {"name": "speaker-node3",
        "labels": {"metallb.io/node-name": "node3"}, "annotations": {"lbstack.dev/links": links.to_string()}}}))
    .unwrap();
    writers.states.apply_watcher_event(&Event::Apply(state));
    let mut term = Term::new(&owner, &Unsettled::default());
    term.configure();
    let mut asks = service("shop", "asks", None, &[]);
    asks.metadata.annotations = Some([("metallb.io/loadBalancerIPs".into(), "10.0.0.2".into())].into());
    let holds = service("shop", "holds", None, &["10.0.0.1"]);
    term.adopt(Listed::of(vec![service("shop", "any", None, &[]), asks, holds], 1, ""));
    assert_eq!(has(&term, "shop", "any"), Some(vec!["10.0.0.4".into()]));
    assert_eq!(has(&term, "shop", "asks"), Some(vec![]));
    assert_eq!(has(&term, "shop", "holds"), Some(vec!["10.0.0.1".into()]), "who has it keeps it");
    let refusal =
        term.allocator.outcome(&ServiceKey::new("shop", "asks")).unwrap().refusal.unwrap().to_string();
    assert!(refusal.contains("10.0.0.2") && refusal.contains("node2"), "{refusal}");
    let warning = term.conflict(&["10.0.0.1".parse().unwrap()]).unwrap();
    assert!(warning.0 == "UsedByNode" && warning.1.contains("node1"), "{warning:?}");
    let finding = term.findings.iter().find(|finding| finding.object.name == "lan").unwrap().to_string();
    assert!(["node1", "node2", "node3", "node4"].iter().all(|node| finding.contains(node)), "{finding}");
}

#[tokio::test]
async fn an_address_that_a_speaker_reports_as_held_by_a_node_is_treated_as_that_nodes_own() {
    let (owner, mut writers) = owner();
    writers.pools.apply_watcher_event(&Event::Apply(pool("10.0.0.1-10.0.0.2")));
    let spec = json!({"address": "10.0.0.1", "mac": "02:00:00:00:00:01", "node": "node1", "interface": "eth1",
        "heldByNode": true, "announced": false});
    let held = object("AddressConflict", "10-0-0-1", &spec);
    writers.conflicts.apply_watcher_event(&Event::Apply(held));
    let mut term = Term::new(&owner, &Unsettled::default());
    term.configure();
    let holds = service("shop", "holds", None, &["10.0.0.1"]);
    term.adopt(Listed::of(vec![service("shop", "any", None, &[]), holds], 1, ""));
    assert_eq!(has(&term, "shop", "any"), Some(vec!["10.0.0.2".into()]));
    assert_eq!(has(&term, "shop", "holds"), Some(vec!["10.0.0.1".into()]), "who has it keeps it");
    let (reason, text) = term.conflict(&["10.0.0.1".parse().unwrap()]).unwrap();
    assert_eq!(reason, "UsedByNode");
    assert!(text.contains("node node1 (on eth1, 02:00:00:00:00:01)"), "{text}");
    let finding = term.findings.iter().find(|finding| finding.object.name == "lan").unwrap().to_string();
    assert!(finding.contains("10.0.0.1 of node node1"), "{finding}");
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_stands_by_sets_off_no_alert_and_is_ready() {
    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = Metrics::register(&mut registry);
    let (owner, mut writers) = owner();
    let owner = Owner { metrics, leadership: Leadership::fixed(false), ..owner };
    // Of the kinds that assignment does not go by, there is no list yet.
    macro_rules! listed {
        ($($kind:ident),*) => {$(
            writers.$kind.apply_watcher_event(&Event::Init);
            writers.$kind.apply_watcher_event(&Event::InitDone);
        )*};
    }
    listed!(services, pools, pool_policies, namespaces, conflicts);
    let readiness = Readiness::new();
    let owner = Owner { ready: readiness.gate("adoption"), ..owner };
    let _ = tokio::time::timeout(Duration::from_secs(120), owner.run(CancellationToken::new())).await;
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.lines().any(|line| line == "metallb_k8s_client_config_loaded_bool 1"), "{text}");
    assert!(readiness.waiting_for().is_empty());
}

/// Fills the stores and the server with a pool and the namespace, so that a term can begin.
pub(super) fn begin(server: &Server, writers: &mut Writers, web: &Service) {
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
async fn a_write_under_way_ends_before_the_process_gives_its_lease_up() {
    let web = service("shop", "web", None, &[]);
    let (server, _changes) = Server::new(std::slice::from_ref(&web));
    server.delay_writes(Duration::from_millis(900));
    let (owner, mut writers) = owner();
    begin(&server, &mut writers, &web);
    let owner = Owner { client: server.client(), ..owner };
    let shutdown = CancellationToken::new();
    let run = tokio::spawn(owner.run(shutdown.clone()));
    while server.begun() == 0 {
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    shutdown.cancel();
    run.await.unwrap().unwrap();
    assert_eq!(server.service("web")["status"]["loadBalancer"]["ingress"][0]["ip"], "10.0.0.1");
}

#[tokio::test(start_paused = true)]
async fn requirement_6_a_leader_that_cannot_list_shows_no_sign_of_life_and_one_that_has_nothing_to_do_does() {
    for fails in [true, false] {
        let web = service("shop", "web", None, &[]);
        let (server, _changes) = Server::new(std::slice::from_ref(&web));
        let (owner, mut writers) = owner();
        begin(&server, &mut writers, &web);
        server.fail_lists(fails);
        let heartbeat = owner.heartbeat.clone();
        let owner = Owner { client: server.client(), ..owner };
        let run = owner.run(CancellationToken::new());
        let _ = tokio::time::timeout(Duration::from_secs(60), run).await;
        assert_eq!(heartbeat.is_alive(Instant::now()), !fails, "fails: {fails}");
    }
}

/// Set for the process in which the memory is measured.
const MEASURES: &str = "LBSTACK_TEST_MEASURES_MEMORY";

fn kilobytes(of: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(of)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// In a process of its own, in which nothing else takes memory.
#[test]
fn requirement_8_ten_thousand_services_with_large_managed_fields_are_adopted_in_64_megabytes() {
    let name = "owner::tests::promises::requirement_8_ten_thousand_services_with_large_managed_fields_are_adopted_in_64_megabytes";
    if std::env::var_os(MEASURES).is_none() {
        let this = std::env::current_exe().unwrap();
        let child =
            std::process::Command::new(this).args(["--exact", name]).env(MEASURES, "1").output().unwrap();
        let told = String::from_utf8_lossy(&child.stdout).into_owned();
        assert!(child.status.success() && told.contains("1 passed"), "{told}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (owner, _writers) = owner();
        let client = many_services(10_000, 50_000);
        let owner = Owner { client, ..owner };
        let before = kilobytes("VmRSS:");
        let listed = Listed::from_api(&owner).await.unwrap();
        let peak = kilobytes("VmHWM:") - before;
        let mut term = Term::new(&owner, &Unsettled::default());
        term.adopt(listed);
        assert_eq!(term.allocator.services().count(), 10_000);
        assert!(peak < 64 * 1024, "{} MiB", peak / 1024);
    });
}
