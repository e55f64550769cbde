//! One look at the stack: a table of contents.

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crds::names::{CONTROLLER, DEFAULT_NAMESPACE, SPEAKER};
use crds::{ConfigurationState, InventoryEntry, LoadBalancerStack, LoadBalancerStackStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::health::{Applied, Observed, Obstacle, Outcome, Workload};
use render::ownership::last_writer;
use render::retention::retained;
use render::{Fault, Key, Kind, Manifests, Object, ValidatedStack, health, render, validate};
use runtime::events::Events;
use serde_json::Value;

use crate::api::{Api, Error};
use crate::apply::{Applier, json_of};
use crate::definitions::Definitions;
use crate::dereference::{self, FactsError, Known};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::pacing::Reversals;
use crate::prune::{Inventory, Made, Pruner, made};
use crate::release::release;
use crate::stack::{FINALIZER, Stack};
use crate::status::{StatusWriter, Stored, TroubledPods};
use crate::teardown::{self, Progress};
use crate::watch::{Caches, FIRST_LISTS};
use tokio::time::Instant;

/// When to look again if nothing happens: a look at rest makes no call.
const AT_REST: Duration = Duration::from_mins(5);
/// While something is in the way.
const WHILE_FAILING: Duration = Duration::from_secs(1);

/// Why a look ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// A call failed that everything else depends on.
    #[error(transparent)]
    Api(#[from] Error),
}

/// What it takes to look at the stack, and what is remembered between two looks.
pub(crate) struct Reconciler {
    api: Api,
    caches: Caches,
    events: Events,
    metrics: Metrics,
    image: Option<String>,
    memory: Memory,
    /// What is remembered of objects that are to go.
    pruned: Memory,
    /// What is remembered of objects that are their users'.
    released: Memory,
    finalizer: Reversals,
    definitions: Definitions,
    known: Known,
    pods: TroubledPods,
    status: StatusWriter,
    /// Until when to wait for mirrors to be filled.
    mirrors_due: Instant,
    /// The stack as our last write left it.
    written: Option<DynamicObject>,
    /// While the stack is being deleted: until when to wait for what is to go first.
    deadline: Option<Instant>,
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
            memory: Memory::new(),
            pruned: Memory::new(),
            released: Memory::new(),
            finalizer: Reversals::default(),
            definitions: Definitions::default(),
            known: Known::default(),
            pods: TroubledPods::default(),
            status: StatusWriter::default(),
            mirrors_due: Instant::now() + FIRST_LISTS,
            written: None,
            deadline: None,
        }
    }

    /// Forgets what may have changed while another operator led.
    pub(crate) fn begin(&mut self) {
        self.memory.clear();
        self.pruned.clear();
        self.released.clear();
        self.finalizer = Reversals::default();
        self.definitions = Definitions::default();
        self.known = Known::default();
        self.pods = TroubledPods::default();
        self.status = StatusWriter::default();
        self.mirrors_due = Instant::now() + FIRST_LISTS;
        self.written = None;
        self.deadline = None;
    }

    /// Whether a deletion is under way.
    pub(crate) fn is_tearing_down(&self) -> bool {
        self.deadline.is_some()
    }

    /// Asks the API, if this process leads, whether the stack is being deleted; the watch may not have told yet.
    pub(crate) async fn learns_of_deletion(&mut self) -> bool {
        match self.api.stack().await {
            Ok(stack) => {
                let leaving = stack.filter(|stack| stack.metadata.deletion_timestamp.is_some());
                let learns = leaving.is_some();
                self.written = leaving.or_else(|| self.written.take());
                learns
            }
            Err(error) => {
                tracing::debug!(%error, "cannot ask whether the stack is being deleted");
                false
            }
        }
    }

    /// Waits no longer than `patience` from now on for what is to go first.
    pub(crate) fn hurry(&mut self, patience: Duration) {
        let latest = Instant::now() + patience;
        self.deadline = self.deadline.map(|deadline| deadline.min(latest));
    }

    /// Looks at the stack and does what can be done now. Returns when to look again if nothing happens.
    pub(crate) async fn reconcile(&mut self) -> Duration {
        let result = Box::pin(self.look()).await;
        self.metrics.reconciled(result.is_err());
        result.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot reconcile, trying again");
            WHILE_FAILING
        })
    }

    async fn look(&mut self) -> Result<Duration, ReconcileError> {
        self.caches.first_lists(self.mirrors_due).await;
        let Some(stack) = self.stack() else {
            self.no_stack();
            return Ok(AT_REST);
        };
        self.caches.follow_namespace(&namespace_of(&stack)).await;
        if stack.is_leaving() {
            return self.tear_down(&stack).await;
        }
        let obstacles = self.ensure_finalizer(&stack).await?;
        match self.dereference_and_validate(&stack).await {
            Ok(Ok(validated)) => self.bring_about(&stack, &validated, obstacles).await,
            Ok(Err(faults)) => self.keep_what_runs(&stack, &faults, &obstacles).await,
            Err(unknown) => {
                tracing::warn!(error = %unknown, "nothing is changed");
                let obstacle =
                    Obstacle { about: "the stack".to_owned(), outcome: Outcome::Failed(unknown.to_string()) };
                self.keep_what_runs(&stack, &[], &[obstacles, vec![obstacle]].concat()).await
            }
        }
    }

    /// Sets our finalizer, unless somebody removes it again and again. The stack is brought about without it all the same:
    /// all that is missing then is what a deletion does beyond garbage collection.
    async fn ensure_finalizer(&mut self, stack: &Stack) -> Result<Vec<Obstacle>, Error> {
        if stack.has_finalizer() {
            return Ok(Vec::new());
        }
        let now = Instant::now();
        let outcome = if self.finalizer.left_alone(now).is_some() {
            Outcome::Contested(format!(
                "{} removes the finalizer {FINALIZER} again and again; without it a deletion of the stack leaves labels of \
                 its namespace and ConfigurationStates behind: stop what removes it",
                last_writer(&json_of(&stack.object))
            ))
        } else {
            let finalizers = [stack.object.finalizers(), &[FINALIZER.to_owned()]].concat();
            match self.api.set_finalizers(&stack.object, &finalizers).await {
                Ok(written) => {
                    self.finalizer.answered(now);
                    self.written = Some(written);
                    return Ok(Vec::new());
                }
                Err(error @ Error::NotLeading) => return Err(error),
                // The mirror will have what is newer.
                Err(error) if error.is_outdated() => return Ok(Vec::new()),
                Err(error) => {
                    let text = format!("the finalizer {FINALIZER} cannot be set: {}", error.explain());
                    tracing::warn!("{text}");
                    Outcome::Failed(text)
                }
            }
        };
        Ok(vec![Obstacle { about: "the stack".to_owned(), outcome }])
    }

    /// Steps 1 and 2: what the spec points at, and whether it can be rendered.
    async fn dereference_and_validate(
        &mut self,
        stack: &Stack,
    ) -> Result<Result<ValidatedStack, Vec<Fault>>, FactsError> {
        let spec = match &stack.spec {
            Ok(spec) => spec,
            Err(fault) => return Ok(Err(vec![fault.clone()])),
        };
        let image = self.image.as_ref();
        let facts =
            dereference::facts(&self.api, &mut self.caches, &spec.spec, image, &mut self.known).await?;
        Ok(validate(spec, facts))
    }

    /// Steps 3 to 6: render, apply, prune, status.
    async fn bring_about(
        &mut self,
        stack: &Stack,
        validated: &ValidatedStack,
        mut obstacles: Vec<Obstacle>,
    ) -> Result<Duration, ReconcileError> {
        obstacles.extend(self.release(stack).await?);
        let rendered = render(validated).0;
        let wanted: BTreeSet<Key> = rendered.iter().map(Object::key).collect();
        self.memory.retain(|key, _| wanted.contains(key));
        self.pruned.retain(|key, _| !wanted.contains(key));
        let uid = stack.uid();
        let mut applier = Applier {
            api: &self.api,
            caches: &self.caches,
            memory: &mut self.memory,
            metrics: &self.metrics,
            inventory: &stack.status.inventory,
            validated,
            stack: &uid,
            released: &mut self.released,
            deeds: Vec::new(),
        };
        let applied = applier.all(&rendered).await;
        let deeds = applier.deeds;
        self.tell(stack, &deeds);
        let (mut kept, surplus, retained) = self.surplus(stack, validated, &rendered, &applied).await;
        obstacles.extend(retained);
        let mut pruner =
            Pruner { api: &self.api, caches: &self.caches, memory: &mut self.pruned, stack: &uid };
        let pruned = pruner.all(&surplus).await?;
        kept.extend(pruned.contested);
        obstacles.extend(pruned.obstacles);
        self.report_released(stack, &pruned.released);
        for key in pruned.removed {
            self.events.normal(&stack.reference(), "Prune", "Removed", format!("{key} is no longer wanted"));
        }
        let (leaving, validated) = (pruned.leaving, Some(validated));
        let parts = Parts {
            applied: &applied,
            obstacles: &obstacles,
            kept: &kept,
            leaving: &leaving,
            faults: &[],
            validated,
        };
        self.conclude(stack, &parts).await
    }

    /// Leaves to their users what is theirs.
    async fn release(&mut self, stack: &Stack) -> Result<Vec<Obstacle>, Error> {
        let (released, obstacles) =
            release(&self.api, &self.caches, &stack.uid(), &mut self.released).await?;
        self.report_released(stack, &released);
        Ok(obstacles)
    }

    /// What exists and is not rendered: what of it stays, what is to be removed, and why what of the latter waits.
    async fn surplus(
        &self,
        stack: &Stack,
        validated: &ValidatedStack,
        rendered: &[Object],
        applied: &Manifests<Applied>,
    ) -> (Vec<InventoryEntry>, Vec<Made>, Vec<Obstacle>) {
        let inventory = &stack.status.inventory;
        let Inventory { made, unread } = made(&self.api, &self.caches, &stack.uid(), inventory).await;
        let wanted: BTreeSet<Key> = rendered.iter().map(Object::key).collect();
        let surplus =
            made.into_iter().filter(|made| made.key.kind != Kind::Namespace && !wanted.contains(&made.key));
        let (kept, surplus): (Vec<Made>, Vec<Made>) =
            surplus.partition(|made| validated.keeps(&made.key, made.imported_from.as_deref()));
        let live: BTreeMap<Key, Value> =
            surplus.iter().map(|made| (made.key.clone(), made.live.clone())).collect();
        let retained = retained(&live, rendered, applied);
        let (waiting, surplus): (Vec<Made>, Vec<Made>) =
            surplus.into_iter().partition(|made| retained.contains_key(&made.key));
        let kept = kept.iter().chain(&waiting).map(|made| health::entry(&made.key, &made.uid));
        let kept = kept.chain(unread.into_iter().map(|(entry, _)| entry)).collect();
        let obstacle =
            |(key, why): (Key, String)| Obstacle { about: key.to_string(), outcome: Outcome::Retained(why) };
        (kept, surplus, retained.into_iter().map(obstacle).collect())
    }

    /// A spec that is invalid, or that cannot be brought about, changes nothing but the status.
    async fn keep_what_runs(
        &mut self,
        stack: &Stack,
        faults: &[Fault],
        obstacles: &[Obstacle],
    ) -> Result<Duration, ReconcileError> {
        let (applied, kept) = (&Manifests(Vec::new()), &stack.status.inventory);
        let parts = Parts { applied, obstacles, kept, leaving: &[], faults, validated: None };
        self.conclude(stack, &parts).await
    }

    /// Step 6: the status, only on change.
    async fn conclude(&mut self, stack: &Stack, parts: &Parts<'_>) -> Result<Duration, ReconcileError> {
        let namespace = namespace_of(stack);
        let live = |kind, name| {
            dereference::workload(&self.caches, &namespace, kind, name).map(|object| json_of(&object))
        };
        let controller: Option<Value> = live(Kind::Deployment, CONTROLLER);
        let speaker: Option<Value> = live(Kind::DaemonSet, SPEAKER);
        let workloads =
            (controller.as_ref().map(Workload::deployment), speaker.as_ref().map(Workload::daemon_set));
        let pods = self.pods.look(&self.api, &namespace, workloads.0, workloads.1).await;
        let now = Instant::now();
        let definitions = self.definitions.problems(&self.api, now).await;
        let states = self.caches.states(&namespace);
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
        let observed = Observed {
            generation: stack.object.metadata.generation,
            version: env!("CARGO_PKG_VERSION"),
            faults: parts.faults,
            doubts: parts.validated.map_or(&[], ValidatedStack::doubts),
            spoiled: parts.validated.is_some_and(ValidatedStack::is_spoiled),
            states: &decoded,
            undecoded: &undecoded,
            definitions: &definitions,
            obstacles: parts.obstacles,
            applied: parts.applied,
            kept: parts.kept,
            leaving: parts.leaving,
            controller: controller.as_ref(),
            speaker: speaker.as_ref(),
            pods: &pods,
            stalled: self.pods.is_stalled(),
        };
        let status = health::status(&observed, &stack.status, &Time(Timestamp::now()));
        self.metrics.observed(&status);
        self.announce(stack, &status);
        let again = self.store(stack, &status).await?;
        let settled =
            |applied: &Applied| matches!(applied.outcome, Outcome::AsRendered | Outcome::Retained(_));
        let unsettled =
            !parts.applied.0.iter().all(settled) || !parts.leaving.is_empty() || !parts.obstacles.is_empty();
        let soon = [self.pods.next_listing(), again, unsettled.then_some(WHILE_FAILING)];
        let next = soon.into_iter().flatten().min().unwrap_or(AT_REST);
        Ok(next.min(self.definitions.next_look(now)))
    }

    /// Stores the status, if it differs. Returns when to try again, if it could not be stored now.
    async fn store(
        &mut self,
        stack: &Stack,
        status: &LoadBalancerStackStatus,
    ) -> Result<Option<Duration>, ReconcileError> {
        match self.status.store(&self.api, stack, status).await? {
            Stored::Unchanged => Ok(None),
            Stored::Written(written) => {
                self.written = Some(*written);
                Ok(None)
            }
            Stored::Later(wait) => Ok(Some(wait)),
            Stored::Contested { by, first, until } => {
                if first {
                    let note = format!(
                        "the status of the stack is written by {by} again and again, and is left alone for {} s: \
                         stop the other writer; there may be one operator in a cluster",
                        until.as_secs()
                    );
                    tracing::warn!(by, "{note}");
                    self.events.warning(&stack.reference(), "Report", "StatusContested", note);
                }
                Ok(Some(until))
            }
        }
    }

    /// The deletion of the stack, one step.
    async fn tear_down(&mut self, stack: &Stack) -> Result<Duration, ReconcileError> {
        if !stack.has_finalizer() {
            return Ok(AT_REST);
        }
        let deadline = *self.deadline.get_or_insert_with(|| {
            tracing::info!("the stack is being deleted");
            self.released.clear();
            Instant::now() + teardown::PATIENCE
        });
        let namespace = namespace_of(stack);
        // Garbage collection would take what still names the stack as its owner.
        let obstacles = self.release(stack).await?;
        let unreleased: Vec<String> = obstacles
            .iter()
            .map(|obstacle| format!("{} ({})", obstacle.about, obstacle.outcome.text()))
            .collect();
        match teardown::step(&self.api, &self.caches, stack, &namespace, (deadline, &unreleased)).await? {
            Progress::Waiting(what) => {
                let generation = stack.object.metadata.generation;
                let status = health::leaving(generation, &what, &stack.status, &Time(Timestamp::now()));
                let again = self.store(stack, &status).await?;
                Ok(again.map_or(WHILE_FAILING, |again| again.min(WHILE_FAILING)))
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
                tracing::info!("the stack is gone");
                self.begin();
                self.metrics.forget();
                Ok(AT_REST)
            }
        }
    }

    /// The newer of the mirrored stack and what our last write left.
    fn stack(&mut self) -> Option<Stack> {
        let seen = self.caches.stack()?;
        let newer = self.written.take().filter(|written| {
            let version = |object: &DynamicObject| {
                object.resource_version().and_then(|version| version.parse::<u128>().ok())
            };
            written.uid() == seen.uid() && version(written) > version(&seen)
        });
        self.written.clone_from(&newer);
        Some(Stack::read(newer.unwrap_or_else(|| (*seen).clone())))
    }

    fn no_stack(&mut self) {
        if self.caches.knows_stacks() && (self.written.is_some() || self.deadline.is_some()) {
            self.begin();
            self.metrics.forget();
        }
        self.caches.forget_followed();
    }
}

/// What a look came to.
struct Parts<'a> {
    applied: &'a Manifests<Applied>,
    obstacles: &'a [Obstacle],
    kept: &'a [InventoryEntry],
    leaving: &'a [InventoryEntry],
    faults: &'a [Fault],
    validated: Option<&'a ValidatedStack>,
}

/// The namespace of the stack, even if its spec cannot be understood as a whole.
fn namespace_of(stack: &Stack) -> String {
    let understood = stack.spec.as_ref().ok().map(|stack: &LoadBalancerStack| stack.spec.namespace.clone());
    let written = || stack.object.data["spec"]["namespace"].as_str().map(ToOwned::to_owned);
    understood.or_else(written).unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned())
}
