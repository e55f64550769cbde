//! An address that this node answers for, and the links on which it does.

use std::time::Instant;

use crate::cluster::link::{Link, LinkIndex, Scope};

#[derive(Debug)]
pub(super) struct Announced {
    pub(super) scope: Scope,
    /// The links that it is announced on, each with the generation of its schedule there. Usually one, and
    /// there may be thousands of addresses: a tree would take ten times the memory.
    pub(super) links: Vec<(LinkIndex, u32)>,
    pub(super) defended: Option<Instant>,
}

impl Announced {
    pub(super) fn indices(&self) -> impl Iterator<Item = LinkIndex> {
        self.links.iter().map(|(index, _)| *index)
    }

    pub(super) fn generation(&self, index: LinkIndex) -> Option<u32> {
        self.links.iter().find(|(link, _)| *link == index).map(|(_, generation)| *generation)
    }
}

impl Link {
    /// Whether the announcements on this link stay the same when it changes to `new`.
    pub(super) fn announces_same_as(&self, new: &Self) -> bool {
        let Self { index, name, mac, broadcast, link_local, subnets: _, carrier_ups } = self;
        (index, name, mac, broadcast, link_local, carrier_ups)
            == (&new.index, &new.name, &new.mac, &new.broadcast, &new.link_local, &new.carrier_ups)
    }
}
