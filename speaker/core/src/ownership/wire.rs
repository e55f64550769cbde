//! What probes and other frames say about who has an address.

use std::net::IpAddr;
use std::time::Instant;

use super::peers::{Liveness, Peer};
use super::phase::{Cause, Event, Phase};
use super::{ASKED_AT_ONCE, Added, Blocked, Conflict, Detection, Output, Ownership, REFUSAL, remembered};
use crate::beacon::{NodeId, Stake};
use crate::responder::{Plan, Sighting};
use crate::view::{Group, GroupId};

/// How often somebody is let go first who only asks, before this node has owned the group.
pub(super) const GIVES_WAY: u8 = 3;
impl Ownership {
    /// Asks the wire about addresses that have come to a group of ours, and that this node has not asked about yet: a
    /// dual-stack Service has got its second one, or another node's Service shares ours now. The rest of the group is
    /// announced meanwhile.
    pub(super) fn ask_about_added(
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
                Some(before) if self.mine.contains_key(&before) => continue,
                // Somebody has served it up to now.
                Some(_) => Plan::TAKEOVER,
                None => Plan::FIRST_CLAIM,
            };
            if !self.is_held(address) && !self.is_withheld(address) && !self.added.contains_key(&address) {
                self.added.insert(address, Added::new(now));
                self.reports += 1;
                self.outputs.push_back(Output::Probe(address, scope.clone(), plan));
            }
        }
    }

    /// What this node has asked about an address that is not its own any more is void.
    pub(super) fn forget_answers(&mut self, address: IpAddr) {
        let stranger = self.conflicts.remove(&address).is_some();
        self.verified.remove(&address);
        if self.added.remove(&address).is_some() || stranger {
            self.reports += 1;
            self.outputs.push_back(Output::CancelProbe(address));
        }
    }

    /// Whether strangers have addresses of other nodes' groups is for those to find out. One whose address is in no group
    /// any more is watched until it goes, since nobody else would; but only while a Service may get that address.
    pub(super) fn leave_to_others(&mut self) {
        let is_ours = |id: GroupId| self.mine.contains_key(&id) || self.asking.contains(&id);
        let left = |address: &IpAddr, unused: bool| self.group_of(*address).map_or(unused, |id| !is_ours(id));
        let strangers =
            self.conflicts.keys().filter(|address| left(address, !self.view.may_be_given(**address)));
        let added = self.added.keys().filter(|address| left(address, true));
        let forgotten: Vec<IpAddr> = strangers.chain(added).copied().collect();
        for address in forgotten {
            self.forget_answers(address);
        }
    }

    /// Who turns out to be a speaker is no stranger: at their start speakers know the addresses of their own interfaces
    /// alone.
    pub(super) fn recognise(&mut self, now: Instant) {
        let node = |conflict: &Conflict| self.directory.macs.get(&conflict.sighting.mac.0).copied();
        let known: Vec<(IpAddr, NodeId)> =
            self.conflicts.iter().filter_map(|(a, conflict)| Some((*a, node(conflict)?))).collect();
        for (address, node) in known {
            self.was_a_speaker(now, address, node);
        }
    }

    fn was_a_speaker(&mut self, now: Instant, address: IpAddr, node: NodeId) {
        let id = self.group_of(address).filter(|_| self.liveness(now, node) != Liveness::Alive);
        if let Some(id) = id
            && let Some(epoch) = self.mine.get(&id).copied()
            && self.yields_on_the_wire(id, epoch, node)
        {
            // It had the address first, and nothing but the wire tells who has it now.
            self.conflicts.remove(&address);
            self.reports += 1;
            self.apply(now, id, Event::Outbid);
        } else {
            self.conflict_over(now, address);
        }
    }

    /// Whether a claim of ours gives way to a speaker that cannot be talked with: one that may own the group. What the API
    /// knows of epochs decides, else the higher one stays.
    fn yields_on_the_wire(&self, id: GroupId, epoch: u64, node: NodeId) -> bool {
        let Some(group) = self.view.groups.get(&id) else { return false };
        let Some(name) = self.directory.names.get(&node).filter(|name| group.admits(name)) else {
            return false;
        };
        let theirs = group.last.as_ref().filter(|(last, _)| last == name);
        let theirs = theirs.map_or(epoch, |(_, epoch)| remembered(*epoch));
        (theirs, node) > (epoch, self.me)
    }

    /// Asks the link whether a speaker that would win has the address indeed: a frame with its hardware address can be
    /// from anybody.
    fn verify(&mut self, now: Instant, id: GroupId, address: IpAddr, node: NodeId) {
        let scope = self.view.groups.get(&id).and_then(|group| group.addresses.get(address)).cloned();
        if let Some(scope) = scope
            && !self.verified.contains_key(&address)
            && self.verifications.admit(now, REFUSAL, ASKED_AT_ONCE, address)
        {
            self.verified.insert(address, node);
            self.outputs.push_back(Output::Probe(address, scope, Plan::TAKEOVER));
        }
    }

    /// A speaker that cannot be talked with has an address of ours, and wins.
    fn yield_to(&mut self, now: Instant, address: IpAddr) {
        self.verified.remove(&address);
        if let Some(id) = self.group_of(address).filter(|id| self.mine.contains_key(id)) {
            self.apply(now, id, Event::Outbid);
        }
    }

    /// The stranger is gone: the address is announced, if the group is ours.
    pub(super) fn conflict_over(&mut self, now: Instant, address: IpAddr) {
        if self.conflicts.remove(&address).is_some() {
            self.over.insert(address, now);
            self.reports += 1;
        }
        if self.asked_group(address).is_none() {
            self.verified.remove(&address);
            self.outputs.push_back(Output::CancelProbe(address));
        }
        self.announce_again(address);
    }

    /// What is announced of the group of an address has changed, if it is ours.
    pub(super) fn announce_again(&mut self, address: IpAddr) {
        if let Some(id) = self.group_of(address).filter(|id| self.mine.contains_key(id)) {
            self.withdrawals += 1;
            self.outputs.push_back(Output::Update(id));
            self.dirty.insert(id);
        }
    }

    pub(super) fn answered(&mut self, now: Instant, sighting: Sighting) {
        let address = sighting.address;
        if self.is_held(address) {
            return;
        }
        let speaker = self.directory.macs.get(&sighting.mac.0).copied();
        let Some(id) = self.asked_group(address) else {
            let found = self.scope_of(address).filter(|_| self.added.contains_key(&address));
            match speaker {
                Some(node) if sighting.probing && self.liveness(now, node) == Liveness::Alive => {
                    return self.defer_added(now, address);
                }
                // It is the stranger that was asked for, not who asks for the address too.
                _ if sighting.probing => return,
                None => self.note_conflict(now, sighting, found),
                Some(node) if self.conflicts.contains_key(&address) => self.was_a_speaker(now, address, node),
                Some(node) if self.verified.get(&address) == Some(&node) => {
                    return self.yield_to(now, address);
                }
                Some(node) if self.is_left_to(now, node, address) => return,
                Some(node) => self.confirm_kernel(now, address, node),
            }
            // Somebody else has answered: that speaker did not, and may be asked about again.
            self.verified.remove(&address);
            if self.added.remove(&address).is_some() {
                self.reports += 1;
                self.announce_again(address);
            }
            return;
        };
        match speaker {
            _ if sighting.probing => {
                // Two are at it at the same time; whoever has the address may still answer both. Speakers that hear each
                // other's intents know who goes first.
                let heard = speaker.is_some_and(|node| self.liveness(now, node) == Liveness::Alive);
                if !heard && sighting.mac > sighting.ours {
                    self.give_way(now, id);
                }
                return;
            }
            Some(node) if self.may_be_in_another_group_of(now, id, node, address) => {
                return self.leave_for_a_moment(now, id, node, address);
            }
            Some(node)
                if !self.answers_by_its_kernel(now, id, node) && !self.answers_as_bystander(id, node) =>
            {
                self.veto(id, node);
                self.apply(now, id, Event::Taken);
                return;
            }
            Some(node) => self.suspect_kernel(now, address, node),
            None => {
                let found = self.scope_of(address);
                self.note_conflict(now, sighting, found);
            }
        }
        self.pass_over(now, address);
    }

    /// Lets somebody go first who asks the same and cannot be talked with: another speaker, which may not be known as one yet,
    /// or a host that wants the address. (Of two speakers the one with the higher hardware address goes on; a host that
    /// follows RFC 5227 gives way to whoever it sees asking.) The wire is asked again once that is over, and then there
    /// is an answer; but not for ever, since somebody may do nothing but ask.
    fn give_way(&mut self, now: Instant, id: GroupId) {
        if let Some(state) = self.groups.get_mut(&id).filter(|state| state.gave_way < GIVES_WAY) {
            (state.gave_way, state.refusals) = (state.gave_way + 1, 0);
            self.apply(now, id, Event::Taken);
        }
    }

    /// Whether a node answers for an address that its speaker, which is heard, does not own. Then its kernel does, as
    /// where kube-proxy puts the addresses on every node in its ipvs mode and strictARP is off. That must not keep the
    /// address from being announced at all. Who has just come back, after a stall or to the network, does not know yet what
    /// that speaker owns by now; nor does anybody just after a peer gave the group away.
    fn answers_by_its_kernel(&self, now: Instant, id: GroupId, node: NodeId) -> bool {
        let state = self.groups.get(&id);
        let rechecks =
            state.is_some_and(|state| matches!(state.phase, Phase::Asking { cause: Cause::Recheck, .. }));
        let recent = |at: Instant| now.saturating_duration_since(at) < self.settings.interval;
        let moves = state.and_then(|state| state.released).is_some_and(recent);
        let owns_not = |peer: &Peer| peer.agrees && !peer.claims.contains_key(&id);
        let owns_not = self.peers.get(&node).is_some_and(owns_not);
        !rechecks && !moves && owns_not && self.liveness(now, node) == Liveness::Alive
    }

    /// The wire shows that a node lives whose beacons do not arrive.
    fn veto(&mut self, id: GroupId, node: NodeId) {
        let phase = self.groups.get(&id).map(|state| state.phase);
        if let Some(Phase::Asking { cause: Cause::Takeover(owner), .. }) = phase
            && owner == node
        {
            self.counts.vetoes += 1;
            self.blocked.insert(owner, Blocked::Wire);
        }
    }

    /// Somebody claims, on the wire, an address that this node announces.
    pub(super) fn contested(&mut self, now: Instant, sighting: Sighting) {
        let Some(id) = self.group_of(sighting.address).filter(|_| !self.is_held(sighting.address)) else {
            return;
        };
        let Some(epoch) = self.mine.get(&id).copied() else { return };
        match self.directory.macs.get(&sighting.mac.0).copied() {
            Some(node) if self.liveness(now, node) == Liveness::Alive => {
                // It learns of our claim, or we of its better one; during a handover both happens anyway. Neighbours
                // are told anew only by who is known to stay: a last word of the one that yields would mislead them.
                self.exchange_claims(now, node, Stake { group: id, epoch });
                let agrees = self.peers.get(&node).is_some_and(|peer| peer.agrees);
                let theirs = self.claimed.get(&(id, node)).copied().filter(|_| agrees);
                if agrees && theirs.is_none() {
                    self.suspect_kernel(now, sighting.address, node);
                }
                if theirs.is_some_and(|theirs| (theirs, node) < (epoch, self.me)) {
                    self.remind(now, id);
                }
            }
            Some(node) if self.yields_on_the_wire(id, epoch, node) => {
                self.verify(now, id, sighting.address, node);
            }
            Some(_) => self.remind(now, id),
            None if self.settings.detection == Detection::Off => {}
            None => {
                self.note_conflict(now, sighting, None);
                self.outputs.push_back(Output::Defend(sighting.address));
            }
        }
    }
}
