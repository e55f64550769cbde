//! What operator, controller and speaker share: arguments, telemetry, the admin endpoint, shutdown, tasks, the
//! API client, watches, heartbeats, leader election and events.
//!
//! A process is put together like this: parse [`args::Common`], [`telemetry::init`], [`client::connect`], make
//! its [`admin::Readiness`], spawn everything into [`tasks::Tasks`], and wait: the first task that ends, ends the
//! process with that task's reason.

pub mod admin;
pub mod args;
pub mod client;
pub mod events;
pub mod extract;
pub mod heartbeat;
pub mod lease;
pub mod memory;
pub mod reflect;
pub mod shutdown;
pub mod tasks;
pub mod telemetry;
