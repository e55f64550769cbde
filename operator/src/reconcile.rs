//! The reconciliation of the stack. [`Reconciler::reconcile_once`] lists the steps.

mod events;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crds::names::{CONTROLLER, DEFAULT_NAMESPACE, SPEAKER};
use crds::{ConfigurationState, InventoryEntry, LoadBalancerStack, LoadBalancerStackStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::ownership::last_writer;
use render::retention::retained;
use render::status::{Applied, Obstacle, Outcome, StatusInputs, Workload};
use render::{Key, Kind, Manifests, Object, SpecFinding, ValidatedStack, render, status, validate};
use runtime::events::Events;
use serde_json::Value;

use crate::api::{Api, Error};
use crate::apply::{Applier, json_of};
use crate::crd_check::CrdCheck;
use crate::dereference::{self, DereferenceError, LastKnown};
use crate::metrics::Metrics;
use crate::object_state::ObjectStates;
use crate::prune::{Owned, OwnedObjects, Pruner, find_owned};
use crate::release::release;
use crate::rewrite_limit::RewriteLimit;
use crate::stack::{FINALIZER, Stack};
use crate::status::{PodIssues, StatusWrite, StatusWriter};
use crate::teardown::{self, Progress};
use crate::watch::{Caches, INITIAL_LISTS_LIMIT};
use tokio::time::Instant;

/// The interval of reconciliations while nothing changes: they make no calls.
const IDLE_INTERVAL: Duration = Duration::from_mins(5);
/// The interval while something is not in sync.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Why a reconciliation failed as a whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// A call failed that everything else depends on.
    #[error(transparent)]
    Api(#[from] Error),
}

/// Reconciles the stack, and keeps state between reconciliations.
pub(crate) struct Reconciler {
    api: Api,
    caches: Caches,
    events: Events,
    metrics: Metrics,
    image: Option<String>,
    states: ObjectStates,
    /// The states of objects that are to be deleted.
    prune_states: ObjectStates,
    /// The states of objects that belong to users.
    release_states: ObjectStates,
    finalizer: RewriteLimit,
    crds: CrdCheck,
    last_known: LastKnown,
    pods: PodIssues,
    status: StatusWriter,
    /// Until when to wait for initial lists.
    initial_list_deadline: Instant,
    /// The stack as returned by the operator's last write.
    last_written: Option<DynamicObject>,
    /// While the stack is being deleted: until when to wait for pods.
    teardown_deadline: Option<Instant>,
}

impl Reconciler {
    pub(crate) fn new(
        api: Api,
        caches: Caches,
        events: Events,
        metrics: Metrics,
        image: Option<String>,
    ) -> Self {
        Self {
            api,
            caches,
            events,
            metrics,
            image,
            states: ObjectStates::new(),
            prune_states: ObjectStates::new(),
            release_states: ObjectStates::new(),
            finalizer: RewriteLimit::default(),
            crds: CrdCheck::default(),
            last_known: LastKnown::default(),
            pods: PodIssues::default(),
            status: StatusWriter::default(),
            initial_list_deadline: Instant::now() + INITIAL_LISTS_LIMIT,
            last_written: None,
            teardown_deadline: None,
        }
    }

    /// Drops all state, which may be outdated after another operator led.
    pub(crate) fn reset(&mut self) {
        self.states.clear();
        self.prune_states.clear();
        self.release_states.clear();
        self.finalizer = RewriteLimit::default();
        self.crds = CrdCheck::default();
        self.last_known = LastKnown::default();
        self.pods = PodIssues::default();
        self.status = StatusWriter::default();
        self.initial_list_deadline = Instant::now() + INITIAL_LISTS_LIMIT;
        self.last_written = None;
        self.teardown_deadline = None;
    }

    /// Whether a teardown is in progress.
    pub(crate) fn is_tearing_down(&self) -> bool {
        self.teardown_deadline.is_some()
    }

    /// Reads from the API server, if this process leads, whether the stack is being deleted, which the watch
    /// may not have reported yet.
    pub(crate) async fn poll_deletion(&mut self) -> bool {
        match self.api.stack().await {
            Ok(stack) => {
                let deleted = stack.filter(|stack| stack.metadata.deletion_timestamp.is_some());
                let is_deleted = deleted.is_some();
                self.last_written = deleted.or_else(|| self.last_written.take());
                is_deleted
            }
            Err(error) => {
                tracing::debug!(%error, "cannot read whether the stack is being deleted");
                false
            }
        }
    }

    /// Limits the wait for pods to `limit` from now on.
    pub(crate) fn limit_teardown(&mut self, limit: Duration) {
        let latest = Instant::now() + limit;
        self.teardown_deadline = self.teardown_deadline.map(|deadline| deadline.min(latest));
    }

    /// Reconciles the stack. Returns when to reconcile again if nothing changes.
    pub(crate) async fn reconcile(&mut self) -> Duration {
        let result = Box::pin(self.reconcile_once()).await;
        self.metrics.on_reconciled(result.is_err());
        result.unwrap_or_else(|error| {
            tracing::warn!(%error, "reconciliation failed; retrying");
            RETRY_INTERVAL
        })
    }

    async fn reconcile_once(&mut self) -> Result<Duration, ReconcileError> {
        self.caches.wait_initial_lists(self.initial_list_deadline).await;
        let Some(stack) = self.stack() else {
            self.no_stack();
            return Ok(IDLE_INTERVAL);
        };
        self.caches.watch_namespace(&namespace_of(&stack)).await;
        if stack.is_deleting() {
            return self.tear_down(&stack).await;
        }
        let obstacles = self.ensure_finalizer(&stack).await?;
        match self.dereference_and_validate(&stack).await {
            Ok(Ok(validated)) => self.apply_and_prune(&stack, &validated, obstacles).await,
            Ok(Err(errors)) => self.report_invalid(&stack, &errors, &obstacles).await,
            Err(error) => {
                tracing::warn!(%error, "no object is changed");
                let obstacle =
                    Obstacle { subject: "the stack".to_owned(), outcome: Outcome::Failed(error.to_string()) };
                self.report_invalid(&stack, &[], &[obstacles, vec![obstacle]].concat()).await
            }
        }
    }

    /// Sets the finalizer, unless somebody keeps removing it. The stack is reconciled without it all the
    /// same: the finalizer is only needed for those parts of a teardown that garbage collection does not
    /// cover.
    async fn ensure_finalizer(&mut self, stack: &Stack) -> Result<Vec<Obstacle>, Error> {
        if stack.has_finalizer() {
            return Ok(Vec::new());
        }
        let now = Instant::now();
        let outcome = if self.finalizer.blocked_for(now).is_some() {
            Outcome::Contested(format!(
                "{} keeps removing the finalizer {FINALIZER}; without it, deleting the stack leaves labels \
                 of its namespace and ConfigurationStates behind: stop the other writer",
                last_writer(&json_of(&stack.object))
            ))
        } else {
            let finalizers = [stack.object.finalizers(), &[FINALIZER.to_owned()]].concat();
            match self.api.set_finalizers(&stack.object, &finalizers).await {
                Ok(last_written) => {
                    self.finalizer.record(now);
                    self.last_written = Some(last_written);
                    return Ok(Vec::new());
                }
                Err(error @ Error::NotLeading) => return Err(error),
                // The cache will receive the newer version.
                Err(error) if error.is_conflict() => return Ok(Vec::new()),
                Err(error) => {
                    let text = format!("the finalizer {FINALIZER} cannot be set: {}", error.explain());
                    tracing::warn!("{text}");
                    Outcome::Failed(text)
                }
            }
        };
        Ok(vec![Obstacle { subject: "the stack".to_owned(), outcome }])
    }

    /// Steps 1 and 2: dereference and validate.
    async fn dereference_and_validate(
        &mut self,
        stack: &Stack,
    ) -> Result<Result<ValidatedStack, Vec<SpecFinding>>, DereferenceError> {
        let spec = match &stack.spec {
            Ok(spec) => spec,
            Err(finding) => return Ok(Err(vec![finding.clone()])),
        };
        let image = self.image.as_ref();
        let inputs =
            dereference::dereference(&self.api, &mut self.caches, &spec.spec, image, &mut self.last_known)
                .await?;
        Ok(validate(spec, inputs))
    }

    /// Steps 3 to 6: render, apply, prune, update the status.
    async fn apply_and_prune(
        &mut self,
        stack: &Stack,
        validated: &ValidatedStack,
        mut obstacles: Vec<Obstacle>,
    ) -> Result<Duration, ReconcileError> {
        obstacles.extend(self.release(stack).await?);
        let rendered = render(validated).0;
        let desired: BTreeSet<Key> = rendered.iter().map(Object::key).collect();
        self.states.retain(|key, _| desired.contains(key));
        self.prune_states.retain(|key, _| !desired.contains(key));
        let uid = stack.uid();
        let mut applier = Applier {
            api: &self.api,
            caches: &self.caches,
            states: &mut self.states,
            metrics: &self.metrics,
            inventory: &stack.status.inventory,
            validated,
            stack: &uid,
            released: &mut self.release_states,
            changes: Vec::new(),
        };
        let applied = applier.apply_all(&rendered).await;
        let changes = applier.changes;
        self.emit_changes(stack, &changes);
        let (mut retained, surplus, delayed) = self.surplus(stack, validated, &rendered, &applied).await;
        obstacles.extend(delayed);
        let mut pruner =
            Pruner { api: &self.api, caches: &self.caches, states: &mut self.prune_states, stack: &uid };
        let pruned = pruner.prune_all(&surplus).await?;
        retained.extend(pruned.contested);
        obstacles.extend(pruned.obstacles);
        self.emit_released(stack, &pruned.released);
        for key in pruned.deleted {
            self.events.normal(
                &stack.reference(),
                "Prune",
                "Removed",
                format!("{key} is no longer part of the stack"),
            );
        }
        let (terminating, validated) = (pruned.terminating, Some(validated));
        let report = Report {
            applied: &applied,
            obstacles: &obstacles,
            retained: &retained,
            terminating: &terminating,
            errors: &[],
            validated,
        };
        self.update_status(stack, &report).await
    }

    /// Releases objects that belong to users.
    async fn release(&mut self, stack: &Stack) -> Result<Vec<Obstacle>, Error> {
        let (released, obstacles) =
            release(&self.api, &self.caches, &stack.uid(), &mut self.release_states).await?;
        self.emit_released(stack, &released);
        Ok(obstacles)
    }

    /// Finds existing objects that are not rendered: which are kept, which are to be deleted, and why the
    /// deletion of some is delayed.
    async fn surplus(
        &self,
        stack: &Stack,
        validated: &ValidatedStack,
        rendered: &[Object],
        applied: &Manifests<Applied>,
    ) -> (Vec<InventoryEntry>, Vec<Owned>, Vec<Obstacle>) {
        let inventory = &stack.status.inventory;
        let OwnedObjects { objects: owned, unreadable } =
            find_owned(&self.api, &self.caches, &stack.uid(), inventory).await;
        let desired: BTreeSet<Key> = rendered.iter().map(Object::key).collect();
        let surplus = owned
            .into_iter()
            .filter(|owned| owned.key.kind != Kind::Namespace && !desired.contains(&owned.key));
        let (kept, surplus): (Vec<Owned>, Vec<Owned>) =
            surplus.partition(|owned| validated.retains(&owned.key, owned.imported_from.as_deref()));
        let live: BTreeMap<Key, Value> =
            surplus.iter().map(|owned| (owned.key.clone(), owned.live.clone())).collect();
        let delayed = retained(&live, rendered, applied);
        let (waiting, surplus): (Vec<Owned>, Vec<Owned>) =
            surplus.into_iter().partition(|owned| delayed.contains_key(&owned.key));
        let kept = kept.iter().chain(&waiting).map(|owned| status::entry(&owned.key, &owned.uid));
        let retained = kept.chain(unreadable.into_iter().map(|(entry, _)| entry)).collect();
        let obstacle = |(key, why): (Key, String)| Obstacle {
            subject: key.to_string(),
            outcome: Outcome::Retained(why),
        };
        (retained, surplus, delayed.into_iter().map(obstacle).collect())
    }

    /// Leaves all objects unchanged if the spec is invalid or cannot be dereferenced, and reports why.
    async fn report_invalid(
        &mut self,
        stack: &Stack,
        errors: &[SpecFinding],
        obstacles: &[Obstacle],
    ) -> Result<Duration, ReconcileError> {
        let (applied, retained) = (&Manifests(Vec::new()), &stack.status.inventory);
        let report = Report { applied, obstacles, retained, terminating: &[], errors, validated: None };
        self.update_status(stack, &report).await
    }

    /// Step 6: updates the status if it changed.
    async fn update_status(
        &mut self,
        stack: &Stack,
        report: &Report<'_>,
    ) -> Result<Duration, ReconcileError> {
        let namespace = namespace_of(stack);
        let live = |kind, name| {
            dereference::cached(&self.caches, &namespace, kind, name).map(|object| json_of(&object))
        };
        let controller: Option<Value> = live(Kind::Deployment, CONTROLLER);
        let speaker: Option<Value> = live(Kind::DaemonSet, SPEAKER);
        let workloads =
            (controller.as_ref().map(Workload::deployment), speaker.as_ref().map(Workload::daemon_set));
        let pods = self.pods.refresh(&self.api, &namespace, workloads.0, workloads.1).await;
        let now = Instant::now();
        let definitions = self.crds.problems(&self.api, now).await;
        let states = self.caches.configuration_states(&namespace);
        let (mut decoded, mut undecoded) = (Vec::<ConfigurationState>::new(), Vec::new());
        for state in states {
            match runtime::decode::decode(json_of(&state)) {
                Ok(state) => decoded.push(state),
                Err(why) => {
                    undecoded
                        .push(format!("ConfigurationState {} cannot be decoded: {why}", state.name_any()));
                }
            }
        }
        let inputs = StatusInputs {
            generation: stack.object.metadata.generation,
            version: env!("CARGO_PKG_VERSION"),
            errors: report.errors,
            warnings: report.validated.map_or(&[], ValidatedStack::warnings),
            degraded: report.validated.is_some_and(ValidatedStack::is_degraded),
            states: &decoded,
            speakers: &self.caches.speaker_conditions(&namespace),
            undecoded: &undecoded,
            definitions: &definitions,
            obstacles: report.obstacles,
            applied: report.applied,
            retained: report.retained,
            terminating: report.terminating,
            controller: controller.as_ref(),
            speaker: speaker.as_ref(),
            pods: &pods,
            stalled: self.pods.is_stalled(),
        };
        let status = status::status(&inputs, &stack.status, &Time(Timestamp::now()));
        self.metrics.set_conditions(&status);
        self.emit_conditions(stack, &status);
        let again = self.write_status(stack, &status).await?;
        let is_settled =
            |applied: &Applied| matches!(applied.outcome, Outcome::AsRendered | Outcome::Retained(_));
        let is_unsettled = !report.applied.0.iter().all(is_settled)
            || !report.terminating.is_empty()
            || !report.obstacles.is_empty();
        let retries = [self.pods.next_listing(), again, is_unsettled.then_some(RETRY_INTERVAL)];
        let next = retries.into_iter().flatten().min().unwrap_or(IDLE_INTERVAL);
        Ok(next.min(self.crds.next_check(now)))
    }

    /// Writes the status if it differs. Returns when to try again if it could not be written now.
    async fn write_status(
        &mut self,
        stack: &Stack,
        status: &LoadBalancerStackStatus,
    ) -> Result<Option<Duration>, ReconcileError> {
        match self.status.write(&self.api, stack, status).await? {
            StatusWrite::Unchanged => Ok(None),
            StatusWrite::Written(last_written) => {
                self.last_written = Some(*last_written);
                Ok(None)
            }
            StatusWrite::Delayed(wait) => Ok(Some(wait)),
            StatusWrite::Contested { by, first, wait } => {
                if first {
                    let note = format!(
                        "{by} keeps overwriting the status of the stack, which is not written for {} s: stop \
                         the other writer; a cluster must have only one operator",
                        wait.as_secs()
                    );
                    tracing::warn!(by, "{note}");
                    self.events.warning(&stack.reference(), "Report", "StatusContested", note);
                }
                Ok(Some(wait))
            }
        }
    }

    /// One step of the teardown of the stack.
    async fn tear_down(&mut self, stack: &Stack) -> Result<Duration, ReconcileError> {
        if !stack.has_finalizer() {
            return Ok(IDLE_INTERVAL);
        }
        let deadline = *self.teardown_deadline.get_or_insert_with(|| {
            tracing::info!("the stack is being deleted");
            self.release_states.clear();
            Instant::now() + teardown::POD_TIMEOUT
        });
        let namespace = namespace_of(stack);
        // Garbage collection would delete objects that still have the stack as owner.
        let obstacles = self.release(stack).await?;
        let unreleased: Vec<String> = obstacles
            .iter()
            .map(|obstacle| format!("{} ({})", obstacle.subject, obstacle.outcome.text()))
            .collect();
        match teardown::step(&self.api, &self.caches, stack, &namespace, (deadline, &unreleased)).await? {
            Progress::Waiting(what) => {
                let generation = stack.object.metadata.generation;
                let status = status::terminating(generation, &what, &stack.status, &Time(Timestamp::now()));
                let again = self.write_status(stack, &status).await?;
                Ok(again.map_or(RETRY_INTERVAL, |again| again.min(RETRY_INTERVAL)))
            }
            Progress::Done(left) => {
                for what in left {
                    self.events.warning(&stack.reference(), "Delete", "LeftBehind", what);
                }
                let others = stack.object.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER);
                let others: Vec<String> = others.cloned().collect();
                match self.api.set_finalizers(&stack.object, &others).await {
                    Ok(_) => {}
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error.into()),
                }
                tracing::info!("the stack has been deleted");
                self.reset();
                self.metrics.clear();
                Ok(IDLE_INTERVAL)
            }
        }
    }

    /// The newer of the cached stack and the one returned by the last write.
    fn stack(&mut self) -> Option<Stack> {
        let seen = self.caches.stack()?;
        let newer = self.last_written.take().filter(|last_written| {
            let version = |object: &DynamicObject| {
                object.resource_version().and_then(|version| version.parse::<u128>().ok())
            };
            last_written.uid() == seen.uid() && version(last_written) > version(&seen)
        });
        self.last_written.clone_from(&newer);
        Some(Stack::read(newer.unwrap_or_else(|| (*seen).clone())))
    }

    fn no_stack(&mut self) {
        if self.caches.stacks_synced() && (self.last_written.is_some() || self.teardown_deadline.is_some()) {
            self.reset();
            self.metrics.clear();
        }
        self.caches.stop_single_watches();
    }
}

/// The results of a reconciliation, for the status.
struct Report<'a> {
    applied: &'a Manifests<Applied>,
    obstacles: &'a [Obstacle],
    retained: &'a [InventoryEntry],
    terminating: &'a [InventoryEntry],
    errors: &'a [SpecFinding],
    validated: Option<&'a ValidatedStack>,
}

/// The namespace of the stack, even if its spec cannot be parsed as a whole.
fn namespace_of(stack: &Stack) -> String {
    let parsed = stack.spec.as_ref().ok().map(|stack: &LoadBalancerStack| stack.spec.namespace.clone());
    let unparsed = || stack.object.data["spec"]["namespace"].as_str().map(ToOwned::to_owned);
    parsed.or_else(unparsed).unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned())
}
