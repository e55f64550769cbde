//! What the speaker reads of the API, and the view that it makes of it.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use announce::link::{Link, LinkFacts};
use announce::view::{NodeName, Objects, Settings, View};
use crds::ServiceL2Status;
use crds::annotations::ALLOW_SHARED_IP;
use crds::names::{APP, LABEL_APP, LABEL_COMPONENT, LABEL_COMPONENT_TYPE, SPEAKER};
use crds::{AddressConflict, ConfigurationState, IPAddressPool, L2Advertisement, ResourceExt as _};
use k8s_openapi::api::core::v1::{
    Node, NodeCondition, NodeSpec, NodeStatus, Pod, PodSpec, PodStatus, Service, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use rules::{Configuration, Finding};
use runtime::reflect::{Change, Ended, ready, reflect_slim};
use runtime::tasks::Tasks;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::snapshot::Snapshot;
use crate::status;

/// How long after its start a speaker waits for the API server, if it knows what was before.
const API_PATIENCE: Duration = Duration::from_secs(2);

/// Changes come in bursts; this long after the first the view is made anew.
const SETTLE: Duration = Duration::from_millis(5);

/// The caches.
#[derive(Clone)]
pub(crate) struct Stores {
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    pub(crate) nodes: Store<Node>,
    pub(crate) pods: Store<Pod>,
    pools: Store<IPAddressPool>,
    l2_advertisements: Store<L2Advertisement>,
    pub(crate) statuses: Store<ServiceL2Status>,
    pub(crate) states: Store<ConfigurationState>,
    pub(crate) conflicts: Store<AddressConflict>,
}

impl Stores {
    /// Starts the watches. `changed` is notified of everything that could matter.
    pub(crate) fn start(
        tasks: &mut Tasks,
        client: &Client,
        namespace: &str,
        changed: &Arc<Notify>,
        shutdown: &CancellationToken,
    ) -> Self {
        let all = watcher::Config::default;
        let speakers = format!("{LABEL_APP}={APP},{LABEL_COMPONENT}={SPEAKER}");
        let balanced = all().fields("spec.type=LoadBalancer");
        // Slices of headless Services cannot be those of a load-balanced one.
        let of_services = all().labels("kubernetes.io/service-name,!service.kubernetes.io/headless");
        let of_speakers = all().labels(&format!("{LABEL_COMPONENT_TYPE}={SPEAKER}"));
        let mut start = Start { tasks, changed, shutdown };
        Self {
            services: start.watch(Api::all(client.clone()), balanced, slim_service),
            slices: start.watch(Api::all(client.clone()), of_services, slim_slice),
            nodes: start.watch(Api::all(client.clone()), all(), slim_node),
            pods: start.watch(Api::namespaced(client.clone(), namespace), all().labels(&speakers), slim_pod),
            pools: start.watch(Api::namespaced(client.clone(), namespace), all(), |pool| pool.status = None),
            l2_advertisements: start.watch(Api::namespaced(client.clone(), namespace), all(), |_| {}),
            statuses: start.watch(Api::namespaced(client.clone(), namespace), all(), |_| {}),
            states: start.watch(Api::namespaced(client.clone(), namespace), of_speakers, |_| {}),
            conflicts: start.watch(Api::namespaced(client.clone(), namespace), all(), |_| {}),
        }
    }

    /// Waits for the first lists.
    pub(crate) async fn ready(&self) -> Result<(), Ended> {
        ready(&self.services).await?;
        ready(&self.slices).await?;
        ready(&self.nodes).await?;
        ready(&self.pods).await?;
        ready(&self.pools).await?;
        ready(&self.l2_advertisements).await?;
        ready(&self.statuses).await
    }

    /// What the caches hold that a view is made of.
    pub(crate) fn cached(&self) -> Cached {
        Cached {
            services: self.services.state(),
            slices: self.slices.state(),
            nodes: self.nodes.state(),
            pods: self.pods.state(),
            pools: self.pools.state(),
            l2_advertisements: self.l2_advertisements.state(),
            statuses: self.statuses.state(),
            states: self.states.state(),
        }
    }
}

/// The objects that a view is made of.
#[derive(Serialize, Deserialize)]
pub(crate) struct Cached {
    services: Vec<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
    nodes: Vec<Arc<Node>>,
    pods: Vec<Arc<Pod>>,
    pools: Vec<Arc<IPAddressPool>>,
    l2_advertisements: Vec<Arc<L2Advertisement>>,
    statuses: Vec<Arc<ServiceL2Status>>,
    states: Vec<Arc<ConfigurationState>>,
}

impl Cached {
    /// The view, and what there is to say about the configuration.
    pub(crate) fn view(
        &self,
        settings: &Settings,
        links: &[Link],
        previous: Option<&View>,
    ) -> (View, Vec<Finding>) {
        let configured = rules::Objects {
            pools: self.pools.clone(),
            l2_advertisements: self.l2_advertisements.clone(),
            ..rules::Objects::default()
        };
        let (configuration, findings) = Configuration::from_objects(&configured);
        let mut told: BTreeMap<NodeName, Vec<LinkFacts>> =
            self.states.iter().filter_map(|state| status::state::decode(state)).collect();
        told.insert(settings.me.clone(), links.iter().map(LinkFacts::from).collect());
        let objects = Objects {
            services: self.services.clone(),
            slices: self.slices.clone(),
            nodes: self.nodes.clone(),
            speakers: self.pods.clone(),
            statuses: self.statuses.clone(),
            links: told,
        };
        (View::build(settings, &objects, &configuration, previous), findings)
    }
}

/// Makes the view anew whenever something changed, and hands it on if it differs.
pub(crate) async fn keep_view(
    stores: Stores,
    settings: Settings,
    snapshot: Option<Snapshot>,
    mut links: watch::Receiver<Vec<Link>>,
    views: watch::Sender<Option<Arc<View>>>,
    findings: watch::Sender<Vec<Finding>>,
    changed: Arc<Notify>,
    shutdown: CancellationToken,
) -> Result<(), Ended> {
    let ready = async {
        let patience = if snapshot.is_some() { API_PATIENCE } else { Duration::MAX };
        if let Ok(ready) = tokio::time::timeout(patience, stores.ready()).await {
            return ready;
        }
        if let Some(snapshot) = snapshot {
            tracing::warn!("the API server does not answer: going on from what was known before the restart");
            views.send_replace(Some(Arc::new(snapshot.view(&settings, &links.borrow()))));
        }
        stores.ready().await
    };
    match shutdown.run_until_cancelled(ready).await {
        Some(ready) => ready?,
        None => return Ok(()),
    }
    loop {
        let begun = tokio::time::Instant::now();
        let now_links = links.borrow_and_update().clone();
        let previous = views.borrow().clone();
        let (view, found) =
            tokio::task::block_in_place(|| stores.cached().view(&settings, &now_links, previous.as_deref()));
        findings.send_if_modified(|known| {
            let changed = *known != found;
            *known = found;
            changed
        });
        if previous.as_deref() != Some(&view) {
            views.send_replace(Some(Arc::new(view)));
        }
        // In a large cluster, where making it takes long, at most a third of a processor goes into it.
        let pause = SETTLE.max(begun.elapsed() * 2);
        let next = async {
            tokio::select! {
                () = changed.notified() => {}
                result = links.changed() => if result.is_err() { std::future::pending().await },
            }
            tokio::time::sleep(pause).await;
        };
        if shutdown.run_until_cancelled(next).await.is_none() {
            return Ok(());
        }
    }
}

struct Start<'a> {
    tasks: &'a mut Tasks,
    changed: &'a Arc<Notify>,
    shutdown: &'a CancellationToken,
}

impl Start<'_> {
    /// Watches into a store of slimmed objects, and tells of a change only where the slimmed object differs:
    /// nodes report every few minutes that they live, which is nothing to look at.
    fn watch<K>(&mut self, api: Api<K>, config: watcher::Config, slim: fn(&mut K)) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned,
        K: std::fmt::Debug + Send + Sync + 'static,
    {
        let changed = Arc::clone(self.changed);
        let mut known: HashMap<(Option<String>, String), u64> = HashMap::new();
        reflect_slim(self.tasks, api, config, self.shutdown.clone(), slim, move |change| {
            let differs = match change {
                Change::Applied(object) => {
                    let print = fingerprint(object);
                    known.insert((object.namespace(), object.name_any()), print) != Some(print)
                }
                Change::Deleted(object) => {
                    known.remove(&(object.namespace(), object.name_any()));
                    true
                }
                Change::Replaced => {
                    known.clear();
                    true
                }
            };
            if differs {
                changed.notify_one();
            }
        })
    }
}

fn fingerprint<K: Resource + Clone + Serialize>(object: &K) -> u64 {
    let mut object = object.clone();
    object.meta_mut().resource_version = None;
    object.meta_mut().generation = None;
    let mut hasher = DefaultHasher::new();
    serde_json::to_vec(&object).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

/// Type, class and traffic policy, the addresses, the labels, and whether it shares.
fn slim_service(service: &mut Service) {
    service.metadata.finalizers = None;
    service.metadata.owner_references = None;
    if let Some(annotations) = &mut service.metadata.annotations {
        annotations.retain(|key, _| key.ends_with(ALLOW_SHARED_IP));
    }
    let spec = service.spec.take().unwrap_or_default();
    service.spec = Some(ServiceSpec {
        type_: spec.type_,
        load_balancer_class: spec.load_balancer_class,
        external_traffic_policy: spec.external_traffic_policy,
        ..ServiceSpec::default()
    });
    if let Some(status) = &mut service.status {
        status.conditions = None;
    }
}

/// Only whether and where endpoints serve.
fn slim_slice(slice: &mut EndpointSlice) {
    slice.metadata.owner_references = None;
    slice.metadata.annotations = None;
    slice.ports = None;
    for endpoint in &mut slice.endpoints {
        *endpoint = Endpoint {
            conditions: endpoint.conditions.take(),
            node_name: endpoint.node_name.take(),
            ..Endpoint::default()
        };
    }
}

/// Labels, whether it is cordoned, and two conditions without their heartbeats.
fn slim_node(node: &mut Node) {
    node.metadata.annotations = None;
    let unschedulable = node.spec.take().and_then(|spec| spec.unschedulable);
    node.spec = Some(NodeSpec { unschedulable, ..NodeSpec::default() });
    let conditions = node.status.take().and_then(|status| status.conditions).unwrap_or_default();
    let conditions = conditions
        .into_iter()
        .filter(|condition| matches!(condition.type_.as_str(), "Ready" | "NetworkUnavailable"))
        .map(|c| NodeCondition { type_: c.type_, status: c.status, ..NodeCondition::default() });
    node.status = Some(NodeStatus { conditions: Some(conditions.collect()), ..NodeStatus::default() });
}

/// Where it runs, its address, whether it is ready, and who owns it.
fn slim_pod(pod: &mut Pod) {
    pod.metadata.annotations = None;
    let node_name = pod.spec.take().and_then(|spec| spec.node_name);
    pod.spec = Some(PodSpec { node_name, ..PodSpec::default() });
    let status = pod.status.take().unwrap_or_default();
    let conditions = status.conditions.map(|mut conditions| {
        conditions.retain(|condition| condition.type_ == "Ready");
        for condition in &mut conditions {
            condition.last_probe_time = None;
            condition.last_transition_time = None;
            condition.message = None;
            condition.reason = None;
        }
        conditions
    });
    pod.status = Some(PodStatus { conditions, pod_ip: status.pod_ip, ..PodStatus::default() });
}
