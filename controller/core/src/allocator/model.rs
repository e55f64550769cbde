//! Random histories against a naive model: what the API stores, and one claim a Service and address.
//!
//! The model knows nothing of pools as intervals, queues or claims. It holds the objects, carries out writes when
//! the history says so (or loses them, or does them without telling), and after every step looks at *all* addresses
//! that any Service has or is given, one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use serde_json::json;

use super::tests::{at, configuration, ips, request as request_of};
use super::*;
use crate::request::{Families, Wanted};
use crate::usage::no_sharing;

/// Few Services and few addresses, so that everything meets everything.
const SERVICES: u8 = 7;

#[derive(Clone, Debug)]
enum Step {
    /// The Service is created, or its spec changes.
    Apply(u8, Wish),
    /// The object is deleted.
    Delete(u8),
    /// It is no load balancer any more.
    ChangeType(u8),
    /// The write that the Service needs is done, and that is known.
    Write(u8),
    /// It is done, but the answer is lost.
    WriteUnheard(u8),
    /// It is not done, but that is not known.
    WriteLost(u8),
    /// The pools change.
    Configure(u8),
    /// Strangers use addresses.
    Quarantine(u8),
    /// Time passes.
    Wait(u8),
    /// The controller dies and another takes over.
    Restart,
}

#[derive(Clone, Debug)]
struct Wish {
    families: u8,
    wanted: u8,
    sharing: u8,
    port: u8,
}

fn wish() -> impl Strategy<Value = Wish> {
    (0..4_u8, 0..9_u8, 0..4_u8, 0..3_u8).prop_map(|(families, wanted, sharing, port)| Wish {
        families,
        wanted,
        sharing,
        port,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let service = 0..SERVICES;
    prop_oneof![
        6 => (service.clone(), wish()).prop_map(|(service, wish)| Step::Apply(service, wish)),
        2 => service.clone().prop_map(Step::Delete),
        1 => service.clone().prop_map(Step::ChangeType),
        8 => service.clone().prop_map(Step::Write),
        1 => service.clone().prop_map(Step::WriteUnheard),
        1 => service.prop_map(Step::WriteLost),
        2 => (0..8_u8).prop_map(Step::Configure),
        1 => (0..3_u8).prop_map(Step::Quarantine),
        2 => (0..8_u8).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

fn pools(choice: u8) -> Arc<Configuration> {
    let both = ("a", json!({"addresses": ["10.0.0.1-10.0.0.3", "fc00::1-fc00::2"]}));
    let small = ("a", json!({"addresses": ["10.0.0.1-10.0.0.2"]}));
    let moved = ("b", json!({"addresses": ["10.0.0.3/32", "10.0.1.0/31"]}));
    let pinned = (
        "c",
        json!({"addresses": ["10.0.2.0/30"], "avoidBuggyIPs": true,
        "serviceAllocation": {"priority": 1, "namespaces": ["shop"]}}),
    );
    let closed = ("c", json!({"addresses": ["10.0.2.0/30"], "serviceAllocation": {"namespaces": ["bank"]}}));
    let invalid = ("a", json!({"addresses": ["10.0.0.1-10.0.0.3", "10.0"]}));
    match choice {
        0 => configuration(&[both]),
        1 => configuration(&[small, moved]),
        2 => configuration(&[both, pinned]),
        3 => configuration(&[both, closed]),
        4 => configuration(&[invalid]),
        5 => configuration(&[]),
        6 => configuration(&[("a", json!({"addresses": ["10.0.0.1-10.0.0.3"], "autoAssign": false}))]),
        _ => configuration(&[moved, pinned]),
    }
}

fn request(service: u8, wish: &Wish) -> Request {
    let cluster = match wish.families {
        0 => json!({"clusterIPs": ["10.96.0.1"]}),
        1 => json!({"clusterIPs": ["fd00::1"]}),
        2 => json!({"clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilyPolicy": "PreferDualStack"}),
        _ => json!({"clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilyPolicy": "RequireDualStack"}),
    };
    let mut annotations = match wish.wanted {
        0 => json!({"loadBalancerIPs": "10.0.0.1"}),
        1 => json!({"loadBalancerIPs": "10.0.0.2"}),
        2 => json!({"loadBalancerIPs": "10.0.0.3"}),
        3 => json!({"address-pool": "a"}),
        4 => json!({"address-pool": "b"}),
        _ => json!({}),
    };
    if wish.sharing > 1 {
        annotations["allow-shared-ip"] = json!(format!("key{}", wish.sharing));
    }
    let mut spec = cluster;
    spec["ports"] = json!([{"port": 80 + u16::from(wish.port)}]);
    request_of(i64::from(service), &annotations, &spec)
}

/// The cluster as it is: no controller's opinion.
#[derive(Clone, Debug, Default)]
struct Object {
    request: Option<Request>,
    /// What it shared by when it was last a load balancer.
    sharing: Sharing,
    stored: Vec<IpAddr>,
}

#[derive(Default)]
struct World {
    objects: BTreeMap<ServiceKey, Object>,
    allocator: Allocator,
    configuration: Arc<Configuration>,
    quarantine: BTreeSet<IpAddr>,
    now: i64,
    /// Since when an address of a Service is in no pool that gives it to that Service.
    homeless: BTreeMap<(ServiceKey, IpAddr), i64>,
}

fn key(service: u8) -> ServiceKey {
    ServiceKey::new("shop", format!("s{service}"))
}

impl World {
    fn desired(&self, service: &ServiceKey) -> Vec<IpAddr> {
        self.allocator.outcome(service).map(|outcome| outcome.addresses.to_vec()).unwrap_or_default()
    }

    /// The controller looks at the object, as after an event of the watch.
    fn look(&mut self, service: &ServiceKey) {
        match self.objects.get(service).cloned() {
            None => self.allocator.forget(service, at(self.now)),
            Some(Object { request: None, stored, .. }) => {
                self.allocator.release(service, &stored, at(self.now));
            }
            Some(Object { request: Some(request), stored, .. }) => {
                self.allocator.assign(service, request, &stored, at(self.now));
            }
        }
    }

    fn restart(&mut self) {
        // A new controller does not know since when an address is in no pool.
        self.homeless.clear();
        self.allocator = Allocator::new();
        self.allocator.set_configuration(Arc::clone(&self.configuration), at(self.now));
        self.allocator.set_quarantine(self.quarantine.clone(), at(self.now));
        for (service, object) in self.objects.iter().filter(|(_, object)| object.request.is_none()) {
            self.allocator.leaving(service, &object.stored);
        }
        let adoptees = self.objects.iter().filter_map(|(service, object)| {
            Some(Adoptee {
                service: service.clone(),
                request: object.request.clone()?,
                current: object.stored.clone(),
                pool: None,
                waiting_since: None,
            })
        });
        self.allocator.adopt(adoptees.collect(), at(self.now));
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Apply(service, wish) => {
                let object = self.objects.entry(key(*service)).or_default();
                let request = request(*service, wish);
                object.sharing = request.sharing.clone();
                object.request = Some(request);
                self.look(&key(*service));
            }
            Step::Delete(service) => {
                self.objects.remove(&key(*service));
                self.look(&key(*service));
            }
            Step::ChangeType(service) => {
                if let Some(object) = self.objects.get_mut(&key(*service)) {
                    object.request = None;
                    self.look(&key(*service));
                }
            }
            Step::Write(service) | Step::WriteUnheard(service) | Step::WriteLost(service) => {
                let (service, desired) = (key(*service), self.desired(&key(*service)));
                let Some(object) = self.objects.get_mut(&service) else { return };
                if !matches!(step, Step::WriteLost(_)) {
                    object.stored.clone_from(&desired);
                }
                if matches!(step, Step::Write(_)) {
                    self.allocator.stored(&service, &desired, at(self.now));
                } else {
                    self.allocator.uncertain(&service, &desired);
                }
            }
            Step::Configure(choice) => {
                self.configuration = pools(*choice);
                self.allocator.set_configuration(Arc::clone(&self.configuration), at(self.now));
            }
            Step::Quarantine(choice) => {
                let list: &[&str] = match choice {
                    0 => &[],
                    1 => &["10.0.0.1"],
                    _ => &["10.0.0.2", "10.0.1.0", "fc00::1"],
                };
                self.quarantine = ips(list).into_iter().collect();
                self.allocator.set_quarantine(self.quarantine.clone(), at(self.now));
            }
            Step::Wait(seconds) => {
                self.now += i64::from(*seconds);
                self.allocator.poll(at(self.now));
            }
            Step::Restart => self.restart(),
        }
    }

    /// What each address is given to or still stored for.
    fn claims(&self) -> BTreeMap<IpAddr, BTreeSet<ServiceKey>> {
        let mut claims: BTreeMap<IpAddr, BTreeSet<ServiceKey>> = BTreeMap::new();
        for service in self.objects.keys() {
            for ip in self.desired(service) {
                claims.entry(ip).or_default().insert(service.clone());
            }
        }
        claims
    }

    /// No address is given to two that may not share it, and none is given that another still has in the API.
    fn check_doubles(&self) -> Result<(), TestCaseError> {
        let sharing = |service: &ServiceKey| {
            self.objects
                .get(service)
                .and_then(|object| object.request.clone())
                .map(|r| r.sharing)
                .unwrap_or_default()
        };
        for service in self.objects.keys() {
            let families: Vec<Family> = self.desired(service).into_iter().map(Family::of).collect();
            let twice = families.len() == 2 && families[0] == families[1];
            prop_assert!(families.len() <= 2 && !twice, "{service} has two addresses of one family");
        }
        for (ip, given) in self.claims() {
            let given: Vec<_> = given.into_iter().collect();
            for (index, a) in given.iter().enumerate() {
                for b in &given[index + 1..] {
                    let clash = no_sharing(&sharing(a), &sharing(b));
                    prop_assert!(clash.is_none(), "{ip} is given to {a} and {b}: {clash:?}");
                }
            }
        }
        Ok(())
    }

    /// Nothing is given newly that the API still stores for somebody who may not share it.
    fn check_grants(&self, before: &BTreeMap<ServiceKey, Vec<IpAddr>>) -> Result<(), TestCaseError> {
        for (service, object) in &self.objects {
            let Some(request) = &object.request else { continue };
            let had = before.get(service).cloned().unwrap_or_default();
            for ip in
                self.desired(service).iter().filter(|ip| !had.contains(ip) && !object.stored.contains(ip))
            {
                prop_assert!(
                    !self.quarantine.contains(ip),
                    "{ip} is under conflict and was given to {service}"
                );
                // An address of a pool with an error is left to whom it is believed to be stored for still.
                let left_out =
                    self.configuration.left_out.values().flatten().any(|range| range.contains(*ip));
                prop_assert!(left_out || self.configuration.pool_of(*ip).is_some(), "{ip} is in no pool");
                for (other, held) in self.objects.iter().filter(|(other, _)| *other != service) {
                    let clash = no_sharing(&held.sharing, &request.sharing);
                    prop_assert!(
                        clash.is_none() || !held.stored.contains(ip),
                        "{ip} was given to {service} while the API has it for {other}"
                    );
                }
            }
        }
        Ok(())
    }

    /// What is in no pool for a Service is kept for the time of grace, and no longer.
    fn check_grace(&mut self) -> Result<(), TestCaseError> {
        let mut homeless = BTreeMap::new();
        for service in self.objects.keys() {
            for ip in self.desired(service) {
                let left_out = &self.configuration.left_out;
                let remembered = self.allocator.outcome(service).and_then(|outcome| outcome.pool);
                let invalid = remembered.is_some_and(|pool| left_out.contains_key(pool))
                    || left_out.values().flatten().any(|range| range.contains(ip));
                if self.configuration.pool_of(ip).is_none() && !invalid {
                    let since = self.homeless.get(&(service.clone(), ip)).copied().unwrap_or(self.now);
                    prop_assert!(self.now - since < 5, "{ip} of {service} is kept after its grace");
                    homeless.insert((service.clone(), ip), since);
                }
            }
        }
        self.homeless = homeless;
        Ok(())
    }

    /// Sees everything as it is, and writes everything until nothing changes.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for service in self.objects.keys().cloned().collect::<Vec<_>>() {
            self.look(&service);
        }
        for _ in 0..100 {
            let due: Vec<ServiceKey> = self
                .objects
                .iter()
                .filter(|(service, object)| self.desired(service) != object.stored)
                .map(|(service, _)| service.clone())
                .collect();
            if due.is_empty() {
                return Ok(());
            }
            for service in due {
                let desired = self.desired(&service);
                if let Some(object) = self.objects.get_mut(&service) {
                    object.stored.clone_from(&desired);
                }
                self.allocator.stored(&service, &desired, at(self.now));
            }
        }
        Err(TestCaseError::fail("the writes never end"))
    }

    fn all(&self) -> BTreeMap<ServiceKey, Vec<IpAddr>> {
        self.objects.keys().map(|service| (service.clone(), self.desired(service))).collect()
    }

    /// Once all is written, looking again and starting anew change nothing, and nobody waits for what is free.
    fn check_rest(&mut self) -> Result<(), TestCaseError> {
        let rest = self.all();
        for service in rest.keys() {
            self.look(service);
        }
        prop_assert_eq!(&self.all(), &rest, "looking again changed something");
        let counted: BTreeSet<IpAddr> = rest.values().flatten().copied().collect();
        for pool in self.configuration.pools.values() {
            for family in Family::ALL {
                let in_pool =
                    counted.iter().filter(|ip| Family::of(**ip) == family && pool.contains(**ip)).count();
                let usage = self.allocator.usage(&pool.name, family).unwrap_or_default();
                prop_assert_eq!(usage.in_use, in_pool as u128, "{} {}", &pool.name, family);
            }
        }
        self.allocator.poll(at(self.now + 100));
        self.now += 100;
        self.settle()?;
        let rest = self.all();
        self.restart();
        prop_assert_eq!(&self.all(), &rest, "a restart changed something");
        Ok(())
    }

    /// No two Services are left that would each go to the pool where the other is.
    fn check_exchanges(&self) -> Result<(), TestCaseError> {
        if !self.quarantine.is_empty() {
            return Ok(());
        }
        let claims = self.claims();
        // Where a Service is and where it would go, if it has one address to itself of the one family that it wants.
        let move_of = |service: &ServiceKey, object: &Object| {
            let request = object.request.as_ref()?;
            let (Ok(Wanted::Pool(to)), Ok(Families::Single(family))) = (&request.wanted, &request.families)
            else {
                return None;
            };
            let desired = self.desired(service);
            let [ip] = desired.as_slice() else { return None };
            let alone = claims.get(ip).is_some_and(|holders| holders.len() == 1);
            let from = self.configuration.pool_of(*ip).filter(|_| alone && Family::of(*ip) == *family)?;
            Some((*family, from.name.clone(), to.clone()))
        };
        let moves: BTreeSet<_> =
            self.objects.iter().filter_map(|(service, object)| move_of(service, object)).collect();
        for (family, from, to) in &moves {
            let back = (*family, to.clone(), from.clone());
            prop_assert!(
                from == to || !moves.contains(&back),
                "Services of {from} and {to} wait for each other"
            );
        }
        Ok(())
    }

    /// Whoever waits, waits with reason: given the whole table anew, it still finds nothing.
    fn check_waiting(&mut self) -> Result<(), TestCaseError> {
        let before = self.all();
        // Who just lost an address may keep it after all if he who had the better claim goes before the write: luck,
        // that nobody waits for.
        let stored =
            |service: &ServiceKey| self.allocator.services.get(service).is_some_and(|e| !e.stored.is_empty());
        if before.iter().any(|(service, desired)| desired.is_empty() && stored(service)) {
            return Ok(());
        }
        for service in before.keys() {
            let found =
                self.allocator.services.get_key_value(service).map(|(service, _)| Arc::clone(service));
            if let Some(service) = found {
                self.allocator.resolve(&service, at(self.now));
            }
        }
        prop_assert_eq!(self.all(), before, "somebody waited for what was free");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn the_invariants_hold_over_every_history(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World { configuration: pools(0), ..World::default() };
        world.restart();
        for step in &steps {
            let before = world.all();
            world.step(step);
            world.check_doubles()?;
            world.check_grants(&before)?;
            world.check_grace()?;
            world.check_waiting()?;
        }
        world.settle()?;
        world.check_doubles()?;
        world.check_exchanges()?;
        world.check_rest()?;
        world.check_doubles()?;
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
            allocator.set_configuration(pools(2), at(0));
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
        let mut world = World { configuration: pools(2), ..World::default() };
        world.restart();
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
