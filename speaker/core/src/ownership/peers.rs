//! The other speakers: whether what they say is fresh, and whether they live.
//!
//! *Freshness needs no clock and no disk:* a message counts only if it echoes this speaker's session, which is
//! random and new with each start, and if its sequence number has not been there in the sender's session. What was
//! recorded earlier fails one or the other. A session that a sender has given up is never taken again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Ownership;
use crate::beacon::{Flags, KeyId, Message, NodeId, Stake, print_of};
use crate::view::GroupId;

/// Sessions of a peer that are remembered as given up.
const RETIRED: usize = 32;

/// What is known of another speaker.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: Option<IpAddr>,
    session: Option<Session>,
    retired: VecDeque<u64>,
    /// When something fresh was last heard.
    pub(super) heard: Option<Instant>,
    pub(super) flags: Flags,
    pub(super) macs: BTreeSet<[u8; 6]>,
    pub(super) keys: Vec<KeyId>,
    /// What it owns.
    pub(super) claims: BTreeMap<GroupId, u64>,
    /// [`print`](crate::beacon::print) of `claims`.
    pub(super) print: u64,
    /// What is known of its claims was up to date when it last told; not if it was silent since.
    pub(super) agrees: bool,
    /// Groups of ours that it claimed before it fell silent: if it was only cut off, it has announced them all the time.
    pub(super) doubtful: Vec<GroupId>,
    pub(super) parts: Option<Parts>,
    pub(super) requested: Option<Instant>,
    pub(super) greeted: Option<Instant>,
    /// When a session that had not proved to be current was echoed to it. Limited apart from greetings: two
    /// speakers that greet at the same moment would otherwise never answer each other.
    pub(super) echoed: Option<Instant>,
    /// Since when this speaker wants to hear from it.
    pub(super) since: Instant,
    /// When it last said that it wants to hear from us.
    pub(super) wants_us: Option<Instant>,
}

/// A peer's current session. Messages may overtake one another: of the last 64 sequence numbers it is known which
/// have been there; what is older does not count.
#[derive(Clone, Copy, Debug)]
struct Session {
    id: u64,
    highest: u64,
    /// Bit n: the number `highest - n` has been there.
    seen: u64,
}

impl Session {
    /// Notes a sequence number; false if it has been there, or is too old to tell.
    fn note(&mut self, sequence: u64) -> bool {
        if sequence > self.highest {
            let shift = u32::try_from(sequence - self.highest).unwrap_or(u32::MAX);
            self.seen = self.seen.checked_shl(shift).unwrap_or(0) | 1;
            self.highest = sequence;
            return true;
        }
        let bit = u32::try_from(self.highest - sequence).ok().and_then(|age| 1_u64.checked_shl(age));
        let new = bit.is_some_and(|bit| self.seen & bit == 0);
        self.seen |= bit.unwrap_or(0);
        new
    }
}

/// Parts of a list of claims that are not complete yet.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) claims: u64,
    pub(super) parts: BTreeMap<u16, Vec<Stake>>,
}

/// Whether a peer lives, as far as its messages tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Liveness {
    /// It is heard.
    Alive,
    /// It was heard, and is no longer, since then.
    Silent(Instant),
    /// It was never heard: what the API says of its pod counts.
    Unheard,
}

/// What a message is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// It counts.
    Fresh,
    /// It counts, and the sender has begun a new session: what it said before is void.
    NewSession,
    /// It does not echo our session: the sender does not know it yet, and is to be greeted.
    Stale,
    /// It was there before, or is of a session that was given up.
    Replayed,
}

impl Peer {
    pub(super) fn new(now: Instant, address: Option<IpAddr>) -> Self {
        Self {
            address,
            session: None,
            retired: VecDeque::new(),
            heard: None,
            flags: Flags::default(),
            macs: BTreeSet::new(),
            keys: Vec::new(),
            claims: BTreeMap::new(),
            print: 0,
            agrees: false,
            doubtful: Vec::new(),
            parts: None,
            requested: None,
            greeted: None,
            echoed: None,
            since: now,
            wants_us: None,
        }
    }

    /// Judges a message and, if it counts, notes it.
    pub(super) fn judge(&mut self, now: Instant, ours: u64, message: &Message) -> Freshness {
        if self.retired.contains(&message.session) {
            return Freshness::Replayed;
        }
        if message.echo != ours {
            return Freshness::Stale;
        }
        let freshness = match &mut self.session {
            Some(session) if session.id == message.session => {
                if !session.note(message.sequence) {
                    return Freshness::Replayed;
                }
                Freshness::Fresh
            }
            session => {
                self.retired.extend(session.map(|session| session.id));
                if self.retired.len() > RETIRED {
                    self.retired.pop_front();
                }
                *session = Some(Session { id: message.session, highest: message.sequence, seen: 1 });
                Freshness::NewSession
            }
        };
        self.heard = Some(now);
        if self.session.is_some_and(|session| session.highest == message.sequence) {
            self.flags = message.flags;
        }
        if message.flags.wanted {
            self.wants_us = Some(now);
        }
        freshness
    }

    /// The session to echo to it.
    pub(super) fn echo(&self) -> u64 {
        self.session.map_or(0, |session| session.id)
    }

    pub(super) fn liveness(&self, now: Instant, patience: Duration) -> Liveness {
        match self.heard.and_then(|heard| heard.checked_add(patience)) {
            None => Liveness::Unheard,
            Some(until) if now < until => Liveness::Alive,
            Some(until) => Liveness::Silent(until),
        }
    }

    /// Notes that it owns a group, or no longer.
    pub(super) fn set_claim(&mut self, stake: Stake, held: bool) {
        let before = if held {
            self.claims.insert(stake.group, stake.epoch)
        } else {
            self.claims.remove(&stake.group)
        };
        if let Some(epoch) = before {
            self.print ^= print_of(Stake { group: stake.group, epoch });
        }
        if held {
            self.print ^= print_of(stake);
        }
    }
}

impl Ownership {
    /// Notices who fell silent and who is heard again.
    pub(super) fn notice_liveness(&mut self, now: Instant) {
        let patience = self.patience();
        let changed: Vec<(NodeId, bool)> = self
            .peers
            .iter()
            .map(|(id, peer)| (*id, peer.liveness(now, patience) == Liveness::Alive))
            .filter(|(id, alive)| self.alive.contains(id) != *alive)
            .collect();
        for (id, alive) in changed {
            if alive {
                self.alive.insert(id);
                self.blocked.remove(&id);
                self.doubt(id);
            } else {
                self.alive.remove(&id);
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.agrees = false;
                }
                self.counts.suspicions += 1;
            }
            self.dirty.extend(self.view.groups.keys());
        }
    }

    pub(super) fn liveness(&self, now: Instant, id: NodeId) -> Liveness {
        self.peers.get(&id).map_or(Liveness::Unheard, |peer| peer.liveness(now, self.patience()))
    }
}

/// What this node calls another, and who has which hardware address.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) names: BTreeMap<NodeId, crate::view::NodeName>,
    pub(super) macs: BTreeMap<[u8; 6], NodeId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beacon::Body;

    const OURS: u64 = 77;

    fn message(session: u64, echo: u64, sequence: u64) -> Message {
        let body = Body::Alive { claims: 0 };
        Message { sender: NodeId(1), session, echo, sequence, flags: Flags::default(), body }
    }

    #[test]
    fn only_what_echoes_our_session_and_was_not_there_before_counts() {
        let now = Instant::now();
        let mut peer = Peer::new(now, None);
        assert_eq!(peer.judge(now, OURS, &message(5, 0, 1)), Freshness::Stale);
        assert_eq!(peer.liveness(now, Duration::from_millis(300)), Liveness::Unheard);
        assert_eq!(peer.judge(now, OURS, &message(5, OURS, 2)), Freshness::NewSession);
        assert_eq!(peer.judge(now, OURS, &message(5, OURS, 2)), Freshness::Replayed);
        assert_eq!(peer.judge(now, OURS, &message(5, OURS, 9)), Freshness::Fresh);
        assert_eq!(peer.judge(now, OURS, &message(5, OURS, 8)), Freshness::Fresh, "overtaken");
        assert_eq!(peer.judge(now, OURS, &message(5, OURS, 8)), Freshness::Replayed);
        assert_eq!(peer.judge(now, OURS, &message(5, OURS, 100)), Freshness::Fresh);
        assert_eq!(peer.judge(now, OURS, &message(5, OURS, 36)), Freshness::Replayed, "too old to tell");
        assert_eq!(peer.judge(now, OURS, &message(5, OURS, 37)), Freshness::Fresh);
        assert_eq!(peer.judge(now, OURS, &message(6, OURS, 1)), Freshness::NewSession);
        assert_eq!(peer.judge(now, OURS, &message(5, OURS, 10)), Freshness::Replayed);
    }

    #[test]
    fn a_peer_is_silent_once_its_time_is_over() {
        let (now, patience) = (Instant::now(), Duration::from_millis(300));
        let mut peer = Peer::new(now, None);
        peer.judge(now, OURS, &message(5, OURS, 1));
        assert_eq!(peer.liveness(now + Duration::from_millis(299), patience), Liveness::Alive);
        assert_eq!(peer.liveness(now + patience, patience), Liveness::Silent(now + patience));
    }

    #[test]
    fn the_print_of_claims_is_kept_up_to_date() {
        let mut peer = Peer::new(Instant::now(), None);
        let stake = |epoch| Stake { group: "10.0.0.1".parse().unwrap(), epoch };
        peer.set_claim(stake(1), true);
        peer.set_claim(stake(2), true);
        assert_eq!(peer.print, crate::beacon::print([stake(2)]));
        peer.set_claim(stake(2), false);
        peer.set_claim(stake(2), false);
        assert_eq!((peer.print, peer.claims.len()), (0, 0));
    }
}
