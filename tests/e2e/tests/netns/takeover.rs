//! Takeover of thousands of groups at once.

use std::sync::PoisonError;
use std::time::Duration;

use e2e::speakers::Takeover;

use crate::RIG;

/// Four times as many as are probed at once; `cargo xtask bench failover --groups 8000` measures more.
const GROUPS: u32 = 2_000;

/// The maximum outage of the successor's own address, also on a busy machine. An earlier version, which
/// reconsidered all groups after each takeover, needed 0.66 s.
const MAX_OUTAGE: Duration = Duration::from_millis(500);

pub(crate) fn of_many_groups() {
    drop(RIG.lock().unwrap_or_else(PoisonError::into_inner).take());
    let takeover = Takeover::of("netns-takeover", GROUPS);
    assert_eq!(takeover.stalls, 0, "the successor stalled: {takeover:?}");
    assert_eq!(
        takeover.taken,
        u64::from(GROUPS),
        "each group is taken over once, and the successor's own is not lost: {takeover:?}"
    );
    assert!(takeover.least >= 1, "{takeover:?}");
    assert!(takeover.own.silence < MAX_OUTAGE, "{takeover:?}");
}
