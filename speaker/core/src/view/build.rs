//! From facts about the objects of the API to a [`View`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use rules::Configuration;

use super::advertised::{Advertised, SetId};
use super::candidates::{self, Subnets};
use super::held::held;
use super::nominate::{Entry, Nobody, Nominator};
use super::ranking::Sets;
use super::{Addresses, Group, GroupId, NodeName, ServiceKey, Speaker, View};
use crate::beacon::NodeId;
use crate::facts::{Facts, PodFacts, StatusFacts};
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
    /// What `facts` and `configuration` say. What has not changed since the view before is taken from `previous`; so
    /// are the links of this node where no advertisement covers it any more: it may be handing the group over.
    pub fn build(
        settings: &Settings,
        facts: &Facts,
        configuration: &Configuration,
        previous: Option<&Self>,
    ) -> Self {
        let speakers = speakers(&facts.pods);
        let label_ignored =
            settings.exclude_label == ExcludeLabel::Auto && candidates::all_excluded(facts, &speakers);
        let honour = settings.exclude_label != ExcludeLabel::Ignore && !label_ignored;
        let eligible = candidates::eligible(settings, facts, &speakers, honour);
        let serving = candidates::serving(facts);
        let last = last_owners(&facts.statuses);
        let mut advertised = Advertised::new(configuration);
        let services = facts.services.iter().filter(|service| !service.addresses.is_empty());
        let entries: Vec<Entry<'_>> = services
            .map(|service| {
                let verdict = advertised.of(service, last.contains_key(&*service.key));
                Entry { service, verdict }
            })
            .collect();
        let known = previous.iter().flat_map(|view| view.groups.values());
        let mine = facts.nodes.iter().find(|node| node.name == settings.me);
        let subnets = Subnets::of(facts);
        let mut builder = Builder {
            own_labels: mine.map(|node| &node.labels),
            last,
            scopes: HashMap::new(),
            previous,
            advertised: &advertised,
            sets: Sets::of(known.map(|group| &group.candidates)),
            nominator: Nominator::new(&eligible, &serving, subnets, &advertised, settings.placement),
            idle_details: BTreeMap::new(),
        };
        let mut groups: BTreeMap<GroupId, Arc<Group>> = BTreeMap::new();
        for members in tied_together(&entries) {
            let mut members: Vec<&Entry<'_>> = members.into_iter().map(|index| &entries[index]).collect();
            members.sort_unstable_by(|a, b| a.service.key.cmp(&b.service.key));
            if let Some(group) = builder.group(&members) {
                groups.insert(group.id, group);
            }
        }
        let idle_details = builder.idle_details;
        let placement = settings.placement;
        let placed = placement.place(&groups);
        let valid = configuration.pools.values().flat_map(|pool| &pool.ranges);
        let pools: Vec<_> = valid.chain(configuration.left_out.values().flatten()).copied().collect();
        let held = held(facts, &speakers, &pools);
        let macs = macs(settings, facts, &speakers);
        let states_listed = facts.states_listed;
        Self {
            speakers,
            macs,
            groups,
            placed,
            placement,
            label_ignored,
            pools,
            idle_details,
            held,
            states_listed,
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
            let PodFacts { address, ready, generation, .. } = **pod;
            speakers.insert(pod.node.clone(), Speaker { address, ready, generation });
        }
    }
    speakers
}

/// The Services that have an address in common, directly or by way of others.
fn tied_together(entries: &[Entry<'_>]) -> Vec<Vec<usize>> {
    let mut leader: Vec<usize> = (0..entries.len()).collect();
    fn find(leader: &mut [usize], mut index: usize) -> usize {
        while leader[index] != index {
            leader[index] = leader[leader[index]];
            index = leader[index];
        }
        index
    }
    let mut first_with: HashMap<IpAddr, usize> = HashMap::new();
    for (index, entry) in entries.iter().enumerate() {
        for address in &entry.service.addresses {
            let other = *first_with.entry(*address).or_insert(index);
            let (a, b) = (find(&mut leader, index), find(&mut leader, other));
            leader[a.max(b)] = a.min(b);
        }
    }
    let mut sets: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for index in 0..entries.len() {
        sets.entry(find(&mut leader, index)).or_default().push(index);
    }
    sets.into_values().collect()
}

/// Puts groups together.
struct Builder<'a> {
    /// The labels of this node. Whether it may own a group is another question: an owner that has to hand a group over
    /// answers for it until its successor has claimed it.
    own_labels: Option<&'a BTreeMap<String, String>>,
    last: HashMap<&'a ServiceKey, (&'a NodeName, u64)>,
    /// The links of this node that a set of advertisements covers.
    scopes: HashMap<SetId, Option<Scope>>,
    previous: Option<&'a View>,
    advertised: &'a Advertised<'a>,
    sets: Sets,
    nominator: Nominator<'a>,
    idle_details: BTreeMap<GroupId, Arc<str>>,
}

impl<'a> Builder<'a> {
    /// The group of `members`, which share addresses, in order of their names.
    fn group(&mut self, members: &[&Entry<'a>]) -> Option<Arc<Group>> {
        let hashed = *members.first()?.service.addresses.first()?;
        let id = members.iter().flat_map(|entry| entry.service.addresses.iter().copied()).min()?;
        let before = self.previous.and_then(|view| view.groups.get(&id));
        let scoped: Vec<(IpAddr, Scope)> =
            members.iter().flat_map(|entry| self.scoped(entry, before)).collect();
        let addresses = Addresses::reusing(scoped, before.map(|group| &group.addresses));
        let (candidates, idle) = match self.nominator.nominate(members, &addresses, &mut self.sets) {
            Ok(set) => {
                let before = before.map(|group| &group.candidates);
                (self.sets.ranked(set, hashed, before), None)
            }
            Err(Nobody { idle, detail }) => {
                self.idle_details.extend(detail.map(|detail| (id, detail)));
                let none = before.map(|group| &group.candidates).filter(|candidates| candidates.is_empty());
                (none.cloned().unwrap_or_default(), Some(idle))
            }
        };
        let last = members
            .iter()
            .filter_map(|entry| self.last.get(&*entry.service.key))
            .max_by_key(|(node, epoch)| (*epoch, *node))
            .map(|(node, epoch)| ((*node).clone(), *epoch));
        let services = members.iter().map(|entry| Arc::clone(&entry.service.key)).collect();
        let group = Group { id, hashed, addresses, services, candidates, idle, last };
        // Equal sets of candidates are held once, so there is no need to compare those that are not the same.
        let same =
            |before: &&Arc<Group>| before.candidates.set() == group.candidates.set() && ***before == group;
        Some(before.filter(same).cloned().unwrap_or_else(|| Arc::new(group)))
    }

    /// The addresses of a Service, each with the links that this node would announce it on. Where the advertisements do not
    /// cover this node any more, it is as before: until its successor has claimed the group, an owner answers.
    fn scoped(&mut self, entry: &Entry<'_>, before: Option<&Arc<Group>>) -> Vec<(IpAddr, Scope)> {
        let covered = entry.verdict.ok().and_then(|set| {
            let of = || candidates::scope_on(self.advertised.set(set), self.own_labels?);
            self.scopes.entry(set).or_insert_with(of).clone()
        });
        let uncovered = |ip: IpAddr| {
            let known = before.and_then(|group| group.addresses.get(ip)).cloned();
            known.unwrap_or(Scope::Named(BTreeSet::new()))
        };
        let scope = |ip: IpAddr| covered.clone().unwrap_or_else(|| uncovered(ip));
        entry.service.addresses.iter().map(|ip| (*ip, scope(*ip))).collect()
    }
}

/// Who announced each Service last, by its `ServiceL2Status`; of several the highest epoch counts.
fn last_owners(statuses: &[Arc<StatusFacts>]) -> HashMap<&ServiceKey, (&NodeName, u64)> {
    let mut last: HashMap<&ServiceKey, (&NodeName, u64)> = HashMap::new();
    for status in statuses {
        let owner = (&status.node, status.epoch);
        let known = last.entry(&status.service).or_insert(owner);
        if (owner.1, owner.0) > (known.1, known.0) {
            *known = owner;
        }
    }
    last
}
