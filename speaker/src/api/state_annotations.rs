//! The name and the annotations of a speaker's `ConfigurationState`: the links and other addresses of its node, and the
//! last announcing nodes of Services that no node announces now.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use announce::cluster::NodeName;
use announce::cluster::link::{Families, Link, LinkInfo};
use announce::cluster::objects::AnnouncementInfo;
use crds::annotations::{LAST_ANNOUNCED, LINKS, NODE, OTHER_ADDRESSES};
use crds::names::LABEL_NODE_NAME;
use crds::{ConfigurationState, ResourceExt as _, ServiceKey};
use serde::{Deserialize, Serialize};

use crate::layer2::interfaces::OtherAddresses;
use crate::mac::{format_mac, parse_mac};

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
pub(crate) const LONGEST_NAME: usize = 253;
/// All annotations of an object may have 256 KiB; beyond this size Services may move to other nodes.
pub(crate) const LONGEST_RECORD: usize = 128 * 1024;

/// The epochs of the claims of one node.
pub(crate) type Epochs = BTreeMap<ServiceKey, u64>;

/// The name of the object of a node's speaker.
pub(crate) fn name(node: &NodeName) -> String {
    announce::shortened(&format!("{NAME_PREFIX}{node}"), LONGEST_NAME).into_owned()
}

/// The addresses that a speaker reports on interfaces that it does not announce on.
pub(crate) fn other_addresses(object: &ConfigurationState) -> OtherAddresses {
    let text = object.annotations().get(OTHER_ADDRESSES);
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// The annotation of the links of a node.
pub(crate) fn encode_links(links: &[Link]) -> String {
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
pub(crate) fn decode_links(object: &ConfigurationState) -> Option<(NodeName, Vec<LinkInfo>)> {
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

/// The annotation of the last announcing nodes; none if there are none.
pub(crate) fn encode_last_announced(record: &BTreeMap<NodeName, Epochs>) -> Option<String> {
    let mut text: BTreeMap<&str, BTreeMap<String, u64>> = BTreeMap::new();
    let mut size = 0;
    for (node, epochs) in record {
        for (service, epoch) in epochs {
            let service = service.to_string();
            size += service.len() + 32;
            if size < LONGEST_RECORD {
                text.entry(node).or_default().insert(service, *epoch);
            }
        }
    }
    (!text.is_empty()).then(|| serde_json::to_string(&text).unwrap_or_default())
}

/// The record in a speaker's object, by node; empty if it cannot be parsed.
pub(crate) fn decode_last_announced(object: &ConfigurationState) -> BTreeMap<NodeName, Epochs> {
    let text = object.annotations().get(LAST_ANNOUNCED).map(String::as_str).unwrap_or_default();
    let by_node: BTreeMap<String, BTreeMap<String, u64>> = serde_json::from_str(text).unwrap_or_default();
    let key = |(service, epoch): (String, u64)| {
        let (namespace, name) = service.split_once('/')?;
        Some((ServiceKey::new(namespace, name), epoch))
    };
    let epochs = |epochs: BTreeMap<String, u64>| epochs.into_iter().filter_map(key).collect();
    by_node.into_iter().map(|(node, services)| (node.into(), epochs(services))).collect()
}

/// The record as summaries of statuses: the last announcing node takes precedence.
pub(crate) fn last_announced_statuses(object: &ConfigurationState) -> Vec<Arc<AnnouncementInfo>> {
    let statuses = decode_last_announced(object).into_iter().flat_map(|(node, epochs)| {
        epochs.into_iter().map(move |(service, epoch)| {
            let (name, node) = (Box::default(), node.clone());
            Arc::new(AnnouncementInfo { name, service, node, epoch, interfaces: None })
        })
    });
    statuses.collect()
}
