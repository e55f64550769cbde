//! `BGPPeer`, MetalLB's schemas (`docs/reference/metallb.md` §1.4). Stored and validated; lbstack does not
//! speak BGP.
//!
//! `v1beta2` is stored. `v1beta1` is a subset of it with the same JSON, so the API server converts by
//! changing the version alone.

use std::fmt;

use k8s_openapi::api::core::v1::SecretReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::configuration_status::ConfigurationStatus;
use crate::optional_spec::optional_spec;

/// A BGP session's password. Its Debug output does not contain it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Default, PartialEq, Eq)]
#[serde(transparent)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A router to speak BGP with.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "metallb.io",
    version = "v1beta2",
    kind = "BGPPeer",
    plural = "bgppeers",
    namespaced,
    status = "ConfigurationStatus",
    doc = "BGPPeer is a router to speak BGP with.",
    derive = "PartialEq",
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.peerAddress"),
    printcolumn(name = "ASN", type_ = "string", json_path = ".spec.peerASN"),
    printcolumn(name = "BFD Profile", type_ = "string", json_path = ".spec.bfdProfile"),
    printcolumn(name = "Multi Hops", type_ = "string", json_path = ".spec.ebgpMultiHop")
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct BGPPeerSpec {
    /// Our AS number.
    #[serde(rename = "myASN")]
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub my_asn: i64,

    /// The peer's AS number; this or `dynamicASN`.
    #[serde(rename = "peerASN", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub peer_asn: Option<i64>,

    /// `internal` or `external`: accept any AS number of that kind.
    #[serde(rename = "dynamicASN", default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DynamicAsn>")]
    pub dynamic_asn: Option<String>,

    /// The local AS number in sessions with this peer.
    #[serde(rename = "localASN", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_i64))]
    pub local_asn: Option<i64>,

    /// The peer's address; this or `interface`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_address: Option<String>,

    /// The interface of an unnumbered session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,

    /// The source address of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_address: Option<String>,

    /// The peer's port.
    #[serde(default = "bgp_port", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_384))]
    pub peer_port: Option<i32>,

    /// The hold time of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_time: Option<String>,

    /// The interval of keepalive messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive_time: Option<String>,

    /// The interval of connection attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = kube::core::Rule::new("duration(self).getSeconds() >= 1 && duration(self).getSeconds() <= 65535")
            .message("connect time should be between 1 seconds to 65535"),
        validation = kube::core::Rule::new("duration(self).getMilliseconds() % 1000 == 0")
            .message("connect time should contain a whole number of seconds")
    )]
    pub connect_time: Option<String>,

    /// Our router ID.
    #[serde(rename = "routerID", default, skip_serializing_if = "Option::is_none")]
    pub router_id: Option<String>,

    /// Nodes that connect to the peer, by label; any one selector is enough, none means every node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selectors: Option<Vec<LabelSelector>>,

    /// The session's password; this or `passwordSecret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Password>,

    /// A Secret of type `kubernetes.io/basic-auth` with the session's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<SecretReference>,

    /// The BFD profile of the session, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd_profile: Option<String>,

    /// Whether graceful restart is enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = kube::core::Rule::new("self == oldSelf").message("EnableGracefulRestart cannot be changed after creation"))]
    pub enable_graceful_restart: Option<bool>,

    /// Whether the peer is more than one hop away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ebgp_multi_hop: Option<bool>,

    /// The VRF of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vrf: Option<String>,

    /// Deprecated, without effect.
    #[serde(rename = "disableMP", default = "no", skip_serializing_if = "Option::is_none")]
    pub disable_mp: Option<bool>,

    /// Whether one session carries both address families.
    #[serde(default = "no", skip_serializing_if = "Option::is_none")]
    pub dual_stack_address_family: Option<bool>,
}

optional_spec!(BGPPeerSpec, "BGPPeerSpec");

/// Which AS numbers a peer with `dynamicASN` may have.
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DynamicAsn {
    /// Our own.
    Internal,
    /// Any other.
    External,
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
const fn bgp_port() -> Option<i32> {
    Some(179)
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
const fn no() -> Option<bool> {
    Some(false)
}

/// The older version.
pub mod v1beta1 {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
    use kube::{CustomResource, KubeSchema};
    use serde::{Deserialize, Serialize};

    use super::{Password, bgp_port};
    use crate::configuration_status::ConfigurationStatus;
    use crate::optional_spec::optional_spec;

    /// A router to speak BGP with, as of MetalLB before 0.13.
    #[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
    #[kube(
        group = "metallb.io",
        version = "v1beta1",
        kind = "BGPPeer",
        plural = "bgppeers",
        namespaced,
        status = "ConfigurationStatus",
        doc = "BGPPeer is a router to speak BGP with.",
        derive = "PartialEq",
        printcolumn(name = "Address", type_ = "string", json_path = ".spec.peerAddress"),
        printcolumn(name = "ASN", type_ = "string", json_path = ".spec.peerASN"),
        printcolumn(name = "BFD Profile", type_ = "string", json_path = ".spec.bfdProfile"),
        printcolumn(name = "Multi Hops", type_ = "string", json_path = ".spec.ebgpMultiHop")
    )]
    #[serde(rename_all = "camelCase", remote = "Self")]
    pub struct BGPPeerSpec {
        /// Our AS number.
        #[serde(rename = "myASN")]
        #[schemars(range(min = 0, max = 4_294_967_295_i64))]
        pub my_asn: i64,

        /// The peer's AS number.
        #[serde(rename = "peerASN")]
        #[schemars(range(min = 0, max = 4_294_967_295_i64))]
        pub peer_asn: i64,

        /// The peer's address.
        pub peer_address: String,

        /// The source address of the session.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub source_address: Option<String>,

        /// The peer's port.
        #[serde(default = "bgp_port", skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 0, max = 16_384))]
        pub peer_port: Option<i32>,

        /// The hold time of the session.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub hold_time: Option<String>,

        /// The interval of keepalive messages.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub keepalive_time: Option<String>,

        /// Our router ID.
        #[serde(rename = "routerID", default, skip_serializing_if = "Option::is_none")]
        pub router_id: Option<String>,

        /// Nodes that connect to the peer, by label; any one selector is enough, none means every node.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub node_selectors: Option<Vec<LabelSelector>>,

        /// The session's password.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub password: Option<Password>,

        /// The BFD profile of the session, by name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub bfd_profile: Option<String>,

        /// Whether the peer is more than one hop away.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub ebgp_multi_hop: Option<bool>,
    }

    optional_spec!(BGPPeerSpec, "BGPPeerSpec");
}
