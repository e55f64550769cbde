//! Writes of Service status: several at once, one for each Service, each bounded in time, repeated with backoff.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crds::ServiceKey;
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use runtime::client::{CallError, bounded};
use runtime::lease::Leadership;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::COMPONENT;
use crate::metrics::Metrics;
use crate::service::{Note, Plan, version};

/// Writes under way at once: enough to keep one API server busy, few enough to leave it to others.
const CONCURRENT: usize = 32;

/// Pauses between attempts at one Service's write.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// After so many looks, each twice as late as the one before, a write of unknown outcome is taken for failed: 25 s.
const LATEST: u32 = 8;

/// What came of a write.
#[derive(Debug)]
pub(super) enum Ended {
    /// It is done; this is the Service after it.
    Written { key: ServiceKey, service: Box<Service>, notes: Vec<Note> },
    /// It may or may not have been done.
    Unknown { key: ServiceKey },
    /// It was certainly not done.
    Refused { key: ServiceKey, version: u64 },
    /// The Service exists, as this.
    Verified { service: Box<Service> },
    /// The Service does not exist.
    Gone { key: ServiceKey },
    /// Not begun, since this replica no longer leads, or nothing came of it.
    Nothing,
}

/// Writes that were begun and are not known to have ended, over all terms of this process: the version that each was
/// made for, and its addresses. A server may carry one out long after the client gave up on it. Once a later version
/// is seen, it has either made that or can no more succeed.
#[derive(Clone, Debug, Default)]
pub(super) struct Unsettled(Arc<Mutex<HashMap<ServiceKey, (u64, Vec<IpAddr>)>>>);

impl Unsettled {
    fn lock(&self) -> MutexGuard<'_, HashMap<ServiceKey, (u64, Vec<IpAddr>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, key: &ServiceKey, plan: &Plan) {
        let mut writes = self.lock();
        let (version, addresses) = writes.entry(key.clone()).or_default();
        *version = (*version).max(plan.version);
        // An earlier one may still be carried out instead.
        for ip in &plan.addresses {
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

    /// What the Service may have beside what it had at `version`.
    fn addresses(&self, key: &ServiceKey, version: u64) -> Vec<IpAddr> {
        let mut writes = self.lock();
        if writes.get(key).is_some_and(|(made_for, _)| version > *made_for) {
            writes.remove(key);
        }
        writes.get(key).map(|(_, addresses)| addresses.clone()).unwrap_or_default()
    }
}

/// What a task brings back.
#[derive(Debug)]
struct Report {
    key: ServiceKey,
    verified: bool,
    plan: Option<Plan>,
    result: Option<Result<Option<Service>, CallError>>,
}

#[derive(Debug, Clone, Copy)]
struct Retry {
    attempts: u32,
    at: Instant,
    /// It is the question whether the Service exists that failed, not a write.
    verify: bool,
}

/// The writes of one term.
pub(super) struct Writes {
    client: Client,
    leadership: Leadership,
    metrics: Metrics,
    /// No write lasts longer: less than what is left of the Lease when its holder begins no more of them.
    bound: Duration,
    tasks: JoinSet<Report>,
    under_way: HashSet<ServiceKey>,
    unsettled: Unsettled,
    verifying: HashSet<ServiceKey>,
    plans: HashMap<ServiceKey, Plan>,
    order: VecDeque<ServiceKey>,
    retries: HashMap<ServiceKey, Retry>,
    /// The same by time.
    schedule: BTreeSet<(Instant, ServiceKey)>,
}

impl Writes {
    pub(super) fn new(
        client: Client,
        leadership: Leadership,
        metrics: Metrics,
        bound: Duration,
        unsettled: Unsettled,
    ) -> Self {
        Self {
            client,
            leadership,
            metrics,
            bound,
            tasks: JoinSet::new(),
            under_way: HashSet::new(),
            unsettled,
            verifying: HashSet::new(),
            plans: HashMap::new(),
            order: VecDeque::new(),
            retries: HashMap::new(),
            schedule: BTreeSet::new(),
        }
    }

    /// Queues `plan` as the next write of `key`, in place of one that has not begun.
    pub(super) fn queue(&mut self, key: &ServiceKey, plan: Plan) {
        if self.under_way.contains(key)
            || self.retries.get(key).is_some_and(|retry| !retry.verify && Instant::now() < retry.at)
        {
            // Reviewed again when that is over.
            return;
        }
        if self.plans.insert(key.clone(), plan).is_none() {
            self.order.push_back(key.clone());
        }
    }

    /// The Service is as it shall be, as far as is known.
    pub(super) fn settled(&mut self, key: &ServiceKey) {
        self.plans.remove(key);
        if self.under_way.contains(key) {
            return;
        }
        if !self.unsettled.contains(key) {
            self.end_retries(key);
        } else if !self.retries.contains_key(key) {
            // Nothing more is to be written, so nothing else would end the doubt.
            self.retry_later(key, true);
        }
    }

    /// The Service is gone.
    pub(super) fn forget(&mut self, key: &ServiceKey) {
        self.plans.remove(key);
        self.unsettled.end(key);
        self.end_retries(key);
    }

    /// What the API may store for `key`, which at `version` had `stored`.
    pub(super) fn possibly_stored(
        &mut self,
        key: &ServiceKey,
        version: u64,
        mut stored: Vec<IpAddr>,
    ) -> Vec<IpAddr> {
        for ip in self.unsettled.addresses(key, version) {
            if !stored.contains(&ip) {
                stored.push(ip);
            }
        }
        stored
    }

    /// Begins as many writes as may be under way.
    pub(super) fn begin(&mut self) {
        while self.under_way.len() < CONCURRENT {
            let Some(key) = self.order.pop_front() else { return };
            let Some(plan) = self.plans.remove(&key) else { continue };
            self.under_way.insert(key.clone());
            self.unsettled.begin(&key, &plan);
            let api: Api<Service> = Api::namespaced(self.client.clone(), &key.namespace);
            let (leadership, bound) = (self.leadership.clone(), self.bound);
            self.tasks.spawn(async move {
                // The last thing before the write: a replica that was stopped meanwhile writes nothing more.
                let result = if leadership.is_leading() {
                    let parameters =
                        PatchParams { field_manager: Some(COMPONENT.into()), ..PatchParams::default() };
                    let patch = Patch::Merge(&plan.patch);
                    // What was sent carries the version that it was made for, so a successor's write has outdated it.
                    let write = bounded(api.patch_status(&key.name, &parameters, &patch));
                    let written = tokio::time::timeout(bound, leadership.while_leading(write)).await;
                    Some(written.ok().flatten().unwrap_or(Err(CallError::Timeout)).map(Some))
                } else {
                    None
                };
                Report { key, verified: false, plan: Some(plan), result }
            });
        }
    }

    /// Whether a write is under way.
    pub(super) fn busy(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Asks the API whether the Service exists.
    pub(super) fn verify(&mut self, key: &ServiceKey) {
        if !self.verifying.insert(key.clone()) {
            return;
        }
        let api: Api<Service> = Api::namespaced(self.client.clone(), &key.namespace);
        let key = key.clone();
        self.tasks.spawn(async move {
            let parameters = ListParams::default().fields(&format!("metadata.name={}", key.name));
            let result = bounded(api.list(&parameters)).await.map(|list| list.items.into_iter().next());
            Report { key, verified: true, plan: None, result: Some(result) }
        });
    }

    /// Waits for the next write to end. Cancel-safe.
    pub(super) async fn ended(&mut self) -> Ended {
        match self.tasks.join_next().await {
            None => std::future::pending().await,
            Some(Err(error)) => {
                // Nothing in the tasks panics. Were one lost, its Service would wait for the next term.
                tracing::error!(%error, "a write was lost");
                Ended::Nothing
            }
            Some(Ok(report)) => self.settle(report),
        }
    }

    fn settle(&mut self, report: Report) -> Ended {
        let Report { key, verified, plan, result } = report;
        if verified {
            self.verifying.remove(&key);
            return match result {
                Some(Ok(Some(service))) => {
                    if !self.unsettled.addresses(&key, version(&service)).is_empty() {
                        if self.retries.get(&key).is_none_or(|retry| retry.attempts < LATEST) {
                            self.retry_later(&key, true);
                        } else {
                            // No server works so long at a request that its client gave up.
                            self.unsettled.end(&key);
                            self.end_retries(&key);
                        }
                    }
                    Ended::Verified { service: Box::new(service) }
                }
                Some(Ok(None)) => Ended::Gone { key },
                _ => {
                    self.retry_later(&key, true);
                    Ended::Nothing
                }
            };
        }
        self.under_way.remove(&key);
        let (notes, version) = plan.map(|plan| (plan.notes, plan.version)).unwrap_or_default();
        match result {
            None | Some(Ok(None)) => {
                // If the term goes on all the same, it is still due.
                self.retry_later(&key, false);
                Ended::Nothing
            }
            Some(Ok(Some(service))) => {
                self.metrics.updates.inc();
                self.unsettled.end(&key);
                self.end_retries(&key);
                Ended::Written { key, service: Box::new(service), notes }
            }
            Some(Err(error)) => {
                if error.is_conflict() {
                    tracing::debug!(service = %key, "the Service was changed meanwhile");
                    return Ended::Refused { key, version };
                }
                self.metrics.update_errors.inc();
                tracing::warn!(service = %key, %error, "the status of a Service could not be written, trying again");
                match error.code() {
                    Some(404) => {
                        // Until the watch tells of the deletion, another write would be made and end the same way.
                        self.retry_later(&key, true);
                        Ended::Nothing
                    }
                    Some(400..=499) => Ended::Refused { key, version },
                    _ => {
                        self.retry_later(&key, false);
                        Ended::Unknown { key }
                    }
                }
            }
        }
    }

    /// Leaves the Service alone for a while, longer each time.
    pub(super) fn retry_later(&mut self, key: &ServiceKey, verify: bool) {
        let attempts = self.retries.get(key).map_or(0, |retry| retry.attempts);
        self.end_retries(key);
        let pause = FIRST_PAUSE.saturating_mul(1 << attempts.min(16)).min(LONGEST_PAUSE);
        let at = Instant::now() + pause;
        self.retries.insert(key.clone(), Retry { attempts: attempts + 1, at, verify });
        self.schedule.insert((at, key.clone()));
    }

    fn end_retries(&mut self, key: &ServiceKey) {
        if let Some(retry) = self.retries.remove(key) {
            self.schedule.remove(&(retry.at, key.clone()));
        }
    }

    /// When [`Self::due_retries`] has something.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.schedule.first().map(|(at, _)| *at)
    }

    /// Takes the Services whose pause is over, with whether it is to be asked if they exist.
    ///
    /// Their count of attempts stays until a write succeeds or is no longer needed.
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
    use kube::core::Status;

    use super::*;
    use crate::owner::tests::nowhere;

    #[tokio::test]
    async fn a_service_that_a_write_does_not_find_is_asked_for_after_a_pause_longer_each_time() {
        let leadership = Leadership::fixed(true);
        let bound = Duration::from_secs(1);
        let mut writes = Writes::new(nowhere(), leadership, Metrics::default(), bound, Unsettled::default());
        for pause in [FIRST_PAUSE, FIRST_PAUSE * 2, FIRST_PAUSE * 4] {
            let begun = Instant::now();
            let not_found = kube::Error::Api(Status::failure("gone", "NotFound").with_code(404).boxed());
            let ended = writes.settle(Report {
                key: ServiceKey::new("shop", "web"),
                verified: false,
                plan: None,
                result: Some(Err(not_found.into())),
            });
            assert!(matches!(ended, Ended::Nothing), "{ended:?}");
            assert!(writes.verifying.is_empty());
            assert!(writes.next_retry().unwrap() >= begun + pause);
        }
    }
}
