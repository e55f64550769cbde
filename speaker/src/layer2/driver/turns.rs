//! The order in which the driver handles inputs and performs outputs: no input waits for long.

use std::time::{Duration, Instant};

use announce::layer2::{ownership, responder};

use super::DriverState;
use crate::layer2::beacon_socket::ReceivedBeacon;
use crate::layer2::link_sockets::ReceivedFrame;

/// How long outputs are performed before new inputs are handled.
const TURN: Duration = Duration::from_millis(4);
/// How many frames or messages are handled before outputs are performed again.
const BATCH: usize = 256;
impl DriverState {
    pub(super) fn on_frames(&mut self, first: ReceivedFrame) {
        let now = Instant::now();
        self.catch_up(now);
        self.frame(now, &first);
        self.frames_waiting(now);
        self.perform_outputs(now);
    }

    /// Handles frames that are waiting, answers first.
    fn frames_waiting(&mut self, now: Instant) {
        for _ in 0..BATCH {
            let Ok(frame) = self.frames.try_recv() else { return };
            self.frame(now, &frame);
        }
    }

    fn frame(&mut self, now: Instant, ReceivedFrame { at, link, len, bytes }: &ReceivedFrame) {
        let frame = bytes.get(..*len).unwrap_or(bytes);
        self.feed_responder(now, responder::Input::Frame(*link, frame));
        while let Some(answer) = self.responder.poll_answer() {
            self.on_responder_output(now, answer);
            self.driver.metrics.answer_latency.0.observe(at.elapsed().as_secs_f64());
        }
    }

    pub(super) fn on_beacon(&mut self, beacon: ReceivedBeacon) {
        self.feed_ownership(Instant::now(), ownership::Input::Message(beacon.from, beacon.message));
    }

    /// Outputs are pending: another turn, after new inputs.
    pub(super) fn continue_turn(&mut self, deadline: Option<Instant>) {
        let now = Instant::now();
        if deadline.is_some_and(|at| at <= now) {
            self.on_deadline();
        } else {
            self.handle_received(now);
            self.perform_outputs(now);
        }
    }

    /// A stalled speaker detects the stall before it handles anything that it received meanwhile. Otherwise
    /// received inputs come first: an answer that waits to be read ends a probe as well as one that was read
    /// in time.
    pub(super) fn on_deadline(&mut self) {
        let now = Instant::now();
        if !self.was_suspended(now) && !self.ownership.is_stalled(now) {
            self.handle_received(now);
        }
        self.deadline(Instant::now());
    }

    fn was_suspended(&mut self, now: Instant) -> bool {
        let jumped = self.clocks.jumped();
        if jumped {
            self.feed_ownership(now, ownership::Input::Suspended);
        }
        jumped
    }

    fn handle_received(&mut self, now: Instant) {
        self.frames_waiting(now);
        for frame in self.sockets.receive_waiting() {
            self.frame(now, &frame);
        }
        for _ in 0..BATCH {
            let Ok(beacon) = self.received_beacons.try_recv() else { return };
            self.on_beacon(beacon);
        }
    }

    /// Deadlines first, then received inputs: a stalled speaker must not answer before it has detected the
    /// stall.
    pub(super) fn catch_up(&mut self, now: Instant) {
        self.was_suspended(now);
        if self.ownership.next_deadline().is_some_and(|at| at <= now) {
            self.deadline(now);
        }
    }

    pub(super) fn deadline(&mut self, now: Instant) {
        self.sockets.retry(now);
        self.publish_unavailable();
        self.feed_ownership(now, ownership::Input::Deadline);
        self.feed_responder(now, responder::Input::Deadline);
        self.perform_outputs(now);
    }

    /// Performs the outputs of both state machines, until there are none or the turn is over. Withdrawals are
    /// performed in any case, since frames may be answered next.
    pub(super) fn perform_outputs(&mut self, now: Instant) {
        while self.perform_next_output(now) {
            if now.elapsed() > TURN && !self.ownership.has_withdrawals() {
                self.outputs_pending = true;
                return;
            }
        }
        self.outputs_pending = false;
    }

    pub(super) fn perform_all_outputs(&mut self, now: Instant) {
        while self.perform_next_output(now) {}
        self.outputs_pending = false;
    }

    fn perform_next_output(&mut self, now: Instant) -> bool {
        if let Some(output) = self.ownership.poll_output() {
            self.on_ownership_output(now, output);
        } else if let Some(output) = self.responder.poll_output() {
            self.on_responder_output(now, output);
        } else if self.changed.is_empty() {
            return false;
        } else {
            // After all outputs: an address that moves to another group is announced there before it leaves
            // this one.
            let changed = std::mem::take(&mut self.changed);
            self.announce(now, changed);
        }
        true
    }
}
