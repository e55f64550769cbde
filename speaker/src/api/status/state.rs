//! The speaker's `ConfigurationState`: the validity of the configuration, the speakers that it cannot hear,
//! and, in an annotation for the other speakers, the links of its node.

use std::collections::BTreeMap;
use std::net::IpAddr;

use announce::cluster::NodeName;
use announce::cluster::link::{Families, Link, LinkInfo};
use crds::annotations::{LAST_ANNOUNCED, LINKS, NODE, OTHER_ADDRESSES};
use crds::conditions::{NewCondition, merge};
use crds::names::{CONDITION_BEACONS_BLOCKED, CONDITION_EXCLUDE_LABEL_IGNORED, CONDITION_KERNELS_ANSWER};
use crds::names::{LABEL_COMPONENT_TYPE, LABEL_EXCLUDE_NODE, LABEL_NODE_NAME, SPEAKER};
use crds::{ConfigurationResult, ConfigurationState, ConfigurationStateStatus, ResourceExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use rules::{Finding, Severity};
use runtime::client::{CallError, bounded};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{FIELD_MANAGER, gc_nodes};
use crate::api::watches::Caches;
use crate::layer2::driver::Published;
use crate::layer2::interfaces::OtherAddresses;
use crate::mac::format_mac;

/// The prefix of the name of a speaker's object, before the name of its node.
const NAME_PREFIX: &str = "speaker-";
const IPV4: &str = "IPv4";
const IPV6: &str = "IPv6";

/// A link in the annotation.
#[derive(Serialize, Deserialize)]
struct LinkEntry {
    name: String,
    mac: String,
    subnets: Vec<ipnet::IpNet>,
    /// The families that it can announce; absent in the annotations of earlier releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    families: Option<Vec<String>>,
}

/// The longest valid name of an object (RFC 1123 subdomain).
const LONGEST_NAME: usize = 253;

/// What a speaker reports about its node.
pub(super) struct NodeReport<'a> {
    pub(super) links: &'a [Link],
    pub(super) other_addresses: &'a OtherAddresses,
    /// The annotation of the last announcing nodes, see [`super::last_announced`].
    pub(super) last_announced: Option<String>,
}

/// Maintains this node's object, and deletes those of nodes that no longer exist.
pub(super) struct StateWriter {
    api: Api<ConfigurationState>,
    me: NodeName,
    caches: Caches,
    beacon_port: u16,
}

impl StateWriter {
    pub(super) fn new(
        client: Client,
        namespace: &str,
        me: NodeName,
        caches: Caches,
        beacon_port: u16,
    ) -> Self {
        Self { api: Api::namespaced(client, namespace), me, caches, beacon_port }
    }

    pub(super) async fn write(
        &self,
        published: &Published,
        node: NodeReport<'_>,
        findings: &[Finding],
        owner: Option<&OwnerReference>,
    ) -> Result<(), CallError> {
        let name = name(&self.me);
        let stored = self.caches.state();
        let annotations = annotations(&self.me, published, node);
        let ours = [LINKS, NODE, OTHER_ADDRESSES, LAST_ANNOUNCED];
        let known = |key| stored.as_ref().and_then(|object| object.annotations().get(key));
        if ours.into_iter().any(|key| known(key) != annotations.get(key)) {
            let mut object = json!({
                "apiVersion": "metallb.io/v1beta1",
                "kind": "ConfigurationState",
                "metadata": {
                    "name": name,
                    "labels": {
                        LABEL_COMPONENT_TYPE: SPEAKER,
                        LABEL_NODE_NAME: announce::label_value(&self.me),
                    },
                    "annotations": annotations,
                },
            });
            if let Some(owner) = owner {
                object["metadata"]["ownerReferences"] = json!([owner]);
            }
            let params = PatchParams::apply(FIELD_MANAGER).force();
            bounded(self.api.patch(&name, &params, &Patch::Apply(object))).await?;
        }
        let old = stored.and_then(|object| object.status).unwrap_or_default();
        let new = status(&old, published, findings, self.beacon_port);
        if old != new {
            let patch = json!({
                "apiVersion": "metallb.io/v1beta1",
                "kind": "ConfigurationState",
                "status": new,
            });
            let params = PatchParams::apply(FIELD_MANAGER).force();
            bounded(self.api.patch_status(&name, &params, &Patch::Apply(patch))).await?;
        }
        self.collect_garbage(published).await
    }

    /// On the reporter, deletes the objects of nodes that no longer exist.
    async fn collect_garbage(&self, published: &Published) -> Result<(), CallError> {
        let Some(nodes) = gc_nodes(published, &self.me, &self.caches) else { return Ok(()) };
        for state in self.caches.states.all() {
            if state.node.as_ref().is_some_and(|node| !nodes.contains(node)) {
                match bounded(self.api.delete(&state.name, &DeleteParams::default())).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// The name of the object of a node's speaker.
pub(crate) fn name(node: &NodeName) -> String {
    announce::shortened(&format!("{NAME_PREFIX}{node}"), LONGEST_NAME).into_owned()
}

fn annotations(me: &NodeName, published: &Published, node: NodeReport<'_>) -> BTreeMap<&'static str, String> {
    let matters = |address: &IpAddr| {
        published.view.is_in_pool(*address)
            || published.view.groups.values().any(|group| group.addresses.contains(*address))
    };
    let others: OtherAddresses = node
        .other_addresses
        .iter()
        .filter(|(address, _)| matters(address))
        .map(|(address, interface)| (*address, interface.clone()))
        .collect();
    let others = (!others.is_empty()).then(|| serde_json::to_string(&others).unwrap_or_default());
    let optional = [(OTHER_ADDRESSES, others), (LAST_ANNOUNCED, node.last_announced)];
    let optional = optional.into_iter().filter_map(|(key, value)| Some((key, value?)));
    [(LINKS, encode(node.links)), (NODE, me.to_string())].into_iter().chain(optional).collect()
}

/// The addresses that a speaker reports on interfaces that it does not announce on.
pub(crate) fn other_addresses(object: &ConfigurationState) -> OtherAddresses {
    let text = object.annotations().get(OTHER_ADDRESSES);
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn status(
    old: &ConfigurationStateStatus,
    published: &Published,
    findings: &[Finding],
    beacon_port: u16,
) -> ConfigurationStateStatus {
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
    let unheard: Vec<String> =
        published.blocked.iter().map(|(node, why)| format!("{node} ({why})")).collect();
    let blocked = NewCondition {
        type_: CONDITION_BEACONS_BLOCKED,
        status: Some(!unheard.is_empty()),
        reason: if unheard.is_empty() { "AllHeard" } else { "NotHeard" },
        message: if unheard.is_empty() {
            String::new()
        } else {
            format!(
                "no beacons arrive from the speakers of {}; allow UDP port {beacon_port} \
                 (speaker.beacon.port) between the nodes. Until then their failure is detected only through \
                 the API",
                unheard.join(", ")
            )
        },
    };
    let kernels: Vec<&str> = published.reports.answering_kernels.iter().map(|node| &**node).collect();
    let kernels_answer = NewCondition {
        type_: CONDITION_KERNELS_ANSWER,
        status: Some(!kernels.is_empty()),
        reason: if kernels.is_empty() { "AsExpected" } else { "UnannouncedAnswers" },
        message: if kernels.is_empty() {
            String::new()
        } else {
            format!(
                "{} answer ARP or NDP for addresses of Services that their speakers do not announce, so \
                 that traffic goes to several nodes. With kube-proxy in ipvs mode set ipvs.strictARP: true \
                 in its configuration; otherwise stop the other load balancer on these nodes, such as \
                 MetalLB",
                kernels.join(", ")
            )
        },
    };
    let label_ignored = NewCondition {
        type_: CONDITION_EXCLUDE_LABEL_IGNORED,
        status: Some(published.view.label_ignored),
        reason: if published.view.label_ignored { "OnEveryNode" } else { "AsExpected" },
        message: if published.view.label_ignored {
            format!(
                "every node carries the label {LABEL_EXCLUDE_NODE}, so that none could announce: it is \
                 ignored. Remove it from those that are to announce, or set speaker.excludeLabel to Honour \
                 or Ignore"
            )
        } else {
            String::new()
        },
    };
    let now = Time(Timestamp::now());
    ConfigurationStateStatus {
        result: Some(if errors.is_empty() {
            ConfigurationResult::Valid
        } else {
            ConfigurationResult::Invalid
        }),
        error_summary: (!errors.is_empty()).then(|| errors.join("\n")),
        conditions: merge(&old.conditions, &[valid, blocked, kernels_answer, label_ignored], None, &now),
    }
}

fn encode(links: &[Link]) -> String {
    let entries: Vec<LinkEntry> = links
        .iter()
        .map(|link| {
            let subnet = |(ip, length): &(IpAddr, u8)| ipnet::IpNet::new(*ip, *length).ok();
            let families = [(IPV4, link.broadcast), (IPV6, link.link_local.is_some())];
            let families =
                families.into_iter().filter(|(_, spoken)| *spoken).map(|(name, _)| name.to_owned());
            LinkEntry {
                name: link.name.clone(),
                mac: format_mac(link.mac.0),
                subnets: link.subnets.iter().filter_map(subnet).collect(),
                families: Some(families.collect()),
            }
        })
        .collect();
    serde_json::to_string(&entries).unwrap_or_default()
}

/// The node of a speaker's object. A label cannot contain a name of more than 63 characters.
pub(crate) fn node(object: &ConfigurationState) -> Option<&str> {
    let annotated = object.annotations().get(NODE).or_else(|| object.labels().get(LABEL_NODE_NAME));
    let name = object.metadata.name.as_deref();
    annotated.map(String::as_str).or_else(|| name?.strip_prefix(NAME_PREFIX))
}

/// The links in a speaker's object; none if there are none that can be parsed.
pub(crate) fn decode(object: &ConfigurationState) -> Option<(NodeName, Vec<LinkInfo>)> {
    let node = node(object)?;
    let entries: Vec<LinkEntry> = serde_json::from_str(object.annotations().get(LINKS)?).ok()?;
    let links = entries.into_iter().map(|entry| {
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
    Some((node.into(), links.collect::<Option<Vec<_>>>()?))
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use announce::EthernetAddress;
    use announce::layer2::view::View;

    use super::*;

    #[test]
    fn links_survive_the_annotation() {
        let link = Link {
            index: 2,
            name: "eth0".into(),
            mac: EthernetAddress([2, 0, 10, 77, 0, 11]),
            broadcast: true,
            link_local: None,
            subnets: [("10.77.0.11".parse().unwrap(), 24), ("fd00::11".parse().unwrap(), 64)].into(),
            carrier_ups: 1,
        };
        let mut object = ConfigurationState::new("speaker-node1", crds::ConfigurationStateSpec {});
        object.labels_mut().insert(LABEL_NODE_NAME.into(), "node1".into());
        object.annotations_mut().insert(LINKS.into(), encode(std::slice::from_ref(&link)));
        let (node, links) = decode(&object).unwrap();
        assert_eq!(&*node, "node1");
        assert_eq!(links, [LinkInfo::from(&link)]);
        object.annotations_mut().insert(LINKS.into(), "[{]".into());
        assert!(decode(&object).is_none());
    }

    #[test]
    fn links_of_an_earlier_release_are_read_and_their_families_unknown() {
        let mut object = ConfigurationState::new("speaker-node1", crds::ConfigurationStateSpec {});
        object.labels_mut().insert(LABEL_NODE_NAME.into(), "node1".into());
        let earlier = r#"[{"name": "eth0", "mac": "02:00:0a:4d:00:0b", "subnets": ["10.77.0.11/24"]}]"#;
        object.annotations_mut().insert(LINKS.into(), earlier.into());
        let (_, links) = decode(&object).unwrap();
        assert_eq!(links[0].families, None);
        assert!(links[0].supports_family("fd00::1".parse().unwrap()));
    }

    #[test]
    fn the_node_of_an_object_is_found_though_its_name_is_not_a_valid_label_value() {
        let long = "node-".repeat(40);
        let mut object = ConfigurationState::new(&format!("speaker-{long}"), crds::ConfigurationStateSpec {});
        assert_eq!(node(&object), Some(&*long));
        object.labels_mut().insert(LABEL_NODE_NAME.into(), "a-hash".into());
        object.annotations_mut().insert(NODE.into(), long.clone());
        assert_eq!(node(&object), Some(&*long));
    }

    #[test]
    fn an_unchanged_problem_keeps_the_transition_time_of_its_condition() {
        let mut published = Published::default();
        let good = status(&ConfigurationStateStatus::default(), &published, &[], 7_000);
        assert_eq!(good.result, Some(ConfigurationResult::Valid));
        assert_eq!(status(&good, &published, &[], 7_000), good);
        published.blocked.push(("node2".into(), "it answers on the link".into()));
        let bad = status(&good, &published, &[], 7_000);
        assert!(crds::conditions::is_true(&bad.conditions, CONDITION_BEACONS_BLOCKED));
        assert!(bad.conditions[1].message.contains("node2 (it answers on the link)"));
        assert!(bad.conditions[1].message.contains("UDP port 7000"));
    }

    #[test]
    fn requirement_3_kernels_that_answer_for_addresses_are_reported_with_the_setting_that_fixes_it() {
        let reports = crate::layer2::driver::Reports {
            answering_kernels: ["node2".into()].into(),
            ..Default::default()
        };
        let published = Published { reports: Arc::new(reports), ..Published::default() };
        let status = status(&ConfigurationStateStatus::default(), &published, &[], 7_000);
        let condition = status.conditions.iter().find(|c| c.type_ == CONDITION_KERNELS_ANSWER).unwrap();
        assert_eq!(condition.status, "True");
        assert!(condition.message.contains("node2") && condition.message.contains("strictARP: true"));
    }

    #[test]
    fn requirement_10_the_object_of_a_node_with_a_long_name_can_be_written_and_read() {
        let me: NodeName = format!("{}.example.org", "n".repeat(240)).as_str().into();
        assert!(name(&me).len() <= LONGEST_NAME);
        let mut view = View::default();
        let range = rules::IpRange::new("10.0.0.1".parse().unwrap(), "10.0.0.9".parse().unwrap()).unwrap();
        view.pools.push(range);
        let published = Published { view: Arc::new(view), ..Published::default() };
        let others: OtherAddresses =
            [("10.0.0.5".parse().unwrap(), "dummy0".into()), ("10.9.0.5".parse().unwrap(), "cni0".into())]
                .into();
        let known = NodeReport { links: &[], other_addresses: &others, last_announced: None };
        let mut object = ConfigurationState::new(&name(&me), crds::ConfigurationStateSpec {});
        object.labels_mut().insert(LABEL_NODE_NAME.into(), announce::label_value(&me).into_owned());
        for (key, value) in annotations(&me, &published, known) {
            object.annotations_mut().insert(key.into(), value);
        }
        assert_eq!(decode(&object).unwrap().0, me);
        let reported = other_addresses(&object);
        assert_eq!(
            reported,
            [("10.0.0.5".parse().unwrap(), "dummy0".to_owned())].into(),
            "others do not matter"
        );
    }

    #[test]
    fn an_ignored_exclude_label_is_reported() {
        let reported = |label_ignored| {
            let mut view = View::default();
            view.label_ignored = label_ignored;
            let published = Published { view: Arc::new(view), ..Published::default() };
            let status = status(&ConfigurationStateStatus::default(), &published, &[], 7_000);
            crds::conditions::is_true(&status.conditions, CONDITION_EXCLUDE_LABEL_IGNORED)
        };
        assert!(reported(true));
        assert!(!reported(false));
    }
}
