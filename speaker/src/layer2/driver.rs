//! The driver: one thread that owns [`Responder`] and [`Ownership`] and passes the outputs of one to the
//! other.
//!
//! | task | function | ends |
//! |---|---|---|
//! | driver | waits for a view, links, a frame or a deadline; feeds the state machines; performs their
//! outputs | with the process |
//! | beacons | receives and verifies the messages of other speakers and sends them to the driver | with the
//! driver |
//! | receiver, one per link and protocol | receives frames and sends them to the driver, dropping them if the
//! queue is full | when the driver closes the link, or the link is gone |
//!
//! They share a thread with its own runtime, so that nothing else in the process (such as parsing thousands
//! of objects) delays an answer. What the driver publishes is written to the API by
//! [`status`](crate::api::status), never from here.

mod announced_set;
mod clocks;
mod publication;
mod turns;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use announce::cluster::link::Link;
use announce::cluster::{GroupId, NodeName};
use announce::layer2::beacon::Keyring;
use announce::layer2::ownership::{self, Counts, Ownership};
use announce::layer2::responder::{self, Purpose, Responder};
use announce::layer2::view::View;
use runtime::heartbeat::Heartbeat;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::beacon_socket::{Beacons, ReceivedBeacon};
use super::link_sockets::{PacketSockets, ReceivedFrame, UnavailableProtocols};
use crate::log_limit::{first_few, limited};
use crate::metrics::{Metrics, PerAddress};
use crate::priority;
use announced_set::{AnnouncedSet, Change};
use clocks::Clocks;
pub(crate) use publication::Published;
#[cfg(test)]
pub(crate) use publication::Reports;

/// Capacity of the queues to the driver; more is dropped and set_counts.
const QUEUE: usize = 4_096;
/// How often sockets are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The parts of a driver that has not been started.
pub(crate) struct Driver {
    pub(crate) ownership: ownership::OwnershipSettings,
    /// The address on which beacons are received.
    pub(crate) beacons: SocketAddr,
    pub(crate) keys: watch::Receiver<Keyring>,
    pub(crate) views: watch::Receiver<Option<Arc<View>>>,
    pub(crate) links: watch::Receiver<Vec<Link>>,
    pub(crate) published: watch::Sender<Published>,
    /// Protocols of links for which no packet socket could be opened.
    pub(crate) unavailable: watch::Sender<UnavailableProtocols>,
    pub(crate) metrics: Metrics,
    /// Beats in each iteration of the main loop.
    pub(crate) heartbeat: Heartbeat,
    pub(crate) shutdown: CancellationToken,
}

/// Why the driver ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The thread or its runtime could not be created.
    #[error("cannot start the driver")]
    Start(#[source] std::io::Error),
    /// The beacon port cannot be listened on.
    #[error("cannot listen for beacons on UDP {address} (--beacon-port){}", port_hint(source))]
    Beacons {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The thread has panicked.
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
    /// Runs the driver in its own thread until the process stops.
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
                    tokio::task::LocalSet::new()
                        .block_on(&runtime, async { DriverState::new(self)?.run().await })
                });
                // The receiver is gone when the process has ended meanwhile.
                let _ = ended.send(result);
            })
            .map_err(Error::Start)?;
        end.await.map_err(|_| Error::Lost)?
    }
}

struct DriverState {
    driver: Driver,
    view: Arc<View>,
    ownership: Ownership,
    responder: Responder,
    sockets: PacketSockets,
    frames: mpsc::Receiver<ReceivedFrame>,
    beacons: Beacons,
    received_beacons: mpsc::Receiver<ReceivedBeacon>,
    counters: PerAddress,
    announced: AnnouncedSet,
    /// Announced groups whose addresses or links differ from the view, to be announced again.
    changed: BTreeSet<GroupId>,
    view_known: bool,
    /// Outputs of the state machines are pending.
    outputs_pending: bool,
    clocks: Clocks,
    /// The revisions of the ownership state that were last published.
    revisions: (u64, u64, u64),
    /// The blocked speakers that were last published.
    blocked: Vec<(NodeName, ownership::Blocked)>,
    /// When to publish next, if something has changed.
    publication: Option<Instant>,
    /// Not to publish before this time.
    pause_until: Option<Instant>,
    counts: Counts,
    alive: usize,
    /// When sockets are checked again.
    next_check: Instant,
    /// Drops of the kernel on the sockets that are open.
    kernel_drops: u64,
}

impl DriverState {
    fn new(driver: Driver) -> Result<Self, Error> {
        let (sender, frames) = mpsc::channel(QUEUE);
        let (messages, received_beacons) = mpsc::channel(QUEUE);
        let beacons = Beacons::open(driver.beacons, driver.keys.clone(), messages, driver.metrics.clone())
            .map_err(|source| Error::Beacons { address: driver.beacons, source })?;
        Ok(Self {
            view: Arc::default(),
            ownership: Ownership::new(driver.ownership.clone()),
            responder: Responder::new(crate::seed()),
            sockets: PacketSockets::new(sender, driver.metrics.clone()),
            frames,
            beacons,
            received_beacons,
            counters: PerAddress::new(driver.metrics.clone()),
            announced: AnnouncedSet::default(),
            changed: BTreeSet::new(),
            view_known: false,
            outputs_pending: false,
            clocks: Clocks::new(),
            revisions: (0, 0, 0),
            blocked: Vec::new(),
            publication: None,
            pause_until: None,
            counts: Counts::default(),
            alive: 0,
            next_check: Instant::now(),
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
            let check = self.next_check;
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if leave_by.is_none() => {
                    let now = Instant::now();
                    leave_by = now.checked_add(Ownership::handover_time());
                    self.feed_ownership(now, ownership::Input::Shutdown);
                }
                () = sleep_until(deadline), if !self.outputs_pending => self.on_deadline(),
                // Other tasks of this thread run before the next turn.
                () = tokio::task::yield_now(), if self.outputs_pending => self.continue_turn(deadline),
                // Before inputs that any host on the network can send endlessly.
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
                Some(beacon) = self.received_beacons.recv() => {
                    self.catch_up(Instant::now());
                    self.on_beacon(beacon);
                }
                Some(frame) = self.frames.recv() => self.on_frames(frame),
                () = sleep_until(Some(check)) => self.check_sockets(Instant::now()).await,
            }
            self.publish_if_due(Instant::now());
            self.count();
            if leave_by.is_some() && self.ownership.owned().is_empty() {
                self.perform_all_outputs(Instant::now());
                return Ok(());
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.responder.next_deadline(),
            self.ownership.next_deadline(),
            self.sockets.next_deadline(),
            self.publication,
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Checks what no event reports. Also ensures a minimum rate of iterations of the main loop.
    async fn check_sockets(&mut self, now: Instant) {
        self.next_check = now + CHECK_INTERVAL;
        self.beacons.check(now).await;
        let drops = self.sockets.kernel_drops().saturating_add(self.beacons.kernel_drops());
        // Sockets that were closed do not count any more.
        self.driver.metrics.kernel_drops.inc_by(drops.saturating_sub(self.kernel_drops));
        self.kernel_drops = drops;
    }

    fn set_keys(&mut self, now: Instant) {
        let ids = self.driver.keys.borrow_and_update().ids();
        self.feed_ownership(now, ownership::Input::Keys(ids));
    }

    fn set_links(&mut self, now: Instant, links: Vec<Link>) {
        self.sockets.set(now, &links);
        self.publish_unavailable();
        let macs = links.iter().map(|link| link.mac.0).collect();
        self.feed_responder(now, responder::Input::Links(links));
        self.feed_ownership(now, ownership::Input::Macs(macs));
    }

    fn view_changed(&mut self, now: Instant) {
        let Some(view) = self.driver.views.borrow_and_update().clone() else { return };
        let before = std::mem::replace(&mut self.view, Arc::clone(&view));
        self.view_known = true;
        self.ownership.handle(now, ownership::Input::View(view));
        // The addresses or links of groups that stay may have changed. Which of them are announced follows
        // from the outputs.
        let changed = self.view.changed_groups(&before);
        self.changed.extend(changed.into_iter().filter(|id| self.announced.contains(*id)));
        self.withdraw_lost(now);
        self.perform_outputs(now);
    }

    fn feed_ownership(&mut self, now: Instant, input: ownership::Input) {
        self.ownership.handle(now, input);
        self.perform_outputs(now);
    }

    fn feed_responder(&mut self, now: Instant, input: responder::Input<'_>) {
        if let Err(reason) = self.responder.handle(now, input) {
            self.driver.metrics.dropped(reason);
        }
    }

    fn on_responder_output(&mut self, now: Instant, output: responder::Output) {
        match output {
            responder::Output::Transmit { link, frame, address, purpose } => {
                if !self.sockets.send(link, &frame) {
                    return self.feed_responder(now, responder::Input::Unsent(link, address, purpose));
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
            responder::Output::Join(link, group) => self.sockets.join(link, group),
            responder::Output::Leave(link, group) => self.sockets.leave(link, group),
            responder::Output::Contested(observation) => {
                self.ownership.handle(now, ownership::Input::Contested(observation));
            }
            responder::Output::ProbeAnswered(observation) => {
                self.ownership.handle(now, ownership::Input::ProbeAnswered(observation));
            }
            responder::Output::ProbeClear(address) => {
                self.ownership.handle(now, ownership::Input::ProbeClear(address));
            }
            responder::Output::ProbeFailed(address) => {
                self.ownership.handle(now, ownership::Input::ProbeFailed(address));
            }
        }
    }

    fn on_ownership_output(&mut self, now: Instant, output: ownership::Output) {
        match output {
            ownership::Output::Send { address, keys, message } => self.beacons.send(address, &keys, &message),
            ownership::Output::Probe(address, scope, plan) => {
                self.feed_responder(now, responder::Input::Probe(address, scope, plan));
            }
            ownership::Output::CancelProbe(address) => {
                self.feed_responder(now, responder::Input::CancelProbe(address));
            }
            ownership::Output::Defend(address) => {
                self.feed_responder(now, responder::Input::Defend(address));
            }
            ownership::Output::Reannounce(id) => {
                for address in self.announced.addresses(id) {
                    self.feed_responder(now, responder::Input::Reannounce(address));
                }
            }
            // The group may have been lost since: then its withdrawal has been performed already, or follows.
            ownership::Output::Announce(id) if !self.ownership.owned().contains_key(&id) => {}
            ownership::Output::Announce(id) => {
                if self.announced.insert(id) {
                    let epoch = self.ownership.owned().get(&id);
                    limited!(1000, info, parent: self.group_span(id), epoch, "this node owns the group");
                }
                self.announce(now, [id].into());
            }
            ownership::Output::Update(id) => self.announce(now, [id].into()),
            ownership::Output::Withdraw(id) => {
                let changes = self.announced.remove(id);
                self.apply_changes(now, changes);
                limited!(1000, info, parent: self.group_span(id), "this node no longer owns the group");
            }
        }
    }

    /// The span of log lines about a group.
    fn group_span(&self, id: GroupId) -> tracing::Span {
        let services = self.view.groups.get(&id).map(|group| first_few(&group.services));
        tracing::info_span!("group", %id, services = services.map(display))
    }

    /// Updates the responder to the current addresses of owned groups.
    fn announce(&mut self, now: Instant, ids: BTreeSet<GroupId>) {
        let wanted = |id: GroupId| {
            let announced = |address| self.ownership.is_announced(address);
            let group = self.view.groups.get(&id);
            (id, group.map(|group| group.addresses.only(announced)).unwrap_or_default())
        };
        let wanted = ids.into_iter().map(wanted).collect();
        let changes = self.announced.reconcile(wanted);
        self.apply_changes(now, changes);
    }

    /// Withdraws addresses that no owned group contains any more, before frames are answered. Other changes
    /// follow after the pending outputs.
    fn withdraw_lost(&mut self, now: Instant) {
        let ownership = &self.ownership;
        let withdraw = |id: &GroupId| self.announced.retain(*id, |address| ownership.announces(address));
        let changes: Vec<Change> = self.changed.iter().flat_map(withdraw).collect();
        self.apply_changes(now, changes);
    }

    fn apply_changes(&mut self, now: Instant, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Announce(address, scope) => {
                    self.feed_responder(now, responder::Input::Announce(address, scope));
                }
                Change::Withdraw(address) => {
                    self.feed_responder(now, responder::Input::Withdraw(address));
                    self.counters.forget(address);
                }
            }
        }
    }

    /// Updates the metrics; at least whenever a beacon is due.
    fn count(&mut self) {
        let (counts, alive) = (self.ownership.counts(), self.ownership.peers_alive());
        if counts != self.counts || alive != self.alive {
            if counts.stalls > self.counts.stalls {
                limited!(
                    5,
                    warn,
                    "this speaker did not run for a while (no processor time, or stopped): its addresses \
                     are probed again before it answers for them"
                );
            }
            self.counts = counts;
            self.alive = alive;
            self.driver.metrics.set_counts(counts, alive, self.blocked.len());
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
