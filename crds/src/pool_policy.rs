//! `PoolPolicy`: reservations and quotas for an `IPAddressPool`, as a separate kind that leaves MetalLB's
//! schema unchanged.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// Reserved addresses, and limits for namespaces.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "lbstack.dev",
    version = "v1alpha1",
    kind = "PoolPolicy",
    plural = "poolpolicies",
    namespaced,
    status = "PoolPolicyStatus",
    doc = "PoolPolicy reserves addresses of an IPAddressPool and limits addresses per namespace.",
    derive = "PartialEq",
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct PoolPolicySpec {
    /// Name of the `IPAddressPool`, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub pool: String,

    /// Addresses that are assigned only to Services that request them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub reserved: Vec<Reservation>,

    /// Limits for namespaces. The lowest limit that applies to a namespace counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub quotas: Vec<NamespaceQuota>,
}

/// Addresses that are excluded from automatic assignment.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    /// An address, a prefix or a range.
    #[schemars(length(min = 1, max = 128))]
    pub addresses: String,
    /// The purpose of the reservation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub note: Option<String>,
}

/// A limit of addresses per namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceQuota {
    /// Namespaces that it applies to, by label; none means every namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// The maximum number of distinct addresses of the pool for each of them.
    #[schemars(range(min = 0))]
    pub max_addresses: i32,
}

/// Whether the policy is in use.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PoolPolicyStatus {
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
