//! The task: stands by, and leads for a term.

use std::convert::Infallible;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use runtime::client::CallError;
use runtime::lease::Leadership;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::service_list::ServiceList;
use super::term::{LIST_RETRY_INTERVAL, OPTIONAL_SYNC_TIMEOUT, Term};
use super::writes::InFlight;
use crate::metrics::Snapshot;

/// How long a new replica waits for the Lease before it is ready as a standby.
const FIRST_ELECTION: Duration = Duration::from_secs(1);

/// The task that owns the allocator.
pub(crate) struct AllocatorTask {
    context: Context,
}

impl AllocatorTask {
    /// The task with this context.
    pub(crate) fn new(context: Context) -> Self {
        Self { context }
    }

    /// Stands by and leads in turn, until `shutdown`. No write is pending when this returns.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), Infallible> {
        if shutdown.run_until_cancelled(self.context.watches.synced()).await.is_some() {
            self.run_terms(&shutdown).await;
        }
        Ok(())
    }

    async fn run_terms(&self, shutdown: &CancellationToken) {
        let mut leadership = self.context.leadership.clone();
        let in_flight = InFlight::default();
        self.publish_standby();
        let first =
            shutdown.run_until_cancelled(tokio::time::timeout(FIRST_ELECTION, leadership.wait_acquired()));
        if first.await.is_some_and(|elected| elected.is_err()) {
            // A standby replica is ready: it could take over at once.
            self.context.ready.open();
        }
        loop {
            if shutdown.run_until_cancelled(self.stand_by(&mut leadership)).await.is_none() {
                return;
            }
            tokio::select! {
                biased;
                () = leadership.wait_lost() => {}
                () = self.lead(&in_flight, shutdown) => return,
            }
            self.publish_standby();
        }
    }

    fn publish_standby(&self) {
        self.context.heartbeat.rest();
        self.context.metrics.publish(|snapshot| *snapshot = Snapshot::standing_by());
    }

    /// Waits for the Lease, and updates the history of the configuration meanwhile. Other changes are read
    /// from the stores later.
    async fn stand_by(&self, leadership: &mut Leadership) {
        let mut won = std::pin::pin!(leadership.wait_acquired());
        loop {
            self.context.history().build(&self.context.watches.objects(), Timestamp::now());
            tokio::select! {
                biased;
                () = &mut won => return,
                () = self.configuration_changed() => {}
            }
        }
    }

    async fn configuration_changed(&self) {
        loop {
            self.context.watches.work_queue.changed().await;
            if self.context.watches.work_queue.take().configuration {
                return;
            }
        }
    }

    /// Leads until `shutdown`, then waits for the pending writes.
    async fn lead(&self, in_flight: &InFlight, shutdown: &CancellationToken) {
        // A replica that cannot begin within the duration of the Lease releases it.
        self.context.heartbeat.beat();
        // Changes from here on are processed after the list.
        self.context.watches.work_queue.take();
        let Some(listed) = shutdown.run_until_cancelled(self.relist()).await else { return };
        let mut term = Term::new(&self.context, in_flight);
        term.configure();
        term.restore(listed);
        self.context.ready.open();
        shutdown.run_until_cancelled(term.run()).await;
        self.context.heartbeat.rest();
        term.finish_writes().await;
    }

    /// Lists all Services from the API server, to include the last writes of another leader, after the stores
    /// have the configuration that that leader used.
    async fn relist(&self) -> ServiceList {
        if tokio::time::timeout(OPTIONAL_SYNC_TIMEOUT, self.context.watches.nodes_synced()).await.is_err() {
            tracing::warn!(
                "the nodes cannot be listed: their addresses may be assigned if a pool contains them"
            );
        }
        self.context.heartbeat.beat();
        loop {
            match self.try_relist().await {
                Ok(listed) => return listed,
                Err(error) => {
                    tracing::warn!(%error, "cannot list the API, so no address is assigned yet; will retry");
                    tokio::time::sleep(LIST_RETRY_INTERVAL).await;
                }
            }
        }
    }

    async fn try_relist(&self) -> Result<ServiceList, CallError> {
        self.context.watches.catch_up(&self.context.client).await?;
        ServiceList::from_api(&self.context).await
    }
}
