//! The addresses of one pool and family that Services with one sharing pair have, to find the first that one more
//! fits on.

use std::collections::{BTreeMap, BTreeSet};

use crate::request::Port;
use crate::usage::Usage;

/// So many addresses are looked at one by one before a view of its own pays for itself.
const SCAN: usize = 8;

/// Who looks for an address to join.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Joiner {
    /// All of these must be free.
    pub(crate) ports: BTreeSet<Port>,
    /// Set if a Service of this namespace must be there already, so that a quota counts the address once.
    pub(crate) namespace: Option<String>,
}

impl Joiner {
    fn fits(&self, usage: &Usage) -> bool {
        let there = |namespace: &String| usage.in_namespace(namespace);
        !usage.uses_any(&self.ports) && self.namespace.as_ref().is_none_or(there)
    }
}

/// So many joiners are remembered: what a tenant asked for once and no more must not cost memory and time for ever.
const VIEWS: usize = 128;

/// Where one joiner fits.
#[derive(Clone, Debug)]
struct View {
    positions: BTreeSet<u128>,
    /// When it was last asked for, as [`Shared::asked`] counts.
    last: u64,
}

/// Positions of the addresses that one pair has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared {
    positions: BTreeSet<u128>,
    /// For a joiner that was hard to place a while ago: the positions where it fits.
    views: BTreeMap<Joiner, View>,
    /// How often a view was asked for.
    asked: u64,
}

impl Shared {
    /// The address at `position` now has `usage`.
    pub(crate) fn insert(&mut self, position: u128, usage: &Usage) {
        self.positions.insert(position);
        for (joiner, view) in &mut self.views {
            if joiner.fits(usage) {
                view.positions.insert(position);
            } else {
                view.positions.remove(&position);
            }
        }
    }

    /// The address at `position` is no longer one of the pair's. True if none is left.
    pub(crate) fn remove(&mut self, position: u128) -> bool {
        self.positions.remove(&position);
        for view in self.views.values_mut() {
            view.positions.remove(&position);
        }
        self.positions.is_empty()
    }

    /// The first position where `joiner` fits.
    pub(crate) fn first<'a>(
        &mut self,
        joiner: &Joiner,
        usage_at: impl Fn(u128) -> Option<&'a Usage>,
    ) -> Option<u128> {
        let fits = |position: &u128| usage_at(*position).is_some_and(|usage| joiner.fits(usage));
        if let Some(position) = self.positions.iter().take(SCAN).find(|position| fits(position)) {
            return Some(*position);
        }
        if self.positions.len() <= SCAN {
            return None;
        }
        if !self.views.contains_key(joiner) {
            self.forget_a_view();
            let positions = self.positions.iter().copied().filter(|position| fits(position)).collect();
            self.views.insert(joiner.clone(), View { positions, last: 0 });
        }
        self.asked += 1;
        let view = self.views.get_mut(joiner)?;
        view.last = self.asked;
        view.positions.first().copied()
    }

    /// Makes room for one view more: the one that was not asked for the longest goes.
    fn forget_a_view(&mut self) {
        while self.views.len() >= VIEWS {
            let oldest =
                self.views.iter().min_by_key(|(_, view)| view.last).map(|(joiner, _)| joiner.clone());
            let Some(oldest) = oldest else { return };
            self.views.remove(&oldest);
        }
    }

    #[cfg(test)]
    pub(crate) fn views(&self) -> usize {
        self.views.len()
    }
}
