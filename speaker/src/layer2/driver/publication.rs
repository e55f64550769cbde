//! What the driver publishes to the rest of the process, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use announce::cluster::{GroupId, NodeName};
use announce::layer2::ownership::{self, Conflict};
use announce::layer2::view::View;

use super::DriverState;

/// Minimum time between two publications.
const PUBLICATION_PAUSE: Duration = Duration::from_millis(20);

/// What the driver publishes to the rest of the process. A clone shares everything that may be large; what
/// has not changed since an earlier publication is the same object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    /// The current view.
    pub(crate) view: Arc<View>,
    /// There has been a view.
    pub(crate) view_known: bool,
    /// The speaker has settled and takes part.
    pub(crate) settled: bool,
    /// The groups that this node owns, with their epochs.
    pub(crate) owned: Arc<BTreeMap<GroupId, u64>>,
    /// Reports about other hosts that use addresses of groups.
    pub(crate) reports: Arc<Reports>,
    /// The nodes whose speakers are heard.
    pub(crate) heard: Arc<BTreeSet<NodeName>>,
    /// Speakers that are alive but not heard, and how that is known.
    pub(crate) blocked: Vec<(NodeName, String)>,
}

/// Reports about other hosts that use addresses of groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reports {
    /// Addresses that a foreign host uses.
    pub(crate) conflicts: BTreeMap<IpAddr, Conflict>,
    /// Addresses that a foreign host used, and for which no host has answered since.
    pub(crate) resolved_conflicts: BTreeSet<IpAddr>,
    /// Addresses of owned groups that are being probed before they are announced.
    pub(crate) unverified: BTreeSet<IpAddr>,
    /// Nodes whose kernels answer for addresses that their speakers do not announce.
    pub(crate) answering_kernels: BTreeSet<NodeName>,
}

impl Published {
    /// Whether an address of a group that this node owns is announced.
    pub(crate) fn is_announced(&self, address: IpAddr) -> bool {
        let withheld = self.reports.conflicts.get(&address).is_some_and(|conflict| conflict.withheld);
        !withheld
            && !self.reports.unverified.contains(&address)
            && !self.view.node_addresses.contains_key(&address)
    }
}

impl DriverState {
    /// Publishes changes, but not more often than the pause allows.
    pub(super) fn publish_if_due(&mut self, now: Instant) {
        if !self.is_outdated() {
            self.publication = None;
            return;
        }
        self.publication = self.pause_until.filter(|until| now < *until);
        if self.publication.is_none() {
            self.pause_until = now.checked_add(PUBLICATION_PAUSE);
            self.publish();
        }
    }

    /// Whether anything has changed since the last publication.
    fn is_outdated(&self) -> bool {
        let known = self.driver.published.borrow();
        self.revisions != self.ownership.revisions()
            || !Arc::ptr_eq(&known.view, &self.view)
            || known.view_known != self.view_known
            || known.settled != self.ownership.is_settled()
            || !self.ownership.blocked().eq(self.blocked.iter().cloned())
    }

    fn publish(&mut self) {
        let mut published = self.driver.published.borrow().clone();
        let (ownerships, reports, peers) = self.ownership.revisions();
        if self.revisions.0 != ownerships {
            published.owned = Arc::new(self.ownership.owned().clone());
        }
        if self.revisions.1 != reports {
            published.reports = Arc::new(Reports {
                conflicts: self.ownership.conflicts().clone(),
                resolved_conflicts: self.ownership.resolved_conflicts(),
                unverified: self.ownership.unverified(),
                answering_kernels: self.ownership.answering_kernels(),
            });
        }
        if self.revisions.2 != peers {
            published.heard = Arc::new(self.ownership.heard().cloned().collect());
        }
        self.revisions = (ownerships, reports, peers);
        self.blocked = self.ownership.blocked().collect();
        published.view = Arc::clone(&self.view);
        published.view_known = self.view_known;
        published.settled = self.ownership.is_settled();
        published.blocked =
            self.blocked.iter().map(|(node, why)| (node.clone(), self.explain(*why))).collect();
        self.driver.metrics.conflicts(published.reports.conflicts.len());
        self.driver.metrics.set_counts(self.counts, self.ownership.peers_alive(), self.blocked.len());
        self.driver.metrics.owned_groups.set(i64::try_from(published.owned.len()).unwrap_or(i64::MAX));
        self.driver.published.send_replace(published);
    }

    /// Publishes for which protocols no packet socket could be opened: this node is no candidate for what
    /// needs them.
    pub(super) fn publish_unavailable(&self) {
        let unavailable = self.sockets.unavailable();
        self.driver.unavailable.send_if_modified(|known| {
            let changed = *known != unavailable;
            *known = unavailable;
            changed
        });
    }

    fn explain(&self, why: ownership::Blocked) -> String {
        match why {
            ownership::Blocked::AnswersOnLink => "it answers on the link".into(),
            ownership::Blocked::HeardBy(id) => match self.ownership.name_of(id) {
                Some(name) => format!("the speaker of {name} hears it"),
                None => "another speaker hears it".into(),
            },
            ownership::Blocked::NeverHeard => "its pod is ready".into(),
        }
    }
}
