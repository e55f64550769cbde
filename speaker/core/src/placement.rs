//! Which candidate a group without an owner goes to.
//!
//! `Hash` is MetalLB's own function and nothing else: the candidate whose SHA-256 of `node#address` is lowest.
//! `Balanced` is the same with bounded loads: no node gets more than its share while others have less. Both are
//! pure functions of all groups with their candidates, so speakers that see the same agree without talking.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ring::digest;

use crate::view::{Candidate, Group, GroupId, NodeName};

/// How groups are spread over nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Rendezvous hashing with bounded loads; who owns a group keeps it.
    #[default]
    Balanced,
    /// MetalLB's function; a group follows it whenever the candidates change.
    Hash,
}

/// A node's place in the order of an address, lowest first: SHA-256 of `node#address`.
pub fn rendezvous(address: IpAddr, node: &str) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(node.as_bytes());
    context.update(b"#");
    context.update(address.to_string().as_bytes());
    let mut rank = [0; 32];
    rank.copy_from_slice(context.finish().as_ref());
    rank
}

impl Placement {
    /// The node that each group would go to if nobody owned any.
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

/// Groups in order of id, each to its best candidate that holds fewer than its share, or, where all hold that,
/// to the one that holds fewest. A lower tier gets a group only if there is nobody in a higher one: what the
/// user prefers comes before an even spread.
fn balanced(groups: &BTreeMap<GroupId, Arc<Group>>) -> BTreeMap<GroupId, NodeName> {
    let placeable = groups.values().filter(|group| !group.candidates.is_empty()).count();
    let nodes: BTreeSet<&NodeName> =
        groups.values().flat_map(|group| group.candidates.iter().map(|c| &c.node)).collect();
    let share = placeable.div_ceil(nodes.len().max(1));
    let mut held: BTreeMap<NodeName, usize> = BTreeMap::new();
    let mut placed = BTreeMap::new();
    for (id, group) in groups {
        let Some(best) = group.candidates.first() else { continue };
        let tier = group.candidates.iter().take_while(|candidate| candidate.tier == best.tier);
        let load = |candidate: &&Candidate| held.get(&candidate.node).copied().unwrap_or(0);
        let chosen = tier
            .clone()
            .find(|candidate| load(candidate) < share)
            .or_else(|| tier.min_by_key(load))
            .unwrap_or(best);
        *held.entry(chosen.node.clone()).or_default() += 1;
        placed.insert(*id, chosen.node.clone());
    }
    placed
}

#[cfg(test)]
mod tests;
