//! Addresses that nodes of the cluster have, and bounds on what many frames cause.

use super::super::conflict::MAX_BYSTANDER_ANSWERS;
use super::super::*;
use super::foreign_hosts::{FOREIGN_MAC, ProbeHarness, probes};
use super::world::{INTERVAL, World, address, group, mac, name};
use crate::layer2::beacon::{Body, Flags, Message};
use crate::layer2::responder::Observation;
use crate::layer2::view::{Candidate, Candidates, Group, NodeAddress, Tier};

impl ProbeHarness {
    /// Assigns this address to a node, or to none.
    fn hold(&mut self, address: GroupId, node: Option<usize>) -> Vec<Output> {
        let mut view = View::clone(&self.speaker.view);
        view.node_addresses.remove(&address);
        if let Some(node) = node {
            let holder =
                NodeAddress { node: name(node), interface: Some("eth0".into()), mac: Some(mac(node)) };
            view.node_addresses.insert(address, holder);
        }
        self.feed(Input::View(Arc::new(view)))
    }

    /// The speaker of node 1 is heard, and claims nothing.
    fn receive_from(&mut self, sequence: u64) -> Vec<Output> {
        let sender = NodeId::from_name(&name(1));
        let heard = Message {
            sender,
            session: 7,
            echo: self.speaker.peers[&sender].handshake.token(),
            sequence,
            flags: Flags::default(),
            body: Body::Alive { digest: 0 },
        };
        self.feed(Input::Message(address(1), heard))
    }

    /// Only node 0 of these nodes is a candidate for the group.
    fn only_candidate(nodes: usize) -> Self {
        let mut harness = Self::new(Detection::Enforce, nodes);
        let mut view = View::clone(&harness.speaker.view);
        let mut alone = Group::clone(&view.groups[&group(1)]);
        alone.candidates = Candidates::ranked(group(1), vec![Candidate::new(name(0), Tier::default())]);
        view.groups.insert(group(1), Arc::new(alone));
        harness.feed(Input::View(Arc::new(view)));
        harness
    }
}

#[test]
fn requirement_3_an_address_of_a_node_is_announced_by_no_other_node_in_any_detection_mode() {
    for detection in [Detection::Enforce, Detection::Warn, Detection::Off] {
        for holder in [0, 1] {
            let mut harness = ProbeHarness::new(detection, 2);
            harness.feed(Input::ProbeClear(group(1)));
            assert!(harness.announced && harness.speaker.is_announced(group(1)), "{detection:?}");
            harness.hold(group(1), Some(holder));
            assert!(!harness.announced && harness.speaker.owned().contains_key(&group(1)), "{detection:?}");
            harness.pass(Duration::from_secs(120));
            assert!(!harness.announced, "{detection:?}");
        }
    }
}

#[test]
fn requirement_3_an_address_that_a_node_has_no_longer_is_announced_once_nobody_answers_for_it() {
    let mut harness = ProbeHarness::owning(Detection::Enforce);
    harness.hold(group(1), Some(1));
    let outputs = harness.hold(group(1), None);
    assert_eq!(probes(&outputs), 1);
    assert!(!harness.speaker.is_announced(group(1)));
    harness.feed(Input::ProbeClear(group(1)));
    assert!(harness.announced);
}

#[test]
fn requirement_3_an_address_that_a_node_has_before_the_first_claim_is_owned_without_a_probe_and_withheld() {
    let mut harness = ProbeHarness::new(Detection::Enforce, 1);
    let outputs = harness.hold(group(1), Some(1));
    assert!(outputs.contains(&Output::CancelProbe(group(1))), "{outputs:?}");
    assert!(harness.speaker.owned().contains_key(&group(1)) && !harness.announced);
    // An answer that was in flight.
    assert_eq!(harness.feed(Input::ProbeAnswered(harness.seen(mac(1), false))), []);
    assert!(harness.speaker.conflicts().is_empty() && harness.speaker.owned().contains_key(&group(1)));
    harness.hold(group(1), None);
    harness.feed(Input::ProbeClear(group(1)));
    assert!(harness.announced);
}

#[test]
fn requirement_3_the_other_addresses_of_a_group_are_announced_while_a_node_has_one_of_them() {
    let mut harness = ProbeHarness::owning(Detection::Enforce);
    harness.hold(group(9), Some(1));
    assert_eq!(probes(&harness.add()), 0);
    assert!(harness.speaker.is_announced(group(1)) && !harness.speaker.is_announced(group(9)));
    assert_eq!(probes(&harness.hold(group(9), None)), 1);
    harness.feed(Input::ProbeClear(group(9)));
    assert!(harness.speaker.is_announced(group(1)) && harness.speaker.is_announced(group(9)));
}

#[test]
fn requirement_3_a_gratuitous_frame_of_the_node_that_has_the_address_does_not_end_ownership() {
    let mut harness = ProbeHarness::owning(Detection::Enforce);
    harness.hold(group(1), Some(1));
    assert_eq!(harness.feed(Input::Contested(harness.seen(mac(1), false))), []);
    assert!(harness.speaker.owned().contains_key(&group(1)));
}

#[test]
fn requirement_3_a_kernel_that_answers_for_an_address_without_having_it_is_reported_and_does_not_withhold_it()
{
    let mut harness = ProbeHarness::new(Detection::Enforce, 2);
    harness.receive_from(1);
    harness.receive_from(2);
    harness.feed(Input::ProbeAnswered(harness.seen(mac(1), false)));
    assert!(!harness.announced, "the address could be in another group in that speaker's view");
    for sequence in 3..=13 {
        harness.pass(INTERVAL);
        harness.receive_from(sequence);
    }
    harness.feed(Input::ProbeAnswered(harness.seen(mac(1), false)));
    assert!(harness.announced && harness.speaker.conflicts().is_empty());
    assert!(harness.speaker.answering_kernels().is_empty(), "it could be a claim that was not heard of yet");
    assert_eq!(probes(&harness.pass(Duration::from_secs(1))), 1);
    harness.feed(Input::ProbeAnswered(harness.seen(mac(1), false)));
    assert_eq!(harness.speaker.answering_kernels(), [name(1)].into());
    assert!(harness.announced);

    // strictARP is set.
    assert_eq!(probes(&harness.pass(Duration::from_secs(60))), 1);
    harness.feed(Input::ProbeClear(group(1)));
    assert!(harness.speaker.answering_kernels().is_empty() && harness.announced);
}

/// The other speaker has it in another group, since its view is newer than this one's.
#[test]
fn requirement_9_an_address_that_two_speakers_probe_for_different_groups_is_not_announced_by_both() {
    let mut harness = ProbeHarness::owning(Detection::Enforce);
    harness.receive_from(1);
    harness.receive_from(2);
    assert_eq!(probes(&harness.add()), 1);
    let second = harness.speaker.unverified().into_iter().next().unwrap();
    let observation =
        |harness: &ProbeHarness, probing| Observation { address: second, ..harness.seen(mac(1), probing) };
    assert_eq!(
        harness.feed(Input::ProbeAnswered(observation(&harness, true))),
        [Output::CancelProbe(second)]
    );
    assert_eq!(probes(&harness.pass(Duration::from_millis(50))), 1, "probed again");
    harness.feed(Input::ProbeAnswered(observation(&harness, false)));
    assert!(!harness.speaker.is_announced(second));
    harness.pass(Duration::from_millis(50));
    harness.feed(Input::ProbeClear(second));
    assert!(harness.speaker.is_announced(second));
}

#[test]
fn requirement_3_a_node_that_is_no_candidate_and_not_heard_delays_an_announcement_for_seconds_at_most() {
    let mut harness = ProbeHarness::only_candidate(2);
    for before in 0..MAX_BYSTANDER_ANSWERS {
        harness.feed(Input::ProbeAnswered(harness.seen(mac(1), false)));
        assert!(!harness.announced, "it may be handing the group over");
        let pause = BACKOFF * (1 << before);
        assert_eq!(probes(&harness.pass(pause + Duration::from_millis(10))), 1);
    }
    harness.feed(Input::ProbeAnswered(harness.seen(mac(1), false)));
    assert!(harness.announced);
    harness.pass(Duration::from_secs(1));
    harness.feed(Input::ProbeAnswered(harness.seen(mac(1), false)));
    assert_eq!(harness.speaker.answering_kernels(), [name(1)].into());
}

#[test]
fn a_resolved_conflict_is_remembered_for_an_hour() {
    let mut harness = ProbeHarness::new(Detection::Enforce, 1);
    let view = Arc::clone(&harness.speaker.view);
    harness.feed(Input::ProbeAnswered(harness.seen(FOREIGN_MAC, false)));
    harness.pass(Duration::from_secs(1));
    harness.feed(Input::ProbeClear(group(1)));
    let resolved_at = harness.now;
    for (age, known) in [(0, true), (3_599, true), (3_600, false)] {
        harness.now = resolved_at + Duration::from_secs(age);
        harness.feed(Input::View(Arc::clone(&view)));
        assert_eq!(harness.speaker.resolved_conflicts().contains(&group(1)), known, "{age}");
    }
}

/// The revision of the reports.
fn reports(harness: &ProbeHarness) -> u64 {
    harness.speaker.revisions().1
}

#[test]
fn requirement_6_a_flood_of_frames_with_invented_hardware_addresses_changes_a_report_once_in_ten_seconds() {
    let mut harness = ProbeHarness::owning(Detection::Enforce);
    let (before, mut defences) = (reports(&harness), 0);
    for frame in 0..30_000_u32 {
        let [_, _, a, b] = frame.to_be_bytes();
        let outputs = harness.feed(Input::Contested(harness.seen([2, 0, 0, 0x77, a, b], false)));
        defences += outputs.len();
        harness.pass(Duration::from_millis(1));
    }
    assert!(reports(&harness) - before <= 4, "{} in 30 s", reports(&harness) - before);
    assert!(harness.announced && harness.speaker.conflicts().len() == 1);
    // The responder limits them to one in ten seconds.
    assert!(defences <= 30_000);
}

#[test]
fn requirement_6_a_foreign_host_that_keeps_sending_changes_a_report_once_a_minute() {
    let mut harness = ProbeHarness::owning(Detection::Enforce);
    let before = reports(&harness);
    for _ in 0..1_200 {
        harness.feed(Input::Contested(harness.seen(FOREIGN_MAC, false)));
        harness.pass(Duration::from_millis(100));
    }
    assert!(reports(&harness) - before <= 4, "{} in two minutes", reports(&harness) - before);
}

#[test]
fn requirement_6_a_flood_of_frames_with_the_hardware_address_of_a_speaker_is_answered_at_the_rate_of_beacons()
{
    let mut harness = ProbeHarness::owning(Detection::Enforce);
    harness.receive_from(1);
    let requests = |outputs: &[Output]| {
        let request = |output: &&Output| match output {
            Output::Send { message, .. } => matches!(message.body, Body::Request),
            _ => false,
        };
        outputs.iter().filter(request).count()
    };
    let (mut sent, mut sequence) = (0, 1);
    for frame in 0..1_000 {
        if frame % 100 == 0 {
            sequence += 1;
            harness.receive_from(sequence);
        }
        sent += requests(&harness.feed(Input::Contested(harness.seen(mac(1), false))));
        sent += requests(&harness.pass(Duration::from_millis(1)));
    }
    let beacons = usize::try_from(Duration::from_secs(1).as_millis() / INTERVAL.as_millis()).unwrap();
    assert!(sent <= 2 * beacons + 1, "{sent} requests in a second");
}

#[test]
fn requirement_3_at_rest_nobody_announces_the_address_of_a_node_and_one_node_does_once_it_is_free_again() {
    for seed in 0..30 {
        let mut world = World::settled(seed, 4, 2);
        world.lag = Duration::from_millis(300);
        let holder = usize::try_from(world.random.below(4)).unwrap();
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
