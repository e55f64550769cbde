//! Replayed messages are ignored, current ones are accepted: requirement 5.

use super::super::epoch::MAX_EPOCH;
use super::super::*;
use super::fixture::{id, many};
use super::scripted_peers::{ScriptedPeers, hello, view};
use super::world::{INTERVAL, address, group, mac, name};
use crate::layer2::beacon::{Body, Claim, Flags, Key, Keyring, Message};

fn claim(epoch: u64) -> Claim {
    Claim { group: group(1), epoch }
}

#[test]
fn messages_recorded_before_a_node_was_rebooted_are_ignored() {
    let id = group(1);
    let mut peers = ScriptedPeers::new(view(&[0, 1], &[0, 1], &[(id, Some((1, 5)))]));
    let (old, new) = (1_001, 2_002);
    // Node 1 owns the group, is rebooted and hands over.
    peers.lives(1, old, &[], Duration::from_secs(2));
    peers.receive_from(1, old, Body::Update(vec![(claim(5), true)]));
    let recorded = peers.receive_from(1, old, Body::Leave(vec![claim(5)]));
    assert_eq!(peers.speaker.owned().get(&id), Some(&6));
    peers.receive_from(1, old, Body::Update(vec![(claim(5), false)]));
    // It is away for so long that it is forgotten, comes back, and gets the group again.
    peers.feed_on(Input::View(view(&[0, 1], &[0], &[(id, Some((0, 6)))])));
    peers.pass(Duration::from_secs(20));
    assert!(peers.speaker.peers.is_empty());
    peers.feed_on(Input::View(view(&[0, 1], &[0, 1], &[(id, Some((0, 6)))])));
    peers.lives(1, new, &[], Duration::from_secs(1));
    peers.receive_from(1, new, Body::Update(vec![(claim(7), true)]));
    peers.lives(1, new, &[claim(7)], Duration::from_secs(1));
    assert!(peers.speaker.owned().is_empty());

    let before = peers.speaker.counts();
    let mut later = recorded.clone();
    for sequence in 0..200 {
        later.sequence = sequence;
        peers.feed_on(Input::Message(address(1), later.clone()));
    }
    assert!(peers.speaker.owned().is_empty(), "a record takes nothing from a healthy owner");
    let stale = peers.speaker.counts().stale;
    peers.lives(1, new, &[claim(7)], Duration::from_secs(60));
    assert_eq!(peers.speaker.peers_alive(), 1, "the owner is heard");
    let after = peers.speaker.counts();
    assert_eq!((after.replayed, after.stale), (before.replayed, stale), "each of its messages counts");
    assert_eq!(after.suspicions, before.suspicions);
}

#[test]
fn replayed_messages_have_no_effect_after_any_number_of_restarts_of_either_side() {
    let groups = [(group(1), Some((0, 9)))];
    let mut peers = ScriptedPeers::new(view(&[0, 1], &[0, 1], &groups));
    let mut recorded: Vec<Message> = Vec::new();
    for session in 1..=80 {
        recorded.push(peers.receive_from(1, session, Body::Leave(vec![claim(session)])));
        recorded.push(peers.receive_from(1, session, Body::Update(vec![(claim(1_000 + session), true)])));
        peers.receive_from(1, session, Body::Update(vec![(claim(1_000 + session), false)]));
        if session % 20 == 0 {
            // Forgotten, and heard again.
            peers.feed_on(Input::View(view(&[0], &[0], &groups)));
            peers.pass(Duration::from_secs(20));
            peers.feed_on(Input::View(view(&[0, 1], &[0, 1], &groups)));
        }
    }
    // Nor after a restart of this speaker, which has another seed.
    let mut restarted = ScriptedPeers::new(view(&[0, 1], &[0, 1], &groups));
    restarted.speaker = Ownership::new(OwnershipSettings { session: 78, ..peers.speaker.settings.clone() });
    restarted.feed_on(Input::View(view(&[0, 1], &[0, 1], &groups)));
    for peers in [&mut peers, &mut restarted] {
        peers.lives(1, 99, &[], Duration::from_secs(2));
        let (owned, claimed) = (peers.speaker.owned().clone(), peers.speaker.peer_claims.clone());
        for message in &recorded {
            peers.feed_on(Input::Message(address(1), message.clone()));
            assert_eq!((&owned, &claimed), (peers.speaker.owned(), &peers.speaker.peer_claims));
        }
        peers.lives(1, 99, &[], INTERVAL);
        assert_eq!(peers.speaker.peers_alive(), 1);
    }
}

#[test]
fn a_replayed_message_of_a_speaker_that_is_heard_is_answered_only_at_its_known_address() {
    let mut peers = ScriptedPeers::new(view(&[0, 1], &[0, 1], &[]));
    let mut recorded = peers.message(1, 5, hello(1));
    peers.lives(1, 5, &[], Duration::from_secs(1));
    peers.sent.clear();
    for session in 15..19 {
        recorded.session = session;
        peers.feed_on(Input::Message(address(9), recorded.clone()));
    }
    assert!(!peers.sent.is_empty() && peers.sent.iter().all(|(to, _, _)| *to == address(1)));
}

#[test]
fn requirement_10_a_speaker_whose_address_changes_is_sent_to_at_the_listed_one_and_the_one_it_sends_from() {
    let listing = |listed: IpAddr| {
        let mut view = View::clone(&view(&[0, 1], &[0, 1], &[(group(1), Some((0, 1)))]));
        view.speakers.get_mut(&name(1)).unwrap().address = Some(listed);
        Input::View(Arc::new(view))
    };
    let reached =
        |peers: &mut ScriptedPeers, heard_from: IpAddr, session: u64, body: Body| -> BTreeSet<IpAddr> {
            peers.sent.clear();
            let message = peers.message(1, session, body);
            peers.feed_on(Input::Message(heard_from, message));
            peers.pass(INTERVAL);
            peers.sent.iter().map(|(to, _, _)| *to).collect()
        };
    let (before, after) = (address(1), address(9));
    let mut peers = ScriptedPeers::new(view(&[0, 1], &[0, 1], &[(group(1), Some((0, 1)))]));
    peers.lives(1, 5, &[], Duration::from_secs(1));
    let alive = || Body::Alive { digest: 0 };
    assert_eq!(reached(&mut peers, before, 5, alive()), [before].into());
    assert_eq!(reached(&mut peers, after, 5, alive()), [before, after].into());
    // It is restarted there: it is not heard yet, and the API still lists the old address.
    peers.pass(Duration::from_secs(1));
    peers.sent.clear();
    let greeting = peers.message(1, 6, hello(1));
    peers.feed_on(Input::Message(after, greeting));
    assert_eq!(peers.sent.iter().map(|(to, _, _)| *to).collect::<Vec<_>>(), [before, after]);
    assert_eq!(peers.speaker.peers_alive(), 0);
    assert_eq!(reached(&mut peers, after, 6, alive()), [before, after].into());
    assert_eq!(peers.speaker.peers_alive(), 1);
    peers.feed_on(listing(after));
    assert_eq!(reached(&mut peers, after, 6, alive()), [after].into());
    // The API lists the next address before anything is heard from there.
    peers.feed_on(listing(before));
    peers.sent.clear();
    peers.pass(INTERVAL);
    assert!(peers.sent.iter().any(|(to, _, _)| *to == before));
}

#[test]
fn a_hello_that_was_overtaken_by_a_later_one_is_ignored() {
    let mut peers = ScriptedPeers::new(view(&[0, 1], &[0, 1], &[]));
    peers.receive_from(1, 5, Body::Alive { digest: 0 });
    let keys = [Key::from_secret(b"old").id(), Key::from_secret(b"new").id()];
    let [first, second] = keys.map(|key| {
        let body = Body::Hello { macs: vec![mac(1)], keys: vec![key] };
        peers.message(1, 5, body)
    });
    peers.feed_on(Input::Message(address(1), second));
    peers.feed_on(Input::Message(address(1), first));
    assert_eq!(peers.speaker.peers[&id(1)].keys, [keys[1]]);
}

/// The number of messages to node 1 that can be verified with these keys.
fn readable(peers: &ScriptedPeers, ours: &Keyring, theirs: &Keyring) -> usize {
    let verifies = |keys: &[KeyId], message: &Message| {
        ours.for_peer(keys).iter().any(|key| Message::open(&message.seal(key), theirs).is_ok())
    };
    peers.sent.iter().filter(|(_, keys, message)| verifies(keys, message)).count()
}

/// Our kubelet has not updated the user's key yet; node 1 is restarted and knows only the new one and the
/// operator's key, which we have as well.
fn mid_rotation() -> (ScriptedPeers, Keyring, Keyring) {
    let [old, new, own] = ["old", "new", "own"].map(|text| Key::from_secret(text.as_bytes()));
    let (ours, theirs) = (Keyring::new([old, own.clone()]), Keyring::new([new, own]));
    let mut peers = ScriptedPeers::new(view(&[0, 1], &[0, 1], &[(group(1), Some((0, 1)))]));
    peers.feed_on(Input::Keys(ours.ids()));
    peers.receive_from(1, 5, Body::Hello { macs: vec![mac(1)], keys: ours.ids() });
    peers.lives(1, 5, &[], Duration::from_secs(2));
    peers.sent.clear();
    (peers, ours, theirs)
}

#[test]
fn a_speaker_that_is_restarted_while_a_key_is_replaced_is_answered_with_a_key_that_it_has() {
    let (mut peers, ours, theirs) = mid_rotation();
    let greeting = |peers: &mut ScriptedPeers| {
        peers.message(1, 6, Body::Hello { macs: vec![mac(1)], keys: theirs.ids() })
    };
    let first = greeting(&mut peers);
    peers.feed_on(Input::Message(address(1), first));
    assert_eq!((peers.sent.len(), readable(&peers, &ours, &theirs)), (1, 1), "the answer to its greeting");
    let second = greeting(&mut peers);
    peers.feed_on(Input::Message(address(1), second));
    peers.sent.clear();
    peers.lives(1, 6, &[], Duration::from_secs(1));
    assert!(peers.sent.len() >= 10);
    assert_eq!(readable(&peers, &ours, &theirs), peers.sent.len(), "all that follows");
}

#[test]
fn a_speaker_that_is_restarted_and_silent_is_sent_a_hello_with_a_key_that_it_has() {
    let (mut peers, ours, theirs) = mid_rotation();
    peers.pass(Duration::from_secs(3));
    assert!(readable(&peers, &ours, &theirs) >= 2);
}

#[test]
fn an_offer_of_a_peer_that_has_lost_the_group_is_declined() {
    let mut peers = ScriptedPeers::new(view(&[0, 1, 2], &[0, 1, 2], &[(group(1), Some((1, 5)))]));
    peers.receive_from(1, 11, Body::Update(vec![(claim(5), true)]));
    // Node 1 was cut off, node 2 has taken over.
    peers.receive_from(2, 12, Body::Update(vec![(claim(6), true)]));
    peers.sent.clear();
    peers.receive_from(1, 11, Body::Leave(vec![claim(5)]));
    assert!(peers.speaker.owned().is_empty());
    assert_eq!(peers.count(|body| *body == Body::Nack(vec![claim(5)])), 1);
    // A claim of a peer that is down does not matter: the owner knows better.
    peers.receive_from(1, 11, Body::Update(vec![(claim(7), true)]));
    peers.lives(1, 11, &[claim(7)], INTERVAL * 4);
    peers.receive_from(1, 11, Body::Leave(vec![claim(7)]));
    assert_eq!(peers.speaker.owned().get(&group(1)), Some(&8));
}

#[test]
fn an_epoch_that_no_group_reaches_is_ignored() {
    let mut peers = ScriptedPeers::new(view(&[0, 1], &[0, 1], &[(group(1), Some((0, 3)))]));
    peers.lives(1, 5, &[], Duration::from_secs(2));
    assert_eq!(peers.speaker.owned().get(&group(1)), Some(&3));
    for epoch in [MAX_EPOCH + 1, u64::MAX] {
        let claims = vec![claim(epoch)];
        let bodies = [
            Body::Update(vec![(claim(epoch), true)]),
            Body::Claims { digest: 1, part: 0, parts: 1, claims: claims.clone() },
            Body::Intent(claims.clone()),
            Body::Leave(claims),
        ];
        for body in bodies {
            peers.receive_from(1, 5, body);
            assert_eq!(peers.speaker.owned().get(&group(1)), Some(&3));
        }
    }
    assert_eq!(peers.speaker.groups[&group(1)].highest_epoch, 3);
}

#[test]
fn a_hello_does_not_remove_a_hardware_address_that_the_api_lists() {
    let mut peers = ScriptedPeers::new(view(&[0, 1, 2], &[0, 1, 2], &[]));
    let owner = |peers: &ScriptedPeers, mac: [u8; 6]| peers.speaker.directory.macs.get(&mac).copied();
    let more: Vec<[u8; 6]> = (0..16).map(|n| [0, 0x16, 0x3e, 0, 0, n]).collect();
    for macs in [vec![mac(1)], more.clone(), vec![mac(2), mac(0)], vec![]] {
        peers.receive_from(1, 5, Body::Hello { macs, keys: Vec::new() });
        assert_eq!(owner(&peers, mac(1)), Some(id(1)));
        assert_eq!(owner(&peers, mac(2)), Some(id(2)), "of another node");
    }
    assert_eq!(owner(&peers, more[0]), None, "the last hello does not have it");
    peers.receive_from(1, 5, Body::Hello { macs: more.clone(), keys: Vec::new() });
    assert_eq!(owner(&peers, more[0]), Some(id(1)));
    // Neither does a later view, or forgetting the peer.
    peers.feed_on(Input::View(view(&[0, 1], &[0, 1], &many(1, None))));
    assert_eq!((owner(&peers, mac(1)), owner(&peers, more[0])), (Some(id(1)), Some(id(1))));
    peers.feed_on(Input::View(view(&[0, 1], &[0], &[])));
    peers.pass(Duration::from_secs(20));
    assert_eq!((owner(&peers, mac(1)), owner(&peers, more[0])), (Some(id(1)), None));
}

/// A speaker of the previous release: one session for all peers, and it echoes what it receives as a session.
struct Earlier {
    session: u64,
    heard: u64,
    retired: Vec<u64>,
    sequence: u64,
    /// The number of accepted messages.
    counted: usize,
}

impl Earlier {
    fn new(session: u64) -> Self {
        Self { session, heard: 0, retired: Vec::new(), sequence: 0, counted: 0 }
    }

    fn say(&mut self, echo: u64, body: Body) -> Message {
        self.sequence += 1;
        let flags = Flags { wanted: true, ..Flags::default() };
        Message { sender: id(1), session: self.session, echo, sequence: self.sequence, flags, body }
    }

    fn beacon(&mut self) -> Message {
        let body = if self.heard == 0 { hello(1) } else { Body::Alive { digest: 0 } };
        self.say(self.heard, body)
    }

    fn receive_from(&mut self, message: &Message) -> Option<Message> {
        assert!(!self.retired.contains(&message.session), "a session that was given up is taken again");
        if message.echo != self.session {
            return Some(self.say(message.session, hello(1)));
        }
        self.counted += 1;
        if self.heard == message.session {
            return None;
        }
        self.retired.extend(Some(self.heard).filter(|heard| *heard != 0));
        self.heard = message.session;
        Some(self.say(self.heard, hello(1)))
    }

    /// Exchanges messages with a speaker of this release for a while; `begins` is whether the earlier one
    /// sends first.
    fn talk(&mut self, peers: &mut ScriptedPeers, time: Duration, begins: bool) {
        let end = peers.now + time;
        let mut begins = begins;
        while peers.now < end {
            if begins {
                let beacon = self.beacon();
                peers.feed_on(Input::Message(address(1), beacon));
            }
            begins = true;
            for _ in 0..10 {
                let sent = std::mem::take(&mut peers.sent);
                let answers: Vec<Message> =
                    sent.iter().filter_map(|(_, _, m)| self.receive_from(m)).collect();
                for answer in answers {
                    peers.feed_on(Input::Message(address(1), answer));
                }
                peers.pass(INTERVAL / 10);
            }
        }
    }
}

#[test]
fn speakers_of_the_previous_release_and_of_this_one_understand_each_other_during_a_rolling_upgrade() {
    for begins in [true, false] {
        let groups = [(group(1), Some((0, 1)))];
        let mut peers = ScriptedPeers::new(view(&[0, 1], &[0, 1], &groups));
        let mut earlier = Earlier::new(1_000);
        for round in 0..5 {
            earlier.talk(&mut peers, INTERVAL * 3, begins);
            assert_eq!(peers.speaker.peers_alive(), 1, "round {round}");
            let counted = earlier.counted;
            earlier.talk(&mut peers, Duration::from_secs(1), begins);
            assert!(earlier.counted >= counted + 10, "round {round}");
            assert_eq!(peers.speaker.counts().suspicions, round);
            assert_eq!(peers.speaker.owned().get(&group(1)), Some(&1));
            match round {
                // It is restarted; the second time it is silent before, and the third time it is forgotten as
                // well.
                0 => {
                    peers.pass(INTERVAL * 4);
                    earlier = Earlier::new(2_000);
                }
                1 => peers.pass(Duration::from_secs(2)),
                2 => {
                    peers.feed_on(Input::View(view(&[0], &[0], &groups)));
                    peers.pass(Duration::from_secs(20));
                    peers.feed_on(Input::View(view(&[0, 1], &[0, 1], &groups)));
                }
                // It forgets this speaker.
                _ => {
                    peers.pass(INTERVAL * 4);
                    (earlier.heard, earlier.retired) = (0, Vec::new());
                }
            }
        }
        assert_eq!(peers.speaker.name_of(id(1)), Some(&name(1)));
    }
}
