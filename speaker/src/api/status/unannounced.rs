//! How long no node could announce a Service, and when that is reported.

use std::time::{Duration, Instant};

use announce::layer2::view::NotAnnounced;
use k8s_openapi::api::core::v1::ObjectReference;
use runtime::events::Events;

/// How long no node can announce a Service before that is reported: during a rollout endpoints and speakers
/// come and go.
const REPORT_DELAY: Duration = Duration::from_secs(10);

/// A Service that no node can announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unannounced {
    why: NotAnnounced,
    /// Since when [`Self::is_fault`] has had its value.
    since: Instant,
    /// One of the speakers has reported it to users.
    pub(super) reported: bool,
}

impl Unannounced {
    /// Updates the state: `before` is the previous one, if the Service was not announced before.
    pub(super) fn update(before: Option<&Self>, now: Instant, why: NotAnnounced) -> Self {
        let reported = before.is_some_and(|before| before.reported && before.why == why);
        let this = Self { why, since: now, reported };
        let alike = before.filter(|before| before.is_fault() == this.is_fault());
        Self { since: alike.map_or(now, |before| before.since), ..this }
    }

    /// Whether something is wrong. A Service without endpoints may have been scaled to zero.
    pub(super) fn is_fault(&self) -> bool {
        self.why != NotAnnounced::NoEndpoints
    }

    /// Whether to report it to users now.
    pub(super) fn should_report(&self, now: Instant) -> bool {
        !self.reported && now.saturating_duration_since(self.since) >= REPORT_DELAY
    }

    /// Sends `note` as an event about `service`: a warning if it is a fault.
    pub(super) fn report(&self, events: &Events, service: &ObjectReference, note: String) {
        if self.is_fault() {
            events.warning(service, "Announce", "announceFailed", note);
        } else {
            events.transition(service, "Announce", "notAnnounced", note);
        }
    }

    /// When [`Self::should_report`] becomes true.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        self.since.checked_add(REPORT_DELAY).filter(|at| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unannounced_service_is_reported_once_after_ten_seconds_and_again_for_another_reason() {
        let start = Instant::now();
        let first = Unannounced::update(None, start, NotAnnounced::NoCandidate);
        assert!(!first.should_report(start) && first.should_report(start + REPORT_DELAY));
        assert_eq!(first.next(start), Some(start + REPORT_DELAY));
        let reported = Unannounced { reported: true, ..first };
        let later = start + REPORT_DELAY * 2;
        assert!(!Unannounced::update(Some(&reported), later, NotAnnounced::NoCandidate).should_report(later));
        assert!(Unannounced::update(Some(&reported), later, NotAnnounced::NoPool).should_report(later));
        let not_announced = Unannounced::update(Some(&reported), later, NotAnnounced::NoEndpoints);
        let again =
            Unannounced::update(Some(&not_announced), later + REPORT_DELAY, NotAnnounced::NoCandidate);
        assert!(!again.should_report(later + REPORT_DELAY), "it was none a moment ago");
    }

    #[test]
    fn requirement_5_a_service_without_endpoints_is_reported_after_ten_seconds_but_not_as_a_fault() {
        let start = Instant::now();
        let fault = Unannounced::update(None, start, NotAnnounced::NoCandidate);
        let later = start + REPORT_DELAY;
        let not_announced = Unannounced::update(Some(&fault), later, NotAnnounced::NoEndpoints);
        assert!(fault.is_fault() && !not_announced.is_fault());
        assert!(!not_announced.should_report(later), "endpoints come and go during a rollout");
        assert!(not_announced.should_report(later + REPORT_DELAY));
        let reported = Unannounced { reported: true, ..not_announced };
        assert!(
            !Unannounced::update(Some(&reported), later + REPORT_DELAY * 9, NotAnnounced::NoEndpoints)
                .should_report(later)
        );
    }
}
