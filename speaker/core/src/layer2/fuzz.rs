//! Entry points for fuzzing: bytes from the network on every path into this crate. Used by `speaker/fuzz` and
//! by the bounded run of the regular tests; not part of the speaker.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::NodeId;
use crate::cluster::Speaker;
use crate::cluster::link::{Link, Scope};
use crate::layer2::beacon::{Key, Keyring, Message};
use crate::layer2::ownership::{
    Detection, Input as OwnershipInput, Output as OwnershipOutput, Ownership, OwnershipSettings,
};
use crate::layer2::placement::Placement;
use crate::layer2::responder::{Input, Output, ProbePlan, Responder};
use crate::layer2::view::{Candidate, Candidates, Group, Tier, View};
use smoltcp::wire::EthernetAddress;

/// The secret with which sealed inputs are signed.
pub const SECRET: &[u8] = b"fuzz";

/// A responder with two announced and two probed addresses.
#[derive(Debug)]
pub struct Frames {
    responder: Responder,
    now: Instant,
}

impl Frames {
    /// A responder on one link.
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
            frames.feed(Input::Probe(address, Scope::All, ProbePlan::FIRST_CLAIM));
        }
        frames
    }

    fn feed(&mut self, input: Input<'_>) -> usize {
        let _ = self.responder.handle(self.now, input);
        std::iter::from_fn(|| self.responder.poll_output())
            .filter(|output| matches!(output, Output::Transmit { .. }))
            .count()
    }

    /// Feeds one frame. Returns how many frames the responder sends because of it: never more than one.
    pub fn frame(&mut self, bytes: &[u8]) -> usize {
        self.feed(Input::Frame(1, bytes))
    }
}

impl Default for Frames {
    fn default() -> Self {
        Self::new()
    }
}

/// A speaker that receives whatever verifies. It owns one group and watches another, with one address of each
/// family; four peers may send anything.
#[derive(Debug)]
pub struct Beacons {
    ownership: Ownership,
    keys: Keyring,
    now: Instant,
    /// The token that the speaker last sent to each peer, and how many messages of peers it was fed.
    tokens: BTreeMap<IpAddr, u64>,
    fed: u64,
}

const ME: &str = "fuzzed";
const PEERS: [&str; 4] = ["a", "b", "c", "d"];

impl Beacons {
    /// A node that has settled without having heard any peer.
    pub fn new() -> Self {
        let settings = OwnershipSettings {
            me: ME.into(),
            interval: Duration::from_millis(100),
            detect_multiplier: 3,
            detection: Detection::Enforce,
            session: 7,
        };
        let keys = Keyring::new([Key::from_secret(SECRET)]);
        let ownership = Ownership::new(settings);
        let mut speaker = Self { ownership, keys, now: Instant::now(), tokens: BTreeMap::new(), fed: 0 };
        speaker.feed(OwnershipInput::View(Arc::new(view())));
        // Speakers that start at the same time are waited for.
        for _ in 0..100 {
            if speaker.owned() > 0 {
                break;
            }
            speaker.pass(Duration::from_millis(100));
        }
        speaker
    }

    /// How many groups it owns.
    pub fn owned(&self) -> usize {
        self.ownership.owned().len()
    }

    /// Feeds bytes as they come from the network.
    pub fn raw(&mut self, bytes: &[u8]) {
        if let Ok(message) = Message::open(bytes, &self.keys) {
            self.accept(message);
        }
    }

    /// Feeds the bytes of a message as if they had been signed, so that the code behind the signature is
    /// reached.
    pub fn signed(&mut self, unsigned: &[u8]) {
        let key = Key::from_secret(SECRET);
        let Some(sealed) = Message::seal_bytes(unsigned, &key) else { return };
        if let Ok(message) = Message::open(&sealed, &self.keys) {
            let again = message.seal(&key);
            // A message that was accepted is encoded and decoded to the same message.
            let understood = Message::open(&again, &self.keys);
            assert!(understood.as_ref() == Ok(&message), "{message:?} is read as {understood:?}");
            self.accept(message);
        }
    }

    fn accept(&mut self, mut message: Message) {
        let number = usize::try_from(message.sender.0 % PEERS.len() as u64).unwrap_or(0);
        let from = address(number);
        message.sender = NodeId::from_name(PEERS[number]);
        // As the peers do, with the token that was received last and a new sequence number: otherwise
        // everything would be rejected.
        message.echo = self.tokens.get(&from).copied().unwrap_or(message.echo);
        self.fed += 1;
        message.sequence = self.fed;
        self.feed(OwnershipInput::Message(from, message));
        self.pass(Duration::from_millis(1));
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.checked_add(time).unwrap_or(self.now);
        self.feed(OwnershipInput::Deadline);
    }

    /// Feeds an input; no other host answers probes.
    fn feed(&mut self, input: OwnershipInput) {
        self.ownership.handle(self.now, input);
        while let Some(output) = self.ownership.poll_output() {
            match output {
                OwnershipOutput::Probe(address, ..) => {
                    self.ownership.handle(self.now, OwnershipInput::ProbeClear(address));
                }
                OwnershipOutput::Send { address, message, .. } => {
                    self.tokens.insert(address, message.session);
                }
                _ => {}
            }
        }
    }
}

impl Default for Beacons {
    fn default() -> Self {
        Self::new()
    }
}

/// The address of one of [`PEERS`].
fn address(number: usize) -> IpAddr {
    IpAddr::from([192, 0, 2, u8::try_from(number).unwrap_or(u8::MAX)])
}

/// Two groups with all nodes as candidates, the first of them placed on this node.
fn view() -> View {
    let speaker = |(number, name): (usize, &str)| {
        (name.into(), Speaker { address: Some(address(number)), ready: true, running: true, generation: 1 })
    };
    let group = |text: &str| {
        let id: IpAddr = text.parse().ok()?;
        let all = PEERS.iter().chain(&[ME]).map(|name| Candidate::new((*name).into(), Tier::default()));
        let group = Group {
            id,
            hashed: id,
            addresses: [(id, Scope::All)].into(),
            services: Box::default(),
            candidates: Candidates::ranked(id, all.collect()),
            not_announced: None,
            retainable: false,
            last: None,
        };
        Some((id, Arc::new(group)))
    };
    let groups: BTreeMap<_, _> = ["10.0.0.5", "fd00::5"].into_iter().filter_map(group).collect();
    let placed = groups.keys().copied().zip([ME.into(), PEERS[0].into()]).collect();
    View {
        speakers: PEERS.into_iter().enumerate().map(speaker).collect(),
        groups,
        placed,
        placement: Placement::Balanced,
        ..View::default()
    }
}
