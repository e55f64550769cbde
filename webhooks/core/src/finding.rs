//! Findings: what validation reports about an object.

use std::fmt;

use crds::ObjectMeta;

use crate::objects::ConfigKind;

/// A reference to an API object by kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace; none for a cluster-scoped object.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// The reference to `object`.
    pub fn of<K: ConfigKind>(object: &K) -> Self {
        Self::with_kind(K::KIND, object.meta())
    }

    /// The reference to the object with this kind and metadata.
    pub(crate) fn with_kind(kind: &'static str, meta: &ObjectMeta) -> Self {
        Self { kind, namespace: meta.namespace.clone(), name: meta.name.clone().unwrap_or_default() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The object is valid and in use, but may not be what its author intended.
    Warning,
    /// The object is rejected: it is not used, and admission denies it.
    Error,
}

/// A problem of one field of one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The object.
    pub object: ObjectRef,
    /// Whether the object is rejected.
    pub severity: Severity,
    /// Path of the field, such as `spec.addresses[0]`.
    pub field: String,
    /// The value of the field; empty if it is absent.
    pub value: String,
    /// What is wrong.
    pub problem: String,
    /// How to fix it.
    pub hint: String,
    /// The other object of a conflict.
    pub related: Option<ObjectRef>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.field)?;
        if !self.value.is_empty() {
            write!(f, " {:?}", self.value)?;
        }
        write!(f, ": {}", self.problem)?;
        if !self.hint.is_empty() {
            write!(f, "; {}", self.hint)?;
        }
        Ok(())
    }
}

/// Collects the findings on one object.
pub(crate) struct Reporter<'a> {
    object: ObjectRef,
    findings: &'a mut Vec<Finding>,
    failed: bool,
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(object: ObjectRef, findings: &'a mut Vec<Finding>) -> Self {
        Self { object, findings, failed: false }
    }

    pub(crate) fn object(&self) -> &ObjectRef {
        &self.object
    }

    /// Whether an error was reported: the object is rejected.
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    pub(crate) fn error(
        &mut self,
        field: impl Into<String>,
        value: impl Into<String>,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.failed = true;
        self.add(Severity::Error, field.into(), value.into(), problem.into(), hint.into(), None);
    }

    pub(crate) fn conflict(
        &mut self,
        field: impl Into<String>,
        value: impl Into<String>,
        problem: impl Into<String>,
        hint: impl Into<String>,
        other: ObjectRef,
    ) {
        self.failed = true;
        self.add(Severity::Error, field.into(), value.into(), problem.into(), hint.into(), Some(other));
    }

    pub(crate) fn warning(
        &mut self,
        field: impl Into<String>,
        value: impl Into<String>,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.add(Severity::Warning, field.into(), value.into(), problem.into(), hint.into(), None);
    }

    fn add(
        &mut self,
        severity: Severity,
        field: String,
        value: String,
        problem: String,
        hint: String,
        related: Option<ObjectRef>,
    ) {
        self.findings.push(Finding {
            object: self.object.clone(),
            severity,
            field,
            value,
            problem,
            hint,
            related,
        });
    }
}
