//! An owner that must go, and nobody that can be asked to take its group at the moment.

use super::*;
use crate::beacon::Flags;
use crate::ownership::tests::world::mac;

/// Node 0 owns a group that only node 1 is a candidate for, and node 1 says this of itself, if anything.
fn must_go(flags: Option<Flags>) -> Desk {
    let nodes = [0, 1];
    let mut desk = Desk::new(view(&nodes, &nodes, &[(group(1), Some((0, 1)))], BALANCED));
    let live = if let Some(flags) = flags {
        desk.flags = flags;
        &[(1, 0)][..]
    } else {
        &[]
    };
    desk.live(live, Duration::from_secs(2));
    desk.own_all();
    let mut after = view(&nodes, &nodes, &[], BALANCED);
    let only = single(group(1), equal_candidates(1..2), Some((0, 1)));
    after.groups.insert(group(1), Arc::new(only));
    desk.feed(Input::View(Arc::new(after)));
    desk.live(live, Duration::from_secs(2));
    desk
}

#[test]
fn requirement_4_an_owner_that_must_go_answers_until_a_successor_that_was_stopped_runs_again() {
    let stopped = Flags { wanted: true, stalled: true, ..Flags::default() };
    let mut desk = must_go(Some(stopped));
    assert!(desk.owns(group(1)));
    desk.flags.stalled = false;
    assert!(offers(&desk.live(&[(1, 0)], INTERVAL * 3)) > 0, "then it is handed over");
    let mut stays = must_go(Some(stopped));
    stays.live(&[(1, 0)], Duration::from_secs(2));
    assert!(!stays.owns(group(1)), "it does not wait for ever");
}

#[test]
fn requirement_4_an_owner_that_must_go_answers_while_a_ready_successor_is_not_heard_yet_and_not_for_ever() {
    let mut desk = must_go(None);
    assert!(desk.owns(group(1)));
    let sent = offers(&desk.live(&[(1, 0)], Duration::from_millis(500)));
    assert!(sent > 0, "once it is heard it is handed the group");
    let mut never = must_go(None);
    never.live(&[], Duration::from_secs(2));
    assert!(!never.owns(group(1)));
}

#[test]
fn requirement_4_an_owner_that_must_go_waits_for_no_speaker_that_stops() {
    let leaving = Flags { wanted: true, stalled: true, leaving: true };
    assert!(!must_go(Some(leaving)).owns(group(1)));
}

/// Node 0 owns a group for which nobody is a candidate any more, since node 0 itself is not ready.
fn not_ready(retainable: bool) -> (Desk, View) {
    let nodes = [0, 1];
    let mut desk = Desk::new(view(&nodes, &nodes, &[(group(1), Some((0, 1)))], BALANCED));
    desk.live(&[(1, 0)], Duration::from_secs(2));
    desk.own_all();
    let mut after = view(&nodes, &[1], &[], BALANCED);
    let nobody = single(group(1), Vec::new(), Some((0, 1)));
    after.groups.insert(group(1), Arc::new(Group { retainable, ..nobody }));
    desk.feed(Input::View(Arc::new(after.clone())));
    desk.live(&[(1, 0)], Duration::from_secs(10));
    (desk, after)
}

#[test]
fn requirement_4_an_owner_that_is_not_ready_answers_as_long_as_no_other_node_can_announce_the_group() {
    let (mut desk, mut after) = not_ready(true);
    assert!(desk.owns(group(1)));
    let other = single(group(1), equal_candidates(1..2), Some((0, 1)));
    after.groups.insert(group(1), Arc::new(other));
    desk.feed(Input::View(Arc::new(after)));
    assert!(offers(&desk.live(&[(1, 0)], INTERVAL * 3)) > 0, "then it is handed over");
    assert!(!not_ready(false).0.owns(group(1)), "nobody is to announce it");
}

#[test]
fn requirement_4_an_owner_that_is_not_ready_and_was_stopped_answers_again_once_nobody_else_does() {
    let (mut desk, _) = not_ready(true);
    assert!(desk.feed(Input::Suspended).contains(&Output::Withdraw(group(1))));
    desk.live(&[(1, 0)], INTERVAL * 3);
    desk.feed(Input::Unanswered(group(1)));
    assert!(desk.owns(group(1)));
}

#[test]
fn an_owner_that_is_not_ready_and_stops_withdraws_what_nobody_can_take() {
    let (mut desk, _) = not_ready(true);
    assert!(desk.feed(Input::Shutdown).contains(&Output::Withdraw(group(1))));
}

#[test]
fn requirement_6_links_that_change_while_their_hardware_addresses_stay_are_told_to_no_peer() {
    let nodes: Vec<usize> = (0..50).collect();
    let mut desk = Desk::new(view(&nodes, &nodes, &many(50, None), BALANCED));
    desk.live(&[(1, 0), (2, 0)], Duration::from_secs(2));
    let sends =
        |outputs: Vec<Output>| outputs.iter().filter(|output| matches!(output, Output::Send { .. })).count();
    let mut sent = 0;
    for _ in 0..1_000 {
        sent += sends(desk.feed(Input::Macs([mac(0)].into())));
    }
    assert_eq!(sent, 0);
    assert!(sends(desk.feed(Input::Macs([mac(0), mac(60)].into()))) > 0);
}
