//! What changed since the owner last looked: a set, so that a busy object costs one look, and memory is bounded by
//! the number of objects.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crds::ServiceKey;
use k8s_openapi::api::core::v1::Service;
use runtime::reflect::Change;
use tokio::sync::Notify;

use crate::service::version;

/// Shared between the watches, which mark, and the owner, which takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dirty {
    marks: Arc<Mutex<Marks>>,
    notify: Arc<Notify>,
}

/// What changed.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// Services, with the version of their deletion if they were deleted.
    pub(crate) services: HashMap<ServiceKey, Option<u64>>,
    /// The store of Services was filled anew: look at all of them.
    pub(crate) all_services: bool,
    /// Something that the configuration is made from.
    pub(crate) configuration: bool,
}

impl Dirty {
    pub(crate) fn service(&self, change: &Change<'_, Service>) {
        self.mark(|marks| match change {
            Change::Applied(service) => {
                marks.services.entry(ServiceKey::of(service)).or_default();
            }
            Change::Deleted(service) => {
                marks.services.insert(ServiceKey::of(service), Some(version(service)));
            }
            Change::Replaced => marks.all_services = true,
        });
    }

    pub(crate) fn configuration(&self) {
        self.mark(|marks| marks.configuration = true);
    }

    /// Waits until something changed.
    pub(crate) async fn changed(&self) {
        self.notify.notified().await;
    }

    /// Takes what changed.
    pub(crate) fn take(&self) -> Marks {
        std::mem::take(&mut *self.marks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn mark(&self, mark: impl FnOnce(&mut Marks)) {
        mark(&mut self.marks.lock().unwrap_or_else(PoisonError::into_inner));
        self.notify.notify_one();
    }
}
