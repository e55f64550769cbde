//! Epochs that are too high.

use super::*;
use crate::layer2::beacon::Claim;
use crate::layer2::ownership::epoch::{MAX_EPOCH, MAX_STORED_EPOCH, sanitized_epoch};

#[test]
fn an_impossibly_high_epoch_does_not_prevent_takeovers() {
    let owner = higher();
    for absurd in [u64::MAX, u64::MAX - 1, MAX_EPOCH + 1] {
        let last = Some((owner, absurd));
        let mut harness = PeerHarness::new(view(&[0, owner], &[0, owner], &[(group(1), last)], BALANCED));
        let claim = Claim { group: group(1), epoch: absurd };
        harness.receive_from(owner, Body::Update(vec![(claim, true)]));
        harness.live(&[(owner, crate::layer2::beacon::digest([claim]))], Duration::from_secs(2));
        assert!(!harness.owns(group(1)));
        // Power failure.
        harness.pass(Duration::from_secs(1));
        harness.feed(Input::ProbeClear(group(1)));
        assert!(harness.owns(group(1)), "{absurd}");
    }
}

#[test]
fn the_highest_valid_epoch_is_the_same_for_every_kind_of_message_and_a_higher_one_is_treated_as_0() {
    let other = higher();
    let asking = || {
        let mut harness = PeerHarness::new(view(&[0, other], &[0], &[(group(1), Some((0, 1)))], BALANCED));
        harness.receive_from(other, Body::Alive { digest: 0 });
        harness
    };
    let claims = |epoch| vec![Claim { group: group(1), epoch }];
    for (epoch, counts) in [(MAX_EPOCH, true), (MAX_EPOCH + 1, false), (u64::MAX, false)] {
        let digest = crate::layer2::beacon::digest(claims(epoch));
        let bodies = [
            Body::Update(vec![(claims(epoch)[0], true)]),
            Body::Claims { digest, part: 0, parts: 1, claims: claims(epoch) },
        ];
        for body in bodies {
            let mut harness = asking();
            harness.feed(Input::ProbeClear(group(1)));
            assert!(harness.owns(group(1)));
            harness.receive_from(other, body.clone());
            assert_eq!(harness.owns(group(1)), !counts, "{epoch} {body:?}");
            let outputs = harness.receive_from(other, Body::Alive { digest });
            let requests = |output: &Output| match output {
                Output::Send { message, .. } => message.body == Body::Request,
                _ => false,
            };
            assert!(!outputs.iter().any(requests), "an ignored epoch is part of the digest all the same");
        }
        let mut harness = asking();
        harness.receive_from(other, Body::Intent(claims(epoch)));
        harness.feed(Input::ProbeClear(group(1)));
        assert_eq!(harness.owns(group(1)), !counts, "{epoch}");
        let mut harness = asking();
        harness.receive_from(other, Body::Leave(claims(epoch)));
        assert_eq!(harness.speaker.owned()[&group(1)], if counts { MAX_EPOCH } else { 2 });
    }
}

#[test]
fn an_accepted_epoch_of_the_api_leaves_room_for_increments() {
    let owner = higher();
    let last = Some((owner, MAX_STORED_EPOCH));
    let mut harness = PeerHarness::new(view(&[0, owner], &[0], &[(group(1), last)], BALANCED));
    harness.pass(Duration::from_secs(2));
    harness.feed(Input::ProbeClear(group(1)));
    let epoch = harness.speaker.owned()[&group(1)];
    assert_eq!(epoch, MAX_STORED_EPOCH + 1);
    assert_eq!(sanitized_epoch(epoch), epoch);
}
