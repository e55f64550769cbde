//! The simulated cluster: the objects that the API stores, the controller, and a former leader.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crds::ServiceKey;
use proptest::prelude::*;
use rules::Configuration;

use super::objects::objects_of;
use crate::allocator::claims::union;
use crate::allocator::tests::at;
use crate::allocator::{Allocator, ExistingService};
use crate::occupant::Occupant;
use crate::request::{Request, Sharing};

/// A Service object as the API stores it.
#[derive(Clone, Debug, Default)]
pub(super) struct Object {
    pub(super) request: Option<Request>,
    /// Its sharing when it last was a load balancer.
    pub(super) sharing: Sharing,
    pub(super) stored: Vec<IpAddr>,
    /// The pool in its annotation.
    pub(super) pool: Option<String>,
    /// Increases with each change.
    pub(super) version: u64,
}

/// Writes: the version that each was made for, and the addresses.
pub(super) type Writes = BTreeMap<ServiceKey, (u64, Vec<IpAddr>)>;

/// A controller that lost the Lease and continues with the state that it had then.
pub(super) struct FormerLeader {
    pub(super) allocator: Allocator,
    /// The version of each object that it has seen last.
    pub(super) seen: BTreeMap<ServiceKey, u64>,
}

#[derive(Default)]
pub(super) struct World {
    pub(super) version: u64,
    /// Sent to the API server, and neither carried out nor refused yet.
    pub(super) sent: Writes,
    /// The same as the controller knows it.
    pub(super) in_flight: Writes,
    /// Numbers of the pools and policies.
    pub(super) choice: (u8, u8),
    pub(super) last_valid: rules::LastValid,
    pub(super) objects: BTreeMap<ServiceKey, Object>,
    pub(super) allocator: Allocator,
    pub(super) former: Option<FormerLeader>,
    /// Services that the former leader has written and the present one has not seen since.
    pub(super) unseen: BTreeSet<ServiceKey>,
    pub(super) configuration: Arc<Configuration>,
    pub(super) quarantine: BTreeMap<IpAddr, Occupant>,
    /// The one namespace that is not known, if any.
    pub(super) unknown: Option<&'static str>,
    pub(super) now: i64,
    /// Since when an address of a Service is in no pool.
    pub(super) unpooled: BTreeMap<(ServiceKey, IpAddr), i64>,
    /// Since when a Service waits, as in its condition.
    pub(super) waits: BTreeMap<ServiceKey, i64>,
}

impl World {
    pub(super) fn new(pools: u8, policies: u8) -> Self {
        let mut world = Self { choice: (pools, policies), ..Self::default() };
        world.restart();
        world
    }

    /// Increases the version of the object.
    pub(super) fn changed(&mut self, service: &ServiceKey) {
        self.version += 1;
        if let Some(object) = self.objects.get_mut(service) {
            object.version = self.version;
        }
    }

    /// The API stores `addresses` for `service`, as the controller writes them.
    pub(super) fn write(&mut self, service: &ServiceKey, addresses: Vec<IpAddr>) {
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
    pub(super) fn carry_out(&mut self, service: &ServiceKey) {
        let Some((version, addresses)) = self.sent.remove(service) else { return };
        if self.objects.get(service).is_some_and(|object| object.version == version) {
            self.write(service, addresses);
        }
    }

    /// What the controller considers as stored: what it sees, and what it has sent for that version.
    pub(super) fn possibly_stored(&mut self, service: &ServiceKey, object: &Object) -> Vec<IpAddr> {
        if self.in_flight.get(service).is_some_and(|(version, _)| object.version > *version) {
            self.in_flight.remove(service);
        }
        let written = self.in_flight.get(service).map(|(_, addresses)| addresses.clone()).unwrap_or_default();
        union(&object.stored, &written)
    }

    pub(super) fn configure(&mut self) {
        let (pools, policies) = self.choice;
        self.configuration = Arc::new(self.last_valid.configure(&objects_of(pools, policies)).0);
    }

    pub(super) fn desired(&self, service: &ServiceKey) -> Vec<IpAddr> {
        self.allocator.services.get(service).map(|entry| entry.desired.clone()).unwrap_or_default()
    }

    /// Whether anything is decided for `service` at the moment.
    pub(super) fn decided(&self, service: &ServiceKey) -> bool {
        self.unknown != Some(&service.namespace)
    }

    pub(super) fn set_namespaces(&mut self, unknown: Option<&'static str>) {
        self.unknown = unknown;
        let known = ["shop", "bank"].into_iter().filter(|name| unknown != Some(*name));
        self.allocator.set_namespaces(known.map(str::to_owned).collect(), at(self.now));
    }

    /// The former leader writes its assignment for `service`, if it has seen the present version of the
    /// object.
    pub(super) fn write_by_former_leader(&mut self, service: &ServiceKey) {
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
    pub(super) fn sync(&mut self, service: &ServiceKey) {
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

    pub(super) fn restart(&mut self) {
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

    pub(super) fn record_waiting(&mut self) {
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

    /// Processes all objects and writes until nothing changes.
    pub(super) fn converge(&mut self) -> Result<(), TestCaseError> {
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
    pub(super) fn write_all(&mut self) -> Result<(), TestCaseError> {
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

    pub(super) fn all(&self) -> BTreeMap<ServiceKey, Vec<IpAddr>> {
        self.objects.keys().map(|service| (service.clone(), self.desired(service))).collect()
    }
}
