//! The task that owns the allocator.
//!
//! ```text
//!   stand by ──Lease won──► catch up, list, restore ──► lead ──Lease lost──► stand by
//! ```
//!
//! While it leads, its inputs are changes from the watches and results of writes. The allocator decides, and
//! each Service whose status is not up to date gets one write at a time. An address is free only after a
//! write or the watch confirms that it was removed, see [`ipam::Allocator`].

mod configure;
mod effective_policies;
mod service_cache;
mod services;
mod writes;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crds::{IPAddressPool, ServiceKey};
use ipam::Allocator;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use rules::{Finding, Objects, Severity};
use runtime::admin::Gate;
use runtime::client::CallError;
use runtime::events::Events;
use runtime::heartbeat::Heartbeat;
use runtime::lease::Leadership;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use self::configure::ConfigurationHistory;
#[cfg(test)]
pub(crate) use self::configure::api_version;
use self::configure::status_object;
use self::service_cache::ServiceCache;
use self::services::ServiceList;
use self::writes::{InFlight, Writes};
use crate::contention::Contention;
use crate::metrics::{Metrics, Snapshot};
use crate::pool_stats::{PoolStats, pool_stats};
use crate::service::{self, DesiredStatus, NewEvent};
use crate::statuses::{self, StatusSources, StatusWriter};
use crate::watches::{Conflict, Watches};

/// How long a new replica waits for the Lease before it is ready as a standby.
const FIRST_ELECTION: Duration = Duration::from_secs(1);

/// How long a term waits for the addresses of the nodes, and for the first lists of kinds that only statuses
/// depend on.
const OPTIONAL_SYNC_TIMEOUT: Duration = Duration::from_secs(5);

/// Delay after a failed list at the start of a term.
const LIST_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Delay of the event that there is no pool for a Service: both are often created by one `kubectl apply`.
const MISSING_POOL_EVENT_DELAY: Duration = Duration::from_secs(2);

/// Delay between a change and the statistics that show it: a burst of changes is counted once.
const PUBLISH_DELAY: Duration = Duration::from_millis(250);

/// The task that owns the allocator, with everything that outlives a term.
pub(crate) struct AllocatorTask {
    pub(crate) client: Client,
    /// The class of the Services that it serves; empty: Services without a class.
    pub(crate) class: String,
    pub(crate) watches: Watches,
    pub(crate) leadership: Leadership,
    pub(crate) events: Events,
    pub(crate) metrics: Metrics,
    /// Opened once this replica is standby, or leads and has restored the existing Services.
    pub(crate) ready: Gate,
    /// Timeout of a write.
    pub(crate) write_timeout: Duration,
    /// Interval at which the warning of a waiting Service is repeated.
    pub(crate) repeat_interval: Duration,
    /// Signals progress.
    pub(crate) heartbeat: Heartbeat,
    /// Earlier versions of the configuration.
    pub(crate) history: Mutex<ConfigurationHistory>,
}

/// Waits until the stores have caught up with the API.
type CatchUp = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The state while this replica leads.
struct Term<'a> {
    task: &'a AllocatorTask,
    allocator: Allocator,
    services: ServiceCache,
    writes: Writes,
    statuses: StatusWriter,
    /// Reversals of Service statuses by other writers.
    contention: Contention<ServiceKey, DesiredStatus>,
    /// Messages for Services whose status another writer repeatedly overwrites.
    contested: HashMap<ServiceKey, String>,
    /// Services without a pool, with when to send the event if that is still true.
    delayed_events: BTreeSet<(Instant, ServiceKey)>,
    /// Set while edited pools wait until the stores have caught up.
    catch_up: Option<CatchUp>,
    /// The pools for which that was started.
    checked_pools: Vec<Arc<IPAddressPool>>,
    /// Whether the kinds that only statuses depend on have their first lists, or are no longer waited for.
    optional_synced: bool,
    /// The objects that were validated last; the stores may have newer ones.
    objects: Objects,
    findings: Vec<Finding>,
    /// Names of the pools that cannot be decoded.
    undecodable_pools: BTreeSet<String>,
    conflicts: BTreeMap<IpAddr, Conflict>,
}

impl AllocatorTask {
    /// Stands by and leads in turn, until `shutdown`. No write is pending when this returns.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), Infallible> {
        if shutdown.run_until_cancelled(self.watches.synced()).await.is_some() {
            self.run_terms(&shutdown).await;
        }
        Ok(())
    }

    async fn run_terms(&self, shutdown: &CancellationToken) {
        let mut leadership = self.leadership.clone();
        let in_flight = InFlight::default();
        self.publish_standby();
        let first =
            shutdown.run_until_cancelled(tokio::time::timeout(FIRST_ELECTION, leadership.wait_acquired()));
        if first.await.is_some_and(|elected| elected.is_err()) {
            // A standby replica is ready: it could take over at once.
            self.ready.open();
        }
        loop {
            if shutdown.run_until_cancelled(self.stand_by(&mut leadership)).await.is_none() {
                return;
            }
            tokio::select! {
                biased;
                () = leadership.wait_lost() => {}
                () = self.lead(&in_flight, shutdown) => return,
            }
            self.publish_standby();
        }
    }

    fn publish_standby(&self) {
        self.heartbeat.rest();
        self.metrics.publish(|snapshot| *snapshot = Snapshot::standing_by());
    }

    /// Waits for the Lease, and updates the history of the configuration meanwhile. Other changes are read
    /// from the stores later.
    async fn stand_by(&self, leadership: &mut Leadership) {
        let mut won = std::pin::pin!(leadership.wait_acquired());
        loop {
            self.history().build(&self.watches.objects(), Timestamp::now());
            tokio::select! {
                biased;
                () = &mut won => return,
                () = self.configuration_changed() => {}
            }
        }
    }

    async fn configuration_changed(&self) {
        loop {
            self.watches.work_queue.changed().await;
            if self.watches.work_queue.take().configuration {
                return;
            }
        }
    }

    /// Leads until `shutdown`, then waits for the pending writes.
    async fn lead(&self, in_flight: &InFlight, shutdown: &CancellationToken) {
        // A replica that cannot begin within the duration of the Lease releases it.
        self.heartbeat.beat();
        // Changes from here on are processed after the list.
        self.watches.work_queue.take();
        let Some(listed) = shutdown.run_until_cancelled(self.relist()).await else { return };
        let mut term = Term::new(self, in_flight);
        term.configure();
        term.restore(listed);
        self.ready.open();
        shutdown.run_until_cancelled(term.run()).await;
        self.heartbeat.rest();
        term.finish_writes().await;
    }

    /// Lists all Services from the API server, to include the last writes of another leader, after the stores
    /// have the configuration that that leader used.
    async fn relist(&self) -> ServiceList {
        if tokio::time::timeout(OPTIONAL_SYNC_TIMEOUT, self.watches.nodes_synced()).await.is_err() {
            tracing::warn!(
                "the nodes cannot be listed: their addresses may be assigned if a pool contains them"
            );
        }
        self.heartbeat.beat();
        loop {
            match self.try_relist().await {
                Ok(listed) => return listed,
                Err(error) => {
                    tracing::warn!(%error, "cannot list the API, so no address is assigned yet; will retry");
                    tokio::time::sleep(LIST_RETRY_INTERVAL).await;
                }
            }
        }
    }

    async fn try_relist(&self) -> Result<ServiceList, CallError> {
        self.watches.catch_up(&self.client).await?;
        ServiceList::from_api(self).await
    }

    fn history(&self) -> MutexGuard<'_, ConfigurationHistory> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Term<'a> {
    fn new(task: &'a AllocatorTask, in_flight: &InFlight) -> Self {
        let AllocatorTask { client, leadership, write_timeout, .. } = task;
        Self {
            task,
            allocator: Allocator::new(),
            services: ServiceCache::new(task.watches.services.clone()),
            writes: Writes::new(
                client.clone(),
                leadership.clone(),
                task.metrics.clone(),
                *write_timeout,
                in_flight.clone(),
            ),
            statuses: StatusWriter::new(client.clone(), leadership.clone(), *write_timeout),
            contention: Contention::default(),
            contested: HashMap::new(),
            delayed_events: BTreeSet::new(),
            catch_up: None,
            checked_pools: Vec::new(),
            optional_synced: false,
            objects: Objects::default(),
            findings: Vec::new(),
            undecodable_pools: BTreeSet::new(),
            conflicts: BTreeMap::new(),
        }
    }

    async fn run(&mut self) -> Infallible {
        let mut publish_at = Some(Instant::now());
        let every = self.task.repeat_interval;
        let mut repeat = tokio::time::interval_at(Instant::now() + every, every);
        let watches = self.task.watches.clone();
        let mut optional_synced =
            std::pin::pin!(tokio::time::timeout(OPTIONAL_SYNC_TIMEOUT, watches.optional_synced()));
        let mut reports = watches.status().subscribe();
        loop {
            self.task.heartbeat.beat();
            self.writes.start_queued();
            if self.writes.is_busy() {
                self.task.events.throttle();
            }
            if publish_at.is_some_and(|due| Instant::now() >= due) {
                publish_at = self.publish();
            }
            let delayed = self.delayed_events.first().map(|(at, _)| *at);
            let deadlines = [
                self.grace_deadline(),
                self.writes.next_retry(),
                self.contention.next(),
                publish_at,
                delayed,
            ];
            let deadline = deadlines.into_iter().flatten().min();
            self.task.heartbeat.rest();
            tokio::select! {
                () = self.task.watches.work_queue.changed() => {
                    let pending = self.task.watches.work_queue.take();
                    self.drain(pending);
                }
                completion = self.writes.next_completion() => self.on_write_done(completion),
                contested = self.statuses.next_completion() => self.report_contested(contested),
                () = caught_up(&mut self.catch_up) => {
                    self.catch_up = None;
                    self.reconfigure();
                }
                _ = &mut optional_synced, if !self.optional_synced => self.optional_synced = true,
                // An object cannot be decoded, or can again.
                _ = reports.changed() => self.reconfigure_undecodable(),
                () = sleep_until(deadline) => self.handle_timeout(),
                _ = repeat.tick() => self.repeat_warnings(),
            }
            self.task.heartbeat.beat();
            self.process_due();
            for key in self.allocator.take_changed() {
                self.enqueue_write(&key);
            }
            // A status that waits for its backoff must not delay the others.
            let soon = Instant::now() + PUBLISH_DELAY;
            publish_at = Some(publish_at.map_or(soon, |due| due.min(soon)));
        }
    }

    /// Handles retries and deadlines that are due.
    fn process_due(&mut self) {
        self.emit_delayed(Instant::now());
        for (key, verify) in self.writes.due_retries() {
            if verify {
                self.writes.verify(&key);
            } else {
                self.enqueue_write(&key);
            }
        }
        for key in self.contention.due(Instant::now()) {
            self.enqueue_write(&key);
        }
    }

    /// Waits for the pending writes, each of which has a timeout.
    async fn finish_writes(&mut self) {
        while self.writes.is_busy() {
            // The next leader reads the result from the API.
            let _ = self.writes.next_completion().await;
        }
    }

    /// Sends the event that another writer repeatedly overwrites the status of an object.
    fn report_contested(&self, contested: Option<statuses::Contested>) {
        let Some(statuses::Contested { kind, name, message }) = contested else { return };
        let object = status_object(&kind, &name, &self.task.watches);
        Self::emit(&self.task.events, &object, vec![service::contested_event(&message)]);
    }

    /// Publishes metrics, and starts a round of statuses if one is due. Returns when to call this again.
    fn publish(&mut self) -> Option<Instant> {
        let stats = pool_stats(&mut self.allocator);
        let mut again = self.statuses.next_round();
        if again.is_none() && self.optional_synced {
            let due = self.due_statuses(&stats);
            again = self.statuses.start_round(due);
        }
        let refused = self.allocator.refusal_counts();
        let errors = self.findings.iter().filter(|finding| finding.severity == Severity::Error).count();
        self.task.metrics.publish(|snapshot| {
            *snapshot = Snapshot { pools: stats, refused, leading: true, loaded: true, errors };
        });
        again
    }

    /// The writes of all statuses that are not up to date.
    fn due_statuses(&self, stats: &BTreeMap<String, PoolStats>) -> Vec<statuses::StatusWrite> {
        let watches = &self.task.watches;
        let state = watches.state();
        let sources = StatusSources {
            namespace: &watches.namespace,
            objects: &self.objects,
            configuration: self.allocator.configuration(),
            findings: &self.findings,
            undecodable: &watches.status().undecodable(),
            stats,
            conflicts: &self.conflicts,
            state: state.as_deref(),
            now: Time(Timestamp::now()),
        };
        sources.writes()
    }

    /// When [`Self::handle_timeout`] must be called next, on the clock of the runtime.
    fn grace_deadline(&self) -> Option<Instant> {
        let deadlines = [self.allocator.next_deadline(), self.task.history().next_deadline()];
        let left = deadlines.into_iter().flatten().min()?.duration_since(Timestamp::now());
        Some(Instant::now() + Duration::try_from(left).unwrap_or_default())
    }

    fn handle_timeout(&mut self) {
        let now = Timestamp::now();
        if self.task.history().next_deadline().is_some_and(|deadline| deadline <= now) {
            self.reconfigure();
        }
        self.allocator.handle_timeout(now);
    }

    /// Logs and sends events about `object`.
    fn emit(recorder: &Events, object: &ObjectReference, events: Vec<NewEvent>) {
        let (kind, name) = (object.kind.as_deref(), object.name.as_deref());
        for event in events {
            if event.warning {
                tracing::warn!(
                    kind,
                    namespace = object.namespace,
                    name,
                    reason = event.reason,
                    "{}",
                    event.message
                );
                recorder.warning(object, "Assign", event.reason, event.message);
            } else {
                tracing::info!(
                    kind,
                    namespace = object.namespace,
                    name,
                    reason = event.reason,
                    "{}",
                    event.message
                );
                recorder.normal(object, "Assign", event.reason, event.message);
            }
        }
    }
}

async fn caught_up(catch_up: &mut Option<CatchUp>) {
    match catch_up {
        Some(catch_up) => catch_up.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
