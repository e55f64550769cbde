//! From facts about the objects of the API to a [`View`].

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use rules::{Configuration, L2Advertisement};

use super::candidates::{self, Eligible, Serving};
use super::held::held;
use super::ranking::Shared;
use super::{
    Addresses, Candidate, Candidates, Group, GroupId, Idle, NodeName, ServiceKey, Speaker, Tier, View,
};
use crate::beacon::NodeId;
use crate::facts::{Facts, PodFacts, ServiceFacts, StatusFacts};
use crate::link::Scope;
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
    /// Honoured, except where every node carries it, as in a cluster of one, and from then on until a node without it
    /// could announce.
    #[default]
    Auto,
    /// Honoured always.
    Honour,
    /// Ignored.
    Ignore,
}

/// A Service, and what is decided about it alone.
struct Entry<'a> {
    service: &'a ServiceFacts,
    verdict: Result<Vec<Arc<L2Advertisement>>, Idle>,
}

impl View {
    /// What `facts` and `configuration` say. `previous` is the view before: where an address has lost its
    /// pool, the advertisements that held for it go on to hold as long as it stands in the Service's status.
    pub fn build(
        settings: &Settings,
        facts: &Facts,
        configuration: &Configuration,
        previous: Option<&Self>,
    ) -> Self {
        let speakers = speakers(&facts.pods);
        let macs =
            facts.links.iter().filter(|(node, _)| speakers.contains_key(*node)).flat_map(|(node, links)| {
                let id = NodeId::of(node);
                links.iter().map(move |link| (link.mac, id))
            });
        let macs = macs.collect();
        let honoured = candidates::eligible(facts, &speakers, true);
        // A node that joins has not got the label yet, and nobody could announce until its speaker is ready: up to then
        // nothing changes.
        let goes_on = previous.is_some_and(|view| view.label_ignored) && honoured.is_empty();
        let label_ignored = settings.exclude_label == ExcludeLabel::Auto
            && (goes_on || candidates::all_excluded(&facts.nodes));
        let honour = settings.exclude_label != ExcludeLabel::Ignore && !label_ignored;
        let eligible = if honour { honoured } else { candidates::eligible(facts, &speakers, false) };
        let serving = candidates::serving(&facts.slices);
        let last = last_owners(&facts.statuses);
        let advertisements: Vec<Arc<L2Advertisement>> =
            configuration.l2_advertisements.iter().cloned().map(Arc::new).collect();
        let entries: Vec<Entry<'_>> = facts
            .services
            .iter()
            .filter_map(|service| entry(service, configuration, &advertisements, previous))
            .collect();
        let known = previous.iter().flat_map(|view| view.groups.values());
        let mut shared = Shared::of(known.map(|group| &group.candidates));
        let mut groups: BTreeMap<GroupId, Arc<Group>> = BTreeMap::new();
        for members in tied_together(&entries) {
            let members: Vec<&Entry<'_>> = members.into_iter().map(|index| &entries[index]).collect();
            if let Some(group) = group(settings, &members, &eligible, &serving, &last, previous, &mut shared)
            {
                groups.insert(group.id, group);
            }
        }
        let advertised = entries
            .into_iter()
            .filter_map(|entry| Some((Arc::clone(&entry.service.key), entry.verdict.ok()?)))
            .collect();
        let placed = settings.placement.place(&groups);
        let pools: Vec<_> =
            configuration.pools.values().flat_map(|pool| pool.ranges.iter().copied()).collect();
        let held = held(facts, &speakers, &pools);
        let placement = settings.placement;
        Self { speakers, macs, groups, placed, placement, label_ignored, pools, held, advertised }
    }
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

/// Finds the advertisements about a Service.
fn entry<'a>(
    service: &'a ServiceFacts,
    configuration: &Configuration,
    advertisements: &[Arc<L2Advertisement>],
    previous: Option<&View>,
) -> Option<Entry<'a>> {
    let verdict = match configuration.pool_of(*service.addresses.first()?) {
        Some(pool) => matching(service, &pool.name, advertisements),
        None => previous.and_then(|view| view.advertised.get(&service.key)).cloned().ok_or(Idle::NoPool),
    };
    Some(Entry { service, verdict })
}

/// The advertisements of the pool that are about the Service.
fn matching(
    service: &ServiceFacts,
    pool: &str,
    advertisements: &[Arc<L2Advertisement>],
) -> Result<Vec<Arc<L2Advertisement>>, Idle> {
    let labels = LazyCell::new(|| {
        let owned = |(key, value): &(Box<str>, Box<str>)| (key.to_string(), value.to_string());
        service.labels.iter().map(owned).collect::<BTreeMap<String, String>>()
    });
    // Most advertisements select no Services, and then nobody needs the labels.
    let selected = |a: &L2Advertisement| a.service_selectors.is_empty() || a.admits_service(&labels);
    let about = |a: &&Arc<L2Advertisement>| a.pools.contains(pool) && selected(a);
    let matching: Vec<Arc<L2Advertisement>> = advertisements.iter().filter(about).cloned().collect();
    if matching.is_empty() {
        Err(Idle::NotAdvertised)
    } else if service.shared && matching.iter().any(|a| !a.service_selectors.is_empty()) {
        Err(Idle::SharedWithServiceSelector)
    } else {
        Ok(matching)
    }
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

/// Puts a group together. `members` share addresses.
fn group(
    settings: &Settings,
    members: &[&Entry<'_>],
    eligible: &[Eligible<'_>],
    serving: &BTreeMap<&ServiceKey, Serving<'_>>,
    last: &HashMap<&ServiceKey, (&NodeName, u64)>,
    previous: Option<&View>,
    shared: &mut Shared,
) -> Option<Arc<Group>> {
    let mut services: Vec<Arc<ServiceKey>> =
        members.iter().map(|entry| Arc::clone(&entry.service.key)).collect();
    services.sort_unstable();
    let first = members.iter().map(|entry| entry.service).min_by_key(|service| &service.key)?;
    let hashed = *first.addresses.first()?;
    let mine = eligible.iter().find(|node| node.name == settings.me);
    let scoped = |entry: &Entry<'_>| {
        let scope =
            entry.verdict.as_ref().ok().zip(mine).and_then(|(a, me)| candidates::scope_on(a, me.labels));
        let scope = scope.unwrap_or(Scope::Named(BTreeSet::new()));
        entry.service.addresses.iter().map(move |address| (*address, scope.clone())).collect::<Vec<_>>()
    };
    let addresses: Addresses = members.iter().flat_map(|entry| scoped(entry)).collect();
    let id = addresses.keys().next()?;
    let (candidates, idle) = match nominate(members, eligible, serving) {
        Ok(nodes) => (candidates_of(&nodes, members, &addresses, settings.placement), None),
        Err(idle) => (Vec::new(), Some(idle)),
    };
    let last = members
        .iter()
        .filter_map(|entry| last.get(&*entry.service.key))
        .max_by_key(|(node, epoch)| (*epoch, *node))
        .map(|(node, epoch)| ((*node).clone(), *epoch));
    let before = previous.and_then(|view| view.groups.get(&id));
    let same_address = before.filter(|before| before.hashed == hashed).map(|before| &before.candidates);
    let candidates = Candidates::ranked_anew(hashed, candidates, same_address, shared);
    let group = Group { id, hashed, addresses, services: services.into(), candidates, idle, last };
    Some(match before {
        Some(before) if **before == group => Arc::clone(before),
        _ => Arc::new(group),
    })
}

/// The nodes that may announce all of `members` that have endpoints, in order of their names.
fn nominate<'a, 'b>(
    members: &[&Entry<'_>],
    eligible: &'a [Eligible<'b>],
    serving: &BTreeMap<&ServiceKey, Serving<'_>>,
) -> Result<Vec<&'a Eligible<'b>>, Idle> {
    let none = Serving::default();
    let mut common: Option<Vec<&Eligible<'b>>> = None;
    let mut refused = None;
    for entry in members {
        let serving = serving.get(&*entry.service.key).unwrap_or(&none);
        let advertisements = match &entry.verdict {
            Ok(advertisements) => advertisements,
            // Shared addresses stand and fall together: a Service that must not be announced holds the others.
            Err(Idle::SharedWithServiceSelector) => return Err(Idle::SharedWithServiceSelector),
            Err(idle) => {
                refused = Some(*idle);
                continue;
            }
        };
        if !serving.anywhere {
            continue;
        }
        let fits = |node: &Eligible<'_>| {
            candidates::scope_on(advertisements, node.labels).is_some_and(|scope| node.has_link_of(&scope))
                && (!entry.service.local || serving.nodes.contains(&*node.name))
        };
        let alone: Vec<&Eligible<'b>> = eligible.iter().filter(|node| fits(node)).collect();
        if alone.is_empty() {
            return Err(Idle::NoCandidate);
        }
        common = Some(match common {
            None => alone,
            Some(mut common) => {
                common.retain(|node| alone.iter().any(|other| other.name == node.name));
                common
            }
        });
    }
    match common {
        Some(common) if common.is_empty() => Err(Idle::NoCommonCandidate),
        Some(common) => Ok(common),
        None => Err(refused.unwrap_or(Idle::NoEndpoints)),
    }
}

fn candidates_of(
    nodes: &[&Eligible<'_>],
    members: &[&Entry<'_>],
    addresses: &Addresses,
    placement: Placement,
) -> Vec<Candidate> {
    let preference = |node: &Eligible<'_>| {
        let all = members.iter().filter_map(|entry| entry.verdict.as_ref().ok());
        -all.map(|advertisements| candidates::preference(advertisements, node.labels)).sum::<i64>()
    };
    // As long as somebody has not told of its links, nobody is put behind for his own: all would differ.
    let all_told = nodes.iter().all(|node| node.links.is_some());
    let tier = |node: &Eligible<'_>| match placement {
        Placement::Hash => Tier { preference: preference(node), ..Tier::default() },
        Placement::Balanced => Tier {
            cordoned: node.cordoned,
            remote: all_told && !node.reaches(addresses),
            preference: preference(node),
        },
    };
    nodes.iter().map(|node| Candidate { node: node.name.clone(), id: node.id, tier: tier(node) }).collect()
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
