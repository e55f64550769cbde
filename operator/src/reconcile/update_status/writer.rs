//! Writes the status of the stack: only if it differs, and only a limited number of times against another
//! writer.

use std::time::Duration;

use crds::LoadBalancerStackStatus;
use crds::names::OPERATOR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use tokio::time::Instant;

use crate::api::{Api, ApiError};
use crate::rewrite_limit::RewriteLimit;
use crate::stack::Stack;

/// The minimum interval between two writes of the status.
const MIN_WRITE_INTERVAL: Duration = Duration::from_millis(500);

/// Why the status could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The status cannot be serialised.
    #[error("cannot be serialised as JSON: {0}")]
    Serialize(#[from] serde_json::Error),
    /// The call failed.
    #[error(transparent)]
    Call(#[from] ApiError),
}

/// Writes the status of the stack.
#[derive(Debug, Default)]
pub(crate) struct StatusWriter {
    last: Option<LastWrite>,
    rewrites: RewriteLimit,
    reported: bool,
}

/// The last status that was written; both values without transition times.
#[derive(Debug)]
struct LastWrite {
    content: LoadBalancerStackStatus,
    /// The status as stored: an older definition of the kind lacks some fields.
    stored: LoadBalancerStackStatus,
    at: Instant,
}

/// The result of writing a status.
#[derive(Debug)]
pub(crate) enum StatusWrite {
    /// The status is stored already.
    Unchanged,
    /// The status was written; the stack as it is now.
    Written(Box<DynamicObject>),
    /// It is too early for another write.
    Delayed(Duration),
    /// Another writer keeps overwriting it, so it is not written for that time.
    Contested { by: String, first: bool, wait: Duration },
}

impl StatusWriter {
    /// Writes `status` unless it is stored already, the last write is too recent, or another writer keeps
    /// overwriting it.
    pub(crate) async fn write(
        &mut self,
        api: &Api,
        stack: &Stack,
        status: &LoadBalancerStackStatus,
    ) -> Result<StatusWrite, WriteError> {
        if *status == stack.status {
            return Ok(StatusWrite::Unchanged);
        }
        let now = Instant::now();
        let content = without_times(status);
        let is_rewrite = self.last.as_ref().is_some_and(|last| last.content == content);
        if is_rewrite && self.last.as_ref().is_some_and(|last| last.stored == without_times(&stack.status)) {
            return Ok(StatusWrite::Unchanged);
        }
        if let Some(wait) = self.rewrites.blocked_for(now) {
            let first = !std::mem::replace(&mut self.reported, true);
            return Ok(StatusWrite::Contested { by: other_writer(&stack.object), first, wait });
        }
        self.reported = false;
        let too_early =
            self.last.as_ref().map(|last| (last.at + MIN_WRITE_INTERVAL).saturating_duration_since(now));
        if let Some(wait) = too_early.filter(|wait| !wait.is_zero()) {
            return Ok(StatusWrite::Delayed(wait));
        }
        let body = serde_json::to_value(status)?;
        let written = api.set_status(&stack.object.name_any(), &body).await?;
        if is_rewrite {
            self.rewrites.record(now);
        }
        let stored = without_times(&Stack::read(written.clone()).status);
        self.last = Some(LastWrite { content, stored, at: now });
        Ok(StatusWrite::Written(Box::new(written)))
    }
}

/// The status without transition times: reverting a condition also changes its transition time.
fn without_times(status: &LoadBalancerStackStatus) -> LoadBalancerStackStatus {
    let mut status = status.clone();
    for condition in &mut status.conditions {
        condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
    }
    status
}

/// The field managers of the status other than this operator.
fn other_writer(stack: &DynamicObject) -> String {
    let others = stack.managed_fields().iter().filter(|entry| {
        entry.subresource.as_deref() == Some("status") && entry.manager.as_deref() != Some(OPERATOR)
    });
    let names: Vec<&str> = others.filter_map(|entry| entry.manager.as_deref()).collect();
    if names.is_empty() { "another operator of this version".to_owned() } else { names.join(", ") }
}
