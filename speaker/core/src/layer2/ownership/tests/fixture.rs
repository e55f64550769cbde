//! Common fixtures: nodes, groups with one address each, views of them, and the settings of a speaker.

use super::super::*;
use super::world::{INTERVAL, address, mac, name};
use crate::cluster::Speaker;
use crate::cluster::link::Scope;
use crate::layer2::placement::Placement;
use crate::layer2::view::{Candidate, Candidates, Group, Tier};

/// The last owner of a group, and its epoch.
pub(super) type Last = Option<(usize, u64)>;

pub(super) fn id(node: usize) -> NodeId {
    NodeId::from_name(&name(node))
}

/// This number of groups.
pub(super) fn many(count: u32, last: Last) -> Vec<(GroupId, Last)> {
    (0..count).map(|n| (IpAddr::V4((0x0a01_0000 + n).into()), last)).collect()
}

pub(super) fn settings(node: usize, detection: Detection, session: u64) -> OwnershipSettings {
    OwnershipSettings { me: name(node), interval: INTERVAL, detect_multiplier: 3, detection, session }
}

/// Candidates of one tier.
pub(super) fn equal_candidates(nodes: impl IntoIterator<Item = usize>) -> Vec<Candidate> {
    nodes.into_iter().map(|node| Candidate::new(name(node), Tier::default())).collect()
}

/// A group with one address.
pub(super) fn single(id: GroupId, candidates: Vec<Candidate>, last: Last) -> Group {
    Group {
        id,
        hashed: id,
        addresses: [(id, Scope::All)].into(),
        services: Box::default(),
        candidates: Candidates::ranked(id, candidates),
        not_announced: None,
        retainable: false,
        last: last.map(|(node, epoch)| (name(node), epoch)),
    }
}

pub(super) fn speaker(node: usize, ready: bool, generation: u64) -> (NodeName, Speaker) {
    (name(node), Speaker { address: Some(address(node)), ready, running: true, generation })
}

/// A view with `nodes`, of which those in `ready` are candidates for all `groups`.
pub(super) fn view(
    nodes: &[usize],
    ready: &[usize],
    groups: &[(GroupId, Last)],
    placement: Placement,
) -> View {
    let candidates = equal_candidates(ready.iter().copied());
    let make = |(id, last): &(GroupId, Last)| (*id, Arc::new(single(*id, candidates.clone(), *last)));
    let groups: BTreeMap<GroupId, Arc<Group>> = groups.iter().map(make).collect();
    View {
        macs: nodes.iter().map(|node| (mac(*node), id(*node))).collect(),
        speakers: nodes.iter().map(|node| speaker(*node, ready.contains(node), 1)).collect(),
        placed: placement.place(&groups),
        groups,
        placement,
        ..View::default()
    }
}
