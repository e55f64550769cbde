//! Real clusters, with lbstack in them as a user installs it.
//!
//! A test gets a [`Bed`] and uses it like a person at a keyboard: `kubectl`, `curl` from the client, an eye on the
//! wire. [`Suite`] says which tests share one. What goes wrong is a panic, and then everything that could tell
//! why is collected.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "all of this is tests: what is not as expected is a panic"
)]

mod audit;
mod bed;
pub mod controllers;
mod install;
mod manifests;
mod objects;
pub mod speakers;
mod suite;
pub mod wait;

pub use audit::Request;
pub use bed::{Bed, without_ages};
pub use objects::ObjectName;
pub use suite::{Suite, run};
