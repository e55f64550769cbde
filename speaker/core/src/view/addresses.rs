//! Addresses with the links that each is announced on.

use std::net::IpAddr;
use std::sync::Arc;

use crate::link::Scope;

/// A few addresses in their order. Nearly every group has one or two, and there may be thousands of groups: a tree
/// would take ten times the memory. A copy is the same list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(Arc<[(IpAddr, Scope)]>);

impl Addresses {
    /// The same list as `before` if it holds the same, so that it is held once.
    pub(super) fn reusing(addresses: Vec<(IpAddr, Scope)>, before: Option<&Self>) -> Self {
        match before.filter(|before| *before.0 == *addresses) {
            Some(before) => before.clone(),
            None => addresses.into_iter().collect(),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &Scope)> {
        self.0.iter().map(|(address, scope)| (*address, scope))
    }

    /// The addresses alone.
    pub fn keys(&self) -> impl Iterator<Item = IpAddr> {
        self.0.iter().map(|(address, _)| *address)
    }

    /// The links of one; none if it is not among them.
    pub fn get(&self, address: IpAddr) -> Option<&Scope> {
        self.0.iter().find(|(one, _)| *one == address).map(|(_, scope)| scope)
    }

    /// Whether it is among them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.get(address).is_some()
    }

    /// Only those that `wanted` says.
    #[must_use]
    pub fn only(&self, wanted: impl Fn(IpAddr) -> bool) -> Self {
        Self(self.0.iter().filter(|(address, _)| wanted(*address)).cloned().collect())
    }
}

/// Of an address that comes twice, the links are united.
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
    fn they_are_in_order_and_the_links_of_one_that_comes_twice_are_united() {
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
