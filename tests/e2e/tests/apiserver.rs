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
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use e2e::{Bed, Suite, wait};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use testbed::{Identity, Options};

const NAMESPACE: &str = "metallb-system";
/// Where the tests' Services are.
const SERVICES: &str = "default";
/// Short, so that a hundred successions take minutes and not half an hour.
const LEASE: Duration = Duration::from_millis(1500);
const SOON: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let make = || {
        let bed =
            Bed::bare(Options { id: "apiserver".into(), control_plane_only: true, ..Options::default() });
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds/manifests");
        bed.kubectl(&["apply", "-f", &manifests.to_string_lossy()]);
        bed.kubectl(&["create", "namespace", NAMESPACE]);
        bed
    };
    let suite = Suite::new("apiserver", make)
        .test("at_rest_and_after_a_restart_nothing_is_written", nothing_is_written)
        .test("what_becomes_free_is_given_at_once_to_who_waits", freed_is_given)
        .test("two_services_exchange_their_addresses", exchange)
        .test("a_range_moves_between_pools_and_nobody_notices", a_range_moves)
        .test("a_double_made_by_force_is_mended_within_a_second", a_double_is_mended)
        .test("a_leader_that_was_stopped_begins_no_write_when_it_goes_on", a_stopped_leader_is_silent)
        .test("an_api_server_that_restarts_costs_nobody_an_address", the_server_restarts)
        .test("five_thousand_services_survive_a_hundred_deaths_of_the_controller", a_hundred_deaths);
    e2e::run(vec![suite])
}

/// A controller process. Killed when dropped.
struct Controller {
    process: Child,
    identity: String,
}

impl Controller {
    /// Starts one with a short Lease; its user in the API is its identity.
    fn start(bed: &Bed, identity: &str) -> Self {
        Self::start_with(bed, identity, LEASE)
    }

    fn start_with(bed: &Bed, identity: &str, lease: Duration) -> Self {
        static PORT: AtomicU32 = AtomicU32::new(0);
        let port = 20_000 + PORT.fetch_add(1, Ordering::Relaxed) % 2_000;
        let user = Identity::member(identity, "system:masters");
        let kubeconfig = bed.cluster.kubeconfig_for(&user).unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(bed.cluster.logs().join(format!("{identity}.log")))
            .unwrap();
        let process = Command::new(binary())
            .args(["controller", "--log-format", "text", "--namespace", NAMESPACE, "--identity", identity])
            .args(["--lease-duration-ms", &lease.as_millis().to_string()])
            .args(["--admin-address", &format!("127.0.0.1:{port}")])
            .env("KUBECONFIG", kubeconfig)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { process, identity: identity.to_owned() }
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap();
        assert!(status.success(), "kill {signal}");
    }

    fn kill(mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Asks it to end, and waits for that.
    fn end(mut self) {
        self.signal("-TERM");
        let _ = self.process.wait();
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn binary() -> PathBuf {
    let given = std::env::var_os("LBSTACK_TEST_BINARY").map(PathBuf::from);
    given.unwrap_or_else(|| testbed::target_directory().join("debug/lbstack"))
}

/// What a test works with.
struct Bench<'a> {
    bed: &'a Bed,
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl<'a> Bench<'a> {
    /// A clean cluster with the pools given.
    fn new(bed: &'a Bed, pools: &[(&str, &[&str])]) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let kubeconfig = Kubeconfig::read_from(bed.cluster.kubeconfig()).unwrap();
            let options = KubeConfigOptions::default();
            let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
            Client::try_from(config).unwrap()
        });
        let bench = Self { bed, runtime, client };
        bed.kubectl(&["delete", "services", "-n", SERVICES, "-l", "test=yes", "--ignore-not-found"]);
        bed.kubectl(&["delete", "ipaddresspools", "-n", NAMESPACE, "--all"]);
        bed.kubectl(&["delete", "leases", "-n", NAMESPACE, "--all"]);
        for (name, addresses) in pools {
            bench.pool(name, addresses);
        }
        bench
    }

    fn pool(&self, name: &str, addresses: &[&str]) {
        let pool = json!({"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"addresses": addresses}});
        self.bed.apply(&pool.to_string());
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), SERVICES)
    }

    fn create(&self, names: &[String]) {
        let api = self.services();
        self.runtime.block_on(async {
            let writes = names.iter().map(|name| {
                let (api, service) = (api.clone(), service(name));
                async move {
                    // The server may be away for a moment: that is not what is tested.
                    loop {
                        match api.create(&PostParams::default(), &service).await {
                            Ok(_) => return,
                            Err(kube::Error::Api(status)) if status.code == 409 => return,
                            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                        }
                    }
                }
            });
            stream::iter(writes).buffer_unordered(16).collect::<Vec<()>>().await;
        });
    }

    fn delete(&self, name: &str) {
        self.runtime.block_on(self.services().delete(name, &DeleteParams::default())).unwrap();
    }

    fn annotate(&self, name: &str, key: &str, value: &str) {
        self.bed.kubectl(&[
            "annotate",
            "--overwrite",
            "service",
            "-n",
            SERVICES,
            name,
            &format!("{key}={value}"),
        ]);
    }

    /// Waits until the Service has exactly these addresses, and returns how long that took.
    fn until(&self, name: &str, expected: &[&str]) -> Duration {
        let start = Instant::now();
        let what = format!("it has {expected:?}");
        self.runtime.block_on(wait::until(&self.services(), name, &what, SOON, |service| {
            (service.map(addresses)? == expected).then_some(())
        }));
        start.elapsed()
    }

    /// Waits until each of these has an address.
    fn until_all_have_one(&self, names: &[String], limit: Duration) {
        let wanted: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        self.runtime.block_on(wait::until_all(&self.services(), "all have an address", limit, |services| {
            let served = services.iter().filter(|service| {
                wanted.contains(service.name_any().as_str()) && !addresses(service).is_empty()
            });
            (served.count() == wanted.len()).then_some(())
        }));
    }

    fn holder(&self) -> Option<String> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        let lease = self.runtime.block_on(api.get_opt("lbstack-controller")).ok()??;
        lease.spec?.holder_identity
    }

    fn until_leads(&self, identity: &str) {
        wait::poll(&format!("{identity} leads"), SOON, || {
            (self.holder().as_deref() == Some(identity)).then_some(())
        });
    }

    /// Writes of Service statuses by `identity` that the API server began from `since` on.
    fn status_writes(&self, identity: &str, since: &k8s_openapi::jiff::Timestamp) -> Vec<Value> {
        // An entry reaches the file a moment after its request.
        std::thread::sleep(Duration::from_millis(1500));
        let log = std::fs::read_to_string(self.bed.cluster.audit_log()).unwrap();
        log.lines()
            .filter(|line| line.contains(identity) && line.contains("\"patch\""))
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|entry| {
                let begun = entry["requestReceivedTimestamp"].as_str().and_then(|t| t.parse().ok());
                entry["user"]["username"] == identity
                    && entry["verb"] == "patch"
                    && entry["objectRef"]["resource"] == "services"
                    && begun.is_some_and(|begun: k8s_openapi::jiff::Timestamp| begun >= *since)
            })
            .collect()
    }
}

fn service(name: &str) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"test": "yes"}},
        "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]},
    }))
    .unwrap()
}

fn addresses(service: &Service) -> Vec<String> {
    let ingress = service.status.iter().filter_map(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    ingress.flatten().filter_map(|entry| entry.ip.clone()).collect()
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}-{number:04}")).collect()
}

fn now() -> k8s_openapi::jiff::Timestamp {
    k8s_openapi::jiff::Timestamp::now()
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
    let since = now();
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
    let refused = |service: Option<&Service>| {
        let conditions = service?.status.as_ref()?.conditions.as_ref()?;
        let condition = conditions.iter().find(|c| c.type_ == "lbstack.dev/AddressAssigned")?;
        (condition.status == "False").then(|| condition.message.clone())
    };
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
    let since = now();
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
    let last = Controller::start_with(bed, "death-last", Duration::from_secs(15));
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
