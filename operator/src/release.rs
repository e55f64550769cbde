//! Takes the operator's marks off objects that are a user's: imported ones that a user has taken over, and copies of
//! ours. Without them garbage collection leaves such an object alone, and no label says that it is ours.

use render::Key;
use render::ownership::{is_imported, is_labelled, is_operators, maker, released, taken_over_by};

use crate::api::{Api, Error};
use crate::apply::json_of;
use crate::watch::Caches;

/// An object that carries no mark of ours any more.
pub(crate) struct Released {
    pub(crate) key: Key,
    /// Who manages it.
    pub(crate) by: String,
}

/// Releases every mirrored configuration object of the stack `uid` that is a user's.
pub(crate) async fn release(api: &Api, caches: &Caches, uid: &str) -> Result<Vec<Released>, Error> {
    let mut done = Vec::new();
    for (key, object) in caches.owned_by(uid) {
        let live = json_of(&object);
        let copied = !is_operators(&live, false);
        let by =
            if copied { Some(maker(&live)) } else { taken_over_by(&live).filter(|_| is_imported(&live)) };
        let Some(by) = by.filter(|_| key.kind.is_configuration() && is_labelled(&live)) else { continue };
        if object.metadata.deletion_timestamp.is_some() {
            continue;
        }
        match api.change(&key, &live, &released(&live, uid)).await {
            Ok(_) => done.push(Released { by: by.to_owned(), key }),
            // It has changed or is gone, and the mirror will say so.
            Err(error) if error.is_outdated() || error.is_not_found() => {}
            Err(error @ Error::NotLeading) => return Err(error),
            Err(error) => tracing::warn!(object = %key, %error, "is its user's, and still carries our marks"),
        }
    }
    Ok(done)
}

/// Leaves one object, which the operator made, to its user.
pub(crate) async fn hand_over(api: &Api, key: &Key, uid: &str) -> Result<(), Error> {
    let Some(object) = api.get(key).await? else { return Ok(()) };
    let live = json_of(&object);
    api.change(key, &live, &released(&live, uid)).await.map(drop)
}
