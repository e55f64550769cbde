//! Statuses of configuration objects: how full a pool is, what is wrong with an object, and the whole in one word.
//!
//! Computed from the objects as they are; what is already so is not written. Objects that are in order and have no
//! word of ours get none, so that taking a cluster over from MetalLB writes next to nothing.

mod writer;

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

use crate::figures::PoolFigures;
use crate::list::version;
use crate::watches::Conflict;
pub(crate) use writer::{Contested, StatusWriter};

/// Name of our `ConfigurationState`, as MetalLB's.
pub(crate) const STATE: &str = "controller";
/// Its label for which process it is of.
pub(crate) const LABEL_COMPONENT_TYPE: &str = "metallb.io/component-type";

/// What follows from it that an object cannot be decoded.
const UNDECODABLE: &str = "this version of lbstack cannot read the object: correct the field, or upgrade; until then the \
                           last version that could be read counts, if there is one";

/// A status to write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Write {
    pub(crate) resource: ApiResource,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The object does not exist yet and is made with these labels first.
    pub(crate) create: Option<Value>,
    /// The version of the object that it was computed from; 0 if there is none.
    pub(crate) version: u64,
    /// Merge patch of the status subresource.
    pub(crate) patch: Value,
}

impl Write {
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

/// What statuses are made from.
pub(crate) struct Facts<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) objects: &'a Objects,
    pub(crate) configuration: &'a Configuration,
    pub(crate) findings: &'a [Finding],
    /// The objects that cannot be decoded, and why not.
    pub(crate) undecodable: &'a [String],
    pub(crate) figures: &'a BTreeMap<String, PoolFigures>,
    pub(crate) conflicts: &'a BTreeMap<IpAddr, Conflict>,
    pub(crate) state: Option<&'a ConfigurationState>,
    pub(crate) now: Time,
}

impl Facts<'_> {
    /// Every status that is not as it shall be.
    pub(crate) fn writes(&self) -> Vec<Write> {
        let mut writes: Vec<Write> = self.objects.pools.iter().filter_map(|pool| self.pool(pool)).collect();
        for_each_config_kind!(K => if K::KIND != IPAddressPool::KIND {
            writes.extend(K::of(self.objects).iter().filter_map(|object| self.judged(&**object)));
        });
        writes.extend(self.state());
        writes
    }

    fn findings_on<K: Resource<DynamicType = ()>>(&self, object: &K) -> Vec<&Finding> {
        let (kind, name) = (K::kind(&()), object.name_any());
        self.findings.iter().filter(|f| f.object.kind == kind && f.object.name == name).collect()
    }

    /// Whether the object is in use; none if there is nothing to say and nothing was said.
    fn ready<K: ConfigKind>(&self, object: &K) -> Option<NewCondition> {
        let findings = self.findings_on(object);
        let failed = findings.iter().any(|finding| finding.severity == Severity::Error);
        let (reason, message) = if failed {
            let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
            ("ConfigurationError", format!("rejected until corrected: {}", lines(errors.copied())))
        } else if findings.is_empty() {
            ("InUse", String::new())
        } else {
            ("InUseWithWarnings", lines(findings.into_iter()))
        };
        let said = object.conditions().iter().any(|condition| condition.type_ == "Ready");
        let condition = NewCondition { type_: "Ready", status: Some(!failed), reason, message };
        (said || reason != "InUse").then_some(condition)
    }

    fn judged<K: ConfigKind>(&self, object: &K) -> Option<Write> {
        let condition = self.ready(object)?;
        let generation = object.meta().generation;
        let conditions = self.merged(object.conditions(), &[condition], generation)?;
        Some(Write::of(object, &json!({ "conditions": conditions })))
    }

    /// The list to store; none if it says what the old one says.
    fn merged(
        &self,
        old: &[Condition],
        new: &[NewCondition],
        generation: Option<i64>,
    ) -> Option<Vec<Condition>> {
        let merged = merge(old, new, generation, &self.now);
        // Which generation was looked at is worth no write of its own where nothing is said.
        (merged != old).then_some(merged)
    }

    fn pool(&self, pool: &IPAddressPool) -> Option<Write> {
        let name = pool.name_any();
        let figures = self.figures.get(&name).copied().unwrap_or_default();
        let mut conditions = vec![self.ready(pool).unwrap_or_else(|| NewCondition {
            type_: "Ready",
            status: Some(true),
            reason: "InUse",
            message: String::new(),
        })];
        conditions.push(exhausted(&figures));
        conditions.push(self.conflict(&name));
        let old = pool.status.clone().unwrap_or_default();
        let merged = merge(&old.conditions, &conditions, pool.metadata.generation, &self.now);
        let status = IPAddressPoolStatus {
            assigned_ipv4: figures.in_use_v4,
            assigned_ipv6: figures.in_use_v6,
            available_ipv4: figures.total_v4.saturating_sub(figures.in_use_v4),
            available_ipv6: figures.total_v6.saturating_sub(figures.in_use_v6),
            conditions: merged,
        };
        (pool.status.as_ref() != Some(&status)).then(|| Write::of(pool, &json!(status)))
    }

    fn conflict(&self, pool: &str) -> NewCondition {
        const SHOWN: usize = 5;
        let of_pool = |ip: &&IpAddr| self.configuration.pool_of(**ip).is_some_and(|of| of.name == pool);
        let foreign =
            self.conflicts.iter().filter(|(_, conflict)| conflict.occupant == Occupant::ForeignHost);
        let addresses: Vec<String> =
            foreign.map(|(ip, _)| ip).filter(of_pool).map(ToString::to_string).collect();
        let found = !addresses.is_empty();
        let message = if found {
            let more = addresses.len().saturating_sub(SHOWN);
            let shown = addresses.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            format!("other machines on the network use {shown}{more}: see kubectl get addressconflicts")
        } else {
            String::new()
        };
        let reason = if found { "UsedByOthers" } else { "None" };
        NewCondition { type_: "Conflict", status: Some(found), reason, message }
    }

    /// Our `ConfigurationState`.
    fn state(&self) -> Option<Write> {
        let errors = self.findings.iter().filter(|finding| finding.severity == Severity::Error);
        let errors = errors.map(|finding| format!("{}: {finding}", finding.object));
        let undecodable = self.undecodable.iter().map(|line| format!("{line}; {UNDECODABLE}"));
        let summary: Vec<String> = errors.chain(undecodable).collect();
        let valid = summary.is_empty();
        let condition = NewCondition {
            type_: "poolReconcilerValid",
            status: Some(valid),
            reason: if valid { "Reconciled" } else { "ConfigurationError" },
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
            LABEL_COMPONENT_TYPE: STATE,
            crds::names::LABEL_PART_OF: crds::names::PART_OF,
        });
        Some(Write {
            resource: ApiResource::erase::<ConfigurationState>(&()),
            namespace: self.namespace.to_owned(),
            name: STATE.to_owned(),
            create: (!exists).then_some(labels),
            version: self.state.map(|state| version(&state.metadata)).unwrap_or_default(),
            patch: json!({ "status": status }),
        })
    }
}

fn exhausted(figures: &PoolFigures) -> NewCondition {
    let families = [("IPv4", figures.exhausted_v4), ("IPv6", figures.exhausted_v6)];
    let full: Vec<&str> = families.iter().filter(|(_, full)| *full).map(|(family, _)| *family).collect();
    let found = !full.is_empty();
    NewCondition {
        type_: "Exhausted",
        status: Some(found),
        reason: if found { "AllInUse" } else { "AddressesFree" },
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

#[cfg(test)]
mod tests;
