//! One speaker, node 0, with a scripted view, peers and probes.

use super::super::super::phase::Event;
use super::super::super::*;
use super::super::fixture::settings;
use super::super::world::{INTERVAL, address, mac, name};
use crate::layer2::beacon::{Body, Flags, Message};
use crate::layer2::responder::Observation;
use smoltcp::wire::EthernetAddress;

/// A node whose id is higher than that of node 0.
pub(super) fn higher() -> usize {
    (1..50).find(|node| NodeId::from_name(&name(*node)) > NodeId::from_name(&name(0))).unwrap()
}

pub(super) fn frame_of(node: usize, address: IpAddr) -> Observation {
    let [mac, ours] = [mac(node), mac(0)].map(EthernetAddress);
    Observation { address, mac, ours, link: 1, probing: false }
}

pub(super) struct PeerHarness {
    pub(super) speaker: Ownership,
    pub(super) now: Instant,
    /// The flags of its peers.
    pub(super) flags: Flags,
    sequence: u64,
    /// The last token that it has sent to each address.
    tokens: BTreeMap<IpAddr, u64>,
}

impl PeerHarness {
    pub(super) fn new(view: View) -> Self {
        let mut harness = Self {
            speaker: Ownership::new(settings(0, Detection::Enforce, 77)),
            now: Instant::now(),
            flags: Flags { wanted: true, ..Flags::default() },
            sequence: 0,
            tokens: BTreeMap::new(),
        };
        harness.feed(Input::Macs([mac(0)].into()));
        harness.feed(Input::View(Arc::new(view)));
        harness
    }

    pub(super) fn feed(&mut self, input: Input) -> Vec<Output> {
        self.speaker.handle(self.now, input);
        let mut outputs: Vec<Output> = std::iter::from_fn(|| self.speaker.poll_output()).collect();
        while self.speaker.next_deadline().is_some_and(|at| at <= self.now) {
            self.speaker.handle(self.now, Input::Deadline);
            outputs.extend(std::iter::from_fn(|| self.speaker.poll_output()));
        }
        for output in &outputs {
            if let Output::Send { address, message, .. } = output {
                self.tokens.insert(*address, message.session);
            }
        }
        outputs
    }

    pub(super) fn pass(&mut self, time: Duration) -> Vec<Output> {
        let end = self.now + time;
        let mut outputs = Vec::new();
        while let Some(at) = self.speaker.next_deadline().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            outputs.extend(self.feed(Input::Deadline));
        }
        self.now = end;
        outputs
    }

    pub(super) fn receive_from(&mut self, node: usize, body: Body) -> Vec<Output> {
        self.sequence += 1;
        let echo = self.tokens.get(&address(node)).copied().unwrap_or(0);
        let message = Message {
            sender: NodeId::from_name(&name(node)),
            session: 5,
            echo,
            sequence: self.sequence,
            flags: self.flags,
            body,
        };
        self.feed(Input::Message(address(node), message))
    }

    /// Lets nodes send, in each interval, that they are alive and have claims with these digests.
    pub(super) fn live(&mut self, nodes: &[(usize, u64)], time: Duration) -> Vec<Output> {
        let end = self.now + time;
        let mut outputs = Vec::new();
        while self.now < end {
            for (node, claims) in nodes {
                outputs.extend(self.receive_from(*node, Body::Alive { digest: *claims }));
            }
            outputs.extend(self.pass(INTERVAL));
        }
        outputs
    }

    /// Makes the speaker own all groups of the view.
    pub(super) fn own_all(&mut self) {
        let ids: Vec<GroupId> = self.speaker.view.groups.keys().copied().collect();
        for id in ids {
            self.speaker.apply(self.now, id, Event::HandedOver { epoch: 1 });
        }
        self.feed(Input::Deadline);
    }

    pub(super) fn owns(&self, id: GroupId) -> bool {
        self.speaker.owned().contains_key(&id)
    }
}
