//! `BGPAdvertisement`, MetalLB's schema (`docs/reference/metallb.md` §1.3). Stored and validated; lbstack
//! does not speak BGP.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::configuration_status::ConfigurationStatus;
use crate::optional_spec::optional_spec;

/// Which pools are announced to which BGP peers, and how.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "BGPAdvertisement",
    plural = "bgpadvertisements",
    namespaced,
    status = "ConfigurationStatus",
    doc = "BGPAdvertisement announces the addresses of pools to BGP peers.",
    derive = "PartialEq",
    validation = kube::core::Rule::new(
        "!has(self.spec) || !has(self.spec.serviceSelectors) || size(self.spec.serviceSelectors) == 0 || ((!has(self.spec.aggregationLength) || self.spec.aggregationLength == 32) && (!has(self.spec.aggregationLengthV6) || self.spec.aggregationLengthV6 == 128))"
    )
    .message("serviceSelectors need aggregationLength 32 and aggregationLengthV6 128, or none of the two"),
    printcolumn(name = "IPAddressPools", type_ = "string", json_path = ".spec.ipAddressPools"),
    printcolumn(
        name = "IPAddressPool Selectors",
        type_ = "string",
        json_path = ".spec.ipAddressPoolSelectors"
    ),
    printcolumn(name = "Peers", type_ = "string", json_path = ".spec.peers"),
    printcolumn(name = "Node Selectors", type_ = "string", json_path = ".spec.nodeSelectors", priority = 10)
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct BGPAdvertisementSpec {
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

    /// Pools to announce, by name. With no name and no selector, every pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address_pools: Option<Vec<String>>,

    /// Pools to announce, by label; added to those by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address_pool_selectors: Option<Vec<LabelSelector>>,

    /// Nodes that may announce, by label; any one selector is enough, none means every node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selectors: Option<Vec<LabelSelector>>,

    /// Services to announce, by label; any one selector is enough, none means every Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_selectors: Option<Vec<LabelSelector>>,

    /// Peers to announce to, by name; none means every peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<String>>,
}

optional_spec!(BGPAdvertisementSpec, "BGPAdvertisementSpec");

#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
const fn whole_v4() -> Option<i32> {
    Some(32)
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
const fn whole_v6() -> Option<i32> {
    Some(128)
}
