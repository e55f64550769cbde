//! Who owns which group, as this speaker decides by what it hears of the others.
//!
//! A claim is (group, epoch, node); of two the higher (epoch, node) wins, and the loser stops at once. The epoch
//! grows with each takeover and handover. It is kept nowhere: a speaker learns the highest by talking before it
//! claims, and from the API. `docs/design/layer2.md` has the protocol; the phases of a group are drawn at
//! [`phase`].
//!
//! | module | is |
//! |---|---|
//! | [`phase`] | the state machine of one group |
//! | [`interface`] | what the driver gives and is told |
//! | [`decide`] | which event a group meets next: whose turn it is, who succeeds |
//! | [`probing`] | asking the link who has a group's addresses, and how many groups at once |
//! | [`views`] | what the API says anew |
//! | [`work`] | what time brings, in slices; what follows when this speaker did not run |
//! | [`peers`] | which speakers there are, and which live |
//! | [`freshness`] | which messages count |
//! | [`quota`] | how much is sent because of what others send |
//! | [`receive`] | what messages say |
//! | [`state`] | what is kept of a group |
//! | [`talk`] | whom to talk with, and what is sent |
//! | [`wire`] | what probes and other frames say about who has an address |
//! | [`conflict`] | hosts and nodes that have an address of ours: what is reported, when they are probed again |
//!
//! No socket, no clock, no chance: the driver brings the time and a seed, and carries out [`Output`]s.

mod conflict;
mod decide;
mod freshness;
mod interface;
mod peers;
mod phase;
mod probing;
mod quota;
mod receive;
mod state;
mod talk;
mod views;
mod wire;
mod work;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::beacon::{KeyId, NodeId, Stake, print_of};
use crate::view::{GroupId, NodeName, View};
pub use conflict::Conflict;
use conflict::KernelAnswer;
use freshness::Tokens;
pub use interface::{Blocked, Counts, Detection, Input, Output, Settings};
use peers::{Directory, Heard, Peer};
use phase::{Action, Cause, Event, Phase};
use quota::Quota;
use state::{Added, State};
use talk::Outgoing;

/// How long a starting speaker waits for the others to answer.
const SETTLE: Duration = Duration::from_secs(1);
/// How long a starting speaker leaves groups that nobody has ever owned to those that start at the same time: else the
/// first one that is ready would take them all, and keep them.
const GATHER: Duration = Duration::from_secs(5);
/// Between the turns of watchers of a silent owner.
const STAGGER: Duration = Duration::from_millis(100);
/// Between the turns of those who could take a group that nobody owns, when the one before does not.
const VACANCY: Duration = Duration::from_secs(2);
/// How long a group is let alone after a peer or the link said that it is taken. Each time in a row the pause doubles.
const REFUSAL: Duration = Duration::from_secs(1);
/// How often a leaving owner says so at first; each time that it is not answered the pause doubles, up to the interval
/// between beacons.
const OFFER: Duration = Duration::from_millis(20);
/// How long it says so.
const OFFERS: Duration = Duration::from_secs(3);
/// Between two times that a group is announced anew because another speaker had it too.
const REMIND: Duration = Duration::from_secs(10);
/// A successor that refused a group is not asked again before this time is over, unless there is nobody else: its
/// view may only be late.
const RECONSIDERED: Duration = Duration::from_millis(200);
/// How many groups are asked about at once: each costs broadcasts, which no other limit holds back. The others wait
/// for their turn.
const ASKED_AT_ONCE: usize = 512;
/// How many groups are decided about before the driver handles what has come meanwhile.
const SLICE: usize = 256;
/// The highest epoch: more takeovers and handovers than a group can see. A higher one counts for 0, whoever
/// says it, and nobody claims one: see [`believed`] and [`next_epoch`].
const HIGHEST_EPOCH: u64 = 1 << 48;
/// The same for an annotation, which anybody with access to the API may have written. Far below the other, so
/// that what begins there can be counted on from.
const HIGHEST_REMEMBERED: u64 = HIGHEST_EPOCH >> 8;
/// The watchers of a group.
const WATCHERS: usize = 3;

/// See the module.
#[derive(Debug)]
pub struct Ownership {
    settings: Settings,
    me: NodeId,
    view: Arc<View>,
    directory: Directory,
    macs: BTreeSet<[u8; 6]>,
    keys: Vec<KeyId>,

    peers: BTreeMap<NodeId, Peer>,
    tokens: Tokens,
    /// Peers that are heard.
    alive: Heard,
    /// Peers with which this node shares a group.
    talk: BTreeSet<NodeId>,
    talk_changed: bool,
    /// What peers claim, with their epochs.
    claimed: BTreeMap<(GroupId, NodeId), u64>,
    /// Those of them that are about groups that this node's view does not have.
    claimed_unknown: BTreeSet<(NodeId, GroupId)>,
    /// Peers that are cut off: who is not heard although it lives, and who said so.
    blocked: BTreeMap<NodeId, Blocked>,

    groups: BTreeMap<GroupId, State>,
    /// What this node owns.
    mine: BTreeMap<GroupId, u64>,
    print: u64,
    /// Groups that the link is being asked about.
    asking: BTreeSet<GroupId>,
    /// Groups that wait until fewer are asked about.
    waiting: BTreeSet<GroupId>,
    /// Groups that are ours, and silent until the link has been asked anew.
    fenced: BTreeSet<GroupId>,
    /// Those of them that wait until fewer are asked about.
    fenced_waiting: BTreeSet<GroupId>,
    /// Groups to decide about.
    dirty: BTreeSet<GroupId>,
    /// See [`SLICE`].
    slice: usize,
    /// Since when there are groups left to decide about.
    behind: Option<Instant>,
    timers: BTreeSet<(Instant, GroupId)>,
    conflicts: BTreeMap<IpAddr, Conflict>,
    /// See [`Self::over`].
    over: BTreeMap<IpAddr, Instant>,
    /// See [`Self::added`].
    added: BTreeMap<IpAddr, Added>,
    /// When the link is to be asked about the next of them again; possibly before that.
    ask_added_at: Option<Instant>,
    /// Addresses of owned groups about which the link is asked because of a speaker that cannot be talked with and seems
    /// to have them too.
    verified: BTreeMap<IpAddr, NodeId>,
    /// How often the link is asked for that reason.
    verifications: Quota<IpAddr>,
    /// The groups that addresses were in before, and when that changed: to others it may not have changed yet.
    formerly: BTreeMap<(IpAddr, GroupId), Instant>,
    /// Addresses of ours that a node's kernel answers for, though the node holds them on none of its links.
    kernels: BTreeMap<IpAddr, KernelAnswer>,
    /// When the next address of a conflict or kernel is to be probed again; possibly before that.
    reprobe_at: Option<Instant>,
    /// Counts changes of what is reported of conflicts.
    reports: u64,
    /// Counts changes of what this node owns.
    ownerships: u64,
    /// The groups of the addresses that are not the lowest of theirs, which is its name.
    higher: HashMap<IpAddr, GroupId>,

    sequence: u64,
    outgoing: BTreeMap<NodeId, Outgoing>,
    next_beacon: Option<Instant>,
    settling: Option<Instant>,
    gathering: Option<Instant>,
    settled: bool,
    /// All ready speakers with lower ids have been heard.
    awaited: NodeId,
    leaving: bool,
    /// When the driver had to call at the latest.
    promised: Option<Instant>,
    outputs: VecDeque<Output>,
    /// How many of them may end the announcement of an address.
    withdrawals: usize,
    counts: Counts,
    /// Decisions about groups so far.
    #[cfg(test)]
    decisions: u64,
}

impl Ownership {
    /// Of a node that owns nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            me: NodeId::of(&settings.me),
            tokens: Tokens::new(settings.session),
            settings,
            view: Arc::default(),
            directory: Directory::default(),
            macs: BTreeSet::new(),
            keys: Vec::new(),
            peers: BTreeMap::new(),
            alive: Heard::default(),
            talk: BTreeSet::new(),
            talk_changed: false,
            claimed: BTreeMap::new(),
            claimed_unknown: BTreeSet::new(),
            blocked: BTreeMap::new(),
            groups: BTreeMap::new(),
            mine: BTreeMap::new(),
            print: 0,
            asking: BTreeSet::new(),
            waiting: BTreeSet::new(),
            fenced: BTreeSet::new(),
            fenced_waiting: BTreeSet::new(),
            dirty: BTreeSet::new(),
            slice: SLICE,
            behind: None,
            timers: BTreeSet::new(),
            conflicts: BTreeMap::new(),
            over: BTreeMap::new(),
            added: BTreeMap::new(),
            ask_added_at: None,
            verified: BTreeMap::new(),
            verifications: Quota::default(),
            formerly: BTreeMap::new(),
            kernels: BTreeMap::new(),
            reprobe_at: None,
            reports: 0,
            ownerships: 0,
            higher: HashMap::new(),
            sequence: 0,
            outgoing: BTreeMap::new(),
            next_beacon: None,
            settling: None,
            gathering: None,
            settled: false,
            awaited: NodeId(0),
            leaving: false,
            promised: None,
            outputs: VecDeque::new(),
            withdrawals: 0,
            counts: Counts::default(),
            #[cfg(test)]
            decisions: 0,
        }
    }

    /// Takes an input; what is to be done then is in [`Self::poll_output`].
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.watch_own_clock(now);
        match input {
            Input::View(view) => self.set_view(now, view),
            Input::Macs(macs) => {
                // Links change without that too, and as often as somebody on them likes.
                if std::mem::replace(&mut self.macs, macs) != self.macs {
                    self.greet_all();
                }
                self.ask_on_new_links(now);
            }
            Input::Keys(keys) => {
                self.keys = keys;
                self.greet_all();
            }
            Input::Message(from, message) => self.receive(now, from, message),
            Input::Answered(sighting) => self.answered(now, sighting),
            Input::Unanswered(address) => self.unanswered(now, address),
            Input::Unasked(address) => self.unasked(now, address),
            Input::Suspended => self.stalled(now),
            Input::Contested(sighting) => self.contested(now, sighting),
            Input::Shutdown => {
                self.leaving = true;
                self.dirty.extend(self.groups.keys());
            }
            Input::Deadline => {}
        }
        self.advance(now);
        self.flush(now);
        self.promised = self.next_deadline();
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if let Some(Output::Withdraw(_) | Output::Update(_)) = output {
            self.withdrawals = self.withdrawals.saturating_sub(1);
        }
        output
    }

    /// Whether [`Self::poll_output`] still has groups or addresses that may not be answered for any more.
    pub fn has_withdrawals(&self) -> bool {
        self.withdrawals > 0
    }

    /// When to call [`Self::handle`] again at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        let falls_silent = self.alive.first().and_then(|(heard, _)| heard.checked_add(self.patience()));
        let timer = self.timers.first().map(|(at, _)| *at);
        let conflict = self.reprobe_at;
        let settling = self.settling.filter(|_| !self.settled);
        let others =
            [falls_silent, timer, conflict, self.ask_added_at, settling, self.next_beacon, self.behind];
        others.into_iter().flatten().min()
    }

    /// Groups that this node owns, with their epochs.
    pub fn owned(&self) -> &BTreeMap<GroupId, u64> {
        &self.mine
    }

    /// Addresses that a stranger has.
    pub fn conflicts(&self) -> &BTreeMap<IpAddr, Conflict> {
        &self.conflicts
    }

    /// Addresses that a stranger had, who is gone as this node knows from the wire, for an hour at least.
    pub fn over(&self) -> BTreeSet<IpAddr> {
        self.over.keys().copied().collect()
    }

    /// Addresses that came to an owned group, and are not announced before the wire has been asked about them.
    pub fn added(&self) -> BTreeSet<IpAddr> {
        self.added.keys().copied().collect()
    }

    /// Whether an address of an owned group is announced: not if a node has it itself or another host had it first, nor
    /// before that is known.
    pub fn is_announced(&self, address: IpAddr) -> bool {
        !self.added.contains_key(&address) && !self.is_withheld(address) && !self.is_held(address)
    }

    /// Whether this node owns the group that has the address now, and announces the address.
    pub fn announces(&self, address: IpAddr) -> bool {
        self.group_of(address).is_some_and(|id| self.mine.contains_key(&id)) && self.is_announced(address)
    }

    /// How often what it owns, what it reports of conflicts, and which peers are heard has changed so far.
    pub fn revisions(&self) -> (u64, u64, u64) {
        (self.ownerships, self.reports, self.alive.changes())
    }

    /// The nodes whose speakers are heard.
    pub fn heard(&self) -> impl Iterator<Item = &NodeName> {
        self.alive.ids().filter_map(|id| self.directory.names.get(&id))
    }

    fn is_withheld(&self, address: IpAddr) -> bool {
        self.conflicts.get(&address).is_some_and(|conflict| conflict.withheld)
    }

    /// Peers that live and are not heard, and how that is known. Those that are not ready any more are expected to
    /// be silent.
    pub fn blocked(&self) -> impl Iterator<Item = (NodeName, Blocked)> {
        self.blocked.iter().filter_map(|(id, why)| {
            let name = self.directory.names.get(id)?;
            self.view.speakers.get(name)?.ready.then(|| (name.clone(), *why))
        })
    }

    /// The group that has an address.
    fn group_of(&self, address: IpAddr) -> Option<GroupId> {
        views::group_in(&self.view, &self.higher, address)
    }

    /// The name of a node.
    pub fn name_of(&self, id: NodeId) -> Option<&NodeName> {
        self.directory.names.get(&id)
    }

    /// Whether this speaker has looked around and takes part.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many peers are heard.
    pub fn peers_alive(&self) -> usize {
        self.alive.len()
    }

    fn patience(&self) -> Duration {
        self.settings.interval.saturating_mul(self.settings.misses.max(1))
    }

    fn settle(&mut self, now: Instant) {
        let Some(until) = self.settling.filter(|_| !self.settled) else { return };
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
            self.talk_changed = true;
        }
    }

    /// Lets a group meet an event, and does what follows.
    fn apply(&mut self, now: Instant, id: GroupId, event: Event) {
        let state = self.groups.entry(id).or_default();
        let before = state.phase;
        let (after, actions) = before.on(event);
        state.phase = after;
        if before == after && actions.is_empty() {
            return;
        }
        let until = state.until.take();
        (state.offer, state.lives, state.unasked) = (None, None, false);
        match after {
            Phase::Refused => {
                state.until = now.checked_add(state.refused(event, self.settings.interval));
                if let Phase::Asking { cause: Cause::Takeover(owner), .. } = before {
                    state.lives = self.directory.names.get(&owner).cloned();
                }
            }
            Phase::Leaving { .. } => {
                // However many successors are tried in turn.
                let leaving = matches!(before, Phase::Leaving { .. });
                state.until = until.filter(|_| leaving);
                (state.offer, state.offers) = (Some(now), 0);
            }
            Phase::Owning { epoch } => {
                state.highest = state.highest.max(epoch);
                (state.vacant_since, state.left_since) = (None, None);
                (state.gave_way, state.bystanders, state.refusals) = (0, 0, 0);
                if before.claimed().is_none() {
                    state.declined.clear();
                }
            }
            Phase::Idle => state.declined.clear(),
            Phase::Asking { .. } => {}
        }
        if after.is_fenced() {
            self.fenced.insert(id);
        } else if before.is_fenced() {
            self.fenced.remove(&id);
            self.fenced_waiting.remove(&id);
        }
        self.count(before, event);
        for action in actions {
            match action {
                Action::Ask => self.ask(now, id),
                Action::StopAsking => self.stop_asking(id),
                Action::Announce => self.take(id),
                Action::Withdraw => self.give_up(id),
            }
        }
        self.dirty.insert(id);
    }

    fn count(&mut self, before: Phase, event: Event) {
        match (before, event) {
            (Phase::Asking { cause: Cause::Vacancy, .. }, Event::Quiet) => self.counts.claims += 1,
            (Phase::Asking { cause: Cause::Takeover(_), .. }, Event::Quiet) => self.counts.takeovers += 1,
            (_, Event::Invited { .. }) => self.counts.handovers += 1,
            (Phase::Owning { .. }, Event::Outbid) => self.counts.outbid += 1,
            (Phase::Asking { .. }, Event::Nacked) => self.counts.nacks += 1,
            _ => {}
        }
    }

    /// The group is ours from now on.
    fn take(&mut self, id: GroupId) {
        let Some(epoch) = self.groups.get(&id).and_then(|state| state.phase.claimed()) else { return };
        self.end_asking(id);
        let stake = Stake { group: id, epoch };
        if let Some(before) = self.mine.insert(id, epoch) {
            self.print ^= print_of(Stake { group: id, epoch: before });
        }
        self.print ^= print_of(stake);
        self.ownerships += 1;
        self.outputs.push_back(Output::Announce(id));
        self.tell_all(stake, true);
    }

    fn give_up(&mut self, id: GroupId) {
        let Some(epoch) = self.mine.remove(&id) else { return };
        // Whoever owns it next sees for itself.
        if let Some(group) = self.view.groups.get(&id).cloned() {
            group.addresses.keys().for_each(|address| self.forget_answers(address));
        }
        let stake = Stake { group: id, epoch };
        self.print ^= print_of(stake);
        self.ownerships += 1;
        self.withdrawals += 1;
        self.outputs.push_back(Output::Withdraw(id));
        self.tell_all(stake, false);
    }
}

/// An epoch as a speaker tells it. What no history can have led to counts for nothing: whoever took it up could not be
/// followed.
fn believed(epoch: u64) -> u64 {
    if epoch > HIGHEST_EPOCH { 0 } else { epoch }
}

/// The epoch of a claim that follows one with `epoch`.
fn next_epoch(epoch: u64) -> u64 {
    epoch.saturating_add(1).min(HIGHEST_EPOCH)
}

/// The same as the API tells it.
fn remembered(epoch: u64) -> u64 {
    if epoch > HIGHEST_REMEMBERED { 0 } else { epoch }
}

#[cfg(test)]
mod tests;
