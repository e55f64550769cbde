//! Real speakers in network namespaces, the kernel of a client as their judge.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of this is tests: what is not as expected is a panic"
)]

use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use e2e::speakers::{NAMESPACE, Rig};
use libtest_mimic::{Arguments, Failed, Trial};
use testbed::{Block, Frames, LanOptions, Mac, Multicast, Signal, until};

const SOON: Duration = Duration::from_secs(20);
/// Of a machine that does other things too; `cargo xtask bench failover` has the figures.
const MOVED: Duration = Duration::from_millis(900);
/// Long enough for a takeover to be over, and for the client to see it.
const WATCHED: Duration = Duration::from_secs(2);

/// By how much the views of two nodes differ: less than an owner offers a group for.
const LATE: Duration = Duration::from_secs(1);

static RIG: Mutex<Option<Rig>> = Mutex::new(None);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share a network.
    arguments.test_threads = Some(1);
    let tests: Vec<(&'static str, fn(&mut Rig))> = vec![
        ("an_address_of_each_family_is_answered_for_by_one_node", answered_by_one),
        ("a_killed_owner_is_followed", a_killed_owner_is_followed),
        ("a_node_without_power_is_followed", a_node_without_power_is_followed),
        ("an_owner_that_is_asked_to_stop_loses_no_request", sigterm_loses_nothing),
        ("an_excluded_node_hands_over_and_loses_no_request", a_label_loses_nothing),
        ("an_owner_that_may_not_announce_answers_until_late_successors_have_claimed", late_successors),
        ("a_stopped_owner_says_nothing_when_it_goes_on", a_stopped_owner_is_silent_later),
        ("an_owner_is_not_followed_while_the_wire_shows_it_alive", blocked_beacons_move_nothing),
        ("one_watcher_that_hears_nothing_moves_nothing", one_way_loss_moves_nothing),
        ("a_pulled_cable_moves_the_address", a_pulled_cable_moves),
        ("a_healed_partition_leaves_one_owner_and_the_client_knows_which", a_healed_partition),
        ("a_changed_key_moves_nothing", a_changed_key_moves_nothing),
        ("a_stranger_keeps_an_address_from_being_announced_until_it_goes", a_stranger_comes_and_goes),
        ("a_stranger_is_told_of_until_it_goes_though_its_service_is_gone", a_stranger_outlives_its_service),
        ("a_stranger_who_comes_later_is_told_of_and_the_address_stays", a_late_stranger),
        ("a_speaker_that_restarts_without_an_api_server_goes_on", restarts_without_api),
        ("an_api_server_that_went_without_a_word_is_found_again", a_dead_connection_is_noticed),
    ];
    let mut trials: Vec<Trial> =
        tests.into_iter().map(|(name, test)| Trial::test(name, move || on_rig(test))).collect();
    trials.push(Trial::test("a_snooping_switch_lets_solicitations_through", snooping));
    trials.push(Trial::test("a_second_segment_has_owners_of_its_own", second_segment));
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(RIG.lock().unwrap_or_else(PoisonError::into_inner).take());
    conclusion.exit_code()
}

fn v4() -> IpAddr {
    "192.168.33.200".parse().unwrap()
}

fn v6() -> IpAddr {
    "fd00:33::200".parse().unwrap()
}

fn on_rig(test: fn(&mut Rig)) -> Result<(), Failed> {
    let mut shared = RIG.lock().unwrap_or_else(PoisonError::into_inner);
    let rig = shared.get_or_insert_with(|| {
        let rig = Rig::up("netns", 3, LanOptions::default(), &[]);
        rig.service("web", &[v4(), v6()]);
        rig
    });
    // A test before may have left somebody down.
    for number in 0..rig.nodes.len() {
        if !rig.runs(number) {
            rig.power_on(number);
            rig.ready(number, true);
        }
    }
    rig.all_ready();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(rig)));
    result.map_err(|panic| {
        eprintln!("{}", rig.logs());
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default()
            .into()
    })
}

fn answered_by_one(rig: &mut Rig) {
    let owner = rig.owner(v4());
    assert_eq!(rig.owner(v6()), owner, "both families of a Service are on one node");
    for address in [v4(), v6()] {
        let client = rig.cluster.client();
        client.forget_neighbours().unwrap();
        let url = format!("http://{}/", std::net::SocketAddr::new(address, 8080));
        assert!(client.curl(&url).unwrap().contains(&rig.nodes[owner].name));
        assert_eq!(client.neighbour(address).unwrap(), Some(rig.nodes[owner].guest.host.mac));
    }
    until(SOON, "the status to name the owner", || {
        let list = rig.cluster.get(["servicel2statuses", "--namespace", NAMESPACE]);
        let list = list.map_err(|error| error.to_string())?;
        let node = list["items"][0]["status"]["node"].as_str().unwrap_or_default().to_owned();
        if node == rig.nodes[owner].name { Ok(()) } else { Err(list.to_string()) }
    })
    .unwrap();
}

/// Runs a fault for both families, for a client with warm and with cold neighbour entries.
fn followed(rig: &mut Rig, fault: fn(&mut Rig, usize), mend: fn(&mut Rig, usize)) {
    for (address, cold) in [(v4(), false), (v6(), false), (v4(), true)] {
        let owner = rig.owner(address);
        let round = rig.round(address, cold, WATCHED, |rig| fault(rig, owner));
        assert!(round.silence < MOVED, "{address}, cold {cold}: {round:?}");
        assert_ne!(rig.owner(address), owner);
        mend(rig, owner);
        rig.all_ready();
    }
}

fn a_killed_owner_is_followed(rig: &mut Rig) {
    followed(rig, Rig::kill, Rig::start);
}

fn a_node_without_power_is_followed(rig: &mut Rig) {
    followed(rig, Rig::power_off, Rig::power_on);
}

fn sigterm_loses_nothing(rig: &mut Rig) {
    for address in [v4(), v6()] {
        let owner = rig.owner(address);
        let round = rig.round(address, true, WATCHED, |rig| {
            rig.terminate(owner);
        });
        assert_eq!(round.lost, 0, "{address}: {round:?}");
        assert_ne!(rig.owner(address), owner);
        rig.start(owner);
        rig.all_ready();
    }
}

const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

fn a_label_loses_nothing(rig: &mut Rig) {
    let owner = rig.owner(v4());
    let name = rig.nodes[owner].name.clone();
    let round = rig.round(v4(), true, WATCHED, |rig| {
        rig.cluster.kubectl(["label", "node", &name, &format!("{EXCLUDE}=")]).unwrap();
    });
    assert_eq!(round.lost, 0, "{round:?}");
    let next = rig.owner(v4());
    assert_ne!(next, owner);
    rig.cluster.kubectl(["label", "node", &name, &format!("{EXCLUDE}-")]).unwrap();
    std::thread::sleep(WATCHED);
    assert_eq!(rig.owner(v4()), next, "who may own it again takes nothing away");
}

/// The owner learns from the API that it must hand over; its successors hear of it later, and refuse until then.
fn late_successors(rig: &mut Rig) {
    let node_condition = |type_: &str, status: &str| {
        format!(r#"{{"status":{{"conditions":[{{"type":"{type_}","status":"{status}"}}]}}}}"#)
    };
    let condition = |rig: &Rig, number: usize, type_: &str, status: &str| {
        let (name, patch) = (rig.nodes[number].name.clone(), node_condition(type_, status));
        rig.cluster.kubectl(["patch", "node", &name, "--subresource=status", "--patch", &patch]).unwrap();
    };
    let label = |rig: &Rig, number: usize, yes: bool| {
        let label = format!("{EXCLUDE}{}", if yes { "=" } else { "-" });
        rig.cluster.kubectl(["label", "node", &rig.nodes[number].name, &label]).unwrap();
    };
    let ready = |rig: &Rig, number: usize, lost: bool| {
        condition(rig, number, "Ready", if lost { "False" } else { "True" });
    };
    let network = |rig: &Rig, number: usize, lost: bool| {
        condition(rig, number, "NetworkUnavailable", if lost { "True" } else { "False" });
    };
    let pod = |rig: &Rig, number: usize, lost: bool| rig.ready(number, !lost);
    let causes: [(&str, &dyn Fn(&Rig, usize, bool)); 4] =
        [("label", &label), ("pod not ready", &pod), ("node not ready", &ready), ("no network", &network)];
    for (cause, set) in causes {
        let owner = rig.owner(v4());
        let lan = rig.cluster.lan().clone();
        let others: Vec<String> = rig
            .nodes
            .iter()
            .map(|node| node.name.clone())
            .filter(|name| *name != rig.nodes[owner].name)
            .collect();
        let round = rig.round(v4(), true, WATCHED * 2, |rig| {
            let cut = |name: &String| {
                let frames = Frames::Tcp(6443);
                lan.block(Block { from: Some(name), to: None, frames, one_way: false }).unwrap()
            };
            let cuts: Vec<_> = others.iter().map(cut).collect();
            set(rig, owner, true);
            std::thread::sleep(LATE);
            for cut in cuts {
                cut.heal().unwrap();
            }
        });
        assert_eq!(round.lost, 0, "{cause}: {round:?}");
        assert_ne!(rig.owner(v4()), owner, "{cause}");
        set(rig, owner, false);
        rig.all_ready();
    }
}

fn a_stopped_owner_is_silent_later(rig: &mut Rig) {
    let owner = rig.owner(v4());
    let round = rig.round(v4(), false, WATCHED, |rig| rig.signal(owner, Signal::SIGSTOP));
    assert!(round.silence < MOVED, "{round:?}");
    let next = rig.owner(v4());
    assert_ne!(next, owner);
    rig.signal(owner, Signal::SIGCONT);
    for _ in 0..10 {
        assert_eq!(rig.who_has(v4()), [rig.nodes[next].guest.host.mac]);
    }
    rig.all_ready();
    assert!(rig.metric(owner, "lbstack_speaker_stalls") >= 1.0);
}

fn blocked_beacons_move_nothing(rig: &mut Rig) {
    let owner = rig.owner(v4());
    let name = rig.nodes[owner].name.clone();
    let lan = rig.cluster.lan().clone();
    let fault =
        lan.block(Block { from: Some(&name), to: None, frames: Frames::Udp(7946), one_way: true }).unwrap();
    let conditions = ["configurationstates", "--namespace", NAMESPACE];
    until(SOON, "somebody to tell that beacons are blocked", || {
        let states = rig.cluster.get(conditions).map_err(|error| error.to_string())?.to_string();
        if states.contains(&format!("beacons arrive from the speakers of {name}")) {
            Ok(())
        } else {
            Err(states)
        }
    })
    .unwrap();
    for _ in 0..10 {
        assert_eq!(rig.who_has(v4()), [rig.nodes[owner].guest.host.mac]);
    }
    fault.heal().unwrap();
    rig.all_ready();
    until(SOON, "the warning to go", || {
        let states = rig.cluster.get(conditions).map_err(|error| error.to_string())?.to_string();
        if states.contains("beacons arrive from") { Err(states) } else { Ok(()) }
    })
    .unwrap();
    assert_eq!(rig.owner(v4()), owner);
}

fn one_way_loss_moves_nothing(rig: &mut Rig) {
    let owner = rig.owner(v4());
    let watcher = (owner + 1) % rig.nodes.len();
    let lan = rig.cluster.lan().clone();
    let (from, to) = (rig.nodes[owner].name.clone(), rig.nodes[watcher].name.clone());
    let fault =
        lan.block(Block { from: Some(&from), to: Some(&to), frames: Frames::All, one_way: true }).unwrap();
    let round = rig.round(v4(), false, WATCHED, |_| {});
    assert_eq!(round.lost, 0, "{round:?}");
    assert_eq!(rig.owner(v4()), owner);
    fault.heal().unwrap();
    rig.all_ready();
}

fn a_pulled_cable_moves(rig: &mut Rig) {
    let owner = rig.owner(v4());
    let round = rig.round(v4(), false, WATCHED, |rig| rig.nodes[owner].guest.cable(false).unwrap());
    assert!(round.silence < MOVED, "{round:?}");
    let next = rig.owner(v4());
    assert_ne!(next, owner);
    rig.nodes[owner].guest.cable(true).unwrap();
    for _ in 0..10 {
        assert_eq!(rig.who_has(v4()), [rig.nodes[next].guest.host.mac]);
    }
    rig.all_ready();
}

/// The client hears both sides, so it is told of the winner when they hear each other again.
fn a_healed_partition(rig: &mut Rig) {
    let owner = rig.owner(v4());
    let lan = rig.cluster.lan().clone();
    let name = |number: usize| rig.nodes[number].name.clone();
    let others: Vec<usize> = (0..rig.nodes.len()).filter(|number| *number != owner).collect();
    let cut = |other: &usize| {
        let (from, to) = (name(owner), name(*other));
        lan.block(Block { from: Some(&from), to: Some(&to), frames: Frames::All, one_way: false }).unwrap()
    };
    let cuts: Vec<_> = others.iter().map(cut).collect();
    let client = rig.cluster.client();
    let answering = || client.who_has(v4(), Duration::from_millis(20)).unwrap();
    until(SOON, "each side to have an owner", || match answering().len() {
        2 => Ok(()),
        others => Err(format!("{others} answer")),
    })
    .unwrap();
    // The client has been misled; the winner is whoever took the address over.
    let (address, loser) = (v4().to_string(), rig.nodes[owner].guest.host.mac);
    let mislead =
        ["ip", "neighbour", "replace", &address, "lladdr", &loser.to_string(), "dev", "eth0", "nud", "stale"];
    client.run(mislead).unwrap();
    // A kernel does not change an entry twice within a second.
    std::thread::sleep(WATCHED);
    for cut in cuts {
        cut.heal().unwrap();
    }
    let healed = Instant::now();
    let mut doubled = Duration::ZERO;
    while healed.elapsed() < WATCHED {
        if answering().len() > 1 {
            doubled = healed.elapsed();
        }
    }
    // A beacon goes every 100 ms, and a question takes 20 ms.
    assert!(doubled < Duration::from_millis(300), "two answered {doubled:?} after the partition had healed");
    let winner = rig.owner(v4());
    assert_eq!(
        client.neighbour(v4()).unwrap(),
        Some(rig.nodes[winner].guest.host.mac),
        "the client was told"
    );
    rig.all_ready();
}

fn a_changed_key_moves_nothing(rig: &mut Rig) {
    let owner = rig.owner(v4());
    rig.change_key("another key");
    let round = rig.round(v4(), false, Duration::from_secs(8), |_| {});
    assert_eq!(round.lost, 0, "{round:?}");
    assert_eq!(rig.owner(v4()), owner);
    for number in 0..rig.nodes.len() {
        assert!(rig.metric(number, "lbstack_speaker_peers{state=\"heard\"}") >= 2.0);
    }
}

/// Whether there is an `AddressConflict` of that name, and whether it says that the address is announced.
fn conflict(rig: &Rig, name: &str) -> Result<Option<bool>, String> {
    let list = rig.cluster.get(["addressconflicts", "--namespace", NAMESPACE]).map_err(|e| e.to_string())?;
    let mut items = list["items"].as_array().into_iter().flatten();
    let object = items.find(|object| object["metadata"]["name"] == name);
    Ok(object.map(|object| object["spec"]["announced"] == true))
}

fn until_conflict(rig: &Rig, name: &str, expected: Option<bool>, limit: Duration) {
    until(limit, &format!("the AddressConflict {name} to be {expected:?}"), || match conflict(rig, name)? {
        found if found == expected => Ok(()),
        found => Err(format!("it is {found:?}")),
    })
    .unwrap();
}

/// The speaker asks again every minute.
const ASKED_AGAIN: Duration = Duration::from_secs(90);

fn a_stranger_comes_and_goes(rig: &mut Rig) {
    let addresses: [IpAddr; 2] = ["192.168.33.210".parse().unwrap(), "fd00:33::210".parse().unwrap()];
    let names = ["192.168.33.210", "fd00.33.x.210"];
    let mac = Mac([2, 0, 0, 0, 0x66, 0x66]);
    let stranger = rig.cluster.lan().stranger(&addresses, mac).unwrap();
    rig.service("taken", &addresses);
    for (address, name) in addresses.into_iter().zip(names) {
        until_conflict(rig, name, Some(false), SOON);
        assert_eq!(rig.who_has(address), [mac]);
    }
    drop(stranger);
    for (address, name) in addresses.into_iter().zip(names) {
        until(ASKED_AGAIN, "the address to be announced", || match rig.who_has(address)[..] {
            [owner] if owner != mac => Ok(()),
            ref others => Err(format!("{others:?} answer")),
        })
        .unwrap();
        until_conflict(rig, name, None, SOON);
    }
    rig.remove_service("taken");
    for address in addresses {
        rig.nobody_has(address);
    }
}

fn a_stranger_outlives_its_service(rig: &mut Rig) {
    let (address, name): (IpAddr, _) = ("192.168.33.212".parse().unwrap(), "192.168.33.212");
    let stranger = rig.cluster.lan().stranger(&[address], Mac([2, 0, 0, 0, 0x66, 0x68])).unwrap();
    rig.service("haunted", &[address]);
    until_conflict(rig, name, Some(false), SOON);
    rig.remove_service("haunted");
    // A speaker writes of strangers first: once this is gone, it has decided about that.
    until(SOON, "the ServiceL2Status to go with the Service", || {
        let list = rig.cluster.get(["servicel2statuses", "--namespace", NAMESPACE]);
        let list = list.map_err(|error| error.to_string())?;
        let mut items = list["items"].as_array().into_iter().flatten();
        match items.find(|object| object["metadata"]["labels"]["metallb.io/service-name"] == "haunted") {
            None => Ok(()),
            Some(object) => Err(object.to_string()),
        }
    })
    .unwrap();
    assert_eq!(conflict(rig, name), Ok(Some(false)), "whoever gets the address next would meet it");
    drop(stranger);
    until_conflict(rig, name, None, ASKED_AGAIN);
}

fn a_late_stranger(rig: &mut Rig) {
    let address: IpAddr = "192.168.33.211".parse().unwrap();
    rig.service("contested", &[address]);
    let owner = rig.owner(address);
    let stranger = rig.cluster.lan().stranger(&[address], Mac([2, 0, 0, 0, 0x66, 0x67])).unwrap();
    stranger.host.announce(address).unwrap();
    until_conflict(rig, "192.168.33.211", Some(true), SOON);
    assert!(rig.who_has(address).contains(&rig.nodes[owner].guest.host.mac));
    drop(stranger);
    until_conflict(rig, "192.168.33.211", None, ASKED_AGAIN);
    assert_eq!(rig.owner(address), owner, "it was never given up");
    rig.remove_service("contested");
    rig.nobody_has(address);
}

fn a_dead_connection_is_noticed(rig: &mut Rig) {
    let address: IpAddr = "192.168.33.220".parse().unwrap();
    // It ends and starts while nothing passes, so that no speaker hears of it: their connections lead nowhere.
    let server = rig.cluster.control_plane().name;
    let way = Block { from: Some(&server), to: None, frames: Frames::All, one_way: false };
    let fault = rig.cluster.lan().block(way).unwrap();
    rig.cluster.api().stop().unwrap();
    rig.cluster.api().start().unwrap();
    fault.heal().unwrap();
    rig.service("late", &[address]);
    // Without keepalive this takes five minutes.
    until(Duration::from_secs(60), "the new address to be announced", || match rig.who_has(address)[..] {
        [_] => Ok(()),
        ref others => Err(format!("{others:?} answer")),
    })
    .unwrap();
    rig.remove_service("late");
    rig.nobody_has(address);
    rig.all_ready();
}

fn restarts_without_api(rig: &mut Rig) {
    // What is known is written a second after it has changed.
    std::thread::sleep(WATCHED);
    let owner = rig.owner(v4());
    rig.cluster.api().stop().unwrap();
    let round = rig.round(v4(), false, WATCHED, |rig| rig.kill(owner));
    assert!(round.silence < MOVED, "without an API server: {round:?}");
    let next = rig.owner(v4());
    rig.start(owner);
    // The one that restarted serves again: when all others go, it has the address.
    let others: Vec<usize> = (0..rig.nodes.len()).filter(|number| *number != owner).collect();
    until(SOON, "the restarted speaker to be ready", || rig.admin(owner, "readyz").map(drop)).unwrap();
    until(SOON, "the restarted speaker to hear the others", || {
        let heard = rig.metric(owner, "lbstack_speaker_peers{state=\"heard\"}");
        if heard >= 2.0 { Ok(()) } else { Err(format!("it hears {heard}")) }
    })
    .unwrap();
    assert_eq!(rig.owner(v4()), next);
    for number in others {
        rig.kill(number);
    }
    assert_eq!(rig.owner(v4()), owner);
    rig.cluster.api().start().unwrap();
}

/// With a querier, a snooping switch forwards what is for a group only to who has reported it.
fn snooping() -> Result<(), Failed> {
    drop(RIG.lock().unwrap_or_else(PoisonError::into_inner).take());
    let lan = LanOptions { multicast: Multicast { snooping: true, querier: true }, ..LanOptions::default() };
    let rig = Rig::up("netns-snoop", 2, lan, &[]);
    // Until the querier has been heard, the bridge floods.
    std::thread::sleep(Duration::from_secs(12));
    rig.service("web", &[v6()]);
    let owner = rig.owner(v6());
    let client = rig.cluster.client();
    client.forget_neighbours().unwrap();
    assert!(client.curl("http://[fd00:33::200]:8080/").unwrap().contains(&rig.nodes[owner].name));
    let groups = rig.cluster.lan().gateway().run(["bridge", "mdb", "show"])?;
    assert!(groups.contains("ff02::1:ff00:200"), "{groups}");
    Ok(())
}

/// Two segments with a router between them: the first two nodes are on both, the third on the first alone and the fourth on
/// the second alone. Beacons between them take the first segment or the router, so an interface of the second can be down while
/// they go on.
fn second_segment() -> Result<(), Failed> {
    drop(RIG.lock().unwrap_or_else(PoisonError::into_inner).take());
    let (near, far): (IpAddr, IpAddr) = (v4(), "192.168.34.200".parse()?);
    let mut rig = Rig::up("netns-segments", 3, LanOptions::default(), &[]);
    let options = LanOptions { v4: "192.168.34.0/24".parse()?, v6: None, ..LanOptions::default() };
    let segment = rig.cluster.lan().segment("br1", &options)?;
    rig.join(segment.guest("node4", 14)?);
    rig.start(3);
    let attach = |number: usize| {
        let name = format!("node{}-far", number + 1);
        segment.attach(&rig.nodes[number].guest.host, "eth1", &name, 11 + u32::try_from(number).unwrap())
    };
    let cables = [attach(0)?, attach(1)?];
    let asker = segment.guest("asker", 100)?;
    // In the order of the nodes; the third has none there.
    let macs = [cables[0].host.mac, cables[1].host.mac, Mac([0; 6]), rig.nodes[3].guest.host.mac];
    let far_owner = || e2e::speakers::one_of(&asker.host, far, &macs);
    rig.service("near", &[near]);
    rig.service("far", &[far]);
    let hear = |rig: &Rig| {
        for (number, others) in [(0, 3.0), (1, 3.0), (2, 2.0), (3, 2.0)] {
            until(SOON, &format!("{} to hear {others} others", rig.nodes[number].name), || {
                let heard = rig.metric(number, "lbstack_speaker_peers{state=\"heard\"}");
                if heard >= others { Ok(()) } else { Err(format!("it hears {heard}")) }
            })
            .unwrap();
        }
    };
    hear(&rig);
    let near_owner = rig.owner(near);
    assert_ne!(near_owner, 3, "it is not on the segment");

    // The client is behind the router, so it is the router that has to learn who has the address.
    while let owner @ (0 | 1) = far_owner() {
        let round = rig.round(far, false, WATCHED, |_| cables[owner].cable(false).unwrap());
        assert!(round.silence < MOVED, "an interface is down: {round:?}");
        assert_ne!(far_owner(), owner);
    }
    assert_eq!(far_owner(), 3, "nobody else is left");
    assert_eq!(rig.owner(near), near_owner, "it has lost no interface of this segment");
    for cable in &cables {
        cable.cable(true)?;
    }
    hear(&rig);
    assert_eq!(far_owner(), 3, "who may own it again takes nothing away");
    let round = rig.round(far, false, WATCHED, |rig| rig.power_off(3));
    assert!(round.silence < MOVED, "a node behind the router is gone: {round:?}");
    assert!(matches!(far_owner(), 0 | 1));
    assert_eq!(rig.owner(near), near_owner);
    Ok(())
}
