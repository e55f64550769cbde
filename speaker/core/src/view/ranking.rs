//! The candidates of a group, best first.

use std::net::IpAddr;
use std::sync::Arc;

use super::Candidate;
use crate::placement;

/// See the module. Nearly all groups have the same candidates in an order of their own, so the candidates are shared and
/// only the order is held: with hundreds of nodes and groups that is a twentieth of the memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// In order of their names.
    nodes: Arc<[Candidate]>,
    /// Places in `nodes`, best first. A cluster has at most 5 000 nodes.
    order: Box<[u16]>,
}

impl Candidates {
    /// In order for an address: by their tiers, then by [`placement::rendezvous`].
    pub fn ranked(address: IpAddr, nodes: Vec<Candidate>) -> Self {
        Self::rank(address, by_name(nodes).into())
    }

    /// The same, without work where it was done before: `before` are candidates for the same address, `neighbour` those of
    /// another group. Hashing every address with every node is what costs most in a large cluster.
    pub(super) fn ranked_anew(
        address: IpAddr,
        nodes: Vec<Candidate>,
        before: Option<&Self>,
        neighbour: Option<&Self>,
    ) -> Self {
        let nodes = by_name(nodes);
        let same = |known: &&Self| *known.nodes == *nodes;
        match (before.filter(same), neighbour.filter(same)) {
            (Some(before), _) => before.clone(),
            (None, Some(neighbour)) => Self::rank(address, Arc::clone(&neighbour.nodes)),
            (None, None) => Self::rank(address, nodes.into()),
        }
    }

    fn rank(address: IpAddr, nodes: Arc<[Candidate]>) -> Self {
        let mut order: Box<[u16]> = (0..=u16::MAX).take(nodes.len()).collect();
        order.sort_by_cached_key(|place| {
            let candidate = nodes.get(usize::from(*place))?;
            Some((candidate.tier, placement::rendezvous(address, &candidate.node)))
        });
        Self { nodes, order }
    }

    /// Best first.
    pub fn iter(&self) -> impl Iterator<Item = &Candidate> + Clone {
        self.order.iter().filter_map(|place| self.nodes.get(usize::from(*place)))
    }

    /// The best.
    pub fn first(&self) -> Option<&Candidate> {
        self.iter().next()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Whether `node` is one.
    pub fn contains(&self, node: &str) -> bool {
        self.nodes.binary_search_by(|candidate: &Candidate| (*candidate.node).cmp(node)).is_ok()
    }
}

/// In the order in which they come.
impl FromIterator<Candidate> for Candidates {
    fn from_iter<I: IntoIterator<Item = Candidate>>(candidates: I) -> Self {
        let given: Vec<Candidate> = candidates.into_iter().collect();
        let nodes = by_name(given.clone());
        let place = |one: &Candidate| nodes.iter().position(|node| node.node == one.node);
        let order = given.iter().filter_map(|one| u16::try_from(place(one)?).ok()).collect();
        Self { nodes: nodes.into(), order }
    }
}

fn by_name(mut nodes: Vec<Candidate>) -> Vec<Candidate> {
    nodes.sort_by(|a, b| a.node.cmp(&b.node));
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Tier;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn nodes(names: &[&str]) -> Vec<Candidate> {
        names.iter().map(|name| Candidate::new((*name).into(), Tier::default())).collect()
    }

    #[test]
    fn what_is_known_already_is_shared_and_changes_nothing() {
        let alone = Candidates::ranked(ADDRESS, nodes(&["c", "a", "b"]));
        let elsewhere = Candidates::ranked("10.0.0.2".parse().unwrap(), nodes(&["a", "b", "c"]));
        let again =
            |before, neighbour| Candidates::ranked_anew(ADDRESS, nodes(&["b", "a", "c"]), before, neighbour);
        assert_eq!(again(None, None), alone);
        let kept = again(Some(&alone), Some(&elsewhere));
        assert!(kept == alone && Arc::ptr_eq(&kept.nodes, &alone.nodes));
        let shares = again(None, Some(&elsewhere));
        assert!(shares == alone && Arc::ptr_eq(&shares.nodes, &elsewhere.nodes));
        let fewer = Candidates::ranked_anew(ADDRESS, nodes(&["a", "b"]), Some(&alone), Some(&elsewhere));
        assert_eq!(fewer, Candidates::ranked(ADDRESS, nodes(&["a", "b"])));
        assert!(fewer.contains("a") && !fewer.contains("c"));
    }
}
