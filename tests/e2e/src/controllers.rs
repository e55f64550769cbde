//! Real controllers, as processes, with a real API server without nodes: a controller can be killed, stopped
//! and started within milliseconds, and thousands of Services can be created concurrently.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use testbed::{Identity, Options};

use crate::{Env, client, wait};

/// The namespace of the configuration.
pub const NAMESPACE: &str = "metallb-system";
/// The namespace of the tests' Services.
pub const SERVICES: &str = "default";
/// Timeout of what the controller should do.
pub const SOON: Duration = Duration::from_secs(20);
/// Concurrent requests while Services are created.
const CONCURRENCY: usize = 16;

/// An API server with lbstack's kinds and the namespace of the configuration.
///
/// # Panics
///
/// It cannot be created.
pub fn env(id: &str) -> Env {
    let env = Env::bare(Options { id: id.into(), control_plane_only: true, ..Options::default() });
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds/manifests");
    env.kubectl(&["apply", "-f", &manifests.to_string_lossy()]);
    env.kubectl(&["create", "namespace", NAMESPACE]);
    env
}

/// A controller process. Killed when dropped.
pub struct Controller {
    process: Child,
    /// Its identity in the Lease, and its user name in the API.
    pub identity: String,
}

impl Controller {
    /// Short, so that a hundred leader changes take minutes and not half an hour.
    pub const LEASE: Duration = Duration::from_millis(1500);

    /// Starts one with a short Lease; its user name in the API is its identity.
    pub fn start(env: &Env, identity: &str) -> Self {
        Self::start_with(env, identity, Self::LEASE, &[])
    }

    /// The same with this Lease and these further arguments.
    pub fn start_with(env: &Env, identity: &str, lease: Duration, arguments: &[&str]) -> Self {
        static PORT: AtomicU32 = AtomicU32::new(0);
        let port = 20_000 + PORT.fetch_add(1, Ordering::Relaxed) % 2_000;
        let user = Identity::member(identity, "system:masters");
        let kubeconfig = env.cluster.kubeconfig_for(&user).unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(env.cluster.logs().join(format!("{identity}.log")))
            .unwrap();
        let process = Command::new(crate::binary())
            .args(["controller", "--log-format", "text", "--namespace", NAMESPACE, "--identity", identity])
            .args(["--lease-duration-ms", &lease.as_millis().to_string()])
            .args(["--admin-address", &format!("127.0.0.1:{port}")])
            .args(arguments)
            .env("KUBECONFIG", kubeconfig)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { process, identity: identity.to_owned() }
    }

    /// Sends it a signal, such as `-STOP`.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap();
        assert!(status.success(), "kill {signal}");
    }

    /// Kills it.
    pub fn kill(mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Its own memory, in megabytes: the resident set without the pages of the binary.
    pub fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kibibytes * 1024.0 / 1e6
    }

    /// Sends SIGTERM, and waits until it has ended.
    pub fn end(mut self) {
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

/// A cluster for one test, with helpers.
pub struct Bench<'a> {
    env: &'a Env,
    /// The runtime for API calls.
    pub runtime: tokio::runtime::Runtime,
    client: Client,
}

impl<'a> Bench<'a> {
    /// A clean cluster with these pools.
    pub fn new(env: &'a Env, pools: &[(&str, &[&str])]) -> Self {
        let (runtime, client) = client::connect(&env.cluster);
        let bench = Self { env, runtime, client };
        bench.clear();
        env.kubectl(&["delete", "ipaddresspools", "-n", NAMESPACE, "--all"]);
        env.kubectl(&["delete", "leases", "-n", NAMESPACE, "--all"]);
        for (name, addresses) in pools {
            bench.pool(name, addresses);
        }
        bench
    }

    /// Creates a pool.
    pub fn pool(&self, name: &str, addresses: &[&str]) {
        let pool = json!({"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"addresses": addresses}});
        self.env.apply(&pool.to_string());
    }

    /// The Services.
    pub fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), SERVICES)
    }

    /// Creates a Service for each name, concurrently.
    pub fn create(&self, names: &[String]) {
        self.create_of_class(names, None);
    }

    /// The same with a load-balancer class.
    pub fn create_of_class(&self, names: &[String], class: Option<&str>) {
        let api = self.services();
        self.runtime.block_on(async {
            let writes = names.iter().map(|name| {
                let (api, service) = (api.clone(), service(name, class));
                async move {
                    // The server may be down for a moment, which is not what is tested.
                    loop {
                        match api.create(&PostParams::default(), &service).await {
                            Ok(_) => return,
                            Err(kube::Error::Api(status)) if status.code == 409 => return,
                            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                        }
                    }
                }
            });
            stream::iter(writes).buffer_unordered(CONCURRENCY).collect::<Vec<()>>().await;
        });
    }

    /// Sets an address of each Service by one patch of its status, with the same concurrency.
    pub fn patch_statuses(&self, names: &[String]) {
        let api = self.services();
        self.runtime.block_on(async {
            let writes = names.iter().map(|name| {
                let api = api.clone();
                let patch = json!({"status": {"loadBalancer": {"ingress": [{"ip": "10.255.255.1"}]}}});
                async move {
                    let patched = api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await;
                    patched.map(drop).unwrap();
                }
            });
            stream::iter(writes).buffer_unordered(CONCURRENCY).collect::<Vec<()>>().await;
        });
    }

    /// Deletes every Service of the test.
    pub fn clear(&self) {
        let ours = ListParams::default().labels("test=yes");
        self.runtime.block_on(self.services().delete_collection(&DeleteParams::default(), &ours)).unwrap();
        self.runtime.block_on(wait::until_all(&self.services(), "all are gone", SOON * 6, |services| {
            services.iter().all(|service| !service.labels().contains_key("test")).then_some(())
        }));
    }

    /// Deletes a Service.
    pub fn delete(&self, name: &str) {
        self.runtime.block_on(self.services().delete(name, &DeleteParams::default())).unwrap();
    }

    /// Annotates a Service.
    pub fn annotate(&self, name: &str, key: &str, value: &str) {
        self.env.kubectl(&[
            "annotate",
            "--overwrite",
            "service",
            "-n",
            SERVICES,
            name,
            &format!("{key}={value}"),
        ]);
    }

    /// Runs another command of the binary as this user, and returns its output.
    pub fn run(&self, identity: &str, arguments: &[&str]) -> String {
        let kubeconfig =
            self.env.cluster.kubeconfig_for(&Identity::member(identity, "system:masters")).unwrap();
        let output =
            Command::new(crate::binary()).args(arguments).env("KUBECONFIG", kubeconfig).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "lbstack {arguments:?}: {stderr}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until the Service has exactly these addresses, and returns how long that took.
    pub fn until(&self, name: &str, expected: &[&str]) -> Duration {
        let start = Instant::now();
        let what = format!("it has {expected:?}");
        self.runtime.block_on(wait::until(&self.services(), name, &what, SOON, |service| {
            (service.map(addresses)? == expected).then_some(())
        }));
        start.elapsed()
    }

    /// Waits until each of these Services has had an address.
    pub fn until_all_have_one(&self, names: &[String], limit: Duration) {
        // Each event is handled on its own: checking all Services after each would take longer than the
        // awaited change.
        let mut missing: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let waiting = async {
            let mut events = std::pin::pin!(watcher(self.services(), watcher::Config::default()));
            while let Some(event) = events.next().await {
                if let Ok(watcher::Event::Apply(service) | watcher::Event::InitApply(service)) = event
                    && !addresses(&service).is_empty()
                    && missing.remove(service.name_any().as_str())
                    && missing.is_empty()
                {
                    return;
                }
            }
        };
        let ended = self.runtime.block_on(async { tokio::time::timeout(limit, waiting).await });
        assert!(ended.is_ok(), "after {limit:?} {} Services have no address: {missing:?}", missing.len());
    }

    /// The controller that holds the Lease: its identity without the random part.
    pub fn holder(&self) -> Option<String> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        let lease = self.runtime.block_on(api.get_opt("lbstack-controller")).ok()??;
        Some(lease.spec?.holder_identity?.split('_').next()?.to_owned())
    }

    /// Waits until the controller with this identity leads.
    pub fn until_leads(&self, identity: &str) {
        wait::poll(&format!("{identity} leads"), SOON, || {
            (self.holder().as_deref() == Some(identity)).then_some(())
        });
    }

    /// Writes of Service statuses by `identity` that the API server received since `since`.
    pub fn status_writes(&self, identity: &str, since: &Timestamp) -> Vec<Value> {
        let mut writes = self.requests(identity);
        writes.retain(|entry| {
            let received = entry["requestReceivedTimestamp"].as_str().and_then(|t| t.parse().ok());
            entry["verb"] == "patch"
                && entry["objectRef"]["resource"] == "services"
                && received.is_some_and(|received: Timestamp| received >= *since)
        });
        writes
    }

    /// All requests of `identity`, from the audit log.
    pub fn requests(&self, identity: &str) -> Vec<Value> {
        // Entries are written with a delay.
        std::thread::sleep(Duration::from_millis(1500));
        let log = std::fs::read_to_string(self.env.cluster.audit_log()).unwrap();
        log.lines()
            .filter(|line| line.contains(identity))
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|entry| entry["user"]["username"] == identity)
            .collect()
    }
}

fn service(name: &str, class: Option<&str>) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"test": "yes"}},
        "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "loadBalancerClass": class,
            "ports": [{"port": 80}]},
    }))
    .unwrap()
}

/// The addresses in its status.
pub fn addresses(service: &Service) -> Vec<String> {
    let ingress = service.status.iter().filter_map(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    ingress.flatten().filter_map(|entry| entry.ip.clone()).collect()
}

/// `count` names that start with `prefix`.
pub fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}-{number:04}")).collect()
}
