//! What was recorded does not count, and what is said now does: requirement 5.

use super::super::*;
use super::desk::{Desk, hello, view};
use super::fixture::{id, many};
use super::world::{INTERVAL, address, group, mac, name};
use crate::beacon::{Body, Flags, Key, Keyring, Message};

fn stake(epoch: u64) -> Stake {
    Stake { group: group(1), epoch }
}

#[test]
fn what_was_recorded_before_a_node_was_rebooted_does_not_count() {
    let id = group(1);
    let mut desk = Desk::new(view(&[0, 1], &[0, 1], &[(id, Some((1, 5)))]));
    let (old, new) = (1_001, 2_002);
    // Node 1 owns the group, is rebooted and hands over.
    desk.lives(1, old, &[], Duration::from_secs(2));
    desk.hear(1, old, Body::Update(vec![(stake(5), true)]));
    let recorded = desk.hear(1, old, Body::Leave(vec![stake(5)]));
    assert_eq!(desk.speaker.owned().get(&id), Some(&6));
    desk.hear(1, old, Body::Update(vec![(stake(5), false)]));
    // It is away for so long that it is forgotten, comes back, and gets the group again.
    desk.feed_on(Input::View(view(&[0, 1], &[0], &[(id, Some((0, 6)))])));
    desk.pass(Duration::from_secs(20));
    assert!(desk.speaker.peers.is_empty());
    desk.feed_on(Input::View(view(&[0, 1], &[0, 1], &[(id, Some((0, 6)))])));
    desk.lives(1, new, &[], Duration::from_secs(1));
    desk.hear(1, new, Body::Update(vec![(stake(7), true)]));
    desk.lives(1, new, &[stake(7)], Duration::from_secs(1));
    assert!(desk.speaker.owned().is_empty());

    let before = desk.speaker.counts();
    let mut later = recorded.clone();
    for sequence in 0..200 {
        later.sequence = sequence;
        desk.feed_on(Input::Message(address(1), later.clone()));
    }
    assert!(desk.speaker.owned().is_empty(), "a record takes nothing from a healthy owner");
    let stale = desk.speaker.counts().stale;
    desk.lives(1, new, &[stake(7)], Duration::from_secs(60));
    assert_eq!(desk.speaker.peers_alive(), 1, "the owner is heard");
    let after = desk.speaker.counts();
    assert_eq!((after.replayed, after.stale), (before.replayed, stale), "each of its messages counts");
    assert_eq!(after.suspicions, before.suspicions);
}

#[test]
fn what_is_repeated_has_no_effect_after_any_number_of_restarts_of_either_side() {
    let groups = [(group(1), Some((0, 9)))];
    let mut desk = Desk::new(view(&[0, 1], &[0, 1], &groups));
    let mut recorded: Vec<Message> = Vec::new();
    for session in 1..=80 {
        recorded.push(desk.hear(1, session, Body::Leave(vec![stake(session)])));
        recorded.push(desk.hear(1, session, Body::Update(vec![(stake(1_000 + session), true)])));
        desk.hear(1, session, Body::Update(vec![(stake(1_000 + session), false)]));
        if session % 20 == 0 {
            // Forgotten, and met again.
            desk.feed_on(Input::View(view(&[0], &[0], &groups)));
            desk.pass(Duration::from_secs(20));
            desk.feed_on(Input::View(view(&[0, 1], &[0, 1], &groups)));
        }
    }
    // Nor does it where this speaker was started again: it has another seed.
    let mut restarted = Desk::new(view(&[0, 1], &[0, 1], &groups));
    restarted.speaker = Ownership::new(Settings { session: 78, ..desk.speaker.settings.clone() });
    restarted.feed_on(Input::View(view(&[0, 1], &[0, 1], &groups)));
    for desk in [&mut desk, &mut restarted] {
        desk.lives(1, 99, &[], Duration::from_secs(2));
        let (owned, claimed) = (desk.speaker.owned().clone(), desk.speaker.claimed.clone());
        for message in &recorded {
            desk.feed_on(Input::Message(address(1), message.clone()));
            assert_eq!((&owned, &claimed), (desk.speaker.owned(), &desk.speaker.claimed));
        }
        desk.lives(1, 99, &[], INTERVAL);
        assert_eq!(desk.speaker.peers_alive(), 1);
    }
}

#[test]
fn a_repeated_message_of_a_speaker_that_is_heard_is_answered_only_where_that_was_heard() {
    let mut desk = Desk::new(view(&[0, 1], &[0, 1], &[]));
    let mut recorded = desk.message(1, 5, hello(1));
    desk.lives(1, 5, &[], Duration::from_secs(1));
    desk.sent.clear();
    for session in 15..19 {
        recorded.session = session;
        desk.feed_on(Input::Message(address(9), recorded.clone()));
    }
    assert!(!desk.sent.is_empty() && desk.sent.iter().all(|(to, _, _)| *to == address(1)));
}

#[test]
fn requirement_10_a_speaker_whose_address_changes_is_reached_at_the_one_listed_and_the_one_it_is_heard_from()
{
    let listing = |listed: IpAddr| {
        let mut view = View::clone(&view(&[0, 1], &[0, 1], &[(group(1), Some((0, 1)))]));
        view.speakers.get_mut(&name(1)).unwrap().address = Some(listed);
        Input::View(Arc::new(view))
    };
    let reached = |desk: &mut Desk, heard_from: IpAddr, session: u64, body: Body| -> BTreeSet<IpAddr> {
        desk.sent.clear();
        let message = desk.message(1, session, body);
        desk.feed_on(Input::Message(heard_from, message));
        desk.pass(INTERVAL);
        desk.sent.iter().map(|(to, _, _)| *to).collect()
    };
    let (before, after) = (address(1), address(9));
    let mut desk = Desk::new(view(&[0, 1], &[0, 1], &[(group(1), Some((0, 1)))]));
    desk.lives(1, 5, &[], Duration::from_secs(1));
    let alive = || Body::Alive { claims: 0 };
    assert_eq!(reached(&mut desk, before, 5, alive()), [before].into());
    assert_eq!(reached(&mut desk, after, 5, alive()), [before, after].into());
    // It is started again there: nobody is heard yet, and the API still lists the address before.
    desk.pass(Duration::from_secs(1));
    desk.sent.clear();
    let greeting = desk.message(1, 6, hello(1));
    desk.feed_on(Input::Message(after, greeting));
    assert_eq!(desk.sent.iter().map(|(to, _, _)| *to).collect::<Vec<_>>(), [before, after]);
    assert_eq!(desk.speaker.peers_alive(), 0);
    assert_eq!(reached(&mut desk, after, 6, alive()), [before, after].into());
    assert_eq!(desk.speaker.peers_alive(), 1);
    desk.feed_on(listing(after));
    assert_eq!(reached(&mut desk, after, 6, alive()), [after].into());
    // The API lists the next one before anything is heard from there.
    desk.feed_on(listing(before));
    desk.sent.clear();
    desk.pass(INTERVAL);
    assert!(desk.sent.iter().any(|(to, _, _)| *to == before));
}

#[test]
fn a_hello_that_was_overtaken_by_a_later_one_does_not_count() {
    let mut desk = Desk::new(view(&[0, 1], &[0, 1], &[]));
    desk.hear(1, 5, Body::Alive { claims: 0 });
    let keys = [Key::from_secret(b"old").id(), Key::from_secret(b"new").id()];
    let [first, second] = keys.map(|key| {
        let body = Body::Hello { macs: vec![mac(1)], keys: vec![key] };
        desk.message(1, 5, body)
    });
    desk.feed_on(Input::Message(address(1), second));
    desk.feed_on(Input::Message(address(1), first));
    assert_eq!(desk.speaker.peers[&id(1)].keys, [keys[1]]);
}

/// Messages to node 1 that somebody with these keys can verify, of all that were sent.
fn readable(desk: &Desk, ours: &Keyring, theirs: &Keyring) -> usize {
    let verifies = |keys: &[KeyId], message: &Message| {
        ours.for_peer(keys).iter().any(|key| Message::open(&message.seal(key), theirs).is_ok())
    };
    desk.sent.iter().filter(|(_, keys, message)| verifies(keys, message)).count()
}

/// Our kubelet has not renewed the user's key yet; node 1 is started again and knows the new one alone, and
/// the operator's, as we do.
fn mid_rotation() -> (Desk, Keyring, Keyring) {
    let [old, new, own] = ["old", "new", "own"].map(|text| Key::from_secret(text.as_bytes()));
    let (ours, theirs) = (Keyring::new([old, own.clone()]), Keyring::new([new, own]));
    let mut desk = Desk::new(view(&[0, 1], &[0, 1], &[(group(1), Some((0, 1)))]));
    desk.feed_on(Input::Keys(ours.ids()));
    desk.hear(1, 5, Body::Hello { macs: vec![mac(1)], keys: ours.ids() });
    desk.lives(1, 5, &[], Duration::from_secs(2));
    desk.sent.clear();
    (desk, ours, theirs)
}

#[test]
fn a_speaker_that_is_started_again_while_a_key_is_replaced_is_answered_with_a_key_that_it_has() {
    let (mut desk, ours, theirs) = mid_rotation();
    let greeting =
        |desk: &mut Desk| desk.message(1, 6, Body::Hello { macs: vec![mac(1)], keys: theirs.ids() });
    let first = greeting(&mut desk);
    desk.feed_on(Input::Message(address(1), first));
    assert_eq!((desk.sent.len(), readable(&desk, &ours, &theirs)), (1, 1), "the answer to its greeting");
    let second = greeting(&mut desk);
    desk.feed_on(Input::Message(address(1), second));
    desk.sent.clear();
    desk.lives(1, 6, &[], Duration::from_secs(1));
    assert!(desk.sent.len() >= 10);
    assert_eq!(readable(&desk, &ours, &theirs), desk.sent.len(), "all that follows");
}

#[test]
fn a_speaker_that_is_started_again_and_says_nothing_is_greeted_with_a_key_that_it_has() {
    let (mut desk, ours, theirs) = mid_rotation();
    desk.pass(Duration::from_secs(3));
    assert!(readable(&desk, &ours, &theirs) >= 2);
}

#[test]
fn an_offer_of_who_has_lost_the_group_is_refused() {
    let mut desk = Desk::new(view(&[0, 1, 2], &[0, 1, 2], &[(group(1), Some((1, 5)))]));
    desk.hear(1, 11, Body::Update(vec![(stake(5), true)]));
    // Node 1 was cut off, node 2 has followed it.
    desk.hear(2, 12, Body::Update(vec![(stake(6), true)]));
    desk.sent.clear();
    desk.hear(1, 11, Body::Leave(vec![stake(5)]));
    assert!(desk.speaker.owned().is_empty());
    assert_eq!(desk.count(|body| *body == Body::Nack(vec![stake(5)])), 1);
    // A claim of who is silent stands in nobody's way: the owner knows better.
    desk.hear(1, 11, Body::Update(vec![(stake(7), true)]));
    desk.lives(1, 11, &[stake(7)], INTERVAL * 4);
    desk.hear(1, 11, Body::Leave(vec![stake(7)]));
    assert_eq!(desk.speaker.owned().get(&group(1)), Some(&8));
}

#[test]
fn an_epoch_that_no_group_reaches_is_ignored() {
    let mut desk = Desk::new(view(&[0, 1], &[0, 1], &[(group(1), Some((0, 3)))]));
    desk.lives(1, 5, &[], Duration::from_secs(2));
    assert_eq!(desk.speaker.owned().get(&group(1)), Some(&3));
    for epoch in [HIGHEST_EPOCH + 1, u64::MAX] {
        let stakes = vec![stake(epoch)];
        let bodies = [
            Body::Update(vec![(stake(epoch), true)]),
            Body::Claims { claims: 1, part: 0, parts: 1, stakes: stakes.clone() },
            Body::Intent(stakes.clone()),
            Body::Leave(stakes),
        ];
        for body in bodies {
            desk.hear(1, 5, body);
            assert_eq!(desk.speaker.owned().get(&group(1)), Some(&3));
        }
    }
    assert_eq!(desk.speaker.groups[&group(1)].highest, 3);
}

#[test]
fn a_hello_takes_no_hardware_address_away_that_the_api_lists() {
    let mut desk = Desk::new(view(&[0, 1, 2], &[0, 1, 2], &[]));
    let owner = |desk: &Desk, mac: [u8; 6]| desk.speaker.directory.macs.get(&mac).copied();
    let more: Vec<[u8; 6]> = (0..16).map(|n| [0, 0x16, 0x3e, 0, 0, n]).collect();
    for macs in [vec![mac(1)], more.clone(), vec![mac(2), mac(0)], vec![]] {
        desk.hear(1, 5, Body::Hello { macs, keys: Vec::new() });
        assert_eq!(owner(&desk, mac(1)), Some(id(1)));
        assert_eq!(owner(&desk, mac(2)), Some(id(2)), "of another node");
    }
    assert_eq!(owner(&desk, more[0]), None, "the last hello does not have it");
    desk.hear(1, 5, Body::Hello { macs: more.clone(), keys: Vec::new() });
    assert_eq!(owner(&desk, more[0]), Some(id(1)));
    // Nor does a view that comes later, or forgetting the peer.
    desk.feed_on(Input::View(view(&[0, 1], &[0, 1], &many(1, None))));
    assert_eq!((owner(&desk, mac(1)), owner(&desk, more[0])), (Some(id(1)), Some(id(1))));
    desk.feed_on(Input::View(view(&[0, 1], &[0], &[])));
    desk.pass(Duration::from_secs(20));
    assert_eq!((owner(&desk, mac(1)), owner(&desk, more[0])), (Some(id(1)), None));
}

/// A speaker of the release before: one session for all, and it echoes what it is sent as a session.
struct Earlier {
    session: u64,
    heard: u64,
    retired: Vec<u64>,
    sequence: u64,
    /// Messages that counted.
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
        let body = if self.heard == 0 { hello(1) } else { Body::Alive { claims: 0 } };
        self.say(self.heard, body)
    }

    fn hear(&mut self, message: &Message) -> Option<Message> {
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

    /// Talks with a speaker of this release for a while; the one of them that is to begins.
    fn talk(&mut self, desk: &mut Desk, time: Duration, begins: bool) {
        let end = desk.now + time;
        let mut begins = begins;
        while desk.now < end {
            if begins {
                let beacon = self.beacon();
                desk.feed_on(Input::Message(address(1), beacon));
            }
            begins = true;
            for _ in 0..10 {
                let sent = std::mem::take(&mut desk.sent);
                let answers: Vec<Message> = sent.iter().filter_map(|(_, _, m)| self.hear(m)).collect();
                for answer in answers {
                    desk.feed_on(Input::Message(address(1), answer));
                }
                desk.pass(INTERVAL / 10);
            }
        }
    }
}

#[test]
fn a_speaker_of_the_release_before_is_understood_and_understands_during_a_rolling_upgrade() {
    for begins in [true, false] {
        let groups = [(group(1), Some((0, 1)))];
        let mut desk = Desk::new(view(&[0, 1], &[0, 1], &groups));
        let mut earlier = Earlier::new(1_000);
        for round in 0..5 {
            earlier.talk(&mut desk, INTERVAL * 3, begins);
            assert_eq!(desk.speaker.peers_alive(), 1, "round {round}");
            let counted = earlier.counted;
            earlier.talk(&mut desk, Duration::from_secs(1), begins);
            assert!(earlier.counted >= counted + 10, "round {round}");
            assert_eq!(desk.speaker.counts().suspicions, round);
            assert_eq!(desk.speaker.owned().get(&group(1)), Some(&1));
            match round {
                // It is started again; the next time it is silent, and the next it is forgotten, too.
                0 => {
                    desk.pass(INTERVAL * 4);
                    earlier = Earlier::new(2_000);
                }
                1 => desk.pass(Duration::from_secs(2)),
                2 => {
                    desk.feed_on(Input::View(view(&[0], &[0], &groups)));
                    desk.pass(Duration::from_secs(20));
                    desk.feed_on(Input::View(view(&[0, 1], &[0, 1], &groups)));
                }
                // It forgets this speaker.
                _ => {
                    desk.pass(INTERVAL * 4);
                    (earlier.heard, earlier.retired) = (0, Vec::new());
                }
            }
        }
        assert_eq!(desk.speaker.name_of(id(1)), Some(&name(1)));
    }
}
