//! Earlier versions of the configuration.

use k8s_openapi::jiff::Timestamp;
use rules::{Configuration, Finding, LastValid, Objects};

use super::effective_policies::EffectivePolicies;

/// The last valid version of each object, and recently deleted
/// policies. Outlives a term, and is updated by standby replicas too.
#[derive(Debug, Default)]
pub(crate) struct ConfigurationHistory {
    policies: EffectivePolicies,
    last_valid: LastValid,
}

impl ConfigurationHistory {
    /// Validates `objects`. An object with an error is replaced by its last valid version.
    pub(super) fn build(&mut self, objects: &Objects, now: Timestamp) -> (Configuration, Vec<Finding>) {
        let pool_policies = self.policies.update(&objects.pool_policies, now);
        let (configuration, mut findings) =
            self.last_valid.configure(&Objects { pool_policies, ..objects.clone() });
        // A finding on a deleted object cannot be reported on it.
        findings.retain(|finding| {
            finding.object.kind != "PoolPolicy" || !self.policies.is_deleted(&finding.object.name)
        });
        (configuration, findings)
    }

    /// When the next deleted policy is no longer in force.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.policies.next_deadline()
    }
}
