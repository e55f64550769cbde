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

use e2e::faults::{Fault, WATCHED, clients};
use e2e::{Bed, Suite};
use testbed::{Options, TrafficReport};

const ADDRESS: &str = "192.168.33.50";
const SERVED: Duration = Duration::from_secs(60);
/// Of a machine that does other things too; `cargo xtask bench failover` has the figures.
const MOVED: Duration = Duration::from_millis(1500);
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

fn main() -> ExitCode {
    let make = || {
        let bed = Bed::installed(Options::default());
        bed.stack_up();
        bed.pool("failover", &format!("{ADDRESS}-{ADDRESS}"));
        bed.web();
        bed.service("failover", "failover", "");
        bed.served(&format!("http://{ADDRESS}/"), SERVED);
        bed
    };
    let suite = Suite::new("failover", make)
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
        let owner = bed.announcer("default", "failover");
        bed.web_away_from(&owner);
        let pod = bed.pod_of("speaker", &owner);
        let both = clients(bed, ADDRESS, || {
            fault.begin(bed, &owner);
            if api == Api::Goes {
                bed.api_server_away_for(WATCHED);
            } else {
                std::thread::sleep(WATCHED);
            }
        });
        for (client, seen) in ["knows the owner", "asks anew"].into_iter().zip(both) {
            let served = seen.answered > 0 && seen.longest_silence() < MOVED;
            assert!(served, "{fault:?} of {owner} ({pod}), to a client that {client}: {seen:?}");
        }
        fault.mend(bed, &owner);
        let next = bed.announcer_after("default", "failover", &owner);
        bed.stack_available();
        let mac = bed.cluster.host(&next).unwrap().mac.to_string();
        for _ in 0..10 {
            assert_eq!(bed.who_has(ADDRESS).join(" "), mac, "{next} alone answers after {owner}");
        }
    }
}

/// A client that asks before each request who has the address, over something that takes a while.
fn resolving_client(bed: &Bed, during: impl FnOnce()) -> TrafficReport {
    let traffic = bed.resolving_traffic(ADDRESS);
    std::thread::sleep(Duration::from_millis(300));
    during();
    std::thread::sleep(WATCHED);
    bed.seen(traffic)
}

fn rollout(bed: &Bed) {
    let seen = resolving_client(bed, || {
        let speakers = ["--namespace", "metallb-system", "daemonset/speaker"];
        bed.kubectl(&[&["rollout", "restart"], &speakers[..]].concat());
        bed.kubectl(&[&["rollout", "status", "--timeout=180s"], &speakers[..]].concat());
    });
    assert_eq!(seen.lost, 0, "{seen:?}");
}

fn excluded(bed: &Bed) {
    let owner = bed.announcer("default", "failover");
    let seen = resolving_client(bed, || {
        bed.kubectl(&["label", "node", &owner, &format!("{EXCLUDE}=")]);
        bed.announcer_after("default", "failover", &owner);
    });
    bed.kubectl(&["label", "node", &owner, &format!("{EXCLUDE}-")]);
    assert_eq!(seen.lost, 0, "{seen:?}");
}

fn maintenance(bed: &Bed) {
    for node in bed.nodes() {
        bed.web_away_from(&node);
        let traffic = bed.traffic(ADDRESS);
        std::thread::sleep(Duration::from_millis(300));
        bed.kubectl(&["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"]);
        bed.power_off(&node);
        bed.power_on(&node);
        bed.kubectl(&["uncordon", &node]);
        let seen = bed.seen(traffic);
        assert!(seen.answered > 0 && seen.longest_silence() < MOVED, "{node}: {seen:?}");
        assert_eq!(bed.address("default", "failover"), ADDRESS);
        bed.stack_available();
    }
}
