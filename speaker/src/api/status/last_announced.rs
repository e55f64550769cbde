//! Which node announced each Service last that no node announces now. A `ServiceL2Status` says who announces; where
//! nobody does, it is deleted, and the node and the epoch of its claim stay in a speaker's `SpeakerState`. After a
//! power failure, when no pod is ready for minutes, all addresses should return to their nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use announce::cluster::NodeName;
use announce::cluster::objects::AnnouncementInfo;
use announce::layer2::view::{Group, View};
use crds::ServiceKey;

use super::is_reporter;
use crate::api::node_report::Epochs;
use crate::layer2::driver::Published;

/// A status outlives the announcement by this time where no node may announce the Service, or its addresses are withheld:
/// endpoints and speakers come and go.
const NOT_ANNOUNCED_RETENTION: Duration = Duration::from_secs(3);
/// The same where another node is to announce it, which removes the status itself once it does.
const HANDED_OVER_RETENTION: Duration = Duration::from_secs(15);
/// The record of this speaker.
#[derive(Default)]
pub(super) struct LastAnnounced {
    /// By node: a speaker also keeps those of nodes whose speakers are gone.
    record: Epochs,
    /// It has been read from the API.
    loaded: bool,
    /// Since when a status has been obsolete, by the name of its object.
    void_since: BTreeMap<Box<str>, Instant>,
    /// The names of the statuses that may be deleted by now.
    void: BTreeSet<Box<str>>,
    next: Option<Instant>,
}

impl LastAnnounced {
    /// Reads what an earlier process of this node has remembered, once.
    pub(super) fn load(&mut self, stored: Option<Epochs>) {
        if !std::mem::replace(&mut self.loaded, true) {
            self.record = stored.unwrap_or_default();
        }
    }

    /// Updates the record. `announced` is whether this node announces a Service.
    pub(super) fn update(
        &mut self,
        now: Instant,
        published: &Published,
        me: &NodeName,
        announced: impl Fn(&ServiceKey) -> bool,
        statuses: &[Arc<AnnouncementInfo>],
    ) {
        self.next = None;
        self.void.clear();
        let services = groups_by_service(&published.view);
        let is_reporter = is_reporter(published, me);
        // A speaker that is not ready may announce what no other node can.
        let is_gone = |node: &str| published.view.speakers.get(node).is_none_or(|speaker| !speaker.running);
        let mut before = std::mem::take(&mut self.void_since);
        for status in statuses.iter().filter(|_| published.settled) {
            let Some(group) = services.get(&status.service) else { continue };
            let void = if status.node == *me {
                !announced(&status.service)
            } else {
                is_reporter && group.not_announced.is_some() && is_gone(&status.node)
            };
            if !void {
                continue;
            }
            let withheld = published.owned.contains_key(&group.id);
            let lasts = if group.not_announced.is_some() || withheld {
                NOT_ANNOUNCED_RETENTION
            } else {
                HANDED_OVER_RETENTION
            };
            let since = before.remove(&status.name).unwrap_or(now);
            self.void_since.insert(status.name.clone(), since);
            if let Some(at) = since.checked_add(lasts).filter(|at| *at > now) {
                self.next = Some(self.next.map_or(at, |next| next.min(at)));
            } else {
                self.void.insert(status.name.clone());
                let epochs = self.record.0.entry(status.node.clone()).or_default();
                epochs.insert(status.service.clone(), status.epoch);
            }
        }
        let mut highest: BTreeMap<&ServiceKey, (u64, &NodeName)> = BTreeMap::new();
        for status in statuses {
            let claim = (status.epoch, &status.node);
            highest.entry(&status.service).and_modify(|known| *known = claim.max(*known)).or_insert(claim);
        }
        for (node, epochs) in &mut self.record.0 {
            epochs.retain(|service, epoch| {
                let superseded = highest.get(service).is_some_and(|claim| *claim > (*epoch, node));
                services.contains_key(service) && !announced(service) && !superseded
            });
        }
        self.record.0.retain(|_, epochs| !epochs.is_empty());
    }

    /// Whether a status may be deleted: no node announces the Service, and the claim is in the record if it
    /// matters.
    pub(super) fn is_void(&self, status: &AnnouncementInfo) -> bool {
        self.void.contains(&status.name)
    }

    /// When to update again, if nothing changes.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// What is to be remembered.
    pub(super) fn record(&self) -> BTreeMap<String, BTreeMap<String, i64>> {
        self.record.format()
    }
}

fn groups_by_service(view: &View) -> BTreeMap<&ServiceKey, &Group> {
    let groups = view.groups.values();
    groups.flat_map(|group| group.services.iter().map(move |service| (&**service, &**group))).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use announce::cluster::Speaker;
    use announce::cluster::link::Scope;
    use announce::layer2::view::{Candidates, NotAnnounced};

    use super::*;
    use crate::api::node_report::LONGEST_RECORD;

    impl LastAnnounced {
        /// The epoch of `node`, if it was the last to announce the Service and no node does now.
        fn epoch(&self, node: &str, service: &ServiceKey) -> Option<u64> {
            self.record.0.get(node)?.get(service).copied()
        }
    }

    fn service() -> ServiceKey {
        ServiceKey::new("default", "web")
    }

    fn status(node: &str, epoch: u64) -> Arc<AnnouncementInfo> {
        let name = format!("l2-{node}").into();
        Arc::new(AnnouncementInfo { name, service: service(), node: node.into(), epoch, interfaces: None })
    }

    /// Of two nodes the first is ready. No node may announce the Service if `not_announced`.
    fn published(not_announced: bool) -> Published {
        let id: IpAddr = "10.0.0.1".parse().unwrap();
        let group = Group {
            id,
            hashed: id,
            addresses: [(id, Scope::All)].into(),
            services: [Arc::new(service())].into(),
            candidates: Candidates::default(),
            not_announced: not_announced.then_some(NotAnnounced::NoCandidate),
            retainable: false,
            last: None,
        };
        let mut view = View::default();
        view.groups.insert(id, Arc::new(group));
        for (node, ready) in [("node1", true), ("node2", false)] {
            view.speakers
                .insert(node.into(), Speaker { address: None, ready, running: ready, generation: 1 });
        }
        Published { settled: true, view: Arc::new(view), ..Published::default() }
    }

    fn update(record: &mut LastAnnounced, at: Instant, now: &Published, statuses: &[Arc<AnnouncementInfo>]) {
        record.update(at, now, &"node1".into(), |_| false, statuses);
    }

    #[test]
    fn requirement_8_a_status_is_deleted_after_seconds_without_announcement_and_its_claim_is_recorded() {
        let (start, mut record) = (Instant::now(), LastAnnounced::default());
        let statuses = [status("node1", 7), status("node2", 6)];
        update(&mut record, start, &published(true), &statuses);
        assert!(!record.is_void(&statuses[0]) && record.next() == Some(start + NOT_ANNOUNCED_RETENTION));
        update(&mut record, start + NOT_ANNOUNCED_RETENTION, &published(true), &statuses);
        assert!(statuses.iter().all(|status| record.is_void(status)));
        assert_eq!(record.epoch("node2", &service()), None, "an earlier claim");
        update(&mut record, start + NOT_ANNOUNCED_RETENTION, &published(true), &[]);
        assert_eq!(record.epoch("node1", &service()), Some(7));
    }

    #[test]
    fn requirement_8_the_status_of_a_node_whose_speaker_is_running_but_not_ready_is_left_to_it() {
        let mut last = LastAnnounced::default();
        let mut published = published(true);
        let view = Arc::make_mut(&mut published.view);
        view.speakers.get_mut("node2").unwrap().running = true;
        let (now, statuses) = (Instant::now(), [status("node2", 4)]);
        for now in [now, now + NOT_ANNOUNCED_RETENTION * 2] {
            last.update(now, &published, &"node1".into(), |_| false, &statuses);
            assert!(!last.is_void(&statuses[0]));
        }
    }

    #[test]
    fn requirement_8_the_reporter_deletes_statuses_of_nodes_without_a_speaker_if_no_node_announces_the_service()
     {
        let (start, mut record) = (Instant::now(), LastAnnounced::default());
        let left = [status("node2", 6)];
        for at in [start, start + NOT_ANNOUNCED_RETENTION] {
            update(&mut record, at, &published(true), &left);
        }
        assert!(record.is_void(&left[0]));
        let mut other = LastAnnounced::default();
        for at in [start, start + HANDED_OVER_RETENTION] {
            update(&mut other, at, &published(false), &left);
        }
        assert!(!other.is_void(&left[0]), "the next owner deletes it");
    }

    #[test]
    fn what_is_remembered_survives_a_restart_and_ends_once_a_later_claim_is_reported() {
        let (start, mut record) = (Instant::now(), LastAnnounced::default());
        for at in [start, start + NOT_ANNOUNCED_RETENTION] {
            update(&mut record, at, &published(true), &[status("node1", 7)]);
        }
        let stored = Epochs::parse(record.record());
        let facts = stored.statuses();
        assert_eq!((facts.len(), &*facts[0].node, facts[0].epoch), (1, "node1", 7));
        let mut restarted = LastAnnounced::default();
        restarted.load(Some(stored));
        update(&mut restarted, start, &published(true), &[]);
        assert_eq!(restarted.epoch("node1", &service()), Some(7));
        update(&mut restarted, start, &published(false), &[status("node2", 8)]);
        assert!(restarted.record().is_empty());
    }

    #[test]
    fn what_is_remembered_of_thousands_of_services_fits_into_an_object() {
        let mut record = LastAnnounced::default();
        let epochs = (0..20_000).map(|n| (ServiceKey::new("default", format!("service-{n}")), n));
        record.record.0.insert("node1".into(), epochs.collect());
        let record = record.record();
        assert!(record["node1"].len() > 5_000);
        assert!(serde_json::to_string(&record).unwrap().len() <= LONGEST_RECORD);
    }
}
