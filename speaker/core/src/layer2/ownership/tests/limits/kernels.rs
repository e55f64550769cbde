//! Kernels of other nodes that answer for addresses of this node.

use super::super::fixture::Last;
use super::super::world::address;
use super::*;
use crate::layer2::beacon::{Claim, digest_of};

/// An owner of this number of groups that hears the speakers of nodes 1 and 2, which claim nothing.
fn owner_of(groups: u8) -> PeerHarness {
    let nodes = [0, 1, 2];
    let groups: Vec<(GroupId, Last)> = (1..=groups).map(|number| (group(number), None)).collect();
    let mut harness = PeerHarness::new(view(&nodes, &nodes, &groups, BALANCED));
    harness.own_all();
    harness.live(&[(1, 0), (2, 0)], Duration::from_secs(2));
    harness
}

/// The kernel of `node` claims the first addresses, and answers all probes for them for a while.
fn answers(harness: &mut PeerHarness, node: usize, addresses: u8) -> usize {
    let addresses: Vec<IpAddr> = (1..=addresses).map(group).collect();
    for address in &addresses {
        harness.feed(Input::Contested(frame_of(node, *address)));
    }
    let mut probed = 0;
    for _ in 0..30 {
        let outputs = harness.live(&[(1, 0), (2, 0)], INTERVAL);
        for output in outputs {
            let Output::Probe(address, ..) = output else { continue };
            probed += 1;
            harness.feed(Input::ProbeAnswered(frame_of(node, address)));
        }
    }
    probed
}

#[test]
fn requirement_3_a_kernel_that_contests_an_announced_address_is_reported_once_it_has_answered_a_probe() {
    let mut harness = owner_of(1);
    harness.feed(Input::Contested(frame_of(1, group(1))));
    assert!(harness.speaker.answering_kernels().is_empty(), "a frame alone can be from anybody");
    assert_eq!(answers(&mut harness, 1, 1), 1);
    assert_eq!(harness.speaker.answering_kernels(), [name(1)].into());
    assert!(harness.owns(group(1)) && harness.speaker.is_announced(group(1)));
}

#[test]
fn requirement_3_a_kernel_with_many_answers_does_not_keep_that_of_another_node_from_being_reported() {
    let mut harness = owner_of(40);
    assert_eq!(answers(&mut harness, 1, 30), 2, "two addresses are enough to know it");
    harness.feed(Input::Contested(frame_of(2, group(40))));
    for output in harness.live(&[(1, 0), (2, 0)], Duration::from_secs(2)) {
        if let Output::Probe(address, ..) = output {
            harness.feed(Input::ProbeAnswered(frame_of(2, address)));
        }
    }
    assert_eq!(harness.speaker.answering_kernels(), [name(1), name(2)].into());
}

#[test]
fn requirement_3_a_speaker_that_claims_the_address_by_now_is_not_reported_as_a_kernel() {
    let mut harness = owner_of(1);
    harness.feed(Input::Contested(frame_of(1, group(1))));
    let claim = Claim { group: group(1), epoch: 0 };
    let digest = digest_of(claim);
    harness.receive_from(1, Body::Update(vec![(claim, true)]));
    for _ in 0..30 {
        for output in harness.live(&[(1, digest), (2, 0)], INTERVAL) {
            if let Output::Probe(address, ..) = output {
                harness.feed(Input::ProbeAnswered(frame_of(1, address)));
            }
        }
    }
    assert!(harness.speaker.peers[&NodeId::from_name(&name(1))].in_sync, "it is heard from {}", address(1));
    assert!(harness.speaker.answering_kernels().is_empty());
}
