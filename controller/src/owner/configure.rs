//! The configuration: judged, and put in force once all is known that restricts it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crds::IPAddressPool;
use ipam::Occupant;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use rules::{Configuration, Finding, LastValid, Objects, Severity};

use super::policies::Policies;
use super::{Check, LIST_RETRY, Term};
use crate::service;
use crate::watches::{Conflict, Watches};
use tokio::time::Instant;

/// For so long an edit of a pool waits for what restricts it, of an API server that answers: a kind that may not be listed any
/// more must not keep every later configuration from being put in force.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(60);

/// What outlives a term, and is kept by a replica that stands by too: what was valid, and what was deleted a moment ago.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    policies: Policies,
    last_valid: LastValid,
}

impl Judge {
    /// What `objects` mean, together with the last valid version of what has an error.
    pub(super) fn configure(&mut self, objects: &Objects, now: Timestamp) -> (Configuration, Vec<Finding>) {
        let pool_policies = self.policies.update(&objects.pool_policies, now);
        let (configuration, mut findings) =
            self.last_valid.configure(&Objects { pool_policies, ..objects.clone() });
        // There is nobody left to tell.
        findings.retain(|finding| {
            finding.object.kind != "PoolPolicy" || !self.policies.is_deleted(&finding.object.name)
        });
        (configuration, findings)
    }

    /// When a policy that was deleted is no longer in force.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.policies.next_deadline()
    }
}

impl Term<'_> {
    /// Judges the configuration anew and puts it in force; if a pool is new or was edited, once everything is known that the
    /// API had by then. The watch of policies may be slower than that of pools, and what a policy keeps back must not
    /// be given away before it is heard of. The same holds for quotas, labels of namespaces and conflicts.
    pub(super) fn reconfigure(&mut self) {
        let objects = self.owner.watches.objects();
        let known: BTreeMap<String, &IPAddressPool> =
            self.objects.pools.iter().map(|pool| (pool.name_any(), &**pool)).collect();
        let as_known =
            |pool: &Arc<IPAddressPool>| known.get(&pool.name_any()).is_some_and(|known| same(known, pool));
        let edited: Vec<Arc<IPAddressPool>> =
            objects.pools.iter().filter(|pool| !as_known(pool)).cloned().collect();
        let checked = |pool: &Arc<IPAddressPool>| self.checked.iter().any(|checked| same(checked, pool));
        if edited.iter().all(checked) {
            self.checked.clear();
            self.configure_with(objects);
        } else if self.check.is_none() {
            self.checked = edited;
            self.check = Some(self.catch_up());
        }
    }

    /// Judges the configuration anew if another set of pools cannot be decoded. (No event of a store tells of such a pool.)
    pub(super) fn reconfigure_undecodable(&mut self) {
        if self.owner.watches.undecodable_pools() != self.undecodable_pools {
            self.reconfigure();
        }
    }

    fn catch_up(&self) -> Check {
        let (watches, client): (Watches, _) = (self.owner.watches.clone(), self.owner.client.clone());
        Box::pin(async move {
            let mut deadline = Instant::now() + CATCH_UP_PATIENCE;
            loop {
                match tokio::time::timeout_at(deadline, watches.catch_up(&client)).await {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => {
                        tracing::warn!(
                            %error,
                            "a pool was edited, and the API cannot be asked what restricts it: nothing is assigned from it yet"
                        );
                        if !error.concerns_one_object() {
                            // While the API server is away nothing could be written either.
                            deadline = Instant::now() + CATCH_UP_PATIENCE;
                        }
                        tokio::time::sleep(LIST_RETRY).await;
                    }
                    Err(_) => {
                        tracing::error!(
                            "a pool was edited, and what restricts it cannot be had: the pool is put in force with the \
                             policies, conflicts and namespaces that are known"
                        );
                        return;
                    }
                }
            }
        })
    }

    /// Judges the configuration anew and puts it in force.
    pub(super) fn configure(&mut self) {
        self.configure_with(self.owner.watches.objects());
    }

    fn configure_with(&mut self, objects: Objects) {
        let now = Timestamp::now();
        self.objects = objects;
        let (mut configuration, findings) = self.owner.judge().configure(&self.objects, now);
        self.undecodable_pools = self.owner.watches.undecodable_pools();
        configuration.reject_undecodable(&self.undecodable_pools);
        for finding in findings.iter().filter(|finding| !self.findings.contains(finding)) {
            tracing::warn!(object = %finding.object, %finding, "configuration");
            let rules::ObjectRef { kind, namespace, name } = &finding.object;
            let uid = self.owner.watches.uid(kind, name);
            let object = reference(kind, namespace.as_deref(), name, uid);
            let reason = match finding.severity {
                Severity::Error => "ConfigurationError",
                Severity::Warning => "ConfigurationWarning",
            };
            self.owner.events.warning(&object, "Judge", reason, finding.to_string());
        }
        self.findings = findings;
        let before = std::mem::replace(&mut self.conflicts, self.owner.watches.conflicts());
        let occupants = self.conflicts.iter().map(|(ip, conflict)| (*ip, conflict.occupant.clone()));
        self.allocator.configure(Arc::new(configuration), occupants.collect(), now);
        let namespaces = self.objects.namespaces.iter().map(|namespace| namespace.name_any());
        self.allocator.set_namespaces(namespaces.collect(), now);
        let either: BTreeSet<IpAddr> = before.keys().chain(self.conflicts.keys()).copied().collect();
        for ip in either {
            if before.get(&ip) != self.conflicts.get(&ip) {
                self.report_on_pool(ip, before.get(&ip));
                for holder in self.allocator.holders(ip) {
                    self.review(&holder);
                }
            }
        }
    }

    /// Reports on the pool of `ip` that a foreign host uses it, or no longer does. Of nodes a finding tells.
    fn report_on_pool(&self, ip: IpAddr, before: Option<&Conflict>) {
        let foreign = |conflict: Option<&Conflict>| {
            let conflict = conflict.filter(|conflict| conflict.occupant == Occupant::ForeignHost);
            conflict.map(|conflict| conflict.text.clone())
        };
        let (before, after) = (foreign(before), foreign(self.conflicts.get(&ip)));
        let Some(pool) = self.allocator.configuration().pool_of(ip).filter(|_| before != after) else {
            return;
        };
        let pool = status_object("IPAddressPool", &pool.name, &self.owner.watches);
        Self::tell(&self.owner.events, &pool, vec![service::conflict_note(after.as_deref())]);
    }

    /// What to say on a Service with `addresses` of the machines that use them: reason and message.
    pub(super) fn conflict(&self, addresses: &[IpAddr]) -> Option<(&'static str, String)> {
        let conflicts: Vec<&Conflict> = addresses.iter().filter_map(|ip| self.conflicts.get(ip)).collect();
        let foreign = conflicts.iter().any(|conflict| conflict.occupant == Occupant::ForeignHost);
        let texts = conflicts.iter().map(|conflict| conflict.text.as_str()).collect::<Vec<_>>().join("; ");
        match (conflicts.is_empty(), foreign) {
            (true, _) => None,
            (false, true) => Some((
                "UsedByOthers",
                format!(
                    "{texts}: take the address from that machine, or ask for another by metallb.io/loadBalancerIPs"
                ),
            )),
            (false, false) => Some((
                "UsedByNode",
                format!(
                    "{texts}: leave it out of the pool, and ask for another by metallb.io/loadBalancerIPs"
                ),
            )),
        }
    }
}

/// Whether two versions of a pool give the same addresses to the same Services.
fn same(a: &IPAddressPool, b: &IPAddressPool) -> bool {
    a.name_any() == b.name_any() && a.spec == b.spec
}

/// With the UID, by which `kubectl describe` finds events.
fn reference(kind: &str, namespace: Option<&str>, name: &str, uid: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version(kind).into()),
        kind: Some(kind.into()),
        namespace: namespace.map(str::to_owned),
        name: Some(name.into()),
        uid,
        ..ObjectReference::default()
    }
}

pub(crate) fn api_version(kind: &str) -> &'static str {
    match kind {
        "BGPPeer" => "metallb.io/v1beta2",
        "PoolPolicy" | "AddressConflict" => "lbstack.dev/v1alpha1",
        _ => "metallb.io/v1beta1",
    }
}

/// An object with a status of ours, as events name it.
pub(super) fn status_object(kind: &str, name: &str, watches: &Watches) -> ObjectReference {
    reference(kind, Some(&watches.namespace), name, watches.uid(kind, name))
}
