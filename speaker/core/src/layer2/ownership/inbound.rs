//! Handling of the messages of other speakers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use super::epoch::{next_epoch, sanitized_epoch};
use super::freshness::Freshness;
use super::peers::{Answer, Liveness, Parts, Peer};
use super::phase::{Event, Phase, ProbeCause};
use super::{BACKOFF, Blocked, DECLINE_EXPIRY, Output, Ownership, REANNOUNCE_INTERVAL};
use crate::cluster::GroupId;
use crate::cluster::NodeId;
use crate::layer2::beacon::{Body, Claim, ENTRIES, KeyId, Message};

/// Peers that are tracked although the API does not show them yet.
const MAX_PEERS: usize = 8_192;
/// Claims of all peers together: ten times as many as a large cluster has groups.
pub(super) const MAX_CLAIMS: usize = 131_072;
/// Parts of a list of claims.
const MAX_PARTS: u16 = 3_277;

impl Ownership {
    pub(super) fn on_message(&mut self, now: Instant, from: IpAddr, message: Message) {
        let id = message.sender;
        if id == self.me || (self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&id)) {
            return;
        }
        let tokens = &mut self.tokens;
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(now, tokens));
        match peer.check(now, tokens, &message) {
            Freshness::Fresh => {}
            Freshness::NewSession => {
                self.replace_claims(now, id, BTreeMap::new());
                // The answer confirms the session to the peer, which may be waiting for it to settle: an
                // earlier hello to it did not echo its token and was ignored.
                let outgoing = self.outgoing.entry(id).or_default();
                (outgoing.hello, outgoing.alive) = (true, true);
            }
            Freshness::Stale => {
                self.counts.stale += 1;
                self.answer_stale(now, from, &message);
                return;
            }
            Freshness::Replayed => {
                self.counts.replayed += 1;
                return;
            }
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.source = Some(from);
        }
        self.note_heard(now, id);
        self.detect_down_peers(now);
        self.dispatch(now, id, message);
    }

    /// Handles the body of an accepted message.
    fn dispatch(&mut self, now: Instant, id: NodeId, message: Message) {
        match message.body {
            Body::Hello { macs, keys } => self.on_hello(now, id, message.sequence, macs, keys),
            Body::Alive { digest } => self.compare_digest(now, id, digest),
            Body::Update(changes) => {
                for (claim, owned) in changes {
                    self.note_claim(now, id, claim, owned);
                }
            }
            Body::Request => self.send_claims(now, id),
            Body::Claims { digest, part, parts, claims } => {
                self.assemble_claims(now, id, digest, part, parts, claims);
            }
            Body::Intent(claims) => {
                for claim in claims {
                    self.on_intent(now, id, claim);
                }
            }
            Body::Nack(claims) => {
                for claim in claims {
                    self.on_nack(now, id, claim);
                }
            }
            Body::Leave(claims) => {
                for claim in claims {
                    self.on_offer(now, id, claim);
                }
            }
            Body::Unknown => {}
        }
    }

    /// Sends a hello to a peer that does not echo our token. It carries the token and echoes the peer's, so
    /// that the next message is accepted. A replayed message may come from anywhere, so a peer that is heard
    /// is answered at its known address.
    fn answer_stale(&mut self, now: Instant, from: IpAddr, message: &Message) {
        let (id, period) = (message.sender, self.settings.interval / 2);
        let heard = self.alive.contains(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(token) = peer.answer_to_stale(now, period, heard, message) {
            let source = if heard { peer.source } else { Some(from) };
            for address in self.routes(id, source) {
                self.answer_with_hello(id, address, token, message.session);
            }
        }
    }

    fn on_hello(&mut self, now: Instant, id: NodeId, sequence: u64, macs: Vec<[u8; 6]>, keys: Vec<KeyId>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if sequence < peer.hello_sequence {
            // It was overtaken by a later one.
            return;
        }
        peer.hello_sequence = sequence;
        peer.keys = keys;
        let before = std::mem::replace(&mut peer.macs, macs.into_iter().collect::<BTreeSet<_>>());
        if before != peer.macs {
            self.directory.replace_macs(id, &before, &peer.macs, (&self.view, &self.macs));
            self.resolve_known_speakers(now);
        }
    }

    /// Requests all claims if the known ones do not match the digest.
    fn compare_digest(&mut self, now: Instant, id: NodeId, digest: u64) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let agreed = std::mem::replace(&mut peer.in_sync, peer.digest == digest);
        if !peer.in_sync {
            self.request_claims(now, id);
        } else if !agreed {
            self.reannounce_stale(now, id);
        }
    }

    /// Requests all claims of a peer, not too often.
    fn request_claims(&mut self, now: Instant, id: NodeId) {
        let period = self.settings.interval / 2;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.claims_requested.is_none_or(|at| now.saturating_duration_since(at) >= period) {
            peer.claims_requested = Some(now);
            self.outgoing.entry(id).or_default().request = true;
        }
    }

    /// Sends all our claims to a peer: at once, or with a later beacon if they were sent less than an
    /// interval ago.
    fn send_claims(&mut self, now: Instant, id: NodeId) {
        let interval = self.settings.interval;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.claims_wanted = !peer.may_send_claims(now, interval);
        if !peer.claims_wanted {
            peer.claims_sent = Some(now);
            self.outgoing.entry(id).or_default().claims = true;
        }
    }

    /// A frame shows that a peer uses a group of ours: it learns of our claim, or we of its better one.
    /// Limited, since anybody can forge such frames.
    pub(super) fn exchange_claims(&mut self, now: Instant, id: NodeId, ours: Claim) {
        let period = self.settings.interval / 2;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.contested.admit(now, period, ENTRIES, ours.group) {
            self.outgoing.entry(id).or_default().updates.push((ours, true));
        }
        self.request_claims(now, id);
    }

    /// Answers a message of a peer about a group, but not twice within [`ANSWER_PERIOD`](super::peers).
    fn answer(&mut self, now: Instant, id: NodeId, answer: Answer, claim: Claim) {
        if !self.peers.get_mut(&id).is_some_and(|peer| peer.may_answer(now, answer, claim)) {
            return;
        }
        let outgoing = self.outgoing.entry(id).or_default();
        match answer {
            Answer::Claim => outgoing.updates.push((claim, true)),
            Answer::Intent => outgoing.intents.push(claim),
            Answer::Nack => outgoing.nacks.push(claim),
        }
    }

    fn assemble_claims(
        &mut self,
        now: Instant,
        id: NodeId,
        digest: u64,
        part: u16,
        parts: u16,
        claims: Vec<Claim>,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if part >= parts || parts > MAX_PARTS {
            return;
        }
        let assembly = match peer.parts.take() {
            Some(assembly) if assembly.digest == digest => peer.parts.insert(assembly),
            _ => peer.parts.insert(Parts { digest, parts: BTreeMap::new() }),
        };
        assembly.parts.insert(part, claims);
        if assembly.parts.len() < usize::from(parts) {
            return;
        }
        let Some(assembly) = peer.parts.take() else { return };
        let all = assembly.parts.into_values().flatten();
        let all: BTreeMap<GroupId, u64> = all.map(|claim| (claim.group, claim.epoch)).collect();
        self.replace_claims(now, id, all);
    }

    /// Replaces the known claims of a peer.
    pub(super) fn replace_claims(&mut self, now: Instant, id: NodeId, claims: BTreeMap<GroupId, u64>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.parts = None;
        let released: Vec<Claim> = peer
            .claims
            .iter()
            .filter(|(group, _)| !claims.contains_key(group))
            .map(|(group, epoch)| Claim { group: *group, epoch: *epoch })
            .collect();
        for claim in released {
            self.note_claim(now, id, claim, false);
        }
        for (group, epoch) in claims {
            self.note_claim(now, id, Claim { group, epoch }, true);
        }
    }

    fn note_claim(&mut self, now: Instant, id: NodeId, claim: Claim, owned: bool) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if owned && self.peer_claims.len() >= MAX_CLAIMS && !peer.claims.contains_key(&claim.group) {
            return;
        }
        let unchanged = peer.claims.get(&claim.group) == owned.then_some(&claim.epoch);
        peer.set_claim(claim, owned);
        if !owned {
            if let Some(state) = self.groups.get_mut(&claim.group) {
                state.released = Some(now);
            }
            self.unclaim(claim.group, id);
            return;
        }
        let theirs = sanitized_epoch(claim.epoch);
        self.peer_claims.insert((claim.group, id), theirs);
        if !self.view.groups.contains_key(&claim.group) {
            self.unknown_group_claims.insert((id, claim.group));
        }
        if !unchanged {
            self.dirty.insert(claim.group);
            self.beacon_peers_changed = true;
        }
        let Some(state) = self.groups.get_mut(&claim.group) else { return };
        state.highest_epoch = state.highest_epoch.max(theirs);
        let Some(epoch) = state.phase.claimed() else { return };
        if (theirs, id) > (epoch, self.me) {
            self.apply(now, claim.group, Event::Superseded);
        } else {
            // It does not know of the better claim yet.
            let better = Claim { group: claim.group, epoch };
            self.answer(now, id, Answer::Claim, better);
            if !unchanged {
                self.reannounce(now, claim.group);
            }
        }
    }

    /// A peer is heard again. If it was only cut off, it has announced all the time what it owned before,
    /// including groups that are ours by now. Which of the two keeps them is known once its claims are in
    /// sync.
    pub(super) fn mark_stale(&mut self, id: NodeId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let owned = &self.owned;
        peer.stale_groups = peer.claims.keys().filter(|group| owned.contains_key(group)).copied().collect();
    }

    /// The claims of a peer are in sync: announces again the groups that are still ours.
    fn reannounce_stale(&mut self, now: Instant, id: NodeId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        for group in std::mem::take(&mut peer.stale_groups) {
            self.reannounce(now, group);
        }
    }

    /// Announces a group of ours again, not too often.
    pub(super) fn reannounce(&mut self, now: Instant, group: GroupId) {
        let Some(state) = self.groups.get_mut(&group).filter(|state| state.phase.claimed().is_some()) else {
            return;
        };
        if state.reannounced.is_none_or(|last| now.saturating_duration_since(last) >= REANNOUNCE_INTERVAL) {
            state.reannounced = Some(now);
            self.outputs.push_back(Output::Reannounce(group));
        }
    }

    pub(super) fn unclaim(&mut self, group: GroupId, id: NodeId) {
        if self.peer_claims.remove(&(group, id)).is_some() {
            self.unknown_group_claims.remove(&(id, group));
            self.dirty.insert(group);
            self.beacon_peers_changed = true;
        }
    }

    /// A peer is going to claim a group because it does not hear its owner.
    fn on_intent(&mut self, now: Instant, id: NodeId, claim: Claim) {
        let Some(state) = self.groups.get(&claim.group) else { return };
        let theirs = sanitized_epoch(claim.epoch);
        match state.phase {
            Phase::Active { epoch } | Phase::HandingOver { epoch, .. } => {
                self.answer(now, id, Answer::Nack, claim);
                self.answer(now, id, Answer::Claim, Claim { group: claim.group, epoch });
                return;
            }
            Phase::Probing { epoch, cause: ProbeCause::Recheck } => {
                // We were stalled, the peer was not: it gets the group.
                if theirs > epoch {
                    self.apply(now, claim.group, Event::Superseded);
                }
                return;
            }
            Phase::Probing { epoch, .. } => {
                if (theirs, id) > (epoch, self.me) {
                    self.apply(now, claim.group, Event::Superseded);
                } else {
                    let ours = Claim { group: claim.group, epoch };
                    self.answer(now, id, Answer::Intent, ours);
                }
            }
            Phase::Idle | Phase::Backoff => {}
        }
        // Beacons do not reach all peers at the same moment: only a node that has heard the owner within the
        // last one and a half intervals objects.
        let recent = self.settings.interval * 3 / 2;
        let heard = |node| {
            self.peers
                .get(&node)
                .and_then(|peer| peer.heard)
                .is_some_and(|at| now.saturating_duration_since(at) <= recent)
        };
        let hears_owner = self.best_claim(claim.group).is_some_and(|(_, owner)| owner != id && heard(owner));
        if hears_owner {
            self.answer(now, id, Answer::Nack, claim);
        }
    }

    fn on_nack(&mut self, now: Instant, id: NodeId, claim: Claim) {
        let Some(state) = self.groups.get_mut(&claim.group) else { return };
        match state.phase {
            Phase::Probing { epoch, cause } if epoch == claim.epoch => {
                if let ProbeCause::Takeover(owner) = cause {
                    self.blocked.insert(owner, Blocked::HeardBy(id));
                }
                self.apply(now, claim.group, Event::Nacked);
            }
            Phase::HandingOver { to, epoch } if to == id && epoch == claim.epoch => {
                if let Some(until) = now.checked_add(DECLINE_EXPIRY) {
                    state.declined.insert(id, until);
                }
                self.dirty.insert(claim.group);
            }
            Phase::Probing { .. }
            | Phase::HandingOver { .. }
            | Phase::Active { .. }
            | Phase::Idle
            | Phase::Backoff => {}
        }
    }

    /// The owner hands a group over to this node, which skips the probe: the owner still answers.
    fn on_offer(&mut self, now: Instant, id: NodeId, claim: Claim) {
        let admitted = self.view.groups.get(&claim.group).is_some_and(|g| g.admits(&self.settings.me));
        let state = self.groups.get(&claim.group);
        if let Some(epoch) = state.and_then(|state| state.phase.claimed()) {
            // It was taken over already, and the owner has not heard of that.
            self.answer(now, id, Answer::Claim, Claim { group: claim.group, epoch });
            return;
        }
        let highest = state.map_or(0, |state| state.highest_epoch).max(sanitized_epoch(claim.epoch));
        // The view of the owner may be late, so that an address added to the group is still announced by
        // another speaker.
        let recent = |at: Instant| now.saturating_duration_since(at) < BACKOFF;
        let regrouped = state.and_then(|state| state.regrouped_at).is_some_and(recent);
        let able = admitted && !regrouped && !self.leaving && !self.is_fenced() && self.settled;
        if able && !self.has_better_owner(now, id, claim) {
            self.apply(now, claim.group, Event::HandedOver { epoch: next_epoch(highest) });
            if let Some(state) = self.groups.get_mut(&claim.group) {
                state.note_handover(now, id);
            }
        } else {
            self.answer(now, id, Answer::Nack, claim);
        }
    }

    /// Whether a peer that is heard has a better claim than the peer that hands the group over, which was cut
    /// off and does not know yet that it was superseded.
    fn has_better_owner(&self, now: Instant, id: NodeId, claim: Claim) -> bool {
        let theirs = sanitized_epoch(claim.epoch);
        self.claims_of(claim.group).any(|(node, epoch)| {
            (epoch, node) > (theirs, id) && node != id && self.liveness(now, node) == Liveness::Alive
        })
    }
}
