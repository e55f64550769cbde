//! Detects that the node or its virtual machine was suspended: the monotonic clock does not count that time.

use std::time::Duration;

/// The smallest forward step of the wall clock that is treated as a pause of the virtual machine. Smaller
/// ones are corrections by time synchronization.
const STEP: Duration = Duration::from_secs(1);

/// Clocks that advance during a suspension, unlike that of [`std::time::Instant`].
pub(super) struct Clocks {
    ahead: [Duration; 2],
}

impl Clocks {
    pub(super) fn new() -> Self {
        Self { ahead: ahead() }
    }

    /// Whether one of the clocks has jumped ahead since the last call.
    pub(super) fn jumped(&mut self) -> bool {
        self.update(ahead())
    }

    fn update(&mut self, ahead: [Duration; 2]) -> bool {
        let before = std::mem::replace(&mut self.ahead, ahead);
        before.iter().zip(ahead).any(|(before, ahead)| ahead.saturating_sub(*before) >= STEP)
    }
}

/// How far the boot time clock and the wall clock are ahead of the monotonic clock.
fn ahead() -> [Duration; 2] {
    let set_counts = time(libc::CLOCK_MONOTONIC);
    [libc::CLOCK_BOOTTIME, libc::CLOCK_REALTIME].map(|clock| time(clock).saturating_sub(set_counts))
}

#[allow(unsafe_code)]
fn time(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result. These clocks exist on every Linux; otherwise the result
    // stays 0.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_ahead_by_a_second_is_detected_once_and_one_that_is_set_back_is_not() {
        let seconds = |boot: u64, wall: u64| [Duration::from_secs(boot), Duration::from_secs(wall)];
        let mut clocks = Clocks { ahead: seconds(0, 1_000) };
        assert!(clocks.update(seconds(5, 1_005)), "suspended");
        assert!(!clocks.update(seconds(5, 1_005)));
        assert!(clocks.update(seconds(5, 1_007)), "a virtual machine that stood");
        assert!(!clocks.update(seconds(5, 900)), "set back");
        let slewed = [Duration::from_secs(5), Duration::from_millis(900_900)];
        assert!(!clocks.update(slewed));
        assert!(!Clocks::new().jumped());
    }
}
