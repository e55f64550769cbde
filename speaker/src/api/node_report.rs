//! What a speaker reports of its node in its [`SpeakerState`]; earlier releases do so in annotations of a
//! `ConfigurationState`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use announce::cluster::NodeName;
use announce::cluster::link::{Families, Link, LinkInfo};
use announce::cluster::objects::AnnouncementInfo;
use crds::annotations::{LAST_ANNOUNCED, LINKS, NODE, OTHER_ADDRESSES};
use crds::names::LABEL_NODE_NAME;
use crds::{ConfigurationState, ResourceExt as _, ServiceKey, SpeakerInterface, SpeakerState};
use serde::Deserialize;

use crate::layer2::interfaces::OtherAddresses;
use crate::mac::{format_mac, parse_mac};

/// The prefix of the name of a speaker's `ConfigurationState`, before the name of its node.
const NAME_PREFIX: &str = "speaker-";
const IPV4: &str = "IPv4";
const IPV6: &str = "IPv6";
/// The longest valid name of an object (RFC 1123 subdomain).
const LONGEST_NAME: usize = 253;
/// An object may have a megabyte or two; beyond this size Services may move to other nodes.
pub(crate) const LONGEST_RECORD: usize = 512 * 1024;

/// The name of the `SpeakerState` of a node.
pub(crate) fn speaker_state_name(node: &NodeName) -> String {
    announce::shortened(node, LONGEST_NAME).into_owned()
}

/// The name of the `ConfigurationState` of a node's speaker.
pub(crate) fn configuration_state_name(node: &NodeName) -> String {
    announce::shortened(&format!("{NAME_PREFIX}{node}"), LONGEST_NAME).into_owned()
}

/// What a speaker reports of its node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeReport {
    /// The node.
    pub(crate) node: Option<NodeName>,
    /// Its links.
    pub(crate) links: Option<Vec<LinkInfo>>,
    /// Its addresses on other links.
    pub(crate) other_addresses: OtherAddresses,
    /// Who announced each Service last that nobody announces now, as far as this speaker knows.
    pub(crate) last_announced: Epochs,
}

impl NodeReport {
    /// Reads a `SpeakerState`.
    pub(crate) fn from_speaker_state(object: &SpeakerState) -> Self {
        let Some(status) = &object.status else { return Self::default() };
        let others = status.other_addresses.iter();
        let others = others.filter_map(|other| Some((other.address.parse().ok()?, other.interface.clone())));
        Self {
            node: Some(status.node.as_str().into()),
            links: status.interfaces.iter().map(link).collect(),
            other_addresses: others.collect(),
            last_announced: Epochs::parse(status.last_announced.clone()),
        }
    }

    /// Reads the annotations of an earlier release.
    pub(crate) fn from_annotations(object: &ConfigurationState) -> Self {
        let annotation = |name: &str| object.annotations().get(name).map(String::as_str);
        let others =
            annotation(OTHER_ADDRESSES).and_then(|text| serde_json::from_str::<OtherAddresses>(text).ok());
        Self {
            node: node(object).map(Into::into),
            links: links(object),
            other_addresses: others.unwrap_or_default(),
            last_announced: last_announced(object),
        }
    }
}

/// By node, the Services that it announced last, with the epochs of its claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epochs(pub(crate) BTreeMap<NodeName, BTreeMap<ServiceKey, u64>>);

impl Epochs {
    /// Reads what [`Self::format`] has written.
    pub(crate) fn parse(by_node: BTreeMap<String, BTreeMap<String, i64>>) -> Self {
        let service = |(service, epoch): (String, i64)| {
            let (namespace, name) = service.split_once('/')?;
            Some((ServiceKey::new(namespace, name), u64::try_from(epoch).ok()?))
        };
        let of_node = |(node, services): (String, BTreeMap<String, i64>)| {
            (NodeName::from(node), services.into_iter().filter_map(service).collect())
        };
        Self(by_node.into_iter().map(of_node).collect())
    }

    /// By node and `namespace/name`, as many as there is room for.
    pub(crate) fn format(&self) -> BTreeMap<String, BTreeMap<String, i64>> {
        let mut by_node: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
        let mut size = 0;
        for (node, epochs) in &self.0 {
            for (service, epoch) in epochs {
                let service = service.to_string();
                size += service.len() + 32;
                if size < LONGEST_RECORD {
                    let epoch = i64::try_from(*epoch).unwrap_or(i64::MAX);
                    by_node.entry(node.to_string()).or_default().insert(service, epoch);
                }
            }
        }
        by_node
    }

    /// The same as statuses that were never removed: who announced a Service last goes first.
    pub(crate) fn statuses(&self) -> Vec<Arc<AnnouncementInfo>> {
        let statuses = self.0.iter().flat_map(|(node, epochs)| {
            epochs.iter().map(|(service, epoch)| {
                let (name, node, service) = (Box::default(), node.clone(), service.clone());
                Arc::new(AnnouncementInfo { name, service, node, epoch: *epoch, interfaces: None })
            })
        });
        statuses.collect()
    }
}

fn link(interface: &SpeakerInterface) -> Option<LinkInfo> {
    let subnets = interface.subnets.iter().map(|subnet| subnet.parse::<ipnet::IpNet>().ok());
    let subnets: Option<Vec<ipnet::IpNet>> = subnets.collect();
    Some(LinkInfo {
        name: interface.name.clone(),
        mac: parse_mac(&interface.mac)?,
        subnets: subnets?.iter().map(|net| (net.addr(), net.prefix_len())).collect(),
        families: Some(Families {
            ipv4: interface.families.iter().any(|family| family == IPV4),
            ipv6: interface.families.iter().any(|family| family == IPV6),
        }),
    })
}

/// The report of a link.
pub(crate) fn interface(link: &Link) -> SpeakerInterface {
    let subnet = |(ip, length): &(IpAddr, u8)| Some(ipnet::IpNet::new(*ip, *length).ok()?.to_string());
    let families = [(IPV4, link.broadcast), (IPV6, link.link_local.is_some())];
    let families = families.into_iter().filter(|(_, spoken)| *spoken);
    SpeakerInterface {
        name: link.name.clone(),
        mac: format_mac(link.mac.0),
        subnets: link.subnets.iter().filter_map(subnet).collect(),
        families: families.map(|(name, _)| name.to_owned()).collect(),
    }
}

/// A link in the annotation of an earlier release.
#[derive(Deserialize)]
struct Entry {
    name: String,
    mac: String,
    subnets: Vec<ipnet::IpNet>,
    /// Which families it can announce; absent in the annotations of the first release.
    families: Option<Vec<String>>,
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
        let report = NodeReport::from_annotations(&annotated(&[
            (LINKS, links),
            (OTHER_ADDRESSES, others),
            (LAST_ANNOUNCED, last),
        ]));
        assert_eq!(report.node.as_deref(), Some("node1"));
        let read = report.links.unwrap();
        assert_eq!((&*read[0].name, read[0].mac), ("eth0", [2, 0, 0x0a, 0x4d, 0, 0x0b]));
        assert_eq!(read[0].families, Some(Families { ipv4: true, ipv6: false }));
        assert_eq!(report.other_addresses, [("10.0.0.5".parse().unwrap(), "dummy0".to_owned())].into());
        assert_eq!(report.last_announced.statuses().len(), 1);
        assert_eq!(NodeReport::from_annotations(&annotated(&[(LINKS, "[{]")])).links, None);
    }

    #[test]
    fn links_of_the_first_release_are_read_and_their_families_unknown() {
        let first = r#"[{"name": "eth0", "mac": "02:00:0a:4d:00:0b", "subnets": ["10.77.0.11/24"]}]"#;
        let links = NodeReport::from_annotations(&annotated(&[(LINKS, first)])).links.unwrap();
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
    fn the_names_of_the_objects_of_a_node_with_a_long_name_are_valid() {
        let me: NodeName = format!("{}.example.org", "n".repeat(260)).as_str().into();
        assert!(speaker_state_name(&me).len() <= LONGEST_NAME);
        assert!(configuration_state_name(&me).len() <= LONGEST_NAME);
        assert_eq!(speaker_state_name(&"node1".into()), "node1");
        assert_eq!(configuration_state_name(&"node1".into()), "speaker-node1");
    }
}
