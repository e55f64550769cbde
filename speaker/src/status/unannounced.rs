//! How long nobody could announce a Service, and what follows from that.

use std::time::{Duration, Instant};

use announce::view::Idle;

/// That nobody can announce a Service is news after this time: during a rollout endpoints and speakers come and go.
const NEWS_AFTER: Duration = Duration::from_secs(10);

/// A Service that nobody can announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unannounced {
    why: Idle,
    /// Since when it is a fault.
    fault_since: Instant,
    /// One of the speakers has told users of it.
    pub(super) told: bool,
}

impl Unannounced {
    /// What is known of it at `now`; it was not, or for whatever reason, `before`.
    pub(super) fn go_on(before: Option<&Self>, now: Instant, why: Idle) -> Self {
        let told = before.is_some_and(|before| before.told && before.why == why);
        let fault = before.filter(|before| before.why != Idle::NoEndpoints);
        Self { why, fault_since: fault.map_or(now, |before| before.fault_since), told }
    }

    /// Whether users are to be told. That there is no endpoint is no fault, and Kubernetes shows it.
    pub(super) fn is_news(&self, now: Instant) -> bool {
        let lasts = now.saturating_duration_since(self.fault_since) >= NEWS_AFTER;
        !self.told && self.why != Idle::NoEndpoints && lasts
    }

    /// When that becomes so.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        self.fault_since.checked_add(NEWS_AFTER).filter(|at| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_nobody_can_announce_a_service_is_told_once_after_ten_seconds_and_again_for_another_reason() {
        let start = Instant::now();
        let first = Unannounced::go_on(None, start, Idle::NoCandidate);
        assert!(!first.is_news(start) && first.is_news(start + NEWS_AFTER));
        assert_eq!(first.next(start), Some(start + NEWS_AFTER));
        let told = Unannounced { told: true, ..first };
        let later = start + NEWS_AFTER * 2;
        assert!(!Unannounced::go_on(Some(&told), later, Idle::NoCandidate).is_news(later));
        assert!(Unannounced::go_on(Some(&told), later, Idle::NoPool).is_news(later));
        let idle = Unannounced::go_on(Some(&told), later, Idle::NoEndpoints);
        assert!(!idle.is_news(later + NEWS_AFTER), "no fault");
        let again = Unannounced::go_on(Some(&idle), later + NEWS_AFTER, Idle::NoCandidate);
        assert!(!again.is_news(later + NEWS_AFTER), "it was none a moment ago");
    }
}
