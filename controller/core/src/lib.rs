//! Address management, pure: which Service gets which addresses.
//!
//! The [`Allocator`] is owned by one task. Its inputs are the configuration, the Services and what the API
//! stores for them; its output is an [`Assignment`] for each Service. Time is an argument; nothing here reads
//! a clock or waits.

mod address_claims;
mod allocator;
mod free_list;
mod occupant;
mod plan;
mod pool_state;
mod refusal;
mod request;
mod shared_addresses;
mod text;
mod wait_queue;

pub use address_claims::SharingConflict;
pub use allocator::{Allocator, Assignment, ExistingService, GRACE, PoolUsage};
pub use occupant::Occupant;
pub use plan::{Cluster, Effect, EffectKind, plan};
pub use refusal::{LostReason, PoolReason, Refusal, RefusalReason};
pub use request::{
    Age, Families, Protocol, ProtocolPort, Request, RequestError, Sharing, SharingKey, Wanted,
};
