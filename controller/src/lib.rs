//! The controller: gives Services of type LoadBalancer their addresses.
//!
//! ```text
//!  watches ──► stores ──► work queue ──► allocator task ──► ipam::Allocator (pure)
//!                                              │
//!                                              ├──► Service statuses (concurrent, with resourceVersion)
//!                                              ├──► statuses of pools and of the configuration
//!                                              ├──► events, after the write that they report
//!                                              └──► metrics
//! ```
//!
//! One task owns the allocator. Every replica runs the watches. The one that holds the Lease waits until its
//! stores have caught up with the API, lists all Services, restores their current addresses, and only then
//! assigns new ones. A replica campaigns for the Lease once it could do that, and releases it if it makes no
//! progress.

mod allocator_task;
mod api;
mod config_stores;
mod conflict;
mod contention;
#[cfg(test)]
mod fixtures;
mod list;
mod log;
mod metrics;
mod other_writer;
pub mod plan;
mod pool_stats;
pub mod reasons;
mod run;
mod service;
mod statuses;
mod watches;
mod work_queue;

pub use run::{Args, run};
