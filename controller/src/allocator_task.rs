//! The task that owns the allocator.
//!
//! ```text
//!   stand by ──Lease won──► catch up, list, restore ──► lead ──Lease lost──► stand by
//! ```
//!
//! While it leads, its inputs are changes from the watches and results of writes. The allocator decides, and
//! each Service whose status is not up to date gets one write at a time. An address is free only after a
//! write or the watch confirms that it was removed, see [`ipam::Allocator`].

mod configuration_history;
mod configure;
mod context;
mod effective_policies;
mod emit;
mod service_cache;
mod service_list;
mod services;
mod task;
mod term;
#[cfg(test)]
mod tests;
mod writes;

pub(crate) use context::Context;
pub(crate) use task::AllocatorTask;
