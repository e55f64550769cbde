//! A term of leadership: the event loop over changes, results of writes and deadlines.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crds::{IPAddressPool, ServiceKey};
use ipam::Allocator;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use rules::{Finding, Objects, Severity};
use tokio::time::Instant;

use super::context::Context;
use super::emit::emit;
use super::service_cache::ServiceCache;
use super::writes::{InFlight, Writes};
use crate::conflict::Conflict;
use crate::contention::Contention;
use crate::metrics::Snapshot;
use crate::pool_stats::{PoolStats, pool_stats};
use crate::service::{self, DesiredStatus};
use crate::statuses::{self, StatusSources, StatusWriter};

/// How long a term waits for the addresses of the nodes, and for the first lists of kinds that only statuses
/// depend on.
pub(super) const OPTIONAL_SYNC_TIMEOUT: Duration = Duration::from_secs(5);

/// Delay after a failed list at the start of a term.
pub(super) const LIST_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Delay between a change and the statistics that show it: a burst of changes is counted once.
const PUBLISH_DELAY: Duration = Duration::from_millis(250);

/// Waits until the stores have caught up with the API.
pub(super) type CatchUp = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The state while this replica leads.
pub(super) struct Term<'a> {
    pub(super) context: &'a Context,
    pub(super) allocator: Allocator,
    pub(super) services: ServiceCache,
    pub(super) writes: Writes,
    pub(super) statuses: StatusWriter,
    /// Reversals of Service statuses by other writers.
    pub(super) contention: Contention<ServiceKey, DesiredStatus>,
    /// Messages for Services whose status another writer repeatedly overwrites.
    pub(super) contested: HashMap<ServiceKey, String>,
    /// Services without a pool, with when to send the event if that is still true.
    pub(super) delayed_events: BTreeSet<(Instant, ServiceKey)>,
    /// Set while edited pools wait until the stores have caught up.
    pub(super) catch_up: Option<CatchUp>,
    /// The pools for which that was started.
    pub(super) checked_pools: Vec<Arc<IPAddressPool>>,
    /// Whether the kinds that only statuses depend on have their first lists, or are no longer waited for.
    pub(super) optional_synced: bool,
    /// The objects that were validated last; the stores may have newer ones.
    pub(super) objects: Objects,
    pub(super) findings: Vec<Finding>,
    /// Names of the pools that cannot be decoded.
    pub(super) undecodable_pools: BTreeSet<String>,
    pub(super) conflicts: BTreeMap<IpAddr, Conflict>,
}

impl<'a> Term<'a> {
    pub(super) fn new(context: &'a Context, in_flight: &InFlight) -> Self {
        let Context { client, leadership, write_timeout, .. } = context;
        Self {
            context,
            allocator: Allocator::new(),
            services: ServiceCache::new(context.watches.services.clone()),
            writes: Writes::new(
                client.clone(),
                leadership.clone(),
                context.metrics.clone(),
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

    pub(super) async fn run(&mut self) -> Infallible {
        let mut publish_at = Some(Instant::now());
        let every = self.context.repeat_interval;
        let mut repeat = tokio::time::interval_at(Instant::now() + every, every);
        let watches = self.context.watches.clone();
        let mut optional_synced =
            std::pin::pin!(tokio::time::timeout(OPTIONAL_SYNC_TIMEOUT, watches.optional_synced()));
        let mut reports = watches.status().subscribe();
        loop {
            self.context.heartbeat.beat();
            self.writes.start_queued();
            if self.writes.is_busy() {
                self.context.events.throttle();
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
            self.context.heartbeat.rest();
            tokio::select! {
                () = self.context.watches.work_queue.changed() => {
                    let pending = self.context.watches.work_queue.take();
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
            self.context.heartbeat.beat();
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
    pub(super) async fn finish_writes(&mut self) {
        while self.writes.is_busy() {
            // The next leader reads the result from the API.
            let _ = self.writes.next_completion().await;
        }
    }

    /// Sends the event that another writer repeatedly overwrites the status of an object.
    fn report_contested(&self, contested: Option<statuses::Contested>) {
        let Some(statuses::Contested { kind, name, message }) = contested else { return };
        let object = self.context.watches.status_object(&kind, &name);
        emit(&self.context.events, &object, vec![service::contested_event(&message)]);
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
        self.context.metrics.publish(|snapshot| {
            *snapshot = Snapshot { pools: stats, refused, leading: true, loaded: true, errors };
        });
        again
    }

    /// The writes of all statuses that are not up to date.
    pub(super) fn due_statuses(&self, stats: &BTreeMap<String, PoolStats>) -> Vec<statuses::StatusWrite> {
        let watches = &self.context.watches;
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
    pub(super) fn grace_deadline(&self) -> Option<Instant> {
        let deadlines = [self.allocator.next_deadline(), self.context.history().next_deadline()];
        let left = deadlines.into_iter().flatten().min()?.duration_since(Timestamp::now());
        Some(Instant::now() + Duration::try_from(left).unwrap_or_default())
    }

    fn handle_timeout(&mut self) {
        let now = Timestamp::now();
        if self.context.history().next_deadline().is_some_and(|deadline| deadline <= now) {
            self.reconfigure();
        }
        self.allocator.handle_timeout(now);
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
