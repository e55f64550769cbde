//! The link: which nodes receive an announcement or probe, and which answer.

use smoltcp::wire::EthernetAddress;

use super::super::super::*;
use super::{SimEvent, World, mac};
use crate::layer2::responder::{Observation, ProbePlan};

fn hardware(node: usize) -> EthernetAddress {
    EthernetAddress(mac(node))
}

impl World {
    /// A broadcast: an announcement, or the request of a probe.
    pub(super) fn say(&mut self, node: usize, address: IpAddr, probing: bool) {
        let mac = hardware(node);
        for to in (0..self.nodes.len()).filter(|to| *to != node) {
            let observation = Observation { address, mac, ours: hardware(to), link: 1, probing };
            if !self.link_cut.contains(&(node, to)) {
                self.schedule(Duration::from_micros(50), SimEvent::Seen { to, observation });
            }
        }
    }

    /// The responder's reaction to a broadcast of another node.
    pub(super) fn see(&mut self, node: usize, observation: Observation) {
        let state = &mut self.nodes[node];
        if state.probing.contains(&observation.address) {
            if !observation.probing {
                state.probing.remove(&observation.address);
            }
            self.feed(node, Input::ProbeAnswered(observation));
        } else if !observation.probing && state.announced.contains(&observation.address) {
            self.feed(node, Input::Contested(observation));
        }
    }

    /// One request of a probe, and the answer if a reachable host uses the address.
    pub(super) fn probe(
        &mut self,
        node: usize,
        incarnation: u32,
        address: IpAddr,
        round: u32,
        plan: ProbePlan,
    ) {
        if self.nodes[node].incarnation != incarnation || !self.nodes[node].probing.contains(&address) {
            return;
        }
        self.say(node, address, true);
        if self.foreign_hosts.contains(&address) {
            self.nodes[node].probing.remove(&address);
            let mac = EthernetAddress([2, 0, 0, 0, 0x66, 0x66]);
            let observation = Observation { address, mac, ours: hardware(node), link: 1, probing: false };
            return self.feed(node, Input::ProbeAnswered(observation));
        }
        let answers = (0..self.nodes.len()).find(|other| {
            *other != node
                && !self.nodes[*other].stalled
                && (self.nodes[*other].announced.contains(&address)
                    || self.kernels.contains(other)
                    || self.held.get(&address) == Some(other))
                && !self.link_cut.contains(&(node, *other))
                && !self.link_cut.contains(&(*other, node))
        });
        if let Some(other) = answers {
            self.nodes[node].probing.remove(&address);
            let mac = hardware(other);
            let observation = Observation { address, mac, ours: hardware(node), link: 1, probing: false };
            self.feed(node, Input::ProbeAnswered(observation));
        } else if round + 1 < plan.count {
            let what = SimEvent::Probed { node, incarnation, address, round: round + 1, plan };
            self.schedule(plan.wait, what);
        } else {
            self.nodes[node].probing.remove(&address);
            // An answer may arrive until the wait is over; in this model none arrives after half of it.
            self.feed(node, Input::ProbeClear(address));
        }
    }
}
