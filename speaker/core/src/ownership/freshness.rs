//! Which messages of a peer count.
//!
//! *Freshness needs no clock and no disk.* This speaker gives each peer a **token**, a number that nobody can
//! predict, in the field `session` of what it sends to it; a message of the peer counts only if it echoes
//! that token. A token is bound to the first session that echoes it, which is the token that the peer gave to
//! this speaker, and within a session each sequence number counts once. To a session that is not known yet,
//! an **open** token is offered; once a message has echoed it, the pair of both is the session from then on,
//! the pair before is void for good, and the next open token is made. So whatever was recorded earlier echoes
//! a token that is no more, also after either side has forgotten the other or was started again, and nothing
//! has to be remembered about sessions that are over.
//!
//! A release that knows only of one session for each process echoes whatever number it is sent as a session.
//! To it, a speaker whose token for it has changed is one that was started again.

use ring::hmac;

use crate::beacon::Message;

/// Makes tokens out of a secret seed, each only once: HMAC-SHA256 of a counter.
#[derive(Debug)]
pub(super) struct Tokens {
    key: hmac::Key,
    made: u64,
}

impl Tokens {
    pub(super) fn new(seed: u64) -> Self {
        let mut secret = b"lbstack beacon token\0".to_vec();
        secret.extend(seed.to_be_bytes());
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &secret), made: 0 }
    }

    /// Never 0, which means none.
    pub(super) fn next(&mut self) -> u64 {
        self.made = self.made.wrapping_add(1);
        let tag = hmac::sign(&self.key, &self.made.to_be_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&tag.as_ref()[..8]);
        u64::from_be_bytes(first).max(1)
    }
}

/// What a message is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// It counts.
    Fresh,
    /// It counts, and the sender has begun a new session: what it said before is void.
    NewSession,
    /// It does not echo a token that the sender has now: the sender does not know it yet, or the message is
    /// an old one.
    Stale,
    /// It was there before.
    Replayed,
}

/// The session with a peer, if there is one, and the token for the next one.
#[derive(Debug)]
pub(super) struct Handshake {
    session: Option<Session>,
    open: u64,
}

/// Messages may overtake one another: of the last 64 sequence numbers it is known which have been there; what
/// is older does not count.
#[derive(Clone, Copy, Debug)]
struct Session {
    /// The peer's token for this speaker.
    theirs: u64,
    /// This speaker's token for the peer.
    ours: u64,
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

impl Handshake {
    /// With a peer that is met for the first time, or again after it was forgotten.
    pub(super) fn new(tokens: &mut Tokens) -> Self {
        Self { session: None, open: tokens.next() }
    }

    /// Judges a message and, if it counts, notes it.
    pub(super) fn judge(&mut self, tokens: &mut Tokens, message: &Message) -> Freshness {
        match &mut self.session {
            Some(session) if session.theirs == message.session => match message.echo == session.ours {
                true if session.note(message.sequence) => Freshness::Fresh,
                true => Freshness::Replayed,
                false => Freshness::Stale,
            },
            session if message.echo == self.open && message.session != 0 => {
                let (theirs, ours) = (message.session, self.open);
                *session = Some(Session { theirs, ours, highest: message.sequence, seen: 1 });
                self.open = tokens.next();
                Freshness::NewSession
            }
            _ => Freshness::Stale,
        }
    }

    /// The token to answer a stale message with; none, if that would serve nobody. `heard` tells whether
    /// messages of the peer that count are heard.
    ///
    /// Somebody who repeats old messages must not make two speakers that hear each other begin anew: the
    /// answer to an old message echoes an old token, so while the peer is heard, that is no reason to answer
    /// it in turn. Who was started again, or has forgotten this speaker, echoes nothing yet, or the token of
    /// what it has just heard.
    pub(super) fn answer(&self, message: &Message, heard: bool) -> Option<u64> {
        if message.session == 0 {
            return None;
        }
        match self.session {
            Some(session) if session.theirs == message.session => Some(session.ours),
            _ => (!heard || message.echo == 0 || message.echo == self.token()).then_some(self.open),
        }
    }

    /// Whether a message was sent after this speaker and the peer have begun to talk as they do now: nothing
    /// that is older can be.
    pub(super) fn is_current(&self, message: &Message) -> bool {
        message.echo == self.token() || self.session.is_some_and(|session| session.theirs == message.session)
    }

    /// The token that the peer has to echo.
    pub(super) fn token(&self) -> u64 {
        self.session.map_or(self.open, |session| session.ours)
    }

    /// The peer's token, to echo to it; 0 if there is no session.
    pub(super) fn echo(&self) -> u64 {
        self.session.map_or(0, |session| session.theirs)
    }

    /// Whether nothing of the session was sent after the message of that number.
    pub(super) fn is_latest(&self, sequence: u64) -> bool {
        self.session.is_some_and(|session| session.highest == sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beacon::{Body, Flags, NodeId};

    struct Bench {
        tokens: Tokens,
        handshake: Handshake,
    }

    impl Bench {
        fn new() -> Self {
            let mut tokens = Tokens::new(7);
            let handshake = Handshake::new(&mut tokens);
            Self { tokens, handshake }
        }

        fn judge(&mut self, session: u64, echo: u64, sequence: u64) -> Freshness {
            self.handshake.judge(&mut self.tokens, &message(session, echo, sequence))
        }

        /// The token in the answer to a peer that was started again.
        fn answer(&self, session: u64) -> u64 {
            self.handshake.answer(&message(session, 0, 1), true).unwrap()
        }
    }

    fn message(session: u64, echo: u64, sequence: u64) -> Message {
        let body = Body::Alive { claims: 0 };
        Message { sender: NodeId(1), session, echo, sequence, flags: Flags::default(), body }
    }

    #[test]
    fn only_a_message_that_echoes_the_token_and_was_not_there_before_counts() {
        let mut bench = Bench::new();
        let token = bench.handshake.token();
        assert_eq!(bench.judge(5, 0, 1), Freshness::Stale);
        assert_eq!(bench.judge(5, token ^ 1, 1), Freshness::Stale);
        assert_eq!(bench.judge(0, token, 1), Freshness::Stale, "no session");
        assert_eq!(bench.judge(5, token, 2), Freshness::NewSession);
        for (sequence, expected) in [
            (2, Freshness::Replayed),
            (9, Freshness::Fresh),
            (8, Freshness::Fresh),
            (8, Freshness::Replayed),
            (100, Freshness::Fresh),
            (36, Freshness::Replayed),
            (37, Freshness::Fresh),
            (u64::MAX, Freshness::Fresh),
            (u64::MAX, Freshness::Replayed),
            (u64::MAX - 63, Freshness::Fresh),
            (u64::MAX - 64, Freshness::Replayed),
        ] {
            assert_eq!(bench.judge(5, token, sequence), expected, "{sequence}");
        }
    }

    #[test]
    fn a_token_is_bound_to_the_first_session_that_echoes_it() {
        let mut bench = Bench::new();
        let token = bench.handshake.token();
        assert_eq!(bench.judge(5, token, 1), Freshness::NewSession);
        assert_eq!(bench.judge(6, token, 1), Freshness::Stale);
        let next = bench.answer(6);
        assert_ne!(next, token);
        assert_eq!(bench.judge(5, next, 2), Freshness::Stale, "offered to another session");
        assert_eq!(bench.judge(6, next, 1), Freshness::NewSession);
        assert_eq!(bench.judge(6, next, 1), Freshness::Replayed);
        assert_eq!(bench.judge(5, token, 2), Freshness::Stale);
    }

    #[test]
    fn nothing_recorded_counts_after_any_number_of_restarts_of_the_peer() {
        let mut bench = Bench::new();
        let mut recorded = Vec::new();
        for session in 1..=200 {
            let echo = if session == 1 { bench.handshake.token() } else { bench.answer(session) };
            assert_eq!(bench.judge(session, echo, 1), Freshness::NewSession);
            for sequence in 2..5 {
                assert_eq!(bench.judge(session, echo, sequence), Freshness::Fresh);
            }
            recorded.extend((1..100).map(|sequence| (session, echo, sequence)));
        }
        let (session, echo, _) = *recorded.last().unwrap();
        recorded.retain(|record| (record.0, record.1) != (session, echo));
        for (session, echo, sequence) in recorded {
            assert_eq!(bench.judge(session, echo, sequence), Freshness::Stale);
        }
        assert_eq!(bench.judge(session, echo, 5), Freshness::Fresh, "the current session goes on");
    }

    #[test]
    fn a_recorded_message_is_no_reason_to_begin_anew_with_a_peer_that_is_heard() {
        let mut bench = Bench::new();
        let token = bench.handshake.token();
        bench.judge(5, token, 1);
        let answer = |session, echo, heard| bench.handshake.answer(&message(session, echo, 2), heard);
        assert_eq!(answer(6, 99, true), None, "it echoes what is no token");
        assert_eq!(answer(0, 0, true), None);
        assert_eq!(answer(5, 99, true), Some(token), "it has not heard the token yet");
        for (echo, heard) in [(99, false), (0, true), (token, true)] {
            let offered = answer(6, echo, heard).unwrap();
            assert_ne!(offered, token);
        }
    }

    #[test]
    fn tokens_differ_from_each_other_and_between_seeds() {
        let made = |seed| {
            let mut tokens = Tokens::new(seed);
            std::iter::repeat_with(move || tokens.next()).take(1_000)
        };
        let all: std::collections::BTreeSet<u64> = made(1).chain(made(2)).collect();
        assert_eq!(all.len(), 2_000);
        assert!(!all.contains(&0));
    }
}
