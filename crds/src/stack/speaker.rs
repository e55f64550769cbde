//! Settings of the speakers.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PodSettings;

/// Settings of the speaker's pods.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SpeakerSettings {
    /// How speakers are replaced when their pod template changes.
    #[serde(default)]
    pub update_strategy: SpeakerUpdateStrategy,

    /// Interfaces on which nothing is announced: regular expressions for their names. The default is
    /// MetalLB's list, with the interfaces of container runtimes and network plugins.
    #[serde(default = "excluded_interfaces")]
    #[schemars(length(max = 64), inner(length(max = 256)))]
    pub exclude_interfaces: Vec<String>,

    /// What the label `node.kubernetes.io/exclude-from-external-load-balancers` on a node means.
    #[serde(default)]
    pub exclude_label: ExcludeLabel,

    /// How speakers detect that another speaker has failed.
    #[serde(default)]
    pub beacon: BeaconSettings,

    /// TCP port of health and metrics on every node. Choose another one if another process on a node uses it.
    #[serde(default = "admin_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub admin_port: i32,

    /// How addresses are spread over nodes.
    #[serde(default)]
    pub placement: Placement,

    /// What to do when a foreign host uses an address of the stack.
    #[serde(default)]
    pub conflict_detection: ConflictDetection,

    /// Where and how they run.
    #[serde(flatten)]
    pub pod: PodSettings,
}

impl Default for SpeakerSettings {
    fn default() -> Self {
        Self {
            update_strategy: SpeakerUpdateStrategy::default(),
            exclude_interfaces: excluded_interfaces(),
            exclude_label: ExcludeLabel::default(),
            beacon: BeaconSettings::default(),
            admin_port: ADMIN_PORT,
            placement: Placement::default(),
            conflict_detection: ConflictDetection::default(),
            pod: PodSettings::default(),
        }
    }
}

/// How speakers are replaced. There are never two on one node: the old one hands its addresses over first.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SpeakerUpdateStrategy {
    /// Automatically, or when their pods are deleted.
    #[serde(default, rename = "type")]
    pub type_: UpdateType,
    /// How many may be unavailable at a time, as a number or a percentage of the nodes. 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,
}

/// When a pod is replaced by one of a newer template.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpdateType {
    /// Automatically, one after the other.
    #[default]
    RollingUpdate,
    /// When the old one is deleted.
    OnDelete,
}

/// What the label that excludes a node from load balancing means.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExcludeLabel {
    /// Honoured, unless every node has it, as on a cluster of one node.
    #[default]
    Auto,
    /// A node with it announces nothing.
    Honour,
    /// It is ignored.
    Ignore,
}

/// How speakers detect that another speaker has failed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BeaconSettings {
    /// UDP port on every node. Choose another one if another process on a node uses it.
    #[serde(default = "beacon_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// Interval of beacons in milliseconds.
    #[serde(default = "beacon_interval")]
    #[schemars(range(min = 20, max = 1000))]
    pub interval_ms: i32,
    /// After this number of intervals without a beacon a speaker is considered failed.
    #[serde(default = "beacon_misses")]
    #[schemars(range(min = 2, max = 20))]
    pub misses: i32,
}

impl Default for BeaconSettings {
    fn default() -> Self {
        Self { port: beacon_port(), interval_ms: beacon_interval(), misses: beacon_misses() }
    }
}

/// How addresses are spread over nodes.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// No node gets more than its share while others have less; a node keeps its addresses.
    #[default]
    Balanced,
    /// MetalLB's hash: a node that returns takes its addresses back.
    Hash,
}

/// What to do when a foreign host uses an address of the stack.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConflictDetection {
    /// The address is not announced, or defended if it is announced already; the conflict is reported.
    #[default]
    Enforce,
    /// The address is announced nevertheless; the conflict is reported.
    Warn,
    /// Conflicts are not detected.
    Off,
}

/// The default port of health and metrics: MetalLB's metrics port.
pub const ADMIN_PORT: i32 = 7472;

const fn admin_port() -> i32 {
    ADMIN_PORT
}

const fn beacon_port() -> i32 {
    7946
}

const fn beacon_interval() -> i32 {
    100
}

const fn beacon_misses() -> i32 {
    3
}

/// MetalLB's default list (`docs/reference/metallb.md` §7.3).
fn excluded_interfaces() -> Vec<String> {
    const PATTERNS: [&str; 14] = [
        "^docker.*",
        "^cbr.*",
        "^dummy.*",
        "^virbr.*",
        "^lxcbr.*",
        "^veth.*",
        "^lo$",
        "^cali.*",
        "^tunl.*",
        "^flannel.*",
        "^kube-ipvs.*",
        "^cni.*",
        "^nodelocaldns.*",
        "^lxc.*",
    ];
    PATTERNS.map(str::to_owned).into()
}
