//! What the API says anew.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::conflict::OVER;
use super::phase::Event;
use super::probing::LEFT_TO_OTHERS;
use super::{GATHER, Ownership, SETTLE, remembered};
use crate::beacon::NodeId;
use crate::view::{Group, GroupId, View};

impl Ownership {
    /// Takes a new view, and marks the groups that there may be something to decide about.
    pub(super) fn set_view(&mut self, now: Instant, view: Arc<View>) {
        self.settling.get_or_insert_with(|| now.checked_add(SETTLE).unwrap_or(now));
        self.gathering.get_or_insert_with(|| now.checked_add(GATHER).unwrap_or(now));
        self.awaited = NodeId(0);
        self.set_directory(&view);
        let changed = changed_groups(&self.view, &view);
        // What was asked about other addresses is void.
        let addresses = |view: &View, id: &GroupId| view.groups.get(id).map(|group| group.addresses.clone());
        let differ = |id: &&GroupId| addresses(&self.view, id) != addresses(&view, id);
        let void = changed.iter().filter(|id| self.asking.contains(id)).filter(differ);
        for id in void.copied().collect::<Vec<_>>() {
            self.apply(now, id, Event::Stalled);
        }
        let before = std::mem::replace(&mut self.view, view);
        let view = Arc::clone(&self.view);
        let higher_before = std::mem::take(&mut self.higher);
        let group_before = |address| group_in(&before, &higher_before, address);
        for group in view.groups.values() {
            let higher = group.addresses.keys().filter(|address| *address != group.id);
            self.higher.extend(higher.map(|address| (address, group.id)));
        }
        self.recognise(now);
        self.note_former_groups(now, &before, &changed);
        for id in &changed {
            self.dirty.insert(*id);
            let old = before.groups.get(id);
            match view.groups.get(id) {
                Some(group) => self.set_group(now, group, old.map(|old| &**old), group_before),
                None => self.note_known(*id, false),
            }
        }
        self.follow_holders(now, &before);
        self.leave_to_others();
        self.over.retain(|_, since| now.saturating_duration_since(*since) < OVER);
        // Whether a speaker is ready decides about turns everywhere.
        if before.speakers != view.speakers {
            self.dirty.extend(view.groups.keys());
        }
        self.choose_talk(now);
    }

    /// Who is called what, and has which hardware address.
    fn set_directory(&mut self, view: &View) {
        if !view.speakers.keys().eq(self.view.speakers.keys()) {
            self.directory.names.clear();
            self.directory.names.extend(view.speakers.keys().map(|name| (NodeId::of(name), name.clone())));
        }
        self.directory.macs.clone_from(&view.macs);
        for (id, peer) in &self.peers {
            for mac in &peer.macs {
                self.directory.macs.entry(*mac).or_insert(*id);
            }
        }
        for mac in &self.macs {
            self.directory.macs.remove(mac);
        }
    }

    /// A group is new, or another than it was.
    fn set_group(
        &mut self,
        now: Instant,
        group: &Group,
        old: Option<&Group>,
        group_before: impl Fn(IpAddr) -> Option<GroupId>,
    ) {
        let id = group.id;
        let state = self.groups.entry(id).or_default();
        if let Some((_, epoch)) = &group.last {
            state.highest = state.highest.max(remembered(*epoch));
        }
        let regrouped = match old {
            Some(old) => old.addresses != group.addresses,
            None => group.addresses.keys().any(|address| group_before(address).is_some()),
        };
        if regrouped {
            state.regrouped = Some(now);
        }
        if state.lives.as_ref().is_some_and(|node| !group.admits(node)) {
            state.refused_no_longer_than(now);
        }
        if old.is_none() {
            self.note_known(id, true);
            self.inherit(now, group, &group_before);
        }
        if self.mine.contains_key(&id) {
            self.ask_about_added(now, group, &group_before);
        }
    }

    /// The view has a group from now on, or no longer.
    fn note_known(&mut self, id: GroupId, known: bool) {
        let claimants: Vec<NodeId> = self.claims_of(id).map(|(node, _)| node).collect();
        for node in claimants {
            if known {
                self.claimed_unknown.remove(&(node, id));
            } else {
                self.claimed_unknown.insert((node, id));
            }
        }
    }

    /// A group whose lowest address changed is a new one to the protocol; to its users it is the same. Who owned
    /// the old one has the new one too.
    fn inherit(&mut self, now: Instant, group: &Group, group_before: impl Fn(IpAddr) -> Option<GroupId>) {
        let before = group.addresses.keys().filter_map(group_before);
        // Also where this node must give it away: it answers until somebody has taken it.
        if let Some(epoch) = before.filter_map(|old| self.mine.get(&old).copied()).max() {
            self.apply(now, group.id, Event::Invited { epoch });
        }
    }

    /// Notes which addresses have left which groups.
    fn note_former_groups(&mut self, now: Instant, before: &View, changed: &[GroupId]) {
        self.formerly.retain(|_, since| now.saturating_duration_since(*since) < LEFT_TO_OTHERS);
        for group in changed.iter().filter_map(|id| before.groups.get(id)) {
            for address in group.addresses.keys() {
                if self.group_of(address) != Some(group.id) {
                    self.formerly.insert((address, group.id), now);
                }
            }
        }
    }
}

/// The groups that one of the views has not, or that differ in them: usually few of many.
fn changed_groups(before: &View, now: &View) -> Vec<GroupId> {
    let same = |a: &Arc<Group>, b: &Arc<Group>| Arc::ptr_eq(a, b);
    let groups = differing(&before.groups, &now.groups, same);
    let placed = differing(&before.placed, &now.placed, |a, b| a == b);
    let mut changed: Vec<GroupId> = groups.chain(placed).collect();
    changed.sort_unstable();
    changed.dedup();
    changed
}

/// The keys that only one of two maps has, or for which their values differ. One pass over both.
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

/// The group of a view that has an address; `higher` has the groups of those that are not the lowest of theirs.
pub(super) fn group_in(view: &View, higher: &HashMap<IpAddr, GroupId>, address: IpAddr) -> Option<GroupId> {
    let lowest = || view.groups.get(&address).filter(|group| group.addresses.contains(address));
    higher.get(&address).copied().or_else(|| lowest().map(|group| group.id))
}
