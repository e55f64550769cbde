//! The watches of the speaker, and their caches.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use announce::cluster::NodeName;
use announce::cluster::objects::{
    AnnouncementInfo, ClusterObjects, EndpointSliceInfo, NodeInfo, ServiceInfo, SpeakerPodInfo,
};
use crds::names::{APP, LABEL_APP, LABEL_COMPONENT, LABEL_COMPONENT_TYPE, SPEAKER};
use crds::{
    AddressConflict, ConfigurationState, IPAddressPool, L2Advertisement, ResourceExt as _, ServiceKey,
    SpeakerState,
};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use rules::LastValid;
use runtime::cache::{Cache, watch_projected};
use runtime::reflect::WatchEnded;
use runtime::tasks::Tasks;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::api::inputs::Inputs;
use crate::api::node_report::{self, NodeReport};

/// How long a starting speaker waits for the states of other speakers.
const STATES_TIMEOUT: Duration = Duration::from_secs(1);

/// What determines which objects are cached.
pub(crate) struct WatchConfig {
    /// Namespace of the stack.
    pub(crate) namespace: String,
    /// This node.
    pub(crate) node: NodeName,
    /// The pod of this process, if it is known.
    pub(crate) pod: Option<String>,
    /// The load balancer class of our Services; none means those without a class.
    pub(crate) class: Option<String>,
}

/// The caches of the watches.
#[derive(Clone)]
pub(crate) struct Caches {
    pub(crate) services: Cache<ServiceInfo>,
    slices: Cache<EndpointSliceInfo>,
    pub(crate) nodes: Cache<NodeInfo>,
    pub(crate) pods: Cache<SpeakerPod>,
    pools: Cache<IPAddressPool>,
    l2_advertisements: Cache<L2Advertisement>,
    pub(crate) statuses: Cache<AnnouncementInfo>,
    pub(crate) states: Cache<Reported<SpeakerState>>,
    pub(crate) configurations: Cache<Reported<ConfigurationState>>,
    pub(crate) conflicts: Cache<AddressConflict>,
    last_valid: Arc<Mutex<LastValid>>,
}

/// A pod of the speaker.
#[derive(PartialEq)]
pub(crate) struct SpeakerPod {
    info: Arc<SpeakerPodInfo>,
    /// For our own pod: the DaemonSet that it belongs to.
    pub(crate) daemon_set: Option<OwnerReference>,
}

/// What a speaker reports in an object of kind `K`.
#[derive(PartialEq)]
pub(crate) struct Reported<K> {
    /// Name of the object.
    pub(crate) name: String,
    /// What it says.
    pub(crate) report: NodeReport,
    /// The object, if it is about this node.
    mine: Option<K>,
}

impl Caches {
    /// Starts the watches; `before` is the state of an earlier process. `changed` is notified of all changes
    /// that could affect the view.
    pub(crate) fn start(
        tasks: &mut Tasks,
        client: &Client,
        watch_config: WatchConfig,
        before: Option<&Inputs>,
        changed: &Arc<Notify>,
        shutdown: &CancellationToken,
    ) -> Self {
        // From the API server's cache: thousands of speakers that start at once must not all read from etcd,
        // and a watch follows anyway.
        let all = || watcher::Config::default().any_semantic();
        let speakers = format!("{LABEL_APP}={APP},{LABEL_COMPONENT}={SPEAKER}");
        let balanced = all().fields("spec.type=LoadBalancer");
        // Slices of headless Services cannot belong to a load-balanced one.
        let of_services = all().labels("kubernetes.io/service-name,!service.kubernetes.io/headless");
        let of_speakers = all().labels(&format!("{LABEL_COMPONENT_TYPE}={SPEAKER}"));
        let WatchConfig { namespace, node, pod, class } = watch_config;
        let me = node.clone();
        // The view does not depend on these.
        let of = |object: AddressConflict| Some(without_resource_version(object));
        let api = Api::namespaced(client.clone(), &namespace);
        let conflicts = watch_projected(tasks, api, all(), shutdown.clone(), of, always, || {});
        let mut start = Start { tasks, changed, shutdown };
        let service = move |service: Service| ServiceInfo::from_service(service, class.as_deref());
        let pool = |pool: IPAddressPool| Some(rules::without_usage(pool));
        let advertisement = |object: L2Advertisement| Some(without_resource_version(object));
        let pod = move |object| speaker_pod(object, pod.as_deref());
        let status = move |status| AnnouncementInfo::from_status(status, &me);
        let state_name = node_report::speaker_state_name(&node);
        let state = move |object| Some(reported(object, &state_name, NodeReport::from_speaker_state));
        let configuration_name = node_report::configuration_state_name(&node);
        let configuration =
            move |object| Some(reported(object, &configuration_name, NodeReport::from_annotations));
        let services: Cache<ServiceInfo> = start.watch(Api::all(client.clone()), balanced, service, always);
        let known = services.clone();
        let ours = move |before: Option<&EndpointSliceInfo>, now: Option<&EndpointSliceInfo>| {
            concerns(before, now, |service| known.contains(&service.to_string()))
        };
        let namespaced = || client.clone();
        let caches = Self {
            services,
            slices: start.watch(Api::all(client.clone()), of_services, EndpointSliceInfo::from_slice, ours),
            nodes: start.watch(Api::all(client.clone()), all(), NodeInfo::from_node, always),
            pods: start.watch(
                Api::namespaced(namespaced(), &namespace),
                all().labels(&speakers),
                pod,
                changed_in(|pod: &SpeakerPod| Arc::clone(&pod.info)),
            ),
            pools: start.watch(Api::namespaced(namespaced(), &namespace), all(), pool, always),
            l2_advertisements: start.watch(
                Api::namespaced(namespaced(), &namespace),
                all(),
                advertisement,
                always,
            ),
            statuses: start.watch(
                Api::namespaced(namespaced(), &namespace),
                all(),
                status,
                changed_in(|status: &AnnouncementInfo| {
                    (status.service.clone(), status.node.clone(), status.epoch)
                }),
            ),
            states: start.watch(
                Api::namespaced(namespaced(), &namespace),
                all(),
                state,
                changed_in(|state: &Reported<SpeakerState>| state.report.clone()),
            ),
            configurations: start.watch(
                Api::namespaced(namespaced(), &namespace),
                of_speakers,
                configuration,
                changed_in(|state: &Reported<ConfigurationState>| state.report.clone()),
            ),
            conflicts,
            last_valid: Arc::default(),
        };
        if let Some(before) = before {
            caches.pools.recall(&before.pools);
            caches.l2_advertisements.recall(&before.l2_advertisements);
        }
        caches
    }

    /// Waits until all caches are synchronised.
    pub(crate) async fn ready(&self) -> Result<(), WatchEnded> {
        self.services.wait_synced().await?;
        self.slices.wait_synced().await?;
        self.nodes.wait_synced().await?;
        self.pods.wait_synced().await?;
        self.pools.wait_synced().await?;
        self.l2_advertisements.wait_synced().await?;
        self.statuses.wait_synced().await?;
        // They show which nodes are on the subnet of an address. Addresses are announced without them too.
        match tokio::time::timeout(STATES_TIMEOUT, self.reports_ready()).await {
            Ok(Err(WatchEnded)) => Err(WatchEnded),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    /// Waits until the reports of speakers are synchronised.
    pub(crate) async fn reports_ready(&self) -> Result<(), WatchEnded> {
        self.states.wait_synced().await?;
        self.configurations.wait_synced().await
    }

    /// Whether the reports of speakers are synchronised.
    pub(crate) fn reports_listed(&self) -> bool {
        self.states.is_synced() && self.configurations.is_synced()
    }

    /// The `SpeakerState` of this node.
    pub(crate) fn speaker_state(&self) -> Option<SpeakerState> {
        self.states.all().iter().find_map(|state| state.mine.clone())
    }

    /// The `ConfigurationState` of this node's speaker.
    pub(crate) fn configuration_state(&self) -> Option<ConfigurationState> {
        self.configurations.all().iter().find_map(|state| state.mine.clone())
    }

    /// The report of `node`'s speaker.
    pub(crate) fn report(&self, node: &NodeName) -> Option<NodeReport> {
        self.reports().into_iter().find(|report| report.node.as_ref() == Some(node))
    }

    /// The reports of all speakers; those of earlier releases are in annotations.
    fn reports(&self) -> Vec<NodeReport> {
        let states: Vec<NodeReport> = self.states.all().iter().map(|state| state.report.clone()).collect();
        let known: HashSet<NodeName> = states.iter().filter_map(|report| report.node.clone()).collect();
        let legacy = self.configurations.all();
        let legacy = legacy.iter().map(|state| &state.report);
        let legacy = legacy.filter(|report| report.node.as_ref().is_some_and(|node| !known.contains(node)));
        let legacy: Vec<NodeReport> = legacy.cloned().collect();
        states.into_iter().chain(legacy).collect()
    }

    /// The last announcing nodes that speakers have stored for Services that no node announces now.
    pub(crate) fn remembered(&self) -> Vec<Arc<AnnouncementInfo>> {
        self.reports().iter().flat_map(|report| report.last_announced.statuses()).collect()
    }

    /// The current content of the caches.
    pub(crate) fn inputs(&self) -> Inputs {
        // Read before the states, so that it is never ahead of them.
        let states_listed = self.reports_listed();
        let reports = self.reports();
        let mut statuses = self.statuses.all();
        statuses.extend(reports.iter().flat_map(|report| report.last_announced.statuses()));
        let other_addresses = reports.iter().filter(|report| !report.other_addresses.is_empty());
        let other_addresses = other_addresses
            .filter_map(|report| Some((report.node.clone()?, report.other_addresses.clone())))
            .collect();
        let links = reports.iter().filter_map(|report| Some((report.node.clone()?, report.links.clone()?)));
        let links = links.collect();
        Inputs {
            objects: ClusterObjects {
                services: self.services.all(),
                slices: self.slices.all(),
                nodes: self.nodes.all(),
                pods: self.pods.all().iter().map(|pod| Arc::clone(&pod.info)).collect(),
                statuses,
                states_listed,
                other_addresses,
                links,
                own_links: None,
            },
            pools: self.pools.all(),
            l2_advertisements: self.l2_advertisements.all(),
            last_valid: self.last_valid().clone(),
        }
    }

    /// The last valid versions of configuration objects.
    pub(crate) fn last_valid(&self) -> MutexGuard<'_, LastValid> {
        self.last_valid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every change matters.
fn always<F>(_: Option<&F>, _: Option<&F>) -> bool {
    true
}

/// Only changes of what `part` returns matter.
fn changed_in<F, P: PartialEq>(
    part: impl Fn(&F) -> P + Send + 'static,
) -> impl Fn(Option<&F>, Option<&F>) -> bool + Send + 'static {
    move |before, now| before.map(&part) != now.map(&part)
}

/// Whether a change of a slice concerns one of `ours`: it may move from one Service to another.
fn concerns(
    before: Option<&EndpointSliceInfo>,
    now: Option<&EndpointSliceInfo>,
    ours: impl Fn(&ServiceKey) -> bool,
) -> bool {
    [before, now].into_iter().flatten().any(|slice| ours(&slice.service))
}

struct Start<'a> {
    tasks: &'a mut Tasks,
    changed: &'a Arc<Notify>,
    shutdown: &'a CancellationToken,
}

impl Start<'_> {
    /// Watches objects, and notifies of changes that matter.
    fn watch<K, F>(
        &mut self,
        api: Api<K>,
        config: watcher::Config,
        of: impl Fn(K) -> Option<F> + Send + 'static,
        matters: impl Fn(Option<&F>, Option<&F>) -> bool + Send + 'static,
    ) -> Cache<F>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
        F: PartialEq + Send + Sync + 'static,
    {
        let changed = Arc::clone(self.changed);
        let notify = move || changed.notify_one();
        watch_projected(self.tasks, api, config, self.shutdown.clone(), of, matters, notify)
    }
}

/// Drops the resource version, which changes with each write.
fn without_resource_version<K: Resource>(mut object: K) -> K {
    object.meta_mut().resource_version = None;
    object
}

fn speaker_pod(pod: Pod, mine: Option<&str>) -> Option<SpeakerPod> {
    let info = Arc::new(SpeakerPodInfo::from_pod(&pod)?);
    let is_mine = mine.is_some() && pod.metadata.name.as_deref() == mine;
    let owners = pod.metadata.owner_references.filter(|_| is_mine).unwrap_or_default();
    let daemon_set = owners.into_iter().find(|owner| owner.kind == "DaemonSet");
    Some(SpeakerPod { info, daemon_set })
}

/// Projects an object to its report; keeps the object itself if it is this node's.
fn reported<K: Resource + Clone>(object: K, mine: &str, report: impl Fn(&K) -> NodeReport) -> Reported<K> {
    let (name, report) = (object.name_any(), report(&object));
    Reported { mine: (name == mine).then(|| without_resource_version(object)), name, report }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_that_moves_from_one_service_to_another_concerns_both() {
        let slice = |name: &str| EndpointSliceInfo {
            service: ServiceKey { namespace: "default".into(), name: name.into() },
            nodes: Box::default(),
        };
        let (balanced, other) = (slice("web"), slice("cluster-ip"));
        let concerns = |before, now| concerns(before, now, |service| service.name == "web");
        assert!(concerns(Some(&other), Some(&balanced)), "it comes to a Service of ours");
        assert!(concerns(Some(&balanced), Some(&other)), "it leaves one");
        assert!(concerns(None, Some(&balanced)) && concerns(Some(&balanced), None));
        assert!(!concerns(Some(&other), Some(&other)) && !concerns(None, Some(&other)));
    }

    #[test]
    fn a_state_that_is_relabelled_to_another_node_makes_another_view() {
        let of_node = |node: &str| Reported::<SpeakerState> {
            name: "a".into(),
            report: NodeReport {
                node: Some(node.into()),
                other_addresses: [("10.0.0.5".parse().unwrap(), "eth1".to_owned())].into(),
                ..NodeReport::default()
            },
            mine: None,
        };
        let matters = changed_in(|state: &Reported<SpeakerState>| state.report.clone());
        assert!(matters(Some(&of_node("a")), Some(&of_node("b"))));
        assert!(!matters(Some(&of_node("a")), Some(&of_node("a"))));
    }
}
