//! Foreign hosts, nodes and kernels that use an address of a group.
//!
//! | user of the address | consequence |
//! |---|---|
//! | a node of the cluster, on a link or by its status ([`View::node_addresses`]) | no node announces it, in
//! any detection mode; the API says when that ends, and then it is probed |
//! | a foreign host | a [`Conflict`]: withheld or defended as the detection mode says, probed again until the
//! host is gone |
//! | the kernel of a node that has it on no link, as with kube-proxy in ipvs mode without strictARP | it is
//! announced all the same, and reported |
//!
//! The report changes rarely, however many frames arrive: each change is written to the API.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Detection, Output, Ownership, Unverified};
use crate::cluster::NodeId;
use crate::cluster::link::Scope;
use crate::cluster::{GroupId, NodeName};
use crate::layer2::responder::{Observation, ProbePlan};
use crate::layer2::view::View;

/// When the address of a conflict is first probed again; the interval doubles with each answer.
const REPROBE_INTERVAL: Duration = Duration::from_secs(1);
/// The longest interval (as RATE_LIMIT_INTERVAL of RFC 5227 §1.1).
const MAX_REPROBE_INTERVAL: Duration = Duration::from_secs(60);
/// For how long the reported hardware address of a conflict stays, at first. The time doubles with each change, up
/// to an hour: a host may invent a new address for each frame, and each that is reported is an event.
const IDENTITY_HOLD: Duration = Duration::from_secs(10);
const MAX_IDENTITY_HOLD: Duration = Duration::from_secs(3_600);
/// Resolution of the reported time at which a conflict was last seen.
const LAST_SEEN_STEP: Duration = Duration::from_secs(60);
/// How long an address stays in [`Ownership::resolved_conflicts`]: the speaker that reported the conflict has
/// deleted the report by then.
pub(super) const RESOLVED_RETENTION: Duration = Duration::from_secs(3_600);
/// How many addresses are tracked for which the kernel of one node answers: more would add no information,
/// and each is probed every minute.
const MAX_KERNEL_ANSWERS_PER_NODE: usize = 2;
/// The same for all nodes together.
const MAX_KERNEL_ANSWERS: usize = 128;
/// How many answers of a node that is no candidate are attributed to an owner that is about to hand over,
/// which takes no longer than three seconds: each answer is followed by a backoff of a second or more.
pub(super) const MAX_BYSTANDER_ANSWERS: u8 = 3;

/// A foreign host uses an address of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Where it was seen; of several hosts that are seen in turn, one of them.
    pub observation: Observation,
    /// When it was first seen.
    pub first: Instant,
    /// When it was last seen, in steps of a minute.
    pub last: Instant,
    /// The address is not announced because of the conflict.
    pub withheld: bool,
    scope: Scope,
    /// When the hardware address that is reported was first reported.
    identified: Instant,
    /// For how long it stays.
    identity_hold: Duration,
    /// When to probe next.
    next: Option<Instant>,
    /// The interval after that, if the host still answers.
    pause: Duration,
}

/// A conflict that has ended.
#[derive(Debug)]
pub(super) struct ResolvedConflict {
    /// When it ended.
    pub(super) at: Instant,
    pub(super) conflict: Conflict,
}

impl Conflict {
    /// Schedules a probe after `pause`, and the one after that with twice the interval.
    fn schedule_probe(&mut self, now: Instant, pause: Duration) {
        self.next = now.checked_add(pause);
        self.pause = pause.saturating_mul(2).min(MAX_REPROBE_INTERVAL);
    }

    /// Updates the conflict with a new observation. Returns whether the report has changed.
    fn seen(&mut self, now: Instant, observation: Observation) -> bool {
        let other = (self.observation.mac, self.observation.link) != (observation.mac, observation.link);
        let renamed = other && now.saturating_duration_since(self.identified) >= self.identity_hold;
        if renamed {
            self.observation = observation;
            self.identified = now;
            self.identity_hold = self.identity_hold.saturating_mul(2).min(MAX_IDENTITY_HOLD);
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
    /// It answered a later probe as well, so that it was not a claim whose message had not arrived yet.
    confirmed: bool,
    /// When to probe next.
    next: Instant,
}

impl Ownership {
    /// Records that a foreign host uses the address. `found` is the scope if it was found before the address
    /// was announced.
    pub(super) fn note_conflict(&mut self, now: Instant, observation: Observation, found: Option<Scope>) {
        let withheld = found.is_some() && self.settings.detection == Detection::Enforce;
        if let Some(known) = self.conflicts.get_mut(&observation.address) {
            if withheld && !known.withheld {
                known.schedule_probe(now, REPROBE_INTERVAL);
                known.withheld = true;
                self.report_revision += 1;
                self.reprobe_at = self.reprobe_at.into_iter().chain(known.next).min();
            }
            if known.seen(now, observation) {
                self.report_revision += 1;
            }
            if let Some(scope) = found {
                known.scope = scope;
            }
            return;
        }
        if self.settings.detection == Detection::Off {
            return;
        }
        let scope = found.or_else(|| self.scope_of(observation.address));
        let scope = scope.unwrap_or(Scope::All);
        // An address that is announced all the same loses nothing by waiting.
        let first = if withheld { REPROBE_INTERVAL } else { MAX_REPROBE_INTERVAL };
        let (next, pause) = (None, first);
        let mut conflict = Conflict {
            observation,
            first: now,
            last: now,
            withheld,
            scope,
            identified: now,
            identity_hold: IDENTITY_HOLD,
            next,
            pause,
        };
        if let Some(resolved) = self.resolved_conflicts.remove(&observation.address) {
            // A host that answers no probe ends its conflict each time, and is back with the next frame.
            let Conflict { observation: before, identified, identity_hold, .. } = resolved.conflict;
            conflict = Conflict { observation: before, identified, identity_hold, ..conflict };
            conflict.seen(now, observation);
        }
        conflict.schedule_probe(now, first);
        self.kernel_answers.remove(&observation.address);
        self.reprobe_by(conflict.next);
        self.conflicts.insert(observation.address, conflict);
        self.report_revision += 1;
    }

    pub(super) fn scope_of(&self, address: IpAddr) -> Option<Scope> {
        let group = self.view.groups.get(&self.group_of(address)?)?;
        group.addresses.get(address).cloned()
    }

    /// Ensures that [`Self::reprobe`] runs at that time.
    fn reprobe_by(&mut self, at: Option<Instant>) {
        self.reprobe_at = self.reprobe_at.into_iter().chain(at).min();
    }

    /// Probes conflicts and kernel answers again when they are due. While nothing is due, the cost does not
    /// depend on their number.
    pub(super) fn reprobe(&mut self, now: Instant) {
        if self.reprobe_at.is_none_or(|at| at > now) {
            return;
        }
        self.reprobe_due(now);
        let conflicts = self.conflicts.values().filter_map(|conflict| conflict.next);
        self.reprobe_at = conflicts.chain(self.kernel_answers.values().map(|kernel| kernel.next)).min();
    }

    fn reprobe_due(&mut self, now: Instant) {
        for (address, conflict) in &mut self.conflicts {
            if conflict.next.is_some_and(|at| at <= now) {
                conflict.schedule_probe(now, conflict.pause);
                let scope = conflict.scope.clone();
                self.outputs.push_back(Output::Probe(*address, scope, ProbePlan::FIRST_CLAIM));
            }
        }
        let due = |kernel: &KernelAnswer| kernel.next <= now;
        let due: Vec<IpAddr> = self
            .kernel_answers
            .iter()
            .filter(|(_, kernel)| due(kernel))
            .map(|(address, _)| *address)
            .collect();
        for address in due {
            let mine = self.group_of(address).is_some_and(|id| self.owned.contains_key(&id));
            let scope = self.scope_of(address).filter(|_| mine);
            match (scope, self.kernel_answers.get_mut(&address)) {
                (Some(scope), Some(kernel)) => {
                    kernel.next = now.checked_add(MAX_REPROBE_INTERVAL).unwrap_or(now);
                    self.outputs.push_back(Output::Probe(address, scope, ProbePlan::TAKEOVER));
                }
                _ => self.forget_kernel_answer(address),
            }
        }
    }

    /// Whether a node of the cluster has the address on an interface or in its status.
    pub(super) fn is_node_address(&self, address: IpAddr) -> bool {
        self.view.node_addresses.contains_key(&address)
    }

    /// Handles addresses that nodes have got or no longer have: the latter are probed before they are
    /// announced.
    pub(super) fn update_node_addresses(&mut self, now: Instant, before: &View) {
        let held =
            self.view.node_addresses.keys().filter(|address| !before.node_addresses.contains_key(*address));
        let held: Vec<IpAddr> = held.copied().collect();
        for address in held {
            self.forget_probe_state(address);
            self.forget_kernel_answer(address);
            self.update_announced(address);
            if self.group_of(address).is_some_and(|id| self.probing.contains(&id)) {
                self.outputs.push_back(Output::CancelProbe(address));
                self.skip_address(now, address);
            }
        }
        let freed =
            before.node_addresses.keys().filter(|address| !self.view.node_addresses.contains_key(*address));
        let freed: Vec<IpAddr> = freed.copied().collect();
        for address in freed {
            let Some((id, scope)) = self.group_of(address).zip(self.scope_of(address)) else { continue };
            if self.owned.contains_key(&id) && self.settings.detection == Detection::Off {
                self.update_announced(address);
            } else if self.owned.contains_key(&id) {
                self.unverified.insert(address, Unverified::new(now));
                self.report_revision += 1;
                self.outputs.push_back(Output::Probe(address, scope, ProbePlan::FIRST_CLAIM));
            } else if self.probing.contains(&id)
                && let Some(state) = self.groups.get_mut(&id)
                && state.pending.insert(address)
            {
                self.outputs.push_back(Output::Probe(address, scope, ProbePlan::FIRST_CLAIM));
            }
        }
    }

    /// Whether a node that is no candidate for the group keeps answering for it: if it owned the group, it
    /// has had the time to hand it over.
    pub(super) fn is_bystander_answer(&mut self, id: GroupId, node: NodeId) -> bool {
        let candidate = self.view.groups.get(&id).is_none_or(|group| group.candidates.get(node).is_some());
        let Some(state) = self.groups.get_mut(&id).filter(|_| !candidate) else { return false };
        state.bystander_answers = state.bystander_answers.saturating_add(1);
        state.bystander_answers > MAX_BYSTANDER_ANSWERS
    }

    /// A speaker answers for an address that this node announces or watches: confirms the kernel answer that
    /// was probed for, unless the speaker claims the address by now, or may have it in a group that is
    /// unknown here.
    pub(super) fn confirm_kernel(&mut self, now: Instant, address: IpAddr, node: NodeId) {
        let claims = self.group_of(address).is_some_and(|id| self.peer_claims.contains_key(&(id, node)))
            || self.claims_unknown(node)
            || self.still_claims(now, node, address);
        let Some(kernel) = self.kernel_answers.get_mut(&address).filter(|_| !claims) else { return };
        if (kernel.node, kernel.confirmed) != (node, true) {
            (kernel.node, kernel.confirmed) = (node, true);
            self.report_revision += 1;
        }
    }

    /// A node without a claim answers for an address: probes later whether it still does.
    pub(super) fn suspect_kernel(&mut self, now: Instant, address: IpAddr, node: NodeId) {
        let of_node = self.kernel_answers.values().filter(|kernel| kernel.node == node).count();
        let is_full =
            of_node >= MAX_KERNEL_ANSWERS_PER_NODE || self.kernel_answers.len() >= MAX_KERNEL_ANSWERS;
        if !is_full && !self.kernel_answers.contains_key(&address) {
            let next = now.checked_add(REPROBE_INTERVAL).unwrap_or(now);
            self.reprobe_by(Some(next));
            self.kernel_answers.insert(address, KernelAnswer { node, confirmed: false, next });
        }
    }

    /// No kernel answers for the address any more, or the address is not watched any more.
    pub(super) fn forget_kernel_answer(&mut self, address: IpAddr) {
        if self.kernel_answers.remove(&address).is_some_and(|kernel| kernel.confirmed) {
            self.report_revision += 1;
        }
    }

    /// Whether the kernel of a node is known to answer for addresses that its speaker does not claim.
    pub(super) fn is_kernel_confirmed(&self, node: NodeId) -> bool {
        self.kernel_answers.values().any(|kernel| kernel.confirmed && kernel.node == node)
    }

    /// The nodes whose kernels answer for addresses of this node.
    pub fn answering_kernels(&self) -> BTreeSet<NodeName> {
        let confirmed = self.kernel_answers.values().filter(|kernel| kernel.confirmed);
        confirmed.filter_map(|kernel| self.directory.names.get(&kernel.node).cloned()).collect()
    }
}
