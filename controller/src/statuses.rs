//! Statuses of configuration objects: statistics of the pools, findings on each object, and our
//! `ConfigurationState`.
//!
//! Computed from the present objects; a status that is up to date is not written. A valid object without a
//! condition of ours gets none, so that taking over a cluster from MetalLB writes very little.

mod build;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use build::{STATE_NAME, StatusSources, StatusWrite};
pub(crate) use writer::{Contested, StatusWriter};
