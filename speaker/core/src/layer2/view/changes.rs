//! The differences between two views.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Group, View};
use crate::cluster::GroupId;

impl View {
    /// The groups that differ from those of the previous view, or exist in only one of them, sorted: usually few
    /// of many.
    pub fn changed_groups(&self, before: &Self) -> Vec<GroupId> {
        let same = |a: &Arc<Group>, b: &Arc<Group>| Arc::ptr_eq(a, b);
        let groups = differing(&before.groups, &self.groups, same);
        let placed = differing(&before.placed, &self.placed, |a, b| a == b);
        let mut changed: Vec<GroupId> = groups.chain(placed).collect();
        changed.sort_unstable();
        changed.dedup();
        changed
    }
}

/// The keys that exist in only one of two maps, or whose values differ. One pass over both.
fn differing<'a, V>(
    before: &'a BTreeMap<GroupId, V>,
    now: &'a BTreeMap<GroupId, V>,
    same: impl Fn(&V, &V) -> bool + 'a,
) -> impl Iterator<Item = GroupId> + 'a {
    let (mut before, mut now) = (before.iter().peekable(), now.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let order = match (before.peek(), now.peek()) {
                (Some((a, _)), Some((b, _))) => a.cmp(b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return None,
            };
            match order {
                Ordering::Less => return before.next().map(|(id, _)| *id),
                Ordering::Greater => return now.next().map(|(id, _)| *id),
                Ordering::Equal => {
                    let ((id, old), (_, new)) = before.next().zip(now.next())?;
                    if !same(old, new) {
                        return Some(*id);
                    }
                }
            }
        }
    })
}
