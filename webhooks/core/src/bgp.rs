//! Validation of the BGP kinds (`docs/reference/metallb.md` §1.3–1.5, §4.4–4.6). lbstack stores and validates
//! them, but does not speak BGP.
//!
//! An object is rejected only if each of MetalLB's modes rejects it. An unresolved reference is a warning,
//! since the other object may be created later.

mod advertisement;
mod community;
mod peer;

pub use advertisement::BgpAdvertisement;
pub use community::CommunityValue;
pub use peer::{BfdProfile, BgpPeer};

pub(crate) use advertisement::{
    BgpContext, check_bfd_echo_ipv6, check_local_pref_conflict, validate as validate_advertisement,
};
pub(crate) use community::validate as validate_community;
pub(crate) use peer::{validate as validate_peer, validate_bfd_profile, warn_frr_mismatches};
