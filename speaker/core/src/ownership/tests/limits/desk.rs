//! One speaker, node 0, with a view made by hand, and whatever it is given.

use super::super::super::*;
use super::super::world::{INTERVAL, address, mac, name};
use crate::beacon::{Body, Flags, Message};
use crate::link::Scope;
use crate::placement::Placement;
use crate::responder::Sighting;
use crate::view::{Candidate, Candidates, Group, Speaker, Tier};
use smoltcp::wire::EthernetAddress;

const SESSION: u64 = 77;

/// Who owned a group last, and in which epoch.
pub(super) type Last = Option<(usize, u64)>;

/// Nodes, the ready ones of them, and groups.
pub(super) fn view(
    nodes: &[usize],
    ready: &[usize],
    groups: &[(GroupId, Last)],
    placement: Placement,
) -> View {
    let candidates: Vec<Candidate> =
        ready.iter().map(|node| Candidate::new(name(*node), Tier::default())).collect();
    let make = |id: &GroupId, last: &Last| {
        Arc::new(Group {
            id: *id,
            hashed: *id,
            addresses: [(*id, Scope::All)].into(),
            services: Box::default(),
            candidates: Candidates::ranked(*id, candidates.clone()),
            idle: None,
            last: last.map(|(node, epoch)| (name(node), epoch)),
        })
    };
    let groups: BTreeMap<GroupId, Arc<Group>> =
        groups.iter().map(|(id, last)| (*id, make(id, last))).collect();
    let speaker = |node: &usize| {
        let speaker = Speaker { address: Some(address(*node)), ready: ready.contains(node), generation: 1 };
        (name(*node), speaker)
    };
    View {
        macs: nodes.iter().map(|node| (mac(*node), NodeId::of(&name(*node)))).collect(),
        speakers: nodes.iter().map(speaker).collect(),
        placed: placement.place(&groups),
        groups,
        placement,
        ..View::default()
    }
}

/// So many groups.
pub(super) fn many(count: u32, last: Last) -> Vec<(GroupId, Last)> {
    (0..count).map(|n| (IpAddr::V4((0x0a01_0000 + n).into()), last)).collect()
}

/// A node whose id is higher than that of node 0.
pub(super) fn higher() -> usize {
    (1..50).find(|node| NodeId::of(&name(*node)) > NodeId::of(&name(0))).unwrap()
}

pub(super) fn frame_of(node: usize, address: IpAddr) -> Sighting {
    let [mac, ours] = [mac(node), mac(0)].map(EthernetAddress);
    Sighting { address, mac, ours, link: 1, probing: false }
}

pub(super) fn probes(outputs: &[Output]) -> usize {
    outputs.iter().filter(|output| matches!(output, Output::Probe(..))).count()
}

pub(super) struct Desk {
    pub(super) speaker: Ownership,
    pub(super) now: Instant,
    sequence: u64,
    /// The token that it has sent last to an address.
    tokens: BTreeMap<IpAddr, u64>,
}

impl Desk {
    pub(super) fn new(view: View) -> Self {
        let settings = Settings {
            me: name(0),
            interval: INTERVAL,
            misses: 3,
            detection: Detection::Enforce,
            session: SESSION,
        };
        let mut desk = Self {
            speaker: Ownership::new(settings),
            now: Instant::now(),
            sequence: 0,
            tokens: BTreeMap::new(),
        };
        desk.feed(Input::Macs([mac(0)].into()));
        desk.feed(Input::View(Arc::new(view)));
        desk
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

    pub(super) fn hear(&mut self, node: usize, body: Body) -> Vec<Output> {
        self.sequence += 1;
        let echo = self.tokens.get(&address(node)).copied().unwrap_or(0);
        let message = Message {
            sender: NodeId::of(&name(node)),
            session: 5,
            echo,
            sequence: self.sequence,
            flags: Flags { wanted: true, ..Flags::default() },
            body,
        };
        self.feed(Input::Message(address(node), message))
    }

    /// Lets nodes tell every interval that they live and have these claims.
    pub(super) fn live(&mut self, nodes: &[(usize, u64)], time: Duration) -> Vec<Output> {
        let end = self.now + time;
        let mut outputs = Vec::new();
        while self.now < end {
            for (node, claims) in nodes {
                outputs.extend(self.hear(*node, Body::Alive { claims: *claims }));
            }
            outputs.extend(self.pass(INTERVAL));
        }
        outputs
    }

    /// Owns all groups of the view.
    pub(super) fn own_all(&mut self) {
        let ids: Vec<GroupId> = self.speaker.view.groups.keys().copied().collect();
        for id in ids {
            self.speaker.apply(self.now, id, Event::Invited { epoch: 1 });
        }
        self.feed(Input::Deadline);
    }

    pub(super) fn owns(&self, id: GroupId) -> bool {
        self.speaker.owned().contains_key(&id)
    }
}
