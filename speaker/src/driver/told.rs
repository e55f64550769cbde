//! What the responder was told to announce, by group.
//!
//! A group whose lowest address changes is another group, and an address may go from one group to another. For a
//! moment two groups hold it then: it is withdrawn only once neither does.

use std::collections::BTreeMap;
use std::net::IpAddr;

use announce::link::Scope;
use announce::view::{Addresses, GroupId};

/// What to tell the responder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Announce(IpAddr, Scope),
    Withdraw(IpAddr),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Told {
    groups: BTreeMap<GroupId, Addresses>,
    /// How many groups hold an address.
    holders: BTreeMap<IpAddr, usize>,
}

impl Told {
    /// The groups that are announced.
    pub(super) fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.groups.keys().copied()
    }

    /// What a group announces.
    pub(super) fn addresses(&self, id: GroupId) -> Vec<IpAddr> {
        self.groups.get(&id).into_iter().flat_map(Addresses::keys).collect()
    }

    /// From now on this group is announced, with no address yet; false if it was already.
    pub(super) fn begin(&mut self, id: GroupId) -> bool {
        let new = !self.groups.contains_key(&id);
        self.groups.entry(id).or_default();
        new
    }

    /// These groups, as far as they are announced, have these addresses from now on. What is announced comes
    /// before what is withdrawn, so that an address that changes groups never stops being announced.
    pub(super) fn align(&mut self, wanted: Vec<(GroupId, Addresses)>) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut left = Vec::new();
        for (id, wanted) in wanted {
            let Some(told) = self.groups.get_mut(&id) else { continue };
            for (address, scope) in wanted.iter() {
                let before = told.get(address);
                if before.is_none() {
                    *self.holders.entry(address).or_default() += 1;
                }
                if before != Some(scope) {
                    changes.push(Change::Announce(address, scope.clone()));
                }
            }
            left.extend(told.keys().filter(|address| !wanted.contains(*address)));
            *told = wanted;
        }
        changes.extend(left.into_iter().filter_map(|address| self.release(address)));
        changes
    }

    /// This group goes on with those of its addresses that are to be kept.
    pub(super) fn retain(&mut self, id: GroupId, keep: impl Fn(IpAddr) -> bool) -> Vec<Change> {
        let Some(told) = self.groups.get_mut(&id) else { return Vec::new() };
        let kept = told.only(keep);
        let left: Vec<IpAddr> = told.keys().filter(|address| !kept.contains(*address)).collect();
        *told = kept;
        left.into_iter().filter_map(|address| self.release(address)).collect()
    }

    /// This group is announced no more.
    pub(super) fn end(&mut self, id: GroupId) -> Vec<Change> {
        let addresses = self.groups.remove(&id).unwrap_or_default();
        addresses.keys().filter_map(|address| self.release(address)).collect()
    }

    /// One group less holds the address.
    fn release(&mut self, address: IpAddr) -> Option<Change> {
        let holders = self.holders.get_mut(&address)?;
        *holders = holders.saturating_sub(1);
        if *holders > 0 {
            return None;
        }
        self.holders.remove(&address);
        Some(Change::Withdraw(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn all(addresses: &[&str]) -> Addresses {
        addresses.iter().map(|address| (ip(address), Scope::All)).collect()
    }

    fn announce(address: &str) -> Change {
        Change::Announce(ip(address), Scope::All)
    }

    fn told(groups: &[&[&str]]) -> Told {
        let mut told = Told::default();
        for addresses in groups {
            let id = ip(addresses[0]);
            assert!(told.begin(id));
            told.align(vec![(id, all(addresses))]);
        }
        told
    }

    #[test]
    fn a_group_that_gets_a_lower_address_goes_on_announcing_the_others() {
        let mut told = told(&[&["fd00::1"]]);
        assert!(told.begin(ip("10.0.0.1")));
        let changes = told.align(vec![(ip("10.0.0.1"), all(&["10.0.0.1", "fd00::1"]))]);
        assert_eq!(changes, [announce("10.0.0.1"), announce("fd00::1")]);
        assert_eq!(told.end(ip("fd00::1")), []);
        let withdrawn = [Change::Withdraw(ip("10.0.0.1")), Change::Withdraw(ip("fd00::1"))];
        assert_eq!(told.end(ip("10.0.0.1")), withdrawn);
    }

    #[test]
    fn an_address_that_goes_to_another_group_is_announced_before_and_not_withdrawn_after() {
        let both = ["10.0.0.1", "10.0.0.9", "10.0.0.5"];
        for (from, to) in [(both[0], both[1]), (both[1], both[0])] {
            let mut told = told(&[&[from, both[2]], &[to]]);
            let wanted = vec![(ip(from), all(&[from])), (ip(to), all(&[to, both[2]]))];
            assert_eq!(told.align(wanted), [announce(both[2])], "from {from} to {to}");
        }
    }

    #[test]
    fn what_did_not_change_is_not_told_again_and_what_changed_links_is() {
        let mut told = told(&[&["10.0.0.1", "10.0.0.2"]]);
        let id = ip("10.0.0.1");
        assert!(!told.begin(id), "an announcement may be repeated");
        assert_eq!(told.align(vec![(id, all(&["10.0.0.1", "10.0.0.2"]))]), []);
        let eth1 = Scope::Named(["eth1".to_owned()].into());
        let changes = told.align(vec![(id, [(id, eth1.clone())].into())]);
        assert_eq!(changes, [Change::Announce(id, eth1), Change::Withdraw(ip("10.0.0.2"))]);
    }

    #[test]
    fn groups_that_are_not_announced_are_left_alone() {
        let mut told = Told::default();
        assert_eq!(told.align(vec![(ip("10.0.0.1"), all(&["10.0.0.1"]))]), []);
        assert_eq!(told.end(ip("10.0.0.1")), []);
    }
}
