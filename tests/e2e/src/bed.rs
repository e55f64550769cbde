//! What a test can do and see.

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

/// What the API does at once; more than this is a failure.
const SOON: Duration = Duration::from_secs(20);
/// A stack from nothing, or after a fault: images may have to be pulled, back-off may have to end.
const STACK_UP: Duration = Duration::from_secs(120);

/// A real cluster with lbstack's operator in it.
pub struct Bed {
    /// The cluster.
    pub cluster: Cluster,
    pub(crate) client: Client,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) audit: audit::Audit,
}

impl Bed {
    /// Brings up a cluster and installs the operator in it.
    pub fn installed(options: Options) -> Self {
        let bed = Self::bare(Options { id: format!("e2e-{}", options.kube_proxy.as_str()), ..options });
        install::install(&bed.cluster);
        bed
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

    /// Runs kubectl and returns what it prints.
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

    /// Applies the smallest stack, and waits until it is there.
    pub fn stack_up(&self) {
        self.apply(manifests::STACK);
        self.stack_available();
    }

    /// Waits until the stack is available, not degraded, with a speaker on every node.
    pub fn stack_available(&self) {
        let api: Api<LoadBalancerStack> = Api::all(self.client.clone());
        let speakers = format!("{n}/{n}", n = self.nodes().len());
        let answer = |stack: Option<&LoadBalancerStack>| {
            let (stack, status) = (stack?, stack?.status.as_ref()?);
            let is = |type_, wanted: &str| {
                status.conditions.iter().any(|c| c.type_ == type_ && c.status == wanted)
            };
            let current = status.observed_generation == stack.metadata.generation;
            let well = is("Available", "True") && is("Degraded", "False") && is("Progressing", "False");
            (current && well && status.speakers.as_deref() == Some(&speakers)).then_some(())
        };
        self.runtime.block_on(wait::until(&api, "default", "the stack is available", STACK_UP, answer));
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

    /// Applies a Service for [`Self::web`] with an address from `pool` and further fields of its spec, and returns
    /// its manifest.
    pub fn service(&self, name: &str, pool: &str, spec: &str) -> String {
        let manifest = manifests::service(name, pool, spec);
        self.apply(&manifest);
        manifest
    }

    /// Applies two pods that answer with their own name and the client's address, waits until they are ready, and
    /// returns their manifest.
    pub fn web(&self) -> String {
        self.apply(manifests::WEB);
        self.web_ready();
        manifests::WEB.to_owned()
    }

    /// After the API server was away, the controller manager tries its watches again up to a minute later
    /// (client-go's back-off: 30 s, and up to as much again by chance).
    fn web_ready(&self) {
        self.kubectl(&["rollout", "status", "deployment/web", "--timeout=180s"]);
    }

    /// Moves these pods away from `node`.
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

    /// Waits until a Service has as many addresses, and returns them in order.
    pub fn addresses(&self, namespace: &str, service: &str, count: usize) -> Vec<String> {
        let answer = |service: Option<&Service>| {
            let ingress = service?.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
            let addresses: Vec<String> = ingress.iter().filter_map(|ingress| ingress.ip.clone()).collect();
            (addresses.len() == count).then_some(addresses)
        };
        let what = format!("has {count} addresses");
        self.runtime.block_on(wait::until(&self.api(namespace), service, &what, SOON, answer))
    }

    /// Asks from the client until it is answered, and returns the answer.
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

    /// Starts a client that asks by UDP every 5 ms, each time from a new port.
    pub fn traffic(&self, address: &str) -> Traffic {
        self.datagrams(address, false)
    }

    /// The same that also asks before each request who has the address.
    pub fn resolving_traffic(&self, address: &str) -> Traffic {
        self.datagrams(address, true)
    }

    fn datagrams(&self, address: &str, cold: bool) -> Traffic {
        let to = SocketAddr::new(address.parse().unwrap(), 80);
        let started = self.cluster.client().traffic(Protocol::Udp, to, Duration::from_millis(5), cold);
        started.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts a client that asks by HTTP every 20 ms, with a connection for each request.
    pub fn http(&self, to: &str) -> Traffic {
        let to: SocketAddr = to.parse().unwrap();
        let started = self.cluster.client().traffic(Protocol::Http, to, Duration::from_millis(20), false);
        started.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Stops it, and tells what became of its requests.
    pub fn seen(&self, traffic: Traffic) -> TrafficReport {
        traffic.stop().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Waits until a node announces a Service, and returns its name.
    pub fn announcer(&self, namespace: &str, service: &str) -> String {
        self.announcer_after(namespace, service, "")
    }

    /// The same, once it is another than `before`.
    pub fn announcer_after(&self, namespace: &str, service: &str, before: &str) -> String {
        let what = format!("somebody announces {namespace}/{service}");
        let answer = |statuses: &[ServiceL2Status]| {
            statuses.iter().filter_map(|status| status.status.as_ref()).find_map(|status| {
                let it = status.service_name.as_deref() == Some(service)
                    && status.service_namespace.as_deref() == Some(namespace);
                status.node.clone().filter(|node| it && node != before)
            })
        };
        self.runtime.block_on(wait::until_all(&self.api("metallb-system"), &what, STACK_UP, answer))
    }

    /// The name of the pod of `component` on `node`.
    pub fn pod_of(&self, component: &str, node: &str) -> String {
        let answer = |pods: &[Pod]| {
            pods.iter().find_map(|pod| {
                let labels = pod.metadata.labels.as_ref()?;
                let on_node = pod.spec.as_ref()?.node_name.as_deref() == Some(node);
                (on_node && labels.get("component").is_some_and(|c| c == component))
                    .then(|| pod.metadata.name.clone())?
            })
        };
        let what = format!("{component} runs on {node}");
        self.runtime.block_on(wait::until_all(&self.api("metallb-system"), &what, SOON, answer))
    }

    /// Waits for an event about an object of namespace default, and returns its note.
    pub fn event(&self, kind: &str, name: &str, reason: &str, limit: Duration) -> String {
        self.event_in("default", kind, name, reason, limit)
    }

    /// The same of an object in this namespace.
    pub fn event_in(&self, namespace: &str, kind: &str, name: &str, reason: &str, limit: Duration) -> String {
        let what = format!("{kind} {name} has an event {reason}");
        let answer = |events: &[Event]| {
            events.iter().find_map(|event| {
                let about = event.regarding.as_ref()?;
                let it = about.kind.as_deref() == Some(kind) && about.name.as_deref() == Some(name);
                (it && event.reason.as_deref() == Some(reason)).then(|| event.note.clone())?
            })
        };
        self.runtime.block_on(wait::until_all(&self.api(namespace), &what, limit, answer))
    }

    /// Takes the power of a node away.
    pub fn power_off(&self, node: &str) {
        self.cluster.node(node).and_then(|node| node.power_off()).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Starts a node that was powered off, and waits until it is Ready.
    pub fn power_on(&self, node: &str) {
        self.cluster.node(node).and_then(|node| node.power_on()).unwrap_or_else(|error| panic!("{error}"));
        let all = self.cluster.wait_for_nodes(self.nodes().len(), STACK_UP);
        all.unwrap_or_else(|error| panic!("{error}"));
    }

    /// While the answer lives, requests of ours may be refused.
    pub fn refusals_expected(&self) -> impl Drop {
        self.audit.server_away()
    }

    /// Stops the API server, and starts it again after `time`.
    pub fn api_server_away_for(&self, time: Duration) {
        let away = self.audit.server_away();
        self.cluster.api().stop().unwrap_or_else(|error| panic!("{error}"));
        std::thread::sleep(time);
        self.cluster.api().start().unwrap_or_else(|error| panic!("{error}"));
        drop(away);
    }

    /// What is wrong with the object in hand, for assertion messages.
    pub fn get(&self, arguments: &[&str]) -> Value {
        self.cluster.get(arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Deletes pods of `namespace` by `selector` at once, as a crash would.
    pub fn kill_pods(&self, namespace: &str, selector: &str) {
        let pods: Api<Pod> = self.api(namespace);
        let (at_once, selected) =
            (DeleteParams::default().grace_period(0), ListParams::default().labels(selector));
        self.runtime.block_on(pods.delete_collection(&at_once, &selected)).unwrap();
    }
}

/// A table of kubectl without its AGE column, which changes by itself.
pub fn without_ages(table: &str) -> Vec<String> {
    let age = table.lines().next().and_then(|head| head.find("AGE")).unwrap_or(usize::MAX);
    table.lines().map(|line| line.get(..age).unwrap_or(line).trim_end().to_owned()).collect()
}
