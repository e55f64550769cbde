//! When to stop writing what somebody else reverses.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// So many writes that somebody else has reversed within this time, and no further one is made.
const WINDOW: Duration = Duration::from_mins(10);
const REVERSALS: usize = 3;

/// The writes of one thing that answered a reversal by somebody else, within the last ten minutes.
#[derive(Debug, Default)]
pub(crate) struct Reversals {
    answered: VecDeque<Instant>,
}

impl Reversals {
    /// A reversal was answered by a write.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.answered.push_back(now);
    }

    /// For how long no further reversal is answered; none: the next one is.
    pub(crate) fn left_alone(&mut self, now: Instant) -> Option<Duration> {
        self.forget(now);
        let oldest = self.answered.front().filter(|_| self.answered.len() >= REVERSALS)?;
        Some((*oldest + WINDOW).saturating_duration_since(now))
    }

    /// Whether none was answered lately.
    pub(crate) fn is_empty(&mut self, now: Instant) -> bool {
        self.forget(now);
        self.answered.is_empty()
    }

    fn forget(&mut self, now: Instant) {
        while self.answered.front().is_some_and(|then| now.duration_since(*then) >= WINDOW) {
            self.answered.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fourth_reversal_within_ten_minutes_is_not_answered_and_one_after_them_is() {
        let (mut reversals, start) = (Reversals::default(), Instant::now());
        let at = |minute: u64| start + Duration::from_mins(minute);
        for minute in 0..3 {
            assert_eq!(reversals.left_alone(at(minute)), None);
            reversals.answered(at(minute));
        }
        assert_eq!(reversals.left_alone(at(3)), Some(Duration::from_mins(7)));
        assert_eq!(reversals.left_alone(at(10)), None);
        assert!(!reversals.is_empty(at(11)));
        assert!(reversals.is_empty(at(12)));
    }
}
