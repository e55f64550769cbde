//! `LoadBalancerStack`: the one resource that a user applies.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration, TopologySpreadConstraint};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::DEFAULT_NAMESPACE;

mod pool;
mod speaker;
mod status;

pub use pool::{AddressPool, Layer2Settings};
pub use speaker::{
    ADMIN_PORT, BeaconSettings, ConflictDetection, ExcludeLabel, Placement, SpeakerSettings,
    SpeakerUpdateStrategy, UpdateType,
};
pub use status::{ComponentStatus, InventoryEntry, LoadBalancerStackStatus};

/// The desired state of the stack.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "lbstack.dev",
    version = "v1alpha1",
    kind = "LoadBalancerStack",
    plural = "loadbalancerstacks",
    shortname = "lbs",
    category = "all",
    status = "LoadBalancerStackStatus",
    doc = "LoadBalancerStack is the load balancer of a cluster: controller, speakers and address pools.",
    derive = "PartialEq",
    validation = kube::core::Rule::new("self.metadata.name == 'default'")
        .message("a cluster has one LoadBalancerStack, and its name is default: set metadata.name to default"),
    printcolumn(
        name = "Available",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Available')].status"
    ),
    printcolumn(
        name = "Degraded",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Degraded')].status"
    ),
    printcolumn(name = "Speakers", type_ = "string", json_path = ".status.speakers"),
    printcolumn(name = "Controller", type_ = "string", json_path = ".status.controller"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Available')].message",
        priority = 10
    ),
    printcolumn(
        name = "Problem",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Degraded')].message",
        priority = 10
    )
)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerStackSpec {
    /// The namespace of the stack. Created, with the pod-security labels that speakers need, if it does not
    /// exist.
    #[serde(default = "default_namespace")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    #[x_kube(validation = kube::core::Rule::new("self == oldSelf")
        .message("namespace cannot change: delete the LoadBalancerStack and create it again"))]
    pub namespace: String,

    /// Pools of addresses. For each the operator manages an `IPAddressPool` and an `L2Advertisement` of the
    /// same name in the stack's namespace, beside those of users.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    pub address_pools: Vec<AddressPool>,

    /// The configuration of MetalLB v0.8 to v0.12, if there is one in the stack's namespace: imported, kept
    /// up to date, and removed with it. An imported object that a user applies or edits belongs to that user
    /// from then on.
    #[serde(default)]
    pub legacy_config_map: LegacyConfigMap,

    /// Image of controller and speaker. The operator's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// When nodes pull the image; Kubernetes' default if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,

    /// The class of the Services to serve. Empty: Services without a class.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 317))]
    pub load_balancer_class: String,

    /// Log level of controller and speaker.
    #[serde(default)]
    pub log_level: LogLevel,

    /// The pods that assign addresses to Services.
    #[serde(default)]
    pub controller: ControllerSettings,

    /// The pods that announce the addresses, one on each node.
    #[serde(default)]
    pub speaker: SpeakerSettings,
}

impl Default for LoadBalancerStackSpec {
    fn default() -> Self {
        Self {
            namespace: default_namespace(),
            address_pools: Vec::new(),
            legacy_config_map: LegacyConfigMap::default(),
            image: None,
            image_pull_policy: None,
            load_balancer_class: String::new(),
            log_level: LogLevel::default(),
            controller: ControllerSettings::default(),
            speaker: SpeakerSettings::default(),
        }
    }
}

/// The location of the configuration of MetalLB v0.8 to v0.12.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LegacyConfigMap {
    /// Name of the ConfigMap.
    #[serde(default = "config")]
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its entry that contains the configuration.
    #[serde(default = "config")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

impl Default for LegacyConfigMap {
    fn default() -> Self {
        Self { name: config(), key: config() }
    }
}

/// Settings of the controller's pods.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ControllerSettings {
    /// Number of pods; one leads, the others stand by.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 16))]
    pub replicas: i32,

    /// Where and how they run.
    #[serde(flatten)]
    pub pod: PodSettings,
}

impl Default for ControllerSettings {
    fn default() -> Self {
        Self { replicas: default_replicas(), pod: PodSettings::default() }
    }
}

macro_rules! impl_as_str {
    ($($type:ident: $($variant:ident),+;)*) => {
        $(impl $type {
            /// The name in the API and in arguments of the processes.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)+
                }
            }
        })*
    };
}

impl_as_str! {
    UpdateType: RollingUpdate, OnDelete;
    ExcludeLabel: Auto, Honour, Ignore;
    Placement: Balanced, Hash;
    ConflictDetection: Enforce, Warn, Off;
    ImagePullPolicy: Always, IfNotPresent, Never;
}

/// Where and how pods run: fields of a pod as Kubernetes defines them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PodSettings {
    /// Requests and limits of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Nodes to run on, by label, in addition to `kubernetes.io/os: linux`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints to tolerate, in addition to those that the stack tolerates by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Replaces the default affinity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How pods are spread over zones and nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Replaces the default priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Additional annotations of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Additional labels of the pods; labels of the stack cannot be changed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// When a node pulls an image.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagePullPolicy {
    /// At each start of a container.
    Always,
    /// When the node has no copy.
    IfNotPresent,
    /// Never.
    Never,
}

/// The log level of a process.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Failures that need attention.
    Error,
    /// Also problems that may need attention.
    Warn,
    /// Also changes of state.
    #[default]
    Info,
    /// Also decisions.
    Debug,
    /// Also packets.
    Trace,
}

impl LogLevel {
    /// The value of `--log-level`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

fn default_namespace() -> String {
    DEFAULT_NAMESPACE.to_owned()
}

/// MetalLB's name of both the ConfigMap and its entry.
fn config() -> String {
    "config".to_owned()
}

const fn default_true() -> bool {
    true
}

const fn default_replicas() -> i32 {
    2
}
