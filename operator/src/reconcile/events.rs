//! Events about changes that the operator made, and about conditions of the stack.

use crds::LoadBalancerStackStatus;
use render::Key;

use super::Reconciler;
use crate::apply::Change;
use crate::release::Released;
use crate::stack::Stack;

impl Reconciler {
    /// Emits events about changes; creations and updates are each combined into one event.
    pub(super) fn emit_changes(&self, stack: &Stack, changes: &[Change]) {
        let reference = stack.reference();
        let list = |keys: Vec<&Key>| keys.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let created = list(changes.iter().filter_map(Change::created).collect());
        if !created.is_empty() {
            self.events.normal(&reference, "Apply", "Created", format!("created {created}"));
        }
        let updated = list(changes.iter().filter_map(Change::updated).collect());
        if !updated.is_empty() {
            self.events.normal(&reference, "Apply", "Updated", format!("updated {updated}"));
        }
        for change in changes {
            match change {
                Change::Created(_) | Change::Updated(_) => {}
                Change::Repaired(key, by) => {
                    let note = format!("{key} was changed by {by}, and has been repaired");
                    self.events.warning(&reference, "Repair", "Repaired", note);
                }
                Change::Released(released) => self.emit_released(stack, std::slice::from_ref(released)),
            }
        }
    }

    /// Emits events about objects that were released to their users.
    pub(super) fn emit_released(&self, stack: &Stack, released: &[Released]) {
        for Released { key, by } in released {
            let note = format!(
                "{key} is managed by {by} and belongs to its user from now on: it is neither updated from \
                 its source nor deleted with it"
            );
            tracing::info!(object = %key, by, "released to its user");
            self.events.normal(&stack.reference(), "Release", "Released", note);
        }
    }

    /// Emits events about conditions that have changed.
    pub(super) fn emit_conditions(&self, stack: &Stack, status: &LoadBalancerStackStatus) {
        let reference = stack.reference();
        for condition in &status.conditions {
            let old = stack.status.conditions.iter().find(|old| old.type_ == condition.type_);
            let has_flipped = old.is_none_or(|old| old.status != condition.status);
            let note = || condition.message.clone();
            match (condition.type_.as_str(), condition.status.as_str(), has_flipped) {
                ("Available", "True", true) => {
                    self.events.normal(&reference, "Reconcile", "Available", note());
                }
                ("Degraded", "True", true) => {
                    self.events.warning(&reference, "Reconcile", &condition.reason, note());
                }
                _ => {}
            }
        }
    }
}
