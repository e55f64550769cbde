//! Random histories, checked against a simple model of the cluster.
//!
//! The model has no intervals, queues or claims. It holds the objects, carries out writes when the history
//! says so (or loses them, or loses only the answer), and checks *all* addresses of all Services one by one
//! after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use self::objects::{CROWDED, key, objects_of, request, request_choice};
use self::steps::{Step, crowded_step, step};
use super::claims::union;
use super::tests::{at, existing, foreign, ips, nodes};
use super::*;

mod checks;
mod objects;
mod steps;

/// Few Services and few addresses, so that they often interact.
const SERVICES: u8 = 7;

/// A Service object as the API stores it.
#[derive(Clone, Debug, Default)]
struct Object {
    request: Option<Request>,
    /// Its sharing when it last was a load balancer.
    sharing: Sharing,
    stored: Vec<IpAddr>,
    /// The pool in its annotation.
    pool: Option<String>,
    /// Increases with each change.
    version: u64,
}

/// Writes: the version that each was made for, and the addresses.
type Writes = BTreeMap<ServiceKey, (u64, Vec<IpAddr>)>;

/// A controller that lost the Lease and continues with the state that it had then.
struct FormerLeader {
    allocator: Allocator,
    /// The version of each object that it has seen last.
    seen: BTreeMap<ServiceKey, u64>,
}

#[derive(Default)]
struct World {
    version: u64,
    /// Sent to the API server, and neither carried out nor refused yet.
    sent: Writes,
    /// The same as the controller knows it.
    in_flight: Writes,
    /// Numbers of the pools and policies.
    choice: (u8, u8),
    last_valid: rules::LastValid,
    objects: BTreeMap<ServiceKey, Object>,
    allocator: Allocator,
    former: Option<FormerLeader>,
    /// Services that the former leader has written and the present one has not seen since.
    unseen: BTreeSet<ServiceKey>,
    configuration: Arc<Configuration>,
    quarantine: BTreeMap<IpAddr, Occupant>,
    /// The one namespace that is not known, if any.
    unknown: Option<&'static str>,
    now: i64,
    /// Since when an address of a Service is in no pool.
    unpooled: BTreeMap<(ServiceKey, IpAddr), i64>,
    /// Since when a Service waits, as in its condition.
    waits: BTreeMap<ServiceKey, i64>,
}

/// The state before a step.
struct Before {
    desired: BTreeMap<ServiceKey, Vec<IpAddr>>,
    /// The waiting Services, longest-waiting first.
    waiting: Vec<ServiceKey>,
    handed_off: BTreeSet<IpAddr>,
    /// The Service whose request changes in this step: an address that it frees goes to a waiting Service
    /// first.
    request_changed: Option<ServiceKey>,
}

impl Before {
    fn of(world: &World, step: &Step) -> Self {
        let request_changed = match step {
            Step::Apply(service, _) => Some(key(*service)),
            _ => None,
        };
        let age = |service: &ServiceKey| {
            world.objects.get(service).and_then(|object| Some(object.request.as_ref()?.age.clone()))
        };
        let mut waiting: Vec<ServiceKey> = world.waits.keys().cloned().collect();
        waiting.sort_by_key(|service| (world.waits.get(service), age(service)));
        let handed_off = world.allocator.handoffs.keys().copied().collect();
        Self { desired: world.all(), waiting, handed_off, request_changed }
    }
}

impl World {
    fn new(pools: u8, policies: u8) -> Self {
        let mut world = Self { choice: (pools, policies), ..Self::default() };
        world.restart();
        world
    }

    /// Increases the version of the object.
    fn changed(&mut self, service: &ServiceKey) {
        self.version += 1;
        if let Some(object) = self.objects.get_mut(service) {
            object.version = self.version;
        }
    }

    /// The API stores `addresses` for `service`, as the controller writes them.
    fn write(&mut self, service: &ServiceKey, addresses: Vec<IpAddr>) {
        let pool =
            addresses.first().and_then(|ip| self.configuration.pool_of(*ip)).map(|pool| pool.name.clone());
        let known =
            self.allocator.assignment(service).and_then(|assignment| assignment.pool).map(str::to_owned);
        if let Some(object) = self.objects.get_mut(service) {
            object.pool = pool.or(known).filter(|_| !addresses.is_empty());
            object.stored = addresses;
        }
        self.changed(service);
    }

    /// The API server carries out a write of `service` that was sent, unless the object has changed since.
    fn carry_out(&mut self, service: &ServiceKey) {
        let Some((version, addresses)) = self.sent.remove(service) else { return };
        if self.objects.get(service).is_some_and(|object| object.version == version) {
            self.write(service, addresses);
        }
    }

    /// What the controller considers as stored: what it sees, and what it has sent for that version.
    fn possibly_stored(&mut self, service: &ServiceKey, object: &Object) -> Vec<IpAddr> {
        if self.in_flight.get(service).is_some_and(|(version, _)| object.version > *version) {
            self.in_flight.remove(service);
        }
        let written = self.in_flight.get(service).map(|(_, addresses)| addresses.clone()).unwrap_or_default();
        union(&object.stored, &written)
    }

    fn configure(&mut self) {
        let (pools, policies) = self.choice;
        self.configuration = Arc::new(self.last_valid.configure(&objects_of(pools, policies)).0);
    }

    fn desired(&self, service: &ServiceKey) -> Vec<IpAddr> {
        self.allocator.services.get(service).map(|entry| entry.desired.clone()).unwrap_or_default()
    }

    /// Whether anything is decided for `service` at the moment.
    fn decided(&self, service: &ServiceKey) -> bool {
        self.unknown != Some(&service.namespace)
    }

    fn set_namespaces(&mut self, unknown: Option<&'static str>) {
        self.unknown = unknown;
        let known = ["shop", "bank"].into_iter().filter(|name| unknown != Some(*name));
        self.allocator.set_namespaces(known.map(str::to_owned).collect(), at(self.now));
    }

    /// The former leader writes its assignment for `service`, if it has seen the present version of the
    /// object.
    fn write_by_former_leader(&mut self, service: &ServiceKey) {
        let (Some(former), Some(object)) = (&mut self.former, self.objects.get_mut(service)) else { return };
        former.allocator.handle_timeout(at(self.now));
        let Some(assignment) = former.allocator.assignment(service) else { return };
        let (addresses, pool) = (assignment.addresses.to_vec(), assignment.pool.map(str::to_owned));
        if former.seen.get(service) != Some(&object.version) || addresses == object.stored {
            return;
        }
        self.version += 1;
        (object.stored, object.pool, object.version) = (addresses.clone(), pool, self.version);
        former.seen.insert(service.clone(), self.version);
        former.allocator.observed(service, &addresses, at(self.now));
        self.unseen.insert(service.clone());
    }

    /// The controller processes the object, as after a watch event.
    fn sync(&mut self, service: &ServiceKey) {
        self.unseen.remove(service);
        let Some(object) = self.objects.get(service).cloned() else {
            self.in_flight.remove(service);
            return self.allocator.remove(service, at(self.now));
        };
        let stored = self.possibly_stored(service, &object);
        match object.request {
            None => self.allocator.release(service, &stored, at(self.now)),
            Some(request) => {
                self.allocator.assign(service, request, &stored, at(self.now));
            }
        }
    }

    fn restart(&mut self) {
        // A new controller does not know since when an address is in no pool.
        self.unpooled.clear();
        self.in_flight.clear();
        self.unseen.clear();
        self.last_valid = rules::LastValid::default();
        self.configure();
        self.allocator = Allocator::new();
        self.allocator.configure(Arc::clone(&self.configuration), self.quarantine.clone(), at(self.now));
        self.set_namespaces(self.unknown);
        for (service, object) in self.objects.iter().filter(|(_, object)| object.request.is_none()) {
            self.allocator.release(service, &object.stored, at(self.now));
        }
        let existing = self.objects.iter().filter_map(|(service, object)| {
            Some(ExistingService {
                service: service.clone(),
                request: object.request.clone()?,
                current: object.stored.clone(),
                pool: object.pool.clone(),
                waiting_since: self.waits.get(service).map(|since| at(*since)),
            })
        });
        self.allocator.restore(existing.collect(), at(self.now));
    }

    fn step(&mut self, step: &Step) {
        self.execute(step);
        self.record_waiting();
    }

    fn record_waiting(&mut self) {
        let refused: BTreeSet<ServiceKey> = self
            .objects
            .keys()
            .filter(|service| {
                self.allocator.services.get(*service).is_some_and(|entry| entry.request.is_some())
                    && self.allocator.assignment(service).is_none_or(|o| o.refusal.is_some())
            })
            .cloned()
            .collect();
        self.waits.retain(|service, _| refused.contains(service));
        for service in refused {
            self.waits.entry(service).or_insert(self.now);
        }
    }

    /// Executes the step and checks the invariants.
    fn checked(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let before = Before::of(self, step);
        self.step(step);
        self.check_unique()?;
        self.check_grants(&before.desired)?;
        self.check_joins(&before)?;
        self.check_reserved(&before.desired)?;
        self.check_quotas(&before.desired)?;
        self.check_order(&before)?;
        self.check_grace()?;
        self.check_waiting()
    }

    fn execute(&mut self, step: &Step) {
        match step {
            Step::Apply(service, request_choice) => {
                let object = self.objects.entry(key(*service)).or_default();
                let request = request(*service, request_choice);
                object.sharing = request.sharing.clone();
                object.request = Some(request);
                self.changed(&key(*service));
                self.sync(&key(*service));
            }
            Step::Delete(service) => {
                self.objects.remove(&key(*service));
                self.sync(&key(*service));
            }
            Step::ChangeType(service) => {
                if let Some(object) = self.objects.get_mut(&key(*service)) {
                    object.request = None;
                    self.changed(&key(*service));
                    self.sync(&key(*service));
                }
            }
            // The write fails since it was made for an outdated version.
            Step::Write(service)
            | Step::WriteUnconfirmed(service)
            | Step::WriteLost(service)
            | Step::Begin(service)
                if self.unseen.contains(&key(*service)) =>
            {
                self.sync(&key(*service));
            }
            Step::Write(service) | Step::WriteUnconfirmed(service) | Step::WriteLost(service) => {
                let (service, desired) = (key(*service), self.desired(&key(*service)));
                if !self.objects.contains_key(&service) {
                    return;
                }
                if !matches!(step, Step::WriteLost(_)) {
                    self.write(&service, desired.clone());
                }
                if matches!(step, Step::Write(_)) {
                    self.in_flight.remove(&service);
                    self.allocator.observed(&service, &desired, at(self.now));
                } else {
                    self.allocator.write_unknown(&service, &desired);
                }
            }
            Step::Begin(service) => {
                let service = key(*service);
                let Some(object) = self.objects.get(&service) else { return };
                let (version, desired) = (object.version, self.desired(&service));
                self.sent.insert(service.clone(), (version, desired.clone()));
                let (known, addresses) = self.in_flight.entry(service.clone()).or_default();
                *known = version.max(*known);
                *addresses = union(addresses, &desired);
                self.allocator.write_unknown(&service, &desired);
            }
            Step::CarryOut(service) => self.carry_out(&key(*service)),
            Step::ForeignWrite(service, choice) => {
                let list: &[&str] = match choice {
                    0 => &[],
                    1 => &["192.168.1.5"],
                    2 => &["10.0.0.2"],
                    _ => &["10.0.0.1"],
                };
                let service = key(*service);
                let Some(object) = self.objects.get_mut(&service) else { return };
                object.stored = ips(list);
                self.changed(&service);
                self.sync(&service);
            }
            Step::TakeOver(carried_out) => {
                let sent: Vec<ServiceKey> = self.sent.keys().cloned().collect();
                for (index, service) in sent.iter().enumerate() {
                    if carried_out >> (index % 8) & 1 == 1 {
                        self.carry_out(service);
                    }
                }
                // No write is carried out after the Lease under which it was sent.
                self.sent.clear();
                let seen = self.objects.iter().map(|(service, object)| (service.clone(), object.version));
                self.former = Some(FormerLeader {
                    seen: seen.collect(),
                    allocator: std::mem::take(&mut self.allocator),
                });
                self.restart();
            }
            Step::FormerLeader(service) => self.write_by_former_leader(&key(*service)),
            Step::Configure(pools, policies) => {
                self.choice = (*pools, *policies);
                self.configure();
                self.allocator.set_configuration(Arc::clone(&self.configuration), at(self.now));
            }
            Step::Quarantine(choice) => {
                let list: &[&str] = match choice {
                    0 => &[],
                    1 => &["10.0.0.1"],
                    _ => &["10.0.0.2", "10.0.1.0", "fc00::1"],
                };
                self.quarantine = foreign(list);
                if *choice == 3 {
                    self.quarantine.extend(nodes(&["10.0.0.3", "10.0.2.1", "fc00::2"]));
                }
                self.allocator.set_quarantine(self.quarantine.clone(), at(self.now));
            }
            Step::Namespaces(choice) => {
                let unknown = match choice {
                    0 => None,
                    1 => Some("bank"),
                    _ => Some("shop"),
                };
                self.set_namespaces(unknown);
            }
            Step::Wait(seconds) => {
                self.now += i64::from(*seconds);
                self.allocator.handle_timeout(at(self.now));
            }
        }
    }

    /// Processes all objects and writes until nothing changes.
    fn converge(&mut self) -> Result<(), TestCaseError> {
        self.set_namespaces(None);
        self.former = None;
        self.sent.clear();
        self.in_flight.clear();
        for service in self.objects.keys().cloned().collect::<Vec<_>>() {
            self.sync(&service);
        }
        self.write_all()
    }

    /// Writes until nothing changes.
    fn write_all(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..100 {
            let due: Vec<ServiceKey> = self
                .objects
                .iter()
                .filter(|(service, object)| self.desired(service) != object.stored)
                .map(|(service, _)| service.clone())
                .collect();
            if due.is_empty() {
                self.record_waiting();
                return Ok(());
            }
            for service in due {
                let desired = self.desired(&service);
                self.write(&service, desired.clone());
                self.in_flight.remove(&service);
                self.allocator.observed(&service, &desired, at(self.now));
            }
        }
        Err(TestCaseError::fail("the writes never end"))
    }

    fn all(&self) -> BTreeMap<ServiceKey, Vec<IpAddr>> {
        self.objects.keys().map(|service| (service.clone(), self.desired(service))).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn the_invariants_hold_in_every_history(
        policies in 0..6_u8,
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new(0, policies);
        for step in &steps {
            world.checked(step)?;
        }
        world.converge()?;
        world.check_unique()?;
        world.check_exchanges()?;
        world.check_stable()?;
        world.check_unique()?;
    }

    #[test]
    fn with_few_addresses_services_that_fit_are_served_longest_waiting_first(
        pools in CROWDED,
        policies in 0..6_u8,
        steps in proptest::collection::vec(crowded_step(), 1..40),
    ) {
        let mut world = World::new(pools, policies);
        for step in &steps {
            world.checked(step)?;
            world.write_all()?;
            world.check_waiting()?;
        }
    }

    #[test]
    fn the_order_of_restored_services_does_not_matter(
        choices in proptest::collection::vec((request_choice(), 0..4_u8), 1..7),
        seed in any::<u64>(),
    ) {
        let services: Vec<ExistingService> = choices.iter().zip(0..).map(|((choice, current), number)| {
            let current: &[&str] = match current {
                0 => &[],
                1 => &["10.0.0.1"],
                2 => &["10.0.0.2"],
                _ => &["10.0.0.1", "fc00::1"],
            };
            ExistingService { service: key(number), ..existing("", request(number, choice), current) }
        }).collect();
        let assignment = |list: Vec<ExistingService>| {
            let mut allocator = Allocator::new();
            allocator.set_configuration(Arc::new(Configuration::from_objects(&objects_of(2, 0)).0), at(0));
            allocator.restore(list, at(0));
            let addresses = |number| allocator.assignment(&key(number)).map(|a| a.addresses.to_vec());
            (0..SERVICES).map(addresses).collect::<Vec<_>>()
        };
        let expected = assignment(services.clone());
        let mut shuffled = services;
        shuffled.sort_by_key(|existing| {
            let rank = u64::from(existing.service.name.as_bytes()[1]).wrapping_mul(seed | 1);
            rank.rotate_left(17)
        });
        prop_assert_eq!(assignment(shuffled), expected);
    }

    #[test]
    fn releasing_and_assigning_again_is_stable(
        choices in proptest::collection::vec(request_choice(), 1..7),
        which in 0..SERVICES,
    ) {
        let mut world = World::new(2, 0);
        for (request_choice, service) in choices.iter().zip(0..) {
            world.step(&Step::Apply(service, request_choice.clone()));
        }
        world.converge()?;
        let before = world.all();
        let waiting = before.values().any(Vec::is_empty);
        if let Some(object) = world.objects.get(&key(which)).cloned() {
            world.step(&Step::ChangeType(which));
            world.objects.insert(key(which), object);
            world.sync(&key(which));
            world.converge()?;
            if !waiting {
                prop_assert_eq!(world.all(), before);
            }
        }
    }
}
