//! What a new view changes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::conflict::RESOLVED_RETENTION;
use super::epoch::sanitized_stored_epoch;
use super::phase::Event;
use super::probing::STALE_VIEW_TOLERANCE;
use super::{GATHER_TIME, Ownership, SETTLE_TIME};
use crate::cluster::GroupId;
use crate::cluster::NodeId;
use crate::layer2::view::{Group, View};

impl Ownership {
    /// Replaces the view, and marks the groups to evaluate.
    pub(super) fn set_view(&mut self, now: Instant, view: Arc<View>) {
        self.settle_until.get_or_insert_with(|| now.checked_add(SETTLE_TIME).unwrap_or(now));
        self.gather_until.get_or_insert_with(|| now.checked_add(GATHER_TIME).unwrap_or(now));
        self.awaited = NodeId(0);
        self.update_directory(&view);
        let changed = view.changed_groups(&self.view);
        // Probes of groups whose addresses have changed are void.
        let addresses = |view: &View, id: &GroupId| view.groups.get(id).map(|group| group.addresses.clone());
        let differ = |id: &&GroupId| addresses(&self.view, id) != addresses(&view, id);
        let void = changed.iter().filter(|id| self.probing.contains(id)).filter(differ);
        for id in void.copied().collect::<Vec<_>>() {
            self.apply(now, id, Event::Stalled);
        }
        let before = std::mem::replace(&mut self.view, view);
        let view = Arc::clone(&self.view);
        let higher_before = std::mem::take(&mut self.secondary_addresses);
        let group_before = |address| group_in(&before, &higher_before, address);
        for group in view.groups.values() {
            let secondary = group.addresses.keys().filter(|address| *address != group.id);
            self.secondary_addresses.extend(secondary.map(|address| (address, group.id)));
        }
        self.resolve_known_speakers(now);
        self.note_former_groups(now, &before, &changed);
        for id in &changed {
            self.dirty.insert(*id);
            let old = before.groups.get(id);
            match view.groups.get(id) {
                Some(group) => self.update_group(now, group, old.map(|old| &**old), group_before),
                None => self.note_group_known(*id, false),
            }
        }
        self.update_node_addresses(now, &before);
        self.drop_foreign_state();
        self.resolved_conflicts
            .retain(|_, resolved| now.saturating_duration_since(resolved.at) < RESOLVED_RETENTION);
        // The readiness of speakers affects the takeover order of all groups.
        if before.speakers != view.speakers {
            self.dirty.extend(view.groups.keys());
        }
        self.select_beacon_peers(now);
    }

    /// Updates the names and hardware addresses of nodes.
    fn update_directory(&mut self, view: &View) {
        if !view.speakers.keys().eq(self.view.speakers.keys()) {
            self.directory.names.clear();
            self.directory
                .names
                .extend(view.speakers.keys().map(|name| (NodeId::from_name(name), name.clone())));
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

    /// A group is new or has changed.
    fn update_group(
        &mut self,
        now: Instant,
        group: &Group,
        old: Option<&Group>,
        group_before: impl Fn(IpAddr) -> Option<GroupId>,
    ) {
        let id = group.id;
        let state = self.groups.entry(id).or_default();
        if let Some((_, epoch)) = &group.last {
            state.highest_epoch = state.highest_epoch.max(sanitized_stored_epoch(*epoch));
        }
        let regrouped = match old {
            Some(old) => old.addresses != group.addresses,
            None => group.addresses.keys().any(|address| group_before(address).is_some()),
        };
        if regrouped {
            state.regrouped_at = Some(now);
        }
        if state.alive_owner.as_ref().is_some_and(|node| !group.admits(node)) {
            state.limit_backoff(now);
        }
        if old.is_none() {
            self.note_group_known(id, true);
            self.inherit_ownership(now, group, &group_before);
        }
        if self.owned.contains_key(&id) {
            self.verify_new_addresses(now, group, &group_before);
        }
    }

    /// A group has appeared in the view or disappeared from it.
    fn note_group_known(&mut self, id: GroupId, known: bool) {
        let claimants: Vec<NodeId> = self.claims_of(id).map(|(node, _)| node).collect();
        for node in claimants {
            if known {
                self.unknown_group_claims.remove(&(node, id));
            } else {
                self.unknown_group_claims.insert((node, id));
            }
        }
    }

    /// A group whose lowest address has changed has another id, but is the same to its users: the owner of
    /// the old group owns the new one as well.
    fn inherit_ownership(
        &mut self,
        now: Instant,
        group: &Group,
        group_before: impl Fn(IpAddr) -> Option<GroupId>,
    ) {
        let before = group.addresses.keys().filter_map(group_before);
        // Also if this node must hand it over: it answers until a successor has claimed it.
        if let Some(epoch) = before.filter_map(|old| self.owned.get(&old).copied()).max() {
            self.apply(now, group.id, Event::HandedOver { epoch });
        }
    }

    /// Records which addresses have left which groups.
    fn note_former_groups(&mut self, now: Instant, before: &View, changed: &[GroupId]) {
        self.former_groups.retain(|_, since| now.saturating_duration_since(*since) < STALE_VIEW_TOLERANCE);
        for group in changed.iter().filter_map(|id| before.groups.get(id)) {
            for address in group.addresses.keys() {
                if self.group_of(address) != Some(group.id) {
                    self.former_groups.insert((address, group.id), now);
                }
            }
        }
    }
}

/// The group of a view that contains an address; `secondary` maps the addresses that are not the lowest of
/// their group.
pub(super) fn group_in(
    view: &View,
    secondary: &HashMap<IpAddr, GroupId>,
    address: IpAddr,
) -> Option<GroupId> {
    let lowest = || view.groups.get(&address).filter(|group| group.addresses.contains(address));
    secondary.get(&address).copied().or_else(|| lowest().map(|group| group.id))
}
