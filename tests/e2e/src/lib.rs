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
mod client;
pub mod controllers;
pub mod faults;
mod install;
mod manifests;
mod objects;
pub mod speakers;
mod suite;
pub mod wait;

pub use audit::Request;
pub use bed::{Bed, without_ages};
pub use manifests::web_on;
pub use objects::ObjectName;
pub use suite::{Suite, run};

/// The program to run as controller or speaker outside of a cluster: `LBSTACK_TEST_BINARY`, else cargo's debug build.
pub fn binary() -> std::path::PathBuf {
    let given = std::env::var_os("LBSTACK_TEST_BINARY").map(Into::into);
    given.unwrap_or_else(|| testbed::target_directory().join("debug/lbstack"))
}
