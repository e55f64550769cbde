//! Removes what the operator made and the render no longer has.

use std::collections::BTreeSet;

use crds::InventoryEntry;
use crds::names::{LABEL_IMPORTED_FROM, LABEL_MANAGED_BY, OPERATOR};
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::health::entry;
use render::{Key, Kind};

use crate::api::{Api, Error};
use crate::watch::{Caches, Seen};

/// An object that the operator made and that exists.
pub(crate) struct Made {
    pub(crate) key: Key,
    pub(crate) uid: String,
    /// Its deletion was asked for already.
    pub(crate) leaving: bool,
    /// What it was imported from, if it was.
    pub(crate) imported_from: Option<String>,
}

/// Everything that the operator made for the stack `uid` and that exists: what is mirrored with it as owner,
/// and what the inventory names, if it still carries our label and the UID that it had.
pub(crate) async fn made(
    api: &Api,
    caches: &Caches,
    uid: &str,
    inventory: &[InventoryEntry],
) -> Result<Vec<Made>, Error> {
    let mut found = Vec::new();
    let mut known: BTreeSet<Key> = BTreeSet::new();
    for (key, object) in caches.owned_by(uid) {
        if is_labelled(&object) && known.insert(key.clone()) {
            found.push(of(key, &object));
        }
    }
    for listed in inventory {
        let Some(kind) = Kind::find(&listed.api_version, &listed.kind) else { continue };
        let key = Key { kind, namespace: listed.namespace.clone(), name: listed.name.clone() };
        if !known.insert(key.clone()) {
            continue;
        }
        let object = match caches.get(&key) {
            Seen::There(object) => Some((*object).clone()),
            Seen::NotThere => api.get(&key).await?,
        };
        if let Some(object) = object
            && is_labelled(&object)
            && object.uid().as_deref() == Some(listed.uid.as_str())
        {
            found.push(of(key, &object));
        }
    }
    found.sort_by(|a, b| b.key.cmp(&a.key));
    Ok(found)
}

/// Removes all of `made`, latest kinds first. Returns what is not gone yet, and what was asked to go just now.
pub(crate) async fn prune(api: &Api, made: Vec<Made>) -> (Vec<InventoryEntry>, Vec<Key>) {
    let (mut leaving, mut removed) = (Vec::new(), Vec::new());
    for Made { key, uid, leaving: asked, .. } in made {
        let gone = if asked { Ok(false) } else { api.delete(&key, Some(uid.clone())).await };
        match gone {
            Ok(true) => {}
            Ok(false) => {
                leaving.push(entry(&key, &uid));
                if !asked {
                    removed.push(key);
                }
            }
            Err(error) => {
                tracing::warn!(object = %key, %error, "cannot be removed");
                leaving.push(entry(&key, &uid));
            }
        }
    }
    (leaving, removed)
}

fn of(key: Key, object: &DynamicObject) -> Made {
    let uid = object.uid().unwrap_or_default();
    let imported_from = object.labels().get(LABEL_IMPORTED_FROM).cloned();
    Made { key, uid, leaving: object.metadata.deletion_timestamp.is_some(), imported_from }
}

fn is_labelled(object: &DynamicObject) -> bool {
    object.labels().get(LABEL_MANAGED_BY).is_some_and(|manager| manager == OPERATOR)
}
