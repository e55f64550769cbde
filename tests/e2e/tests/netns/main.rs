//! Real speakers in network namespaces, observed by the kernel of a client.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this file contains only tests, in which a failure is a panic"
)]

mod foreign_hosts;
mod networks;
mod takeover;

use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use e2e::speakers::{NAMESPACE, Rig};
use libtest_mimic::{Arguments, Failed, Trial};
use testbed::{Block, Frames, LanOptions, Signal, until};

const SOON: Duration = Duration::from_secs(20);
/// Timeout of a takeover on a busy machine; `cargo xtask bench failover` measures it.
const MOVED: Duration = Duration::from_millis(900);
/// Long enough for a takeover, and for the client to notice it.
const WATCHED: Duration = Duration::from_secs(2);

/// The delay between the views of two nodes: shorter than the time for which an owner offers a group.
const VIEW_DELAY: Duration = Duration::from_secs(1);

static RIG: Mutex<Option<Rig>> = Mutex::new(None);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share a network.
    arguments.test_threads = Some(1);
    let tests: Vec<(&'static str, fn(&mut Rig))> = vec![
        ("one_node_answers_for_an_address_of_each_family", answered_by_one),
        ("the_addresses_of_a_killed_owner_are_taken_over", a_killed_owner),
        ("the_addresses_of_a_node_without_power_are_taken_over", a_node_without_power),
        ("an_owner_that_is_asked_to_stop_loses_no_request", sigterm_loses_nothing),
        ("an_excluded_node_hands_over_and_loses_no_request", a_label_loses_nothing),
        ("an_owner_that_may_not_announce_answers_until_delayed_successors_have_claimed", late_successors),
        ("a_stopped_owner_sends_nothing_when_it_continues", a_stopped_owner_is_silent_later),
        ("an_owner_keeps_its_addresses_while_it_answers_on_the_network", blocked_beacons_move_nothing),
        ("one_node_that_receives_no_beacons_moves_nothing", one_way_loss_moves_nothing),
        ("a_pulled_cable_moves_the_address", a_pulled_cable_moves),
        ("after_a_partition_one_owner_remains_and_the_client_is_updated", a_healed_partition),
        ("a_changed_key_moves_nothing", a_changed_key_moves_nothing),
        (
            "an_address_of_a_foreign_host_is_not_announced_until_the_host_is_gone",
            foreign_hosts::before_the_service,
        ),
        (
            "a_foreign_host_is_reported_until_it_is_gone_after_its_service_is_deleted",
            foreign_hosts::after_the_service,
        ),
        (
            "a_later_foreign_host_is_reported_and_the_address_stays_announced",
            foreign_hosts::during_the_service,
        ),
        ("a_speaker_that_restarts_without_an_api_server_continues", restarts_without_api),
        ("a_dead_connection_to_the_api_server_is_replaced", a_dead_connection_is_noticed),
    ];
    let mut trials: Vec<Trial> =
        tests.into_iter().map(|(name, test)| Trial::test(name, move || on_rig(test))).collect();
    trials.push(Trial::test("a_snooping_switch_lets_solicitations_through", networks::snooping));
    trials.push(Trial::test("a_second_segment_has_owners_of_its_own", networks::second_segment));
    trials.push(Trial::test(
        "requirement_7_a_takeover_of_two_thousand_groups_completes_without_a_stall_of_the_successor",
        || {
            takeover::of_many_groups();
            Ok(())
        },
    ));
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
    // An earlier test may have left a node down.
    for number in 0..rig.nodes.len() {
        if !rig.runs(number) {
            rig.power_on(number);
            rig.ready(number, true);
        }
    }
    rig.all_ready();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(rig)));
    if result.is_err() {
        eprintln!("{}", rig.logs());
        // Whatever this test has left behind does not affect the next one.
        *shared = None;
    }
    result.map_err(|panic| {
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
        client.flush_neighbours().unwrap();
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

/// Runs a fault for both families, and for clients with and without cached neighbour entries.
fn taken_over(rig: &mut Rig, fault: fn(&mut Rig, usize), clear: fn(&mut Rig, usize)) {
    for (address, cold) in [(v4(), false), (v6(), false), (v4(), true)] {
        let owner = rig.owner(address);
        let round = rig.round(address, cold, WATCHED, |rig| fault(rig, owner));
        assert!(round.silence < MOVED, "{address}, cold {cold}: {round:?}");
        assert_ne!(rig.owner(address), owner);
        clear(rig, owner);
        rig.all_ready();
    }
}

fn a_killed_owner(rig: &mut Rig) {
    taken_over(rig, Rig::kill, Rig::start);
}

fn a_node_without_power(rig: &mut Rig) {
    taken_over(rig, Rig::power_off, Rig::power_on);
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
    assert_eq!(rig.owner(v4()), next, "a node that becomes eligible again takes nothing back");
}

/// The owner learns from the API server that it must hand over; its successors learn it later, and reject the
/// handover until then.
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
            let block = |name: &String| {
                let frames = Frames::Tcp(6443);
                lan.block(Block { from: Some(name), to: None, frames, one_way: false }).unwrap()
            };
            let blocks: Vec<_> = others.iter().map(block).collect();
            set(rig, owner, true);
            std::thread::sleep(VIEW_DELAY);
            for block in blocks {
                block.heal().unwrap();
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
    let conditions = ["speakerstates", "--namespace", NAMESPACE];
    until(SOON, "a condition to report blocked beacons", || {
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
    until(SOON, "the condition to be cleared", || {
        let states = rig.cluster.get(conditions).map_err(|error| error.to_string())?.to_string();
        if states.contains("beacons arrive from") { Err(states) } else { Ok(()) }
    })
    .unwrap();
    assert_eq!(rig.owner(v4()), owner);
}

fn one_way_loss_moves_nothing(rig: &mut Rig) {
    let owner = rig.owner(v4());
    let other = (owner + 1) % rig.nodes.len();
    let lan = rig.cluster.lan().clone();
    let (from, to) = (rig.nodes[owner].name.clone(), rig.nodes[other].name.clone());
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

/// The client can reach both sides, so the winner updates it when the sides are connected again.
fn a_healed_partition(rig: &mut Rig) {
    let owner = rig.owner(v4());
    let lan = rig.cluster.lan().clone();
    let name = |number: usize| rig.nodes[number].name.clone();
    let others: Vec<usize> = (0..rig.nodes.len()).filter(|number| *number != owner).collect();
    let block = |other: &usize| {
        let (from, to) = (name(owner), name(*other));
        lan.block(Block { from: Some(&from), to: Some(&to), frames: Frames::All, one_way: false }).unwrap()
    };
    let blocks: Vec<_> = others.iter().map(block).collect();
    let client = rig.cluster.client();
    let answering = || client.who_has(v4(), Duration::from_millis(20)).unwrap();
    until(SOON, "each side to have an owner", || match answering().len() {
        2 => Ok(()),
        others => Err(format!("{others} answer")),
    })
    .unwrap();
    // The client's neighbour entry points to the loser; the winner is the node that took the address over.
    let (address, loser) = (v4().to_string(), rig.nodes[owner].guest.host.mac);
    let set_entry =
        ["ip", "neighbour", "replace", &address, "lladdr", &loser.to_string(), "dev", "eth0", "nud", "stale"];
    client.run(set_entry).unwrap();
    // The kernel does not change an entry twice within a second.
    std::thread::sleep(WATCHED);
    for block in blocks {
        block.heal().unwrap();
    }
    let healed = Instant::now();
    let mut last_duplicate = Duration::ZERO;
    while healed.elapsed() < WATCHED {
        if answering().len() > 1 {
            last_duplicate = healed.elapsed();
        }
    }
    // A beacon is sent every 100 ms, and a probe takes 20 ms.
    assert!(
        last_duplicate < Duration::from_millis(300),
        "two nodes answered {last_duplicate:?} after the partition had healed"
    );
    let winner = rig.owner(v4());
    assert_eq!(
        client.neighbour(v4()).unwrap(),
        Some(rig.nodes[winner].guest.host.mac),
        "the client was updated"
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

fn a_dead_connection_is_noticed(rig: &mut Rig) {
    let address: IpAddr = "192.168.33.220".parse().unwrap();
    // It restarts while no frames pass, so that no speaker notices it: their connections have no far end.
    let server = rig.cluster.control_plane().name;
    let block = Block { from: Some(&server), to: None, frames: Frames::All, one_way: false };
    let fault = rig.cluster.lan().block(block).unwrap();
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
    rig.unowned(address);
    rig.all_ready();
}

fn restarts_without_api(rig: &mut Rig) {
    // The snapshot is written a second after a change.
    std::thread::sleep(WATCHED);
    let owner = rig.owner(v4());
    rig.cluster.api().stop().unwrap();
    let round = rig.round(v4(), false, WATCHED, |rig| rig.kill(owner));
    assert!(round.silence < MOVED, "without an API server: {round:?}");
    let next = rig.owner(v4());
    rig.start(owner);
    // The restarted speaker works: when all others are gone, it owns the address.
    let others: Vec<usize> = (0..rig.nodes.len()).filter(|number| *number != owner).collect();
    until(SOON, "the restarted speaker to be ready", || rig.admin(owner, "readyz").map(drop)).unwrap();
    until(SOON, "the restarted speaker to receive beacons of the others", || {
        let heard = rig.metric(owner, "lbstack_speaker_peers{state=\"heard\"}");
        if heard >= 2.0 { Ok(()) } else { Err(format!("it receives beacons of {heard}")) }
    })
    .unwrap();
    assert_eq!(rig.owner(v4()), next);
    for number in others {
        rig.kill(number);
    }
    assert_eq!(rig.owner(v4()), owner);
    rig.cluster.api().start().unwrap();
}
