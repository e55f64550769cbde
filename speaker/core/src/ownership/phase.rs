//! The state machine of one group on one speaker.
//!
//! ```text
//!            Vacant, Silent                      Quiet
//!   ┌─ Idle ───────────────────► Asking ───────────────────► Owning ◄─┐
//!   │   ▲ ▲                       │   ▲                      │ │ │    │ Wanted,
//!   │   │ │ Due    Taken, Nacked, │   │ Stalled (withdraws)  │ │ │    │ Nacked
//!   │   │ └─ Refused ◄────────────┘   └──────────────────────┘ │ │    │
//!   │   │        Outbid, Unasked                               │ └► Leaving
//!   │   └───────────────────────── Outbid, Gone, (Unwanted) ◄──┘ Unwanted│
//!   │   └─────────────── Outbid (the successor claims), Gone, Stalled, Due
//!   └ Invited: straight to Owning, without asking, since the owner itself hands over
//! ```
//!
//! A group is answered for in Owning and Leaving, and in no other phase.

use crate::beacon::NodeId;

/// Where a group stands on this speaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not ours.
    #[default]
    Idle,
    /// The wire and the other watchers are asked whether it may become ours.
    Asking { epoch: u64, cause: Cause },
    /// They said no. Not asked again before some time has passed.
    Refused,
    /// Ours.
    Owning { epoch: u64 },
    /// Ours until `to` claims it.
    Leaving { epoch: u64, to: NodeId },
}

/// Why the wire is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Nobody owns the group.
    Vacancy,
    /// Its owner is silent.
    Takeover(NodeId),
    /// It is ours, but this speaker was stopped for a while.
    Recheck,
}

/// What happens to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Nobody owns it, and it is this node's turn.
    Vacant { epoch: u64 },
    /// Its owner is silent, and it is this node's turn.
    Silent { epoch: u64, owner: NodeId },
    /// Its owner hands it to this node.
    Invited { epoch: u64 },
    /// Nobody answers on the wire.
    Quiet,
    /// A speaker answers on the wire.
    Taken,
    /// A peer objects.
    Nacked,
    /// Somebody has, or is about to make, a better claim.
    Outbid,
    /// This node must not own it any more; the successor, if one can be talked with.
    Unwanted { successor: Option<NodeId> },
    /// This node may own it after all.
    Wanted,
    /// This speaker was stopped for a while.
    Stalled,
    /// The group is no more, or nobody may announce it.
    Gone,
    /// The link could not be asked.
    Unasked,
    /// The time of the phase is over.
    Due,
}

/// What follows from a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Ask,
    StopAsking,
    Announce,
    Withdraw,
}

impl Phase {
    /// The epoch of this node's claim; none where it has none.
    pub(super) fn claimed(self) -> Option<u64> {
        match self {
            Self::Owning { epoch } | Self::Leaving { epoch, .. } => Some(epoch),
            Self::Idle | Self::Refused | Self::Asking { .. } => None,
        }
    }

    /// Whether the group is ours and silent until the link has been asked anew.
    pub(super) fn is_fenced(self) -> bool {
        matches!(self, Self::Asking { cause: Cause::Recheck, .. })
    }

    /// The one place where phases change.
    pub(super) fn on(self, event: Event) -> (Self, &'static [Action]) {
        use Action::{Announce, Ask, StopAsking, Withdraw};
        use Event as E;
        match (self, event) {
            (Self::Idle, E::Vacant { epoch }) => (Self::Asking { epoch, cause: Cause::Vacancy }, &[Ask]),
            (Self::Idle, E::Silent { epoch, owner }) => {
                (Self::Asking { epoch, cause: Cause::Takeover(owner) }, &[Ask])
            }
            (Self::Idle | Self::Refused, E::Invited { epoch }) => (Self::Owning { epoch }, &[Announce]),
            (Self::Refused, E::Due | E::Gone | E::Stalled) => (Self::Idle, &[]),
            (
                Self::Idle,
                E::Quiet
                | E::Taken
                | E::Nacked
                | E::Outbid
                | E::Unwanted { .. }
                | E::Wanted
                | E::Stalled
                | E::Gone
                | E::Unasked
                | E::Due,
            )
            | (
                Self::Refused,
                E::Vacant { .. }
                | E::Silent { .. }
                | E::Quiet
                | E::Taken
                | E::Nacked
                | E::Outbid
                | E::Unwanted { .. }
                | E::Wanted
                | E::Unasked,
            ) => (self, &[]),

            (Self::Asking { epoch, .. }, E::Quiet) => (Self::Owning { epoch }, &[Announce]),
            (Self::Asking { .. }, E::Invited { epoch }) => (Self::Owning { epoch }, &[Announce]),
            (Self::Asking { .. }, E::Taken | E::Nacked | E::Outbid | E::Unasked) => {
                (Self::Refused, &[StopAsking])
            }
            // A stall voids what was asked: the answers may have been missed.
            (Self::Asking { .. }, E::Unwanted { .. } | E::Gone | E::Stalled) => (Self::Idle, &[StopAsking]),
            (Self::Asking { .. }, E::Vacant { .. } | E::Silent { .. } | E::Wanted | E::Due) => (self, &[]),

            (
                Self::Owning { .. } | Self::Leaving { .. },
                E::Outbid | E::Gone | E::Unwanted { successor: None },
            )
            | (Self::Leaving { .. }, E::Due | E::Stalled) => (Self::Idle, &[Withdraw]),
            (Self::Owning { epoch } | Self::Leaving { epoch, .. }, E::Unwanted { successor: Some(to) }) => {
                (Self::Leaving { epoch, to }, &[])
            }
            (Self::Owning { epoch }, E::Stalled) => {
                (Self::Asking { epoch, cause: Cause::Recheck }, &[Withdraw, Ask])
            }
            (Self::Leaving { epoch, .. }, E::Wanted | E::Nacked) => (Self::Owning { epoch }, &[]),
            (
                Self::Owning { .. },
                E::Vacant { .. }
                | E::Silent { .. }
                | E::Invited { .. }
                | E::Quiet
                | E::Taken
                | E::Nacked
                | E::Wanted
                | E::Unasked
                | E::Due,
            )
            | (
                Self::Leaving { .. },
                E::Vacant { .. } | E::Silent { .. } | E::Invited { .. } | E::Quiet | E::Taken | E::Unasked,
            ) => (self, &[]),
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
            Event::Silent { epoch: 5, owner: OTHER },
            Event::Invited { epoch: 5 },
            Event::Quiet,
            Event::Taken,
            Event::Nacked,
            Event::Outbid,
            Event::Unwanted { successor: None },
            Event::Unwanted { successor: Some(OTHER) },
            Event::Wanted,
            Event::Stalled,
            Event::Gone,
            Event::Due,
            Event::Unasked,
        ]
    }

    fn phases() -> [Phase; 7] {
        [
            Phase::Idle,
            Phase::Refused,
            Phase::Asking { epoch: 4, cause: Cause::Vacancy },
            Phase::Asking { epoch: 4, cause: Cause::Takeover(OTHER) },
            Phase::Asking { epoch: 4, cause: Cause::Recheck },
            Phase::Owning { epoch: 4 },
            Phase::Leaving { epoch: 4, to: OTHER },
        ]
    }

    /// The phase after each of [`events`], in one letter: Idle, Refused, Asking, Owning, Leaving.
    const TABLE: [&str; 7] = [
        "AAOIIIIIIIIIII",
        "RRORRRRRRRIIIR",
        "AAOORRRIIAIIAR",
        "AAOORRRIIAIIAR",
        "AAOORRRIIAIIAR",
        "OOOOOOIILOAIOO",
        "LLLLLOIILOIIIL",
    ];

    fn letter(phase: Phase) -> char {
        match phase {
            Phase::Idle => 'I',
            Phase::Refused => 'R',
            Phase::Asking { .. } => 'A',
            Phase::Owning { .. } => 'O',
            Phase::Leaving { .. } => 'L',
        }
    }

    #[test]
    fn every_phase_meets_every_event_as_the_table_says() {
        for (phase, row) in phases().into_iter().zip(TABLE) {
            let after: String = events().into_iter().map(|event| letter(phase.on(event).0)).collect();
            assert_eq!(after, row, "{phase:?}");
        }
    }

    #[test]
    fn a_group_is_answered_for_in_owning_and_leaving_and_in_no_other_phase() {
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
    fn what_is_asked_is_stopped_unless_it_becomes_an_announcement() {
        for phase in phases() {
            for event in events() {
                let (after, actions) = phase.on(event);
                let asking = |phase| matches!(phase, Phase::Asking { .. });
                let (before, after_asks) = (asking(phase), asking(after));
                assert_eq!(actions.contains(&Action::Ask), !before && after_asks, "{phase:?} {event:?}");
                let ends = before && !after_asks;
                let ended = actions.iter().any(|a| matches!(a, Action::StopAsking | Action::Announce));
                assert_eq!(ends, ended && before, "{phase:?} {event:?}");
            }
        }
    }
}
