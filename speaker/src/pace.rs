//! How often the view is made anew, and the links are listed again.

use std::time::{Duration, Instant};

/// Changes come in bursts; this long after the first they are acted on.
pub(crate) const SETTLE: Duration = Duration::from_millis(5);
/// One part in so many of a processor goes into that, in the long run.
const SHARE: u32 = 3;
/// What may be spent at once after a time without changes.
const BURST: Duration = Duration::from_millis(400);

/// Lets a change through at once, and slows down only where changes come without end: then a third of a processor goes
/// into the work that they cause.
#[derive(Debug)]
pub(crate) struct Pace {
    /// When all that was spent has been made up for.
    even: Instant,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { even: now }
    }

    /// How long to gather changes, after those before were acted on from `begun` until `now`.
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
    fn a_change_after_some_time_without_any_is_never_delayed_by_the_one_before() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..10 {
            assert_eq!(pace.spent(now, now + ms(50)), SETTLE);
            now += ms(150);
        }
        assert_eq!(pace.spent(now, now + ms(350)), SETTLE, "nor by an expensive one, as at the start");
    }

    #[test]
    fn changes_without_end_take_a_third_of_a_processor() {
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
