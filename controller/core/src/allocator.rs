//! The allocator.
//!
//! # State
//!
//! Each Service has two lists of addresses: those it is to have (*desired*), and those that the API may store
//! for it (*stored*). A Service *claims* an address while the address is in either list. An address that a
//! Service gives up is therefore assigned to another Service only after the write that removes it is known to
//! have succeeded. Neither a lost write nor a crash can assign an address twice.
//!
//! # Life cycle of an address
//!
//! ```text
//!            assign               observed(with it)         release / move           observed(without it)
//!   free ────────────► desired ────────────────► desired, ─────────────────► stored ─────────────────► free
//!                                                stored                      only                      │
//!     ▲                                                                                                │
//!     └──── no Service waits ◄───── assign to the longest-waiting Service that fits ◄──────────────────┘
//! ```
//!
//! Every operation ends by assigning what it freed to waiting Services.

mod choose;
mod claims;
mod classes;
mod configure;
mod cycles;
mod retention;
mod serve;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crds::ServiceKey;
use k8s_openapi::jiff::Timestamp;
use rules::{Configuration, Family};

use crate::address_claims::{AddressClaims, ServiceRef};
use crate::occupant::Occupant;
use crate::pool_state::PoolState;
use crate::refusal::{Refusal, RefusalReason};
use crate::request::{Request, Sharing};
use crate::wait_queue::{QueueKey, WaitClass, WaitQueue, WakeKey};

/// How long an address is kept that its pool lost, so that a range can move from one pool to another.
pub const GRACE: Duration = Duration::from_secs(5);

/// Assigns addresses to Services.
#[derive(Debug, Default)]
pub struct Allocator {
    configuration: Arc<Configuration>,
    pools: BTreeMap<String, PoolState>,
    /// Names of the pools that admit only some Services, in the order in which they are tried.
    restricted: Vec<String>,
    /// Names of the pools that admit every Service, which are tried after the restricted ones.
    unrestricted: Vec<String>,
    services: HashMap<ServiceRef, ServiceState>,
    addresses: BTreeMap<IpAddr, AddressClaims>,
    queue: WaitQueue,
    /// By pool: the Services that have an address of it and wait for another one that they asked for.
    waiting_to_leave: BTreeMap<String, BTreeSet<ServiceRef>>,
    /// Addresses in use by machines, which are assigned to no Service.
    quarantine: BTreeMap<IpAddr, Occupant>,
    /// Namespaces that the configuration was validated with; `None` means every namespace.
    namespaces: Option<BTreeSet<String>>,
    /// Addresses that are being exchanged between Services which ask for each other's: the Service that gets
    /// each.
    handoffs: BTreeMap<IpAddr, ServiceRef>,
    /// Sharing Services whose reconciliation has begun: they may leave their addresses, so no Service joins
    /// them.
    reconciling: BTreeSet<ServiceRef>,
    /// When the grace period of a Service with a lost address ends.
    grace_deadlines: BTreeSet<(Timestamp, ServiceRef)>,
    /// What became possible since the queue was last served.
    wake_keys: BTreeSet<WakeKey>,
    /// Services whose assignment changed since [`Self::take_changed`].
    changed: BTreeSet<ServiceRef>,
    /// How often a Service was reconciled.
    #[cfg(test)]
    reconciles: u32,
}

/// The allocator's state of one Service.
#[derive(Debug)]
struct ServiceState {
    /// `None` once the Service is no longer ours: it is to have no address.
    request: Option<Arc<Request>>,
    sharing: Arc<Sharing>,
    desired: Vec<IpAddr>,
    stored: Vec<IpAddr>,
    pool: Option<String>,
    /// Boxed like the next field, since most Services have neither.
    refusal: Option<Box<Refusal>>,
    queued: Option<Box<QueuePosition>>,
    waiting_since: Option<Timestamp>,
    grace_deadline: Option<Timestamp>,
}

/// The position of a Service in the queue.
#[derive(Debug)]
struct QueuePosition {
    class: Arc<WaitClass>,
    key: QueueKey,
    /// Its entry in [`Allocator::waiting_to_leave`], if it has one.
    leaving_pool: Option<String>,
}

/// A Service as it is listed when a controller starts.
#[derive(Clone, Debug)]
pub struct ExistingService {
    /// The name of the Service.
    pub service: ServiceKey,
    /// What it asks for.
    pub request: Request,
    /// The addresses in its status.
    pub current: Vec<IpAddr>,
    /// The pool in its annotation.
    pub pool: Option<String>,
    /// Since when it waits for an address, if it does.
    pub waiting_since: Option<Timestamp>,
}

/// The addresses that a Service is to have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Assignment<'a> {
    /// The addresses, in the order of the status.
    pub addresses: &'a [IpAddr],
    /// The pool of the addresses.
    pub pool: Option<&'a str>,
    /// Why the request is not met. A Service can have addresses and yet wait for others.
    pub refusal: Option<&'a Refusal>,
}

/// How full a pool is, in one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// Distinct addresses in use.
    pub in_use: u128,
    /// Size of the pool, without the addresses excluded by `avoidBuggyIPs`.
    pub total: u128,
    /// Whether automatic assignment finds no free address.
    pub exhausted: bool,
}

impl Allocator {
    /// An allocator without configuration and Services. Configure it, restore the existing Services, then
    /// assign.
    pub fn new() -> Self {
        Self::default()
    }

    /// Restores the state of all Services of ours before anything is assigned. Call [`Self::release`] for the
    /// others first.
    ///
    /// If two Services have one address, the older one keeps it (then the one with the lower UID), so the
    /// order of the list does not matter. Then the Services that lack an address get one, longest-waiting
    /// first.
    pub fn restore(&mut self, mut services: Vec<ExistingService>, now: Timestamp) {
        services.sort_by(|a, b| (&a.request.age, &a.service).cmp(&(&b.request.age, &b.service)));
        let mut restored = Vec::with_capacity(services.len());
        for existing in services {
            let service = self.upsert(&existing.service, existing.request);
            let Some(entry) = self.services.get_mut(&service) else { continue };
            entry.pool = existing.pool;
            entry.waiting_since = existing.waiting_since;
            let Some(request) = entry.request.clone() else { continue };
            // All claims so far are those of older Services.
            let kept = self.retention(&service, &request, &existing.current).kept(true);
            self.set_addresses(&service, Some(kept), Some(existing.current));
            restored.push((existing.waiting_since.unwrap_or(now), service));
        }
        // All current addresses are claimed by now. A Service that has only one of two families is ordered
        // like the others, so that it does not overtake a Service that has waited longer.
        restored.sort_by_key(|(since, _)| *since);
        self.reconcile_each(restored.into_iter().map(|(_, service)| service).collect(), now);
        self.serve_waiters(now);
    }

    /// Assigns addresses to `service`, which asks for `request` and has `stored` in its status.
    ///
    /// Idempotent: a second call with the same arguments changes nothing.
    pub fn assign(
        &mut self,
        service: &ServiceKey,
        request: Request,
        stored: &[IpAddr],
        now: Timestamp,
    ) -> Assignment<'_> {
        let known = self.services.get(service).and_then(|entry| entry.request.as_deref());
        let request_changed = known != Some(&request);
        let service = self.upsert(service, request);
        // No Service joins this one on its address until it is known whether it stays there.
        if request_changed {
            self.begin_reconcile(&service);
        }
        self.release_unwanted(&service);
        self.set_addresses(&service, None, Some(stored.to_vec()));
        // Waiting Services get what was freed before this Service chooses.
        self.serve_waiters(now);
        self.reconcile(&service, now);
        self.finish_reconcile(&service);
        self.serve_waiters(now);
        self.assignment(&service).unwrap_or(Assignment { addresses: &[], pool: None, refusal: None })
    }

    /// The Service is not ours, or no longer: it is to have no address. The addresses in its status, whoever
    /// wrote them, are assigned to no other Service until [`Self::observed`] or this method reports them as
    /// removed.
    pub fn release(&mut self, service: &ServiceKey, stored: &[IpAddr], now: Timestamp) {
        let known = self.services.get_key_value(service).map(|(known, _)| Arc::clone(known));
        if known.is_none() && stored.is_empty() {
            return;
        }
        let service = known.unwrap_or_else(|| Arc::new(service.clone()));
        let entry = self.services.entry(Arc::clone(&service)).or_insert_with(ServiceState::new);
        let was_ours = entry.request.is_some();
        self.dequeue(&service);
        self.end_grace(&service);
        if let Some(entry) = self.services.get_mut(&service) {
            (entry.request, entry.refusal, entry.waiting_since, entry.pool) = (None, None, None, None);
        }
        self.drop_handoffs_to(&service);
        self.set_addresses(&service, Some(Vec::new()), Some(stored.to_vec()));
        if was_ours {
            self.changed.insert(Arc::clone(&service));
        }
        if stored.is_empty() {
            self.services.remove(&service);
        }
        self.serve_waiters(now);
    }

    /// The object was deleted, and with it all its addresses.
    pub fn remove(&mut self, service: &ServiceKey, now: Timestamp) {
        self.release(service, &[], now);
        self.changed.remove(service);
    }

    /// The API stores exactly `addresses` for `service`.
    pub fn observed(&mut self, service: &ServiceKey, addresses: &[IpAddr], now: Timestamp) {
        let Some((service, entry)) = self.services.get_key_value(service) else { return };
        let (service, ours) = (Arc::clone(service), entry.request.is_some());
        self.set_addresses(&service, None, Some(addresses.to_vec()));
        if !ours && addresses.is_empty() {
            self.services.remove(&service);
        }
        self.serve_waiters(now);
    }

    /// The result of a write of `addresses` for `service` is not known: the API may store the old or the new
    /// ones.
    pub fn write_unknown(&mut self, service: &ServiceKey, addresses: &[IpAddr]) {
        let Some((service, entry)) = self.services.get_key_value(service) else { return };
        let service = Arc::clone(service);
        let mut either = entry.stored.clone();
        either.extend(addresses.iter().filter(|ip| !entry.stored.contains(ip)));
        self.set_addresses(&service, None, Some(either));
    }

    /// Ends the grace periods that are over.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        let mut due = BTreeSet::new();
        while self.grace_deadlines.first().is_some_and(|(deadline, _)| *deadline <= now) {
            due.extend(self.grace_deadlines.pop_first().map(|(_, service)| service));
        }
        if !due.is_empty() {
            for service in self.reconcile_order(|service| due.contains(service)) {
                self.reconcile(&service, now);
            }
        }
        self.serve_waiters(now);
    }

    /// When [`Self::handle_timeout`] must be called next.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.grace_deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The assignment of `service`; `None` if the Service is not known, or if its namespace is not, in which
    /// case nothing is decided yet.
    pub fn assignment(&self, service: &ServiceKey) -> Option<Assignment<'_>> {
        self.services.get(service).filter(|_| self.namespace_known(&service.namespace)).map(|entry| {
            Assignment {
                addresses: &entry.desired,
                pool: entry.pool.as_deref().filter(|_| !entry.desired.is_empty()),
                refusal: entry.refusal.as_deref(),
            }
        })
    }

    /// The Services whose assignment changed since the last call.
    pub fn take_changed(&mut self) -> Vec<ServiceKey> {
        std::mem::take(&mut self.changed).into_iter().map(|service| (*service).clone()).collect()
    }

    /// How full the pool is in `family`.
    pub fn usage(&mut self, pool: &str, family: Family) -> Option<PoolUsage> {
        let settings = self.configuration.pools.get(pool)?;
        let state = self.pools.get_mut(pool)?;
        Some(PoolUsage {
            in_use: state.used(family).into(),
            total: settings.capacity(family),
            exhausted: state.exhausted(family, settings),
        })
    }

    /// The configuration in force.
    pub fn configuration(&self) -> &Arc<Configuration> {
        &self.configuration
    }

    /// The Services that claim `ip`.
    pub fn holders(&self, ip: IpAddr) -> Vec<ServiceKey> {
        let claims = self.addresses.get(&ip);
        claims
            .map(|claims| claims.holders().into_iter().map(|(service, _)| (**service).clone()).collect())
            .unwrap_or_default()
    }

    /// Every Service that was added and not removed, in no particular order.
    pub fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.keys().map(AsRef::as_ref)
    }

    /// How many Services have a refusal, by [`Refusal::reason`].
    pub fn refusal_counts(&self) -> BTreeMap<RefusalReason, usize> {
        let mut counts = BTreeMap::new();
        for refusal in self.services.values().filter_map(|entry| entry.refusal.as_ref()) {
            *counts.entry(refusal.reason()).or_default() += 1;
        }
        counts
    }

    /// Adds `service` or updates its request.
    fn upsert(&mut self, service: &ServiceKey, request: Request) -> ServiceRef {
        let known = self.services.get_key_value(service).map(|(known, _)| Arc::clone(known));
        let service = known.unwrap_or_else(|| Arc::new(service.clone()));
        let entry = self.services.entry(Arc::clone(&service)).or_insert_with(ServiceState::new);
        if entry.request.as_deref() == Some(&request) {
            return service;
        }
        entry.sharing = Arc::new(request.sharing.clone());
        entry.request = Some(Arc::new(request));
        self.drop_handoffs_to(&service);
        service
    }

    /// Withdraws the addresses that `service` may not keep under its request, and updates the sharing of its
    /// other claims.
    fn release_unwanted(&mut self, service: &ServiceRef) {
        let Some(entry) = self.services.get(service) else { return };
        let Some(request) = entry.request.clone() else { return };
        let desired = entry.desired.clone();
        let kept = self.retention(service, &request, &desired).kept(true);
        if kept != desired {
            self.set_addresses(service, Some(kept), None);
            self.changed.insert(Arc::clone(service));
        }
        self.refresh_claims(service);
    }

    /// Whether pools and policies were validated with the labels of `namespace`.
    fn namespace_known(&self, namespace: &str) -> bool {
        self.namespaces.as_ref().is_none_or(|known| known.contains(namespace))
    }

    /// Computes the assignment of `service` and applies it.
    fn reconcile(&mut self, service: &ServiceRef, now: Timestamp) {
        #[cfg(test)]
        self.count_reconcile();
        let Some(entry) = self.services.get(service) else { return };
        let Some(request) = entry.request.clone() else { return };
        let desired = entry.desired.clone();
        let retention = self.retention(service, &request, &desired);
        if !self.namespace_known(&service.namespace) {
            self.defer(service, retention.kept(true), now);
            return;
        }
        let lost = self.update_grace(service, &retention, now);
        let mut kept = retention.kept(lost.is_some());
        if kept.is_empty() {
            // An address that the API still stores is better than none, if no other Service may claim it.
            let stored = self.reusable_stored(service);
            kept = self.retention(service, &request, &stored).kept(false);
        }
        let lost_one = retention.any_lost() && lost.is_none() && !desired.is_empty();
        let mut choice = self.choose(service, &request, &kept, lost);
        if lost_one && let Some(both) = self.both_families_elsewhere(service, &request, &choice) {
            choice = both;
        }
        if !retention.loses_any_of(&choice.addresses) {
            // It moves before the grace period ends. It stays at the new address, so others may join it
            // there.
            self.end_grace(service);
        }
        self.apply_choice(service, &request, choice, now);
        self.break_cycle(service);
    }

    /// Lets `service` keep `kept` without a place in the queue. It waits from now on, unless it did before.
    fn defer(&mut self, service: &ServiceRef, kept: Vec<IpAddr>, now: Timestamp) {
        self.dequeue(service);
        self.set_addresses(service, Some(kept), None);
        if let Some(entry) = self.services.get_mut(service) {
            entry.refusal = None;
            entry.waiting_since.get_or_insert(now);
        }
    }
}

#[cfg(test)]
impl Allocator {
    /// Panics instead of looping for ever, so that proptest prints the history that led to it.
    fn count_reconcile(&mut self) {
        const LIMIT: u32 = 100_000;
        self.reconciles += 1;
        assert!(self.reconciles <= LIMIT, "more than {LIMIT} reconciliations: an endless loop");
    }
}

impl ServiceState {
    fn new() -> Self {
        Self {
            request: None,
            sharing: Arc::default(),
            desired: Vec::new(),
            stored: Vec::new(),
            pool: None,
            refusal: None,
            queued: None,
            waiting_since: None,
            grace_deadline: None,
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod tests;
