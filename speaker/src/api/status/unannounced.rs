//! How long no node could announce a Service, and when that is reported.

use std::time::{Duration, Instant};

use announce::layer2::view::NotAnnounced;
use k8s_openapi::api::core::v1::ObjectReference;
use runtime::events::Events;

/// How long no node can announce a Service before that is reported: during a rollout endpoints and speakers
/// come and go.
const REPORT_DELAY: Duration = Duration::from_secs(10);

/// How often to check whether a node still announces the Service nevertheless.
const ANNOUNCED_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// A Service that no node can announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unannounced {
    why: NotAnnounced,
    /// Since when [`Self::is_fault`] has had its value.
    since: Instant,
    /// One of the speakers has reported it to users.
    pub(super) reported: bool,
    /// A node announces it nevertheless, as its speaker reports.
    announced: bool,
}

impl Unannounced {
    /// Updates the state: `before` is the previous one, if the Service was not announced before.
    pub(super) fn update(before: Option<&Self>, now: Instant, why: NotAnnounced, announced: bool) -> Self {
        let reported = before.is_some_and(|before| before.reported && before.why == why) && !announced;
        let this = Self { why, since: now, reported, announced };
        let alike = before.filter(|before| before.is_fault() == this.is_fault());
        Self { since: alike.map_or(now, |before| before.since), ..this }
    }

    /// Whether something is wrong. A Service without endpoints may have been scaled to zero.
    pub(super) fn is_fault(&self) -> bool {
        self.why != NotAnnounced::NoEndpoints
    }

    /// Whether to report it to users now.
    pub(super) fn should_report(&self, now: Instant) -> bool {
        !self.reported && !self.announced && now.saturating_duration_since(self.since) >= REPORT_DELAY
    }

    /// Sends `note` as an event about `service`: a warning if it is a fault.
    pub(super) fn report(&self, events: &Events, service: &ObjectReference, note: String) {
        if self.is_fault() {
            events.warning(service, "Announce", "announceFailed", note);
        } else {
            events.transition(service, "Announce", "notAnnounced", note);
        }
    }

    /// When [`Self::should_report`] may become true. Nothing else wakes the caller when the status of the last
    /// announcing node is deleted.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let due = self.since.checked_add(REPORT_DELAY).filter(|at| *at > now);
        due.or_else(|| now.checked_add(ANNOUNCED_CHECK_INTERVAL).filter(|_| self.announced))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unannounced_service_is_reported_once_after_ten_seconds_and_again_for_another_reason() {
        let start = Instant::now();
        let first = Unannounced::update(None, start, NotAnnounced::NoCandidate, false);
        assert!(!first.should_report(start) && first.should_report(start + REPORT_DELAY));
        assert_eq!(first.next(start), Some(start + REPORT_DELAY));
        let reported = Unannounced { reported: true, ..first };
        let later = start + REPORT_DELAY * 2;
        assert!(
            !Unannounced::update(Some(&reported), later, NotAnnounced::NoCandidate, false)
                .should_report(later)
        );
        assert!(
            Unannounced::update(Some(&reported), later, NotAnnounced::NoPool, false).should_report(later)
        );
        let not_announced = Unannounced::update(Some(&reported), later, NotAnnounced::NoEndpoints, false);
        let again =
            Unannounced::update(Some(&not_announced), later + REPORT_DELAY, NotAnnounced::NoCandidate, false);
        assert!(!again.should_report(later + REPORT_DELAY), "it was none a moment ago");
    }

    #[test]
    fn requirement_5_a_service_without_endpoints_is_reported_after_ten_seconds_but_not_as_a_fault() {
        let start = Instant::now();
        let fault = Unannounced::update(None, start, NotAnnounced::NoCandidate, false);
        let later = start + REPORT_DELAY;
        let not_announced = Unannounced::update(Some(&fault), later, NotAnnounced::NoEndpoints, false);
        assert!(fault.is_fault() && !not_announced.is_fault());
        assert!(!not_announced.should_report(later), "endpoints come and go during a rollout");
        assert!(not_announced.should_report(later + REPORT_DELAY));
        let reported = Unannounced { reported: true, ..not_announced };
        assert!(
            !Unannounced::update(Some(&reported), later + REPORT_DELAY * 9, NotAnnounced::NoEndpoints, false)
                .should_report(later)
        );
    }

    #[test]
    fn requirement_8_that_no_node_can_announce_a_service_is_reported_once_its_owner_does_not_either() {
        let start = Instant::now();
        let mut state = Unannounced::update(None, start, NotAnnounced::NoLocalEndpoint, true);
        let later = start + REPORT_DELAY * 5;
        state = Unannounced::update(Some(&state), later, NotAnnounced::NoLocalEndpoint, true);
        assert!(!state.should_report(later), "its owner still announces it");
        let next = state.next(later).unwrap();
        assert!(next > later && next <= later + REPORT_DELAY);
        state = Unannounced::update(Some(&state), next, NotAnnounced::NoLocalEndpoint, false);
        assert!(state.should_report(next));
    }

    #[test]
    fn requirement_8_a_status_that_is_deleted_soon_after_the_announcement_does_not_delay_the_report() {
        let start = Instant::now();
        let first = Unannounced::update(None, start, NotAnnounced::NoEndpoints, true);
        assert_eq!(first.next(start), Some(start + REPORT_DELAY));
        let due = start + REPORT_DELAY;
        assert!(Unannounced::update(Some(&first), due, NotAnnounced::NoEndpoints, false).should_report(due));
    }
}
