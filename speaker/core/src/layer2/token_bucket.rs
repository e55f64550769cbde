//! A token bucket, stored as the time at which it would be full again.

use std::time::{Duration, Instant};

/// Limits a rate on average, with a burst.
#[derive(Clone, Debug)]
pub(crate) struct TokenBucket {
    interval: Duration,
    burst: Duration,
    full_at: Option<Instant>,
}

impl TokenBucket {
    /// `burst` tokens, and one more per `interval`.
    pub(crate) fn new(interval: Duration, burst: u32) -> Self {
        Self { interval, burst: interval.saturating_mul(burst.saturating_sub(1)), full_at: None }
    }

    /// Takes a token, or returns when one will be available.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        self.check(now)?;
        self.full_at = self.full_at(now).checked_add(self.interval);
        Ok(())
    }

    /// Whether a token is available, else when one will be.
    pub(crate) fn check(&self, now: Instant) -> Result<(), Instant> {
        let full_at = self.full_at(now);
        if full_at.saturating_duration_since(now) > self.burst {
            return Err(full_at.checked_sub(self.burst).unwrap_or(now));
        }
        Ok(())
    }

    fn full_at(&self, now: Instant) -> Instant {
        self.full_at.map_or(now, |at| at.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_per_interval() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(Duration::from_millis(5), 3);
        for _ in 0..3 {
            bucket.take(start).unwrap();
        }
        let next = bucket.take(start).unwrap_err();
        assert_eq!(next, start + Duration::from_millis(5));
        bucket.take(next).unwrap();
        assert!(bucket.take(next).is_err());
        for _ in 0..3 {
            bucket.take(start + Duration::from_secs(1)).unwrap();
        }
    }
}
