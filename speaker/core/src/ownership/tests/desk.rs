//! One speaker, node 0, whose peers say whatever a test makes them say.

use super::super::*;
use super::fixture::{self, Last, id, settings};
use super::world::{INTERVAL, address, mac};
use crate::beacon::{Body, Flags, Message};
use crate::placement::Placement;

/// A view with `nodes`, of which those that are `ready` are candidates for all `groups`.
pub(super) fn view(nodes: &[usize], ready: &[usize], groups: &[(GroupId, Last)]) -> Arc<View> {
    Arc::new(fixture::view(nodes, ready, groups, Placement::Balanced))
}

pub(super) struct Desk {
    pub(super) speaker: Ownership,
    pub(super) now: Instant,
    /// What it has sent: to whom, for which keys, and what.
    pub(super) sent: Vec<(IpAddr, Vec<KeyId>, Message)>,
    /// The token that it has sent last to an address.
    tokens: BTreeMap<IpAddr, u64>,
    /// The session in which each node has spoken last, and with which number.
    sessions: BTreeMap<usize, (u64, u64)>,
}

impl Desk {
    pub(super) fn new(view: Arc<View>) -> Self {
        let mut desk = Self {
            speaker: Ownership::new(settings(0, Detection::Enforce, 77)),
            now: Instant::now(),
            sent: Vec::new(),
            tokens: BTreeMap::new(),
            sessions: BTreeMap::new(),
        };
        desk.feed(Input::Macs([mac(0)].into()));
        desk.feed(Input::View(view));
        desk
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

    /// Lets time pass; nobody answers on the wire.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.speaker.next_deadline().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.feed_on(Input::Deadline);
        }
        self.now = end;
    }

    /// Feeds an input and answers what is asked on the wire: nobody else has anything.
    pub(super) fn feed_on(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for output in self.feed(input) {
                if let Output::Probe(address, ..) = output {
                    inputs.push_back(Input::Unanswered(address));
                }
            }
        }
    }

    /// A message as a node would send it: with the token that it has heard last, 0 in the first of a session.
    pub(super) fn message(&mut self, node: usize, session: u64, body: Body) -> Message {
        let (before, number) = self.sessions.get(&node).copied().unwrap_or_default();
        let sequence = if before == session { number + 1 } else { 1 };
        self.sessions.insert(node, (session, sequence));
        let token = self.tokens.get(&address(node)).copied().unwrap_or_default();
        let echo = if before == session { token } else { 0 };
        let flags = Flags { wanted: true, ..Flags::default() };
        Message { sender: id(node), session, echo, sequence, flags, body }
    }

    /// A node says something. In a new session it greets first.
    pub(super) fn hear(&mut self, node: usize, session: u64, body: Body) -> Message {
        if self.sessions.get(&node).is_none_or(|(before, _)| *before != session) {
            let greeting = self.message(node, session, hello(node));
            self.feed_on(Input::Message(address(node), greeting));
        }
        let message = self.message(node, session, body);
        self.feed_on(Input::Message(address(node), message.clone()));
        message
    }

    /// A node says for a while that it lives and has these claims.
    pub(super) fn lives(&mut self, node: usize, session: u64, claims: &[Stake], time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let claims = crate::beacon::print(claims.iter().copied());
            self.hear(node, session, Body::Alive { claims });
            self.pass(INTERVAL);
        }
    }

    /// How many of the messages that were sent are like this.
    pub(super) fn count(&self, like: impl Fn(&Body) -> bool) -> usize {
        self.sent.iter().filter(|(_, _, message)| like(&message.body)).count()
    }
}

pub(super) fn hello(node: usize) -> Body {
    Body::Hello { macs: vec![mac(node)], keys: Vec::new() }
}
