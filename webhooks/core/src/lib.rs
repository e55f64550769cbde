//! Validation of the configuration: from API objects to a typed [`Configuration`] and [`Finding`]s.
//!
//! All components use [`Configuration::from_objects`]: the webhook to respond, the controller to allocate and
//! to write conditions, the speaker to announce, the operator for its inline pools. So admission and
//! reconciliation cannot disagree. An invalid object is rejected, with findings on it; all others stay in
//! use, and a component that keeps a [`LastValid`] continues to use the last valid version of the rejected
//! object. Nothing is rejected that MetalLB accepts; an object that is valid but suspicious, or has only one
//! possible interpretation, gets a warning.

mod advertisement;
mod bgp;
mod check;
mod configuration;
mod duration;
mod finding;
mod kinds;
mod last_valid;
pub mod legacy;
mod objects;
mod policy;
mod pool;
mod precedence;
mod range;
mod references;
mod selectors;

pub use advertisement::{L2Advertisement, PartialL2Advertisement, PoolSelection, PreferredNodes};
pub use bgp::{BfdProfile, BgpAdvertisement, BgpPeer, CommunityValue};
pub use check::check;
pub use configuration::Configuration;
pub use finding::{Finding, ObjectRef, Severity};
pub use last_valid::LastValid;
pub use objects::{CONFIG_KINDS, ConfigKind, Objects};
pub use pool::{Allocation, Pool, Quota, without_usage};
pub use range::{AddressError, Family, IpRange, bits, parse_addresses};
