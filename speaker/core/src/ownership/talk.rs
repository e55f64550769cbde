//! Whom this speaker talks with, and what it sends.
//!
//! Beacons go to the speakers that share a group with this one: its owner, its watchers, and those whose turn
//! it would be. So traffic grows with groups per node and not with the square of the nodes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::peers::Peer;
use super::{Blocked, Output, Ownership, WATCHERS};
use crate::beacon::{Body, ENTRIES, Flags, Message, NodeId, Stake};
use crate::view::Group;

/// A greeting is repeated after this time: it may have been lost, and tells what nothing else does.
const GREETED: Duration = Duration::from_secs(1);
/// Who said that it wants to hear from us is talked with for this long.
const WANTED: Duration = Duration::from_secs(2);
/// A ready speaker that has not been heard for this long is cut off.
const NEVER_HEARD: Duration = Duration::from_secs(5);
/// A speaker that is neither in the view nor heard is forgotten after this time.
const FORGET: Duration = Duration::from_secs(10);

/// What is to be sent to one peer.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) hello: bool,
    pub(super) alive: bool,
    pub(super) request: bool,
    pub(super) claims: bool,
    pub(super) updates: Vec<(Stake, bool)>,
    pub(super) intents: Vec<Stake>,
    pub(super) nacks: Vec<Stake>,
    pub(super) leaves: Vec<Stake>,
}

impl Ownership {
    /// Chooses anew whom to talk with.
    pub(super) fn choose_talk(&mut self, now: Instant) {
        self.talk_changed = false;
        let mut talk: BTreeSet<NodeId> = BTreeSet::new();
        // Of thousands of groups nearly all have the same few.
        let mut core = Vec::new();
        for group in self.view.groups.values() {
            core.clear();
            core.extend(self.core(group));
            if core.contains(&self.me) {
                talk.extend(&core);
            }
        }
        if !self.settled {
            let ready = self.view.speakers.iter().filter(|(_, speaker)| speaker.ready);
            talk.extend(ready.map(|(name, _)| NodeId::of(name)));
        }
        talk.remove(&self.me);
        for id in self.directory.names.keys().copied() {
            if talk.contains(&id) {
                let tokens = &mut self.tokens;
                let peer = self.peers.entry(id).or_insert_with(|| Peer::new(now, tokens));
                if peer.greeted.is_none() {
                    self.outgoing.entry(id).or_default().hello = true;
                }
            }
        }
        if !talk.is_empty() {
            self.next_beacon.get_or_insert(now);
        }
        self.talk = talk;
    }

    /// Forgets peers that this node has nothing in common with, or that are neither in the view nor heard.
    fn forget_idle(&mut self, now: Instant) {
        let patience = self.patience().max(WANTED);
        let forgotten: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(id, peer)| {
                let idle = now.saturating_duration_since(peer.heard.unwrap_or(peer.since));
                let in_view = self.directory.names.contains_key(id);
                !(in_view && self.talk.contains(id)) && idle > if in_view { FORGET } else { patience }
            })
            .map(|(id, _)| *id)
            .collect();
        for id in forgotten {
            self.forget(id);
        }
    }

    /// Who has to know about a group: its owners, and the first of those whose turn it would be. Some more than once.
    fn core<'a>(&'a self, group: &'a Group) -> impl Iterator<Item = NodeId> + 'a {
        let owners = self.claims_of(group.id).map(|(node, _)| node);
        let mine = self.mine.contains_key(&group.id).then_some(self.me);
        let last = group.last.as_ref().map(|(node, _)| node);
        let named = last.into_iter().chain(self.view.placed.get(&group.id));
        let named = named.filter_map(|name| group.candidates.id_of(name));
        let watchers = group.candidates.iter().take(WATCHERS + 1).map(|candidate| candidate.id);
        owners.chain(mine).chain(named).chain(watchers)
    }

    fn forget(&mut self, id: NodeId) {
        if let Some(peer) = self.peers.remove(&id) {
            for group in peer.claims.keys() {
                self.unclaim(*group, id);
            }
            self.directory.replace_macs(id, &peer.macs, &BTreeSet::new(), (&self.view, &self.macs));
        }
        self.alive.remove(id);
        self.blocked.remove(&id);
        self.outgoing.remove(&id);
    }

    /// Sends beacons when they are due.
    pub(super) fn beacon(&mut self, now: Instant) {
        let Some(at) = self.next_beacon.filter(|at| *at <= now) else { return };
        // From the time that was promised, so that the rhythm holds; not from long ago.
        let after = at.checked_add(self.settings.interval).filter(|after| *after > now);
        self.next_beacon = after.or_else(|| now.checked_add(self.settings.interval));
        if self.talk_changed {
            self.choose_talk(now);
        }
        self.forget_idle(now);
        let recent = |peer: &Peer| peer.wants_us.is_some_and(|at| now.saturating_duration_since(at) < WANTED);
        let interval = self.settings.interval;
        for (id, peer) in &mut self.peers {
            if peer.asks && peer.may_be_informed(now, interval) {
                (peer.asks, peer.informed) = (false, Some(now));
                self.outgoing.entry(*id).or_default().claims = true;
            }
            if !self.talk.contains(id) && !recent(peer) {
                continue;
            }
            let outgoing = self.outgoing.entry(*id).or_default();
            if peer.handshake.echo() == 0 {
                outgoing.hello = true;
                let ready = self.directory.names.get(id).and_then(|name| self.view.speakers.get(name));
                let long = now.saturating_duration_since(peer.since) > NEVER_HEARD;
                if ready.is_some_and(|speaker| speaker.ready) && long {
                    self.blocked.entry(*id).or_insert(Blocked::NeverHeard);
                }
            } else {
                outgoing.alive = true;
                let recently = |at: Instant| now.saturating_duration_since(at) < GREETED;
                outgoing.hello |= !peer.greeted.is_some_and(recently);
            }
        }
    }

    /// Greets every peer: something that a hello tells has changed.
    pub(super) fn greet_all(&mut self) {
        for id in self.peers.keys() {
            self.outgoing.entry(*id).or_default().hello = true;
        }
    }

    /// Tells one peer who this node is, by a token and in answer to a session that it need not have proved to
    /// be its own: what is sent all the time echoes only what has been.
    pub(super) fn introduce(&mut self, id: NodeId, address: IpAddr, token: u64, echo: u64) {
        self.sequence = self.sequence.saturating_add(1);
        let message = Message {
            sender: self.me,
            session: token,
            echo,
            sequence: self.sequence,
            flags: self.flags(id, self.is_fenced()),
            body: self.hello(),
        };
        // It may have been started again since it told its keys, and have others.
        self.outputs.push_back(Output::Send { address, keys: Vec::new(), message });
    }

    fn hello(&self) -> Body {
        let macs = self.macs.iter().copied().take(16).collect();
        Body::Hello { macs, keys: self.keys.clone() }
    }

    fn flags(&self, to: NodeId, stalled: bool) -> Flags {
        Flags { leaving: self.leaving, stalled, wanted: self.talk.contains(&to) }
    }

    /// Tells every peer that shares a group about a change of what this node owns.
    pub(super) fn tell_all(&mut self, stake: Stake, held: bool) {
        self.talk_changed = true;
        for (id, peer) in &self.peers {
            if self.talk.contains(id) || peer.wants_us.is_some() {
                self.outgoing.entry(*id).or_default().updates.push((stake, held));
            }
        }
    }

    /// Writes what is to be sent.
    pub(super) fn flush(&mut self, now: Instant) {
        if self.outgoing.is_empty() {
            return;
        }
        let stalled = self.is_fenced();
        for (id, outgoing) in std::mem::take(&mut self.outgoing) {
            let flags = self.flags(id, stalled);
            self.flush_to(now, id, flags, outgoing);
        }
    }

    fn flush_to(&mut self, now: Instant, id: NodeId, flags: Flags, outgoing: Outgoing) {
        let hello = outgoing.hello;
        let bodies = self.bodies(outgoing);
        let heard = self.alive.contains(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if hello {
            peer.greeted = Some(now);
        }
        let (session, echo, source) = (peer.handshake.token(), peer.handshake.echo(), peer.source);
        let known_keys = peer.keys.clone();
        for address in self.routes(id, source) {
            for body in bodies.iter().cloned() {
                // Who is not heard may have been started again, and have other keys than it told.
                let is_greeting = matches!(body, Body::Hello { .. });
                let keys = if !heard && is_greeting { Vec::new() } else { known_keys.clone() };
                self.sequence = self.sequence.saturating_add(1);
                let message =
                    Message { sender: self.me, session, echo, sequence: self.sequence, flags, body };
                self.outputs.push_back(Output::Send { address, keys, message });
            }
        }
    }

    fn bodies(&self, outgoing: Outgoing) -> Vec<Body> {
        let Outgoing { hello, alive, request, claims, updates, intents, nacks, leaves } = outgoing;
        let mut bodies: Vec<Body> = Vec::new();
        if hello {
            bodies.push(self.hello());
        }
        bodies.extend(updates.chunks(ENTRIES).map(|part| Body::Update(part.to_vec())));
        for (stakes, body) in
            [(leaves, Body::Leave as fn(Vec<Stake>) -> Body), (nacks, Body::Nack), (intents, Body::Intent)]
        {
            bodies.extend(stakes.chunks(ENTRIES).map(|part| body(part.to_vec())));
        }
        if claims {
            let all: Vec<Stake> =
                self.mine.iter().map(|(group, epoch)| Stake { group: *group, epoch: *epoch }).collect();
            let parts = all.len().div_ceil(ENTRIES).max(1);
            let parts = u16::try_from(parts).unwrap_or(u16::MAX);
            for part in 0..parts {
                let stakes = all.iter().skip(usize::from(part) * ENTRIES).take(ENTRIES).copied().collect();
                bodies.push(Body::Claims { claims: self.print, part, parts, stakes });
            }
        }
        if request {
            bodies.push(Body::Request);
        }
        if alive {
            bodies.push(Body::Alive { claims: self.print });
        }
        bodies
    }
}
