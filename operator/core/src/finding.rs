//! What validation has to report.

use std::fmt;

/// An error or warning about a field of the stack or of imported configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecFinding {
    /// The field, for example `spec.controller.labels[app]`.
    pub field: String,
    /// The value of the field.
    pub value: String,
    /// What is wrong.
    pub problem: String,
    /// How to fix it.
    pub hint: String,
}

impl fmt::Display for SpecFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, value, problem, hint } = self;
        let value = if value.is_empty() { String::new() } else { format!(" {value:?}") };
        write!(f, "{field}{value}: {problem}; {hint}")
    }
}
