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
//! | [`peers`] | which messages count, and which speakers live |
//! | [`receive`] | what messages say |
//! | [`talk`] | whom to talk with, and what is sent |
//! | [`wire`] | what probes and other frames say about who has an address |
//! | [`conflict`] | hosts and nodes that have an address of ours: what is reported, when they are probed again |
//!
//! No socket, no clock, no chance: the driver brings the time and the session, and carries out [`Output`]s.

mod conflict;
mod decide;
mod interface;
mod peers;
mod phase;
mod receive;
mod talk;
mod wire;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::beacon::{KeyId, NodeId, Stake, print_of};
use crate::view::{GroupId, NodeName, View};
pub use conflict::Conflict;
use conflict::KernelAnswer;
pub use interface::{Blocked, Counts, Detection, Input, Output, Settings};
use peers::{Directory, Peer};
use phase::{Action, Cause, Event, Phase};
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
/// How long a group is let alone after a peer or the wire said that it is taken.
const REFUSAL: Duration = Duration::from_secs(1);
/// How often a leaving owner says so.
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
    /// Peers that were alive when last looked.
    alive: BTreeSet<NodeId>,
    /// Peers with which this node shares a group.
    talk: BTreeSet<NodeId>,
    talk_changed: bool,
    /// What peers claim, with their epochs.
    claimed: BTreeMap<(GroupId, NodeId), u64>,
    /// Peers that are cut off: who is not heard although it lives, and who said so.
    blocked: BTreeMap<NodeId, Blocked>,

    groups: BTreeMap<GroupId, State>,
    /// What this node owns.
    mine: BTreeMap<GroupId, u64>,
    print: u64,
    asking: BTreeSet<GroupId>,
    /// Groups that wait until fewer are asked about.
    waiting: BTreeSet<GroupId>,
    /// Groups to look at.
    dirty: BTreeSet<GroupId>,
    timers: BTreeSet<(Instant, GroupId)>,
    conflicts: BTreeMap<IpAddr, Conflict>,
    /// See [`Self::over`].
    over: BTreeSet<IpAddr>,
    /// See [`Self::added`].
    added: BTreeSet<IpAddr>,
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
    leaving: bool,
    /// When the driver had to call at the latest.
    promised: Option<Instant>,
    outputs: VecDeque<Output>,
    counts: Counts,
}

/// What is kept of a group.
#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// Addresses that the wire was asked about and that nobody has answered for.
    pending: BTreeSet<IpAddr>,
    /// When the phase is over.
    until: Option<Instant>,
    /// When to offer it to the successor again.
    offer: Option<Instant>,
    /// Successors that refused it, and until when that counts.
    declined: BTreeMap<NodeId, Instant>,
    vacant_since: Option<Instant>,
    /// When it was announced anew for the last time.
    reminded: Option<Instant>,
    /// How often somebody was let go first who asked the same, since this node owned the group last.
    gave_way: u8,
    /// How often a node that is no candidate has answered, since this node owned the group last.
    bystanders: u8,
    /// The highest epoch that was seen.
    highest: u64,
    timer: Option<Instant>,
}

impl Ownership {
    /// Of a node that owns nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            me: NodeId::of(&settings.me),
            settings,
            view: Arc::default(),
            directory: Directory::default(),
            macs: BTreeSet::new(),
            keys: Vec::new(),
            peers: BTreeMap::new(),
            alive: BTreeSet::new(),
            talk: BTreeSet::new(),
            talk_changed: false,
            claimed: BTreeMap::new(),
            blocked: BTreeMap::new(),
            groups: BTreeMap::new(),
            mine: BTreeMap::new(),
            print: 0,
            asking: BTreeSet::new(),
            waiting: BTreeSet::new(),
            dirty: BTreeSet::new(),
            timers: BTreeSet::new(),
            conflicts: BTreeMap::new(),
            over: BTreeSet::new(),
            added: BTreeSet::new(),
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
            leaving: false,
            promised: None,
            outputs: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    /// Takes an input; what is to be done then is in [`Self::poll_output`].
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.watch_own_clock(now);
        match input {
            Input::View(view) => self.set_view(now, view),
            Input::Macs(macs) => {
                self.macs = macs;
                self.greet_all();
            }
            Input::Keys(keys) => {
                self.keys = keys;
                self.greet_all();
            }
            Input::Message(from, message) => self.receive(now, from, message),
            Input::Answered(sighting) => self.answered(now, sighting),
            Input::Unanswered(address) => self.unanswered(now, address),
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
        self.outputs.pop_front()
    }

    /// When to call [`Self::handle`] again at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        let falls_silent = self.alive.iter().filter_map(|id| self.peers.get(id)?.heard);
        let patience = self.patience();
        let falls_silent = falls_silent.filter_map(|heard| heard.checked_add(patience)).min();
        let timer = self.timers.first().map(|(at, _)| *at);
        let conflict = self.reprobe_at;
        let settling = self.settling.filter(|_| !self.settled);
        [falls_silent, timer, conflict, settling, self.next_beacon].into_iter().flatten().min()
    }

    /// Groups that this node owns, with their epochs.
    pub fn owned(&self) -> &BTreeMap<GroupId, u64> {
        &self.mine
    }

    /// Addresses that a stranger has.
    pub fn conflicts(&self) -> &BTreeMap<IpAddr, Conflict> {
        &self.conflicts
    }

    /// Addresses that a stranger had, who is gone as this node knows from the wire.
    pub fn over(&self) -> &BTreeSet<IpAddr> {
        &self.over
    }

    /// Addresses that came to an owned group, and are not announced before the wire has been asked about them.
    pub fn added(&self) -> &BTreeSet<IpAddr> {
        &self.added
    }

    /// Whether an address of an owned group is announced: not if a node has it itself or another host had it first, nor
    /// before that is known.
    pub fn is_announced(&self, address: IpAddr) -> bool {
        !self.added.contains(&address) && !self.is_withheld(address) && !self.is_held(address)
    }

    /// How often what it owns, and what it reports of conflicts, has changed so far.
    pub fn revisions(&self) -> (u64, u64) {
        (self.ownerships, self.reports)
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
        group_in(&self.view, &self.higher, address)
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

    /// A speaker whose own loop was late must not trust what it did not hear meanwhile. Late by more than the
    /// patience of others, it may have lost everything: it answers nothing before it has asked anew.
    fn watch_own_clock(&mut self, now: Instant) {
        let Some(promised) = self.promised else { return };
        let late = now.saturating_duration_since(promised);
        if late > self.patience() {
            self.counts.stalls += 1;
            let claimed: Vec<GroupId> = self.mine.keys().copied().collect();
            let asking: Vec<GroupId> = self.asking.iter().copied().collect();
            for peer in self.peers.values_mut() {
                peer.heard = peer.heard.map(|_| now);
            }
            for id in asking.into_iter().chain(claimed) {
                self.apply(now, id, Event::Stalled);
            }
            self.greet_all();
            self.next_beacon = self.next_beacon.map(|_| now);
        } else if late > self.settings.interval {
            // Accuses nobody in this round.
            let patience = self.settings.interval.saturating_mul(self.settings.misses.saturating_sub(1));
            let floor = now.checked_sub(patience).unwrap_or(now);
            for id in &self.alive {
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.heard = peer.heard.map(|heard| heard.max(floor));
                }
            }
        }
    }

    fn set_view(&mut self, now: Instant, view: Arc<View>) {
        self.settling.get_or_insert_with(|| now.checked_add(SETTLE).unwrap_or(now));
        self.gathering.get_or_insert_with(|| now.checked_add(GATHER).unwrap_or(now));
        self.directory.names.clear();
        self.directory.names.extend(view.speakers.keys().map(|name| (NodeId::of(name), name.clone())));
        self.directory.macs.clone_from(&view.macs);
        for (id, peer) in &self.peers {
            self.directory.macs.extend(peer.macs.iter().map(|mac| (*mac, *id)));
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
        for (id, group) in &view.groups {
            let old = before.groups.get(id);
            if old.is_some_and(|old| Arc::ptr_eq(old, group)) && before.placed.get(id) == view.placed.get(id)
            {
                continue;
            }
            self.dirty.insert(*id);
            let state = self.groups.entry(*id).or_default();
            if let Some((_, epoch)) = &group.last {
                state.highest = state.highest.max(*epoch);
            }
            if old.is_none() {
                self.inherit(now, *id, &before);
            }
            if self.mine.contains_key(id) {
                self.ask_about_added(group, group_before);
            }
        }
        self.follow_holders(now, &before);
        self.leave_to_others();
        for id in before.groups.keys().filter(|id| !view.groups.contains_key(id)) {
            self.dirty.insert(*id);
        }
        // Whether a speaker is ready decides about turns everywhere.
        if before.speakers != view.speakers {
            self.dirty.extend(view.groups.keys());
        }
        self.choose_talk(now);
    }

    /// A group whose lowest address changed is a new one to the protocol; to its users it is the same. Who owned
    /// the old one has the new one too.
    fn inherit(&mut self, now: Instant, id: GroupId, before: &View) {
        let Some(group) = self.view.groups.get(&id) else { return };
        let owned = |old: &GroupId| {
            let old = before.groups.get(old)?;
            let shared = group.addresses.keys().any(|address| old.addresses.contains(address));
            let epoch = self.mine.get(&old.id)?;
            shared.then_some(*epoch)
        };
        let Some(epoch) = self.mine.keys().filter_map(owned).max() else { return };
        if group.admits(&self.settings.me) {
            self.apply(now, id, Event::Invited { epoch });
        }
    }

    /// Everything that time brings.
    fn advance(&mut self, now: Instant) {
        self.notice_liveness(now);
        self.settle(now);
        self.beacon(now);
        self.reprobe(now);
        while let Some((at, id)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.remove(&(at, id));
            if let Some(state) = self.groups.get_mut(&id) {
                state.timer = None;
            }
            self.dirty.insert(id);
        }
        while let Some(id) = self.dirty.pop_first() {
            self.look_at(now, id);
        }
    }

    fn settle(&mut self, now: Instant) {
        let Some(until) = self.settling.filter(|_| !self.settled) else { return };
        let heard = |id: &NodeId| self.peers.get(id).is_some_and(|peer| peer.heard.is_some());
        let me = &self.settings.me;
        let mut others = self.view.speakers.iter().filter(|(name, s)| s.ready && *name != me);
        if now >= until || others.all(|(name, _)| heard(&NodeId::of(name))) {
            self.settled = true;
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
        state.offer = None;
        match after {
            Phase::Refused => {
                let pause = if event == Event::Outbid {
                    state.gave_way = 0;
                    self.settings.interval.saturating_mul(3)
                } else {
                    REFUSAL
                };
                state.until = now.checked_add(pause);
            }
            Phase::Leaving { .. } => {
                // However many successors are tried in turn.
                let leaving = matches!(before, Phase::Leaving { .. });
                state.until = until.filter(|_| leaving).or_else(|| now.checked_add(OFFERS));
                state.offer = Some(now);
            }
            Phase::Owning { epoch } => {
                state.highest = state.highest.max(epoch);
                state.vacant_since = None;
                state.gave_way = 0;
                state.bystanders = 0;
                if before.claimed().is_none() {
                    state.declined.clear();
                }
            }
            Phase::Idle => state.declined.clear(),
            Phase::Asking { .. } => {}
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
        self.outputs.push_back(Output::Withdraw(id));
        self.tell_all(stake, false);
    }
}

/// The group of a view that has an address; `higher` has the groups of those that are not the lowest of theirs.
fn group_in(view: &View, higher: &HashMap<IpAddr, GroupId>, address: IpAddr) -> Option<GroupId> {
    let lowest = || view.groups.get(&address).filter(|group| group.addresses.contains(address));
    higher.get(&address).copied().or_else(|| lowest().map(|group| group.id))
}

#[cfg(test)]
mod tests;
