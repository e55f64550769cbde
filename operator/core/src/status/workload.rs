//! The rollout state of a Deployment or DaemonSet.

use crds::ObjectMeta;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};

/// The rollout state of a Deployment or DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The desired number of pods.
    pub desired: i32,
    /// Ready pods, of any template.
    pub ready: i32,
    /// Pods of the newest template.
    pub updated: i32,
    /// All pods.
    pub total: i32,
    /// Whether these numbers are about the latest generation of the spec.
    pub observed: bool,
}

impl Workload {
    /// Reads the state of a Deployment.
    pub fn deployment(live: &Deployment) -> Self {
        let status = live.status.as_ref();
        Self {
            desired: live.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0),
            ready: status.and_then(|status| status.ready_replicas).unwrap_or(0),
            updated: status.and_then(|status| status.updated_replicas).unwrap_or(0),
            total: status.and_then(|status| status.replicas).unwrap_or(0),
            observed: is_observed(&live.metadata, status.and_then(|status| status.observed_generation)),
        }
    }

    /// Reads the state of a DaemonSet.
    pub fn daemon_set(live: &DaemonSet) -> Self {
        let status = live.status.as_ref();
        Self {
            desired: status.map_or(0, |status| status.desired_number_scheduled),
            ready: status.map_or(0, |status| status.number_ready),
            updated: status.and_then(|status| status.updated_number_scheduled).unwrap_or(0),
            total: status.map_or(0, |status| status.current_number_scheduled),
            observed: is_observed(&live.metadata, status.and_then(|status| status.observed_generation)),
        }
    }

    /// `2/3`: ready pods and desired pods.
    pub fn ratio(&self) -> String {
        format!("{}/{}", self.ready, self.desired)
    }

    /// Whether all desired pods are ready.
    pub fn is_complete(&self) -> bool {
        self.observed && self.ready >= self.desired
    }

    /// Whether every pod has the newest template and, unless `was_complete`, is ready.
    pub fn is_rolled_out(&self, was_complete: bool) -> bool {
        self.observed
            && self.updated == self.desired
            && self.total == self.desired
            && (was_complete || self.ready == self.desired)
    }
}

/// The API server's explanation if pods of a Deployment cannot be created.
pub(super) fn creation_failure(live: &Deployment) -> Option<&str> {
    let conditions = live.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions.iter().find(|condition| condition.type_ == "ReplicaFailure")?;
    (failure.status == "True").then(|| failure.message.as_deref().unwrap_or_default())
}

fn is_observed(metadata: &ObjectMeta, observed_generation: Option<i64>) -> bool {
    observed_generation >= metadata.generation.or(Some(0))
}
