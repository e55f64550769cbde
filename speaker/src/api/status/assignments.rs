//! Reports of the node of a Service: one per change of owner, even if speakers restart.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::ServiceKey;

/// The last reports about the Services that this node announces or has announced.
#[derive(Default)]
pub(super) struct Assignments(BTreeMap<Arc<ServiceKey>, Assignment>);

struct Assignment {
    /// UID of the Service: another one with the same name may follow.
    uid: Box<str>,
    /// Epoch of the claim. It is incremented with each change of owner; a node that owns a group again after
    /// a stall or restart, or once it has endpoints again, has the same claim. None if the next claim is to
    /// be reported in any case.
    epoch: Option<u64>,
}

impl Assignments {
    /// Whether the announcement of the Service by this node is to be reported. `before` is the epoch of its
    /// announcement in the API, which an earlier process has reported.
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

    /// This node keeps announcing the Service; its claim may differ, since its group may have got another id.
    pub(super) fn continues(&mut self, service: &ServiceKey, epoch: u64) {
        if let Some(known) = self.0.get_mut(service) {
            known.epoch = Some(epoch);
        }
    }

    /// Users have been warned that no node announces the Service: the next announcement is to be reported.
    pub(super) fn announcement_failed(&mut self, service: &Arc<ServiceKey>) {
        let unknown = || Assignment { uid: Box::default(), epoch: None };
        self.0.entry(Arc::clone(service)).or_insert_with(unknown).epoch = None;
    }

    /// Forgets the Services for which `gone` is true.
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
    fn requirement_8_a_node_is_reported_once_per_change_of_owner() {
        let mut assignments = Assignments::default();
        let mut is_new = |uid: &str, epoch| assignments.is_new(&service(), uid, epoch, || None);
        assert!(is_new("u1", 1));
        assert!(!is_new("u1", 1), "after a stall");
        assert!(is_new("u1", 3), "another node had it in between");
        assert!(is_new("u2", 3), "another Service of that name");
        assignments.continues(&service(), 5);
        assert!(!assignments.is_new(&service(), "u2", 5, || None), "its group has become another");
    }

    #[test]
    fn requirement_8_a_node_is_not_reported_again_after_a_restart_of_its_speaker() {
        assert!(!Assignments::default().is_new(&service(), "u1", 4, || Some(4)));
        assert!(Assignments::default().is_new(&service(), "u1", 5, || Some(4)));
    }

    #[test]
    fn requirement_8_a_node_that_announces_after_a_warning_is_reported_though_it_announced_before() {
        let mut assignments = Assignments::default();
        assert!(assignments.is_new(&service(), "u1", 1, || None));
        assignments.announcement_failed(&service());
        assert!(assignments.is_new(&service(), "u1", 1, || Some(1)));
        assert!(!assignments.is_new(&service(), "u1", 1, || Some(1)));
        assignments.forget(|_| true);
        assignments.announcement_failed(&service());
        assert!(assignments.is_new(&service(), "u1", 1, || Some(1)), "nor if it was another one");
    }
}
