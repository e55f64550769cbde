//! Address management, pure: which Service gets which addresses.
//!
//! The [`Allocator`] has one owner. It is told of configuration, of Services and of what the API stores for them,
//! and says what they shall have. Time is an argument; nothing here reads a clock or waits.

mod allocator;
mod plan;
mod pool_state;
mod refusal;
mod request;
mod shared;
mod space;
mod usage;
mod waiting;

pub use allocator::{Adoptee, Allocator, GRACE, Occupant, Outcome, PoolUsage};
pub use plan::{Cluster, Effect, EffectKind, plan};
pub use refusal::{LostReason, PoolReason, Refusal};
pub use request::{Age, Families, Port, Protocol, Request, RequestFault, Sharing, SharingPair, Wanted};
pub use usage::NoSharing;
