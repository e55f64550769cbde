//! What a speaker sends in response to others is bounded, however much they send: requirement 6.

use super::super::inbound::MAX_CLAIMS;
use super::super::*;
use super::fixture::{id, many};
use super::scripted_peers::{ScriptedPeers, hello, view};
use super::world::{INTERVAL, address, group, mac};
use crate::layer2::beacon::{Body, Claim, ENTRIES, Key, Message};
use crate::layer2::responder::Observation;
use smoltcp::wire::EthernetAddress;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// A speaker that owns this number of groups, and a peer that owns none.
fn owning(groups: u32) -> ScriptedPeers {
    let mut peers = ScriptedPeers::new(view(&[0, 1], &[0, 1], &many(groups, None)));
    peers.lives(1, 5, &[], SECOND);
    peers.feed_on(Input::View(view(&[0, 1], &[0], &many(groups, None))));
    peers.lives(1, 5, &[], SECOND * 8);
    assert_eq!(peers.speaker.owned().len(), usize::try_from(groups).unwrap());
    peers.feed_on(Input::View(view(&[0, 1], &[0, 1], &many(groups, None))));
    peers.sent.clear();
    peers
}

/// Feeds an input ten times each millisecond for a second, while the peer behaves as usual.
fn flood(peers: &mut ScriptedPeers, mut input: impl FnMut(&mut ScriptedPeers, usize) -> Input) {
    for number in 0..10_000 {
        if number % 1_000 == 0 {
            peers.receive_from(1, 5, Body::Alive { digest: 0 });
        }
        let next = input(peers, number);
        peers.feed_on(next);
        if number % 10 == 9 {
            peers.pass(MILLISECOND);
        }
    }
}

fn said_by_peer(body: impl Fn(usize) -> Body) -> impl FnMut(&mut ScriptedPeers, usize) -> Input {
    move |peers, number| Input::Message(address(1), peers.message(1, 5, body(number)))
}

fn is_claim(body: &Body) -> bool {
    matches!(body, Body::Update(_))
}

#[test]
fn responses_to_forged_frames_with_the_hardware_address_of_a_speaker_are_limited() {
    let mut peers = owning(2_000);
    flood(&mut peers, |peers, number| {
        let address = *peers.speaker.owned().keys().nth(number % 2_000).unwrap();
        let (mac, ours) = (EthernetAddress(mac(1)), EthernetAddress(mac(0)));
        Input::Contested(Observation { address, mac, ours, link: 1, probing: false })
    });
    let requests = peers.count(|body| *body == Body::Request);
    let claims = peers.count(is_claim);
    assert!((1..=21).contains(&requests), "{requests}");
    assert!(claims <= 21 * ENTRIES, "{claims}");

    let mut peers = owning(1);
    let address = *peers.speaker.owned().keys().next().unwrap();
    flood(&mut peers, |_, _| {
        let (mac, ours) = (EthernetAddress(mac(1)), EthernetAddress(mac(0)));
        Input::Contested(Observation { address, mac, ours, link: 1, probing: false })
    });
    let claims = peers.count(is_claim);
    assert!((1..=21).contains(&claims), "the peer learns of the claim: {claims}");
}

#[test]
fn all_claims_are_sent_at_most_once_in_an_interval_and_the_last_request_is_answered() {
    let mut peers = owning(2_000);
    let parts = 2_000_usize.div_ceil(ENTRIES);
    flood(&mut peers, said_by_peer(|_| Body::Request));
    let lists = peers.count(|body| matches!(body, Body::Claims { part: 0, .. }));
    assert!((9..=11).contains(&lists), "{lists}");
    assert_eq!(peers.count(|body| matches!(body, Body::Claims { .. })), lists * parts);
    peers.sent.clear();
    peers.receive_from(1, 5, Body::Request);
    peers.pass(INTERVAL * 2);
    assert_eq!(peers.count(|body| matches!(body, Body::Claims { part: 0, .. })), 1);
    peers.pass(SECOND);
    assert_eq!(peers.count(|body| matches!(body, Body::Claims { part: 0, .. })), 1);
}

#[test]
fn replayed_hellos_are_answered_rarely_and_keep_no_peer_from_being_heard() {
    let mut peers = owning(1);
    let key = Key::from_secret(b"key");
    let mut greeting = peers.message(1, 5, hello(1));
    greeting.echo = 0;
    // One recorded message again and again, then messages of many sessions.
    for (sessions, most) in [(1, 21), (1_000, 21 * 8)] {
        peers.sent.clear();
        flood(&mut peers, |_, number| {
            greeting.session = 1_000 + u64::try_from(number % sessions).unwrap();
            Input::Message(address(1), greeting.clone())
        });
        let answers = peers.count(|body| matches!(body, Body::Hello { .. }));
        assert!(answers <= most + 2, "{answers}");
        let bytes: usize = peers.sent.iter().map(|(_, _, message)| message.seal(&key).len()).sum();
        assert!(bytes <= (most + 50) * 100, "{bytes}");
        assert_eq!(peers.speaker.peers_alive(), 1);
    }
    // A replay of the same record does not keep a restarted peer from being heard.
    greeting.session = 1_000;
    let mut again = peers.message(1, 6, hello(1));
    for round in 0..10 {
        for _ in 0..1_000 {
            peers.feed_on(Input::Message(address(1), greeting.clone()));
        }
        if round == 5 {
            peers.feed_on(Input::Message(address(1), again.clone()));
            again = peers.message(1, 6, Body::Alive { digest: 0 });
            peers.feed_on(Input::Message(address(1), again.clone()));
        }
    }
    assert_eq!(peers.speaker.peers[&id(1)].handshake.echo(), 6);
}

#[test]
fn messages_of_removed_nodes_use_no_memory_for_long() {
    let mut peers = owning(1);
    for node in 10..200 {
        let greeting = peers.message(node, 5, hello(node));
        peers.feed_on(Input::Message(address(node), greeting));
    }
    peers.lives(1, 5, &[], SECOND * 3);
    assert_eq!(peers.speaker.peers.keys().copied().collect::<Vec<_>>(), [id(1)]);
}

#[test]
fn the_same_message_about_a_group_is_answered_at_most_once_in_10_ms() {
    let ours = |peers: &ScriptedPeers| *peers.speaker.owned().keys().next().unwrap();
    type Makes = fn(Vec<Claim>) -> Body;
    let lower: Makes = |claims| Body::Update(claims.into_iter().map(|claim| (claim, true)).collect());
    let makers: [(&str, Makes); 3] = [("intent", Body::Intent), ("leave", Body::Leave), ("claim", lower)];
    for (what, make) in makers {
        let mut peers = owning(1);
        let group = ours(&peers);
        flood(&mut peers, said_by_peer(|_| make(vec![Claim { group, epoch: 0 }; ENTRIES])));
        let answers = peers.count(|body| matches!(body, Body::Update(_) | Body::Nack(_) | Body::Intent(_)));
        assert!((1..=2 * 101 + 1).contains(&answers), "{what}: {answers}");
    }
    // A group that the peer may not have is declined at the same rate.
    let mut peers = owning(1);
    flood(&mut peers, said_by_peer(|_| Body::Leave(vec![Claim { group: group(9), epoch: 1 }; ENTRIES])));
    let refusals = peers.count(|body| matches!(body, Body::Nack(_)));
    assert!((1..=101).contains(&refusals), "{refusals}");
}

#[test]
fn messages_without_need_of_an_answer_get_none_and_claims_are_requested_rarely() {
    let quiet: [fn(usize) -> Body; 4] = [
        |number| Body::Hello {
            macs: vec![[2, 0, 0, 0, 1, u8::try_from(number % 256).unwrap()]],
            keys: vec![],
        },
        |_| Body::Alive { digest: 0 },
        |_| Body::Nack(vec![Claim { group: group(1), epoch: 1 }; ENTRIES]),
        |_| Body::Unknown,
    ];
    for body in quiet {
        let mut peers = owning(1);
        flood(&mut peers, said_by_peer(body));
        // Its own beacons and hellos.
        assert!(peers.sent.len() <= 12, "{:?}", peers.sent);
    }
    let mut peers = owning(1);
    flood(&mut peers, said_by_peer(|number| Body::Alive { digest: u64::try_from(number).unwrap() }));
    let requests = peers.count(|body| *body == Body::Request);
    assert!((1..=21).contains(&requests), "{requests}");
}

#[test]
fn the_claims_of_peers_are_bounded() {
    let mut peers = owning(1);
    let claims = |from: usize| -> Vec<Claim> {
        let group = |n: usize| IpAddr::V4((0x0b00_0000 + u32::try_from(n).unwrap()).into());
        (from..from + ENTRIES).map(|n| Claim { group: group(n), epoch: 1 }).collect()
    };
    for part in 0..MAX_CLAIMS / ENTRIES + 1_000 {
        let changes = claims(part * ENTRIES).into_iter().map(|claim| (claim, true)).collect();
        peers.receive_from(1, 5, Body::Update(changes));
    }
    assert_eq!(peers.speaker.peer_claims.len(), MAX_CLAIMS);
    // Released claims make room, and incomplete lists are not kept.
    peers.receive_from(1, 5, Body::Claims { digest: 0, part: 0, parts: 1, claims: Vec::new() });
    assert_eq!(peers.speaker.peer_claims.len(), 0);
    let kept = |peers: &ScriptedPeers| {
        peers.speaker.peers[&id(1)].parts.as_ref().map_or(0, |parts| parts.parts.len())
    };
    peers.receive_from(1, 5, Body::Claims { digest: 1, part: 0, parts: u16::MAX, claims: claims(0) });
    assert_eq!(kept(&peers), 0);
    for digest in 2..100 {
        peers.receive_from(1, 5, Body::Claims { digest, part: 0, parts: 2, claims: claims(0) });
        assert_eq!(kept(&peers), 1);
    }
}

#[test]
fn a_message_of_a_peer_that_is_heard_affects_only_that_peer() {
    let nodes: Vec<usize> = (0..=200).collect();
    let mut peers = ScriptedPeers::new(view(&nodes, &nodes, &many(10, None)));
    for node in 1..=200 {
        peers.receive_from(node, 5, Body::Alive { digest: 0 });
    }
    assert_eq!(peers.speaker.peers_alive(), 200);
    // The peer that was heard first goes down first.
    let first = |peers: &ScriptedPeers| peers.speaker.alive.first().map(|(_, id)| id);
    assert_eq!(first(&peers), Some((1..=200).map(id).min().unwrap()), "all at the same moment");
    peers.now += MILLISECOND;
    let message: Message = peers.message(7, 5, Body::Alive { digest: 0 });
    peers.speaker.on_message(peers.now, address(7), message);
    assert!(peers.speaker.dirty.is_empty() && peers.speaker.outgoing.is_empty());
    assert_eq!(peers.speaker.alive.len(), 200);
}

#[test]
fn a_foreign_host_that_invents_hardware_addresses_is_reported_with_ten_of_them_in_an_hour() {
    let mut peers = owning(1);
    let address = *peers.speaker.owned().keys().next().unwrap();
    let mut reported = BTreeSet::new();
    for second in 0..3_600_u32 {
        let [_, _, a, b] = second.to_be_bytes();
        let (mac, ours) = (EthernetAddress([2, 0, 0, 0x77, a, b]), EthernetAddress(mac(0)));
        peers.feed_on(Input::Contested(Observation { address, mac, ours, link: 1, probing: false }));
        let conflict = peers.speaker.conflicts().get(&address).unwrap();
        reported.insert(conflict.observation.mac.0);
        peers.pass(SECOND);
        // It answers no probe.
        if second % 90 == 0 {
            peers.feed_on(Input::ProbeClear(address));
            assert!(peers.speaker.conflicts().is_empty());
        }
    }
    assert!((5..=10).contains(&reported.len()), "{}", reported.len());
}
