//! From what was applied and observed to the status of the stack.

use std::fmt;

use crds::conditions::{self, NewCondition};
use crds::names::{CONTROLLER, SPEAKER};
use crds::{ComponentStatus, ConfigurationState, InventoryEntry, LoadBalancerStackStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::Value;

use crate::{Fault, Key, Kind, Manifests};

mod pods;
mod states;
mod workload;

pub use pods::{PodTrouble, trouble};
pub use workload::Workload;

/// What became of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The object.
    pub key: Key,
    /// What became of it.
    pub outcome: Outcome,
    /// Its UID, if it exists and is the operator's.
    pub uid: Option<String>,
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is as rendered, or was made so just now.
    AsRendered,
    /// It cannot be as rendered yet.
    Waiting(String),
    /// It exists and is left as it is: for an error in what it is made of, or because it is a user's by now.
    Retained(String),
    /// An object of this name exists that the operator did not make.
    Foreign(String),
    /// Somebody else changes it again and again; the operator has stopped changing it back.
    Contested(String),
    /// The API refused, or could not be asked.
    Failed(String),
}

/// What is in the way beside the rendered objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What it is about.
    pub about: String,
    /// What became of it.
    pub outcome: Outcome,
}

impl Outcome {
    /// What is to be said about it; empty if it is as rendered.
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

    fn problem(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::AsRendered | Self::Waiting(_) | Self::Retained(_) => None,
            Self::Foreign(text) => Some(("ForeignObject", text)),
            Self::Contested(text) => Some(("ContestedObject", text)),
            Self::Failed(text) => Some(("ApplyFailed", text)),
        }
    }
}

/// What the status is computed from.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// The generation of the stack.
    pub generation: Option<i64>,
    /// Version of the operator.
    pub version: &'a str,
    /// Faults that spoil the whole spec; nothing was applied then.
    pub faults: &'a [Fault],
    /// What is wrong with inline pools and imported configuration.
    pub doubts: &'a [Fault],
    /// Whether something was left out for it.
    pub spoiled: bool,
    /// What controller and speakers say of the configuration.
    pub states: &'a [ConfigurationState],
    /// Which of these cannot be decoded, and why.
    pub undecoded: &'a [String],
    /// Definitions that are missing or older than the operator.
    pub definitions: &'a [String],
    /// What became of each object.
    pub applied: &'a Manifests<Applied>,
    /// What else is in the way.
    pub obstacles: &'a [Obstacle],
    /// What is not rendered and stays all the same.
    pub kept: &'a [InventoryEntry],
    /// What is to be removed and is not gone yet.
    pub leaving: &'a [InventoryEntry],
    /// The controller's Deployment.
    pub controller: Option<&'a Value>,
    /// The speaker's DaemonSet.
    pub speaker: Option<&'a Value>,
    /// Pods that are not ready.
    pub pods: &'a [PodTrouble],
    /// Whether a rollout has not come any further for longer than its deadline.
    pub stalled: bool,
}

/// The status to store. Equal to `old` if nothing changed.
pub fn status(observed: &Observed<'_>, old: &LoadBalancerStackStatus, now: &Time) -> LoadBalancerStackStatus {
    let controller = observed.controller.map(Workload::deployment);
    let speaker = observed.speaker.map(Workload::daemon_set);
    let refused = observed.controller.and_then(workload::creation_refused);
    let pods = observed.pods.iter().cloned().chain(refused.map(PodTrouble::refused_controller)).collect();
    let summary = Summary { observed, controller, speaker, pods, old: &old.conditions };
    let new = [
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
        observed_generation: observed.generation,
        conditions: conditions::merge(&old.conditions, &new, observed.generation, now),
        version: Some(observed.version.to_owned()),
        speakers: speaker.map(|workload| workload.ratio()),
        controller: controller.map(|workload| workload.ratio()),
        components: summary.components(),
        inventory: inventory(observed, old),
    }
}

/// The conditions of a stack that is being deleted: `left` is what is still there.
pub fn leaving(
    generation: Option<i64>,
    left: &str,
    old: &LoadBalancerStackStatus,
    now: &Time,
) -> LoadBalancerStackStatus {
    let condition = |type_, status, message: &str| NewCondition {
        type_,
        status: Some(status),
        reason: "Deleting",
        message: message.to_owned(),
    };
    let new =
        [condition("Available", false, "the stack is being deleted"), condition("Progressing", true, left)];
    LoadBalancerStackStatus {
        observed_generation: generation,
        conditions: conditions::merge(&old.conditions, &new, generation, now),
        ..old.clone()
    }
}

struct Summary<'a> {
    observed: &'a Observed<'a>,
    controller: Option<Workload>,
    speaker: Option<Workload>,
    pods: Vec<PodTrouble>,
    old: &'a [Condition],
}

impl Summary<'_> {
    fn available(&self) -> NewCondition {
        let say = |status, reason, message: String| condition("Available", status, reason, message);
        let (Some(controller), Some(speaker)) = (self.controller, self.speaker) else {
            return say(false, "NotCreated", self.what_is_missing());
        };
        if controller.ready == 0 {
            return say(false, "ControllerNotReady", self.explain("no controller is ready", CONTROLLER));
        }
        if speaker.observed && speaker.desired == 0 {
            let message =
                "no node is wanted to run a speaker: look at spec.speaker.nodeSelector and affinity";
            return say(false, "NoEligibleNodes", message.to_owned());
        }
        if speaker.desired == 0 || 2 * speaker.ready < speaker.desired {
            let few = format!("only {} speakers are ready", speaker.ratio());
            return say(false, "SpeakersNotReady", self.explain(&few, SPEAKER));
        }
        let ready = format!("{} controllers and {} speakers are ready", controller.ratio(), speaker.ratio());
        say(true, "Ready", ready)
    }

    fn progressing(&self) -> NewCondition {
        let say = |status, reason, message: String| condition("Progressing", status, reason, message);
        if !self.observed.faults.is_empty() {
            return say(false, "InvalidSpec", "nothing is changed until the spec is valid".to_owned());
        }
        let waiting = self.observed.applied.0.iter().find_map(|applied| match &applied.outcome {
            Outcome::Waiting(why) => Some(format!("{} waits: {why}", applied.key)),
            _ => None,
        });
        if let Some(waiting) = waiting {
            return say(true, "Waiting", waiting);
        }
        let retained = |obstacle: &Obstacle| matches!(obstacle.outcome, Outcome::Retained(_));
        if let Some(Obstacle { about, outcome }) =
            self.observed.obstacles.iter().find(|other| retained(other))
        {
            return say(true, "Waiting", format!("{about} {}", outcome.text()));
        }
        if let Some(entry) = self.observed.leaving.first() {
            return say(true, "Removing", format!("{} {} is being removed", entry.kind, entry.name));
        }
        // Once rolled out, a pod that goes down is no progress: that is what Degraded is for.
        let was_complete = self.old.iter().any(|old| old.type_ == "Progressing" && old.status == "False");
        let workloads = [("controllers", self.controller), ("speakers", self.speaker)];
        for (what, workload) in workloads {
            match workload {
                None => return say(true, "Creating", format!("the {what} are not there yet")),
                Some(workload) if !workload.is_rolled_out(was_complete) => {
                    let Workload { updated, desired, ready, .. } = workload;
                    let message = format!("{what}: {updated} of {desired} up to date, {ready} ready");
                    return say(true, "RollingOut", message);
                }
                Some(_) => {}
            }
        }
        say(false, "Complete", "everything is as the spec wants it".to_owned())
    }

    fn degraded(&self) -> NewCondition {
        let say = |status, reason, message: String| condition("Degraded", status, reason, message);
        if !self.observed.faults.is_empty() {
            return say(true, "InvalidSpec", joined(self.observed.faults.iter().map(ToString::to_string)));
        }
        if !self.observed.definitions.is_empty() {
            return say(true, "CRDsNotReady", joined(self.observed.definitions.iter().cloned()));
        }
        let problem = |about: &dyn fmt::Display, outcome: &Outcome| {
            let (reason, text) = outcome.problem()?;
            Some((reason, format!("{about}: {text}")))
        };
        let Observed { applied, obstacles, .. } = self.observed;
        let applied = applied.0.iter().filter_map(|applied| problem(&applied.key, &applied.outcome));
        let others = obstacles.iter().filter_map(|other| problem(&other.about, &other.outcome));
        let problems: Vec<(&str, String)> = applied.chain(others).collect();
        if let Some((reason, _)) = problems.first() {
            return say(true, reason, joined(problems.iter().map(|(_, text)| text.clone())));
        }
        if self.observed.spoiled {
            return say(true, "InvalidConfiguration", self.with_kept(self.doubts()));
        }
        let progressing = self.progressing().status == Some(true);
        for (reason, component, workload) in
            [("ControllerDown", CONTROLLER, self.controller), ("SpeakersDown", SPEAKER, self.speaker)]
        {
            let Some(workload) = workload.filter(|workload| workload.ready < workload.desired) else {
                continue;
            };
            // What is only starting is no trouble yet.
            let stuck = self.pods.iter().any(|pod| pod.component == component && pod.stuck);
            if stuck || self.observed.stalled || !progressing {
                let mut down = format!("{} {component} pods are ready", workload.ratio());
                if self.observed.stalled {
                    down.push_str(", and the rollout makes no progress");
                }
                return say(true, reason, self.explain(&down, component));
            }
        }
        say(false, "AsExpected", String::new())
    }

    fn controller_ready(&self) -> NewCondition {
        let say = |status, reason, message: String| condition("ControllerReady", status, reason, message);
        match self.controller {
            None => say(false, "NotCreated", self.what_is_missing()),
            Some(workload) if workload.ready == 0 => {
                say(false, "NoneReady", self.explain("no controller is ready", CONTROLLER))
            }
            Some(workload) if workload.ready < workload.desired => {
                say(true, "SomeReady", self.explain(&format!("{} are ready", workload.ratio()), CONTROLLER))
            }
            Some(workload) => say(true, "AllReady", format!("{} are ready", workload.ratio())),
        }
    }

    fn speakers_ready(&self) -> NewCondition {
        let say = |status, reason, message: String| condition("SpeakersReady", status, reason, message);
        match self.speaker {
            None => say(false, "NotCreated", self.what_is_missing()),
            Some(workload) if workload.desired == 0 => {
                say(false, "NoEligibleNodes", "no node is wanted to run a speaker".to_owned())
            }
            Some(workload) if workload.ready < workload.desired => {
                say(false, "NotAllReady", self.explain(&format!("{} are ready", workload.ratio()), SPEAKER))
            }
            Some(workload) => say(true, "AllReady", format!("{} are ready", workload.ratio())),
        }
    }

    fn configuration_valid(&self) -> NewCondition {
        let say = |status, reason, message: String| condition("ConfigurationValid", status, reason, message);
        let Observed { faults, spoiled, states, .. } = self.observed;
        let doubts = self.doubts();
        let nothing = doubts.is_empty();
        let said = joined(faults.iter().map(ToString::to_string).chain(doubts));
        let invalid = states::invalid(states);
        match (faults.is_empty(), spoiled, invalid.is_empty(), nothing) {
            (false, _, _, _) => say(false, "InvalidSpec", said),
            (true, true, _, _) => say(false, "InvalidConfiguration", self.with_kept(self.doubts())),
            (true, false, false, _) => say(false, "InvalidObjects", joined(invalid.into_iter())),
            (true, false, true, false) => say(true, "Warnings", said),
            (true, false, true, true) => say(true, "Valid", String::new()),
        }
    }

    /// What is wrong with the configuration, and which objects stay as they are for whatever reason.
    fn doubts(&self) -> Vec<String> {
        let retained = self.observed.applied.0.iter().filter_map(|applied| match &applied.outcome {
            Outcome::Retained(why) => Some(format!("{}: {why}", applied.key)),
            _ => None,
        });
        let undecoded = self.observed.undecoded.iter().cloned();
        self.observed.doubts.iter().map(ToString::to_string).chain(retained).chain(undecoded).collect()
    }

    /// `doubts`, and what is kept although the configuration does not have it.
    fn with_kept(&self, doubts: Vec<String>) -> String {
        let kept = &self.observed.kept;
        let said = joined(doubts.into_iter());
        if kept.is_empty() {
            return said;
        }
        let names = kept.iter().map(|entry| format!("{} {}", entry.kind, entry.name));
        format!("{said}; kept until then as they were: {}", joined(names))
    }

    fn beacons_blocked(&self) -> NewCondition {
        let blocked = states::blocked(self.observed.states);
        if blocked.is_empty() {
            return condition("BeaconsBlocked", false, "AllHeard", String::new());
        }
        condition("BeaconsBlocked", true, "NotHeard", joined(blocked.into_iter()))
    }

    fn kernels_answer(&self) -> NewCondition {
        let answering = states::kernels_answer(self.observed.states);
        if answering.is_empty() {
            return condition("KernelsAnswer", false, "AsExpected", String::new());
        }
        condition("KernelsAnswer", true, "UnannouncedAnswers", joined(answering.into_iter()))
    }

    fn exclude_label_ignored(&self) -> NewCondition {
        match states::label_ignored(self.observed.states) {
            None => condition("ExcludeLabelIgnored", false, "AsExpected", String::new()),
            Some(message) => condition("ExcludeLabelIgnored", true, "OnEveryNode", message.to_owned()),
        }
    }

    fn crds_ready(&self) -> NewCondition {
        let missing = self.observed.definitions;
        if missing.is_empty() {
            return condition("CRDsReady", true, "UpToDate", String::new());
        }
        condition("CRDsReady", false, "MissingOrOld", joined(missing.iter().cloned()))
    }

    /// Why a workload does not exist.
    fn what_is_missing(&self) -> String {
        let failed = self.observed.applied.0.iter().find_map(|applied| match &applied.outcome {
            Outcome::AsRendered => None,
            Outcome::Waiting(why) => Some(format!("{}: {why}", applied.key)),
            other => other.problem().map(|(_, text)| format!("{}: {text}", applied.key)),
        });
        let fault = self.observed.faults.first().map(ToString::to_string);
        fault.or(failed).unwrap_or_else(|| "it is being made".to_owned())
    }

    /// `what`, and which pod of `component` is in which trouble on which node.
    fn explain(&self, what: &str, component: &str) -> String {
        let pods = self.pods.iter().filter(|pod| pod.component == component);
        let told = joined(pods::told(pods).into_iter());
        if told.is_empty() { what.to_owned() } else { format!("{what}: {told}") }
    }

    fn components(&self) -> Vec<ComponentStatus> {
        let error = |kind: Kind| {
            self.observed.applied.0.iter().find(|applied| applied.key.kind == kind).and_then(last_error)
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
        let others = self.observed.applied.0.iter().filter(|applied| !applied.key.kind.is_workload());
        components.extend(others.filter_map(|applied| {
            Some(ComponentStatus {
                kind: applied.key.kind.to_string(),
                name: applied.key.name.clone(),
                last_error: Some(last_error(applied)?),
                ..ComponentStatus::default()
            })
        }));
        components
    }
}

fn last_error(applied: &Applied) -> Option<String> {
    applied.outcome.problem().map(|(_, text)| text.to_owned())
}

/// What exists and is ours: as applied, as kept, as still leaving, and, where nothing was applied, as before.
fn inventory(observed: &Observed<'_>, old: &LoadBalancerStackStatus) -> Vec<InventoryEntry> {
    if !observed.faults.is_empty() {
        return old.inventory.clone();
    }
    let applied = observed.applied.0.iter();
    let mut entries: Vec<InventoryEntry> =
        applied.filter_map(|applied| Some(entry(&applied.key, applied.uid.as_ref()?))).collect();
    entries.extend(observed.kept.iter().chain(observed.leaving).cloned());
    // What could not be looked at may still be there.
    let unseen = applied_without_uid(observed);
    entries.extend(old.inventory.iter().filter(|entry| unseen.iter().any(|key| is_of(key, entry))).cloned());
    entries.sort();
    entries.dedup();
    entries
}

fn applied_without_uid<'a>(observed: &Observed<'a>) -> Vec<&'a Key> {
    let unknown = |applied: &&Applied| {
        applied.uid.is_none() && matches!(applied.outcome, Outcome::Failed(_) | Outcome::Waiting(_))
    };
    observed.applied.0.iter().filter(unknown).map(|applied| &applied.key).collect()
}

/// Whether `entry` is about the object `key`.
fn is_of(key: &Key, entry: &InventoryEntry) -> bool {
    (Kind::find(&entry.api_version, &entry.kind), &entry.namespace, &entry.name)
        == (Some(key.kind), &key.namespace, &key.name)
}

/// The inventory's entry for an object.
pub fn entry(key: &Key, uid: &str) -> InventoryEntry {
    let resource = key.kind.api_resource();
    InventoryEntry {
        api_version: resource.api_version,
        kind: resource.kind,
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        uid: uid.to_owned(),
    }
}

fn condition(type_: &'static str, status: bool, reason: &'static str, message: String) -> NewCondition {
    NewCondition { type_, status: Some(status), reason, message }
}

/// The first few of `texts`, and how many more there are. (A message may have 32 768 bytes.)
fn joined(texts: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 5;
    let texts: Vec<String> = texts.collect();
    let mut text = texts.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("; ");
    if texts.len() > SHOWN {
        text = format!("{text}; and {} more", texts.len() - SHOWN);
    }
    text.truncate(text.floor_char_boundary(4096));
    text
}

#[cfg(test)]
mod tests;
