//! When a Service has changed its node: once per change of owner, whatever happens to processes meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::ServiceKey;

/// What was reported of the Services that this node announces or did.
#[derive(Default)]
pub(super) struct Assignments(BTreeMap<Arc<ServiceKey>, Assignment>);

struct Assignment {
    /// Of the Service: one with the same name may follow.
    uid: Box<str>,
    /// Of the claim. It grows with each change of owner; who owns a group again after a stall or restart, or
    /// once it has endpoints again, has the same claim. None if it is to be reported whatever it is.
    epoch: Option<u64>,
}

impl Assignments {
    /// Whether that this node announces the Service is news. `before` is the epoch in which it did according to the API,
    /// as an earlier process has reported it.
    pub(super) fn is_new(
        &mut self,
        service: &Arc<ServiceKey>,
        uid: &str,
        epoch: u64,
        before: impl Fn() -> Option<u64>,
    ) -> bool {
        let this = Assignment { uid: uid.into(), epoch: Some(epoch) };
        match self.0.insert(Arc::clone(service), this) {
            Some(known) => *known.uid != *uid || known.epoch != Some(epoch),
            None => before() != Some(epoch),
        }
    }

    /// This node goes on announcing the Service; its claim may be another one, since its group has become another.
    pub(super) fn goes_on(&mut self, service: &ServiceKey, epoch: u64) {
        if let Some(known) = self.0.get_mut(service) {
            known.epoch = Some(epoch);
        }
    }

    /// Users have been warned that no node announces the Service: that one does is news, whichever it is.
    pub(super) fn failed(&mut self, service: &Arc<ServiceKey>) {
        let unknown = || Assignment { uid: Box::default(), epoch: None };
        self.0.entry(Arc::clone(service)).or_insert_with(unknown).epoch = None;
    }

    /// Forgets the Services that are `gone`.
    pub(super) fn forget(&mut self, gone: impl Fn(&ServiceKey) -> bool) {
        self.0.retain(|service, _| !gone(service));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Arc<ServiceKey> {
        Arc::new(ServiceKey::new("default", "web"))
    }

    #[test]
    fn requirement_8_a_node_is_assigned_once_per_change_of_owner() {
        let mut assignments = Assignments::default();
        let mut is_new = |uid: &str, epoch| assignments.is_new(&service(), uid, epoch, || None);
        assert!(is_new("u1", 1));
        assert!(!is_new("u1", 1), "after a stall");
        assert!(is_new("u1", 3), "another node had it in between");
        assert!(is_new("u2", 3), "another Service of that name");
        assignments.goes_on(&service(), 5);
        assert!(!assignments.is_new(&service(), "u2", 5, || None), "its group has become another");
    }

    #[test]
    fn requirement_8_a_node_is_not_assigned_anew_by_a_restart_of_its_speaker() {
        assert!(!Assignments::default().is_new(&service(), "u1", 4, || Some(4)));
        assert!(Assignments::default().is_new(&service(), "u1", 5, || Some(4)));
    }

    #[test]
    fn requirement_8_a_node_that_announces_after_a_warning_is_assigned_though_it_did_before() {
        let mut assignments = Assignments::default();
        assert!(assignments.is_new(&service(), "u1", 1, || None));
        assignments.failed(&service());
        assert!(assignments.is_new(&service(), "u1", 1, || Some(1)));
        assert!(!assignments.is_new(&service(), "u1", 1, || Some(1)));
        assignments.forget(|_| true);
        assignments.failed(&service());
        assert!(assignments.is_new(&service(), "u1", 1, || Some(1)), "nor if it was another one");
    }
}
