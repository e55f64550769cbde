//! What others can cause is bounded, whatever they send.

use super::super::*;
mod epochs;
mod harness;
mod kernels;
mod regrouped;
mod stranded;

use super::super::probing::STALE_VIEW_TOLERANCE;
use super::fixture::{equal_candidates, many, single, view};
use super::foreign_hosts::probes;
use super::world::{INTERVAL, World, group, name};
use crate::cluster::link::Scope;
use crate::layer2::beacon::{Body, Claim, Message};
use crate::layer2::placement::Placement;
use crate::layer2::view::{Candidate, Group};
use harness::{PeerHarness, frame_of, higher};

const BALANCED: Placement = Placement::Balanced;

#[test]
fn a_frame_with_the_hardware_address_of_a_node_that_is_no_candidate_does_not_end_ownership() {
    let other = higher();
    let mut harness = PeerHarness::new(view(&[0, other], &[0], &[(group(1), Some((0, 7)))], BALANCED));
    harness.pass(Duration::from_secs(2));
    harness.feed(Input::ProbeClear(group(1)));
    assert!(harness.owns(group(1)));
    for _ in 0..1_000 {
        let outputs = harness.feed(Input::Contested(frame_of(other, group(1))));
        assert_eq!(probes(&outputs), 0);
    }
    assert!(harness.owns(group(1)));
}

#[test]
fn an_owner_yields_to_a_candidate_that_it_cannot_hear_only_if_the_link_shows_that_it_answers() {
    let other = higher();
    let mut harness = PeerHarness::new(view(&[0, other], &[0, other], &[(group(1), Some((0, 7)))], BALANCED));
    harness.live(&[(other, 0)], Duration::from_secs(2));
    harness.feed(Input::ProbeClear(group(1)));
    assert!(harness.owns(group(1)));
    harness.pass(Duration::from_secs(2));
    // A flood of frames that any host can forge: one probe.
    let probed: usize =
        (0..1_000).map(|_| probes(&harness.feed(Input::Contested(frame_of(other, group(1)))))).sum();
    assert_eq!(probed, 1);
    assert!(harness.owns(group(1)));
    assert!(harness.feed(Input::ProbeClear(group(1))).contains(&Output::Reannounce(group(1))));
    assert!(harness.owns(group(1)), "no other host answers");
    // The flood goes on: at most one probe per second.
    let mut probed = 0;
    for _ in 0..100 {
        probed += probes(&harness.feed(Input::Contested(frame_of(other, group(1)))));
        harness.feed(Input::ProbeClear(group(1)));
        harness.pass(Duration::from_millis(10));
    }
    assert!(probed <= 1, "{probed}");
    harness.pass(Duration::from_secs(1));
    // The same, and the node answers the probe.
    assert_eq!(probes(&harness.feed(Input::Contested(frame_of(other, group(1))))), 1);
    assert!(
        harness.feed(Input::ProbeAnswered(frame_of(other, group(1)))).contains(&Output::Withdraw(group(1)))
    );
}

#[test]
fn after_a_stall_the_number_of_concurrent_probes_is_limited_and_finally_all_groups_are_owned_again() {
    for suspended in [false, true] {
        let mut harness = PeerHarness::new(view(&[0, 1], &[0, 1], &many(3_000, Some((0, 1))), BALANCED));
        harness.live(&[(1, 0)], Duration::from_secs(2));
        harness.own_all();
        assert_eq!(harness.speaker.owned().len(), 3_000);
        let mut outputs = if suspended {
            harness.feed(Input::Suspended)
        } else {
            harness.now += Duration::from_secs(1);
            harness.feed(Input::Deadline)
        };
        assert!(harness.speaker.owned().is_empty(), "nothing is announced before it was probed");
        let last_withdrawn = outputs.iter().rposition(|output| matches!(output, Output::Withdraw(_)));
        let first_asked = outputs.iter().position(|output| matches!(output, Output::Probe(..)));
        assert!(last_withdrawn < first_asked);
        let mut rounds = 0;
        while harness.speaker.owned().len() < 3_000 {
            let probed: Vec<IpAddr> = outputs
                .iter()
                .filter_map(
                    |output| if let Output::Probe(address, ..) = output { Some(*address) } else { None },
                )
                .collect();
            assert!(probed.len() <= MAX_CONCURRENT_PROBES, "{}", probed.len());
            harness.now += Duration::from_millis(50);
            outputs =
                probed.into_iter().flat_map(|address| harness.feed(Input::ProbeClear(address))).collect();
            rounds += 1;
            assert!(rounds <= 10, "{} are owned", harness.speaker.owned().len());
        }
        assert!(!harness.speaker.is_fenced());
    }
}

#[test]
fn a_group_is_not_claimed_by_a_node_whose_probes_could_not_be_sent() {
    let mut harness = PeerHarness::new(view(&[0], &[0], &[(group(1), None)], BALANCED));
    let mut probed = probes(&harness.pass(Duration::from_secs(1)));
    for _ in 0..600 {
        harness.feed(Input::ProbeFailed(group(1)));
        probed += probes(&harness.pass(Duration::from_secs(1)));
        assert!(!harness.owns(group(1)));
    }
    assert!(probed <= 30, "ten minutes: {probed} probes");
    // At once when there is a link.
    assert_eq!(probes(&harness.feed(Input::Macs([super::world::mac(0)].into()))), 1);
    harness.feed(Input::ProbeClear(group(1)));
    assert!(harness.owns(group(1)));
}

#[test]
fn groups_owned_before_a_stall_are_given_up_if_they_cannot_be_probed() {
    let mut harness = PeerHarness::new(view(&[0, 1], &[0, 1], &[(group(1), Some((0, 1)))], BALANCED));
    harness.live(&[(1, 0)], Duration::from_secs(2));
    harness.own_all();
    harness.feed(Input::Suspended);
    harness.feed(Input::ProbeFailed(group(1)));
    assert!(!harness.owns(group(1)) && !harness.speaker.is_fenced());
}

/// A firewall, or a changed address of the node: its beacons are lost for good.
#[test]
fn an_owner_whose_beacons_are_lost_is_probed_less_and_less_often() {
    let mut world = World::settled(3, 5, 40);
    let owner = world.owner(group(1));
    let groups = world.groups().into_iter().filter(|id| world.owner(*id) == owner).count();
    for other in 0..5 {
        world.deaf.insert((owner, other));
    }
    world.pass(Duration::from_secs(120));
    let before = world.probes_begun;
    world.pass(Duration::from_secs(60));
    let begun = world.probes_begun - before;
    // Three watchers, each once in half a minute.
    assert!(begun <= groups * 3 * 3, "{begun} for {groups} groups");
    assert_eq!(world.owner(group(1)), owner);
    // The API shows that it is gone: that is not delayed.
    let killed = world.now;
    world.kill(owner);
    world.unready(owner);
    world.pass(Duration::from_secs(5));
    assert!(world.longest_gap(group(1), killed) < Duration::from_secs(1));
}

#[test]
fn an_owner_that_is_heard_again_is_taken_over_as_fast_as_ever() {
    let mut world = World::settled(3, 3, 1);
    let owner = world.owner(group(1));
    for other in 0..3 {
        world.deaf.insert((owner, other));
    }
    world.pass(Duration::from_secs(60));
    world.deaf.clear();
    world.pass(Duration::from_secs(2));
    let killed = world.now;
    world.kill(owner);
    world.pass(Duration::from_secs(5));
    assert!(world.longest_gap(group(1), killed) < Duration::from_millis(500));
}

/// The owner of thousands of groups fails. Evaluations are counted instead of measuring time.
#[test]
fn requirement_7_taking_thousands_of_groups_needs_a_few_evaluations_each_and_no_call_is_long() {
    for count in [1_000_u32, 8_000] {
        let groups = many(count, Some((1, 5)));
        let mut harness = PeerHarness::new(view(&[0, 1, 2], &[0, 1, 2], &groups, BALANCED));
        let claims: Vec<Claim> = groups.iter().map(|(group, _)| Claim { group: *group, epoch: 5 }).collect();
        for part in claims.chunks(40) {
            harness.receive_from(1, Body::Update(part.iter().map(|claim| (*claim, true)).collect()));
        }
        let digest = crate::layer2::beacon::digest(claims.iter().copied());
        harness.live(&[(1, digest), (2, 0)], Duration::from_secs(2));
        assert!(harness.speaker.owned().is_empty());
        let before = harness.speaker.decisions;
        let killed = harness.now;
        let mut probed: Vec<(Instant, IpAddr)> = Vec::new();
        while harness.speaker.owned().len() < count as usize {
            assert!(
                harness.now < killed + Duration::from_secs(3),
                "{} are owned",
                harness.speaker.owned().len()
            );
            let mut outputs = harness.receive_from(2, Body::Alive { digest: 0 });
            for _ in 0..10 {
                harness.now += Duration::from_millis(10);
                let (due, later) = probed.into_iter().partition(|(at, _)| *at <= harness.now);
                probed = later;
                let due: Vec<(Instant, IpAddr)> = due;
                for (_, address) in due {
                    outputs.extend(harness.feed(Input::ProbeClear(address)));
                }
                let decided = harness.speaker.decisions;
                harness.speaker.handle(harness.now, Input::Deadline);
                assert!(harness.speaker.decisions - decided <= BATCH as u64);
                outputs.extend(harness.feed(Input::Deadline));
                for output in outputs.drain(..) {
                    if let Output::Probe(address, _, plan) = output {
                        probed.push((harness.now + plan.duration(), address));
                    }
                }
                assert!(probed.len() <= MAX_CONCURRENT_PROBES);
            }
        }
        let each = (harness.speaker.decisions - before) / u64::from(count);
        assert!(each <= 12, "{count} groups: {each} decisions each");
        assert_eq!(harness.speaker.counts().stalls, 0);
    }
}

#[test]
fn new_inputs_are_handled_before_thousands_of_groups_are_evaluated() {
    let mut speaker = PeerHarness::new(view(&[0], &[0], &[], BALANCED)).speaker;
    let now = Instant::now() + Duration::from_secs(2);
    speaker.handle(now, Input::Deadline);
    let groups = many(5_000, Some((1, 5)));
    let before = speaker.decisions;
    speaker.handle(now, Input::View(Arc::new(view(&[0, 1], &[0, 1], &groups, BALANCED))));
    assert_eq!(speaker.decisions - before, BATCH as u64);
    assert!(speaker.next_deadline().unwrap() <= now, "and it goes on at once");
    // A batch at a time, whatever else arrives, until nothing is left.
    let mut turns = 0;
    while speaker.next_deadline().is_some_and(|at| at <= now) {
        speaker.handle(now, Input::ProbeClear(group(200)));
        turns += 1;
    }
    assert!((19..40).contains(&turns), "{turns}");
}

fn offers(outputs: &[Output]) -> usize {
    let offered = |output: &Output| match output {
        Output::Send { message: Message { body: Body::Leave(claims), .. }, .. } => claims.len(),
        _ => 0,
    };
    outputs.iter().map(offered).sum()
}

/// A successor is selected among the peers that are heard, not among all candidates.
#[test]
fn offers_of_a_handover_among_thousands_of_nodes_become_less_frequent() {
    let nodes: Vec<usize> = (0..200).collect();
    let mut harness = PeerHarness::new(view(&nodes, &nodes, &many(100, Some((0, 1))), BALANCED));
    harness.live(&[(1, 0), (2, 0)], Duration::from_secs(2));
    harness.own_all();
    let mut sent = offers(&harness.feed(Input::Shutdown));
    assert_eq!(sent, 100, "at once");
    sent += offers(&harness.live(&[(1, 0), (2, 0)], Duration::from_secs(2)));
    assert!((100 * 20..=100 * 24).contains(&sent), "{sent}");
}

/// The views of two speakers differ for a while on the placement of a group.
#[test]
fn a_group_is_not_handed_back_to_its_previous_owner_at_once() {
    let id = group(1);
    let (a, b) = (0, 1);
    for lag in [Duration::from_millis(300), Duration::from_secs(3), Duration::from_secs(20)] {
        let mut world = World::placing(1, 2, 1, Placement::Hash);
        world.start(a);
        world.start(b);
        world.pass(Duration::from_secs(8));
        let (first, second) = if world.owner(id) == a { (a, b) } else { (b, a) };
        // One of them learns late that the other is preferred.
        world.late.insert(second, lag);
        let (history, begun) = (world.history.len(), world.now);
        world.prefer(second);
        world.pass(lag + Duration::from_secs(70));
        assert_eq!(world.owner(id), second, "{lag:?}");
        let moves = world.history[history..].iter().filter(|(.., yes)| *yes).count();
        assert!(moves <= 9, "{lag:?}: {moves} moves");
        assert_eq!(world.longest_gap(id, begun), Duration::ZERO);
        let _ = first;
    }
}

/// Node 0 and node 1, of which `last` owned the group last and `remote` has no link on its subnet.
fn on_two_subnets(last: usize, remote: usize) -> View {
    let mut view = view(&[0, 1], &[0, 1], &[(group(1), Some((last, 9)))], BALANCED);
    let mut candidates = equal_candidates(0..2);
    candidates[remote].tier.remote = true;
    view.groups.insert(group(1), Arc::new(single(group(1), candidates, Some((last, 9)))));
    view.placed = BALANCED.place(&view.groups);
    view
}

/// The first group, with the address of the second one as well.
fn two_addresses(candidates: Vec<Candidate>, last: (usize, u64)) -> Group {
    let addresses = [(group(1), Scope::All), (group(2), Scope::All)].into();
    Group { addresses, ..single(group(1), candidates, Some(last)) }
}

/// In the late view of a successor, an address may still be in a group that it has left.
#[test]
fn a_group_whose_addresses_have_just_changed_is_handed_over_a_second_later_unless_it_must_go() {
    for must_go in [false, true] {
        let mut before = on_two_subnets(0, 1);
        before.groups.insert(group(1), Arc::new(two_addresses(equal_candidates(0..2), (0, 9))));
        let mut harness = PeerHarness::new(before);
        harness.live(&[(1, 0)], Duration::from_millis(1_500));
        harness.own_all();
        // It loses one address, and node 1 is the only one on the subnet of the other, or the only candidate.
        let mut after = on_two_subnets(0, 0);
        if must_go {
            let only = single(group(1), equal_candidates(1..2), Some((0, 9)));
            after.groups.insert(group(1), Arc::new(only));
        }
        let mut soon = offers(&harness.feed(Input::View(Arc::new(after))));
        soon += offers(&harness.live(&[(1, 0)], INTERVAL * 9));
        assert_eq!(soon > 0, must_go, "{soon} offers within a second");
        assert!(offers(&harness.live(&[(1, 0)], INTERVAL * 3)) > 0, "it is handed over after all");
    }
}

#[test]
fn requirement_2_an_owner_that_must_hand_over_waits_a_second_at_most_and_only_for_probes_that_can_be_sent() {
    for unprobeable in [false, true] {
        let nodes = [0, 1];
        let mut before = view(&nodes, &nodes, &[], BALANCED);
        before.groups.insert(group(1), Arc::new(single(group(1), equal_candidates(0..2), Some((0, 1)))));
        let mut harness = PeerHarness::new(before);
        harness.live(&[(1, 0)], Duration::from_secs(2));
        harness.own_all();
        // A second address is added for which this node has no link: it is no candidate any more.
        let mut after = view(&nodes, &nodes, &[], BALANCED);
        after.groups.insert(group(1), Arc::new(two_addresses(equal_candidates(1..2), (0, 1))));
        let mut soon = offers(&harness.feed(Input::View(Arc::new(after))));
        if unprobeable {
            soon += offers(&harness.feed(Input::ProbeFailed(group(2))));
        }
        soon += offers(&harness.live(&[(1, 0)], INTERVAL * 9));
        assert_eq!(soon > 0, unprobeable, "{soon} offers within a second");
        assert!(offers(&harness.live(&[(1, 0)], INTERVAL * 3)) > 0, "it is handed over after all");
    }
}

#[test]
fn requirement_4_a_group_to_hand_over_is_answered_for_until_it_is_taken_also_if_its_lowest_address_changes() {
    let nodes = [0, 1];
    let mut harness = PeerHarness::new(view(&nodes, &nodes, &[(group(2), Some((0, 1)))], BALANCED));
    harness.live(&[(1, 0)], Duration::from_secs(2));
    harness.own_all();
    // A lower address is added, and node 0 is no candidate any more.
    let mut after = view(&nodes, &nodes, &[], BALANCED);
    after.groups.insert(group(1), Arc::new(two_addresses(equal_candidates(1..2), (0, 1))));
    let mut sent = offers(&harness.feed(Input::View(Arc::new(after))));
    sent += offers(&harness.live(&[(1, 0)], Duration::from_secs(2)));
    assert!(harness.owns(group(1)), "no other node has taken it yet");
    assert!(sent > 0, "it is handed over");
}

#[test]
fn requirement_2_the_last_owner_goes_first_only_if_no_other_candidate_alone_is_on_the_subnet() {
    for (last, remote, expected) in [(0, 0, 0), (0, 1, 1), (1, 1, 1), (1, 0, 0)] {
        let mut harness = PeerHarness::new(on_two_subnets(last, remote));
        let probed = probes(&harness.live(&[(1, 0)], Duration::from_millis(1_500)));
        assert_eq!(probed, expected, "last node{last}, remote node{remote}");
    }
    // No candidate is on it: the last owner as before.
    let mut view = on_two_subnets(0, 0);
    let mut candidates = equal_candidates(0..2);
    for candidate in &mut candidates {
        candidate.tier.remote = true;
    }
    view.groups.insert(group(1), Arc::new(single(group(1), candidates, Some((0, 9)))));
    view.placed = [(group(1), name(1))].into();
    assert_eq!(probes(&PeerHarness::new(view).live(&[(1, 0)], Duration::from_millis(1_500))), 1);
}

#[test]
fn a_starting_speaker_waits_for_every_ready_speaker_in_whatever_order_they_answer() {
    let nodes: Vec<usize> = (0..=20).collect();
    for first in 1..=20 {
        let mut harness = PeerHarness::new(view(&nodes, &nodes, &[], BALANCED));
        for node in (first..=20).chain(1..first) {
            assert!(!harness.speaker.is_settled());
            harness.receive_from(node, Body::Alive { digest: 0 });
        }
        assert!(harness.speaker.is_settled());
    }
    // Another speaker becomes ready meanwhile, and never answers.
    let mut harness = PeerHarness::new(view(&nodes, &nodes[..20], &[], BALANCED));
    for node in 2..20 {
        harness.receive_from(node, Body::Alive { digest: 0 });
    }
    harness.feed(Input::View(Arc::new(view(&nodes, &nodes, &[], BALANCED))));
    harness.receive_from(1, Body::Alive { digest: 0 });
    assert!(!harness.speaker.is_settled());
    harness.pass(SETTLE_TIME);
    assert!(harness.speaker.is_settled());
}

/// One of the two views is late: the address is in another group of the other speaker.
#[test]
fn requirement_9_an_address_is_yielded_to_a_speaker_that_answers_and_claims_an_unknown_group() {
    let unknown = Claim { group: group(9), epoch: 1 };
    let digest = crate::layer2::beacon::digest([unknown]);
    let groups = [(group(1), Some((0, 1))), (unknown.group, None)];
    let left = || {
        let mut harness = PeerHarness::new(view(&[0, 1], &[0], &groups[..1], BALANCED));
        harness.receive_from(1, Body::Alive { digest: 0 });
        harness.receive_from(1, Body::Update(vec![(unknown, true)]));
        harness.feed(Input::ProbeAnswered(frame_of(1, group(1))));
        assert!(!harness.owns(group(1)));
        harness
    };
    // It is probed again after an interval; finally only a kernel can be the cause.
    let mut harness = left();
    let begun = harness.now;
    while !harness.owns(group(1)) {
        assert!(harness.now < begun + STALE_VIEW_TOLERANCE + INTERVAL * 3);
        assert!(probes(&harness.live(&[(1, digest)], INTERVAL * 2)) >= 1);
        harness.feed(Input::ProbeAnswered(frame_of(1, group(1))));
    }
    assert!(harness.now >= begun + STALE_VIEW_TOLERANCE);
    // The late view of this node is updated.
    let mut harness = left();
    harness.feed(Input::View(Arc::new(view(&[0, 1], &[0], &groups, BALANCED))));
    harness.live(&[(1, digest)], BACKOFF);
    harness.feed(Input::ProbeAnswered(frame_of(1, group(1))));
    assert!(harness.owns(group(1)));
}

#[test]
fn in_hash_placement_the_first_claim_is_that_of_the_node_that_the_hash_selects() {
    for number in 1..40 {
        let nodes = [0, 1, 2];
        let first = view(&nodes, &nodes, &[(group(number), None)], Placement::Hash);
        let named = first.placed[&group(number)].clone();
        let previous = (0..3).find(|node| name(*node) != named).unwrap();
        let last = Some((previous, 9));
        let mut harness = PeerHarness::new(view(&nodes, &nodes, &[(group(number), last)], Placement::Hash));
        let probed = probes(&harness.live(&[(1, 0), (2, 0)], Duration::from_millis(1_500)));
        assert_eq!(probed, usize::from(named == name(0)), "{number}: {named}, before node{previous}");
    }
}
