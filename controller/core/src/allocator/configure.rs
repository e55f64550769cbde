//! Changes of the configuration. Only addresses that must change do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use rules::{Configuration, Pool};

use super::Allocator;
use crate::address_claims::{AddressClaims, ServiceRef};
use crate::occupant::Occupant;
use crate::pool_state::PoolState;
use crate::refusal::Refusal;
use crate::wait_queue::QueueKey;

impl Allocator {
    /// Applies `configuration` and `quarantine` (the addresses that machines use) as one change.
    pub fn configure(
        &mut self,
        configuration: Arc<Configuration>,
        quarantine: BTreeMap<IpAddr, Occupant>,
        now: Timestamp,
    ) {
        // Nothing is assigned in between that either half forbids.
        let mut either = self.quarantine.clone();
        either.extend(quarantine.iter().map(|(ip, occupant)| (*ip, occupant.clone())));
        self.set_quarantine(either, now);
        self.set_configuration(configuration, now);
        self.set_quarantine(quarantine, now);
    }

    /// Applies `configuration`. Applying the same again changes nothing.
    pub fn set_configuration(&mut self, configuration: Arc<Configuration>, now: Timestamp) {
        if *self.configuration == *configuration {
            return;
        }
        let old = std::mem::replace(&mut self.configuration, configuration);
        let configuration = Arc::clone(&self.configuration);
        self.pools.retain(|name, _| configuration.pools.get(name) == old.pools.get(name));
        for (name, pool) in &configuration.pools {
            if !self.pools.contains_key(name) {
                let joinable = |ip: IpAddr, claims: &AddressClaims| self.is_joinable(ip, claims);
                let state = PoolState::build(pool, &self.addresses, &self.quarantine, joinable);
                self.pools.insert(name.clone(), state);
            }
        }
        self.order_pools();
        self.reconcile_all(now);
        self.serve_waiters(now);
    }

    /// Orders restricted pools by priority (0 last), then by name; the others by name.
    fn order_pools(&mut self) {
        let rank = |pool: &Pool| {
            let priority = pool.allocation.as_ref().map_or(0, |allocation| allocation.priority);
            (priority == 0, priority)
        };
        let (mut restricted, unrestricted): (Vec<&Pool>, Vec<&Pool>) =
            self.configuration.pools.values().partition(|pool| pool.allocation.is_some());
        restricted.sort_by_key(|pool| (rank(pool), &pool.name));
        let names = |pools: Vec<&Pool>| pools.into_iter().map(|pool| pool.name.clone()).collect();
        (self.restricted, self.unrestricted) = (names(restricted), names(unrestricted));
    }

    /// Sets the namespaces whose labels the configuration was validated with. Nothing is decided for a
    /// Service of another namespace: it keeps its addresses, and is reconciled when its namespace is known.
    /// Unless this is called, every namespace counts as known.
    pub fn set_namespaces(&mut self, namespaces: BTreeSet<String>, now: Timestamp) {
        let before = self.namespaces.replace(namespaces);
        if before == self.namespaces {
            return;
        }
        let known_before =
            |namespace: &String| before.as_ref().is_none_or(|before| before.contains(namespace));
        let affected = self.reconcile_order(|service| {
            known_before(&service.namespace) != self.namespace_known(&service.namespace)
        });
        // A Service that was not decided has an assignment now, if only the addresses that it had before.
        self.changed.extend(affected.iter().cloned());
        self.reconcile_each(affected, now);
        self.serve_waiters(now);
    }

    /// Reconciles all Services.
    fn reconcile_all(&mut self, now: Timestamp) {
        self.reconcile_each(self.reconcile_order(|_| true), now);
    }

    /// Reconciles these Services in order. None of them joins another on an address that the other then
    /// leaves.
    pub(super) fn reconcile_each(&mut self, services: Vec<ServiceRef>, now: Timestamp) {
        for service in &services {
            self.begin_reconcile(service);
        }
        for service in services {
            self.reconcile(&service, now);
            self.finish_reconcile(&service);
        }
    }

    /// The Services that `which` accepts: first those that wait for nothing, then the others, longest-waiting
    /// first.
    pub(super) fn reconcile_order(&self, which: impl Fn(&ServiceRef) -> bool) -> Vec<ServiceRef> {
        let mut order: Vec<_> = self
            .services
            .iter()
            .filter(|(service, _)| which(service))
            .map(|(service, entry)| {
                let age = entry.request.as_ref().map(|request| request.age.clone());
                (entry.waiting_since, age, Arc::clone(service))
            })
            .collect();
        order.sort();
        order.into_iter().map(|(.., service)| service).collect()
    }

    /// Sets the addresses that machines use: they are assigned to no Service; a Service that has one keeps
    /// it.
    pub fn set_quarantine(&mut self, quarantine: BTreeMap<IpAddr, Occupant>, now: Timestamp) {
        if self.quarantine == quarantine {
            return;
        }
        let before = std::mem::replace(&mut self.quarantine, quarantine);
        let (added, removed): (Vec<IpAddr>, Vec<IpAddr>) = (
            self.quarantine.keys().filter(|ip| !before.contains_key(ip)).copied().collect(),
            before.keys().filter(|ip| !self.quarantine.contains_key(ip)).copied().collect(),
        );
        for (ip, quarantined) in
            added.iter().map(|ip| (*ip, true)).chain(removed.iter().map(|ip| (*ip, false)))
        {
            if self.addresses.contains_key(&ip) {
                self.update_joinable(ip);
            } else if let Some(pool) = self.configuration.pool_of(ip)
                && let Some(state) = self.pools.get_mut(&pool.name)
            {
                state.set_quarantined(ip, pool, quarantined);
            }
            if !quarantined {
                self.record_wake_keys(ip, None);
            }
        }
        self.serve_waiters(now);
        // Services behind the first of their class would keep a refusal that names a machine which is gone.
        let refused: Vec<ServiceRef> = self.refused_for_conflict();
        for service in refused {
            self.reconcile(&service, now);
        }
        self.serve_waiters(now);
    }

    /// The Services that were refused an address because a machine used it, longest-waiting first.
    fn refused_for_conflict(&self) -> Vec<ServiceRef> {
        let conflict =
            |refusal: &Refusal| matches!(refusal, Refusal::Conflict(_) | Refusal::NodeAddress { .. });
        let refused = self.services.values().filter(|entry| entry.refusal.as_deref().is_some_and(conflict));
        let mut keys: Vec<&QueueKey> =
            refused.filter_map(|entry| Some(&entry.queued.as_ref()?.key)).collect();
        keys.sort();
        keys.into_iter().map(|key| Arc::clone(&key.service)).collect()
    }
}
