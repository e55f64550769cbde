//! The state of one group.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::BACKOFF;
use super::phase::{Event, Phase};
use crate::cluster::NodeId;
use crate::cluster::NodeName;

/// The longest backoff.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// A group that was handed over to this node is not handed over again within this time, unless it must be:
/// views that differ would move it back and forth, or in a circle. Towards its previous owner the time
/// doubles each time that the group comes back.
const MIN_HOLD: Duration = Duration::from_secs(1);
/// The longest such time.
const MAX_HOLD: Duration = Duration::from_secs(60);

/// The state of a group.
#[derive(Debug, Default)]
pub(super) struct GroupState {
    pub(super) phase: Phase,
    /// Addresses whose probe has not ended yet.
    pub(super) pending: BTreeSet<IpAddr>,
    /// When the phase ends.
    pub(super) until: Option<Instant>,
    /// When to repeat the offer to the successor.
    pub(super) next_offer: Option<Instant>,
    /// How often the offer was sent to the successor.
    pub(super) offer_count: u32,
    /// Successors that declined, and until when that counts.
    pub(super) declined: BTreeMap<NodeId, Instant>,
    pub(super) vacant_since: Option<Instant>,
    /// When it was last announced again because of another speaker.
    pub(super) reannounced: Option<Instant>,
    /// How often this node deferred to another prober since it last owned the group.
    pub(super) deferrals: u8,
    /// When a peer last released it: the peer that took it may not have been heard yet.
    pub(super) released: Option<Instant>,
    /// How often a node that is no candidate has answered since this node last owned the group.
    pub(super) bystander_answers: u8,
    /// Number of consecutive backoffs because it was in use, or could not be probed.
    pub(super) backoffs: u32,
    /// The owner that seemed to be down and then turned out to be alive.
    pub(super) alive_owner: Option<NodeName>,
    /// The last backoff was caused by a probe that could not be sent.
    pub(super) probe_failed: bool,
    /// The handover by which this node got it.
    pub(super) received: Option<ReceivedHandover>,
    /// When its addresses last changed: other speakers may not know that yet.
    pub(super) regrouped_at: Option<Instant>,
    /// Since when this node must hand it over and there is no successor.
    pub(super) stranded_since: Option<Instant>,
    /// Since when this node has yielded it to a speaker that answers for one of its addresses without a
    /// claim; reset when this node owns it, or a peer with a claim is heard.
    pub(super) yielded_since: Option<Instant>,
    /// The highest epoch that was seen.
    pub(super) highest_epoch: u64,
    pub(super) timer: Option<Instant>,
}

/// A handover of a group to this node.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReceivedHandover {
    pub(super) from: NodeId,
    /// The group is not handed back before this time.
    pub(super) until: Instant,
    pub(super) hold: Duration,
}

impl ReceivedHandover {
    /// The group is not handed over to `successor` before this time.
    pub(super) fn held_until(&self, successor: NodeId) -> Instant {
        let since = self.until.checked_sub(self.hold).unwrap_or(self.until);
        if successor == self.from { self.until } else { since + MIN_HOLD }
    }
}

/// An address that was added to an owned group and is not announced yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unverified {
    pub(super) since: Instant,
    /// When to probe again, because a speaker still had the address.
    pub(super) next: Option<Instant>,
    /// It could not be probed on any link, so this node cannot announce it either.
    pub(super) unprobeable: bool,
}

impl Unverified {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, next: None, unprobeable: false }
    }
}

impl GroupState {
    /// The duration of the next backoff.
    pub(super) fn next_backoff(&mut self, event: Event, interval: Duration) -> Duration {
        self.probe_failed = event == Event::ProbeFailed;
        if event == Event::Superseded {
            self.deferrals = 0;
            return interval.saturating_mul(3);
        }
        let doubled = BACKOFF.saturating_mul(1 << self.backoffs.min(16));
        self.backoffs = self.backoffs.saturating_add(1);
        doubled.min(MAX_BACKOFF)
    }

    /// Records which peer handed the group over to this node.
    pub(super) fn note_handover(&mut self, now: Instant, from: NodeId) {
        let again = self.received.filter(|received| received.from == from && now < received.until + MAX_HOLD);
        let hold = again.map_or(MIN_HOLD, |received| received.hold.saturating_mul(2).min(MAX_HOLD));
        self.received = Some(ReceivedHandover { from, until: now.checked_add(hold).unwrap_or(now), hold });
    }

    /// The cause of the backoff is gone: ends it by `at` at the latest.
    pub(super) fn limit_backoff(&mut self, at: Instant) {
        (self.backoffs, self.alive_owner, self.probe_failed) = (0, None, false);
        if self.phase == Phase::Backoff {
            self.until = self.until.map(|until| until.min(at));
        }
    }
}
