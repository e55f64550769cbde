//! The results of applying objects.

use crate::object::Key;

/// The result of applying one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The object.
    pub key: Key,
    /// The outcome.
    pub outcome: Outcome,
    /// Its UID, if it exists and the operator owns it.
    pub uid: Option<String>,
}

impl Applied {
    /// The error of the object for `status.components`.
    pub(super) fn last_error(&self) -> Option<String> {
        self.outcome.problem().map(|(_, text)| text.to_owned())
    }
}

/// The outcome of applying an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The object is in sync with the rendered one.
    AsRendered,
    /// The object cannot be applied yet.
    Waiting(String),
    /// The object exists and is left unchanged: its source has an error, or it belongs to a user by now.
    Retained(String),
    /// An object of this name exists that the operator did not create.
    Foreign(String),
    /// Another writer keeps changing the object; the operator has stopped reverting it.
    Contested(String),
    /// The API server rejected the call, or could not be reached.
    Failed(String),
}

/// A problem that concerns no rendered object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The object, or part of the stack, that has the problem.
    pub subject: String,
    /// The outcome.
    pub outcome: Outcome,
}

impl Outcome {
    /// The explanation; empty if the object is in sync.
    pub fn text(&self) -> &str {
        match self {
            Self::AsRendered => "",
            Self::Waiting(text)
            | Self::Retained(text)
            | Self::Foreign(text)
            | Self::Contested(text)
            | Self::Failed(text) => text,
        }
    }

    /// The reason and message for `Degraded`, if the outcome is a problem.
    pub(super) fn problem(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::AsRendered | Self::Waiting(_) | Self::Retained(_) => None,
            Self::Foreign(text) => Some(("ForeignObject", text)),
            Self::Contested(text) => Some(("ContestedObject", text)),
            Self::Failed(text) => Some(("ApplyFailed", text)),
        }
    }
}
