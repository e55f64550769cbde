//! An `AddressConflict` for each address that a foreign host or a node of the cluster uses. The controller
//! does not allocate such an address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use announce::cluster::NodeName;
use announce::cluster::link::Link;
use announce::layer2::ownership::Conflict;
use announce::layer2::view::NodeAddress;
use crds::{AddressConflict, AddressConflictSpec, ResourceExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use runtime::client::{CallError, with_timeout};
use serde_json::json;

use super::{FIELD_MANAGER, is_reporter};
use crate::api::watches::Caches;
use crate::layer2::driver::Published;
use crate::log_limit::limited;
use crate::mac::format_mac;

/// How long an `AddressConflict` stays when no speaker watches the foreign host any more.
const RETENTION: SignedDuration = SignedDuration::from_hours(1);

/// Minimum time between two writes about one address.
const WRITE_PAUSE: Duration = Duration::from_secs(10);
/// Maximum number of writes per second.
const WRITES_PER_SECOND: u32 = 20;

/// Maintains the objects about conflicts.
pub(super) struct Conflicts {
    api: Api<AddressConflict>,
    me: NodeName,
    caches: Caches,
    reported: BTreeSet<IpAddr>,
    limits: WriteLimits,
}

/// Rate limits of writes.
#[derive(Default)]
struct WriteLimits {
    written: BTreeMap<String, Instant>,
    /// The start of the current second, and the number of writes in it.
    second: Option<(Instant, u32)>,
    /// When the next deferred write is due.
    next: Option<Instant>,
}

impl WriteLimits {
    /// Begins a round of writes.
    fn begin(&mut self, now: Instant) {
        self.written.retain(|_, at| now.saturating_duration_since(*at) < WRITE_PAUSE);
        self.next = None;
    }

    /// Whether an object may be written now; if not, the write is deferred.
    fn allow(&mut self, now: Instant, name: &str) -> bool {
        let this_second = |(since, _): &(Instant, u32)| now.saturating_duration_since(*since).as_secs() == 0;
        let (since, writes) = self.second.filter(this_second).unwrap_or((now, 0));
        let due = match self.written.get(name) {
            Some(at) => at.checked_add(WRITE_PAUSE),
            None if writes >= WRITES_PER_SECOND => since.checked_add(Duration::from_secs(1)),
            None => {
                self.written.insert(name.to_owned(), now);
                self.second = Some((since, writes + 1));
                return true;
            }
        };
        self.next = self.next.into_iter().chain(due).min();
        false
    }
}

impl Conflicts {
    pub(super) fn new(client: Client, namespace: &str, me: NodeName, caches: Caches) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            me,
            caches,
            reported: BTreeSet::new(),
            limits: WriteLimits::default(),
        }
    }

    /// When to write again, if nothing changes.
    pub(super) fn next(&self) -> Option<Instant> {
        self.limits.next
    }

    /// The desired objects: conflicts of this node's addresses, and, on the reporter, those with addresses of
    /// nodes.
    fn desired(&self, published: &Published, links: &[Link]) -> BTreeMap<IpAddr, AddressConflictSpec> {
        let conflicts = published.reports.conflicts.iter();
        let conflicts = conflicts.map(|(address, conflict)| (*address, self.spec(*address, conflict, links)));
        let held = published.view.node_addresses.iter().filter(|_| is_reporter(published, &self.me));
        conflicts
            .chain(held.map(|(address, holder)| (*address, node_address_spec(*address, holder))))
            .collect()
    }

    pub(super) async fn write(
        &mut self,
        now: Instant,
        published: &Published,
        links: &[Link],
        owner: Option<&OwnerReference>,
    ) -> Result<(), CallError> {
        let desired = self.desired(published, links);
        self.log(&desired);
        self.limits.begin(now);
        let mut stored: BTreeMap<String, AddressConflict> = BTreeMap::new();
        for object in self.caches.conflicts.all() {
            stored.insert(object.name_any(), (*object).clone());
        }
        for (address, spec) in &desired {
            let name = AddressConflict::name_for(*address);
            if stored.remove(&name).is_some_and(|object| is_equivalent(&object.spec, spec))
                || !self.limits.allow(now, &name)
            {
                continue;
            }
            let mut object = json!({
                "apiVersion": "lbstack.dev/v1alpha1",
                "kind": "AddressConflict",
                "metadata": {"name": name},
                "spec": spec,
            });
            if let Some(owner) = owner {
                object["metadata"]["ownerReferences"] = json!([owner]);
            }
            let params = PatchParams::apply(FIELD_MANAGER).force();
            with_timeout(self.api.patch(&name, &params, &Patch::Apply(object))).await?;
        }
        let ended = |address: &&IpAddr| !desired.contains_key(*address);
        for address in self.reported.iter().filter(ended).copied().collect::<Vec<_>>() {
            let name = AddressConflict::name_for(address);
            // Otherwise another node owns the address now and maintains the object, or nothing has been
            // written.
            let over =
                published.reports.resolved_conflicts.contains(&address) && stored.remove(&name).is_some();
            if over && !self.limits.allow(now, &name) {
                continue;
            }
            if over {
                self.delete(&name).await?;
            }
            self.reported.remove(&address);
        }
        let collects_garbage = is_reporter(published, &self.me);
        for (name, object) in stored {
            let over = is_obsolete(&object.spec, published, &self.me, collects_garbage);
            if over && self.limits.allow(now, &name) {
                self.delete(&name).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, name: &str) -> Result<(), CallError> {
        match with_timeout(self.api.delete(name, &DeleteParams::default())).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    fn spec(&self, address: IpAddr, conflict: &Conflict, links: &[Link]) -> AddressConflictSpec {
        AddressConflictSpec {
            address: address.to_string(),
            mac: mac(conflict),
            node: self.me.to_string(),
            interface: interface(conflict, links),
            held_by_node: false,
            announced: !conflict.withheld,
            first_seen: wall_clock(conflict.first),
            last_seen: wall_clock(conflict.last),
        }
    }

    /// Logs one line per conflict, as long as its object exists: events on Services are the controller's.
    fn log(&mut self, desired: &BTreeMap<IpAddr, AddressConflictSpec>) {
        for (address, spec) in desired {
            if self.reported.insert(*address) {
                let AddressConflictSpec { mac, node, interface, announced, .. } = spec;
                let what = if spec.held_by_node {
                    "a node of the cluster has an address of a pool or Service"
                } else {
                    "a foreign host uses an address of a Service"
                };
                limited!(100, warn, %address, %mac, %node, %interface, announced, "{what}");
            }
        }
    }
}

/// The object about an address that a node has.
fn node_address_spec(address: IpAddr, holder: &NodeAddress) -> AddressConflictSpec {
    AddressConflictSpec {
        address: address.to_string(),
        mac: holder.mac.map(format_mac).unwrap_or_default(),
        node: holder.node.to_string(),
        interface: holder.interface.as_deref().unwrap_or_default().to_owned(),
        held_by_node: true,
        announced: false,
        first_seen: None,
        last_seen: None,
    }
}

/// Whether to delete an object that this process has not written. The owner of an address has probed it,
/// unless the address was announced in spite of the foreign host and then handed over without a probe. For
/// other addresses, possibly no speaker has probed: a foreign host does not go away with a Service, and the
/// next owner of the address would conflict with it.
fn is_obsolete(
    spec: &AddressConflictSpec,
    published: &Published,
    me: &NodeName,
    collects_garbage: bool,
) -> bool {
    let held = |address: &IpAddr| published.view.node_addresses.contains_key(address);
    if spec.held_by_node {
        // The API shows when that ends, once the states of the nodes are listed.
        let known = published.settled && published.view.states_listed;
        return collects_garbage && known && !spec.address.parse().is_ok_and(|address| held(&address));
    }
    let owns = |address: &IpAddr| {
        let mut groups = published.owned.keys().filter_map(|id| published.view.groups.get(id));
        groups.any(|group| group.addresses.contains(*address))
    };
    let ours = spec.address.parse().ok().filter(owns);
    let probed =
        ours.is_some_and(|address| !spec.announced && !published.reports.unverified.contains(&address));
    let responsible = ours.is_some() || spec.node == **me || collects_garbage;
    published.settled && (probed || responsible && unseen_for(spec, RETENTION))
}

/// Whether the foreign host has not been seen for this time.
fn unseen_for(spec: &AddressConflictSpec, time: SignedDuration) -> bool {
    let now = Timestamp::now();
    spec.last_seen.as_ref().is_none_or(|seen| now.duration_since(seen.0) >= time)
}

fn mac(conflict: &Conflict) -> String {
    format_mac(conflict.observation.mac.0)
}

fn interface(conflict: &Conflict, links: &[Link]) -> String {
    let link = links.iter().find(|link| link.index == conflict.observation.link);
    link.map_or_else(|| conflict.observation.link.to_string(), |link| link.name.clone())
}

/// Converts a time of the monotonic clock.
fn wall_clock(at: Instant) -> Option<Time> {
    let ago = at.elapsed();
    let seconds = i64::try_from(ago.as_secs()).ok()?;
    let now = Timestamp::now().as_second();
    Timestamp::from_second(now.checked_sub(seconds)?).ok().map(Time)
}

/// Whether nothing has changed but the time, and that by less than a minute.
fn is_equivalent(stored: &AddressConflictSpec, new: &AddressConflictSpec) -> bool {
    let second = |time: &Option<Time>| time.as_ref().map_or(0, |time| time.0.as_second());
    let untimed = |spec: &AddressConflictSpec| AddressConflictSpec {
        first_seen: None,
        last_seen: None,
        ..spec.clone()
    };
    untimed(stored) == untimed(new) && (second(&stored.last_seen) - second(&new.last_seen)).abs() < 60
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use announce::layer2::view::View;

    use super::*;
    use crate::fixtures::{address, view};
    use crate::layer2::driver::Reports;

    fn spec(announced: bool, unseen_for: SignedDuration) -> AddressConflictSpec {
        AddressConflictSpec {
            address: "10.0.0.1".into(),
            mac: "02:00:00:00:66:66".into(),
            node: "node2".into(),
            interface: "eth0".into(),
            held_by_node: false,
            announced,
            first_seen: None,
            last_seen: Timestamp::now().checked_sub(unseen_for).ok().map(Time),
        }
    }

    /// What a speaker publishes that knows of one group, and owns it or not.
    fn published(owns: bool) -> Published {
        let owned = Arc::new(owns.then_some((address(), 1)).into_iter().collect());
        Published { settled: true, view: Arc::new(view()), owned, ..Published::default() }
    }

    const NOW: SignedDuration = SignedDuration::ZERO;

    #[test]
    fn the_owner_of_an_address_deletes_its_conflict_after_a_probe() {
        let mut owner = published(true);
        let over =
            |spec: &AddressConflictSpec, owner: &Published| is_obsolete(spec, owner, &"node1".into(), false);
        assert!(over(&spec(false, NOW), &owner));
        assert!(!over(&spec(true, NOW), &owner), "it may have been handed over without a probe");
        assert!(over(&spec(true, RETENTION), &owner));
        let added = ["10.0.0.1".parse().unwrap()].into();
        owner.reports = Arc::new(Reports { unverified: added, ..Reports::default() });
        assert!(!over(&spec(false, NOW), &owner), "it is being probed");
    }

    #[test]
    fn the_conflict_of_an_address_without_owner_is_kept_while_the_foreign_host_may_be_there() {
        let over = |spec: &AddressConflictSpec, me: &str, collects_garbage| {
            let unused = Published { settled: true, ..Published::default() };
            let verdicts =
                [published(false), unused].map(|now| is_obsolete(spec, &now, &me.into(), collects_garbage));
            assert_eq!(verdicts[0], verdicts[1], "with and without a Service");
            verdicts[0]
        };
        assert!(
            !over(&spec(false, NOW), "node2", true),
            "the speaker that count_write_round it may just have restarted"
        );
        assert!(
            !over(&spec(false, NOW), "node1", true),
            "the speaker that count_write_round it may still see the host"
        );
        assert!(over(&spec(false, RETENTION), "node2", false), "it has written it and sees it no more");
        assert!(
            over(&spec(false, RETENTION), "node1", true),
            "the speaker that count_write_round it is gone"
        );
        assert!(!over(&spec(false, RETENTION), "node1", false), "another speaker collects_garbage");
        let starting = Published::default();
        assert!(
            !is_obsolete(&spec(false, RETENTION), &starting, &"node2".into(), true),
            "it has not settled"
        );
    }

    #[test]
    fn requirement_3_a_conflict_with_a_node_names_it_and_is_deleted_once_the_node_has_the_address_no_longer()
    {
        let holder = NodeAddress {
            node: "node1".into(),
            interface: Some("eth0".into()),
            mac: Some([2, 0, 0, 0, 0, 0x0b]),
        };
        let address = "10.0.0.1".parse().unwrap();
        let spec = node_address_spec(address, &holder);
        let AddressConflictSpec { mac, node, interface, held_by_node, announced, .. } = &spec;
        assert_eq!((&**mac, &**node, &**interface), ("02:00:00:00:00:0b", "node1", "eth0"));
        assert!(*held_by_node && !announced);
        let mut now = published(true);
        assert!(!is_obsolete(&spec, &now, &"node2".into(), true), "what nodes have is not known yet");
        let mut view = View::clone(&now.view);
        view.states_listed = true;
        now.view = Arc::new(view);
        assert!(is_obsolete(&spec, &now, &"node2".into(), true));
        assert!(!is_obsolete(&spec, &now, &"node2".into(), false), "another speaker collects_garbage");
        let mut view = View::clone(&now.view);
        view.node_addresses.insert(address, holder);
        now.view = Arc::new(view);
        assert!(!is_obsolete(&spec, &now, &"node1".into(), true));
    }

    #[test]
    fn requirement_6_an_object_is_written_at_most_once_in_ten_seconds() {
        let (start, mut limits, mut writes) = (Instant::now(), WriteLimits::default(), 0);
        // A frame each millisecond for half a minute, each with another hardware address.
        for frame in 0..30_000 {
            let now = start + Duration::from_millis(frame);
            limits.begin(now);
            writes += u32::from(limits.allow(now, "10.0.0.1"));
        }
        assert_eq!(writes, 3);
        assert_eq!(limits.next, Some(start + 3 * WRITE_PAUSE), "the last one is not forgotten");
        assert_eq!(limits.written.len(), 1);
    }

    #[test]
    fn requirement_6_thousands_of_conflicts_are_all_written_at_a_bounded_rate() {
        let (start, mut limits, mut written) = (Instant::now(), WriteLimits::default(), BTreeSet::new());
        let mut now = start;
        while written.len() < 1_000 {
            limits.begin(now);
            for name in (0..1_000).map(|number| number.to_string()) {
                if !written.contains(&name) && limits.allow(now, &name) {
                    written.insert(name);
                }
            }
            now = limits.next.unwrap_or(now);
        }
        assert_eq!(now - start, Duration::from_secs(u64::from(1_000 / WRITES_PER_SECOND) - 1));
    }
}
