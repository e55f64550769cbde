//! The addresses of one pool and family that Services with one sharing pair have, to find the first that one more
//! fits on.

use std::collections::{BTreeMap, BTreeSet};

use crate::request::Port;
use crate::usage::Usage;

/// So many addresses are looked at one by one before a view of its own pays for itself.
const SCAN: usize = 8;

/// Positions of the addresses that one pair has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared {
    positions: BTreeSet<u128>,
    /// For a set of ports that was once hard to place: the positions where all of them are free.
    views: BTreeMap<BTreeSet<Port>, BTreeSet<u128>>,
}

impl Shared {
    /// The address at `position` now has `usage`.
    pub(crate) fn insert(&mut self, position: u128, usage: &Usage) {
        self.positions.insert(position);
        for (ports, view) in &mut self.views {
            if usage.uses_any(ports) {
                view.remove(&position);
            } else {
                view.insert(position);
            }
        }
    }

    /// The address at `position` is no longer one of the pair's. True if none is left.
    pub(crate) fn remove(&mut self, position: u128) -> bool {
        self.positions.remove(&position);
        for view in self.views.values_mut() {
            view.remove(&position);
        }
        self.positions.is_empty()
    }

    /// The first position where all of `ports` are free.
    pub(crate) fn first<'a>(
        &mut self,
        ports: &BTreeSet<Port>,
        usage_at: impl Fn(u128) -> Option<&'a Usage>,
    ) -> Option<u128> {
        let free = |position: &u128| usage_at(*position).is_some_and(|usage| !usage.uses_any(ports));
        if let Some(position) = self.positions.iter().take(SCAN).find(|position| free(position)) {
            return Some(*position);
        }
        if self.positions.len() <= SCAN {
            return None;
        }
        if !self.views.contains_key(ports) {
            let view = self.positions.iter().copied().filter(|position| free(position)).collect();
            self.views.insert(ports.clone(), view);
        }
        self.views.get(ports)?.first().copied()
    }
}
