//! The wire: who sees which announcement and question, and who answers.

use smoltcp::wire::EthernetAddress;

use super::super::super::*;
use super::{Happening, World, mac};
use crate::responder::{Plan, Sighting};

fn hardware(node: usize) -> EthernetAddress {
    EthernetAddress(mac(node))
}

impl World {
    /// A broadcast: an announcement, or the question of a probe.
    pub(super) fn say(&mut self, node: usize, address: IpAddr, probing: bool) {
        let mac = hardware(node);
        for to in (0..self.nodes.len()).filter(|to| *to != node) {
            let sighting = Sighting { address, mac, ours: hardware(to), link: 1, probing };
            if !self.wire_cut.contains(&(node, to)) {
                self.schedule(Duration::from_micros(50), Happening::Seen { to, sighting });
            }
        }
    }

    /// What the responder makes of a broadcast of another.
    pub(super) fn see(&mut self, node: usize, sighting: Sighting) {
        let state = &mut self.nodes[node];
        if state.probing.contains(&sighting.address) {
            if !sighting.probing {
                state.probing.remove(&sighting.address);
            }
            self.feed(node, Input::Answered(sighting));
        } else if !sighting.probing && state.announced.contains(&sighting.address) {
            self.feed(node, Input::Contested(sighting));
        }
    }

    /// One question of a probe, and the answer if anybody who can be reached has the address.
    pub(super) fn probe(&mut self, node: usize, life: u32, address: IpAddr, round: u32, plan: Plan) {
        if self.nodes[node].life != life || !self.nodes[node].probing.contains(&address) {
            return;
        }
        self.say(node, address, true);
        if self.strangers.contains(&address) {
            self.nodes[node].probing.remove(&address);
            let mac = EthernetAddress([2, 0, 0, 0, 0x66, 0x66]);
            let sighting = Sighting { address, mac, ours: hardware(node), link: 1, probing: false };
            return self.feed(node, Input::Answered(sighting));
        }
        let answers = (0..self.nodes.len()).find(|other| {
            *other != node
                && !self.nodes[*other].stalled
                && (self.nodes[*other].announced.contains(&address)
                    || self.kernels.contains(other)
                    || self.held.get(&address) == Some(other))
                && !self.wire_cut.contains(&(node, *other))
                && !self.wire_cut.contains(&(*other, node))
        });
        if let Some(other) = answers {
            self.nodes[node].probing.remove(&address);
            let mac = hardware(other);
            let sighting = Sighting { address, mac, ours: hardware(node), link: 1, probing: false };
            self.feed(node, Input::Answered(sighting));
        } else if round + 1 < plan.count {
            let what = Happening::Probed { node, life, address, round: round + 1, plan };
            self.schedule(plan.wait, what);
        } else {
            self.nodes[node].probing.remove(&address);
            // The last answer could come until the wait is over; nobody answers in this model after half of it.
            self.feed(node, Input::Unanswered(address));
        }
    }
}
