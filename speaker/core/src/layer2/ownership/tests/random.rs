//! Random simulations: faults of all kinds at random times, then quiet. At rest every group has exactly one
//! owner.
//!
//! `LBSTACK_SIMULATION_SEED=n` replays one simulation; `LBSTACK_SIMULATION_COUNT=n` runs that many.

use super::super::*;
use super::world::{Random, World, group};
use crate::layer2::placement::Placement;

/// The number of simulations in the regular tests.
const COUNT: u64 = 10_000;

pub(super) fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn at_rest_every_group_has_exactly_one_owner_whatever_has_happened() {
    stories(COUNT, story);
}

/// Runs `count` simulations, or as the environment variables say.
pub(super) fn stories(count: u64, story: impl Fn(u64) + Sync) {
    if let Some(seed) = number("LBSTACK_SIMULATION_SEED") {
        return story(seed);
    }
    let count = number("LBSTACK_SIMULATION_COUNT").unwrap_or(count);
    let first = number("LBSTACK_SIMULATION_FIRST").unwrap_or(0);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let story = &story;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (first + thread..first + count).step_by(usize::try_from(threads).unwrap()) {
                    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(seed)));
                    assert!(ended.is_ok(), "replay with LBSTACK_SIMULATION_SEED={seed}");
                }
            });
        }
    });
}

/// Regressions found by longer runs, each with its cause.
#[test]
fn regressions() {
    // A claim of a node that was gone superseded the next one, which had announced already.
    story(1_000_256_068);
}

fn story(seed: u64) {
    let mut random = Random(seed);
    let nodes = 2 + usize::try_from(random.below(4)).unwrap();
    let groups = 1 + u8::try_from(random.below(3)).unwrap();
    let placement = if random.one_in(5) { Placement::Hash } else { Placement::Balanced };
    let mut world = World::placing(seed ^ 0xabcd, nodes, groups, placement);
    world.lag = Duration::from_millis([0, 20, 300][usize::try_from(random.below(3)).unwrap()]);
    world.loss = [0, 0, 20, 150][usize::try_from(random.below(4)).unwrap()];
    let shown_late = seed % 4 == 1;
    if shown_late {
        world.show_after(Duration::from_millis(seed % 2_000));
    }
    world.duplication = [0, 50][usize::try_from(random.below(2)).unwrap()];
    for node in 0..nodes {
        if node == 0 || !random.one_in(4) {
            world.start(node);
            world.pass(Duration::from_millis(random.below(500)));
        }
    }
    world.pass(Duration::from_millis(random.below(2_500)));
    for _ in 0..=random.below(5) {
        fault(&mut world, &mut random, seed % 4 == 2);
        world.pass(Duration::from_millis(random.below(1_000)));
    }
    // All network faults end.
    for node in 0..world.len() {
        world.plug(node, true);
    }
    world.deaf.clear();
    world.link_cut.clear();
    world.loss = 0;
    for node in 0..world.len() {
        world.exclude(node, false);
        if !world.is_up(node) {
            world.unready(node);
        }
    }
    // Longer than any stall, any wait for a turn, and the backoffs on the way.
    world.pass(Duration::from_secs(12));
    let up = (0..world.len()).filter(|node| world.is_up(*node) && !world.is_stopping(*node)).count();
    let history = world.history.len();
    for id in world.groups() {
        let owners = world.owners(id);
        assert_eq!(owners.len(), usize::from(up > 0), "{id} is owned by {owners:?}\n{}", world.describe());
    }
    // A node that failed before its interfaces were known cannot be recognised as a speaker.
    for node in (0..world.len()).filter(|node| world.is_up(*node) && !shown_late) {
        let mut conflicts = world.speaker(node).conflicts().values();
        assert!(
            conflicts.all(|conflict| !conflict.withheld),
            "there are no foreign hosts\n{}",
            world.describe()
        );
    }
    world.pass(Duration::from_secs(3));
    assert_eq!(world.history.len(), history, "something still moves\n{}", world.describe());
}

pub(super) fn fault(world: &mut World, random: &mut Random, cables: bool) {
    let all: Vec<usize> = (0..world.len()).collect();
    let Some(node) = random.pick(&all) else { return };
    let other = random.pick(&all).unwrap_or(node);
    match random.below(11) {
        0 => {
            world.kill(node);
            if random.one_in(2) {
                world.unready(node);
            }
        }
        1 if !world.is_up(node) => world.start(node),
        1 => {
            world.kill(node);
            world.pass(Duration::from_millis(random.below(800)));
            world.start(node);
        }
        2 => {
            if world.is_up(node) && !world.is_stopping(node) {
                world.shut_down(node);
            }
        }
        3 => world.stall(node, Duration::from_millis(random.below(2_000))),
        4 => {
            world.deaf.insert((node, other));
        }
        5 => {
            world.deaf.insert((node, other));
            world.link_cut.insert((node, other));
        }
        6 => {
            let side: Vec<usize> = all.iter().copied().filter(|_| random.one_in(2)).collect();
            world.cut(&side, true);
        }
        7 => {
            world.deaf.clear();
            world.link_cut.clear();
        }
        8 => {
            let yes = !random.one_in(3);
            world.exclude(node, yes);
        }
        9 => {
            let id = group(1 + u8::try_from(random.below(4)).unwrap());
            let yes = !world.groups().contains(&id);
            world.add_group(id, yes);
        }
        _ if cables => world.plug(node, random.one_in(2)),
        _ => {
            for other in all {
                world.deaf.insert((node, other));
                world.deaf.insert((other, node));
            }
        }
    }
}
