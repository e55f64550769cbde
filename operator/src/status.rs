//! Stores the status of the stack, if it differs from what is stored.

use std::time::{Duration, Instant};

use crds::LoadBalancerStackStatus;
use crds::names::{APP, LABEL_APP};
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::health::{PodTrouble, Workload, trouble};

use crate::api::{Api, Error};
use crate::stack::Stack;

/// A rollout changes the workloads many times a second; its pods need not be listed as often.
const LISTED_EVERY: Duration = Duration::from_secs(1);

/// The pods of the stack that are not ready, as last listed.
#[derive(Debug, Default)]
pub(crate) struct TroubledPods {
    found: Vec<PodTrouble>,
    listed: Option<Instant>,
}

impl TroubledPods {
    /// The pods that are not ready; asked for only if the workloads say that there are some.
    pub(crate) async fn look(
        &mut self,
        api: &Api,
        namespace: &str,
        workloads: &[Workload],
    ) -> Result<&[PodTrouble], Error> {
        if workloads.iter().all(|workload| workload.observed && workload.ready >= workload.desired) {
            *self = Self::default();
        } else if self.listed.is_none_or(|listed| listed.elapsed() >= LISTED_EVERY) {
            let pods = api.pods(namespace, &format!("{LABEL_APP}={APP}")).await?;
            self.found = pods.iter().filter_map(trouble).collect();
            self.found.sort();
            self.listed = Some(Instant::now());
        }
        Ok(&self.found)
    }
}

/// Stores `status` unless it is stored already. Returns the stack as it is then, if it was written.
pub(crate) async fn store(
    api: &Api,
    stack: &Stack,
    status: &LoadBalancerStackStatus,
) -> Result<Option<DynamicObject>, Error> {
    if *status == stack.status {
        return Ok(None);
    }
    let body = serde_json::to_value(status)?;
    Ok(Some(api.set_status(&stack.object.name_any(), &body).await?))
}
