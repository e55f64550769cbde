//! Step 7: computes the status of the stack, emits events about it, and writes it if it differs.

use std::time::Duration;

use crds::names::{CONTROLLER, SPEAKER};
use crds::{ConfigurationState, InventoryEntry, LoadBalancerStackStatus};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::status::{self, Applied, Obstacle, Outcome, StatusInputs, Workload};
use render::{Kind, Manifests, SpecFinding, ValidatedStack};
use tokio::time::Instant;

use self::crd_check::CrdCheck;
use self::pods::PodIssues;
use self::writer::{StatusWrite, StatusWriter};
use super::dereference::cached;
use super::events::StackEvents;
use crate::api::{Api, json_of};
use crate::metrics::Metrics;
use crate::stack::Stack;
use crate::watch::Caches;

mod crd_check;
mod pods;
mod writer;

pub(crate) use self::writer::WriteError;

/// The interval of reconciliations while nothing changes: they make no calls.
pub(crate) const IDLE_INTERVAL: Duration = Duration::from_mins(5);
/// The interval while something is not in sync.
pub(crate) const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// What the status is computed from, beside the stack: the results of the other steps.
#[derive(Default)]
pub(crate) struct Report {
    /// Errors that invalidate the whole spec; nothing was applied then.
    pub(crate) errors: Vec<SpecFinding>,
    /// The stack, unless it is invalid.
    pub(crate) validated: Option<ValidatedStack>,
    /// The result for each rendered object.
    pub(crate) applied: Option<Manifests<Applied>>,
    /// Problems that concern no rendered object.
    pub(crate) obstacles: Vec<Obstacle>,
    /// Objects that are not rendered and are kept.
    pub(crate) retained: Vec<InventoryEntry>,
    /// Objects that are being deleted.
    pub(crate) terminating: Vec<InventoryEntry>,
}

/// The state of this step between reconciliations.
#[derive(Debug, Default)]
pub(crate) struct StatusState {
    crds: CrdCheck,
    pods: PodIssues,
    writer: StatusWriter,
}

/// The result of this step.
pub(crate) struct StatusUpdate {
    /// The stack as it is now, if it was written.
    pub(crate) written: Option<DynamicObject>,
    /// When to reconcile again if nothing changes.
    pub(crate) next: Duration,
}

/// Updates the status of a stack.
pub(crate) struct StatusUpdater<'a> {
    pub(crate) api: &'a Api,
    pub(crate) caches: &'a Caches,
    pub(crate) metrics: &'a Metrics,
    pub(crate) events: &'a StackEvents<'a>,
    pub(crate) stack: &'a Stack,
    pub(crate) state: &'a mut StatusState,
}

impl StatusUpdater<'_> {
    /// Updates the status after a reconciliation.
    pub(crate) async fn update(&mut self, report: &Report) -> Result<StatusUpdate, WriteError> {
        let namespace = self.stack.namespace();
        let controller: Option<Deployment> = cached(self.caches, &namespace, Kind::Deployment, CONTROLLER);
        let speaker: Option<DaemonSet> = cached(self.caches, &namespace, Kind::DaemonSet, SPEAKER);
        let workloads =
            (controller.as_ref().map(Workload::deployment), speaker.as_ref().map(Workload::daemon_set));
        let pods = self.state.pods.refresh(self.api, &namespace, workloads.0, workloads.1).await;
        let now = Instant::now();
        let definitions = self.state.crds.problems(self.api, now).await;
        let (states, undecoded) = self.configuration_states(&namespace);
        let nothing = Manifests(Vec::new());
        let inputs = StatusInputs {
            generation: self.stack.object.metadata.generation,
            version: env!("CARGO_PKG_VERSION"),
            errors: &report.errors,
            warnings: report.validated.as_ref().map_or(&[], ValidatedStack::warnings),
            degraded: report.validated.as_ref().is_some_and(ValidatedStack::is_degraded),
            states: &states,
            speakers: &self.caches.speaker_conditions(&namespace),
            undecoded: &undecoded,
            definitions: &definitions,
            obstacles: &report.obstacles,
            applied: report.applied.as_ref().unwrap_or(&nothing),
            retained: &report.retained,
            terminating: &report.terminating,
            controller: controller.as_ref(),
            speaker: speaker.as_ref(),
            pods: &pods,
            stalled: self.state.pods.is_stalled(),
        };
        let status = status::status(&inputs, &self.stack.status, &Time(Timestamp::now()));
        self.metrics.set_conditions(&status);
        self.events.conditions(&self.stack.status, &status);
        let (written, retry) = self.write(&status).await?;
        let unsettled = (!is_settled(report)).then_some(RETRY_INTERVAL);
        let retries = [self.state.pods.next_listing(), retry, unsettled];
        let next = retries.into_iter().flatten().min().unwrap_or(IDLE_INTERVAL);
        Ok(StatusUpdate { written, next: next.min(self.state.crds.next_check(now)) })
    }

    /// Updates the status of a stack that is being deleted; `remaining` describes what still exists.
    pub(crate) async fn update_terminating(&mut self, remaining: &str) -> Result<StatusUpdate, WriteError> {
        let generation = self.stack.object.metadata.generation;
        let now = Time(Timestamp::now());
        let status = status::terminating(generation, remaining, &self.stack.status, &now);
        let (written, retry) = self.write(&status).await?;
        Ok(StatusUpdate { written, next: retry.map_or(RETRY_INTERVAL, |retry| retry.min(RETRY_INTERVAL)) })
    }

    /// The configuration states in `namespace`, and messages about those that cannot be decoded.
    fn configuration_states(&self, namespace: &str) -> (Vec<ConfigurationState>, Vec<String>) {
        let (mut decoded, mut undecoded) = (Vec::new(), Vec::new());
        for state in self.caches.configuration_states(namespace) {
            match runtime::decode::decode(json_of(&state)) {
                Ok(state) => decoded.push(state),
                Err(why) => {
                    undecoded
                        .push(format!("ConfigurationState {} cannot be decoded: {why}", state.name_any()));
                }
            }
        }
        (decoded, undecoded)
    }

    /// Writes the status if it differs. Returns the written stack, or when to try again if the status could
    /// not be written now.
    async fn write(
        &mut self,
        status: &LoadBalancerStackStatus,
    ) -> Result<(Option<DynamicObject>, Option<Duration>), WriteError> {
        Ok(match self.state.writer.write(self.api, self.stack, status).await? {
            StatusWrite::Unchanged => (None, None),
            StatusWrite::Written(written) => (Some(*written), None),
            StatusWrite::Delayed(wait) => (None, Some(wait)),
            StatusWrite::Contested { by, first, wait } => {
                if first {
                    let note = format!(
                        "{by} keeps overwriting the status of the stack, which is not written for {} s: stop \
                         the other writer; a cluster must have only one operator",
                        wait.as_secs()
                    );
                    tracing::warn!(by, "{note}");
                    self.events.status_contested(note);
                }
                (None, Some(wait))
            }
        })
    }
}

/// Whether nothing has to be done until something changes.
fn is_settled(report: &Report) -> bool {
    let in_sync = |applied: &Applied| matches!(applied.outcome, Outcome::AsRendered | Outcome::Retained(_));
    let applied = report.applied.as_ref().is_none_or(|applied| applied.0.iter().all(in_sync));
    applied && report.terminating.is_empty() && report.obstacles.is_empty()
}
