//! How long nobody could announce a Service, and what follows from that.

use std::time::{Duration, Instant};

use announce::view::Idle;

/// That nobody can announce a Service is news after this time: during a rollout endpoints and speakers come and go.
const NEWS_AFTER: Duration = Duration::from_secs(10);
/// Who announced a Service last is remembered for this long while nobody can announce it: after a power cut no pod is
/// ready for minutes, and then addresses are to be where they were.
const REMEMBERED: Duration = Duration::from_mins(10);

/// A Service that nobody can announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unannounced {
    why: Idle,
    since: Instant,
    /// Since when it is a fault.
    fault_since: Instant,
    /// One of the speakers has told users of it.
    pub(super) told: bool,
}

impl Unannounced {
    /// What is known of it at `now`; it was not, or for whatever reason, `before`.
    pub(super) fn go_on(before: Option<&Self>, now: Instant, why: Idle) -> Self {
        let told = before.is_some_and(|before| before.told && before.why == why);
        let since = before.map_or(now, |before| before.since);
        let fault = before.filter(|before| before.why != Idle::NoEndpoints);
        Self { why, since, fault_since: fault.map_or(now, |before| before.fault_since), told }
    }

    /// Whether users are to be told. That there is no endpoint is no fault, and Kubernetes shows it.
    pub(super) fn is_news(&self, now: Instant) -> bool {
        let lasts = now.saturating_duration_since(self.fault_since) >= NEWS_AFTER;
        !self.told && self.why != Idle::NoEndpoints && lasts
    }

    /// Whether who announced it last no longer matters.
    pub(super) fn is_past(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= REMEMBERED
    }

    /// When either becomes so.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let times = [self.fault_since.checked_add(NEWS_AFTER), self.since.checked_add(REMEMBERED)];
        times.into_iter().flatten().filter(|at| *at > now).min()
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

    #[test]
    fn who_announced_a_service_last_is_forgotten_after_ten_minutes_without_anybody_who_could() {
        let start = Instant::now();
        let first = Unannounced::go_on(None, start, Idle::NoPool);
        let other = Unannounced::go_on(Some(&first), start + REMEMBERED / 2, Idle::NoCandidate);
        assert!(!other.is_past(start + REMEMBERED / 2) && other.is_past(start + REMEMBERED));
        assert_eq!(other.next(start + REMEMBERED / 2), Some(start + REMEMBERED));
        assert_eq!(other.next(start + REMEMBERED), None);
    }
}
