//! An attacker records every datagram and replays any of them at any time, without effect.
//!
//! `LBSTACK_SIMULATION_SEED=n` replays one simulation; `LBSTACK_SIMULATION_COUNT=n` runs that many.

use super::super::*;
use super::random::{fault, number};
use super::world::{Random, World, group};
use crate::layer2::beacon::Body;

/// The number of simulations in the regular tests.
const COUNT: u64 = 2_000;

#[test]
fn every_group_has_exactly_one_owner_at_rest_whatever_is_replayed() {
    if let Some(seed) = number("LBSTACK_SIMULATION_SEED") {
        return story(seed);
    }
    for seed in 0..number("LBSTACK_SIMULATION_COUNT").map_or(COUNT, |count| count.min(COUNT)) {
        let ended = std::panic::catch_unwind(|| story(seed));
        assert!(ended.is_ok(), "replay with LBSTACK_SIMULATION_SEED={seed}");
    }
}

/// Lets time pass while records are replayed.
fn pass(world: &mut World, random: &mut Random, time: Duration) {
    let end = world.now + time;
    while world.now < end {
        for _ in 0..random.below(4) {
            world.repeat_any();
        }
        world.pass(Duration::from_millis(1 + random.below(40)));
    }
}

fn story(seed: u64) {
    let mut random = Random(seed);
    let nodes = 2 + usize::try_from(random.below(3)).unwrap();
    let mut world = World::new(seed ^ 0x5a5a, nodes, 1 + u8::try_from(random.below(2)).unwrap());
    world.record();
    world.loss = [0, 0, 50][usize::try_from(random.below(3)).unwrap()];
    for node in 0..nodes {
        world.start(node);
        pass(&mut world, &mut random, Duration::from_millis(500));
    }
    for _ in 0..=random.below(4) {
        fault(&mut world, &mut random, false);
        pass(&mut world, &mut random, Duration::from_millis(500));
        // Now and then for so long that peers are forgotten.
        if random.one_in(3) {
            pass(&mut world, &mut random, Duration::from_secs(12));
        }
    }
    world.cut(&[], false);
    world.deaf.clear();
    world.link_cut.clear();
    world.loss = 0;
    for node in 0..nodes {
        world.exclude(node, false);
        if !world.is_up(node) || world.is_stopping(node) {
            pass(&mut world, &mut random, Duration::from_secs(4));
            world.start(node);
        }
    }
    pass(&mut world, &mut random, Duration::from_secs(14));
    let history = world.history.len();
    pass(&mut world, &mut random, Duration::from_secs(3));
    for id in world.groups() {
        let owners = world.owners(id);
        assert_eq!(owners.len(), 1, "{id} is owned by {owners:?}\n{}", world.describe());
    }
    assert_eq!(world.history.len(), history, "something moves\n{}", world.describe());
    let before = world.counts().suspicions;
    pass(&mut world, &mut random, Duration::from_secs(2));
    // Without a group they do not exchange beacons.
    let new_suspicions = world.counts().suspicions - before;
    assert!(new_suspicions == 0 || world.groups().is_empty(), "{new_suspicions}\n{}", world.describe());
}

#[test]
fn requirement_5_one_replayed_datagram_causes_no_second_owner_and_no_lockout() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 2, 1);
        let (owner, id) = (world.owner(group(1)), group(1));
        let other = 1 - owner;
        world.record();
        // The owner is rebooted and hands over; it is away for so long that it is forgotten.
        world.shut_down(owner);
        world.pass(Duration::from_secs(20));
        assert_eq!(world.owner(id), other, "seed {seed}");
        // It comes back, and gets the group, since the other one is excluded for a while.
        world.start(owner);
        world.pass(Duration::from_secs(3));
        world.exclude(other, true);
        world.pass(Duration::from_secs(2));
        world.exclude(other, false);
        world.pass(Duration::from_secs(3));
        assert_eq!(world.owner(id), owner, "seed {seed}");
        let history = world.history.len();
        let repeated = world.repeat_all(|body| matches!(body, Body::Leave(_) | Body::Update(_)));
        assert!(repeated > 0, "seed {seed}");
        world.pass(Duration::from_secs(60));
        assert_eq!(world.owner(id), owner, "seed {seed}");
        assert_eq!(world.history.len(), history, "seed {seed}: {}", world.describe());
        for node in [owner, other] {
            assert_eq!(world.speaker(node).peers_alive(), 1, "seed {seed}: node{node}");
        }
    }
}
