//! Probing the addresses of a group on the link.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use super::peers::{Liveness, Peer};
use super::phase::{Event, Phase, ProbeCause};
use super::state::MAX_BACKOFF;
use super::{BACKOFF, Detection, MAX_CONCURRENT_PROBES, Output, Ownership, Unverified};
use crate::cluster::GroupId;
use crate::cluster::NodeId;
use crate::layer2::beacon::Claim;
use crate::layer2::responder::ProbePlan;
use crate::layer2::view::{Group, View};

/// How long this node yields an address to a speaker whose view is late and that still has it in another
/// group. After that time, not the speaker but its kernel answers.
pub(super) const STALE_VIEW_TOLERANCE: Duration = Duration::from_secs(10);
/// No group comes before this one.
const LOWEST: GroupId = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// The shortest and the longest interval until an unverified address is probed again.
const UNVERIFIED_RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

impl Ownership {
    /// Probes the addresses of a group, and sends an intent to the other watchers. Groups that this node
    /// owned before a stall are queued.
    pub(super) fn start_probe(&mut self, now: Instant, id: GroupId) {
        let (Some(group), Some(state)) = (self.view.groups.get(&id).cloned(), self.groups.get_mut(&id))
        else {
            return;
        };
        let Phase::Probing { epoch, cause } = state.phase else { return };
        if cause == ProbeCause::Recheck {
            self.fenced_queue.insert(id);
            return;
        }
        state.pending = probeable_addresses(&self.view, &group);
        if self.settings.detection == Detection::Off && cause == ProbeCause::Vacancy {
            state.pending.clear();
        }
        self.probe(id, &group);
        for peer in self.beacon_peers.iter().filter(|peer| self.alive.contains(**peer)) {
            self.outgoing.entry(*peer).or_default().intents.push(Claim { group: id, epoch });
        }
        self.resolve(now, id);
    }

    fn probe(&mut self, id: GroupId, group: &Group) {
        let Some(state) = self.groups.get(&id) else { return };
        let plan = match state.phase {
            // The longer probe is only for an address that has never been in use.
            Phase::Probing { epoch: 0..=1, cause: ProbeCause::Vacancy } => ProbePlan::FIRST_CLAIM,
            _ => ProbePlan::TAKEOVER,
        };
        self.probing.insert(id);
        for address in &state.pending {
            if let Some(scope) = group.addresses.get(*address) {
                self.outputs.push_back(Output::Probe(*address, scope.clone(), plan));
            }
        }
    }

    /// Starts the next queued probe, groups that this node owned first; false if there is none, or too many
    /// groups are being probed.
    pub(super) fn probe_next(&mut self) -> bool {
        if self.probing.len() >= MAX_CONCURRENT_PROBES {
            return false;
        }
        if let Some(id) = self.fenced_queue.pop_first() {
            if let (Some(group), Some(state)) = (self.view.groups.get(&id).cloned(), self.groups.get_mut(&id))
            {
                state.pending = probeable_addresses(&self.view, &group);
                self.probe(id, &group);
            }
            self.dirty.insert(id);
            return true;
        }
        let next = self.probe_queue.pop_first();
        self.dirty.extend(next);
        next.is_some()
    }

    /// When all addresses have been probed, the group is free: this node announces it, unless its claim has
    /// been superseded.
    pub(super) fn resolve(&mut self, now: Instant, id: GroupId) {
        let Some(state) = self.groups.get(&id).filter(|state| state.pending.is_empty()) else { return };
        if let Phase::Probing { epoch, .. } = state.phase {
            let event = if self.is_superseded(id, epoch) { Event::Superseded } else { Event::ProbeClear };
            self.apply(now, id, event);
        }
    }

    pub(super) fn cancel_probes(&mut self, id: GroupId) {
        if let Some(group) = self.view.groups.get(&id).cloned() {
            for address in group.addresses.keys() {
                self.outputs.push_back(Output::CancelProbe(address));
                self.forget_probe_state(address);
            }
        }
        self.end_probing(id);
    }

    pub(super) fn end_probing(&mut self, id: GroupId) {
        self.probing.remove(&id);
        if let Some(state) = self.groups.get_mut(&id) {
            state.pending.clear();
        }
    }

    /// Whether any group that this node owned before a stall has not been probed yet.
    pub(super) fn is_fenced(&self) -> bool {
        !self.fenced.is_empty()
    }

    /// The group that is being probed and contains this address.
    pub(super) fn probed_group(&self, address: IpAddr) -> Option<GroupId> {
        let id = self.group_of(address)?;
        self.groups.get(&id)?.pending.contains(&address).then_some(id)
    }

    pub(super) fn on_probe_clear(&mut self, now: Instant, address: IpAddr) {
        if self.conflicts.contains_key(&address) {
            self.resolve_conflict(now, address);
        }
        self.forget_kernel_answer(address);
        if self.unverified.remove(&address).is_some() {
            self.report_revision += 1;
            self.update_announced(address);
        }
        if self.verifying.remove(&address).is_some()
            && let Some(id) = self.group_of(address)
        {
            self.reannounce(now, id);
        }
        self.skip_address(now, address);
    }

    /// This address does not keep its group from being taken.
    pub(super) fn skip_address(&mut self, now: Instant, address: IpAddr) {
        let Some(id) = self.probed_group(address) else { return };
        if let Some(state) = self.groups.get_mut(&id) {
            state.pending.remove(&address);
        }
        self.resolve(now, id);
    }

    /// The address could not be probed, so this node cannot announce it either.
    pub(super) fn on_probe_failed(&mut self, now: Instant, address: IpAddr) {
        self.verifying.remove(&address);
        if let Some(added) = self.unverified.get_mut(&address) {
            added.unprobeable = true;
            self.next_unverified_probe = added.schedule_probe(now, self.next_unverified_probe);
            self.dirty.extend(self.group_of(address));
        }
        if let Some(id) = self.probed_group(address) {
            self.apply(now, id, Event::ProbeFailed);
        }
    }

    /// The links of this node have changed: probes that failed may succeed now.
    pub(super) fn retry_failed_probes(&mut self, now: Instant) {
        for (id, state) in &mut self.groups {
            if state.probe_failed {
                state.limit_backoff(now);
                self.dirty.insert(*id);
            }
        }
    }

    /// Whether a speaker that is heard still claims the group that an address was in before: its view is
    /// late.
    pub(super) fn still_claims(&self, now: Instant, node: NodeId, address: IpAddr) -> bool {
        let Some(peer) = self.peers.get(&node) else { return false };
        let former = self.former_groups.range((address, LOWEST)..).take_while(|((of, _), _)| *of == address);
        let mut claimed = former.filter(|((_, group), _)| peer.claims.contains_key(group));
        let recently = |since: Instant| now.saturating_duration_since(since) < STALE_VIEW_TOLERANCE;
        claimed.any(|(_, since)| recently(*since)) && self.liveness(now, node) == Liveness::Alive
    }

    /// Whether this node yields a group that it probes to a speaker that is heard, does not claim the group,
    /// and still answers for an address of it: one of the two views may be late, so that the address is in
    /// another group of that speaker. After a while only its kernel can be the cause.
    pub(super) fn may_have_in_other_group(
        &mut self,
        now: Instant,
        id: GroupId,
        node: NodeId,
        address: IpAddr,
    ) -> bool {
        if self.still_claims(now, node, address) {
            return true;
        }
        let agrees = |peer: &Peer| peer.in_sync && !peer.claims.contains_key(&id);
        let unclaimed = self.claims_unknown(node) || self.peers.get(&node).is_some_and(agrees);
        let limit = self.yield_limit(node);
        let heard = self.liveness(now, node) == Liveness::Alive;
        let Some(state) = self.groups.get_mut(&id).filter(|_| unclaimed && heard) else { return false };
        // A speaker that keeps answering is probed again sooner than that.
        let recent = |since: &Instant| now.saturating_duration_since(*since) < MAX_BACKOFF * 2;
        let since = *state.yielded_since.insert(state.yielded_since.filter(recent).unwrap_or(now));
        now.saturating_duration_since(since) < limit
    }

    /// How long this node yields an address to a speaker that answers for it without a claim: a group that is
    /// unknown here may contain it. Otherwise the view of that speaker can only be newer; if its kernel is
    /// known to answer, an answer is no sign of that.
    fn yield_limit(&self, node: NodeId) -> Duration {
        if self.claims_unknown(node) {
            STALE_VIEW_TOLERANCE
        } else if self.is_kernel_confirmed(node) {
            Duration::ZERO
        } else {
            BACKOFF
        }
    }

    /// Whether a speaker claims a group that this node does not know, and whose addresses it cannot know
    /// either.
    pub(super) fn claims_unknown(&self, node: NodeId) -> bool {
        self.unknown_group_claims.range((node, LOWEST)..).next().is_some_and(|(of, _)| *of == node)
    }

    /// Yields the group to a speaker whose view differs: briefly, or for a regular backoff if only its answer
    /// indicates that.
    pub(super) fn yield_briefly(&mut self, now: Instant, id: GroupId, node: NodeId, address: IpAddr) {
        let differs = self.claims_unknown(node) || self.still_claims(now, node, address);
        self.apply(now, id, Event::ProbeAnswered);
        if !differs {
            return;
        }
        let soon = now.checked_add(self.settings.interval).unwrap_or(now);
        if let Some(state) = self.groups.get_mut(&id) {
            state.limit_backoff(soon);
        }
    }

    /// Whether this node yields an address that was added to an owned group to a speaker that answers for it,
    /// and probes it again. False if its speaker does not claim the address, or the time limit has passed.
    pub(super) fn is_yielded_to(&mut self, now: Instant, node: NodeId, address: IpAddr) -> bool {
        let Some(peer) = self.peers.get(&node) else { return false };
        let claims =
            !peer.in_sync || peer.claims.contains_key(&address) || self.still_claims(now, node, address);
        let limit = if claims { STALE_VIEW_TOLERANCE } else { self.yield_limit(node) };
        let Some(added) = self.unverified.get_mut(&address) else { return false };
        if now.saturating_duration_since(added.since) >= limit {
            return false;
        }
        self.next_unverified_probe = added.schedule_probe(now, self.next_unverified_probe);
        true
    }

    /// A speaker that is heard probes an address that was added to an owned group: it has the address in
    /// another group, so intents do not decide. Probes again later, as long as the views may differ.
    pub(super) fn defer_unverified(&mut self, now: Instant, address: IpAddr) {
        let recent =
            |added: &&mut Unverified| now.saturating_duration_since(added.since) < STALE_VIEW_TOLERANCE;
        if let Some(added) = self.unverified.get_mut(&address).filter(recent) {
            self.next_unverified_probe = added.schedule_probe(now, self.next_unverified_probe);
            self.outputs.push_back(Output::CancelProbe(address));
        }
    }

    /// Probes unverified addresses again that other speakers had.
    pub(super) fn reprobe_unverified(&mut self, now: Instant) {
        if self.next_unverified_probe.is_none_or(|at| at > now) {
            return;
        }
        for (address, added) in &mut self.unverified {
            if added.next.is_some_and(|at| at <= now) {
                added.next = None;
                let id = super::view_changes::group_in(&self.view, &self.secondary_addresses, *address);
                let group = id.and_then(|id| self.view.groups.get(&id));
                if let Some(scope) = group.and_then(|group| group.addresses.get(*address)) {
                    self.outputs.push_back(Output::Probe(*address, scope.clone(), ProbePlan::TAKEOVER));
                }
            }
        }
        self.next_unverified_probe = self.unverified.values().filter_map(|added| added.next).min();
    }
}

/// The addresses of a group without those of nodes: a node answers for its own address, as it should.
fn probeable_addresses(view: &View, group: &Group) -> BTreeSet<IpAddr> {
    group.addresses.keys().filter(|address| !view.node_addresses.contains_key(address)).collect()
}

impl Unverified {
    /// Schedules the next probe. Returns the earlier of its time and `sooner`.
    fn schedule_probe(&mut self, now: Instant, sooner: Option<Instant>) -> Option<Instant> {
        let [shortest, longest] = UNVERIFIED_RETRY;
        let pause = (now.saturating_duration_since(self.since) / 2).clamp(shortest, longest);
        self.next = now.checked_add(pause);
        sooner.into_iter().chain(self.next).min()
    }
}
