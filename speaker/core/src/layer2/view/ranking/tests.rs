use super::*;
use crate::cluster::NodeName;
use crate::layer2::placement::rendezvous;
use crate::layer2::view::Tier;

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

fn node(number: usize) -> NodeName {
    format!("node-{number}").into()
}

fn in_tier(number: usize, remote: bool) -> Candidate {
    Candidate::new(node(number), Tier { remote, ..Tier::default() })
}

fn plain(numbers: impl IntoIterator<Item = usize>) -> Vec<Candidate> {
    numbers.into_iter().map(|number| in_tier(number, false)).collect()
}

/// The order by the definition.
fn expected(mut nodes: Vec<Candidate>) -> Vec<NodeName> {
    nodes.sort_by_key(|candidate| (candidate.tier, rendezvous(ADDRESS, &candidate.node)));
    nodes.into_iter().map(|candidate| candidate.node).collect()
}

fn names(candidates: &Candidates) -> Vec<NodeName> {
    candidates.iter().map(|candidate| candidate.node.clone()).collect()
}

fn follow_to(before: &Candidates, nodes: Vec<Candidate>) -> Candidates {
    let mut sets = CandidateSets::from_candidates([before].into_iter());
    let set = sets.of_nodes(nodes);
    sets.ranked(&set, ADDRESS, Some(before))
}

#[test]
fn all_candidates_are_in_order_though_only_the_best_are_kept() {
    let candidates = Candidates::ranked(ADDRESS, plain(0..200));
    assert_eq!(candidates.best.len(), KEPT);
    assert_eq!(names(&candidates), expected(plain(0..200)));
    assert_eq!(
        (candidates.len(), candidates.contains("node-7"), candidates.contains("x")),
        (200, true, false)
    );
    assert_eq!(candidates.get(NodeId::from_name("node-7")).unwrap().node, node(7));
}

#[test]
fn the_order_stays_exact_when_candidates_are_added_removed_or_change_their_tier() {
    // A fixed pseudo-random sequence: each step removes some nodes, adds some, and changes the tier of some.
    let mut state = 7_usize;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for start in [3, 20, 60] {
        let mut present: std::collections::BTreeMap<usize, bool> = (0..start).map(|n| (n, false)).collect();
        let list = |present: &std::collections::BTreeMap<usize, bool>| -> Vec<Candidate> {
            present.iter().map(|(number, remote)| in_tier(*number, *remote)).collect()
        };
        let mut candidates = Candidates::ranked(ADDRESS, list(&present));
        for step in 0..200 {
            for _ in 0..=random(3) {
                let number = random(80);
                match random(3) {
                    0 => {
                        present.insert(number, random(4) == 0);
                    }
                    1 => {
                        present.remove(&number);
                    }
                    _ => {
                        present.entry(number).and_modify(|remote| *remote = !*remote).or_default();
                    }
                }
            }
            candidates = follow_to(&candidates, list(&present));
            assert_eq!(names(&candidates), expected(list(&present)), "{start} {step}");
            assert!(candidates.best.len() <= KEPT);
        }
    }
}

#[test]
fn a_removed_node_costs_a_group_no_hash_and_an_added_one_costs_one() {
    let before = Candidates::ranked(ADDRESS, plain(0..100));
    let removed = names(&before)[3].clone();
    let count = || crate::layer2::placement::hashed();
    let start = count();
    let without = follow_to(&before, plain(0..100).into_iter().filter(|c| c.node != removed).collect());
    assert_eq!((count() - start, without.best.len()), (0, KEPT - 1));
    follow_to(&before, plain(0..101));
    assert_eq!(count() - start, 1);
}

#[test]
fn equal_candidates_are_stored_once_and_those_of_another_address_are_distinct() {
    let alone = Candidates::ranked(ADDRESS, plain(0..3));
    let elsewhere: IpAddr = "10.0.0.2".parse().unwrap();
    let mut sets = CandidateSets::from_candidates([&alone].into_iter());
    let set = sets.of_nodes(plain((0..3).rev()));
    let reused = sets.ranked(&set, ADDRESS, Some(&alone));
    assert!(Arc::ptr_eq(&reused.set, &alone.set) && reused == alone);
    let other = sets.ranked(&set, elsewhere, Some(&alone));
    assert!(Arc::ptr_eq(&other.set, &alone.set));
    assert_eq!(other, Candidates::ranked(elsewhere, plain(0..3)));
    assert_ne!(other, alone);
    let none = sets.of_nodes(Vec::new());
    assert!(sets.ranked(&none, ADDRESS, None).is_empty());
}

#[test]
fn the_candidate_with_the_least_key_is_found_and_of_equal_ones_the_first_in_order() {
    let candidates = Candidates::ranked(ADDRESS, plain(0..100));
    let ids =
        || (40..60).map(|number| NodeId::from_name(&node(number))).chain([NodeId::from_name("no candidate")]);
    assert_eq!(candidates.first_by(ids(), |_| ()).unwrap().node, expected(plain(40..60))[0]);
    let wanted = node(50);
    assert_eq!(candidates.first_by(ids(), |c| c.node != wanted).unwrap().node, wanted);
    assert!(candidates.first_by([], |_| ()).is_none());
}
