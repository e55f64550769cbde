//! The environment of a test: a real cluster with lbstack, and helpers to act on and observe it.

use std::net::SocketAddr;
use std::time::Duration;

use crds::{LoadBalancerStack, ServiceL2Status};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};
use serde_json::Value;
use testbed::{Cluster, Options, Protocol, Traffic, TrafficReport};

use crate::{audit, client, install, manifests, wait};

/// Timeout of what should happen immediately.
const SOON: Duration = Duration::from_secs(20);
/// Timeout of a stack that starts, or recovers from a fault: images may have to be pulled, a back-off may
/// have to end.
const STACK_UP: Duration = Duration::from_secs(120);

/// A real cluster with lbstack's operator in it.
pub struct Env {
    /// The cluster.
    pub cluster: Cluster,
    pub(crate) client: Client,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) audit: audit::Audit,
}

impl Env {
    /// Brings up a cluster and installs the operator in it.
    pub fn installed(options: Options) -> Self {
        let env = Self::bare(Options { id: format!("e2e-{}", options.kube_proxy.as_str()), ..options });
        install::install(&env.cluster);
        env
    }

    /// Brings up a cluster without lbstack.
    pub fn bare(options: Options) -> Self {
        let cluster = Cluster::up(options).unwrap_or_else(|error| panic!("{error}"));
        let (runtime, client) = client::connect(&cluster);
        let audit = audit::Audit::new(cluster.audit_log());
        Self { cluster, client, runtime, audit }
    }

    /// Objects of a namespace.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Runs kubectl and returns its output.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl(arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    /// `kubectl apply` of manifests.
    pub fn apply(&self, manifests: &str) {
        self.cluster.apply(manifests).unwrap_or_else(|error| panic!("{error}"));
    }

    /// `kubectl delete` of manifests, and waits until they are gone.
    pub fn delete(&self, manifests: &str) {
        self.cluster.delete(manifests).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Applies a minimal stack, and waits until it is available.
    pub fn stack_up(&self) {
        self.apply(manifests::STACK);
        self.stack_available();
    }

    /// Waits until the stack is available, not degraded, with a speaker on every node.
    pub fn stack_available(&self) {
        let api: Api<LoadBalancerStack> = Api::all(self.client.clone());
        let speakers = format!("{n}/{n}", n = self.nodes().len());
        let check = |stack: Option<&LoadBalancerStack>| {
            let (stack, status) = (stack?, stack?.status.as_ref()?);
            let is = |type_, wanted: &str| {
                status.conditions.iter().any(|c| c.type_ == type_ && c.status == wanted)
            };
            let current = status.observed_generation == stack.metadata.generation;
            let healthy = is("Available", "True") && is("Degraded", "False") && is("Progressing", "False");
            (current && healthy && status.speakers.as_deref() == Some(&speakers)).then_some(())
        };
        self.runtime.block_on(wait::until(&api, "default", "the stack is available", STACK_UP, check));
    }

    /// The names of the nodes.
    pub fn nodes(&self) -> Vec<String> {
        self.cluster.plan().nodes.iter().map(|node| node.machine.name.clone()).collect()
    }

    /// The client's IPv4 address.
    pub fn client_address(&self) -> String {
        self.cluster.client().v4.to_string()
    }

    /// Applies a pool with its advertisement and returns their manifest.
    pub fn pool(&self, name: &str, ranges: &str) -> String {
        let manifest = manifests::pool(name, ranges);
        self.apply(&manifest);
        manifest
    }

    /// Applies a Service for [`Self::web`] with an address from `pool` and further fields of its spec, and
    /// returns its manifest.
    pub fn service(&self, name: &str, pool: &str, spec: &str) -> String {
        let manifest = manifests::service(name, pool, spec);
        self.apply(&manifest);
        manifest
    }

    /// Applies two pods that answer with their own name and the client's address, waits until they are ready,
    /// and returns their manifest.
    pub fn web(&self) -> String {
        self.apply(manifests::WEB);
        self.web_ready();
        manifests::WEB.to_owned()
    }

    /// After an outage of the API server, the controller manager retries its watches up to a minute later
    /// (client-go's back-off: 30 s with up to 100 % jitter).
    fn web_ready(&self) {
        self.kubectl(&["rollout", "status", "deployment/web", "--timeout=180s"]);
    }

    /// Moves the pods of [`Self::web`] away from `node`.
    pub fn web_away_from(&self, node: &str) {
        let patch = format!(
            r#"{{"spec":{{"template":{{"spec":{{"affinity":{{"nodeAffinity":{{"requiredDuringSchedulingIgnoredDuringExecution":
            {{"nodeSelectorTerms":[{{"matchExpressions":[{{"key":"kubernetes.io/hostname","operator":"NotIn","values":["{node}"]}}]}}]}}}}}}}}}}}}}}"#
        );
        self.kubectl(&["patch", "deployment", "web", "--patch", &patch]);
        self.web_ready();
    }

    /// Waits until a Service has an address, and returns its first.
    pub fn address(&self, namespace: &str, service: &str) -> String {
        self.addresses(namespace, service, 1).swap_remove(0)
    }

    /// Waits until a Service has `count` addresses, and returns them in order.
    pub fn addresses(&self, namespace: &str, service: &str, count: usize) -> Vec<String> {
        let check = |service: Option<&Service>| {
            let ingress = service?.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
            let addresses: Vec<String> = ingress.iter().filter_map(|ingress| ingress.ip.clone()).collect();
            (addresses.len() == count).then_some(addresses)
        };
        let what = format!("has {count} addresses");
        self.runtime.block_on(wait::until(&self.api(namespace), service, &what, SOON, check))
    }

    /// Polls a URL from the client until it gets a response, and returns that.
    pub fn served(&self, url: &str, limit: Duration) -> String {
        let client = self.cluster.client();
        wait::poll(&format!("{url} answers"), limit, || client.curl(url).ok())
    }

    /// Every link-layer address that answers for an address on the client's network, within 100 ms.
    pub fn who_has(&self, address: &str) -> Vec<String> {
        let address = address.parse().unwrap();
        let answers = self.cluster.client().who_has(address, Duration::from_millis(100));
        answers.unwrap_or_else(|error| panic!("{error}")).iter().map(ToString::to_string).collect()
    }

    /// Starts a client that sends a UDP request every 5 ms, each from a new port.
    pub fn traffic(&self, address: &str) -> Traffic {
        self.datagrams(address, false)
    }

    /// The same with address resolution before each request.
    pub fn resolving_traffic(&self, address: &str) -> Traffic {
        self.datagrams(address, true)
    }

    fn datagrams(&self, address: &str, cold: bool) -> Traffic {
        let to = SocketAddr::new(address.parse().unwrap(), 80);
        let started = self.cluster.client().traffic(Protocol::Udp, to, Duration::from_millis(5), cold);
        started.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts a client that sends an HTTP request every 20 ms, each on a new connection.
    pub fn http(&self, to: &str) -> Traffic {
        let to: SocketAddr = to.parse().unwrap();
        let started = self.cluster.client().traffic(Protocol::Http, to, Duration::from_millis(20), false);
        started.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Stops a client, and returns the results of its requests.
    pub fn stop_traffic(&self, traffic: Traffic) -> TrafficReport {
        traffic.stop().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Waits until a node announces a Service, and returns its name.
    pub fn announcer(&self, namespace: &str, service: &str) -> String {
        self.announcer_after(namespace, service, "")
    }

    /// The same, but another node than `before`.
    pub fn announcer_after(&self, namespace: &str, service: &str, before: &str) -> String {
        let what = format!("a node announces {namespace}/{service}");
        let check = |statuses: &[ServiceL2Status]| {
            statuses.iter().filter_map(|status| status.status.as_ref()).find_map(|status| {
                let matches = status.service_name.as_deref() == Some(service)
                    && status.service_namespace.as_deref() == Some(namespace);
                status.node.clone().filter(|node| matches && node != before)
            })
        };
        self.runtime.block_on(wait::until_all(&self.api("metallb-system"), &what, STACK_UP, check))
    }

    /// The name of the pod of `component` on `node`.
    pub fn pod_of(&self, component: &str, node: &str) -> String {
        let check = |pods: &[Pod]| {
            pods.iter().find_map(|pod| {
                let labels = pod.metadata.labels.as_ref()?;
                let on_node = pod.spec.as_ref()?.node_name.as_deref() == Some(node);
                (on_node && labels.get("component").is_some_and(|c| c == component))
                    .then(|| pod.metadata.name.clone())?
            })
        };
        let what = format!("{component} runs on {node}");
        self.runtime.block_on(wait::until_all(&self.api("metallb-system"), &what, SOON, check))
    }

    /// Waits for an event about an object of namespace default, and returns its note.
    pub fn event(&self, kind: &str, name: &str, reason: &str, limit: Duration) -> String {
        self.event_in("default", kind, name, reason, limit)
    }

    /// The same for an object in this namespace.
    pub fn event_in(&self, namespace: &str, kind: &str, name: &str, reason: &str, limit: Duration) -> String {
        let what = format!("{kind} {name} has an event {reason}");
        let check = |events: &[Event]| {
            events.iter().find_map(|event| {
                let about = event.regarding.as_ref()?;
                let matches = about.kind.as_deref() == Some(kind) && about.name.as_deref() == Some(name);
                (matches && event.reason.as_deref() == Some(reason)).then(|| event.note.clone())?
            })
        };
        self.runtime.block_on(wait::until_all(&self.api(namespace), &what, limit, check))
    }

    /// Cuts the power of a node.
    pub fn power_off(&self, node: &str) {
        self.cluster.node(node).and_then(|node| node.power_off()).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Starts a node that was powered off, and waits until it is Ready.
    pub fn power_on(&self, node: &str) {
        self.cluster.node(node).and_then(|node| node.power_on()).unwrap_or_else(|error| panic!("{error}"));
        let all = self.cluster.wait_for_nodes(self.nodes().len(), STACK_UP);
        all.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Until the returned guard is dropped, requests of our processes may be rejected.
    pub fn rejections_expected(&self) -> impl Drop {
        self.audit.tolerate_rejections()
    }

    /// Stops the API server, and starts it again after `time`.
    pub fn api_server_outage(&self, time: Duration) {
        let guard = self.audit.tolerate_rejections();
        self.cluster.api().stop().unwrap_or_else(|error| panic!("{error}"));
        std::thread::sleep(time);
        self.cluster.api().start().unwrap_or_else(|error| panic!("{error}"));
        drop(guard);
    }

    /// `kubectl get`, as JSON.
    pub fn get(&self, arguments: &[&str]) -> Value {
        self.cluster.get(arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Deletes pods of `namespace` by `selector` without a grace period, as a crash would.
    pub fn kill_pods(&self, namespace: &str, selector: &str) {
        let pods: Api<Pod> = self.api(namespace);
        let (immediately, selected) =
            (DeleteParams::default().grace_period(0), ListParams::default().labels(selector));
        self.runtime.block_on(pods.delete_collection(&immediately, &selected)).unwrap();
    }
}

/// The lines of a kubectl table without the AGE column, which changes with time.
pub fn without_ages(table: &str) -> Vec<String> {
    let age = table.lines().next().and_then(|head| head.find("AGE")).unwrap_or(usize::MAX);
    table.lines().map(|line| line.get(..age).unwrap_or(line).trim_end().to_owned()).collect()
}
