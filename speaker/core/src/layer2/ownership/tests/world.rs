//! A virtual cluster: speakers, the network and the link between them, an API whose views lag.

mod api;
mod link;
mod observer;
mod random;
mod recorder;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::*;
use super::fixture::settings;
use super::queue::EventQueue;
use crate::layer2::beacon::Message;
use crate::layer2::placement::Placement;
use crate::layer2::responder::{Observation, ProbePlan};
use api::{Api, Change};
pub(super) use random::Random;

pub(super) const INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn name(node: usize) -> NodeName {
    format!("node{node}").into()
}

pub(super) fn address(node: usize) -> IpAddr {
    IpAddr::V4([192, 168, 0, u8::try_from(node + 1).unwrap()].into())
}

pub(super) fn mac(node: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, u8::try_from(node + 1).unwrap()]
}

pub(super) fn group(number: u8) -> GroupId {
    IpAddr::V4([10, 0, 0, number].into())
}

enum SimEvent {
    Wake(usize),
    Deliver { to: usize, from: usize, message: Message },
    Api { to: usize, change: Change },
    Shown { node: usize, incarnation: u32 },
    Seen { to: usize, observation: Observation },
    Probed { node: usize, incarnation: u32, address: IpAddr, round: u32, plan: ProbePlan },
    Resume(usize),
}

#[derive(Default)]
struct Node {
    speaker: Option<Ownership>,
    /// Counts starts, so that events of an earlier incarnation do not reach a later one.
    incarnation: u32,
    api: Api,
    announced: BTreeSet<GroupId>,
    probing: BTreeSet<IpAddr>,
    stalled: bool,
    waiting: VecDeque<SimEvent>,
    wake: Option<Duration>,
    stopping: bool,
}

pub(super) struct World {
    start: Instant,
    pub(super) now: Duration,
    pub(super) random: Random,
    nodes: Vec<Node>,
    api: Api,
    placement: Placement,
    queue: EventQueue<SimEvent>,
    /// Directed pairs between which beacons are lost.
    pub(super) deaf: BTreeSet<(usize, usize)>,
    /// Directed pairs between which frames are lost.
    pub(super) link_cut: BTreeSet<(usize, usize)>,
    /// Beacons lost, per thousand.
    pub(super) loss: u64,
    /// Beacons duplicated, per thousand.
    pub(super) duplication: u64,
    /// Addresses that foreign hosts use.
    pub(super) foreign_hosts: BTreeSet<IpAddr>,
    /// The node that has the address of a group.
    held: BTreeMap<IpAddr, usize>,
    /// Nodes whose kernels answer for every address.
    pub(super) kernels: BTreeSet<usize>,
    /// The longest time that a change in the API takes to reach a node.
    pub(super) lag: Duration,
    /// How long after its start the interfaces of a node appear in the API; zero if they are in it from the
    /// beginning.
    shows_after: Duration,
    /// Which node began or ended to announce a group, and when.
    pub(super) history: Vec<(Duration, usize, GroupId, bool)>,
    /// Which node announced a group again, and when.
    pub(super) reminders: Vec<(Duration, usize, GroupId)>,
    log: Vec<String>,
    /// Additional delays of API changes for nodes.
    pub(super) late: BTreeMap<usize, Duration>,
    /// The recorded messages, if recording is on.
    records: Option<Vec<recorder::Record>>,
    /// The number of probes started.
    pub(super) probes_begun: usize,
    /// When the last change of each kind reaches each node.
    arrivals: BTreeMap<(usize, u8), Duration>,
}

impl World {
    pub(super) fn new(seed: u64, nodes: usize, groups: u8) -> Self {
        Self::placing(seed, nodes, groups, Placement::Balanced)
    }

    pub(super) fn placing(seed: u64, nodes: usize, groups: u8, placement: Placement) -> Self {
        let mut world = Self {
            start: Instant::now(),
            now: Duration::from_secs(1_000),
            random: Random(seed),
            nodes: (0..nodes).map(|_| Node::default()).collect(),
            api: Api::default(),
            placement,
            queue: EventQueue::new(),
            deaf: BTreeSet::new(),
            link_cut: BTreeSet::new(),
            loss: 0,
            duplication: 0,
            foreign_hosts: BTreeSet::new(),
            held: BTreeMap::new(),
            kernels: BTreeSet::new(),
            lag: Duration::from_millis(20),
            shows_after: Duration::ZERO,
            history: Vec::new(),
            reminders: Vec::new(),
            log: Vec::new(),
            late: BTreeMap::new(),
            records: None,
            probes_begun: 0,
            arrivals: BTreeMap::new(),
        };
        for number in 1..=groups {
            world.api.apply(&Change::Group(group(number), true));
        }
        world.api.shown = (0..nodes).collect();
        world
    }

    /// A cluster in which all nodes have been started and everything is at rest.
    pub(super) fn settled(seed: u64, nodes: usize, groups: u8) -> Self {
        let mut world = Self::new(seed, nodes, groups);
        for node in 0..nodes {
            world.api.apply(&Change::Ready(node, Some(1)));
        }
        for node in 0..nodes {
            world.start(node);
        }
        world.pass(Duration::from_secs(5));
        world
    }

    /// The pods of these nodes exist, and are not ready yet.
    pub(super) fn expect(&mut self, nodes: std::ops::Range<usize>) {
        self.api.starting.extend(nodes);
    }

    /// The interfaces of nodes appear in the API only this long after their first start.
    pub(super) fn show_after(&mut self, time: Duration) {
        self.api.shown.clear();
        self.shows_after = time;
    }

    /// A node that is started later has no link on the subnet of the groups.
    pub(super) fn set_remote(&mut self, node: usize) {
        self.api.remote.insert(node);
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    fn instant(&self) -> Instant {
        self.start + self.now
    }

    fn schedule(&mut self, after: Duration, what: SimEvent) {
        self.queue.schedule(self.now + after, what);
    }

    /// Changes the API; every node learns of it at a different time.
    fn change(&mut self, change: Change) {
        self.note(format!("API {change:?}"));
        self.api.apply(&change);
        let lag = u64::try_from(self.lag.as_millis()).unwrap();
        // Changes of one kind of object arrive in order, those of different kinds do not.
        let kind = match &change {
            Change::Ready(..) => 0,
            Change::Excluded(..) => 1,
            Change::Group(..) => 2,
            Change::Last(..) => 3,
            Change::Shown(..) => 4,
            Change::Preferred(..) => 5,
            Change::Held(..) => 6,
        };
        for to in 0..self.nodes.len() {
            let late = self.late.get(&to).copied().unwrap_or_default();
            let at = self.now + late + Duration::from_millis(self.random.below(lag + 1));
            let earlier = self.arrivals.entry((to, kind)).or_default();
            *earlier = at.max(*earlier);
            let after = *earlier - self.now;
            self.schedule(after, SimEvent::Api { to, change: change.clone() });
        }
    }

    pub(super) fn start(&mut self, node: usize) {
        self.start_generation(node, 1);
    }

    pub(super) fn start_generation(&mut self, node: usize, generation: u64) {
        self.note(format!("start node{node}"));
        let session = self.random.next() | 1;
        let unplugged = self.nodes[node].api.unplugged;
        let api = Api { unplugged, ..self.api.clone() };
        let state = &mut self.nodes[node];
        *state = Node { incarnation: state.incarnation + 1, api, ..Node::default() };
        state.speaker = Some(Ownership::new(settings(node, Detection::Enforce, session)));
        self.feed(node, Input::Macs([mac(node)].into()));
        if !self.shows_after.is_zero() {
            let incarnation = self.nodes[node].incarnation;
            self.schedule(self.shows_after, SimEvent::Shown { node, incarnation });
        }
        // A pod becomes ready only after its process.
        self.change(Change::Ready(node, Some(generation)));
        let mut own = self.api.clone();
        own.ready.insert(node, generation);
        own.unplugged = unplugged;
        self.nodes[node].api = own;
        self.feed_view(node);
    }

    /// Power off: the node sends nothing any more, and the API learns of it late.
    pub(super) fn kill(&mut self, node: usize) {
        self.note(format!("kill node{node}"));
        let state = &mut self.nodes[node];
        let announced = std::mem::take(&mut state.announced);
        let api = Api { unplugged: state.api.unplugged, ..Api::default() };
        *state = Node { incarnation: state.incarnation + 1, api, ..Node::default() };
        for group in announced {
            self.history.push((self.now, node, group, false));
        }
    }

    pub(super) fn unready(&mut self, node: usize) {
        self.change(Change::Ready(node, None));
    }

    pub(super) fn shut_down(&mut self, node: usize) {
        self.note(format!("shut down node{node}"));
        self.nodes[node].stopping = true;
        self.unready(node);
        self.feed(node, Input::Shutdown);
    }

    pub(super) fn exclude(&mut self, node: usize, yes: bool) {
        self.change(Change::Excluded(node, yes));
    }

    pub(super) fn prefer(&mut self, node: usize) {
        self.change(Change::Preferred(node));
    }

    pub(super) fn add_group(&mut self, id: GroupId, yes: bool) {
        self.change(Change::Group(id, yes));
    }

    /// SIGSTOP, and SIGCONT after `time`.
    pub(super) fn stall(&mut self, node: usize, time: Duration) {
        if self.nodes[node].speaker.is_some() && !self.nodes[node].stalled {
            self.note(format!("stall node{node} for {time:?}"));
            self.nodes[node].stalled = true;
            self.schedule(time, SimEvent::Resume(node));
        }
    }

    /// Cuts both the beacons and the link between two sets of nodes.
    pub(super) fn cut(&mut self, side: &[usize], yes: bool) {
        self.note(format!("cut {side:?} {yes}"));
        for a in 0..self.nodes.len() {
            for b in (0..self.nodes.len()).filter(|b| side.contains(&a) != side.contains(b)) {
                if yes {
                    self.deaf.insert((a, b));
                    self.link_cut.insert((a, b));
                } else {
                    self.deaf.remove(&(a, b));
                    self.link_cut.remove(&(a, b));
                }
            }
        }
    }

    /// Unplugs the cable of a node, or plugs it in again. The node sees that at once, the others do not.
    pub(super) fn plug(&mut self, node: usize, yes: bool) {
        self.cut(&[node], !yes);
        self.nodes[node].api.unplugged = (!yes).then_some(node);
        if self.is_up(node) {
            self.feed_view(node);
        }
    }

    /// A node gets the address of a group on one of its links, and announces it; or no node has it any more.
    pub(super) fn hold(&mut self, id: GroupId, node: Option<usize>) {
        match node {
            Some(node) => {
                self.held.insert(id, node);
                self.say(node, id, false);
            }
            None => drop(self.held.remove(&id)),
        }
        self.change(Change::Held(id, node));
    }

    pub(super) fn is_up(&self, node: usize) -> bool {
        self.nodes[node].speaker.is_some()
    }

    pub(super) fn is_stopping(&self, node: usize) -> bool {
        self.nodes[node].stopping
    }

    pub(super) fn speaker(&self, node: usize) -> &Ownership {
        self.nodes[node].speaker.as_ref().unwrap()
    }

    pub(super) fn groups(&self) -> Vec<GroupId> {
        self.api.groups.iter().copied().collect()
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, what)) = self.queue.next_until(end) {
            self.now = at;
            self.process(what);
        }
        self.now = end;
    }

    fn process(&mut self, what: SimEvent) {
        let node = match &what {
            SimEvent::Wake(node)
            | SimEvent::Resume(node)
            | SimEvent::Shown { node, .. }
            | SimEvent::Probed { node, .. } => *node,
            SimEvent::Deliver { to, .. } | SimEvent::Api { to, .. } | SimEvent::Seen { to, .. } => *to,
        };
        if self.nodes[node].stalled && !matches!(what, SimEvent::Resume(_)) {
            // What is sent to a stopped process waits in its sockets.
            if !matches!(what, SimEvent::Wake(_)) {
                self.nodes[node].waiting.push_back(what);
            }
            return;
        }
        match what {
            SimEvent::Wake(node) => {
                if self.nodes[node].wake == Some(self.now) {
                    self.nodes[node].wake = None;
                    self.feed(node, Input::Deadline);
                }
            }
            SimEvent::Resume(node) => {
                self.nodes[node].stalled = false;
                // As the driver: deadlines first, then received inputs.
                self.feed(node, Input::Deadline);
                for waiting in std::mem::take(&mut self.nodes[node].waiting) {
                    self.process(waiting);
                }
            }
            SimEvent::Deliver { to, from, message } => {
                self.feed(to, Input::Message(address(from), message));
            }
            SimEvent::Api { to, change } => {
                self.nodes[to].api.apply(&change);
                self.feed_view(to);
            }
            SimEvent::Shown { node, incarnation } => {
                if self.nodes[node].incarnation == incarnation {
                    self.change(Change::Shown(node));
                }
            }
            SimEvent::Seen { to, observation } => self.see(to, observation),
            SimEvent::Probed { node, incarnation, address, round, plan } => {
                self.probe(node, incarnation, address, round, plan);
            }
        }
    }

    fn feed_view(&mut self, node: usize) {
        let view = self.nodes[node].api.view(self.placement);
        self.feed(node, Input::View(Arc::new(view)));
    }

    fn feed(&mut self, node: usize, input: Input) {
        let now = self.instant();
        let Some(speaker) = &mut self.nodes[node].speaker else { return };
        speaker.handle(now, input);
        let outputs: Vec<Output> = std::iter::from_fn(|| speaker.poll_output()).collect();
        for output in outputs {
            self.carry_out(node, output);
        }
        let Some(speaker) = &self.nodes[node].speaker else { return };
        let wake = speaker.next_deadline().map(|at| (at - self.start).max(self.now));
        if wake != self.nodes[node].wake {
            self.nodes[node].wake = wake;
            if let Some(at) = wake {
                self.schedule(at - self.now, SimEvent::Wake(node));
            }
        }
        if self.nodes[node].stopping
            && self.nodes[node].speaker.as_ref().is_some_and(|speaker| speaker.owned().is_empty())
        {
            self.kill(node);
        }
    }

    fn carry_out(&mut self, node: usize, output: Output) {
        if matches!(output, Output::Announce(_) | Output::Update(_) | Output::Withdraw(_) | Output::Probe(..))
        {
            self.note(format!("node{node} {output:?}"));
        }
        match output {
            Output::Send { address: to, message, .. } => self.send(node, to, message),
            Output::Probe(address, _, plan) => {
                self.probes_begun += 1;
                self.nodes[node].probing.insert(address);
                let incarnation = self.nodes[node].incarnation;
                self.schedule(plan.wait / 2, SimEvent::Probed { node, incarnation, address, round: 0, plan });
            }
            Output::CancelProbe(address) => drop(self.nodes[node].probing.remove(&address)),
            Output::Announce(id) | Output::Update(id) => {
                self.nodes[node].probing.remove(&id);
                let announced = self.speaker(node).is_announced(id);
                if !announced && self.nodes[node].announced.remove(&id) {
                    self.history.push((self.now, node, id, false));
                }
                if announced {
                    self.say(node, id, false);
                }
                if announced && self.nodes[node].announced.insert(id) {
                    self.history.push((self.now, node, id, true));
                    let epoch = self.speaker(node).owned().get(&id).copied();
                    let epoch = epoch.unwrap_or_else(|| {
                        panic!(
                            "node{node} announces {id} and withdraws it at the same time\n{}",
                            self.describe()
                        )
                    });
                    self.change(Change::Last(id, node, epoch));
                }
            }
            Output::Withdraw(id) => {
                if self.nodes[node].announced.remove(&id) {
                    self.history.push((self.now, node, id, false));
                }
            }
            Output::Reannounce(id) => {
                self.reminders.push((self.now, node, id));
                self.say(node, id, false);
            }
            Output::Defend(_) => {}
        }
    }

    fn send(&mut self, from: usize, to: IpAddr, message: Message) {
        let Some(to) = (0..self.nodes.len()).find(|node| address(*node) == to) else { return };
        if let Some(records) = &mut self.records {
            records.push((to, from, message.clone()));
        }
        if self.deaf.contains(&(from, to)) || self.random.below(1_000) < self.loss {
            return;
        }
        let copies = if self.random.below(1_000) < self.duplication { 2 } else { 1 };
        for _ in 0..copies {
            let delay = Duration::from_micros(100 + self.random.below(5_000));
            self.schedule(delay, SimEvent::Deliver { to, from, message: message.clone() });
        }
    }

    fn note(&mut self, what: String) {
        self.log.push(format!("{:?} {what}", self.now));
    }
}
