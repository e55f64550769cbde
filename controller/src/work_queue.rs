//! The queue between the watches and the allocator task: a set of changed objects, so that several changes of
//! one object are processed once, and memory is bounded by the number of objects.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crds::ServiceKey;
use k8s_openapi::api::core::v1::Service;
use runtime::reflect::Change;
use tokio::sync::Notify;

use crate::service::version;

/// Filled by the watches and drained by the allocator task.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkQueue {
    pending: Arc<Mutex<Pending>>,
    notify: Arc<Notify>,
}

/// The changes since the queue was drained last.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Changed Services, with the version of the deletion if they were deleted.
    pub(crate) services: HashMap<ServiceKey, Option<u64>>,
    /// The store of Services was replaced: all of them may have changed.
    pub(crate) all_services: bool,
    /// Any object of the configuration changed.
    pub(crate) configuration: bool,
}

impl WorkQueue {
    pub(crate) fn add_service(&self, change: &Change<'_, Service>) {
        self.update(|pending| match change {
            Change::Applied(service) => {
                pending.services.entry(ServiceKey::of(service)).or_default();
            }
            Change::Deleted(service) => {
                pending.services.insert(ServiceKey::of(service), Some(version(service)));
            }
            Change::Replaced => pending.all_services = true,
        });
    }

    pub(crate) fn add_configuration(&self) {
        self.update(|pending| pending.configuration = true);
    }

    /// Waits for a change.
    pub(crate) async fn changed(&self) {
        self.notify.notified().await;
    }

    /// Takes the pending changes.
    pub(crate) fn take(&self) -> Pending {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn update(&self, update: impl FnOnce(&mut Pending)) {
        update(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        self.notify.notify_one();
    }
}
