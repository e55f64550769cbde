//! Tells the API what the driver publishes: who announces what, strangers with our addresses, what this speaker
//! knows of its node. Written after the fact and only on change; nobody needs it for a takeover.

mod announcements;
mod conflicts;
pub(crate) mod state;

use std::convert::Infallible;
use std::time::Duration;

use announce::link::Link;
use announce::view::NodeName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use rules::{Finding, Severity};
use runtime::events::Events;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::driver::Published;
use crate::metrics::Metrics;
use crate::watches::Stores;
use announcements::Announcements;
use conflicts::Conflicts;
use state::State;

/// How long after a failed write to try again.
const RETRY: Duration = Duration::from_secs(5);
const FIELD_MANAGER: &str = "lbstack-speaker";

/// Writes what the driver publishes.
pub(crate) struct Writer {
    pod: Option<String>,
    stores: Stores,
    announcements: Announcements,
    conflicts: Conflicts,
    state: State,
    metrics: Metrics,
}

impl Writer {
    pub(crate) fn new(
        client: &Client,
        namespace: &str,
        me: &NodeName,
        pod: Option<String>,
        stores: Stores,
        events: Events,
        metrics: Metrics,
    ) -> Self {
        Self {
            pod,
            announcements: Announcements::new(
                client.clone(),
                namespace,
                me.clone(),
                stores.clone(),
                events,
                metrics.clone(),
            ),
            conflicts: Conflicts::new(client.clone(), namespace, me.clone(), stores.clone()),
            state: State::new(client.clone(), namespace, me.clone(), stores.clone()),
            stores,
            metrics,
        }
    }

    /// Runs until the process stops.
    pub(crate) async fn run(
        mut self,
        mut published: watch::Receiver<Published>,
        mut links: watch::Receiver<Vec<Link>>,
        mut findings: watch::Receiver<Vec<Finding>>,
        shutdown: CancellationToken,
    ) -> Result<(), Infallible> {
        // Before the first lists are in, there is nothing to compare with.
        let known = published.wait_for(|published| published.view_known);
        if !matches!(shutdown.run_until_cancelled(known).await, Some(Ok(_))) {
            shutdown.cancelled().await;
            return Ok(());
        }
        while !shutdown.is_cancelled() {
            let now = published.borrow_and_update().clone();
            let (links_now, findings_now) =
                (links.borrow_and_update().clone(), findings.borrow_and_update().clone());
            let write = self.write(&now, &links_now, &findings_now);
            let Some(failed) = shutdown.run_until_cancelled(write).await else { return Ok(()) };
            let next = async {
                let retry = async {
                    if failed { tokio::time::sleep(RETRY).await } else { std::future::pending().await }
                };
                tokio::select! {
                    () = retry => {}
                    Ok(()) = published.changed() => {}
                    Ok(()) = links.changed() => {}
                    Ok(()) = findings.changed() => {}
                    else => std::future::pending().await,
                }
            };
            shutdown.run_until_cancelled(next).await;
        }
        Ok(())
    }

    /// Writes all three; one that fails does not keep back the others. True if any failed.
    async fn write(&mut self, published: &Published, links: &[Link], findings: &[Finding]) -> bool {
        let owner = self.owner();
        let owner = owner.as_ref();
        let results = [
            ("who announces what", self.announcements.write(published, owner).await),
            ("who else has an address", self.conflicts.write(published, links, owner).await),
            ("the state of this speaker", self.state.write(published, links, findings, owner).await),
        ];
        let mut failed = false;
        for (what, result) in results {
            if let Err(error) = result {
                tracing::warn!(%error, "cannot write {what}, trying again");
                failed = true;
            }
        }
        self.metrics.wrote(failed, findings.iter().any(|finding| finding.severity == Severity::Error));
        failed
    }

    /// The DaemonSet that our pod belongs to: what it owns outlives the pod, and goes with the stack.
    fn owner(&self) -> Option<OwnerReference> {
        let pods = self.stores.pods.state();
        let mine = pods.iter().find(|pod| pod.metadata.name == self.pod)?;
        let owner =
            mine.metadata.owner_references.as_ref()?.iter().find(|owner| owner.kind == "DaemonSet")?;
        Some(OwnerReference { controller: None, block_owner_deletion: None, ..owner.clone() })
    }
}
