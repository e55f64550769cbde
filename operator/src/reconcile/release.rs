//! Removes the operator's ownership marks from objects that belong to users: imported ones that a user has
//! taken over, and copies of the operator's objects. Then garbage collection leaves the object alone, and no
//! label claims that the operator owns it.

use std::collections::BTreeSet;

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::ownership::{
    creator, has_managed_by_label, is_created_by_operator, is_imported, is_owned_by, taken_over_by,
    without_ownership_marks,
};
use render::status::{Obstacle, Outcome};
use render::{Key, Kind};
use serde_json::Value;
use tokio::time::Instant;

use crate::api::{Api, ApiError, NotLeading, json_of};
use crate::object_state::{ObjectState, ObjectStates, jitter};
use crate::watch::Caches;

/// An object from which the ownership marks were removed.
pub(crate) struct Released {
    pub(crate) key: Key,
    /// The field manager that manages it.
    pub(crate) by: String,
}

/// The result of releasing one object.
pub(crate) enum ReleaseOutcome {
    /// The marks were removed; the object as it is now.
    Done(Box<DynamicObject>),
    /// The object has changed or is gone, which the cache will show.
    Outdated,
    /// The marks are still there, for the reason given.
    Refused(Outcome),
}

/// Releases every cached configuration object of the stack `uid` that belongs to a user. If somebody keeps
/// restoring the marks, the object is left unchanged and reported.
pub(crate) async fn release(
    api: &Api,
    caches: &Caches,
    uid: &str,
    states: &mut ObjectStates,
) -> Result<(Vec<Released>, Vec<Obstacle>), NotLeading> {
    let (mut done, mut obstacles, mut marked) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (key, object) in caches.owned_by(uid) {
        let seen = Some((*object).clone());
        let newest = states.get_mut(&key).map_or(seen.clone(), |state| state.newest(seen));
        let Some((live, by)) = newest.as_ref().and_then(|object| user_managed(&key, object)) else {
            continue;
        };
        marked.insert(key.clone());
        let (state, now) = (states.entry(key.clone()).or_default(), Instant::now());
        match release_one(api, &key, &live, uid, &by, state, now).await? {
            ReleaseOutcome::Done(_) => done.push(Released { key, by }),
            ReleaseOutcome::Outdated => {}
            ReleaseOutcome::Refused(outcome) => {
                obstacles.push(Obstacle { subject: key.to_string(), outcome });
            }
        }
    }
    let now = Instant::now();
    states.retain(|key, state| marked.contains(key) || !state.is_idle(now));
    Ok((done, obstacles))
}

/// Removes the marks of the stack with the UID `stack` from `live`, which `by` manages, unless somebody keeps
/// restoring them.
pub(crate) async fn release_one(
    api: &Api,
    key: &Key,
    live: &Value,
    stack: &str,
    by: &str,
    state: &mut ObjectState,
    now: Instant,
) -> Result<ReleaseOutcome, NotLeading> {
    if state.blocked_for(now).is_some() {
        return Ok(ReleaseOutcome::Refused(Outcome::Contested(format!(
            "is managed by {by}, which keeps restoring the operator's labels and owner reference; they are \
             not removed again for now, so it would be deleted with the stack: remove them from what {by} \
             applies"
        ))));
    }
    let still_labelled = |error: &str| {
        ReleaseOutcome::Refused(Outcome::Failed(format!(
            "is managed by {by}, and still has the operator's labels: {error}"
        )))
    };
    if let Some(error) = state.backoff_error(now) {
        return Ok(still_labelled(error));
    }
    match api.json_patch(key, live, &without_ownership_marks(live, stack)).await {
        Ok(written) => {
            state.on_repaired(now);
            state.on_written(written.clone());
            Ok(ReleaseOutcome::Done(Box::new(written)))
        }
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(ReleaseOutcome::Outdated),
        Err(error) => {
            let error = error.object_error()?;
            tracing::warn!(object = %key, %error, "the ownership marks cannot be removed");
            state.on_failed(error.explain(), now, jitter());
            Ok(still_labelled(&error.explain()))
        }
    }
}

/// Releases every object that has the stack `uid` as owner but not the operator's label, so that no watch
/// selects it: garbage collection would delete it with the stack. Returns the objects that could not be
/// released, with the reason.
pub(crate) async fn release_unlabelled(api: &Api, uid: &str) -> Result<Vec<String>, NotLeading> {
    let mut failures = Vec::new();
    for kind in Kind::ALL.iter().copied().filter(|kind| kind.is_configuration()) {
        let objects = match api.list(&kind.api_resource(), None).await {
            Ok(objects) => objects,
            Err(error) => {
                failures.push(format!("{kind} ({})", error.object_error()?.explain()));
                continue;
            }
        };
        for object in objects {
            let live = json_of(&object);
            if has_managed_by_label(&live)
                || !is_owned_by(&live, uid)
                || object.metadata.deletion_timestamp.is_some()
            {
                continue;
            }
            let key = Key { kind, namespace: object.namespace(), name: object.name_any() };
            match api.json_patch(&key, &live, &without_ownership_marks(&live, uid)).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => failures.push(format!("{key} ({})", error.object_error()?.explain())),
            }
        }
    }
    Ok(failures)
}

/// The object and its manager, if it has ownership marks and belongs to a user.
fn user_managed(key: &Key, object: &DynamicObject) -> Option<(Value, String)> {
    if object.metadata.deletion_timestamp.is_some() || !key.kind.is_configuration() {
        return None;
    }
    let live = json_of(object);
    let copied = !is_created_by_operator(&live, false);
    let by = if copied { Some(creator(&live)) } else { taken_over_by(&live).filter(|_| is_imported(&live)) };
    let by = by.filter(|_| has_managed_by_label(&live))?.to_owned();
    Some((live, by))
}

/// Releases one object that the operator created.
pub(crate) async fn release_to_user(api: &Api, key: &Key, uid: &str) -> Result<(), ApiError> {
    let Some(object) = api.get(key).await? else { return Ok(()) };
    let live = json_of(&object);
    api.json_patch(key, &live, &without_ownership_marks(&live, uid)).await.map(drop)
}
