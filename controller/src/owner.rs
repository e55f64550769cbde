//! The task that owns the allocator.
//!
//! ```text
//!   stand by ──Lease won──► catch up, list anew, adopt ──► lead ──Lease lost──► stand by
//! ```
//!
//! While it leads: marks of the watches and ends of writes come in, the allocator decides, and each Service whose
//! status is not what it shall be gets one write at a time. A Service's address counts as given up only when a
//! write or the watch says so, see [`ipam::Allocator`].

mod known;
mod policies;
mod writes;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crds::ServiceKey;
use ipam::{Adoptee, Allocator, Request};
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use kube::{Client, Resource as _, ResourceExt as _};
use rules::{Configuration, Finding, Objects, Severity};
use runtime::admin::Gate;
use runtime::client::CallError;
use runtime::events::Events;
use runtime::lease::Leadership;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::known::Known;
use self::policies::Policies;
use self::writes::{Ended, Unsettled, Writes};
use crate::dirty::Marks;
use crate::figures::{PoolFigures, figures};
use crate::list::list;
use crate::metrics::Metrics;
use crate::service::{self, Note, has_leftovers, is_ours, plan, version};
use crate::statuses::{self, Facts, StatusWriter};
use crate::watches::Watches;

/// How long a replica that may be the only one waits for the Lease before it calls itself ready without having it.
const FIRST_ELECTION: Duration = Duration::from_secs(1);

/// After a failed list at the start of leading.
const LIST_RETRY: Duration = Duration::from_secs(1);

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
}

/// What exists only while this replica leads.
struct Term<'a> {
    owner: &'a Owner,
    allocator: Allocator,
    known: Known,
    writes: Writes,
    statuses: StatusWriter,
    policies: Policies,
    /// What was judged last; the stores may have more.
    objects: Objects,
    findings: Vec<Finding>,
    conflicts: BTreeMap<IpAddr, String>,
}

impl Owner {
    /// Stands by, leads, and stands by again, until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), Infallible> {
        shutdown.run_until_cancelled(self.terms()).await;
        Ok(())
    }

    async fn terms(&self) -> Infallible {
        self.watches.ready().await;
        let mut leadership = self.leadership.clone();
        let unsettled = Unsettled::default();
        if tokio::time::timeout(FIRST_ELECTION, leadership.won()).await.is_err() {
            // A replica that stands by is ready: it would take over at once.
            self.ready.open();
        }
        loop {
            self.stand_by(&mut leadership).await;
            tokio::select! {
                biased;
                () = leadership.lost() => {}
                never = self.lead(&unsettled) => match never {},
            }
            self.metrics.publish(|snapshot| *snapshot = crate::metrics::Snapshot::default());
        }
    }

    /// Waits for the Lease. What the watches mark meanwhile is read from the stores later.
    async fn stand_by(&self, leadership: &mut Leadership) {
        let mut won = std::pin::pin!(leadership.won());
        loop {
            tokio::select! {
                biased;
                () = &mut won => return,
                () = self.watches.dirty.changed() => drop(self.watches.dirty.take()),
            }
        }
    }

    async fn lead(&self, unsettled: &Unsettled) -> Infallible {
        // Marked from here on is looked at after the list.
        self.watches.dirty.take();
        let (services, listed) = loop {
            match self.look_afresh().await {
                Ok(services) => break services,
                Err(error) => {
                    tracing::warn!(%error, "the API cannot be asked, so nothing is assigned yet; trying again");
                    tokio::time::sleep(LIST_RETRY).await;
                }
            }
        };
        let mut term = Term::new(self, unsettled);
        term.configure();
        term.adopt(services, listed);
        self.ready.open();
        term.run().await
    }

    /// All Services and the version of the list, from the API itself: what another leader wrote last must be among
    /// it. And what that leader went by must be in the stores.
    async fn look_afresh(&self) -> Result<(Vec<Service>, u64), CallError> {
        self.watches.catch_up(&self.client).await?;
        list(&Api::all(self.client.clone())).await
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
            policies: Policies::default(),
            objects: Objects::default(),
            findings: Vec::new(),
            conflicts: BTreeMap::new(),
        }
    }

    async fn run(&mut self) -> Infallible {
        let mut figures_due = Some(Instant::now());
        let every = self.owner.remind_every;
        let mut reminder = tokio::time::interval_at(Instant::now() + every, every);
        loop {
            self.writes.begin();
            if self.writes.busy() {
                self.owner.events.hold();
            }
            if figures_due.is_some_and(|due| Instant::now() >= due) {
                figures_due = self.publish();
            }
            let deadlines = [self.grace_deadline(), self.writes.next_retry(), figures_due];
            let deadline = deadlines.into_iter().flatten().min();
            tokio::select! {
                () = self.owner.watches.dirty.changed() => {
                    let marks = self.owner.watches.dirty.take();
                    self.look(marks);
                }
                ended = self.writes.ended() => self.wrote(ended),
                () = self.statuses.written() => {}
                () = sleep_until(deadline) => self.end_graces(),
                _ = reminder.tick() => self.remind(),
            }
            self.retry();
            for key in self.allocator.take_changed() {
                self.review(&key);
            }
            figures_due.get_or_insert_with(|| Instant::now() + FIGURES_PAUSE);
        }
    }

    fn retry(&mut self) {
        for (key, verify) in self.writes.due_retries() {
            if verify {
                self.writes.verify(&key);
            } else {
                self.review(&key);
            }
        }
    }

    /// Tells how things are: metrics at once, statuses as their writer allows. Returns when to call again.
    fn publish(&mut self) -> Option<Instant> {
        let figures = figures(&mut self.allocator);
        let mut again = self.statuses.wait();
        if again.is_none() {
            let due = self.due_statuses(&figures);
            again = self.statuses.write(due);
        }
        let refused = self.allocator.refused();
        let errors = self.findings.iter().filter(|finding| finding.severity == Severity::Error).count();
        self.owner.metrics.publish(|snapshot| {
            *snapshot =
                crate::metrics::Snapshot { pools: figures, refused, leading: true, loaded: true, errors };
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
            figures,
            conflicts: &self.conflicts,
            state: state.as_deref(),
            now: Time(Timestamp::now()),
        };
        facts.writes()
    }

    /// When [`Self::end_graces`] has something to do, on the clock of the runtime.
    fn grace_deadline(&self) -> Option<Instant> {
        let deadlines = [self.allocator.next_deadline(), self.policies.next_deadline()];
        let left = deadlines.into_iter().flatten().min()?.duration_since(Timestamp::now());
        Some(Instant::now() + Duration::try_from(left).unwrap_or_default())
    }

    fn end_graces(&mut self) {
        let now = Timestamp::now();
        if self.policies.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.configure();
        }
        self.allocator.poll(now);
    }

    /// Judges the configuration anew and puts it in force.
    fn configure(&mut self) {
        let now = Timestamp::now();
        self.objects = self.owner.watches.objects();
        let pool_policies = self.policies.update(&self.objects.pool_policies, now);
        let (configuration, mut findings) =
            Configuration::from_objects(&Objects { pool_policies, ..self.objects.clone() });
        // There is nobody left to tell.
        findings.retain(|finding| {
            finding.object.kind != "PoolPolicy" || !self.policies.is_deleted(&finding.object.name)
        });
        for finding in findings.iter().filter(|finding| !self.findings.contains(finding)) {
            tracing::warn!(object = %finding.object, %finding, "configuration");
            let rules::ObjectRef { kind, namespace, name } = &finding.object;
            let uid = self.owner.watches.uid(kind, name);
            let object = reference(kind, namespace.as_deref(), name, uid);
            let reason = match finding.severity {
                Severity::Error => "ConfigurationError",
                Severity::Warning => "ConfigurationWarning",
            };
            self.owner.events.warning(&object, "Judge", reason, finding.to_string());
        }
        self.findings = findings;
        let before = std::mem::replace(&mut self.conflicts, self.owner.watches.conflicts());
        let quarantine = self.conflicts.keys().copied().collect();
        self.allocator.configure(Arc::new(configuration), quarantine, now);
        let namespaces = self.objects.namespaces.iter().map(|namespace| namespace.name_any());
        self.allocator.set_namespaces(namespaces.collect(), now);
        let either: BTreeSet<IpAddr> = before.keys().chain(self.conflicts.keys()).copied().collect();
        for ip in either {
            if before.get(&ip) != self.conflicts.get(&ip) {
                self.tell_pool(ip);
                for holder in self.allocator.holders(ip) {
                    self.review(&holder);
                }
            }
        }
    }

    /// Tells on the pool of `ip` that a stranger uses it, or no longer does.
    fn tell_pool(&self, ip: IpAddr) {
        let Some(pool) = self.allocator.configuration().pool_of(ip) else { return };
        let (kind, watches) = ("IPAddressPool", &self.owner.watches);
        let uid = watches.uid(kind, &pool.name);
        let pool = reference(kind, Some(&watches.namespace), &pool.name, uid);
        let note = service::conflict_note(self.conflicts.get(&ip).map(String::as_str));
        Self::tell(&self.owner.events, &pool, vec![note]);
    }

    /// What to say on a Service with `addresses` of the strangers that use them.
    fn conflict(&self, addresses: &[IpAddr]) -> Option<String> {
        let strangers: Vec<&str> =
            addresses.iter().filter_map(|ip| self.conflicts.get(ip)).map(String::as_str).collect();
        (!strangers.is_empty()).then(|| {
            let strangers = strangers.join("; ");
            format!("{strangers}: take the address from that machine, or ask for another by metallb.io/loadBalancerIPs")
        })
    }

    /// Takes over what Services have.
    fn adopt(&mut self, services: Vec<Service>, listed: u64) {
        let now = Timestamp::now();
        let mut adoptees = Vec::new();
        let mut keys = Vec::with_capacity(services.len());
        let mut all = HashSet::with_capacity(services.len());
        for service in services {
            let key = ServiceKey::of(&service);
            all.insert(key.clone());
            let stored = self.writes.possibly_stored(&key, version(&service), service::stored(&service));
            if is_ours(&service, &self.owner.class) {
                adoptees.push(Adoptee {
                    service: key.clone(),
                    request: Request::from_service(&service),
                    current: stored,
                    pool: service::annotated_pool(&service).map(str::to_owned),
                    waiting_since: service::waiting_since(&service),
                });
                keys.push(key);
            } else {
                // Of another class since it was changed or we are, or on its way out with the last finalizer: speakers or
                // kube-proxy may still go by its status.
                self.allocator.release(&key, &stored, now);
                keys.push(key);
            }
            self.known.learn(service);
        }
        let (count, held) = (adoptees.len(), adoptees.iter().filter(|a| !a.current.is_empty()).count());
        self.allocator.adopt(adoptees, now);
        tracing::info!(services = count, with_addresses = held, "adopted");
        self.allocator.take_changed();
        for key in keys {
            self.review(&key);
        }
        // What was created since the list is in the store; what the store alone has and is older, is gone.
        for service in self.owner.watches.services.state() {
            let key = ServiceKey::of(&service);
            if !all.contains(&key) && version(&service) > listed {
                self.look_at(&key);
            }
        }
    }

    fn look(&mut self, marks: Marks) {
        if marks.configuration {
            self.configure();
        }
        let mut keys: BTreeSet<ServiceKey> = BTreeSet::new();
        for (key, deleted) in marks.services {
            if let Some(version) = deleted {
                self.known.deleted(&key, version);
            }
            keys.insert(key);
        }
        if marks.all_services {
            keys.extend(self.owner.watches.services.state().iter().map(|service| ServiceKey::of(service)));
            // A list tells of no deletion. Missing from it is not yet gone: what this term wrote or listed may be newer.
            // Each is asked for.
            for key in self.known.missing(self.allocator.services()) {
                self.writes.verify(&key);
            }
        }
        for key in keys {
            self.look_at(&key);
        }
    }

    /// Tells the allocator of the Service as it is now.
    fn look_at(&mut self, key: &ServiceKey) {
        let now = Timestamp::now();
        let Some(service) = self.known.get(key) else {
            self.writes.forget(key);
            self.allocator.forget(key, now);
            return;
        };
        let stored = self.writes.possibly_stored(key, version(&service), service::stored(&service));
        if is_ours(&service, &self.owner.class) {
            self.allocator.assign(key, Request::from_service(&service), &stored, now);
        } else {
            self.allocator.release(key, &stored, now);
        }
        self.review(key);
    }

    /// Queues the write that the Service needs, if any.
    fn review(&mut self, key: &ServiceKey) {
        let Some(service) = self.known.get(key) else { return };
        let outcome = if is_ours(&service, &self.owner.class) {
            match self.allocator.outcome(key) {
                Some(outcome) => Some(outcome),
                None => return,
            }
        } else if has_leftovers(&service) {
            None
        } else {
            return;
        };
        let conflict = outcome.and_then(|outcome| self.conflict(outcome.addresses));
        match plan(&service, outcome, conflict, Timestamp::now()) {
            Some(plan) => self.writes.queue(key, plan),
            None => self.writes.settled(key),
        }
    }

    /// A write ended.
    fn wrote(&mut self, ended: Ended) {
        let now = Timestamp::now();
        match ended {
            Ended::Written { key, service, notes } => {
                Self::tell(&self.owner.events, &service.object_ref(&()), notes);
                let stored = service::stored(&service);
                self.known.learn(*service);
                self.allocator.stored(&key, &stored, now);
                self.review(&key);
            }
            // What was there and what was asked for both may be there, unless a later version was seen already.
            Ended::Unknown { key } => self.look_at(&key),
            Ended::Refused { key, version: refused } => {
                // Behind? Then what is known by now may do at once; else later, or when the watch brings it.
                if self.known.get(&key).is_none_or(|service| version(&service) <= refused) {
                    self.writes.retry_later(&key, false);
                }
                self.look_at(&key);
            }
            Ended::Verified { service } => {
                let key = ServiceKey::of(&service);
                self.known.learn(*service);
                self.look_at(&key);
            }
            Ended::Gone { key } => {
                self.known.gone(&key);
                self.look_at(&key);
            }
            Ended::Nothing => {}
        }
    }

    /// Says once more why Services do not have what they ask for: the API forgets events, and `kubectl describe` shows no
    /// conditions of Services.
    fn remind(&mut self) {
        for key in self.allocator.services() {
            let note = self.allocator.outcome(key).and_then(service::reminder);
            if let (Some(note), Some(service)) = (note, self.known.get(key)) {
                Self::tell(&self.owner.events, &service.object_ref(&()), vec![note]);
            }
        }
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

/// With the UID, by which `kubectl describe` finds events.
fn reference(kind: &str, namespace: Option<&str>, name: &str, uid: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version(kind).into()),
        kind: Some(kind.into()),
        namespace: namespace.map(str::to_owned),
        name: Some(name.into()),
        uid,
        ..ObjectReference::default()
    }
}

fn api_version(kind: &str) -> &'static str {
    match kind {
        "BGPPeer" => "metallb.io/v1beta2",
        "PoolPolicy" => "lbstack.dev/v1alpha1",
        _ => "metallb.io/v1beta1",
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
