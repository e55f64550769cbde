//! What operator, controller and speaker share: arguments, telemetry, the admin endpoint, shutdown, tasks,
//! the API client, watches, heartbeats, leader election and events.
//!
//! A process parses [`args::Common`], calls [`telemetry::init`] and [`client::connect`], makes its
//! [`admin::Readiness`], spawns everything into [`tasks::Tasks`], and waits: when a task ends, the process
//! ends with its result.

pub mod admin;
pub mod args;
pub mod bind;
pub mod cache;
pub mod client;
pub mod decode;
pub mod events;
pub mod heartbeat;
pub mod lease;
pub mod memory;
pub mod reflect;
pub mod shutdown;
pub mod tasks;
pub mod telemetry;
pub mod watch_status;
