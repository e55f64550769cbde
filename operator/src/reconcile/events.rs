//! Events on the stack: changes that the operator made, and conditions that have changed.

use crds::LoadBalancerStackStatus;
use k8s_openapi::api::core::v1::ObjectReference;
use render::Key;
use runtime::events::Events;

use super::release::Released;
use crate::stack::Stack;

/// A change to an object.
pub(crate) enum Change {
    /// The object was created.
    Created(Key),
    /// The object was updated because the desired state changed.
    Updated(Key),
    /// The object was repaired; the field managers that had changed it.
    Repaired(Key, String),
    /// The object was released to its user.
    Released(Released),
}

/// Emits events on the stack.
pub(crate) struct StackEvents<'a> {
    events: &'a Events,
    stack: ObjectReference,
}

impl<'a> StackEvents<'a> {
    pub(crate) fn new(events: &'a Events, stack: &Stack) -> Self {
        Self { events, stack: stack.reference() }
    }

    /// Emits events about changes; creations and updates are each combined into one event.
    pub(crate) fn changes(&self, changes: &[Change]) {
        let (mut created, mut updated) = (Vec::new(), Vec::new());
        for change in changes {
            match change {
                Change::Created(key) => created.push(key.to_string()),
                Change::Updated(key) => updated.push(key.to_string()),
                Change::Repaired(..) | Change::Released(_) => {}
            }
        }
        if !created.is_empty() {
            self.events.normal(&self.stack, "Apply", "Created", format!("created {}", created.join(", ")));
        }
        if !updated.is_empty() {
            self.events.normal(&self.stack, "Apply", "Updated", format!("updated {}", updated.join(", ")));
        }
        for change in changes {
            match change {
                Change::Created(_) | Change::Updated(_) => {}
                Change::Repaired(key, by) => {
                    let note = format!("{key} was changed by {by}, and has been repaired");
                    self.events.warning(&self.stack, "Repair", "Repaired", note);
                }
                Change::Released(released) => self.released(std::slice::from_ref(released)),
            }
        }
    }

    /// Emits events about objects that were released to their users.
    pub(crate) fn released(&self, released: &[Released]) {
        for Released { key, by } in released {
            let note = format!(
                "{key} is managed by {by} and belongs to its user from now on: it is neither updated from \
                 its source nor deleted with it"
            );
            tracing::info!(object = %key, by, "released to its user");
            self.events.normal(&self.stack, "Release", "Released", note);
        }
    }

    /// Emits events about objects that were pruned.
    pub(crate) fn pruned(&self, deleted: &[Key]) {
        for key in deleted {
            let note = format!("{key} is no longer part of the stack");
            self.events.normal(&self.stack, "Prune", "Removed", note);
        }
    }

    /// Emits events about objects that remain after the teardown.
    pub(crate) fn left_behind(&self, objects: Vec<String>) {
        for object in objects {
            self.events.warning(&self.stack, "Delete", "LeftBehind", object);
        }
    }

    /// Emits an event about another writer of the status.
    pub(crate) fn status_contested(&self, note: String) {
        self.events.warning(&self.stack, "Report", "StatusContested", note);
    }

    /// Emits events about conditions that have changed since `old`.
    pub(crate) fn conditions(&self, old: &LoadBalancerStackStatus, new: &LoadBalancerStackStatus) {
        for condition in &new.conditions {
            let old = old.conditions.iter().find(|old| old.type_ == condition.type_);
            let has_flipped = old.is_none_or(|old| old.status != condition.status);
            let note = || condition.message.clone();
            match (condition.type_.as_str(), condition.status.as_str(), has_flipped) {
                ("Available", "True", true) => {
                    self.events.normal(&self.stack, "Reconcile", "Available", note());
                }
                ("Degraded", "True", true) => {
                    self.events.warning(&self.stack, "Reconcile", &condition.reason, note());
                }
                _ => {}
            }
        }
    }
}
