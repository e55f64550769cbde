//! Tells the API what the driver publishes: who announces what, strangers with our addresses, what this speaker
//! knows of its node. Written after the fact and only on change; nobody needs it for a takeover.

mod announcements;
mod assignments;
mod conflicts;
pub(crate) mod last_announced;
mod link_reports;
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
use crate::links::OtherAddresses;
use crate::log_limit::limited;
use crate::metrics::Metrics;
use crate::watches::Stores;
use announcements::Announcements;
use conflicts::Conflicts;
use link_reports::LinkReports;
use state::State;

/// How long after a failed write to try again.
const RETRY: Duration = Duration::from_secs(5);
/// How often to look for what has become void by time alone.
const TIDY: Duration = Duration::from_mins(10);
/// Between two rounds, whatever happens: what happens meanwhile is written together.
const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// How long to wait for the objects of other speakers, without which it is not known who announced what last.
const STATES_PATIENCE: Duration = Duration::from_secs(10);
const FIELD_MANAGER: &str = "lbstack-speaker";

/// What the writer is made with.
pub(crate) struct Setup {
    /// Where its objects are.
    pub(crate) namespace: String,
    /// Where speakers hear one another, for people who have a firewall between them.
    pub(crate) beacon_port: u16,
    pub(crate) metrics: Metrics,
}

/// What the rest of the process knows.
struct Known {
    links: Vec<Link>,
    other_addresses: OtherAddresses,
    findings: Vec<Finding>,
}

/// Writes what the driver publishes.
pub(crate) struct Writer {
    stores: Stores,
    announcements: Announcements,
    conflicts: Conflicts,
    state: State,
    link_reports: LinkReports,
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
            link_reports: LinkReports::default(),
            stores,
            metrics,
        }
    }

    /// Runs until the process stops.
    pub(crate) async fn run(
        mut self,
        mut published: watch::Receiver<Published>,
        mut links: watch::Receiver<Vec<Link>>,
        mut other_addresses: watch::Receiver<OtherAddresses>,
        mut findings: watch::Receiver<Vec<Finding>>,
        shutdown: CancellationToken,
    ) -> Result<(), Infallible> {
        // Before the first lists are in, there is nothing to compare with.
        let known = published.wait_for(|published| published.view_known);
        if !matches!(shutdown.run_until_cancelled(known).await, Some(Ok(_))) {
            shutdown.cancelled().await;
            return Ok(());
        }
        let states = tokio::time::timeout(STATES_PATIENCE, self.stores.states.wait_synced());
        if shutdown.run_until_cancelled(states).await.is_none() {
            return Ok(());
        }
        while !shutdown.is_cancelled() {
            let now = published.borrow_and_update().clone();
            let known = Known {
                links: links.borrow_and_update().clone(),
                other_addresses: other_addresses.borrow_and_update().clone(),
                findings: findings.borrow_and_update().clone(),
            };
            let begun = Instant::now();
            let write = self.write(begun, &now, &known);
            let Some(failed) = shutdown.run_until_cancelled(write).await else { return Ok(()) };
            let pause = if failed { RETRY } else { self.pause(begun) };
            let next = async {
                tokio::time::sleep(ROUND_PAUSE).await;
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    Ok(()) = published.changed() => {}
                    Ok(()) = links.changed() => {}
                    Ok(()) = other_addresses.changed() => {}
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
        let next = [self.announcements.next(begun), self.conflicts.next(), self.link_reports.due()];
        let next = next.into_iter().flatten().min();
        next.map_or(TIDY, |at| at.saturating_duration_since(Instant::now())).min(TIDY)
    }

    /// Writes all three; one that fails does not keep back the others. True if any failed.
    async fn write(&mut self, now: Instant, published: &Published, known: &Known) -> bool {
        let owner = self.owner();
        let owner = owner.as_ref();
        let Known { links, other_addresses, findings } = known;
        let last_announced = self.announcements.report(now, published).encode();
        let (reported, other_addresses) = self.link_reports.report(now, links, other_addresses);
        let node = state::Node { links: reported, other_addresses, last_announced };
        // The few before the many: while thousands are written, who owns what may change.
        let conflicts = self.conflicts.write(now, published, links, owner).await;
        // Before the objects go that it remembers. Before it is known what an earlier process has remembered, a write
        // would remove that.
        let known = self.stores.states.is_synced();
        let state = if known { self.state.write(published, node, findings, owner).await } else { Ok(()) };
        let announcements = self.announcements.write(published, owner, known && state.is_ok()).await;
        let results = [
            ("who else has an address", conflicts),
            ("the state of this speaker", state),
            ("who announces what", announcements),
        ];
        let mut failed = false;
        for (what, result) in results {
            if let Err(error) = result {
                limited!(15, warn, %error, "cannot write {what}, trying again");
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

#[cfg(test)]
mod tests;
