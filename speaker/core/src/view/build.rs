//! From facts about the objects of the API to a [`View`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use rules::{Configuration, IpRange};

use super::advertised::{Advertised, SetId};
use super::candidates::{self, Eligible, Subnets};
use super::held::held;
use super::nominate::{Classes, Nobody, Nominator};
use super::partition::{Cell, Part, Partition, different, same};
use super::ranking::Sets;
use super::{Addresses, Candidates, Group, GroupId, Holder, NodeName, ServiceKey, Speaker, View};
use crate::beacon::NodeId;
use crate::facts::{Facts, PodFacts, ServiceFacts, StatusFacts};
use crate::link::{LinkFacts, Scope};
use crate::placement::Placement;

/// What the speaker was told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node that this speaker runs on.
    pub me: NodeName,
    /// How groups are spread.
    pub placement: Placement,
    /// What the exclude label means.
    pub exclude_label: ExcludeLabel,
}

/// What `node.kubernetes.io/exclude-from-external-load-balancers` on a node means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExcludeLabel {
    /// Honoured, except where every node whose speaker is ready or has published its links carries it, as in a cluster of one.
    #[default]
    Auto,
    /// Honoured always.
    Honour,
    /// Ignored.
    Ignore,
}

impl View {
    /// What `facts` and `configuration` say: what a [`Maker`] begins with that goes on from `previous`.
    pub fn build(
        settings: &Settings,
        facts: &Facts,
        configuration: &Configuration,
        previous: Option<&Self>,
    ) -> Self {
        let mut maker = Maker::new(settings.clone(), previous.cloned().map(Arc::new));
        Arc::unwrap_or_clone(maker.make(facts.clone(), configuration))
    }
}

/// Makes one view after the other. Of all that a view is made of, only what has changed since the one before is worked out
/// anew; all else is copied by pointer. An object that is the same in memory has not changed.
#[derive(Debug)]
pub struct Maker {
    settings: Settings,
    last: Option<Arc<View>>,
    kept: Option<Kept>,
}

/// What a view was made of, as far as the next one is made of the same.
#[derive(Debug)]
struct Kept {
    configuration: Configuration,
    pools: Vec<IpRange>,
    advertised: Advertised,
    facts: Facts,
    nodes: Nodes,
    subnets: Subnets,
    partition: Partition,
    classes: Classes,
    sets: Sets,
    held: BTreeMap<IpAddr, Holder>,
}

/// What facts about nodes say, whatever Services there are.
#[derive(Debug, Default)]
struct Nodes {
    speakers: BTreeMap<NodeName, Speaker>,
    macs: BTreeMap<[u8; 6], NodeId>,
    label_ignored: bool,
    eligible: Vec<Eligible>,
    /// See [`candidates::unready`].
    unready: Option<Eligible>,
    /// The labels of this node. Whether it may own a group is another question: an owner that has to hand a group over
    /// answers for it until its successor has claimed it.
    own_labels: Option<BTreeMap<String, String>>,
}

/// What has changed since the view before.
struct Changes {
    nodes: bool,
    services: bool,
    /// Groups whose Services have changed.
    groups: Vec<GroupId>,
}

impl Maker {
    /// Begins after `previous`, if there is a view already: see [`Self::make`].
    pub fn new(settings: Settings, previous: Option<Arc<View>>) -> Self {
        Self { settings, last: previous, kept: None }
    }

    /// How many classes of groups are kept.
    #[cfg(test)]
    pub(super) fn kept_classes(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.classes.len())
    }

    /// What `facts` and `configuration` say; the same object as before if that is nothing new. Where this node is no
    /// candidate, its links are those of the view before: it may be handing the group over.
    pub fn make(&mut self, facts: Facts, configuration: &Configuration) -> Arc<View> {
        let last = self.last.take().unwrap_or_default();
        let known =
            self.kept.take().filter(|kept| kept.configuration == *configuration && !kept.is_bloated());
        let is_new = known.is_none();
        let mut kept = known.unwrap_or_else(|| Kept::new(configuration, &last));
        let changes = kept.update(&self.settings, facts, is_new);
        let view = if is_new || changes.nodes || changes.services || !changes.groups.is_empty() {
            let view = kept.view(&self.settings, &changes, is_new, &last);
            if view == *last { Arc::clone(&last) } else { Arc::new(view) }
        } else {
            Arc::clone(&last)
        };
        self.kept = Some(kept);
        self.last = Some(Arc::clone(&view));
        view
    }
}

impl Kept {
    fn new(configuration: &Configuration, last: &View) -> Self {
        let valid = configuration.pools.values().flat_map(|pool| &pool.ranges);
        Self {
            pools: valid.chain(configuration.rejected_pools.values().flatten()).copied().collect(),
            advertised: Advertised::new(configuration),
            configuration: configuration.clone(),
            facts: Facts::default(),
            nodes: Nodes::default(),
            subnets: Subnets::default(),
            partition: Partition::default(),
            classes: Classes::default(),
            sets: Sets::of(last.groups.values().map(|group| &group.candidates)),
            held: BTreeMap::new(),
        }
    }

    /// Whether most of it is about what is no more.
    fn is_bloated(&self) -> bool {
        self.classes.len() + self.advertised.len() > 1_000 + 4 * self.partition.cells.len()
    }

    /// Takes new facts.
    fn update(&mut self, settings: &Settings, facts: Facts, is_new: bool) -> Changes {
        let before = std::mem::replace(&mut self.facts, facts);
        let facts = &self.facts;
        let nodes = is_new
            || !same(&before.nodes, &facts.nodes)
            || !same(&before.pods, &facts.pods)
            || before.states_listed != facts.states_listed
            || before.links != facts.links
            || before.own_links != facts.own_links
            || before.other_addresses != facts.other_addresses;
        let mut alike = true;
        if nodes {
            self.nodes = Nodes::of(settings, facts);
            self.classes.nodes_changed();
            let subnets = Subnets::of(facts);
            alike = subnets == self.subnets;
            self.subnets = subnets;
        }
        let services = !same(&before.services, &facts.services);
        let groups = self.update_services(&before);
        if nodes || services {
            self.held = held(&self.facts, &self.nodes.speakers, &self.pools);
        }
        for (id, cell) in &mut self.partition.cells {
            if !alike || groups.binary_search(id).is_ok() {
                cell.class = self.classes.of(&cell.parts, &self.subnets);
            }
        }
        Changes { nodes, services, groups }
    }

    /// Puts the Services together that have changed, with those that they share addresses with. Returns the ids of their
    /// groups, in order.
    fn update_services(&mut self, before: &Facts) -> Vec<GroupId> {
        let facts = &self.facts;
        let (gone, come) = different(&before.services, &facts.services);
        let mut touched: HashSet<&ServiceKey> = HashSet::new();
        touched.extend(gone.iter().chain(&come).map(|service| &*service.key));
        let (slices_gone, slices_come) = different(&before.slices, &facts.slices);
        touched.extend(slices_gone.into_iter().chain(slices_come).map(|slice| &slice.service));
        let (statuses_gone, statuses_come) = different(&before.statuses, &facts.statuses);
        touched.extend(statuses_gone.into_iter().chain(statuses_come).map(|status| &status.service));
        if touched.is_empty() {
            return Vec::new();
        }
        let with_addresses = facts.services.iter().filter(|service| !service.addresses.is_empty());
        let present: HashMap<&ServiceKey, &Arc<ServiceFacts>> = with_addresses
            .filter(|service| touched.contains(&*service.key))
            .map(|service| (&*service.key, service))
            .collect();
        let mut serving = candidates::serving(&present, &facts.slices);
        let last = last_owners(&touched, &facts.statuses);
        let parts = present.iter().map(|(key, service)| {
            let verdict = self.advertised.of(&self.configuration, service, last.contains_key(key));
            let serving = serving.remove(key).map(Arc::from);
            let last = last.get(key).map(|(node, epoch)| (NodeName::clone(node), *epoch));
            Part { service: Arc::clone(service), verdict, serving, last }
        });
        let parts: Vec<Part> = parts.collect();
        let addresses =
            gone.into_iter().chain(present.values().copied()).flat_map(|service| &service.addresses);
        let is_gone = |key: &ServiceKey| touched.contains(key);
        let mut groups = self.partition.replace(addresses.copied(), is_gone, parts);
        groups.sort_unstable();
        groups
    }

    fn view(&mut self, settings: &Settings, changes: &Changes, is_new: bool, last: &View) -> View {
        let all = is_new || changes.nodes;
        let mut builder = Builder {
            me: &settings.me,
            own_labels: self.nodes.own_labels.as_ref(),
            scopes: HashMap::new(),
            advertised: &self.advertised,
            sets: &mut self.sets,
            classes: &mut self.classes,
            nominator: Nominator::new(
                &self.nodes.eligible,
                self.nodes.unready.as_ref(),
                &self.advertised,
                settings.placement,
            ),
        };
        let changed = |id: &GroupId| all || changes.groups.binary_search(id).is_ok();
        for (id, cell) in self.partition.cells.iter_mut().filter(|(id, _)| changed(id)) {
            let before = cell.group.take().or_else(|| last.groups.get(id).cloned());
            let (group, detail) = builder.group(*id, cell, before.as_ref());
            (cell.group, cell.detail) = (Some(group), detail);
        }
        self.sets.tidy();
        let groups: BTreeMap<GroupId, Arc<Group>> = self.groups();
        let placement = settings.placement;
        let placed = if is_new || candidates_differ(&groups, &last.groups) {
            placement.place(&groups)
        } else {
            last.placed.clone()
        };
        let details = self.partition.cells.iter();
        let idle_details = details.filter_map(|(id, cell)| Some((*id, cell.detail.clone()?))).collect();
        View {
            speakers: self.nodes.speakers.clone(),
            macs: self.nodes.macs.clone(),
            groups,
            placed,
            placement,
            label_ignored: self.nodes.label_ignored,
            pools: self.pools.clone(),
            idle_details,
            held: self.held.clone(),
            states_listed: self.facts.states_listed,
        }
    }

    fn groups(&self) -> BTreeMap<GroupId, Arc<Group>> {
        let cells = self.partition.cells.iter();
        cells.filter_map(|(id, cell)| Some((*id, Arc::clone(cell.group.as_ref()?)))).collect()
    }
}

/// Whether there are other groups, or one of them has other candidates.
fn candidates_differ(a: &BTreeMap<GroupId, Arc<Group>>, b: &BTreeMap<GroupId, Arc<Group>>) -> bool {
    let differ = |(a, b): (&Arc<Group>, &Arc<Group>)| {
        !Arc::ptr_eq(a, b) && (a.id != b.id || a.candidates != b.candidates)
    };
    a.len() != b.len() || a.values().zip(b.values()).any(differ)
}

impl Nodes {
    fn of(settings: &Settings, facts: &Facts) -> Self {
        let mut speakers = speakers(&facts.pods);
        for node in facts.nodes.iter().filter(|node| node.lost) {
            if let Some(speaker) = speakers.get_mut(&node.name) {
                // Nobody reports its end.
                speaker.running = false;
            }
        }
        let label_ignored =
            settings.exclude_label == ExcludeLabel::Auto && candidates::all_excluded(facts, &speakers);
        let honour = settings.exclude_label != ExcludeLabel::Ignore && !label_ignored;
        let mine = facts.nodes.iter().find(|node| node.name == settings.me);
        Self {
            macs: macs(settings, facts, &speakers),
            label_ignored,
            eligible: candidates::eligible(settings, facts, &speakers, honour),
            unready: candidates::unready(settings, facts, &speakers, honour),
            own_labels: mine.map(|node| node.labels.clone()),
            speakers,
        }
    }
}

/// Which node with a speaker has which hardware address.
fn macs(
    settings: &Settings,
    facts: &Facts,
    speakers: &BTreeMap<NodeName, Speaker>,
) -> BTreeMap<[u8; 6], NodeId> {
    let of = |node: &NodeName, links: &[LinkFacts]| {
        let id = NodeId::of(node);
        links.iter().map(|link| (link.mac, id)).collect::<Vec<_>>()
    };
    let published = facts.links.iter().filter(|(node, _)| speakers.contains_key(*node));
    let published = published.filter(|(node, _)| facts.own_links.is_none() || **node != settings.me);
    let mut macs: BTreeMap<[u8; 6], NodeId> = published.flat_map(|(node, links)| of(node, links)).collect();
    if let Some(own) = facts.own_links.as_deref().filter(|_| speakers.contains_key(&settings.me)) {
        macs.extend(of(&settings.me, own));
    }
    macs
}

/// The speakers by node. Of two pods on one node, as during a rolling upgrade, the
/// ready one counts, else the newer.
fn speakers(pods: &[Arc<PodFacts>]) -> BTreeMap<NodeName, Speaker> {
    let mut speakers: BTreeMap<NodeName, Speaker> = BTreeMap::new();
    for pod in pods {
        let better = speakers
            .get(&pod.node)
            .is_none_or(|other| (pod.ready, pod.generation) > (other.ready, other.generation));
        if better {
            let PodFacts { node: _, address, ready, running, generation } = **pod;
            speakers.insert(pod.node.clone(), Speaker { address, ready, running, generation });
        }
    }
    speakers
}

#[cfg(test)]
thread_local! {
    static EVALUATED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// How many groups this thread has evaluated.
#[cfg(test)]
pub(super) fn evaluated() -> u64 {
    EVALUATED.with(std::cell::Cell::get)
}

/// Makes groups.
struct Builder<'a> {
    me: &'a NodeName,
    own_labels: Option<&'a BTreeMap<String, String>>,
    /// The links of this node that a set of advertisements covers.
    scopes: HashMap<SetId, Option<Scope>>,
    advertised: &'a Advertised,
    sets: &'a mut Sets,
    classes: &'a mut Classes,
    nominator: Nominator<'a>,
}

impl Builder<'_> {
    /// The group of `cell`, and why nobody may own it, beyond what its `idle` says.
    fn group(
        &mut self,
        id: GroupId,
        cell: &Cell,
        before: Option<&Arc<Group>>,
    ) -> (Arc<Group>, Option<Arc<str>>) {
        #[cfg(test)]
        EVALUATED.with(|count| count.set(count.get() + 1));
        let first = cell.parts.first().and_then(|part| part.service.addresses.first());
        let hashed = first.copied().unwrap_or(id);
        let known = before.map(|group| &group.candidates);
        let nominated = self.classes.nominate(cell, &mut self.nominator, self.sets);
        let retainable = nominated.as_ref().is_err_and(|nobody| nobody.retainable);
        let (candidates, idle, detail) = match nominated {
            Ok(set) => (self.sets.ranked(&set, hashed, known), None, None),
            Err(Nobody { idle, detail, retainable: _ }) => {
                let none = known.filter(|candidates| candidates.is_empty());
                (none.cloned().unwrap_or_default(), Some(idle), detail)
            }
        };
        let addresses = self.addresses(cell, &candidates, before);
        let last = cell.parts.iter().filter_map(|part| part.last.as_ref());
        let last = last.max_by_key(|(node, epoch)| (*epoch, node)).cloned();
        let services = || cell.parts.iter().map(|part| &part.service.key);
        // Equal sets of candidates are held once, so there is no need to compare those that are not the same.
        let same = |before: &&Arc<Group>| {
            before.candidates.set() == candidates.set()
                && (before.hashed, before.idle, before.retainable) == (hashed, idle, retainable)
                && before.last == last
                && before.addresses == addresses
                && before.candidates == candidates
                && before.services.iter().eq(services())
        };
        let group = before.filter(same).cloned().unwrap_or_else(|| {
            let services = services().cloned().collect();
            Arc::new(Group { id, hashed, addresses, services, candidates, idle, retainable, last })
        });
        (group, detail)
    }

    /// The addresses of a group, each with the links that this node would announce it on. Where it is no candidate, these are
    /// as before: until its successor has claimed the group, an owner answers, and what takes the group away may be about
    /// links.
    fn addresses(&mut self, cell: &Cell, candidates: &Candidates, before: Option<&Arc<Group>>) -> Addresses {
        let before = before.map(|group| &group.addresses);
        let mut addresses = Vec::new();
        for part in &cell.parts {
            let covered = part.verdict.ok().and_then(|set| {
                let of = || candidates::scope_on(self.advertised.set(set), self.own_labels?);
                self.scopes.entry(set).or_insert_with(of).clone()
            });
            let scope = covered.unwrap_or(Scope::Named(BTreeSet::new()));
            addresses.extend(part.service.addresses.iter().map(|ip| (*ip, scope.clone())));
        }
        if let Some(known) = before.filter(|_| !candidates.contains(self.me)) {
            for (address, scope) in &mut addresses {
                if let Some(known) = known.get(*address) {
                    scope.clone_from(known);
                }
            }
        }
        Addresses::reusing(addresses, before)
    }
}

/// Who announced each of these Services last, by its `ServiceL2Status`; of several the highest epoch counts.
fn last_owners<'a>(
    services: &HashSet<&ServiceKey>,
    statuses: &'a [Arc<StatusFacts>],
) -> HashMap<&'a ServiceKey, (&'a NodeName, u64)> {
    let mut last: HashMap<&ServiceKey, (&NodeName, u64)> = HashMap::new();
    for status in statuses.iter().filter(|status| services.contains(&status.service)) {
        let owner = (&status.node, status.epoch);
        let known = last.entry(&status.service).or_insert(owner);
        if (owner.1, owner.0) > (known.1, known.0) {
            *known = owner;
        }
    }
    last
}
