//! Removes what the operator made and the render no longer has.

use std::collections::{BTreeMap, BTreeSet};

use crds::InventoryEntry;
use crds::names::LABEL_IMPORTED_FROM;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::health::{Obstacle, Outcome, entry};
use render::ownership::{is_imported, is_labelled, is_operators, last_writer, maker, taken_over_by};
use render::retention::{may_advertise, pools};
use render::{Key, Kind};
use serde_json::Value;

use crate::api::{Api, Error, Precondition};
use crate::apply::{jitter, json_of};
use crate::memory::Memory;
use crate::release::{Released, hand_over};
use crate::watch::{Caches, Seen};
use tokio::time::Instant;

/// An object that the operator made, that exists, and that nobody has taken over.
pub(crate) struct Made {
    pub(crate) key: Key,
    pub(crate) uid: String,
    /// Its deletion was asked for already.
    pub(crate) leaving: bool,
    /// What it was imported from, if it was.
    pub(crate) imported_from: Option<String>,
    /// The object as last seen.
    pub(crate) live: Value,
}

/// What the operator made.
#[derive(Default)]
pub(crate) struct Inventory {
    /// In the order to remove it.
    pub(crate) made: Vec<Made>,
    /// What may exist, and cannot be read: each with the reason.
    pub(crate) unread: Vec<(InventoryEntry, String)>,
}

/// Everything that the operator made for the stack `uid` and that exists: what is mirrored with it as owner,
/// and what the inventory names, if it still carries our label and the UID that it had.
pub(crate) async fn made(api: &Api, caches: &Caches, uid: &str, inventory: &[InventoryEntry]) -> Inventory {
    let mut found = Inventory::default();
    let mut known: BTreeSet<Key> = BTreeSet::new();
    for (key, object) in caches.owned_by(uid) {
        if known.insert(key.clone()) {
            let listed = object.uid().is_some_and(|uid| inventory.contains(&entry(&key, &uid)));
            found.made.extend(of(key, &object, listed));
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
            Seen::NotThere => match api.get(&key).await {
                Ok(object) => object,
                Err(error) => {
                    tracing::warn!(object = %key, %error, "cannot be read, and is taken to be as it was");
                    found.unread.push((listed.clone(), error.explain()));
                    continue;
                }
            },
        };
        let same = object.filter(|object| object.uid().as_deref() == Some(listed.uid.as_str()));
        found.made.extend(same.and_then(|object| of(key, &object, true)));
    }
    found
        .made
        .sort_by(|a, b| (a.key.kind.removal_order(), &a.key).cmp(&(b.key.kind.removal_order(), &b.key)));
    found
}

fn of(key: Key, object: &DynamicObject, listed: bool) -> Option<Made> {
    let live = json_of(object);
    let is_users = is_imported(&live) && taken_over_by(&live).is_some();
    (is_labelled(&live) && is_operators(&live, listed) && !is_users).then(|| Made {
        key,
        uid: object.uid().unwrap_or_default(),
        leaving: object.metadata.deletion_timestamp.is_some(),
        imported_from: object.labels().get(LABEL_IMPORTED_FROM).cloned(),
        live,
    })
}

/// What a removal came to.
#[derive(Default)]
pub(crate) struct Pruned {
    /// Not gone yet.
    pub(crate) leaving: Vec<InventoryEntry>,
    /// Asked to go just now.
    pub(crate) removed: Vec<Key>,
    /// Left to their users instead.
    pub(crate) released: Vec<Released>,
    /// Left alone, since somebody makes them anew again and again.
    pub(crate) contested: Vec<InventoryEntry>,
    /// The same for the status.
    pub(crate) obstacles: Vec<Obstacle>,
}

/// What it takes to remove objects.
pub(crate) struct Pruner<'a> {
    pub(crate) api: &'a Api,
    pub(crate) caches: &'a Caches,
    /// What was deleted before, or could not be.
    pub(crate) memory: &'a mut Memory,
    /// The UID of the stack.
    pub(crate) stack: &'a str,
}

impl Pruner<'_> {
    /// Removes all of `made`, in order.
    pub(crate) async fn all(&mut self, made: &[Made]) -> Result<Pruned, Error> {
        let mut pruned = Pruned::default();
        let now = Instant::now();
        self.memory
            .retain(|key, record| made.iter().any(|made| made.key == *key) || !record.is_undisputed(now));
        let leaving: BTreeMap<&str, &Key> = made.iter().map(|made| (made.uid.as_str(), &made.key)).collect();
        for object in made {
            let Made { key, uid, leaving: asked, .. } = object;
            let record = self.memory.entry(key.clone()).or_default();
            if *asked || record.is_held(now).is_some() {
                pruned.leaving.push(entry(key, uid));
                continue;
            }
            if record.left_alone(now).is_some() {
                pruned.contested.push(entry(key, uid));
                pruned.obstacles.push(remade(object));
                continue;
            }
            match self.one(object, &leaving).await {
                Ok(removal) => {
                    self.memory.entry(key.clone()).or_default().repaired(now);
                    match removal {
                        Removal::Gone => {}
                        Removal::Asked => {
                            pruned.leaving.push(entry(key, uid));
                            pruned.removed.push(key.clone());
                        }
                        Removal::Left(by) => pruned.released.push(Released { key: key.clone(), by }),
                    }
                }
                Err(error @ Error::NotLeading) => return Err(error),
                Err(error) => {
                    pruned.leaving.push(entry(key, uid));
                    // What has changed since it was seen may be a user's by now: the next look decides.
                    if !error.is_outdated() {
                        tracing::warn!(object = %key, %error, "cannot be removed");
                        let record = self.memory.entry(key.clone()).or_default();
                        record.failed(error.explain(), now, jitter());
                    }
                }
            }
        }
        Ok(pruned)
    }

    async fn one(&self, made: &Made, leaving: &BTreeMap<&str, &Key>) -> Result<Removal, Error> {
        if let Some(by) = self.last_of_a_users_pool(made, leaving).await? {
            hand_over(self.api, &made.key, self.stack).await?;
            return Ok(Removal::Left(by));
        }
        let seen = Precondition::of(&made.live, made.key.kind.is_configuration());
        let gone = self.api.delete(&made.key, Some(seen)).await?;
        Ok(if gone { Removal::Gone } else { Removal::Asked })
    }

    /// Who manages the pool of an imported advertisement, if it is a user's and nothing else advertises it: a pool that
    /// outlives its source goes on being announced.
    async fn last_of_a_users_pool(
        &self,
        made: &Made,
        leaving: &BTreeMap<&str, &Key>,
    ) -> Result<Option<String>, Error> {
        let kind = made.key.kind;
        let is_advertisement = matches!(kind, Kind::L2Advertisement | Kind::BgpAdvertisement);
        let (true, Some(namespace)) = (is_advertisement && made.imported_from.is_some(), &made.key.namespace)
        else {
            return Ok(None);
        };
        for pool in pools(&made.live) {
            let key = Key { kind: Kind::IpAddressPool, name: pool.to_owned(), ..made.key.clone() };
            let found = match self.caches.get(&key) {
                Seen::There(object) => Some((*object).clone()),
                Seen::NotThere => self.api.get(&key).await?,
            };
            let Some(found) = found.map(|object| json_of(&object)) else { continue };
            if is_operators(&found, false) && taken_over_by(&found).is_none() {
                continue;
            }
            let others = self.api.list(&kind.api_resource(), Some(namespace)).await?;
            let mut others = others.iter().filter(|other| {
                other.metadata.deletion_timestamp.is_none()
                    && !other.uid().is_some_and(|uid| leaving.contains_key(uid.as_str()))
            });
            if !others.any(|other| may_advertise(&json_of(other), pool)) {
                return Ok(Some(maker(&found).to_owned()));
            }
        }
        Ok(None)
    }
}

/// What is to be said of an object that is there again whenever it was removed.
fn remade(made: &Made) -> Obstacle {
    let text = format!(
        "is no longer wanted, and {} makes it anew again and again after it was removed; it is left alone for ten \
         minutes: stop what makes it",
        last_writer(&made.live)
    );
    Obstacle { about: made.key.to_string(), outcome: Outcome::Contested(text) }
}

enum Removal {
    Gone,
    Asked,
    Left(String),
}
