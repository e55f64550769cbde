//! What the driver publishes, without packet sockets.

use std::cell::Cell;

use std::net::{IpAddr, Ipv4Addr};

use announce::EthernetAddress;
use announce::beacon::NodeId;
use announce::link::Scope;
use announce::ownership::Detection;
use announce::responder::Sighting;
use announce::view::{Group, Holder, Speaker};

use super::*;
use crate::fixtures::{address, group, view};

const FRAME: Duration = Duration::from_millis(1);

struct Bench {
    state: State,
    now: Instant,
    publications: watch::Receiver<Published>,
    views: watch::Sender<Option<Arc<View>>>,
    count: u32,
    /// How often the link was asked about an address.
    probes: u32,
}

impl Bench {
    /// A driver without links that owns one address.
    fn new() -> Self {
        let mut bench = Self::starting();
        bench.set_view(view());
        for _ in 0..10_000 {
            bench.pass();
        }
        assert!(bench.publications.borrow().owned.contains_key(&address()));
        (bench.count, bench.probes) = (0, 0);
        bench
    }

    /// A driver without links that knows of nothing yet.
    fn starting() -> Self {
        let (views, view_receiver) = watch::channel(None);
        let (_, links) = watch::channel(Vec::new());
        let (_, keys) = watch::channel(Keyring::new([]));
        let (published, publications) = watch::channel(Published::default());
        let driver = Driver {
            ownership: ownership::Settings {
                me: "a".into(),
                interval: Duration::from_millis(100),
                misses: 3,
                detection: Detection::Enforce,
                session: 7,
            },
            beacons: (Ipv4Addr::LOCALHOST, 0).into(),
            keys,
            views: view_receiver,
            links,
            published,
            closed: watch::channel(Closed::new()).0,
            metrics: Metrics::default(),
            heartbeat: Heartbeat::new("driver", Duration::from_secs(5)),
            shutdown: CancellationToken::new(),
        };
        let state = State::new(driver).unwrap();
        Self { state, now: Instant::now(), publications, views, count: 0, probes: 0 }
    }

    fn set_view(&mut self, view: View) {
        self.views.send_replace(Some(Arc::new(view)));
        self.state.view_changed(self.now);
    }

    /// A millisecond passes.
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

    /// Without links nobody can be asked: this stands for one on which nobody answers.
    fn probe_unanswered(&mut self) {
        self.state.ownership.handle(self.now, ownership::Input::Deadline);
        while let Some(output) = self.state.ownership.poll_output() {
            match output {
                ownership::Output::Probe(address, ..) => {
                    self.probes += 1;
                    self.state.ownership.handle(self.now, ownership::Input::Unanswered(address));
                }
                output => self.state.decided(self.now, output),
            }
        }
    }

    fn contest(&mut self, mac: [u8; 6]) {
        let (mac, ours) = (EthernetAddress(mac), EthernetAddress([2, 0, 0, 0, 0, 1]));
        let sighting = Sighting { address: address(), mac, ours, link: 1, probing: false };
        self.state.wire(self.now, responder::Output::Contested(sighting));
        self.state.carry_out(self.now);
    }
}

/// Beacons are received by a task of the same thread.
async fn locally(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn requirement_6_a_flood_of_frames_is_published_once_in_ten_seconds() {
    locally(async {
        let mut bench = Bench::new();
        let owned = Arc::clone(&bench.publications.borrow().owned);
        for frame in 0..30_000_u32 {
            let [_, _, a, b] = frame.to_be_bytes();
            bench.contest([2, 0, 0, 0x77, a, b]);
            bench.pass();
        }
        assert!(bench.count <= 4, "{} publications of 30 000 frames in 30 s", bench.count);
        let published = bench.publications.borrow().clone();
        assert_eq!(published.reports.conflicts.len(), 1);
        assert!(Arc::ptr_eq(&published.owned, &owned), "what has not changed is not copied");
    })
    .await;
}

#[tokio::test]
async fn requirement_6_a_foreign_host_that_goes_on_talking_is_published_once_a_minute() {
    locally(async {
        let mut bench = Bench::new();
        for _ in 0..120_000 {
            bench.contest([2, 0, 0, 0, 0x66, 0x66]);
            bench.pass();
        }
        assert!(bench.count <= 4, "{} publications in two minutes", bench.count);
    })
    .await;
}

#[tokio::test]
async fn requirement_6_whatever_happens_the_writers_are_woken_fifty_times_a_second_at_most() {
    locally(async {
        let mut bench = Bench::new();
        for _ in 0..1_000 {
            bench.set_view(view());
            bench.pass();
        }
        assert!(bench.count <= 51, "{} publications in a second", bench.count);
        for _ in 0..20 {
            bench.pass();
        }
        let last = bench.publications.borrow().clone();
        assert!(Arc::ptr_eq(&last.view, &bench.state.view), "the last one is not forgotten");
    })
    .await;
}

#[tokio::test]
async fn requirement_6_a_flood_of_frames_from_a_candidate_that_is_not_heard_asks_the_link_once_a_second() {
    locally(async {
        let mut bench = Bench::new();
        // Its claim would win.
        let names = ('b'..='z').map(|name| name.to_string());
        let other = names.into_iter().find(|name| NodeId::of(name) > NodeId::of("a")).unwrap();
        let mac = [2, 0, 0, 0, 0, 0x0b];
        let mut view = view();
        view.groups.insert(address(), Arc::new(group(&["a", &other])));
        view.speakers.insert(
            other.as_str().into(),
            Speaker { address: None, ready: true, running: true, generation: 1 },
        );
        view.macs.insert(mac, NodeId::of(&other));
        bench.set_view(view);
        (bench.count, bench.probes) = (0, 0);
        let ours = EthernetAddress([2, 0, 0, 0, 0, 1]);
        for _ in 0..10_000 {
            let mac = EthernetAddress(mac);
            let sighting = Sighting { address: address(), mac, ours, link: 1, probing: false };
            bench.state.wire(bench.now, responder::Output::Contested(sighting));
            bench.probe_unanswered();
            bench.pass();
        }
        assert!((1..=11).contains(&bench.probes), "{} probes of 10 000 frames in 10 s", bench.probes);
        assert!(bench.publications.borrow().owned.contains_key(&address()), "the link shows nobody");
        assert!(bench.count <= 11, "{} publications", bench.count);
    })
    .await;
}

#[tokio::test]
async fn requirement_6_a_new_view_is_acted_on_while_frames_come_without_end() {
    locally(async {
        let Bench { mut state, mut publications, views, .. } = Bench::starting();
        let (flood, frames) = mpsc::channel(QUEUE);
        state.frames = frames;
        let (shutdown, frames_read) = (state.driver.shutdown.clone(), std::rc::Rc::new(Cell::new(0_usize)));
        let count = std::rc::Rc::clone(&frames_read);
        let sending = tokio::task::spawn_local(async move {
            // More than a driver reads that lets frames pass before views.
            for sent in 0..1_000_000 {
                let frame = Received { at: Instant::now(), link: 1, len: 60, bytes: [0; ports::LONGEST] };
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
async fn a_claim_that_was_lost_before_its_announcement_was_carried_out_is_not_announced() {
    locally(async {
        let mut bench = Bench::new();
        let lost: IpAddr = "192.0.2.99".parse().unwrap();
        bench.state.decided(bench.now, ownership::Output::Announce(lost));
        assert_eq!(bench.state.announced.groups().collect::<Vec<_>>(), [address()]);
    })
    .await;
}

/// Groups that the link has to be asked about.
fn new_groups() -> impl Iterator<Item = (IpAddr, Arc<Group>)> {
    (1..=100).map(|last| {
        let id = IpAddr::from([9, 0, 0, last]);
        let addresses = [(id, Scope::All)].into();
        (id, Arc::new(Group { id, hashed: id, addresses, ..group(&["a"]) }))
    })
}

#[tokio::test]
async fn requirement_7_a_turn_that_is_over_has_withdrawn_what_is_not_owned_any_more() {
    locally(async {
        let mut bench = Bench::new();
        // One group is gone, and others that come before it are new: the link is asked about those first.
        let mut view = view();
        view.groups.clear();
        view.groups.extend(new_groups());
        bench.state.ownership.handle(bench.now, ownership::Input::View(Arc::new(view)));
        assert!(bench.state.ownership.has_withdrawals());
        let long_ago = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        bench.state.carry_out(long_ago);
        assert!(bench.state.behind, "there is more to do than a turn may take");
        assert_eq!(bench.state.announced.groups().count(), 0);
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
async fn requirement_7_what_leaves_a_group_that_stays_is_withdrawn_before_the_next_frame() {
    locally(async {
        let second: IpAddr = "192.0.2.77".parse().unwrap();
        let without = with_addresses(&[address()]);
        let mut held = with_addresses(&[address(), second]);
        held.held.insert(second, Holder { node: "b".into(), interface: None, mac: None });
        for mut after in [held, without] {
            let mut bench = Bench::new();
            bench.set_view(with_addresses(&[address(), second]));
            for _ in 0..5_000 {
                bench.pass();
            }
            assert_eq!(bench.state.announced.addresses(address()), [address(), second]);
            after.groups.extend(new_groups());
            bench.state.driver.views = watch::channel(Some(Arc::new(after))).1;
            bench.state.view_changed(Instant::now().checked_sub(Duration::from_secs(1)).unwrap());
            assert!(bench.state.behind, "there is more to do than a turn may take");
            assert_eq!(bench.state.announced.addresses(address()), [address()]);
        }
    })
    .await;
}
