//! The inventory of the stack: the objects that the operator owns.

use crds::{InventoryEntry, LoadBalancerStackStatus};

use super::inputs::StatusInputs;
use super::outcome::{Applied, Outcome};
use crate::object::{Key, Kind};

/// The inventory: the objects that exist and are owned, as applied, kept or being deleted; if nothing was
/// applied, the previous inventory.
pub(super) fn inventory(inputs: &StatusInputs<'_>, old: &LoadBalancerStackStatus) -> Vec<InventoryEntry> {
    if !inputs.errors.is_empty() {
        return old.inventory.clone();
    }
    let applied = inputs.applied.0.iter();
    let mut entries: Vec<InventoryEntry> =
        applied.filter_map(|applied| Some(entry(&applied.key, applied.uid.as_ref()?))).collect();
    entries.extend(inputs.retained.iter().chain(inputs.terminating).cloned());
    // Objects that could not be read may still exist.
    let unreadable = unreadable_keys(inputs);
    entries.extend(
        old.inventory.iter().filter(|entry| unreadable.iter().any(|key| refers_to(entry, key))).cloned(),
    );
    entries.sort();
    entries.dedup();
    entries
}

fn unreadable_keys<'a>(inputs: &StatusInputs<'a>) -> Vec<&'a Key> {
    let unknown = |applied: &&Applied| {
        applied.uid.is_none() && matches!(applied.outcome, Outcome::Failed(_) | Outcome::Waiting(_))
    };
    inputs.applied.0.iter().filter(unknown).map(|applied| &applied.key).collect()
}

/// Whether `entry` refers to the object `key`.
fn refers_to(entry: &InventoryEntry, key: &Key) -> bool {
    (Kind::from_api(&entry.api_version, &entry.kind), &entry.namespace, &entry.name)
        == (Some(key.kind), &key.namespace, &key.name)
}

/// The inventory entry of an object.
pub fn entry(key: &Key, uid: &str) -> InventoryEntry {
    let resource = key.kind.api_resource();
    InventoryEntry {
        api_version: resource.api_version,
        kind: resource.kind,
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        uid: uid.to_owned(),
    }
}
