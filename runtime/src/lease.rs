//! Leader election by a Lease (`coordination.k8s.io/v1`).
//!
//! Invariants:
//! - Every write carries the resourceVersion that was read, so of two processes that write the Lease one gets
//!   a conflict. It reads the Lease again: a leader leads until its deadline unless the Lease has another
//!   holder.
//! - The expiry of a Lease is measured by the local monotonic clock since the last *observed change* of it,
//!   as in client-go, never by comparing wall clocks.
//! - A leader leads for [`ElectionSettings::renew_deadline`] from the moment *before* it sent its last
//!   successful renewal. [`ElectionSettings::duration`] is longer, by more than
//!   [`CALL_TIMEOUT`](crate::client::CALL_TIMEOUT): a leader that was stopped or cut off starts no write
//!   after its deadline, and earlier writes have ended when another process may lead. The wall clock counts
//!   too: if the monotonic clock stood still (a suspended machine, a paused virtual machine), the process
//!   does not lead until it has renewed the Lease.
//! - Only a process that is able to lead holds the Lease: a [`Candidate`] campaigns once it is ready, and
//!   releases the Lease when its worker makes no progress.
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

use crate::client::{CallError, with_timeout};
use crate::heartbeat::Heartbeat;
use crate::tasks::Tasks;
pub use decide::{Decision, LeaseRecord, Observation, decide};

/// Which Lease to use, and the timing of the election.
#[derive(Clone, Debug)]
pub struct ElectionSettings {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// The identity of this process; unique ([`unique_identity`]).
    pub identity: String,
    /// After this time without a renewal other processes may acquire the Lease.
    pub duration: Duration,
    /// How long this process leads after its last renewal; shorter than `duration` by more than the timeout
    /// of a call.
    pub renew_deadline: Duration,
    /// How often the Lease is read, and renewed by its holder.
    pub retry: Duration,
}

impl ElectionSettings {
    /// The defaults of client-go: 15 s, 10 s, 2 s.
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

/// An identity that no other process has, not even an earlier one of the same pod: the pod's name and a
/// random part. A container that restarts waits for the Lease of its predecessor to expire like any other
/// process, since writes of the predecessor may still be in flight.
pub fn unique_identity(pod: &str) -> String {
    // The standard library seeds this hasher from the system's random number generator.
    format!("{pod}_{:016x}", RandomState::new().build_hasher().finish())
}

/// When a process is able to lead.
pub struct Candidate {
    ready: Pin<Box<dyn Future<Output = ()> + Send>>,
    heartbeat: Heartbeat,
}

impl Candidate {
    /// Campaigns once `ready` has completed, and leads only while `heartbeat` is alive. The worker that does
    /// the leader's work calls `beat` after each successful step, and `rest` while it has nothing to do or
    /// does not lead. If it makes no progress, the Lease is released, and this process does not campaign for
    /// [`ElectionSettings::duration`].
    pub fn new(ready: impl Future<Output = ()> + Send + 'static, heartbeat: Heartbeat) -> Self {
        Self { ready: Box::pin(ready), heartbeat }
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate").field("heartbeat", &self.heartbeat).finish_non_exhaustive()
    }
}

/// Until when a renewal of the Lease is valid, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Validity {
    until: Instant,
    /// The wall clock when the renewal was sent.
    renewed: SystemTime,
    length: Duration,
}

impl Validity {
    fn new(length: Duration) -> Self {
        Self { until: Instant::now() + length, renewed: SystemTime::now(), length }
    }

    /// A wall clock that was set back is ignored; one that was set forward may show time that the monotonic
    /// clock missed.
    fn is_valid(&self, now: Instant, wall: SystemTime) -> bool {
        let elapsed = wall.duration_since(self.renewed).unwrap_or_default();
        now < self.until && elapsed < self.length
    }
}

/// Whether this process leads. Cheap to clone and to query.
#[derive(Clone, Debug)]
pub struct Leadership {
    validity: watch::Receiver<Option<Validity>>,
}

impl Leadership {
    /// Campaigns in a task of `tasks`. On shutdown the Lease is released.
    pub fn campaign(
        tasks: &mut Tasks,
        client: &Client,
        settings: ElectionSettings,
        candidate: Candidate,
        shutdown: CancellationToken,
    ) -> Self {
        let (sender, validity) = watch::channel(None);
        let api = Api::namespaced(client.clone(), &settings.namespace);
        tasks.spawn("leader election", async move {
            run(&api, &settings, candidate, &sender, shutdown).await;
            Ok::<(), std::convert::Infallible>(())
        });
        Self { validity }
    }

    /// Leads always, or never: for tests and for processes that need no election.
    pub fn fixed(leads: bool) -> Self {
        let (sender, validity) = watch::channel(leads.then(|| Validity::new(Duration::from_hours(24 * 365))));
        // Leadership is lost when the sender is dropped.
        std::mem::forget(sender);
        Self { validity }
    }

    /// Whether this process leads now. Check it right before each write.
    pub fn is_leading(&self) -> bool {
        self.validity.borrow().is_some_and(|validity| validity.is_valid(Instant::now(), SystemTime::now()))
    }

    /// Polls `work` only while this process leads, and drops it otherwise; none if it was dropped. So a
    /// process that was stopped between two steps of the work does not continue it.
    pub async fn while_leading<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|context| {
            if self.is_leading() { work.as_mut().poll(context).map(Some) } else { Poll::Ready(None) }
        })
        .await
    }

    /// Waits until this process leads.
    pub async fn wait_acquired(&mut self) {
        while !self.is_leading() {
            if self.validity.changed().await.is_err() {
                // The election has ended (shutdown): this process will not lead any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until this process does not lead any more.
    pub async fn wait_lost(&mut self) {
        loop {
            let Some(Validity { until, .. }) = *self.validity.borrow_and_update() else { return };
            tokio::select! {
                () = tokio::time::sleep_until(until) => if Instant::now() >= until && !self.is_leading() { return },
                changed = self.validity.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Campaigns until `shutdown`, and publishes on `leading` until when this process leads. Then releases the
/// Lease.
async fn run(
    api: &Api<Lease>,
    settings: &ElectionSettings,
    candidate: Candidate,
    leading: &watch::Sender<Option<Validity>>,
    shutdown: CancellationToken,
) {
    let Candidate { ready, heartbeat } = candidate;
    if shutdown.run_until_cancelled(ready).await.is_none() {
        return;
    }
    let mut observed: Option<Observation> = None;
    // Whether this process may hold the Lease, and when it may campaign again.
    let (mut held, mut not_before) = (false, Instant::now());
    let election = async {
        loop {
            let now = Instant::now();
            if !heartbeat.is_alive(now) {
                not_before = now + settings.duration;
                step_down(leading, settings, &format!("the worker {} makes no progress", heartbeat.name()));
                held = held && !try_release(api, settings).await;
            } else if now >= not_before {
                // Set before the request: it may succeed even if this future is dropped before the response.
                held = true;
                held = update_leadership(api, settings, leading, &mut observed).await;
            }
            tokio::time::sleep(settings.retry).await;
        }
    };
    shutdown.run_until_cancelled(election).await;
    leading.send_replace(None);
    if held {
        try_release(api, settings).await;
    }
}

/// Acquires or renews the Lease if possible, and publishes the result. Returns whether this process may hold
/// it now.
async fn update_leadership(
    api: &Api<Lease>,
    settings: &ElectionSettings,
    leading: &watch::Sender<Option<Validity>>,
    observed: &mut Option<Observation>,
) -> bool {
    match acquire_or_renew(api, settings, observed).await {
        Ok(Some(validity)) => {
            if leading.send_replace(Some(validity)).is_none() {
                tracing::info!(lease = settings.name, identity = settings.identity, "acquired the Lease");
            }
            true
        }
        Ok(None) => {
            step_down(leading, settings, "another process holds the Lease");
            false
        }
        Err(error) => {
            tracing::warn!(lease = settings.name, %error, "the Lease could not be read or written");
            if leading.borrow().is_some_and(|validity| Instant::now() >= validity.until) {
                step_down(leading, settings, "it could not be renewed in time");
            }
            true
        }
    }
}

/// Releases the Lease. Returns whether this process certainly does not hold it any more.
async fn try_release(api: &Api<Lease>, settings: &ElectionSettings) -> bool {
    match release(api, settings).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(lease = settings.name, %error, "the Lease could not be released; it will expire");
            false
        }
    }
}

fn step_down(leading: &watch::Sender<Option<Validity>>, settings: &ElectionSettings, why: &str) {
    if leading.send_replace(None).is_some() {
        tracing::warn!(lease = settings.name, why, "no longer leading");
    }
}

/// Acquires or renews the Lease, with a second attempt after a conflict. Returns until when this process
/// leads; none if another process holds the Lease.
async fn acquire_or_renew(
    api: &Api<Lease>,
    settings: &ElectionSettings,
    observed: &mut Option<Observation>,
) -> Result<Option<Validity>, CallError> {
    match try_acquire_or_renew(api, settings, observed).await {
        Err(error) if error.is_conflict() => try_acquire_or_renew(api, settings, observed).await,
        result => result,
    }
}

/// Reads the Lease, and writes it if this process may acquire or renew it.
async fn try_acquire_or_renew(
    api: &Api<Lease>,
    settings: &ElectionSettings,
    observed: &mut Option<Observation>,
) -> Result<Option<Validity>, CallError> {
    let lease = with_timeout(api.get_opt(&settings.name)).await?;
    *observed = Observation::update(observed.take(), lease.as_ref(), Instant::now());
    let before = Instant::now();
    let validity = Validity::new(settings.renew_deadline);
    let desired = match decide(observed.as_ref(), &settings.identity, before) {
        Decision::Wait => return Ok(None),
        Decision::Acquire { transitions } => {
            acquired(settings, lease.as_ref(), transitions, Timestamp::now())
        }
        Decision::Renew => renewed(settings, lease.as_ref()),
    };
    let written = match lease {
        None => with_timeout(api.create(&PostParams::default(), &desired)).await?,
        Some(_) => with_timeout(api.replace(&settings.name, &PostParams::default(), &desired)).await?,
    };
    *observed = Observation::update(observed.take(), Some(&written), before);
    Ok(Some(validity))
}

/// The Lease with this process as its holder.
fn acquired(settings: &ElectionSettings, current: Option<&Lease>, transitions: i32, now: Timestamp) -> Lease {
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
fn renewed(settings: &ElectionSettings, current: Option<&Lease>) -> Lease {
    let mut lease = current.cloned().unwrap_or_default();
    let spec = lease.spec.get_or_insert_default();
    spec.renew_time = Some(MicroTime(Timestamp::now()));
    spec.lease_duration_seconds = Some(seconds(settings.duration));
    lease
}

/// Clears the holder of the Lease if this process is still its holder, so that a successor need not wait.
async fn release(api: &Api<Lease>, settings: &ElectionSettings) -> Result<(), CallError> {
    let Some(mut lease) = with_timeout(api.get_opt(&settings.name)).await? else { return Ok(()) };
    let Some(spec) = lease.spec.as_mut() else { return Ok(()) };
    if spec.holder_identity.as_deref() != Some(settings.identity.as_str()) {
        return Ok(());
    }
    spec.holder_identity = None;
    spec.lease_duration_seconds = Some(1);
    spec.renew_time = Some(MicroTime(Timestamp::now()));
    match with_timeout(api.replace(&settings.name, &PostParams::default(), &lease)).await {
        Err(error) if !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

/// Rounded up: the Lease must not expire for other processes before it does for its holder.
fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis().div_ceil(1_000).max(1)).unwrap_or(i32::MAX)
}
