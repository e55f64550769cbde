//! Validates the configuration and applies it, edited pools only once everything that restricts them is
//! known.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crds::IPAddressPool;
use ipam::Occupant;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use rules::{Objects, Severity};
use tokio::time::Instant;

use super::emit::emit;
use super::term::{CatchUp, LIST_RETRY_INTERVAL, Term};
use crate::api::object_reference;
use crate::conflict::Conflict;
use crate::reasons::{ConditionReason, EventReason};
use crate::service;
use crate::watches::Watches;

/// How long an edit of a pool waits for the objects that restrict it while the API server answers: a kind
/// that can no longer be listed must not block every later configuration.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);

impl Term<'_> {
    /// Validates and applies the configuration. If a pool is new or edited, waits until the stores have
    /// caught up with the API: the watch of policies may be behind that of pools, and an address that a
    /// policy reserves must not be assigned before the policy is known. The same holds for quotas, labels of
    /// namespaces and conflicts.
    pub(super) fn reconfigure(&mut self) {
        let objects = self.context.watches.objects();
        let known: BTreeMap<String, &IPAddressPool> =
            self.objects.pools.iter().map(|pool| (pool.name_any(), &**pool)).collect();
        let unchanged = |pool: &Arc<IPAddressPool>| {
            known.get(&pool.name_any()).is_some_and(|known| same_spec(known, pool))
        };
        let edited: Vec<Arc<IPAddressPool>> =
            objects.pools.iter().filter(|pool| !unchanged(pool)).cloned().collect();
        let checked =
            |pool: &Arc<IPAddressPool>| self.checked_pools.iter().any(|checked| same_spec(checked, pool));
        if edited.iter().all(checked) {
            self.checked_pools.clear();
            self.configure_with(objects);
        } else if self.catch_up.is_none() {
            self.checked_pools = edited;
            self.catch_up = Some(self.catch_up());
        }
    }

    /// Reconfigures if the set of pools that cannot be decoded has changed. (A store has no event for such a
    /// pool.)
    pub(super) fn reconfigure_undecodable(&mut self) {
        if self.context.watches.undecodable_pools() != self.undecodable_pools {
            self.reconfigure();
        }
    }

    fn catch_up(&self) -> CatchUp {
        let (watches, client): (Watches, _) = (self.context.watches.clone(), self.context.client.clone());
        Box::pin(async move {
            let mut deadline = Instant::now() + CATCH_UP_TIMEOUT;
            loop {
                match tokio::time::timeout_at(deadline, watches.catch_up(&client)).await {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => {
                        tracing::warn!(
                            %error,
                            "a pool was edited, and the objects that restrict it cannot be listed: nothing \
                             is assigned from it yet"
                        );
                        if !error.concerns_one_object() {
                            // While the API server is unavailable nothing could be written either.
                            deadline = Instant::now() + CATCH_UP_TIMEOUT;
                        }
                        tokio::time::sleep(LIST_RETRY_INTERVAL).await;
                    }
                    Err(_) => {
                        tracing::error!(
                            "a pool was edited, and the objects that restrict it cannot be listed: the pool \
                             is applied with the known policies, conflicts and namespaces"
                        );
                        return;
                    }
                }
            }
        })
    }

    /// Validates the present objects and applies the configuration.
    pub(super) fn configure(&mut self) {
        self.configure_with(self.context.watches.objects());
    }

    fn configure_with(&mut self, objects: Objects) {
        let now = Timestamp::now();
        self.objects = objects;
        let (mut configuration, findings) = self.context.history().build(&self.objects, now);
        self.undecodable_pools = self.context.watches.undecodable_pools();
        configuration.reject_undecodable(&self.undecodable_pools);
        for finding in findings.iter().filter(|finding| !self.findings.contains(finding)) {
            tracing::warn!(object = %finding.object, "{finding}");
            let rules::ObjectRef { kind, namespace, name } = &finding.object;
            let uid = self.context.watches.uid(kind, name);
            let object = object_reference(kind, namespace.as_deref(), name, uid);
            let reason = match finding.severity {
                Severity::Error => EventReason::ConfigurationError,
                Severity::Warning => EventReason::ConfigurationWarning,
            };
            self.context.events.warning(&object, "Validate", reason.as_str(), finding.to_string());
        }
        self.findings = findings;
        let before = std::mem::replace(&mut self.conflicts, self.context.watches.conflicts());
        let occupants = self.conflicts.iter().map(|(ip, conflict)| (*ip, conflict.occupant.clone()));
        self.allocator.configure(Arc::new(configuration), occupants.collect(), now);
        let namespaces = self.objects.namespaces.iter().map(|namespace| namespace.name_any());
        self.allocator.set_namespaces(namespaces.collect(), now);
        let either: BTreeSet<IpAddr> = before.keys().chain(self.conflicts.keys()).copied().collect();
        for ip in either {
            if before.get(&ip) != self.conflicts.get(&ip) {
                self.emit_pool_conflict(ip, before.get(&ip));
                for holder in self.allocator.holders(ip) {
                    self.enqueue_write(&holder);
                }
            }
        }
    }

    /// Sends an event about the pool of `ip` that a foreign host uses it, or no longer does. (For nodes there
    /// is a finding.)
    fn emit_pool_conflict(&self, ip: IpAddr, before: Option<&Conflict>) {
        let foreign = |conflict: Option<&Conflict>| {
            let conflict = conflict.filter(|conflict| conflict.occupant == Occupant::ForeignHost);
            conflict.map(|conflict| conflict.message.clone())
        };
        let (before, after) = (foreign(before), foreign(self.conflicts.get(&ip)));
        let Some(pool) = self.allocator.configuration().pool_of(ip).filter(|_| before != after) else {
            return;
        };
        let pool = self.context.watches.status_object("IPAddressPool", &pool.name);
        emit(&self.context.events, &pool, vec![service::conflict_event(after.as_deref())]);
    }

    /// Reason and message of the condition of a Service with `addresses` that machines use.
    pub(super) fn conflict_condition(&self, addresses: &[IpAddr]) -> Option<(ConditionReason, String)> {
        let conflicts: Vec<&Conflict> = addresses.iter().filter_map(|ip| self.conflicts.get(ip)).collect();
        let foreign = conflicts.iter().any(|conflict| conflict.occupant == Occupant::ForeignHost);
        let messages =
            conflicts.iter().map(|conflict| conflict.message.as_str()).collect::<Vec<_>>().join("; ");
        match (conflicts.is_empty(), foreign) {
            (true, _) => None,
            (false, true) => Some((
                ConditionReason::UsedByOthers,
                format!(
                    "{messages}: remove the address from that machine, or ask for another by \
                     metallb.io/loadBalancerIPs"
                ),
            )),
            (false, false) => Some((
                ConditionReason::UsedByNode,
                format!(
                    "{messages}: exclude it from the pool, and ask for another by metallb.io/loadBalancerIPs"
                ),
            )),
        }
    }
}

/// Whether two versions of a pool have the same spec.
fn same_spec(a: &IPAddressPool, b: &IPAddressPool) -> bool {
    a.name_any() == b.name_any() && a.spec == b.spec
}
