//! Kernels of other nodes that answer for addresses of ours.

use super::super::fixture::Last;
use super::super::world::address;
use super::*;

/// An owner of so many groups that hears the speakers of nodes 1 and 2, which claim nothing.
fn owner_of(groups: u8) -> Desk {
    let nodes = [0, 1, 2];
    let groups: Vec<(GroupId, Last)> = (1..=groups).map(|number| (group(number), None)).collect();
    let mut desk = Desk::new(view(&nodes, &nodes, &groups, BALANCED));
    desk.own_all();
    desk.live(&[(1, 0), (2, 0)], Duration::from_secs(2));
    desk
}

/// The kernel of `node` claims the first addresses, and answers whenever it is asked about them for a while.
fn answers(desk: &mut Desk, node: usize, addresses: u8) -> usize {
    let addresses: Vec<IpAddr> = (1..=addresses).map(group).collect();
    for address in &addresses {
        desk.feed(Input::Contested(frame_of(node, *address)));
    }
    let mut probed = 0;
    for _ in 0..30 {
        let outputs = desk.live(&[(1, 0), (2, 0)], INTERVAL);
        for output in outputs {
            let Output::Probe(address, ..) = output else { continue };
            probed += 1;
            desk.feed(Input::Answered(frame_of(node, address)));
        }
    }
    probed
}

#[test]
fn requirement_3_a_kernel_that_contests_an_announced_address_is_reported_once_it_has_answered_a_probe() {
    let mut desk = owner_of(1);
    desk.feed(Input::Contested(frame_of(1, group(1))));
    assert!(desk.speaker.kernels().is_empty(), "a frame alone can be from anybody");
    assert_eq!(answers(&mut desk, 1, 1), 1);
    assert_eq!(desk.speaker.kernels(), [name(1)].into());
    assert!(desk.owns(group(1)) && desk.speaker.is_announced(group(1)));
}

#[test]
fn requirement_3_a_kernel_that_answers_for_many_addresses_does_not_keep_that_of_another_node_from_being_reported()
 {
    let mut desk = owner_of(40);
    assert_eq!(answers(&mut desk, 1, 30), 2, "two addresses are enough to know it");
    desk.feed(Input::Contested(frame_of(2, group(40))));
    for output in desk.live(&[(1, 0), (2, 0)], Duration::from_secs(2)) {
        if let Output::Probe(address, ..) = output {
            desk.feed(Input::Answered(frame_of(2, address)));
        }
    }
    assert_eq!(desk.speaker.kernels(), [name(1), name(2)].into());
}

#[test]
fn requirement_3_a_speaker_that_claims_the_address_by_now_is_not_reported_as_a_kernel() {
    let mut desk = owner_of(1);
    desk.feed(Input::Contested(frame_of(1, group(1))));
    let claim = Stake { group: group(1), epoch: 0 };
    let print = print_of(claim);
    desk.hear(1, Body::Update(vec![(claim, true)]));
    for _ in 0..30 {
        for output in desk.live(&[(1, print), (2, 0)], INTERVAL) {
            if let Output::Probe(address, ..) = output {
                desk.feed(Input::Answered(frame_of(1, address)));
            }
        }
    }
    assert!(desk.speaker.peers[&NodeId::of(&name(1))].agrees, "it is heard from {}", address(1));
    assert!(desk.speaker.kernels().is_empty());
}
