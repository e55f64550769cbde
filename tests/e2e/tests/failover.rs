//! Faults and maintenance of the nodes that answer for an address, and what a client outside sees of them. The address is
//! what is measured: the pods that answer are on other nodes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of this is tests: what is not as expected is a panic"
)]

use std::process::ExitCode;
use std::time::Duration;

use e2e::faults::{self, ADDRESSES, CLIENTS, Fault, SERVICE, WATCHED, clients, resolving_clients};
use e2e::{Bed, Suite};
use testbed::Options;

/// Of a machine that does other things too; `cargo xtask bench failover` has the figures.
const MOVED: Duration = Duration::from_millis(1500);
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

fn main() -> ExitCode {
    let suite = Suite::new("failover", || faults::served(Options::default()))
        .test("a_rollout_of_the_speakers_loses_no_request", rollout)
        .test("a_node_that_is_excluded_by_its_label_loses_no_request", excluded)
        .test("each_node_is_drained_and_rebooted_in_turn", maintenance)
        .test("a_node_that_loses_power_is_followed", |bed| faults(bed, &[Fault::PowerOff], Api::There))
        .test("a_node_whose_cable_is_pulled_is_followed", |bed| faults(bed, &[Fault::Cable], Api::There))
        .test("a_speaker_that_is_killed_or_hangs_is_followed", |bed| {
            faults(bed, &[Fault::Kill, Fault::Stop], Api::There);
        })
        // Last: up to a minute after it the cluster calls its nodes NotReady, and their pods with them.
        .test("so_they_are_when_the_api_server_goes_at_the_same_moment", |bed| {
            faults(bed, &[Fault::PowerOff, Fault::Cable, Fault::Stop], Api::Goes);
        });
    e2e::run(vec![suite])
}

/// Whether there is an API server while a fault lasts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Api {
    There,
    Goes,
}

/// Each fault befalls the node that answers; another answers within [`MOVED`], and only that one once it is mended.
fn faults(bed: &Bed, faults: &[Fault], api: Api) {
    for fault in faults {
        let owner = bed.announcer("default", SERVICE);
        faults::web_away_from(bed, &owner);
        let pod = bed.pod_of("speaker", &owner);
        let all = clients(bed, || {
            fault.begin(bed, &owner);
            if api == Api::Goes {
                bed.api_server_away_for(WATCHED);
            } else {
                std::thread::sleep(WATCHED);
            }
        });
        for (client, seen) in CLIENTS.into_iter().zip(all) {
            let served = seen.answered > 0 && seen.longest_silence() < MOVED;
            assert!(served, "{fault:?} of {owner} ({pod}), to the client ({client}): {seen:?}");
        }
        fault.mend(bed, &owner);
        let next = bed.announcer_after("default", SERVICE, &owner);
        bed.stack_available();
        let mac = bed.cluster.host(&next).unwrap().mac.to_string();
        for address in ADDRESSES.repeat(10) {
            assert_eq!(bed.who_has(address).join(" "), mac, "{next} alone answers after {owner}");
        }
    }
}

fn rollout(bed: &Bed) {
    let seen = resolving_clients(bed, || {
        let speakers = ["--namespace", "metallb-system", "daemonset/speaker"];
        bed.kubectl(&[&["rollout", "restart"], &speakers[..]].concat());
        bed.kubectl(&[&["rollout", "status", "--timeout=180s"], &speakers[..]].concat());
    });
    assert!(seen.iter().all(|seen| seen.answered > 0 && seen.lost == 0), "{seen:?}");
}

fn excluded(bed: &Bed) {
    let owner = bed.announcer("default", SERVICE);
    let seen = resolving_clients(bed, || {
        bed.kubectl(&["label", "node", &owner, &format!("{EXCLUDE}=")]);
        bed.announcer_after("default", SERVICE, &owner);
    });
    bed.kubectl(&["label", "node", &owner, &format!("{EXCLUDE}-")]);
    assert!(seen.iter().all(|seen| seen.answered > 0 && seen.lost == 0), "{seen:?}");
}

fn maintenance(bed: &Bed) {
    for node in bed.nodes() {
        faults::web_away_from(bed, &node);
        let all = clients(bed, || {
            bed.kubectl(&["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"]);
            bed.power_off(&node);
            bed.power_on(&node);
            bed.kubectl(&["uncordon", &node]);
        });
        for (client, seen) in CLIENTS.into_iter().zip(all) {
            let served = seen.answered > 0 && seen.longest_silence() < MOVED;
            assert!(served, "{node}, to the client ({client}): {seen:?}");
        }
        assert_eq!(bed.addresses("default", SERVICE, 2), ADDRESSES);
        bed.stack_available();
    }
}
