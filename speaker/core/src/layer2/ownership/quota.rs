//! Limits on what is sent in response to others.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Admits each key once per period, and a limited number of keys, so that what is sent in response to others
/// is bounded.
#[derive(Debug)]
pub(super) struct Quota<K> {
    since: Option<Instant>,
    passed: BTreeSet<K>,
}

impl<K> Default for Quota<K> {
    fn default() -> Self {
        Self { since: None, passed: BTreeSet::new() }
    }
}

impl<K: Ord> Quota<K> {
    /// Whether `key` has not been admitted in the current period, nor have `most` others.
    pub(super) fn admit(&mut self, now: Instant, period: Duration, most: usize, key: K) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= period) {
            self.since = Some(now);
            self.passed.clear();
        }
        self.passed.len() < most && self.passed.insert(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_admitted_once_in_a_period_and_no_more_keys_than_allowed() {
        let (start, period) = (Instant::now(), Duration::from_millis(50));
        let mut quota = Quota::default();
        let passed: Vec<u32> = (0..100)
            .flat_map(|_| 0..100)
            .filter(|key| quota.admit(start + Duration::from_millis(49), period, 3, *key))
            .collect();
        assert_eq!(passed, [0, 1, 2]);
        assert!(!quota.admit(start + Duration::from_millis(98), period, 3, 0));
        assert!(quota.admit(start + Duration::from_millis(99), period, 3, 0));
    }
}
