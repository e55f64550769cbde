//! What time brings, and what follows when this speaker did not run for a while.

use std::time::Instant;

use super::phase::Event;
use super::{GroupId, Ownership};

impl Ownership {
    /// Everything that time brings. Of many groups only some are decided about: the driver calls again at once, after what
    /// has come meanwhile.
    pub(super) fn advance(&mut self, now: Instant) {
        self.notice_silence(now);
        self.settle(now);
        self.beacon(now);
        self.reprobe(now);
        self.ask_again_about_added(now);
        while let Some((at, id)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.remove(&(at, id));
            if let Some(state) = self.groups.get_mut(&id) {
                state.timer = None;
            }
            self.dirty.insert(id);
        }
        self.behind = None;
        for _ in 0..self.slice {
            if self.dirty.is_empty() && !self.ask_next() {
                return;
            }
            if let Some(id) = self.dirty.pop_first() {
                self.look_at(now, id);
            }
        }
        self.behind = Some(now);
    }

    /// Whether this speaker did not run for so long that it must not trust what it did not hear meanwhile.
    pub fn was_stopped(&self, now: Instant) -> bool {
        self.promised.is_some_and(|promised| now.saturating_duration_since(promised) > self.patience())
    }

    /// A speaker whose own loop was late must not trust what it did not hear meanwhile. Late by more than the
    /// patience of others, it may have lost everything: it answers nothing before it has asked anew.
    pub(super) fn watch_own_clock(&mut self, now: Instant) {
        let Some(promised) = self.promised else { return };
        if self.was_stopped(now) {
            self.stalled(now);
        } else if now.saturating_duration_since(promised) > self.settings.interval {
            // Accuses nobody in this round.
            let patience = self.settings.interval.saturating_mul(self.settings.misses.saturating_sub(1));
            let floor = now.checked_sub(patience).unwrap_or(now);
            self.hear_since(floor);
        }
    }

    /// This speaker did not run: others may have taken what it has.
    pub(super) fn stalled(&mut self, now: Instant) {
        self.counts.stalls += 1;
        let asking: Vec<GroupId> = self.asking.iter().copied().collect();
        let claimed: Vec<GroupId> = self.mine.keys().copied().collect();
        for id in asking.into_iter().chain(claimed) {
            self.apply(now, id, Event::Stalled);
        }
        self.hear_all(now);
        self.greet_all();
        self.next_beacon = self.next_beacon.map(|_| now);
    }
}
