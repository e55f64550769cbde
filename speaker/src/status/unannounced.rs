//! How long nobody could announce a Service, and what follows from that.

use std::time::{Duration, Instant};

use announce::view::Idle;
use k8s_openapi::api::core::v1::ObjectReference;
use runtime::events::Events;

/// That nobody can announce a Service is news after this time: during a rollout endpoints and speakers come and go.
const NEWS_AFTER: Duration = Duration::from_secs(10);

/// How often it is looked after whether a node announces it all the same.
const STILL_ANNOUNCED: Duration = Duration::from_secs(2);

/// A Service that nobody can announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unannounced {
    why: Idle,
    /// Since when it is, or is not, a fault.
    since: Instant,
    /// One of the speakers has told users of it.
    pub(super) told: bool,
    /// A node announces it all the same, as its speaker reports.
    announced: bool,
}

impl Unannounced {
    /// What is known of it at `now`; it was not, or for whatever reason, `before`.
    pub(super) fn go_on(before: Option<&Self>, now: Instant, why: Idle, announced: bool) -> Self {
        let told = before.is_some_and(|before| before.told && before.why == why) && !announced;
        let this = Self { why, since: now, told, announced };
        let alike = before.filter(|before| before.is_fault() == this.is_fault());
        Self { since: alike.map_or(now, |before| before.since), ..this }
    }

    /// Whether something is wrong. That there is no endpoint is not: the Service may have been scaled to zero.
    pub(super) fn is_fault(&self) -> bool {
        self.why != Idle::NoEndpoints
    }

    /// Whether users are to be informed.
    pub(super) fn is_news(&self, now: Instant) -> bool {
        !self.told && !self.announced && now.saturating_duration_since(self.since) >= NEWS_AFTER
    }

    /// Sends `note` as an event about `service`: a warning if it is a fault.
    pub(super) fn report(&self, events: &Events, service: &ObjectReference, note: String) {
        if self.is_fault() {
            events.warning(service, "Announce", "announceFailed", note);
        } else {
            events.transition(service, "Announce", "notAnnounced", note);
        }
    }

    /// When [`Self::is_news`] may become so. That the status of who has announced it is gone wakes nobody.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let news = self.since.checked_add(NEWS_AFTER).filter(|at| *at > now);
        news.or_else(|| now.checked_add(STILL_ANNOUNCED).filter(|_| self.announced))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_nobody_can_announce_a_service_is_told_once_after_ten_seconds_and_again_for_another_reason() {
        let start = Instant::now();
        let first = Unannounced::go_on(None, start, Idle::NoCandidate, false);
        assert!(!first.is_news(start) && first.is_news(start + NEWS_AFTER));
        assert_eq!(first.next(start), Some(start + NEWS_AFTER));
        let told = Unannounced { told: true, ..first };
        let later = start + NEWS_AFTER * 2;
        assert!(!Unannounced::go_on(Some(&told), later, Idle::NoCandidate, false).is_news(later));
        assert!(Unannounced::go_on(Some(&told), later, Idle::NoPool, false).is_news(later));
        let idle = Unannounced::go_on(Some(&told), later, Idle::NoEndpoints, false);
        let again = Unannounced::go_on(Some(&idle), later + NEWS_AFTER, Idle::NoCandidate, false);
        assert!(!again.is_news(later + NEWS_AFTER), "it was none a moment ago");
    }

    #[test]
    fn requirement_5_that_a_service_has_no_endpoint_is_reported_after_ten_seconds_but_not_as_a_fault() {
        let start = Instant::now();
        let fault = Unannounced::go_on(None, start, Idle::NoCandidate, false);
        let later = start + NEWS_AFTER;
        let idle = Unannounced::go_on(Some(&fault), later, Idle::NoEndpoints, false);
        assert!(fault.is_fault() && !idle.is_fault());
        assert!(!idle.is_news(later), "endpoints come and go during a rollout");
        assert!(idle.is_news(later + NEWS_AFTER));
        let told = Unannounced { told: true, ..idle };
        assert!(
            !Unannounced::go_on(Some(&told), later + NEWS_AFTER * 9, Idle::NoEndpoints, false).is_news(later)
        );
    }

    #[test]
    fn requirement_8_that_nobody_can_announce_a_service_is_reported_once_its_owner_does_not_either() {
        let start = Instant::now();
        let mut state = Unannounced::go_on(None, start, Idle::NoLocalEndpoint, true);
        let later = start + NEWS_AFTER * 5;
        state = Unannounced::go_on(Some(&state), later, Idle::NoLocalEndpoint, true);
        assert!(!state.is_news(later), "who owns it goes on announcing it");
        let next = state.next(later).unwrap();
        assert!(next > later && next <= later + NEWS_AFTER);
        state = Unannounced::go_on(Some(&state), next, Idle::NoLocalEndpoint, false);
        assert!(state.is_news(next));
    }

    #[test]
    fn requirement_8_a_status_that_goes_soon_after_the_announcement_does_not_delay_the_report() {
        let start = Instant::now();
        let first = Unannounced::go_on(None, start, Idle::NoEndpoints, true);
        assert_eq!(first.next(start), Some(start + NEWS_AFTER));
        let then = Unannounced::go_on(Some(&first), start + NEWS_AFTER, Idle::NoEndpoints, false);
        assert!(then.is_news(start + NEWS_AFTER));
    }
}
