//! Leader election by a Lease (`coordination.k8s.io/v1`).
//!
//! What holds:
//! - Every write carries the resourceVersion that was read, so of two that want the Lease one gets a conflict. It reads
//!   again: whoever leads goes on until its deadline unless another holds the Lease, for whatever reason it was written.
//! - Whether a Lease has expired is measured by the local monotonic clock since the last *observed change* of it,
//!   never by comparing wall clocks (as client-go does).
//! - A leader counts as leading for [`Settings::renew_deadline`] from the moment *before* it sent its last
//!   successful renewal. That is shorter than [`Settings::duration`], and what is left is longer than
//!   [`CALL_TIMEOUT`](crate::client::CALL_TIMEOUT): a leader that was stopped or cut off begins no write after its
//!   deadline, and those begun before are over when somebody else may lead. The wall clock counts too: where the
//!   monotonic clock stood still (a machine that was suspended, a virtual machine that was paused and whose clock was set
//!   since), a leader does not lead until it has renewed the Lease.
//! - Only who is able to lead has the Lease: a [`Candidate`] campaigns once it is ready, and releases the Lease when
//!   its worker makes no progress.
//!
//! [`decide`] is pure; [`run`] is the loop around it.

mod decide;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::{CallError, bounded};
use crate::heartbeat::Heartbeat;
use crate::tasks::Tasks;
pub use decide::{Decision, Observation, Record, decide};

/// Which Lease, and how long things take.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Who we are; unique to the process ([`unique_identity`]).
    pub identity: String,
    /// How long others wait after the last renewal that they saw.
    pub duration: Duration,
    /// How long we lead after our last renewal; shorter than `duration` by more than one call may take.
    pub renew_deadline: Duration,
    /// How often the Lease is renewed, or looked at.
    pub retry: Duration,
}

impl Settings {
    /// The usual times: 15 s, 10 s, 2 s.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// An identity that no other process has, nor an earlier one of the same pod: the pod's name and a random part. A
/// container that restarts waits for the Lease of its former self like everybody else, since writes of that one may
/// still be under way.
pub fn unique_identity(pod: &str) -> String {
    // The standard library's hasher is seeded by the system's random numbers.
    format!("{pod}_{:016x}", RandomState::new().build_hasher().finish())
}

/// What a process needs beside the Lease to lead.
pub struct Candidate {
    ready: Pin<Box<dyn Future<Output = ()> + Send>>,
    heartbeat: Heartbeat,
}

impl Candidate {
    /// Campaigns once `ready` has completed, and leads only while `heartbeat` is alive. The worker that acts for the
    /// leader beats with each step that succeeded, and rests while it has nothing to do or does not lead; if it makes no
    /// progress, the Lease is released, and another process has [`Settings::duration`] to take it.
    pub fn new(ready: impl Future<Output = ()> + Send + 'static, heartbeat: Heartbeat) -> Self {
        Self { ready: Box::pin(ready), heartbeat }
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate").field("heartbeat", &self.heartbeat).finish_non_exhaustive()
    }
}

/// Until when a renewal of the Lease counts, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Validity {
    until: Instant,
    /// By the wall clock, when the renewal was sent.
    renewed: SystemTime,
    length: Duration,
}

impl Validity {
    fn new(length: Duration) -> Self {
        Self { until: Instant::now() + length, renewed: SystemTime::now(), length }
    }

    /// A wall clock that was set back says nothing; one that was set forward may have been right to be.
    fn holds(&self, now: Instant, wall: SystemTime) -> bool {
        let passed = wall.duration_since(self.renewed).unwrap_or_default();
        now < self.until && passed < self.length
    }
}

/// Whether this process leads. Cheap to clone and to ask.
#[derive(Clone, Debug)]
pub struct Leadership {
    until: watch::Receiver<Option<Validity>>,
}

impl Leadership {
    /// Elects for this process in a task of `tasks`. On shutdown the Lease is released.
    pub fn campaign(
        tasks: &mut Tasks,
        client: &Client,
        settings: Settings,
        candidate: Candidate,
        shutdown: CancellationToken,
    ) -> Self {
        let (sender, until) = watch::channel(None);
        let api = Api::namespaced(client.clone(), &settings.namespace);
        tasks.spawn("leader election", async move {
            run(&api, &settings, candidate, &sender, shutdown).await;
            Ok::<(), std::convert::Infallible>(())
        });
        Self { until }
    }

    /// Leads forever, or never: for tests and for processes that need no election.
    pub fn fixed(leads: bool) -> Self {
        let until = leads.then(|| Validity::new(Duration::from_hours(24 * 365)));
        let (sender, until) = watch::channel(until);
        // An election that ends is a leadership that is lost.
        std::mem::forget(sender);
        Self { until }
    }

    /// Whether a write may begin now. Ask right before each.
    pub fn is_leading(&self) -> bool {
        self.until.borrow().is_some_and(|until| until.holds(Instant::now(), SystemTime::now()))
    }

    /// Goes on with `work` only while this process leads; none once it does not. One that was stopped between two steps of the
    /// work drops it when it goes on.
    pub async fn while_leading<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|context| {
            if self.is_leading() { work.as_mut().poll(context).map(Some) } else { Poll::Ready(None) }
        })
        .await
    }

    /// Waits until this process leads.
    pub async fn won(&mut self) {
        while !self.is_leading() {
            if self.until.changed().await.is_err() {
                // The election is over (shutdown): nobody will lead here any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until this process leads no more.
    pub async fn lost(&mut self) {
        loop {
            let Some(Validity { until, .. }) = *self.until.borrow_and_update() else { return };
            tokio::select! {
                () = tokio::time::sleep_until(until) => if Instant::now() >= until && !self.is_leading() { return },
                changed = self.until.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Elects until `shutdown`, publishing on `leading` until when this process leads. Then releases the Lease.
async fn run(
    api: &Api<Lease>,
    settings: &Settings,
    candidate: Candidate,
    leading: &watch::Sender<Option<Validity>>,
    shutdown: CancellationToken,
) {
    let Candidate { ready, heartbeat } = candidate;
    if shutdown.run_until_cancelled(ready).await.is_none() {
        return;
    }
    let mut observed: Option<Observation> = None;
    // Whether the Lease may be ours; and when this process may campaign again.
    let (mut held, mut not_before) = (false, Instant::now());
    let election = async {
        loop {
            let now = Instant::now();
            if !heartbeat.is_alive(now) {
                not_before = now + settings.duration;
                lose(leading, settings, &format!("the worker {} makes no progress", heartbeat.name()));
                held = held && !released(api, settings).await;
            } else if now >= not_before {
                // Also if this is cancelled before there is an answer.
                held = true;
                held = take_or_renew(api, settings, leading, &mut observed).await;
            }
            tokio::time::sleep(settings.retry).await;
        }
    };
    shutdown.run_until_cancelled(election).await;
    leading.send_replace(None);
    if held {
        released(api, settings).await;
    }
}

/// Reads the Lease, takes or renews it if it is ours to, and publishes that. Returns whether it may be ours now.
async fn take_or_renew(
    api: &Api<Lease>,
    settings: &Settings,
    leading: &watch::Sender<Option<Validity>>,
    observed: &mut Option<Observation>,
) -> bool {
    match step(api, settings, observed).await {
        Ok(Some(until)) => {
            if leading.send_replace(Some(until)).is_none() {
                tracing::info!(lease = settings.name, identity = settings.identity, "leading");
            }
            true
        }
        Ok(None) => {
            lose(leading, settings, "another holds the Lease");
            false
        }
        Err(error) => {
            tracing::warn!(lease = settings.name, %error, "the Lease could not be read or written");
            if leading.borrow().is_some_and(|until| Instant::now() >= until.until) {
                lose(leading, settings, "it could not be renewed in time");
            }
            true
        }
    }
}

/// Releases the Lease. Returns whether it is not ours any more.
async fn released(api: &Api<Lease>, settings: &Settings) -> bool {
    match release(api, settings).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(lease = settings.name, %error, "the Lease could not be released; it will expire");
            false
        }
    }
}

fn lose(leading: &watch::Sender<Option<Validity>>, settings: &Settings, why: &str) {
    if leading.send_replace(None).is_some() {
        tracing::warn!(lease = settings.name, why, "no longer leading");
    }
}

/// One look at the Lease, and after a conflict a second one. Returns until when this process leads; none: another does.
async fn step(
    api: &Api<Lease>,
    settings: &Settings,
    observed: &mut Option<Observation>,
) -> Result<Option<Validity>, CallError> {
    match attempt(api, settings, observed).await {
        Err(error) if error.is_conflict() => attempt(api, settings, observed).await,
        result => result,
    }
}

/// Reads the Lease, and writes it if it is ours to write.
async fn attempt(
    api: &Api<Lease>,
    settings: &Settings,
    observed: &mut Option<Observation>,
) -> Result<Option<Validity>, CallError> {
    let lease = bounded(api.get_opt(&settings.name)).await?;
    *observed = Observation::update(observed.take(), lease.as_ref(), Instant::now());
    let before = Instant::now();
    let validity = Validity::new(settings.renew_deadline);
    let desired = match decide(observed.as_ref(), &settings.identity, before) {
        Decision::Wait => return Ok(None),
        Decision::Acquire { transitions } => desired(settings, lease.as_ref(), transitions, Timestamp::now()),
        Decision::Renew => renewed(settings, lease.as_ref()),
    };
    let written = match lease {
        None => bounded(api.create(&PostParams::default(), &desired)).await?,
        Some(_) => bounded(api.replace(&settings.name, &PostParams::default(), &desired)).await?,
    };
    *observed = Observation::update(observed.take(), Some(&written), before);
    Ok(Some(validity))
}

/// The Lease with us as its holder.
fn desired(settings: &Settings, current: Option<&Lease>, transitions: i32, now: Timestamp) -> Lease {
    let metadata = current.map_or_else(
        || ObjectMeta { name: Some(settings.name.clone()), ..ObjectMeta::default() },
        |lease| lease.metadata.clone(),
    );
    Lease {
        metadata,
        spec: Some(LeaseSpec {
            holder_identity: Some(settings.identity.clone()),
            lease_duration_seconds: Some(seconds(settings.duration)),
            acquire_time: Some(MicroTime(now)),
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }),
    }
}

/// The same Lease, renewed now.
fn renewed(settings: &Settings, current: Option<&Lease>) -> Lease {
    let mut lease = current.cloned().unwrap_or_default();
    let spec = lease.spec.get_or_insert_default();
    spec.renew_time = Some(MicroTime(Timestamp::now()));
    spec.lease_duration_seconds = Some(seconds(settings.duration));
    lease
}

/// Gives the Lease up, if it is still ours, so that a successor need not wait.
async fn release(api: &Api<Lease>, settings: &Settings) -> Result<(), CallError> {
    let Some(mut lease) = bounded(api.get_opt(&settings.name)).await? else { return Ok(()) };
    let Some(spec) = lease.spec.as_mut() else { return Ok(()) };
    if spec.holder_identity.as_deref() != Some(settings.identity.as_str()) {
        return Ok(());
    }
    spec.holder_identity = None;
    spec.lease_duration_seconds = Some(1);
    spec.renew_time = Some(MicroTime(Timestamp::now()));
    match bounded(api.replace(&settings.name, &PostParams::default(), &lease)).await {
        Err(error) if !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

/// Rounded up: others must not take the Lease for expired before its holder does.
fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis().div_ceil(1_000).max(1)).unwrap_or(i32::MAX)
}
