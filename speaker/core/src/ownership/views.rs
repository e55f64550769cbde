//! What the API says anew.

use std::collections::HashMap;
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
        self.directory.names.clear();
        self.directory.names.extend(view.speakers.keys().map(|name| (NodeId::of(name), name.clone())));
        self.directory.macs.clone_from(&view.macs);
        for (id, peer) in &self.peers {
            for mac in &peer.macs {
                self.directory.macs.entry(*mac).or_insert(*id);
            }
        }
        for mac in &self.macs {
            self.directory.macs.remove(mac);
        }
        // What was asked about other addresses is void.
        let addresses = |view: &View, id: &GroupId| view.groups.get(id).map(|group| group.addresses.clone());
        let changed = |id: &&GroupId| addresses(&self.view, id) != addresses(&view, id);
        let void: Vec<GroupId> = self.asking.iter().filter(changed).copied().collect();
        for id in void {
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
        self.note_former_groups(now, &before);
        for (id, group) in &view.groups {
            let old = before.groups.get(id);
            if old.is_some_and(|old| Arc::ptr_eq(old, group)) && before.placed.get(id) == view.placed.get(id)
            {
                continue;
            }
            self.dirty.insert(*id);
            let state = self.groups.entry(*id).or_default();
            if let Some((_, epoch)) = &group.last {
                state.highest = state.highest.max(remembered(*epoch));
            }
            if old.is_some_and(|old| old.addresses != group.addresses) {
                state.regrouped = Some(now);
            }
            if state.lives.as_ref().is_some_and(|node| !group.admits(node)) {
                state.refused_no_longer_than(now);
            }
            if old.is_none() {
                self.note_known(*id, true);
                self.inherit(now, group, group_before);
            }
            if self.mine.contains_key(id) {
                self.ask_about_added(now, group, group_before);
            }
        }
        self.follow_holders(now, &before);
        self.leave_to_others();
        self.over.retain(|_, since| now.saturating_duration_since(*since) < OVER);
        for id in before.groups.keys().filter(|id| !view.groups.contains_key(id)) {
            self.note_known(*id, false);
            self.dirty.insert(*id);
        }
        // Whether a speaker is ready decides about turns everywhere.
        if before.speakers != view.speakers {
            self.dirty.extend(view.groups.keys());
        }
        self.choose_talk(now);
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
        let Some(epoch) = before.filter_map(|old| self.mine.get(&old).copied()).max() else { return };
        if group.admits(&self.settings.me) {
            self.apply(now, group.id, Event::Invited { epoch });
        }
    }

    /// Notes which addresses have left which groups.
    fn note_former_groups(&mut self, now: Instant, before: &View) {
        self.formerly.retain(|_, since| now.saturating_duration_since(*since) < LEFT_TO_OTHERS);
        for (id, group) in &before.groups {
            if self.view.groups.get(id).is_some_and(|new| Arc::ptr_eq(new, group)) {
                continue;
            }
            for address in group.addresses.keys() {
                if self.group_of(address) != Some(*id) {
                    self.formerly.insert((address, *id), now);
                }
            }
        }
    }
}

/// The group of a view that has an address; `higher` has the groups of those that are not the lowest of theirs.
pub(super) fn group_in(view: &View, higher: &HashMap<IpAddr, GroupId>, address: IpAddr) -> Option<GroupId> {
    let lowest = || view.groups.get(&address).filter(|group| group.addresses.contains(address));
    higher.get(&address).copied().or_else(|| lowest().map(|group| group.id))
}
