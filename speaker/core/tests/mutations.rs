//! A bounded fuzz run as part of the regular tests: valid frames and beacons with random changes. Nothing may
//! panic, and a frame never makes the responder send more than one.
//!
//! `LBSTACK_MUTATIONS=n` runs n inputs of each kind; `LBSTACK_MUTATIONS_SEED=n` sets the seed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of this is tests: what is not as expected is a panic"
)]

use announce::EthernetAddress;
use announce::cluster::NodeId;
use announce::layer2::beacon::{Body, Claim, Flags, Key, KeyId, Message};
use announce::layer2::fuzz::{Beacons, Frames, SECRET};
use announce::layer2::{arp, ndp};

const COUNT: u64 = 200_000;

struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap()
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Flips, overwrites, cuts, repeats, or joins parts of valid inputs.
fn mutate(chance: &mut Chance, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[chance.below(corpus.len())].clone();
    for _ in 0..chance.below(6) {
        if bytes.is_empty() {
            break;
        }
        let at = chance.below(bytes.len());
        match chance.below(7) {
            0 => bytes[at] ^= 1 << chance.below(8),
            1 => bytes[at] = u8::try_from(chance.below(256)).unwrap(),
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][chance.below(5)],
            3 => bytes.truncate(at),
            4 => {
                let piece = bytes[at..].to_vec();
                bytes.extend(&piece[..chance.below(piece.len() + 1)]);
            }
            5 => {
                let other = &corpus[chance.below(corpus.len())];
                bytes.truncate(at);
                bytes.extend(&other[at.min(other.len())..]);
            }
            _ => drop(bytes.remove(at)),
        }
    }
    bytes
}

fn frames() -> Vec<Vec<u8>> {
    let mac = EthernetAddress([2, 0, 0, 0, 0, 9]);
    let mut corpus = Vec::new();
    for address in ["10.0.0.5", "10.0.0.6", "10.0.0.7"] {
        let address = address.parse().unwrap();
        corpus.push(arp::gratuitous_request(mac, address));
        corpus.push(arp::gratuitous_reply(mac, address));
        corpus.push(arp::probe(mac, address));
    }
    for address in ["fd00::5", "fd00::6", "fd00::7"] {
        let address = address.parse().unwrap();
        let link_local = "fe80::9".parse().unwrap();
        corpus.push(ndp::unsolicited_advertisement(mac, link_local, address));
        corpus.push(ndp::neighbor_advertisement_to_routers(mac, link_local, address));
        corpus.push(ndp::probe(mac, address, [1, 2, 3, 4, 5, 6]));
    }
    corpus.iter().map(|frame| frame.as_bytes().to_vec()).collect()
}

fn beacons() -> Vec<Vec<u8>> {
    let claims: Vec<Claim> = ["10.0.0.5", "fd00::5"]
        .iter()
        .zip(1..)
        .map(|(group, epoch)| Claim { group: group.parse().unwrap(), epoch })
        .collect();
    let bodies = [
        Body::Hello { macs: vec![[2, 0, 0, 0, 0, 9]; 3], keys: vec![KeyId([1, 2, 3, 4])] },
        Body::Alive { digest: 5 },
        Body::Update(claims.iter().map(|claim| (*claim, true)).collect()),
        Body::Request,
        Body::Claims { digest: 5, part: 0, parts: 2, claims: claims.clone() },
        Body::Intent(claims.clone()),
        Body::Nack(claims.clone()),
        Body::Leave(claims),
    ];
    let key = Key::from_secret(SECRET);
    bodies
        .into_iter()
        .zip(1..)
        .map(|(body, sequence)| {
            let flags = Flags { leaving: false, stalled: false, wanted: true };
            Message { sender: NodeId(3), session: 5, echo: 7, sequence, flags, body }.seal(&key)
        })
        .collect()
}

#[test]
fn mutated_frames_do_no_harm() {
    let (corpus, mut chance) = (frames(), Chance(number("LBSTACK_MUTATIONS_SEED", 1)));
    let mut responder = Frames::new();
    for round in 0..number("LBSTACK_MUTATIONS", COUNT) {
        let bytes = mutate(&mut chance, &corpus);
        let sent = responder.frame(&bytes);
        assert!(sent <= 1, "round {round}: {sent} frames for {bytes:02x?}");
    }
}

#[test]
fn mutated_beacons_do_no_harm() {
    let (corpus, mut chance) = (beacons(), Chance(number("LBSTACK_MUTATIONS_SEED", 1)));
    let mut speaker = Beacons::new();
    assert_eq!(speaker.owned(), 1, "what the others say is about something");
    for _ in 0..number("LBSTACK_MUTATIONS", COUNT) {
        let bytes = mutate(&mut chance, &corpus);
        speaker.raw(&bytes);
        // Without the signature of the original, and signed again.
        speaker.signed(&bytes[..bytes.len().saturating_sub(16)]);
    }
}
