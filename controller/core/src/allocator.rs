//! The allocator.
//!
//! # What it keeps
//!
//! For each Service two lists: what it shall have (*desired*), and what the API may have stored for it (*stored*).
//! An address is *claimed* by a Service while it is in either. So an address that a Service gives up goes to
//! another only when the write that takes it away is known to have happened, and neither a lost write nor a crash
//! in between can double it.
//!
//! # How an address changes hands
//!
//! ```text
//!            assign                 stored(now)             release / move            stored(without)
//!   free ────────────► desired ────────────────► desired, ─────────────────► stored ─────────────────► free
//!                                                stored                      only                      │
//!     ▲                                                                                                │
//!     └───────── nobody waits ◄──────── the longest-waiting that fits ─────────────────────────────────┘
//! ```
//!
//! Every operation ends by serving who waits with whatever it freed.

mod choose;
mod claims;
mod classes;
mod configure;
mod cycles;
mod judge;
mod serve;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crds::ServiceKey;
use k8s_openapi::jiff::Timestamp;
use rules::{Configuration, Family};

use crate::pool_state::PoolState;
use crate::refusal::Refusal;
use crate::request::{Request, Sharing};
use crate::usage::{ServiceRef, Usage};
use crate::waiting::{Class, Freed, Place, Waiting};

/// How long an address is kept that its pool lost, so that a range can move from one pool to another.
pub const GRACE: Duration = Duration::from_secs(5);

/// Gives addresses to Services.
#[derive(Debug, Default)]
pub struct Allocator {
    configuration: Arc<Configuration>,
    pools: BTreeMap<String, PoolState>,
    /// Names of the pools that admit only some Services, in the order in which they are tried.
    pinned: Vec<String>,
    /// Names of the others, which are tried after those.
    plain: Vec<String>,
    services: HashMap<ServiceRef, Entry>,
    addresses: BTreeMap<IpAddr, Usage>,
    waiting: Waiting,
    /// By the name of a pool: who has its address from there and waits for something elsewhere.
    leaving: BTreeMap<String, BTreeSet<ServiceRef>>,
    /// Addresses that machines use: given to nobody.
    quarantine: BTreeMap<IpAddr, Occupant>,
    /// Namespaces that the configuration was judged with; none means every namespace.
    namespaces: Option<BTreeSet<String>>,
    /// Addresses that are being handed over between Services which ask for each other's.
    pledges: BTreeMap<IpAddr, ServiceRef>,
    /// Services that share, on which is being decided: they may leave what they have.
    undecided: BTreeSet<ServiceRef>,
    /// When the grace of a lost address ends.
    graces: BTreeSet<(Timestamp, ServiceRef)>,
    /// Since the queue was last served.
    freed: BTreeSet<Freed>,
    changed: BTreeSet<ServiceRef>,
    /// How often it was decided what a Service shall have.
    #[cfg(test)]
    decisions: u32,
}

/// What is known of one Service.
#[derive(Debug)]
struct Entry {
    /// None once the Service is no longer ours: it shall have nothing.
    request: Option<Arc<Request>>,
    sharing: Arc<Sharing>,
    desired: Vec<IpAddr>,
    stored: Vec<IpAddr>,
    pool: Option<String>,
    /// Boxed, like the next: most Services have neither.
    refusal: Option<Box<Refusal>>,
    waits: Option<Box<Wait>>,
    since: Option<Timestamp>,
    grace: Option<Timestamp>,
}

/// How a Service is in the queue.
#[derive(Debug)]
struct Wait {
    class: Arc<Class>,
    place: Place,
    /// The pool in [`Allocator::leaving`].
    leaves: Option<String>,
}

/// A Service as it is found at start.
#[derive(Clone, Debug)]
pub struct Adoptee {
    /// Which Service.
    pub service: ServiceKey,
    /// What it asks for.
    pub request: Request,
    /// The addresses that its status has.
    pub current: Vec<IpAddr>,
    /// The pool that its annotation names.
    pub pool: Option<String>,
    /// Since when it waits, if it does.
    pub waiting_since: Option<Timestamp>,
}

/// Which machine uses an address, so that no Service may get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occupant {
    /// A host on the network that is not of the cluster.
    ForeignHost,
    /// The node of this name: the address is its own.
    Node(String),
}

/// What a Service shall have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome<'a> {
    /// The addresses, in the order of the status.
    pub addresses: &'a [IpAddr],
    /// Their pool.
    pub pool: Option<&'a str>,
    /// Why it did not get what it asks for. A Service can have addresses and yet wait for others.
    pub refusal: Option<&'a Refusal>,
}

/// How full a pool is, in one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// Distinct addresses in use.
    pub in_use: u128,
    /// Addresses that the pool has, without those that it avoids.
    pub total: u128,
    /// Whether automatic assignment finds nothing more.
    pub exhausted: bool,
}

impl Allocator {
    /// Without configuration and Services. Configure it, let it adopt, then assign.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over all Services of ours as they are found, before anything is assigned. First [`Self::release`] the others.
    ///
    /// In a clash the elder Service keeps the address (then the lower UID), so the order of the list does not
    /// matter. Then those that lack something get it, longest-waiting first.
    pub fn adopt(&mut self, mut services: Vec<Adoptee>, now: Timestamp) {
        services.sort_by(|a, b| (&a.request.age, &a.service).cmp(&(&b.request.age, &b.service)));
        let mut adopted = Vec::with_capacity(services.len());
        for adoptee in services {
            let service = self.enter(&adoptee.service, adoptee.request);
            let Some(entry) = self.services.get_mut(&service) else { continue };
            entry.pool = adoptee.pool;
            entry.since = adoptee.waiting_since;
            let Some(request) = entry.request.clone() else { continue };
            // Claims of those adopted before are all of elders.
            let kept = self.judge(&service, &request, &adoptee.current).keep(true);
            self.set_addresses(&service, Some(kept), Some(adoptee.current));
            adopted.push((adoptee.waiting_since.unwrap_or(now), service));
        }
        // What each keeps is claimed by now, so who has a part of what it asks for passes nobody that waits longer.
        adopted.sort_by_key(|(since, _)| *since);
        self.resolve_each(adopted.into_iter().map(|(_, service)| service).collect(), now);
        self.serve(now);
    }

    /// Decides what `service` shall have, which asks for `request` and has `stored` in its status.
    ///
    /// Asking again with the same changes nothing.
    pub fn assign(
        &mut self,
        service: &ServiceKey,
        request: Request,
        stored: &[IpAddr],
        now: Timestamp,
    ) -> Outcome<'_> {
        let known = self.services.get(service).and_then(|entry| entry.request.as_deref());
        let renewed = known != Some(&request);
        let service = self.enter(service, request);
        // Until it is decided whether the Service stays where it is, nobody joins it there.
        if renewed {
            self.begin_to_decide(&service);
        }
        self.give_up(&service);
        self.set_addresses(&service, None, Some(stored.to_vec()));
        // What that freed belongs to who waits for it, before this Service chooses.
        self.serve(now);
        self.resolve(&service, now);
        self.decided(&service);
        self.serve(now);
        self.outcome(&service).unwrap_or(Outcome { addresses: &[], pool: None, refusal: None })
    }

    /// The Service is not ours, or no longer: it shall have nothing. Nobody gets what its status has, whoever wrote that,
    /// until [`Self::stored`] or this says that it is gone.
    pub fn release(&mut self, service: &ServiceKey, stored: &[IpAddr], now: Timestamp) {
        let known = self.services.get_key_value(service).map(|(known, _)| Arc::clone(known));
        if known.is_none() && stored.is_empty() {
            return;
        }
        let service = known.unwrap_or_else(|| Arc::new(service.clone()));
        let entry = self.services.entry(Arc::clone(&service)).or_insert_with(Entry::new);
        let was_ours = entry.request.is_some();
        self.leave_queue(&service);
        self.end_grace(&service);
        if let Some(entry) = self.services.get_mut(&service) {
            (entry.request, entry.refusal, entry.since, entry.pool) = (None, None, None, None);
        }
        self.drop_pledges(&service);
        self.set_addresses(&service, Some(Vec::new()), Some(stored.to_vec()));
        if was_ours {
            self.changed.insert(Arc::clone(&service));
        }
        if stored.is_empty() {
            self.services.remove(&service);
        }
        self.serve(now);
    }

    /// The object is gone, and with it everything that it had.
    pub fn forget(&mut self, service: &ServiceKey, now: Timestamp) {
        self.release(service, &[], now);
        self.changed.remove(service);
    }

    /// The API is known to store exactly `addresses` for `service` now.
    pub fn stored(&mut self, service: &ServiceKey, addresses: &[IpAddr], now: Timestamp) {
        let Some((service, entry)) = self.services.get_key_value(service) else { return };
        let (service, ours) = (Arc::clone(service), entry.request.is_some());
        self.set_addresses(&service, None, Some(addresses.to_vec()));
        if !ours && addresses.is_empty() {
            self.services.remove(&service);
        }
        self.serve(now);
    }

    /// A write of `addresses` for `service` was begun and its outcome is not known: the API may have either.
    pub fn uncertain(&mut self, service: &ServiceKey, addresses: &[IpAddr]) {
        let Some((service, entry)) = self.services.get_key_value(service) else { return };
        let service = Arc::clone(service);
        let mut either = entry.stored.clone();
        either.extend(addresses.iter().filter(|ip| !entry.stored.contains(ip)));
        self.set_addresses(&service, None, Some(either));
    }

    /// Lets graces end that are over.
    pub fn poll(&mut self, now: Timestamp) {
        let mut due = BTreeSet::new();
        while self.graces.first().is_some_and(|(deadline, _)| *deadline <= now) {
            due.extend(self.graces.pop_first().map(|(_, service)| service));
        }
        if !due.is_empty() {
            for service in self.order(|service| due.contains(service)) {
                self.resolve(&service, now);
            }
        }
        self.serve(now);
    }

    /// When [`Self::poll`] has something to do.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.graces.first().map(|(deadline, _)| *deadline)
    }

    /// What `service` shall have; none if it is not known, or if its namespace is not, so that nothing is decided yet.
    pub fn outcome(&self, service: &ServiceKey) -> Option<Outcome<'_>> {
        self.services.get(service).filter(|_| self.knows(&service.namespace)).map(|entry| Outcome {
            addresses: &entry.desired,
            pool: entry.pool.as_deref().filter(|_| !entry.desired.is_empty()),
            refusal: entry.refusal.as_deref(),
        })
    }

    /// The Services whose outcome changed since this was last asked.
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

    /// Who has `ip`, or may still have it in the API.
    pub fn holders(&self, ip: IpAddr) -> Vec<ServiceKey> {
        let usage = self.addresses.get(&ip);
        usage
            .map(|usage| usage.claims().into_iter().map(|(s, _)| (**s).clone()).collect())
            .unwrap_or_default()
    }

    /// Every Service that it was told of and that is not forgotten, in no order.
    pub fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.keys().map(AsRef::as_ref)
    }

    /// How many Services are refused something, by the reason's word.
    pub fn refused(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for refusal in self.services.values().filter_map(|entry| entry.refusal.as_ref()) {
            *counts.entry(refusal.reason()).or_default() += 1;
        }
        counts
    }

    /// Enters `service` with its request into the books.
    fn enter(&mut self, service: &ServiceKey, request: Request) -> ServiceRef {
        let known = self.services.get_key_value(service).map(|(known, _)| Arc::clone(known));
        let service = known.unwrap_or_else(|| Arc::new(service.clone()));
        let entry = self.services.entry(Arc::clone(&service)).or_insert_with(Entry::new);
        if entry.request.as_deref() == Some(&request) {
            return service;
        }
        entry.sharing = Arc::new(request.sharing.clone());
        entry.request = Some(Arc::new(request));
        self.drop_pledges(&service);
        service
    }

    /// Takes from `service` what its request does not leave to it, and renews its other claims by its sharing.
    fn give_up(&mut self, service: &ServiceRef) {
        let Some(entry) = self.services.get(service) else { return };
        let Some(request) = entry.request.clone() else { return };
        let desired = entry.desired.clone();
        let kept = self.judge(service, &request, &desired).keep(true);
        if kept != desired {
            self.set_addresses(service, Some(kept), None);
            self.changed.insert(Arc::clone(service));
        }
        self.reclaim(service);
    }

    /// Whether pools and policies were judged with the labels of `namespace`.
    fn knows(&self, namespace: &str) -> bool {
        self.namespaces.as_ref().is_none_or(|known| known.contains(namespace))
    }

    /// Decides anew what `service` shall have.
    fn resolve(&mut self, service: &ServiceRef, now: Timestamp) {
        #[cfg(test)]
        self.count_decision();
        let Some(entry) = self.services.get(service) else { return };
        let Some(request) = entry.request.clone() else { return };
        let desired = entry.desired.clone();
        let judged = self.judge(service, &request, &desired);
        if !self.knows(&service.namespace) {
            self.postpone(service, judged.keep(true), now);
            return;
        }
        let lost = self.in_grace(service, &judged, now);
        let mut kept = judged.keep(lost.is_some());
        if kept.is_empty() {
            // Better what the API still has for it than nothing, as long as nobody else may claim it.
            let stored = self.still_stored(service);
            kept = self.judge(service, &request, &stored).keep(false);
        }
        let lost_one = judged.lost() && lost.is_none() && !desired.is_empty();
        let mut choice = self.choose(service, &request, &kept, lost);
        if lost_one && let Some(both) = self.both_elsewhere(service, &request, &choice) {
            choice = both;
        }
        if !judged.loses_any_of(&choice.addresses) {
            // It moves already: it is there to stay, and others may join it.
            self.end_grace(service);
        }
        self.apply(service, &request, choice, now);
        self.break_cycle(service);
    }

    /// Leaves `kept` to `service`, and it out of everybody's way. It waits from now on, unless it did before.
    fn postpone(&mut self, service: &ServiceRef, kept: Vec<IpAddr>, now: Timestamp) {
        self.leave_queue(service);
        self.set_addresses(service, Some(kept), None);
        if let Some(entry) = self.services.get_mut(service) {
            entry.refusal = None;
            entry.since.get_or_insert(now);
        }
    }
}

#[cfg(test)]
impl Allocator {
    /// Fails rather than decide for ever, so that the history that led there is printed.
    fn count_decision(&mut self) {
        const MOST: u32 = 100_000;
        self.decisions += 1;
        assert!(self.decisions <= MOST, "more than {MOST} decisions: a loop without end");
    }
}

impl Entry {
    fn new() -> Self {
        Self {
            request: None,
            sharing: Arc::default(),
            desired: Vec::new(),
            stored: Vec::new(),
            pool: None,
            refusal: None,
            waits: None,
            since: None,
            grace: None,
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod tests;
