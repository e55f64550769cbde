//! The policies in force, including recently deleted ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::PoolPolicy;
use ipam::GRACE;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

/// The policies in force: those that exist, and deleted ones for a grace period of [`GRACE`]. So a policy can
/// be replaced by deletion and creation, and no reserved address is assigned in between.
#[derive(Debug, Default)]
pub(super) struct EffectivePolicies {
    /// By name, with the end of the grace period if it was deleted.
    in_force: BTreeMap<String, (Arc<PoolPolicy>, Option<Timestamp>)>,
}

impl EffectivePolicies {
    /// Updates the policies by those that exist, and returns the ones in force.
    pub(super) fn update(&mut self, existing: &[Arc<PoolPolicy>], now: Timestamp) -> Vec<Arc<PoolPolicy>> {
        let names: BTreeSet<String> = existing.iter().map(|policy| policy.name_any()).collect();
        self.in_force.retain(|name, (_, end)| {
            names.contains(name) || now < *end.get_or_insert(now.checked_add(GRACE).unwrap_or(Timestamp::MAX))
        });
        self.in_force.extend(existing.iter().map(|policy| (policy.name_any(), (Arc::clone(policy), None))));
        self.in_force.values().map(|(policy, _)| Arc::clone(policy)).collect()
    }

    /// Whether the policy is in force although it was deleted.
    pub(super) fn is_deleted(&self, name: &str) -> bool {
        self.in_force.get(name).is_some_and(|(_, end)| end.is_some())
    }

    /// When the next grace period ends.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.in_force.values().filter_map(|(_, end)| *end).min()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn policy(name: &str, reserved: &str) -> Arc<PoolPolicy> {
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "lbstack.dev/v1alpha1", "kind": "PoolPolicy", "metadata": {"name": name},
                "spec": {"pool": "lan", "reserved": [{"addresses": reserved}]},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn a_deleted_policy_stays_in_force_for_the_grace_period() {
        let (gone, stays) = (policy("gone", "10.0.0.1"), policy("stays", "10.0.0.2"));
        let mut policies = EffectivePolicies::default();
        assert_eq!(policies.update(&[gone.clone(), stays.clone()], at(0)), [gone.clone(), stays.clone()]);
        assert_eq!(policies.next_deadline(), None);
        assert_eq!(policies.update(std::slice::from_ref(&stays), at(10)), [gone.clone(), stays.clone()]);
        assert_eq!((policies.is_deleted("gone"), policies.is_deleted("stays")), (true, false));
        assert_eq!(policies.next_deadline(), Some(at(15)));
        assert_eq!(policies.update(std::slice::from_ref(&stays), at(14)), [gone, stays.clone()]);
        assert_eq!(policies.update(std::slice::from_ref(&stays), at(15)), [stays]);
        assert_eq!(policies.next_deadline(), None);
    }

    #[test]
    fn a_policy_that_is_created_again_replaces_the_deleted_one_at_once() {
        let (old, new) = ([policy("p", "10.0.0.1")], [policy("p", "10.0.0.2")]);
        let mut policies = EffectivePolicies::default();
        policies.update(&old, at(0));
        policies.update(&[], at(1));
        assert_eq!(policies.update(&new, at(2)), new);
        assert_eq!(policies.next_deadline(), None);
        assert_eq!(policies.update(&[], at(20)), new, "its grace period begins with its own deletion");
    }
}
