//! The state machine of one group on one speaker.
//!
//! ```text
//!            Vacant, OwnerDown                  ProbeClear
//!   ┌─ Idle ──────────────────► Probing ───────────────────► Active ◄──┐
//!   │   ▲ ▲                       │   ▲                      │ │ │     │ Eligible,
//!   │   │ │ Timeout ProbeAnswered,│   │ Stalled (withdraws)  │ │ │     │ Nacked
//!   │   │ └─ Backoff ◄────────────┘   └──────────────────────┘ │ │     │
//!   │   │        Nacked, Superseded, ProbeFailed               │ └► HandingOver
//!   │   └───────────────── Superseded, Removed, (Ineligible) ◄─┘ Ineligible│
//!   │   └────────── Superseded (the successor claims), Removed, Stalled, Timeout
//!   └ HandedOver: straight to Active, without a probe, since the owner itself hands over
//! ```
//!
//! This node answers for a group in Active and HandingOver, and in no other phase.

use crate::cluster::NodeId;

/// The phase of a group on this speaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not owned by this node.
    #[default]
    Idle,
    /// About to be claimed: the link is probed, and an intent was sent to the other watchers.
    Probing { epoch: u64, cause: ProbeCause },
    /// A probe or a peer showed that it is in use. Not retried before some time has passed.
    Backoff,
    /// Owned by this node.
    Active { epoch: u64 },
    /// Owned by this node until `to` claims it.
    HandingOver { epoch: u64, to: NodeId },
}

/// Why a group is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbeCause {
    /// The group has no owner.
    Vacancy,
    /// Its owner is down.
    Takeover(NodeId),
    /// This node owns it, but was stalled for a while.
    Recheck,
}

/// An event of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It has no owner, and it is this node's turn to take it.
    Vacant { epoch: u64 },
    /// Its owner is down, and it is this node's turn to take it.
    OwnerDown { epoch: u64, owner: NodeId },
    /// Its owner hands it over to this node.
    HandedOver { epoch: u64 },
    /// No host answered the probe.
    ProbeClear,
    /// A speaker answered the probe.
    ProbeAnswered,
    /// A peer objects.
    Nacked,
    /// A peer has a better claim, or is about to make one.
    Superseded,
    /// This node may not own it any more; the successor, if a suitable peer is heard.
    Ineligible { successor: Option<NodeId> },
    /// This node may own it after all.
    Eligible,
    /// This speaker was stalled for a while.
    Stalled,
    /// The group does not exist any more, or no node may announce it.
    Removed,
    /// The probe could not be sent.
    ProbeFailed,
    /// The time limit of the phase has passed.
    Timeout,
}

/// What a transition requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Probe,
    CancelProbe,
    Announce,
    Withdraw,
}

/// The next phase, and what the transition requires.
pub(super) type Transition = (Phase, &'static [Action]);

impl Phase {
    /// The epoch of this node's claim, if it has one.
    pub(super) fn claimed(self) -> Option<u64> {
        match self {
            Self::Active { epoch } | Self::HandingOver { epoch, .. } => Some(epoch),
            Self::Idle | Self::Backoff | Self::Probing { .. } => None,
        }
    }

    /// Whether the group was owned before a stall and is not announced until it has been probed.
    pub(super) fn is_fenced(self) -> bool {
        matches!(self, Self::Probing { cause: ProbeCause::Recheck, .. })
    }

    /// The transition table: the only place where phases change.
    pub(super) fn on(self, event: Event) -> Transition {
        match self {
            Self::Idle => Self::on_idle(event),
            Self::Probing { epoch, .. } => self.on_probing(epoch, event),
            Self::Backoff => Self::on_backoff(event),
            Self::Active { epoch } => Self::on_active(epoch, event),
            Self::HandingOver { epoch, .. } => self.on_handing_over(epoch, event),
        }
    }

    fn on_idle(event: Event) -> Transition {
        match event {
            Event::Vacant { epoch } => {
                (Self::Probing { epoch, cause: ProbeCause::Vacancy }, &[Action::Probe])
            }
            Event::OwnerDown { epoch, owner } => {
                (Self::Probing { epoch, cause: ProbeCause::Takeover(owner) }, &[Action::Probe])
            }
            Event::HandedOver { epoch } => (Self::Active { epoch }, &[Action::Announce]),
            Event::ProbeClear
            | Event::ProbeAnswered
            | Event::Nacked
            | Event::Superseded
            | Event::Ineligible { .. }
            | Event::Eligible
            | Event::Stalled
            | Event::Removed
            | Event::ProbeFailed
            | Event::Timeout => (Self::Idle, &[]),
        }
    }

    fn on_probing(self, epoch: u64, event: Event) -> Transition {
        match event {
            Event::ProbeClear => (Self::Active { epoch }, &[Action::Announce]),
            Event::HandedOver { epoch } => (Self::Active { epoch }, &[Action::Announce]),
            Event::ProbeAnswered | Event::Nacked | Event::Superseded | Event::ProbeFailed => {
                (Self::Backoff, &[Action::CancelProbe])
            }
            // A stall voids the probe: answers may have been missed.
            Event::Ineligible { .. } | Event::Removed | Event::Stalled => {
                (Self::Idle, &[Action::CancelProbe])
            }
            Event::Vacant { .. } | Event::OwnerDown { .. } | Event::Eligible | Event::Timeout => (self, &[]),
        }
    }

    fn on_backoff(event: Event) -> Transition {
        match event {
            Event::HandedOver { epoch } => (Self::Active { epoch }, &[Action::Announce]),
            Event::Timeout | Event::Removed | Event::Stalled => (Self::Idle, &[]),
            Event::Vacant { .. }
            | Event::OwnerDown { .. }
            | Event::ProbeClear
            | Event::ProbeAnswered
            | Event::Nacked
            | Event::Superseded
            | Event::Ineligible { .. }
            | Event::Eligible
            | Event::ProbeFailed => (Self::Backoff, &[]),
        }
    }

    fn on_active(epoch: u64, event: Event) -> Transition {
        match event {
            Event::Superseded | Event::Removed | Event::Ineligible { successor: None } => {
                (Self::Idle, &[Action::Withdraw])
            }
            Event::Ineligible { successor: Some(to) } => (Self::HandingOver { epoch, to }, &[]),
            Event::Stalled => {
                let cause = ProbeCause::Recheck;
                (Self::Probing { epoch, cause }, &[Action::Withdraw, Action::Probe])
            }
            Event::Vacant { .. }
            | Event::OwnerDown { .. }
            | Event::HandedOver { .. }
            | Event::ProbeClear
            | Event::ProbeAnswered
            | Event::Nacked
            | Event::Eligible
            | Event::ProbeFailed
            | Event::Timeout => (Self::Active { epoch }, &[]),
        }
    }

    fn on_handing_over(self, epoch: u64, event: Event) -> Transition {
        match event {
            Event::Superseded
            | Event::Removed
            | Event::Ineligible { successor: None }
            | Event::Timeout
            | Event::Stalled => (Self::Idle, &[Action::Withdraw]),
            Event::Ineligible { successor: Some(to) } => (Self::HandingOver { epoch, to }, &[]),
            Event::Eligible | Event::Nacked => (Self::Active { epoch }, &[]),
            Event::Vacant { .. }
            | Event::OwnerDown { .. }
            | Event::HandedOver { .. }
            | Event::ProbeClear
            | Event::ProbeAnswered
            | Event::ProbeFailed => (self, &[]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: NodeId = NodeId(2);

    fn events() -> [Event; 14] {
        [
            Event::Vacant { epoch: 5 },
            Event::OwnerDown { epoch: 5, owner: OTHER },
            Event::HandedOver { epoch: 5 },
            Event::ProbeClear,
            Event::ProbeAnswered,
            Event::Nacked,
            Event::Superseded,
            Event::Ineligible { successor: None },
            Event::Ineligible { successor: Some(OTHER) },
            Event::Eligible,
            Event::Stalled,
            Event::Removed,
            Event::Timeout,
            Event::ProbeFailed,
        ]
    }

    fn phases() -> [Phase; 7] {
        [
            Phase::Idle,
            Phase::Backoff,
            Phase::Probing { epoch: 4, cause: ProbeCause::Vacancy },
            Phase::Probing { epoch: 4, cause: ProbeCause::Takeover(OTHER) },
            Phase::Probing { epoch: 4, cause: ProbeCause::Recheck },
            Phase::Active { epoch: 4 },
            Phase::HandingOver { epoch: 4, to: OTHER },
        ]
    }

    /// The phase after each of [`events`], in one letter: Idle, Probing, Backoff, Active, Handing over.
    const TABLE: [&str; 7] = [
        "PPAIIIIIIIIIII",
        "BBABBBBBBBIIIB",
        "PPAABBBIIPIIPB",
        "PPAABBBIIPIIPB",
        "PPAABBBIIPIIPB",
        "AAAAAAIIHAPIAA",
        "HHHHHAIIHAIIIH",
    ];

    fn letter(phase: Phase) -> char {
        match phase {
            Phase::Idle => 'I',
            Phase::Backoff => 'B',
            Phase::Probing { .. } => 'P',
            Phase::Active { .. } => 'A',
            Phase::HandingOver { .. } => 'H',
        }
    }

    #[test]
    fn every_phase_and_event_follow_the_table() {
        for (phase, row) in phases().into_iter().zip(TABLE) {
            let after: String = events().into_iter().map(|event| letter(phase.on(event).0)).collect();
            assert_eq!(after, row, "{phase:?}");
        }
    }

    #[test]
    fn a_group_is_answered_for_in_active_and_handing_over_and_in_no_other_phase() {
        for phase in phases() {
            for event in events() {
                let (after, actions) = phase.on(event);
                let answered = (phase.claimed().is_some(), after.claimed().is_some());
                let announces = actions.contains(&Action::Announce);
                let withdraws = actions.contains(&Action::Withdraw);
                assert_eq!(announces, answered == (false, true), "{phase:?} {event:?}");
                assert_eq!(withdraws, answered == (true, false), "{phase:?} {event:?}");
            }
        }
    }

    #[test]
    fn a_probe_is_cancelled_unless_it_becomes_an_announcement() {
        for phase in phases() {
            for event in events() {
                let (after, actions) = phase.on(event);
                let asking = |phase| matches!(phase, Phase::Probing { .. });
                let (before, after_asks) = (asking(phase), asking(after));
                assert_eq!(actions.contains(&Action::Probe), !before && after_asks, "{phase:?} {event:?}");
                let ends = before && !after_asks;
                let ended = actions.iter().any(|a| matches!(a, Action::CancelProbe | Action::Announce));
                assert_eq!(ends, ended && before, "{phase:?} {event:?}");
            }
        }
    }
}
