//! Rate limit for rebuilding the view and for listing the links.

use std::time::{Duration, Instant};

/// Changes come in bursts; they are handled this long after the first one.
pub(crate) const SETTLE: Duration = Duration::from_millis(5);
/// In the long run, one part in this number of a processor is used for that.
const SHARE: u32 = 3;
/// The time that may be spent at once after a period without changes.
const BURST: Duration = Duration::from_millis(400);

/// Allows a rebuild at once after a change, and slows down only if changes come continuously: then a third of
/// a processor is used.
#[derive(Debug)]
pub(crate) struct Pace {
    /// When the time spent so far has been compensated by idle time.
    even: Instant,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { even: now }
    }

    /// How long to gather changes, after the previous ones were handled from `begun` until `now`.
    pub(crate) fn spent(&mut self, begun: Instant, now: Instant) -> Duration {
        self.even = self.even.max(begun) + (now - begun) * SHARE;
        let debt = self.even.saturating_duration_since(now);
        SETTLE.max(debt.saturating_sub(BURST * (SHARE - 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_change_after_a_quiet_time_is_not_delayed_by_the_previous_one() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..10 {
            assert_eq!(pace.spent(now, now + ms(50)), SETTLE);
            now += ms(150);
        }
        assert_eq!(pace.spent(now, now + ms(350)), SETTLE, "nor by an expensive one, as at the start");
    }

    #[test]
    fn continuous_changes_take_a_third_of_a_processor() {
        for (cost, most) in [(1, ms(4_000)), (20, ms(4_000)), (200, ms(4_300)), (3_000, ms(6_100))] {
            let start = Instant::now();
            let (mut now, mut pace, mut spent) = (start, Pace::new(start), Duration::ZERO);
            while now < start + ms(10_000) {
                let end = now + ms(cost);
                spent += ms(cost);
                now = end + pace.spent(now, end);
            }
            assert!(spent <= most, "{cost}: {spent:?}");
        }
    }
}
