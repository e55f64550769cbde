//! The objects in the cluster, as far as possible without a call.

use crds::InventoryEntry;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::ownership::{has_managed_by_label, is_created_by_operator, taken_over_by};
use render::status::entry;
use render::{Key, Object};
use tokio::time::Instant;

use crate::api::{Api, ApiError, json_of};
use crate::object_state::{Lookup, ObjectState};
use crate::watch::Caches;

/// Reads objects of the stack.
pub(crate) struct LiveObjects<'a> {
    pub(crate) api: &'a Api,
    pub(crate) caches: &'a Caches,
    pub(crate) inventory: &'a [InventoryEntry],
}

impl LiveObjects<'_> {
    /// The current object. It is read from the API server only if it is not cached.
    pub(crate) async fn get(
        &self,
        key: &Key,
        state: &mut ObjectState,
    ) -> Result<Option<DynamicObject>, ApiError> {
        if self.caches.get(key).is_some() {
            return Ok(self.cached(key, state));
        }
        if let Some(Lookup(found)) = state.take_lookup() {
            return Ok(found);
        }
        if let Some(foreign) = state.foreign_object(Instant::now()) {
            return Ok(Some(foreign.clone()));
        }
        let found = self.api.get(key).await?;
        Ok(state.newest(found))
    }

    /// The cached object, or the operator's last write if that is newer.
    pub(crate) fn cached(&self, key: &Key, state: &mut ObjectState) -> Option<DynamicObject> {
        let object = self.caches.get(key)?;
        state.newest(Some((*object).clone()))
    }

    /// Whether the operator created the object, and no user has taken it over.
    pub(crate) fn is_ours(&self, object: &Object, key: &Key, live: &DynamicObject) -> bool {
        let in_inventory = live.uid().is_some_and(|uid| self.inventory.contains(&entry(key, &uid)));
        let live = json_of(live);
        let imported = object.imported_from().is_some();
        // Removing the operator's label from an imported object takes it over.
        let is_users = imported && (!has_managed_by_label(&live) || taken_over_by(&live).is_some());
        is_created_by_operator(&live, in_inventory) && !is_users
    }
}
