//! Deadlines, and what follows when this speaker did not run for a while.

use std::time::Instant;

use super::phase::Event;
use super::{GroupId, Ownership};

impl Ownership {
    /// Performs everything that is due. Of many groups only a batch is evaluated: the driver calls again at
    /// once, after it has handled new input.
    pub(super) fn advance(&mut self, now: Instant) {
        self.detect_down_peers(now);
        self.settle(now);
        self.send_due_beacons(now);
        self.reprobe(now);
        self.reprobe_unverified(now);
        while let Some((at, id)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.remove(&(at, id));
            if let Some(state) = self.groups.get_mut(&id) {
                state.timer = None;
            }
            self.dirty.insert(id);
        }
        self.backlog_since = None;
        for _ in 0..self.batch {
            if self.dirty.is_empty() && !self.probe_next() {
                return;
            }
            if let Some(id) = self.dirty.pop_first() {
                self.evaluate(now, id);
            }
        }
        self.backlog_since = Some(now);
    }

    /// Whether this speaker did not run for longer than the detection time, so that what it knows of its
    /// peers is outdated.
    pub fn is_stalled(&self, now: Instant) -> bool {
        self.promised_deadline
            .is_some_and(|promised| now.saturating_duration_since(promised) > self.detection_time())
    }

    /// Detects that this speaker did not run for a while. After more than the detection time its peers may
    /// have taken over everything: it answers for nothing before it has probed again.
    pub(super) fn detect_stall(&mut self, now: Instant) {
        let Some(promised) = self.promised_deadline else { return };
        if self.is_stalled(now) {
            self.on_stall(now);
        } else if now.saturating_duration_since(promised) > self.settings.interval {
            // Does not let a peer go down in this round.
            let detection_time =
                self.settings.interval.saturating_mul(self.settings.detect_multiplier.saturating_sub(1));
            let floor = now.checked_sub(detection_time).unwrap_or(now);
            self.extend_liveness(floor);
        }
    }

    /// This speaker did not run: peers may have taken over what it owns.
    pub(super) fn on_stall(&mut self, now: Instant) {
        self.counts.stalls += 1;
        let asking: Vec<GroupId> = self.probing.iter().copied().collect();
        let claimed: Vec<GroupId> = self.owned.keys().copied().collect();
        for id in asking.into_iter().chain(claimed) {
            self.apply(now, id, Event::Stalled);
        }
        self.mark_all_alive(now);
        self.send_hellos();
        self.next_beacon = self.next_beacon.map(|_| now);
    }
}
