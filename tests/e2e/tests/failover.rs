//! Faults and maintenance of the nodes that answer for an address, and their effect on a client outside of
//! the cluster. Only the address is affected: the pods run on other nodes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this file contains only tests, in which a failure is a panic"
)]

use std::process::ExitCode;
use std::time::Duration;

use e2e::faults::{self, ADDRESSES, CLIENTS, Fault, SERVICE, WATCHED, clients, resolving_clients};
use e2e::{Env, Suite};
use testbed::Options;

/// Timeout of a takeover on a busy machine; `cargo xtask bench failover` measures it.
const MOVED: Duration = Duration::from_millis(1500);
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

fn main() -> ExitCode {
    let suite = Suite::new("failover", || faults::served(Options::default()))
        .test("a_rollout_of_the_speakers_loses_no_request", rollout)
        .test("excluding_a_node_by_its_label_loses_no_request", excluded)
        .test("each_node_is_drained_and_rebooted_in_turn", maintenance)
        .test("the_address_of_a_node_that_loses_power_is_taken_over", |env| {
            faults(env, &[Fault::PowerOff], Api::Up);
        })
        .test("the_address_of_a_node_whose_cable_is_unplugged_is_taken_over", |env| {
            faults(env, &[Fault::Cable], Api::Up);
        })
        .test("the_address_of_a_speaker_that_is_killed_or_stopped_is_taken_over", |env| {
            faults(env, &[Fault::Kill, Fault::Stop], Api::Up);
        })
        // Last: up to a minute after it the nodes and their pods are NotReady.
        .test("addresses_are_taken_over_when_the_api_server_fails_at_the_same_time", |env| {
            faults(env, &[Fault::PowerOff, Fault::Cable, Fault::Stop], Api::Down);
        });
    e2e::run(vec![suite])
}

/// Whether the API server is available during a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Api {
    Up,
    Down,
}

/// Injects each fault on the node that answers: another node answers within [`MOVED`], and is the only one
/// after the fault was cleared.
fn faults(env: &Env, faults: &[Fault], api: Api) {
    for fault in faults {
        let owner = env.announcer("default", SERVICE);
        faults::web_away_from(env, &owner);
        let pod = env.pod_of("speaker", &owner);
        let all = clients(env, || {
            fault.inject(env, &owner);
            if api == Api::Down {
                env.api_server_outage(WATCHED);
            } else {
                std::thread::sleep(WATCHED);
            }
        });
        for (client, report) in CLIENTS.into_iter().zip(all) {
            let served = report.answered > 0 && report.longest_silence() < MOVED;
            assert!(served, "{fault:?} of {owner} ({pod}), to the client ({client}): {report:?}");
        }
        fault.clear(env, &owner);
        let next = env.announcer_after("default", SERVICE, &owner);
        env.stack_available();
        let mac = env.cluster.host(&next).unwrap().mac.to_string();
        for address in ADDRESSES.repeat(10) {
            assert_eq!(env.who_has(address).join(" "), mac, "{next} alone answers after {owner}");
        }
    }
}

fn rollout(env: &Env) {
    let reports = resolving_clients(env, || {
        let speakers = ["--namespace", "metallb-system", "daemonset/speaker"];
        env.kubectl(&[&["rollout", "restart"], &speakers[..]].concat());
        env.kubectl(&[&["rollout", "status", "--timeout=180s"], &speakers[..]].concat());
    });
    assert!(reports.iter().all(|report| report.answered > 0 && report.lost == 0), "{reports:?}");
}

fn excluded(env: &Env) {
    let owner = env.announcer("default", SERVICE);
    let reports = resolving_clients(env, || {
        env.kubectl(&["label", "node", &owner, &format!("{EXCLUDE}=")]);
        env.announcer_after("default", SERVICE, &owner);
    });
    env.kubectl(&["label", "node", &owner, &format!("{EXCLUDE}-")]);
    assert!(reports.iter().all(|report| report.answered > 0 && report.lost == 0), "{reports:?}");
}

fn maintenance(env: &Env) {
    for node in env.nodes() {
        faults::web_away_from(env, &node);
        let all = clients(env, || {
            env.kubectl(&["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"]);
            env.power_off(&node);
            env.power_on(&node);
            env.kubectl(&["uncordon", &node]);
        });
        for (client, report) in CLIENTS.into_iter().zip(all) {
            let served = report.answered > 0 && report.longest_silence() < MOVED;
            assert!(served, "{node}, to the client ({client}): {report:?}");
        }
        assert_eq!(env.addresses("default", SERVICE, 2), ADDRESSES);
        env.stack_available();
    }
}
