//! Fixtures of several tests: one group, with node `a` as candidate.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use announce::cluster::link::Scope;
use announce::cluster::{NodeName, Speaker};
use announce::layer2::view::{Candidate, Candidates, Group, Tier, View};

/// The only address of the group.
pub(crate) fn address() -> IpAddr {
    Ipv4Addr::new(10, 0, 0, 1).into()
}

/// The group with these candidates.
pub(crate) fn group(candidates: &[&str]) -> Group {
    let id = address();
    let candidate = |name: &&str| Candidate::new((*name).into(), Tier::default());
    Group {
        id,
        hashed: id,
        addresses: [(id, Scope::All)].into(),
        services: Box::default(),
        candidates: Candidates::ranked(id, candidates.iter().map(candidate).collect()),
        not_announced: None,
        retainable: false,
        last: None,
    }
}

/// A view with only this group and the speaker of `a`.
pub(crate) fn view() -> View {
    let me: NodeName = "a".into();
    let mut view = View::default();
    view.groups.insert(address(), Arc::new(group(&["a"])));
    view.placed.insert(address(), me.clone());
    view.speakers.insert(me, Speaker { address: None, ready: true, running: true, generation: 1 });
    view
}
