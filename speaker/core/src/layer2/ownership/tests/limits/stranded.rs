//! An owner that must hand over its group while there is no successor.

use super::*;
use crate::layer2::beacon::Flags;
use crate::layer2::ownership::tests::world::mac;

/// Node 0 owns a group for which only node 1 is a candidate, and node 1 sends these flags, if any.
fn must_go(flags: Option<Flags>) -> PeerHarness {
    let nodes = [0, 1];
    let mut harness = PeerHarness::new(view(&nodes, &nodes, &[(group(1), Some((0, 1)))], BALANCED));
    let live = if let Some(flags) = flags {
        harness.flags = flags;
        &[(1, 0)][..]
    } else {
        &[]
    };
    harness.live(live, Duration::from_secs(2));
    harness.own_all();
    let mut after = view(&nodes, &nodes, &[], BALANCED);
    let only = single(group(1), equal_candidates(1..2), Some((0, 1)));
    after.groups.insert(group(1), Arc::new(only));
    harness.feed(Input::View(Arc::new(after)));
    harness.live(live, Duration::from_secs(2));
    harness
}

#[test]
fn requirement_4_an_owner_that_must_hand_over_answers_until_a_stalled_successor_runs_again() {
    let stopped = Flags { wanted: true, stalled: true, ..Flags::default() };
    let mut harness = must_go(Some(stopped));
    assert!(harness.owns(group(1)));
    harness.flags.stalled = false;
    assert!(offers(&harness.live(&[(1, 0)], INTERVAL * 3)) > 0, "then it is handed over");
    let mut stays = must_go(Some(stopped));
    stays.live(&[(1, 0)], Duration::from_secs(2));
    assert!(!stays.owns(group(1)), "it does not wait for ever");
}

#[test]
fn requirement_4_an_owner_that_must_hand_over_answers_for_a_while_if_a_ready_successor_is_not_heard_yet() {
    let mut harness = must_go(None);
    assert!(harness.owns(group(1)));
    let sent = offers(&harness.live(&[(1, 0)], Duration::from_millis(500)));
    assert!(sent > 0, "once it is heard it is handed the group");
    let mut never = must_go(None);
    never.live(&[], Duration::from_secs(2));
    assert!(!never.owns(group(1)));
}

#[test]
fn requirement_4_an_owner_that_must_hand_over_does_not_wait_for_a_speaker_that_is_leaving() {
    let leaving = Flags { wanted: true, stalled: true, leaving: true };
    assert!(!must_go(Some(leaving)).owns(group(1)));
}

/// Node 0 owns a group without any candidate, since node 0 itself is not ready.
fn not_ready(retainable: bool) -> (PeerHarness, View) {
    let nodes = [0, 1];
    let mut harness = PeerHarness::new(view(&nodes, &nodes, &[(group(1), Some((0, 1)))], BALANCED));
    harness.live(&[(1, 0)], Duration::from_secs(2));
    harness.own_all();
    let mut after = view(&nodes, &[1], &[], BALANCED);
    let without_candidates = single(group(1), Vec::new(), Some((0, 1)));
    after.groups.insert(group(1), Arc::new(Group { retainable, ..without_candidates }));
    harness.feed(Input::View(Arc::new(after.clone())));
    harness.live(&[(1, 0)], Duration::from_secs(10));
    (harness, after)
}

#[test]
fn requirement_4_an_owner_that_is_not_ready_answers_as_long_as_no_other_node_can_announce_the_group() {
    let (mut harness, mut after) = not_ready(true);
    assert!(harness.owns(group(1)));
    let other = single(group(1), equal_candidates(1..2), Some((0, 1)));
    after.groups.insert(group(1), Arc::new(other));
    harness.feed(Input::View(Arc::new(after)));
    assert!(offers(&harness.live(&[(1, 0)], INTERVAL * 3)) > 0, "then it is handed over");
    assert!(!not_ready(false).0.owns(group(1)), "no node may announce it");
}

#[test]
fn requirement_4_an_owner_that_is_not_ready_and_was_stalled_answers_again_if_no_other_host_does() {
    let (mut harness, _) = not_ready(true);
    assert!(harness.feed(Input::Suspended).contains(&Output::Withdraw(group(1))));
    harness.live(&[(1, 0)], INTERVAL * 3);
    harness.feed(Input::ProbeClear(group(1)));
    assert!(harness.owns(group(1)));
}

#[test]
fn an_owner_that_is_not_ready_and_shuts_down_withdraws_what_no_node_can_take() {
    let (mut harness, _) = not_ready(true);
    assert!(harness.feed(Input::Shutdown).contains(&Output::Withdraw(group(1))));
}

#[test]
fn requirement_6_link_changes_without_a_change_of_hardware_addresses_are_not_sent_to_peers() {
    let nodes: Vec<usize> = (0..50).collect();
    let mut harness = PeerHarness::new(view(&nodes, &nodes, &many(50, None), BALANCED));
    harness.live(&[(1, 0), (2, 0)], Duration::from_secs(2));
    let sends =
        |outputs: Vec<Output>| outputs.iter().filter(|output| matches!(output, Output::Send { .. })).count();
    let mut sent = 0;
    for _ in 0..1_000 {
        sent += sends(harness.feed(Input::Macs([mac(0)].into())));
    }
    assert_eq!(sent, 0);
    assert!(sends(harness.feed(Input::Macs([mac(0), mac(60)].into()))) > 0);
}
