//! Real controllers, as processes, with a real API server: their guarantees when they are killed, stopped and
//! disconnected.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this file contains only tests, in which a failure is a panic"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use e2e::controllers::{Bench, Controller, NAMESPACE, SERVICES, SOON, addresses, names};
use e2e::{Env, Suite, wait};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::runtime::watcher;
use serde_json::json;

fn main() -> ExitCode {
    let suite = Suite::new("apiserver", || e2e::controllers::env("apiserver"))
        .test("at_rest_and_after_a_restart_nothing_is_written", nothing_is_written)
        .test("a_freed_address_is_assigned_at_once_to_a_waiting_service", freed_is_assigned)
        .test(
            "a_service_that_is_being_deleted_keeps_its_address_also_under_the_next_leader",
            terminating_keeps,
        )
        .test("the_warning_of_a_waiting_service_is_repeated", warning_repeated)
        .test("two_services_exchange_their_addresses", exchange)
        .test("services_in_two_full_pools_exchange_their_pools", exchange_of_pools)
        .test("an_address_conflict_is_reported_on_the_service", a_conflict_is_reported)
        .test("a_plan_shows_the_effects_of_a_change_and_writes_nothing", a_plan_is_shown)
        .test("a_range_moves_between_pools_without_an_interruption", a_range_moves)
        .test("a_forced_duplicate_is_repaired_within_a_second", a_duplicate_is_repaired)
        .test("a_leader_that_was_stopped_starts_no_write_when_it_continues", a_stopped_leader_is_silent)
        .test("a_restart_of_the_api_server_changes_no_address", the_server_restarts)
        .test("five_thousand_services_survive_a_hundred_kills_of_the_controller", a_hundred_kills);
    e2e::run(vec![suite])
}

/// Observes every state of every Service in order, and records violations of invariants.
#[derive(Default)]
struct Observer {
    current: BTreeMap<String, Vec<String>>,
    violations: Vec<String>,
    /// Whether a Service may lose or change an address.
    strict: bool,
}

impl Observer {
    fn observe(&mut self, service: &Service) {
        let (name, new) = (service.name_any(), addresses(service));
        let old = self.current.insert(name.clone(), new.clone()).unwrap_or_default();
        if self.strict && !old.is_empty() && old != new {
            self.violations.push(format!("{name} had {old:?} and then {new:?}"));
        }
        let holder = |ip: &String| {
            self.current
                .iter()
                .find(|(other, has)| **other != name && has.contains(ip))
                .map(|(other, _)| other.clone())
        };
        let duplicates: Vec<String> = new
            .iter()
            .filter_map(|ip| Some(format!("{ip} is assigned to {name} and {}", holder(ip)?)))
            .collect();
        self.violations.extend(duplicates);
    }

    /// Watches until `done`.
    fn watch(bench: &Bench<'_>, done: &Arc<AtomicBool>) -> (Arc<Mutex<Self>>, tokio::task::JoinHandle<()>) {
        let observer = Arc::new(Mutex::new(Self { strict: true, ..Self::default() }));
        let (shared, done, api) = (Arc::clone(&observer), Arc::clone(done), bench.services());
        let task = bench.runtime.spawn(async move {
            let mut events = std::pin::pin!(watcher(api, watcher::Config::default()));
            while !done.load(Ordering::Relaxed) {
                let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(200), events.next()).await
                else {
                    continue;
                };
                let mut observer = shared.lock().unwrap_or_else(PoisonError::into_inner);
                match event {
                    Ok(watcher::Event::Apply(service) | watcher::Event::InitApply(service)) => {
                        observer.observe(&service);
                    }
                    Ok(watcher::Event::Delete(service)) => {
                        observer.current.remove(&service.name_any());
                    }
                    _ => {}
                }
            }
        });
        (observer, task)
    }
}

fn nothing_is_written(env: &Env) {
    let bench = Bench::new(env, &[("lan", &["10.0.0.0/24"])]);
    let list = names("rest", 20);
    bench.create(&list);
    let first = Controller::start(env, "rest-a");
    bench.until_all_have_one(&list, SOON);
    std::thread::sleep(Duration::from_secs(2));
    let since = Timestamp::now();
    std::thread::sleep(Duration::from_secs(3));
    first.end();
    let second = Controller::start(env, "rest-b");
    bench.until_leads("rest-b");
    std::thread::sleep(Duration::from_secs(3));
    second.end();
    for identity in ["rest-a", "rest-b"] {
        let writes = bench.status_writes(identity, &since);
        assert!(writes.is_empty(), "{identity} wrote: {writes:#?}");
    }
}

fn freed_is_assigned(env: &Env) {
    let bench = Bench::new(env, &[("lan", &["10.0.0.1/32"])]);
    let controller = Controller::start(env, "freed");
    bench.create(&["first".into()]);
    bench.until("first", &["10.0.0.1"]);
    bench.create(&["second".into()]);
    let api = bench.services();
    let why = bench.runtime.block_on(wait::until(&api, "second", "the reason is reported", SOON, refused));
    assert_eq!(why, "no pool can give an address: pool lan: 1 of 1 IPv4 addresses in use");
    bench.create(&["third".into()]);
    bench.runtime.block_on(wait::until(&api, "third", "the reason is reported", SOON, refused));
    env.kubectl(&["patch", "service", "-n", SERVICES, "first", "-p", r#"{"spec":{"type":"ClusterIP"}}"#]);
    bench.until("second", &["10.0.0.1"]);
    bench.until("first", &[]);
    bench.delete("second");
    bench.until("third", &["10.0.0.1"]);
    controller.end();
}

/// The reported reason why a Service has no address.
fn refused(service: Option<&Service>) -> Option<String> {
    let conditions = service?.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|c| c.type_ == "lbstack.dev/AddressAssigned")?;
    (condition.status == "False").then(|| condition.message.clone())
}

fn terminating_keeps(env: &Env) {
    let bench = Bench::new(env, &[("lan", &["10.0.0.1/32"])]);
    let finalizers = |list: &str| {
        let patch = format!(r#"{{"metadata":{{"finalizers":{list}}}}}"#);
        env.kubectl(&["patch", "service", "-n", SERVICES, "going", "--type=merge", "-p", &patch]);
    };
    let first = Controller::start(env, "going-a");
    bench.create(&["going".into()]);
    bench.until("going", &["10.0.0.1"]);
    finalizers(r#"["example.com/slow"]"#);
    bench.delete("going");
    first.end();
    let second = Controller::start(env, "going-b");
    bench.until_leads("going-b");
    bench.create(&["next".into()]);
    let api = bench.services();
    bench.runtime.block_on(wait::until(&api, "next", "the reason is reported", SOON, refused));
    bench.until("going", &["10.0.0.1"]);
    finalizers("null");
    bench.until("next", &["10.0.0.1"]);
    second.end();
}

fn warning_repeated(env: &Env) {
    let bench = Bench::new(env, &[]);
    let controller = Controller::start_with(env, "again", Controller::LEASE, &["--remind-every-s", "1"]);
    bench.create(&["patient".into()]);
    let events: Api<Event> = Api::namespaced(bench.services().into_client(), SERVICES);
    bench.runtime.block_on(wait::until_all(&events, "the event is repeated", SOON, |events| {
        // Repeats within minutes are counted on the event.
        let repeated = events.iter().any(|event| {
            event.regarding.as_ref().and_then(|about| about.name.as_deref()) == Some("patient")
                && event.reason.as_deref() == Some("AllocationFailed")
                && event.series.as_ref().is_some_and(|series| series.count >= 2)
        });
        repeated.then_some(())
    }));
    controller.end();
}

fn exchange(env: &Env) {
    let bench = Bench::new(env, &[("lan", &["10.0.0.1-10.0.0.2"])]);
    let controller = Controller::start(env, "exchange");
    bench.create(&["older".into()]);
    bench.until("older", &["10.0.0.1"]);
    bench.create(&["newer".into()]);
    bench.until("newer", &["10.0.0.2"]);
    bench.create(&["waiting".into()]);
    bench.annotate("older", "metallb.io/loadBalancerIPs", "10.0.0.2");
    bench.annotate("newer", "metallb.universe.tf/loadBalancerIPs", "10.0.0.1");
    bench.until("older", &["10.0.0.2"]);
    bench.until("newer", &["10.0.0.1"]);
    bench.until("waiting", &[]);
    controller.end();
}

fn exchange_of_pools(env: &Env) {
    let bench = Bench::new(env, &[("left", &["10.0.0.1/32"]), ("right", &["10.0.1.1/32"])]);
    let controller = Controller::start(env, "places");
    bench.create(&["older".into()]);
    bench.until("older", &["10.0.0.1"]);
    bench.create(&["newer".into()]);
    bench.until("newer", &["10.0.1.1"]);
    bench.annotate("older", "metallb.io/address-pool", "right");
    bench.annotate("newer", "metallb.io/address-pool", "left");
    bench.until("older", &["10.0.1.1"]);
    bench.until("newer", &["10.0.0.1"]);
    controller.end();
}

fn a_conflict_is_reported(env: &Env) {
    let bench = Bench::new(env, &[("lan", &["10.0.0.1/32"])]);
    let controller = Controller::start(env, "conflict");
    bench.create(&["contested".into()]);
    bench.until("contested", &["10.0.0.1"]);
    let conflict = json!({"apiVersion": "lbstack.dev/v1alpha1", "kind": "AddressConflict",
        "metadata": {"name": "10.0.0.1", "namespace": NAMESPACE},
        "spec": {"address": "10.0.0.1", "mac": "02:00:00:00:66:66", "node": "node2", "interface": "eth0"}});
    env.apply(&conflict.to_string());
    let conflict_of = |service: Option<&Service>| {
        let conditions = service?.status.as_ref()?.conditions.clone().unwrap_or_default();
        Some(conditions.into_iter().find(|condition| condition.type_ == "lbstack.dev/AddressConflict"))
    };
    let api = bench.services();
    let what = "the conflict is reported";
    let condition = bench
        .runtime
        .block_on(wait::until(&api, "contested", what, SOON, |service| conflict_of(service).flatten()));
    assert_eq!(condition.status, "True");
    for word in ["10.0.0.1", "02:00:00:00:66:66", "node2", "not announced"] {
        assert!(condition.message.contains(word), "{word} is not in {:?}", condition.message);
    }
    env.event("Service", "contested", "AddressConflict", SOON);
    env.event_in(NAMESPACE, "IPAddressPool", "lan", "AddressConflict", SOON);
    bench.until("contested", &["10.0.0.1"]);
    env.delete(&conflict.to_string());
    bench.runtime.block_on(wait::until(&api, "contested", "the conflict has ended", SOON, |service| {
        conflict_of(service)?.is_none().then_some(())
    }));
    env.event("Service", "contested", "AddressConflictEnded", SOON);
    controller.end();
}

fn a_plan_is_shown(env: &Env) {
    let bench = Bench::new(env, &[("lan", &["10.0.0.1-10.0.0.2"])]);
    let controller = Controller::start(env, "planned");
    for (name, has) in [("a", &["10.0.0.1"][..]), ("b", &["10.0.0.2"]), ("c", &[])] {
        bench.create(&[name.into()]);
        bench.until(name, has);
    }
    controller.end();
    let file = env.cluster.logs().join("changed.yaml");
    let plan = |changed: &serde_json::Value| {
        std::fs::write(&file, changed.to_string()).unwrap();
        bench.run("planner", &["plan", "-f", &file.to_string_lossy()])
    };
    let more = plan(&json!({"apiVersion": "lbstack.dev/v1alpha1", "kind": "LoadBalancerStack",
        "metadata": {"name": "default"},
        "spec": {"addressPools": [{"name": "more", "addresses": ["10.0.1.0/24"]}]}}));
    assert!(more.contains("gains  default/c  10.0.1.0"), "{more}");
    assert!(more.contains("0 lose, 0 move, 1 gain, 0 wait, 2 keep"), "{more}");
    let less = plan(&json!({"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
        "metadata": {"name": "lan"}, "spec": {"addresses": ["10.0.0.1/32"]}}));
    assert!(less.contains("loses  default/b  10.0.0.2"), "{less}");
    let asked = bench.requests("planner");
    let verbs: BTreeSet<&str> = asked.iter().filter_map(|request| request["verb"].as_str()).collect();
    assert_eq!(verbs, BTreeSet::from(["list"]));
    bench.until("b", &["10.0.0.2"]);
}

fn a_range_moves(env: &Env) {
    let bench = Bench::new(env, &[("one", &["10.0.0.0/28"])]);
    let controller = Controller::start(env, "range");
    let list = names("range", 8);
    bench.create(&list);
    bench.until_all_have_one(&list, SOON);
    let done = Arc::default();
    let (observer, task) = Observer::watch(&bench, &done);
    env.kubectl(&["delete", "ipaddresspool", "-n", NAMESPACE, "one"]);
    std::thread::sleep(Duration::from_secs(2));
    bench.pool("two", &["10.0.0.0/24"]);
    let api = bench.services();
    bench.runtime.block_on(wait::until_all(
        &api,
        "all are annotated with their new pool",
        SOON,
        |services| {
            let of_two = services.iter().filter(|service| {
                service
                    .annotations()
                    .get("metallb.io/ip-allocated-from-pool")
                    .is_some_and(|pool| pool == "two")
            });
            (of_two.count() == list.len()).then_some(())
        },
    ));
    done.store(true, Ordering::Relaxed);
    bench.runtime.block_on(task).unwrap();
    assert_eq!(observer.lock().unwrap().violations, Vec::<String>::new());
    controller.end();
}

fn a_duplicate_is_repaired(env: &Env) {
    let bench = Bench::new(env, &[("lan", &["10.0.0.0/24"])]);
    let controller = Controller::start(env, "duplicate");
    bench.create(&["a".into()]);
    bench.until("a", &["10.0.0.0"]);
    bench.create(&["b".into()]);
    bench.until("b", &["10.0.0.1"]);
    let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.0"}]}}}));
    let (api, parameters) = (bench.services(), PatchParams::default());
    bench.runtime.block_on(api.patch_status("b", &parameters, &patch)).unwrap();
    let took = bench.until("b", &["10.0.0.1"]);
    assert!(took < Duration::from_secs(1), "repaired after {took:?}");
    bench.until("a", &["10.0.0.0"]);
    controller.end();
}

fn a_stopped_leader_is_silent(env: &Env) {
    let bench = Bench::new(env, &[("lan", &["10.1.0.0/16"])]);
    let first = Controller::start(env, "stopped");
    bench.until_leads("stopped");
    let second = Controller::start(env, "successor");
    let done = Arc::default();
    let (observer, task) = Observer::watch(&bench, &done);
    // Stopped during its work, with writes queued and in flight.
    let before = names("before", 400);
    bench.create(&before);
    first.signal("-STOP");
    let after = names("after", 100);
    bench.create(&after);
    bench.until_leads(&second.identity);
    bench.until_all_have_one(&[before, after].concat(), Duration::from_secs(60));
    let since = Timestamp::now();
    first.signal("-CONT");
    std::thread::sleep(Duration::from_secs(5));
    // A request that was in flight when the process was stopped may still arrive. It carries a
    // resourceVersion that the successor's write has replaced, so it is rejected.
    let mut writes = bench.status_writes("stopped", &since);
    writes.retain(|entry| entry["responseStatus"]["code"] != 409);
    assert!(writes.is_empty(), "the stopped leader wrote: {writes:#?}");
    done.store(true, Ordering::Relaxed);
    bench.runtime.block_on(task).unwrap();
    assert_eq!(observer.lock().unwrap().violations, Vec::<String>::new());
    first.kill();
    second.end();
}

fn the_server_restarts(env: &Env) {
    let bench = Bench::new(env, &[("lan", &["10.1.0.0/16"])]);
    let controller = Controller::start(env, "restarts");
    let done = Arc::default();
    let (observer, task) = Observer::watch(&bench, &done);
    let list = names("server", 300);
    bench.create(&list[..150]);
    env.cluster.api().stop().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    env.cluster.api().start().unwrap();
    bench.create(&list[150..]);
    bench.until_all_have_one(&list, Duration::from_secs(90));
    done.store(true, Ordering::Relaxed);
    bench.runtime.block_on(task).unwrap();
    assert_eq!(observer.lock().unwrap().violations, Vec::<String>::new());
    controller.end();
}

fn a_hundred_kills(env: &Env) {
    let number = |variable: &str, default: usize| {
        std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (count, deaths) = (number("LBSTACK_TEST_SERVICES", 5_000), number("LBSTACK_TEST_DEATHS", 100));
    let bench = Bench::new(env, &[("lan", &["10.1.0.0/16"])]);
    let done = Arc::default();
    let (observer, task) = Observer::watch(&bench, &done);
    let list = names("many", count);
    let mut running = vec![Controller::start(env, "death-0"), Controller::start(env, "death-1")];
    // Services are created while controllers are killed: a share of them before each kill.
    let share = count.div_ceil(deaths.max(1));
    for (death, part) in list.chunks(share).enumerate() {
        bench.create(part);
        // One of them leads, and has had some time to work; every third time the other one is killed.
        let leads = wait::poll("one of the two leads", SOON, || {
            let leader = bench.holder();
            running.iter().position(|controller| Some(controller.identity.as_str()) == leader.as_deref())
        });
        std::thread::sleep(Duration::from_millis((death as u64 * 137) % 700));
        let victim = if death % 3 == 2 { 1 - leads } else { leads };
        running.remove(victim).kill();
        running.push(Controller::start(env, &format!("death-{}", death + 2)));
    }
    // The last one has a Lease of the usual duration: a slow machine takes longer than the short one to list
    // so many Services.
    running.into_iter().for_each(Controller::kill);
    let last = Controller::start_with(env, "death-last", Duration::from_secs(15), &[]);
    bench.until_all_have_one(&list, Duration::from_secs(180));
    done.store(true, Ordering::Relaxed);
    bench.runtime.block_on(task).unwrap();
    let observer = observer.lock().unwrap();
    assert_eq!(observer.violations, Vec::<String>::new());
    let all = bench.runtime.block_on(bench.services().list(&ListParams::default())).unwrap();
    let given: Vec<IpAddr> = all.items.iter().flat_map(addresses).map(|ip| ip.parse().unwrap()).collect();
    let distinct: BTreeSet<&IpAddr> = given.iter().collect();
    assert_eq!((given.len(), distinct.len()), (count, count));
    last.end();
}
