//! `Community`, MetalLB's schema (`docs/reference/metallb.md` §1.5): names for BGP communities.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::configuration_status::ConfigurationStatus;
use crate::optional_spec::optional_spec;

/// Names for BGP communities.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "Community",
    plural = "communities",
    namespaced,
    status = "ConfigurationStatus",
    doc = "Community gives names to BGP communities.",
    derive = "PartialEq"
)]
#[serde(remote = "Self")]
pub struct CommunitySpec {
    /// The names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub communities: Option<Vec<CommunityAlias>>,
}

optional_spec!(CommunitySpec, "CommunitySpec");

/// A name for a BGP community.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct CommunityAlias {
    /// The name, unique over all objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The community: two numbers up to 65535 with a colon between, or `large:` and three numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}
