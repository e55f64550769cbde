//! The reconciliation of the stack. [`Reconciler::reconcile_once`] lists the steps.

use std::time::Duration;

use render::status::{Applied, Obstacle, Outcome};
use render::{Manifests, Object, SpecFinding, ValidatedStack, build, validate};
use runtime::events::Events;
use tokio::time::Instant;

use self::apply::{Applier, LiveObjects};
use self::dereference::{DereferenceError, dereference};
use self::events::StackEvents;
use self::finalizer::{FinalizerResult, remove_finalizer, set_finalizer};
use self::owned::find_owned;
use self::prune::{Pruner, Surplus};
use self::release::release;
use self::teardown::{POD_TIMEOUT, Progress, TeardownError};
use self::update_status::{IDLE_INTERVAL, RETRY_INTERVAL, Report, StatusUpdater, WriteError};
use crate::api::{Api, ApiError, NotLeading};
use crate::metrics::Metrics;
use crate::object_state::ObjectStates;
use crate::stack::Stack;
use crate::watch::Caches;

mod apply;
mod dereference;
mod events;
mod finalizer;
mod owned;
mod prune;
mod release;
mod teardown;
mod term;
mod update_status;

pub(crate) use self::term::Term;

/// Why a reconciliation failed as a whole.
#[derive(Debug, thiserror::Error)]
enum ReconcileError {
    /// Leadership was lost during the reconciliation.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    /// A step of the teardown failed.
    #[error("cannot tear down the stack")]
    Teardown(#[from] TeardownError),
    /// The finalizer cannot be removed after the teardown.
    #[error("cannot remove the finalizer of the stack")]
    RemoveFinalizer(#[source] ApiError),
    /// The status cannot be written.
    #[error("cannot write the status of the stack")]
    WriteStatus(#[from] WriteError),
}

/// Why nothing can be applied.
enum Invalid {
    /// The inputs of rendering are unknown.
    Dereference(DereferenceError),
    /// The spec is invalid.
    Spec(Vec<SpecFinding>),
}

/// Reconciles the stack.
pub(crate) struct Reconciler {
    api: Api,
    caches: Caches,
    events: Events,
    metrics: Metrics,
    image: Option<String>,
}

impl Reconciler {
    pub(crate) fn new(
        api: Api,
        caches: Caches,
        events: Events,
        metrics: Metrics,
        image: Option<String>,
    ) -> Self {
        Self { api, caches, events, metrics, image }
    }

    /// Reads from the API server whether the stack is being deleted, which the watch may not have reported
    /// yet.
    pub(crate) async fn poll_deletion(&self, term: &mut Term) -> bool {
        match self.api.stack().await {
            Ok(stack) => {
                let deleted = stack.filter(|stack| stack.metadata.deletion_timestamp.is_some());
                let is_deleted = deleted.is_some();
                term.last_written = deleted.or_else(|| term.last_written.take());
                is_deleted
            }
            Err(error) => {
                tracing::debug!(%error, "cannot read whether the stack is being deleted");
                false
            }
        }
    }

    /// Reconciles the stack. Returns when to reconcile again if nothing changes.
    pub(crate) async fn reconcile(&mut self, term: &mut Term) -> Duration {
        let result = Box::pin(self.reconcile_once(term)).await;
        self.metrics.on_reconciled(result.is_err());
        result.unwrap_or_else(|error| {
            let error = anyhow::Error::new(error);
            tracing::warn!(error = format!("{error:#}"), "reconciliation failed; retrying");
            RETRY_INTERVAL
        })
    }

    async fn reconcile_once(&mut self, term: &mut Term) -> Result<Duration, ReconcileError> {
        self.caches.wait_initial_lists(term.initial_list_deadline).await;
        let Some(stack) = term.current_stack(&self.caches) else {
            self.on_absent(term);
            return Ok(IDLE_INTERVAL);
        };
        self.caches.watch_namespace(&stack.namespace()).await;
        if stack.is_deleting() {
            return self.tear_down(term, &stack).await;
        }
        let mut report = Report::default();
        report.obstacles.extend(self.set_finalizer(term, &stack).await?);
        match self.dereference_and_validate(term, &stack).await {
            Ok(validated) => {
                let rendered = build(&validated).0;
                report.obstacles.extend(self.release(&mut term.released, &stack).await?);
                let applied = self.apply(term, &stack, &validated, &rendered).await;
                self.prune(term, &stack, &validated, &rendered, &applied, &mut report).await?;
                (report.validated, report.applied) = (Some(validated), Some(applied));
            }
            Err(invalid) => leave_unchanged(&stack, invalid, &mut report),
        }
        self.update_status(term, &stack, &report).await
    }

    /// Sets the finalizer. Returns the obstacle, if it cannot be set.
    async fn set_finalizer(&self, term: &mut Term, stack: &Stack) -> Result<Option<Obstacle>, NotLeading> {
        Ok(match set_finalizer(&self.api, stack, &mut term.finalizer).await? {
            FinalizerResult::Unchanged => None,
            FinalizerResult::Set(written) => {
                term.last_written = Some(*written);
                None
            }
            FinalizerResult::Missing(obstacle) => Some(obstacle),
        })
    }

    /// Steps 1 and 2: dereference and validate.
    async fn dereference_and_validate(
        &mut self,
        term: &mut Term,
        stack: &Stack,
    ) -> Result<ValidatedStack, Invalid> {
        let spec = stack.spec.as_ref().map_err(|finding| Invalid::Spec(vec![finding.clone()]))?;
        let image = self.image.as_ref();
        let inputs = dereference(&self.api, &mut self.caches, &spec.spec, image, &mut term.last_known)
            .await
            .map_err(Invalid::Dereference)?;
        validate(spec, inputs).map_err(Invalid::Spec)
    }

    /// Step 4: releases objects that belong to users. Returns those that cannot be released.
    async fn release(&self, released: &mut ObjectStates, stack: &Stack) -> Result<Vec<Obstacle>, NotLeading> {
        let (done, obstacles) = release(&self.api, &self.caches, &stack.uid(), released).await?;
        StackEvents::new(&self.events, stack).released(&done);
        Ok(obstacles)
    }

    /// Step 5: applies the rendered objects.
    async fn apply(
        &self,
        term: &mut Term,
        stack: &Stack,
        validated: &ValidatedStack,
        rendered: &[Object],
    ) -> Manifests<Applied> {
        term.rendered.retain(|key, _| rendered.iter().any(|object| object.key() == *key));
        let mut applier = Applier {
            api: &self.api,
            live: LiveObjects { api: &self.api, caches: &self.caches, inventory: &stack.status.inventory },
            states: &mut term.rendered,
            metrics: &self.metrics,
            validated,
            stack: &stack.uid(),
            released: &mut term.released,
            changes: Vec::new(),
        };
        let applied = applier.apply_all(rendered).await;
        StackEvents::new(&self.events, stack).changes(&applier.changes);
        applied
    }

    /// Step 6: deletes objects that are no longer rendered.
    async fn prune(
        &self,
        term: &mut Term,
        stack: &Stack,
        validated: &ValidatedStack,
        rendered: &[Object],
        applied: &Manifests<Applied>,
        report: &mut Report,
    ) -> Result<(), NotLeading> {
        term.pruned.retain(|key, _| !rendered.iter().any(|object| object.key() == *key));
        let uid = stack.uid();
        let owned = find_owned(&self.api, &self.caches, &uid, &stack.status.inventory).await;
        let surplus = Surplus::find(owned, validated, rendered, applied);
        let mut pruner =
            Pruner { api: &self.api, caches: &self.caches, states: &mut term.pruned, stack: &uid };
        let pruned = pruner.prune_all(&surplus.delete).await?;
        report.obstacles.extend(surplus.delayed.into_iter().chain(pruned.obstacles));
        report.retained = surplus.retained.into_iter().chain(pruned.contested).collect();
        report.terminating = pruned.terminating;
        let events = StackEvents::new(&self.events, stack);
        events.released(&pruned.released);
        events.pruned(&pruned.deleted);
        Ok(())
    }

    /// Step 7: updates the status.
    async fn update_status(
        &self,
        term: &mut Term,
        stack: &Stack,
        report: &Report,
    ) -> Result<Duration, ReconcileError> {
        let events = StackEvents::new(&self.events, stack);
        let update = self.status_updater(term, stack, &events).update(report).await?;
        term.keep_written(update.written);
        Ok(update.next)
    }

    fn status_updater<'a>(
        &'a self,
        term: &'a mut Term,
        stack: &'a Stack,
        events: &'a StackEvents<'a>,
    ) -> StatusUpdater<'a> {
        StatusUpdater {
            api: &self.api,
            caches: &self.caches,
            metrics: &self.metrics,
            events,
            stack,
            state: &mut term.status,
        }
    }

    /// One step of the teardown of the stack.
    async fn tear_down(&mut self, term: &mut Term, stack: &Stack) -> Result<Duration, ReconcileError> {
        if !stack.has_finalizer() {
            return Ok(IDLE_INTERVAL);
        }
        let deadline = *term.teardown_deadline.get_or_insert_with(|| {
            tracing::info!("the stack is being deleted");
            term.released.clear();
            Instant::now() + POD_TIMEOUT
        });
        // Garbage collection would delete objects that still have the stack as owner.
        let unreleased: Vec<String> = self
            .release(&mut term.released, stack)
            .await?
            .iter()
            .map(|obstacle| format!("{} ({})", obstacle.subject, obstacle.outcome.text()))
            .collect();
        let events = StackEvents::new(&self.events, stack);
        match teardown::step(&self.api, &self.caches, stack, deadline, &unreleased).await? {
            Progress::Waiting(remaining) => {
                let update = self.status_updater(term, stack, &events).update_terminating(&remaining).await?;
                term.keep_written(update.written);
                Ok(update.next)
            }
            Progress::Done(left_behind) => {
                events.left_behind(left_behind);
                remove_finalizer(&self.api, stack).await.map_err(ReconcileError::RemoveFinalizer)?;
                tracing::info!("the stack has been deleted");
                *term = Term::new();
                self.metrics.clear();
                Ok(IDLE_INTERVAL)
            }
        }
    }

    /// There is no stack.
    fn on_absent(&mut self, term: &mut Term) {
        if self.caches.stacks_synced() && (term.last_written.is_some() || term.teardown_deadline.is_some()) {
            *term = Term::new();
            self.metrics.clear();
        }
        self.caches.stop_single_watches();
    }
}

/// Leaves all objects unchanged if the spec is invalid or cannot be dereferenced, and reports why.
fn leave_unchanged(stack: &Stack, invalid: Invalid, report: &mut Report) {
    report.retained.clone_from(&stack.status.inventory);
    match invalid {
        Invalid::Spec(errors) => report.errors = errors,
        Invalid::Dereference(error) => {
            tracing::warn!(%error, "no object is changed");
            let outcome = Outcome::Failed(error.to_string());
            report.obstacles.push(Obstacle { subject: "the stack".to_owned(), outcome });
        }
    }
}
