//! Which candidate takes a group without an owner.
//!
//! `Hash` is exactly MetalLB's function: the candidate with the lowest SHA-256 of `node#address`. `Balanced`
//! is the same with bounded loads: no node gets more than its share while others have less. Both are pure
//! functions of all groups with their candidates, so speakers with the same view agree without communication.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ring::digest;

use crate::cluster::NodeId;
use crate::cluster::{GroupId, NodeName};
use crate::layer2::view::{CHOICES, Candidate, Group};

/// How groups are spread over nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Rendezvous hashing with bounded loads; the owner of a group keeps it.
    #[default]
    Balanced,
    /// MetalLB's function; a group moves whenever the candidates change.
    Hash,
}

/// A node's rank for an address, lowest first: SHA-256 of `node#address`.
pub fn rendezvous(address: IpAddr, node: &str) -> [u8; 32] {
    Rendezvous::new(address).hash(node)
}

/// [`rendezvous`] for one address and many nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rendezvous {
    address: Option<IpAddr>,
    /// `#address`.
    suffix: Arc<str>,
}

impl Rendezvous {
    pub(crate) fn new(address: IpAddr) -> Self {
        Self { address: Some(address), suffix: format!("#{address}").into() }
    }

    pub(crate) fn is_for(&self, address: IpAddr) -> bool {
        self.address == Some(address)
    }

    pub(crate) fn hash(&self, node: &str) -> [u8; 32] {
        #[cfg(test)]
        HASHED.with(|count| count.set(count.get() + 1));
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(node.as_bytes());
        context.update(self.suffix.as_bytes());
        let mut rank = [0; 32];
        rank.copy_from_slice(context.finish().as_ref());
        rank
    }
}

#[cfg(test)]
thread_local! {
    static HASHED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// How many hashes this thread has computed.
#[cfg(test)]
pub(crate) fn hashed() -> u64 {
    HASHED.with(std::cell::Cell::get)
}

impl Placement {
    /// The node that each group would go to if no group had an owner.
    pub fn place(self, groups: &BTreeMap<GroupId, Arc<Group>>) -> BTreeMap<GroupId, NodeName> {
        match self {
            Self::Hash => {
                let best = |group: &Group| Some(group.candidates.first()?.node.clone());
                groups.iter().filter_map(|(id, group)| Some((*id, best(group)?))).collect()
            }
            Self::Balanced => balanced(groups),
        }
    }
}

/// Assigns groups in the order of their ids, each to the best of its first [`CHOICES`] candidates that has
/// fewer than its share, or, if all have it, to the one with the fewest. A lower tier gets a group only if no
/// candidate is in a higher one: user preferences take precedence over an even spread.
fn balanced(groups: &BTreeMap<GroupId, Arc<Group>>) -> BTreeMap<GroupId, NodeName> {
    let placeable = groups.values().filter(|group| !group.candidates.is_empty()).count();
    let mut seen = HashSet::new();
    let different = groups.values().filter(|group| seen.insert(group.candidates.set()));
    let nodes: HashSet<NodeId> = different.flat_map(|group| group.candidates.ids()).collect();
    let share = placeable.div_ceil(nodes.len().max(1));
    let mut held: HashMap<NodeId, usize> = HashMap::with_capacity(nodes.len());
    let mut placed = BTreeMap::new();
    for (id, group) in groups {
        let Some(best) = group.candidates.first() else { continue };
        let tier = group.candidates.iter().take(CHOICES).take_while(|candidate| candidate.tier == best.tier);
        let load = |candidate: &&Candidate| held.get(&candidate.id).copied().unwrap_or(0);
        let chosen = tier
            .clone()
            .find(|candidate| load(candidate) < share)
            .or_else(|| tier.min_by_key(load))
            .unwrap_or(best);
        *held.entry(chosen.id).or_default() += 1;
        placed.insert(*id, chosen.node.clone());
    }
    placed
}

#[cfg(test)]
mod tests;
