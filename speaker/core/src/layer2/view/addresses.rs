//! Addresses with the links on which each is announced.

use std::net::IpAddr;
use std::sync::Arc;

use crate::cluster::link::Scope;

/// A sorted list of addresses. Nearly every group has one or two, and there may be thousands of groups: a
/// tree would take ten times the memory. A clone shares the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(Arc<[(IpAddr, Scope)]>);

impl Addresses {
    /// Reuses the list of `before` if it is equal, so that it is stored once.
    pub(super) fn reusing(addresses: Vec<(IpAddr, Scope)>, before: Option<&Self>) -> Self {
        match before.filter(|before| *before.0 == *addresses) {
            Some(before) => before.clone(),
            None => addresses.into_iter().collect(),
        }
    }

    /// All addresses with their scopes.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &Scope)> {
        self.0.iter().map(|(address, scope)| (*address, scope))
    }

    /// All addresses.
    pub fn keys(&self) -> impl Iterator<Item = IpAddr> {
        self.0.iter().map(|(address, _)| *address)
    }

    /// The scope of an address; none if it is not in the list.
    pub fn get(&self, address: IpAddr) -> Option<&Scope> {
        self.0.iter().find(|(one, _)| *one == address).map(|(_, scope)| scope)
    }

    /// Whether the list contains an address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.get(address).is_some()
    }

    /// The addresses for which `wanted` is true.
    #[must_use]
    pub fn only(&self, wanted: impl Fn(IpAddr) -> bool) -> Self {
        Self(self.0.iter().filter(|(address, _)| wanted(*address)).cloned().collect())
    }
}

/// The scopes of a duplicate address are merged.
impl FromIterator<(IpAddr, Scope)> for Addresses {
    fn from_iter<I: IntoIterator<Item = (IpAddr, Scope)>>(addresses: I) -> Self {
        let mut all: Vec<(IpAddr, Scope)> = addresses.into_iter().collect();
        all.sort_by_key(|(address, _)| *address);
        all.dedup_by(|(address, scope), (before, united)| {
            let same = address == before;
            if same {
                *united = std::mem::replace(united, Scope::All).union(std::mem::replace(scope, Scope::All));
            }
            same
        });
        Self(all.into())
    }
}

impl<const N: usize> From<[(IpAddr, Scope); N]> for Addresses {
    fn from(addresses: [(IpAddr, Scope); N]) -> Self {
        addresses.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_sorted_and_the_scopes_of_duplicates_are_merged() {
        let on = |link: &str| Scope::Named([link.to_owned()].into());
        let addresses = Addresses::from([
            (ip("fd00::1"), Scope::All),
            (ip("10.0.0.1"), on("eth0")),
            (ip("fd00::1"), on("eth1")),
            (ip("10.0.0.1"), on("eth1")),
        ]);
        assert_eq!(addresses.keys().collect::<Vec<_>>(), [ip("10.0.0.1"), ip("fd00::1")]);
        let both = Scope::Named(["eth0".to_owned(), "eth1".to_owned()].into());
        assert_eq!(addresses.get(ip("10.0.0.1")), Some(&both));
        assert_eq!(addresses.get(ip("fd00::1")), Some(&Scope::All));
        assert!(!addresses.contains(ip("10.0.0.2")));
        assert_eq!(addresses.only(|address| address.is_ipv6()).keys().collect::<Vec<_>>(), [ip("fd00::1")]);
    }
}
