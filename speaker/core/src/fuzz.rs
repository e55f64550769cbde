//! What a fuzzer feeds: bytes from the network, in every way that they reach this crate. Used by `speaker/fuzz` and by
//! the bounded run of the normal suite; not part of the speaker.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::beacon::{Key, Keyring, Message, NodeId};
use crate::link::{Link, Scope};
use crate::ownership::{Detection, Input as OwnershipInput, Ownership, Settings};
use crate::responder::{Input, Output, Plan, Responder};
use smoltcp::wire::EthernetAddress;

/// The secret that sealed inputs are signed with.
pub const SECRET: &[u8] = b"fuzz";

/// A responder with two addresses announced and two asked for.
#[derive(Debug)]
pub struct Frames {
    responder: Responder,
    now: Instant,
}

impl Frames {
    /// On one link.
    pub fn new() -> Self {
        let now = Instant::now();
        let link = Link {
            index: 1,
            name: "eth0".into(),
            mac: EthernetAddress([2, 0, 0, 0, 0, 1]),
            broadcast: true,
            link_local: Some([0xfe80, 0, 0, 0, 0, 0, 0, 1].into()),
            subnets: [].into(),
            carrier_ups: 0,
        };
        let mut frames = Self { responder: Responder::new(1), now };
        frames.feed(Input::Links(vec![link]));
        for address in ["10.0.0.5", "fd00::5"].map(str::parse::<IpAddr>).into_iter().flatten() {
            frames.feed(Input::Announce(address, Scope::All));
        }
        for address in ["10.0.0.6", "fd00::6"].map(str::parse::<IpAddr>).into_iter().flatten() {
            frames.feed(Input::Probe(address, Scope::All, Plan::FIRST_CLAIM));
        }
        frames
    }

    fn feed(&mut self, input: Input<'_>) -> usize {
        let _ = self.responder.handle(self.now, input);
        std::iter::from_fn(|| self.responder.poll_output())
            .filter(|output| matches!(output, Output::Transmit { .. }))
            .count()
    }

    /// Feeds one frame. Returns how many frames it made the responder send: never more than one.
    pub fn frame(&mut self, bytes: &[u8]) -> usize {
        self.feed(Input::Frame(1, bytes))
    }
}

impl Default for Frames {
    fn default() -> Self {
        Self::new()
    }
}

/// A speaker that hears whatever verifies.
#[derive(Debug)]
pub struct Beacons {
    ownership: Ownership,
    keys: Keyring,
    now: Instant,
}

impl Beacons {
    /// Of a node that knows nobody.
    pub fn new() -> Self {
        let settings = Settings {
            me: "fuzzed".into(),
            interval: Duration::from_millis(100),
            misses: 3,
            detection: Detection::Enforce,
            session: 7,
        };
        let keys = Keyring::new([Key::from_secret(SECRET)]);
        Self { ownership: Ownership::new(settings), keys, now: Instant::now() }
    }

    /// Feeds bytes as they come from the network.
    pub fn raw(&mut self, bytes: &[u8]) {
        if let Ok(message) = Message::open(bytes, &self.keys) {
            self.accept(message);
        }
    }

    /// Feeds the bytes of a message as if they had been signed, so that what is behind the signature is reached.
    pub fn signed(&mut self, unsigned: &[u8]) {
        let key = Key::from_secret(SECRET);
        let Some(sealed) = Message::seal_bytes(unsigned, &key) else { return };
        if let Ok(message) = Message::open(&sealed, &self.keys) {
            let again = message.seal(&key);
            // What was understood is written and read the same.
            let understood = Message::open(&again, &self.keys);
            assert!(understood.as_ref() == Ok(&message), "{message:?} is read as {understood:?}");
            self.accept(message);
        }
    }

    fn accept(&mut self, mut message: Message) {
        // As if it echoed this speaker's session: else nothing of it would count.
        message.echo = 7;
        message.sender = NodeId(message.sender.0 % 4);
        self.now = self.now.checked_add(Duration::from_millis(1)).unwrap_or(self.now);
        let from = IpAddr::from([192, 0, 2, 1]);
        self.ownership.handle(self.now, OwnershipInput::Message(from, message));
        while self.ownership.poll_output().is_some() {}
    }
}

impl Default for Beacons {
    fn default() -> Self {
        Self::new()
    }
}
