//! The API: its content, and the view of a speaker.

use super::super::super::*;
use super::super::fixture::{single, speaker};
use super::{mac, name};
use crate::layer2::placement::Placement;
use crate::layer2::view::{Candidate, Group, NodeAddress, Tier};

/// The content of the API; each part reaches each node at a different time.
#[derive(Clone, Debug, Default)]
pub(super) struct Api {
    pub(super) ready: BTreeMap<usize, u64>,
    /// Pods that exist and are not ready yet.
    pub(super) starting: BTreeSet<usize>,
    pub(super) excluded: BTreeSet<usize>,
    /// Nodes whose interfaces are known.
    pub(super) shown: BTreeSet<usize>,
    /// Nodes without a link on the groups' subnet.
    pub(super) remote: BTreeSet<usize>,
    /// The node with this view has no carrier.
    pub(super) unplugged: Option<usize>,
    pub(super) groups: BTreeSet<GroupId>,
    pub(super) last: BTreeMap<GroupId, (usize, u64)>,
    /// The node that advertisements prefer.
    pub(super) preferred: Option<usize>,
    /// Addresses that nodes have.
    pub(super) held: BTreeMap<GroupId, usize>,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Ready(usize, Option<u64>),
    Excluded(usize, bool),
    Group(GroupId, bool),
    Last(GroupId, usize, u64),
    Shown(usize),
    Preferred(usize),
    Held(GroupId, Option<usize>),
}

fn holder(node: usize) -> NodeAddress {
    NodeAddress { node: name(node), interface: Some("eth0".into()), mac: Some(mac(node)) }
}

impl Api {
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Ready(node, Some(generation)) => {
                self.starting.remove(node);
                self.ready.insert(*node, *generation);
            }
            Change::Ready(node, None) => drop(self.ready.remove(node)),
            Change::Held(address, Some(node)) => drop(self.held.insert(*address, *node)),
            Change::Held(address, None) => drop(self.held.remove(address)),
            Change::Shown(node) => drop(self.shown.insert(*node)),
            Change::Preferred(node) => self.preferred = Some(*node),
            Change::Excluded(node, true) => drop(self.excluded.insert(*node)),
            Change::Excluded(node, false) => drop(self.excluded.remove(node)),
            Change::Group(group, true) => drop(self.groups.insert(*group)),
            Change::Group(group, false) => {
                self.groups.remove(group);
                self.last.remove(group);
            }
            Change::Last(group, node, epoch) => {
                if self.last.get(group).is_none_or(|(_, known)| known < epoch) {
                    self.last.insert(*group, (*node, *epoch));
                }
            }
        }
    }

    pub(super) fn view(&self, placement: Placement) -> View {
        let starting = self.starting.iter().filter(|node| !self.ready.contains_key(node));
        let starting = starting.map(|node| speaker(*node, false, 1));
        let candidates: Vec<Candidate> = self
            .ready
            .keys()
            .filter(|node| !self.excluded.contains(node) && self.unplugged != Some(**node))
            .map(|node| {
                let preference = if self.preferred == Some(*node) { -100 } else { 0 };
                (node, Tier { remote: self.remote.contains(node), preference, ..Tier::default() })
            })
            .map(|(node, tier)| Candidate::new(name(*node), tier))
            .collect();
        let group =
            |id: &GroupId| (*id, Arc::new(single(*id, candidates.clone(), self.last.get(id).copied())));
        let groups: BTreeMap<GroupId, Arc<Group>> = self.groups.iter().map(group).collect();
        let placed = placement.place(&groups);
        View {
            macs: self
                .shown
                .iter()
                .filter(|node| self.ready.contains_key(*node) || self.starting.contains(*node))
                .map(|node| (mac(*node), NodeId::from_name(&name(*node))))
                .collect(),
            speakers: self.ready.iter().map(|(node, g)| speaker(*node, true, *g)).chain(starting).collect(),
            groups,
            placed,
            placement,
            node_addresses: self.held.iter().map(|(address, node)| (*address, holder(*node))).collect(),
            ..View::default()
        }
    }
}
