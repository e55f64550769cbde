//! The inputs of the status.

use crds::{ConfigurationState, InventoryEntry};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::outcome::{Applied, Obstacle};
use super::pods::PodIssue;
use crate::finding::SpecFinding;
use crate::object::Manifests;

/// The conditions that the speaker of a node reports in its `SpeakerState`.
#[derive(Clone, Debug, PartialEq)]
pub struct SpeakerConditions {
    /// The node.
    pub node: String,
    /// The conditions.
    pub conditions: Vec<Condition>,
}

/// What the status is computed from.
#[derive(Clone, Debug)]
pub struct StatusInputs<'a> {
    /// The generation of the stack.
    pub generation: Option<i64>,
    /// The version of the operator.
    pub version: &'a str,
    /// Errors that invalidate the whole spec; nothing was applied then.
    pub errors: &'a [SpecFinding],
    /// Findings that do not invalidate the whole spec.
    pub warnings: &'a [SpecFinding],
    /// Whether configuration was left out because of an error.
    pub degraded: bool,
    /// The configuration states reported by controller and speakers.
    pub states: &'a [ConfigurationState],
    /// The conditions that speakers report.
    pub speakers: &'a [SpeakerConditions],
    /// Configuration states that cannot be decoded, with the reason.
    pub undecoded: &'a [String],
    /// CustomResourceDefinitions that are missing or older than the operator.
    pub definitions: &'a [String],
    /// The result for each rendered object.
    pub applied: &'a Manifests<Applied>,
    /// Problems that concern no rendered object.
    pub obstacles: &'a [Obstacle],
    /// Objects that are not rendered and are kept.
    pub retained: &'a [InventoryEntry],
    /// Objects that are being deleted.
    pub terminating: &'a [InventoryEntry],
    /// The controller's Deployment.
    pub controller: Option<&'a Deployment>,
    /// The speaker's DaemonSet.
    pub speaker: Option<&'a DaemonSet>,
    /// Pods that are not ready.
    pub pods: &'a [PodIssue],
    /// Whether a rollout has exceeded its progress deadline.
    pub stalled: bool,
}
