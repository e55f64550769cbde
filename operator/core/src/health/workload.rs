//! How far a Deployment or DaemonSet is.

use serde_json::Value;

/// How far a Deployment or DaemonSet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Pods wanted.
    pub desired: i32,
    /// Pods ready, of any template.
    pub ready: i32,
    /// Pods of the newest template.
    pub updated: i32,
    /// Pods there are.
    pub total: i32,
    /// Whether these numbers tell of the newest spec.
    pub observed: bool,
}

impl Workload {
    /// Of a Deployment.
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

    /// Of a DaemonSet.
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

    /// `2/3`: ready of wanted.
    pub fn ratio(&self) -> String {
        format!("{}/{}", self.ready, self.desired)
    }

    /// Whether as many pods are ready as shall be, as far as is known.
    pub fn is_complete(&self) -> bool {
        self.observed && self.ready >= self.desired
    }

    /// Whether every pod is of the newest template and, unless that was so before, ready.
    pub fn is_rolled_out(&self, was_complete: bool) -> bool {
        self.observed
            && self.updated == self.desired
            && self.total == self.desired
            && (was_complete || self.ready == self.desired)
    }
}

/// Why pods of a Deployment cannot be created, in the API server's own words.
pub(super) fn creation_refused(live: &Value) -> Option<&str> {
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
