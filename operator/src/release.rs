//! Takes the operator's marks off objects that are a user's: imported ones that a user has taken over, and copies of
//! ours. Without them garbage collection leaves such an object alone, and no label says that it is ours.

use std::collections::BTreeSet;

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::health::{Obstacle, Outcome};
use render::ownership::{
    is_imported, is_labelled, is_operators, is_owned_by, maker, released, taken_over_by,
};
use render::{Key, Kind};
use serde_json::Value;
use tokio::time::Instant;

use crate::api::{Api, Error};
use crate::apply::{jitter, json_of};
use crate::memory::{Memory, Record};
use crate::watch::Caches;

/// An object that carries no mark of ours any more.
pub(crate) struct Released {
    pub(crate) key: Key,
    /// Who manages it.
    pub(crate) by: String,
}

/// What the release of one object came to.
pub(crate) enum Release {
    /// It carries no mark any more; the object as it is now.
    Done(Box<DynamicObject>),
    /// It has changed or is gone, and the mirror will say so.
    Outdated,
    /// It still carries our marks, for the reason given.
    Refused(Outcome),
}

/// Releases every mirrored configuration object of the stack `uid` that is a user's. One whose marks somebody puts back
/// again and again is left alone, and reported.
pub(crate) async fn release(
    api: &Api,
    caches: &Caches,
    uid: &str,
    memory: &mut Memory,
) -> Result<(Vec<Released>, Vec<Obstacle>), Error> {
    let (mut done, mut obstacles, mut marked) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (key, object) in caches.owned_by(uid) {
        let seen = Some((*object).clone());
        let newest = memory.get_mut(&key).map_or(seen.clone(), |record| record.newest(seen));
        let Some((live, by)) = newest.as_ref().and_then(|object| users(&key, object)) else { continue };
        marked.insert(key.clone());
        let (record, now) = (memory.entry(key.clone()).or_default(), Instant::now());
        match release_one(api, &key, &live, (uid, &by), record, now).await? {
            Release::Done(_) => done.push(Released { key, by }),
            Release::Outdated => {}
            Release::Refused(outcome) => {
                obstacles.push(Obstacle { about: key.to_string(), outcome });
            }
        }
    }
    let now = Instant::now();
    memory.retain(|key, record| marked.contains(key) || !record.is_undisputed(now));
    Ok((done, obstacles))
}

/// Takes the marks off `live`, which `by` manages, unless they are put back again and again.
pub(crate) async fn release_one(
    api: &Api,
    key: &Key,
    live: &Value,
    (stack, by): (&str, &str),
    record: &mut Record,
    now: Instant,
) -> Result<Release, Error> {
    if record.left_alone(now).is_some() {
        return Ok(Release::Refused(Outcome::Contested(format!(
            "is managed by {by}, which puts the operator's labels and owner reference back again and again; they are \
             left there for now, and with them it is removed together with the stack: take them out of what {by} applies"
        ))));
    }
    let still_labelled = |error: &str| {
        Release::Refused(Outcome::Failed(format!(
            "is managed by {by}, and still has the operator's labels: {error}"
        )))
    };
    if let Some((error, _)) = record.is_held(now) {
        return Ok(still_labelled(error));
    }
    match api.change(key, live, &released(live, stack)).await {
        Ok(written) => {
            record.repaired(now);
            record.wrote(written.clone());
            Ok(Release::Done(Box::new(written)))
        }
        Err(error) if error.is_outdated() || error.is_not_found() => Ok(Release::Outdated),
        Err(error @ Error::NotLeading) => Err(error),
        Err(error) => {
            tracing::warn!(object = %key, %error, "is its user's, and still carries our marks");
            record.failed(error.explain(), now, jitter());
            Ok(still_labelled(&error.explain()))
        }
    }
}

/// Releases every object that still names the stack `uid` as its owner and from which a user took our label, so that no
/// mirror has it: garbage collection would remove it with the stack. Returns what could not be released, with the reason.
pub(crate) async fn release_unlabelled(api: &Api, uid: &str) -> Result<Vec<String>, Error> {
    let mut left = Vec::new();
    for kind in Kind::ALL.iter().copied().filter(|kind| kind.is_configuration()) {
        let objects = match api.list(&kind.api_resource(), None).await {
            Ok(objects) => objects,
            Err(error @ Error::NotLeading) => return Err(error),
            Err(error) => {
                left.push(format!("{kind} ({})", error.explain()));
                continue;
            }
        };
        for object in objects {
            let live = json_of(&object);
            if is_labelled(&live) || !is_owned_by(&live, uid) || object.metadata.deletion_timestamp.is_some()
            {
                continue;
            }
            let key = Key { kind, namespace: object.namespace(), name: object.name_any() };
            match api.change(&key, &live, &released(&live, uid)).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error @ Error::NotLeading) => return Err(error),
                Err(error) => left.push(format!("{key} ({})", error.explain())),
            }
        }
    }
    Ok(left)
}

/// The object and who manages it, if it carries our marks and is a user's.
fn users(key: &Key, object: &DynamicObject) -> Option<(Value, String)> {
    if object.metadata.deletion_timestamp.is_some() || !key.kind.is_configuration() {
        return None;
    }
    let live = json_of(object);
    let copied = !is_operators(&live, false);
    let by = if copied { Some(maker(&live)) } else { taken_over_by(&live).filter(|_| is_imported(&live)) };
    let by = by.filter(|_| is_labelled(&live))?.to_owned();
    Some((live, by))
}

/// Leaves one object, which the operator made, to its user.
pub(crate) async fn hand_over(api: &Api, key: &Key, uid: &str) -> Result<(), Error> {
    let Some(object) = api.get(key).await? else { return Ok(()) };
    let live = json_of(&object);
    api.change(key, &live, &released(&live, uid)).await.map(drop)
}
