//! Services that ask for each other's addresses.
//!
//! None of them can move first, since no address is given before it is free. So the youngest of the cycle is
//! cleared, and each address of the cycle is pledged to who asks for it: when the youngest's is free, it goes to
//! its heir, whose own becomes free in turn, and so on around.

use std::net::IpAddr;
use std::sync::Arc;

use super::Allocator;
use crate::refusal::Refusal;
use crate::request::Wanted;
use crate::usage::ServiceRef;

/// Longer chains than anybody sets up on purpose.
const LONGEST: usize = 64;

impl Allocator {
    /// If `service` waits for an address in a cycle, starts the exchange.
    pub(super) fn break_cycle(&mut self, service: &ServiceRef) {
        let mut members = vec![Arc::clone(service)];
        loop {
            let Some(next) = members.last().and_then(|last| self.waits_on(last)) else { return };
            if next == *service {
                break;
            }
            if members.contains(&next) || members.len() == LONGEST {
                return;
            }
            members.push(next);
        }
        let age = |member: &ServiceRef| {
            self.services.get(member).and_then(|entry| entry.request.clone()).map(|r| r.age.clone())
        };
        let Some(youngest) = members.iter().max_by_key(|member| (age(member), Arc::clone(member))).cloned()
        else {
            return;
        };
        if members.len() < 2 || self.services.get(&youngest).is_none_or(|entry| entry.desired.is_empty()) {
            return;
        }
        for member in &members {
            for ip in self.asked(member) {
                self.pledges.insert(ip, Arc::clone(member));
            }
        }
        self.changed.insert(Arc::clone(&youngest));
        self.set_addresses(&youngest, Some(Vec::new()), None);
    }

    /// The one Service that stands between `service` and the addresses that it asks for.
    fn waits_on(&self, service: &ServiceRef) -> Option<ServiceRef> {
        let entry = self.services.get(service)?;
        let Some(Refusal::Taken { by, .. }) = entry.refusal.as_deref() else { return None };
        let asked = self.asked(service);
        let only_by = asked.iter().filter(|ip| !entry.desired.contains(ip)).all(|ip| {
            self.addresses.get(ip).is_none_or(|usage| {
                usage.claims().into_iter().all(|(other, _)| **other == *by || other == service)
            })
        });
        only_by.then(|| self.services.get_key_value(by).map(|(by, _)| Arc::clone(by))).flatten()
    }

    fn asked(&self, service: &ServiceRef) -> Vec<IpAddr> {
        match self.services.get(service).and_then(|entry| entry.request.as_ref()).map(|r| &r.wanted) {
            Some(Ok(Wanted::Addresses { addresses, .. })) => addresses.clone(),
            _ => Vec::new(),
        }
    }
}
