//! Execution of a step.

use std::sync::Arc;

use crds::ServiceKey;

use super::objects::{RequestChoice, key, request};
use super::steps::Step;
use super::world::{FormerLeader, World};
use crate::allocator::claims::union;
use crate::allocator::tests::{at, foreign, ips, nodes};

impl World {
    /// Executes the step.
    pub(super) fn step(&mut self, step: &Step) {
        match step {
            Step::Apply(service, choice) => self.apply(*service, choice),
            Step::Delete(service) => {
                self.objects.remove(&key(*service));
                self.sync(&key(*service));
            }
            Step::ChangeType(service) => self.change_type(&key(*service)),
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
                self.complete_write(&key(*service), step);
            }
            Step::Begin(service) => self.send_write(&key(*service)),
            Step::CarryOut(service) => self.carry_out(&key(*service)),
            Step::ForeignWrite(service, choice) => self.foreign_write(&key(*service), *choice),
            Step::TakeOver(carried_out) => self.take_over(*carried_out),
            Step::FormerLeader(service) => self.write_by_former_leader(&key(*service)),
            Step::Configure(pools, policies) => {
                self.choice = (*pools, *policies);
                self.configure();
                self.allocator.set_configuration(Arc::clone(&self.configuration), at(self.now));
            }
            Step::Quarantine(choice) => self.set_quarantine(*choice),
            Step::Namespaces(choice) => self.set_namespaces(match choice {
                0 => None,
                1 => Some("bank"),
                _ => Some("shop"),
            }),
            Step::Wait(seconds) => {
                self.now += i64::from(*seconds);
                self.allocator.handle_timeout(at(self.now));
            }
        }
        self.record_waiting();
    }

    fn apply(&mut self, number: u8, choice: &RequestChoice) {
        let service = key(number);
        let object = self.objects.entry(service.clone()).or_default();
        let request = request(number, choice);
        object.sharing = request.sharing.clone();
        object.request = Some(request);
        self.changed(&service);
        self.sync(&service);
    }

    fn change_type(&mut self, service: &ServiceKey) {
        let Some(object) = self.objects.get_mut(service) else { return };
        object.request = None;
        self.changed(service);
        self.sync(service);
    }

    /// A write that is carried out, confirmed or neither, as `step` says.
    fn complete_write(&mut self, service: &ServiceKey, step: &Step) {
        let desired = self.desired(service);
        if !self.objects.contains_key(service) {
            return;
        }
        if !matches!(step, Step::WriteLost(_)) {
            self.write(service, desired.clone());
        }
        if matches!(step, Step::Write(_)) {
            self.in_flight.remove(service);
            self.allocator.observed(service, &desired, at(self.now));
        } else {
            self.allocator.write_unknown(service, &desired);
        }
    }

    fn send_write(&mut self, service: &ServiceKey) {
        let Some(object) = self.objects.get(service) else { return };
        let (version, desired) = (object.version, self.desired(service));
        self.sent.insert(service.clone(), (version, desired.clone()));
        let (known, addresses) = self.in_flight.entry(service.clone()).or_default();
        *known = version.max(*known);
        *addresses = union(addresses, &desired);
        self.allocator.write_unknown(service, &desired);
    }

    fn foreign_write(&mut self, service: &ServiceKey, choice: u8) {
        let list: &[&str] = match choice {
            0 => &[],
            1 => &["192.168.1.5"],
            2 => &["10.0.0.2"],
            _ => &["10.0.0.1"],
        };
        let Some(object) = self.objects.get_mut(service) else { return };
        object.stored = ips(list);
        self.changed(service);
        self.sync(service);
    }

    /// Another controller takes over after the writes selected by the bits of `carried_out`.
    fn take_over(&mut self, carried_out: u8) {
        let sent: Vec<ServiceKey> = self.sent.keys().cloned().collect();
        for (index, service) in sent.iter().enumerate() {
            if carried_out >> (index % 8) & 1 == 1 {
                self.carry_out(service);
            }
        }
        // No write is carried out after the Lease under which it was sent.
        self.sent.clear();
        let seen = self.objects.iter().map(|(service, object)| (service.clone(), object.version));
        self.former =
            Some(FormerLeader { seen: seen.collect(), allocator: std::mem::take(&mut self.allocator) });
        self.restart();
    }

    fn set_quarantine(&mut self, choice: u8) {
        let list: &[&str] = match choice {
            0 => &[],
            1 => &["10.0.0.1"],
            _ => &["10.0.0.2", "10.0.1.0", "fc00::1"],
        };
        self.quarantine = foreign(list);
        if choice == 3 {
            self.quarantine.extend(nodes(&["10.0.0.3", "10.0.2.1", "fc00::2"]));
        }
        self.allocator.set_quarantine(self.quarantine.clone(), at(self.now));
    }
}
