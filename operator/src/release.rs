//! Takes the operator's marks off objects that are a user's: imported ones that a user has taken over, and copies of
//! ours. Without them garbage collection leaves such an object alone, and no label says that it is ours.

use std::collections::BTreeSet;

use kube::api::DynamicObject;
use render::Key;
use render::health::{Obstacle, Outcome};
use render::ownership::{is_imported, is_labelled, is_operators, maker, released, taken_over_by};
use serde_json::Value;
use tokio::time::Instant;

use crate::api::{Api, Error};
use crate::apply::{jitter, json_of};
use crate::memory::Memory;
use crate::watch::Caches;

/// An object that carries no mark of ours any more.
pub(crate) struct Released {
    pub(crate) key: Key,
    /// Who manages it.
    pub(crate) by: String,
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
        let stays = if record.left_alone(now).is_some() {
            Outcome::Contested(format!(
                "is managed by {by}, which puts the operator's labels and owner reference back again and again; they are \
                 left there for now, and with them it is removed together with the stack: take them out of what {by} applies"
            ))
        } else if let Some((error, _)) = record.is_held(now) {
            still_labelled(&by, error)
        } else {
            match api.change(&key, &live, &released(&live, uid)).await {
                Ok(written) => {
                    record.repaired(now);
                    record.wrote(written);
                    done.push(Released { key, by });
                    continue;
                }
                // It has changed or is gone, and the mirror will say so.
                Err(error) if error.is_outdated() || error.is_not_found() => continue,
                Err(error @ Error::NotLeading) => return Err(error),
                Err(error) => {
                    tracing::warn!(object = %key, %error, "is its user's, and still carries our marks");
                    record.failed(error.explain(), now, jitter());
                    still_labelled(&by, &error.explain())
                }
            }
        };
        obstacles.push(Obstacle { about: key.to_string(), outcome: stays });
    }
    let now = Instant::now();
    memory.retain(|key, record| marked.contains(key) || !record.is_undisputed(now));
    Ok((done, obstacles))
}

fn still_labelled(by: &str, error: &str) -> Outcome {
    Outcome::Failed(format!("is managed by {by}, and still has the operator's labels: {error}"))
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
