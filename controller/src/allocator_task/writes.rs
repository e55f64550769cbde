//! Writes of Service statuses: concurrent, one at a time per Service, each with a timeout, retried with
//! backoff.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crds::ServiceKey;
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::api::{Api, ApiResource, ListParams, Patch};
use runtime::client::{CallError, with_timeout};
use runtime::lease::Leadership;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::api::merge_parameters;
use crate::log::{List, service_span};
use crate::metrics::Metrics;
use crate::other_writer::other_writer;
use crate::service::{self, ServiceWrite, version};

/// Concurrent writes: enough to use one API server well, few enough not to monopolize it.
const MAX_CONCURRENT_WRITES: usize = 32;

/// Delay before the first retry of a write, and the longest delay.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Concurrent queries whether a Service exists.
const MAX_CONCURRENT_VERIFIES: usize = 8;

/// The number of queries, each after twice the delay of the one before, after which a write with unknown
/// result counts as failed: 25 s.
const MAX_VERIFY_ATTEMPTS: u32 = 8;

/// The result of a write or of a query.
#[derive(Debug)]
pub(super) enum Completion {
    /// The write succeeded; the Service after it.
    Written { key: ServiceKey, service: Box<Service>, write: Box<ServiceWrite> },
    /// The result of the write is not known.
    Unknown { key: ServiceKey },
    /// The write failed, with no effect.
    Refused { key: ServiceKey, version: u64 },
    /// The Service exists; its present version.
    Verified { service: Box<Service> },
    /// The Service does not exist.
    Gone { key: ServiceKey },
    /// The other writer of its status.
    OtherWriter { key: ServiceKey, manager: Option<String> },
    /// No result: the write was not sent, since this replica no longer leads, or the query failed.
    Nothing,
}

impl Completion {
    /// The Service that it is about, if any.
    pub(super) fn service(&self) -> Option<ServiceKey> {
        match self {
            Self::Written { key, .. }
            | Self::Unknown { key }
            | Self::Refused { key, .. }
            | Self::Gone { key }
            | Self::OtherWriter { key, .. } => Some(key.clone()),
            Self::Verified { service } => Some(ServiceKey::of(service)),
            Self::Nothing => None,
        }
    }
}

/// Writes that were sent and whose result is not known, over all terms of this process. The API server may
/// carry one out long after the client gave up. Once a later version is seen, the write has either produced
/// it or can no longer succeed.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlight(Arc<Mutex<SentWrites>>);

/// The version that each write was made for, and its addresses.
type SentWrites = HashMap<ServiceKey, (u64, Vec<IpAddr>)>;

impl InFlight {
    fn lock(&self) -> MutexGuard<'_, SentWrites> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, key: &ServiceKey, write: &ServiceWrite) {
        let mut writes = self.lock();
        let (version, addresses) = writes.entry(key.clone()).or_default();
        *version = (*version).max(write.version);
        // An earlier write for the Service may still be carried out instead.
        for ip in &write.addresses {
            if !addresses.contains(ip) {
                addresses.push(*ip);
            }
        }
    }

    fn end(&self, key: &ServiceKey) {
        self.lock().remove(key);
    }

    fn contains(&self, key: &ServiceKey) -> bool {
        self.lock().contains_key(key)
    }

    /// The addresses that the Service may have in addition to those of `version`.
    fn addresses(&self, key: &ServiceKey, version: u64) -> Vec<IpAddr> {
        let mut writes = self.lock();
        if writes.get(key).is_some_and(|(made_for, _)| version > *made_for) {
            writes.remove(key);
        }
        writes.get(key).map(|(_, addresses)| addresses.clone()).unwrap_or_default()
    }
}

/// The result of a task.
#[derive(Debug)]
enum TaskResult {
    /// Of a write; no result if it was not sent.
    Write { key: ServiceKey, write: Box<ServiceWrite>, result: Option<Result<Service, CallError>> },
    /// Whether the Service exists.
    Verify { key: ServiceKey, result: Result<Option<Service>, CallError> },
    /// The other writer of its status.
    OtherWriter { key: ServiceKey, manager: Option<String> },
}

impl TaskResult {
    /// The Service that it is about.
    fn service(&self) -> &ServiceKey {
        match self {
            Self::Write { key, .. } | Self::Verify { key, .. } | Self::OtherWriter { key, .. } => key,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Retry {
    attempts: u32,
    at: Instant,
    /// Whether to query the Service, not to write it.
    verify: bool,
}

/// The writes of one term.
pub(super) struct Writes {
    client: Client,
    leadership: Leadership,
    metrics: Metrics,
    /// Timeout of a write: less than what remains of the Lease when its holder stops sending them.
    timeout: Duration,
    tasks: JoinSet<TaskResult>,
    writing: HashSet<ServiceKey>,
    in_flight: InFlight,
    verifying: HashSet<ServiceKey>,
    /// To be queried after one of those.
    verify_queue: BTreeSet<ServiceKey>,
    /// Writes that failed or got no answer, but may have been carried out nevertheless, perhaps by an earlier
    /// attempt.
    unconfirmed: HashMap<ServiceKey, Box<ServiceWrite>>,
    queued: HashMap<ServiceKey, ServiceWrite>,
    order: VecDeque<ServiceKey>,
    retries: HashMap<ServiceKey, Retry>,
    /// The retries by time.
    schedule: BTreeSet<(Instant, ServiceKey)>,
}

impl Writes {
    pub(super) fn new(
        client: Client,
        leadership: Leadership,
        metrics: Metrics,
        timeout: Duration,
        in_flight: InFlight,
    ) -> Self {
        Self {
            client,
            leadership,
            metrics,
            timeout,
            tasks: JoinSet::new(),
            writing: HashSet::new(),
            in_flight,
            verifying: HashSet::new(),
            verify_queue: BTreeSet::new(),
            unconfirmed: HashMap::new(),
            queued: HashMap::new(),
            order: VecDeque::new(),
            retries: HashMap::new(),
            schedule: BTreeSet::new(),
        }
    }

    /// Queues `write` for `key`, in place of one that was not sent yet.
    pub(super) fn queue(&mut self, key: &ServiceKey, write: ServiceWrite) {
        if self.writing.contains(key)
            || self.retries.get(key).is_some_and(|retry| !retry.verify && Instant::now() < retry.at)
        {
            // Planned again after that.
            return;
        }
        tracing::debug!(version = write.version, desired = %List(&write.addresses), "write queued");
        if self.queued.insert(key.clone(), write).is_none() {
            self.order.push_back(key.clone());
        }
    }

    /// The status of the Service is up to date, as far as is known.
    pub(super) fn up_to_date(&mut self, key: &ServiceKey) {
        self.queued.remove(key);
        if self.writing.contains(key) {
            return;
        }
        if !self.in_flight.contains(key) {
            self.end_retries(key);
        } else if !self.retries.contains_key(key) {
            // No other write will follow, so query whether that write was carried out.
            self.retry_later(key, true);
        }
    }

    /// The Service was deleted.
    pub(super) fn remove(&mut self, key: &ServiceKey) {
        self.queued.remove(key);
        self.unconfirmed.remove(key);
        self.verify_queue.remove(key);
        self.in_flight.end(key);
        self.end_retries(key);
    }

    /// Takes the unconfirmed write of `key` that was carried out, as `service` shows, whose status is up to
    /// date.
    pub(super) fn take_confirmed(
        &mut self,
        key: &ServiceKey,
        service: &Service,
    ) -> Option<Box<ServiceWrite>> {
        let write = self.unconfirmed.remove(key)?;
        let done = version(service) > write.version && service::stored_addresses(service) == write.addresses;
        done.then_some(write)
    }

    /// The addresses that the API may store for `key`, whose `version` has `stored`.
    pub(super) fn possibly_stored(
        &mut self,
        key: &ServiceKey,
        version: u64,
        mut stored: Vec<IpAddr>,
    ) -> Vec<IpAddr> {
        for ip in self.in_flight.addresses(key, version) {
            if !stored.contains(&ip) {
                stored.push(ip);
            }
        }
        stored
    }

    /// Sends queued writes, up to the limit.
    pub(super) fn start_queued(&mut self) {
        while self.writing.len() < MAX_CONCURRENT_WRITES {
            let Some(key) = self.order.pop_front() else { return };
            let Some(write) = self.queued.remove(&key) else { continue };
            self.writing.insert(key.clone());
            self.in_flight.begin(&key, &write);
            let api: Api<Service> = Api::namespaced(self.client.clone(), &key.namespace);
            let (leadership, timeout) = (self.leadership.clone(), self.timeout);
            let span = service_span(&key);
            let task = async move {
                // Checked immediately before the write, since the process may have been suspended.
                let result = if leadership.is_leading() {
                    let parameters = merge_parameters();
                    let patch = Patch::Merge(&write.patch);
                    // The patch has the version that it was made for, so it fails after a write of a
                    // successor.
                    let call = with_timeout(api.patch_status(&key.name, &parameters, &patch));
                    let written = tokio::time::timeout(timeout, leadership.while_leading(call)).await;
                    Some(written.ok().flatten().unwrap_or(Err(CallError::Timeout)))
                } else {
                    None
                };
                TaskResult::Write { key, write: Box::new(write), result }
            };
            self.tasks.spawn(task.instrument(span));
        }
    }

    /// Whether a write of this Service is pending.
    pub(super) fn is_writing(&self, key: &ServiceKey) -> bool {
        self.writing.contains(key)
    }

    /// Removes a queued write.
    pub(super) fn cancel_queued(&mut self, key: &ServiceKey) {
        self.queued.remove(key);
    }

    /// Whether any write is pending.
    pub(super) fn is_busy(&self) -> bool {
        !self.writing.is_empty()
    }

    /// Queries whether the Service exists.
    pub(super) fn verify(&mut self, key: &ServiceKey) {
        if self.verifying.contains(key) {
            return;
        }
        if self.verifying.len() >= MAX_CONCURRENT_VERIFIES {
            self.verify_queue.insert(key.clone());
            return;
        }
        self.verifying.insert(key.clone());
        let api: Api<Service> = Api::namespaced(self.client.clone(), &key.namespace);
        let key = key.clone();
        let span = service_span(&key);
        let task = async move {
            let parameters = ListParams::default().fields(&format!("metadata.name={}", key.name));
            let result = with_timeout(api.list(&parameters)).await.map(|list| list.items.into_iter().next());
            TaskResult::Verify { key, result }
        };
        self.tasks.spawn(task.instrument(span));
    }

    /// Queries which other client writes the status of the Service.
    pub(super) fn identify_other_writer(&mut self, key: &ServiceKey) {
        let (client, key) = (self.client.clone(), key.clone());
        let span = service_span(&key);
        let task = async move {
            let resource = ApiResource::erase::<Service>(&());
            let manager = other_writer(&client, &resource, &key.namespace, &key.name).await;
            TaskResult::OtherWriter { key, manager }
        };
        self.tasks.spawn(task.instrument(span));
    }

    /// Waits for the next result. Cancel-safe.
    pub(super) async fn next_completion(&mut self) -> Completion {
        match self.tasks.join_next().await {
            None => std::future::pending().await,
            Some(Err(error)) => {
                // The tasks do not panic. If one did, its Service would not be written until the next term.
                tracing::error!(%error, "a write task panicked");
                Completion::Nothing
            }
            Some(Ok(result)) => service_span(result.service()).in_scope(|| self.complete(result)),
        }
    }

    fn complete(&mut self, result: TaskResult) -> Completion {
        match result {
            TaskResult::Write { key, write, result } => self.complete_write(key, write, result),
            TaskResult::Verify { key, result } => {
                self.verifying.remove(&key);
                if let Some(next) = self.verify_queue.pop_first() {
                    self.verify(&next);
                }
                self.complete_verify(key, result)
            }
            TaskResult::OtherWriter { key, manager } => Completion::OtherWriter { key, manager },
        }
    }

    fn complete_verify(&mut self, key: ServiceKey, result: Result<Option<Service>, CallError>) -> Completion {
        match result {
            Ok(Some(service)) => {
                if !self.in_flight.addresses(&key, version(&service)).is_empty() {
                    if self.retries.get(&key).is_none_or(|retry| retry.attempts < MAX_VERIFY_ATTEMPTS) {
                        self.retry_later(&key, true);
                    } else {
                        // No API server processes an abandoned request for so long.
                        self.in_flight.end(&key);
                        self.end_retries(&key);
                    }
                }
                Completion::Verified { service: Box::new(service) }
            }
            Ok(None) => Completion::Gone { key },
            Err(_) => {
                self.retry_later(&key, true);
                Completion::Nothing
            }
        }
    }

    fn complete_write(
        &mut self,
        key: ServiceKey,
        write: Box<ServiceWrite>,
        result: Option<Result<Service, CallError>>,
    ) -> Completion {
        self.writing.remove(&key);
        let version = write.version;
        let error = match result {
            None => {
                // If the term continues nevertheless, the write is still due.
                self.retry_later(&key, false);
                return Completion::Nothing;
            }
            Some(Ok(service)) => {
                self.metrics.updates.inc();
                self.in_flight.end(&key);
                self.unconfirmed.remove(&key);
                self.end_retries(&key);
                return Completion::Written { key, service: Box::new(service), write };
            }
            Some(Err(error)) => error,
        };
        if error.is_conflict() {
            tracing::debug!(version, "the Service has changed since it was read");
            self.unconfirmed.entry(key.clone()).or_insert(write);
            return Completion::Refused { key, version };
        }
        self.metrics.update_errors.inc();
        tracing::warn!(version, %error, "the status could not be written, will retry");
        match error.code() {
            Some(404) => {
                // Until the watch reports the deletion, another write would fail the same way.
                self.retry_later(&key, true);
                Completion::Nothing
            }
            Some(400..=499) => Completion::Refused { key, version },
            _ => {
                self.unconfirmed.insert(key.clone(), write);
                self.retry_later(&key, false);
                Completion::Unknown { key }
            }
        }
    }

    /// Schedules a retry, with a longer delay each time.
    pub(super) fn retry_later(&mut self, key: &ServiceKey, verify: bool) {
        let attempts = self.retries.get(key).map_or(0, |retry| retry.attempts);
        self.end_retries(key);
        let delay = MIN_BACKOFF.saturating_mul(1 << attempts.min(16)).min(MAX_BACKOFF);
        let at = Instant::now() + delay;
        tracing::debug!(delay_ms = delay.as_millis(), verify, "retry scheduled");
        self.retries.insert(key.clone(), Retry { attempts: attempts + 1, at, verify });
        self.schedule.insert((at, key.clone()));
    }

    fn end_retries(&mut self, key: &ServiceKey) {
        if let Some(retry) = self.retries.remove(key) {
            self.schedule.remove(&(retry.at, key.clone()));
        }
    }

    /// When [`Self::due_retries`] must be called next.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.schedule.first().map(|(at, _)| *at)
    }

    /// Takes the Services whose retry is due, each with whether to query it. Attempts are counted until a
    /// write succeeds or is no longer needed.
    pub(super) fn due_retries(&mut self) -> Vec<(ServiceKey, bool)> {
        let now = Instant::now();
        let mut due = Vec::new();
        while self.schedule.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.schedule.pop_first() else { break };
            let verify = self.retries.get(&key).is_some_and(|retry| retry.verify);
            due.push((key, verify));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use kube::core::Status;
    use serde_json::json;

    use super::*;
    use crate::fixtures::unreachable_client;
    use crate::service::StatusInputs;

    /// A write that clears a Service which is no longer a load balancer.
    fn pending_write() -> ServiceWrite {
        let service = json!({"metadata": {"namespace": "shop", "name": "web", "resourceVersion": "7"},
            "spec": {"type": "ClusterIP"}, "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}}});
        let service: Service = serde_json::from_value(service).unwrap();
        service::plan_write(&service, None, &StatusInputs::default(), Timestamp::now()).unwrap()
    }

    fn writes() -> Writes {
        let timeout = Duration::from_secs(1);
        Writes::new(
            unreachable_client(),
            Leadership::fixed(true),
            Metrics::default(),
            timeout,
            InFlight::default(),
        )
    }

    #[tokio::test]
    async fn only_a_few_services_are_queried_concurrently() {
        let mut writes = writes();
        let keys: Vec<ServiceKey> = (0..1_000).map(|n| ServiceKey::new("shop", format!("s{n}"))).collect();
        for key in keys.iter().chain(&keys) {
            writes.verify(key);
        }
        let mut answered = HashSet::new();
        while !writes.verifying.is_empty() {
            assert!(writes.tasks.len() <= MAX_CONCURRENT_VERIFIES, "{} at once", writes.tasks.len());
            let key = writes.verifying.iter().next().unwrap().clone();
            writes.tasks.abort_all();
            while writes.tasks.join_next().await.is_some() {}
            writes.complete(TaskResult::Verify { key: key.clone(), result: Ok(None) });
            answered.insert(key);
        }
        assert_eq!(answered.len(), keys.len(), "each is queried eventually");
    }

    #[tokio::test]
    async fn a_service_that_a_write_does_not_find_is_queried_with_backoff() {
        let mut writes = writes();
        for delay in [MIN_BACKOFF, MIN_BACKOFF * 2, MIN_BACKOFF * 4] {
            let begun = Instant::now();
            let not_found = kube::Error::Api(Status::failure("gone", "NotFound").with_code(404).boxed());
            let ended = writes.complete(TaskResult::Write {
                key: ServiceKey::new("shop", "web"),
                write: Box::new(pending_write()),
                result: Some(Err(not_found.into())),
            });
            assert!(matches!(ended, Completion::Nothing), "{ended:?}");
            assert!(writes.verifying.is_empty());
            assert!(writes.next_retry().unwrap() >= begun + delay);
        }
    }
}
