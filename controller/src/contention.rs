//! Two writers of one status: whose turn it is, and when to leave the status to the other.
//!
//! What a write of ours established and somebody else has undone is a *reversal*. The first ones are answered after
//! pauses; after [`REVERSALS`] of them within [`WINDOW`] the object is left alone, for longer each time.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// After so many reversals within [`WINDOW`] the object is left alone.
pub(crate) const REVERSALS: usize = 3;

/// A write that was undone later than this was undone by something else.
pub(crate) const WINDOW: Duration = Duration::from_secs(600);

/// Pauses before the writes that answer the first reversals.
const PAUSES: [Duration; REVERSALS - 1] = [Duration::from_millis(250), Duration::from_secs(5)];

/// How long an object is left alone: first, and at most.
const LEFT_FIRST: Duration = WINDOW;
const LEFT_LONGEST: Duration = Duration::from_secs(6 * 3600);

/// What to do about a write that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Write.
    Write,
    /// Judge again when [`Contention::due`] names the object.
    Wait,
    /// The same, much later. `first` is set once each time that it is decided.
    LeaveAlone {
        /// Whether this is the decision, to be reported.
        first: bool,
    },
}

#[derive(Debug)]
struct Record<T> {
    established: T,
    written: Instant,
    reversals: Vec<Instant>,
    /// Set between a reversal and the write that answers it: not before when.
    answer: Option<Instant>,
    /// How often the object was left alone.
    rounds: u32,
    /// Whether it is now.
    left: bool,
}

/// What was written to which object, and how often that was undone.
#[derive(Debug)]
pub(crate) struct Contention<K, T> {
    records: HashMap<K, Record<T>>,
    alarms: BTreeSet<(Instant, K)>,
}

impl<K, T> Default for Contention<K, T> {
    fn default() -> Self {
        Self { records: HashMap::new(), alarms: BTreeSet::new() }
    }
}

impl<K: Clone + Eq + Hash + Ord, T> Contention<K, T> {
    /// What the last write that is known to have succeeded established.
    pub(crate) fn established(&self, key: &K) -> Option<&T> {
        self.records.get(key).map(|record| &record.established)
    }

    /// A write succeeded, and `established` this.
    pub(crate) fn wrote(&mut self, key: &K, established: T, now: Instant) {
        let record = self.remove(key);
        let (reversals, rounds, left, answer) = match record {
            // What is written while the object is left alone is the report of that.
            Some(Record { reversals, rounds, left, answer, .. }) => {
                (reversals, rounds, left, answer.filter(|_| left))
            }
            None => (Vec::new(), 0, false, None),
        };
        let record = Record { established, written: now, reversals, answer, rounds, left };
        self.records.insert(key.clone(), record);
        self.alarms.insert((now + WINDOW, key.clone()));
        self.alarms.extend(answer.map(|at| (at, key.clone())));
    }

    /// Removes a record with its alarms.
    fn remove(&mut self, key: &K) -> Option<Record<T>> {
        let record = self.records.remove(key)?;
        for at in [Some(record.written + WINDOW), record.answer].into_iter().flatten() {
            self.alarms.remove(&(at, key.clone()));
        }
        Some(record)
    }

    /// What to do about a write; `undone` says whether it only restores what the last one established.
    pub(crate) fn judge(&mut self, key: &K, undone: bool, now: Instant) -> Verdict {
        let Some(record) = self.records.get_mut(key).filter(|_| undone) else {
            // Something else is wanted: that is no answer to anybody.
            self.forget(key);
            return Verdict::Write;
        };
        if let Some(answer) = record.answer {
            if now < answer {
                return if record.left { Verdict::LeaveAlone { first: false } } else { Verdict::Wait };
            }
            record.left = false;
            return Verdict::Write;
        }
        if now.saturating_duration_since(record.written) >= WINDOW {
            record.rounds = 0;
        }
        record.reversals.retain(|reversal| now.saturating_duration_since(*reversal) < WINDOW);
        record.reversals.push(now);
        let pause = PAUSES.get(record.reversals.len() - 1).copied().filter(|_| record.rounds == 0);
        record.left = pause.is_none();
        let pause = pause.unwrap_or_else(|| {
            record.rounds += 1;
            LEFT_FIRST.saturating_mul(1 << (record.rounds - 1).min(16)).min(LEFT_LONGEST)
        });
        record.answer = Some(now + pause);
        self.alarms.insert((now + pause, key.clone()));
        if record.left { Verdict::LeaveAlone { first: true } } else { Verdict::Wait }
    }

    /// When a reversal may be answered.
    pub(crate) fn answer(&self, key: &K) -> Option<Instant> {
        self.records.get(key)?.answer
    }

    /// The object is gone, or something else is wanted of it.
    pub(crate) fn forget(&mut self, key: &K) {
        self.remove(key);
    }

    /// When [`Self::due`] has something.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.alarms.first().map(|(at, _)| *at)
    }

    /// The objects whose writes are to be judged again.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<K> {
        let mut due = Vec::new();
        while self.alarms.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.alarms.pop_first() else { break };
            let Some(record) = self.records.get(&key) else { continue };
            if record.answer.is_none() && now.saturating_duration_since(record.written) >= WINDOW {
                // Nobody has objected.
                self.records.remove(&key);
            } else if record.answer.is_some_and(|answer| answer <= now) {
                due.push(key);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Somebody undoes each write at once. When the writes are made, in seconds, within a day.
    fn writes(undone_within: Duration) -> Vec<u64> {
        let start = Instant::now();
        let mut contention = Contention::<&str, ()>::default();
        let (mut now, mut writes) = (start, Vec::new());
        let mut undone = false;
        while now < start + Duration::from_secs(24 * 3600) {
            match contention.judge(&"web", undone, now) {
                Verdict::Write => {
                    contention.wrote(&"web", (), now);
                    writes.push((now - start).as_secs());
                    undone = true;
                    now += undone_within;
                }
                Verdict::Wait | Verdict::LeaveAlone { .. } => {
                    while contention.due(now).is_empty() {
                        now = contention.next().unwrap();
                    }
                }
            }
        }
        writes
    }

    #[test]
    fn after_three_reversals_in_ten_minutes_an_object_is_left_alone_for_longer_and_longer() {
        let writes = writes(Duration::ZERO);
        assert_eq!(writes[..5], [0, 0, 5, 605, 1805], "two answers, then one after ten and twenty minutes");
        assert!(writes.len() <= 12, "{writes:?}");
    }

    #[test]
    fn what_is_undone_seldom_is_restored_each_time() {
        let writes = writes(WINDOW + Duration::from_secs(1));
        assert_eq!(writes.len(), 24 * 6, "{writes:?}");
    }

    #[test]
    fn what_is_wanted_anew_is_written_at_once_also_while_the_object_is_left_alone() {
        let now = Instant::now();
        let mut contention = Contention::<&str, ()>::default();
        for round in 0..REVERSALS {
            contention.wrote(&"web", (), now);
            let verdict = contention.judge(&"web", true, now);
            let last = round == REVERSALS - 1;
            assert_eq!(verdict, if last { Verdict::LeaveAlone { first: true } } else { Verdict::Wait });
        }
        assert_eq!(
            contention.judge(&"web", true, now),
            Verdict::LeaveAlone { first: false },
            "reported once"
        );
        // The report of it is a write, too, and changes nothing.
        contention.wrote(&"web", (), now);
        assert_eq!(contention.judge(&"web", true, now), Verdict::LeaveAlone { first: false });
        assert_eq!(contention.judge(&"web", false, now), Verdict::Write);
    }

    #[test]
    fn what_is_remembered_of_an_object_does_not_grow_with_its_writes() {
        let mut now = Instant::now();
        let mut contention = Contention::<&str, u32>::default();
        for number in 0..1_000 {
            contention.wrote(&"web", number, now);
            contention.judge(&"web", number % 3 == 0, now);
            now += Duration::from_secs(1);
        }
        assert!(contention.alarms.len() <= 2, "{}", contention.alarms.len());
    }

    #[test]
    fn what_nobody_objects_to_is_forgotten() {
        let now = Instant::now();
        let mut contention = Contention::<&str, ()>::default();
        contention.wrote(&"web", (), now);
        assert_eq!(contention.due(now + WINDOW), Vec::<&str>::new());
        assert!(contention.records.is_empty() && contention.next().is_none());
    }
}
