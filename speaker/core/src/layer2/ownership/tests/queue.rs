//! Events on a virtual clock.

use std::collections::BTreeMap;
use std::time::Duration;

/// Events ordered by time; those at the same time in the order in which they were scheduled.
pub(super) struct EventQueue<E> {
    events: BTreeMap<(Duration, u64), E>,
    scheduled: u64,
}

impl<E> EventQueue<E> {
    pub(super) const fn new() -> Self {
        Self { events: BTreeMap::new(), scheduled: 0 }
    }

    pub(super) fn schedule(&mut self, at: Duration, event: E) {
        self.scheduled += 1;
        self.events.insert((at, self.scheduled), event);
    }

    /// The next event that is not later than `end`, with its time.
    pub(super) fn next_until(&mut self, end: Duration) -> Option<(Duration, E)> {
        let next = self.events.first_entry().filter(|entry| entry.key().0 <= end)?;
        let ((at, _), event) = next.remove_entry();
        Some((at, event))
    }
}
