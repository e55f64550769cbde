//! Writes statuses of configuration objects, at most once a second each.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use runtime::client::{CallError, bounded};
use runtime::lease::Leadership;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Write;
use crate::COMPONENT;

/// Between two rounds of writes: a burst of Services costs one write a second for a pool, not one each.
const PAUSE: Duration = Duration::from_secs(1);

/// Which object: kind and name.
type Target = (String, String);

/// Writes statuses of configuration objects.
pub(crate) struct StatusWriter {
    client: Client,
    leadership: Leadership,
    /// No write lasts longer.
    bound: Duration,
    writes: JoinSet<Target>,
    writing: BTreeSet<Target>,
    next: Instant,
}

impl StatusWriter {
    pub(crate) fn new(client: Client, leadership: Leadership, bound: Duration) -> Self {
        Self {
            client,
            leadership,
            bound,
            writes: JoinSet::new(),
            writing: BTreeSet::new(),
            next: Instant::now(),
        }
    }

    /// Waits until a write ended. Cancel-safe.
    pub(crate) async fn written(&mut self) {
        match self.writes.join_next().await {
            Some(Ok(target)) => {
                self.writing.remove(&target);
            }
            Some(Err(_)) => self.writing.clear(),
            None => std::future::pending().await,
        }
    }

    /// Whether a round may begin; else when.
    pub(crate) fn wait(&self) -> Option<Instant> {
        (Instant::now() < self.next).then_some(self.next)
    }

    /// Begins the writes. Returns when to look again: a write that fails is still due then.
    pub(crate) fn write(&mut self, due: Vec<Write>) -> Option<Instant> {
        if due.is_empty() {
            return None;
        }
        self.next = Instant::now() + PAUSE;
        for write in due {
            let target = (write.resource.kind.clone(), write.name.clone());
            if !self.writing.insert(target.clone()) {
                continue;
            }
            let (client, leadership, bound) = (self.client.clone(), self.leadership.clone(), self.bound);
            self.writes.spawn(async move {
                let written = leadership.while_leading(carry_out(&client, &write));
                let written = tokio::time::timeout(bound, written).await;
                if let Some(Err(error)) = written.unwrap_or(Some(Err(CallError::Timeout))) {
                    let (kind, name) = &target;
                    tracing::warn!(kind, name, %error, "a status could not be written, trying again");
                }
                target
            });
        }
        Some(self.next)
    }
}

async fn carry_out(client: &Client, write: &Write) -> Result<(), CallError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &write.namespace, &write.resource);
    if let Some(labels) = &write.create {
        let object = json!({
            "apiVersion": write.resource.api_version,
            "kind": write.resource.kind,
            "metadata": { "name": write.name, "labels": labels },
        });
        bounded(api.patch(&write.name, &PatchParams::apply(COMPONENT).force(), &Patch::Apply(object)))
            .await?;
    }
    let parameters = PatchParams { field_manager: Some(COMPONENT.into()), ..PatchParams::default() };
    bounded(api.patch_status(&write.name, &parameters, &Patch::Merge(&write.patch))).await.map(drop)
}
