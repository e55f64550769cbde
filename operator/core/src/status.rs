//! Computes the status of the stack from what was applied and observed.

use crds::LoadBalancerStackStatus;
use crds::conditions::{self, NewCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use self::inventory::inventory;
use self::summary::Summary;

mod inputs;
mod inventory;
mod outcome;
mod pods;
mod states;
mod summary;
mod workload;

pub use self::inputs::{SpeakerConditions, StatusInputs};
pub use self::inventory::entry;
pub use self::outcome::{Applied, Obstacle, Outcome};
pub use self::pods::{PodIssue, pod_issue};
pub use self::workload::Workload;

/// The status to write. Equal to `old` if nothing changed.
pub fn status(
    inputs: &StatusInputs<'_>,
    old: &LoadBalancerStackStatus,
    now: &Time,
) -> LoadBalancerStackStatus {
    let controller = inputs.controller.map(Workload::deployment);
    let speaker = inputs.speaker.map(Workload::daemon_set);
    let creation_failure = inputs.controller.and_then(workload::creation_failure);
    let pods = inputs
        .pods
        .iter()
        .cloned()
        .chain(creation_failure.map(PodIssue::controller_creation_failed))
        .collect();
    let summary = Summary { inputs, controller, speaker, pods, old: &old.conditions };
    let conditions = [
        summary.available(),
        summary.progressing(),
        summary.degraded(),
        summary.controller_ready(),
        summary.speakers_ready(),
        summary.configuration_valid(),
        summary.beacons_blocked(),
        summary.kernels_answer(),
        summary.exclude_label_ignored(),
        summary.crds_ready(),
    ];
    LoadBalancerStackStatus {
        observed_generation: inputs.generation,
        conditions: conditions::merge(&old.conditions, &conditions, inputs.generation, now),
        version: Some(inputs.version.to_owned()),
        speakers: speaker.map(|workload| workload.ratio()),
        controller: controller.map(|workload| workload.ratio()),
        components: summary.components(),
        inventory: inventory(inputs, old),
    }
}

/// The status of a stack that is being deleted; `remaining` describes what still exists.
pub fn terminating(
    generation: Option<i64>,
    remaining: &str,
    old: &LoadBalancerStackStatus,
    now: &Time,
) -> LoadBalancerStackStatus {
    let condition = |type_, status, message: &str| NewCondition {
        type_,
        status: Some(status),
        reason: "Deleting",
        message: message.to_owned(),
    };
    let conditions = [
        condition("Available", false, "the stack is being deleted"),
        condition("Progressing", true, remaining),
    ];
    LoadBalancerStackStatus {
        observed_generation: generation,
        conditions: conditions::merge(&old.conditions, &conditions, generation, now),
        ..old.clone()
    }
}

#[cfg(test)]
mod tests;
