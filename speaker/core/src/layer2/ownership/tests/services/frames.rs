//! Frames on the link: answers to probes, announcements, and forged frames.

use super::super::super::*;
use super::super::world::mac;
use super::model::{Model, What};
use crate::EthernetAddress;
use crate::layer2::responder::{Observation, ProbePlan};

impl Model {
    pub(super) fn see(&mut self, to: usize, observation: Observation) {
        if self.nodes[to].probing.contains_key(&observation.address) {
            if !observation.probing {
                self.nodes[to].probing.remove(&observation.address);
            }
            self.feed(to, Input::ProbeAnswered(observation));
        } else if !observation.probing && self.answered_by(to).contains(&observation.address) {
            self.feed(to, Input::Contested(observation));
        }
    }

    pub(super) fn probe(&mut self, node: usize, address: IpAddr, round: u32, plan: ProbePlan, token: u64) {
        if !self.api.links(node).iter().any(|link| link.supports_family(address)) {
            self.nodes[node].probing.remove(&address);
            return self.feed(node, Input::ProbeFailed(address));
        }
        self.say(node, address, true);
        let answers = (0..self.nodes.len()).find(|other| {
            *other != node
                && !self.nodes[*other].stalled
                && (self.answered_by(*other).contains(&address) || self.api.holds(*other, address))
                && !self.cut.contains(&(node, *other))
        });
        if let Some(other) = answers {
            self.nodes[node].probing.remove(&address);
            let [mac, ours] = [mac(other), mac(node)].map(EthernetAddress);
            self.feed(
                node,
                Input::ProbeAnswered(Observation { address, mac, ours, link: 1, probing: false }),
            );
        } else if round + 1 < plan.count {
            let incarnation = self.nodes[node].incarnation;
            self.after(plan.wait, What::Probe { node, incarnation, address, round: round + 1, plan, token });
        } else {
            self.nodes[node].probing.remove(&address);
            self.feed(node, Input::ProbeClear(address));
        }
    }

    pub(super) fn say(&mut self, node: usize, address: IpAddr, probing: bool) {
        for to in (0..self.nodes.len()).filter(|to| *to != node) {
            if !self.cut.contains(&(node, to)) {
                let [mac, ours] = [mac(node), mac(to)].map(EthernetAddress);
                let observation = Observation { address, mac, ours, link: 1, probing };
                self.after(Duration::from_micros(50), What::Seen(to, observation));
            }
        }
    }

    /// A forged frame: with the hardware address of a speaker or of no speaker, about any address.
    pub(super) fn forge(&mut self, to: usize, until: Duration) {
        if self.now >= until {
            return;
        }
        let address = self.random.pick(&super::pool()).unwrap();
        let senders = self.nodes.len() as u64 + 1;
        let sender = usize::try_from(self.random.below(senders)).unwrap();
        let probing = self.random.one_in(4);
        let [mac, ours] = [mac(sender), mac(to)].map(EthernetAddress);
        self.see(to, Observation { address, mac, ours, link: 1, probing });
        self.after(Duration::from_millis(1), What::Forge(to, until));
    }
}
