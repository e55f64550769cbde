//! Protection against replayed and stale messages.
//!
//! It needs neither synchronized clocks nor storage. This speaker gives each peer a **token**, an
//! unpredictable number, in the field `session` of the messages to that peer, and accepts a message of the
//! peer only if it echoes that token. A token is bound to the first session that echoes it, which is the
//! token that the peer gave to this speaker; within a session each sequence number is accepted once. To an
//! unknown session an **open** token is offered. Once a message has echoed it, the pair of both tokens is the
//! session, the previous pair is void for good, and the next open token is generated. So a recorded message
//! echoes a token that is no longer valid, even after either side has restarted or forgotten the other, and
//! nothing has to be remembered about old sessions.
//!
//! An earlier release that knows one session per process echoes any number that it receives as a session. To
//! it, a speaker whose token for it has changed looks restarted.

use ring::hmac;

use crate::layer2::beacon::Message;

/// Generates unique tokens from a secret seed: HMAC-SHA256 of a counter.
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

    /// Never 0, which means "no token".
    pub(super) fn next(&mut self) -> u64 {
        self.made = self.made.wrapping_add(1);
        let tag = hmac::sign(&self.key, &self.made.to_be_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&tag.as_ref()[..8]);
        u64::from_be_bytes(first).max(1)
    }
}

/// Whether a message is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Accepted.
    Fresh,
    /// Accepted; the sender has begun a new session, so its earlier state is void.
    NewSession,
    /// It does not echo a current token: the sender does not know it yet, or the message is old.
    Stale,
    /// Its sequence number was received before.
    Replayed,
}

/// The session with a peer, if there is one, and the token for the next one.
#[derive(Debug)]
pub(super) struct Handshake {
    session: Option<Session>,
    open: u64,
}

/// Messages may be reordered: the last 64 sequence numbers are tracked, older ones are rejected.
#[derive(Clone, Copy, Debug)]
struct Session {
    /// The peer's token for this speaker.
    theirs: u64,
    /// This speaker's token for the peer.
    ours: u64,
    highest: u64,
    /// Bit n: the number `highest - n` was received.
    seen: u64,
}

impl Session {
    /// Records a sequence number; false if it was received before or is too old to tell.
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
    /// For a peer that is new, or was forgotten.
    pub(super) fn new(tokens: &mut Tokens) -> Self {
        Self { session: None, open: tokens.next() }
    }

    /// Checks a message and, if it is accepted, records it.
    pub(super) fn check(&mut self, tokens: &mut Tokens, message: &Message) -> Freshness {
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

    /// The token to answer a stale message with, or none if an answer has no purpose. `heard` is whether
    /// accepted messages of the peer arrive.
    ///
    /// A replay of old messages must not make two speakers that hear each other start a new session: the
    /// answer to an old message echoes an old token, so while the peer is heard, such a message is not
    /// answered. A peer that was restarted, or has forgotten this speaker, echoes 0 or the token that it has
    /// just received.
    pub(super) fn answer(&self, message: &Message, heard: bool) -> Option<u64> {
        if message.session == 0 {
            return None;
        }
        match self.session {
            Some(session) if session.theirs == message.session => Some(session.ours),
            _ => (!heard || message.echo == 0 || message.echo == self.token()).then_some(self.open),
        }
    }

    /// Whether a message was sent after the current session, or the current open token, came into being.
    pub(super) fn is_current(&self, message: &Message) -> bool {
        message.echo == self.token() || self.session.is_some_and(|session| session.theirs == message.session)
    }

    /// The token that the peer has to echo.
    pub(super) fn token(&self) -> u64 {
        self.session.map_or(self.open, |session| session.ours)
    }

    /// The peer's token, to be echoed to it; 0 if there is no session.
    pub(super) fn echo(&self) -> u64 {
        self.session.map_or(0, |session| session.theirs)
    }

    /// Whether no later message of the session was received.
    pub(super) fn is_latest(&self, sequence: u64) -> bool {
        self.session.is_some_and(|session| session.highest == sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::NodeId;
    use crate::layer2::beacon::{Body, Flags};

    struct Fixture {
        tokens: Tokens,
        handshake: Handshake,
    }

    impl Fixture {
        fn new() -> Self {
            let mut tokens = Tokens::new(7);
            let handshake = Handshake::new(&mut tokens);
            Self { tokens, handshake }
        }

        fn check(&mut self, session: u64, echo: u64, sequence: u64) -> Freshness {
            self.handshake.check(&mut self.tokens, &message(session, echo, sequence))
        }

        /// The token in the answer to a peer that was restarted.
        fn answer(&self, session: u64) -> u64 {
            self.handshake.answer(&message(session, 0, 1), true).unwrap()
        }
    }

    fn message(session: u64, echo: u64, sequence: u64) -> Message {
        let body = Body::Alive { digest: 0 };
        Message { sender: NodeId(1), session, echo, sequence, flags: Flags::default(), body }
    }

    #[test]
    fn only_a_message_that_echoes_the_token_and_was_not_received_before_is_accepted() {
        let mut fixture = Fixture::new();
        let token = fixture.handshake.token();
        assert_eq!(fixture.check(5, 0, 1), Freshness::Stale);
        assert_eq!(fixture.check(5, token ^ 1, 1), Freshness::Stale);
        assert_eq!(fixture.check(0, token, 1), Freshness::Stale, "no session");
        assert_eq!(fixture.check(5, token, 2), Freshness::NewSession);
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
            assert_eq!(fixture.check(5, token, sequence), expected, "{sequence}");
        }
    }

    #[test]
    fn a_token_is_bound_to_the_first_session_that_echoes_it() {
        let mut fixture = Fixture::new();
        let token = fixture.handshake.token();
        assert_eq!(fixture.check(5, token, 1), Freshness::NewSession);
        assert_eq!(fixture.check(6, token, 1), Freshness::Stale);
        let next = fixture.answer(6);
        assert_ne!(next, token);
        assert_eq!(fixture.check(5, next, 2), Freshness::Stale, "offered to another session");
        assert_eq!(fixture.check(6, next, 1), Freshness::NewSession);
        assert_eq!(fixture.check(6, next, 1), Freshness::Replayed);
        assert_eq!(fixture.check(5, token, 2), Freshness::Stale);
    }

    #[test]
    fn no_recorded_message_is_accepted_after_any_number_of_restarts_of_the_peer() {
        let mut fixture = Fixture::new();
        let mut recorded = Vec::new();
        for session in 1..=200 {
            let echo = if session == 1 { fixture.handshake.token() } else { fixture.answer(session) };
            assert_eq!(fixture.check(session, echo, 1), Freshness::NewSession);
            for sequence in 2..5 {
                assert_eq!(fixture.check(session, echo, sequence), Freshness::Fresh);
            }
            recorded.extend((1..100).map(|sequence| (session, echo, sequence)));
        }
        let (session, echo, _) = *recorded.last().unwrap();
        recorded.retain(|record| (record.0, record.1) != (session, echo));
        for (session, echo, sequence) in recorded {
            assert_eq!(fixture.check(session, echo, sequence), Freshness::Stale);
        }
        assert_eq!(fixture.check(session, echo, 5), Freshness::Fresh, "the current session goes on");
    }

    #[test]
    fn a_replayed_message_does_not_start_a_new_session_with_a_peer_that_is_heard() {
        let mut fixture = Fixture::new();
        let token = fixture.handshake.token();
        fixture.check(5, token, 1);
        let answer = |session, echo, heard| fixture.handshake.answer(&message(session, echo, 2), heard);
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
