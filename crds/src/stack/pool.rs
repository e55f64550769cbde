//! Inline pools, and the objects that represent each: an `IPAddressPool`, an `L2Advertisement` and, if there
//! are reservations or quotas, a `PoolPolicy` of the same name.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::default_true;
use crate::{
    IPAddressPool, IPAddressPoolSpec, L2Advertisement, L2AdvertisementSpec, NamespaceQuota, PoolPolicy,
    PoolPolicySpec, Reservation, ServiceAllocation,
};

/// An inline pool.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AddressPool {
    /// Name of the pool and of its advertisement.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// Prefixes (`192.168.10.0/24`) and ranges (`192.168.9.1-192.168.9.5`).
    #[schemars(length(min = 1, max = 1024))]
    pub addresses: Vec<String>,

    /// Whether Services that request neither a pool nor an address may get one from this pool.
    #[serde(default = "default_true")]
    pub auto_assign: bool,

    /// Excludes IPv4 addresses that end in .0 or .255.
    #[serde(default, rename = "avoidBuggyIPs")]
    pub avoid_buggy_ips: bool,

    /// Which Services may get addresses from this pool, and its priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_allocation: Option<ServiceAllocation>,

    /// Addresses that are assigned only to Services that request them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub reserved: Vec<Reservation>,

    /// Limits of addresses per namespace. The lowest limit that applies to a namespace counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub quotas: Vec<NamespaceQuota>,

    /// How the pool is announced on layer 2.
    #[serde(default)]
    pub layer2: Layer2Settings,
}

/// How an inline pool is announced on layer 2.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Layer2Settings {
    /// Whether the pool has an advertisement of its own.
    #[serde(default = "default_true")]
    pub enabled: bool,

    /// Interfaces to announce on, by their exact names; none means every interface.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,

    /// Nodes that may announce, by label; any one selector is enough, none means every node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_selectors: Vec<LabelSelector>,
}

impl Default for Layer2Settings {
    fn default() -> Self {
        Self { enabled: true, interfaces: Vec::new(), node_selectors: Vec::new() }
    }
}

impl AddressPool {
    /// Its `IPAddressPool`.
    pub fn ip_address_pool(&self, metadata: ObjectMeta) -> IPAddressPool {
        IPAddressPool {
            metadata,
            spec: IPAddressPoolSpec {
                addresses: self.addresses.clone(),
                auto_assign: self.auto_assign,
                avoid_buggy_ips: self.avoid_buggy_ips,
                service_allocation: self.service_allocation.clone(),
            },
            status: None,
        }
    }

    /// Its advertisement; none if layer 2 is disabled.
    pub fn l2_advertisement(&self, metadata: ObjectMeta) -> Option<L2Advertisement> {
        let non_empty = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        let selectors = &self.layer2.node_selectors;
        self.layer2.enabled.then(|| L2Advertisement {
            metadata,
            spec: L2AdvertisementSpec {
                ip_address_pools: Some(vec![self.name.clone()]),
                node_selectors: (!selectors.is_empty()).then(|| selectors.clone()),
                interfaces: non_empty(&self.layer2.interfaces),
                ..L2AdvertisementSpec::default()
            },
            status: None,
        })
    }

    /// Its policy; none without reservations and quotas.
    pub fn pool_policy(&self, metadata: ObjectMeta) -> Option<PoolPolicy> {
        let spec = PoolPolicySpec {
            pool: self.name.clone(),
            reserved: self.reserved.clone(),
            quotas: self.quotas.clone(),
        };
        let is_needed = !spec.reserved.is_empty() || !spec.quotas.is_empty();
        is_needed.then_some(PoolPolicy { metadata, spec, status: None })
    }
}
