//! Which event applies to a group next: whether this node takes it, keeps it or hands it over, and to which
//! successor.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::epoch::next_epoch;
use super::peers::Liveness;
use super::phase::{Event, Phase, ProbeCause};
use super::{
    BACKOFF, GroupState, HANDOVER_TIMEOUT, OFFER_INTERVAL, Ownership, VACANCY_STAGGER, WATCHER_STAGGER,
    WATCHERS,
};
use crate::cluster::GroupId;
use crate::cluster::NodeId;
use crate::layer2::beacon::Claim;
use crate::layer2::placement::Placement;
use crate::layer2::view::Group;

/// The next step of a group.
enum Step {
    /// This event applies.
    Event(Event),
    /// Nothing before that time; none: nothing until something else changes.
    Wait(Option<Instant>),
}

/// Which candidate takes a group without an owner next.
enum TakeoverTurn {
    /// This node.
    Mine,
    /// This node, after that many candidates, which are alive, have not taken it.
    After(u32),
    /// A candidate that has never been heard: the readiness of its pod decides.
    Unknown,
}

/// The next owner of a group.
#[derive(Clone, Copy)]
struct Successor {
    id: NodeId,
    /// It has just declined the group.
    refused: bool,
}

impl Ownership {
    /// Applies the events that are due to a group.
    pub(super) fn evaluate(&mut self, now: Instant, id: GroupId) {
        // Few transitions follow from one another; the limit guards against a mistake in the rules.
        #[cfg(test)]
        {
            self.decisions += 1;
        }
        for _ in 0..8 {
            match self.next_step(now, id) {
                Step::Event(event) => self.apply(now, id, event),
                Step::Wait(timer) => {
                    self.set_timer(id, timer);
                    break;
                }
            }
        }
        // The events that `apply` marked were handled here.
        self.dirty.remove(&id);
        let forgettable = |state: &GroupState| state.phase == Phase::Idle && state.timer.is_none();
        if !self.view.groups.contains_key(&id) && self.groups.get(&id).is_some_and(forgettable) {
            self.groups.remove(&id);
        }
    }

    fn set_timer(&mut self, id: GroupId, timer: Option<Instant>) {
        let Some(state) = self.groups.get_mut(&id) else { return };
        if state.timer == timer {
            return;
        }
        if let Some(old) = std::mem::replace(&mut state.timer, timer) {
            self.timers.remove(&(old, id));
        }
        if let Some(at) = timer {
            self.timers.insert((at, id));
        }
    }

    fn next_step(&mut self, now: Instant, id: GroupId) -> Step {
        let Some(state) = self.groups.get(&id) else { return Step::Wait(None) };
        let phase = state.phase;
        let group = self.view.groups.get(&id).cloned();
        let group = group.as_deref().filter(|group| !group.candidates.is_empty() || group.retainable);
        match phase {
            Phase::Idle => match group {
                Some(group) => self.evaluate_idle(now, group),
                None => Step::Wait(None),
            },
            Phase::Backoff => self.wait_in_backoff(now, id),
            Phase::Probing { cause, epoch } => self.continue_probing(now, id, group, cause, epoch),
            Phase::Active { epoch } => {
                self.note_stranded(now, id, group);
                self.keep_or_hand_over(now, id, group, epoch)
            }
            Phase::HandingOver { epoch, to } => {
                self.note_stranded(now, id, group);
                self.hand_over(now, id, group, epoch, to)
            }
        }
    }

    /// Waits until the backoff of a group is over.
    fn wait_in_backoff(&mut self, now: Instant, id: GroupId) -> Step {
        let heard = |(_, owner)| self.liveness(now, owner) == Liveness::Alive;
        let is_heard = self.best_claim(id).is_some_and(heard);
        let Some(state) = self.groups.get_mut(&id) else { return Step::Wait(None) };
        if is_heard && state.alive_owner.is_some() {
            // If the owner goes down from now on, that is a new situation.
            state.limit_backoff(now.checked_add(BACKOFF).unwrap_or(now));
        }
        match state.until {
            Some(at) if now < at => Step::Wait(Some(at)),
            _ => Step::Event(Event::Timeout),
        }
    }

    /// The claims of peers to the group, with their epochs.
    pub(super) fn claims_of(&self, id: GroupId) -> impl Iterator<Item = (NodeId, u64)> {
        let claims = self.peer_claims.range((id, NodeId(u64::MIN))..=(id, NodeId(u64::MAX)));
        claims.map(|((_, node), epoch)| (*node, *epoch))
    }

    /// The best claim of a peer to the group.
    pub(super) fn best_claim(&self, id: GroupId) -> Option<(u64, NodeId)> {
        self.claims_of(id).map(|(node, epoch)| (epoch, node)).max()
    }

    /// Whether a peer has a better claim than one of this node with `epoch`.
    pub(super) fn is_superseded(&self, id: GroupId, epoch: u64) -> bool {
        self.best_claim(id).is_some_and(|claim| claim > (epoch, self.me))
    }

    /// Whether this node may own the group.
    fn may_own(&self, group: &Group) -> bool {
        !self.leaving && group.admits(&self.settings.me)
    }

    /// Whether this node may keep the group, since no other node can take it.
    fn may_retain(&self, group: &Group) -> bool {
        !self.leaving && group.retainable
    }

    fn continue_probing(
        &self,
        now: Instant,
        id: GroupId,
        group: Option<&Group>,
        cause: ProbeCause,
        epoch: u64,
    ) -> Step {
        let Some(group) = group else { return Step::Event(Event::Removed) };
        let retains = cause == ProbeCause::Recheck && self.may_retain(group);
        if !self.may_own(group) && !retains {
            return Step::Event(Event::Ineligible { successor: None });
        }
        let claim = self.best_claim(id);
        let taken = match cause {
            // A peer that is heard and has a claim owns the group.
            ProbeCause::Vacancy => claim.is_some_and(|(_, node)| self.liveness(now, node) == Liveness::Alive),
            ProbeCause::Takeover(owner) => claim.is_some_and(|(theirs, node)| {
                self.liveness(now, node) == Liveness::Alive && (node == owner || theirs >= epoch)
            }),
            ProbeCause::Recheck => self.is_superseded(id, epoch),
        };
        if taken { Step::Event(Event::Superseded) } else { Step::Wait(None) }
    }

    fn keep_or_hand_over(&self, now: Instant, id: GroupId, group: Option<&Group>, epoch: u64) -> Step {
        if self.is_superseded(id, epoch) {
            return Step::Event(Event::Superseded);
        }
        let Some(group) = group else { return Step::Event(Event::Removed) };
        if self.may_retain(group) {
            return Step::Wait(None);
        }
        let successor = self.successor(now, group);
        let must_go = !self.may_own(group);
        if successor.is_some()
            && let Some(next) = self.wait_for_unverified(now, group, must_go)
        {
            return next;
        }
        if must_go {
            // Rather a successor that has just declined than a gap.
            let successor = successor.map(|s| s.id).filter(|_| !self.withholds(group));
            if successor.is_none()
                && let Some(again) = self.wait_for_successor(now, group)
            {
                return Step::Wait(Some(again));
            }
            return Step::Event(Event::Ineligible { successor });
        }
        let regrouped = self.groups.get(&id).and_then(|state| state.regrouped_at);
        if let Some(until) = regrouped.and_then(|at| at.checked_add(BACKOFF)).filter(|until| now < *until) {
            // A successor whose view is late would announce addresses that are in another group now.
            return Step::Wait(Some(until));
        }
        let willing = successor.filter(|successor| !successor.refused).map(|successor| successor.id);
        let received = self.groups.get(&id).and_then(|state| state.received);
        let held = received.zip(willing).map(|(received, successor)| received.held_until(successor));
        if let Some(until) = held.filter(|until| now < *until) {
            return Step::Wait(Some(until));
        }
        let unwanted = if self.withholds(group) {
            false
        } else if self.view.placement == Placement::Hash {
            // MetalLB's function is not sticky.
            self.placed(group).is_some_and(|node| node != self.me && willing == Some(node))
        } else {
            willing.is_some_and(|successor| Self::is_off_subnet(group, self.me, successor))
        };
        if unwanted {
            Step::Event(Event::Ineligible { successor: willing })
        } else {
            Step::Wait(self.next_decline_expiry(now, id))
        }
    }

    /// Records since when this node must hand over a group for which there is no successor.
    fn note_stranded(&mut self, now: Instant, id: GroupId, group: Option<&Group>) {
        let stranded =
            group.is_some_and(|group| !self.may_own(group) && self.successor(now, group).is_none());
        if let Some(state) = self.groups.get_mut(&id) {
            state.stranded_since = stranded.then(|| state.stranded_since.unwrap_or(now));
        }
    }

    /// When to look for a successor again, if a candidate may recover soon: one that is heard and was
    /// stalled, or is ready and was not heard yet. Limited to the duration of a handover.
    fn wait_for_successor(&self, now: Instant, group: &Group) -> Option<Instant> {
        let since = self.groups.get(&group.id)?.stranded_since?;
        let until = since.checked_add(HANDOVER_TIMEOUT).filter(|until| now < *until)?;
        let recovers = |id: NodeId| {
            group.candidates.get(id).is_some()
                && self.peers.get(&id).is_some_and(|peer| peer.flags.stalled && !peer.flags.leaving)
        };
        let ready = |node| self.view.speakers.get(node).is_some_and(|speaker| speaker.ready);
        let starts =
            |id: NodeId, node| id != self.me && self.liveness(now, id) == Liveness::Unheard && ready(node);
        let mut first = group.candidates.iter().take(WATCHERS + 1);
        let soon = self.alive.ids().any(recovers) || first.any(|first| starts(first.id, &first.node));
        let again = now.checked_add(self.settings.interval)?;
        (soon && !self.withholds(group)).then_some(again.min(until))
    }

    /// Delays a handover while added addresses are probed, since a successor does not probe. Addresses that
    /// this node cannot probe do not delay it, and an owner that may not keep the group waits only briefly.
    fn wait_for_unverified(&self, now: Instant, group: &Group, must_go: bool) -> Option<Step> {
        let probed = group.addresses.keys().filter_map(|address| self.unverified.get(&address));
        let since = probed.filter(|added| !added.unprobeable).map(|added| added.since).max()?;
        let until = since.checked_add(BACKOFF).filter(|_| must_go);
        until.is_none_or(|until| now < until).then_some(Step::Wait(until))
    }

    /// Whether an address of the group is withheld because of a foreign host. The next owner has to detect
    /// that by its own probe, which a handover would skip.
    fn withholds(&self, group: &Group) -> bool {
        group.addresses.keys().any(|address| self.is_withheld(address))
    }

    /// When the next refusal of a successor expires.
    fn next_decline_expiry(&self, now: Instant, id: GroupId) -> Option<Instant> {
        self.groups.get(&id)?.declined.values().filter(|until| **until > now).min().copied()
    }

    fn hand_over(
        &mut self,
        now: Instant,
        id: GroupId,
        group: Option<&Group>,
        epoch: u64,
        to: NodeId,
    ) -> Step {
        let keep = self.keep_or_hand_over(now, id, group, epoch);
        let Step::Event(Event::Ineligible { successor }) = keep else {
            return match keep {
                Step::Event(event) => Step::Event(event),
                Step::Wait(_) => Step::Event(Event::Eligible),
            };
        };
        // The successor that was asked may have taken the group already; asking another one could make a
        // second owner.
        let stands = group.is_some_and(|group| self.may_succeed(now, group, to));
        if !stands && successor != Some(to) {
            return Step::Event(Event::Ineligible { successor });
        }
        let Some(state) = self.groups.get_mut(&id) else { return Step::Wait(None) };
        // Only a process that is to stop has a time limit.
        let stops = self.leaving.then(|| now.checked_add(HANDOVER_TIMEOUT)).flatten();
        state.until = stops.map(|stops| state.until.unwrap_or(stops));
        if state.until.is_some_and(|at| at <= now) {
            return Step::Event(Event::Timeout);
        }
        if state.next_offer.is_none_or(|at| at <= now) {
            let pause =
                OFFER_INTERVAL.saturating_mul(1 << state.offer_count.min(8)).min(self.settings.interval);
            state.offer_count = state.offer_count.saturating_add(1);
            state.next_offer = now.checked_add(pause);
            self.outgoing.entry(to).or_default().leaves.push(Claim { group: id, epoch });
        }
        let state = self.groups.get(&id);
        Step::Wait(state.and_then(|state| [state.next_offer, state.until].into_iter().flatten().min()))
    }

    /// Whether a candidate has no link on the subnet of the group's addresses while `other` has one.
    fn is_off_subnet(group: &Group, id: NodeId, other: NodeId) -> bool {
        let remote = |id: NodeId| group.candidates.get(id).map(|candidate| candidate.tier.remote);
        remote(id) == Some(true) && remote(other) == Some(false)
    }

    fn placed(&self, group: &Group) -> Option<NodeId> {
        self.view.placed.get(&group.id).and_then(|name| group.candidates.id_of(name))
    }

    /// The successor for a group that this node must hand over: a peer that is heard, and has not just
    /// declined if there is another. The best tier comes first, since the group stays there; within it,
    /// during a rolling upgrade, upgraded nodes, so that a group moves once; then the node that the placement
    /// selects, then the order of candidates.
    fn successor(&self, now: Instant, group: &Group) -> Option<Successor> {
        let refused = |id| self.has_declined(now, group.id, id);
        let placed = self.placed(group);
        let fit = self.alive.ids().filter(|id| self.can_take_over(now, *id));
        let best = group.candidates.first_by(fit, |candidate| {
            let generation = self.view.speakers.get(&candidate.node).map_or(0, |s| s.generation);
            let id = candidate.id;
            (refused(id), candidate.tier, Reverse(generation), placed != Some(id))
        });
        best.map(|candidate| Successor { id: candidate.id, refused: refused(candidate.id) })
    }

    /// Whether a peer is heard, and is neither leaving nor stalled.
    fn can_take_over(&self, now: Instant, id: NodeId) -> bool {
        self.liveness(now, id) == Liveness::Alive
            && self.peers.get(&id).is_some_and(|peer| !peer.flags.leaving && !peer.flags.stalled)
    }

    fn has_declined(&self, now: Instant, group: GroupId, id: NodeId) -> bool {
        let state = self.groups.get(&group);
        state.and_then(|state| state.declined.get(&id)).is_some_and(|until| *until > now)
    }

    /// Whether the group can be handed over to this peer, even if another comes first.
    fn may_succeed(&self, now: Instant, group: &Group, id: NodeId) -> bool {
        group.candidates.get(id).is_some()
            && self.can_take_over(now, id)
            && !self.has_declined(now, group.id, id)
    }

    /// Evaluates whether it is this node's turn to take a group that it does not own.
    fn evaluate_idle(&mut self, now: Instant, group: &Group) -> Step {
        if !self.settled || !self.may_own(group) {
            return Step::Wait(None);
        }
        let highest = self.groups.get(&group.id).map_or(0, |state| state.highest_epoch);
        if let Some((epoch, owner)) = self.best_claim(group.id) {
            match self.liveness(now, owner) {
                Liveness::Alive => {
                    self.set_vacant_since(group.id, None);
                    if let Some(state) = self.groups.get_mut(&group.id) {
                        (state.backoffs, state.yielded_since) = (0, None);
                    }
                    return Step::Wait(None);
                }
                Liveness::Down(since) => {
                    if let Some(rank) = self.watcher_rank(group, owner) {
                        let at = since.checked_add(WATCHER_STAGGER.saturating_mul(rank)).unwrap_or(now);
                        if now < at {
                            return Step::Wait(Some(at));
                        }
                        let epoch = next_epoch(highest.max(epoch));
                        return self.or_enqueue_probe(group.id, Event::OwnerDown { epoch, owner });
                    }
                    let still_candidate =
                        self.directory.names.get(&owner).is_some_and(|name| group.admits(name));
                    if still_candidate {
                        // Its watchers act, or the API removes it from the candidates.
                        return Step::Wait(None);
                    }
                }
                Liveness::Unheard => {}
            }
        }
        if let Some(until) = self.gather_until.filter(|until| now < *until)
            && group.last.is_none()
            && self.view.speakers.values().any(|speaker| !speaker.ready)
        {
            return Step::Wait(Some(until));
        }
        let mine_before = group.last.as_ref().is_some_and(|(node, _)| *node == self.settings.me);
        // Its own claim again, unless a better claim was seen since, whose owner may be down.
        let again = highest.max(1);
        let keeps = mine_before && !self.is_superseded(group.id, again);
        let epoch = if keeps { again } else { next_epoch(highest) };
        match self.takeover_rank(now, group) {
            TakeoverTurn::Unknown => {
                self.set_vacant_since(group.id, None);
                Step::Wait(None)
            }
            TakeoverTurn::Mine => self.or_enqueue_probe(group.id, Event::Vacant { epoch }),
            TakeoverTurn::After(others) => {
                let since = self.set_vacant_since(group.id, Some(now)).unwrap_or(now);
                let at = since.checked_add(VACANCY_STAGGER.saturating_mul(others)).unwrap_or(now);
                if now < at {
                    return Step::Wait(Some(at));
                }
                let epoch = next_epoch(highest);
                self.or_enqueue_probe(group.id, Event::Vacant { epoch })
            }
        }
    }

    fn or_enqueue_probe(&mut self, id: GroupId, event: Event) -> Step {
        if self.probing.len() < super::MAX_CONCURRENT_PROBES {
            return Step::Event(event);
        }
        self.probe_queue.insert(id);
        Step::Wait(None)
    }

    /// Records since when a group has had no owner, or that it has one.
    fn set_vacant_since(&mut self, id: GroupId, now: Option<Instant>) -> Option<Instant> {
        let state = self.groups.get_mut(&id)?;
        state.vacant_since = now.map(|now| state.vacant_since.unwrap_or(now));
        state.vacant_since
    }

    /// The index of this node among the watchers of a group: the first three candidates without the owner.
    fn watcher_rank(&self, group: &Group, owner: NodeId) -> Option<u32> {
        let watchers = group.candidates.iter().map(|candidate| candidate.id).filter(|id| *id != owner);
        let rank = watchers.take(WATCHERS).position(|id| id == self.me)?;
        u32::try_from(rank).ok()
    }

    /// Whose turn it is: the last owner first, unless it has no link on the subnet and another candidate has
    /// one; then the node that the placement selects, then the candidates in order.
    fn takeover_rank(&self, now: Instant, group: &Group) -> TakeoverTurn {
        let sticky = self.view.placement != Placement::Hash;
        let best = group.candidates.first().map(|candidate| candidate.id);
        let last = group.last.as_ref().filter(|_| sticky);
        let last = last.and_then(|(node, _)| group.candidates.id_of(node));
        let order = last
            .filter(|node| best.is_none_or(|best| !Self::is_off_subnet(group, *node, best)))
            .into_iter()
            .chain(self.placed(group))
            .chain(group.candidates.iter().map(|candidate| candidate.id));
        let mut passed: Vec<NodeId> = Vec::new();
        for id in order {
            if id == self.me {
                let others = u32::try_from(passed.len()).unwrap_or(u32::MAX);
                return if others == 0 { TakeoverTurn::Mine } else { TakeoverTurn::After(others) };
            }
            if passed.contains(&id) {
                continue;
            }
            match self.liveness(now, id) {
                Liveness::Alive if self.peers.get(&id).is_some_and(|peer| peer.flags.leaving) => {}
                Liveness::Alive => passed.push(id),
                Liveness::Down(_) => {}
                Liveness::Unheard => return TakeoverTurn::Unknown,
            }
        }
        TakeoverTurn::Unknown
    }

    /// How long a leaving speaker waits for its successors.
    pub const fn handover_time() -> Duration {
        HANDOVER_TIMEOUT
    }
}
