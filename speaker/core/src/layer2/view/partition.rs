//! Partitions Services by shared addresses, incrementally: only those that have changed, and those that share
//! addresses with them, are regrouped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::advertised::SetId;
use super::selection::ClassId;
use super::{Group, NotAnnounced};
use crate::cluster::objects::ServiceInfo;
use crate::cluster::{GroupId, NodeName, ServiceKey};

/// A Service with the results that depend only on it.
#[derive(Debug)]
pub(super) struct GroupMember {
    pub(super) service: Arc<ServiceInfo>,
    /// The advertisements that apply to it.
    pub(super) advertisements: Result<SetId, NotAnnounced>,
    /// The sorted nodes of its endpoints that can serve, if it has any; empty unless its traffic policy is
    /// local.
    pub(super) serving: Option<Arc<[NodeName]>>,
    /// The last node that announced it, and its epoch.
    pub(super) last: Option<(NodeName, u64)>,
}

/// Services that share addresses, directly or transitively, sorted by name.
#[derive(Debug)]
pub(super) struct SharedGroup {
    pub(super) members: Box<[GroupMember]>,
    pub(super) class: ClassId,
    /// The group that was last built from it.
    pub(super) group: Option<Arc<Group>>,
    /// Details why no node may own that group, in addition to [`NotAnnounced::message`].
    pub(super) detail: Option<Arc<str>>,
}

/// All shared groups, by their lowest address.
#[derive(Debug, Default)]
pub(super) struct Partition {
    pub(super) shared_groups: BTreeMap<GroupId, SharedGroup>,
    home: HashMap<IpAddr, GroupId>,
}

impl Partition {
    /// Removes the shared groups with one of `addresses`, drops the Services for which `is_gone` is true, and
    /// regroups the others together with `members`. Returns the ids of the new shared groups.
    pub(super) fn replace(
        &mut self,
        addresses: impl Iterator<Item = IpAddr>,
        is_gone: impl Fn(&ServiceKey) -> bool,
        mut members: Vec<GroupMember>,
    ) -> Vec<GroupId> {
        let affected: BTreeSet<GroupId> = addresses.filter_map(|ip| self.home.get(&ip).copied()).collect();
        for shared_group in affected.iter().filter_map(|id| self.shared_groups.remove(id)) {
            for member in shared_group.members {
                for address in &member.service.addresses {
                    self.home.remove(address);
                }
                if !is_gone(&member.service.key) {
                    members.push(member);
                }
            }
        }
        let mut new = Vec::new();
        for mut members in group_by_shared_address(members) {
            members.sort_unstable_by(|a, b| a.service.key.cmp(&b.service.key));
            let addresses = || members.iter().flat_map(|member| member.service.addresses.iter().copied());
            let Some(id) = addresses().min() else { continue };
            self.home.extend(addresses().map(|address| (address, id)));
            let members = members.into_boxed_slice();
            self.shared_groups
                .insert(id, SharedGroup { members, class: ClassId::default(), group: None, detail: None });
            new.push(id);
        }
        new
    }
}

fn group_by_shared_address(members: Vec<GroupMember>) -> Vec<Vec<GroupMember>> {
    fn find(leader: &mut [usize], mut index: usize) -> usize {
        while leader[index] != index {
            leader[index] = leader[leader[index]];
            index = leader[index];
        }
        index
    }
    let mut leader: Vec<usize> = (0..members.len()).collect();
    let mut first_with: HashMap<IpAddr, usize> = HashMap::new();
    for (index, member) in members.iter().enumerate() {
        for address in &member.service.addresses {
            let other = *first_with.entry(*address).or_insert(index);
            let (a, b) = (find(&mut leader, index), find(&mut leader, other));
            leader[a.max(b)] = a.min(b);
        }
    }
    let mut sets: BTreeMap<usize, Vec<GroupMember>> = BTreeMap::new();
    for (index, member) in members.into_iter().enumerate() {
        sets.entry(find(&mut leader, index)).or_default().push(member);
    }
    sets.into_values().collect()
}

/// The elements that are in only one of two lists, compared by pointer; usually the lists are nearly equal.
pub(super) fn diff<'a, T>(before: &'a [Arc<T>], now: &'a [Arc<T>]) -> (Vec<&'a Arc<T>>, Vec<&'a Arc<T>>) {
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
pub(super) fn same_objects<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_differences_of_two_lists_are_found_at_any_position() {
        let all: Vec<Arc<u32>> = (0..100).map(Arc::new).collect();
        let list = |numbers: &[usize]| -> Vec<Arc<u32>> {
            numbers.iter().map(|number| Arc::clone(&all[*number])).collect()
        };
        let values = |list: Vec<&Arc<u32>>| list.into_iter().map(|value| **value).collect::<Vec<_>>();
        for (before, now, removed, added) in [
            (&[1, 2, 3][..], &[1, 2, 3][..], &[][..], &[][..]),
            (&[], &[1, 2], &[], &[1, 2]),
            (&[1, 2], &[], &[1, 2], &[]),
            (&[1, 2, 3, 4, 5, 6], &[1, 9, 3, 4, 8, 6], &[2, 5], &[9, 8]),
            (&[1, 2, 3, 4], &[2, 3, 4, 5], &[1], &[5]),
            (&[1, 2, 3], &[3, 2, 1], &[], &[]),
        ] {
            let (before, now) = (list(before), list(now));
            let (a, b) = diff(&before, &now);
            assert_eq!((values(a), values(b)), (removed.to_vec(), added.to_vec()));
        }
    }
}
