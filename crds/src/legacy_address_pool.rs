//! `AddressPool` of MetalLB v0.11 to v0.13 (`docs/reference/metallb.md` §1), which MetalLB removed later.
//!
//! The operator converts each to an `IPAddressPool` and its advertisements. Both versions have the same JSON.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::configuration_status::ConfigurationStatus;

/// A pool, and how it is announced.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "AddressPool",
    root = "LegacyAddressPool",
    plural = "addresspools",
    namespaced,
    status = "ConfigurationStatus",
    doc = "AddressPool is the pool of MetalLB v0.11 to v0.13. Use IPAddressPool and an advertisement instead.",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct LegacyAddressPoolSpec {
    /// `layer2` or `bgp`.
    pub protocol: String,

    /// Prefixes and ranges, as in an `IPAddressPool`.
    pub addresses: Vec<String>,

    /// Whether Services that request neither a pool nor an address may get one from this pool.
    #[serde(default = "yes", skip_serializing_if = "Option::is_none")]
    pub auto_assign: Option<bool>,

    /// How a pool of protocol `bgp` is announced; one with defaults if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp_advertisements: Option<Vec<LegacyBgpAdvertisement>>,
}

/// How a pool is announced to BGP peers.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LegacyBgpAdvertisement {
    /// IPv4 addresses are announced as prefixes of this length.
    #[serde(default = "whole_v4", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub aggregation_length: Option<i32>,

    /// IPv6 addresses are announced as prefixes of this length.
    #[serde(default = "whole_v6", skip_serializing_if = "Option::is_none")]
    pub aggregation_length_v6: Option<i32>,

    /// The LOCAL_PREF attribute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<i64>,

    /// Communities, as literals or by their alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub communities: Option<Vec<String>>,
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
const fn yes() -> Option<bool> {
    Some(true)
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
const fn whole_v4() -> Option<i32> {
    Some(32)
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
const fn whole_v6() -> Option<i32> {
    Some(128)
}
