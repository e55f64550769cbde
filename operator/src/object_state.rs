//! What the operator remembers about each object between reconciliations. It is in memory only: after a
//! restart it is rebuilt from the cluster.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::Key;
use serde_json::Value;
use tokio::time::Instant;

use crate::rewrite_limit::RewriteLimit;

/// The delay before the first retry, and the maximum delay.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const MAX_RETRY: Duration = Duration::from_mins(2);
/// The maximum time for which an object of another owner is cached: it is not watched, so a deletion goes
/// unnoticed for that long.
const MAX_FOREIGN_TTL: Duration = Duration::from_secs(15);

/// The state of one object.
#[derive(Debug, Default)]
pub(crate) struct ObjectState {
    /// The object as returned by the operator's last write, until the cache has caught up with it.
    written: Option<DynamicObject>,
    /// The last desired state.
    desired: Value,
    /// Whether the desired state was reached once: a later difference was caused by another writer.
    reached: bool,
    /// Recent repairs.
    repairs: RewriteLimit,
    /// Whether the object has existed: if it is missing now, somebody deleted it.
    existed: bool,
    /// Recent re-creations after somebody deleted the object.
    recreations: RewriteLimit,
    /// Another writer keeps reverting repairs: the object is left alone until it is in sync again, or the
    /// desired state changes.
    given_up: bool,
    failures: u32,
    last_failure: Option<(String, Instant)>,
    /// The values that admission webhooks changed in the operator's last apply.
    pub(crate) webhook_changes: BTreeMap<String, Value>,
    /// The result of a GET in this reconciliation, for its next reader.
    lookup: Option<Lookup>,
    /// An object of another owner under this name, and until when it is cached.
    foreign: Option<(DynamicObject, Instant)>,
    /// How often in a row the object of the other owner was read.
    foreign_reads: u32,
}

/// The result of a GET; none if the object does not exist.
#[derive(Debug)]
pub(crate) struct Lookup(pub(crate) Option<DynamicObject>);

/// Whether to repair an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Repair it.
    Proceed,
    /// Another writer keeps reverting the repair: leave the object alone.
    GiveUp,
}

impl ObjectState {
    /// The newer of the cached object and the one returned by the operator's last write.
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

    /// Stores the result of a GET for its next reader.
    pub(crate) fn store_lookup(&mut self, object: Option<DynamicObject>) {
        self.lookup = Some(Lookup(object));
    }

    /// Takes the stored result of a GET.
    pub(crate) fn take_lookup(&mut self) -> Option<Lookup> {
        self.lookup.take()
    }

    /// Caches `object`, which has another owner, for a time that doubles with each read.
    pub(crate) fn cache_foreign(&mut self, object: &DynamicObject, now: Instant) {
        if self.foreign_object(now).is_none() {
            self.foreign_reads = self.foreign_reads.saturating_add(1);
            let wait = FIRST_RETRY.saturating_mul(1 << self.foreign_reads.min(16)).min(MAX_FOREIGN_TTL);
            self.foreign = Some((object.clone(), now + wait));
        }
    }

    /// The cached object of another owner.
    pub(crate) fn foreign_object(&self, now: Instant) -> Option<&DynamicObject> {
        self.foreign.as_ref().filter(|(_, until)| now < *until).map(|(object, _)| object)
    }

    /// Records a successful write.
    pub(crate) fn on_written(&mut self, object: DynamicObject) {
        self.foreign = None;
        self.foreign_reads = 0;
        self.written = Some(object);
        (self.reached, self.existed) = (true, true);
        self.failures = 0;
        self.last_failure = None;
    }

    /// Sets the desired state. If it changes, earlier conflicts and failures are forgotten.
    pub(crate) fn set_desired(&mut self, desired: &Value) {
        if self.desired != *desired {
            // Deletions by somebody else are unrelated to the desired state.
            *self = Self {
                written: self.written.take(),
                desired: desired.clone(),
                existed: self.existed,
                recreations: std::mem::take(&mut self.recreations),
                ..Self::default()
            };
        }
    }

    /// Whether the desired state was reached once.
    pub(crate) fn was_in_sync(&self) -> bool {
        self.reached
    }

    /// Decides whether to repair an object that differs although it was in sync before.
    pub(crate) fn decide_repair(&mut self, now: Instant) -> Decision {
        self.given_up |= self.repairs.blocked_for(now).is_some();
        if self.given_up { Decision::GiveUp } else { Decision::Proceed }
    }

    /// Records a repair. (A failed attempt does not count: nobody has reverted it.)
    pub(crate) fn on_repaired(&mut self, now: Instant) {
        self.repairs.record(now);
    }

    /// How long the object must not be written, because another writer keeps reverting it; none: it may be
    /// written.
    pub(crate) fn blocked_for(&mut self, now: Instant) -> Option<Duration> {
        self.repairs.blocked_for(now)
    }

    /// Whether the object has existed before.
    pub(crate) fn has_existed(&self) -> bool {
        self.existed
    }

    /// Decides whether to re-create an object that somebody deleted. Deletions leave no trace that would show
    /// when they stop, so the decision changes once the time window has passed.
    pub(crate) fn decide_recreate(&mut self, now: Instant) -> Decision {
        if self.recreations.blocked_for(now).is_some() { Decision::GiveUp } else { Decision::Proceed }
    }

    /// Records a re-creation.
    pub(crate) fn on_recreated(&mut self, now: Instant) {
        self.recreations.record(now);
    }

    /// Whether there is neither a recent rewrite nor a failure in backoff, so that the state can be dropped.
    pub(crate) fn is_idle(&mut self, now: Instant) -> bool {
        self.repairs.is_idle(now) && self.recreations.is_idle(now) && self.backoff_error(now).is_none()
    }

    /// The desired state was reached by the first of two writes, of which the second may still fail.
    pub(crate) fn mark_reached(&mut self) {
        self.reached = true;
    }

    /// The object is in sync.
    pub(crate) fn on_in_sync(&mut self) {
        (self.reached, self.existed) = (true, true);
        self.given_up = false;
        self.failures = 0;
        self.last_failure = None;
    }

    /// Records a failed write.
    pub(crate) fn on_failed(&mut self, error: String, now: Instant, jitter: f64) {
        self.failures = self.failures.saturating_add(1);
        self.last_failure = Some((error, now + backoff(self.failures, jitter)));
    }

    /// The last failure, while its backoff lasts.
    pub(crate) fn backoff_error(&self, now: Instant) -> Option<&str> {
        let (error, until) = self.last_failure.as_ref()?;
        (now < *until).then_some(error.as_str())
    }
}

/// The states of all objects.
pub(crate) type ObjectStates = HashMap<Key, ObjectState>;

/// The delay after `failures` consecutive failures; `jitter` is from 0 to 1.
fn backoff(failures: u32, jitter: f64) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(MAX_RETRY);
    doubled.mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0)
}

/// A random number from 0 to 1.
pub(crate) fn jitter() -> f64 {
    use ring::rand::SecureRandom as _;
    let mut byte = [0; 1];
    // Without randomness all delays are equal, which is harmless.
    let _ = ring::rand::SystemRandom::new().fill(&mut byte);
    f64::from(byte[0]) / 255.0
}

/// Resource versions increase; one that is not a number counts as the oldest.
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
    fn after_three_repairs_within_ten_minutes_the_object_is_left_alone_until_it_is_in_sync() {
        let (mut state, start) = (ObjectState::default(), Instant::now());
        let at = |minute: u64| start + Duration::from_secs(60 * minute);
        state.set_desired(&json!(1));
        for minute in 0..3 {
            assert_eq!(state.decide_repair(at(minute)), Decision::Proceed);
            assert_eq!(state.decide_repair(at(minute)), Decision::Proceed, "only completed repairs count");
            state.on_repaired(at(minute));
        }
        assert_eq!(state.decide_repair(at(3)), Decision::GiveUp);
        assert_eq!(
            state.decide_repair(at(60)),
            Decision::GiveUp,
            "the conflict lasts as long as the object differs"
        );
        state.on_in_sync();
        assert_eq!(state.decide_repair(at(61)), Decision::Proceed);
    }

    #[test]
    fn a_new_desired_state_ends_every_conflict_and_backoff() {
        let (mut state, now) = (ObjectState::default(), Instant::now());
        state.set_desired(&json!(1));
        while state.decide_repair(now) == Decision::Proceed {
            state.on_repaired(now);
        }
        state.on_failed("no".into(), now, 0.5);
        assert!(state.backoff_error(now).is_some());
        state.set_desired(&json!(1));
        assert_eq!(state.decide_repair(now), Decision::GiveUp);
        state.set_desired(&json!(2));
        assert_eq!(state.decide_repair(now), Decision::Proceed);
        assert!(state.backoff_error(now).is_none());
    }

    #[test]
    fn an_object_of_another_owner_is_read_less_and_less_often() {
        let (mut state, start) = (ObjectState::default(), Instant::now());
        let is_read = |second: &u64| {
            let now = start + Duration::from_secs(*second);
            let reads = state.foreign_object(now).is_none();
            state.cache_foreign(&object("u", "1"), now);
            reads
        };
        let read_at: Vec<u64> = (0..600).filter(is_read).collect();
        assert!(read_at.starts_with(&[0, 1, 3, 7, 15]), "{read_at:?}");
        assert!(read_at.len() <= 600 / 15 + 5, "{read_at:?}");
        assert!(read_at.windows(2).all(|pair| pair[1] - pair[0] <= 15), "a deletion is noticed");
        state.set_desired(&json!(2));
        assert!(
            state.foreign_object(start + Duration::from_secs(600)).is_none(),
            "the desired state has changed"
        );
    }

    #[test]
    fn delays_double_up_to_two_minutes() {
        assert_eq!(backoff(1, 0.5), Duration::from_millis(500));
        assert_eq!(backoff(3, 0.5), Duration::from_secs(2));
        assert_eq!(backoff(u32::MAX, 0.5), Duration::from_mins(2));
        assert!(backoff(2, 0.0) < backoff(2, 1.0));
    }

    #[test]
    fn our_own_write_is_used_until_the_cache_has_it() {
        let mut state = ObjectState::default();
        state.on_written(object("u", "10"));
        let version = |object: Option<DynamicObject>| object.and_then(|object| object.resource_version());
        assert_eq!(version(state.newest(Some(object("u", "9")))).as_deref(), Some("10"));
        assert_eq!(version(state.newest(Some(object("u", "11")))).as_deref(), Some("11"));
        assert_eq!(
            version(state.newest(Some(object("u", "9")))).as_deref(),
            Some("9"),
            "dropped once the cache has it"
        );
        state.on_written(object("u", "20"));
        assert_eq!(version(state.newest(Some(object("other", "12")))).as_deref(), Some("12"));
        assert_eq!(version(state.newest(None)), None);
    }
}
