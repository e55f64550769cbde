//! Asking the link who has the addresses of a group.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use super::peers::{Liveness, Peer};
use super::phase::{Cause, Event, Phase};
use super::state::REFUSAL_AT_MOST;
use super::{ASKED_AT_ONCE, Added, Detection, Output, Ownership, REFUSAL};
use crate::beacon::{NodeId, Stake};
use crate::responder::Plan;
use crate::view::{Group, GroupId, View};

/// For how long an address that has come to an owned group is left to a speaker that has it still: its view is late.
/// After that it is not the speaker but its kernel that answers.
pub(super) const LEFT_TO_OTHERS: Duration = Duration::from_secs(10);
/// No group comes before this one.
const LOWEST: GroupId = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// The shortest and the longest time until the link is asked again about it.
const ADDED_AGAIN: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

impl Ownership {
    /// Asks the link about the addresses of a group, and tells the other watchers what this node is about to do. What this
    /// node owned when it was stopped waits for its turn.
    pub(super) fn ask(&mut self, now: Instant, id: GroupId) {
        let (Some(group), Some(state)) = (self.view.groups.get(&id).cloned(), self.groups.get_mut(&id))
        else {
            return;
        };
        let Phase::Asking { epoch, cause } = state.phase else { return };
        if cause == Cause::Recheck {
            self.fenced_waiting.insert(id);
            return;
        }
        state.pending = unheld(&self.view, &group);
        if self.settings.detection == Detection::Off && cause == Cause::Vacancy {
            state.pending.clear();
        }
        self.probe(id, &group);
        for peer in self.talk.iter().filter(|peer| self.alive.contains(**peer)) {
            self.outgoing.entry(*peer).or_default().intents.push(Stake { group: id, epoch });
        }
        self.resolve(now, id);
    }

    fn probe(&mut self, id: GroupId, group: &Group) {
        let Some(state) = self.groups.get(&id) else { return };
        let plan = match state.phase {
            // Only an address that nobody has had yet is worth the long wait.
            Phase::Asking { epoch: 0..=1, cause: Cause::Vacancy } => Plan::FIRST_CLAIM,
            _ => Plan::TAKEOVER,
        };
        self.asking.insert(id);
        for address in &state.pending {
            if let Some(scope) = group.addresses.get(*address) {
                self.outputs.push_back(Output::Probe(*address, scope.clone(), plan));
            }
        }
    }

    /// Gives the next group that waits its turn to be asked about, those that are ours and silent first; false if there is
    /// none, or too many are asked about.
    pub(super) fn ask_next(&mut self) -> bool {
        if self.asking.len() >= ASKED_AT_ONCE {
            return false;
        }
        if let Some(id) = self.fenced_waiting.pop_first() {
            if let (Some(group), Some(state)) = (self.view.groups.get(&id).cloned(), self.groups.get_mut(&id))
            {
                state.pending = unheld(&self.view, &group);
                self.probe(id, &group);
            }
            self.dirty.insert(id);
            return true;
        }
        let next = self.waiting.pop_first();
        self.dirty.extend(next);
        next.is_some()
    }

    /// If the link has answered about all addresses, nobody has the group: this node announces it, unless its claim would
    /// not stand.
    pub(super) fn resolve(&mut self, now: Instant, id: GroupId) {
        let Some(state) = self.groups.get(&id).filter(|state| state.pending.is_empty()) else { return };
        if let Phase::Asking { epoch, .. } = state.phase {
            let event = if self.is_outbid(id, epoch) { Event::Outbid } else { Event::Quiet };
            self.apply(now, id, event);
        }
    }

    pub(super) fn stop_asking(&mut self, id: GroupId) {
        if let Some(group) = self.view.groups.get(&id).cloned() {
            for address in group.addresses.keys() {
                self.outputs.push_back(Output::CancelProbe(address));
                self.forget_answers(address);
            }
        }
        self.end_asking(id);
    }

    pub(super) fn end_asking(&mut self, id: GroupId) {
        self.asking.remove(&id);
        if let Some(state) = self.groups.get_mut(&id) {
            state.pending.clear();
        }
    }

    /// Whether something of ours is silent until the link has been asked anew.
    pub(super) fn is_fenced(&self) -> bool {
        !self.fenced.is_empty()
    }

    /// The group that is being asked about and has this address.
    pub(super) fn asked_group(&self, address: IpAddr) -> Option<GroupId> {
        let id = self.group_of(address)?;
        self.groups.get(&id)?.pending.contains(&address).then_some(id)
    }

    pub(super) fn unanswered(&mut self, now: Instant, address: IpAddr) {
        if self.conflicts.contains_key(&address) {
            self.conflict_over(now, address);
        }
        self.kernel_is_silent(address);
        if self.added.remove(&address).is_some() {
            self.reports += 1;
            self.announce_again(address);
        }
        if self.verified.remove(&address).is_some()
            && let Some(id) = self.group_of(address)
        {
            self.remind(now, id);
        }
        self.pass_over(now, address);
    }

    /// This address does not keep its group from being taken.
    pub(super) fn pass_over(&mut self, now: Instant, address: IpAddr) {
        let Some(id) = self.asked_group(address) else { return };
        if let Some(state) = self.groups.get_mut(&id) {
            state.pending.remove(&address);
        }
        self.resolve(now, id);
    }

    /// The link could not be asked about an address: this node cannot announce it either.
    pub(super) fn unasked(&mut self, now: Instant, address: IpAddr) {
        self.verified.remove(&address);
        if let Some(added) = self.added.get_mut(&address) {
            added.unaskable = true;
            self.ask_added_at = added.ask_again(now, self.ask_added_at);
            self.dirty.extend(self.group_of(address));
        }
        if let Some(id) = self.asked_group(address) {
            self.apply(now, id, Event::Unasked);
        }
    }

    /// The links of this node have changed: what could not be asked may be asked now.
    pub(super) fn ask_on_new_links(&mut self, now: Instant) {
        for (id, state) in &mut self.groups {
            if state.unasked {
                state.refused_no_longer_than(now);
                self.dirty.insert(*id);
            }
        }
    }

    /// Whether a speaker that is heard has an address still in the group that it was in before: its view is late.
    pub(super) fn has_still(&self, now: Instant, node: NodeId, address: IpAddr) -> bool {
        let Some(peer) = self.peers.get(&node) else { return false };
        let former = self.formerly.range((address, LOWEST)..).take_while(|((of, _), _)| *of == address);
        let mut claimed = former.filter(|((_, group), _)| peer.claims.contains_key(group));
        let recently = |since: Instant| now.saturating_duration_since(since) < LEFT_TO_OTHERS;
        claimed.any(|(_, since)| recently(*since)) && self.liveness(now, node) == Liveness::Alive
    }

    /// Whether a group that is asked about is left to a speaker that is heard, does not claim it, and answers for
    /// an address of it all the same: one of the two views may be late, and in that speaker's the address may be in
    /// another group. After a while it can only be its kernel that answers.
    pub(super) fn may_be_in_another_group_of(
        &mut self,
        now: Instant,
        id: GroupId,
        node: NodeId,
        address: IpAddr,
    ) -> bool {
        if self.has_still(now, node, address) {
            return true;
        }
        let agrees = |peer: &Peer| peer.agrees && !peer.claims.contains_key(&id);
        let unclaimed = self.claims_unknown(node) || self.peers.get(&node).is_some_and(agrees);
        let limit = self.left_at_most(node);
        let heard = self.liveness(now, node) == Liveness::Alive;
        let Some(state) = self.groups.get_mut(&id).filter(|_| unclaimed && heard) else { return false };
        // Whoever goes on answering is asked again sooner than that.
        let recent = |since: &Instant| now.saturating_duration_since(*since) < REFUSAL_AT_MOST * 2;
        let since = *state.left_since.insert(state.left_since.filter(recent).unwrap_or(now));
        now.saturating_duration_since(since) < limit
    }

    /// For how long an address is left to a speaker that does not claim it and answers for it: a group that is not
    /// known here may have it. Otherwise only the view of that speaker can be ahead of this node's; where its kernel
    /// is known to answer, that is no sign of it.
    fn left_at_most(&self, node: NodeId) -> Duration {
        if self.claims_unknown(node) {
            LEFT_TO_OTHERS
        } else if self.is_kernel_confirmed(node) {
            Duration::ZERO
        } else {
            REFUSAL
        }
    }

    /// Whether a speaker claims a group that this node does not know: nobody here can tell which addresses
    /// that has.
    pub(super) fn claims_unknown(&self, node: NodeId) -> bool {
        self.claimed_unknown.range((node, LOWEST)..).next().is_some_and(|(of, _)| *of == node)
    }

    /// The group is left to a speaker whose view differs, for a moment; for longer if nothing but its answer says so.
    pub(super) fn leave_for_a_moment(&mut self, now: Instant, id: GroupId, node: NodeId, address: IpAddr) {
        let differs = self.claims_unknown(node) || self.has_still(now, node, address);
        self.apply(now, id, Event::Taken);
        if !differs {
            return;
        }
        let soon = now.checked_add(self.settings.interval).unwrap_or(now);
        if let Some(state) = self.groups.get_mut(&id) {
            state.refused_no_longer_than(soon);
        }
    }

    /// A speaker has an address that came to an owned group. As long as its view is late the link is asked again. False if its
    /// speaker does not say that it has the address, or that takes too long.
    pub(super) fn is_left_to(&mut self, now: Instant, node: NodeId, address: IpAddr) -> bool {
        let Some(peer) = self.peers.get(&node) else { return false };
        let claims = !peer.agrees || peer.claims.contains_key(&address) || self.has_still(now, node, address);
        let limit = if claims { LEFT_TO_OTHERS } else { self.left_at_most(node) };
        let Some(added) = self.added.get_mut(&address) else { return false };
        if now.saturating_duration_since(added.since) >= limit {
            return false;
        }
        self.ask_added_at = added.ask_again(now, self.ask_added_at);
        true
    }

    /// A speaker that is heard asks about an address that came to an owned group: it has it in another group, so
    /// intents do not decide who goes first. This node asks again later, as long as views may differ.
    pub(super) fn defer_added(&mut self, now: Instant, address: IpAddr) {
        let recent = |added: &&mut Added| now.saturating_duration_since(added.since) < LEFT_TO_OTHERS;
        if let Some(added) = self.added.get_mut(&address).filter(recent) {
            self.ask_added_at = added.ask_again(now, self.ask_added_at);
            self.outputs.push_back(Output::CancelProbe(address));
        }
    }

    /// Asks again about the addresses that came to owned groups and that others had.
    pub(super) fn ask_again_about_added(&mut self, now: Instant) {
        if self.ask_added_at.is_none_or(|at| at > now) {
            return;
        }
        for (address, added) in &mut self.added {
            if added.next.is_some_and(|at| at <= now) {
                added.next = None;
                let id = super::views::group_in(&self.view, &self.higher, *address);
                let group = id.and_then(|id| self.view.groups.get(&id));
                if let Some(scope) = group.and_then(|group| group.addresses.get(*address)) {
                    self.outputs.push_back(Output::Probe(*address, scope.clone(), Plan::TAKEOVER));
                }
            }
        }
        self.ask_added_at = self.added.values().filter_map(|added| added.next).min();
    }
}

/// The addresses of a group that no node holds itself: who holds one answers for it, and is meant to.
fn unheld(view: &View, group: &Group) -> BTreeSet<IpAddr> {
    group.addresses.keys().filter(|address| !view.held.contains_key(address)).collect()
}

impl Added {
    /// Asks again after a pause. Returns when that is, or `sooner` if that is sooner.
    fn ask_again(&mut self, now: Instant, sooner: Option<Instant>) -> Option<Instant> {
        let [shortest, longest] = ADDED_AGAIN;
        let pause = (now.saturating_duration_since(self.since) / 2).clamp(shortest, longest);
        self.next = now.checked_add(pause);
        sooner.into_iter().chain(self.next).min()
    }
}
