//! Detection of workers that make no progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The value of `last` while the worker rests.
const RESTING: u64 = 0;

/// The heartbeat of one worker, shared with the code that checks it: `/healthz`
/// ([`Readiness::supervise`](crate::admin::Readiness::supervise)) and the Lease
/// ([`Candidate`](crate::lease::Candidate)).
///
/// A worker calls [`beat`](Self::beat) after each successful step, and [`rest`](Self::rest) before it waits
/// without a limit. It is not alive if it does not rest and has not called `beat` for `limit`. A new
/// heartbeat rests.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    name: &'static str,
    limit: Duration,
    start: Instant,
    /// Milliseconds from `start` to the last beat, plus one; or [`RESTING`].
    last: Arc<AtomicU64>,
}

impl Heartbeat {
    /// The heartbeat of the worker `name`, which calls `beat` at least once in `limit` unless it rests.
    pub fn new(name: &'static str, limit: Duration) -> Self {
        Self { name, limit, start: Instant::now(), last: Arc::new(AtomicU64::new(RESTING)) }
    }

    /// The worker's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// For how long a worker that does not rest may go without a beat.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// The worker has completed a step.
    pub fn beat(&self) {
        let since_start = Instant::now().saturating_duration_since(self.start).as_millis();
        self.last
            .store(u64::try_from(since_start).unwrap_or(u64::MAX - 1).saturating_add(1), Ordering::Relaxed);
    }

    /// The worker waits for work; it is alive until [`limit`](Self::limit) after its next beat.
    pub fn rest(&self) {
        self.last.store(RESTING, Ordering::Relaxed);
    }

    /// Whether the worker rests, or has completed a step within [`limit`](Self::limit).
    pub fn is_alive(&self, now: Instant) -> bool {
        match self.last.load(Ordering::Relaxed) {
            RESTING => true,
            last => {
                let beat = self.start + Duration::from_millis(last - 1);
                now.saturating_duration_since(beat) < self.limit
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_worker_is_alive_while_it_rests_or_completes_steps() {
        let limit = Duration::from_secs(10);
        let heartbeat = Heartbeat::new("worker", limit);
        let after = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert!(heartbeat.is_alive(after(1_000)), "it has not started to work");
        tokio::time::advance(Duration::from_secs(500)).await;
        heartbeat.beat();
        assert!(heartbeat.is_alive(after(9)));
        assert!(!heartbeat.is_alive(after(10)));
        tokio::time::advance(Duration::from_secs(9)).await;
        heartbeat.clone().beat();
        assert!(heartbeat.is_alive(after(9)), "a clone is the same heartbeat");
        heartbeat.rest();
        assert!(heartbeat.is_alive(after(1_000)));
    }
}
