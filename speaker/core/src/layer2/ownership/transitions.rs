//! Applying events to groups, and the actions that follow.

use std::time::Instant;

use super::phase::{Action, Event, Phase, ProbeCause};
use super::{GroupId, Output, Ownership};
use crate::layer2::beacon::{Claim, digest_of};

impl Ownership {
    /// Applies an event to a group and performs the resulting actions.
    pub(super) fn apply(&mut self, now: Instant, id: GroupId, event: Event) {
        let state = self.groups.entry(id).or_default();
        let before = state.phase;
        let (after, actions) = before.on(event);
        state.phase = after;
        if before == after && actions.is_empty() {
            return;
        }
        let until = state.until.take();
        (state.next_offer, state.alive_owner, state.probe_failed) = (None, None, false);
        match after {
            Phase::Backoff => {
                state.until = now.checked_add(state.next_backoff(event, self.settings.interval));
                if let Phase::Probing { cause: ProbeCause::Takeover(owner), .. } = before {
                    state.alive_owner = self.directory.names.get(&owner).cloned();
                }
            }
            Phase::HandingOver { .. } => {
                // However many successors are tried in turn.
                let leaving = matches!(before, Phase::HandingOver { .. });
                state.until = until.filter(|_| leaving);
                (state.next_offer, state.offer_count) = (Some(now), 0);
            }
            Phase::Active { epoch } => {
                state.highest_epoch = state.highest_epoch.max(epoch);
                (state.vacant_since, state.yielded_since) = (None, None);
                (state.deferrals, state.bystander_answers, state.backoffs) = (0, 0, 0);
                if before.claimed().is_none() {
                    state.declined.clear();
                }
            }
            Phase::Idle => state.declined.clear(),
            Phase::Probing { .. } => {}
        }
        if after.is_fenced() {
            self.fenced.insert(id);
        } else if before.is_fenced() {
            self.fenced.remove(&id);
            self.fenced_queue.remove(&id);
        }
        self.count(before, event);
        for action in actions {
            match action {
                Action::Probe => self.start_probe(now, id),
                Action::CancelProbe => self.cancel_probes(id),
                Action::Announce => self.activate(id),
                Action::Withdraw => self.deactivate(id),
            }
        }
        self.dirty.insert(id);
    }

    fn count(&mut self, before: Phase, event: Event) {
        match (before, event) {
            (Phase::Probing { cause: ProbeCause::Vacancy, .. }, Event::ProbeClear) => self.counts.claims += 1,
            (Phase::Probing { cause: ProbeCause::Takeover(_), .. }, Event::ProbeClear) => {
                self.counts.takeovers += 1;
            }
            (_, Event::HandedOver { .. }) => self.counts.handovers += 1,
            (Phase::Active { .. }, Event::Superseded) => self.counts.superseded += 1,
            (Phase::Probing { .. }, Event::Nacked) => self.counts.nacks += 1,
            _ => {}
        }
    }

    /// This node owns the group from now on.
    fn activate(&mut self, id: GroupId) {
        let Some(epoch) = self.groups.get(&id).and_then(|state| state.phase.claimed()) else { return };
        self.end_probing(id);
        let claim = Claim { group: id, epoch };
        if let Some(before) = self.owned.insert(id, epoch) {
            self.digest ^= digest_of(Claim { group: id, epoch: before });
        }
        self.digest ^= digest_of(claim);
        self.ownership_revision += 1;
        self.outputs.push_back(Output::Announce(id));
        self.broadcast_claim(claim, true);
    }

    fn deactivate(&mut self, id: GroupId) {
        let Some(epoch) = self.owned.remove(&id) else { return };
        // The next owner probes for itself.
        if let Some(group) = self.view.groups.get(&id).cloned() {
            group.addresses.keys().for_each(|address| self.forget_probe_state(address));
        }
        let claim = Claim { group: id, epoch };
        self.digest ^= digest_of(claim);
        self.ownership_revision += 1;
        self.pending_withdrawals += 1;
        self.outputs.push_back(Output::Withdraw(id));
        self.broadcast_claim(claim, false);
    }
}
