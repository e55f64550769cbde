//! Hosts and nodes that have an address of ours.
//!
//! | who has it | what follows |
//! |---|---|
//! | a node of the cluster, on a link or by its status ([`View::held`]) | no node announces it, whatever the detection mode; the API says when that ends, and then it is probed |
//! | a foreign host | a [`Conflict`]: withheld or defended by the detection mode, probed again until it is gone |
//! | the kernel of a node that holds it on no link, as with kube-proxy in ipvs mode without strictARP | it is announced all the same, and reported |
//!
//! What is reported changes rarely, however many frames arrive: each change is written to the API.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Added, Detection, Output, Ownership};
use crate::beacon::NodeId;
use crate::link::Scope;
use crate::responder::{Plan, Sighting};
use crate::view::{GroupId, NodeName, View};

/// When the address of a conflict is probed again for the first time; each time that it is answered, the pause doubles.
const REPROBE: Duration = Duration::from_secs(1);
/// The longest pause (as RATE_LIMIT_INTERVAL of RFC 5227 §1.1).
const REPROBE_AT_MOST: Duration = Duration::from_secs(60);
/// For how long what is reported of a conflict names the same hardware address, at first; each time that it changes the time
/// doubles, up to an hour: somebody may invent a new one for each frame, and each is an event.
const IDENTITY_HOLDS: Duration = Duration::from_secs(10);
const IDENTITY_HOLDS_AT_MOST: Duration = Duration::from_secs(3_600);
/// When a conflict was last seen is reported in steps of this size.
const LAST_SEEN_STEP: Duration = Duration::from_secs(60);
/// For how long it is known of an address that a foreign host is gone: whoever has reported it has removed
/// the report by then.
pub(super) const OVER: Duration = Duration::from_secs(3_600);
/// Addresses of one node for which its kernel answers: more say nothing new, and each is probed again every minute.
const KERNELS_OF_NODE: usize = 2;
/// The same of all nodes.
const KERNELS: usize = 128;
/// How many answers of a node that is no candidate are taken for those of an owner that is about to hand over, which takes
/// no longer than three seconds: each answer is followed by a pause of a second or more.
pub(super) const BYSTANDERS: u8 = 3;

/// A foreign host has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Where it was seen; of several hosts that are seen in turn, one of them.
    pub sighting: Sighting,
    /// When it was first seen.
    pub first: Instant,
    /// When it was last seen, in steps of a minute.
    pub last: Instant,
    /// The address is not announced because of it.
    pub withheld: bool,
    scope: Scope,
    /// When it was first reported with this hardware address.
    identified: Instant,
    /// For how long it is.
    holds: Duration,
    /// When to probe again.
    next: Option<Instant>,
    /// How long after that, if it is still there.
    pause: Duration,
}

impl Conflict {
    /// Probes again after `pause`, and then after twice as long.
    fn ask_after(&mut self, now: Instant, pause: Duration) {
        self.next = now.checked_add(pause);
        self.pause = pause.saturating_mul(2).min(REPROBE_AT_MOST);
    }

    /// It was seen again. Whether what is reported of it has changed.
    fn seen(&mut self, now: Instant, sighting: Sighting) -> bool {
        let other = (self.sighting.mac, self.sighting.link) != (sighting.mac, sighting.link);
        let renamed = other && now.saturating_duration_since(self.identified) >= self.holds;
        if renamed {
            self.sighting = sighting;
            self.identified = now;
            self.holds = self.holds.saturating_mul(2).min(IDENTITY_HOLDS_AT_MOST);
        }
        let later = renamed || now.saturating_duration_since(self.last) >= LAST_SEEN_STEP;
        if later {
            self.last = now;
        }
        later
    }
}

/// The kernel of a node answers for an address that its speaker does not announce.
#[derive(Debug)]
pub(super) struct KernelAnswer {
    node: NodeId,
    /// It was not a claim that had not been heard of yet: it has answered a later probe as well.
    confirmed: bool,
    /// When to probe again.
    next: Instant,
}

impl Ownership {
    /// A foreign host has the address. With a scope it was found before the address was announced.
    pub(super) fn note_conflict(&mut self, now: Instant, sighting: Sighting, found: Option<Scope>) {
        let withheld = found.is_some() && self.settings.detection == Detection::Enforce;
        if let Some(known) = self.conflicts.get_mut(&sighting.address) {
            if withheld && !known.withheld {
                known.ask_after(now, REPROBE);
                known.withheld = true;
                self.reports += 1;
                self.reprobe_at = self.reprobe_at.into_iter().chain(known.next).min();
            }
            if known.seen(now, sighting) {
                self.reports += 1;
            }
            if let Some(scope) = found {
                known.scope = scope;
            }
            return;
        }
        if self.settings.detection == Detection::Off {
            return;
        }
        let scope = found.or_else(|| self.scope_of(sighting.address));
        let scope = scope.unwrap_or(Scope::All);
        // What is announced all the same loses nothing by waiting.
        let first = if withheld { REPROBE } else { REPROBE_AT_MOST };
        let (next, pause, holds) = (None, first, IDENTITY_HOLDS);
        let mut conflict = Conflict {
            sighting,
            first: now,
            last: now,
            withheld,
            scope,
            identified: now,
            holds,
            next,
            pause,
        };
        conflict.ask_after(now, first);
        self.over.remove(&sighting.address);
        self.kernels.remove(&sighting.address);
        self.reprobe_by(conflict.next);
        self.conflicts.insert(sighting.address, conflict);
        self.reports += 1;
    }

    pub(super) fn scope_of(&self, address: IpAddr) -> Option<Scope> {
        let group = self.view.groups.get(&self.group_of(address)?)?;
        group.addresses.get(address).cloned()
    }

    /// Some address is to be probed again at that time.
    fn reprobe_by(&mut self, at: Option<Instant>) {
        self.reprobe_at = self.reprobe_at.into_iter().chain(at).min();
    }

    /// Probes again whether foreign hosts and kernels still answer. As long as nothing is due this costs the same
    /// whatever their number.
    pub(super) fn reprobe(&mut self, now: Instant) {
        if self.reprobe_at.is_none_or(|at| at > now) {
            return;
        }
        self.reprobe_due(now);
        let conflicts = self.conflicts.values().filter_map(|conflict| conflict.next);
        self.reprobe_at = conflicts.chain(self.kernels.values().map(|kernel| kernel.next)).min();
    }

    fn reprobe_due(&mut self, now: Instant) {
        for (address, conflict) in &mut self.conflicts {
            if conflict.next.is_some_and(|at| at <= now) {
                conflict.ask_after(now, conflict.pause);
                let scope = conflict.scope.clone();
                self.outputs.push_back(Output::Probe(*address, scope, Plan::FIRST_CLAIM));
            }
        }
        let due = |kernel: &KernelAnswer| kernel.next <= now;
        let due: Vec<IpAddr> =
            self.kernels.iter().filter(|(_, kernel)| due(kernel)).map(|(address, _)| *address).collect();
        for address in due {
            let mine = self.group_of(address).is_some_and(|id| self.mine.contains_key(&id));
            let scope = self.scope_of(address).filter(|_| mine);
            match (scope, self.kernels.get_mut(&address)) {
                (Some(scope), Some(kernel)) => {
                    kernel.next = now.checked_add(REPROBE_AT_MOST).unwrap_or(now);
                    self.outputs.push_back(Output::Probe(address, scope, Plan::TAKEOVER));
                }
                _ => self.kernel_is_silent(address),
            }
        }
    }

    /// Whether a node of the cluster has the address itself.
    pub(super) fn is_held(&self, address: IpAddr) -> bool {
        self.view.held.contains_key(&address)
    }

    /// Nodes have got addresses of ours, or have them no longer: those that are free again are probed before they are
    /// announced.
    pub(super) fn follow_holders(&mut self, now: Instant, before: &View) {
        let held = self.view.held.keys().filter(|address| !before.held.contains_key(*address));
        let held: Vec<IpAddr> = held.copied().collect();
        for address in held {
            self.forget_answers(address);
            self.kernel_is_silent(address);
            self.announce_again(address);
            if self.group_of(address).is_some_and(|id| self.asking.contains(&id)) {
                self.outputs.push_back(Output::CancelProbe(address));
                self.pass_over(now, address);
            }
        }
        let freed = before.held.keys().filter(|address| !self.view.held.contains_key(*address));
        let freed: Vec<IpAddr> = freed.copied().collect();
        for address in freed {
            let Some((id, scope)) = self.group_of(address).zip(self.scope_of(address)) else { continue };
            if self.mine.contains_key(&id) && self.settings.detection == Detection::Off {
                self.announce_again(address);
            } else if self.mine.contains_key(&id) {
                self.added.insert(address, Added::new(now));
                self.reports += 1;
                self.outputs.push_back(Output::Probe(address, scope, Plan::FIRST_CLAIM));
            } else if self.asking.contains(&id)
                && let Some(state) = self.groups.get_mut(&id)
                && state.pending.insert(address)
            {
                self.outputs.push_back(Output::Probe(address, scope, Plan::FIRST_CLAIM));
            }
        }
    }

    /// Whether a node that does not own the group answers for it all the same, again and again: it is no candidate, and
    /// has had the time to hand the group over if it owned it.
    pub(super) fn answers_as_bystander(&mut self, id: GroupId, node: NodeId) -> bool {
        let candidate = self.view.groups.get(&id).is_none_or(|group| group.candidates.get(node).is_some());
        let Some(state) = self.groups.get_mut(&id).filter(|_| !candidate) else { return false };
        state.bystanders = state.bystanders.saturating_add(1);
        state.bystanders > BYSTANDERS
    }

    /// A speaker answers for an address that this node announces or watches: it is the kernel that was probed for, unless
    /// the speaker claims the address by now, or may have it in a group that is not known here.
    pub(super) fn confirm_kernel(&mut self, now: Instant, address: IpAddr, node: NodeId) {
        let claims = self.group_of(address).is_some_and(|id| self.claimed.contains_key(&(id, node)))
            || self.claims_unknown(node)
            || self.has_still(now, node, address);
        let Some(kernel) = self.kernels.get_mut(&address).filter(|_| !claims) else { return };
        if (kernel.node, kernel.confirmed) != (node, true) {
            (kernel.node, kernel.confirmed) = (node, true);
            self.reports += 1;
        }
    }

    /// A node without a claim answers for an address: it is probed whether that lasts.
    pub(super) fn suspect_kernel(&mut self, now: Instant, address: IpAddr, node: NodeId) {
        let of_node = self.kernels.values().filter(|kernel| kernel.node == node).count();
        let is_full = of_node >= KERNELS_OF_NODE || self.kernels.len() >= KERNELS;
        if !is_full && !self.kernels.contains_key(&address) {
            let next = now.checked_add(REPROBE).unwrap_or(now);
            self.reprobe_by(Some(next));
            self.kernels.insert(address, KernelAnswer { node, confirmed: false, next });
        }
    }

    /// No kernel answers for the address, or that does not matter any more.
    pub(super) fn kernel_is_silent(&mut self, address: IpAddr) {
        if self.kernels.remove(&address).is_some_and(|kernel| kernel.confirmed) {
            self.reports += 1;
        }
    }

    /// Whether the kernel of a node is known to answer for addresses that its speaker does not claim.
    pub(super) fn is_kernel_confirmed(&self, node: NodeId) -> bool {
        self.kernels.values().any(|kernel| kernel.confirmed && kernel.node == node)
    }

    /// The nodes whose kernels answer for addresses of this node.
    pub fn kernels(&self) -> BTreeSet<NodeName> {
        let confirmed = self.kernels.values().filter(|kernel| kernel.confirmed);
        confirmed.filter_map(|kernel| self.directory.names.get(&kernel.node).cloned()).collect()
    }
}
