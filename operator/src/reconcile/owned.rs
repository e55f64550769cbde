//! The objects in the cluster that the operator owns.

use std::collections::BTreeSet;

use crds::InventoryEntry;
use crds::names::LABEL_IMPORTED_FROM;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::ownership::{has_managed_by_label, is_created_by_operator, is_imported, taken_over_by};
use render::status::entry;
use render::{Key, Kind};
use serde_json::Value;

use crate::api::{Api, json_of};
use crate::watch::Caches;

/// An existing object that the operator created and that no user has taken over.
pub(crate) struct Owned {
    pub(crate) key: Key,
    pub(crate) uid: String,
    /// Whether it is being deleted already.
    pub(crate) terminating: bool,
    /// The legacy source from which it was imported, if it was imported.
    pub(crate) imported_from: Option<String>,
    /// The object as last read.
    pub(crate) live: Value,
}

/// The objects that the operator owns.
#[derive(Default)]
pub(crate) struct OwnedObjects {
    /// The objects, in the order in which to delete them.
    pub(crate) objects: Vec<Owned>,
    /// Inventory entries of objects that cannot be read, with the reason; they may exist.
    pub(crate) unreadable: Vec<(InventoryEntry, String)>,
}

/// Finds every existing object that the operator created for the stack `uid`: cached objects with the stack
/// as owner, and those in the inventory that still have the operator's label and the recorded UID.
pub(crate) async fn find_owned(
    api: &Api,
    caches: &Caches,
    uid: &str,
    inventory: &[InventoryEntry],
) -> OwnedObjects {
    let mut found = OwnedObjects::default();
    let mut keys: BTreeSet<Key> = BTreeSet::new();
    for (key, object) in caches.owned_by(uid) {
        if keys.insert(key.clone()) {
            let listed = object.uid().is_some_and(|uid| inventory.contains(&entry(&key, &uid)));
            found.objects.extend(owned(key, &object, listed));
        }
    }
    for listed in inventory {
        let Some(kind) = Kind::from_api(&listed.api_version, &listed.kind) else { continue };
        let key = Key { kind, namespace: listed.namespace.clone(), name: listed.name.clone() };
        if !keys.insert(key.clone()) {
            continue;
        }
        let object = match caches.get(&key) {
            Some(object) => Some((*object).clone()),
            None => match api.get(&key).await {
                Ok(object) => object,
                Err(error) => {
                    tracing::warn!(object = %key, %error, "cannot be read, and is assumed to be unchanged");
                    found.unreadable.push((listed.clone(), error.explain()));
                    continue;
                }
            },
        };
        let same = object.filter(|object| object.uid().as_deref() == Some(listed.uid.as_str()));
        found.objects.extend(same.and_then(|object| owned(key, &object, true)));
    }
    found
        .objects
        .sort_by(|a, b| (a.key.kind.deletion_order(), &a.key).cmp(&(b.key.kind.deletion_order(), &b.key)));
    found
}

/// The object, if the operator created it and no user has taken it over. `listed`: the inventory has it.
fn owned(key: Key, object: &DynamicObject, listed: bool) -> Option<Owned> {
    let live = json_of(object);
    let is_users = is_imported(&live) && taken_over_by(&live).is_some();
    (has_managed_by_label(&live) && is_created_by_operator(&live, listed) && !is_users).then(|| Owned {
        key,
        uid: object.uid().unwrap_or_default(),
        terminating: object.metadata.deletion_timestamp.is_some(),
        imported_from: object.labels().get(LABEL_IMPORTED_FROM).cloned(),
        live,
    })
}
