//! The rollout state of a Deployment or DaemonSet.

use serde_json::Value;

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
    pub fn deployment(live: &Value) -> Self {
        let number = |at: &str| number(live, at);
        Self {
            desired: number("/spec/replicas"),
            ready: number("/status/readyReplicas"),
            updated: number("/status/updatedReplicas"),
            total: number("/status/replicas"),
            observed: is_observed(live),
        }
    }

    /// Reads the state of a DaemonSet.
    pub fn daemon_set(live: &Value) -> Self {
        let number = |at: &str| number(live, at);
        Self {
            desired: number("/status/desiredNumberScheduled"),
            ready: number("/status/numberReady"),
            updated: number("/status/updatedNumberScheduled"),
            total: number("/status/currentNumberScheduled"),
            observed: is_observed(live),
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
pub(super) fn creation_failure(live: &Value) -> Option<&str> {
    let conditions = live.pointer("/status/conditions")?.as_array()?;
    let failure = conditions.iter().find(|condition| condition["type"] == "ReplicaFailure")?;
    (failure["status"] == "True").then(|| failure["message"].as_str().unwrap_or_default())
}

fn number(live: &Value, at: &str) -> i32 {
    live.pointer(at).and_then(Value::as_i64).and_then(|number| i32::try_from(number).ok()).unwrap_or(0)
}

fn is_observed(live: &Value) -> bool {
    let generation = |at: &str| live.pointer(at).and_then(Value::as_i64);
    generation("/status/observedGeneration") >= generation("/metadata/generation").or(Some(0))
}
