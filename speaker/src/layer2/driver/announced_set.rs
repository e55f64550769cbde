//! The addresses that the responder announces, by group.
//!
//! A group whose lowest address changes gets another id, and an address may move from one group to another.
//! Then two groups contain it for a moment: it is withdrawn only once neither does.

use std::collections::BTreeMap;
use std::net::IpAddr;

use announce::cluster::GroupId;
use announce::cluster::link::Scope;
use announce::layer2::view::Addresses;

/// A change for the responder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Announce(IpAddr, Scope),
    Withdraw(IpAddr),
}

/// The announced groups with their addresses.
#[derive(Debug, Default)]
pub(super) struct AnnouncedSet {
    groups: BTreeMap<GroupId, Addresses>,
    /// The number of announced groups that contain an address.
    holders: BTreeMap<IpAddr, usize>,
}

impl AnnouncedSet {
    /// Whether a group is announced.
    pub(super) fn contains(&self, id: GroupId) -> bool {
        self.groups.contains_key(&id)
    }

    /// The groups that are announced.
    #[cfg(test)]
    pub(super) fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.groups.keys().copied()
    }

    /// The announced addresses of a group.
    pub(super) fn addresses(&self, id: GroupId) -> Vec<IpAddr> {
        self.groups.get(&id).into_iter().flat_map(Addresses::keys).collect()
    }

    /// Adds a group without addresses; false if it is announced already.
    pub(super) fn insert(&mut self, id: GroupId) -> bool {
        let new = !self.groups.contains_key(&id);
        self.groups.entry(id).or_default();
        new
    }

    /// Sets the addresses of those groups that are announced. Announcements precede withdrawals, so that an
    /// address that moves to another group stays announced throughout.
    pub(super) fn reconcile(&mut self, wanted: Vec<(GroupId, Addresses)>) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut left = Vec::new();
        for (id, wanted) in wanted {
            let Some(announced) = self.groups.get_mut(&id) else { continue };
            for (address, scope) in wanted.iter() {
                let before = announced.get(address);
                if before.is_none() {
                    *self.holders.entry(address).or_default() += 1;
                }
                if before != Some(scope) {
                    changes.push(Change::Announce(address, scope.clone()));
                }
            }
            left.extend(announced.keys().filter(|address| !wanted.contains(*address)));
            *announced = wanted;
        }
        changes.extend(left.into_iter().filter_map(|address| self.release(address)));
        changes
    }

    /// Keeps only the addresses of a group for which `keep` is true.
    pub(super) fn retain(&mut self, id: GroupId, keep: impl Fn(IpAddr) -> bool) -> Vec<Change> {
        let Some(announced) = self.groups.get_mut(&id) else { return Vec::new() };
        let remaining = announced.only(keep);
        let left: Vec<IpAddr> = announced.keys().filter(|address| !remaining.contains(*address)).collect();
        *announced = remaining;
        left.into_iter().filter_map(|address| self.release(address)).collect()
    }

    /// Removes a group.
    pub(super) fn remove(&mut self, id: GroupId) -> Vec<Change> {
        let addresses = self.groups.remove(&id).unwrap_or_default();
        addresses.keys().filter_map(|address| self.release(address)).collect()
    }

    /// One announced group less contains the address.
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

    fn announced(groups: &[&[&str]]) -> AnnouncedSet {
        let mut announced = AnnouncedSet::default();
        for addresses in groups {
            let id = ip(addresses[0]);
            assert!(announced.insert(id));
            announced.reconcile(vec![(id, all(addresses))]);
        }
        announced
    }

    #[test]
    fn a_group_that_gets_a_lower_address_keeps_announcing_the_others() {
        let mut announced = announced(&[&["fd00::1"]]);
        assert!(announced.insert(ip("10.0.0.1")));
        let changes = announced.reconcile(vec![(ip("10.0.0.1"), all(&["10.0.0.1", "fd00::1"]))]);
        assert_eq!(changes, [announce("10.0.0.1"), announce("fd00::1")]);
        assert_eq!(announced.remove(ip("fd00::1")), []);
        let withdrawn = [Change::Withdraw(ip("10.0.0.1")), Change::Withdraw(ip("fd00::1"))];
        assert_eq!(announced.remove(ip("10.0.0.1")), withdrawn);
    }

    #[test]
    fn an_address_that_moves_to_another_group_is_not_withdrawn() {
        let both = ["10.0.0.1", "10.0.0.9", "10.0.0.5"];
        for (from, to) in [(both[0], both[1]), (both[1], both[0])] {
            let mut announced = announced(&[&[from, both[2]], &[to]]);
            let wanted = vec![(ip(from), all(&[from])), (ip(to), all(&[to, both[2]]))];
            assert_eq!(announced.reconcile(wanted), [announce(both[2])], "from {from} to {to}");
        }
    }

    #[test]
    fn an_unchanged_address_is_not_announced_again_and_one_with_other_links_is() {
        let mut announced = announced(&[&["10.0.0.1", "10.0.0.2"]]);
        let id = ip("10.0.0.1");
        assert!(!announced.insert(id), "an announcement may be repeated");
        assert_eq!(announced.reconcile(vec![(id, all(&["10.0.0.1", "10.0.0.2"]))]), []);
        let eth1 = Scope::Named(["eth1".to_owned()].into());
        let changes = announced.reconcile(vec![(id, [(id, eth1.clone())].into())]);
        assert_eq!(changes, [Change::Announce(id, eth1), Change::Withdraw(ip("10.0.0.2"))]);
    }

    #[test]
    fn groups_that_are_not_announced_are_ignored() {
        let mut announced = AnnouncedSet::default();
        assert_eq!(announced.reconcile(vec![(ip("10.0.0.1"), all(&["10.0.0.1"]))]), []);
        assert_eq!(announced.remove(ip("10.0.0.1")), []);
    }
}
