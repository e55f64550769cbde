//! What probes and other frames show about who uses an address.

use std::net::IpAddr;
use std::time::Instant;

use super::conflict::ResolvedConflict;
use super::epoch::sanitized_stored_epoch;
use super::peers::{Liveness, Peer};
use super::phase::{Event, Phase, ProbeCause};
use super::{BACKOFF, Blocked, Conflict, Detection, MAX_CONCURRENT_PROBES, Output, Ownership, Unverified};
use crate::cluster::GroupId;
use crate::cluster::NodeId;
use crate::layer2::beacon::Claim;
use crate::layer2::responder::{Observation, ProbePlan};
use crate::layer2::view::Group;

/// How often this node defers to another prober before it has owned the group.
pub(super) const MAX_DEFERRALS: u8 = 3;
impl Ownership {
    /// Probes addresses that were added to an owned group and not probed yet: a dual-stack Service has got
    /// its second address, or a Service of another node shares one now. The rest of the group is announced
    /// meanwhile.
    pub(super) fn verify_new_addresses(
        &mut self,
        now: Instant,
        group: &Group,
        group_before: impl Fn(IpAddr) -> Option<GroupId>,
    ) {
        if self.settings.detection == Detection::Off {
            return;
        }
        for (address, scope) in group.addresses.iter() {
            let plan = match group_before(address) {
                Some(before) if self.owned.contains_key(&before) => continue,
                // Another node has served it up to now.
                Some(_) => ProbePlan::TAKEOVER,
                None => ProbePlan::FIRST_CLAIM,
            };
            if !self.is_node_address(address)
                && !self.is_withheld(address)
                && !self.unverified.contains_key(&address)
            {
                self.unverified.insert(address, Unverified::new(now));
                self.report_revision += 1;
                self.outputs.push_back(Output::Probe(address, scope.clone(), plan));
            }
        }
    }

    /// Discards the state of probes for an address that this node does not own any more.
    pub(super) fn forget_probe_state(&mut self, address: IpAddr) {
        let had_conflict = self.conflicts.remove(&address).is_some();
        self.verifying.remove(&address);
        if self.unverified.remove(&address).is_some() || had_conflict {
            self.report_revision += 1;
            self.outputs.push_back(Output::CancelProbe(address));
        }
    }

    /// Conflicts of groups of other nodes are for those nodes to detect. A foreign host whose address is in
    /// no group any more is watched until it is gone, since no other node would, but only while a pool
    /// contains the address.
    pub(super) fn drop_foreign_state(&mut self) {
        let is_ours = |id: GroupId| self.owned.contains_key(&id) || self.probing.contains(&id);
        let left = |address: &IpAddr, unused: bool| self.group_of(*address).map_or(unused, |id| !is_ours(id));
        let strangers =
            self.conflicts.keys().filter(|address| left(address, !self.view.is_in_pool(**address)));
        let added = self.unverified.keys().filter(|address| left(address, true));
        let forgotten: Vec<IpAddr> = strangers.chain(added).copied().collect();
        for address in forgotten {
            self.forget_probe_state(address);
        }
    }

    /// Ends conflicts with hosts that turn out to be speakers: at their start speakers know only the hardware
    /// addresses of their own interfaces.
    pub(super) fn resolve_known_speakers(&mut self, now: Instant) {
        let node = |conflict: &Conflict| self.directory.macs.get(&conflict.observation.mac.0).copied();
        let known: Vec<(IpAddr, NodeId)> =
            self.conflicts.iter().filter_map(|(a, conflict)| Some((*a, node(conflict)?))).collect();
        for (address, node) in known {
            self.resolve_as_speaker(now, address, node);
        }
    }

    fn resolve_as_speaker(&mut self, now: Instant, address: IpAddr, node: NodeId) {
        let id = self.group_of(address).filter(|_| self.liveness(now, node) != Liveness::Alive);
        if let Some(id) = id
            && let Some(epoch) = self.owned.get(&id).copied()
            && self.should_yield_to(id, epoch, node)
        {
            // It had the address first, and only the link shows who has it now.
            self.conflicts.remove(&address);
            self.report_revision += 1;
            self.apply(now, id, Event::Superseded);
        } else {
            self.resolve_conflict(now, address);
        }
    }

    /// Whether our claim yields to a speaker that is not heard: it must be a candidate. The epoch in the API
    /// decides, else the higher claim stays.
    fn should_yield_to(&self, id: GroupId, epoch: u64, node: NodeId) -> bool {
        let Some(group) = self.view.groups.get(&id) else { return false };
        let Some(name) = self.directory.names.get(&node).filter(|name| group.admits(name)) else {
            return false;
        };
        let theirs = group.last.as_ref().filter(|(last, _)| last == name);
        let theirs = theirs.map_or(epoch, |(_, epoch)| sanitized_stored_epoch(*epoch));
        (theirs, node) > (epoch, self.me)
    }

    /// Probes whether a speaker whose claim would win really uses the address: a frame with its hardware
    /// address can be forged.
    fn verify(&mut self, now: Instant, id: GroupId, address: IpAddr, node: NodeId) {
        let scope = self.view.groups.get(&id).and_then(|group| group.addresses.get(address)).cloned();
        if let Some(scope) = scope
            && !self.verifying.contains_key(&address)
            && self.verification_quota.admit(now, BACKOFF, MAX_CONCURRENT_PROBES, address)
        {
            self.verifying.insert(address, node);
            self.outputs.push_back(Output::Probe(address, scope, ProbePlan::TAKEOVER));
        }
    }

    /// A speaker that is not heard uses an address of ours, and its claim wins.
    fn yield_ownership(&mut self, now: Instant, address: IpAddr) {
        self.verifying.remove(&address);
        if let Some(id) = self.group_of(address).filter(|id| self.owned.contains_key(id)) {
            self.apply(now, id, Event::Superseded);
        }
    }

    /// The foreign host is gone: announces the address if the group is ours.
    pub(super) fn resolve_conflict(&mut self, now: Instant, address: IpAddr) {
        if let Some(conflict) = self.conflicts.remove(&address) {
            self.resolved_conflicts.insert(address, ResolvedConflict { at: now, conflict });
            self.report_revision += 1;
        }
        if self.probed_group(address).is_none() {
            self.verifying.remove(&address);
            self.outputs.push_back(Output::CancelProbe(address));
        }
        self.update_announced(address);
    }

    /// The announced addresses of an owned group have changed.
    pub(super) fn update_announced(&mut self, address: IpAddr) {
        if let Some(id) = self.group_of(address).filter(|id| self.owned.contains_key(id)) {
            self.pending_withdrawals += 1;
            self.outputs.push_back(Output::Update(id));
            self.dirty.insert(id);
        }
    }

    pub(super) fn on_probe_answered(&mut self, now: Instant, observation: Observation) {
        let address = observation.address;
        if self.is_node_address(address) {
            return;
        }
        let speaker = self.directory.macs.get(&observation.mac.0).copied();
        let Some(id) = self.probed_group(address) else {
            let found = self.scope_of(address).filter(|_| self.unverified.contains_key(&address));
            match speaker {
                Some(node) if observation.probing && self.liveness(now, node) == Liveness::Alive => {
                    return self.defer_unverified(now, address);
                }
                // Only an answer of the foreign host itself counts, not another prober.
                _ if observation.probing => return,
                None => self.note_conflict(now, observation, found),
                Some(node) if self.conflicts.contains_key(&address) => {
                    self.resolve_as_speaker(now, address, node);
                }
                Some(node) if self.verifying.get(&address) == Some(&node) => {
                    return self.yield_ownership(now, address);
                }
                Some(node) if self.is_yielded_to(now, node, address) => return,
                Some(node) => self.confirm_kernel(now, address, node),
            }
            // Another host has answered: the speaker did not, and may be probed for again.
            self.verifying.remove(&address);
            if self.unverified.remove(&address).is_some() {
                self.report_revision += 1;
                self.update_announced(address);
            }
            return;
        };
        match speaker {
            _ if observation.probing => {
                // Two hosts probe at the same time; the host that has the address may still answer both.
                // Speakers that hear each other's intents know which of them goes first.
                let heard = speaker.is_some_and(|node| self.liveness(now, node) == Liveness::Alive);
                if !heard && observation.mac > observation.ours {
                    self.defer_to_prober(now, id);
                }
                return;
            }
            Some(node) if self.may_have_in_other_group(now, id, node, address) => {
                return self.yield_briefly(now, id, node, address);
            }
            Some(node) if !self.is_kernel_answer(now, id, node) && !self.is_bystander_answer(id, node) => {
                self.note_owner_alive(id, node);
                self.apply(now, id, Event::ProbeAnswered);
                return;
            }
            Some(node) => self.suspect_kernel(now, address, node),
            None => {
                let found = self.scope_of(address);
                self.note_conflict(now, observation, found);
            }
        }
        self.skip_address(now, address);
    }

    /// Defers to another prober that is not heard: a speaker that may not be known as one yet, or a host that
    /// wants the address. (Of two speakers the one with the higher hardware address goes on; a host that
    /// follows RFC 5227 defers to any prober that it sees.) The address is probed again after the backoff,
    /// and then there is an answer; but the number of deferrals is limited, since a host may do nothing but
    /// probe.
    fn defer_to_prober(&mut self, now: Instant, id: GroupId) {
        if let Some(state) = self.groups.get_mut(&id).filter(|state| state.deferrals < MAX_DEFERRALS) {
            (state.deferrals, state.backoffs) = (state.deferrals + 1, 0);
            self.apply(now, id, Event::ProbeAnswered);
        }
    }

    /// Whether a node answers for an address that its speaker, which is heard, does not own: then its kernel
    /// does, as with kube-proxy in ipvs mode without strictARP. That must not keep the address from being
    /// announced. A node that has just come back, after a stall or a network outage, does not know yet what
    /// that speaker owns by now; nor does any node just after a peer has released the group.
    fn is_kernel_answer(&self, now: Instant, id: GroupId, node: NodeId) -> bool {
        let state = self.groups.get(&id);
        let rechecks = state
            .is_some_and(|state| matches!(state.phase, Phase::Probing { cause: ProbeCause::Recheck, .. }));
        let recent = |at: Instant| now.saturating_duration_since(at) < self.settings.interval;
        let moves = state.and_then(|state| state.released).is_some_and(recent);
        let owns_not = |peer: &Peer| peer.in_sync && !peer.claims.contains_key(&id);
        let owns_not = self.peers.get(&node).is_some_and(owns_not);
        !rechecks && !moves && owns_not && self.liveness(now, node) == Liveness::Alive
    }

    /// A probe shows that an owner whose beacons do not arrive is alive.
    fn note_owner_alive(&mut self, id: GroupId, node: NodeId) {
        let phase = self.groups.get(&id).map(|state| state.phase);
        if let Some(Phase::Probing { cause: ProbeCause::Takeover(owner), .. }) = phase
            && owner == node
        {
            self.counts.vetoes += 1;
            self.blocked.insert(owner, Blocked::AnswersOnLink);
        }
    }

    /// Another host claims, on the link, an address that this node announces.
    pub(super) fn on_contested(&mut self, now: Instant, observation: Observation) {
        let Some(id) =
            self.group_of(observation.address).filter(|_| !self.is_node_address(observation.address))
        else {
            return;
        };
        let Some(epoch) = self.owned.get(&id).copied() else { return };
        match self.directory.macs.get(&observation.mac.0).copied() {
            Some(node) if self.liveness(now, node) == Liveness::Alive => {
                // The peer learns of our claim, or we of its better one; during a handover both happens
                // anyway. Only an owner that is known to stay announces again: a last announcement of the one
                // that yields would mislead neighbours.
                self.exchange_claims(now, node, Claim { group: id, epoch });
                let agrees = self.peers.get(&node).is_some_and(|peer| peer.in_sync);
                let theirs = self.peer_claims.get(&(id, node)).copied().filter(|_| agrees);
                if agrees && theirs.is_none() {
                    self.suspect_kernel(now, observation.address, node);
                }
                if theirs.is_some_and(|theirs| (theirs, node) < (epoch, self.me)) {
                    self.reannounce(now, id);
                }
            }
            Some(node) if self.should_yield_to(id, epoch, node) => {
                self.verify(now, id, observation.address, node);
            }
            Some(_) => self.reannounce(now, id),
            None if self.settings.detection == Detection::Off => {}
            None => {
                self.note_conflict(now, observation, None);
                self.outputs.push_back(Output::Defend(observation.address));
            }
        }
    }
}
