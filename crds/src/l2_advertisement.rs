//! `L2Advertisement`, MetalLB's schema (`docs/reference/metallb.md` §1.2).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::configuration_status::ConfigurationStatus;
use crate::optional_spec::optional_spec;

/// Which pools are announced on layer 2, from which nodes and interfaces.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "L2Advertisement",
    plural = "l2advertisements",
    namespaced,
    status = "ConfigurationStatus",
    doc = "L2Advertisement announces the addresses of pools on layer 2 (ARP, NDP).",
    derive = "PartialEq",
    printcolumn(name = "IPAddressPools", type_ = "string", json_path = ".spec.ipAddressPools"),
    printcolumn(
        name = "IPAddressPool Selectors",
        type_ = "string",
        json_path = ".spec.ipAddressPoolSelectors"
    ),
    printcolumn(name = "Interfaces", type_ = "string", json_path = ".spec.interfaces"),
    printcolumn(name = "Node Selectors", type_ = "string", json_path = ".spec.nodeSelectors", priority = 10)
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct L2AdvertisementSpec {
    /// Pools to announce, by name. With no name and no selector, every pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address_pools: Option<Vec<String>>,

    /// Pools to announce, by label; added to those by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address_pool_selectors: Option<Vec<LabelSelector>>,

    /// Nodes that may announce, by label; any one selector is enough, none means every node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selectors: Option<Vec<LabelSelector>>,

    /// Interfaces to announce on, by their exact names; none means every interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interfaces: Option<Vec<String>>,

    /// Services to announce, by label; any one selector is enough, none means every Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_selectors: Option<Vec<LabelSelector>>,

    /// Nodes to prefer among those that may announce, each with a weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_node_selectors: Option<Vec<PreferredNodeSelector>>,
}

optional_spec!(L2AdvertisementSpec, "L2AdvertisementSpec");

/// A preference for nodes, with its weight.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct PreferredNodeSelector {
    /// How much a matching node gains.
    #[schemars(range(min = 1, max = 100))]
    pub weight: i32,
    /// Which nodes gain it.
    pub preference: LabelSelector,
}
