//! Real clusters, with lbstack in them as a user installs it.
//!
//! A test gets an [`Env`] and uses it like a user: `kubectl`, `curl` from the client, address resolution on
//! the client's network. [`Suite`] defines which tests share one. A failure is a panic, after which
//! diagnostic files are collected.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "this crate contains only tests, in which a failure is a panic"
)]

mod audit;
mod client;
pub mod controllers;
mod env;
pub mod faults;
mod install;
mod manifests;
mod objects;
pub mod speakers;
mod suite;
pub mod wait;

pub use audit::Request;
pub use env::{Env, without_ages};
pub use manifests::web_on;
pub use objects::ObjectName;
pub use suite::{Suite, run};

/// The program to run as controller or speaker outside of a cluster: `LBSTACK_TEST_BINARY`, else cargo's
/// debug build.
pub fn binary() -> std::path::PathBuf {
    let given = std::env::var_os("LBSTACK_TEST_BINARY").map(Into::into);
    given.unwrap_or_else(|| testbed::target_directory().join("debug/lbstack"))
}
