//! Random simulations of Services with several addresses that join, split and change groups, of nodes that
//! become candidates and cease to be, of links and addresses of nodes that change, of valid and invalid edits
//! of the configuration, and of floods of forged frames. Views are built from object summaries and lag; each
//! speaker remembers the last valid configuration.
//!
//! `LBSTACK_SIMULATION_SEED=n` replays one simulation of each kind; `LBSTACK_SIMULATION_COUNT=n` runs that
//! many.

mod api;
mod frames;
mod model;
mod observer;

use std::time::Duration;

use super::super::*;
use super::random::stories;
use super::world::{INTERVAL, Random};
use crate::layer2::placement::Placement;
use api::{Change, Object};
use model::{Model, What};

/// The number of simulations of each kind in the regular tests.
const COUNT: u64 = 750;

fn pool() -> Vec<IpAddr> {
    let pool = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2", "fd00::3"];
    pool.iter().map(|text| text.parse().unwrap()).collect()
}

/// At most one address of each family, as a Service has.
fn some(random: &mut Random) -> Vec<IpAddr> {
    let pool = pool();
    let (v4, v6) = (random.pick(&pool[..3]).unwrap(), random.pick(&pool[3..]).unwrap());
    match random.below(4) {
        0 => vec![v4],
        1 => vec![v6],
        2 => vec![v4, v6],
        _ => vec![v6, v4],
    }
}

fn node_of(random: &mut Random, first: usize, nodes: usize) -> usize {
    first + usize::try_from(random.below((nodes - first) as u64)).unwrap()
}

fn begin(seed: u64, random: &mut Random, nodes: usize) -> Model {
    let placement = if random.one_in(3) { Placement::Hash } else { Placement::Balanced };
    let mut model = Model::new(seed ^ 0x5a5a, nodes, placement);
    model.lag = random.pick(&[0, 20, 300, 1_000]).unwrap();
    for service in 0..=random.below(2) {
        let addresses = some(random);
        model.api.apply(&Change::Service(u8::try_from(service).unwrap(), Some(addresses)));
    }
    for node in 0..nodes {
        model.start(node);
    }
    model
}

/// A change of a Service by a user.
fn edit(model: &mut Model, random: &mut Random) {
    let service = u8::try_from(random.below(4)).unwrap();
    match random.below(5) {
        4 => edit_configuration(model, random),
        0 | 1 => model.change(Change::Service(service, Some(some(random)))),
        2 => model.change(Change::Service(service, None)),
        _ => {
            // A second family.
            let v6 = random.pick(&pool()[3..]).unwrap();
            let Some(mut addresses) = model.api.services.get(&service).cloned() else { return };
            if !addresses.contains(&v6) && addresses.len() < 2 {
                addresses.push(v6);
                model.change(Change::Service(service, Some(addresses)));
            }
        }
    }
}

fn fault(model: &mut Model, random: &mut Random) {
    let nodes = model.nodes.len();
    let node = node_of(random, 0, nodes);
    match random.below(11) {
        0 => {
            model.kill(node);
            if random.one_in(2) {
                model.change(Change::Pod(node, Some(false)));
            }
        }
        1 if model.nodes[node].speaker.is_none() => model.start(node),
        1 if !model.nodes[node].stopping => model.shut_down(node),
        2 if model.nodes[node].speaker.is_some() && !model.nodes[node].stalled => {
            let time = Duration::from_millis(random.below(1_500));
            model.note(format!("stall node{node} {time:?}"));
            model.nodes[node].stalled = true;
            model.after(time, What::Resume(node));
        }
        3 => {
            model.note(format!("cut node{node}"));
            model.cut.extend((0..nodes).flat_map(|other| [(node, other), (other, node)]));
        }
        4 => {
            model.note("whole".into());
            model.cut.clear();
        }
        5 => model.feed(node, Input::Suspended),
        6 => relocate(model, random, 0),
        7 => {
            let until = model.now + Duration::from_millis(random.below(1_000));
            model.note(format!("forged frames to node{node} until {until:?}"));
            model.after(Duration::ZERO, What::Forge(node, until));
        }
        8 | 9 => change_links(model, random, node),
        _ => handover(model, random, 0),
    }
}

/// The links of a node change, or its addresses.
fn change_links(model: &mut Model, random: &mut Random, node: usize) {
    let yes = random.one_in(2);
    match random.below(4) {
        0 => model.change(Change::Ipv6(node, yes)),
        1 => {
            let link = random.pick(&["eth0", "eth1"]).unwrap();
            model.change(Change::Link(node, link, yes));
        }
        2 => model.change(Change::OnSubnet(node, yes)),
        _ => {
            let held = random.pick(&pool()).filter(|_| yes);
            model.change(Change::Holds(node, held));
        }
    }
}

/// The address of a node changes, and possibly the API shows it. Nodes before `first` are left alone.
fn relocate(model: &mut Model, random: &mut Random, first: usize) {
    let node = node_of(random, first, model.nodes.len());
    model.relocate(node);
    if random.one_in(2) {
        model.list_address(node);
    }
}

/// An object of the configuration gets an error, or loses it.
fn edit_configuration(model: &mut Model, random: &mut Random) {
    let object = random.pick(&[Object::Pool, Object::Advertisement]).unwrap();
    model.change(Change::Invalid(object, random.one_in(2)));
}

/// The API shows that a node must hand over what it owns, or may own groups again. Nodes before `first` are
/// left alone.
fn handover(model: &mut Model, random: &mut Random, first: usize) {
    let node = node_of(random, first, model.nodes.len());
    let yes = random.one_in(2);
    match random.below(8) {
        0 => model.change(Change::Excluded(node, yes)),
        1 => model.change(Change::Usable(node, yes)),
        2 => model.change(Change::Pod(node, Some(yes))),
        3 => model.change(Change::Interface(random.pick(&[None, Some("eth0"), Some("eth1")]).unwrap())),
        4 => model.change(Change::OnSubnet(node, yes)),
        5 => relocate(model, random, first),
        6 => edit_configuration(model, random),
        _ => model.change(Change::Selected(yes.then_some(0))),
    }
}

fn rest(model: &mut Model) {
    model.note("rest".into());
    model.cut.clear();
    model.loss = 0;
    for object in [Object::Pool, Object::Advertisement] {
        model.change(Change::Invalid(object, false));
    }
    model.change(Change::Selected(None));
    model.change(Change::Interface(None));
    for node in 0..model.nodes.len() {
        model.change(Change::Excluded(node, false));
        model.change(Change::Usable(node, true));
        for link in ["eth0", "eth1"] {
            model.change(Change::Link(node, link, true));
        }
        model.change(Change::Ipv6(node, true));
        model.change(Change::OnSubnet(node, true));
        model.change(Change::Holds(node, None));
        model.list_address(node);
        let is_up = model.nodes[node].speaker.is_some() && !model.nodes[node].stopping;
        model.change(Change::Pod(node, Some(is_up)));
    }
    model.pass(Duration::from_secs(4));
    for node in 0..model.nodes.len() {
        if model.nodes[node].speaker.is_none() {
            model.start(node);
        }
    }
    model.pass(Duration::from_secs(20));
}

fn one_owner_each(model: &Model, seed: u64) {
    for address in pool() {
        let wanted = usize::from(model.api.services.values().flatten().any(|one| *one == address));
        let owners = model.owners(address);
        assert_eq!(owners.len(), wanted, "seed {seed}: {address} {owners:?}\n{}", model.describe());
    }
}

#[test]
fn at_rest_every_address_of_every_service_has_one_owner_whatever_has_happened() {
    stories(COUNT, |seed| {
        let mut random = Random(seed);
        let nodes = 2 + usize::try_from(random.below(3)).unwrap();
        let mut model = begin(seed, &mut random, nodes);
        model.loss = random.pick(&[0, 0, 20, 150]).unwrap();
        model.pass(Duration::from_millis(random.below(8_000)));
        for _ in 0..=random.below(6) {
            if random.one_in(2) {
                edit(&mut model, &mut random);
            } else {
                fault(&mut model, &mut random);
            }
            model.pass(Duration::from_millis(random.below(1_500)));
        }
        rest(&mut model);
        one_owner_each(&model, seed);
        let moves = model.moves;
        model.pass(Duration::from_secs(3));
        assert_eq!(model.moves, moves, "seed {seed}: something still moves\n{}", model.describe());
    });
}

#[test]
fn requirement_9_no_address_has_two_owners_for_longer_than_an_interval_while_views_differ() {
    stories(COUNT, |seed| {
        let mut random = Random(seed);
        let nodes = 2 + usize::try_from(random.below(3)).unwrap();
        let mut model = begin(seed, &mut random, nodes);
        model.pass(Duration::from_secs(8));
        for _ in 0..=random.below(6) {
            edit(&mut model, &mut random);
            model.pass(Duration::from_millis(random.below(1_500)));
        }
        model.pass(Duration::from_secs(5));
        for (address, seen) in &model.seen {
            let two = seen.longest_two;
            assert!(two <= INTERVAL, "seed {seed}: {address} for {two:?}\n{}", model.describe());
        }
        rest(&mut model);
        one_owner_each(&model, seed);
    });
}

/// Node 0 may own everything at any time.
#[test]
fn requirement_4_an_owner_answers_until_its_successor_has_claimed_whatever_the_reason() {
    stories(COUNT, |seed| {
        let mut random = Random(seed);
        let nodes = 2 + usize::try_from(random.below(3)).unwrap();
        let mut model = begin(seed, &mut random, nodes);
        model.pass(Duration::from_secs(8));
        model.watch_anew();
        let changes = 1 + random.below(5);
        for _ in 0..changes {
            handover(&mut model, &mut random, 1);
            model.pass(Duration::from_millis(random.below(2_500)));
        }
        model.pass(Duration::from_secs(4));
        for (address, seen) in &model.seen {
            let (two, none) = (seen.longest_two, seen.longest_none);
            assert!(
                none.is_zero(),
                "seed {seed}: {address} announced by no node for {none:?}\n{}",
                model.describe()
            );
            assert!(two <= INTERVAL, "seed {seed}: {address} by two for {two:?}\n{}", model.describe());
        }
        let most = usize::try_from(changes).unwrap() * 2 * model.seen.len() + 2 * pool().len();
        assert!(model.moves <= most, "seed {seed}: {} moves\n{}", model.moves, model.describe());
        rest(&mut model);
        one_owner_each(&model, seed);
    });
}

/// Node 0 may own everything that the advertisement selects.
#[test]
fn requirement_1_an_invalid_edit_at_any_time_leaves_the_last_valid_configuration_in_effect() {
    stories(COUNT, |seed| {
        let mut random = Random(seed);
        let nodes = 2 + usize::try_from(random.below(3)).unwrap();
        let mut model = begin(seed, &mut random, nodes);
        model.pass(Duration::from_secs(8));
        for _ in 0..random.below(4) {
            edit(&mut model, &mut random);
            handover(&mut model, &mut random, 1);
            model.pass(Duration::from_millis(random.below(1_500)));
        }
        rest(&mut model);
        let selected = random.pick(&[None, Some(0), Some(1)]).unwrap();
        model.change(Change::Selected(selected));
        model.pass(Duration::from_secs(4));
        let owners = |model: &Model| -> Vec<Vec<usize>> {
            pool().into_iter().map(|address| model.owners(address)).collect()
        };
        let before = owners(&model);
        model.watch_anew();
        for object in [Object::Pool, Object::Advertisement] {
            model.change(Change::Invalid(object, true));
            model.pass(Duration::from_millis(random.below(2_000)));
        }
        // What is edited meanwhile does not take effect before it is valid.
        model.change(Change::Selected(None));
        model.pass(Duration::from_secs(4));
        let none = model.seen.values().map(|seen| seen.longest_none).max();
        assert!(none.is_none_or(|none| none.is_zero()), "seed {seed}: {none:?}\n{}", model.describe());
        assert_eq!(owners(&model), before, "seed {seed}\n{}", model.describe());
        // An owner fails: another selected node takes over, and no other.
        let victim = node_of(&mut random, 0, nodes);
        model.kill(victim);
        model.change(Change::Pod(victim, Some(false)));
        model.pass(Duration::from_secs(4));
        for (owners, before) in owners(&model).iter().zip(&before) {
            let follows = !before.is_empty() && selected.is_none_or(|selected| selected != victim);
            assert_eq!(owners.len(), usize::from(follows), "seed {seed}\n{}", model.describe());
            assert!(selected.is_none() || owners.iter().all(|owner| Some(*owner) == selected));
        }
        rest(&mut model);
        one_owner_each(&model, seed);
    });
}

/// An owner that cannot announce any more knows that itself at once.
#[test]
fn requirement_2_what_ends_the_reachability_of_an_owner_moves_its_addresses_within_the_detection_time() {
    stories(COUNT, |seed| {
        let mut random = Random(seed);
        let nodes = 2 + usize::try_from(random.below(3)).unwrap();
        let mut model = begin(seed, &mut random, nodes);
        model.pass(Duration::from_secs(12));
        model.watch_anew();
        let victim = node_of(&mut random, 0, nodes);
        match random.below(3) {
            0 => model.change(Change::Ipv6(victim, false)),
            1 => model.change(Change::OnSubnet(victim, false)),
            _ => {
                model.change(Change::Link(victim, "eth0", false));
                model.change(Change::Link(victim, "eth1", false));
            }
        }
        model.pass(Duration::from_secs(3));
        for (address, seen) in &model.seen {
            let (two, none) = (seen.longest_two, seen.longest_none);
            assert!(
                none <= INTERVAL * 3,
                "seed {seed}: {address} announced by no node for {none:?}\n{}",
                model.describe()
            );
            assert!(two <= INTERVAL, "seed {seed}: {address} by two for {two:?}\n{}", model.describe());
        }
        rest(&mut model);
        one_owner_each(&model, seed);
    });
}

/// What no node has a link for is handed over, without a gap, to the first node that gets one.
#[test]
fn requirement_2_a_node_that_becomes_the_only_one_on_the_subnet_is_handed_what_others_own() {
    stories(COUNT, |seed| {
        let mut random = Random(seed);
        let nodes = 2 + usize::try_from(random.below(3)).unwrap();
        let mut model = Model::new(seed, nodes, Placement::Balanced);
        model.lag = random.pick(&[0, 20, 300, 1_000]).unwrap();
        model.api.apply(&Change::Service(0, Some(some(&mut random))));
        for node in 0..nodes {
            model.api.apply(&Change::OnSubnet(node, false));
        }
        for node in 0..nodes {
            model.start(node);
        }
        model.pass(Duration::from_secs(12));
        model.watch_anew();
        let chosen = node_of(&mut random, 0, nodes);
        model.change(Change::OnSubnet(chosen, true));
        model.pass(Duration::from_secs(4));
        for (address, seen) in &model.seen {
            let (two, none) = (seen.longest_two, seen.longest_none);
            assert!(
                none.is_zero(),
                "seed {seed}: {address} announced by no node for {none:?}\n{}",
                model.describe()
            );
            assert!(two <= INTERVAL, "seed {seed}: {address} by two for {two:?}\n{}", model.describe());
            assert_eq!(model.owners(*address), [chosen], "seed {seed}: {address}\n{}", model.describe());
        }
    });
}

#[test]
fn a_node_whose_link_does_not_support_the_family_leaves_the_address_to_others() {
    for seed in 0..20 {
        let mut model = Model::new(seed, 3, Placement::Balanced);
        for number in 1..=3_u8 {
            let address = IpAddr::V6(format!("fd00::{number}").parse().unwrap());
            model.api.apply(&Change::Service(number, Some(vec![address])));
        }
        model.change(Change::Ipv6(0, false));
        for node in 0..3 {
            model.start(node);
        }
        model.pass(Duration::from_secs(12));
        for address in &pool()[3..] {
            let owners = model.owners(*address);
            assert!(owners.len() == 1 && owners != [0], "seed {seed}: {owners:?}\n{}", model.describe());
        }
    }
}
