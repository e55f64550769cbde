//! The one judge of configuration: from the objects of the API to a typed [`Configuration`] and [`Finding`]s.
//!
//! Everybody judges by [`Configuration::from_objects`]: the webhook to answer, the controller to allocate and to
//! write conditions, the speaker to announce, the operator for its inline pools. So admission and reconciliation
//! cannot disagree. One bad object is left out, with findings on it; everything else goes on, and whoever keeps a
//! [`LastValid`] goes on with the last valid version of that object. Nothing is refused that MetalLB accepts; what is
//! merely doubtful, and what has only one possible interpretation, is a warning.

mod advertisement;
mod bgp;
mod check;
mod configuration;
mod duration;
mod finding;
mod last_valid;
pub mod legacy;
mod objects;
mod policy;
mod pool;
mod range;
mod references;
mod selectors;

pub use advertisement::{L2Advertisement, PartialL2Advertisement, PoolSelection, PreferredNodes};
pub use bgp::{BfdProfile, BgpAdvertisement, BgpPeer, CommunityValue};
pub use check::check;
pub use configuration::Configuration;
pub use finding::{Finding, ObjectRef, Severity};
pub use last_valid::LastValid;
pub use objects::Objects;
pub use pool::{Allocation, Pool, Quota, without_usage};
pub use range::{AddressFault, Family, IpRange, bits, parse_addresses};
