//! Tells the API what the driver publishes: who announces what, strangers with our addresses, what this speaker
//! knows of its node. Written after the fact and only on change; nobody needs it for a takeover.

mod announcements;
mod conflicts;
pub(crate) mod state;
mod unannounced;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::{Duration, Instant};

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
/// How often to look for what has become void by time alone.
const TIDY: Duration = Duration::from_mins(10);
const FIELD_MANAGER: &str = "lbstack-speaker";

/// What the writer is made with.
pub(crate) struct Setup {
    /// Where its objects are.
    pub(crate) namespace: String,
    /// Where speakers hear one another, for people who have a firewall between them.
    pub(crate) beacon_port: u16,
    pub(crate) metrics: Metrics,
}

/// Writes what the driver publishes.
pub(crate) struct Writer {
    stores: Stores,
    announcements: Announcements,
    conflicts: Conflicts,
    state: State,
    metrics: Metrics,
}

impl Writer {
    pub(crate) fn new(client: &Client, me: &NodeName, stores: Stores, events: Events, setup: Setup) -> Self {
        let Setup { namespace, beacon_port, metrics } = setup;
        let client = || client.clone();
        Self {
            announcements: Announcements::new(
                client(),
                &namespace,
                me.clone(),
                stores.clone(),
                events,
                metrics.clone(),
            ),
            conflicts: Conflicts::new(client(), &namespace, me.clone(), stores.clone()),
            state: State::new(client(), &namespace, me.clone(), stores.clone(), beacon_port),
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
            let begun = Instant::now();
            let write = self.write(begun, &now, &links_now, &findings_now);
            let Some(failed) = shutdown.run_until_cancelled(write).await else { return Ok(()) };
            let pause = if failed { RETRY } else { self.pause(begun) };
            let next = async {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
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

    /// How long what was written holds if nothing changes. What became due while it was written counts too.
    fn pause(&self, begun: Instant) -> Duration {
        let next = self.announcements.next(begun);
        next.map_or(TIDY, |at| at.saturating_duration_since(Instant::now())).min(TIDY)
    }

    /// Writes all three; one that fails does not keep back the others. True if any failed.
    async fn write(
        &mut self,
        now: Instant,
        published: &Published,
        links: &[Link],
        findings: &[Finding],
    ) -> bool {
        let owner = self.owner();
        let owner = owner.as_ref();
        // The few before the many: while thousands are written, who owns what may change.
        let results = [
            ("who else has an address", self.conflicts.write(published, links, owner).await),
            ("who announces what", self.announcements.write(now, published, owner).await),
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
        let owner = self.stores.pods.all().iter().find_map(|pod| pod.daemon_set.clone())?;
        Some(OwnerReference { controller: None, block_owner_deletion: None, ..owner })
    }
}

/// The speaker that does what one has to do for all: of all ready ones the first by name.
fn spokesman(published: &Published) -> Option<&NodeName> {
    published.view.speakers.iter().find(|(_, speaker)| speaker.ready).map(|(name, _)| name)
}

/// Whether this one is it.
fn speaks_for_all(published: &Published, me: &NodeName) -> bool {
    spokesman(published) == Some(me)
}

/// The nodes of the cluster, if this speaker is to remove what others have left. None as well before the nodes are
/// known: then all of them would seem to be gone.
fn nodes_to_tidy(published: &Published, me: &NodeName, stores: &Stores) -> Option<BTreeSet<String>> {
    let speaks = published.settled && speaks_for_all(published, me);
    let nodes = || stores.nodes.all().iter().map(|node| node.name.to_string()).collect::<BTreeSet<String>>();
    speaks.then(nodes).filter(|nodes| nodes.contains(&**me))
}
