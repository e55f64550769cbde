//! Real controllers, as processes, against a real API server: what they promise when they are killed, stopped and
//! cut off.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of this is tests: what is not as expected is a panic"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use e2e::controllers::{Bench, Controller, NAMESPACE, SERVICES, SOON, addresses, names};
use e2e::{Bed, Suite, wait};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::runtime::watcher;
use serde_json::json;

fn main() -> ExitCode {
    let suite = Suite::new("apiserver", || e2e::controllers::bed("apiserver"))
        .test("at_rest_and_after_a_restart_nothing_is_written", nothing_is_written)
        .test("what_becomes_free_is_given_at_once_to_who_waits", freed_is_given)
        .test("a_service_that_is_being_deleted_keeps_its_address_also_under_the_next_leader", going_keeps)
        .test("a_service_that_waits_is_told_again_and_again_why", told_again)
        .test("two_services_exchange_their_addresses", exchange)
        .test("services_in_two_full_pools_exchange_their_places", exchange_of_places)
        .test("a_stranger_with_the_address_is_told_on_the_service", a_stranger_is_told)
        .test("a_plan_says_what_a_change_would_do_and_writes_nothing", a_plan_is_told)
        .test("a_range_moves_between_pools_and_nobody_notices", a_range_moves)
        .test("a_double_made_by_force_is_mended_within_a_second", a_double_is_mended)
        .test("a_leader_that_was_stopped_begins_no_write_when_it_goes_on", a_stopped_leader_is_silent)
        .test("an_api_server_that_restarts_costs_nobody_an_address", the_server_restarts)
        .test("five_thousand_services_survive_a_hundred_deaths_of_the_controller", a_hundred_deaths);
    e2e::run(vec![suite])
}

/// Sees every state of every Service in order, and everything that must never be.
#[derive(Default)]
struct Witness {
    has: BTreeMap<String, Vec<String>>,
    faults: Vec<String>,
    /// Whether a Service may lose or change an address.
    strict: bool,
}

impl Witness {
    fn see(&mut self, service: &Service) {
        let (name, new) = (service.name_any(), addresses(service));
        let old = self.has.insert(name.clone(), new.clone()).unwrap_or_default();
        if self.strict && !old.is_empty() && old != new {
            self.faults.push(format!("{name} had {old:?} and then {new:?}"));
        }
        let holder = |ip: &String| {
            self.has
                .iter()
                .find(|(other, has)| **other != name && has.contains(ip))
                .map(|(other, _)| other.clone())
        };
        let doubles: Vec<String> =
            new.iter().filter_map(|ip| Some(format!("{ip} is {name}'s and {}'s", holder(ip)?))).collect();
        self.faults.extend(doubles);
    }

    /// Watches until `done`.
    fn watch(bench: &Bench<'_>, done: &Arc<AtomicBool>) -> (Arc<Mutex<Self>>, tokio::task::JoinHandle<()>) {
        let witness = Arc::new(Mutex::new(Self { strict: true, ..Self::default() }));
        let (shared, done, api) = (Arc::clone(&witness), Arc::clone(done), bench.services());
        let task = bench.runtime.spawn(async move {
            let mut events = std::pin::pin!(watcher(api, watcher::Config::default()));
            while !done.load(Ordering::Relaxed) {
                let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(200), events.next()).await
                else {
                    continue;
                };
                let mut witness = shared.lock().unwrap_or_else(PoisonError::into_inner);
                match event {
                    Ok(watcher::Event::Apply(service) | watcher::Event::InitApply(service)) => {
                        witness.see(&service);
                    }
                    Ok(watcher::Event::Delete(service)) => {
                        witness.has.remove(&service.name_any());
                    }
                    _ => {}
                }
            }
        });
        (witness, task)
    }
}

fn nothing_is_written(bed: &Bed) {
    let bench = Bench::new(bed, &[("lan", &["10.0.0.0/24"])]);
    let list = names("rest", 20);
    bench.create(&list);
    let first = Controller::start(bed, "rest-a");
    bench.until_all_have_one(&list, SOON);
    std::thread::sleep(Duration::from_secs(2));
    let since = Timestamp::now();
    std::thread::sleep(Duration::from_secs(3));
    first.end();
    let second = Controller::start(bed, "rest-b");
    bench.until_leads("rest-b");
    std::thread::sleep(Duration::from_secs(3));
    second.end();
    for identity in ["rest-a", "rest-b"] {
        let writes = bench.status_writes(identity, &since);
        assert!(writes.is_empty(), "{identity} wrote: {writes:#?}");
    }
}

fn freed_is_given(bed: &Bed) {
    let bench = Bench::new(bed, &[("lan", &["10.0.0.1/32"])]);
    let controller = Controller::start(bed, "freed");
    bench.create(&["first".into()]);
    bench.until("first", &["10.0.0.1"]);
    bench.create(&["second".into()]);
    let api = bench.services();
    let why = bench.runtime.block_on(wait::until(&api, "second", "it is told why", SOON, refused));
    assert_eq!(why, "no pool can give an address: pool lan: 1 of 1 IPv4 addresses in use");
    bench.create(&["third".into()]);
    bench.runtime.block_on(wait::until(&api, "third", "it is told why", SOON, refused));
    bed.kubectl(&["patch", "service", "-n", SERVICES, "first", "-p", r#"{"spec":{"type":"ClusterIP"}}"#]);
    bench.until("second", &["10.0.0.1"]);
    bench.until("first", &[]);
    bench.delete("second");
    bench.until("third", &["10.0.0.1"]);
    controller.end();
}

/// Why a Service has no address, once it is told.
fn refused(service: Option<&Service>) -> Option<String> {
    let conditions = service?.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|c| c.type_ == "lbstack.dev/AddressAssigned")?;
    (condition.status == "False").then(|| condition.message.clone())
}

fn going_keeps(bed: &Bed) {
    let bench = Bench::new(bed, &[("lan", &["10.0.0.1/32"])]);
    let finalizers = |list: &str| {
        let patch = format!(r#"{{"metadata":{{"finalizers":{list}}}}}"#);
        bed.kubectl(&["patch", "service", "-n", SERVICES, "going", "--type=merge", "-p", &patch]);
    };
    let first = Controller::start(bed, "going-a");
    bench.create(&["going".into()]);
    bench.until("going", &["10.0.0.1"]);
    finalizers(r#"["example.com/slow"]"#);
    bench.delete("going");
    first.end();
    let second = Controller::start(bed, "going-b");
    bench.until_leads("going-b");
    bench.create(&["next".into()]);
    let api = bench.services();
    bench.runtime.block_on(wait::until(&api, "next", "it is told why", SOON, refused));
    bench.until("going", &["10.0.0.1"]);
    finalizers("null");
    bench.until("next", &["10.0.0.1"]);
    second.end();
}

fn told_again(bed: &Bed) {
    let bench = Bench::new(bed, &[]);
    let controller = Controller::start_with(bed, "again", Controller::LEASE, &["--remind-every-s", "1"]);
    bench.create(&["patient".into()]);
    let events: Api<Event> = Api::namespaced(bench.services().into_client(), SERVICES);
    bench.runtime.block_on(wait::until_all(&events, "it is told again", SOON, |events| {
        // Within minutes the API counts repeats of an event instead of keeping each.
        let again = events.iter().any(|event| {
            event.regarding.as_ref().and_then(|about| about.name.as_deref()) == Some("patient")
                && event.reason.as_deref() == Some("AllocationFailed")
                && event.series.as_ref().is_some_and(|series| series.count >= 2)
        });
        again.then_some(())
    }));
    controller.end();
}

fn exchange(bed: &Bed) {
    let bench = Bench::new(bed, &[("lan", &["10.0.0.1-10.0.0.2"])]);
    let controller = Controller::start(bed, "exchange");
    bench.create(&["old".into()]);
    bench.until("old", &["10.0.0.1"]);
    bench.create(&["young".into()]);
    bench.until("young", &["10.0.0.2"]);
    bench.create(&["waiting".into()]);
    bench.annotate("old", "metallb.io/loadBalancerIPs", "10.0.0.2");
    bench.annotate("young", "metallb.universe.tf/loadBalancerIPs", "10.0.0.1");
    bench.until("old", &["10.0.0.2"]);
    bench.until("young", &["10.0.0.1"]);
    bench.until("waiting", &[]);
    controller.end();
}

fn exchange_of_places(bed: &Bed) {
    let bench = Bench::new(bed, &[("left", &["10.0.0.1/32"]), ("right", &["10.0.1.1/32"])]);
    let controller = Controller::start(bed, "places");
    bench.create(&["old".into()]);
    bench.until("old", &["10.0.0.1"]);
    bench.create(&["young".into()]);
    bench.until("young", &["10.0.1.1"]);
    bench.annotate("old", "metallb.io/address-pool", "right");
    bench.annotate("young", "metallb.io/address-pool", "left");
    bench.until("old", &["10.0.1.1"]);
    bench.until("young", &["10.0.0.1"]);
    controller.end();
}

fn a_stranger_is_told(bed: &Bed) {
    let bench = Bench::new(bed, &[("lan", &["10.0.0.1/32"])]);
    let controller = Controller::start(bed, "told");
    bench.create(&["contested".into()]);
    bench.until("contested", &["10.0.0.1"]);
    let conflict = json!({"apiVersion": "lbstack.dev/v1alpha1", "kind": "AddressConflict",
        "metadata": {"name": "10.0.0.1", "namespace": NAMESPACE},
        "spec": {"address": "10.0.0.1", "mac": "02:00:00:00:66:66", "node": "node2", "interface": "eth0"}});
    bed.apply(&conflict.to_string());
    let told = |service: Option<&Service>| {
        let conditions = service?.status.as_ref()?.conditions.clone().unwrap_or_default();
        Some(conditions.into_iter().find(|condition| condition.type_ == "lbstack.dev/AddressConflict"))
    };
    let api = bench.services();
    let what = "it says who else has the address";
    let condition =
        bench.runtime.block_on(wait::until(&api, "contested", what, SOON, |service| told(service).flatten()));
    assert_eq!(condition.status, "True");
    for word in ["10.0.0.1", "02:00:00:00:66:66", "node2", "not announced"] {
        assert!(condition.message.contains(word), "{word} is not in {:?}", condition.message);
    }
    bed.event("Service", "contested", "AddressConflict", SOON);
    bed.event_in(NAMESPACE, "IPAddressPool", "lan", "AddressConflict", SOON);
    bench.until("contested", &["10.0.0.1"]);
    bed.delete(&conflict.to_string());
    bench.runtime.block_on(wait::until(&api, "contested", "that is over", SOON, |service| {
        told(service)?.is_none().then_some(())
    }));
    bed.event("Service", "contested", "AddressConflictEnded", SOON);
    controller.end();
}

fn a_plan_is_told(bed: &Bed) {
    let bench = Bench::new(bed, &[("lan", &["10.0.0.1-10.0.0.2"])]);
    let controller = Controller::start(bed, "planned");
    for (name, has) in [("a", &["10.0.0.1"][..]), ("b", &["10.0.0.2"]), ("c", &[])] {
        bench.create(&[name.into()]);
        bench.until(name, has);
    }
    controller.end();
    let file = bed.cluster.logs().join("changed.yaml");
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

fn a_range_moves(bed: &Bed) {
    let bench = Bench::new(bed, &[("one", &["10.0.0.0/28"])]);
    let controller = Controller::start(bed, "range");
    let list = names("range", 8);
    bench.create(&list);
    bench.until_all_have_one(&list, SOON);
    let done = Arc::default();
    let (witness, task) = Witness::watch(&bench, &done);
    bed.kubectl(&["delete", "ipaddresspool", "-n", NAMESPACE, "one"]);
    std::thread::sleep(Duration::from_secs(2));
    bench.pool("two", &["10.0.0.0/24"]);
    let api = bench.services();
    bench.runtime.block_on(wait::until_all(&api, "all are told of their new pool", SOON, |services| {
        let of_two = services.iter().filter(|service| {
            service.annotations().get("metallb.io/ip-allocated-from-pool").is_some_and(|pool| pool == "two")
        });
        (of_two.count() == list.len()).then_some(())
    }));
    done.store(true, Ordering::Relaxed);
    bench.runtime.block_on(task).unwrap();
    assert_eq!(witness.lock().unwrap().faults, Vec::<String>::new());
    controller.end();
}

fn a_double_is_mended(bed: &Bed) {
    let bench = Bench::new(bed, &[("lan", &["10.0.0.0/24"])]);
    let controller = Controller::start(bed, "double");
    bench.create(&["a".into()]);
    bench.until("a", &["10.0.0.0"]);
    bench.create(&["b".into()]);
    bench.until("b", &["10.0.0.1"]);
    let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.0"}]}}}));
    let (api, parameters) = (bench.services(), PatchParams::default());
    bench.runtime.block_on(api.patch_status("b", &parameters, &patch)).unwrap();
    let took = bench.until("b", &["10.0.0.1"]);
    assert!(took < Duration::from_secs(1), "mended after {took:?}");
    bench.until("a", &["10.0.0.0"]);
    controller.end();
}

fn a_stopped_leader_is_silent(bed: &Bed) {
    let bench = Bench::new(bed, &[("lan", &["10.1.0.0/16"])]);
    let first = Controller::start(bed, "stopped");
    bench.until_leads("stopped");
    let second = Controller::start(bed, "successor");
    let done = Arc::default();
    let (witness, task) = Witness::watch(&bench, &done);
    // Stopped in the middle of its work, with writes queued and under way.
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
    // A request that was on its way when the process was stopped may still arrive. It carries the version that it
    // was made for, which the successor's write has replaced, so it is refused.
    let mut writes = bench.status_writes("stopped", &since);
    writes.retain(|entry| entry["responseStatus"]["code"] != 409);
    assert!(writes.is_empty(), "the stopped leader wrote: {writes:#?}");
    done.store(true, Ordering::Relaxed);
    bench.runtime.block_on(task).unwrap();
    assert_eq!(witness.lock().unwrap().faults, Vec::<String>::new());
    first.kill();
    second.end();
}

fn the_server_restarts(bed: &Bed) {
    let bench = Bench::new(bed, &[("lan", &["10.1.0.0/16"])]);
    let controller = Controller::start(bed, "restarts");
    let done = Arc::default();
    let (witness, task) = Witness::watch(&bench, &done);
    let list = names("server", 300);
    bench.create(&list[..150]);
    bed.cluster.api().stop().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    bed.cluster.api().start().unwrap();
    bench.create(&list[150..]);
    bench.until_all_have_one(&list, Duration::from_secs(90));
    done.store(true, Ordering::Relaxed);
    bench.runtime.block_on(task).unwrap();
    assert_eq!(witness.lock().unwrap().faults, Vec::<String>::new());
    controller.end();
}

fn a_hundred_deaths(bed: &Bed) {
    let number = |variable: &str, default: usize| {
        std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (count, deaths) = (number("LBSTACK_TEST_SERVICES", 5_000), number("LBSTACK_TEST_DEATHS", 100));
    let bench = Bench::new(bed, &[("lan", &["10.1.0.0/16"])]);
    let done = Arc::default();
    let (witness, task) = Witness::watch(&bench, &done);
    let list = names("many", count);
    let mut running = vec![Controller::start(bed, "death-0"), Controller::start(bed, "death-1")];
    // Services keep coming while the controllers die: a share of them before each death.
    let share = count.div_ceil(deaths.max(1));
    for (death, part) in list.chunks(share).enumerate() {
        bench.create(part);
        // One of them leads, and has had some time to work; every third time the other one dies.
        let leads = wait::poll("one of the two leads", SOON, || {
            let leader = bench.holder();
            running.iter().position(|controller| Some(controller.identity.as_str()) == leader.as_deref())
        });
        std::thread::sleep(Duration::from_millis((death as u64 * 137) % 700));
        let victim = if death % 3 == 2 { 1 - leads } else { leads };
        running.remove(victim).kill();
        running.push(Controller::start(bed, &format!("death-{}", death + 2)));
    }
    // The last one has the usual Lease: a slow machine takes longer than the short one to list so many Services.
    running.into_iter().for_each(Controller::kill);
    let last = Controller::start_with(bed, "death-last", Duration::from_secs(15), &[]);
    bench.until_all_have_one(&list, Duration::from_secs(180));
    done.store(true, Ordering::Relaxed);
    bench.runtime.block_on(task).unwrap();
    let witness = witness.lock().unwrap();
    assert_eq!(witness.faults, Vec::<String>::new());
    let all = bench.runtime.block_on(bench.services().list(&ListParams::default())).unwrap();
    let given: Vec<IpAddr> = all.items.iter().flat_map(addresses).map(|ip| ip.parse().unwrap()).collect();
    let distinct: BTreeSet<&IpAddr> = given.iter().collect();
    assert_eq!((given.len(), distinct.len()), (count, count));
    last.end();
}
