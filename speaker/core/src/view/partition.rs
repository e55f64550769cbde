//! Which Services have addresses in common. That is kept from one view to the next, and only those that have changed, and
//! those that they share addresses with, are put together anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::advertised::SetId;
use super::nominate::ClassId;
use super::{Group, GroupId, Idle, NodeName, ServiceKey};
use crate::facts::ServiceFacts;

/// A Service, and what is decided about it alone.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) service: Arc<ServiceFacts>,
    /// The advertisements that announce it.
    pub(super) verdict: Result<SetId, Idle>,
    /// If it has endpoints that can serve: where, sorted, as far as its traffic policy makes that matter.
    pub(super) serving: Option<Arc<[NodeName]>>,
    /// Who announced it last, and in which epoch.
    pub(super) last: Option<(NodeName, u64)>,
}

/// Services that have addresses in common, directly or by way of others, in order of their names.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) parts: Box<[Part]>,
    pub(super) class: ClassId,
    /// The group that was made of it last.
    pub(super) group: Option<Arc<Group>>,
    /// Why nobody may own that group, beyond [`Idle::message`].
    pub(super) detail: Option<Arc<str>>,
}

/// All cells, by their lowest address.
#[derive(Debug, Default)]
pub(super) struct Partition {
    pub(super) cells: BTreeMap<GroupId, Cell>,
    home: HashMap<IpAddr, GroupId>,
}

impl Partition {
    /// Takes the cells apart that have one of `addresses`, drops the Services that `is_gone` says and puts the others
    /// together with `parts`. Returns the new cells.
    pub(super) fn replace(
        &mut self,
        addresses: impl Iterator<Item = IpAddr>,
        is_gone: impl Fn(&ServiceKey) -> bool,
        mut parts: Vec<Part>,
    ) -> Vec<GroupId> {
        let affected: BTreeSet<GroupId> = addresses.filter_map(|ip| self.home.get(&ip).copied()).collect();
        for cell in affected.iter().filter_map(|id| self.cells.remove(id)) {
            for part in cell.parts {
                for address in &part.service.addresses {
                    self.home.remove(address);
                }
                if !is_gone(&part.service.key) {
                    parts.push(part);
                }
            }
        }
        let mut new = Vec::new();
        for mut members in tied_together(parts) {
            members.sort_unstable_by(|a, b| a.service.key.cmp(&b.service.key));
            let addresses = || members.iter().flat_map(|part| part.service.addresses.iter().copied());
            let Some(id) = addresses().min() else { continue };
            self.home.extend(addresses().map(|address| (address, id)));
            let parts = members.into_boxed_slice();
            self.cells.insert(id, Cell { parts, class: ClassId::default(), group: None, detail: None });
            new.push(id);
        }
        new
    }
}

fn tied_together(parts: Vec<Part>) -> Vec<Vec<Part>> {
    fn find(leader: &mut [usize], mut index: usize) -> usize {
        while leader[index] != index {
            leader[index] = leader[leader[index]];
            index = leader[index];
        }
        index
    }
    let mut leader: Vec<usize> = (0..parts.len()).collect();
    let mut first_with: HashMap<IpAddr, usize> = HashMap::new();
    for (index, part) in parts.iter().enumerate() {
        for address in &part.service.addresses {
            let other = *first_with.entry(*address).or_insert(index);
            let (a, b) = (find(&mut leader, index), find(&mut leader, other));
            leader[a.max(b)] = a.min(b);
        }
    }
    let mut sets: BTreeMap<usize, Vec<Part>> = BTreeMap::new();
    for (index, part) in parts.into_iter().enumerate() {
        sets.entry(find(&mut leader, index)).or_default().push(part);
    }
    sets.into_values().collect()
}

/// What is in one of two lists and not in the other, by pointers; usually they have nearly everything in common.
pub(super) fn different<'a, T>(
    before: &'a [Arc<T>],
    now: &'a [Arc<T>],
) -> (Vec<&'a Arc<T>>, Vec<&'a Arc<T>>) {
    let start = before.iter().zip(now).take_while(|(a, b)| Arc::ptr_eq(a, b)).count();
    let (before, now) = (&before[start..], &now[start..]);
    let end = before.iter().rev().zip(now.iter().rev()).take_while(|(a, b)| Arc::ptr_eq(a, b)).count();
    let (before, now) = (&before[..before.len() - end], &now[..now.len() - end]);
    let sorted = |list: &[Arc<T>]| {
        let mut pointers: Vec<*const T> = list.iter().map(Arc::as_ptr).collect();
        pointers.sort_unstable();
        pointers
    };
    let only = |list: &'a [Arc<T>], other: &[*const T]| {
        list.iter().filter(|one| other.binary_search(&Arc::as_ptr(one)).is_err()).collect()
    };
    let pointers = (sorted(before), sorted(now));
    (only(before, &pointers.1), only(now, &pointers.0))
}

/// Whether both are lists of the same objects.
pub(super) fn same<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_lists_do_not_have_in_common_is_found_wherever_it_is() {
        let all: Vec<Arc<u32>> = (0..100).map(Arc::new).collect();
        let list = |numbers: &[usize]| -> Vec<Arc<u32>> {
            numbers.iter().map(|number| Arc::clone(&all[*number])).collect()
        };
        let values = |list: Vec<&Arc<u32>>| list.into_iter().map(|value| **value).collect::<Vec<_>>();
        for (before, now, gone, come) in [
            (&[1, 2, 3][..], &[1, 2, 3][..], &[][..], &[][..]),
            (&[], &[1, 2], &[], &[1, 2]),
            (&[1, 2], &[], &[1, 2], &[]),
            (&[1, 2, 3, 4, 5, 6], &[1, 9, 3, 4, 8, 6], &[2, 5], &[9, 8]),
            (&[1, 2, 3, 4], &[2, 3, 4, 5], &[1], &[5]),
            (&[1, 2, 3], &[3, 2, 1], &[], &[]),
        ] {
            let (before, now) = (list(before), list(now));
            let (a, b) = different(&before, &now);
            assert_eq!((values(a), values(b)), (gone.to_vec(), come.to_vec()));
        }
    }
}
