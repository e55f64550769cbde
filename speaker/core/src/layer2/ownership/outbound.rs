//! Which peers receive beacons, and what is sent to them.
//!
//! Beacons go to the speakers that share a group with this one: its owner, its watchers, and the next
//! candidates. So the traffic grows with the groups per node and not with the square of the nodes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::peers::Peer;
use super::{Blocked, Output, Ownership, WATCHERS};
use crate::cluster::NodeId;
use crate::layer2::beacon::{Body, Claim, ENTRIES, Flags, Message};
use crate::layer2::view::Group;

/// A hello is repeated at this interval: it may have been lost, and carries what no other message does.
const HELLO_INTERVAL: Duration = Duration::from_secs(1);
/// A peer that set the flag `wanted` receives beacons for this long.
const WANTED_TIMEOUT: Duration = Duration::from_secs(2);
/// A ready speaker that has not been heard for this long is reported as blocked.
const NEVER_HEARD_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that shares no group with this node is forgotten after it was not heard for this time.
const FORGET_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages to be sent to one peer.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) hello: bool,
    pub(super) alive: bool,
    pub(super) request: bool,
    pub(super) claims: bool,
    pub(super) updates: Vec<(Claim, bool)>,
    pub(super) intents: Vec<Claim>,
    pub(super) nacks: Vec<Claim>,
    pub(super) leaves: Vec<Claim>,
}

impl Ownership {
    /// Recomputes which peers receive beacons.
    pub(super) fn select_beacon_peers(&mut self, now: Instant) {
        self.beacon_peers_changed = false;
        let mut selected: BTreeSet<NodeId> = BTreeSet::new();
        // Of thousands of groups nearly all have the same few nodes.
        let mut nodes = Vec::new();
        for group in self.view.groups.values() {
            nodes.clear();
            nodes.extend(self.interested_nodes(group));
            if nodes.contains(&self.me) {
                selected.extend(&nodes);
            }
        }
        if !self.settled {
            let ready = self.view.speakers.iter().filter(|(_, speaker)| speaker.ready);
            selected.extend(ready.map(|(name, _)| NodeId::from_name(name)));
        }
        selected.remove(&self.me);
        for id in self.directory.names.keys().copied() {
            if selected.contains(&id) {
                let tokens = &mut self.tokens;
                let peer = self.peers.entry(id).or_insert_with(|| Peer::new(now, tokens));
                if peer.hello_sent.is_none() {
                    self.outgoing.entry(id).or_default().hello = true;
                }
            }
        }
        if !selected.is_empty() {
            self.next_beacon.get_or_insert(now);
        }
        self.beacon_peers = selected;
    }

    /// Forgets peers that share no group with this node, or that are neither in the view nor heard.
    fn forget_unused_peers(&mut self, now: Instant) {
        let detection_time = self.detection_time().max(WANTED_TIMEOUT);
        let forgotten: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(id, peer)| {
                let idle = now.saturating_duration_since(peer.heard.unwrap_or(peer.since));
                let in_view = self.directory.names.contains_key(id);
                !(in_view && self.beacon_peers.contains(id))
                    && idle > if in_view { FORGET_TIMEOUT } else { detection_time }
            })
            .map(|(id, _)| *id)
            .collect();
        for id in forgotten {
            self.forget(id);
        }
    }

    /// The nodes that need to know about a group: its owners and the next candidates. May contain duplicates.
    fn interested_nodes<'a>(&'a self, group: &'a Group) -> impl Iterator<Item = NodeId> + 'a {
        let owners = self.claims_of(group.id).map(|(node, _)| node);
        let mine = self.owned.contains_key(&group.id).then_some(self.me);
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
    pub(super) fn send_due_beacons(&mut self, now: Instant) {
        let Some(at) = self.next_beacon.filter(|at| *at <= now) else { return };
        // Relative to the deadline, so that the rhythm is kept; unless that is long past.
        let after = at.checked_add(self.settings.interval).filter(|after| *after > now);
        self.next_beacon = after.or_else(|| now.checked_add(self.settings.interval));
        if self.beacon_peers_changed {
            self.select_beacon_peers(now);
        }
        self.forget_unused_peers(now);
        let recent =
            |peer: &Peer| peer.wanted_at.is_some_and(|at| now.saturating_duration_since(at) < WANTED_TIMEOUT);
        let interval = self.settings.interval;
        for (id, peer) in &mut self.peers {
            if peer.claims_wanted && peer.may_send_claims(now, interval) {
                (peer.claims_wanted, peer.claims_sent) = (false, Some(now));
                self.outgoing.entry(*id).or_default().claims = true;
            }
            if !self.beacon_peers.contains(id) && !recent(peer) {
                continue;
            }
            let outgoing = self.outgoing.entry(*id).or_default();
            if peer.handshake.echo() == 0 {
                outgoing.hello = true;
                let ready = self.directory.names.get(id).and_then(|name| self.view.speakers.get(name));
                let long = now.saturating_duration_since(peer.since) > NEVER_HEARD_TIMEOUT;
                if ready.is_some_and(|speaker| speaker.ready) && long {
                    self.blocked.entry(*id).or_insert(Blocked::NeverHeard);
                }
            } else {
                outgoing.alive = true;
                let recently = |at: Instant| now.saturating_duration_since(at) < HELLO_INTERVAL;
                outgoing.hello |= !peer.hello_sent.is_some_and(recently);
            }
        }
    }

    /// Sends a hello to every peer: its content has changed.
    pub(super) fn send_hellos(&mut self) {
        for id in self.peers.keys() {
            self.outgoing.entry(*id).or_default().hello = true;
        }
    }

    /// Sends a hello with this token, in answer to a session that the peer has not proved to be its own yet;
    /// regular messages echo only proven sessions.
    pub(super) fn answer_with_hello(&mut self, id: NodeId, address: IpAddr, token: u64, echo: u64) {
        self.sequence = self.sequence.saturating_add(1);
        let message = Message {
            sender: self.me,
            session: token,
            echo,
            sequence: self.sequence,
            flags: self.flags(id, self.is_fenced()),
            body: self.hello(),
        };
        // It may have been restarted since it sent its keys, and have others.
        self.outputs.push_back(Output::Send { address, keys: Vec::new(), message });
    }

    fn hello(&self) -> Body {
        let macs = self.macs.iter().copied().take(16).collect();
        Body::Hello { macs, keys: self.keys.clone() }
    }

    fn flags(&self, to: NodeId, stalled: bool) -> Flags {
        Flags { leaving: self.leaving, stalled, wanted: self.beacon_peers.contains(&to) }
    }

    /// Sends a change of what this node owns to every peer that shares a group.
    pub(super) fn broadcast_claim(&mut self, claim: Claim, owned: bool) {
        self.beacon_peers_changed = true;
        for (id, peer) in &self.peers {
            if self.beacon_peers.contains(id) || peer.wanted_at.is_some() {
                self.outgoing.entry(*id).or_default().updates.push((claim, owned));
            }
        }
    }

    /// Creates the messages.
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

    fn flush_to(&mut self, now: Instant, id: NodeId, flags: Flags, outgoing: Outbox) {
        let hello = outgoing.hello;
        let bodies = self.bodies(outgoing);
        let heard = self.alive.contains(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if hello {
            peer.hello_sent = Some(now);
        }
        let (session, echo, source) = (peer.handshake.token(), peer.handshake.echo(), peer.source);
        let known_keys = peer.keys.clone();
        for address in self.routes(id, source) {
            for body in bodies.iter().cloned() {
                // A peer that is not heard may have been restarted, and have other keys than it sent.
                let is_greeting = matches!(body, Body::Hello { .. });
                let keys = if !heard && is_greeting { Vec::new() } else { known_keys.clone() };
                self.sequence = self.sequence.saturating_add(1);
                let message =
                    Message { sender: self.me, session, echo, sequence: self.sequence, flags, body };
                self.outputs.push_back(Output::Send { address, keys, message });
            }
        }
    }

    fn bodies(&self, outgoing: Outbox) -> Vec<Body> {
        let Outbox { hello, alive, request, claims, updates, intents, nacks, leaves } = outgoing;
        let mut bodies: Vec<Body> = Vec::new();
        if hello {
            bodies.push(self.hello());
        }
        bodies.extend(updates.chunks(ENTRIES).map(|part| Body::Update(part.to_vec())));
        for (claims, body) in
            [(leaves, Body::Leave as fn(Vec<Claim>) -> Body), (nacks, Body::Nack), (intents, Body::Intent)]
        {
            bodies.extend(claims.chunks(ENTRIES).map(|part| body(part.to_vec())));
        }
        if claims {
            let all: Vec<Claim> =
                self.owned.iter().map(|(group, epoch)| Claim { group: *group, epoch: *epoch }).collect();
            let parts = all.len().div_ceil(ENTRIES).max(1);
            let parts = u16::try_from(parts).unwrap_or(u16::MAX);
            for part in 0..parts {
                let claims = all.iter().skip(usize::from(part) * ENTRIES).take(ENTRIES).copied().collect();
                bodies.push(Body::Claims { digest: self.digest, part, parts, claims });
            }
        }
        if request {
            bodies.push(Body::Request);
        }
        if alive {
            bodies.push(Body::Alive { digest: self.digest });
        }
        bodies
    }
}
