//! What the operator remembers of each object between two looks at it. Lost with the process, and not missed.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::Key;
use serde_json::Value;
use tokio::time::Instant;

use crate::pacing::Reversals;

/// How long to wait after a first failure, and at most.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_mins(2);
/// An object of somebody else is not mirrored; this is for how long nobody notices that it is gone.
const LAST_SIGHTING: Duration = Duration::from_secs(15);

/// What is remembered of one object.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// As our last write left it; newer than the mirror for a moment.
    written: Option<DynamicObject>,
    /// What was last wanted.
    desired: Value,
    /// Whether that was brought about once: a difference after that is somebody else's doing.
    achieved: bool,
    /// When it was last changed back.
    repairs: Reversals,
    /// Whether it existed once as it was wanted then: if it is missing after that, somebody has deleted it.
    existed: bool,
    /// When it was last made anew, after somebody had deleted it.
    remakes: Reversals,
    /// Somebody else insists: left alone until it is as wanted again, or something else is wanted.
    given_up: bool,
    failures: u32,
    last_failure: Option<(String, Instant)>,
    /// What admission webhooks made of our last apply.
    pub(crate) rewritten: BTreeMap<String, Value>,
    /// What a call has just found, for the next who asks.
    looked_up: Option<Found>,
    /// An object of somebody else under this name, and how long to believe that it is still there.
    foreign: Option<(DynamicObject, Instant)>,
    /// How often in a row the foreign object was still there.
    sightings: u32,
}

/// What a call has found; none: there is no such object.
#[derive(Debug)]
pub(crate) struct Found(pub(crate) Option<DynamicObject>);

/// Whether an object may be changed back now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Go on.
    Repair,
    /// Somebody else insists.
    Yield,
}

impl Record {
    /// The newer of what the mirror has and what our last write left.
    pub(crate) fn newest(&mut self, seen: Option<DynamicObject>) -> Option<DynamicObject> {
        let seen = seen?;
        match self.written.take() {
            Some(written) if written.uid() == seen.uid() && version(&written) > version(&seen) => {
                self.written = Some(written.clone());
                Some(written)
            }
            _ => Some(seen),
        }
    }

    /// Keeps what a call has just found for the next who asks.
    pub(crate) fn found(&mut self, object: Option<DynamicObject>) {
        self.looked_up = Some(Found(object));
    }

    /// What a call has just found, once.
    pub(crate) fn take_found(&mut self) -> Option<Found> {
        self.looked_up.take()
    }

    /// `object` is somebody else's. It is asked for again after longer and longer.
    pub(crate) fn is_of_another(&mut self, object: &DynamicObject, now: Instant) {
        if self.foreign_object(now).is_none() {
            self.sightings = self.sightings.saturating_add(1);
            let wait = FIRST_RETRY.saturating_mul(1 << self.sightings.min(16)).min(LAST_SIGHTING);
            self.foreign = Some((object.clone(), now + wait));
        }
    }

    /// The object of somebody else, while it is too early to ask for it again.
    pub(crate) fn foreign_object(&self, now: Instant) -> Option<&DynamicObject> {
        self.foreign.as_ref().filter(|(_, until)| now < *until).map(|(object, _)| object)
    }

    /// Our write went through.
    pub(crate) fn wrote(&mut self, object: DynamicObject) {
        self.foreign = None;
        self.sightings = 0;
        self.written = Some(object);
        (self.achieved, self.existed) = (true, true);
        self.failures = 0;
        self.last_failure = None;
    }

    /// `desired` is wanted now. A change of mind starts afresh: earlier quarrels and failures are forgotten.
    pub(crate) fn want(&mut self, desired: &Value) {
        if self.desired != *desired {
            // Who deletes an object does so whatever is wanted of it.
            *self = Self {
                written: self.written.take(),
                desired: desired.clone(),
                existed: self.existed,
                remakes: std::mem::take(&mut self.remakes),
                ..Self::default()
            };
        }
    }

    /// Whether what is wanted was brought about once.
    pub(crate) fn is_achieved(&self) -> bool {
        self.achieved
    }

    /// Asked when the object differs although it was as wanted before: whether to change it back.
    pub(crate) fn judge(&mut self, now: Instant) -> Verdict {
        self.given_up |= self.repairs.left_alone(now).is_some();
        if self.given_up { Verdict::Yield } else { Verdict::Repair }
    }

    /// The object was changed back. An attempt that failed does not count: nobody reverted it.
    pub(crate) fn repaired(&mut self, now: Instant) {
        self.repairs.answered(now);
    }

    /// For how long it is not changed at all, since somebody reverses that; none: it may be.
    pub(crate) fn left_alone(&mut self, now: Instant) -> Option<Duration> {
        self.repairs.left_alone(now)
    }

    /// Whether it has been deleted, if it is missing.
    pub(crate) fn has_existed(&self) -> bool {
        self.existed
    }

    /// Asked when the object is missing although it existed before: whether to make it anew. Who deletes an object
    /// leaves nothing that would show when it has stopped, so this is asked again after a while.
    pub(crate) fn judge_deletion(&mut self, now: Instant) -> Verdict {
        if self.remakes.left_alone(now).is_some() { Verdict::Yield } else { Verdict::Repair }
    }

    /// The object was made anew.
    pub(crate) fn remade(&mut self, now: Instant) {
        self.remakes.answered(now);
    }

    /// Whether nobody has reversed what was written lately, and no attempt has failed: there is nothing to remember.
    pub(crate) fn is_undisputed(&mut self, now: Instant) -> bool {
        self.repairs.is_empty(now) && self.remakes.is_empty(now) && self.is_held(now).is_none()
    }

    /// What is wanted was brought about, by part of a change of which the rest may still fail.
    pub(crate) fn brought_about(&mut self) {
        self.achieved = true;
    }

    /// The object is as wanted.
    pub(crate) fn settled(&mut self) {
        (self.achieved, self.existed) = (true, true);
        self.given_up = false;
        self.failures = 0;
        self.last_failure = None;
    }

    /// The object could not be written.
    pub(crate) fn failed(&mut self, error: String, now: Instant, jitter: f64) {
        self.failures = self.failures.saturating_add(1);
        self.last_failure = Some((error, now + backoff(self.failures, jitter)));
    }

    /// The last failure, while it is too early to try again, and for how long it still is.
    pub(crate) fn is_held(&self, now: Instant) -> Option<(&str, Duration)> {
        let (error, until) = self.last_failure.as_ref()?;
        let left = until.checked_duration_since(now)?;
        (!left.is_zero()).then_some((error.as_str(), left))
    }
}

/// What is remembered of all objects.
pub(crate) type Memory = HashMap<Key, Record>;

/// Doubles with each failure; `jitter` is from 0 to 1.
fn backoff(failures: u32, jitter: f64) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LAST_RETRY);
    doubled.mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0)
}

/// Resource versions grow; what is no number is older than anything.
fn version(object: &DynamicObject) -> u128 {
    object.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(uid: &str, version: &str) -> DynamicObject {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "a", "uid": uid, "resourceVersion": version}}))
        .unwrap()
    }

    #[test]
    fn the_fourth_change_within_ten_minutes_is_left_alone_until_somebody_else_puts_it_right() {
        let (mut record, start) = (Record::default(), Instant::now());
        let at = |minute: u64| start + Duration::from_secs(60 * minute);
        record.want(&json!(1));
        for minute in 0..3 {
            assert_eq!(record.judge(at(minute)), Verdict::Repair);
            assert_eq!(record.judge(at(minute)), Verdict::Repair, "only what was done counts");
            record.repaired(at(minute));
        }
        assert_eq!(record.judge(at(3)), Verdict::Yield);
        assert_eq!(
            record.judge(at(60)),
            Verdict::Yield,
            "the quarrel goes on as long as the object is changed"
        );
        record.settled();
        assert_eq!(record.judge(at(61)), Verdict::Repair);
    }

    #[test]
    fn a_change_of_mind_ends_every_quarrel_and_every_wait() {
        let (mut record, now) = (Record::default(), Instant::now());
        record.want(&json!(1));
        while record.judge(now) == Verdict::Repair {
            record.repaired(now);
        }
        record.failed("no".into(), now, 0.5);
        assert!(record.is_held(now).is_some());
        record.want(&json!(1));
        assert_eq!(record.judge(now), Verdict::Yield);
        record.want(&json!(2));
        assert_eq!(record.judge(now), Verdict::Repair);
        assert!(record.is_held(now).is_none());
    }

    #[test]
    fn an_object_of_somebody_else_is_asked_for_less_and_less_often() {
        let (mut record, start) = (Record::default(), Instant::now());
        let asked = |second: &u64| {
            let now = start + Duration::from_secs(*second);
            let asks = record.foreign_object(now).is_none();
            record.is_of_another(&object("u", "1"), now);
            asks
        };
        let asked: Vec<u64> = (0..600).filter(asked).collect();
        assert!(asked.starts_with(&[0, 1, 3, 7, 15]), "{asked:?}");
        assert!(asked.len() <= 600 / 15 + 5, "{asked:?}");
        assert!(asked.windows(2).all(|pair| pair[1] - pair[0] <= 15), "it is noticed when it is gone");
        record.want(&json!(2));
        assert!(
            record.foreign_object(start + Duration::from_secs(600)).is_none(),
            "something else is wanted"
        );
    }

    #[test]
    fn waits_double_up_to_two_minutes() {
        assert_eq!(backoff(1, 0.5), Duration::from_millis(500));
        assert_eq!(backoff(3, 0.5), Duration::from_secs(2));
        assert_eq!(backoff(u32::MAX, 0.5), Duration::from_mins(2));
        assert!(backoff(2, 0.0) < backoff(2, 1.0));
    }

    #[test]
    fn our_own_write_is_believed_until_the_mirror_has_it() {
        let mut record = Record::default();
        record.wrote(object("u", "10"));
        let version = |object: Option<DynamicObject>| object.and_then(|object| object.resource_version());
        assert_eq!(version(record.newest(Some(object("u", "9")))).as_deref(), Some("10"));
        assert_eq!(version(record.newest(Some(object("u", "11")))).as_deref(), Some("11"));
        assert_eq!(
            version(record.newest(Some(object("u", "9")))).as_deref(),
            Some("9"),
            "forgotten once seen"
        );
        record.wrote(object("u", "20"));
        assert_eq!(version(record.newest(Some(object("other", "12")))).as_deref(), Some("12"));
        assert_eq!(version(record.newest(None)), None);
    }
}
