//! However much others send, what a speaker sends because of it is bounded: requirement 6.

use super::super::receive::CLAIMS;
use super::super::*;
use super::desk::{Desk, hello, view};
use super::fixture::{id, many};
use super::world::{INTERVAL, address, group, mac};
use crate::beacon::{Body, ENTRIES, Key, Message};
use crate::responder::Sighting;
use smoltcp::wire::EthernetAddress;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// A speaker that owns so many groups beside a peer that owns none.
fn owning(groups: u32) -> Desk {
    let mut desk = Desk::new(view(&[0, 1], &[0, 1], &many(groups, None)));
    desk.lives(1, 5, &[], SECOND);
    desk.feed_on(Input::View(view(&[0, 1], &[0], &many(groups, None))));
    desk.lives(1, 5, &[], SECOND * 8);
    assert_eq!(desk.speaker.owned().len(), usize::try_from(groups).unwrap());
    desk.feed_on(Input::View(view(&[0, 1], &[0, 1], &many(groups, None))));
    desk.sent.clear();
    desk
}

/// Feeds something for a second, ten times each millisecond, while the peer goes on as usual.
fn flood(desk: &mut Desk, mut input: impl FnMut(&mut Desk, usize) -> Input) {
    for number in 0..10_000 {
        if number % 1_000 == 0 {
            desk.hear(1, 5, Body::Alive { claims: 0 });
        }
        let next = input(desk, number);
        desk.feed_on(next);
        if number % 10 == 9 {
            desk.pass(MILLISECOND);
        }
    }
}

fn said_by_peer(body: impl Fn(usize) -> Body) -> impl FnMut(&mut Desk, usize) -> Input {
    move |desk, number| Input::Message(address(1), desk.message(1, 5, body(number)))
}

fn is_claim(body: &Body) -> bool {
    matches!(body, Body::Update(_))
}

#[test]
fn forged_frames_with_the_hardware_address_of_a_speaker_make_nobody_talk_without_a_limit() {
    let mut desk = owning(2_000);
    flood(&mut desk, |desk, number| {
        let address = *desk.speaker.owned().keys().nth(number % 2_000).unwrap();
        let (mac, ours) = (EthernetAddress(mac(1)), EthernetAddress(mac(0)));
        Input::Contested(Sighting { address, mac, ours, link: 1, probing: false })
    });
    let requests = desk.count(|body| *body == Body::Request);
    let claims = desk.count(is_claim);
    assert!((1..=21).contains(&requests), "{requests}");
    assert!(claims <= 21 * ENTRIES, "{claims}");

    let mut desk = owning(1);
    let address = *desk.speaker.owned().keys().next().unwrap();
    flood(&mut desk, |_, _| {
        let (mac, ours) = (EthernetAddress(mac(1)), EthernetAddress(mac(0)));
        Input::Contested(Sighting { address, mac, ours, link: 1, probing: false })
    });
    let claims = desk.count(is_claim);
    assert!((1..=21).contains(&claims), "the peer learns of the claim: {claims}");
}

#[test]
fn all_claims_are_sent_at_most_once_in_an_interval_and_the_last_request_is_answered() {
    let mut desk = owning(2_000);
    let parts = 2_000_usize.div_ceil(ENTRIES);
    flood(&mut desk, said_by_peer(|_| Body::Request));
    let lists = desk.count(|body| matches!(body, Body::Claims { part: 0, .. }));
    assert!((9..=11).contains(&lists), "{lists}");
    assert_eq!(desk.count(|body| matches!(body, Body::Claims { .. })), lists * parts);
    desk.sent.clear();
    desk.hear(1, 5, Body::Request);
    desk.pass(INTERVAL * 2);
    assert_eq!(desk.count(|body| matches!(body, Body::Claims { part: 0, .. })), 1);
    desk.pass(SECOND);
    assert_eq!(desk.count(|body| matches!(body, Body::Claims { part: 0, .. })), 1);
}

#[test]
fn recorded_greetings_are_answered_rarely_and_keep_nobody_from_being_heard() {
    let mut desk = owning(1);
    let key = Key::from_secret(b"key");
    let mut greeting = desk.message(1, 5, hello(1));
    greeting.echo = 0;
    // One recorded message, again and again, then of many sessions.
    for (sessions, most) in [(1, 21), (1_000, 21 * 8)] {
        desk.sent.clear();
        flood(&mut desk, |_, number| {
            greeting.session = 1_000 + u64::try_from(number % sessions).unwrap();
            Input::Message(address(1), greeting.clone())
        });
        let answers = desk.count(|body| matches!(body, Body::Hello { .. }));
        assert!(answers <= most + 2, "{answers}");
        let bytes: usize = desk.sent.iter().map(|(_, _, message)| message.seal(&key).len()).sum();
        assert!(bytes <= (most + 50) * 100, "{bytes}");
        assert_eq!(desk.speaker.peers_alive(), 1);
    }
    // What repeats the same record all the time does not keep a peer that is started again from being heard.
    greeting.session = 1_000;
    let mut again = desk.message(1, 6, hello(1));
    for round in 0..10 {
        for _ in 0..1_000 {
            desk.feed_on(Input::Message(address(1), greeting.clone()));
        }
        if round == 5 {
            desk.feed_on(Input::Message(address(1), again.clone()));
            again = desk.message(1, 6, Body::Alive { claims: 0 });
            desk.feed_on(Input::Message(address(1), again.clone()));
        }
    }
    assert_eq!(desk.speaker.peers[&id(1)].handshake.echo(), 6);
}

#[test]
fn messages_of_nodes_that_are_gone_cost_no_memory_for_long() {
    let mut desk = owning(1);
    for node in 10..200 {
        let greeting = desk.message(node, 5, hello(node));
        desk.feed_on(Input::Message(address(node), greeting));
    }
    desk.lives(1, 5, &[], SECOND * 3);
    assert_eq!(desk.speaker.peers.keys().copied().collect::<Vec<_>>(), [id(1)]);
}

#[test]
fn the_same_said_about_a_group_again_and_again_is_answered_no_more_than_once_in_10_ms() {
    let ours = |desk: &Desk| *desk.speaker.owned().keys().next().unwrap();
    type Makes = fn(Vec<Stake>) -> Body;
    let lower: Makes = |stakes| Body::Update(stakes.into_iter().map(|stake| (stake, true)).collect());
    let makers: [(&str, Makes); 3] = [("intent", Body::Intent), ("leave", Body::Leave), ("claim", lower)];
    for (what, make) in makers {
        let mut desk = owning(1);
        let group = ours(&desk);
        flood(&mut desk, said_by_peer(|_| make(vec![Stake { group, epoch: 0 }; ENTRIES])));
        let answers = desk.count(|body| matches!(body, Body::Update(_) | Body::Nack(_) | Body::Intent(_)));
        assert!((1..=2 * 101 + 1).contains(&answers), "{what}: {answers}");
    }
    // What it may not have is refused as rarely.
    let mut desk = owning(1);
    flood(&mut desk, said_by_peer(|_| Body::Leave(vec![Stake { group: group(9), epoch: 1 }; ENTRIES])));
    let refusals = desk.count(|body| matches!(body, Body::Nack(_)));
    assert!((1..=101).contains(&refusals), "{refusals}");
}

#[test]
fn what_needs_no_answer_has_none_and_what_does_not_add_up_is_asked_for_rarely() {
    let quiet: [fn(usize) -> Body; 4] = [
        |number| Body::Hello {
            macs: vec![[2, 0, 0, 0, 1, u8::try_from(number % 256).unwrap()]],
            keys: vec![],
        },
        |_| Body::Alive { claims: 0 },
        |_| Body::Nack(vec![Stake { group: group(1), epoch: 1 }; ENTRIES]),
        |_| Body::Unknown,
    ];
    for body in quiet {
        let mut desk = owning(1);
        flood(&mut desk, said_by_peer(body));
        // Its own beacons and greetings.
        assert!(desk.sent.len() <= 12, "{:?}", desk.sent);
    }
    let mut desk = owning(1);
    flood(&mut desk, said_by_peer(|number| Body::Alive { claims: u64::try_from(number).unwrap() }));
    let requests = desk.count(|body| *body == Body::Request);
    assert!((1..=21).contains(&requests), "{requests}");
}

#[test]
fn what_peers_claim_is_bounded() {
    let mut desk = owning(1);
    let stakes = |from: usize| -> Vec<Stake> {
        let group = |n: usize| IpAddr::V4((0x0b00_0000 + u32::try_from(n).unwrap()).into());
        (from..from + ENTRIES).map(|n| Stake { group: group(n), epoch: 1 }).collect()
    };
    for part in 0..CLAIMS / ENTRIES + 1_000 {
        let changes = stakes(part * ENTRIES).into_iter().map(|stake| (stake, true)).collect();
        desk.hear(1, 5, Body::Update(changes));
    }
    assert_eq!(desk.speaker.claimed.len(), CLAIMS);
    // What it owns no more makes room, and lists that are never complete are not kept.
    desk.hear(1, 5, Body::Claims { claims: 0, part: 0, parts: 1, stakes: Vec::new() });
    assert_eq!(desk.speaker.claimed.len(), 0);
    let kept = |desk: &Desk| desk.speaker.peers[&id(1)].parts.as_ref().map_or(0, |parts| parts.parts.len());
    desk.hear(1, 5, Body::Claims { claims: 1, part: 0, parts: u16::MAX, stakes: stakes(0) });
    assert_eq!(kept(&desk), 0);
    for claims in 2..100 {
        desk.hear(1, 5, Body::Claims { claims, part: 0, parts: 2, stakes: stakes(0) });
        assert_eq!(kept(&desk), 1);
    }
}

#[test]
fn a_message_of_a_peer_that_is_heard_reaches_nothing_but_that_peer() {
    let nodes: Vec<usize> = (0..=200).collect();
    let mut desk = Desk::new(view(&nodes, &nodes, &many(10, None)));
    for node in 1..=200 {
        desk.hear(node, 5, Body::Alive { claims: 0 });
    }
    assert_eq!(desk.speaker.peers_alive(), 200);
    // In the order in which they fall silent, the first is the one that was heard first.
    let first = |desk: &Desk| desk.speaker.alive.first().map(|(_, id)| id);
    assert_eq!(first(&desk), Some((1..=200).map(id).min().unwrap()), "all at the same moment");
    desk.now += MILLISECOND;
    let message: Message = desk.message(7, 5, Body::Alive { claims: 0 });
    desk.speaker.receive(desk.now, address(7), message);
    assert!(desk.speaker.dirty.is_empty() && desk.speaker.outgoing.is_empty());
    assert_eq!(desk.speaker.alive.len(), 200);
}
