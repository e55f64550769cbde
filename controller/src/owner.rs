//! The task that owns the allocator.
//!
//! ```text
//!   stand by ──Lease won──► catch up, list anew, adopt ──► lead ──Lease lost──► stand by
//! ```
//!
//! While it leads: marks of the watches and ends of writes come in, the allocator decides, and each Service whose
//! status is not what it shall be gets one write at a time. A Service's address counts as given up only when a
//! write or the watch says so, see [`ipam::Allocator`].

mod configure;
mod known;
mod policies;
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

pub(crate) use self::configure::Judge;
#[cfg(test)]
pub(crate) use self::configure::api_version;
use self::configure::status_object;
use self::known::Known;
use self::services::Listed;
use self::writes::{Unsettled, Writes};
use crate::contention::Contention;
use crate::figures::{PoolFigures, figures};
use crate::metrics::{Metrics, Snapshot};
use crate::service::{self, Note, Target};
use crate::statuses::{self, Facts, StatusWriter};
use crate::watches::{Conflict, Watches};

/// How long a replica that may be the only one waits for the Lease before it calls itself ready without having it.
const FIRST_ELECTION: Duration = Duration::from_secs(1);

/// How long a term waits for the addresses of the nodes, and for lists of kinds that are only reported on.
const OTHERS_PATIENCE: Duration = Duration::from_secs(5);

/// After a failed list at the start of leading.
const LIST_RETRY: Duration = Duration::from_secs(1);

/// Before an event says that there is no pool for a Service: both are often created by one `kubectl apply`.
const POOL_PATIENCE: Duration = Duration::from_secs(2);

/// Between a change and the figures that show it: a burst of changes costs one count.
const FIGURES_PAUSE: Duration = Duration::from_millis(250);

/// The task that owns the allocator.
pub(crate) struct Owner {
    pub(crate) client: Client,
    /// The class of Services that it serves; empty for those without one.
    pub(crate) class: String,
    pub(crate) watches: Watches,
    pub(crate) leadership: Leadership,
    pub(crate) events: Events,
    pub(crate) metrics: Metrics,
    /// Opened once this replica stands by or has adopted.
    pub(crate) ready: Gate,
    /// No write of a Service lasts longer.
    pub(crate) write_bound: Duration,
    /// Between two events that say why a Service waits.
    pub(crate) remind_every: Duration,
    /// Shows that this makes progress.
    pub(crate) heartbeat: Heartbeat,
    /// What was valid before.
    pub(crate) judge: Mutex<Judge>,
}

/// Waits until the stores have what the API has.
type Check = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What exists only while this replica leads.
struct Term<'a> {
    owner: &'a Owner,
    allocator: Allocator,
    known: Known,
    writes: Writes,
    statuses: StatusWriter,
    /// Who else writes the statuses of Services.
    contention: Contention<ServiceKey, Target>,
    /// What is said on Services whose status another writer insists on.
    contested: HashMap<ServiceKey, String>,
    /// Services of which an event says that there is no pool for them, if that is still so by then.
    premature: BTreeSet<(Instant, ServiceKey)>,
    /// Under way while a pool was edited; and for which pools.
    check: Option<Check>,
    checked: Vec<Arc<IPAddressPool>>,
    /// Whether the kinds that are only reported on are known.
    complete: bool,
    /// What was judged last; the stores may have more.
    objects: Objects,
    findings: Vec<Finding>,
    /// By name.
    undecodable_pools: BTreeSet<String>,
    conflicts: BTreeMap<IpAddr, Conflict>,
}

impl Owner {
    /// Stands by, leads, and stands by again, until `shutdown`. The writes under way are over when this returns.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), Infallible> {
        if shutdown.run_until_cancelled(self.watches.ready()).await.is_some() {
            self.terms(&shutdown).await;
        }
        Ok(())
    }

    async fn terms(&self, shutdown: &CancellationToken) {
        let mut leadership = self.leadership.clone();
        let unsettled = Unsettled::default();
        self.stand_by_report();
        let first =
            shutdown.run_until_cancelled(tokio::time::timeout(FIRST_ELECTION, leadership.wait_acquired()));
        if first.await.is_some_and(|elected| elected.is_err()) {
            // A replica that stands by is ready: it would take over at once.
            self.ready.open();
        }
        loop {
            if shutdown.run_until_cancelled(self.stand_by(&mut leadership)).await.is_none() {
                return;
            }
            tokio::select! {
                biased;
                () = leadership.wait_lost() => {}
                () = self.lead(&unsettled, shutdown) => return,
            }
            self.stand_by_report();
        }
    }

    fn stand_by_report(&self) {
        self.heartbeat.rest();
        self.metrics.publish(|snapshot| *snapshot = Snapshot::standing_by());
    }

    /// Waits for the Lease. What was valid is kept meanwhile; what else the watches mark is read from the stores later.
    async fn stand_by(&self, leadership: &mut Leadership) {
        let mut won = std::pin::pin!(leadership.wait_acquired());
        loop {
            self.judge().configure(&self.watches.objects(), Timestamp::now());
            tokio::select! {
                biased;
                () = &mut won => return,
                () = self.configuration_changed() => {}
            }
        }
    }

    async fn configuration_changed(&self) {
        loop {
            self.watches.dirty.changed().await;
            if self.watches.dirty.take().configuration {
                return;
            }
        }
    }

    /// Leads until `shutdown`, and then ends the writes that are under way.
    async fn lead(&self, unsettled: &Unsettled, shutdown: &CancellationToken) {
        // Who cannot begin within the time of a Lease leaves it to another.
        self.heartbeat.beat();
        // Marked from here on is looked at after the list.
        self.watches.dirty.take();
        let Some(listed) = shutdown.run_until_cancelled(self.look_afresh()).await else { return };
        let mut term = Term::new(self, unsettled);
        term.configure();
        term.adopt(listed);
        self.ready.open();
        shutdown.run_until_cancelled(term.run()).await;
        self.heartbeat.rest();
        term.end_writes().await;
    }

    /// All Services from the API itself: what another leader wrote last must be among them. And what that leader went by
    /// must be in the stores.
    async fn look_afresh(&self) -> Listed {
        if tokio::time::timeout(OTHERS_PATIENCE, self.watches.nodes_ready()).await.is_err() {
            tracing::warn!(
                "the nodes cannot be listed: their addresses may be assigned if a pool contains them"
            );
        }
        self.heartbeat.beat();
        loop {
            match self.try_look_afresh().await {
                Ok(listed) => return listed,
                Err(error) => {
                    tracing::warn!(%error, "the API cannot be asked, so nothing is assigned yet; trying again");
                    tokio::time::sleep(LIST_RETRY).await;
                }
            }
        }
    }

    async fn try_look_afresh(&self) -> Result<Listed, CallError> {
        self.watches.catch_up(&self.client).await?;
        Listed::from_api(self).await
    }

    fn judge(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Term<'a> {
    fn new(owner: &'a Owner, unsettled: &Unsettled) -> Self {
        let Owner { client, leadership, write_bound, .. } = owner;
        Self {
            owner,
            allocator: Allocator::new(),
            known: Known::new(owner.watches.services.clone()),
            writes: Writes::new(
                client.clone(),
                leadership.clone(),
                owner.metrics.clone(),
                *write_bound,
                unsettled.clone(),
            ),
            statuses: StatusWriter::new(client.clone(), leadership.clone(), *write_bound),
            contention: Contention::default(),
            contested: HashMap::new(),
            premature: BTreeSet::new(),
            check: None,
            checked: Vec::new(),
            complete: false,
            objects: Objects::default(),
            findings: Vec::new(),
            undecodable_pools: BTreeSet::new(),
            conflicts: BTreeMap::new(),
        }
    }

    async fn run(&mut self) -> Infallible {
        let mut figures_due = Some(Instant::now());
        let every = self.owner.remind_every;
        let mut reminder = tokio::time::interval_at(Instant::now() + every, every);
        let watches = self.owner.watches.clone();
        let mut complete = std::pin::pin!(tokio::time::timeout(OTHERS_PATIENCE, watches.complete()));
        let mut reports = watches.status().subscribe();
        loop {
            self.owner.heartbeat.beat();
            self.writes.begin();
            if self.writes.busy() {
                self.owner.events.throttle();
            }
            if figures_due.is_some_and(|due| Instant::now() >= due) {
                figures_due = self.publish();
            }
            let premature = self.premature.first().map(|(at, _)| *at);
            let deadlines = [
                self.grace_deadline(),
                self.writes.next_retry(),
                self.contention.next(),
                figures_due,
                premature,
            ];
            let deadline = deadlines.into_iter().flatten().min();
            self.owner.heartbeat.rest();
            tokio::select! {
                () = self.owner.watches.dirty.changed() => {
                    let marks = self.owner.watches.dirty.take();
                    self.look(marks);
                }
                ended = self.writes.ended() => self.wrote(ended),
                contested = self.statuses.written() => self.report_contested(contested),
                () = checked(&mut self.check) => {
                    self.check = None;
                    self.reconfigure();
                }
                _ = &mut complete, if !self.complete => self.complete = true,
                // An object that cannot be decoded is reported.
                _ = reports.changed() => self.reconfigure_undecodable(),
                () = sleep_until(deadline) => self.end_graces(),
                _ = reminder.tick() => self.remind(),
            }
            self.owner.heartbeat.beat();
            self.retry();
            for key in self.allocator.take_changed() {
                self.review(&key);
            }
            // One status that waits for its back-off must not hold up the others.
            let soon = Instant::now() + FIGURES_PAUSE;
            figures_due = Some(figures_due.map_or(soon, |due| due.min(soon)));
        }
    }

    fn retry(&mut self) {
        self.tell_premature(Instant::now());
        for (key, verify) in self.writes.due_retries() {
            if verify {
                self.writes.verify(&key);
            } else {
                self.review(&key);
            }
        }
        for key in self.contention.due(Instant::now()) {
            self.review(&key);
        }
    }

    /// Waits until no write is under way any more. Each is bounded.
    async fn end_writes(&mut self) {
        while self.writes.busy() {
            // What came of it, the watch tells the next leader.
            let _ = self.writes.ended().await;
        }
    }

    /// Reports on an object that another writer insists on its status.
    fn report_contested(&self, contested: Option<statuses::Contested>) {
        let Some(statuses::Contested { kind, name, text }) = contested else { return };
        let object = status_object(&kind, &name, &self.owner.watches);
        Self::tell(&self.owner.events, &object, vec![service::contested_note(&text)]);
    }

    /// Tells how things are: metrics at once, statuses as their writer allows. Returns when to call again.
    fn publish(&mut self) -> Option<Instant> {
        let figures = figures(&mut self.allocator);
        let mut again = self.statuses.wait();
        if again.is_none() && self.complete {
            let due = self.due_statuses(&figures);
            again = self.statuses.write(due);
        }
        let refused = self.allocator.refused();
        let errors = self.findings.iter().filter(|finding| finding.severity == Severity::Error).count();
        self.owner.metrics.publish(|snapshot| {
            *snapshot = Snapshot { pools: figures, refused, leading: true, loaded: true, errors };
        });
        again
    }

    /// The statuses that are not as they shall be.
    fn due_statuses(&self, figures: &BTreeMap<String, PoolFigures>) -> Vec<statuses::Write> {
        let watches = &self.owner.watches;
        let state = watches.state();
        let facts = Facts {
            namespace: &watches.namespace,
            objects: &self.objects,
            configuration: self.allocator.configuration(),
            findings: &self.findings,
            undecodable: &watches.status().undecodable(),
            figures,
            conflicts: &self.conflicts,
            state: state.as_deref(),
            now: Time(Timestamp::now()),
        };
        facts.writes()
    }

    /// When [`Self::end_graces`] has something to do, on the clock of the runtime.
    fn grace_deadline(&self) -> Option<Instant> {
        let deadlines = [self.allocator.next_deadline(), self.owner.judge().next_deadline()];
        let left = deadlines.into_iter().flatten().min()?.duration_since(Timestamp::now());
        Some(Instant::now() + Duration::try_from(left).unwrap_or_default())
    }

    fn end_graces(&mut self) {
        let now = Timestamp::now();
        if self.owner.judge().next_deadline().is_some_and(|deadline| deadline <= now) {
            self.reconfigure();
        }
        self.allocator.poll(now);
    }

    fn tell(events: &Events, object: &ObjectReference, notes: Vec<Note>) {
        let (kind, name) = (object.kind.as_deref(), object.name.as_deref());
        for note in notes {
            if note.warning {
                tracing::warn!(
                    kind,
                    namespace = object.namespace,
                    name,
                    reason = note.reason,
                    "{}",
                    note.text
                );
                events.warning(object, "Assign", note.reason, note.text);
            } else {
                tracing::info!(
                    kind,
                    namespace = object.namespace,
                    name,
                    reason = note.reason,
                    "{}",
                    note.text
                );
                events.normal(object, "Assign", note.reason, note.text);
            }
        }
    }
}

async fn checked(check: &mut Option<Check>) {
    match check {
        Some(check) => check.await,
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
