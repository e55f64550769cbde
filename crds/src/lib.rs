//! The API of lbstack: its own kind [`LoadBalancerStack`] (group `lbstack.dev`) and the kinds of MetalLB
//! (group `metallb.io`) that it serves unmodified.
//!
//! One file per kind. The YAML in `crds/manifests/` is generated from these types by `cargo xtask generate`.
//! Schemas of the `metallb.io` kinds are never stricter than MetalLB's own: what is stored in a cluster stays
//! valid.
#![allow(
    unreachable_pub,
    dead_code,
    reason = "KubeSchema derives copy each struct into a function, which triggers these lints"
)]
#![allow(
    clippy::duplicated_attributes,
    reason = "it reports two printer columns of the same type as duplicates"
)]

mod address_conflict;
pub mod annotations;
mod bfd_profile;
mod bgp_advertisement;
pub mod bgp_peer;
mod community;
pub mod conditions;
mod configuration_state;
mod configuration_status;
mod ip_address_pool;
mod l2_advertisement;
mod legacy_address_pool;
pub mod names;
mod optional_spec;
mod pool_policy;
mod service_bgp_status;
mod service_key;
mod service_l2_status;
mod speaker_state;
mod stack;
mod string_enum;
mod versions;

pub use address_conflict::{AddressConflict, AddressConflictSpec};
pub use bfd_profile::{BFDProfile, BFDProfileSpec};
pub use bgp_advertisement::{BGPAdvertisement, BGPAdvertisementSpec};
pub use bgp_peer::{BGPPeer, BGPPeerSpec};
pub use community::{Community, CommunityAlias, CommunitySpec};
pub use configuration_state::{
    ConfigurationResult, ConfigurationState, ConfigurationStateSpec, ConfigurationStateStatus,
};
pub use configuration_status::ConfigurationStatus;
pub use ip_address_pool::{IPAddressPool, IPAddressPoolSpec, IPAddressPoolStatus, ServiceAllocation};
pub use k8s_openapi;
pub use kube::core::{ObjectMeta, Resource, ResourceExt, Selector, SelectorExt};
pub use l2_advertisement::{L2Advertisement, L2AdvertisementSpec, PreferredNodeSelector};
pub use legacy_address_pool::{LegacyAddressPool, LegacyAddressPoolSpec, LegacyBgpAdvertisement};
pub use pool_policy::{NamespaceQuota, PoolPolicy, PoolPolicySpec, PoolPolicyStatus, Reservation};
pub use service_bgp_status::{ServiceBGPStatus, ServiceBGPStatusSpec, ServiceBGPStatusStatus};
pub use service_key::ServiceKey;
pub use service_l2_status::{
    AnnouncingInterface, ServiceL2Status, ServiceL2StatusSpec, ServiceL2StatusStatus,
};
pub use speaker_state::{
    InterfaceAddress, SpeakerInterface, SpeakerState, SpeakerStateSpec, SpeakerStateStatus, UnheardPeer,
};
pub use stack::{
    ADMIN_PORT, AddressPool, BeaconSettings, ComponentStatus, ConflictDetection, ControllerSettings,
    ExcludeLabel, ImagePullPolicy, InventoryEntry, Layer2Settings, LegacyConfigMap, LoadBalancerStack,
    LoadBalancerStackSpec, LoadBalancerStackStatus, LogLevel, Placement, PodSettings, SpeakerSettings,
    SpeakerUpdateStrategy, UpdateType,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

use optional_spec::without_required_spec;
use versions::{deprecate, with_older_version, with_version_name};

/// Every CustomResourceDefinition that lbstack installs, in a fixed order.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        LoadBalancerStack::crd(),
        IPAddressPool::crd(),
        without_required_spec(L2Advertisement::crd()),
        without_required_spec(BGPAdvertisement::crd()),
        without_required_spec(with_older_version(
            BGPPeer::crd(),
            bgp_peer::v1beta1::BGPPeer::crd(),
            "metallb.io/v1beta1 BGPPeer is deprecated: use metallb.io/v1beta2",
        )),
        without_required_spec(BFDProfile::crd()),
        without_required_spec(Community::crd()),
        legacy_address_pool_crd(),
        without_required_spec(ServiceL2Status::crd()),
        without_required_spec(ServiceBGPStatus::crd()),
        without_required_spec(ConfigurationState::crd()),
        PoolPolicy::crd(),
        AddressConflict::crd(),
        without_required_spec(SpeakerState::crd()),
    ]
}

/// `AddressPool`, whose two versions have one schema.
fn legacy_address_pool_crd() -> CustomResourceDefinition {
    const WARNING: &str =
        "AddressPool is deprecated: use IPAddressPool and an L2Advertisement or BGPAdvertisement";
    let stored = deprecate(LegacyAddressPool::crd(), WARNING);
    let older = with_version_name(stored.clone(), "v1alpha1");
    with_older_version(stored, older, WARNING)
}

#[cfg(test)]
mod tests;
