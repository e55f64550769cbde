//! What the messages of other speakers say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use super::freshness::Freshness;
use super::peers::{Answer, Liveness, Parts, Peer};
use super::phase::{Cause, Event, Phase};
use super::{Blocked, Output, Ownership, RECONSIDERED, REFUSAL, REMIND, believed, next_epoch};
use crate::beacon::{Body, ENTRIES, KeyId, Message, NodeId, Stake};
use crate::view::GroupId;

/// Speakers that are talked with although the API does not show them yet.
const PEERS: usize = 8_192;
/// Claims of all peers together: ten times as many as a large cluster has groups.
pub(super) const CLAIMS: usize = 131_072;
/// Parts of a list of claims.
const PARTS: u16 = 3_277;

impl Ownership {
    pub(super) fn receive(&mut self, now: Instant, from: IpAddr, message: Message) {
        let id = message.sender;
        if id == self.me || (self.peers.len() >= PEERS && !self.peers.contains_key(&id)) {
            return;
        }
        let tokens = &mut self.tokens;
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(now, tokens));
        match peer.judge(now, tokens, &message) {
            Freshness::Fresh => {}
            Freshness::NewSession => {
                self.replace_claims(now, id, BTreeMap::new());
                // So that the other side knows that it is known, since it may be waiting to settle, and with
                // whom it speaks: what greeted it before did not echo its token, so it did not count.
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
        self.hear(now, id);
        self.notice_silence(now);
        self.read(now, id, message);
    }

    /// What a message says that counts.
    fn read(&mut self, now: Instant, id: NodeId, message: Message) {
        match message.body {
            Body::Hello { macs, keys } => self.greeted(now, id, message.sequence, macs, keys),
            Body::Alive { claims } => self.compare(now, id, claims),
            Body::Update(changes) => {
                for (stake, held) in changes {
                    self.note_claim(now, id, stake, held);
                }
            }
            Body::Request => self.inform(now, id),
            Body::Claims { claims, part, parts, stakes } => {
                self.assemble(now, id, claims, part, parts, stakes);
            }
            Body::Intent(stakes) => {
                for stake in stakes {
                    self.intended(now, id, stake);
                }
            }
            Body::Nack(stakes) => {
                for stake in stakes {
                    self.nacked(now, id, stake);
                }
            }
            Body::Leave(stakes) => {
                for stake in stakes {
                    self.offered(now, id, stake);
                }
            }
            Body::Unknown => {}
        }
    }

    /// Greets somebody who does not echo our token. The answer tells it, and echoes theirs, so that what they
    /// say next counts. What is repeated may come from anywhere: of who is heard it is known how to reach it.
    fn answer_stale(&mut self, now: Instant, from: IpAddr, message: &Message) {
        let (id, period) = (message.sender, self.settings.interval / 2);
        let heard = self.alive.contains(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(token) = peer.answer_to_stale(now, period, heard, message) {
            let source = if heard { peer.source } else { Some(from) };
            for address in self.routes(id, source) {
                self.introduce(id, address, token, message.session);
            }
        }
    }

    fn greeted(&mut self, now: Instant, id: NodeId, sequence: u64, macs: Vec<[u8; 6]>, keys: Vec<KeyId>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if sequence < peer.introduced {
            // A later one has overtaken it.
            return;
        }
        peer.introduced = sequence;
        peer.keys = keys;
        let before = std::mem::replace(&mut peer.macs, macs.into_iter().collect::<BTreeSet<_>>());
        if before != peer.macs {
            self.directory.replace_macs(id, &before, &peer.macs, (&self.view, &self.macs));
            self.recognise(now);
        }
    }

    /// Asks for all claims if what is known of them does not add up.
    fn compare(&mut self, now: Instant, id: NodeId, claims: u64) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let agreed = std::mem::replace(&mut peer.agrees, peer.print == claims);
        if !peer.agrees {
            self.request(now, id);
        } else if !agreed {
            self.remind_of_doubtful(now, id);
        }
    }

    /// Asks a peer for all its claims, not too often.
    fn request(&mut self, now: Instant, id: NodeId) {
        let period = self.settings.interval / 2;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.requested.is_none_or(|at| now.saturating_duration_since(at) >= period) {
            peer.requested = Some(now);
            self.outgoing.entry(id).or_default().request = true;
        }
    }

    /// Sends a peer all our claims: at once, or with a later beacon if they were sent less than an interval
    /// ago.
    fn inform(&mut self, now: Instant, id: NodeId) {
        let interval = self.settings.interval;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.asks = !peer.may_be_informed(now, interval);
        if !peer.asks {
            peer.informed = Some(now);
            self.outgoing.entry(id).or_default().claims = true;
        }
    }

    /// A frame says that a peer has a group of ours. It learns of our claim, or we of its better one; but
    /// anybody can make such frames.
    pub(super) fn exchange_claims(&mut self, now: Instant, id: NodeId, ours: Stake) {
        let period = self.settings.interval / 2;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.contested.admit(now, period, ENTRIES, ours.group) {
            self.outgoing.entry(id).or_default().updates.push((ours, true));
        }
        self.request(now, id);
    }

    /// Answers something that a peer said about a group, not twice at the same time.
    fn answer(&mut self, now: Instant, id: NodeId, answer: Answer, stake: Stake) {
        if !self.peers.get_mut(&id).is_some_and(|peer| peer.may_be_answered(now, answer, stake)) {
            return;
        }
        let outgoing = self.outgoing.entry(id).or_default();
        match answer {
            Answer::Claim => outgoing.updates.push((stake, true)),
            Answer::Intent => outgoing.intents.push(stake),
            Answer::Nack => outgoing.nacks.push(stake),
        }
    }

    fn assemble(&mut self, now: Instant, id: NodeId, claims: u64, part: u16, parts: u16, stakes: Vec<Stake>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if part >= parts || parts > PARTS {
            return;
        }
        let assembly = match peer.parts.take() {
            Some(assembly) if assembly.claims == claims => peer.parts.insert(assembly),
            _ => peer.parts.insert(Parts { claims, parts: BTreeMap::new() }),
        };
        assembly.parts.insert(part, stakes);
        if assembly.parts.len() < usize::from(parts) {
            return;
        }
        let Some(assembly) = peer.parts.take() else { return };
        let all = assembly.parts.into_values().flatten();
        let all: BTreeMap<GroupId, u64> = all.map(|stake| (stake.group, stake.epoch)).collect();
        self.replace_claims(now, id, all);
    }

    /// Replaces what is known of a peer's claims.
    pub(super) fn replace_claims(&mut self, now: Instant, id: NodeId, claims: BTreeMap<GroupId, u64>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.parts = None;
        let gone: Vec<Stake> = peer
            .claims
            .iter()
            .filter(|(group, _)| !claims.contains_key(group))
            .map(|(group, epoch)| Stake { group: *group, epoch: *epoch })
            .collect();
        for stake in gone {
            self.note_claim(now, id, stake, false);
        }
        for (group, epoch) in claims {
            self.note_claim(now, id, Stake { group, epoch }, true);
        }
    }

    fn note_claim(&mut self, now: Instant, id: NodeId, stake: Stake, held: bool) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if held && self.claimed.len() >= CLAIMS && !peer.claims.contains_key(&stake.group) {
            return;
        }
        let unchanged = peer.claims.get(&stake.group) == held.then_some(&stake.epoch);
        peer.set_claim(stake, held);
        if !held {
            if let Some(state) = self.groups.get_mut(&stake.group) {
                state.released = Some(now);
            }
            self.unclaim(stake.group, id);
            return;
        }
        let theirs = believed(stake.epoch);
        self.claimed.insert((stake.group, id), theirs);
        if !self.view.groups.contains_key(&stake.group) {
            self.claimed_unknown.insert((id, stake.group));
        }
        if !unchanged {
            self.dirty.insert(stake.group);
            self.talk_changed = true;
        }
        let Some(state) = self.groups.get_mut(&stake.group) else { return };
        state.highest = state.highest.max(theirs);
        let Some(epoch) = state.phase.claimed() else { return };
        if (theirs, id) > (epoch, self.me) {
            self.apply(now, stake.group, Event::Outbid);
        } else {
            // It does not know of the better claim yet.
            let better = Stake { group: stake.group, epoch };
            self.answer(now, id, Answer::Claim, better);
            if !unchanged {
                self.remind(now, stake.group);
            }
        }
    }

    /// A speaker is heard again. What it owned when it was heard last, and what is ours since, it has
    /// announced all the time if it was only cut off. Who of the two keeps it is known once it has told what
    /// it claims by now.
    pub(super) fn doubt(&mut self, id: NodeId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let mine = &self.mine;
        peer.doubtful = peer.claims.keys().filter(|group| mine.contains_key(group)).copied().collect();
    }

    /// What a speaker claims is known: what is ours all the same is told to neighbours anew.
    fn remind_of_doubtful(&mut self, now: Instant, id: NodeId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        for group in std::mem::take(&mut peer.doubtful) {
            self.remind(now, group);
        }
    }

    /// Tells neighbours anew who has a group that is ours, not too often.
    pub(super) fn remind(&mut self, now: Instant, group: GroupId) {
        let Some(state) = self.groups.get_mut(&group).filter(|state| state.phase.claimed().is_some()) else {
            return;
        };
        if state.reminded.is_none_or(|last| now.saturating_duration_since(last) >= REMIND) {
            state.reminded = Some(now);
            self.outputs.push_back(Output::Remind(group));
        }
    }

    pub(super) fn unclaim(&mut self, group: GroupId, id: NodeId) {
        if self.claimed.remove(&(group, id)).is_some() {
            self.claimed_unknown.remove(&(id, group));
            self.dirty.insert(group);
            self.talk_changed = true;
        }
    }

    /// A peer is going to claim a group because it does not hear its owner.
    fn intended(&mut self, now: Instant, id: NodeId, stake: Stake) {
        let Some(state) = self.groups.get(&stake.group) else { return };
        let theirs = believed(stake.epoch);
        match state.phase {
            Phase::Owning { epoch } | Phase::Leaving { epoch, .. } => {
                self.answer(now, id, Answer::Nack, stake);
                self.answer(now, id, Answer::Claim, Stake { group: stake.group, epoch });
                return;
            }
            Phase::Asking { epoch, cause: Cause::Recheck } => {
                // We were away, they are not: it is theirs.
                if theirs > epoch {
                    self.apply(now, stake.group, Event::Outbid);
                }
                return;
            }
            Phase::Asking { epoch, .. } => {
                if (theirs, id) > (epoch, self.me) {
                    self.apply(now, stake.group, Event::Outbid);
                } else {
                    let ours = Stake { group: stake.group, epoch };
                    self.answer(now, id, Answer::Intent, ours);
                }
            }
            Phase::Idle | Phase::Refused => {}
        }
        // Beacons do not reach everybody at the same moment: only who has heard the owner in the last one and
        // a half intervals contradicts.
        let recent = self.settings.interval * 3 / 2;
        let heard = |node| {
            self.peers
                .get(&node)
                .and_then(|peer| peer.heard)
                .is_some_and(|at| now.saturating_duration_since(at) <= recent)
        };
        let hears_owner = self.best_claim(stake.group).is_some_and(|(_, owner)| owner != id && heard(owner));
        if hears_owner {
            self.answer(now, id, Answer::Nack, stake);
        }
    }

    fn nacked(&mut self, now: Instant, id: NodeId, stake: Stake) {
        let Some(state) = self.groups.get_mut(&stake.group) else { return };
        match state.phase {
            Phase::Asking { epoch, cause } if epoch == stake.epoch => {
                if let Cause::Takeover(owner) = cause {
                    self.blocked.insert(owner, Blocked::HeardBy(id));
                }
                self.apply(now, stake.group, Event::Nacked);
            }
            Phase::Leaving { to, epoch } if to == id && epoch == stake.epoch => {
                if let Some(until) = now.checked_add(RECONSIDERED) {
                    state.declined.insert(id, until);
                }
                self.dirty.insert(stake.group);
            }
            Phase::Asking { .. }
            | Phase::Leaving { .. }
            | Phase::Owning { .. }
            | Phase::Idle
            | Phase::Refused => {}
        }
    }

    /// The owner hands a group to this node: it skips the probe, since the owner still answers.
    fn offered(&mut self, now: Instant, id: NodeId, stake: Stake) {
        let admitted = self.view.groups.get(&stake.group).is_some_and(|g| g.admits(&self.settings.me));
        let state = self.groups.get(&stake.group);
        if let Some(epoch) = state.and_then(|state| state.phase.claimed()) {
            // It was taken already, and the owner has not heard so.
            self.answer(now, id, Answer::Claim, Stake { group: stake.group, epoch });
            return;
        }
        let highest = state.map_or(0, |state| state.highest).max(believed(stake.epoch));
        // The view of the owner may be late, and what came to the group be announced by another speaker still.
        let recent = |at: Instant| now.saturating_duration_since(at) < REFUSAL;
        let regrouped = state.and_then(|state| state.regrouped).is_some_and(recent);
        let able = admitted && !regrouped && !self.leaving && !self.is_fenced() && self.settled;
        if able && !self.has_better_owner(now, id, stake) {
            self.apply(now, stake.group, Event::Invited { epoch: next_epoch(highest) });
            if let Some(state) = self.groups.get_mut(&stake.group) {
                state.came_from(now, id);
            }
        } else {
            self.answer(now, id, Answer::Nack, stake);
        }
    }

    /// Whether somebody who is heard has a better claim to a group than the peer that hands it over, which
    /// was cut off and does not know yet that it has lost it.
    fn has_better_owner(&self, now: Instant, id: NodeId, stake: Stake) -> bool {
        let theirs = believed(stake.epoch);
        self.claims_of(stake.group).any(|(node, epoch)| {
            (epoch, node) > (theirs, id) && node != id && self.liveness(now, node) == Liveness::Alive
        })
    }
}
