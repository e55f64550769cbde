//! Speakers that own Services with several addresses; their views are built from object summaries, and each
//! learns of changes at a different time. An address counts as announced by a node only if the node answers
//! for it on its link.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::super::*;
use super::super::fixture::settings;
use super::super::queue::EventQueue;
use super::super::world::{Random, mac, name};
use super::api::{Api, Change, host};
use super::observer::Seen;
use crate::cluster::link::{Link, Scope};
use crate::cluster::{ExcludeLabel, ServiceKey};
use crate::layer2::beacon::Message;
use crate::layer2::placement::Placement;
use crate::layer2::responder::{Observation, ProbePlan};
use crate::layer2::view;
use rules::LastValid;

pub(super) enum What {
    Wake(usize, u32),
    Deliver(usize, IpAddr, Message),
    Api(usize, Change),
    Seen(usize, Observation),
    Probe {
        node: usize,
        incarnation: u32,
        address: IpAddr,
        round: u32,
        plan: ProbePlan,
        token: u64,
    },
    Say {
        node: usize,
        incarnation: u32,
        address: IpAddr,
        token: u64,
    },
    Resume(usize),
    /// The links of a node have changed.
    Links(usize),
    /// A host sends a forged frame every millisecond until that time.
    Forge(usize, Duration),
    Write(usize, u32),
}

#[derive(Default)]
pub(super) struct Node {
    pub(super) incarnation: u32,
    pub(super) speaker: Option<Ownership>,
    pub(super) api: Api,
    pub(super) view: Option<Arc<View>>,
    pub(super) announced: BTreeMap<GroupId, BTreeMap<IpAddr, Scope>>,
    pub(super) probing: HashMap<IpAddr, u64>,
    /// By announcement.
    saying: HashMap<IpAddr, u64>,
    pub(super) stalled: bool,
    waiting: Vec<What>,
    wake: Option<Duration>,
    pub(super) stopping: bool,
    memory: LastValid,
    writes: bool,
}

pub(super) struct Model {
    start: Instant,
    pub(super) now: Duration,
    pub(super) random: Random,
    pub(super) nodes: Vec<Node>,
    pub(super) api: Api,
    placement: Placement,
    queue: EventQueue<What>,
    /// The number of the last probe or announcement.
    token: u64,
    /// Directed pairs between which nothing arrives.
    pub(super) cut: BTreeSet<(usize, usize)>,
    /// How often the address of each node has changed.
    moved: Vec<u8>,
    /// Beacons lost, per thousand.
    pub(super) loss: u64,
    /// The longest time in milliseconds that a change takes to reach a node.
    pub(super) lag: u64,
    arrivals: BTreeMap<(usize, u8), Duration>,
    pub(super) log: Vec<String>,
    pub(super) seen: BTreeMap<IpAddr, Seen>,
    /// How often an address was withdrawn or updated by a node that had not announced it.
    pub(super) moves: usize,
}

impl Model {
    pub(super) fn new(seed: u64, nodes: usize, placement: Placement) -> Self {
        Self {
            start: Instant::now(),
            now: Duration::from_secs(1_000),
            random: Random(seed),
            nodes: (0..nodes).map(|_| Node::default()).collect(),
            api: Api::default(),
            placement,
            queue: EventQueue::new(),
            token: 0,
            cut: BTreeSet::new(),
            moved: vec![0; nodes],
            loss: 0,
            lag: 20,
            arrivals: BTreeMap::new(),
            log: Vec::new(),
            seen: BTreeMap::new(),
            moves: 0,
        }
    }

    fn instant(&self) -> Instant {
        self.start + self.now
    }

    pub(super) fn after(&mut self, delay: Duration, what: What) {
        self.queue.schedule(self.now + delay, what);
    }

    pub(super) fn note(&mut self, text: String) {
        self.log.push(format!("{:?} {text}", self.now));
    }

    pub(super) fn change(&mut self, change: Change) {
        self.note(format!("API {change:?}"));
        self.api.apply(&change);
        if let Some(node) = change.of_links() {
            self.after(Duration::ZERO, What::Links(node));
        }
        for to in 0..self.nodes.len() {
            let at = self.now + Duration::from_millis(self.random.below(self.lag + 1));
            let earlier = self.arrivals.entry((to, change.kind())).or_default();
            *earlier = at.max(*earlier);
            let delay = *earlier - self.now;
            self.after(delay, What::Api(to, change.clone()));
        }
    }

    /// The address of a node changes; the old one is not reachable any more.
    pub(super) fn relocate(&mut self, node: usize) {
        self.moved[node] += 1;
        self.note(format!("node{node} has the address {} from now on", self.address(node)));
    }

    /// The API shows the current address of a node.
    pub(super) fn list_address(&mut self, node: usize) {
        self.change(Change::Listed(node, self.moved[node]));
    }

    fn address(&self, node: usize) -> IpAddr {
        host(node, self.moved[node])
    }

    pub(super) fn start(&mut self, node: usize) {
        self.note(format!("start node{node}"));
        let session = self.random.next() | 1;
        self.change(Change::Pod(node, Some(true)));
        let mut api = self.api.clone();
        api.pods.insert(node, true);
        let incarnation = self.nodes[node].incarnation + 1;
        let mut speaker = Ownership::new(settings(node, Detection::Enforce, session));
        // Some evaluate one group at a time.
        if node % 2 == 1 {
            speaker.batch = 1;
        }
        self.nodes[node] = Node { incarnation, api, speaker: Some(speaker), ..Node::default() };
        self.feed(node, Input::Macs([mac(node)].into()));
        self.feed_view(node);
    }

    pub(super) fn kill(&mut self, node: usize) {
        self.note(format!("kill node{node}"));
        let incarnation = self.nodes[node].incarnation + 1;
        self.nodes[node] = Node { incarnation, ..Node::default() };
    }

    pub(super) fn shut_down(&mut self, node: usize) {
        self.note(format!("shut down node{node}"));
        self.nodes[node].stopping = true;
        self.change(Change::Pod(node, Some(false)));
        self.feed(node, Input::Shutdown);
    }

    fn feed_view(&mut self, node: usize) {
        let exclude_label = ExcludeLabel::Honour;
        let settings = view::ViewSettings { me: name(node), placement: self.placement, exclude_label };
        let (nodes, own_links) = (self.nodes.len(), self.api.links(node));
        let Node { api, memory, .. } = &mut self.nodes[node];
        let (objects, configuration) = (api.objects(nodes, &own_links), api.configuration(memory));
        let previous = self.nodes[node].view.clone();
        let view = Arc::new(View::build(&settings, &objects, &configuration, previous.as_deref()));
        if previous.as_ref() == Some(&view) {
            return;
        }
        self.nodes[node].view = Some(Arc::clone(&view));
        self.feed(node, Input::View(view));
        // As the driver: groups that stay may have other addresses or links.
        let stay: Vec<GroupId> = self.nodes[node].announced.keys().copied().collect();
        self.align(node, &stay);
    }

    fn align(&mut self, node: usize, ids: &[GroupId]) {
        let before = self.answered_by(node);
        let state = &mut self.nodes[node];
        let (Some(speaker), Some(view)) = (&state.speaker, &state.view) else { return };
        for id in ids {
            let Some(announced) = state.announced.get_mut(id) else { continue };
            let group = view.groups.get(id);
            let current = group.into_iter().flat_map(|group| {
                let admitted = group.admits(&name(node));
                group.addresses.iter().map(move |(address, scope)| (admitted, address, scope))
            });
            let current = current.filter(|(_, address, _)| speaker.is_announced(*address));
            *announced = current
                .map(|(admitted, address, scope)| {
                    let existing = announced.get(&address).filter(|_| !admitted);
                    (address, existing.unwrap_or(scope).clone())
                })
                .collect();
        }
        for address in self.answered_by(node).difference(&before) {
            self.begin_to_say(node, *address);
        }
    }

    /// The addresses that a node answers for on its link.
    pub(super) fn answered_by(&self, node: usize) -> BTreeSet<IpAddr> {
        let state = &self.nodes[node];
        let announced = state.announced.values().flatten().filter(|_| state.speaker.is_some());
        let links = self.api.links(node);
        let answered = |(address, scope): (&IpAddr, &Scope)| {
            let fits = |link: &Link| scope.covers(&link.name) && link.supports_family(*address);
            links.iter().any(fits).then_some(*address)
        };
        announced.filter_map(answered).collect()
    }

    fn begin_to_say(&mut self, node: usize, address: IpAddr) {
        self.moves += 1;
        self.note(format!("node{node} announces {address}"));
        self.nodes[node].probing.remove(&address);
        self.token += 1;
        let token = self.token;
        self.nodes[node].saying.insert(address, token);
        let incarnation = self.nodes[node].incarnation;
        for after in [0, 50, 200, 1_100, 2_200, 5_000, 10_000, 15_000, 20_000] {
            self.after(Duration::from_millis(after), What::Say { node, incarnation, address, token });
        }
    }

    pub(super) fn feed(&mut self, node: usize, input: Input) {
        let now = self.instant();
        let Some(speaker) = &mut self.nodes[node].speaker else { return };
        speaker.handle(now, input);
        while let Some(output) = self.nodes[node].speaker.as_mut().and_then(Ownership::poll_output) {
            self.carry_out(node, output);
        }
        let Some(speaker) = &self.nodes[node].speaker else { return };
        let wake = speaker.next_deadline().map(|at| at.saturating_duration_since(self.start).max(self.now));
        if wake != self.nodes[node].wake {
            self.nodes[node].wake = wake;
            if let Some(at) = wake {
                let incarnation = self.nodes[node].incarnation;
                self.after(at - self.now, What::Wake(node, incarnation));
            }
        }
        let speaker = self.nodes[node].speaker.as_ref();
        if self.nodes[node].stopping && speaker.is_some_and(|speaker| speaker.owned().is_empty()) {
            self.kill(node);
            self.change(Change::Pod(node, None));
        }
    }

    fn carry_out(&mut self, node: usize, output: Output) {
        match output {
            Output::Send { address: to, message, .. } => {
                let Some(to) = (0..self.nodes.len()).find(|n| self.address(*n) == to) else { return };
                if self.cut.contains(&(node, to)) || self.random.below(1_000) < self.loss {
                    return;
                }
                let delay = Duration::from_micros(100 + self.random.below(3_000));
                self.after(delay, What::Deliver(to, self.address(node), message));
            }
            Output::Probe(address, _, plan) => {
                self.note(format!("node{node} probes {address}"));
                self.token += 1;
                let (token, incarnation) = (self.token, self.nodes[node].incarnation);
                self.nodes[node].probing.insert(address, token);
                self.after(plan.wait / 2, What::Probe { node, incarnation, address, round: 0, plan, token });
            }
            Output::CancelProbe(address) => drop(self.nodes[node].probing.remove(&address)),
            Output::Announce(id) => {
                self.nodes[node].announced.entry(id).or_default();
                self.align(node, &[id]);
                self.schedule_write(node);
            }
            Output::Update(id) => {
                self.align(node, &[id]);
                self.schedule_write(node);
            }
            Output::Withdraw(id) => {
                self.note(format!("node{node} withdraws {id}"));
                self.nodes[node].announced.remove(&id);
                self.schedule_write(node);
            }
            Output::Reannounce(id) => {
                let announced = self.nodes[node].announced.get(&id);
                for address in announced.into_iter().flat_map(BTreeMap::keys).copied().collect::<Vec<_>>() {
                    self.begin_to_say(node, address);
                }
            }
            Output::Defend(_) => {}
        }
    }

    fn schedule_write(&mut self, node: usize) {
        if !self.nodes[node].writes {
            self.nodes[node].writes = true;
            let incarnation = self.nodes[node].incarnation;
            let delay = Duration::from_millis(10 + self.random.below(50));
            self.after(delay, What::Write(node, incarnation));
        }
    }

    /// Writes the announcing nodes to the API.
    fn write(&mut self, node: usize) {
        self.nodes[node].writes = false;
        let state = &self.nodes[node];
        let (Some(speaker), Some(view)) = (&state.speaker, &state.view) else { return };
        let number = |service: &Arc<ServiceKey>| service.name[1..].parse::<u8>().unwrap();
        let owned = speaker.owned().iter().filter_map(|(id, epoch)| Some((view.groups.get(id)?, *epoch)));
        let wanted: BTreeMap<u8, u64> =
            owned.flat_map(|(group, epoch)| group.services.iter().map(move |s| (number(s), epoch))).collect();
        let known: BTreeSet<u8> = view.groups.values().flat_map(|g| g.services.iter().map(number)).collect();
        let statuses = &state.api.statuses;
        let mut changes: Vec<Change> = wanted
            .iter()
            .filter(|(service, epoch)| statuses.get(&(**service, node)) != Some(epoch))
            .map(|(service, epoch)| Change::Status(*service, node, Some(*epoch)))
            .collect();
        for (service, other) in statuses.keys() {
            let gone = !wanted.contains_key(service) && !known.contains(service);
            let stale = if *other == node { gone } else { wanted.contains_key(service) };
            if stale {
                changes.push(Change::Status(*service, *other, None));
            }
        }
        for change in changes {
            self.change(change);
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, what)) = self.queue.next_until(end) {
            self.observe(at);
            self.now = at;
            self.process(what);
        }
        self.observe(end);
        self.now = end;
    }

    fn process(&mut self, what: What) {
        let node = match &what {
            What::Wake(node, _) | What::Resume(node) | What::Write(node, _) => *node,
            What::Links(node) | What::Forge(node, _) => *node,
            What::Probe { node, .. } | What::Say { node, .. } => *node,
            What::Deliver(node, ..) | What::Api(node, _) | What::Seen(node, _) => *node,
        };
        if self.nodes[node].stalled && !matches!(what, What::Resume(_)) {
            if !matches!(what, What::Wake(..)) {
                self.nodes[node].waiting.push(what);
            }
            return;
        }
        match what {
            What::Wake(node, incarnation) => {
                if self.nodes[node].incarnation == incarnation && self.nodes[node].wake == Some(self.now) {
                    self.nodes[node].wake = None;
                    self.feed(node, Input::Deadline);
                }
            }
            What::Resume(node) => {
                self.nodes[node].stalled = false;
                self.feed(node, Input::Deadline);
                for what in std::mem::take(&mut self.nodes[node].waiting) {
                    self.process(what);
                }
            }
            What::Deliver(to, from, message) => self.feed(to, Input::Message(from, message)),
            What::Links(node) => {
                if self.nodes[node].speaker.is_some() {
                    self.feed(node, Input::Macs([mac(node)].into()));
                    self.feed_view(node);
                }
            }
            What::Forge(node, until) => self.forge(node, until),
            What::Api(to, change) => {
                if self.nodes[to].speaker.is_some() {
                    self.nodes[to].api.apply(&change);
                    self.feed_view(to);
                    self.schedule_write(to);
                }
            }
            What::Write(node, incarnation) => {
                if self.nodes[node].incarnation == incarnation {
                    self.write(node);
                }
            }
            What::Say { node, incarnation, address, token } => {
                let current = self.nodes[node].saying.get(&address) == Some(&token);
                if self.nodes[node].incarnation == incarnation
                    && current
                    && self.answered_by(node).contains(&address)
                {
                    self.say(node, address, false);
                }
            }
            What::Seen(to, observation) => self.see(to, observation),
            What::Probe { node, incarnation, address, round, plan, token } => {
                let current = self.nodes[node].probing.get(&address) == Some(&token);
                if self.nodes[node].incarnation == incarnation && current {
                    self.probe(node, address, round, plan, token);
                }
            }
        }
    }
}
