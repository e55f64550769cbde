//! One speaker, node 0, with scripted peers.

use super::super::*;
use super::fixture::{self, Last, id, settings};
use super::world::{INTERVAL, address, mac};
use crate::layer2::beacon::{Body, Claim, Flags, Message};
use crate::layer2::placement::Placement;

/// A view with `nodes`, of which those in `ready` are candidates for all `groups`.
pub(super) fn view(nodes: &[usize], ready: &[usize], groups: &[(GroupId, Last)]) -> Arc<View> {
    Arc::new(fixture::view(nodes, ready, groups, Placement::Balanced))
}

pub(super) struct ScriptedPeers {
    pub(super) speaker: Ownership,
    pub(super) now: Instant,
    /// The messages that it has sent: the destination, the accepted keys, and the message.
    pub(super) sent: Vec<(IpAddr, Vec<KeyId>, Message)>,
    /// The last token that it has sent to each address.
    tokens: BTreeMap<IpAddr, u64>,
    /// The last session of each node, and the number of its last message.
    sessions: BTreeMap<usize, (u64, u64)>,
}

impl ScriptedPeers {
    pub(super) fn new(view: Arc<View>) -> Self {
        let mut peers = Self {
            speaker: Ownership::new(settings(0, Detection::Enforce, 77)),
            now: Instant::now(),
            sent: Vec::new(),
            tokens: BTreeMap::new(),
            sessions: BTreeMap::new(),
        };
        peers.feed(Input::Macs([mac(0)].into()));
        peers.feed(Input::View(view));
        peers
    }

    pub(super) fn feed(&mut self, input: Input) -> Vec<Output> {
        self.speaker.handle(self.now, input);
        let outputs: Vec<Output> = std::iter::from_fn(|| self.speaker.poll_output()).collect();
        for output in &outputs {
            if let Output::Send { address, keys, message } = output {
                self.tokens.insert(*address, message.session);
                self.sent.push((*address, keys.clone(), message.clone()));
            }
        }
        outputs
    }

    /// Lets time pass; no host answers probes.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.speaker.next_deadline().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.feed_on(Input::Deadline);
        }
        self.now = end;
    }

    /// Feeds an input and answers probes: no other host uses an address.
    pub(super) fn feed_on(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for output in self.feed(input) {
                if let Output::Probe(address, ..) = output {
                    inputs.push_back(Input::ProbeClear(address));
                }
            }
        }
    }

    /// A message as a node would send it: with the last token that it received, 0 in the first message of a
    /// session.
    pub(super) fn message(&mut self, node: usize, session: u64, body: Body) -> Message {
        let (before, number) = self.sessions.get(&node).copied().unwrap_or_default();
        let sequence = if before == session { number + 1 } else { 1 };
        self.sessions.insert(node, (session, sequence));
        let token = self.tokens.get(&address(node)).copied().unwrap_or_default();
        let echo = if before == session { token } else { 0 };
        let flags = Flags { wanted: true, ..Flags::default() };
        Message { sender: id(node), session, echo, sequence, flags, body }
    }

    /// A node sends a message; in a new session it sends a hello first.
    pub(super) fn receive_from(&mut self, node: usize, session: u64, body: Body) -> Message {
        if self.sessions.get(&node).is_none_or(|(before, _)| *before != session) {
            let greeting = self.message(node, session, hello(node));
            self.feed_on(Input::Message(address(node), greeting));
        }
        let message = self.message(node, session, body);
        self.feed_on(Input::Message(address(node), message.clone()));
        message
    }

    /// For a while, a node sends that it is alive and has these claims.
    pub(super) fn lives(&mut self, node: usize, session: u64, claims: &[Claim], time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let digest = crate::layer2::beacon::digest(claims.iter().copied());
            self.receive_from(node, session, Body::Alive { digest });
            self.pass(INTERVAL);
        }
    }

    /// How many of the messages that were sent have such a body.
    pub(super) fn count(&self, like: impl Fn(&Body) -> bool) -> usize {
        self.sent.iter().filter(|(_, _, message)| like(&message.body)).count()
    }
}

pub(super) fn hello(node: usize) -> Body {
    Body::Hello { macs: vec![mac(node)], keys: Vec::new() }
}
