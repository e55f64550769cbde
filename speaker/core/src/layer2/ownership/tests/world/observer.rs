//! Observes which nodes announce a group, and for how long that was wrong.

use std::collections::BTreeSet;

use super::super::super::*;
use super::{World, name};

impl World {
    /// The nodes that announce a group.
    pub(in super::super) fn owners(&self, id: GroupId) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].announced.contains(&id)).collect()
    }

    pub(in super::super) fn owner(&self, id: GroupId) -> usize {
        let owners = self.owners(id);
        assert_eq!(owners.len(), 1, "owners of {id}: {owners:?}");
        owners[0]
    }

    /// For the message of a failed simulation: the log, and the state of each node.
    pub(in super::super) fn describe(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        for line in &self.log {
            let _ = writeln!(text, "{line}");
        }
        for (number, node) in self.nodes.iter().enumerate() {
            let _ = write!(text, "node{number} {}", NodeId::from_name(&name(number)).0 % 1_000);
            let Some(speaker) = &node.speaker else {
                let _ = writeln!(text, " is down");
                continue;
            };
            let _ = writeln!(text, " stalled {} stopping {}", node.stalled, node.stopping);
            for (id, state) in &speaker.groups {
                let last = speaker.view.groups.get(id).map(|group| &group.last);
                let claimed = speaker.claims_of(*id).collect::<Vec<_>>();
                let _ = writeln!(
                    text,
                    "  {id} {state:?} last {last:?} placed {:?} claimed {claimed:?}",
                    speaker.view.placed.get(id)
                );
            }
            for (id, peer) in &speaker.peers {
                let liveness = speaker.liveness(self.instant(), *id);
                let _ = writeln!(
                    text,
                    "  peer {} {liveness:?} {:?} talk {}",
                    id.0 % 1_000,
                    peer.flags,
                    speaker.beacon_peers.contains(id)
                );
            }
        }
        text
    }

    /// The longest time for which two nodes announced `id` at once.
    pub(in super::super) fn longest_overlap(&self, id: GroupId, since: Duration) -> Duration {
        let (mut held, mut begun, mut longest) = (BTreeSet::new(), None, Duration::ZERO);
        for (at, node, group, yes) in &self.history {
            if *group != id {
                continue;
            }
            if *yes {
                held.insert(*node)
            } else {
                held.remove(node)
            };
            match (held.len() > 1, begun) {
                (true, None) => begun = Some(*at),
                (false, Some(from)) => {
                    if *at > since {
                        longest = longest.max(*at - since.max(from));
                    }
                    begun = None;
                }
                _ => {}
            }
        }
        longest.max(begun.map_or(Duration::ZERO, |from| self.now - since.max(from)))
    }

    /// The longest time for which no node announced `id` after it was first announced.
    pub(in super::super) fn longest_gap(&self, id: GroupId, since: Duration) -> Duration {
        let (mut held, mut empty_from, mut longest) = (BTreeSet::new(), None, Duration::ZERO);
        for (at, node, group, yes) in &self.history {
            if *group != id {
                continue;
            }
            if *yes {
                if let Some(from) = empty_from.take()
                    && *at > since
                {
                    longest = longest.max(*at - since.max(from));
                }
                held.insert(*node);
            } else {
                held.remove(node);
                if held.is_empty() {
                    empty_from = Some(*at);
                }
            }
        }
        longest.max(empty_from.map_or(Duration::ZERO, |from| self.now - since.max(from)))
    }
}
