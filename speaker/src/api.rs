//! The API: watches and their caches, status objects, the snapshot for restarts without an API server.

pub(crate) mod inputs;
pub(crate) mod node_report;
pub(crate) mod snapshot;
pub(crate) mod status;
pub(crate) mod watches;
