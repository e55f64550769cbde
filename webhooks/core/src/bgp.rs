//! The BGP kinds (`reference/metallb.md` §1.3–1.5, §4.4–4.6): judged, so that a cluster's manifests apply and say what
//! is wrong with them. Nothing here speaks BGP.
//!
//! An object is refused only if each of MetalLB's modes refuses it. What refers to something that does not exist is a
//! warning, since that may come yet.

mod advertisement;
mod community;
mod peer;

pub use advertisement::BgpAdvertisement;
pub use community::CommunityValue;
pub use peer::{BfdProfile, BgpPeer};

pub(crate) use advertisement::{BgpContext, echo_with_ipv6, judge as judge_advertisement, local_pref_clash};
pub(crate) use community::judge as judge_community;
pub(crate) use peer::{judge as judge_peer, judge_bfd_profile, warn_of_differences};
