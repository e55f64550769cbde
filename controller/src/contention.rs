//! Two writers of one status: when to write again, and when to back off.
//!
//! If another client reverts a write of ours, that is a *reversal*. The first reversals are answered by
//! another write after a delay. After [`MAX_REVERSALS`] within [`WINDOW`] the object is not written for a
//! while (*back-off*), longer each time.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// The number of reversals within [`WINDOW`] after which the object is not written for a while.
pub(crate) const MAX_REVERSALS: usize = 3;

/// A reversal later than this after the write is not counted with the earlier ones.
pub(crate) const WINDOW: Duration = Duration::from_secs(600);

/// Delays before the writes that answer the first reversals.
const RETRY_DELAYS: [Duration; MAX_REVERSALS - 1] = [Duration::from_millis(250), Duration::from_secs(5)];

/// The first and the longest back-off.
const MIN_BACKOFF: Duration = WINDOW;
const MAX_BACKOFF: Duration = Duration::from_secs(6 * 3600);

/// Whether to do a pending write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Write.
    Write,
    /// Decide again when [`Contention::due`] returns the object.
    Wait,
    /// The same, but much later: the object is backed off.
    BackOff {
        /// Whether the back-off begins now, so that it is to be reported.
        first: bool,
    },
}

#[derive(Debug)]
struct WriteRecord<T> {
    last_written: T,
    written: Instant,
    reversals: Vec<Instant>,
    /// When a reversal may be answered; set until the write that does.
    retry_at: Option<Instant>,
    /// How often the object was backed off.
    back_offs: u32,
    /// Whether it is backed off now.
    backed_off: bool,
}

/// The last write to each object, and its reversals.
#[derive(Debug)]
pub(crate) struct Contention<K, T> {
    records: HashMap<K, WriteRecord<T>>,
    deadlines: BTreeSet<(Instant, K)>,
}

impl<K, T> Default for Contention<K, T> {
    fn default() -> Self {
        Self { records: HashMap::new(), deadlines: BTreeSet::new() }
    }
}

impl<K: Clone + Eq + Hash + Ord, T> Contention<K, T> {
    /// The content of the last write that is known to have succeeded.
    pub(crate) fn last_written(&self, key: &K) -> Option<&T> {
        self.records.get(key).map(|record| &record.last_written)
    }

    /// A write of `last_written` succeeded.
    pub(crate) fn record_write(&mut self, key: &K, last_written: T, now: Instant) {
        let record = self.take(key);
        let (reversals, back_offs, backed_off, retry_at) = match record {
            // A write during a back-off only reports it.
            Some(WriteRecord { reversals, back_offs, backed_off, retry_at, .. }) => {
                (reversals, back_offs, backed_off, retry_at.filter(|_| backed_off))
            }
            None => (Vec::new(), 0, false, None),
        };
        let record = WriteRecord { last_written, written: now, reversals, retry_at, back_offs, backed_off };
        self.records.insert(key.clone(), record);
        self.deadlines.insert((now + WINDOW, key.clone()));
        self.deadlines.extend(retry_at.map(|at| (at, key.clone())));
    }

    /// Removes a record with its deadlines.
    fn take(&mut self, key: &K) -> Option<WriteRecord<T>> {
        let record = self.records.remove(key)?;
        for at in [Some(record.written + WINDOW), record.retry_at].into_iter().flatten() {
            self.deadlines.remove(&(at, key.clone()));
        }
        Some(record)
    }

    /// Decides about a write. `reverted` says whether it only restores the content of the last one.
    pub(crate) fn decide(&mut self, key: &K, reverted: bool, now: Instant) -> Decision {
        let Some(record) = self.records.get_mut(key).filter(|_| reverted) else {
            // The desired content is new: the write answers no reversal.
            self.remove(key);
            return Decision::Write;
        };
        if let Some(retry_at) = record.retry_at {
            if now < retry_at {
                return if record.backed_off { Decision::BackOff { first: false } } else { Decision::Wait };
            }
            record.backed_off = false;
            return Decision::Write;
        }
        if now.saturating_duration_since(record.written) >= WINDOW {
            record.back_offs = 0;
        }
        record.reversals.retain(|reversal| now.saturating_duration_since(*reversal) < WINDOW);
        record.reversals.push(now);
        let delay = RETRY_DELAYS.get(record.reversals.len() - 1).copied().filter(|_| record.back_offs == 0);
        record.backed_off = delay.is_none();
        let delay = delay.unwrap_or_else(|| {
            record.back_offs += 1;
            MIN_BACKOFF.saturating_mul(1 << (record.back_offs - 1).min(16)).min(MAX_BACKOFF)
        });
        record.retry_at = Some(now + delay);
        self.deadlines.insert((now + delay, key.clone()));
        if record.backed_off { Decision::BackOff { first: true } } else { Decision::Wait }
    }

    /// When a reversal may be answered.
    pub(crate) fn retry_at(&self, key: &K) -> Option<Instant> {
        self.records.get(key)?.retry_at
    }

    /// The object was deleted, or its desired content changed.
    pub(crate) fn remove(&mut self, key: &K) {
        self.take(key);
    }

    /// When [`Self::due`] must be called next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The objects whose writes are to be decided again.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<K> {
        let mut due = Vec::new();
        while self.deadlines.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.deadlines.pop_first() else { break };
            let Some(record) = self.records.get(&key) else { continue };
            if record.retry_at.is_none() && now.saturating_duration_since(record.written) >= WINDOW {
                // No other client has reverted the write.
                self.records.remove(&key);
            } else if record.retry_at.is_some_and(|retry_at| retry_at <= now) {
                due.push(key);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The times of the writes within a day, in seconds, if each write is reverted `reverted_within` this
    /// time.
    fn writes(reverted_within: Duration) -> Vec<u64> {
        let start = Instant::now();
        let mut contention = Contention::<&str, ()>::default();
        let (mut now, mut writes) = (start, Vec::new());
        let mut reverted = false;
        while now < start + Duration::from_secs(24 * 3600) {
            match contention.decide(&"web", reverted, now) {
                Decision::Write => {
                    contention.record_write(&"web", (), now);
                    writes.push((now - start).as_secs());
                    reverted = true;
                    now += reverted_within;
                }
                Decision::Wait | Decision::BackOff { .. } => {
                    while contention.due(now).is_empty() {
                        now = contention.next().unwrap();
                    }
                }
            }
        }
        writes
    }

    #[test]
    fn after_three_reversals_in_ten_minutes_an_object_is_backed_off_for_longer_each_time() {
        let writes = writes(Duration::ZERO);
        assert_eq!(writes[..5], [0, 0, 5, 605, 1805], "two answers, then one after ten and twenty minutes");
        assert!(writes.len() <= 12, "{writes:?}");
    }

    #[test]
    fn a_write_that_is_reverted_rarely_is_restored_each_time() {
        let writes = writes(WINDOW + Duration::from_secs(1));
        assert_eq!(writes.len(), 24 * 6, "{writes:?}");
    }

    #[test]
    fn new_content_is_written_at_once_even_during_a_back_off() {
        let now = Instant::now();
        let mut contention = Contention::<&str, ()>::default();
        for round in 0..MAX_REVERSALS {
            contention.record_write(&"web", (), now);
            let decision = contention.decide(&"web", true, now);
            let last = round == MAX_REVERSALS - 1;
            assert_eq!(decision, if last { Decision::BackOff { first: true } } else { Decision::Wait });
        }
        assert_eq!(contention.decide(&"web", true, now), Decision::BackOff { first: false }, "reported once");
        // The write that reports the back-off does not end it.
        contention.record_write(&"web", (), now);
        assert_eq!(contention.decide(&"web", true, now), Decision::BackOff { first: false });
        assert_eq!(contention.decide(&"web", false, now), Decision::Write);
    }

    #[test]
    fn the_record_of_an_object_does_not_grow_with_its_writes() {
        let mut now = Instant::now();
        let mut contention = Contention::<&str, u32>::default();
        for number in 0..1_000 {
            contention.record_write(&"web", number, now);
            contention.decide(&"web", number % 3 == 0, now);
            now += Duration::from_secs(1);
        }
        assert!(contention.deadlines.len() <= 2, "{}", contention.deadlines.len());
    }

    #[test]
    fn a_write_that_is_not_reverted_is_removed() {
        let now = Instant::now();
        let mut contention = Contention::<&str, ()>::default();
        contention.record_write(&"web", (), now);
        assert_eq!(contention.due(now + WINDOW), Vec::<&str>::new());
        assert!(contention.records.is_empty() && contention.next().is_none());
    }
}
