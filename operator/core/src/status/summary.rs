//! The conditions and components of the stack.

use std::fmt;

use crds::ComponentStatus;
use crds::conditions::NewCondition;
use crds::names::{CONTROLLER, SPEAKER};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::inputs::StatusInputs;
use super::outcome::{Applied, Obstacle, Outcome};
use super::pods::{self, PodIssue};
use super::states;
use super::workload::Workload;
use crate::object::Kind;

/// What the conditions are computed from.
pub(super) struct Summary<'a> {
    pub(super) inputs: &'a StatusInputs<'a>,
    pub(super) controller: Option<Workload>,
    pub(super) speaker: Option<Workload>,
    pub(super) pods: Vec<PodIssue>,
    pub(super) old: &'a [Condition],
}

impl Summary<'_> {
    pub(super) fn available(&self) -> NewCondition {
        let new = |status, reason, message: String| condition("Available", status, reason, message);
        let (Some(controller), Some(speaker)) = (self.controller, self.speaker) else {
            return new(false, "NotCreated", self.why_missing());
        };
        if controller.ready == 0 {
            return new(false, "ControllerNotReady", self.explain("no controller is ready", CONTROLLER));
        }
        if speaker.observed && speaker.desired == 0 {
            let message =
                "no node is eligible to run a speaker: check spec.speaker.nodeSelector and affinity";
            return new(false, "NoEligibleNodes", message.to_owned());
        }
        if speaker.desired == 0 || 2 * speaker.ready < speaker.desired {
            let few = format!("only {} speakers are ready", speaker.ratio());
            return new(false, "SpeakersNotReady", self.explain(&few, SPEAKER));
        }
        let ready = format!("{} controllers and {} speakers are ready", controller.ratio(), speaker.ratio());
        new(true, "Ready", ready)
    }

    pub(super) fn progressing(&self) -> NewCondition {
        let new = |status, reason, message: String| condition("Progressing", status, reason, message);
        if !self.inputs.errors.is_empty() {
            return new(false, "InvalidSpec", "nothing is changed until the spec is valid".to_owned());
        }
        let waiting = self.inputs.applied.0.iter().find_map(|applied| match &applied.outcome {
            Outcome::Waiting(why) => Some(format!("{} waits: {why}", applied.key)),
            _ => None,
        });
        if let Some(waiting) = waiting {
            return new(true, "Waiting", waiting);
        }
        let is_retained = |obstacle: &Obstacle| matches!(obstacle.outcome, Outcome::Retained(_));
        if let Some(Obstacle { subject, outcome }) =
            self.inputs.obstacles.iter().find(|other| is_retained(other))
        {
            return new(true, "Waiting", format!("{subject} {}", outcome.text()));
        }
        if let Some(entry) = self.inputs.terminating.first() {
            return new(true, "Removing", format!("{} {} is being removed", entry.kind, entry.name));
        }
        // A pod that fails after the rollout is reported by Degraded, not by Progressing.
        let was_complete = self.old.iter().any(|old| old.type_ == "Progressing" && old.status == "False");
        let workloads = [("controllers", self.controller), ("speakers", self.speaker)];
        for (what, workload) in workloads {
            match workload {
                None => return new(true, "Creating", format!("the {what} do not exist yet")),
                Some(workload) if !workload.is_rolled_out(was_complete) => {
                    let Workload { updated, desired, ready, .. } = workload;
                    let message = format!("{what}: {updated} of {desired} up to date, {ready} ready");
                    return new(true, "RollingOut", message);
                }
                Some(_) => {}
            }
        }
        new(false, "Complete", "the stack is in sync with the spec".to_owned())
    }

    pub(super) fn degraded(&self) -> NewCondition {
        let new = |status, reason, message: String| condition("Degraded", status, reason, message);
        if !self.inputs.errors.is_empty() {
            return new(true, "InvalidSpec", join_first(self.inputs.errors.iter().map(ToString::to_string)));
        }
        if !self.inputs.definitions.is_empty() {
            return new(true, "CRDsNotReady", join_first(self.inputs.definitions.iter().cloned()));
        }
        let problem = |subject: &dyn fmt::Display, outcome: &Outcome| {
            let (reason, text) = outcome.problem()?;
            Some((reason, format!("{subject}: {text}")))
        };
        let StatusInputs { applied, obstacles, .. } = self.inputs;
        let applied = applied.0.iter().filter_map(|applied| problem(&applied.key, &applied.outcome));
        let others = obstacles.iter().filter_map(|other| problem(&other.subject, &other.outcome));
        let problems: Vec<(&str, String)> = applied.chain(others).collect();
        if let Some((reason, _)) = problems.first() {
            return new(true, reason, join_first(problems.iter().map(|(_, text)| text.clone())));
        }
        if self.inputs.degraded {
            return new(true, "InvalidConfiguration", self.with_retained(self.warnings()));
        }
        let progressing = self.progressing().status == Some(true);
        for (reason, component, workload) in
            [("ControllerDown", CONTROLLER, self.controller), ("SpeakersDown", SPEAKER, self.speaker)]
        {
            let Some(workload) = workload.filter(|workload| workload.ready < workload.desired) else {
                continue;
            };
            // Pods that are starting are no problem yet.
            let stuck = self.pods.iter().any(|pod| pod.component == component && pod.stuck);
            if stuck || self.inputs.stalled || !progressing {
                let mut down = format!("{} {component} pods are ready", workload.ratio());
                if self.inputs.stalled {
                    down.push_str(", and the rollout makes no progress");
                }
                return new(true, reason, self.explain(&down, component));
            }
        }
        new(false, "AsExpected", String::new())
    }

    pub(super) fn controller_ready(&self) -> NewCondition {
        let new = |status, reason, message: String| condition("ControllerReady", status, reason, message);
        match self.controller {
            None => new(false, "NotCreated", self.why_missing()),
            Some(workload) if workload.ready == 0 => {
                new(false, "NoneReady", self.explain("no controller is ready", CONTROLLER))
            }
            Some(workload) if workload.ready < workload.desired => {
                new(true, "SomeReady", self.explain(&format!("{} are ready", workload.ratio()), CONTROLLER))
            }
            Some(workload) => new(true, "AllReady", format!("{} are ready", workload.ratio())),
        }
    }

    pub(super) fn speakers_ready(&self) -> NewCondition {
        let new = |status, reason, message: String| condition("SpeakersReady", status, reason, message);
        match self.speaker {
            None => new(false, "NotCreated", self.why_missing()),
            Some(workload) if workload.desired == 0 => {
                new(false, "NoEligibleNodes", "no node is eligible to run a speaker".to_owned())
            }
            Some(workload) if workload.ready < workload.desired => {
                new(false, "NotAllReady", self.explain(&format!("{} are ready", workload.ratio()), SPEAKER))
            }
            Some(workload) => new(true, "AllReady", format!("{} are ready", workload.ratio())),
        }
    }

    pub(super) fn configuration_valid(&self) -> NewCondition {
        let new = |status, reason, message: String| condition("ConfigurationValid", status, reason, message);
        let StatusInputs { errors, degraded, states, .. } = self.inputs;
        let warnings = self.warnings();
        let nothing = warnings.is_empty();
        let message = join_first(errors.iter().map(ToString::to_string).chain(warnings));
        let invalid = states::errors(states);
        match (errors.is_empty(), degraded, invalid.is_empty(), nothing) {
            (false, _, _, _) => new(false, "InvalidSpec", message),
            (true, true, _, _) => new(false, "InvalidConfiguration", self.with_retained(self.warnings())),
            (true, false, false, _) => new(false, "InvalidObjects", join_first(invalid.into_iter())),
            (true, false, true, false) => new(true, "Warnings", message),
            (true, false, true, true) => new(true, "Valid", String::new()),
        }
    }

    /// The warnings of the stack, the objects that are left unchanged, and undecodable configuration states.
    fn warnings(&self) -> Vec<String> {
        let retained = self.inputs.applied.0.iter().filter_map(|applied| match &applied.outcome {
            Outcome::Retained(why) => Some(format!("{}: {why}", applied.key)),
            _ => None,
        });
        let undecoded = self.inputs.undecoded.iter().cloned();
        self.inputs.warnings.iter().map(ToString::to_string).chain(retained).chain(undecoded).collect()
    }

    /// `warnings`, and the objects that are kept although they are not rendered.
    fn with_retained(&self, warnings: Vec<String>) -> String {
        let retained = &self.inputs.retained;
        let message = join_first(warnings.into_iter());
        if retained.is_empty() {
            return message;
        }
        let names = retained.iter().map(|entry| format!("{} {}", entry.kind, entry.name));
        format!("{message}; kept unchanged until then: {}", join_first(names))
    }

    fn reports(&self) -> states::Reports<'_> {
        states::Reports { speakers: self.inputs.speakers, legacy: self.inputs.states }
    }

    pub(super) fn beacons_blocked(&self) -> NewCondition {
        let blocked = self.reports().beacons_blocked();
        if blocked.is_empty() {
            return condition("BeaconsBlocked", false, "AllHeard", String::new());
        }
        condition("BeaconsBlocked", true, "NotHeard", join_first(blocked.into_iter()))
    }

    pub(super) fn kernels_answer(&self) -> NewCondition {
        let answering = self.reports().kernels_answer();
        if answering.is_empty() {
            return condition("KernelsAnswer", false, "AsExpected", String::new());
        }
        condition("KernelsAnswer", true, "UnannouncedAnswers", join_first(answering.into_iter()))
    }

    pub(super) fn exclude_label_ignored(&self) -> NewCondition {
        match self.reports().exclude_label_ignored_message() {
            None => condition("ExcludeLabelIgnored", false, "AsExpected", String::new()),
            Some(message) => condition("ExcludeLabelIgnored", true, "OnEveryNode", message.to_owned()),
        }
    }

    pub(super) fn crds_ready(&self) -> NewCondition {
        let missing = self.inputs.definitions;
        if missing.is_empty() {
            return condition("CRDsReady", true, "UpToDate", String::new());
        }
        condition("CRDsReady", false, "MissingOrOld", join_first(missing.iter().cloned()))
    }

    /// Why a workload does not exist.
    fn why_missing(&self) -> String {
        let failed = self.inputs.applied.0.iter().find_map(|applied| match &applied.outcome {
            Outcome::AsRendered => None,
            Outcome::Waiting(why) => Some(format!("{}: {why}", applied.key)),
            other => other.problem().map(|(_, text)| format!("{}: {text}", applied.key)),
        });
        let error = self.inputs.errors.first().map(ToString::to_string);
        error.or(failed).unwrap_or_else(|| "it is being created".to_owned())
    }

    /// `what`, followed by the issues of the pods of `component`, grouped by issue.
    fn explain(&self, what: &str, component: &str) -> String {
        let pods = self.pods.iter().filter(|pod| pod.component == component);
        let issues = join_first(pods::summarize(pods).into_iter());
        if issues.is_empty() { what.to_owned() } else { format!("{what}: {issues}") }
    }

    pub(super) fn components(&self) -> Vec<ComponentStatus> {
        let error = |kind: Kind| {
            self.inputs
                .applied
                .0
                .iter()
                .find(|applied| applied.key.kind == kind)
                .and_then(Applied::last_error)
        };
        let workloads =
            [(Kind::Deployment, CONTROLLER, self.controller), (Kind::DaemonSet, SPEAKER, self.speaker)];
        let mut components: Vec<ComponentStatus> = workloads
            .into_iter()
            .map(|(kind, name, workload)| ComponentStatus {
                kind: kind.to_string(),
                name: name.to_owned(),
                desired: workload.map(|workload| workload.desired),
                ready: workload.map(|workload| workload.ready),
                updated: workload.map(|workload| workload.updated),
                last_error: error(kind),
            })
            .collect();
        let others = self.inputs.applied.0.iter().filter(|applied| !applied.key.kind.is_workload());
        components.extend(others.filter_map(|applied| {
            Some(ComponentStatus {
                kind: applied.key.kind.to_string(),
                name: applied.key.name.clone(),
                last_error: Some(applied.last_error()?),
                ..ComponentStatus::default()
            })
        }));
        components
    }
}

fn condition(type_: &'static str, status: bool, reason: &'static str, message: String) -> NewCondition {
    NewCondition { type_, status: Some(status), reason, message }
}

/// The first few of `texts`, and the number of the others. (A condition message may have 32 768 bytes.)
fn join_first(texts: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 5;
    let texts: Vec<String> = texts.collect();
    let mut text = texts.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("; ");
    if texts.len() > SHOWN {
        text = format!("{text}; and {} more", texts.len() - SHOWN);
    }
    text.truncate(text.floor_char_boundary(4096));
    text
}
