//! Decides which node owns which group of addresses, from what this speaker hears of its peers.
//!
//! A claim is (group, epoch, node). Of two claims the one with the higher (epoch, node) wins, and the loser
//! withdraws at once. Each takeover and handover increments the epoch. Epochs are not stored locally: a
//! speaker learns the highest one from its peers before it claims a group, and from the API.
//! `docs/design/layer2.md` describes the protocol; [`phase`] has a diagram of the state machine of a group.
//!
//! | module | content |
//! |---|---|
//! | [`phase`] | the state machine of one group |
//! | [`interface`] | settings, inputs and outputs |
//! | [`policy`] | which event applies to a group next: takeover order, successors |
//! | [`probing`] | probing the addresses of a group on the link, and how many groups at once |
//! | [`view_changes`] | what a new view changes |
//! | [`transitions`] | applying events to groups, and the actions that follow |
//! | [`timers`] | deadlines, and what follows when this speaker did not run for a while |
//! | [`peers`] | known speakers and their liveness |
//! | [`freshness`] | sessions: replayed and stale messages are ignored |
//! | [`quota`] | limits on what is sent in response to others |
//! | [`inbound`] | handling of received messages |
//! | [`state`] | the state of one group |
//! | [`epoch`] | valid epochs |
//! | [`outbound`] | which peers receive beacons, and the messages sent |
//! | [`observations`] | what probes and other frames show about who uses an address |
//! | [`conflict`] | foreign hosts, nodes and kernels that use an address of a group |
//!
//! No sockets, no clock, no randomness: the driver supplies the time and a seed, and executes [`Output`]s.

mod conflict;
mod epoch;
mod freshness;
mod inbound;
mod interface;
mod observations;
mod outbound;
mod peers;
mod phase;
mod policy;
mod probing;
mod quota;
mod state;
mod timers;
mod transitions;
mod view_changes;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::NodeId;
use crate::cluster::{GroupId, NodeName};
use crate::layer2::beacon::KeyId;
use crate::layer2::view::View;
pub use conflict::Conflict;
use conflict::{KernelAnswer, ResolvedConflict};
use freshness::Tokens;
pub use interface::{Blocked, Counts, Detection, Input, Output, OwnershipSettings};
use outbound::Outbox;
use peers::{AlivePeers, NodeDirectory, Peer};
use quota::Quota;
use state::{GroupState, Unverified};

/// How long a starting speaker waits for its peers to answer.
const SETTLE_TIME: Duration = Duration::from_secs(1);
/// How long a starting speaker does not take groups that have never had an owner, so that speakers that start
/// at the same time get their share; otherwise the first one would take all of them and keep them.
const GATHER_TIME: Duration = Duration::from_secs(5);
/// Delay between the watchers of a group when its owner is down: each waits for those before it.
const WATCHER_STAGGER: Duration = Duration::from_millis(100);
/// Delay between the candidates of a group without an owner: each waits for those before it.
const VACANCY_STAGGER: Duration = Duration::from_secs(2);
/// How long a group is not retried after a peer or a probe showed that it is in use. Doubles with each
/// consecutive backoff.
const BACKOFF: Duration = Duration::from_secs(1);
/// Initial interval at which a handover is offered to the successor; doubles with each unanswered offer, up
/// to the beacon interval.
const OFFER_INTERVAL: Duration = Duration::from_millis(20);
/// How long a handover is offered.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(3);
/// Minimum time between two re-announcements of a group because another speaker had announced it too.
const REANNOUNCE_INTERVAL: Duration = Duration::from_secs(10);
/// A successor that declined a group is not asked again before this time is over, unless there is no other:
/// its view may be late.
const DECLINE_EXPIRY: Duration = Duration::from_millis(200);
/// How many groups are probed at once: each probe is a broadcast, which no other limit holds back. The others
/// are queued.
const MAX_CONCURRENT_PROBES: usize = 512;
/// How many groups are evaluated before the driver handles new input.
const BATCH: usize = 256;
/// Number of watchers of a group: the first candidates, which take over when the owner is down.
const WATCHERS: usize = 3;

/// The ownership state of one speaker: sans-I/O, driven by [`Self::handle`] and [`Self::poll_output`].
#[derive(Debug)]
pub struct Ownership {
    settings: OwnershipSettings,
    me: NodeId,
    view: Arc<View>,
    directory: NodeDirectory,
    macs: BTreeSet<[u8; 6]>,
    keys: Vec<KeyId>,

    peers: BTreeMap<NodeId, Peer>,
    tokens: Tokens,
    /// Peers that are heard at the moment.
    alive: AlivePeers,
    /// Peers that share a group with this node, and to which beacons are sent.
    beacon_peers: BTreeSet<NodeId>,
    beacon_peers_changed: bool,
    /// Epochs of the claims of peers.
    peer_claims: BTreeMap<(GroupId, NodeId), u64>,
    /// Those of them for groups that this node's view does not contain.
    unknown_group_claims: BTreeSet<(NodeId, GroupId)>,
    /// Peers whose beacons do not arrive although they are alive, and the evidence.
    blocked: BTreeMap<NodeId, Blocked>,

    groups: BTreeMap<GroupId, GroupState>,
    /// Epochs of the groups that this node owns.
    owned: BTreeMap<GroupId, u64>,
    digest: u64,
    /// Groups that are being probed.
    probing: BTreeSet<GroupId>,
    /// Groups that wait to be probed, see [`MAX_CONCURRENT_PROBES`].
    probe_queue: BTreeSet<GroupId>,
    /// Groups that this node owned before a stall, not announced until they have been probed.
    fenced: BTreeSet<GroupId>,
    /// Those of them that wait to be probed.
    fenced_queue: BTreeSet<GroupId>,
    /// Groups to evaluate.
    dirty: BTreeSet<GroupId>,
    /// Groups evaluated per call, see [`BATCH`].
    batch: usize,
    /// Since when there are groups left to evaluate.
    backlog_since: Option<Instant>,
    timers: BTreeSet<(Instant, GroupId)>,
    conflicts: BTreeMap<IpAddr, Conflict>,
    /// Addresses whose foreign host is gone, and since when.
    resolved_conflicts: BTreeMap<IpAddr, ResolvedConflict>,
    /// Addresses added to owned groups that are not announced before they have been probed.
    unverified: BTreeMap<IpAddr, Unverified>,
    /// When the next of them is to be probed again, at the earliest.
    next_unverified_probe: Option<Instant>,
    /// Addresses of owned groups that are probed because a speaker that is not heard seems to use them too.
    verifying: BTreeMap<IpAddr, NodeId>,
    /// Limits the probes of [`Self::verifying`].
    verification_quota: Quota<IpAddr>,
    /// The groups that addresses were in before, and when that changed: the views of other speakers may still
    /// have the old groups.
    former_groups: BTreeMap<(IpAddr, GroupId), Instant>,
    /// Addresses of groups that the kernel of a node answers for, although the node has them on none of its
    /// links.
    kernel_answers: BTreeMap<IpAddr, KernelAnswer>,
    /// When the next conflict or kernel answer is to be probed again, at the earliest.
    reprobe_at: Option<Instant>,
    /// Incremented with each change of what is reported about conflicts.
    report_revision: u64,
    /// Incremented with each change of what this node owns.
    ownership_revision: u64,
    /// The groups of all addresses that are not the lowest of their group, which is the group's id.
    secondary_addresses: HashMap<IpAddr, GroupId>,

    sequence: u64,
    outgoing: BTreeMap<NodeId, Outbox>,
    next_beacon: Option<Instant>,
    settle_until: Option<Instant>,
    gather_until: Option<Instant>,
    settled: bool,
    /// All ready speakers with lower ids have been heard.
    awaited: NodeId,
    leaving: bool,
    /// The deadline that was last returned to the driver; a call much later than that is a stall.
    promised_deadline: Option<Instant>,
    outputs: VecDeque<Output>,
    /// How many of the outputs may end the announcement of an address.
    pending_withdrawals: usize,
    counts: Counts,
    /// Number of evaluations so far.
    #[cfg(test)]
    decisions: u64,
}

impl Ownership {
    /// Creates the state of a node that owns nothing yet.
    pub fn new(settings: OwnershipSettings) -> Self {
        Self {
            me: NodeId::from_name(&settings.me),
            tokens: Tokens::new(settings.session),
            settings,
            view: Arc::default(),
            directory: NodeDirectory::default(),
            macs: BTreeSet::new(),
            keys: Vec::new(),
            peers: BTreeMap::new(),
            alive: AlivePeers::default(),
            beacon_peers: BTreeSet::new(),
            beacon_peers_changed: false,
            peer_claims: BTreeMap::new(),
            unknown_group_claims: BTreeSet::new(),
            blocked: BTreeMap::new(),
            groups: BTreeMap::new(),
            owned: BTreeMap::new(),
            digest: 0,
            probing: BTreeSet::new(),
            probe_queue: BTreeSet::new(),
            fenced: BTreeSet::new(),
            fenced_queue: BTreeSet::new(),
            dirty: BTreeSet::new(),
            batch: BATCH,
            backlog_since: None,
            timers: BTreeSet::new(),
            conflicts: BTreeMap::new(),
            resolved_conflicts: BTreeMap::new(),
            unverified: BTreeMap::new(),
            next_unverified_probe: None,
            verifying: BTreeMap::new(),
            verification_quota: Quota::default(),
            former_groups: BTreeMap::new(),
            kernel_answers: BTreeMap::new(),
            reprobe_at: None,
            report_revision: 0,
            ownership_revision: 0,
            secondary_addresses: HashMap::new(),
            sequence: 0,
            outgoing: BTreeMap::new(),
            next_beacon: None,
            settle_until: None,
            gather_until: None,
            settled: false,
            awaited: NodeId(0),
            leaving: false,
            promised_deadline: None,
            outputs: VecDeque::new(),
            pending_withdrawals: 0,
            counts: Counts::default(),
            #[cfg(test)]
            decisions: 0,
        }
    }

    /// Handles an input; the results are returned by [`Self::poll_output`].
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.detect_stall(now);
        match input {
            Input::View(view) => self.set_view(now, view),
            Input::Macs(macs) => {
                // Links also change without a change of the MAC addresses, as often as any host on them sends
                // router advertisements.
                if std::mem::replace(&mut self.macs, macs) != self.macs {
                    self.send_hellos();
                }
                self.retry_failed_probes(now);
            }
            Input::Keys(keys) => {
                self.keys = keys;
                self.send_hellos();
            }
            Input::Message(from, message) => self.on_message(now, from, message),
            Input::ProbeAnswered(observation) => self.on_probe_answered(now, observation),
            Input::ProbeClear(address) => self.on_probe_clear(now, address),
            Input::ProbeFailed(address) => self.on_probe_failed(now, address),
            Input::Suspended => self.on_stall(now),
            Input::Contested(observation) => self.on_contested(now, observation),
            Input::Shutdown => {
                self.leaving = true;
                self.dirty.extend(self.groups.keys());
            }
            Input::Deadline => {}
        }
        self.advance(now);
        self.flush(now);
        self.promised_deadline = self.next_deadline();
    }

    /// The next action for the driver.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if let Some(Output::Withdraw(_) | Output::Update(_)) = output {
            self.pending_withdrawals = self.pending_withdrawals.saturating_sub(1);
        }
        output
    }

    /// Whether outputs are pending that end the announcement of an address.
    pub fn has_withdrawals(&self) -> bool {
        self.pending_withdrawals > 0
    }

    /// The latest time to call [`Self::handle`] again.
    pub fn next_deadline(&self) -> Option<Instant> {
        let falls_silent = self.alive.first().and_then(|(heard, _)| heard.checked_add(self.detection_time()));
        let timer = self.timers.first().map(|(at, _)| *at);
        let conflict = self.reprobe_at;
        let settling = self.settle_until.filter(|_| !self.settled);
        let others = [
            falls_silent,
            timer,
            conflict,
            self.next_unverified_probe,
            settling,
            self.next_beacon,
            self.backlog_since,
        ];
        others.into_iter().flatten().min()
    }

    /// Groups that this node owns, with their epochs.
    pub fn owned(&self) -> &BTreeMap<GroupId, u64> {
        &self.owned
    }

    /// Addresses that a foreign host uses.
    pub fn conflicts(&self) -> &BTreeMap<IpAddr, Conflict> {
        &self.conflicts
    }

    /// Addresses that a foreign host used until a probe showed that it is gone, kept for at least an hour.
    pub fn resolved_conflicts(&self) -> BTreeSet<IpAddr> {
        self.resolved_conflicts.keys().copied().collect()
    }

    /// Addresses that were added to an owned group and are not announced before they have been probed.
    pub fn unverified(&self) -> BTreeSet<IpAddr> {
        self.unverified.keys().copied().collect()
    }

    /// Whether an address of an owned group may be announced: no node has it on an interface, no foreign host
    /// had it first, and it does not wait for its probe.
    pub fn is_announced(&self, address: IpAddr) -> bool {
        !self.unverified.contains_key(&address)
            && !self.is_withheld(address)
            && !self.is_node_address(address)
    }

    /// Whether this node owns the group that contains the address now, and announces the address.
    pub fn announces(&self, address: IpAddr) -> bool {
        self.group_of(address).is_some_and(|id| self.owned.contains_key(&id)) && self.is_announced(address)
    }

    /// The revisions of what is owned, of what is reported about conflicts, and of the peers that are heard.
    pub fn revisions(&self) -> (u64, u64, u64) {
        (self.ownership_revision, self.report_revision, self.alive.changes())
    }

    /// The nodes whose speakers are heard.
    pub fn heard(&self) -> impl Iterator<Item = &NodeName> {
        self.alive.ids().filter_map(|id| self.directory.names.get(&id))
    }

    fn is_withheld(&self, address: IpAddr) -> bool {
        self.conflicts.get(&address).is_some_and(|conflict| conflict.withheld)
    }

    /// Peers that are alive but not heard, and how that is known. Peers that are not ready any more are left
    /// out.
    pub fn blocked(&self) -> impl Iterator<Item = (NodeName, Blocked)> {
        self.blocked.iter().filter_map(|(id, why)| {
            let name = self.directory.names.get(id)?;
            self.view.speakers.get(name)?.ready.then(|| (name.clone(), *why))
        })
    }

    /// The group that contains an address.
    fn group_of(&self, address: IpAddr) -> Option<GroupId> {
        view_changes::group_in(&self.view, &self.secondary_addresses, address)
    }

    /// The name of a node.
    pub fn name_of(&self, id: NodeId) -> Option<&NodeName> {
        self.directory.names.get(&id)
    }

    /// Whether the start is over: this speaker has waited for its peers and takes part.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// The counters.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Number of peers that are heard.
    pub fn peers_alive(&self) -> usize {
        self.alive.len()
    }

    fn detection_time(&self) -> Duration {
        self.settings.interval.saturating_mul(self.settings.detect_multiplier.max(1))
    }

    fn settle(&mut self, now: Instant) {
        let Some(until) = self.settle_until.filter(|_| !self.settled) else { return };
        if now < until {
            let me = self.me;
            let unheard = |id: NodeId| self.peers.get(&id).is_none_or(|peer| peer.heard.is_none());
            let ready = |name| self.view.speakers.get(name).is_some_and(|speaker| speaker.ready);
            let mut others = self.directory.names.range(self.awaited..).filter(|(id, _)| **id != me);
            let awaited = others.find(|(id, name)| unheard(**id) && ready(*name));
            self.awaited = awaited.map_or(NodeId(u64::MAX), |(id, _)| *id);
            self.settled = awaited.is_none();
        } else {
            self.settled = true;
        }
        if self.settled {
            self.dirty.extend(self.groups.keys());
            self.beacon_peers_changed = true;
        }
    }
}

#[cfg(test)]
mod tests;
