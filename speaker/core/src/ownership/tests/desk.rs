//! One speaker, node 0, whose peers say whatever a test makes them say.

use super::super::*;
use super::world::{INTERVAL, address, mac, name};
use crate::beacon::{Body, Flags, Message};
use crate::link::Scope;
use crate::placement::Placement;
use crate::view::{Candidate, Candidates, Group, Speaker, Tier};

/// A group, with who owned it last and the epoch of that.
pub(super) type Known = (GroupId, Option<(usize, u64)>);

pub(super) fn id(node: usize) -> NodeId {
    NodeId::of(&name(node))
}

/// So many groups that nobody has owned yet.
pub(super) fn many(count: u32) -> Vec<Known> {
    (0..count).map(|n| (IpAddr::V4((0x0a01_0000 + n).into()), None)).collect()
}

/// A view with `nodes`, of which those that are `ready` are candidates for all `groups`.
pub(super) fn view(nodes: &[usize], ready: &[usize], groups: &[Known]) -> Arc<View> {
    let candidates: Vec<Candidate> =
        ready.iter().map(|node| Candidate::new(name(*node), Tier::default())).collect();
    let make = |(id, last): &Known| {
        let group = Group {
            id: *id,
            hashed: *id,
            addresses: [(*id, Scope::All)].into(),
            services: Box::default(),
            candidates: Candidates::ranked(*id, candidates.clone()),
            idle: None,
            last: last.map(|(node, epoch)| (name(node), epoch)),
        };
        (*id, Arc::new(group))
    };
    let groups: BTreeMap<GroupId, Arc<Group>> = groups.iter().map(make).collect();
    let speaker = |node: &usize| {
        let speaker = Speaker { address: Some(address(*node)), ready: ready.contains(node), generation: 1 };
        (name(*node), speaker)
    };
    Arc::new(View {
        macs: nodes.iter().map(|node| (mac(*node), id(*node))).collect(),
        speakers: nodes.iter().map(speaker).collect(),
        placed: Placement::Balanced.place(&groups),
        groups,
        placement: Placement::Balanced,
        ..View::default()
    })
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
        let settings = Settings {
            me: name(0),
            interval: INTERVAL,
            misses: 3,
            detection: Detection::Enforce,
            session: 77,
        };
        let mut desk = Self {
            speaker: Ownership::new(settings),
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
