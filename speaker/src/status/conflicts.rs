//! An `AddressConflict` for each address that a foreign host or a node of the cluster has. The controller hands such an
//! address to nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use announce::link::Link;
use announce::ownership::Conflict;
use announce::view::{Holder, NodeName};
use crds::{AddressConflict, AddressConflictSpec, ResourceExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use runtime::client::{CallError, with_timeout};
use serde_json::json;

use super::{FIELD_MANAGER, speaks_for_all};
use crate::driver::Published;
use crate::log_limit::limited;
use crate::watches::Stores;

/// How long an address is kept back whose stranger nobody looks for any more.
const KEPT: SignedDuration = SignedDuration::from_hours(1);

/// Between two writes about one address, whatever happens to it.
const WRITE_PAUSE: Duration = Duration::from_secs(10);
/// How many writes there may be in a second, of whatever number of addresses.
const WRITES_PER_SECOND: u32 = 20;

/// Keeps the objects about addresses that others have.
pub(super) struct Conflicts {
    api: Api<AddressConflict>,
    me: NodeName,
    stores: Stores,
    told: BTreeSet<IpAddr>,
    pauses: Pauses,
}

/// When each object was written last.
#[derive(Default)]
struct Pauses {
    written: BTreeMap<String, Instant>,
    /// The current second, and the writes in it.
    second: Option<(Instant, u32)>,
    /// When something that was put off is due.
    next: Option<Instant>,
}

impl Pauses {
    /// Begins a round.
    fn begin(&mut self, now: Instant) {
        self.written.retain(|_, at| now.saturating_duration_since(*at) < WRITE_PAUSE);
        self.next = None;
    }

    /// Whether an object may be written now; if not, it is put off.
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
    pub(super) fn new(client: Client, namespace: &str, me: NodeName, stores: Stores) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            me,
            stores,
            told: BTreeSet::new(),
            pauses: Pauses::default(),
        }
    }

    /// When to write again, if nothing changes.
    pub(super) fn next(&self) -> Option<Instant> {
        self.pauses.next
    }

    /// The objects that this speaker is to write: of its own addresses, and as the first of all of those of nodes.
    fn wanted(&self, published: &Published, links: &[Link]) -> BTreeMap<IpAddr, AddressConflictSpec> {
        let conflicts = published.reports.conflicts.iter();
        let conflicts = conflicts.map(|(address, conflict)| (*address, self.spec(*address, conflict, links)));
        let held = published.view.held.iter().filter(|_| speaks_for_all(published, &self.me));
        conflicts.chain(held.map(|(address, holder)| (*address, held_spec(*address, holder)))).collect()
    }

    pub(super) async fn write(
        &mut self,
        now: Instant,
        published: &Published,
        links: &[Link],
        owner: Option<&OwnerReference>,
    ) -> Result<(), CallError> {
        let wanted = self.wanted(published, links);
        self.log(&wanted);
        self.pauses.begin(now);
        let mut stored: BTreeMap<String, AddressConflict> = BTreeMap::new();
        for object in self.stores.conflicts.all() {
            stored.insert(object.name_any(), (*object).clone());
        }
        for (address, spec) in &wanted {
            let name = AddressConflict::name_for(*address);
            if stored.remove(&name).is_some_and(|object| says_the_same(&object.spec, spec))
                || !self.pauses.allow(now, &name)
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
        let ended = |address: &&IpAddr| !wanted.contains_key(*address);
        for address in self.told.iter().filter(ended).copied().collect::<Vec<_>>() {
            let name = AddressConflict::name_for(address);
            // Otherwise the address is another node's now, and that knows; or nothing has been written of it.
            let over = published.reports.over.contains(&address) && stored.remove(&name).is_some();
            if over && !self.pauses.allow(now, &name) {
                continue;
            }
            if over {
                self.remove(&name).await?;
            }
            self.told.remove(&address);
        }
        let tidies = speaks_for_all(published, &self.me);
        for (name, object) in stored {
            let over = is_over(&object.spec, published, &self.me, tidies);
            if over && self.pauses.allow(now, &name) {
                self.remove(&name).await?;
            }
        }
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<(), CallError> {
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

    /// One line of the log per conflict, as long as its object stays: events on Services are the controller's.
    fn log(&mut self, wanted: &BTreeMap<IpAddr, AddressConflictSpec>) {
        for (address, spec) in wanted {
            if self.told.insert(*address) {
                let AddressConflictSpec { mac, node, interface, announced, .. } = spec;
                let what = if spec.held_by_node {
                    "a node has an address of a pool or Service itself"
                } else {
                    "a foreign host has an address of a Service"
                };
                limited!(100, warn, %address, mac, node, interface, announced, "{what}");
            }
        }
    }
}

/// Of an address that a node has itself.
fn held_spec(address: IpAddr, holder: &Holder) -> AddressConflictSpec {
    AddressConflictSpec {
        address: address.to_string(),
        mac: holder.mac.map(hardware_address).unwrap_or_default(),
        node: holder.node.to_string(),
        interface: holder.interface.as_deref().unwrap_or_default().to_owned(),
        held_by_node: true,
        announced: false,
        first_seen: None,
        last_seen: None,
    }
}

/// Whether an object goes that this process has not told of. Who owns an address has asked the wire first; unless a
/// stranger's was announced all the same, which may have been handed over without a question. Anywhere else nobody may
/// have looked: a Service that is gone does not make its stranger go, and whoever gets the address next would meet it.
fn is_over(spec: &AddressConflictSpec, published: &Published, me: &NodeName, tidies: bool) -> bool {
    let held = |address: &IpAddr| published.view.held.contains_key(address);
    if spec.held_by_node {
        // The API says when that ends, once it has said what addresses nodes have.
        let known = published.settled && published.view.states_listed;
        return tidies && known && !spec.address.parse().is_ok_and(|address| held(&address));
    }
    let owns = |address: &IpAddr| {
        let mut groups = published.owned.keys().filter_map(|id| published.view.groups.get(id));
        groups.any(|group| group.addresses.contains(*address))
    };
    let ours = spec.address.parse().ok().filter(owns);
    let asked = ours.is_some_and(|address| !spec.announced && !published.reports.added.contains(&address));
    let responsible = ours.is_some() || spec.node == **me || tidies;
    published.settled && (asked || responsible && unseen_for(spec, KEPT))
}

/// Whether the stranger has not been seen for this long.
fn unseen_for(spec: &AddressConflictSpec, time: SignedDuration) -> bool {
    let now = Timestamp::now();
    spec.last_seen.as_ref().is_none_or(|seen| now.duration_since(seen.0) >= time)
}

fn mac(conflict: &Conflict) -> String {
    hardware_address(conflict.sighting.mac.0)
}

/// As the API has hardware addresses: six bytes with colons between them.
pub(super) fn hardware_address([a, b, c, d, e, f]: [u8; 6]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

fn interface(conflict: &Conflict, links: &[Link]) -> String {
    let link = links.iter().find(|link| link.index == conflict.sighting.link);
    link.map_or_else(|| conflict.sighting.link.to_string(), |link| link.name.clone())
}

/// When a moment of the monotonic clock was, for people.
fn wall_clock(at: Instant) -> Option<Time> {
    let ago = at.elapsed();
    let seconds = i64::try_from(ago.as_secs()).ok()?;
    let now = Timestamp::now().as_second();
    Timestamp::from_second(now.checked_sub(seconds)?).ok().map(Time)
}

/// Whether nothing has changed but the time, and that by less than a minute.
fn says_the_same(stored: &AddressConflictSpec, new: &AddressConflictSpec) -> bool {
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

    use announce::view::View;

    use super::*;
    use crate::driver::Reports;
    use crate::fixtures::{address, view};

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
    fn who_owns_an_address_and_has_asked_the_wire_removes_what_says_that_there_is_a_stranger() {
        let mut owner = published(true);
        let over =
            |spec: &AddressConflictSpec, owner: &Published| is_over(spec, owner, &"node1".into(), false);
        assert!(over(&spec(false, NOW), &owner));
        assert!(!over(&spec(true, NOW), &owner), "it may have been handed over without a question");
        assert!(over(&spec(true, KEPT), &owner));
        let added = ["10.0.0.1".parse().unwrap()].into();
        owner.reports = Arc::new(Reports { added, ..Reports::default() });
        assert!(!over(&spec(false, NOW), &owner), "the wire is being asked");
    }

    #[test]
    fn an_address_that_nobody_owns_is_kept_back_as_long_as_its_stranger_may_be_there() {
        let over = |spec: &AddressConflictSpec, me: &str, tidies| {
            let unused = Published { settled: true, ..Published::default() };
            let verdicts = [published(false), unused].map(|now| is_over(spec, &now, &me.into(), tidies));
            assert_eq!(verdicts[0], verdicts[1], "with and without a Service");
            verdicts[0]
        };
        assert!(!over(&spec(false, NOW), "node2", true), "who wrote it may just have been started again");
        assert!(!over(&spec(false, NOW), "node1", true), "who wrote it may see it still");
        assert!(over(&spec(false, KEPT), "node2", false), "it has written it and sees it no more");
        assert!(over(&spec(false, KEPT), "node1", true), "who wrote it is gone");
        assert!(!over(&spec(false, KEPT), "node1", false), "another speaker tidies");
        let starting = Published::default();
        assert!(!is_over(&spec(false, KEPT), &starting, &"node2".into(), true), "it has not looked around");
    }

    #[test]
    fn requirement_3_a_conflict_with_a_node_names_it_and_goes_once_the_node_has_the_address_no_longer() {
        let holder =
            Holder { node: "node1".into(), interface: Some("eth0".into()), mac: Some([2, 0, 0, 0, 0, 0x0b]) };
        let address = "10.0.0.1".parse().unwrap();
        let spec = held_spec(address, &holder);
        let AddressConflictSpec { mac, node, interface, held_by_node, announced, .. } = &spec;
        assert_eq!((&**mac, &**node, &**interface), ("02:00:00:00:00:0b", "node1", "eth0"));
        assert!(*held_by_node && !announced);
        let mut now = published(true);
        assert!(!is_over(&spec, &now, &"node2".into(), true), "what nodes have is not known yet");
        let mut view = View::clone(&now.view);
        view.states_listed = true;
        now.view = Arc::new(view);
        assert!(is_over(&spec, &now, &"node2".into(), true));
        assert!(!is_over(&spec, &now, &"node2".into(), false), "another speaker tidies");
        let mut view = View::clone(&now.view);
        view.held.insert(address, holder);
        now.view = Arc::new(view);
        assert!(!is_over(&spec, &now, &"node1".into(), true));
    }

    #[test]
    fn requirement_6_an_object_is_written_once_in_ten_seconds_whatever_happens_to_its_address() {
        let (start, mut pauses, mut writes) = (Instant::now(), Pauses::default(), 0);
        // A frame each millisecond for half a minute, each with another hardware address.
        for frame in 0..30_000 {
            let now = start + Duration::from_millis(frame);
            pauses.begin(now);
            writes += u32::from(pauses.allow(now, "10.0.0.1"));
        }
        assert_eq!(writes, 3);
        assert_eq!(pauses.next, Some(start + 3 * WRITE_PAUSE), "the last one is not forgotten");
        assert_eq!(pauses.written.len(), 1);
    }

    #[test]
    fn requirement_6_thousands_of_conflicts_at_once_are_written_at_a_bounded_rate_and_all_of_them() {
        let (start, mut pauses, mut written) = (Instant::now(), Pauses::default(), BTreeSet::new());
        let mut now = start;
        while written.len() < 1_000 {
            pauses.begin(now);
            for name in (0..1_000).map(|number| number.to_string()) {
                if !written.contains(&name) && pauses.allow(now, &name) {
                    written.insert(name);
                }
            }
            now = pauses.next.unwrap_or(now);
        }
        assert_eq!(now - start, Duration::from_secs(u64::from(1_000 / WRITES_PER_SECOND) - 1));
    }
}
