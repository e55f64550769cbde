//! Builds a [`View`] from the summaries of API objects.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use rules::{Configuration, IpRange};

use super::advertised::{AdvertisementIndex, SetId, scope_on};
use super::node_addresses::node_addresses;
use super::partition::{GroupMember, Partition, SharedGroup, diff, same_objects};
use super::ranking::CandidateSets;
use super::selection::{CandidateSelector, EquivalenceClasses, NoCandidates};
use super::subnets::Subnets;
use super::{Addresses, Candidates, Group, NodeAddress, View};
use crate::cluster::link::{LinkInfo, Scope};
use crate::cluster::objects::{AnnouncementInfo, ClusterObjects, ServiceInfo};
use crate::cluster::{self, Eligible, ExcludeLabel, GroupId, NodeId, NodeName, ServiceKey, Speaker};
use crate::layer2::placement::Placement;

/// Settings of the process.
#[derive(Clone, Debug)]
pub struct ViewSettings {
    /// The node that this speaker runs on.
    pub me: NodeName,
    /// How groups are spread.
    pub placement: Placement,
    /// How the exclude label is treated.
    pub exclude_label: ExcludeLabel,
}

impl View {
    /// Builds a single view: the first view of a [`ViewBuilder`] that continues from `previous`.
    pub fn build(
        settings: &ViewSettings,
        objects: &ClusterObjects,
        configuration: &Configuration,
        previous: Option<&Self>,
    ) -> Self {
        let mut builder = ViewBuilder::new(settings.clone(), previous.cloned().map(Arc::new));
        Arc::unwrap_or_clone(builder.build(objects.clone(), configuration))
    }
}

/// Builds successive views incrementally: only what depends on changed objects is recomputed, everything else
/// is shared with the previous view. An object at the same address in memory has not changed.
#[derive(Debug)]
pub struct ViewBuilder {
    settings: ViewSettings,
    last: Option<Arc<View>>,
    cache: Option<BuilderCache>,
}

/// Intermediate results that the next view can reuse.
#[derive(Debug)]
struct BuilderCache {
    configuration: Configuration,
    pools: Vec<IpRange>,
    advertised: AdvertisementIndex,
    objects: ClusterObjects,
    nodes: Nodes,
    subnets: Subnets,
    partition: Partition,
    classes: EquivalenceClasses,
    sets: CandidateSets,
    node_addresses: BTreeMap<IpAddr, NodeAddress>,
}

/// Results that depend on nodes and speakers, but not on Services.
#[derive(Debug, Default)]
struct Nodes {
    speakers: BTreeMap<NodeName, Speaker>,
    macs: BTreeMap<[u8; 6], NodeId>,
    label_ignored: bool,
    eligible: Vec<Eligible>,
    /// See [`cluster::unready`].
    unready: Option<Eligible>,
    /// The labels of this node, whether or not it is a candidate: an owner that has to hand a group over
    /// answers for it until its successor has claimed it.
    own_labels: Option<BTreeMap<String, String>>,
}

/// The changes since the previous view.
struct Changes {
    nodes: bool,
    services: bool,
    /// Groups whose Services have changed.
    groups: Vec<GroupId>,
}

impl ViewBuilder {
    /// Continues from `previous`, if there is a view already: see [`Self::build`].
    pub fn new(settings: ViewSettings, previous: Option<Arc<View>>) -> Self {
        Self { settings, last: previous, cache: None }
    }

    /// The number of cached equivalence classes.
    #[cfg(test)]
    pub(super) fn cached_classes(&self) -> usize {
        self.cache.as_ref().map_or(0, |cache| cache.classes.len())
    }

    /// Builds the next view; the same object as before if nothing has changed. Where this node is not a
    /// candidate, its links are those of the previous view: it may be handing the group over.
    pub fn build(&mut self, objects: ClusterObjects, configuration: &Configuration) -> Arc<View> {
        let last = self.last.take().unwrap_or_default();
        let reusable =
            self.cache.take().filter(|cache| cache.configuration == *configuration && !cache.is_bloated());
        let is_new = reusable.is_none();
        let mut cache = reusable.unwrap_or_else(|| BuilderCache::new(configuration, &last));
        let changes = cache.update(&self.settings, objects, is_new);
        let view = if is_new || changes.nodes || changes.services || !changes.groups.is_empty() {
            let view = cache.view(&self.settings, &changes, is_new, &last);
            if view == *last { Arc::clone(&last) } else { Arc::new(view) }
        } else {
            Arc::clone(&last)
        };
        self.cache = Some(cache);
        self.last = Some(Arc::clone(&view));
        view
    }
}

impl BuilderCache {
    fn new(configuration: &Configuration, last: &View) -> Self {
        let valid = configuration.pools.values().flat_map(|pool| &pool.ranges);
        Self {
            pools: valid.chain(configuration.rejected_pools.values().flatten()).copied().collect(),
            advertised: AdvertisementIndex::new(configuration),
            configuration: configuration.clone(),
            objects: ClusterObjects::default(),
            nodes: Nodes::default(),
            subnets: Subnets::default(),
            partition: Partition::default(),
            classes: EquivalenceClasses::default(),
            sets: CandidateSets::from_candidates(last.groups.values().map(|group| &group.candidates)),
            node_addresses: BTreeMap::new(),
        }
    }

    /// Whether most of the cache is about objects that no longer exist.
    fn is_bloated(&self) -> bool {
        self.classes.len() + self.advertised.len() > 1_000 + 4 * self.partition.shared_groups.len()
    }

    /// Replaces the objects.
    fn update(&mut self, settings: &ViewSettings, objects: ClusterObjects, is_new: bool) -> Changes {
        let before = std::mem::replace(&mut self.objects, objects);
        let objects = &self.objects;
        let nodes = is_new
            || !same_objects(&before.nodes, &objects.nodes)
            || !same_objects(&before.pods, &objects.pods)
            || before.states_listed != objects.states_listed
            || before.links != objects.links
            || before.own_links != objects.own_links
            || before.other_addresses != objects.other_addresses;
        let mut alike = true;
        if nodes {
            self.nodes = Nodes::from_objects(settings, objects);
            self.classes.nodes_changed();
            let subnets = Subnets::from_objects(objects);
            alike = subnets == self.subnets;
            self.subnets = subnets;
        }
        let services = !same_objects(&before.services, &objects.services);
        let groups = self.update_services(&before);
        if nodes || services {
            self.node_addresses = node_addresses(&self.objects, &self.nodes.speakers, &self.pools);
        }
        for (id, shared_group) in &mut self.partition.shared_groups {
            if !alike || groups.binary_search(id).is_ok() {
                shared_group.class = self.classes.class_of(&shared_group.members, &self.subnets);
            }
        }
        Changes { nodes, services, groups }
    }

    /// Regroups the Services that have changed, and those that share addresses with them. Returns the sorted
    /// ids of their groups.
    fn update_services(&mut self, before: &ClusterObjects) -> Vec<GroupId> {
        let objects = &self.objects;
        let (removed, added) = diff(&before.services, &objects.services);
        let mut touched: HashSet<&ServiceKey> = HashSet::new();
        touched.extend(removed.iter().chain(&added).map(|service| &*service.key));
        let (slices_removed, slices_added) = diff(&before.slices, &objects.slices);
        touched.extend(slices_removed.into_iter().chain(slices_added).map(|slice| &slice.service));
        let (statuses_removed, statuses_added) = diff(&before.statuses, &objects.statuses);
        touched.extend(statuses_removed.into_iter().chain(statuses_added).map(|status| &status.service));
        if touched.is_empty() {
            return Vec::new();
        }
        let with_addresses = objects.services.iter().filter(|service| !service.addresses.is_empty());
        let present: HashMap<&ServiceKey, &Arc<ServiceInfo>> = with_addresses
            .filter(|service| touched.contains(&*service.key))
            .map(|service| (&*service.key, service))
            .collect();
        let mut serving = cluster::serving(&present, &objects.slices);
        let last = last_owners(&touched, &objects.statuses);
        let members = present.iter().map(|(key, service)| {
            let advertisements =
                self.advertised.applicable(&self.configuration, service, last.contains_key(key));
            let serving = serving.remove(key).map(Arc::from);
            let last = last.get(key).map(|(node, epoch)| (NodeName::clone(node), *epoch));
            GroupMember { service: Arc::clone(service), advertisements, serving, last }
        });
        let members: Vec<GroupMember> = members.collect();
        let addresses =
            removed.into_iter().chain(present.values().copied()).flat_map(|service| &service.addresses);
        let is_gone = |key: &ServiceKey| touched.contains(key);
        let mut groups = self.partition.replace(addresses.copied(), is_gone, members);
        groups.sort_unstable();
        groups
    }

    fn view(&mut self, settings: &ViewSettings, changes: &Changes, is_new: bool, last: &View) -> View {
        let all = is_new || changes.nodes;
        let mut builder = GroupBuilder {
            me: &settings.me,
            own_labels: self.nodes.own_labels.as_ref(),
            scopes: HashMap::new(),
            advertised: &self.advertised,
            sets: &mut self.sets,
            classes: &mut self.classes,
            selector: CandidateSelector::new(
                &self.nodes.eligible,
                self.nodes.unready.as_ref(),
                &self.advertised,
                settings.placement,
            ),
        };
        let changed = |id: &GroupId| all || changes.groups.binary_search(id).is_ok();
        for (id, shared_group) in self.partition.shared_groups.iter_mut().filter(|(id, _)| changed(id)) {
            let before = shared_group.group.take().or_else(|| last.groups.get(id).cloned());
            let (group, detail) = builder.group(*id, shared_group, before.as_ref());
            (shared_group.group, shared_group.detail) = (Some(group), detail);
        }
        self.sets.remove_unused();
        let groups: BTreeMap<GroupId, Arc<Group>> = self.groups();
        let placement = settings.placement;
        let placed = if is_new || candidates_differ(&groups, &last.groups) {
            placement.place(&groups)
        } else {
            last.placed.clone()
        };
        let details = self.partition.shared_groups.iter();
        let not_announced_details =
            details.filter_map(|(id, shared_group)| Some((*id, shared_group.detail.clone()?))).collect();
        View {
            speakers: self.nodes.speakers.clone(),
            macs: self.nodes.macs.clone(),
            groups,
            placed,
            placement,
            label_ignored: self.nodes.label_ignored,
            pools: self.pools.clone(),
            not_announced_details,
            node_addresses: self.node_addresses.clone(),
            states_listed: self.objects.states_listed,
        }
    }

    fn groups(&self) -> BTreeMap<GroupId, Arc<Group>> {
        let groups = self.partition.shared_groups.iter();
        groups
            .filter_map(|(id, shared_group)| Some((*id, Arc::clone(shared_group.group.as_ref()?))))
            .collect()
    }
}

/// Whether the groups differ, or one of them has other candidates.
fn candidates_differ(a: &BTreeMap<GroupId, Arc<Group>>, b: &BTreeMap<GroupId, Arc<Group>>) -> bool {
    let differ = |(a, b): (&Arc<Group>, &Arc<Group>)| {
        !Arc::ptr_eq(a, b) && (a.id != b.id || a.candidates != b.candidates)
    };
    a.len() != b.len() || a.values().zip(b.values()).any(differ)
}

impl Nodes {
    fn from_objects(settings: &ViewSettings, objects: &ClusterObjects) -> Self {
        let mut speakers = cluster::speakers(&objects.pods);
        for node in objects.nodes.iter().filter(|node| node.lost) {
            if let Some(speaker) = speakers.get_mut(&node.name) {
                // The end of its process is not reported when the node is lost.
                speaker.running = false;
            }
        }
        let label_ignored =
            settings.exclude_label == ExcludeLabel::Auto && cluster::all_excluded(objects, &speakers);
        let honour = settings.exclude_label != ExcludeLabel::Ignore && !label_ignored;
        let mine = objects.nodes.iter().find(|node| node.name == settings.me);
        Self {
            macs: macs(settings, objects, &speakers),
            label_ignored,
            eligible: cluster::eligible(&settings.me, objects, &speakers, honour),
            unready: cluster::unready(&settings.me, objects, &speakers, honour),
            own_labels: mine.map(|node| node.labels.clone()),
            speakers,
        }
    }
}

/// The node with a speaker that has a hardware address.
fn macs(
    settings: &ViewSettings,
    objects: &ClusterObjects,
    speakers: &BTreeMap<NodeName, Speaker>,
) -> BTreeMap<[u8; 6], NodeId> {
    let of = |node: &NodeName, links: &[LinkInfo]| {
        let id = NodeId::from_name(node);
        links.iter().map(|link| (link.mac, id)).collect::<Vec<_>>()
    };
    let published = objects.links.iter().filter(|(node, _)| speakers.contains_key(*node));
    let published = published.filter(|(node, _)| objects.own_links.is_none() || **node != settings.me);
    let mut macs: BTreeMap<[u8; 6], NodeId> = published.flat_map(|(node, links)| of(node, links)).collect();
    if let Some(own) = objects.own_links.as_deref().filter(|_| speakers.contains_key(&settings.me)) {
        macs.extend(of(&settings.me, own));
    }
    macs
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

/// Builds groups.
struct GroupBuilder<'a> {
    me: &'a NodeName,
    own_labels: Option<&'a BTreeMap<String, String>>,
    /// The links of this node that a set of advertisements covers.
    scopes: HashMap<SetId, Option<Scope>>,
    advertised: &'a AdvertisementIndex,
    sets: &'a mut CandidateSets,
    classes: &'a mut EquivalenceClasses,
    selector: CandidateSelector<'a>,
}

impl GroupBuilder<'_> {
    /// Builds the group of `shared_group`, with details why no node may own it.
    fn group(
        &mut self,
        id: GroupId,
        shared_group: &SharedGroup,
        before: Option<&Arc<Group>>,
    ) -> (Arc<Group>, Option<Arc<str>>) {
        #[cfg(test)]
        EVALUATED.with(|count| count.set(count.get() + 1));
        let first = shared_group.members.first().and_then(|member| member.service.addresses.first());
        let hashed = first.copied().unwrap_or(id);
        let known = before.map(|group| &group.candidates);
        let selected = self.classes.select(shared_group, &mut self.selector, self.sets);
        let retainable = selected.as_ref().is_err_and(|reason| reason.retainable);
        let (candidates, not_announced, detail) = match selected {
            Ok(set) => (self.sets.ranked(&set, hashed, known), None, None),
            Err(NoCandidates { not_announced, detail, retainable: _ }) => {
                let none = known.filter(|candidates| candidates.is_empty());
                (none.cloned().unwrap_or_default(), Some(not_announced), detail)
            }
        };
        let addresses = self.addresses(shared_group, &candidates, before);
        let last = shared_group.members.iter().filter_map(|member| member.last.as_ref());
        let last = last.max_by_key(|(node, epoch)| (*epoch, node)).cloned();
        let services = || shared_group.members.iter().map(|member| &member.service.key);
        // Equal sets of candidates are stored once, so different ones need not be compared.
        let same = |before: &&Arc<Group>| {
            before.candidates.set() == candidates.set()
                && (before.hashed, before.not_announced, before.retainable)
                    == (hashed, not_announced, retainable)
                && before.last == last
                && before.addresses == addresses
                && before.candidates == candidates
                && before.services.iter().eq(services())
        };
        let group = before.filter(same).cloned().unwrap_or_else(|| {
            let services = services().cloned().collect();
            Arc::new(Group { id, hashed, addresses, services, candidates, not_announced, retainable, last })
        });
        (group, detail)
    }

    /// The addresses of a group, each with the links on which this node would announce it. If it is not a
    /// candidate, these are as before: an owner answers until its successor has claimed the group, and the
    /// reason for the handover may be a change of links.
    fn addresses(
        &mut self,
        shared_group: &SharedGroup,
        candidates: &Candidates,
        before: Option<&Arc<Group>>,
    ) -> Addresses {
        let before = before.map(|group| &group.addresses);
        let mut addresses = Vec::new();
        for member in &shared_group.members {
            let covered = member.advertisements.ok().and_then(|set| {
                let of = || scope_on(self.advertised.set(set), self.own_labels?);
                self.scopes.entry(set).or_insert_with(of).clone()
            });
            let scope = covered.unwrap_or(Scope::Named(BTreeSet::new()));
            addresses.extend(member.service.addresses.iter().map(|ip| (*ip, scope.clone())));
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

/// The last node that announced each of these Services, by its `ServiceL2Status`; the highest epoch counts.
fn last_owners<'a>(
    services: &HashSet<&ServiceKey>,
    statuses: &'a [Arc<AnnouncementInfo>],
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
