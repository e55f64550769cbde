//! Processes Services: passes them to the allocator, and queues the writes that they need.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crds::ServiceKey;
use ipam::{ExistingService, Refusal, Request};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;
use tracing::Span;

use super::emit::emit_for_service;
use super::service_list::ServiceList;
use super::term::Term;
use super::writes::Completion;
use crate::contention::Decision;
use crate::log::{List, service_span};
use crate::other_writer;
use crate::service::{
    self, NewEvent, ServiceWrite, StatusInputs, has_leftovers, is_ours, plan_write, version,
};
use crate::work_queue::Pending;

/// Delay of the event that there is no pool for a Service: both are often created by one `kubectl apply`.
const MISSING_POOL_EVENT_DELAY: Duration = Duration::from_secs(2);

impl Term<'_> {
    /// Restores the addresses of the existing Services.
    pub(super) fn restore(&mut self, listed: ServiceList) {
        let now = Timestamp::now();
        let ServiceList { keys: all, existing, others, newer, version: of_list } = listed;
        for service in newer {
            self.services.insert_newer(service);
        }
        let mut keys = Vec::with_capacity(existing.len() + others.len());
        for (key, stored, version) in others {
            // Speakers or kube-proxy may still use its status.
            let stored = self.writes.possibly_stored(&key, version, stored);
            self.allocator.release(&key, &stored, now);
            keys.push(key);
        }
        let existing: Vec<ExistingService> = existing
            .into_iter()
            .map(|(existing, version)| {
                let current = self.writes.possibly_stored(&existing.service, version, existing.current);
                ExistingService { current, ..existing }
            })
            .collect();
        keys.extend(existing.iter().map(|existing| existing.service.clone()));
        let (count, with_addresses) =
            (existing.len(), existing.iter().filter(|a| !a.current.is_empty()).count());
        self.allocator.restore(existing, now);
        tracing::info!(services = count, with_addresses, "existing Services restored");
        self.allocator.take_changed();
        for key in keys {
            self.enqueue_write(&key);
        }
        // A Service in the store that is newer than the list was created since; an older one was deleted.
        for service in self.context.watches.services.state() {
            let key = ServiceKey::of(&service);
            if !all.contains(&key) && version(&service) > of_list {
                self.sync_service(&key);
            }
        }
    }

    pub(super) fn drain(&mut self, pending: Pending) {
        if pending.configuration {
            self.reconfigure();
        }
        let mut keys: BTreeSet<ServiceKey> = BTreeSet::new();
        for (key, deleted) in pending.services {
            if let Some(version) = deleted {
                self.services.deleted(&key, version);
            }
            keys.insert(key);
        }
        if pending.all_services {
            keys.extend(self.context.watches.services.state().iter().map(|service| ServiceKey::of(service)));
            // A replaced store reports no deletions. A Service that it lacks need not be deleted, since this
            // term may have written or listed a newer version. The API is asked for each.
            for key in self.services.missing(self.allocator.services()) {
                self.writes.verify(&key);
            }
        }
        for key in keys {
            self.sync_service(&key);
        }
    }

    /// Passes the present version of the Service to the allocator, and queues the write that it needs.
    pub(super) fn sync_service(&mut self, key: &ServiceKey) {
        service_span(key).in_scope(|| self.sync(key));
    }

    /// Queues the write that the Service needs, if any.
    pub(super) fn enqueue_write(&mut self, key: &ServiceKey) {
        service_span(key).in_scope(|| self.plan(key));
    }

    /// Handles the result of a write or of a query.
    pub(super) fn on_write_done(&mut self, completion: Completion) {
        let span = completion.service().map_or_else(Span::none, |service| service_span(&service));
        span.in_scope(|| self.complete(completion));
    }

    fn sync(&mut self, key: &ServiceKey) {
        let now = Timestamp::now();
        let Some(service) = self.services.get(key) else {
            if let Some(assignment) = self.allocator.assignment(key) {
                tracing::info!(released = %List(assignment.addresses), "the Service was deleted");
            }
            self.writes.remove(key);
            self.contention.remove(key);
            self.contested.remove(key);
            self.allocator.remove(key, now);
            return;
        };
        let stored = self.writes.possibly_stored(key, version(&service), service::stored_addresses(&service));
        if is_ours(&service, &self.context.class) {
            let assignment = self.allocator.assign(key, Request::from_service(&service), &stored, now);
            let refusal = assignment.refusal.map(|refusal| refusal.reason().as_str());
            let desired = List(assignment.addresses);
            tracing::debug!(stored = %List(&stored), %desired, refusal, "reconciled");
        } else {
            self.allocator.release(key, &stored, now);
        }
        self.plan(key);
    }

    fn plan(&mut self, key: &ServiceKey) {
        let Some(service) = self.services.get(key) else { return };
        let assignment = if is_ours(&service, &self.context.class) {
            match self.allocator.assignment(key) {
                Some(assignment) => Some(assignment),
                None => return,
            }
        } else if has_leftovers(&service) {
            None
        } else {
            return;
        };
        let foreign = assignment.is_some() && self.is_foreign(&service);
        if foreign
            && assignment.is_some_and(|assignment| matches!(assignment.refusal, Some(Refusal::Lost { .. })))
        {
            // The allocator withdraws an address that is in no pool after a grace period. This one is not
            // ours to withdraw.
            return;
        }
        let conflict = assignment.and_then(|assignment| self.conflict_condition(assignment.addresses));
        let inputs = StatusInputs { conflict, foreign, contested: None };
        let now = Timestamp::now();
        let Some(normal) = plan_write(&service, assignment, &inputs, now) else {
            if let Some(done) = self.writes.take_confirmed(key, &service) {
                self.contention.record_write(key, done.target.clone(), Instant::now());
                self.emit_write_events(key, &service, done.events);
            }
            self.writes.up_to_date(key);
            return;
        };
        let report = self.contested.get(key).cloned().and_then(|message| {
            let contested = StatusInputs { contested: Some(message), ..inputs };
            plan_write(&service, assignment, &contested, now)
        });
        self.queue_unless_contested(key, normal, report);
    }

    /// Whether the status has addresses that are in no pool and were not assigned by us: another load
    /// balancer serves the Service too.
    fn is_foreign(&self, service: &Service) -> bool {
        let configuration = self.allocator.configuration();
        let stored = service::stored_addresses(service);
        let ours = |ip: &IpAddr| {
            configuration.pool_of(*ip).is_some()
                || configuration.rejected_pools.values().flatten().any(|range| range.contains(*ip))
        };
        !stored.is_empty() && service::annotated_pool(service).is_none() && !stored.iter().any(ours)
    }

    /// Queues the write `normal`, unless another writer repeatedly reverts such writes: then `report`.
    fn queue_unless_contested(
        &mut self,
        key: &ServiceKey,
        normal: ServiceWrite,
        report: Option<ServiceWrite>,
    ) {
        if self.writes.is_writing(key) {
            // Planned again when that write is completed.
            return;
        }
        let restores = |write: &ServiceWrite, term: &Self| {
            term.contention.last_written(key).is_some_and(|last_written| write.restores(last_written))
        };
        match self.contention.decide(key, restores(&normal, self), Instant::now()) {
            Decision::Write => {
                self.contested.remove(key);
                self.writes.queue(key, normal);
            }
            Decision::Wait => {
                tracing::debug!("another writer reverted the last write: the next one is delayed");
                self.writes.cancel_queued(key);
            }
            Decision::BackOff { first } => {
                tracing::debug!(first, "another writer repeatedly overwrites the status: backing off");
                self.writes.cancel_queued(key);
                if first {
                    self.writes.identify_other_writer(key);
                }
                if let Some(report) = report.filter(|report| !restores(report, self)) {
                    self.writes.queue(key, report);
                }
            }
        }
    }

    fn complete(&mut self, completion: Completion) {
        let now = Timestamp::now();
        match completion {
            Completion::Written { key, service, write } => {
                let ServiceWrite { target, events, .. } = *write;
                self.contention.record_write(&key, target, Instant::now());
                self.emit_write_events(&key, &service, events);
                let stored = service::stored_addresses(&service);
                tracing::debug!(version = version(&service), stored = %List(&stored), "status written");
                self.services.insert_newer(*service);
                self.allocator.observed(&key, &stored, now);
                self.plan(&key);
            }
            // The API may store the old or the new addresses, unless a later version was seen already.
            Completion::Unknown { key } => self.sync(&key),
            Completion::Refused { key, version: refused } => {
                // If a newer version is known, write that at once; else later, or when the watch has it.
                if self.services.get(&key).is_none_or(|service| version(&service) <= refused) {
                    self.writes.retry_later(&key, false);
                }
                self.sync(&key);
            }
            Completion::Verified { service } => {
                let key = ServiceKey::of(&service);
                self.services.insert_newer(*service);
                self.sync(&key);
            }
            Completion::Gone { key } => {
                self.services.remove(&key);
                self.sync(&key);
            }
            Completion::OtherWriter { key, manager } => self.report_other_writer(&key, manager.as_deref()),
            Completion::Nothing => {}
        }
    }

    /// Sends the events of a completed write; some are delayed.
    fn emit_write_events(&mut self, key: &ServiceKey, service: &Service, mut events: Vec<NewEvent>) {
        let all = events.len();
        events.retain(|event| !event.delayed);
        if events.len() < all {
            self.delayed_events.insert((Instant::now() + MISSING_POOL_EVENT_DELAY, key.clone()));
        }
        emit_for_service(&self.context.events, service, events);
    }

    /// Sends the delayed events that are due and still true.
    pub(super) fn emit_delayed(&mut self, now: Instant) {
        while self.delayed_events.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.delayed_events.pop_first() else { return };
            let Some(service) = self.services.get(&key) else { continue };
            let event = self.current_warning(&key, &service).filter(|event| event.delayed);
            service_span(&key).in_scope(|| {
                emit_for_service(&self.context.events, &service, event.into_iter().collect());
            });
        }
    }

    /// The warning why the request of the Service is not met, if so.
    fn current_warning(&self, key: &ServiceKey, service: &Service) -> Option<NewEvent> {
        service::repeated_warning(service, self.allocator.assignment(key)?, self.is_foreign(service))
    }

    /// Reports that another writer repeatedly overwrites the status of the Service.
    fn report_other_writer(&mut self, key: &ServiceKey, manager: Option<&str>) {
        let Some(service) = self.services.get(key) else { return };
        let message = other_writer::contested_message(manager, true);
        emit_for_service(&self.context.events, &service, vec![service::contested_event(&message)]);
        self.contested.insert(key.clone(), message);
        self.plan(key);
    }

    /// Repeats the warnings of Services whose requests are not met: the API deletes events after a while, and
    /// `kubectl describe` shows no conditions of Services.
    pub(super) fn repeat_warnings(&mut self) {
        for key in self.allocator.services() {
            let contested = self.contested.get(key).map(|message| service::contested_event(message));
            let Some(service) = self.services.get(key) else { continue };
            if let Some(event) = contested.or_else(|| self.current_warning(key, &service)) {
                service_span(key).in_scope(|| {
                    emit_for_service(&self.context.events, &service, vec![event]);
                });
            }
        }
    }
}
