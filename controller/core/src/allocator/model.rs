//! Random histories against a naive model: what the API stores, and one claim a Service and address.
//!
//! The model knows nothing of pools as intervals, queues or claims. It holds the objects, carries out writes when
//! the history says so (or loses them, or does them without telling), and after every step looks at *all* addresses
//! that any Service has or is given, one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use self::objects::{CROWDED, key, objects_of, request, wish};
use self::steps::{Step, crowded_step, step};
use super::claims::union;
use super::tests::{at, foreign, ips, nodes};
use super::*;

mod checks;
mod objects;
mod steps;

/// Few Services and few addresses, so that everything meets everything.
const SERVICES: u8 = 7;

/// The cluster as it is: no controller's opinion.
#[derive(Clone, Debug, Default)]
struct Object {
    request: Option<Request>,
    /// What it shared by when it was last a load balancer.
    sharing: Sharing,
    stored: Vec<IpAddr>,
    /// The pool that its annotation names.
    pool: Option<String>,
    /// Grows with each change.
    version: u64,
}

/// Writes by the version that they were made for.
type Writes = BTreeMap<ServiceKey, (u64, Vec<IpAddr>)>;

/// A controller that another has taken over from, and that lives on with what it knew then.
struct Older {
    allocator: Allocator,
    /// The version of each object as it has seen it.
    seen: BTreeMap<ServiceKey, u64>,
}

#[derive(Default)]
struct World {
    version: u64,
    /// Begun, and neither carried out nor refused by now.
    under_way: Writes,
    /// The same as far as the controller knows.
    unsettled: Writes,
    /// What the pools and policies are.
    choice: (u8, u8),
    last_valid: rules::LastValid,
    objects: BTreeMap<ServiceKey, Object>,
    allocator: Allocator,
    older: Option<Older>,
    /// What the older controller has written and the present one has not seen.
    unseen: BTreeSet<ServiceKey>,
    configuration: Arc<Configuration>,
    quarantine: BTreeMap<IpAddr, Occupant>,
    /// The one namespace that is not known, if any.
    unknown: Option<&'static str>,
    now: i64,
    /// Since when an address of a Service is in no pool that gives it to that Service.
    homeless: BTreeMap<(ServiceKey, IpAddr), i64>,
    /// Since when a Service waits, as its condition has it.
    waits: BTreeMap<ServiceKey, i64>,
}

/// What was before a step.
struct Before {
    desired: BTreeMap<ServiceKey, Vec<IpAddr>>,
    /// Who waited, longest first.
    waiting: Vec<ServiceKey>,
    pledged: BTreeSet<IpAddr>,
    /// Who asks for something else in this step: what that frees is given to who waits for it first.
    renewed: Option<ServiceKey>,
}

impl Before {
    fn of(world: &World, step: &Step) -> Self {
        let renewed = match step {
            Step::Apply(service, _) => Some(key(*service)),
            _ => None,
        };
        let age = |service: &ServiceKey| {
            world.objects.get(service).and_then(|object| Some(object.request.as_ref()?.age.clone()))
        };
        let mut waiting: Vec<ServiceKey> = world.waits.keys().cloned().collect();
        waiting.sort_by_key(|service| (world.waits.get(service), age(service)));
        let pledged = world.allocator.pledges.keys().copied().collect();
        Self { desired: world.all(), waiting, pledged, renewed }
    }
}

impl World {
    fn new(pools: u8, policies: u8) -> Self {
        let mut world = Self { choice: (pools, policies), ..Self::default() };
        world.restart();
        world
    }

    /// The object is another version from now on.
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
        let known = self.allocator.outcome(service).and_then(|outcome| outcome.pool).map(str::to_owned);
        if let Some(object) = self.objects.get_mut(service) {
            object.pool = pool.or(known).filter(|_| !addresses.is_empty());
            object.stored = addresses;
        }
        self.changed(service);
    }

    /// A write of `service` that is under way is carried out, if it still can.
    fn land(&mut self, service: &ServiceKey) {
        let Some((version, addresses)) = self.under_way.remove(service) else { return };
        if self.objects.get(service).is_some_and(|object| object.version == version) {
            self.write(service, addresses);
        }
    }

    /// What the controller takes for stored: what it sees, and what it began to write for that version.
    fn possibly_stored(&mut self, service: &ServiceKey, object: &Object) -> Vec<IpAddr> {
        if self.unsettled.get(service).is_some_and(|(version, _)| object.version > *version) {
            self.unsettled.remove(service);
        }
        let written = self.unsettled.get(service).map(|(_, addresses)| addresses.clone()).unwrap_or_default();
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

    /// The older controller writes what it decides for `service`, if the object is still the one that it has seen.
    fn write_of_older(&mut self, service: &ServiceKey) {
        let (Some(older), Some(object)) = (&mut self.older, self.objects.get_mut(service)) else { return };
        older.allocator.poll(at(self.now));
        let Some(outcome) = older.allocator.outcome(service) else { return };
        let (addresses, pool) = (outcome.addresses.to_vec(), outcome.pool.map(str::to_owned));
        if older.seen.get(service) != Some(&object.version) || addresses == object.stored {
            return;
        }
        self.version += 1;
        (object.stored, object.pool, object.version) = (addresses.clone(), pool, self.version);
        older.seen.insert(service.clone(), self.version);
        older.allocator.stored(service, &addresses, at(self.now));
        self.unseen.insert(service.clone());
    }

    /// The controller looks at the object, as after an event of the watch.
    fn look(&mut self, service: &ServiceKey) {
        self.unseen.remove(service);
        let Some(object) = self.objects.get(service).cloned() else {
            self.unsettled.remove(service);
            return self.allocator.forget(service, at(self.now));
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
        self.homeless.clear();
        self.unsettled.clear();
        self.unseen.clear();
        self.last_valid = rules::LastValid::default();
        self.configure();
        self.allocator = Allocator::new();
        self.allocator.configure(Arc::clone(&self.configuration), self.quarantine.clone(), at(self.now));
        self.set_namespaces(self.unknown);
        for (service, object) in self.objects.iter().filter(|(_, object)| object.request.is_none()) {
            self.allocator.release(service, &object.stored, at(self.now));
        }
        let adoptees = self.objects.iter().filter_map(|(service, object)| {
            Some(Adoptee {
                service: service.clone(),
                request: object.request.clone()?,
                current: object.stored.clone(),
                pool: object.pool.clone(),
                waiting_since: self.waits.get(service).map(|since| at(*since)),
            })
        });
        self.allocator.adopt(adoptees.collect(), at(self.now));
    }

    fn step(&mut self, step: &Step) {
        self.carry_out(step);
        self.note_waiting();
    }

    fn note_waiting(&mut self) {
        let refused: BTreeSet<ServiceKey> = self
            .objects
            .keys()
            .filter(|service| {
                self.allocator.services.get(*service).is_some_and(|entry| entry.request.is_some())
                    && self.allocator.outcome(service).is_none_or(|o| o.refusal.is_some())
            })
            .cloned()
            .collect();
        self.waits.retain(|service, _| refused.contains(service));
        for service in refused {
            self.waits.entry(service).or_insert(self.now);
        }
    }

    /// Takes the step and looks whether all holds that must.
    fn checked(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let before = Before::of(self, step);
        self.step(step);
        self.check_doubles()?;
        self.check_grants(&before.desired)?;
        self.check_joins(&before)?;
        self.check_kept_back(&before.desired)?;
        self.check_quotas(&before.desired)?;
        self.check_order(&before)?;
        self.check_grace()?;
        self.check_waiting()
    }

    fn carry_out(&mut self, step: &Step) {
        match step {
            Step::Apply(service, wish) => {
                let object = self.objects.entry(key(*service)).or_default();
                let request = request(*service, wish);
                object.sharing = request.sharing.clone();
                object.request = Some(request);
                self.changed(&key(*service));
                self.look(&key(*service));
            }
            Step::Delete(service) => {
                self.objects.remove(&key(*service));
                self.look(&key(*service));
            }
            Step::ChangeType(service) => {
                if let Some(object) = self.objects.get_mut(&key(*service)) {
                    object.request = None;
                    self.changed(&key(*service));
                    self.look(&key(*service));
                }
            }
            // What the write was made for is outdated, which its answer shows.
            Step::Write(service)
            | Step::WriteUnheard(service)
            | Step::WriteLost(service)
            | Step::Begin(service)
                if self.unseen.contains(&key(*service)) =>
            {
                self.look(&key(*service));
            }
            Step::Write(service) | Step::WriteUnheard(service) | Step::WriteLost(service) => {
                let (service, desired) = (key(*service), self.desired(&key(*service)));
                if !self.objects.contains_key(&service) {
                    return;
                }
                if !matches!(step, Step::WriteLost(_)) {
                    self.write(&service, desired.clone());
                }
                if matches!(step, Step::Write(_)) {
                    self.unsettled.remove(&service);
                    self.allocator.stored(&service, &desired, at(self.now));
                } else {
                    self.allocator.uncertain(&service, &desired);
                }
            }
            Step::Begin(service) => {
                let service = key(*service);
                let Some(object) = self.objects.get(&service) else { return };
                let (version, desired) = (object.version, self.desired(&service));
                self.under_way.insert(service.clone(), (version, desired.clone()));
                let (known, addresses) = self.unsettled.entry(service.clone()).or_default();
                *known = version.max(*known);
                *addresses = union(addresses, &desired);
                self.allocator.uncertain(&service, &desired);
            }
            Step::Land(service) => self.land(&key(*service)),
            Step::WriteOfAnother(service, choice) => {
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
                self.look(&service);
            }
            Step::TakeOver(carried_out) => {
                let under_way: Vec<ServiceKey> = self.under_way.keys().cloned().collect();
                for (index, service) in under_way.iter().enumerate() {
                    if carried_out >> (index % 8) & 1 == 1 {
                        self.land(service);
                    }
                }
                // No write outlasts the Lease under which it was begun.
                self.under_way.clear();
                let seen = self.objects.iter().map(|(service, object)| (service.clone(), object.version));
                self.older =
                    Some(Older { seen: seen.collect(), allocator: std::mem::take(&mut self.allocator) });
                self.restart();
            }
            Step::Older(service) => self.write_of_older(&key(*service)),
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
                self.allocator.poll(at(self.now));
            }
        }
    }

    /// Sees everything as it is, and writes everything until nothing changes.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        self.set_namespaces(None);
        self.older = None;
        self.under_way.clear();
        self.unsettled.clear();
        for service in self.objects.keys().cloned().collect::<Vec<_>>() {
            self.look(&service);
        }
        self.write_all()
    }

    /// Writes everything until nothing changes.
    fn write_all(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..100 {
            let due: Vec<ServiceKey> = self
                .objects
                .iter()
                .filter(|(service, object)| self.desired(service) != object.stored)
                .map(|(service, _)| service.clone())
                .collect();
            if due.is_empty() {
                self.note_waiting();
                return Ok(());
            }
            for service in due {
                let desired = self.desired(&service);
                self.write(&service, desired.clone());
                self.unsettled.remove(&service);
                self.allocator.stored(&service, &desired, at(self.now));
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
    fn requirement_9_the_invariants_hold_over_every_history(
        policies in 0..6_u8,
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new(0, policies);
        for step in &steps {
            world.checked(step)?;
        }
        world.settle()?;
        world.check_doubles()?;
        world.check_exchanges()?;
        world.check_rest()?;
        world.check_doubles()?;
    }

    #[test]
    fn in_a_crowd_whoever_fits_is_served_longest_waiting_first(
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
    fn the_order_of_adoption_does_not_matter(
        wishes in proptest::collection::vec((wish(), 0..4_u8), 1..7),
        seed in any::<u64>(),
    ) {
        let adoptees: Vec<Adoptee> = wishes.iter().zip(0..).map(|((wish, current), service)| Adoptee {
            service: key(service),
            request: request(service, wish),
            current: match current { 0 => ips(&[]), 1 => ips(&["10.0.0.1"]), 2 => ips(&["10.0.0.2"]), _ => ips(&["10.0.0.1", "fc00::1"]) },
            pool: None,
            waiting_since: None,
        }).collect();
        let outcome = |list: Vec<Adoptee>| {
            let mut allocator = Allocator::new();
            allocator.set_configuration(Arc::new(Configuration::from_objects(&objects_of(2, 0)).0), at(0));
            allocator.adopt(list, at(0));
            (0..SERVICES).map(|s| allocator.outcome(&key(s)).map(|o| o.addresses.to_vec())).collect::<Vec<_>>()
        };
        let expected = outcome(adoptees.clone());
        let mut shuffled = adoptees;
        shuffled.sort_by_key(|adoptee| {
            let place = u64::from(adoptee.service.name.as_bytes()[1]).wrapping_mul(seed | 1);
            place.rotate_left(17)
        });
        prop_assert_eq!(outcome(shuffled), expected);
    }

    #[test]
    fn to_release_and_to_assign_again_is_stable(wishes in proptest::collection::vec(wish(), 1..7), which in 0..SERVICES) {
        let mut world = World::new(2, 0);
        for (wish, service) in wishes.iter().zip(0..) {
            world.step(&Step::Apply(service, wish.clone()));
        }
        world.settle()?;
        let before = world.all();
        let waiting = before.values().any(Vec::is_empty);
        if let Some(object) = world.objects.get(&key(which)).cloned() {
            world.step(&Step::ChangeType(which));
            world.objects.insert(key(which), object);
            world.look(&key(which));
            world.settle()?;
            if !waiting {
                prop_assert_eq!(world.all(), before);
            }
        }
    }
}
