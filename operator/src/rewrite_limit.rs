//! Limits how often a write is repeated that another writer reverts.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// At most so many repeated writes are made within this time.
const WINDOW: Duration = Duration::from_mins(10);
const MAX_REWRITES: usize = 3;

/// The recent repeated writes of one object, each after another writer had reverted the previous one.
#[derive(Debug, Default)]
pub(crate) struct RewriteLimit {
    rewrites: VecDeque<Instant>,
}

impl RewriteLimit {
    /// Records a repeated write.
    pub(crate) fn record(&mut self, now: Instant) {
        self.rewrites.push_back(now);
    }

    /// How long to wait before the next repeated write; none: it may be made now.
    pub(crate) fn blocked_for(&mut self, now: Instant) -> Option<Duration> {
        self.expire(now);
        let oldest = self.rewrites.front().filter(|_| self.rewrites.len() >= MAX_REWRITES)?;
        Some((*oldest + WINDOW).saturating_duration_since(now))
    }

    /// Whether there was no repeated write within the time window.
    pub(crate) fn is_idle(&mut self, now: Instant) -> bool {
        self.expire(now);
        self.rewrites.is_empty()
    }

    fn expire(&mut self, now: Instant) {
        while self.rewrites.front().is_some_and(|at| now.duration_since(*at) >= WINDOW) {
            self.rewrites.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fourth_rewrite_within_ten_minutes_is_blocked_until_the_first_one_expires() {
        let (mut limit, start) = (RewriteLimit::default(), Instant::now());
        let at = |minute: u64| start + Duration::from_mins(minute);
        for minute in 0..3 {
            assert_eq!(limit.blocked_for(at(minute)), None);
            limit.record(at(minute));
        }
        assert_eq!(limit.blocked_for(at(3)), Some(Duration::from_mins(7)));
        assert_eq!(limit.blocked_for(at(10)), None);
        assert!(!limit.is_idle(at(11)));
        assert!(limit.is_idle(at(12)));
    }
}
