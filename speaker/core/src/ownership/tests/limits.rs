//! What others can make a speaker do is bounded, whatever they send and however much there is.

use super::super::*;
mod desk;
mod kernels;
mod regrouped;
mod stranded;

use super::super::probing::LEFT_TO_OTHERS;
use super::fixture::{equal_candidates, many, single, view};
use super::strangers::probes;
use super::world::{INTERVAL, World, group, name};
use crate::beacon::{Body, Message};
use crate::link::Scope;
use crate::placement::Placement;
use crate::view::{Candidate, Group};
use desk::{Desk, frame_of, higher};

const BALANCED: Placement = Placement::Balanced;

#[test]
fn a_frame_with_the_hardware_address_of_a_node_that_is_no_candidate_takes_nothing_from_an_owner() {
    let other = higher();
    let mut desk = Desk::new(view(&[0, other], &[0], &[(group(1), Some((0, 7)))], BALANCED));
    desk.pass(Duration::from_secs(2));
    desk.feed(Input::Unanswered(group(1)));
    assert!(desk.owns(group(1)));
    for _ in 0..1_000 {
        let outputs = desk.feed(Input::Contested(frame_of(other, group(1))));
        assert_eq!(probes(&outputs), 0);
    }
    assert!(desk.owns(group(1)));
}

#[test]
fn an_owner_yields_to_a_candidate_that_it_cannot_hear_only_if_the_link_shows_that_it_answers() {
    let other = higher();
    let mut desk = Desk::new(view(&[0, other], &[0, other], &[(group(1), Some((0, 7)))], BALANCED));
    desk.live(&[(other, 0)], Duration::from_secs(2));
    desk.feed(Input::Unanswered(group(1)));
    assert!(desk.owns(group(1)));
    desk.pass(Duration::from_secs(2));
    // A flood of frames that anybody can have made: one question.
    let asked: usize =
        (0..1_000).map(|_| probes(&desk.feed(Input::Contested(frame_of(other, group(1)))))).sum();
    assert_eq!(asked, 1);
    assert!(desk.owns(group(1)));
    assert!(desk.feed(Input::Unanswered(group(1))).contains(&Output::Remind(group(1))));
    assert!(desk.owns(group(1)), "nobody else answers");
    // The flood goes on: no more than one question a second.
    let mut asked = 0;
    for _ in 0..100 {
        asked += probes(&desk.feed(Input::Contested(frame_of(other, group(1)))));
        desk.feed(Input::Unanswered(group(1)));
        desk.pass(Duration::from_millis(10));
    }
    assert!(asked <= 1, "{asked}");
    desk.pass(Duration::from_secs(1));
    // The same, and it does answer.
    assert_eq!(probes(&desk.feed(Input::Contested(frame_of(other, group(1))))), 1);
    assert!(desk.feed(Input::Answered(frame_of(other, group(1)))).contains(&Output::Withdraw(group(1))));
}

#[test]
fn an_epoch_that_no_history_can_have_led_to_does_not_end_takeovers() {
    let owner = higher();
    for absurd in [u64::MAX, u64::MAX - 1, HIGHEST_EPOCH + 1] {
        let last = Some((owner, absurd));
        let mut desk = Desk::new(view(&[0, owner], &[0, owner], &[(group(1), last)], BALANCED));
        let stake = Stake { group: group(1), epoch: absurd };
        desk.hear(owner, Body::Update(vec![(stake, true)]));
        desk.live(&[(owner, crate::beacon::print([stake]))], Duration::from_secs(2));
        assert!(!desk.owns(group(1)));
        // Power off.
        desk.pass(Duration::from_secs(1));
        desk.feed(Input::Unanswered(group(1)));
        assert!(desk.owns(group(1)), "{absurd}");
    }
}

#[test]
fn the_highest_epoch_is_the_same_for_every_kind_of_message_and_a_higher_one_counts_for_0() {
    let other = higher();
    let asking = || {
        let mut desk = Desk::new(view(&[0, other], &[0], &[(group(1), Some((0, 1)))], BALANCED));
        desk.hear(other, Body::Alive { claims: 0 });
        desk
    };
    let stakes = |epoch| vec![Stake { group: group(1), epoch }];
    for (epoch, believed) in [(HIGHEST_EPOCH, true), (HIGHEST_EPOCH + 1, false), (u64::MAX, false)] {
        let claims = crate::beacon::print(stakes(epoch));
        let bodies = [
            Body::Update(vec![(stakes(epoch)[0], true)]),
            Body::Claims { claims, part: 0, parts: 1, stakes: stakes(epoch) },
        ];
        for body in bodies {
            let mut desk = asking();
            desk.feed(Input::Unanswered(group(1)));
            assert!(desk.owns(group(1)));
            desk.hear(other, body.clone());
            assert_eq!(desk.owns(group(1)), !believed, "{epoch} {body:?}");
            let outputs = desk.hear(other, Body::Alive { claims });
            let asks = |output: &Output| match output {
                Output::Send { message, .. } => message.body == Body::Request,
                _ => false,
            };
            assert!(!outputs.iter().any(asks), "what is not believed adds up all the same");
        }
        let mut desk = asking();
        desk.hear(other, Body::Intent(stakes(epoch)));
        desk.feed(Input::Unanswered(group(1)));
        assert_eq!(desk.owns(group(1)), !believed, "{epoch}");
        let mut desk = asking();
        desk.hear(other, Body::Leave(stakes(epoch)));
        assert_eq!(desk.speaker.owned()[&group(1)], if believed { HIGHEST_EPOCH } else { 2 });
    }
}

#[test]
fn an_epoch_of_the_api_that_is_believed_can_be_counted_on_from() {
    let owner = higher();
    let last = Some((owner, HIGHEST_REMEMBERED));
    let mut desk = Desk::new(view(&[0, owner], &[0], &[(group(1), last)], BALANCED));
    desk.pass(Duration::from_secs(2));
    desk.feed(Input::Unanswered(group(1)));
    let epoch = desk.speaker.owned()[&group(1)];
    assert_eq!(epoch, HIGHEST_REMEMBERED + 1);
    assert_eq!(believed(epoch), epoch);
}

#[test]
fn after_a_pause_no_more_groups_are_asked_about_at_once_than_ever_and_in_the_end_all_are_owned_again() {
    for suspended in [false, true] {
        let mut desk = Desk::new(view(&[0, 1], &[0, 1], &many(3_000, Some((0, 1))), BALANCED));
        desk.live(&[(1, 0)], Duration::from_secs(2));
        desk.own_all();
        assert_eq!(desk.speaker.owned().len(), 3_000);
        let mut outputs = if suspended {
            desk.feed(Input::Suspended)
        } else {
            desk.now += Duration::from_secs(1);
            desk.feed(Input::Deadline)
        };
        assert!(desk.speaker.owned().is_empty(), "nothing is answered for before the link has been asked");
        let last_withdrawn = outputs.iter().rposition(|output| matches!(output, Output::Withdraw(_)));
        let first_asked = outputs.iter().position(|output| matches!(output, Output::Probe(..)));
        assert!(last_withdrawn < first_asked);
        let mut rounds = 0;
        while desk.speaker.owned().len() < 3_000 {
            let asked: Vec<IpAddr> = outputs
                .iter()
                .filter_map(
                    |output| if let Output::Probe(address, ..) = output { Some(*address) } else { None },
                )
                .collect();
            assert!(asked.len() <= ASKED_AT_ONCE, "{}", asked.len());
            desk.now += Duration::from_millis(50);
            outputs = asked.into_iter().flat_map(|address| desk.feed(Input::Unanswered(address))).collect();
            rounds += 1;
            assert!(rounds <= 10, "{} are owned", desk.speaker.owned().len());
        }
        assert!(!desk.speaker.is_fenced());
    }
}

#[test]
fn a_group_is_claimed_by_no_node_whose_links_did_not_take_the_questions() {
    let mut desk = Desk::new(view(&[0], &[0], &[(group(1), None)], BALANCED));
    let mut asked = probes(&desk.pass(Duration::from_secs(1)));
    for _ in 0..600 {
        desk.feed(Input::Unasked(group(1)));
        asked += probes(&desk.pass(Duration::from_secs(1)));
        assert!(!desk.owns(group(1)));
    }
    assert!(asked <= 30, "ten minutes: asked {asked} times");
    // Once there is a link, at once.
    assert_eq!(probes(&desk.feed(Input::Macs([super::world::mac(0)].into()))), 1);
    desk.feed(Input::Unanswered(group(1)));
    assert!(desk.owns(group(1)));
}

#[test]
fn what_was_owned_before_a_pause_is_left_to_others_if_the_link_cannot_be_asked() {
    let mut desk = Desk::new(view(&[0, 1], &[0, 1], &[(group(1), Some((0, 1)))], BALANCED));
    desk.live(&[(1, 0)], Duration::from_secs(2));
    desk.own_all();
    desk.feed(Input::Suspended);
    desk.feed(Input::Unasked(group(1)));
    assert!(!desk.owns(group(1)) && !desk.speaker.is_fenced());
}

/// A firewall, or an address of the node that has changed: its beacons are lost for good.
#[test]
fn an_owner_whose_beacons_are_lost_is_asked_about_less_and_less() {
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
    // Three watchers, each every half a minute.
    assert!(begun <= groups * 3 * 3, "{begun} for {groups} groups");
    assert_eq!(world.owner(group(1)), owner);
    // The API learns that it is gone: that does not wait.
    let killed = world.now;
    world.kill(owner);
    world.unready(owner);
    world.pass(Duration::from_secs(5));
    assert!(world.longest_gap(group(1), killed) < Duration::from_secs(1));
}

#[test]
fn an_owner_that_is_heard_again_is_followed_as_fast_as_ever() {
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

/// The owner of thousands of groups dies. Operations are counted, since time would be that of the machine.
#[test]
fn requirement_7_taking_thousands_of_groups_costs_a_few_decisions_each_and_no_turn_is_long() {
    for count in [1_000_u32, 8_000] {
        let groups = many(count, Some((1, 5)));
        let mut desk = Desk::new(view(&[0, 1, 2], &[0, 1, 2], &groups, BALANCED));
        let stakes: Vec<Stake> = groups.iter().map(|(group, _)| Stake { group: *group, epoch: 5 }).collect();
        for part in stakes.chunks(40) {
            desk.hear(1, Body::Update(part.iter().map(|stake| (*stake, true)).collect()));
        }
        let print = crate::beacon::print(stakes.iter().copied());
        desk.live(&[(1, print), (2, 0)], Duration::from_secs(2));
        assert!(desk.speaker.owned().is_empty());
        let before = desk.speaker.decisions;
        let killed = desk.now;
        let mut asked: Vec<(Instant, IpAddr)> = Vec::new();
        while desk.speaker.owned().len() < count as usize {
            assert!(desk.now < killed + Duration::from_secs(3), "{} are owned", desk.speaker.owned().len());
            let mut outputs = desk.hear(2, Body::Alive { claims: 0 });
            for _ in 0..10 {
                desk.now += Duration::from_millis(10);
                let (due, later) = asked.into_iter().partition(|(at, _)| *at <= desk.now);
                asked = later;
                let due: Vec<(Instant, IpAddr)> = due;
                for (_, address) in due {
                    outputs.extend(desk.feed(Input::Unanswered(address)));
                }
                let decided = desk.speaker.decisions;
                desk.speaker.handle(desk.now, Input::Deadline);
                assert!(desk.speaker.decisions - decided <= SLICE as u64);
                outputs.extend(desk.feed(Input::Deadline));
                for output in outputs.drain(..) {
                    if let Output::Probe(address, _, plan) = output {
                        asked.push((desk.now + plan.duration(), address));
                    }
                }
                assert!(asked.len() <= ASKED_AT_ONCE);
            }
        }
        let each = (desk.speaker.decisions - before) / u64::from(count);
        assert!(each <= 12, "{count} groups: {each} decisions each");
        assert_eq!(desk.speaker.counts().stalls, 0);
    }
}

#[test]
fn what_has_come_meanwhile_is_handled_before_thousands_of_groups_are_decided_about() {
    let mut speaker = Desk::new(view(&[0], &[0], &[], BALANCED)).speaker;
    let now = Instant::now() + Duration::from_secs(2);
    speaker.handle(now, Input::Deadline);
    let groups = many(5_000, Some((1, 5)));
    let before = speaker.decisions;
    speaker.handle(now, Input::View(Arc::new(view(&[0, 1], &[0, 1], &groups, BALANCED))));
    assert_eq!(speaker.decisions - before, SLICE as u64);
    assert!(speaker.next_deadline().unwrap() <= now, "and it goes on at once");
    // A slice at a time, whatever else comes, until nothing is left.
    let mut turns = 0;
    while speaker.next_deadline().is_some_and(|at| at <= now) {
        speaker.handle(now, Input::Unanswered(group(200)));
        turns += 1;
    }
    assert!((19..40).contains(&turns), "{turns}");
}

fn offers(outputs: &[Output]) -> usize {
    let offered = |output: &Output| match output {
        Output::Send { message: Message { body: Body::Leave(stakes), .. }, .. } => stakes.len(),
        _ => 0,
    };
    outputs.iter().map(offered).sum()
}

/// A successor is looked for among those that are heard, not among all candidates.
#[test]
fn a_handover_among_thousands_of_nodes_offers_less_and_less_often() {
    let nodes: Vec<usize> = (0..200).collect();
    let mut desk = Desk::new(view(&nodes, &nodes, &many(100, Some((0, 1))), BALANCED));
    desk.live(&[(1, 0), (2, 0)], Duration::from_secs(2));
    desk.own_all();
    let mut sent = offers(&desk.feed(Input::Shutdown));
    assert_eq!(sent, 100, "at once");
    sent += offers(&desk.live(&[(1, 0), (2, 0)], Duration::from_secs(2)));
    assert!((100 * 20..=100 * 24).contains(&sent), "{sent}");
}

/// Two speakers whose views differ for a while on with whom a group is placed.
#[test]
fn a_group_is_not_handed_back_at_once_to_whom_it_came_from() {
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

/// The first group, with the address of the second one too.
fn two_addresses(candidates: Vec<Candidate>, last: (usize, u64)) -> Group {
    let addresses = [(group(1), Scope::All), (group(2), Scope::All)].into();
    Group { addresses, ..single(group(1), candidates, Some(last)) }
}

/// In the late view of a successor an address may be in the group still that is in another one by now.
#[test]
fn a_group_whose_addresses_have_just_changed_is_handed_over_a_second_later_unless_it_must_go() {
    for must_go in [false, true] {
        let mut before = on_two_subnets(0, 1);
        before.groups.insert(group(1), Arc::new(two_addresses(equal_candidates(0..2), (0, 9))));
        let mut desk = Desk::new(before);
        desk.live(&[(1, 0)], Duration::from_millis(1_500));
        desk.own_all();
        // It loses one address, and node 1 alone is on the subnet of the other, or a candidate at all.
        let mut after = on_two_subnets(0, 0);
        if must_go {
            let only = single(group(1), equal_candidates(1..2), Some((0, 9)));
            after.groups.insert(group(1), Arc::new(only));
        }
        let mut soon = offers(&desk.feed(Input::View(Arc::new(after))));
        soon += offers(&desk.live(&[(1, 0)], INTERVAL * 9));
        assert_eq!(soon > 0, must_go, "{soon} offers within a second");
        assert!(offers(&desk.live(&[(1, 0)], INTERVAL * 3)) > 0, "it is handed over after all");
    }
}

#[test]
fn requirement_2_an_owner_that_must_go_waits_a_second_at_most_for_what_it_asks_and_not_for_what_it_cannot_ask()
 {
    for unaskable in [false, true] {
        let nodes = [0, 1];
        let mut before = view(&nodes, &nodes, &[], BALANCED);
        before.groups.insert(group(1), Arc::new(single(group(1), equal_candidates(0..2), Some((0, 1)))));
        let mut desk = Desk::new(before);
        desk.live(&[(1, 0)], Duration::from_secs(2));
        desk.own_all();
        // A second address comes, which this node has no link for: it is no candidate any more.
        let mut after = view(&nodes, &nodes, &[], BALANCED);
        after.groups.insert(group(1), Arc::new(two_addresses(equal_candidates(1..2), (0, 1))));
        let mut soon = offers(&desk.feed(Input::View(Arc::new(after))));
        if unaskable {
            soon += offers(&desk.feed(Input::Unasked(group(2))));
        }
        soon += offers(&desk.live(&[(1, 0)], INTERVAL * 9));
        assert_eq!(soon > 0, unaskable, "{soon} offers within a second");
        assert!(offers(&desk.live(&[(1, 0)], INTERVAL * 3)) > 0, "it is handed over after all");
    }
}

#[test]
fn requirement_4_a_group_that_must_go_is_answered_for_until_it_is_taken_also_if_its_lowest_address_changes() {
    let nodes = [0, 1];
    let mut desk = Desk::new(view(&nodes, &nodes, &[(group(2), Some((0, 1)))], BALANCED));
    desk.live(&[(1, 0)], Duration::from_secs(2));
    desk.own_all();
    // A lower address comes, and node 0 is no candidate any more.
    let mut after = view(&nodes, &nodes, &[], BALANCED);
    after.groups.insert(group(1), Arc::new(two_addresses(equal_candidates(1..2), (0, 1))));
    let mut sent = offers(&desk.feed(Input::View(Arc::new(after))));
    sent += offers(&desk.live(&[(1, 0)], Duration::from_secs(2)));
    assert!(desk.owns(group(1)), "nobody has taken it yet");
    assert!(sent > 0, "it is handed over");
}

#[test]
fn requirement_2_the_last_owner_goes_first_only_if_no_other_candidate_alone_is_on_the_subnet() {
    for (last, remote, asked) in [(0, 0, 0), (0, 1, 1), (1, 1, 1), (1, 0, 0)] {
        let mut desk = Desk::new(on_two_subnets(last, remote));
        let probed = probes(&desk.live(&[(1, 0)], Duration::from_millis(1_500)));
        assert_eq!(probed, asked, "last node{last}, remote node{remote}");
    }
    // Nobody is on it: the last owner as before.
    let mut view = on_two_subnets(0, 0);
    let mut candidates = equal_candidates(0..2);
    for candidate in &mut candidates {
        candidate.tier.remote = true;
    }
    view.groups.insert(group(1), Arc::new(single(group(1), candidates, Some((0, 9)))));
    view.placed = [(group(1), name(1))].into();
    assert_eq!(probes(&Desk::new(view).live(&[(1, 0)], Duration::from_millis(1_500))), 1);
}

#[test]
fn a_starting_speaker_waits_for_every_ready_speaker_in_whatever_order_they_answer() {
    let nodes: Vec<usize> = (0..=20).collect();
    for first in 1..=20 {
        let mut desk = Desk::new(view(&nodes, &nodes, &[], BALANCED));
        for node in (first..=20).chain(1..first) {
            assert!(!desk.speaker.is_settled());
            desk.hear(node, Body::Alive { claims: 0 });
        }
        assert!(desk.speaker.is_settled());
    }
    // One more becomes ready meanwhile, and never answers.
    let mut desk = Desk::new(view(&nodes, &nodes[..20], &[], BALANCED));
    for node in 2..20 {
        desk.hear(node, Body::Alive { claims: 0 });
    }
    desk.feed(Input::View(Arc::new(view(&nodes, &nodes, &[], BALANCED))));
    desk.hear(1, Body::Alive { claims: 0 });
    assert!(!desk.speaker.is_settled());
    desk.pass(SETTLE);
    assert!(desk.speaker.is_settled());
}

/// One of the two views is late: in that of the other speaker the address is in another group.
#[test]
fn requirement_9_an_address_is_left_to_a_speaker_that_answers_and_claims_a_group_that_is_not_known_here() {
    let unknown = Stake { group: group(9), epoch: 1 };
    let claims = crate::beacon::print([unknown]);
    let groups = [(group(1), Some((0, 1))), (unknown.group, None)];
    let left = || {
        let mut desk = Desk::new(view(&[0, 1], &[0], &groups[..1], BALANCED));
        desk.hear(1, Body::Alive { claims: 0 });
        desk.hear(1, Body::Update(vec![(unknown, true)]));
        desk.feed(Input::Answered(frame_of(1, group(1))));
        assert!(!desk.owns(group(1)));
        desk
    };
    // It is asked again after an interval; at last it can only be a kernel that answers.
    let mut desk = left();
    let begun = desk.now;
    while !desk.owns(group(1)) {
        assert!(desk.now < begun + LEFT_TO_OTHERS + INTERVAL * 3);
        assert!(probes(&desk.live(&[(1, claims)], INTERVAL * 2)) >= 1);
        desk.feed(Input::Answered(frame_of(1, group(1))));
    }
    assert!(desk.now >= begun + LEFT_TO_OTHERS);
    // This view was late, and is no longer.
    let mut desk = left();
    desk.feed(Input::View(Arc::new(view(&[0, 1], &[0], &groups, BALANCED))));
    desk.live(&[(1, claims)], REFUSAL);
    desk.feed(Input::Answered(frame_of(1, group(1))));
    assert!(desk.owns(group(1)));
}

#[test]
fn in_hash_placement_the_first_claim_is_that_of_the_node_that_the_hash_names() {
    for number in 1..40 {
        let nodes = [0, 1, 2];
        let first = view(&nodes, &nodes, &[(group(number), None)], Placement::Hash);
        let named = first.placed[&group(number)].clone();
        let previous = (0..3).find(|node| name(*node) != named).unwrap();
        let last = Some((previous, 9));
        let mut desk = Desk::new(view(&nodes, &nodes, &[(group(number), last)], Placement::Hash));
        let asked = probes(&desk.live(&[(1, 0), (2, 0)], Duration::from_millis(1_500)));
        assert_eq!(asked, usize::from(named == name(0)), "{number}: {named}, before node{previous}");
    }
}
