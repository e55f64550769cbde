//! `ConfigurationState`, MetalLB's schema (`docs/reference/metallb.md` §1.6): whether a process could use the
//! configuration.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::optional_spec::optional_spec;

/// Empty: the kind has only a status.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "ConfigurationState",
    plural = "configurationstates",
    namespaced,
    status = "ConfigurationStateStatus",
    doc = "ConfigurationState shows whether a process could use the configuration.",
    derive = "PartialEq",
    printcolumn(name = "Result", type_ = "string", json_path = ".status.result"),
    printcolumn(name = "ErrorSummary", type_ = "string", json_path = ".status.errorSummary"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(remote = "Self")]
pub struct ConfigurationStateSpec {}

optional_spec!(ConfigurationStateSpec, "ConfigurationStateSpec");

/// Whether the configuration could be used.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStateStatus {
    /// The result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ConfigurationResult>,
    /// All errors, one per line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_summary: Option<String>,
    /// `poolReconcilerValid` by the controller, `configReconcilerValid` by a speaker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Whether the configuration could be used. A value of a newer version is deserialized as `Unknown`.
#[derive(JsonSchema, Serialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigurationResult {
    /// All objects are valid.
    Valid,
    /// An object is rejected.
    Invalid,
    /// Not validated yet.
    Unknown,
}

impl<'de> Deserialize<'de> for ConfigurationResult {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match String::deserialize(deserializer)?.as_str() {
            "Valid" => Self::Valid,
            "Invalid" => Self::Invalid,
            _ => Self::Unknown,
        })
    }
}
