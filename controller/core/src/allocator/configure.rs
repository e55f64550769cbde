//! New configuration: only what must move moves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use rules::{Configuration, Pool};

use super::{Allocator, Occupant};
use crate::pool_state::PoolState;
use crate::refusal::Refusal;
use crate::usage::{ServiceRef, Usage};
use crate::waiting::Place;

impl Allocator {
    /// Puts `configuration` in force, and that machines use `quarantine`, as of one moment.
    pub fn configure(
        &mut self,
        configuration: Arc<Configuration>,
        quarantine: BTreeMap<IpAddr, Occupant>,
        now: Timestamp,
    ) {
        // What either half forbids is forbidden before anything is given by the other.
        let mut either = self.quarantine.clone();
        either.extend(quarantine.iter().map(|(ip, occupant)| (*ip, occupant.clone())));
        self.set_quarantine(either, now);
        self.set_configuration(configuration, now);
        self.set_quarantine(quarantine, now);
    }

    /// Puts `configuration` in force. The same again changes nothing.
    pub fn set_configuration(&mut self, configuration: Arc<Configuration>, now: Timestamp) {
        if *self.configuration == *configuration {
            return;
        }
        let old = std::mem::replace(&mut self.configuration, configuration);
        let configuration = Arc::clone(&self.configuration);
        self.pools.retain(|name, _| configuration.pools.get(name) == old.pools.get(name));
        for (name, pool) in &configuration.pools {
            if !self.pools.contains_key(name) {
                let joinable = |ip: IpAddr, usage: &Usage| self.is_joinable(ip, usage);
                let state = PoolState::build(pool, &self.addresses, &self.quarantine, joinable);
                self.pools.insert(name.clone(), state);
            }
        }
        self.order_pools();
        self.resolve_all(now);
        self.serve(now);
    }

    /// Pools that admit only some Services by priority (0 last), then by name; the others by name.
    fn order_pools(&mut self) {
        let rank = |pool: &Pool| {
            let priority = pool.allocation.as_ref().map_or(0, |allocation| allocation.priority);
            (priority == 0, priority)
        };
        let (mut pinned, plain): (Vec<&Pool>, Vec<&Pool>) =
            self.configuration.pools.values().partition(|pool| pool.allocation.is_some());
        pinned.sort_by_key(|pool| (rank(pool), &pool.name));
        let names = |pools: Vec<&Pool>| pools.into_iter().map(|pool| pool.name.clone()).collect();
        (self.pinned, self.plain) = (names(pinned), names(plain));
    }

    /// The namespaces whose labels the configuration was judged with. Nothing is decided for a Service of another: it keeps
    /// what it has, and is looked at when its namespace is known. Unless this is called, every namespace counts as known.
    pub fn set_namespaces(&mut self, namespaces: BTreeSet<String>, now: Timestamp) {
        let before = self.namespaces.replace(namespaces);
        if before == self.namespaces {
            return;
        }
        let knew = |namespace: &String| before.as_ref().is_none_or(|before| before.contains(namespace));
        let affected = self.order(|service| knew(&service.namespace) != self.knows(&service.namespace));
        // Whoever was not decided has an outcome now, if only what it had before.
        self.changed.extend(affected.iter().cloned());
        self.resolve_each(affected, now);
        self.serve(now);
    }

    /// Decides anew for everybody.
    fn resolve_all(&mut self, now: Timestamp) {
        self.resolve_each(self.order(|_| true), now);
    }

    /// Decides anew for each, one after the other. Nobody joins one on an address that this one then leaves.
    pub(super) fn resolve_each(&mut self, services: Vec<ServiceRef>, now: Timestamp) {
        for service in &services {
            self.begin_to_decide(service);
        }
        for service in services {
            self.resolve(&service, now);
            self.decided(&service);
        }
    }

    /// The Services that `which` accepts: who waits for nothing first, then who does, longest first.
    pub(super) fn order(&self, which: impl Fn(&ServiceRef) -> bool) -> Vec<ServiceRef> {
        let mut order: Vec<_> = self
            .services
            .iter()
            .filter(|(service, _)| which(service))
            .map(|(service, entry)| {
                let age = entry.request.as_ref().map(|request| request.age.clone());
                (entry.since, age, Arc::clone(service))
            })
            .collect();
        order.sort();
        order.into_iter().map(|(.., service)| service).collect()
    }

    /// Addresses that machines use: nobody gets them any more; a Service that has one keeps it.
    pub fn set_quarantine(&mut self, quarantine: BTreeMap<IpAddr, Occupant>, now: Timestamp) {
        if self.quarantine == quarantine {
            return;
        }
        let before = std::mem::replace(&mut self.quarantine, quarantine);
        let (added, removed): (Vec<IpAddr>, Vec<IpAddr>) = (
            self.quarantine.keys().filter(|ip| !before.contains_key(ip)).copied().collect(),
            before.keys().filter(|ip| !self.quarantine.contains_key(ip)).copied().collect(),
        );
        for (ip, on) in added.iter().map(|ip| (*ip, true)).chain(removed.iter().map(|ip| (*ip, false))) {
            if self.addresses.contains_key(&ip) {
                self.renew_joinable(ip);
            } else if let Some(pool) = self.configuration.pool_of(ip)
                && let Some(state) = self.pools.get_mut(&pool.name)
            {
                state.quarantine(ip, pool, on);
            }
            if !on {
                self.note_freed(ip, None);
            }
        }
        self.serve(now);
        // Those behind the first of their class would go on naming a machine that has left.
        let waiting: Vec<ServiceRef> = self.refused_conflicts();
        for service in waiting {
            self.resolve(&service, now);
        }
        self.serve(now);
    }

    /// Who was refused an address because a machine used it, longest-waiting first.
    fn refused_conflicts(&self) -> Vec<ServiceRef> {
        let conflict =
            |refusal: &Refusal| matches!(refusal, Refusal::Conflict(_) | Refusal::NodeAddress { .. });
        let refused = self.services.values().filter(|entry| entry.refusal.as_deref().is_some_and(conflict));
        let mut places: Vec<&Place> =
            refused.filter_map(|entry| Some(&entry.waits.as_ref()?.place)).collect();
        places.sort();
        places.into_iter().map(|place| Arc::clone(&place.service)).collect()
    }
}
