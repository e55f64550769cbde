//! What the driver publishes, without packet sockets.

use std::cell::Cell;

use std::net::{IpAddr, Ipv4Addr};

use announce::EthernetAddress;
use announce::cluster::NodeId;
use announce::cluster::Speaker;
use announce::cluster::link::Scope;
use announce::layer2::ownership::Detection;
use announce::layer2::responder::Observation;
use announce::layer2::view::{Group, NodeAddress};

use super::*;
use crate::fixtures::{address, group, view};
use crate::layer2::link_sockets::LONGEST;

const FRAME: Duration = Duration::from_millis(1);

struct DriverHarness {
    state: DriverState,
    now: Instant,
    publications: watch::Receiver<Published>,
    views: watch::Sender<Option<Arc<View>>>,
    count: u32,
    /// How many probes were started.
    probes: u32,
}

impl DriverHarness {
    /// A driver without links that owns one address.
    fn new() -> Self {
        let mut harness = Self::starting();
        harness.set_view(view());
        for _ in 0..10_000 {
            harness.pass();
        }
        assert!(harness.publications.borrow().owned.contains_key(&address()));
        (harness.count, harness.probes) = (0, 0);
        harness
    }

    /// A driver without links or a view.
    fn starting() -> Self {
        let (views, view_receiver) = watch::channel(None);
        let (_, links) = watch::channel(Vec::new());
        let (_, keys) = watch::channel(Keyring::new([]));
        let (published, publications) = watch::channel(Published::default());
        let driver = Driver {
            ownership: ownership::OwnershipSettings {
                me: "a".into(),
                interval: Duration::from_millis(100),
                detect_multiplier: 3,
                detection: Detection::Enforce,
                session: 7,
            },
            beacons: (Ipv4Addr::LOCALHOST, 0).into(),
            keys,
            views: view_receiver,
            links,
            published,
            unavailable: watch::channel(UnavailableProtocols::new()).0,
            metrics: Metrics::default(),
            heartbeat: Heartbeat::new("driver", Duration::from_secs(5)),
            shutdown: CancellationToken::new(),
        };
        let state = DriverState::new(driver).unwrap();
        Self { state, now: Instant::now(), publications, views, count: 0, probes: 0 }
    }

    fn set_view(&mut self, view: View) {
        self.views.send_replace(Some(Arc::new(view)));
        self.state.view_changed(self.now);
    }

    /// Lets a millisecond pass.
    fn pass(&mut self) {
        self.state.publish_if_due(self.now);
        if self.publications.has_changed().unwrap() {
            self.publications.mark_unchanged();
            self.count += 1;
        }
        self.now += FRAME;
        if self.state.next_deadline().is_some_and(|at| at <= self.now) {
            self.probe_unanswered();
            self.state.deadline(self.now);
        }
    }

    /// Without links no probe can be sent: simulates a link on which no host answers.
    fn probe_unanswered(&mut self) {
        self.state.ownership.handle(self.now, ownership::Input::Deadline);
        while let Some(output) = self.state.ownership.poll_output() {
            match output {
                ownership::Output::Probe(address, ..) => {
                    self.probes += 1;
                    self.state.ownership.handle(self.now, ownership::Input::ProbeClear(address));
                }
                output => self.state.on_ownership_output(self.now, output),
            }
        }
    }

    fn contest(&mut self, mac: [u8; 6]) {
        let (mac, ours) = (EthernetAddress(mac), EthernetAddress([2, 0, 0, 0, 0, 1]));
        let observation = Observation { address: address(), mac, ours, link: 1, probing: false };
        self.state.on_responder_output(self.now, responder::Output::Contested(observation));
        self.state.perform_outputs(self.now);
    }
}

/// Runs a test in a local task set, which the receivers of beacons need.
async fn locally(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn requirement_6_a_flood_of_frames_is_published_once_in_ten_seconds() {
    locally(async {
        let mut harness = DriverHarness::new();
        let owned = Arc::clone(&harness.publications.borrow().owned);
        for frame in 0..30_000_u32 {
            let [_, _, a, b] = frame.to_be_bytes();
            harness.contest([2, 0, 0, 0x77, a, b]);
            harness.pass();
        }
        assert!(harness.count <= 4, "{} publications of 30 000 frames in 30 s", harness.count);
        let published = harness.publications.borrow().clone();
        assert_eq!(published.reports.conflicts.len(), 1);
        assert!(Arc::ptr_eq(&published.owned, &owned), "what has not changed is not copied");
    })
    .await;
}

#[tokio::test]
async fn requirement_6_a_foreign_host_that_keeps_sending_is_published_once_a_minute() {
    locally(async {
        let mut harness = DriverHarness::new();
        for _ in 0..120_000 {
            harness.contest([2, 0, 0, 0, 0x66, 0x66]);
            harness.pass();
        }
        assert!(harness.count <= 4, "{} publications in two minutes", harness.count);
    })
    .await;
}

#[tokio::test]
async fn requirement_6_the_writers_are_woken_fifty_times_a_second_at_most() {
    locally(async {
        let mut harness = DriverHarness::new();
        for _ in 0..1_000 {
            harness.set_view(view());
            harness.pass();
        }
        assert!(harness.count <= 51, "{} publications in a second", harness.count);
        for _ in 0..20 {
            harness.pass();
        }
        let last = harness.publications.borrow().clone();
        assert!(Arc::ptr_eq(&last.view, &harness.state.view), "the last one is not forgotten");
    })
    .await;
}

#[tokio::test]
async fn requirement_6_a_flood_of_frames_from_a_candidate_that_is_not_heard_causes_one_probe_per_second() {
    locally(async {
        let mut harness = DriverHarness::new();
        // Its claim would win.
        let names = ('b'..='z').map(|name| name.to_string());
        let other = names.into_iter().find(|name| NodeId::from_name(name) > NodeId::from_name("a")).unwrap();
        let mac = [2, 0, 0, 0, 0, 0x0b];
        let mut view = view();
        view.groups.insert(address(), Arc::new(group(&["a", &other])));
        view.speakers.insert(
            other.as_str().into(),
            Speaker { address: None, ready: true, running: true, generation: 1 },
        );
        view.macs.insert(mac, NodeId::from_name(&other));
        harness.set_view(view);
        (harness.count, harness.probes) = (0, 0);
        let ours = EthernetAddress([2, 0, 0, 0, 0, 1]);
        for _ in 0..10_000 {
            let mac = EthernetAddress(mac);
            let observation = Observation { address: address(), mac, ours, link: 1, probing: false };
            harness.state.on_responder_output(harness.now, responder::Output::Contested(observation));
            harness.probe_unanswered();
            harness.pass();
        }
        assert!((1..=11).contains(&harness.probes), "{} probes of 10 000 frames in 10 s", harness.probes);
        assert!(harness.publications.borrow().owned.contains_key(&address()), "no host answers on the link");
        assert!(harness.count <= 11, "{} publications", harness.count);
    })
    .await;
}

#[tokio::test]
async fn requirement_6_a_new_view_is_handled_while_frames_arrive_continuously() {
    locally(async {
        let DriverHarness { mut state, mut publications, views, .. } = DriverHarness::starting();
        let (flood, frames) = mpsc::channel(QUEUE);
        state.frames = frames;
        let (shutdown, frames_read) = (state.driver.shutdown.clone(), std::rc::Rc::new(Cell::new(0_usize)));
        let count = std::rc::Rc::clone(&frames_read);
        let sending = tokio::task::spawn_local(async move {
            // More than a driver reads that prefers frames to views.
            for sent in 0..1_000_000 {
                let frame = ReceivedFrame { at: Instant::now(), link: 1, len: 60, bytes: [0; LONGEST] };
                if flood.send(frame).await.is_err() {
                    return;
                }
                count.set((sent + 1 + flood.capacity()).saturating_sub(QUEUE));
            }
        });
        let driver = tokio::task::spawn_local(state.run());
        while frames_read.get() < 10 * QUEUE {
            tokio::task::yield_now().await;
        }
        let (view, before) = (Arc::new(view()), frames_read.get());
        views.send_replace(Some(Arc::clone(&view)));
        publications.wait_for(|published| Arc::ptr_eq(&published.view, &view)).await.unwrap();
        let read = frames_read.get() - before;
        assert!(read <= 2 * QUEUE, "{read} frames were read before the view");
        assert!(!sending.is_finished(), "the flood goes on");
        shutdown.cancel();
        sending.abort();
        driver.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_claim_that_was_lost_before_it_was_announced_is_not_announced() {
    locally(async {
        let mut harness = DriverHarness::new();
        let lost: IpAddr = "192.0.2.99".parse().unwrap();
        harness.state.on_ownership_output(harness.now, ownership::Output::Announce(lost));
        assert_eq!(harness.state.announced.groups().collect::<Vec<_>>(), [address()]);
    })
    .await;
}

/// Groups that have to be probed.
fn new_groups() -> impl Iterator<Item = (IpAddr, Arc<Group>)> {
    (1..=100).map(|last| {
        let id = IpAddr::from([9, 0, 0, last]);
        let addresses = [(id, Scope::All)].into();
        (id, Arc::new(Group { id, hashed: id, addresses, ..group(&["a"]) }))
    })
}

#[tokio::test]
async fn requirement_7_a_turn_ends_only_after_all_withdrawals() {
    locally(async {
        let mut harness = DriverHarness::new();
        // One group is gone, and new ones precede it: those are probed first.
        let mut view = view();
        view.groups.clear();
        view.groups.extend(new_groups());
        harness.state.ownership.handle(harness.now, ownership::Input::View(Arc::new(view)));
        assert!(harness.state.ownership.has_withdrawals());
        let long_ago = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        harness.state.perform_outputs(long_ago);
        assert!(harness.state.outputs_pending, "there is more to do than a turn may take");
        assert_eq!(harness.state.announced.groups().count(), 0);
    })
    .await;
}

/// A view of one group with these addresses.
fn with_addresses(addresses: &[IpAddr]) -> View {
    let addresses = addresses.iter().map(|ip| (*ip, Scope::All)).collect();
    let mut view = view();
    view.groups.insert(address(), Arc::new(Group { addresses, ..group(&["a"]) }));
    view
}

#[tokio::test]
async fn requirement_7_an_address_that_is_removed_from_a_group_is_withdrawn_before_the_next_frame() {
    locally(async {
        let second: IpAddr = "192.0.2.77".parse().unwrap();
        let without = with_addresses(&[address()]);
        let mut held = with_addresses(&[address(), second]);
        held.node_addresses.insert(second, NodeAddress { node: "b".into(), interface: None, mac: None });
        for mut after in [held, without] {
            let mut harness = DriverHarness::new();
            harness.set_view(with_addresses(&[address(), second]));
            for _ in 0..5_000 {
                harness.pass();
            }
            assert_eq!(harness.state.announced.addresses(address()), [address(), second]);
            after.groups.extend(new_groups());
            harness.state.driver.views = watch::channel(Some(Arc::new(after))).1;
            harness.state.view_changed(Instant::now().checked_sub(Duration::from_secs(1)).unwrap());
            assert!(harness.state.outputs_pending, "there is more to do than a turn may take");
            assert_eq!(harness.state.announced.addresses(address()), [address()]);
        }
    })
    .await;
}
