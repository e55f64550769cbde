use super::super::*;
use super::world::{INTERVAL, World, group};
use crate::layer2::placement::Placement;

fn owners(world: &World) -> Vec<usize> {
    world.groups().into_iter().map(|id| world.owner(id)).collect()
}

#[test]
fn every_group_gets_one_owner_and_no_node_more_than_its_share() {
    let world = World::settled(1, 3, 6);
    let owners = owners(&world);
    for node in 0..3 {
        assert_eq!(owners.iter().filter(|owner| **owner == node).count(), 2, "{owners:?}");
    }
}

#[test]
fn speakers_that_become_ready_one_after_the_other_share_what_was_there_before() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3, 6);
        world.expect(0..3);
        for node in 0..3 {
            world.start(node);
            world.pass(Duration::from_millis(1_200));
        }
        world.pass(Duration::from_secs(8));
        let owners = owners(&world);
        for node in 0..3 {
            assert_eq!(owners.iter().filter(|owner| **owner == node).count(), 2, "seed {seed}: {owners:?}");
        }
    }
}

#[test]
fn speakers_that_start_at_the_same_moment_all_hear_each_other() {
    for seed in 0..20 {
        let world = World::settled(seed, 4, 1);
        for node in 0..4 {
            assert_eq!(world.speaker(node).peers_alive(), 3, "seed {seed}: node{node}");
            assert_eq!(world.speaker(node).blocked().count(), 0);
        }
    }
}

#[test]
fn a_single_node_owns_everything() {
    let world = World::settled(2, 1, 3);
    assert_eq!(owners(&world), [0; 3]);
}

#[test]
fn a_failed_owner_is_taken_over_within_half_a_second_and_only_its_groups_move() {
    for seed in 0..50 {
        let mut world = World::settled(seed, 4, 8);
        let before = owners(&world);
        let killed = world.now;
        world.kill(before[0]);
        world.pass(Duration::from_secs(3));
        for (id, old) in world.groups().into_iter().zip(&before) {
            if *old == before[0] {
                let gap = world.longest_gap(id, killed);
                assert!(gap < Duration::from_millis(400), "seed {seed}: {gap:?}");
            } else {
                assert_eq!(world.owner(id), *old, "seed {seed}: {id} moved");
            }
            assert!(world.longest_overlap(id, killed) == Duration::ZERO, "seed {seed}");
        }
    }
}

#[test]
fn the_second_watcher_takes_over_when_owner_and_first_watcher_fail_together() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 4, 1);
        let first = world.owner(group(1));
        world.kill(first);
        world.pass(Duration::from_secs(2));
        let second = world.owner(group(1));
        let mut world = World::settled(seed, 4, 1);
        let killed = world.now;
        world.kill(first);
        world.kill(second);
        world.pass(Duration::from_secs(2));
        assert!(world.longest_gap(group(1), killed) < Duration::from_millis(550), "seed {seed}");
    }
}

#[test]
fn a_node_that_joins_or_comes_back_takes_no_group_from_its_owner() {
    let mut world = World::new(3, 4, 8);
    for node in 0..3 {
        world.start(node);
    }
    world.pass(Duration::from_secs(5));
    let before = owners(&world);
    let history = world.history.len();
    world.start(3);
    world.pass(Duration::from_secs(20));
    assert_eq!(owners(&world), before);
    assert_eq!(world.history.len(), history);
}

#[test]
fn a_shut_down_owner_hands_over_without_a_gap() {
    for seed in 0..50 {
        let mut world = World::settled(seed, 3, 6);
        let leaver = world.owner(group(1));
        let begun = world.now;
        world.shut_down(leaver);
        world.pass(Duration::from_secs(5));
        assert!(!world.is_up(leaver), "seed {seed}: still up");
        for id in world.groups() {
            assert_ne!(world.owner(id), leaver);
            assert_eq!(world.longest_gap(id, begun), Duration::ZERO, "seed {seed}: {id}");
            let overlap = world.longest_overlap(id, begun);
            assert!(overlap <= INTERVAL, "seed {seed}: {overlap:?}");
        }
    }
}

#[test]
fn an_excluded_owner_hands_over_without_a_gap_and_gets_nothing_back() {
    for seed in 0..50 {
        let mut world = World::settled(seed, 3, 6);
        let leaver = world.owner(group(1));
        let begun = world.now;
        world.exclude(leaver, true);
        world.pass(Duration::from_secs(5));
        for id in world.groups() {
            assert_ne!(world.owner(id), leaver, "seed {seed}");
            assert_eq!(world.longest_gap(id, begun), Duration::ZERO, "seed {seed}: {id}");
        }
        let after = owners(&world);
        world.exclude(leaver, false);
        world.pass(Duration::from_secs(20));
        assert_eq!(owners(&world), after, "seed {seed}");
    }
}

#[test]
fn a_successor_that_declines_because_its_view_is_late_is_asked_again_without_a_gap() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 2, 2);
        world.exclude(1, true);
        // Not so long that they stop exchanging beacons.
        world.pass(Duration::from_millis(500));
        world.late.insert(1, Duration::from_millis(1_500));
        let begun = world.now;
        world.exclude(1, false);
        world.exclude(0, true);
        world.pass(Duration::from_secs(3));
        for id in world.groups() {
            assert_eq!(world.owner(id), 1, "seed {seed}: {id}");
            assert_eq!(world.longest_gap(id, begun), Duration::ZERO, "seed {seed}: {id}");
        }
    }
}

#[test]
fn a_successor_that_declined_a_group_which_the_hash_places_there_is_offered_it_again() {
    for seed in 0..20 {
        let mut world = World::placing(seed, 3, 8, Placement::Hash);
        for node in 0..3 {
            world.start(node);
        }
        world.pass(Duration::from_secs(5));
        let before = owners(&world);
        world.exclude(1, true);
        world.pass(Duration::from_secs(5));
        world.late.insert(1, Duration::from_millis(1_500));
        let begun = world.now;
        world.exclude(1, false);
        world.pass(Duration::from_secs(5));
        assert_eq!(owners(&world), before, "seed {seed}");
        for id in world.groups() {
            assert_eq!(world.longest_gap(id, begun), Duration::ZERO, "seed {seed}: {id}");
        }
    }
}

#[test]
fn a_successor_that_keeps_declining_delays_a_handover_for_three_seconds_at_most() {
    let mut world = World::settled(1, 3, 1);
    for node in 1..3 {
        world.exclude(node, true);
    }
    world.pass(Duration::from_secs(5));
    for node in 1..3 {
        world.late.insert(node, Duration::from_secs(60));
        world.exclude(node, false);
    }
    world.pass(Duration::from_secs(1));
    world.shut_down(0);
    world.pass(HANDOVER_TIMEOUT - Duration::from_millis(100));
    assert_eq!(world.owner(group(1)), 0);
    world.pass(Duration::from_millis(200));
    assert!(!world.is_up(0));
}

#[test]
fn during_a_rolling_upgrade_groups_are_handed_over_to_upgraded_nodes() {
    let mut world = World::settled(5, 3, 6);
    for node in 0..3 {
        let begun = world.now;
        world.shut_down(node);
        world.pass(Duration::from_secs(4));
        world.start_generation(node, 2);
        world.pass(Duration::from_secs(4));
        for id in world.groups() {
            assert_eq!(world.longest_gap(id, begun), Duration::ZERO, "{id} when node{node} went");
        }
    }
    let moves =
        world.history.iter().filter(|(at, _, _, yes)| *yes && *at > Duration::from_secs(1_006)).count();
    // Each group moves once when its first owner is replaced, and those that moved to another old node once
    // more.
    assert!(moves <= 6 + 2, "{moves}");
}

#[test]
fn during_a_rolling_upgrade_no_group_goes_off_its_subnet_because_that_node_is_upgraded() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3, 4);
        world.set_remote(2);
        for (node, generation) in [(0, 1), (1, 1), (2, 2)] {
            world.start_generation(node, generation);
        }
        world.pass(Duration::from_secs(8));
        let begun = world.now;
        world.shut_down(0);
        world.pass(Duration::from_secs(5));
        for id in world.groups() {
            assert_eq!(world.owner(id), 1, "seed {seed}: {id}");
            assert_eq!(world.longest_gap(id, begun), Duration::ZERO, "seed {seed}: {id}");
        }
        let off = world.history.iter().any(|(at, node, _, yes)| *at > begun && *node == 2 && *yes);
        assert!(!off, "seed {seed}");
    }
}

#[test]
fn a_stalled_owner_announces_nothing_if_another_has_taken_over() {
    for seed in 0..50 {
        let mut world = World::settled(seed, 3, 3);
        let stalled = world.owner(group(1));
        world.stall(stalled, Duration::from_secs(5));
        world.pass(Duration::from_secs(3));
        let woken = world.now + Duration::from_secs(2);
        world.pass(Duration::from_secs(10));
        for id in world.groups() {
            assert_ne!(world.owner(id), stalled, "seed {seed}");
            assert_eq!(world.longest_overlap(id, woken), Duration::ZERO, "seed {seed}");
        }
        assert_eq!(world.speaker(stalled).counts().stalls, 1);
    }
}

#[test]
fn a_node_that_hears_the_owner_keeps_others_from_taking_over() {
    let mut world = World::settled(7, 4, 1);
    let owner = world.owner(group(1));
    // One watcher does not hear the owner; the link between them is cut as well.
    let watcher = (0..4).find(|node| *node != owner).unwrap();
    world.deaf.insert((owner, watcher));
    world.link_cut.insert((watcher, owner));
    world.pass(Duration::from_secs(10));
    assert_eq!(world.owner(group(1)), owner);
    let history = world.history.len();
    world.deaf.clear();
    world.pass(Duration::from_secs(3));
    assert_eq!(world.history.len(), history);
    assert_eq!(world.speaker(watcher).blocked().count(), 0);
}

#[test]
fn an_owner_that_answers_on_the_link_is_not_taken_over_though_its_beacons_are_lost() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 3, 3);
        let owner = world.owner(group(1));
        let begun = world.now;
        for other in 0..3 {
            world.deaf.insert((owner, other));
        }
        world.pass(Duration::from_secs(10));
        assert_eq!(world.owner(group(1)), owner, "seed {seed}");
        assert_eq!(world.longest_overlap(group(1), begun), Duration::ZERO, "seed {seed}");
        let blocked = (0..3).filter(|node| *node != owner).flat_map(|node| world.speaker(node).blocked());
        assert!(blocked.into_iter().next().is_some(), "seed {seed}: nothing is reported");
    }
}

#[test]
fn blocked_beacons_from_the_start_give_a_warning_and_one_owner_each() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3, 6);
        for a in 0..3 {
            for b in 0..3 {
                world.deaf.insert((a, b));
            }
        }
        for node in 0..3 {
            world.start(node);
        }
        world.pass(Duration::from_secs(15));
        for id in world.groups() {
            world.owner(id);
        }
        assert!(world.speaker(0).blocked().all(|(_, why)| why == Blocked::NeverHeard));
        assert_eq!(world.speaker(0).blocked().count(), 2, "seed {seed}");
    }
}

#[test]
fn speakers_that_start_together_do_not_take_each_other_for_foreign_hosts() {
    for seed in 0..200 {
        let mut world = World::new(seed, 4, 4);
        world.show_after(Duration::from_secs(20));
        for node in 0..4 {
            world.start(node);
        }
        world.pass(Duration::from_secs(6));
        for node in 0..4 {
            assert_eq!(world.speaker(node).conflicts().len(), 0, "seed {seed}, node{node}");
        }
        for id in world.groups() {
            world.owner(id);
        }
    }
}

#[test]
fn a_handover_has_one_successor_and_the_leaving_owner_sends_no_last_announcement() {
    for seed in 0..50 {
        let mut world = World::settled(seed, 3, 3);
        let (before, count) = (world.now, world.groups().len());
        let moved = (0..count).filter(|number| world.owner(world.groups()[*number]) == 0).count();
        world.shut_down(0);
        world.pass(Duration::from_secs(3));
        let taken = world.history.iter().filter(|(at, _, _, yes)| *yes && *at > before).count();
        assert_eq!(taken, moved, "seed {seed}: a group moves once");
        assert!(world.reminders.iter().all(|(_, node, _)| *node != 0), "seed {seed}: the last word");
    }
}

#[test]
fn after_a_partition_the_higher_claim_stays_within_one_interval() {
    for seed in 0..50 {
        let mut world = World::settled(seed, 4, 4);
        world.cut(&[0, 1], true);
        world.pass(Duration::from_secs(5));
        world.cut(&[0, 1], false);
        let healed = world.now;
        world.pass(Duration::from_secs(5));
        for id in world.groups() {
            world.owner(id);
            let overlap = world.longest_overlap(id, healed);
            assert!(overlap <= INTERVAL + Duration::from_millis(20), "seed {seed}: {overlap:?}");
        }
    }
}

#[test]
fn after_a_partition_the_remaining_owner_announces_again_and_only_then() {
    for seed in 0..50 {
        let mut world = World::settled(seed, 4, 4);
        world.cut(&[0, 1], true);
        world.pass(Duration::from_secs(5));
        assert_eq!(world.reminders, [], "seed {seed}: too early");
        world.cut(&[0, 1], false);
        let healed = world.now;
        world.pass(Duration::from_secs(5));
        for id in world.groups() {
            let owner = world.owner(id);
            let reminders = world.reminders.iter().filter(|(_, _, group)| *group == id);
            let of: Vec<usize> = reminders.clone().map(|(_, node, _)| *node).collect();
            assert_eq!(of, [owner], "seed {seed}: {id}");
            assert!(reminders.clone().all(|(at, _, _)| *at < healed + INTERVAL * 3), "seed {seed}: {id}");
        }
    }
}

#[test]
fn kernels_that_answer_for_every_address_do_not_keep_it_from_being_owned() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3, 3);
        world.kernels = (0..3).collect();
        for node in 0..3 {
            world.start(node);
        }
        world.pass(Duration::from_secs(10));
        for id in world.groups() {
            world.owner(id);
        }
    }
}

#[test]
fn hash_placement_follows_the_hash_and_moves_without_a_gap() {
    let mut world = World::placing(9, 4, 8, Placement::Hash);
    for node in 0..3 {
        world.start(node);
    }
    world.pass(Duration::from_secs(5));
    let begun = world.now;
    world.start(3);
    world.pass(Duration::from_secs(10));
    let mut moved = 0;
    for id in world.groups() {
        let mut best: Vec<usize> = (0..4).collect();
        best.sort_by_key(|node| crate::layer2::placement::rendezvous(id, &super::world::name(*node)));
        assert_eq!(world.owner(id), best[0], "{id}");
        assert_eq!(world.longest_gap(id, begun), Duration::ZERO, "{id}");
        moved += usize::from(best[0] == 3);
    }
    assert!(moved > 0);
}

#[test]
fn a_removed_group_is_withdrawn_and_an_added_one_is_claimed() {
    let mut world = World::settled(11, 3, 1);
    world.add_group(group(1), false);
    world.pass(Duration::from_secs(1));
    assert!(world.owners(group(1)).is_empty());
    world.add_group(group(2), true);
    world.pass(Duration::from_secs(2));
    world.owner(group(2));
}

#[test]
fn a_restarted_owner_leaves_its_former_group_to_the_new_owner() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 3, 3);
        let owner = world.owner(group(1));
        world.kill(owner);
        world.pass(Duration::from_secs(1));
        let next = world.owner(group(1));
        world.start(owner);
        world.pass(Duration::from_secs(10));
        assert_eq!(world.owner(group(1)), next, "seed {seed}");
    }
}

#[test]
fn a_node_whose_cable_is_plugged_in_again_announces_nothing_that_others_have_taken() {
    for seed in 0..200 {
        let mut world = World::settled(seed, 3, 1);
        let owner = world.owner(group(1));
        world.plug(owner, false);
        world.pass(Duration::from_millis(3_000 + seed));
        assert_ne!(world.owner(group(1)), owner);
        let before = world.history.len();
        world.plug(owner, true);
        world.pass(Duration::from_secs(3));
        assert_eq!(world.history.len(), before, "seed {seed}\n{}", world.describe());
    }
}
