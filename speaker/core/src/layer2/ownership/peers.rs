//! The other speakers: what is known of each, and their liveness.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Ownership;
use super::freshness::{Freshness, Handshake, Tokens};
use super::quota::Quota;
use crate::cluster::NodeId;
use crate::cluster::{GroupId, NodeName};
use crate::layer2::beacon::{Claim, Flags, KeyId, Message, digest_of};
use crate::layer2::view::View;

/// How many stale sessions of a peer are answered per period: recorded messages may be of many sessions.
const MAX_STALE_ANSWERS: usize = 8;
/// Answers to messages of a peer about groups, per period.
const MAX_ANSWERS: usize = 16_384;
/// Half of [`OFFER_INTERVAL`](super::OFFER_INTERVAL): a message that is repeated sooner is not answered
/// again.
const ANSWER_PERIOD: Duration = Duration::from_millis(10);

/// What is known of another speaker.
#[derive(Debug)]
pub(super) struct Peer {
    /// Source of the last accepted message: if the address of the peer's node has changed, the API may still
    /// list the old one.
    pub(super) source: Option<IpAddr>,
    pub(super) handshake: Handshake,
    /// When a message was last accepted.
    pub(super) heard: Option<Instant>,
    pub(super) flags: Flags,
    pub(super) macs: BTreeSet<[u8; 6]>,
    pub(super) keys: Vec<KeyId>,
    /// The sequence number of the hello that `macs` and `keys` are from.
    pub(super) hello_sequence: u64,
    /// Epochs of the groups that it owns.
    pub(super) claims: BTreeMap<GroupId, u64>,
    /// [`digest`](crate::layer2::beacon::digest()) of `claims`.
    pub(super) digest: u64,
    /// The known claims matched its last digest; false after it was down.
    pub(super) in_sync: bool,
    /// Groups of ours that it claimed before it went down: if it was only cut off, it has announced them all
    /// the time.
    pub(super) stale_groups: Vec<GroupId>,
    pub(super) parts: Option<Parts>,
    /// When all its claims were requested.
    pub(super) claims_requested: Option<Instant>,
    /// When all our claims were sent to it.
    pub(super) claims_sent: Option<Instant>,
    /// It has requested all our claims again since then.
    pub(super) claims_wanted: bool,
    pub(super) hello_sent: Option<Instant>,
    /// Sessions whose stale messages were answered.
    pub(super) stale_answers: Quota<u64>,
    /// Groups about which a claim was sent to it because of a frame.
    pub(super) contested: Quota<GroupId>,
    /// Answers to its messages about groups.
    pub(super) answers: Quota<(Answer, Claim)>,
    /// Since when this speaker wants to hear from it.
    pub(super) since: Instant,
    /// When it last set the flag `wanted`.
    pub(super) wanted_at: Option<Instant>,
}

/// The answer to a message of a peer about a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Answer {
    /// This node owns it, with this epoch.
    Claim,
    /// This node is about to claim it with this epoch.
    Intent,
    /// Do not claim it.
    Nack,
}

/// Parts of a list of claims that is not complete yet.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) digest: u64,
    pub(super) parts: BTreeMap<u16, Vec<Claim>>,
}

/// Whether a peer is alive, by its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Liveness {
    /// It is heard.
    Alive,
    /// It was heard, and has been down since that time.
    Down(Instant),
    /// It was never heard: the readiness of its pod decides.
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
            hello_sequence: 0,
            claims: BTreeMap::new(),
            digest: 0,
            in_sync: false,
            stale_groups: Vec::new(),
            parts: None,
            claims_requested: None,
            claims_sent: None,
            claims_wanted: false,
            hello_sent: None,
            stale_answers: Quota::default(),
            contested: Quota::default(),
            answers: Quota::default(),
            since: now,
            wanted_at: None,
        }
    }

    /// Checks a message and, if it is accepted, records its header.
    pub(super) fn check(&mut self, now: Instant, tokens: &mut Tokens, message: &Message) -> Freshness {
        let freshness = self.handshake.check(tokens, message);
        match freshness {
            Freshness::Fresh => {}
            Freshness::NewSession => {
                // It may have been restarted with other keys.
                self.keys.clear();
                self.hello_sequence = 0;
                self.in_sync = false;
            }
            Freshness::Stale | Freshness::Replayed => return freshness,
        }
        if self.handshake.is_latest(message.sequence) {
            self.flags = message.flags;
        }
        if message.flags.wanted {
            self.wanted_at = Some(now);
        }
        freshness
    }

    /// The token to answer a stale message with, unless it is not to be answered or its session was answered
    /// within the period.
    pub(super) fn answer_to_stale(
        &mut self,
        now: Instant,
        period: Duration,
        heard: bool,
        message: &Message,
    ) -> Option<u64> {
        let token = self.handshake.answer(message, heard)?;
        // Replays must not use up the answers to current messages.
        let most = MAX_STALE_ANSWERS * if self.handshake.is_current(message) { 2 } else { 1 };
        self.stale_answers.admit(now, period, most, message.session).then_some(token)
    }

    /// Whether to answer a message about a group: not twice within the period.
    pub(super) fn may_answer(&mut self, now: Instant, answer: Answer, claim: Claim) -> bool {
        self.answers.admit(now, ANSWER_PERIOD, MAX_ANSWERS, (answer, claim))
    }

    /// Whether the last transmission of all claims is long enough ago.
    pub(super) fn may_send_claims(&self, now: Instant, period: Duration) -> bool {
        self.claims_sent.is_none_or(|at| now.saturating_duration_since(at) >= period)
    }

    pub(super) fn liveness(&self, now: Instant, detection_time: Duration) -> Liveness {
        match self.heard.and_then(|heard| heard.checked_add(detection_time)) {
            None => Liveness::Unheard,
            Some(until) if now < until => Liveness::Alive,
            Some(until) => Liveness::Down(until),
        }
    }

    /// Records that it owns a group, or no longer owns it.
    pub(super) fn set_claim(&mut self, claim: Claim, owned: bool) {
        let before = if owned {
            self.claims.insert(claim.group, claim.epoch)
        } else {
            self.claims.remove(&claim.group)
        };
        if let Some(epoch) = before {
            self.digest ^= digest_of(Claim { group: claim.group, epoch });
        }
        if owned {
            self.digest ^= digest_of(claim);
        }
    }
}

/// Peers that are heard, ordered by the time at which they go down unless they are heard again: so the cost
/// of a message and of the next deadline does not grow with the number of peers.
#[derive(Debug, Default)]
pub(super) struct AlivePeers {
    at: BTreeMap<NodeId, Instant>,
    order: BTreeSet<(Instant, NodeId)>,
    /// How often one has come or gone.
    changes: u64,
}

impl AlivePeers {
    /// Records when a peer was heard. Returns whether it was not among them.
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

    /// The peer that has not been heard for the longest time, and when it was heard.
    pub(super) fn first(&self) -> Option<(Instant, NodeId)> {
        self.order.first().copied()
    }
}

impl Ownership {
    /// Records that a peer was heard.
    pub(super) fn note_heard(&mut self, now: Instant, id: NodeId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.heard = Some(now);
        if self.alive.note(id, now) {
            self.blocked.remove(&id);
            self.mark_stale(id);
            self.liveness_changed();
        }
    }

    /// Restarts the detection time of all peers that were ever heard.
    pub(super) fn mark_all_alive(&mut self, now: Instant) {
        let heard = self.peers.iter().filter(|(_, peer)| peer.heard.is_some());
        let heard: Vec<NodeId> = heard.map(|(id, _)| *id).collect();
        for id in heard {
            self.note_heard(now, id);
        }
    }

    /// Treats peers that were last heard before `floor` as heard then.
    pub(super) fn extend_liveness(&mut self, floor: Instant) {
        while let Some((_, id)) = self.alive.first().filter(|(at, _)| *at < floor) {
            self.note_heard(floor, id);
        }
    }

    /// Detects peers that went down.
    pub(super) fn detect_down_peers(&mut self, now: Instant) {
        let detection_time = self.detection_time();
        let is_down = |(at, _): &(Instant, NodeId)| now.saturating_duration_since(*at) >= detection_time;
        while let Some((_, id)) = self.alive.first().filter(is_down) {
            self.alive.remove(id);
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.in_sync = false;
            }
            self.counts.suspicions += 1;
            self.liveness_changed();
        }
    }

    /// While this speaker has not settled, nothing depends on liveness.
    fn liveness_changed(&mut self) {
        if self.settled {
            self.dirty.extend(self.view.groups.keys());
        }
    }

    pub(super) fn liveness(&self, now: Instant, id: NodeId) -> Liveness {
        self.peers.get(&id).map_or(Liveness::Unheard, |peer| peer.liveness(now, self.detection_time()))
    }

    /// The addresses of a speaker: the one that the API lists, and the source of its last message if that
    /// differs.
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

/// Names and hardware addresses of the nodes.
#[derive(Debug, Default)]
pub(super) struct NodeDirectory {
    pub(super) names: BTreeMap<NodeId, NodeName>,
    pub(super) macs: BTreeMap<[u8; 6], NodeId>,
}

impl NodeDirectory {
    /// Replaces the hardware addresses that a peer has sent. Those in the API stay, since a hello has room
    /// for few, and so do this node's own.
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
    use crate::layer2::beacon::Body;

    fn peer(now: Instant) -> (Peer, Tokens) {
        let mut tokens = Tokens::new(1);
        (Peer::new(now, &mut tokens), tokens)
    }

    #[test]
    fn a_peer_is_down_once_the_detection_time_is_over() {
        let (now, detection_time) = (Instant::now(), Duration::from_millis(300));
        let (mut peer, _) = peer(now);
        assert_eq!(peer.liveness(now, detection_time), Liveness::Unheard);
        peer.heard = Some(now);
        assert_eq!(peer.liveness(now + Duration::from_millis(299), detection_time), Liveness::Alive);
        assert_eq!(peer.liveness(now + detection_time, detection_time), Liveness::Down(now + detection_time));
    }

    #[test]
    fn the_flags_of_a_message_that_was_overtaken_are_ignored() {
        let now = Instant::now();
        let (mut peer, mut tokens) = peer(now);
        let echo = peer.handshake.token();
        for (sequence, leaving) in [(1, false), (3, true), (2, false)] {
            let flags = Flags { leaving, ..Flags::default() };
            let body = Body::Alive { digest: 0 };
            let message = Message { sender: NodeId(1), session: 5, echo, sequence, flags, body };
            peer.check(now, &mut tokens, &message);
        }
        assert!(peer.flags.leaving);
    }

    #[test]
    fn the_digest_of_claims_is_kept_up_to_date() {
        let (mut peer, _) = peer(Instant::now());
        let claim = |epoch| Claim { group: "10.0.0.1".parse().unwrap(), epoch };
        peer.set_claim(claim(1), true);
        peer.set_claim(claim(2), true);
        assert_eq!(peer.digest, crate::layer2::beacon::digest([claim(2)]));
        peer.set_claim(claim(2), false);
        peer.set_claim(claim(2), false);
        assert_eq!((peer.digest, peer.claims.len()), (0, 0));
    }

    /// The one place that knows which peer goes down next has one entry per peer, however often that is
    /// heard.
    #[test]
    fn peers_go_down_in_the_order_in_which_they_were_last_heard() {
        let (start, mut heard) = (Instant::now(), AlivePeers::default());
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
