//! The candidates of a group, best first.

use std::collections::HashSet;
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
    /// Places in `nodes`, best first. Kubernetes supports 5 000 nodes; beyond 65 536 the rest have no place.
    order: Box<[u16]>,
}

impl Candidates {
    /// In order for an address: by their tiers, then by [`placement::rendezvous`].
    pub fn ranked(address: IpAddr, nodes: Vec<Candidate>) -> Self {
        Self::rank(address, by_name(nodes).into())
    }

    /// The same, without work where it was done before: `before` are candidates for the same address. Hashing every
    /// address with every node is what costs most in a large cluster.
    pub(super) fn ranked_anew(
        address: IpAddr,
        nodes: Vec<Candidate>,
        before: Option<&Self>,
        shared: &mut Shared,
    ) -> Self {
        let nodes = by_name(nodes);
        match before.filter(|before| *before.nodes == *nodes) {
            Some(before) => before.clone(),
            None => Self::rank(address, shared.take(nodes)),
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

    /// The candidate that is this node.
    pub fn get(&self, node: &str) -> Option<&Candidate> {
        self.place(node).and_then(|place| self.nodes.get(place))
    }

    /// How many come before this node.
    pub fn position(&self, node: &str) -> Option<usize> {
        let place = u16::try_from(self.place(node)?).ok()?;
        self.order.iter().position(|other| *other == place)
    }

    fn place(&self, node: &str) -> Option<usize> {
        self.nodes.binary_search_by(|candidate: &Candidate| (*candidate.node).cmp(node)).ok()
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
        self.place(node).is_some()
    }
}

/// The lists of candidates that groups have, each once.
#[derive(Debug, Default)]
pub(super) struct Shared(HashSet<Arc<[Candidate]>>);

impl Shared {
    /// Those that these groups have.
    pub(super) fn of<'a>(groups: impl Iterator<Item = &'a Candidates>) -> Self {
        let mut seen = HashSet::new();
        let first = |candidates: &&Candidates| seen.insert(candidates.nodes.as_ptr());
        Self(groups.filter(first).map(|candidates| Arc::clone(&candidates.nodes)).collect())
    }

    fn take(&mut self, nodes: Vec<Candidate>) -> Arc<[Candidate]> {
        if let Some(known) = self.0.get(&*nodes) {
            return Arc::clone(known);
        }
        let nodes: Arc<[Candidate]> = nodes.into();
        self.0.insert(Arc::clone(&nodes));
        nodes
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
        let none = Candidates::default();
        let mut shared = Shared::of([&none, &elsewhere, &elsewhere].into_iter());
        let mut again = |names, before| Candidates::ranked_anew(ADDRESS, nodes(names), before, &mut shared);
        let kept = again(&["b", "a", "c"], Some(&alone));
        assert!(kept == alone && Arc::ptr_eq(&kept.nodes, &alone.nodes));
        let shares = again(&["b", "a", "c"], None);
        assert!(shares == alone && Arc::ptr_eq(&shares.nodes, &elsewhere.nodes));
        assert!(again(&[], None).is_empty());
        let fewer = again(&["a", "b"], Some(&alone));
        assert_eq!(fewer, Candidates::ranked(ADDRESS, nodes(&["a", "b"])));
        assert!(fewer.contains("a") && !fewer.contains("c"));
        assert!(Arc::ptr_eq(&again(&["b", "a"], None).nodes, &fewer.nodes));
    }
}
