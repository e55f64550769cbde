//! What outlives a term.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::Client;
use runtime::admin::Gate;
use runtime::events::Events;
use runtime::heartbeat::Heartbeat;
use runtime::lease::Leadership;

use super::configuration_history::ConfigurationHistory;
use crate::metrics::Metrics;
use crate::watches::Watches;

/// What the allocator task needs, over all terms.
pub(crate) struct Context {
    pub(crate) client: Client,
    /// The class of the Services that it serves; empty: Services without a class.
    pub(crate) class: String,
    pub(crate) watches: Watches,
    pub(crate) leadership: Leadership,
    pub(crate) events: Events,
    pub(crate) metrics: Metrics,
    /// Opened once this replica is standby, or leads and has restored the existing Services.
    pub(crate) ready: Gate,
    /// Timeout of a write.
    pub(crate) write_timeout: Duration,
    /// Interval at which the warning of a waiting Service is repeated.
    pub(crate) repeat_interval: Duration,
    /// Signals progress.
    pub(crate) heartbeat: Heartbeat,
    /// Earlier versions of the configuration.
    pub(crate) history: Mutex<ConfigurationHistory>,
}

impl Context {
    pub(super) fn history(&self) -> MutexGuard<'_, ConfigurationHistory> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
