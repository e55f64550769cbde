//! What the speaker reads of the API, and the view that it makes of it.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use announce::facts::{Facts, NodeFacts, PodFacts, ServiceFacts, SliceFacts, StatusFacts};
use announce::link::{Link, LinkFacts};
use announce::view::{Maker, NodeName, Settings, View};
use crds::names::{APP, LABEL_APP, LABEL_COMPONENT, LABEL_COMPONENT_TYPE, SPEAKER};
use crds::{
    AddressConflict, ConfigurationState, IPAddressPool, L2Advertisement, ResourceExt as _, ServiceKey,
    SpeakerState,
};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use rules::{Configuration, Finding, LastValid};
use runtime::cache::{Cache, watch_projected};
use runtime::reflect::WatchEnded;
use runtime::tasks::Tasks;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::links::OtherAddresses;
use crate::pace::Pace;
use crate::snapshot::Snapshot;
use crate::status::last_announced::Epochs;
use crate::status::{configuration_state, speaker_state};

/// How long after its start a speaker waits for the API server, if it knows what was before.
const API_PATIENCE: Duration = Duration::from_secs(2);

/// How long a speaker waits at its start for what other speakers report of their nodes.
const STATES_PATIENCE: Duration = Duration::from_secs(1);

/// Whose eyes these are, as far as it decides what is kept.
pub(crate) struct Viewer {
    /// Where the stack is.
    pub(crate) namespace: String,
    /// This node.
    pub(crate) node: NodeName,
    /// The pod of this process, if it is known.
    pub(crate) pod: Option<String>,
    /// The class of Services that are ours; none means those without a class.
    pub(crate) class: Option<String>,
}

/// What is kept of the objects.
#[derive(Clone)]
pub(crate) struct Stores {
    pub(crate) services: Cache<ServiceFacts>,
    slices: Cache<SliceFacts>,
    pub(crate) nodes: Cache<NodeFacts>,
    pub(crate) pods: Cache<SpeakerPod>,
    pools: Cache<IPAddressPool>,
    l2_advertisements: Cache<L2Advertisement>,
    pub(crate) statuses: Cache<StatusFacts>,
    pub(crate) states: Cache<Reported<SpeakerState>>,
    pub(crate) configurations: Cache<Reported<ConfigurationState>>,
    pub(crate) conflicts: Cache<AddressConflict>,
    last_valid: Arc<Mutex<LastValid>>,
}

/// A pod of the speaker.
#[derive(PartialEq)]
pub(crate) struct SpeakerPod {
    facts: Arc<PodFacts>,
    /// Of our own pod: the DaemonSet that it belongs to.
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

/// What a speaker reports of its node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeReport {
    /// The node.
    pub(crate) node: Option<NodeName>,
    /// Its links.
    pub(crate) links: Option<Vec<LinkFacts>>,
    /// Its addresses on other links.
    pub(crate) other_addresses: OtherAddresses,
    /// Who announced each Service last that nobody announces now, as far as this speaker knows.
    pub(crate) last_announced: Epochs,
}

impl Stores {
    /// Starts the watches; `before` is what an earlier process has known. `changed` is notified of everything that could
    /// matter.
    pub(crate) fn start(
        tasks: &mut Tasks,
        client: &Client,
        viewer: Viewer,
        before: Option<&Known>,
        changed: &Arc<Notify>,
        shutdown: &CancellationToken,
    ) -> Self {
        // Out of the API server's cache: thousands of speakers that start at once must not all go to etcd, and a watch
        // follows anyway.
        let all = || watcher::Config::default().any_semantic();
        let speakers = format!("{LABEL_APP}={APP},{LABEL_COMPONENT}={SPEAKER}");
        let balanced = all().fields("spec.type=LoadBalancer");
        // Slices of headless Services cannot be those of a load-balanced one.
        let of_services = all().labels("kubernetes.io/service-name,!service.kubernetes.io/headless");
        let of_speakers = all().labels(&format!("{LABEL_COMPONENT_TYPE}={SPEAKER}"));
        let Viewer { namespace, node, pod, class } = viewer;
        let me = node.clone();
        // No view is made of these.
        let of = |object: AddressConflict| Some(bare(object));
        let api = Api::namespaced(client.clone(), &namespace);
        let conflicts = watch_projected(tasks, api, all(), shutdown.clone(), of, always, || {});
        let mut start = Start { tasks, changed, shutdown };
        let service = move |service: Service| ServiceFacts::of(service, class.as_deref());
        let pool = |pool: IPAddressPool| Some(rules::without_usage(pool));
        let advertisement = |object: L2Advertisement| Some(bare(object));
        let pod = move |object| speaker_pod(object, pod.as_deref());
        let status = move |status| StatusFacts::of(status, &me);
        let state_name = speaker_state::name(&node);
        let state = move |object| Some(reported(object, &state_name, speaker_state::report));
        let configuration_name = configuration_state::name(&node);
        let configuration =
            move |object| Some(reported(object, &configuration_name, configuration_state::legacy_report));
        let services: Cache<ServiceFacts> = start.watch(Api::all(client.clone()), balanced, service, always);
        let known = services.clone();
        let ours = move |before: Option<&SliceFacts>, now: Option<&SliceFacts>| {
            concerns(before, now, |service| known.contains(&service.to_string()))
        };
        let namespaced = || client.clone();
        let stores = Self {
            services,
            slices: start.watch(Api::all(client.clone()), of_services, SliceFacts::of, ours),
            nodes: start.watch(Api::all(client.clone()), all(), NodeFacts::of, always),
            pods: start.watch(
                Api::namespaced(namespaced(), &namespace),
                all().labels(&speakers),
                pod,
                differ(|pod: &SpeakerPod| Arc::clone(&pod.facts)),
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
                differ(|status: &StatusFacts| (status.service.clone(), status.node.clone(), status.epoch)),
            ),
            states: start.watch(
                Api::namespaced(namespaced(), &namespace),
                all(),
                state,
                differ(|state: &Reported<SpeakerState>| state.report.clone()),
            ),
            configurations: start.watch(
                Api::namespaced(namespaced(), &namespace),
                of_speakers,
                configuration,
                differ(|state: &Reported<ConfigurationState>| state.report.clone()),
            ),
            conflicts,
            last_valid: Arc::default(),
        };
        if let Some(before) = before {
            stores.pools.recall(&before.pools);
            stores.l2_advertisements.recall(&before.l2_advertisements);
        }
        stores
    }

    /// Waits for the first lists.
    pub(crate) async fn ready(&self) -> Result<(), WatchEnded> {
        self.services.wait_synced().await?;
        self.slices.wait_synced().await?;
        self.nodes.wait_synced().await?;
        self.pods.wait_synced().await?;
        self.pools.wait_synced().await?;
        self.l2_advertisements.wait_synced().await?;
        self.statuses.wait_synced().await?;
        // They say which nodes are on the subnet of an address. Without them it is announced all the same.
        match tokio::time::timeout(STATES_PATIENCE, self.reports_ready()).await {
            Ok(Err(WatchEnded)) => Err(WatchEnded),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    /// Waits for the first lists of what speakers report of their nodes.
    pub(crate) async fn reports_ready(&self) -> Result<(), WatchEnded> {
        self.states.wait_synced().await?;
        self.configurations.wait_synced().await
    }

    /// Whether what speakers report of their nodes is known.
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

    /// What is reported of `node`.
    pub(crate) fn report(&self, node: &NodeName) -> Option<NodeReport> {
        self.reports().into_iter().find(|report| report.node.as_ref() == Some(node))
    }

    /// What speakers report of their nodes, those of earlier releases in annotations.
    fn reports(&self) -> Vec<NodeReport> {
        let states: Vec<NodeReport> = self.states.all().iter().map(|state| state.report.clone()).collect();
        let known: HashSet<NodeName> = states.iter().filter_map(|report| report.node.clone()).collect();
        let legacy = self.configurations.all();
        let legacy = legacy.iter().map(|state| &state.report);
        let legacy = legacy.filter(|report| report.node.as_ref().is_some_and(|node| !known.contains(node)));
        let legacy: Vec<NodeReport> = legacy.cloned().collect();
        states.into_iter().chain(legacy).collect()
    }

    /// What speakers remember of who announced Services that nobody announces now.
    pub(crate) fn remembered(&self) -> Vec<Arc<StatusFacts>> {
        self.reports().iter().flat_map(|report| report.last_announced.statuses()).collect()
    }

    /// What there is now.
    pub(crate) fn known(&self) -> Known {
        // Before the states themselves, so that it never says more than these do.
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
        Known {
            facts: Facts {
                services: self.services.all(),
                slices: self.slices.all(),
                nodes: self.nodes.all(),
                pods: self.pods.all().iter().map(|pod| Arc::clone(&pod.facts)).collect(),
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

    fn last_valid(&self) -> MutexGuard<'_, LastValid> {
        self.last_valid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a view is made of.
#[derive(Serialize, Deserialize)]
pub(crate) struct Known {
    facts: Facts,
    pools: Vec<Arc<IPAddressPool>>,
    l2_advertisements: Vec<Arc<L2Advertisement>>,
    /// What stays in force where one of these has an error.
    #[serde(default)]
    pub(crate) last_valid: LastValid,
}

impl Known {
    /// The view, if there is none before it.
    pub(crate) fn view(mut self, settings: &Settings, links: &[Link]) -> Arc<View> {
        let mut last_valid = std::mem::take(&mut self.last_valid);
        let mut validated = Validated::default();
        validated.update(&mut last_valid, &self);
        self.view_by(&mut Maker::new(settings.clone(), None), links, &validated.configuration)
    }

    /// The same without the endpoints of Services that are not ours.
    pub(crate) fn of_our_services(mut self) -> Self {
        let ours: HashSet<&ServiceKey> = self.facts.services.iter().map(|service| &*service.key).collect();
        self.facts.slices.retain(|slice| ours.contains(&slice.service));
        self
    }

    fn view_by(mut self, maker: &mut Maker, links: &[Link], configuration: &Configuration) -> Arc<View> {
        self.facts.own_links = Some(links.iter().map(LinkFacts::from).collect());
        maker.make(self.facts, configuration)
    }
}

/// The configuration, validated when an object of it has changed.
#[derive(Default)]
struct Validated {
    pools: Vec<Arc<IPAddressPool>>,
    l2_advertisements: Vec<Arc<L2Advertisement>>,
    configuration: Configuration,
    findings: Vec<Finding>,
}

impl Validated {
    fn update(&mut self, last_valid: &mut LastValid, known: &Known) {
        if self.pools == known.pools && self.l2_advertisements == known.l2_advertisements {
            return;
        }
        self.pools.clone_from(&known.pools);
        self.l2_advertisements.clone_from(&known.l2_advertisements);
        let configured = rules::Objects {
            pools: known.pools.clone(),
            l2_advertisements: known.l2_advertisements.clone(),
            ..rules::Objects::default()
        };
        (self.configuration, self.findings) = last_valid.configure(&configured);
    }
}

/// Where views and findings go.
pub(crate) struct Outlet {
    pub(crate) views: watch::Sender<Option<Arc<View>>>,
    pub(crate) findings: watch::Sender<Vec<Finding>>,
}

/// Makes the view anew whenever something changed, and hands it on if it differs.
pub(crate) async fn keep_view(
    stores: Stores,
    settings: Settings,
    snapshot: Option<Snapshot>,
    mut links: watch::Receiver<Vec<Link>>,
    outlet: Outlet,
    changed: Arc<Notify>,
    shutdown: CancellationToken,
) -> Result<(), WatchEnded> {
    let Outlet { views, findings } = outlet;
    if let Some(snapshot) = &snapshot {
        *stores.last_valid() = snapshot.last_valid();
    }
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
    let (mut pace, mut validated) = (Pace::new(Instant::now()), Validated::default());
    let mut maker = Maker::new(settings, views.borrow().clone());
    loop {
        let begun = Instant::now();
        let now_links = links.borrow_and_update().clone();
        let view = tokio::task::block_in_place(|| {
            let known = stores.known();
            validated.update(&mut stores.last_valid(), &known);
            known.view_by(&mut maker, &now_links, &validated.configuration)
        });
        findings.send_if_modified(|known| {
            let changed = *known != validated.findings;
            known.clone_from(&validated.findings);
            changed
        });
        views.send_if_modified(|known| {
            let changed = known.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &view));
            *known = Some(view);
            changed
        });
        let pause = pace.spent(begun, Instant::now());
        if shutdown.run_until_cancelled(next_change(&changed, &mut links, pause)).await.is_none() {
            return Ok(());
        }
    }
}

/// Waits for a change, and gathers those that come in a `pause` after it. That of a link waits as long as others: anybody on
/// it can make one by a router advertisement.
async fn next_change(changed: &Notify, links: &mut watch::Receiver<Vec<Link>>, pause: Duration) {
    tokio::select! {
        () = changed.notified() => {}
        Ok(()) = links.changed() => {}
    }
    tokio::time::sleep(pause).await;
}

/// Every change matters.
fn always<F>(_: Option<&F>, _: Option<&F>) -> bool {
    true
}

/// A change matters if it is one of what `part` takes of it.
fn differ<F, P: PartialEq>(
    part: impl Fn(&F) -> P + Send + 'static,
) -> impl Fn(Option<&F>, Option<&F>) -> bool + Send + 'static {
    move |before, now| before.map(&part) != now.map(&part)
}

/// Whether a change of a slice is about one of `ours`: it may leave one Service and come to another.
fn concerns(
    before: Option<&SliceFacts>,
    now: Option<&SliceFacts>,
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
    /// Watches, and notifies of what is kept and has changed in a way that matters.
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

/// The whole object, but for the version that each write makes another.
fn bare<K: Resource>(mut object: K) -> K {
    object.meta_mut().resource_version = None;
    object
}

fn speaker_pod(pod: Pod, mine: Option<&str>) -> Option<SpeakerPod> {
    let facts = Arc::new(PodFacts::of(&pod)?);
    let is_mine = mine.is_some() && pod.metadata.name.as_deref() == mine;
    let owners = pod.metadata.owner_references.filter(|_| is_mine).unwrap_or_default();
    let daemon_set = owners.into_iter().find(|owner| owner.kind == "DaemonSet");
    Some(SpeakerPod { facts, daemon_set })
}

/// What an object reports, and the object itself if it has the name of this node's.
fn reported<K: Resource + Clone>(object: K, mine: &str, report: impl Fn(&K) -> NodeReport) -> Reported<K> {
    let (name, report) = (object.name_any(), report(&object));
    Reported { mine: (name == mine).then(|| bare(object)), name, report }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requirement_6_links_that_change_without_end_make_no_more_views_than_objects_that_do() {
        let (links, mut receiver) = watch::channel(Vec::new());
        let changed = Notify::new();
        let (begun, pause) = (tokio::time::Instant::now(), Duration::from_secs(3));
        for change in 1..=5 {
            links.send_replace(Vec::new());
            if change % 2 == 0 {
                changed.notify_one();
            }
            next_change(&changed, &mut receiver, pause).await;
            receiver.mark_unchanged();
            assert_eq!(begun.elapsed(), pause * change);
        }
    }

    #[test]
    fn a_slice_that_leaves_one_service_and_comes_to_another_concerns_both() {
        let slice = |name: &str| SliceFacts {
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
        let matters = differ(|state: &Reported<SpeakerState>| state.report.clone());
        assert!(matters(Some(&of_node("a")), Some(&of_node("b"))));
        assert!(!matters(Some(&of_node("a")), Some(&of_node("a"))));
    }
}
