//! The frames on the link: who answers a probe, who sees an announcement, and what is forged.

use super::super::super::*;
use super::super::world::mac;
use super::model::{Model, What};
use crate::EthernetAddress;
use crate::responder::{Plan, Sighting};

impl Model {
    pub(super) fn see(&mut self, to: usize, sighting: Sighting) {
        if self.nodes[to].probing.contains_key(&sighting.address) {
            if !sighting.probing {
                self.nodes[to].probing.remove(&sighting.address);
            }
            self.feed(to, Input::Answered(sighting));
        } else if !sighting.probing && self.answered_by(to).contains(&sighting.address) {
            self.feed(to, Input::Contested(sighting));
        }
    }

    pub(super) fn probe(&mut self, node: usize, address: IpAddr, round: u32, plan: Plan, token: u64) {
        if !self.api.links(node).iter().any(|link| link.speaks_for(address)) {
            self.nodes[node].probing.remove(&address);
            return self.feed(node, Input::Unasked(address));
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
            self.feed(node, Input::Answered(Sighting { address, mac, ours, link: 1, probing: false }));
        } else if round + 1 < plan.count {
            let life = self.nodes[node].life;
            self.after(plan.wait, What::Probe { node, life, address, round: round + 1, plan, token });
        } else {
            self.nodes[node].probing.remove(&address);
            self.feed(node, Input::Unanswered(address));
        }
    }

    pub(super) fn say(&mut self, node: usize, address: IpAddr, probing: bool) {
        for to in (0..self.nodes.len()).filter(|to| *to != node) {
            if !self.cut.contains(&(node, to)) {
                let [mac, ours] = [mac(node), mac(to)].map(EthernetAddress);
                let sighting = Sighting { address, mac, ours, link: 1, probing };
                self.after(Duration::from_micros(50), What::Seen(to, sighting));
            }
        }
    }

    /// A frame that somebody has forged: with the hardware address of any speaker or of no speaker, about any
    /// address.
    pub(super) fn forge(&mut self, to: usize, until: Duration) {
        if self.now >= until {
            return;
        }
        let address = self.chance.pick(&super::pool()).unwrap();
        let senders = self.nodes.len() as u64 + 1;
        let sender = usize::try_from(self.chance.below(senders)).unwrap();
        let probing = self.chance.one_in(4);
        let [mac, ours] = [mac(sender), mac(to)].map(EthernetAddress);
        self.see(to, Sighting { address, mac, ours, link: 1, probing });
        self.after(Duration::from_millis(1), What::Forge(to, until));
    }
}
