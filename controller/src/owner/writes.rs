//! Writes of Service status: several at once, one for each Service, each bounded in time, repeated with backoff.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crds::ServiceKey;
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::api::{Api, ApiResource, ListParams, Patch, PatchParams};
use runtime::client::{CallError, with_timeout};
use runtime::lease::Leadership;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::COMPONENT;
use crate::metrics::Metrics;
use crate::other_writer::other_writer;
use crate::service::{self, Plan, version};

/// Writes under way at once: enough to keep one API server busy, few enough to leave it to others.
const CONCURRENT: usize = 32;

/// Pauses between attempts at one Service's write.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Questions to the API whether a Service exists, under way at once.
const VERIFYING: usize = 8;

/// After so many looks, each twice as late as the one before, a write of unknown outcome is taken for failed: 25 s.
const LATEST: u32 = 8;

/// What came of a write.
#[derive(Debug)]
pub(super) enum Ended {
    /// It is done; this is the Service after it.
    Written { key: ServiceKey, service: Box<Service>, plan: Box<Plan> },
    /// It may or may not have been done.
    Unknown { key: ServiceKey },
    /// It was certainly not done.
    Refused { key: ServiceKey, version: u64 },
    /// The Service exists, as this.
    Verified { service: Box<Service> },
    /// The Service does not exist.
    Gone { key: ServiceKey },
    /// Who else writes its status.
    OtherWriter { key: ServiceKey, manager: Option<String> },
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
enum Report {
    /// Of a write; no result if it was not begun.
    Write { key: ServiceKey, plan: Box<Plan>, result: Option<Result<Service, CallError>> },
    /// Whether the Service exists.
    Verify { key: ServiceKey, result: Result<Option<Service>, CallError> },
    /// Who else writes its status.
    OtherWriter { key: ServiceKey, manager: Option<String> },
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
    /// To be asked for when one of those has been answered.
    to_verify: BTreeSet<ServiceKey>,
    /// Writes that the API has refused or not answered, which may have been done all the same: by an earlier attempt.
    untold: HashMap<ServiceKey, Box<Plan>>,
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
            to_verify: BTreeSet::new(),
            untold: HashMap::new(),
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
        self.untold.remove(key);
        self.to_verify.remove(key);
        self.unsettled.end(key);
        self.end_retries(key);
    }

    /// Takes the write that seemed to have failed but was done, as `service` shows, to which nothing more is to be written.
    pub(super) fn done_after_all(&mut self, key: &ServiceKey, service: &Service) -> Option<Box<Plan>> {
        let plan = self.untold.remove(key)?;
        let done = version(service) > plan.version && service::stored(service) == plan.addresses;
        done.then_some(plan)
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
                    let write = with_timeout(api.patch_status(&key.name, &parameters, &patch));
                    let written = tokio::time::timeout(bound, leadership.while_leading(write)).await;
                    Some(written.ok().flatten().unwrap_or(Err(CallError::Timeout)))
                } else {
                    None
                };
                Report::Write { key, plan: Box::new(plan), result }
            });
        }
    }

    /// Whether a write of this Service is under way.
    pub(super) fn is_writing(&self, key: &ServiceKey) -> bool {
        self.under_way.contains(key)
    }

    /// Takes a write back that has not begun.
    pub(super) fn withdraw(&mut self, key: &ServiceKey) {
        self.plans.remove(key);
    }

    /// Whether a write is under way.
    pub(super) fn busy(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Asks the API whether the Service exists.
    pub(super) fn verify(&mut self, key: &ServiceKey) {
        if self.verifying.contains(key) {
            return;
        }
        if self.verifying.len() >= VERIFYING {
            self.to_verify.insert(key.clone());
            return;
        }
        self.verifying.insert(key.clone());
        let api: Api<Service> = Api::namespaced(self.client.clone(), &key.namespace);
        let key = key.clone();
        self.tasks.spawn(async move {
            let parameters = ListParams::default().fields(&format!("metadata.name={}", key.name));
            let result = with_timeout(api.list(&parameters)).await.map(|list| list.items.into_iter().next());
            Report::Verify { key, result }
        });
    }

    /// Asks the API who else writes the status of the Service.
    pub(super) fn identify(&mut self, key: &ServiceKey) {
        let (client, key) = (self.client.clone(), key.clone());
        self.tasks.spawn(async move {
            let resource = ApiResource::erase::<Service>(&());
            let manager = other_writer(&client, &resource, &key.namespace, &key.name).await;
            Report::OtherWriter { key, manager }
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
        match report {
            Report::Write { key, plan, result } => self.settle_write(key, plan, result),
            Report::Verify { key, result } => {
                self.verifying.remove(&key);
                if let Some(next) = self.to_verify.pop_first() {
                    self.verify(&next);
                }
                self.settle_question(key, result)
            }
            Report::OtherWriter { key, manager } => Ended::OtherWriter { key, manager },
        }
    }

    fn settle_question(&mut self, key: ServiceKey, result: Result<Option<Service>, CallError>) -> Ended {
        match result {
            Ok(Some(service)) => {
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
            Ok(None) => Ended::Gone { key },
            Err(_) => {
                self.retry_later(&key, true);
                Ended::Nothing
            }
        }
    }

    fn settle_write(
        &mut self,
        key: ServiceKey,
        plan: Box<Plan>,
        result: Option<Result<Service, CallError>>,
    ) -> Ended {
        self.under_way.remove(&key);
        let version = plan.version;
        let error = match result {
            None => {
                // If the term goes on all the same, it is still due.
                self.retry_later(&key, false);
                return Ended::Nothing;
            }
            Some(Ok(service)) => {
                self.metrics.updates.inc();
                self.unsettled.end(&key);
                self.untold.remove(&key);
                self.end_retries(&key);
                return Ended::Written { key, service: Box::new(service), plan };
            }
            Some(Err(error)) => error,
        };
        if error.is_conflict() {
            tracing::debug!(service = %key, "the Service was changed meanwhile");
            self.untold.entry(key.clone()).or_insert(plan);
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
                self.untold.insert(key.clone(), plan);
                self.retry_later(&key, false);
                Ended::Unknown { key }
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
    use k8s_openapi::jiff::Timestamp;
    use kube::core::Status;
    use serde_json::json;

    use super::*;
    use crate::owner::tests::nowhere;
    use crate::service::Remarks;

    /// Clears a Service that is no load balancer any more.
    fn a_plan() -> Plan {
        let service = json!({"metadata": {"namespace": "shop", "name": "web", "resourceVersion": "7"},
            "spec": {"type": "ClusterIP"}, "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}}});
        let service: Service = serde_json::from_value(service).unwrap();
        service::plan(&service, None, &Remarks::default(), Timestamp::now()).unwrap()
    }

    fn writes() -> Writes {
        let bound = Duration::from_secs(1);
        Writes::new(nowhere(), Leadership::fixed(true), Metrics::default(), bound, Unsettled::default())
    }

    #[tokio::test]
    async fn however_many_services_a_list_lacks_few_are_asked_for_at_once() {
        let mut writes = writes();
        let keys: Vec<ServiceKey> = (0..1_000).map(|n| ServiceKey::new("shop", format!("s{n}"))).collect();
        for key in keys.iter().chain(&keys) {
            writes.verify(key);
        }
        let mut answered = HashSet::new();
        while !writes.verifying.is_empty() {
            assert!(writes.tasks.len() <= VERIFYING, "{} at once", writes.tasks.len());
            let key = writes.verifying.iter().next().unwrap().clone();
            writes.tasks.abort_all();
            while writes.tasks.join_next().await.is_some() {}
            writes.settle(Report::Verify { key: key.clone(), result: Ok(None) });
            answered.insert(key);
        }
        assert_eq!(answered.len(), keys.len(), "each is asked for in the end");
    }

    #[tokio::test]
    async fn a_service_that_a_write_does_not_find_is_asked_for_after_a_pause_longer_each_time() {
        let mut writes = writes();
        for pause in [FIRST_PAUSE, FIRST_PAUSE * 2, FIRST_PAUSE * 4] {
            let begun = Instant::now();
            let not_found = kube::Error::Api(Status::failure("gone", "NotFound").with_code(404).boxed());
            let ended = writes.settle(Report::Write {
                key: ServiceKey::new("shop", "web"),
                plan: Box::new(a_plan()),
                result: Some(Err(not_found.into())),
            });
            assert!(matches!(ended, Ended::Nothing), "{ended:?}");
            assert!(writes.verifying.is_empty());
            assert!(writes.next_retry().unwrap() >= begun + pause);
        }
    }
}
