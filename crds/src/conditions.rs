//! Conditions of a status, and the merge with stored conditions that decides when a transition time changes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// A newly computed condition; [`merge`] sets its transition time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCondition {
    /// CamelCase type, unique within the list.
    pub type_: &'static str,
    /// True, False, or None for Unknown.
    pub status: Option<bool>,
    /// CamelCase reason, for programs.
    pub reason: &'static str,
    /// Human-readable message: what is wrong, and how to fix it.
    pub message: String,
}

impl NewCondition {
    /// The text that the API stores for the status.
    pub fn status_text(&self) -> &'static str {
        match self.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }
}

/// The maximum length of a message in bytes.
const MAX_MESSAGE_BYTES: usize = 32_768;

/// `message`, truncated to the maximum length: the API rejects a status with a longer one.
pub fn truncate_message(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES - "…".len()));
        message.push('…');
    }
    message
}

/// The list to store: all of `new` in order, then those of `old` with other types.
///
/// The transition time changes to `now` only if the status differs from the stored one
/// (API conventions, "Typical status properties").
pub fn merge(
    old: &[Condition],
    new: &[NewCondition],
    observed_generation: Option<i64>,
    now: &Time,
) -> Vec<Condition> {
    let computed = new.iter().map(|condition| {
        let status = condition.status_text();
        let unchanged = old.iter().find(|o| o.type_ == condition.type_ && o.status == status);
        Condition {
            type_: condition.type_.to_owned(),
            status: status.to_owned(),
            reason: condition.reason.to_owned(),
            message: truncate_message(condition.message.clone()),
            observed_generation,
            last_transition_time: unchanged.map_or_else(|| now.clone(), |o| o.last_transition_time.clone()),
        }
    });
    let foreign = old.iter().filter(|o| new.iter().all(|n| n.type_ != o.type_)).cloned();
    computed.chain(foreign).collect()
}

/// Whether the condition `type_` is True in `conditions`.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|c| c.type_ == type_ && c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    fn ready(status: bool, reason: &'static str) -> NewCondition {
        NewCondition { type_: "Ready", status: Some(status), reason, message: String::new() }
    }

    #[test]
    fn the_transition_time_moves_only_when_the_status_flips() {
        let first = merge(&[], &[ready(false, "Starting")], Some(1), &at(1));
        let same = merge(&first, &[ready(false, "Waiting")], Some(2), &at(2));
        assert_eq!(same[0].last_transition_time, at(1));
        assert_eq!(same[0].reason, "Waiting");
        let flipped = merge(&same, &[ready(true, "Up")], Some(2), &at(3));
        assert_eq!(flipped[0].last_transition_time, at(3));
    }

    #[test]
    fn a_message_is_cut_to_what_the_api_takes_at_a_character() {
        let long = NewCondition { message: "ä".repeat(20_000), ..ready(false, "Starting") };
        let stored = merge(&[], &[long], None, &at(1));
        assert!(stored[0].message.len() <= MAX_MESSAGE_BYTES && stored[0].message.ends_with("ä…"));
        assert_eq!(truncate_message(stored[0].message.clone()), stored[0].message, "cut once");
    }

    #[test]
    fn conditions_of_others_are_kept() {
        let stored = merge(&[], &[ready(true, "Up")], None, &at(1));
        let other = NewCondition { type_: "Other", status: None, reason: "R", message: String::new() };
        let merged = merge(&stored, &[other], None, &at(2));
        assert_eq!(merged.iter().map(|c| c.type_.as_str()).collect::<Vec<_>>(), ["Other", "Ready"]);
    }
}
