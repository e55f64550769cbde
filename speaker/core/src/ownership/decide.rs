//! Which event a group meets next: whether it is this node's turn, whether it must go and to whom.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::peers::Liveness;
use super::phase::{Cause, Event, Phase};
use super::{OFFER, OFFERS, Ownership, REFUSAL, STAGGER, State, VACANCY, WATCHERS, next_epoch};
use crate::beacon::{NodeId, Stake};
use crate::placement::Placement;
use crate::view::{Group, GroupId};

/// What there is to do about a group.
enum Next {
    /// It meets this event.
    Event(Event),
    /// Nothing before that time; or nothing until something else happens.
    Wait(Option<Instant>),
}

/// Whose turn it is to take a group that nobody owns.
enum Turn {
    /// This node's.
    Mine,
    /// This node's once so many others, which are alive, have let theirs pass.
    After(u32),
    /// Somebody's that cannot be heard: the API decides.
    Unknown,
}

/// Who gets a group next.
#[derive(Clone, Copy)]
struct Successor {
    id: NodeId,
    /// It has just refused it.
    refused: bool,
}

impl Ownership {
    /// Lets a group meet whatever events are due.
    pub(super) fn look_at(&mut self, now: Instant, id: GroupId) {
        // Few transitions follow from one another; the bound is for a mistake in the rules.
        #[cfg(test)]
        {
            self.decisions += 1;
        }
        for _ in 0..8 {
            match self.next(now, id) {
                Next::Event(event) => self.apply(now, id, event),
                Next::Wait(timer) => {
                    self.set_timer(id, timer);
                    break;
                }
            }
        }
        // What `apply` marked was looked at.
        self.dirty.remove(&id);
        let forgettable = |state: &State| state.phase == Phase::Idle && state.timer.is_none();
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

    fn next(&mut self, now: Instant, id: GroupId) -> Next {
        let Some(state) = self.groups.get(&id) else { return Next::Wait(None) };
        let phase = state.phase;
        let group = self.view.groups.get(&id).cloned();
        let group = group.as_deref().filter(|group| !group.candidates.is_empty() || group.retainable);
        match phase {
            Phase::Idle => match group {
                Some(group) => self.turn(now, group),
                None => Next::Wait(None),
            },
            Phase::Refused => self.wait(now, id),
            Phase::Asking { cause, epoch } => self.go_on_asking(now, id, group, cause, epoch),
            Phase::Owning { epoch } => {
                self.note_stranded(now, id, group);
                self.keep(now, id, group, epoch)
            }
            Phase::Leaving { epoch, to } => {
                self.note_stranded(now, id, group);
                self.leave(now, id, group, epoch, to)
            }
        }
    }

    /// A group that was refused is let alone for a while.
    fn wait(&mut self, now: Instant, id: GroupId) -> Next {
        let heard = |(_, owner)| self.liveness(now, owner) == Liveness::Alive;
        let is_heard = self.best_claim(id).is_some_and(heard);
        let Some(state) = self.groups.get_mut(&id) else { return Next::Wait(None) };
        if is_heard && state.lives.is_some() {
            // If it dies from now on, that is news.
            state.refused_no_longer_than(now.checked_add(REFUSAL).unwrap_or(now));
        }
        match state.until {
            Some(at) if now < at => Next::Wait(Some(at)),
            _ => Next::Event(Event::Due),
        }
    }

    /// Which peers claim the group, with their epochs.
    pub(super) fn claims_of(&self, id: GroupId) -> impl Iterator<Item = (NodeId, u64)> {
        let claims = self.claimed.range((id, NodeId(u64::MIN))..=(id, NodeId(u64::MAX)));
        claims.map(|((_, node), epoch)| (*node, *epoch))
    }

    /// The best claim of a peer to the group.
    pub(super) fn best_claim(&self, id: GroupId) -> Option<(u64, NodeId)> {
        self.claims_of(id).map(|(node, epoch)| (epoch, node)).max()
    }

    /// Whether a peer has a better claim than one of this node with `epoch`.
    pub(super) fn is_outbid(&self, id: GroupId, epoch: u64) -> bool {
        self.best_claim(id).is_some_and(|claim| claim > (epoch, self.me))
    }

    /// Whether this node may own the group at all.
    fn may_own(&self, group: &Group) -> bool {
        !self.leaving && group.admits(&self.settings.me)
    }

    /// Whether this node may go on owning the group, since nobody else can.
    fn may_retain(&self, group: &Group) -> bool {
        !self.leaving && group.retainable
    }

    fn go_on_asking(
        &self,
        now: Instant,
        id: GroupId,
        group: Option<&Group>,
        cause: Cause,
        epoch: u64,
    ) -> Next {
        let Some(group) = group else { return Next::Event(Event::Gone) };
        let retains = cause == Cause::Recheck && self.may_retain(group);
        if !self.may_own(group) && !retains {
            return Next::Event(Event::Unwanted { successor: None });
        }
        let claim = self.best_claim(id);
        let taken = match cause {
            // Whoever is heard and has a claim has the group.
            Cause::Vacancy => claim.is_some_and(|(_, node)| self.liveness(now, node) == Liveness::Alive),
            Cause::Takeover(owner) => claim.is_some_and(|(theirs, node)| {
                self.liveness(now, node) == Liveness::Alive && (node == owner || theirs >= epoch)
            }),
            Cause::Recheck => self.is_outbid(id, epoch),
        };
        if taken { Next::Event(Event::Outbid) } else { Next::Wait(None) }
    }

    fn keep(&self, now: Instant, id: GroupId, group: Option<&Group>, epoch: u64) -> Next {
        if self.is_outbid(id, epoch) {
            return Next::Event(Event::Outbid);
        }
        let Some(group) = group else { return Next::Event(Event::Gone) };
        if self.may_retain(group) {
            return Next::Wait(None);
        }
        let successor = self.successor(now, group);
        let must_go = !self.may_own(group);
        if successor.is_some()
            && let Some(next) = self.probes_added(now, group, must_go)
        {
            return next;
        }
        if must_go {
            // Rather one that has just refused than a gap.
            let successor = successor.map(|s| s.id).filter(|_| !self.withholds(group));
            if successor.is_none()
                && let Some(again) = self.awaits_successor(now, group)
            {
                return Next::Wait(Some(again));
            }
            return Next::Event(Event::Unwanted { successor });
        }
        let regrouped = self.groups.get(&id).and_then(|state| state.regrouped);
        if let Some(until) = regrouped.and_then(|at| at.checked_add(REFUSAL)).filter(|until| now < *until) {
            // A successor whose view is late would announce addresses with it that are in another group now.
            return Next::Wait(Some(until));
        }
        let willing = successor.filter(|successor| !successor.refused).map(|successor| successor.id);
        let came = self.groups.get(&id).and_then(|state| state.came);
        let kept = came.zip(willing).map(|(came, successor)| came.kept_from(successor));
        if let Some(until) = kept.filter(|until| now < *until) {
            return Next::Wait(Some(until));
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
            Next::Event(Event::Unwanted { successor: willing })
        } else {
            Next::Wait(self.reconsidered(now, id))
        }
    }

    /// Notes since when this node must give a group away that nobody can be asked to take.
    fn note_stranded(&mut self, now: Instant, id: GroupId, group: Option<&Group>) {
        let stranded =
            group.is_some_and(|group| !self.may_own(group) && self.successor(now, group).is_none());
        if let Some(state) = self.groups.get_mut(&id) {
            state.stranded_since = stranded.then(|| state.stranded_since.unwrap_or(now));
        }
    }

    /// When to see again whether a group that must go can be handed over, if somebody may take it soon: a candidate that is
    /// heard and was only stopped, or is ready and was not heard yet. That takes no longer than a handover.
    fn awaits_successor(&self, now: Instant, group: &Group) -> Option<Instant> {
        let since = self.groups.get(&group.id)?.stranded_since?;
        let until = since.checked_add(OFFERS).filter(|until| now < *until)?;
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

    /// A wait while the link is asked about addresses that came to the group: who is handed a group does not ask. An
    /// address that this node cannot ask about is no reason to wait, and an owner that must go waits for a moment only.
    fn probes_added(&self, now: Instant, group: &Group, must_go: bool) -> Option<Next> {
        let probed = group.addresses.keys().filter_map(|address| self.added.get(&address));
        let since = probed.filter(|added| !added.unaskable).map(|added| added.since).max()?;
        let until = since.checked_add(REFUSAL).filter(|_| must_go);
        until.is_none_or(|until| now < until).then_some(Next::Wait(until))
    }

    /// Whether a stranger has an address of the group. Who owns it next has to find that out from the wire, which an owner
    /// that hands over spares it.
    fn withholds(&self, group: &Group) -> bool {
        group.addresses.keys().any(|address| self.is_withheld(address))
    }

    /// When the next refusal of a successor is void.
    fn reconsidered(&self, now: Instant, id: GroupId) -> Option<Instant> {
        self.groups.get(&id)?.declined.values().filter(|until| **until > now).min().copied()
    }

    fn leave(&mut self, now: Instant, id: GroupId, group: Option<&Group>, epoch: u64, to: NodeId) -> Next {
        let keep = self.keep(now, id, group, epoch);
        let Next::Event(Event::Unwanted { successor }) = keep else {
            return match keep {
                Next::Event(event) => Next::Event(event),
                Next::Wait(_) => Next::Event(Event::Wanted),
            };
        };
        // Who has been asked may have taken it already; another one then would be a second owner.
        let stands = group.is_some_and(|group| self.may_succeed(now, group, to));
        if !stands && successor != Some(to) {
            return Next::Event(Event::Unwanted { successor });
        }
        let Some(state) = self.groups.get_mut(&id) else { return Next::Wait(None) };
        // Only a process that is to stop has no time.
        let stops = self.leaving.then(|| now.checked_add(OFFERS)).flatten();
        state.until = stops.map(|stops| state.until.unwrap_or(stops));
        if state.until.is_some_and(|at| at <= now) {
            return Next::Event(Event::Due);
        }
        if state.offer.is_none_or(|at| at <= now) {
            let pause = OFFER.saturating_mul(1 << state.offers.min(8)).min(self.settings.interval);
            state.offers = state.offers.saturating_add(1);
            state.offer = now.checked_add(pause);
            self.outgoing.entry(to).or_default().leaves.push(Stake { group: id, epoch });
        }
        let state = self.groups.get(&id);
        Next::Wait(state.and_then(|state| [state.offer, state.until].into_iter().flatten().min()))
    }

    /// Whether a candidate has no link on the subnet of the group's addresses, and `other` has.
    fn is_off_subnet(group: &Group, id: NodeId, other: NodeId) -> bool {
        let remote = |id: NodeId| group.candidates.get(id).map(|candidate| candidate.tier.remote);
        remote(id) == Some(true) && remote(other) == Some(false)
    }

    fn placed(&self, group: &Group) -> Option<NodeId> {
        self.view.placed.get(&group.id).and_then(|name| group.candidates.id_of(name))
    }

    /// Who gets a group that this node must give away: somebody who is heard, and has not just refused it if there is
    /// anybody else. The best tier comes first, since the group stays where it goes; within it during a rolling
    /// upgrade those already upgraded, so that a group moves once; then who the placement names, then the order of
    /// candidates.
    fn successor(&self, now: Instant, group: &Group) -> Option<Successor> {
        let refused = |id| self.has_refused(now, group.id, id);
        let placed = self.placed(group);
        let fit = self.alive.ids().filter(|id| self.is_fit(now, *id));
        let best = group.candidates.first_by(fit, |candidate| {
            let generation = self.view.speakers.get(&candidate.node).map_or(0, |s| s.generation);
            let id = candidate.id;
            (refused(id), candidate.tier, Reverse(generation), placed != Some(id))
        });
        best.map(|candidate| Successor { id: candidate.id, refused: refused(candidate.id) })
    }

    /// Whether a peer is heard, and neither leaves nor was stopped.
    fn is_fit(&self, now: Instant, id: NodeId) -> bool {
        self.liveness(now, id) == Liveness::Alive
            && self.peers.get(&id).is_some_and(|peer| !peer.flags.leaving && !peer.flags.stalled)
    }

    fn has_refused(&self, now: Instant, group: GroupId, id: NodeId) -> bool {
        let state = self.groups.get(&group);
        state.and_then(|state| state.declined.get(&id)).is_some_and(|until| *until > now)
    }

    /// Whether the group can go to this peer, though another might come first.
    fn may_succeed(&self, now: Instant, group: &Group, id: NodeId) -> bool {
        group.candidates.get(id).is_some() && self.is_fit(now, id) && !self.has_refused(now, group.id, id)
    }

    /// Whether it is this node's turn to take a group that is not its own.
    fn turn(&mut self, now: Instant, group: &Group) -> Next {
        if !self.settled || !self.may_own(group) {
            return Next::Wait(None);
        }
        let highest = self.groups.get(&group.id).map_or(0, |state| state.highest);
        if let Some((epoch, owner)) = self.best_claim(group.id) {
            match self.liveness(now, owner) {
                Liveness::Alive => {
                    self.set_vacant_since(group.id, None);
                    if let Some(state) = self.groups.get_mut(&group.id) {
                        (state.refusals, state.left_since) = (0, None);
                    }
                    return Next::Wait(None);
                }
                Liveness::Silent(since) => {
                    if let Some(rank) = self.rank(group, owner) {
                        let at = since.checked_add(STAGGER.saturating_mul(rank)).unwrap_or(now);
                        if now < at {
                            return Next::Wait(Some(at));
                        }
                        let epoch = next_epoch(highest.max(epoch));
                        return self.unless_too_many(group.id, Event::Silent { epoch, owner });
                    }
                    let still_candidate =
                        self.directory.names.get(&owner).is_some_and(|name| group.admits(name));
                    if still_candidate {
                        // Its watchers act, or the API says that it is gone.
                        return Next::Wait(None);
                    }
                }
                Liveness::Unheard => {}
            }
        }
        if let Some(until) = self.gathering.filter(|until| now < *until)
            && group.last.is_none()
            && self.view.speakers.values().any(|speaker| !speaker.ready)
        {
            return Next::Wait(Some(until));
        }
        let mine_before = group.last.as_ref().is_some_and(|(node, _)| *node == self.settings.me);
        // Its own claim again, unless somebody had a better one since, who may be gone.
        let again = highest.max(1);
        let keeps = mine_before && !self.is_outbid(group.id, again);
        let epoch = if keeps { again } else { next_epoch(highest) };
        match self.whose_turn(now, group) {
            Turn::Unknown => {
                self.set_vacant_since(group.id, None);
                Next::Wait(None)
            }
            Turn::Mine => self.unless_too_many(group.id, Event::Vacant { epoch }),
            Turn::After(others) => {
                let since = self.set_vacant_since(group.id, Some(now)).unwrap_or(now);
                let at = since.checked_add(VACANCY.saturating_mul(others)).unwrap_or(now);
                if now < at {
                    return Next::Wait(Some(at));
                }
                let epoch = next_epoch(highest);
                self.unless_too_many(group.id, Event::Vacant { epoch })
            }
        }
    }

    fn unless_too_many(&mut self, id: GroupId, event: Event) -> Next {
        if self.asking.len() < super::ASKED_AT_ONCE {
            return Next::Event(event);
        }
        self.waiting.insert(id);
        Next::Wait(None)
    }

    /// Notes since when nobody owns a group, unless that is known already; or that somebody does.
    fn set_vacant_since(&mut self, id: GroupId, now: Option<Instant>) -> Option<Instant> {
        let state = self.groups.get_mut(&id)?;
        state.vacant_since = now.map(|now| state.vacant_since.unwrap_or(now));
        state.vacant_since
    }

    /// This node's number among the watchers of a group: the first three candidates without the owner.
    fn rank(&self, group: &Group, owner: NodeId) -> Option<u32> {
        let watchers = group.candidates.iter().map(|candidate| candidate.id).filter(|id| *id != owner);
        let rank = watchers.take(WATCHERS).position(|id| id == self.me)?;
        u32::try_from(rank).ok()
    }

    /// Who owned the group last goes first, unless it has no link on the subnet and another candidate has;
    /// then who the placement names, then the candidates in order.
    fn whose_turn(&self, now: Instant, group: &Group) -> Turn {
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
                return if others == 0 { Turn::Mine } else { Turn::After(others) };
            }
            if passed.contains(&id) {
                continue;
            }
            match self.liveness(now, id) {
                Liveness::Alive if self.peers.get(&id).is_some_and(|peer| peer.flags.leaving) => {}
                Liveness::Alive => passed.push(id),
                Liveness::Silent(_) => {}
                Liveness::Unheard => return Turn::Unknown,
            }
        }
        Turn::Unknown
    }

    /// How long a leaving speaker lets its successors have.
    pub const fn handover_time() -> Duration {
        OFFERS
    }
}
