//! What is kept of a group.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::REFUSAL;
use super::phase::{Event, Phase};
use crate::beacon::NodeId;
use crate::view::NodeName;

/// The longest pause.
pub(super) const REFUSAL_AT_MOST: Duration = Duration::from_secs(30);
/// A group that was handed to this node is not handed on within this time, unless it must go: views that differ would
/// move it back and forth, or in a circle. For whom it came from the time doubles each time that it comes back from there.
const KEPT: Duration = Duration::from_secs(1);
/// The longest such time.
const KEPT_AT_MOST: Duration = Duration::from_secs(60);

/// What is kept of a group.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// Addresses that the link was asked about and that nobody has answered for.
    pub(super) pending: BTreeSet<IpAddr>,
    /// When the phase is over.
    pub(super) until: Option<Instant>,
    /// When to offer it to the successor again.
    pub(super) offer: Option<Instant>,
    /// How often it was offered to the successor.
    pub(super) offers: u32,
    /// Successors that refused it, and until when that counts.
    pub(super) declined: BTreeMap<NodeId, Instant>,
    pub(super) vacant_since: Option<Instant>,
    /// When it was announced anew for the last time.
    pub(super) reminded: Option<Instant>,
    /// How often somebody was let go first who asked the same, since this node owned the group last.
    pub(super) gave_way: u8,
    /// When a peer last said that it owns it no more: whom it handed it to may not have been heard yet.
    pub(super) released: Option<Instant>,
    /// How often a node that is no candidate has answered, since this node owned the group last.
    pub(super) bystanders: u8,
    /// How often in a row a peer or the link said that it is taken, or the link could not be asked.
    pub(super) refusals: u32,
    /// The silent owner that was found to live then.
    pub(super) lives: Option<NodeName>,
    /// The link could not be asked then.
    pub(super) unasked: bool,
    /// Who handed it to this node.
    pub(super) came: Option<Came>,
    /// When its addresses last changed: to others they may not have changed yet.
    pub(super) regrouped: Option<Instant>,
    /// Since when this node must give it away, and nobody can be asked to take it at the moment.
    pub(super) stranded_since: Option<Instant>,
    /// Since when it is left to a speaker that answers for an address of it without a claim to it; until this node
    /// owns it or another is heard that does.
    pub(super) left_since: Option<Instant>,
    /// The highest epoch that was seen.
    pub(super) highest: u64,
    pub(super) timer: Option<Instant>,
}

/// From whom a group came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Came {
    pub(super) from: NodeId,
    /// It is not handed back there before this time.
    pub(super) until: Instant,
    pub(super) kept: Duration,
}

impl Came {
    /// Not before this time the group is handed to `successor`.
    pub(super) fn kept_from(&self, successor: NodeId) -> Instant {
        let came = self.until.checked_sub(self.kept).unwrap_or(self.until);
        if successor == self.from { self.until } else { came + KEPT }
    }
}

/// An address that has come to an owned group and is not announced yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Added {
    pub(super) since: Instant,
    /// When to ask again: a speaker has it still.
    pub(super) next: Option<Instant>,
    /// No link of this node could be asked about it: this node cannot announce it either.
    pub(super) unaskable: bool,
}

impl Added {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, next: None, unaskable: false }
    }
}

impl State {
    /// How long the group is let alone after it was refused.
    pub(super) fn refused(&mut self, event: Event, interval: Duration) -> Duration {
        self.unasked = event == Event::Unasked;
        if event == Event::Outbid {
            self.gave_way = 0;
            return interval.saturating_mul(3);
        }
        let doubled = REFUSAL.saturating_mul(1 << self.refusals.min(16));
        self.refusals = self.refusals.saturating_add(1);
        doubled.min(REFUSAL_AT_MOST)
    }

    /// Notes who handed the group to this node.
    pub(super) fn came_from(&mut self, now: Instant, from: NodeId) {
        let again = self.came.filter(|came| came.from == from && now < came.until + KEPT_AT_MOST);
        let kept = again.map_or(KEPT, |came| came.kept.saturating_mul(2).min(KEPT_AT_MOST));
        self.came = Some(Came { from, until: now.checked_add(kept).unwrap_or(now), kept });
    }

    /// What it was refused for is over.
    pub(super) fn refused_no_longer_than(&mut self, at: Instant) {
        (self.refusals, self.lives, self.unasked) = (0, None, false);
        if self.phase == Phase::Refused {
            self.until = self.until.map(|until| until.min(at));
        }
    }
}
