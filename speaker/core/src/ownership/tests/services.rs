//! Random stories of Services with several addresses that join, part and change groups, of nodes that come to be
//! candidates and cease to be, of links and addresses of nodes that change, of edits of what is advertised
//! where, valid or not, and of floods of forged frames. Views are built from facts and lag; each speaker
//! remembers what was valid last.
//!
//! `LBSTACK_SIMULATION_SEED=n` replays one story of each kind; `LBSTACK_SIMULATION_COUNT=n` runs that many.

mod api;
mod frames;
mod model;
mod onlooker;

use std::time::Duration;

use super::super::*;
use super::random::stories;
use super::world::{Chance, INTERVAL};
use crate::placement::Placement;
use api::{Change, Object};
use model::{Model, What};

/// How many stories of each kind the suite runs.
const COUNT: u64 = 750;

fn pool() -> Vec<IpAddr> {
    let pool = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2", "fd00::3"];
    pool.iter().map(|text| text.parse().unwrap()).collect()
}

/// One address of each family at most, as a Service has.
fn some(chance: &mut Chance) -> Vec<IpAddr> {
    let pool = pool();
    let (v4, v6) = (chance.pick(&pool[..3]).unwrap(), chance.pick(&pool[3..]).unwrap());
    match chance.below(4) {
        0 => vec![v4],
        1 => vec![v6],
        2 => vec![v4, v6],
        _ => vec![v6, v4],
    }
}

fn node_of(chance: &mut Chance, first: usize, nodes: usize) -> usize {
    first + usize::try_from(chance.below((nodes - first) as u64)).unwrap()
}

fn begin(seed: u64, chance: &mut Chance, nodes: usize) -> Model {
    let placement = if chance.one_in(3) { Placement::Hash } else { Placement::Balanced };
    let mut model = Model::new(seed ^ 0x5a5a, nodes, placement);
    model.lag = chance.pick(&[0, 20, 300, 1_000]).unwrap();
    for service in 0..=chance.below(2) {
        let addresses = some(chance);
        model.api.apply(&Change::Service(u8::try_from(service).unwrap(), Some(addresses)));
    }
    for node in 0..nodes {
        model.start(node);
    }
    model
}

/// Something that a user does to a Service.
fn edit(model: &mut Model, chance: &mut Chance) {
    let service = u8::try_from(chance.below(4)).unwrap();
    match chance.below(5) {
        4 => edit_configuration(model, chance),
        0 | 1 => model.change(Change::Service(service, Some(some(chance)))),
        2 => model.change(Change::Service(service, None)),
        _ => {
            // A second family.
            let v6 = chance.pick(&pool()[3..]).unwrap();
            let Some(mut addresses) = model.api.services.get(&service).cloned() else { return };
            if !addresses.contains(&v6) && addresses.len() < 2 {
                addresses.push(v6);
                model.change(Change::Service(service, Some(addresses)));
            }
        }
    }
}

fn fault(model: &mut Model, chance: &mut Chance) {
    let nodes = model.nodes.len();
    let node = node_of(chance, 0, nodes);
    match chance.below(11) {
        0 => {
            model.kill(node);
            if chance.one_in(2) {
                model.change(Change::Pod(node, Some(false)));
            }
        }
        1 if model.nodes[node].speaker.is_none() => model.start(node),
        1 if !model.nodes[node].stopping => model.shut_down(node),
        2 if model.nodes[node].speaker.is_some() && !model.nodes[node].stalled => {
            let time = Duration::from_millis(chance.below(1_500));
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
        6 => relocate(model, chance, 0),
        7 => {
            let until = model.now + Duration::from_millis(chance.below(1_000));
            model.note(format!("forged frames to node{node} until {until:?}"));
            model.after(Duration::ZERO, What::Forge(node, until));
        }
        8 | 9 => change_links(model, chance, node),
        _ => handover(model, chance, 0),
    }
}

/// The links of a node change, or its addresses.
fn change_links(model: &mut Model, chance: &mut Chance, node: usize) {
    let yes = chance.one_in(2);
    match chance.below(4) {
        0 => model.change(Change::Ipv6(node, yes)),
        1 => {
            let link = chance.pick(&["eth0", "eth1"]).unwrap();
            model.change(Change::Link(node, link, yes));
        }
        2 => model.change(Change::OnSubnet(node, yes)),
        _ => {
            let held = chance.pick(&pool()).filter(|_| yes);
            model.change(Change::Holds(node, held));
        }
    }
}

/// The address of a node changes, and the API may say so. Nodes before `first` are left alone.
fn relocate(model: &mut Model, chance: &mut Chance, first: usize) {
    let node = node_of(chance, first, model.nodes.len());
    model.relocate(node);
    if chance.one_in(2) {
        model.list_address(node);
    }
}

/// An object of the configuration gets an error, or has none any more.
fn edit_configuration(model: &mut Model, chance: &mut Chance) {
    let object = chance.pick(&[Object::Pool, Object::Advertisement]).unwrap();
    model.change(Change::Invalid(object, chance.one_in(2)));
}

/// The API says that a node must give away what it owns, or may own something again. Nodes before `first` are left alone.
fn handover(model: &mut Model, chance: &mut Chance, first: usize) {
    let node = node_of(chance, first, model.nodes.len());
    let yes = chance.one_in(2);
    match chance.below(8) {
        0 => model.change(Change::Excluded(node, yes)),
        1 => model.change(Change::Usable(node, yes)),
        2 => model.change(Change::Pod(node, Some(yes))),
        3 => model.change(Change::Interface(chance.pick(&[None, Some("eth0"), Some("eth1")]).unwrap())),
        4 => model.change(Change::OnSubnet(node, yes)),
        5 => relocate(model, chance, first),
        6 => edit_configuration(model, chance),
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
        let mut chance = Chance(seed);
        let nodes = 2 + usize::try_from(chance.below(3)).unwrap();
        let mut model = begin(seed, &mut chance, nodes);
        model.loss = chance.pick(&[0, 0, 20, 150]).unwrap();
        model.pass(Duration::from_millis(chance.below(8_000)));
        for _ in 0..=chance.below(6) {
            if chance.one_in(2) {
                edit(&mut model, &mut chance);
            } else {
                fault(&mut model, &mut chance);
            }
            model.pass(Duration::from_millis(chance.below(1_500)));
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
        let mut chance = Chance(seed);
        let nodes = 2 + usize::try_from(chance.below(3)).unwrap();
        let mut model = begin(seed, &mut chance, nodes);
        model.pass(Duration::from_secs(8));
        for _ in 0..=chance.below(6) {
            edit(&mut model, &mut chance);
            model.pass(Duration::from_millis(chance.below(1_500)));
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

/// Node 0 may own everything all the time.
#[test]
fn requirement_4_an_owner_answers_until_its_successor_has_claimed_whatever_the_reason() {
    stories(COUNT, |seed| {
        let mut chance = Chance(seed);
        let nodes = 2 + usize::try_from(chance.below(3)).unwrap();
        let mut model = begin(seed, &mut chance, nodes);
        model.pass(Duration::from_secs(8));
        model.watch_anew();
        let changes = 1 + chance.below(5);
        for _ in 0..changes {
            handover(&mut model, &mut chance, 1);
            model.pass(Duration::from_millis(chance.below(2_500)));
        }
        model.pass(Duration::from_secs(4));
        for (address, seen) in &model.seen {
            let (two, none) = (seen.longest_two, seen.longest_none);
            assert!(none.is_zero(), "seed {seed}: {address} by nobody for {none:?}\n{}", model.describe());
            assert!(two <= INTERVAL, "seed {seed}: {address} by two for {two:?}\n{}", model.describe());
        }
        let most = usize::try_from(changes).unwrap() * 2 * model.seen.len() + 2 * pool().len();
        assert!(model.moves <= most, "seed {seed}: {} moves\n{}", model.moves, model.describe());
        rest(&mut model);
        one_owner_each(&model, seed);
    });
}

/// Node 0 may own everything, but for what the advertisement selects.
#[test]
fn requirement_1_an_invalid_edit_at_any_point_of_any_history_leaves_in_force_what_was_valid() {
    stories(COUNT, |seed| {
        let mut chance = Chance(seed);
        let nodes = 2 + usize::try_from(chance.below(3)).unwrap();
        let mut model = begin(seed, &mut chance, nodes);
        model.pass(Duration::from_secs(8));
        for _ in 0..chance.below(4) {
            edit(&mut model, &mut chance);
            handover(&mut model, &mut chance, 1);
            model.pass(Duration::from_millis(chance.below(1_500)));
        }
        rest(&mut model);
        let selected = chance.pick(&[None, Some(0), Some(1)]).unwrap();
        model.change(Change::Selected(selected));
        model.pass(Duration::from_secs(4));
        let owners = |model: &Model| -> Vec<Vec<usize>> {
            pool().into_iter().map(|address| model.owners(address)).collect()
        };
        let before = owners(&model);
        model.watch_anew();
        for object in [Object::Pool, Object::Advertisement] {
            model.change(Change::Invalid(object, true));
            model.pass(Duration::from_millis(chance.below(2_000)));
        }
        // What is edited meanwhile is not in force before it is valid.
        model.change(Change::Selected(None));
        model.pass(Duration::from_secs(4));
        let none = model.seen.values().map(|seen| seen.longest_none).max();
        assert!(none.is_none_or(|none| none.is_zero()), "seed {seed}: {none:?}\n{}", model.describe());
        assert_eq!(owners(&model), before, "seed {seed}\n{}", model.describe());
        // An owner goes: another one that is selected follows, and none that is not.
        let victim = node_of(&mut chance, 0, nodes);
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

/// An owner that cannot announce any more knows that itself, at once.
#[test]
fn requirement_2_what_ends_the_reachability_of_an_owner_moves_its_addresses_within_the_detection_time() {
    stories(COUNT, |seed| {
        let mut chance = Chance(seed);
        let nodes = 2 + usize::try_from(chance.below(3)).unwrap();
        let mut model = begin(seed, &mut chance, nodes);
        model.pass(Duration::from_secs(12));
        model.watch_anew();
        let victim = node_of(&mut chance, 0, nodes);
        match chance.below(3) {
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
                "seed {seed}: {address} by nobody for {none:?}\n{}",
                model.describe()
            );
            assert!(two <= INTERVAL, "seed {seed}: {address} by two for {two:?}\n{}", model.describe());
        }
        rest(&mut model);
        one_owner_each(&model, seed);
    });
}

/// What none of the nodes has a link for goes, without a gap, to the first one that gets one.
#[test]
fn requirement_2_a_node_that_alone_comes_to_be_on_the_subnet_is_handed_what_others_own() {
    stories(COUNT, |seed| {
        let mut chance = Chance(seed);
        let nodes = 2 + usize::try_from(chance.below(3)).unwrap();
        let mut model = Model::new(seed, nodes, Placement::Balanced);
        model.lag = chance.pick(&[0, 20, 300, 1_000]).unwrap();
        model.api.apply(&Change::Service(0, Some(some(&mut chance))));
        for node in 0..nodes {
            model.api.apply(&Change::OnSubnet(node, false));
        }
        for node in 0..nodes {
            model.start(node);
        }
        model.pass(Duration::from_secs(12));
        model.watch_anew();
        let chosen = node_of(&mut chance, 0, nodes);
        model.change(Change::OnSubnet(chosen, true));
        model.pass(Duration::from_secs(4));
        for (address, seen) in &model.seen {
            let (two, none) = (seen.longest_two, seen.longest_none);
            assert!(none.is_zero(), "seed {seed}: {address} by nobody for {none:?}\n{}", model.describe());
            assert!(two <= INTERVAL, "seed {seed}: {address} by two for {two:?}\n{}", model.describe());
            assert_eq!(model.owners(*address), [chosen], "seed {seed}: {address}\n{}", model.describe());
        }
    });
}

#[test]
fn a_node_whose_link_does_not_speak_the_family_leaves_the_address_to_others() {
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
