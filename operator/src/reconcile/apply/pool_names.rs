//! Which names of pools are taken by objects of other owners.

use std::collections::{BTreeMap, BTreeSet};

use render::{Key, Kind, Object};
use tokio::time::Instant;

use super::live::LiveObjects;
use crate::object_state::ObjectStates;

/// The names of pools that are taken, each with the object that takes it: a pool of another owner or, if
/// there is no such pool yet, an advertisement or policy. Nothing is created under such a name, since it
/// would act on an object of the other owner. Neither a pool that the operator owns nor a name known to be
/// taken causes a call.
pub(crate) async fn taken_pool_names(
    objects: &[Object],
    live_objects: &LiveObjects<'_>,
    states: &mut ObjectStates,
) -> BTreeMap<String, Key> {
    let mut names = PoolNames::default();
    for object in objects {
        let (Some(pool), key) = (object.pool(), object.key()) else { continue };
        let state = states.entry(key.clone()).or_default();
        let live = live_objects.cached(&key, state);
        let live = live.or_else(|| state.foreign_object(Instant::now()).cloned());
        if let Some(live) = live {
            names.add(pool, &key, live_objects.is_ours(object, &key, &live));
        }
    }
    for object in objects {
        let (Some(pool), key) = (object.pool(), object.key()) else { continue };
        let state = states.entry(key.clone()).or_default();
        // An error here recurs when the object is applied, and is reported then.
        if !names.is_known(pool)
            && state.backoff_error(Instant::now()).is_none()
            && let Ok(live) = live_objects.get(&key, state).await
        {
            if let Some(live) = &live {
                names.add(pool, &key, live_objects.is_ours(object, &key, live));
            }
            state.store_lookup(live);
        }
    }
    names.taken.retain(|pool, _| !names.in_place.contains(pool));
    names.taken
}

/// Which pool names are taken, and which pools exist.
#[derive(Default)]
struct PoolNames {
    /// Names under which an object of another owner exists.
    taken: BTreeMap<String, Key>,
    /// Names whose pool exists and is owned by the operator.
    in_place: BTreeSet<String>,
}

impl PoolNames {
    /// Records that the object `key` of the pool `pool` exists.
    fn add(&mut self, pool: &str, key: &Key, is_ours: bool) {
        if !is_ours {
            self.taken.entry(pool.to_owned()).or_insert_with(|| key.clone());
        } else if key.kind == Kind::IpAddressPool {
            self.in_place.insert(pool.to_owned());
        }
    }

    fn is_known(&self, pool: &str) -> bool {
        self.taken.contains_key(pool) || self.in_place.contains(pool)
    }
}
