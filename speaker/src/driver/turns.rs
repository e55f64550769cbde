//! In which order the driver handles what comes and carries out what was decided: no input waits for long.

use std::time::{Duration, Instant};

use announce::{ownership, responder};

use super::beacons::Heard;
use super::{Received, State};

/// For how long the driver carries out what was decided before it handles what has come meanwhile.
const TURN: Duration = Duration::from_millis(4);
/// Frames or messages that are handled before the driver goes on with what was decided.
const AT_ONCE: usize = 256;
impl State {
    pub(super) fn frames_came(&mut self, first: Received) {
        let now = Instant::now();
        self.catch_up(now);
        self.frame(now, &first);
        self.frames_waiting(now);
        self.carry_out(now);
    }

    /// Handles frames that have come already, answers first.
    fn frames_waiting(&mut self, now: Instant) {
        for _ in 0..AT_ONCE {
            let Ok(frame) = self.frames.try_recv() else { return };
            self.frame(now, &frame);
        }
    }

    fn frame(&mut self, now: Instant, Received { at, link, len, bytes }: &Received) {
        let frame = bytes.get(..*len).unwrap_or(bytes);
        self.tell_responder(now, responder::Input::Frame(*link, frame));
        while let Some(answer) = self.responder.poll_answer() {
            self.wire(now, answer);
            self.driver.metrics.answer_latency.0.observe(at.elapsed().as_secs_f64());
        }
    }

    pub(super) fn heard(&mut self, heard: Heard) {
        self.tell_ownership(Instant::now(), ownership::Input::Message(heard.from, heard.message));
    }

    /// What was decided is not carried out yet: another turn, after what has come meanwhile.
    pub(super) fn go_on(&mut self, deadline: Option<Instant>) {
        let now = Instant::now();
        if deadline.is_some_and(|at| at <= now) {
            self.time_came();
        } else {
            self.received_before(now);
            self.carry_out(now);
        }
    }

    /// A speaker that was stopped notices that before anything that it received meanwhile. Else what has come comes first:
    /// an answer that waits to be read ends a probe as well as one that was read in time.
    pub(super) fn time_came(&mut self) {
        let now = Instant::now();
        if !self.was_suspended(now) && !self.ownership.was_stopped(now) {
            self.received_before(now);
        }
        self.deadline(Instant::now());
    }

    fn was_suspended(&mut self, now: Instant) -> bool {
        let jumped = self.clocks.jumped();
        if jumped {
            self.tell_ownership(now, ownership::Input::Suspended);
        }
        jumped
    }

    fn received_before(&mut self, now: Instant) {
        self.frames_waiting(now);
        for frame in self.ports.unread() {
            self.frame(now, &frame);
        }
        for _ in 0..AT_ONCE {
            let Ok(heard) = self.heard.try_recv() else { return };
            self.heard(heard);
        }
    }

    /// Time first, then what was received: a speaker that was stopped must not answer before it has noticed.
    pub(super) fn catch_up(&mut self, now: Instant) {
        self.was_suspended(now);
        if self.ownership.next_deadline().is_some_and(|at| at <= now) {
            self.deadline(now);
        }
    }

    pub(super) fn deadline(&mut self, now: Instant) {
        self.ports.retry(now);
        self.publish_closed();
        self.tell_ownership(now, ownership::Input::Deadline);
        self.tell_responder(now, responder::Input::Deadline);
        self.carry_out(now);
    }

    /// Does what both machines ask for, until neither asks for anything or the turn is over. What is not ours any more is
    /// withdrawn in any case, since frames may be answered next.
    pub(super) fn carry_out(&mut self, now: Instant) {
        while self.carry_out_next(now) {
            if now.elapsed() > TURN && !self.ownership.has_withdrawals() {
                self.behind = true;
                return;
            }
        }
        self.behind = false;
    }

    pub(super) fn carry_out_all(&mut self, now: Instant) {
        while self.carry_out_next(now) {}
        self.behind = false;
    }

    fn carry_out_next(&mut self, now: Instant) -> bool {
        if let Some(output) = self.ownership.poll_output() {
            self.decided(now, output);
        } else if let Some(output) = self.responder.poll_output() {
            self.wire(now, output);
        } else if self.changed.is_empty() {
            return false;
        } else {
            // After what was decided: an address that goes to another group is announced there before it leaves this one.
            let changed = std::mem::take(&mut self.changed);
            self.announce(now, changed);
        }
        true
    }
}
