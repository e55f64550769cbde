//! Renders a `LoadBalancerStack` into the objects of the stack. Pure: no cluster, no clock, no random
//! numbers.
//!
//! The modules are the steps of the operator's reconciliation that need no cluster.
//! [`validate`](mod@validate) turns the resource into a [`ValidatedStack`], or returns the errors of its
//! spec. [`build`](mod@build) builds every object of a validated stack and cannot fail. [`drift`] compares an
//! object in the cluster with the built one, and determines who owns it. [`status`] computes the conditions
//! of the stack. [`rbac`] is the single table of permissions, and [`install`] the operator's own manifest.

mod build;
pub mod drift;
mod finding;
mod meta;
mod object;
mod quantity;
pub mod rbac;
mod stack;
pub mod status;
mod validate;

pub use build::namespace::POD_SECURITY;
pub use build::{build, install};
pub use drift::{crd, ownership, retention};
pub use finding::SpecFinding;
pub use object::{Extent, Key, Kind, Manifests, Object, selector};
pub use stack::{BeaconKey, ValidatedStack};
pub use validate::{RenderInputs, legacy, validate};

#[cfg(test)]
mod tests;
