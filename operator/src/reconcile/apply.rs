//! Applies the rendered objects: each one that the operator owns and that is not in sync.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::drift::{Drift, drift, is_field_removed, repaired, webhook_changes};
use render::ownership::{creator, has_ownership_marks};
use render::status::{Applied, Outcome, Workload};
use render::{Key, Kind, Manifests, Object, ValidatedStack};
use serde_json::Value;
use tokio::time::Instant;

use self::namespace::label_namespace;
use self::pool_names::taken_pool_names;
use super::events::Change;
use super::release::{ReleaseOutcome, Released, release_one};
use crate::api::{Api, ApiError, json_of, typed};
use crate::metrics::Metrics;
use crate::object_state::{Decision, ObjectState, ObjectStates, jitter};

mod live;
mod namespace;
mod pool_names;

pub(crate) use self::live::LiveObjects;
pub(crate) use self::namespace::{namespace_labels, owned_labels};

/// Why an object could not be applied.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    /// The rendered object cannot be serialised.
    #[error("cannot be serialised as JSON: {0}")]
    Serialize(#[from] serde_json::Error),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] ApiError),
}

impl ApplyError {
    /// The message for users.
    fn explain(&self) -> String {
        match self {
            Self::Serialize(_) => self.to_string(),
            Self::Call(error) => error.explain(),
        }
    }
}

/// The outcome for an object, and the object if the operator owns it.
type Result<T = (Outcome, Option<DynamicObject>)> = std::result::Result<T, ApplyError>;

/// Applies the rendered objects of a stack.
pub(crate) struct Applier<'a> {
    pub(crate) api: &'a Api,
    /// The objects in the cluster.
    pub(crate) live: LiveObjects<'a>,
    pub(crate) states: &'a mut ObjectStates,
    pub(crate) metrics: &'a Metrics,
    pub(crate) validated: &'a ValidatedStack,
    /// The UID of the stack.
    pub(crate) stack: &'a str,
    /// The states of objects that belong to users.
    pub(crate) released: &'a mut ObjectStates,
    /// The changes made, for events.
    pub(crate) changes: Vec<Change>,
}

impl Applier<'_> {
    /// Applies all objects in order. A failure delays only objects that depend on the failed one.
    pub(crate) async fn apply_all(&mut self, objects: &[Object]) -> Manifests<Applied> {
        let mut applied: Vec<Applied> = Vec::new();
        let mut controller = None;
        let taken = taken_pool_names(objects, &self.live, self.states).await;
        for object in objects {
            let key = object.key();
            let unusable = key.kind.is_namespaced().then(|| unusable_namespace(&applied)).flatten();
            let (outcome, live) = match unusable {
                Some(why) => (Outcome::Waiting(why), None),
                None => self.apply_with_backoff(object, &taken, controller.as_ref()).await,
            };
            if key.kind == Kind::Deployment {
                controller =
                    live.as_ref().and_then(typed::<Deployment>).map(|live| Workload::deployment(&live));
            }
            applied.push(Applied { key, outcome, uid: live.and_then(|live| live.uid()) });
        }
        Manifests(applied)
    }

    async fn apply_with_backoff(
        &mut self,
        object: &Object,
        taken: &BTreeMap<String, Key>,
        controller: Option<&Workload>,
    ) -> (Outcome, Option<DynamicObject>) {
        let key = object.key();
        let mut state = self.states.remove(&key).unwrap_or_default();
        let taken = object.pool().and_then(|pool| taken.get(pool));
        let done = self.apply_one(object, &mut state, taken, controller).await;
        let outcome = match done {
            Ok(done) => done,
            Err(error) => {
                let text = error.explain();
                tracing::warn!(object = %key, error = text, "cannot be applied");
                state.on_failed(text.clone(), Instant::now(), jitter());
                (Outcome::Failed(text), None)
            }
        };
        self.states.insert(key, state);
        outcome
    }

    async fn apply_one(
        &mut self,
        object: &Object,
        state: &mut ObjectState,
        taken: Option<&Key>,
        controller: Option<&Workload>,
    ) -> Result {
        let (desired, key) = (object.to_json()?, &object.key());
        state.set_desired(&desired);
        if let Some(error) = state.backoff_error(Instant::now()) {
            return Ok((Outcome::Failed(error.to_owned()), self.live.cached(key, state)));
        }
        if let Some(other) = taken.filter(|other| *other != key) {
            let why = format!(
                "is left unchanged: {other}, an object of the same pool, is not owned by the operator"
            );
            let ours = self.live.cached(key, state).filter(|live| self.live.is_ours(object, key, live));
            return Ok((Outcome::Retained(why), ours));
        }
        let live = self.live.get(key, state).await?;
        let Some(live) = live else { return self.create(key, state, &desired).await };
        if live.metadata.deletion_timestamp.is_some() {
            return Ok((Outcome::Waiting("it is being deleted, and will be re-created".to_owned()), None));
        }
        if !self.live.is_ours(object, key, &live) {
            let outcome = self.handle_foreign(object, state, &live, taken.is_some()).await?;
            return Ok((outcome, None));
        }
        let seen = json_of(&live);
        let drift =
            drift(&desired, &seen, key.kind.extent()).without_webhook_changes(&state.webhook_changes, &seen);
        if drift.is_none() {
            state.on_in_sync();
            return Ok((Outcome::AsRendered, Some(live)));
        }
        let is_taken_over = object.imported_from().is_some() && state.was_in_sync();
        if is_taken_over && is_field_removed(&drift, &seen) {
            return Ok((self.handle_foreign(object, state, &live, taken.is_some()).await?, None));
        }
        if self.validated.is_frozen(key) {
            let why = "is left unchanged until the error in its source is corrected".to_owned();
            return Ok((Outcome::Retained(why), Some(live)));
        }
        if waits_for_controller(key, &desired, &seen, controller) {
            let why = "the controller is updated first".to_owned();
            return Ok((Outcome::Waiting(why), Some(live)));
        }
        self.repair(key, state, &desired, &live, &drift).await
    }

    /// Creates a missing object, unless another client keeps deleting it.
    async fn create(&mut self, key: &Key, state: &mut ObjectState, desired: &Value) -> Result {
        let (was_deleted, now) = (state.has_existed(), Instant::now());
        if was_deleted && state.decide_recreate(now) == Decision::GiveUp {
            let text = "another client keeps deleting it; it is re-created after ten minutes: stop that \
                        client (only the audit log of the API server shows which one it is)";
            return Ok((Outcome::Contested(text.to_owned()), None));
        }
        // Without force, so that an object that a user has just created under this name keeps its values.
        let created = match self.api.apply(key, desired, false).await {
            Err(error) if error.is_conflict() => {
                return Ok((Outcome::Waiting("another client has just created it".to_owned()), None));
            }
            result => result?,
        };
        self.record(Change::Created(key.clone()));
        state.webhook_changes = webhook_changes(desired, &json_of(&created));
        state.on_written(created.clone());
        if was_deleted {
            state.on_recreated(now);
        }
        Ok((Outcome::AsRendered, Some(created)))
    }

    /// Repairs or updates an object that differs, unless another writer keeps reverting it.
    async fn repair(
        &mut self,
        key: &Key,
        state: &mut ObjectState,
        desired: &Value,
        live: &DynamicObject,
        drift: &Drift,
    ) -> Result {
        let seen = json_of(live);
        let managers = managers(drift);
        let fields =
            drift.differs.iter().chain(&drift.foreign).map(String::as_str).collect::<Vec<_>>().join(", ");
        let was_in_sync = state.was_in_sync();
        if was_in_sync && state.decide_repair(Instant::now()) == Decision::GiveUp {
            let text = format!(
                "{managers} keeps changing it ({fields}); it is left unchanged until it is in sync with the \
                 stack or the spec changes: stop the other writer"
            );
            return Ok((Outcome::Contested(text), Some(live.clone())));
        }
        tracing::info!(object = %key, fields, by = managers, "differs from the rendered object");
        let patched = !drift.foreign.is_empty();
        let mut version = live.resource_version();
        if patched {
            // A single patch makes all changes, including removals that an apply would not make; the apply
            // that follows changes no value but takes over field ownership.
            match self.api.json_patch(key, &seen, &repaired(desired, &seen)).await {
                Ok(patched) => version = patched.resource_version(),
                Err(error) if error.is_conflict() => return Ok(changed_meanwhile(live)),
                Err(error) => return Err(error.into()),
            }
            // The patch counts as a repair even if the apply fails.
            if was_in_sync { state.on_repaired(Instant::now()) } else { state.mark_reached() }
        }
        // The resourceVersion prevents overwriting an edit made in between.
        let mut body = desired.clone();
        body["metadata"]["resourceVersion"] = version.into();
        let written = match self.api.apply(key, &body, true).await {
            Err(error) if error.is_conflict() => return Ok(changed_meanwhile(live)),
            result => result?,
        };
        state.webhook_changes = webhook_changes(desired, &json_of(&written));
        let changed = written.resource_version() != live.resource_version();
        state.on_written(written.clone());
        if !changed {
            tracing::info!(object = %key, fields, "differs only by the changes of an admission webhook");
        } else if was_in_sync {
            if !patched {
                state.on_repaired(Instant::now());
            }
            self.record(Change::Repaired(key.clone(), managers));
        } else {
            self.record(Change::Updated(key.clone()));
        }
        Ok((Outcome::AsRendered, Some(written)))
    }

    /// Handles an object that another owner created or has taken over: it is not changed, apart from the
    /// labels of a namespace. `blocks_pool`: because of this object its pool is not created.
    async fn handle_foreign(
        &mut self,
        object: &Object,
        state: &mut ObjectState,
        live: &DynamicObject,
        blocks_pool: bool,
    ) -> Result<Outcome> {
        let (key, now) = (object.key(), Instant::now());
        let is_of_import = object.imported_from().is_some();
        let (seen, mut unmarked) = (json_of(live), None);
        if is_of_import && has_ownership_marks(&seen, self.stack) {
            let by = creator(&seen).to_owned();
            let marks = self.released.entry(key.clone()).or_default();
            match release_one(self.api, &key, &seen, self.stack, &by, marks, now)
                .await
                .map_err(ApiError::from)?
            {
                ReleaseOutcome::Done(written) => {
                    unmarked = Some(written);
                    self.record(Change::Released(Released { key: key.clone(), by }));
                }
                ReleaseOutcome::Outdated => return Ok(changed_meanwhile(live).0),
                ReleaseOutcome::Refused(outcome) => return Ok(outcome),
            }
        }
        state.cache_foreign(unmarked.as_deref().unwrap_or(live), now);
        if is_of_import && (key.kind == Kind::IpAddressPool || !blocks_pool) {
            let text = format!(
                "is managed by {} and belongs to its user: its entry in the legacy configuration has no \
                 effect any more; remove the entry",
                creator(&json_of(live))
            );
            return Ok(Outcome::Retained(text));
        }
        if key.kind == Kind::Namespace {
            let (outcome, repaired) = label_namespace(self.api, &key, state, live).await?;
            if let Some(by) = repaired {
                self.record(Change::Repaired(key, by));
            }
            return Ok(outcome);
        }
        Ok(Outcome::Foreign(format!(
            "exists, created by {}, and is not changed: delete or rename it to let the operator create its \
             own",
            creator(&json_of(live))
        )))
    }

    /// Records a change, for events and metrics.
    fn record(&mut self, change: Change) {
        if let Change::Repaired(key, _) = &change {
            self.metrics.on_repaired(key.kind);
        }
        self.changes.push(change);
    }
}

/// Why no object can be created in the namespace now, if so.
fn unusable_namespace(applied: &[Applied]) -> Option<String> {
    let namespace = applied.iter().find(|applied| applied.key.kind == Kind::Namespace)?;
    match &namespace.outcome {
        Outcome::Waiting(_) => Some(format!("namespace {} is being deleted", namespace.key.name)),
        Outcome::Failed(error) if namespace.uid.is_none() => {
            Some(format!("namespace {} cannot be created: {error}", namespace.key.name))
        }
        _ => None,
    }
}

/// Speakers are updated to a new image only after the controller has been rolled out with it, so that a
/// broken image does not reach the speakers.
fn waits_for_controller(key: &Key, desired: &Value, live: &Value, controller: Option<&Workload>) -> bool {
    let image = "/spec/template/spec/containers/0/image";
    key.kind == Kind::DaemonSet
        && desired.pointer(image) != live.pointer(image)
        && controller.is_some_and(|controller| !controller.is_rolled_out(true) || controller.ready == 0)
}

/// The outcome for an object that has changed since it was read: the next reconciliation handles it.
fn changed_meanwhile(live: &DynamicObject) -> (Outcome, Option<DynamicObject>) {
    (Outcome::Waiting("it has just been changed".to_owned()), Some(live.clone()))
}

/// The field managers that changed the object.
fn managers(drift: &Drift) -> String {
    if drift.managers.is_empty() {
        return "a writer that the managed fields do not name (an admission webhook?)".to_owned();
    }
    drift.managers.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
