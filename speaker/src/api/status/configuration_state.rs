//! The speaker's `ConfigurationState`, as MetalLB's: whether it could use the configuration. In annotations of earlier
//! releases it says what a [`SpeakerState`](crds::SpeakerState) says today.

use std::collections::BTreeSet;

use announce::cluster::NodeName;
use crds::annotations::{LAST_ANNOUNCED, LINKS, NODE, OTHER_ADDRESSES};
use crds::conditions::{NewCondition, merge};
use crds::names::{LABEL_COMPONENT_TYPE, LABEL_NODE_NAME, SPEAKER};
use crds::{ConfigurationResult, ConfigurationState, ConfigurationStateStatus, ResourceExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use rules::{Finding, Severity};
use runtime::client::{CallError, with_timeout};
use serde_json::json;

use super::FIELD_MANAGER;
use crate::api::node_report::configuration_state_name;
use crate::api::watches::Caches;

/// Keeps this node's object.
pub(super) struct ConfigurationStates {
    api: Api<ConfigurationState>,
    me: NodeName,
    caches: Caches,
}

impl ConfigurationStates {
    pub(super) fn new(client: Client, namespace: &str, me: NodeName, caches: Caches) -> Self {
        Self { api: Api::namespaced(client, namespace), me, caches }
    }

    pub(super) async fn write(
        &self,
        findings: &[Finding],
        owner: Option<&OwnerReference>,
    ) -> Result<(), CallError> {
        let name = configuration_state_name(&self.me);
        let stored = self.caches.configuration_state();
        let annotated = |object: &ConfigurationState| {
            [LINKS, NODE, OTHER_ADDRESSES, LAST_ANNOUNCED]
                .iter()
                .any(|key| object.annotations().contains_key(*key))
        };
        if stored.as_ref().is_none_or(annotated) {
            let mut object = json!({
                "apiVersion": "metallb.io/v1beta1",
                "kind": "ConfigurationState",
                "metadata": {
                    "name": name,
                    "labels": {
                        LABEL_COMPONENT_TYPE: SPEAKER,
                        LABEL_NODE_NAME: announce::label_value(&self.me),
                    },
                },
            });
            if let Some(owner) = owner {
                object["metadata"]["ownerReferences"] = json!([owner]);
            }
            let params = PatchParams::apply(FIELD_MANAGER).force();
            with_timeout(self.api.patch(&name, &params, &Patch::Apply(object))).await?;
        }
        let old = stored.and_then(|object| object.status).unwrap_or_default();
        let new = status(&old, findings);
        if old != new {
            let patch = json!({
                "apiVersion": "metallb.io/v1beta1",
                "kind": "ConfigurationState",
                "status": new,
            });
            let params = PatchParams::apply(FIELD_MANAGER).force();
            with_timeout(self.api.patch_status(&name, &params, &Patch::Apply(patch))).await?;
        }
        Ok(())
    }

    /// Removes the objects of nodes that are not in the cluster any more.
    pub(super) async fn remove_others(&self, nodes: &BTreeSet<String>) -> Result<(), CallError> {
        super::remove_all_but(&self.api, &self.caches.configurations, nodes).await
    }
}

fn status(old: &ConfigurationStateStatus, findings: &[Finding]) -> ConfigurationStateStatus {
    let errors: Vec<String> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .map(|finding| format!("{}: {finding}", finding.object))
        .collect();
    let valid = NewCondition {
        type_: "configReconcilerValid",
        status: Some(errors.is_empty()),
        reason: if errors.is_empty() { "Reconciled" } else { "ConfigurationError" },
        message: errors.join("\n"),
    };
    let now = Time(Timestamp::now());
    ConfigurationStateStatus {
        result: Some(if errors.is_empty() {
            ConfigurationResult::Valid
        } else {
            ConfigurationResult::Invalid
        }),
        error_summary: (!errors.is_empty()).then(|| errors.join("\n")),
        conditions: merge(&old.conditions, &[valid], None, &now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_state_has_the_conditions_of_metallb_and_no_other() {
        let status = status(&ConfigurationStateStatus::default(), &[]);
        assert_eq!(status.result, Some(ConfigurationResult::Valid));
        let types: Vec<&str> = status.conditions.iter().map(|condition| &*condition.type_).collect();
        assert_eq!(types, ["configReconcilerValid"]);
        assert_eq!(super::status(&status, &[]), status, "the time of a condition that stays does too");
    }
}
