//! The candidates of a group, best first.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use super::Candidate;
use crate::cluster::NodeId;
use crate::layer2::placement::Rendezvous;

/// The placement chooses among this number of a group's best candidates.
pub(crate) const CHOICES: usize = 16;
/// How many of the best are kept sorted. When nodes go, the next ones are known until fewer than [`CHOICES`]
/// are left.
const KEPT: usize = 24;

/// The candidates of one group. Nearly all groups have the same ones, each in a different order, so the set
/// is shared and only the best are kept sorted: the others are ranked on demand.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    rendezvous: Rendezvous,
    set: Arc<CandidateSet>,
    /// The best candidates, in order.
    best: Box<[Ranked]>,
}

/// Candidates sorted by name.
#[derive(Debug, Default)]
pub(super) struct CandidateSet {
    nodes: Box<[Candidate]>,
    /// The index in `nodes` of each, sorted by id.
    by_id: Box<[(NodeId, u16)]>,
}

/// An index in [`CandidateSet::nodes`], and the first bits of the node's hash.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    hash: u64,
    place: u16,
}

impl CandidateSet {
    /// Kubernetes supports 5 000 nodes; those beyond 65 536 are ignored.
    fn new(mut nodes: Vec<Candidate>) -> Self {
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        nodes.truncate(usize::from(u16::MAX) + 1);
        let mut by_id: Box<[(NodeId, u16)]> = nodes.iter().map(|c| c.id).zip(0..=u16::MAX).collect();
        by_id.sort_unstable();
        Self { nodes: nodes.into(), by_id }
    }

    fn get(&self, place: u16) -> Option<&Candidate> {
        self.nodes.get(usize::from(place))
    }

    fn place(&self, node: &str) -> Option<u16> {
        let place = self.nodes.binary_search_by(|candidate: &Candidate| (*candidate.node).cmp(node)).ok()?;
        u16::try_from(place).ok()
    }
}

impl Candidates {
    /// Ranks candidates for an address: by tier, then by
    /// [`placement::rendezvous`](crate::layer2::placement::rendezvous).
    pub fn ranked(address: IpAddr, nodes: Vec<Candidate>) -> Self {
        Self::rank(Rendezvous::new(address), Arc::new(CandidateSet::new(nodes)))
    }

    fn rank(rendezvous: Rendezvous, set: Arc<CandidateSet>) -> Self {
        let mut candidates = Self { rendezvous, set, best: Box::default() };
        candidates.best = candidates.first_in_order(KEPT).into();
        candidates
    }

    fn first_in_order(&self, count: usize) -> Vec<Ranked> {
        let ranked = |(candidate, place): (&Candidate, u16)| self.ranked_at(candidate, place);
        let mut all: Vec<Ranked> = self.set.nodes.iter().zip(0..=u16::MAX).map(ranked).collect();
        if all.len() > count {
            all.select_nth_unstable_by(count, |a, b| self.compare(a, b));
            all.truncate(count);
        }
        all.sort_unstable_by(|a, b| self.compare(a, b));
        all
    }

    fn ranked_at(&self, candidate: &Candidate, place: u16) -> Ranked {
        let [a, b, c, d, e, f, g, h, ..] = self.rendezvous.hash(&candidate.node);
        Ranked { hash: u64::from_be_bytes([a, b, c, d, e, f, g, h]), place }
    }

    fn compare(&self, a: &Ranked, b: &Ranked) -> Ordering {
        let tier = |ranked: &Ranked| self.set.get(ranked.place).map(|candidate| candidate.tier);
        let whole = |ranked: &Ranked| self.set.get(ranked.place).map(|c| self.rendezvous.hash(&c.node));
        let order = tier(a).cmp(&tier(b)).then(a.hash.cmp(&b.hash));
        if order.is_eq() && a.place != b.place { whole(a).cmp(&whole(b)) } else { order }
    }

    /// All candidates, best first.
    pub fn iter(&self) -> Iter<'_> {
        Iter { candidates: self, next: 0, all: None }
    }

    /// The best candidate.
    pub fn first(&self) -> Option<&Candidate> {
        self.iter().next()
    }

    /// The number of candidates.
    pub fn len(&self) -> usize {
        self.set.nodes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.set.nodes.is_empty()
    }

    /// Whether `node` is a candidate.
    pub fn contains(&self, node: &str) -> bool {
        self.set.place(node).is_some()
    }

    /// The id of `node`, if it is a candidate. Cheaper than computing it from the name.
    pub fn id_of(&self, node: &str) -> Option<NodeId> {
        self.set.get(self.set.place(node)?).map(|candidate| candidate.id)
    }

    /// The candidate with this id.
    pub fn get(&self, id: NodeId) -> Option<&Candidate> {
        let at = self.set.by_id.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.set.get(self.set.by_id.get(at)?.1)
    }

    /// The candidate with the least `key` among these ids; of several, the first in order. The cost depends
    /// on the number of ids, not of candidates.
    pub fn first_by<K: Ord>(
        &self,
        ids: impl IntoIterator<Item = NodeId>,
        key: impl Fn(&Candidate) -> K,
    ) -> Option<&Candidate> {
        let mut best: Option<(K, Vec<&Candidate>)> = None;
        for candidate in ids.into_iter().filter_map(|id| self.get(id)) {
            let key = key(candidate);
            match &mut best {
                Some((least, equals)) if *least == key => equals.push(candidate),
                Some((least, _)) if *least < key => {}
                _ => best = Some((key, vec![candidate])),
            }
        }
        let (_, equals) = best?;
        match equals[..] {
            [only] => Some(only),
            _ => equals.into_iter().min_by_key(|c| (c.tier, self.rendezvous.hash(&c.node))),
        }
    }

    /// Identifies the set of candidates; equal for groups that share one.
    pub(crate) fn set(&self) -> *const () {
        Arc::as_ptr(&self.set).cast()
    }

    /// The ids of all candidates, in no particular order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.set.by_id.iter().map(|(id, _)| *id)
    }
}

/// The order follows from the address and the candidates.
impl PartialEq for Candidates {
    fn eq(&self, other: &Self) -> bool {
        let same = Arc::ptr_eq(&self.set, &other.set) || self.set.nodes == other.set.nodes;
        same && (self.is_empty() || self.rendezvous == other.rendezvous)
    }
}

impl Eq for Candidates {}

/// Candidates, best first. Those that are not kept sorted are ranked when the first of them is requested.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    candidates: &'a Candidates,
    next: usize,
    all: Option<Vec<Ranked>>,
}

impl<'a> IntoIterator for &'a Candidates {
    type Item = &'a Candidate;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a Candidate;

    fn next(&mut self) -> Option<Self::Item> {
        let Candidates { set, best, .. } = self.candidates;
        let ranked = match best.get(self.next) {
            Some(ranked) => ranked,
            None if best.len() == set.nodes.len() => return None,
            None => {
                let all = self.all.get_or_insert_with(|| self.candidates.first_in_order(set.nodes.len()));
                all.get(self.next)?
            }
        };
        self.next += 1;
        set.get(ranked.place)
    }
}

/// The distinct sets of candidates of all groups.
#[derive(Debug, Default)]
pub(super) struct CandidateSets {
    known: HashSet<ByNodes>,
    /// Transitions from one set to another, by their addresses in memory, since the last
    /// [`Self::remove_unused`].
    transitions: HashMap<[usize; 2], Arc<Transition>>,
}

#[derive(Debug)]
struct ByNodes(Arc<CandidateSet>);

impl PartialEq for ByNodes {
    fn eq(&self, other: &Self) -> bool {
        self.0.nodes == other.0.nodes
    }
}

impl Eq for ByNodes {}

impl Hash for ByNodes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.nodes.hash(state);
    }
}

/// What became of the candidates of one set in another.
#[derive(Debug)]
struct Transition {
    /// The new index of those that are in both in the same tier, by their former index.
    stayed: Vec<Option<u16>>,
    /// The index of those that are new, or in another tier.
    added: Vec<u16>,
}

impl Transition {
    fn between(old: &CandidateSet, new: &CandidateSet) -> Self {
        let same = |candidate: &Candidate| {
            let place = new.place(&candidate.node)?;
            (new.get(place)? == candidate).then_some(place)
        };
        let stayed: Vec<Option<u16>> = old.nodes.iter().map(same).collect();
        let places: HashSet<u16> = stayed.iter().flatten().copied().collect();
        let added = (0..=u16::MAX).take(new.nodes.len()).filter(|place| !places.contains(place)).collect();
        Self { stayed, added }
    }
}

impl CandidateSets {
    /// The sets of these groups.
    pub(super) fn from_candidates<'a>(groups: impl Iterator<Item = &'a Candidates>) -> Self {
        let mut seen = HashSet::new();
        let first = |candidates: &&Candidates| seen.insert(candidates.set());
        let known = groups.filter(first).map(|candidates| ByNodes(Arc::clone(&candidates.set))).collect();
        Self { known, ..Self::default() }
    }

    /// The set of `nodes`.
    pub(super) fn of_nodes(&mut self, nodes: Vec<Candidate>) -> Arc<CandidateSet> {
        let set = ByNodes(Arc::new(CandidateSet::new(nodes)));
        if let Some(known) = self.known.get(&set) {
            return Arc::clone(&known.0);
        }
        let new = Arc::clone(&set.0);
        self.known.insert(set);
        new
    }

    /// Drops the sets that are not used elsewhere. Others must not be dropped between this and the next use.
    pub(super) fn remove_unused(&mut self) {
        self.transitions.clear();
        self.known.retain(|set| Arc::strong_count(&set.0) > 1);
    }

    /// The candidates of a set ranked for an address. Reuses `before` if those are candidates for the same
    /// address: hashing each address with each node is the largest cost in a large cluster.
    pub(super) fn ranked(
        &mut self,
        set: &Arc<CandidateSet>,
        address: IpAddr,
        before: Option<&Candidates>,
    ) -> Candidates {
        let set = Arc::clone(set);
        let Some(before) = before.filter(|before| before.rendezvous.is_for(address)) else {
            return Candidates::rank(Rendezvous::new(address), set);
        };
        if Arc::ptr_eq(&before.set, &set) {
            return before.clone();
        }
        let key = [&before.set, &set].map(|set| Arc::as_ptr(set).addr());
        let transition = self.transitions.entry(key);
        let transition = transition.or_insert_with(|| Arc::new(Transition::between(&before.set, &set)));
        rerank(before, set, transition)
    }
}

/// The best of `before` that are still there, and those new ones that precede the last of these, are the best
/// of all.
fn rerank(before: &Candidates, set: Arc<CandidateSet>, transition: &Transition) -> Candidates {
    let complete = before.best.len() == before.set.nodes.len();
    let rendezvous = before.rendezvous.clone();
    if transition.added.len() > set.nodes.len() / 2 && !complete {
        return Candidates::rank(rendezvous, set);
    }
    let stayed = |ranked: &Ranked| {
        let place = transition.stayed.get(usize::from(ranked.place)).copied().flatten()?;
        Some(Ranked { place, ..*ranked })
    };
    let mut best: Vec<Ranked> = before.best.iter().filter_map(stayed).collect();
    let mut candidates = Candidates { rendezvous, set, best: Box::default() };
    let last = best.last().copied();
    for place in &transition.added {
        let Some(candidate) = candidates.set.get(*place) else { continue };
        let ranked = candidates.ranked_at(candidate, *place);
        if complete || last.is_some_and(|last| candidates.compare(&ranked, &last).is_lt()) {
            let at = best.partition_point(|other| candidates.compare(other, &ranked).is_lt());
            best.insert(at, ranked);
        }
    }
    if best.len() < CHOICES.min(candidates.set.nodes.len()) {
        return Candidates::rank(candidates.rendezvous, candidates.set);
    }
    best.truncate(KEPT);
    candidates.best = best.into();
    candidates
}

#[cfg(test)]
mod tests;
