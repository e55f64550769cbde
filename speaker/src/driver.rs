//! The driver: one thread that owns [`Responder`] and [`Ownership`] and carries outputs of one to the other.
//!
//! | task | does | ends |
//! |---|---|---|
//! | driver | waits for a view, links, a frame or a deadline; hands it on; carries out what comes of it | with the process |
//! | beacons | waits for messages of other speakers, checks them, hands them to the driver | with the driver |
//! | receiver, one per link and protocol | waits for frames and hands them to the driver, never waiting for it | when the driver closes the link, or the link is gone |
//!
//! They share a thread of their own, with a runtime of its own, so that nothing that the rest of the process does
//! (reading thousands of objects, say) delays an answer. Whatever the driver publishes is written to the API by
//! [`status`](crate::status), never from here.

mod beacons;
mod clocks;
mod ports;
mod publication;
mod told;
mod turns;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use announce::beacon::Keyring;
use announce::link::{Link, LinkIndex};
use announce::ownership::{self, Counts, Ownership};
use announce::responder::{self, Purpose, Responder};
use announce::view::{GroupId, NodeName, View};
use runtime::heartbeat::Heartbeat;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::log_limit::limited;
use crate::metrics::{Metrics, PerAddress};
use crate::priority;
use beacons::{Beacons, Heard};
use clocks::Clocks;
pub(crate) use ports::Closed;
use ports::Ports;
pub(crate) use publication::Published;
#[cfg(test)]
pub(crate) use publication::Reports;
use told::{Change, Told};

/// Frames that wait for the driver; more are dropped and counted.
const QUEUE: usize = 4_096;
/// How often sockets are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A received frame, as much of it as matters.
pub(crate) struct Received {
    at: Instant,
    link: LinkIndex,
    len: usize,
    bytes: [u8; ports::LONGEST],
}

/// What the driver is made of.
pub(crate) struct Driver {
    pub(crate) ownership: ownership::Settings,
    /// Where beacons are received.
    pub(crate) beacons: SocketAddr,
    pub(crate) keys: watch::Receiver<Keyring>,
    pub(crate) views: watch::Receiver<Option<Arc<View>>>,
    pub(crate) links: watch::Receiver<Vec<Link>>,
    pub(crate) published: watch::Sender<Published>,
    /// Where it cannot announce, although the links could.
    pub(crate) closed: watch::Sender<Closed>,
    pub(crate) metrics: Metrics,
    /// Beats with each turn.
    pub(crate) heartbeat: Heartbeat,
    pub(crate) shutdown: CancellationToken,
}

/// Why the driver ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The thread or its runtime could not be made.
    #[error("cannot start the driver: {0}")]
    Start(#[source] std::io::Error),
    /// The beacon port cannot be listened on.
    #[error("cannot listen for beacons on UDP {address} (--beacon-port): {source}{}", port_hint(source))]
    Beacons {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// It ended without a reason: it panicked.
    #[error("the driver has ended unexpectedly")]
    Lost,
}

fn port_hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "; another process of this node uses the port: stop it, or give the speakers another one by \
             spec.speaker.beacon.port of the LoadBalancerStack"
        }
        _ => "",
    }
}

impl Driver {
    /// Runs the driver in a thread of its own until the process stops.
    pub(crate) async fn run(self) -> Result<(), Error> {
        let (ended, end) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("driver".into())
            .spawn(move || {
                if let Err(error) = priority::lower_others() {
                    tracing::warn!(%error, "cannot lower the priority of all threads but the driver's");
                }
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let result = runtime.map_err(Error::Start).and_then(|runtime| {
                    tokio::task::LocalSet::new().block_on(&runtime, async { State::new(self)?.run().await })
                });
                // Nobody listens when the process has ended meanwhile.
                let _ = ended.send(result);
            })
            .map_err(Error::Start)?;
        end.await.map_err(|_| Error::Lost)?
    }
}

struct State {
    driver: Driver,
    view: Arc<View>,
    ownership: Ownership,
    responder: Responder,
    ports: Ports,
    frames: mpsc::Receiver<Received>,
    beacons: Beacons,
    heard: mpsc::Receiver<Heard>,
    counters: PerAddress,
    announced: Told,
    /// Announced groups that are another in the view, and are to be announced as it has them.
    changed: BTreeSet<GroupId>,
    view_known: bool,
    /// Something is decided and not carried out yet.
    behind: bool,
    clocks: Clocks,
    /// What of the ownership machine is published.
    revisions: (u64, u64, u64),
    /// What was published of speakers that are not heard.
    blocked: Vec<(NodeName, ownership::Blocked)>,
    /// When the next publication may be, if something is to be published.
    publication: Option<Instant>,
    /// No publication before.
    pause_until: Option<Instant>,
    counts: Counts,
    alive: usize,
    /// When sockets are checked again.
    check: Instant,
    /// What the kernel has dropped on the sockets that are open.
    kernel_drops: u64,
}

impl State {
    fn new(driver: Driver) -> Result<Self, Error> {
        let (sender, frames) = mpsc::channel(QUEUE);
        let (messages, heard) = mpsc::channel(QUEUE);
        let beacons = Beacons::open(driver.beacons, driver.keys.clone(), messages, driver.metrics.clone())
            .map_err(|source| Error::Beacons { address: driver.beacons, source })?;
        Ok(Self {
            view: Arc::default(),
            ownership: Ownership::new(driver.ownership.clone()),
            responder: Responder::new(crate::seed()),
            ports: Ports::new(sender, driver.metrics.clone()),
            frames,
            beacons,
            heard,
            counters: PerAddress::new(driver.metrics.clone()),
            announced: Told::default(),
            changed: BTreeSet::new(),
            view_known: false,
            behind: false,
            clocks: Clocks::new(),
            revisions: (0, 0, 0),
            blocked: Vec::new(),
            publication: None,
            pause_until: None,
            counts: Counts::default(),
            alive: 0,
            check: Instant::now(),
            kernel_drops: 0,
            driver,
        })
    }

    async fn run(mut self) -> Result<(), Error> {
        let links = self.driver.links.borrow_and_update().clone();
        self.set_links(Instant::now(), links);
        self.set_keys(Instant::now());
        let shutdown = self.driver.shutdown.clone();
        let mut leave_by: Option<Instant> = None;
        loop {
            self.driver.heartbeat.beat();
            let deadline = self.next_deadline();
            let check = self.check;
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if leave_by.is_none() => {
                    let now = Instant::now();
                    leave_by = now.checked_add(Ownership::handover_time());
                    self.tell_ownership(now, ownership::Input::Shutdown);
                }
                () = sleep_until(deadline), if !self.behind => self.time_came(),
                // What others do on this thread comes before the next turn.
                () = tokio::task::yield_now(), if self.behind => self.go_on(deadline),
                // Before what anybody on the network can send without end.
                () = sleep_until(leave_by) => return Ok(()),
                Ok(()) = self.driver.views.changed() => {
                    self.catch_up(Instant::now());
                    self.view_changed(Instant::now());
                }
                Ok(()) = self.driver.links.changed() => {
                    self.catch_up(Instant::now());
                    let links = self.driver.links.borrow_and_update().clone();
                    self.set_links(Instant::now(), links);
                }
                Ok(()) = self.driver.keys.changed() => self.set_keys(Instant::now()),
                Some(heard) = self.heard.recv() => {
                    self.catch_up(Instant::now());
                    self.heard(heard);
                }
                Some(frame) = self.frames.recv() => self.frames_came(frame),
                () = sleep_until(Some(check)) => self.check_sockets(Instant::now()).await,
            }
            self.publish_if_due(Instant::now());
            self.count();
            if leave_by.is_some() && self.ownership.owned().is_empty() {
                self.carry_out_all(Instant::now());
                return Ok(());
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.responder.next_deadline(),
            self.ownership.next_deadline(),
            self.ports.next_deadline(),
            self.publication,
        ];
        deadlines.into_iter().flatten().min()
    }

    /// What no event tells of. This is also why the driver has a turn at least this often.
    async fn check_sockets(&mut self, now: Instant) {
        self.check = now + CHECK_INTERVAL;
        self.beacons.check(now).await;
        let drops = self.ports.kernel_drops().saturating_add(self.beacons.kernel_drops());
        // Sockets that were closed count no more.
        self.driver.metrics.kernel_drops.inc_by(drops.saturating_sub(self.kernel_drops));
        self.kernel_drops = drops;
    }

    fn set_keys(&mut self, now: Instant) {
        let ids = self.driver.keys.borrow_and_update().ids();
        self.tell_ownership(now, ownership::Input::Keys(ids));
    }

    fn set_links(&mut self, now: Instant, links: Vec<Link>) {
        self.ports.set(now, &links);
        self.publish_closed();
        let macs = links.iter().map(|link| link.mac.0).collect();
        self.tell_responder(now, responder::Input::Links(links));
        self.tell_ownership(now, ownership::Input::Macs(macs));
    }

    fn view_changed(&mut self, now: Instant) {
        let Some(view) = self.driver.views.borrow_and_update().clone() else { return };
        let before = std::mem::replace(&mut self.view, Arc::clone(&view));
        self.view_known = true;
        self.ownership.handle(now, ownership::Input::View(view));
        // Groups that stay may have got other addresses or links. Which of these are announced changes with the outputs.
        let changed = |id: &GroupId| match (before.groups.get(id), self.view.groups.get(id)) {
            (Some(before), Some(now)) => !Arc::ptr_eq(before, now),
            (before, now) => before.is_some() != now.is_some(),
        };
        self.changed.extend(self.announced.groups().filter(changed));
        self.withdraw_lost(now);
        self.carry_out(now);
    }

    fn tell_ownership(&mut self, now: Instant, input: ownership::Input) {
        self.ownership.handle(now, input);
        self.carry_out(now);
    }

    fn tell_responder(&mut self, now: Instant, input: responder::Input<'_>) {
        if let Err(reason) = self.responder.handle(now, input) {
            self.driver.metrics.dropped(reason);
        }
    }

    fn wire(&mut self, now: Instant, output: responder::Output) {
        match output {
            responder::Output::Transmit { link, frame, address, purpose } => {
                if !self.ports.send(link, &frame) {
                    return self.tell_responder(now, responder::Input::Unsent(link, address, purpose));
                }
                match purpose {
                    Purpose::Answer => {
                        let counters = self.counters.of(address);
                        counters.requests.inc();
                        counters.responses.inc();
                    }
                    Purpose::Gratuitous => {
                        self.counters.of(address).gratuitous.inc();
                    }
                    Purpose::Probe | Purpose::Defence => {}
                }
            }
            responder::Output::Join(link, group) => self.ports.join(link, group),
            responder::Output::Leave(link, group) => self.ports.leave(link, group),
            responder::Output::Contested(sighting) => {
                self.ownership.handle(now, ownership::Input::Contested(sighting));
            }
            responder::Output::Answered(sighting) => {
                self.ownership.handle(now, ownership::Input::Answered(sighting));
            }
            responder::Output::Unanswered(address) => {
                self.ownership.handle(now, ownership::Input::Unanswered(address));
            }
            responder::Output::Unasked(address) => {
                self.ownership.handle(now, ownership::Input::Unasked(address));
            }
        }
    }

    fn decided(&mut self, now: Instant, output: ownership::Output) {
        match output {
            ownership::Output::Send { address, keys, message } => self.beacons.send(address, &keys, &message),
            ownership::Output::Probe(address, scope, plan) => {
                self.tell_responder(now, responder::Input::Probe(address, scope, plan));
            }
            ownership::Output::CancelProbe(address) => {
                self.tell_responder(now, responder::Input::CancelProbe(address));
            }
            ownership::Output::Defend(address) => {
                self.tell_responder(now, responder::Input::Defend(address));
            }
            ownership::Output::Remind(id) => {
                for address in self.announced.addresses(id) {
                    self.tell_responder(now, responder::Input::Remind(address));
                }
            }
            // It may have been lost since: then its withdrawal has been carried out already, or comes next.
            ownership::Output::Announce(id) if !self.ownership.owned().contains_key(&id) => {}
            ownership::Output::Announce(id) => {
                if self.announced.begin(id) {
                    let epoch = self.ownership.owned().get(&id);
                    limited!(1000, info, group = %id, epoch, "owns the addresses of this group from now on");
                }
                self.announce(now, [id].into());
            }
            ownership::Output::Update(id) => self.announce(now, [id].into()),
            ownership::Output::Withdraw(id) => {
                let changes = self.announced.end(id);
                self.tell_changes(now, changes);
                limited!(1000, info, group = %id, "no longer owns the addresses of this group");
            }
        }
    }

    /// Brings the responder in line with the addresses that owned groups have now.
    fn announce(&mut self, now: Instant, ids: BTreeSet<GroupId>) {
        let wanted = |id: GroupId| {
            let announced = |address| self.ownership.is_announced(address);
            let group = self.view.groups.get(&id);
            (id, group.map(|group| group.addresses.only(announced)).unwrap_or_default())
        };
        let wanted = ids.into_iter().map(wanted).collect();
        let changes = self.announced.align(wanted);
        self.tell_changes(now, changes);
    }

    /// Withdraws what no owned group has any more. What else differs comes after everything that is decided already; frames
    /// may come before that.
    fn withdraw_lost(&mut self, now: Instant) {
        let ownership = &self.ownership;
        let withdraw = |id: &GroupId| self.announced.retain(*id, |address| ownership.announces(address));
        let changes: Vec<Change> = self.changed.iter().flat_map(withdraw).collect();
        self.tell_changes(now, changes);
    }

    fn tell_changes(&mut self, now: Instant, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Announce(address, scope) => {
                    self.tell_responder(now, responder::Input::Announce(address, scope));
                }
                Change::Withdraw(address) => {
                    self.tell_responder(now, responder::Input::Withdraw(address));
                    self.counters.forget(address);
                }
            }
        }
    }

    /// Brings the metrics up to date when a beacon is due, which is often enough.
    fn count(&mut self) {
        let (counts, alive) = (self.ownership.counts(), self.ownership.peers_alive());
        if counts != self.counts || alive != self.alive {
            if counts.stalls > self.counts.stalls {
                limited!(
                    5,
                    warn,
                    "this speaker did not run for a while (no processor time, or stopped): it asks anew who has \
                     its addresses before it answers for them"
                );
            }
            self.counts = counts;
            self.alive = alive;
            self.driver.metrics.counted(counts, alive, self.blocked.len());
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
