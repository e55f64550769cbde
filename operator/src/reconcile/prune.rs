//! Deletes objects that the operator created and that are no longer rendered.

use std::collections::{BTreeMap, BTreeSet};

use crds::InventoryEntry;
use kube::ResourceExt as _;
use render::ownership::{creator, is_created_by_operator, last_writer, taken_over_by};
use render::retention::{advertised_pools, may_advertise, retained};
use render::status::{Applied, Obstacle, Outcome, entry};
use render::{Key, Kind, Manifests, Object, ValidatedStack};
use serde_json::Value;
use tokio::time::Instant;

use super::owned::{Owned, OwnedObjects};
use super::release::{Released, release_to_user};
use crate::api::{Api, ApiError, NotLeading, Precondition, json_of};
use crate::object_state::{ObjectStates, jitter};
use crate::watch::Caches;

/// Existing objects that are not rendered.
pub(crate) struct Surplus {
    /// Objects to delete, in order.
    pub(crate) delete: Vec<Owned>,
    /// Objects to keep.
    pub(crate) retained: Vec<InventoryEntry>,
    /// Why the deletion of some of these is delayed.
    pub(crate) delayed: Vec<Obstacle>,
}

impl Surplus {
    /// Finds the objects of `owned` that are not rendered.
    pub(crate) fn find(
        owned: OwnedObjects,
        validated: &ValidatedStack,
        rendered: &[Object],
        applied: &Manifests<Applied>,
    ) -> Self {
        let desired: BTreeSet<Key> = rendered.iter().map(Object::key).collect();
        let is_surplus = |key: &Key| key.kind != Kind::Namespace && !desired.contains(key);
        let surplus = owned.objects.into_iter().filter(|owned| is_surplus(&owned.key));
        let (kept, surplus): (Vec<Owned>, Vec<Owned>) =
            surplus.partition(|owned| validated.retains(&owned.key, owned.imported_from.as_deref()));
        let live: BTreeMap<Key, Value> =
            surplus.iter().map(|owned| (owned.key.clone(), owned.live.clone())).collect();
        let delayed = retained(&live, rendered, applied);
        let (waiting, delete): (Vec<Owned>, Vec<Owned>) =
            surplus.into_iter().partition(|owned| delayed.contains_key(&owned.key));
        let kept = kept.iter().chain(&waiting).map(|owned| entry(&owned.key, &owned.uid));
        let retained = kept.chain(owned.unreadable.into_iter().map(|(entry, _)| entry)).collect();
        let obstacle = |(key, why): (Key, String)| Obstacle {
            subject: key.to_string(),
            outcome: Outcome::Retained(why),
        };
        Self { delete, retained, delayed: delayed.into_iter().map(obstacle).collect() }
    }
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
    pub(crate) async fn prune_all(&mut self, owned: &[Owned]) -> Result<PruneResult, NotLeading> {
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
            let deletion = match self.prune_one(object, &terminating).await {
                Ok(deletion) => deletion,
                Err(error) => {
                    let error = error.object_error()?;
                    pruned.terminating.push(entry(key, uid));
                    // An object that has changed since it was read may belong to a user by now: the next
                    // reconciliation decides.
                    if !error.is_conflict() {
                        tracing::warn!(object = %key, %error, "cannot be deleted");
                        let state = self.states.entry(key.clone()).or_default();
                        state.on_failed(error.explain(), now, jitter());
                    }
                    continue;
                }
            };
            self.states.entry(key.clone()).or_default().on_repaired(now);
            match deletion {
                Deletion::Done => {}
                Deletion::Requested => {
                    pruned.terminating.push(entry(key, uid));
                    pruned.deleted.push(key.clone());
                }
                Deletion::Released(by) => pruned.released.push(Released { key: key.clone(), by }),
            }
        }
        Ok(pruned)
    }

    async fn prune_one(
        &self,
        owned: &Owned,
        terminating: &BTreeMap<&str, &Key>,
    ) -> Result<Deletion, ApiError> {
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
    ) -> Result<Option<String>, ApiError> {
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

/// The result of pruning one object.
enum Deletion {
    /// It does not exist any more.
    Done,
    /// Its deletion was requested.
    Requested,
    /// It was released to its user instead, with the given manager.
    Released(String),
}
