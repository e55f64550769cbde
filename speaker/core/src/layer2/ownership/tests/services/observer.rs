//! Observes which nodes answer for an address, and for how long that was wrong.

use super::super::super::*;
use super::model::Model;

/// The observations of one address.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) ever: bool,
    two: Duration,
    pub(super) longest_two: Duration,
    none: Duration,
    pub(super) longest_none: Duration,
}

impl Model {
    /// Records how long addresses are announced by two nodes, or by none after they were first announced.
    pub(super) fn observe(&mut self, until: Duration) {
        let time = until - self.now;
        if time.is_zero() {
            return;
        }
        let mut owners: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for node in 0..self.nodes.len() {
            for address in self.answered_by(node) {
                *owners.entry(address).or_default() += 1;
            }
        }
        for address in self.api.services.values().flatten() {
            let count = owners.get(address).copied().unwrap_or(0);
            let seen = self.seen.entry(*address).or_default();
            seen.ever |= count > 0;
            seen.two = if count > 1 { seen.two + time } else { Duration::ZERO };
            seen.none = if count == 0 && seen.ever { seen.none + time } else { Duration::ZERO };
            seen.longest_two = seen.longest_two.max(seen.two);
            seen.longest_none = seen.longest_none.max(seen.none);
        }
    }

    /// Discards all observations, except what is announced now.
    pub(super) fn watch_anew(&mut self) {
        self.seen.clear();
        self.pass(Duration::from_millis(1));
        let all = self.seen.values().all(|seen| seen.ever);
        assert!(all, "not every address is announced yet\n{}", self.describe());
    }

    pub(super) fn owners(&self, address: IpAddr) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.answered_by(*node).contains(&address)).collect()
    }

    /// For the message of a failed simulation.
    pub(super) fn describe(&self) -> String {
        use std::fmt::Write as _;
        let mut text = self.log.join("\n");
        for (number, node) in self.nodes.iter().enumerate() {
            let Some(speaker) = &node.speaker else {
                let _ = writeln!(text, "\nnode{number} is down");
                continue;
            };
            let (owned, added) = (speaker.owned(), speaker.unverified());
            let _ = writeln!(
                text,
                "\nnode{number} owns {owned:?} announces {:?} added {added:?}",
                node.announced
            );
            for (id, group) in node.view.iter().flat_map(|view| &view.groups) {
                let addresses: Vec<IpAddr> = group.addresses.keys().collect();
                let phase = speaker.groups.get(id).map(|state| state.phase);
                let _ = writeln!(text, "  {id} {addresses:?} last {:?} {phase:?}", group.last);
            }
        }
        text
    }
}
