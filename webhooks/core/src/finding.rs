//! What the judge has to say about an object.

use std::fmt;

/// An object of the API by kind and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace; none if it is cluster-scoped.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// The reference to `object`.
    pub fn of<K: crds::Resource>(kind: &'static str, object: &K) -> Self {
        let meta = object.meta();
        Self { kind, namespace: meta.namespace.clone(), name: meta.name.clone().unwrap_or_default() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// What follows from a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The object works; someone should look at it.
    Warning,
    /// The object is left out, and admission refuses it.
    Error,
}

/// One thing to say about one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The object.
    pub object: ObjectRef,
    /// What follows.
    pub severity: Severity,
    /// Path of the field, as `spec.addresses[0]`.
    pub field: String,
    /// The value that is there.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What would be right, or what to do.
    pub remedy: String,
    /// The other object of a clash.
    pub other: Option<ObjectRef>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.field)?;
        if !self.value.is_empty() {
            write!(f, " {:?}", self.value)?;
        }
        write!(f, ": {}", self.problem)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

/// Collects the findings on one object.
pub(crate) struct Report<'a> {
    object: ObjectRef,
    findings: &'a mut Vec<Finding>,
    failed: bool,
}

impl<'a> Report<'a> {
    pub(crate) fn new(object: ObjectRef, findings: &'a mut Vec<Finding>) -> Self {
        Self { object, findings, failed: false }
    }

    pub(crate) fn object(&self) -> &ObjectRef {
        &self.object
    }

    /// Whether any error was reported: the object is to be left out.
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    pub(crate) fn error(
        &mut self,
        field: impl Into<String>,
        value: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.failed = true;
        self.add(Severity::Error, field.into(), value.into(), problem.into(), remedy.into(), None);
    }

    pub(crate) fn clash(
        &mut self,
        field: impl Into<String>,
        value: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
        other: ObjectRef,
    ) {
        self.failed = true;
        self.add(Severity::Error, field.into(), value.into(), problem.into(), remedy.into(), Some(other));
    }

    pub(crate) fn warning(
        &mut self,
        field: impl Into<String>,
        value: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Severity::Warning, field.into(), value.into(), problem.into(), remedy.into(), None);
    }

    fn add(
        &mut self,
        severity: Severity,
        field: String,
        value: String,
        problem: String,
        remedy: String,
        other: Option<ObjectRef>,
    ) {
        self.findings.push(Finding {
            object: self.object.clone(),
            severity,
            field,
            value,
            problem,
            remedy,
            other,
        });
    }
}
