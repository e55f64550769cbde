//! Services: what they are, and the writes that they need.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use crds::ServiceKey;
use ipam::{Adoptee, Refusal, Request};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::Resource as _;
use kube::runtime::reflector::ObjectRef;
use runtime::client::CallError;
use runtime::decode::{Lenient, Undecoded};
use serde_json::Value;
use tokio::time::Instant;

use super::writes::Ended;
use super::{POOL_PATIENCE, Term};
use crate::contention::Verdict;
use crate::dirty::Marks;
use crate::list;
use crate::other_writer;
use crate::service::{self, Note, Plan, Remarks, has_leftovers, is_ours, plan, version};

/// What a list of all Services is needed for: adoption keeps much less than the objects.
#[derive(Default)]
pub(super) struct Listed {
    /// All of them.
    keys: HashSet<ServiceKey>,
    /// Those that are ours.
    adoptees: Vec<(Adoptee, u64)>,
    /// Others, with what their status has: of another class, or on their way out with the last finalizer.
    others: Vec<(ServiceKey, Vec<IpAddr>, u64)>,
    /// Those that the store does not have, or only in an older version.
    newer: Vec<Service>,
    /// The version of the list.
    version: u64,
}

impl Listed {
    /// Lists all Services from the API itself, page by page.
    pub(super) async fn from_api(owner: &super::Owner) -> Result<Self, CallError> {
        let mut listed = Self::default();
        let store = &owner.watches.services;
        let version = list::for_each(&owner.client, None, |Lenient(service): Lenient<Service>| {
            // It is progress however many there are.
            owner.heartbeat.beat();
            let service = match service {
                Ok(service) => service,
                Err(undecoded) => return listed.add_undecoded(&undecoded),
            };
            let behind = |stored: Arc<Service>| version(&stored) < version(&service);
            let known = store.get(&ObjectRef::from_obj(&service));
            let newer = known.is_none_or(behind);
            listed.add(&service, &owner.class);
            if newer {
                listed.newer.push(service);
            }
        });
        listed.version = version.await?;
        Ok(listed)
    }

    fn add(&mut self, service: &Service, class: &str) {
        let key = ServiceKey::of(service);
        let (version, stored) = (version(service), service::stored(service));
        self.keys.insert(key.clone());
        if is_ours(service, class) {
            let adoptee = Adoptee {
                service: key,
                request: Request::from_service(service),
                current: stored,
                pool: service::annotated_pool(service).map(str::to_owned),
                waiting_since: service::waiting_since(service),
            };
            self.adoptees.push((adoptee, version));
        } else if !stored.is_empty() || has_leftovers(service) {
            self.others.push((key, stored, version));
        }
    }

    /// Whatever it is, what its status has is given to nobody.
    fn add_undecoded(&mut self, service: &Undecoded) {
        let entries = service.status.pointer("/loadBalancer/ingress").and_then(Value::as_array);
        let address = |entry: &Value| entry.get("ip")?.as_str()?.parse().ok();
        let stored: Vec<IpAddr> = entries.into_iter().flatten().filter_map(address).collect();
        let ObjectMeta { namespace, name, .. } = service.metadata.clone();
        let key = ServiceKey::new(namespace.unwrap_or_default(), name.unwrap_or_default());
        self.keys.insert(key.clone());
        if !stored.is_empty() {
            self.others.push((key, stored, 0));
        }
    }

    /// Of Services that a test has at hand.
    #[cfg(test)]
    pub(super) fn of(services: Vec<Service>, version: u64, class: &str) -> Self {
        let mut listed = Self { version, ..Self::default() };
        for service in services {
            listed.add(&service, class);
            listed.newer.push(service);
        }
        listed
    }
}

impl Term<'_> {
    /// Takes over what Services have.
    pub(super) fn adopt(&mut self, listed: Listed) {
        let now = Timestamp::now();
        let Listed { keys: all, adoptees, others, newer, version: of_list } = listed;
        for service in newer {
            self.known.learn(service);
        }
        let mut keys = Vec::with_capacity(adoptees.len() + others.len());
        for (key, stored, version) in others {
            // Speakers or kube-proxy may still go by its status.
            let stored = self.writes.possibly_stored(&key, version, stored);
            self.allocator.release(&key, &stored, now);
            keys.push(key);
        }
        let adoptees: Vec<Adoptee> = adoptees
            .into_iter()
            .map(|(adoptee, version)| {
                let current = self.writes.possibly_stored(&adoptee.service, version, adoptee.current);
                Adoptee { current, ..adoptee }
            })
            .collect();
        keys.extend(adoptees.iter().map(|adoptee| adoptee.service.clone()));
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
            if !all.contains(&key) && version(&service) > of_list {
                self.look_at(&key);
            }
        }
    }

    pub(super) fn look(&mut self, marks: Marks) {
        if marks.configuration {
            self.reconfigure();
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
    pub(super) fn look_at(&mut self, key: &ServiceKey) {
        let now = Timestamp::now();
        let Some(service) = self.known.get(key) else {
            self.writes.forget(key);
            self.contention.forget(key);
            self.contested.remove(key);
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
    pub(super) fn review(&mut self, key: &ServiceKey) {
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
        let foreign = outcome.is_some() && self.is_foreign(&service);
        if foreign && outcome.is_some_and(|outcome| matches!(outcome.refusal, Some(Refusal::Lost { .. }))) {
            // The allocator lets what is in no pool go after a time of grace. It was never ours to give up.
            return;
        }
        let conflict = outcome.and_then(|outcome| self.conflict(outcome.addresses));
        let remarks = Remarks { conflict, foreign, contested: None };
        let now = Timestamp::now();
        let Some(normal) = plan(&service, outcome, &remarks, now) else {
            if let Some(done) = self.writes.done_after_all(key, &service) {
                self.contention.wrote(key, done.target.clone(), Instant::now());
                self.tell_of_write(key, &service, done.notes);
            }
            self.writes.settled(key);
            return;
        };
        let report = self.contested.get(key).cloned().and_then(|text| {
            let contested = Remarks { contested: Some(text), ..remarks };
            plan(&service, outcome, &contested, now)
        });
        self.queue(key, normal, report);
    }

    /// Whether the status has addresses which belong to no pool and which were not assigned by us: another load balancer
    /// serves the Service too.
    fn is_foreign(&self, service: &Service) -> bool {
        let configuration = self.allocator.configuration();
        let stored = service::stored(service);
        let ours = |ip: &IpAddr| {
            configuration.pool_of(*ip).is_some()
                || configuration.rejected_pools.values().flatten().any(|range| range.contains(*ip))
        };
        !stored.is_empty() && service::annotated_pool(service).is_none() && !stored.iter().any(ours)
    }

    /// Queues the write `normal`, unless another writer has undone the like of it again and again: then `report`.
    fn queue(&mut self, key: &ServiceKey, normal: Plan, report: Option<Plan>) {
        if self.writes.is_writing(key) {
            // Reviewed again when that is over.
            return;
        }
        let restores = |plan: &Plan, term: &Self| {
            term.contention.established(key).is_some_and(|established| plan.restores(established))
        };
        match self.contention.judge(key, restores(&normal, self), Instant::now()) {
            Verdict::Write => {
                self.contested.remove(key);
                self.writes.queue(key, normal);
            }
            Verdict::Wait => self.writes.withdraw(key),
            Verdict::LeaveAlone { first } => {
                self.writes.withdraw(key);
                if first {
                    self.writes.identify(key);
                }
                if let Some(report) = report.filter(|report| !restores(report, self)) {
                    self.writes.queue(key, report);
                }
            }
        }
    }

    /// A write ended.
    pub(super) fn wrote(&mut self, ended: Ended) {
        let now = Timestamp::now();
        match ended {
            Ended::Written { key, service, plan } => {
                let Plan { target, notes, .. } = *plan;
                self.contention.wrote(&key, target, Instant::now());
                self.tell_of_write(&key, &service, notes);
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
            Ended::OtherWriter { key, manager } => self.contest(&key, manager.as_deref()),
            Ended::Nothing => {}
        }
    }

    /// Sends the events of a write that was done; what may be premature waits.
    fn tell_of_write(&mut self, key: &ServiceKey, service: &Service, mut notes: Vec<Note>) {
        let all = notes.len();
        notes.retain(|note| !note.premature);
        if notes.len() < all {
            self.premature.insert((Instant::now() + POOL_PATIENCE, key.clone()));
        }
        Self::tell(&self.owner.events, &service.object_ref(&()), notes);
    }

    /// Sends the events that waited and are still right.
    pub(super) fn tell_premature(&mut self, now: Instant) {
        while self.premature.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.premature.pop_first() else { return };
            let Some(service) = self.known.get(&key) else { continue };
            let note = self.reminder(&key, &service).filter(|note| note.premature);
            Self::tell(&self.owner.events, &service.object_ref(&()), note.into_iter().collect());
        }
    }

    /// Why the Service does not have what it asks for, if so.
    fn reminder(&self, key: &ServiceKey, service: &Service) -> Option<Note> {
        service::reminder(service, self.allocator.outcome(key)?, self.is_foreign(service))
    }

    /// Reports on the Service that another writer insists on its status.
    fn contest(&mut self, key: &ServiceKey, manager: Option<&str>) {
        let Some(service) = self.known.get(key) else { return };
        let text = other_writer::report(manager, true);
        Self::tell(&self.owner.events, &service.object_ref(&()), vec![service::contested_note(&text)]);
        self.contested.insert(key.clone(), text);
        self.review(key);
    }

    /// Says once more why Services do not have what they ask for: the API forgets events, and `kubectl describe` shows no
    /// conditions of Services.
    pub(super) fn remind(&mut self) {
        for key in self.allocator.services() {
            let contested = self.contested.get(key).map(|text| service::contested_note(text));
            let Some(service) = self.known.get(key) else { continue };
            if let Some(note) = contested.or_else(|| self.reminder(key, &service)) {
                Self::tell(&self.owner.events, &service.object_ref(&()), vec![note]);
            }
        }
    }
}
