//! Nodes that have an address of ours themselves, and what many frames cost.

use super::super::conflict::BYSTANDERS;
use super::super::*;
use super::strangers::{Bench, STRANGER, probes};
use super::world::{INTERVAL, World, address, group, mac, name};
use crate::beacon::{Body, Flags, Message};
use crate::responder::Sighting;
use crate::view::{Candidate, Candidates, Group, Holder, Tier};

impl Bench {
    /// A node has this address, or no node has it.
    fn hold(&mut self, address: GroupId, node: Option<usize>) -> Vec<Output> {
        let mut view = View::clone(&self.speaker.view);
        view.held.remove(&address);
        if let Some(node) = node {
            let holder = Holder { node: name(node), interface: Some("eth0".into()), mac: Some(mac(node)) };
            view.held.insert(address, holder);
        }
        self.feed(Input::View(Arc::new(view)))
    }

    /// The speaker of node 1 is heard, and claims nothing.
    fn hear(&mut self, sequence: u64) -> Vec<Output> {
        let sender = NodeId::of(&name(1));
        let heard = Message {
            sender,
            session: 7,
            echo: self.speaker.peers[&sender].handshake.token(),
            sequence,
            flags: Flags::default(),
            body: Body::Alive { claims: 0 },
        };
        self.feed(Input::Message(address(1), heard))
    }

    /// Only node 0 may own the group, of so many nodes.
    fn only_candidate(nodes: usize) -> Self {
        let mut bench = Self::new(Detection::Enforce, nodes);
        let mut view = View::clone(&bench.speaker.view);
        let mut alone = Group::clone(&view.groups[&group(1)]);
        alone.candidates = Candidates::ranked(group(1), vec![Candidate::new(name(0), Tier::default())]);
        view.groups.insert(group(1), Arc::new(alone));
        bench.feed(Input::View(Arc::new(view)));
        bench
    }
}

#[test]
fn requirement_3_an_address_of_a_node_is_announced_by_no_other_node_in_any_detection_mode() {
    for detection in [Detection::Enforce, Detection::Warn, Detection::Off] {
        for holder in [0, 1] {
            let mut bench = Bench::new(detection, 2);
            bench.feed(Input::Unanswered(group(1)));
            assert!(bench.announced && bench.speaker.is_announced(group(1)), "{detection:?}");
            bench.hold(group(1), Some(holder));
            assert!(!bench.announced && bench.speaker.owned().contains_key(&group(1)), "{detection:?}");
            bench.pass(Duration::from_secs(120));
            assert!(!bench.announced, "{detection:?}");
        }
    }
}

#[test]
fn requirement_3_an_address_that_a_node_has_no_longer_is_announced_once_nobody_answers_for_it() {
    let mut bench = Bench::owning(Detection::Enforce);
    bench.hold(group(1), Some(1));
    let outputs = bench.hold(group(1), None);
    assert_eq!(probes(&outputs), 1);
    assert!(!bench.speaker.is_announced(group(1)));
    bench.feed(Input::Unanswered(group(1)));
    assert!(bench.announced);
}

#[test]
fn requirement_3_an_address_that_a_node_has_before_the_first_claim_is_owned_without_a_probe_and_withheld() {
    let mut bench = Bench::new(Detection::Enforce, 1);
    let outputs = bench.hold(group(1), Some(1));
    assert!(outputs.contains(&Output::CancelProbe(group(1))), "{outputs:?}");
    assert!(bench.speaker.owned().contains_key(&group(1)) && !bench.announced);
    // An answer that was under way.
    assert_eq!(bench.feed(Input::Answered(bench.seen(mac(1), false))), []);
    assert!(bench.speaker.conflicts().is_empty() && bench.speaker.owned().contains_key(&group(1)));
    bench.hold(group(1), None);
    bench.feed(Input::Unanswered(group(1)));
    assert!(bench.announced);
}

#[test]
fn requirement_3_the_other_addresses_of_a_group_are_announced_while_a_node_has_one_of_them() {
    let mut bench = Bench::owning(Detection::Enforce);
    bench.hold(group(9), Some(1));
    assert_eq!(probes(&bench.add()), 0);
    assert!(bench.speaker.is_announced(group(1)) && !bench.speaker.is_announced(group(9)));
    assert_eq!(probes(&bench.hold(group(9), None)), 1);
    bench.feed(Input::Unanswered(group(9)));
    assert!(bench.speaker.is_announced(group(1)) && bench.speaker.is_announced(group(9)));
}

#[test]
fn requirement_3_a_gratuitous_frame_of_the_node_that_has_the_address_takes_no_group_away() {
    let mut bench = Bench::owning(Detection::Enforce);
    bench.hold(group(1), Some(1));
    assert_eq!(bench.feed(Input::Contested(bench.seen(mac(1), false))), []);
    assert!(bench.speaker.owned().contains_key(&group(1)));
}

#[test]
fn requirement_3_a_kernel_that_answers_for_an_address_on_none_of_its_links_is_reported_and_does_not_withhold_it()
 {
    let mut bench = Bench::new(Detection::Enforce, 2);
    bench.hear(1);
    bench.hear(2);
    bench.feed(Input::Answered(bench.seen(mac(1), false)));
    assert!(!bench.announced, "the address could be in another group in that speaker's view");
    for sequence in 3..=13 {
        bench.pass(INTERVAL);
        bench.hear(sequence);
    }
    bench.feed(Input::Answered(bench.seen(mac(1), false)));
    assert!(bench.announced && bench.speaker.conflicts().is_empty());
    assert!(bench.speaker.kernels().is_empty(), "it could be a claim that was not heard of yet");
    assert_eq!(probes(&bench.pass(Duration::from_secs(1))), 1);
    bench.feed(Input::Answered(bench.seen(mac(1), false)));
    assert_eq!(bench.speaker.kernels(), [name(1)].into());
    assert!(bench.announced);

    // strictARP is set.
    assert_eq!(probes(&bench.pass(Duration::from_secs(60))), 1);
    bench.feed(Input::Unanswered(group(1)));
    assert!(bench.speaker.kernels().is_empty() && bench.announced);
}

/// The other speaker has it in another group, that this node knows, as its view is ahead of this one's.
#[test]
fn requirement_9_an_address_that_two_speakers_ask_about_for_different_groups_is_not_announced_by_both() {
    let mut bench = Bench::owning(Detection::Enforce);
    bench.hear(1);
    bench.hear(2);
    assert_eq!(probes(&bench.add()), 1);
    let second = bench.speaker.added().into_iter().next().unwrap();
    let asks = |bench: &Bench, probing| Sighting { address: second, ..bench.seen(mac(1), probing) };
    assert_eq!(bench.feed(Input::Answered(asks(&bench, true))), [Output::CancelProbe(second)]);
    assert_eq!(probes(&bench.pass(Duration::from_millis(50))), 1, "asked again");
    bench.feed(Input::Answered(asks(&bench, false)));
    assert!(!bench.speaker.is_announced(second));
    bench.pass(Duration::from_millis(50));
    bench.feed(Input::Unanswered(second));
    assert!(bench.speaker.is_announced(second));
}

#[test]
fn requirement_3_a_node_that_is_no_candidate_and_cannot_be_heard_keeps_an_address_dark_for_seconds_at_most() {
    let mut bench = Bench::only_candidate(2);
    for before in 0..BYSTANDERS {
        bench.feed(Input::Answered(bench.seen(mac(1), false)));
        assert!(!bench.announced, "it may be handing the group over");
        let pause = REFUSAL * (1 << before);
        assert_eq!(probes(&bench.pass(pause + Duration::from_millis(10))), 1);
    }
    bench.feed(Input::Answered(bench.seen(mac(1), false)));
    assert!(bench.announced);
    bench.pass(Duration::from_secs(1));
    bench.feed(Input::Answered(bench.seen(mac(1), false)));
    assert_eq!(bench.speaker.kernels(), [name(1)].into());
}

#[test]
fn that_a_foreign_host_is_gone_is_known_for_an_hour_and_not_for_ever() {
    let mut bench = Bench::new(Detection::Enforce, 1);
    let view = Arc::clone(&bench.speaker.view);
    bench.feed(Input::Answered(bench.seen(STRANGER, false)));
    bench.pass(Duration::from_secs(1));
    bench.feed(Input::Unanswered(group(1)));
    let gone = bench.now;
    for (age, known) in [(0, true), (3_599, true), (3_600, false)] {
        bench.now = gone + Duration::from_secs(age);
        bench.feed(Input::View(Arc::clone(&view)));
        assert_eq!(bench.speaker.over().contains(&group(1)), known, "{age}");
    }
}

/// The number of changes of what is reported.
fn reports(bench: &Bench) -> u64 {
    bench.speaker.revisions().1
}

#[test]
fn requirement_6_a_flood_of_frames_with_invented_hardware_addresses_changes_a_report_once_in_ten_seconds() {
    let mut bench = Bench::owning(Detection::Enforce);
    let (before, mut defences) = (reports(&bench), 0);
    for frame in 0..30_000_u32 {
        let [_, _, a, b] = frame.to_be_bytes();
        let outputs = bench.feed(Input::Contested(bench.seen([2, 0, 0, 0x77, a, b], false)));
        defences += outputs.len();
        bench.pass(Duration::from_millis(1));
    }
    assert!(reports(&bench) - before <= 4, "{} in 30 s", reports(&bench) - before);
    assert!(bench.announced && bench.speaker.conflicts().len() == 1);
    // The responder sends one in ten seconds.
    assert!(defences <= 30_000);
}

#[test]
fn requirement_6_a_foreign_host_that_goes_on_talking_changes_a_report_once_a_minute() {
    let mut bench = Bench::owning(Detection::Enforce);
    let before = reports(&bench);
    for _ in 0..1_200 {
        bench.feed(Input::Contested(bench.seen(STRANGER, false)));
        bench.pass(Duration::from_millis(100));
    }
    assert!(reports(&bench) - before <= 4, "{} in two minutes", reports(&bench) - before);
}

#[test]
fn requirement_6_a_flood_of_frames_with_the_hardware_address_of_a_speaker_is_answered_at_the_rate_of_beacons()
{
    let mut bench = Bench::owning(Detection::Enforce);
    bench.hear(1);
    let requests = |outputs: &[Output]| {
        let request = |output: &&Output| matches!(output, Output::Send { message, .. } if matches!(message.body, Body::Request));
        outputs.iter().filter(request).count()
    };
    let (mut sent, mut sequence) = (0, 1);
    for frame in 0..1_000 {
        if frame % 100 == 0 {
            sequence += 1;
            bench.hear(sequence);
        }
        sent += requests(&bench.feed(Input::Contested(bench.seen(mac(1), false))));
        sent += requests(&bench.pass(Duration::from_millis(1)));
    }
    let beacons = usize::try_from(Duration::from_secs(1).as_millis() / INTERVAL.as_millis()).unwrap();
    assert!(sent <= 2 * beacons + 1, "{sent} requests in a second");
}

#[test]
fn requirement_3_at_rest_nobody_announces_the_address_of_a_node_and_one_node_does_once_it_is_free_again() {
    for seed in 0..30 {
        let mut world = World::settled(seed, 4, 2);
        world.lag = Duration::from_millis(300);
        let holder = usize::try_from(world.chance.below(4)).unwrap();
        world.hold(group(1), Some(holder));
        world.pass(Duration::from_secs(5));
        assert!(world.owners(group(1)).is_empty(), "seed {seed}: node{holder} has it");
        world.owner(group(2));
        let restarted = (holder + 1) % 4;
        world.kill(restarted);
        world.unready(restarted);
        world.pass(Duration::from_secs(5));
        world.start(restarted);
        world.pass(Duration::from_secs(10));
        assert!(world.owners(group(1)).is_empty(), "seed {seed}: node{holder} has it");
        world.hold(group(1), None);
        world.pass(Duration::from_secs(10));
        world.owner(group(1));
        world.owner(group(2));
    }
}
