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
use crate::status;

/// How long after its start a speaker waits for the API server, if it knows what was before.
const API_PATIENCE: Duration = Duration::from_secs(2);

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
    pub(crate) states: Cache<SpeakerState>,
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

/// What a speaker tells of itself.
#[derive(PartialEq)]
pub(crate) struct SpeakerState {
    /// Name of the object.
    pub(crate) name: String,
    /// The node that it is about.
    pub(crate) node: Option<String>,
    /// The links of that node.
    links: Option<(NodeName, Vec<LinkFacts>)>,
    /// Its addresses on other links.
    other_addresses: OtherAddresses,
    /// Who announced each Service last that nobody announces now, as far as this speaker remembers it.
    remembered: Vec<Arc<StatusFacts>>,
    /// The object, if it is about this node.
    pub(crate) mine: Option<ConfigurationState>,
}

impl Stores {
    /// Starts the watches. `changed` is notified of everything that could matter.
    pub(crate) fn start(
        tasks: &mut Tasks,
        client: &Client,
        viewer: Viewer,
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
        let state = move |object| Some(speaker_state(object, &node));
        let services: Cache<ServiceFacts> = start.watch(Api::all(client.clone()), balanced, service, always);
        let known = services.clone();
        let ours = move |before: Option<&SliceFacts>, now: Option<&SliceFacts>| {
            concerns(before, now, |service| known.contains(&service.to_string()))
        };
        let namespaced = || client.clone();
        Self {
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
                of_speakers,
                state,
                differ(reported),
            ),
            conflicts,
            last_valid: Arc::default(),
        }
    }

    /// Waits for the first lists.
    pub(crate) async fn ready(&self) -> Result<(), WatchEnded> {
        self.services.wait_synced().await?;
        self.slices.wait_synced().await?;
        self.nodes.wait_synced().await?;
        self.pods.wait_synced().await?;
        self.pools.wait_synced().await?;
        self.l2_advertisements.wait_synced().await?;
        self.statuses.wait_synced().await
    }

    /// The object of this node.
    pub(crate) fn state(&self) -> Option<ConfigurationState> {
        self.states.all().iter().find_map(|state| state.mine.clone())
    }

    /// What speakers remember of who announced Services that nobody announces now.
    pub(crate) fn remembered(&self) -> Vec<Arc<StatusFacts>> {
        self.states.all().iter().flat_map(|state| state.remembered.iter().cloned()).collect()
    }

    /// What there is now.
    pub(crate) fn known(&self) -> Known {
        // Before the states themselves, so that it never says more than these do.
        let states_listed = self.states.is_synced();
        let states = self.states.all();
        let mut statuses = self.statuses.all();
        statuses.extend(self.remembered());
        let other_addresses = states.iter().filter(|state| !state.other_addresses.is_empty());
        let other_addresses = other_addresses
            .filter_map(|state| Some((state.node.as_deref()?.into(), state.other_addresses.clone())))
            .collect();
        Known {
            facts: Facts {
                services: self.services.all(),
                slices: self.slices.all(),
                nodes: self.nodes.all(),
                pods: self.pods.all().iter().map(|pod| Arc::clone(&pod.facts)).collect(),
                statuses,
                states_listed,
                other_addresses,
                links: states.iter().filter_map(|state| state.links.clone()).collect(),
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
        let gathered = async {
            changed.notified().await;
            tokio::time::sleep(pause).await;
        };
        let next = async {
            tokio::select! {
                () = gathered => {}
                // What this node can announce is acted on at once.
                result = links.changed() => if result.is_err() { std::future::pending().await },
            }
        };
        if shutdown.run_until_cancelled(next).await.is_none() {
            return Ok(());
        }
    }
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

/// What a view is made of, of all that a speaker tells of itself.
fn reported(state: &SpeakerState) -> impl PartialEq + use<> {
    let SpeakerState { name: _, node, links, other_addresses, remembered, mine: _ } = state;
    (node.clone(), links.clone(), other_addresses.clone(), remembered.clone())
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

fn speaker_state(object: ConfigurationState, me: &NodeName) -> SpeakerState {
    let node = status::state::node(&object).map(str::to_owned);
    SpeakerState {
        name: object.name_any(),
        links: status::state::decode(&object),
        other_addresses: status::state::other_addresses(&object),
        remembered: status::last_announced::remembered(&object),
        mine: (object.name_any() == status::state::name(me)).then(|| bare(object)),
        node,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let of_node = |node: &str| SpeakerState {
            name: "speaker-a".into(),
            node: Some(node.into()),
            links: None,
            other_addresses: [("10.0.0.5".parse().unwrap(), "eth1".to_owned())].into(),
            remembered: Vec::new(),
            mine: None,
        };
        let matters = differ(reported);
        assert!(matters(Some(&of_node("a")), Some(&of_node("b"))));
        assert!(!matters(Some(&of_node("a")), Some(&of_node("a"))));
    }
}
