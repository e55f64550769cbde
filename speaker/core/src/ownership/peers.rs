//! The other speakers: what is known of each, and whether they live.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Ownership;
use super::freshness::{Freshness, Handshake, Tokens};
use super::quota::Quota;
use crate::beacon::{Flags, KeyId, Message, NodeId, Stake, print_of};
use crate::view::{GroupId, NodeName, View};

/// Sessions of a peer that are not its current one, as far as is known, and are answered in a period. What is
/// recorded may be of many.
const STALE_ANSWERS: usize = 8;
/// Answers to what a peer says about groups, in a period.
const ANSWERS: usize = 16_384;
/// Half of the time after which a leaving owner repeats its offer: what is asked again sooner is not answered
/// again.
const ANSWER_PERIOD: Duration = Duration::from_millis(10);

/// What is known of another speaker.
#[derive(Debug)]
pub(super) struct Peer {
    /// Where the last message that counts came from: if the address of its node has changed, the API still
    /// lists the one before.
    pub(super) source: Option<IpAddr>,
    pub(super) handshake: Handshake,
    /// When something that counts was last heard.
    pub(super) heard: Option<Instant>,
    pub(super) flags: Flags,
    pub(super) macs: BTreeSet<[u8; 6]>,
    pub(super) keys: Vec<KeyId>,
    /// The sequence number of the hello that `macs` and `keys` are of.
    pub(super) introduced: u64,
    /// What it owns.
    pub(super) claims: BTreeMap<GroupId, u64>,
    /// [`print`](crate::beacon::print) of `claims`.
    pub(super) print: u64,
    /// What is known of its claims was up to date when it last told; not if it was silent since.
    pub(super) agrees: bool,
    /// Groups of ours that it claimed before it fell silent: if it was only cut off, it has announced them
    /// all the time.
    pub(super) doubtful: Vec<GroupId>,
    pub(super) parts: Option<Parts>,
    /// When it was asked for all its claims.
    pub(super) requested: Option<Instant>,
    /// When it was sent all of ours.
    pub(super) informed: Option<Instant>,
    /// It has asked for all of ours again since then.
    pub(super) asks: bool,
    pub(super) greeted: Option<Instant>,
    /// Sessions whose stale messages were answered.
    pub(super) stale_answers: Quota<u64>,
    /// Groups about which it was sent a claim because of a frame.
    pub(super) contested: Quota<GroupId>,
    /// What it was answered about groups.
    pub(super) answers: Quota<(Answer, Stake)>,
    /// Since when this speaker wants to hear from it.
    pub(super) since: Instant,
    /// When it last said that it wants to hear from us.
    pub(super) wants_us: Option<Instant>,
}

/// What is answered to something that a peer says about a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Answer {
    /// It is ours, with this epoch.
    Claim,
    /// This node is about to claim it with this epoch.
    Intent,
    /// Do not.
    Nack,
}

/// Parts of a list of claims that are not complete yet.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) claims: u64,
    pub(super) parts: BTreeMap<u16, Vec<Stake>>,
}

/// Whether a peer lives, as far as its messages tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Liveness {
    /// It is heard.
    Alive,
    /// It was heard, and is no longer, since then.
    Silent(Instant),
    /// It was never heard: what the API says of its pod counts.
    Unheard,
}

impl Peer {
    pub(super) fn new(now: Instant, tokens: &mut Tokens) -> Self {
        Self {
            source: None,
            handshake: Handshake::new(tokens),
            heard: None,
            flags: Flags::default(),
            macs: BTreeSet::new(),
            keys: Vec::new(),
            introduced: 0,
            claims: BTreeMap::new(),
            print: 0,
            agrees: false,
            doubtful: Vec::new(),
            parts: None,
            requested: None,
            informed: None,
            asks: false,
            greeted: None,
            stale_answers: Quota::default(),
            contested: Quota::default(),
            answers: Quota::default(),
            since: now,
            wants_us: None,
        }
    }

    /// Judges a message and, if it counts, notes what each message tells.
    pub(super) fn judge(&mut self, now: Instant, tokens: &mut Tokens, message: &Message) -> Freshness {
        let freshness = self.handshake.judge(tokens, message);
        match freshness {
            Freshness::Fresh => {}
            Freshness::NewSession => {
                // It may have been started again with other keys.
                self.keys.clear();
                self.introduced = 0;
                self.agrees = false;
            }
            Freshness::Stale | Freshness::Replayed => return freshness,
        }
        if self.handshake.is_latest(message.sequence) {
            self.flags = message.flags;
        }
        if message.flags.wanted {
            self.wants_us = Some(now);
        }
        freshness
    }

    /// The token to answer a stale message with, unless it is not to be answered, or its session was just
    /// now.
    pub(super) fn answer_to_stale(
        &mut self,
        now: Instant,
        period: Duration,
        heard: bool,
        message: &Message,
    ) -> Option<u64> {
        let token = self.handshake.answer(message, heard)?;
        // Whoever repeats what is old must not use up the answers to what is not.
        let most = STALE_ANSWERS * if self.handshake.is_current(message) { 2 } else { 1 };
        self.stale_answers.admit(now, period, most, message.session).then_some(token)
    }

    /// Whether to answer something that it says about a group: not twice at the same time.
    pub(super) fn may_be_answered(&mut self, now: Instant, answer: Answer, stake: Stake) -> bool {
        self.answers.admit(now, ANSWER_PERIOD, ANSWERS, (answer, stake))
    }

    /// Whether it was not sent all claims for so long that it may be sent them again.
    pub(super) fn may_be_informed(&self, now: Instant, period: Duration) -> bool {
        self.informed.is_none_or(|at| now.saturating_duration_since(at) >= period)
    }

    pub(super) fn liveness(&self, now: Instant, patience: Duration) -> Liveness {
        match self.heard.and_then(|heard| heard.checked_add(patience)) {
            None => Liveness::Unheard,
            Some(until) if now < until => Liveness::Alive,
            Some(until) => Liveness::Silent(until),
        }
    }

    /// Notes that it owns a group, or no longer.
    pub(super) fn set_claim(&mut self, stake: Stake, held: bool) {
        let before = if held {
            self.claims.insert(stake.group, stake.epoch)
        } else {
            self.claims.remove(&stake.group)
        };
        if let Some(epoch) = before {
            self.print ^= print_of(Stake { group: stake.group, epoch });
        }
        if held {
            self.print ^= print_of(stake);
        }
    }
}

/// Peers that are heard, in the order in which they fall silent unless they are heard again: so neither a
/// message nor the question who falls silent next costs more where there are many.
#[derive(Debug, Default)]
pub(super) struct Heard {
    at: BTreeMap<NodeId, Instant>,
    order: BTreeSet<(Instant, NodeId)>,
    /// How often one has come or gone.
    changes: u64,
}

impl Heard {
    /// Notes when a peer was heard. Whether it was not among them.
    fn note(&mut self, id: NodeId, at: Instant) -> bool {
        let before = self.at.insert(id, at);
        if let Some(before) = before {
            self.order.remove(&(before, id));
        }
        self.order.insert((at, id));
        self.changes += u64::from(before.is_none());
        before.is_none()
    }

    pub(super) fn remove(&mut self, id: NodeId) {
        if let Some(at) = self.at.remove(&id) {
            self.order.remove(&(at, id));
            self.changes += 1;
        }
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn contains(&self, id: NodeId) -> bool {
        self.at.contains_key(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.at.len()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.at.keys().copied()
    }

    /// The peer that was not heard for the longest time, and when it was heard.
    pub(super) fn first(&self) -> Option<(Instant, NodeId)> {
        self.order.first().copied()
    }
}

impl Ownership {
    /// Notes that a peer is heard.
    pub(super) fn hear(&mut self, now: Instant, id: NodeId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.heard = Some(now);
        if self.alive.note(id, now) {
            self.blocked.remove(&id);
            self.doubt(id);
            self.liveness_changed();
        }
    }

    /// Nobody who was ever heard is silent.
    pub(super) fn hear_all(&mut self, now: Instant) {
        let heard = self.peers.iter().filter(|(_, peer)| peer.heard.is_some());
        let heard: Vec<NodeId> = heard.map(|(id, _)| *id).collect();
        for id in heard {
            self.hear(now, id);
        }
    }

    /// Nobody falls silent for what was not heard before `floor`.
    pub(super) fn hear_since(&mut self, floor: Instant) {
        while let Some((_, id)) = self.alive.first().filter(|(at, _)| *at < floor) {
            self.hear(floor, id);
        }
    }

    /// Notices who fell silent.
    pub(super) fn notice_silence(&mut self, now: Instant) {
        let patience = self.patience();
        let silent = |(at, _): &(Instant, NodeId)| now.saturating_duration_since(*at) >= patience;
        while let Some((_, id)) = self.alive.first().filter(silent) {
            self.alive.remove(id);
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.agrees = false;
            }
            self.counts.suspicions += 1;
            self.liveness_changed();
        }
    }

    /// Before this speaker takes part, nothing depends on who is heard.
    fn liveness_changed(&mut self) {
        if self.settled {
            self.dirty.extend(self.view.groups.keys());
        }
    }

    pub(super) fn liveness(&self, now: Instant, id: NodeId) -> Liveness {
        self.peers.get(&id).map_or(Liveness::Unheard, |peer| peer.liveness(now, self.patience()))
    }

    /// The addresses that reach a speaker: the one that the API lists, and the one that it was heard from
    /// last, if that is another.
    pub(super) fn routes(
        &self,
        id: NodeId,
        heard_from: Option<IpAddr>,
    ) -> impl Iterator<Item = IpAddr> + use<> {
        let name = self.directory.names.get(&id);
        let listed = name.and_then(|name| self.view.speakers.get(name)?.address);
        let other = heard_from.filter(|address| Some(*address) != listed);
        listed.into_iter().chain(other)
    }
}

/// What this node calls another, and who has which hardware address.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) names: BTreeMap<NodeId, NodeName>,
    pub(super) macs: BTreeMap<[u8; 6], NodeId>,
}

impl Directory {
    /// Takes from a peer the hardware addresses that it has no more, and gives it those that it has. What the
    /// API says stays: a hello has room for few. So do this node's own.
    pub(super) fn replace_macs(
        &mut self,
        id: NodeId,
        before: &BTreeSet<[u8; 6]>,
        after: &BTreeSet<[u8; 6]>,
        (view, own): (&View, &BTreeSet<[u8; 6]>),
    ) {
        let settled = |mac: &&[u8; 6]| !own.contains(*mac) && !view.macs.contains_key(*mac);
        for mac in before.iter().filter(settled) {
            if self.macs.get(mac) == Some(&id) {
                self.macs.remove(mac);
            }
        }
        for mac in after.iter().filter(settled) {
            self.macs.insert(*mac, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beacon::Body;

    fn peer(now: Instant) -> (Peer, Tokens) {
        let mut tokens = Tokens::new(1);
        (Peer::new(now, &mut tokens), tokens)
    }

    #[test]
    fn a_peer_is_silent_once_its_time_is_over() {
        let (now, patience) = (Instant::now(), Duration::from_millis(300));
        let (mut peer, _) = peer(now);
        assert_eq!(peer.liveness(now, patience), Liveness::Unheard);
        peer.heard = Some(now);
        assert_eq!(peer.liveness(now + Duration::from_millis(299), patience), Liveness::Alive);
        assert_eq!(peer.liveness(now + patience, patience), Liveness::Silent(now + patience));
    }

    #[test]
    fn the_flags_of_a_message_that_was_overtaken_do_not_count() {
        let now = Instant::now();
        let (mut peer, mut tokens) = peer(now);
        let echo = peer.handshake.token();
        for (sequence, leaving) in [(1, false), (3, true), (2, false)] {
            let flags = Flags { leaving, ..Flags::default() };
            let body = Body::Alive { claims: 0 };
            let message = Message { sender: NodeId(1), session: 5, echo, sequence, flags, body };
            peer.judge(now, &mut tokens, &message);
        }
        assert!(peer.flags.leaving);
    }

    #[test]
    fn the_print_of_claims_is_kept_up_to_date() {
        let (mut peer, _) = peer(Instant::now());
        let stake = |epoch| Stake { group: "10.0.0.1".parse().unwrap(), epoch };
        peer.set_claim(stake(1), true);
        peer.set_claim(stake(2), true);
        assert_eq!(peer.print, crate::beacon::print([stake(2)]));
        peer.set_claim(stake(2), false);
        peer.set_claim(stake(2), false);
        assert_eq!((peer.print, peer.claims.len()), (0, 0));
    }

    /// The one place that knows who falls silent next has one entry for each peer, however often that is
    /// heard.
    #[test]
    fn peers_fall_silent_in_the_order_in_which_they_were_heard_last() {
        let (start, mut heard) = (Instant::now(), Heard::default());
        let at = |millis| start + Duration::from_millis(millis);
        for round in 0..100 {
            for (id, offset) in [(1, 0), (2, 1), (3, 2)] {
                assert_eq!(heard.note(NodeId(id), at(round * 10 + offset)), round == 0);
            }
        }
        heard.note(NodeId(1), at(2_000));
        assert_eq!((heard.at.len(), heard.order.len()), (3, 3));
        for (id, time) in [(2, 991), (3, 992), (1, 2_000)] {
            assert_eq!(heard.first(), Some((at(time), NodeId(id))));
            heard.remove(NodeId(id));
        }
        assert_eq!((heard.first(), heard.len()), (None, 0));
    }
}
