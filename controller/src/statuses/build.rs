//! Computes the statuses of configuration objects.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crds::conditions::{NewCondition, merge, truncate_message};
use crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use crds::{
    ConfigurationResult, ConfigurationState, ConfigurationStateStatus, IPAddressPool, IPAddressPoolStatus,
};
use ipam::Occupant;
use kube::core::ApiResource;
use kube::{Resource, ResourceExt as _};
use rules::{ConfigKind, Configuration, Finding, Objects, Severity, for_each_config_kind};
use serde_json::{Value, json};

use crate::conflict::Conflict;
use crate::list::version;
use crate::pool_stats::PoolStats;
use crate::reasons::{ConditionReason, ConditionType};

/// Name of our `ConfigurationState`, the same as MetalLB's.
pub(crate) const STATE_NAME: &str = "controller";
/// The label of a `ConfigurationState` that says which component wrote it.
const LABEL_COMPONENT_TYPE: &str = "metallb.io/component-type";

const READY: &str = ConditionType::Ready.as_str();

/// The hint on an object that cannot be decoded.
const UNDECODABLE: &str = "this version of lbstack cannot read the object: correct the field, or upgrade; \
                           until then the last version that could be read is in force, if there is one";

/// A write of the status of a configuration object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StatusWrite {
    pub(crate) resource: ApiResource,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Set if the object does not exist yet: it is created with these labels first.
    pub(crate) create: Option<Value>,
    /// The version of the object that it was computed from; 0 if there is none.
    pub(crate) version: u64,
    /// Merge patch of the status subresource.
    pub(crate) patch: Value,
}

impl StatusWrite {
    fn of<K: Resource<DynamicType = ()>>(object: &K, status: &Value) -> Self {
        Self {
            resource: ApiResource::erase::<K>(&()),
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            create: None,
            version: version(object.meta()),
            patch: json!({ "status": status }),
        }
    }
}

/// What statuses are computed from.
pub(crate) struct StatusSources<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) objects: &'a Objects,
    pub(crate) configuration: &'a Configuration,
    pub(crate) findings: &'a [Finding],
    /// The objects that cannot be decoded, each with the reason.
    pub(crate) undecodable: &'a [String],
    pub(crate) stats: &'a BTreeMap<String, PoolStats>,
    pub(crate) conflicts: &'a BTreeMap<IpAddr, Conflict>,
    pub(crate) state: Option<&'a ConfigurationState>,
    pub(crate) now: Time,
}

impl StatusSources<'_> {
    /// The writes of all statuses that are not up to date.
    pub(crate) fn writes(&self) -> Vec<StatusWrite> {
        let mut writes: Vec<StatusWrite> =
            self.objects.pools.iter().filter_map(|pool| self.pool_write(pool)).collect();
        for_each_config_kind!(K => if K::KIND != IPAddressPool::KIND {
            writes.extend(K::of(self.objects).iter().filter_map(|object| self.conditions_write(&**object)));
        });
        writes.extend(self.state_write());
        writes
    }

    fn findings_on<K: Resource<DynamicType = ()>>(&self, object: &K) -> Vec<&Finding> {
        let (kind, name) = (K::kind(&()), object.name_any());
        self.findings.iter().filter(|f| f.object.kind == kind && f.object.name == name).collect()
    }

    /// The condition whether the object is in use; `None` if it is, without warnings, and has no such
    /// condition.
    fn ready_condition<K: ConfigKind>(&self, object: &K) -> Option<NewCondition> {
        let findings = self.findings_on(object);
        let failed = findings.iter().any(|finding| finding.severity == Severity::Error);
        let (reason, message) = if failed {
            let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
            (
                ConditionReason::ConfigurationError,
                format!("rejected until corrected: {}", lines(errors.copied())),
            )
        } else if findings.is_empty() {
            (ConditionReason::InUse, String::new())
        } else {
            (ConditionReason::InUseWithWarnings, lines(findings.into_iter()))
        };
        let has_ready = object.conditions().iter().any(|condition| condition.type_ == READY);
        let condition =
            NewCondition { type_: READY, status: Some(!failed), reason: reason.as_str(), message };
        (has_ready || reason != ConditionReason::InUse).then_some(condition)
    }

    fn conditions_write<K: ConfigKind>(&self, object: &K) -> Option<StatusWrite> {
        let condition = self.ready_condition(object)?;
        let generation = object.meta().generation;
        let conditions = self.merged(object.conditions(), &[condition], generation)?;
        Some(StatusWrite::of(object, &json!({ "conditions": conditions })))
    }

    /// The conditions to store; `None` if they are the same as the old ones.
    fn merged(
        &self,
        old: &[Condition],
        new: &[NewCondition],
        generation: Option<i64>,
    ) -> Option<Vec<Condition>> {
        let merged = merge(old, new, generation, &self.now);
        (merged != old).then_some(merged)
    }

    fn pool_write(&self, pool: &IPAddressPool) -> Option<StatusWrite> {
        let name = pool.name_any();
        let stats = self.stats.get(&name).copied().unwrap_or_default();
        let mut conditions = vec![self.ready_condition(pool).unwrap_or_else(|| NewCondition {
            type_: READY,
            status: Some(true),
            reason: ConditionReason::InUse.as_str(),
            message: String::new(),
        })];
        conditions.push(exhausted_condition(&stats));
        conditions.push(self.conflict_condition(&name));
        let old = pool.status.clone().unwrap_or_default();
        let merged = merge(&old.conditions, &conditions, pool.metadata.generation, &self.now);
        let status = IPAddressPoolStatus {
            assigned_ipv4: stats.in_use_v4,
            assigned_ipv6: stats.in_use_v6,
            available_ipv4: stats.total_v4.saturating_sub(stats.in_use_v4),
            available_ipv6: stats.total_v6.saturating_sub(stats.in_use_v6),
            conditions: merged,
        };
        (pool.status.as_ref() != Some(&status)).then(|| StatusWrite::of(pool, &json!(status)))
    }

    fn conflict_condition(&self, pool: &str) -> NewCondition {
        const MAX_SHOWN: usize = 5;
        let of_pool = |ip: &&IpAddr| self.configuration.pool_of(**ip).is_some_and(|of| of.name == pool);
        let foreign =
            self.conflicts.iter().filter(|(_, conflict)| conflict.occupant == Occupant::ForeignHost);
        let addresses: Vec<String> =
            foreign.map(|(ip, _)| ip).filter(of_pool).map(ToString::to_string).collect();
        let found = !addresses.is_empty();
        let message = if found {
            let more = addresses.len().saturating_sub(MAX_SHOWN);
            let shown = addresses.iter().take(MAX_SHOWN).cloned().collect::<Vec<_>>().join(", ");
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            format!("other machines on the network use {shown}{more}: see kubectl get addressconflicts")
        } else {
            String::new()
        };
        let reason = if found { ConditionReason::UsedByOthers } else { ConditionReason::NoConflict };
        NewCondition {
            type_: ConditionType::Conflict.as_str(),
            status: Some(found),
            reason: reason.as_str(),
            message,
        }
    }

    /// The write of our `ConfigurationState`.
    fn state_write(&self) -> Option<StatusWrite> {
        let errors = self.findings.iter().filter(|finding| finding.severity == Severity::Error);
        let errors = errors.map(|finding| format!("{}: {finding}", finding.object));
        let undecodable = self.undecodable.iter().map(|line| format!("{line}; {UNDECODABLE}"));
        let summary: Vec<String> = errors.chain(undecodable).collect();
        let valid = summary.is_empty();
        let condition = NewCondition {
            type_: ConditionType::PoolReconcilerValid.as_str(),
            status: Some(valid),
            reason: if valid { ConditionReason::Reconciled } else { ConditionReason::ConfigurationError }
                .as_str(),
            message: summary.join("\n"),
        };
        let old = self.state.and_then(|state| state.status.clone()).unwrap_or_default();
        let status = ConfigurationStateStatus {
            result: Some(if valid { ConfigurationResult::Valid } else { ConfigurationResult::Invalid }),
            error_summary: Some(truncate_message(summary.join("\n"))),
            conditions: merge(&old.conditions, &[condition], None, &self.now),
        };
        let exists = self.state.is_some();
        if exists && old == status {
            return None;
        }
        let labels = json!({
            LABEL_COMPONENT_TYPE: STATE_NAME,
            crds::names::LABEL_PART_OF: crds::names::PART_OF,
        });
        Some(StatusWrite {
            resource: ApiResource::erase::<ConfigurationState>(&()),
            namespace: self.namespace.to_owned(),
            name: STATE_NAME.to_owned(),
            create: (!exists).then_some(labels),
            version: self.state.map(|state| version(&state.metadata)).unwrap_or_default(),
            patch: json!({ "status": status }),
        })
    }
}

fn exhausted_condition(stats: &PoolStats) -> NewCondition {
    let families = [("IPv4", stats.exhausted_v4), ("IPv6", stats.exhausted_v6)];
    let full: Vec<&str> = families.iter().filter(|(_, full)| *full).map(|(family, _)| *family).collect();
    let found = !full.is_empty();
    NewCondition {
        type_: ConditionType::Exhausted.as_str(),
        status: Some(found),
        reason: if found { ConditionReason::AllInUse } else { ConditionReason::AddressesFree }.as_str(),
        message: if found {
            format!(
                "no {} address is left to assign: add addresses, or remove Services",
                full.join(" and no ")
            )
        } else {
            String::new()
        },
    }
}

fn lines<'a>(findings: impl Iterator<Item = &'a Finding>) -> String {
    findings.map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
