//! A group whose addresses have just changed: in the views of other speakers they may still be in other
//! groups.

use super::*;
use crate::layer2::beacon::Claim;

/// Whether node 0 accepts the first group from node 1, this long after it has learned of `after`.
fn accepts_offer(before: View, after: View, later: Duration) -> bool {
    let mut harness = PeerHarness::new(before);
    harness.live(&[(1, 0)], Duration::from_secs(2));
    harness.feed(Input::View(Arc::new(after)));
    harness.live(&[(1, 0)], later);
    assert!(!harness.owns(group(1)));
    harness.receive_from(1, Body::Leave(vec![Claim { group: group(1), epoch: 5 }]));
    harness.owns(group(1))
}

fn views() -> (View, View) {
    let last = (1, 9);
    let mut one = view(&[0, 1], &[0, 1], &[(group(1), Some(last))], BALANCED);
    let mut two = one.clone();
    two.groups.insert(group(1), Arc::new(two_addresses(equal_candidates(0..2), last)));
    for view in [&mut one, &mut two] {
        // Node 0 yields it to node 1 until that hands it over.
        view.placed = [(group(1), name(1))].into();
    }
    (one, two)
}

#[test]
fn requirement_9_a_group_that_has_just_got_an_address_is_not_taken_from_its_owner_for_a_second() {
    let (one, two) = views();
    assert!(!accepts_offer(one.clone(), two.clone(), INTERVAL));
    assert!(accepts_offer(one, two.clone(), Duration::from_millis(1_200)), "then it is");
    assert!(accepts_offer(two.clone(), two, INTERVAL), "where nothing has changed it is at once");
}

#[test]
fn requirement_9_a_new_group_with_an_address_of_another_one_is_not_taken_from_its_owner_for_a_second() {
    let (one, two) = views();
    // The second address alone was a group before; with the first one the group has another id.
    let mut before = view(&[0, 1], &[0, 1], &[(group(2), Some((1, 9)))], BALANCED);
    before.placed = [(group(2), name(1))].into();
    assert!(!accepts_offer(before.clone(), two, INTERVAL));
    before.groups.clear();
    assert!(accepts_offer(before, one, INTERVAL), "one that is new altogether is taken at once");
}
