//! Writes what the driver publishes to the API: which node announces what, conflicts with foreign hosts, the
//! state of this node. Written after the fact and only on change; a takeover never needs it.

mod announcements;
mod assignments;
mod configuration_state;
mod conflicts;
mod last_announced;
mod speaker_state;
mod unannounced;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use announce::cluster::NodeName;
use announce::cluster::link::Link;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::DeleteParams;
use kube::{Api, Client};
use rules::{Finding, Severity};
use runtime::cache::Cache;
use runtime::client::{CallError, with_timeout};
use runtime::events::Events;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::watches::{Caches, Reported};
use crate::layer2::driver::Published;
use crate::layer2::interfaces::OtherAddresses;
use crate::log_limit::limited;
use crate::metrics::Metrics;
use announcements::Announcements;
use configuration_state::ConfigurationStates;
use conflicts::Conflicts;
use speaker_state::SpeakerStates;

/// Interval of retries after a failed write.
const RETRY: Duration = Duration::from_secs(5);
/// Interval of garbage collection, for what becomes obsolete by time alone.
const GC_INTERVAL: Duration = Duration::from_mins(10);
/// Minimum time between two rounds of writes.
const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// How long to wait for the objects of other speakers, which contain the last announcing nodes.
const STATES_TIMEOUT: Duration = Duration::from_secs(10);
const FIELD_MANAGER: &str = "lbstack-speaker";

/// Settings of the writer.
pub(crate) struct StatusSettings {
    /// Namespace of the objects.
    pub(crate) namespace: String,
    /// The beacon port, for a message about firewalls between nodes.
    pub(crate) beacon_port: u16,
    pub(crate) metrics: Metrics,
}

/// Inputs from the rest of the process.
struct LocalInputs {
    links: Vec<Link>,
    other_addresses: OtherAddresses,
    findings: Vec<Finding>,
}

/// Writes what the driver publishes.
pub(crate) struct StatusWriter {
    caches: Caches,
    announcements: Announcements,
    conflicts: Conflicts,
    configuration_states: ConfigurationStates,
    speaker_states: SpeakerStates,
    me: NodeName,
    metrics: Metrics,
}

impl StatusWriter {
    pub(crate) fn new(
        client: &Client,
        me: &NodeName,
        caches: Caches,
        events: Events,
        settings: StatusSettings,
    ) -> Self {
        let StatusSettings { namespace, beacon_port, metrics } = settings;
        let client = || client.clone();
        Self {
            announcements: Announcements::new(
                client(),
                &namespace,
                me.clone(),
                caches.clone(),
                events,
                metrics.clone(),
            ),
            conflicts: Conflicts::new(client(), &namespace, me.clone(), caches.clone()),
            configuration_states: ConfigurationStates::new(client(), &namespace, me.clone(), caches.clone()),
            speaker_states: SpeakerStates::new(client(), &namespace, me.clone(), caches.clone(), beacon_port),
            me: me.clone(),
            caches,
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
        // Before the first lists are complete there is nothing to compare with.
        let known = published.wait_for(|published| published.view_known);
        if !matches!(shutdown.run_until_cancelled(known).await, Some(Ok(_))) {
            shutdown.cancelled().await;
            return Ok(());
        }
        let states = tokio::time::timeout(STATES_TIMEOUT, self.caches.reports_ready());
        if shutdown.run_until_cancelled(states).await.is_none() {
            return Ok(());
        }
        while !shutdown.is_cancelled() {
            let now = published.borrow_and_update().clone();
            let known = LocalInputs {
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

    /// How long to wait if nothing changes. Includes what became due during the write.
    fn pause(&self, begun: Instant) -> Duration {
        let next = [self.announcements.next(begun), self.conflicts.next(), self.speaker_states.next()];
        let next = next.into_iter().flatten().min();
        next.map_or(GC_INTERVAL, |at| at.saturating_duration_since(Instant::now())).min(GC_INTERVAL)
    }

    /// Writes all kinds; one that fails does not keep back the others. True if any failed.
    async fn write(&mut self, now: Instant, published: &Published, known: &LocalInputs) -> bool {
        let owner = self.owner();
        let owner = owner.as_ref();
        let LocalInputs { links, other_addresses, findings } = known;
        let last_announced = self.announcements.report(now, published).record();
        let node = speaker_state::Node { links, other_addresses, last_announced };
        // The few before the many: while thousands are written, who owns what may change.
        let conflicts = self.conflicts.write(now, published, links, owner).await;
        // Before the objects go that it remembers. Before it is known what an earlier process has remembered, a write
        // would remove that.
        let known = self.caches.reports_listed();
        let state =
            if known { self.speaker_states.write(now, published, node, owner).await } else { Ok(false) };
        let recorded = state.as_ref().is_ok_and(|written| *written);
        // That of an earlier release has in annotations what the new object is to have first.
        let configuration = if known && (recorded || self.caches.speaker_state().is_some()) {
            self.configuration_states.write(findings, owner).await
        } else {
            Ok(())
        };
        let announcements = self.announcements.write(published, owner, recorded).await;
        let orphans = self.remove_orphans(published).await;
        let results = [
            ("AddressConflicts", conflicts),
            ("SpeakerState", state.map(drop)),
            ("ConfigurationState", configuration),
            ("ServiceL2Statuses", announcements),
            ("objects of removed nodes", orphans),
        ];
        let mut failed = false;
        for (objects, result) in results {
            if let Err(error) = result {
                limited!(15, warn, %objects, %error, "cannot write to the API, retrying");
                failed = true;
            }
        }
        self.metrics
            .count_write_round(failed, findings.iter().any(|finding| finding.severity == Severity::Error));
        failed
    }

    /// Of all ready speakers the first by name removes what the speakers of nodes have left that are gone.
    async fn remove_orphans(&self, published: &Published) -> Result<(), CallError> {
        let Some(nodes) = gc_nodes(published, &self.me, &self.caches) else { return Ok(()) };
        self.speaker_states.remove_others(&nodes).await?;
        self.configuration_states.remove_others(&nodes).await
    }

    /// The DaemonSet that our pod belongs to: what it owns outlives the pod, and goes with the stack.
    fn owner(&self) -> Option<OwnerReference> {
        let owner = self.caches.pods.all().iter().find_map(|pod| pod.daemon_set.clone())?;
        Some(OwnerReference { controller: None, block_owner_deletion: None, ..owner })
    }
}

/// Deletes the objects of all nodes but these.
async fn remove_all_but<K>(
    api: &Api<K>,
    states: &Cache<Reported<K>>,
    nodes: &BTreeSet<String>,
) -> Result<(), CallError>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    for state in states.all() {
        if state.report.node.as_deref().is_some_and(|node| !nodes.contains(node)) {
            match with_timeout(api.delete(&state.name, &DeleteParams::default())).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The speaker that reports and collects garbage on behalf of all: the first ready one by name.
fn reporter(published: &Published) -> Option<&NodeName> {
    published.view.speakers.iter().find(|(_, speaker)| speaker.ready).map(|(name, _)| name)
}

/// Whether this speaker is the reporter.
fn is_reporter(published: &Published, me: &NodeName) -> bool {
    reporter(published) == Some(me)
}

/// The nodes of the cluster, if this speaker collects garbage. None as well before the nodes are listed,
/// since all of them would seem to be gone.
fn gc_nodes(published: &Published, me: &NodeName, caches: &Caches) -> Option<BTreeSet<String>> {
    let speaks = published.settled && is_reporter(published, me);
    let nodes = || caches.nodes.all().iter().map(|node| node.name.to_string()).collect::<BTreeSet<String>>();
    speaks.then(nodes).filter(|nodes| nodes.contains(&**me))
}

#[cfg(test)]
mod tests;
