//! Deletes objects that the operator created and that are no longer rendered.

use std::collections::{BTreeMap, BTreeSet};

use crds::InventoryEntry;
use crds::names::LABEL_IMPORTED_FROM;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::ownership::{
    creator, has_managed_by_label, is_created_by_operator, is_imported, last_writer, taken_over_by,
};
use render::retention::{advertised_pools, may_advertise};
use render::status::{Obstacle, Outcome, entry};
use render::{Key, Kind};
use serde_json::Value;

use crate::api::{Api, Error, Precondition};
use crate::apply::{jitter, json_of};
use crate::object_state::ObjectStates;
use crate::release::{Released, release_to_user};
use crate::watch::Caches;
use tokio::time::Instant;

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

/// The result of pruning.
#[derive(Default)]
pub(crate) struct PruneResult {
    /// Objects that are being deleted.
    pub(crate) terminating: Vec<InventoryEntry>,
    /// Objects whose deletion was requested in this step.
    pub(crate) deleted: Vec<Key>,
    /// Objects that were released to their users instead.
    pub(crate) released: Vec<Released>,
    /// Objects that are left alone because somebody keeps re-creating them.
    pub(crate) contested: Vec<InventoryEntry>,
    /// The same as problems for the status.
    pub(crate) obstacles: Vec<Obstacle>,
}

/// Deletes objects of a stack.
pub(crate) struct Pruner<'a> {
    pub(crate) api: &'a Api,
    pub(crate) caches: &'a Caches,
    /// The states of objects that were deleted before, or could not be.
    pub(crate) states: &'a mut ObjectStates,
    /// The UID of the stack.
    pub(crate) stack: &'a str,
}

impl Pruner<'_> {
    /// Deletes all of `owned`, in order.
    pub(crate) async fn prune_all(&mut self, owned: &[Owned]) -> Result<PruneResult, Error> {
        let mut pruned = PruneResult::default();
        let now = Instant::now();
        self.states.retain(|key, state| owned.iter().any(|owned| owned.key == *key) || !state.is_idle(now));
        let terminating: BTreeMap<&str, &Key> =
            owned.iter().map(|owned| (owned.uid.as_str(), &owned.key)).collect();
        for object in owned {
            let Owned { key, uid, terminating: is_terminating, .. } = object;
            let state = self.states.entry(key.clone()).or_default();
            if *is_terminating || state.backoff_error(now).is_some() {
                pruned.terminating.push(entry(key, uid));
                continue;
            }
            if state.blocked_for(now).is_some() {
                pruned.contested.push(entry(key, uid));
                pruned.obstacles.push(recreated(object));
                continue;
            }
            match self.prune_one(object, &terminating).await {
                Ok(removal) => {
                    self.states.entry(key.clone()).or_default().on_repaired(now);
                    match removal {
                        Deletion::Done => {}
                        Deletion::Requested => {
                            pruned.terminating.push(entry(key, uid));
                            pruned.deleted.push(key.clone());
                        }
                        Deletion::Released(by) => pruned.released.push(Released { key: key.clone(), by }),
                    }
                }
                Err(error @ Error::NotLeading) => return Err(error),
                Err(error) => {
                    pruned.terminating.push(entry(key, uid));
                    // An object that has changed since it was read may belong to a user by now: the next
                    // reconciliation decides.
                    if !error.is_conflict() {
                        tracing::warn!(object = %key, %error, "cannot be deleted");
                        let state = self.states.entry(key.clone()).or_default();
                        state.on_failed(error.explain(), now, jitter());
                    }
                }
            }
        }
        Ok(pruned)
    }

    async fn prune_one(&self, owned: &Owned, terminating: &BTreeMap<&str, &Key>) -> Result<Deletion, Error> {
        if let Some(by) = self.user_pool_left_unadvertised(owned, terminating).await? {
            release_to_user(self.api, &owned.key, self.stack).await?;
            return Ok(Deletion::Released(by));
        }
        let seen = Precondition::of(&owned.live, owned.key.kind.is_configuration());
        let gone = self.api.delete(&owned.key, Some(seen)).await?;
        Ok(if gone { Deletion::Done } else { Deletion::Requested })
    }

    /// The manager of the pool of an imported advertisement, if the pool belongs to a user and no other
    /// advertisement advertises it. Then the advertisement is released too: a pool that outlives its source
    /// must stay advertised.
    async fn user_pool_left_unadvertised(
        &self,
        owned: &Owned,
        terminating: &BTreeMap<&str, &Key>,
    ) -> Result<Option<String>, Error> {
        let kind = owned.key.kind;
        let is_advertisement = matches!(kind, Kind::L2Advertisement | Kind::BgpAdvertisement);
        let (true, Some(namespace)) =
            (is_advertisement && owned.imported_from.is_some(), &owned.key.namespace)
        else {
            return Ok(None);
        };
        for pool in advertised_pools(&owned.live) {
            let key = Key { kind: Kind::IpAddressPool, name: pool.to_owned(), ..owned.key.clone() };
            let found = match self.caches.get(&key) {
                Some(object) => Some((*object).clone()),
                None => self.api.get(&key).await?,
            };
            let Some(found) = found.map(|object| json_of(&object)) else { continue };
            if is_created_by_operator(&found, false) && taken_over_by(&found).is_none() {
                continue;
            }
            let others = self.api.list(&kind.api_resource(), Some(namespace)).await?;
            let mut others = others.iter().filter(|other| {
                other.metadata.deletion_timestamp.is_none()
                    && !other.uid().is_some_and(|uid| terminating.contains_key(uid.as_str()))
            });
            if !others.any(|other| may_advertise(&json_of(other), pool)) {
                return Ok(Some(creator(&found).to_owned()));
            }
        }
        Ok(None)
    }
}

/// The problem of an object that is re-created whenever it is deleted.
fn recreated(owned: &Owned) -> Obstacle {
    let text = format!(
        "is no longer part of the stack, and {} keeps re-creating it; it is not deleted again for ten \
         minutes: stop the other writer",
        last_writer(&owned.live)
    );
    Obstacle { subject: owned.key.to_string(), outcome: Outcome::Contested(text) }
}

enum Deletion {
    Done,
    Requested,
    Released(String),
}
