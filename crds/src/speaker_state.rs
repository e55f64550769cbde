//! `SpeakerState`: what the speaker of a node reports of itself and of its node. A speaker writes its own, in the stack's
//! namespace, named after the node, on change and at most once in five seconds; it is never needed for a takeover.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::optional_spec::optional_spec;

/// Empty: the kind has only a status.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[kube(
    group = "lbstack.dev",
    version = "v1alpha1",
    kind = "SpeakerState",
    plural = "speakerstates",
    namespaced,
    status = "SpeakerStateStatus",
    doc = "SpeakerState reports what the speaker of a node knows of its interfaces, of the other speakers, and of what it announces.",
    derive = "PartialEq",
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node"),
    printcolumn(name = "Interfaces", type_ = "string", json_path = ".status.interfaceNames"),
    printcolumn(name = "Owned", type_ = "integer", json_path = ".status.owned"),
    printcolumn(name = "Peers", type_ = "string", json_path = ".status.peers"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(remote = "Self")]
pub struct SpeakerStateSpec {}

optional_spec!(SpeakerStateSpec, "SpeakerStateSpec");

/// What the speaker of a node has reported last.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SpeakerStateStatus {
    /// The node. The name of the object may be a shortened one.
    pub node: String,
    /// The release of the speaker.
    #[serde(default)]
    pub version: String,
    /// The names of the interfaces that it may announce on.
    #[serde(default)]
    pub interface_names: String,
    /// The interfaces that it may announce on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<SpeakerInterface>,
    /// Addresses of pools and Services that the node has on other interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_addresses: Vec<InterfaceAddress>,
    /// How many groups of addresses the node owns. Addresses of one dual-stack Service, or of Services that share them, are
    /// one group.
    #[serde(default)]
    pub owned: i64,
    /// How many other speakers are heard, of those that are expected to be.
    #[serde(default)]
    pub peers: String,
    /// The nodes whose speakers are heard.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heard: Vec<String>,
    /// The nodes whose speakers run and are not heard.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_heard: Vec<UnheardPeer>,
    /// By node and then by `namespace/name`: Services that no node announces now, with the epoch of the last claim of the
    /// node that announced them last. Once that is possible again, the Service goes back to that node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(merge_strategy = kube::core::MapMerge::Atomic)]
    pub last_announced: BTreeMap<String, BTreeMap<String, i64>>,
    /// `BeaconsBlocked`, `KernelsAnswer` and `ExcludeLabelIgnored`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// An interface that addresses may be announced on.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SpeakerInterface {
    /// Its name.
    pub name: String,
    /// Its hardware address, six bytes in hexadecimal with colons.
    pub mac: String,
    /// The node's addresses on it, with the length of the prefix: `192.168.33.11/24`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<String>,
    /// `IPv4`, `IPv6`: what can be announced on it.
    #[serde(default)]
    pub families: Vec<String>,
}

/// An address of a node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceAddress {
    /// The address.
    pub address: String,
    /// The interface that has it.
    pub interface: String,
}

/// A speaker that is not heard.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct UnheardPeer {
    /// Its node.
    pub node: String,
    /// How it is known that it runs.
    pub reason: String,
}
