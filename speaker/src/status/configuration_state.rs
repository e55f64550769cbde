//! The speaker's `ConfigurationState`, as MetalLB's: whether it could use the configuration. In annotations of earlier
//! releases it says what a [`SpeakerState`](crds::SpeakerState) says today.

use std::collections::BTreeSet;

use announce::link::{Families, LinkInfo};
use announce::view::NodeName;
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
use serde::Deserialize;
use serde_json::json;

use super::last_announced::Epochs;
use super::speaker_state::{IPV4, IPV6, parse_mac};
use super::{FIELD_MANAGER, LONGEST_NAME};
use crate::links::OtherAddresses;
use crate::watches::{Caches, NodeReport};

/// Before the name of its node, the name of a speaker's object.
const NAME_PREFIX: &str = "speaker-";

/// A link in the annotation of an earlier release.
#[derive(Deserialize)]
struct Entry {
    name: String,
    mac: String,
    subnets: Vec<ipnet::IpNet>,
    /// Which families it can announce; absent in the annotations of the first release.
    families: Option<Vec<String>>,
}

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
        let name = name(&self.me);
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

/// Of the object of a node's speaker.
pub(crate) fn name(node: &NodeName) -> String {
    announce::shortened(&format!("{NAME_PREFIX}{node}"), LONGEST_NAME).into_owned()
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

/// What the annotations of an earlier release report.
pub(crate) fn legacy_report(object: &ConfigurationState) -> NodeReport {
    let annotation = |name: &str| object.annotations().get(name).map(String::as_str);
    let others =
        annotation(OTHER_ADDRESSES).and_then(|text| serde_json::from_str::<OtherAddresses>(text).ok());
    NodeReport {
        node: node(object).map(Into::into),
        links: links(object),
        other_addresses: others.unwrap_or_default(),
        last_announced: last_announced(object),
    }
}

/// Which node announced each Service last that no node announces; nothing if that cannot be read.
fn last_announced(object: &ConfigurationState) -> Epochs {
    let text = object.annotations().get(LAST_ANNOUNCED);
    Epochs::parse(text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default())
}

/// The node that a speaker's object is about. A label cannot hold a name of more than 63 characters.
fn node(object: &ConfigurationState) -> Option<&str> {
    let annotated = object.annotations().get(NODE).or_else(|| object.labels().get(LABEL_NODE_NAME));
    let name = object.metadata.name.as_deref();
    annotated.map(String::as_str).or_else(|| name?.strip_prefix(NAME_PREFIX))
}

/// The links; none if it publishes nothing that can be read.
fn links(object: &ConfigurationState) -> Option<Vec<LinkInfo>> {
    let entries: Vec<Entry> = serde_json::from_str(object.annotations().get(LINKS)?).ok()?;
    let facts = entries.into_iter().map(|entry| {
        Some(LinkInfo {
            name: entry.name,
            mac: parse_mac(&entry.mac)?,
            subnets: entry.subnets.iter().map(|net| (net.addr(), net.prefix_len())).collect(),
            families: entry.families.map(|families| Families {
                ipv4: families.iter().any(|family| family == IPV4),
                ipv6: families.iter().any(|family| family == IPV6),
            }),
        })
    });
    facts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotated(annotations: &[(&str, &str)]) -> ConfigurationState {
        let mut object = ConfigurationState::new("speaker-node1", crds::ConfigurationStateSpec {});
        object.labels_mut().insert(LABEL_NODE_NAME.into(), "node1".into());
        let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        object.annotations_mut().extend(annotations);
        object
    }

    #[test]
    fn what_earlier_releases_report_in_annotations_is_read() {
        let links = r#"[{"name": "eth0", "mac": "02:00:0a:4d:00:0b", "subnets": ["10.77.0.11/24"], "families": ["IPv4"]}]"#;
        let others = r#"{"10.0.0.5": "dummy0"}"#;
        let last = r#"{"node2": {"default/web": 7}}"#;
        let report =
            legacy_report(&annotated(&[(LINKS, links), (OTHER_ADDRESSES, others), (LAST_ANNOUNCED, last)]));
        assert_eq!(report.node.as_deref(), Some("node1"));
        let read = report.links.unwrap();
        assert_eq!((&*read[0].name, read[0].mac), ("eth0", [2, 0, 0x0a, 0x4d, 0, 0x0b]));
        assert_eq!(read[0].families, Some(Families { ipv4: true, ipv6: false }));
        assert_eq!(report.other_addresses, [("10.0.0.5".parse().unwrap(), "dummy0".to_owned())].into());
        assert_eq!(report.last_announced.statuses().len(), 1);
        assert_eq!(legacy_report(&annotated(&[(LINKS, "[{]")])).links, None);
    }

    #[test]
    fn links_of_the_first_release_are_read_and_their_families_unknown() {
        let first = r#"[{"name": "eth0", "mac": "02:00:0a:4d:00:0b", "subnets": ["10.77.0.11/24"]}]"#;
        let links = legacy_report(&annotated(&[(LINKS, first)])).links.unwrap();
        assert_eq!(links[0].families, None);
        assert!(links[0].supports_family("fd00::1".parse().unwrap()));
    }

    #[test]
    fn the_node_of_an_object_is_known_though_its_name_is_not_a_label_value() {
        let long = "node-".repeat(40);
        let mut object = ConfigurationState::new(&format!("speaker-{long}"), crds::ConfigurationStateSpec {});
        assert_eq!(node(&object), Some(&*long));
        object.labels_mut().insert(LABEL_NODE_NAME.into(), "a-hash".into());
        object.annotations_mut().insert(NODE.into(), long.clone());
        assert_eq!(node(&object), Some(&*long));
    }

    #[test]
    fn a_configuration_state_has_the_conditions_of_metallb_and_no_other() {
        let status = status(&ConfigurationStateStatus::default(), &[]);
        assert_eq!(status.result, Some(ConfigurationResult::Valid));
        let types: Vec<&str> = status.conditions.iter().map(|condition| &*condition.type_).collect();
        assert_eq!(types, ["configReconcilerValid"]);
        assert_eq!(super::status(&status, &[]), status, "the time of a condition that stays does too");
    }
}
