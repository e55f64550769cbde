//! Events about what was done, and about what has become of the stack.

use crds::LoadBalancerStackStatus;
use render::Key;

use super::Reconciler;
use crate::apply::Deed;
use crate::release::Released;
use crate::stack::Stack;

impl Reconciler {
    /// Events about what was done; what belongs together is one event.
    pub(super) fn tell(&self, stack: &Stack, deeds: &[Deed]) {
        let reference = stack.reference();
        let list = |keys: Vec<&Key>| keys.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let made = list(deeds.iter().filter_map(Deed::made).collect());
        if !made.is_empty() {
            self.events.normal(&reference, "Apply", "Created", format!("made {made}"));
        }
        let changed = list(deeds.iter().filter_map(Deed::changed).collect());
        if !changed.is_empty() {
            self.events.normal(&reference, "Apply", "Updated", format!("updated {changed}"));
        }
        for deed in deeds {
            match deed {
                Deed::Made(_) | Deed::Changed(_) => {}
                Deed::Repaired(key, by) => {
                    let note = format!("{key} was changed by {by}, and is as the stack wants it again");
                    self.events.warning(&reference, "Repair", "Repaired", note);
                }
                Deed::Released(released) => self.report_released(stack, std::slice::from_ref(released)),
            }
        }
    }

    /// Events about objects that are a user's from now on.
    pub(super) fn report_released(&self, stack: &Stack, released: &[Released]) {
        for Released { key, by } in released {
            let note = format!(
                "{key} is managed by {by} and is its user's from now on: it is neither kept in step with what it was \
                 made of nor removed with it"
            );
            tracing::info!(object = %key, by, "is left to its user");
            self.events.normal(&stack.reference(), "Release", "Released", note);
        }
    }

    /// Events about conditions that flip.
    pub(super) fn announce(&self, stack: &Stack, status: &LoadBalancerStackStatus) {
        let reference = stack.reference();
        for condition in &status.conditions {
            let old = stack.status.conditions.iter().find(|old| old.type_ == condition.type_);
            let flipped = old.is_none_or(|old| old.status != condition.status);
            let note = || condition.message.clone();
            match (condition.type_.as_str(), condition.status.as_str(), flipped) {
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
