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

use e2e::{Bed, Suite};
use testbed::{Options, Signal, TrafficReport};

const ADDRESS: &str = "192.168.33.50";
const SERVED: Duration = Duration::from_secs(60);
/// Of a machine that does other things too; `cargo xtask bench failover` has the figures.
const MOVED: Duration = Duration::from_millis(1500);
/// Long enough for a takeover to be over, and for the client to see it.
const WATCHED: Duration = Duration::from_secs(3);
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
        .test("a_node_that_loses_power_is_followed", |bed| faults(bed, &[&PowerOff], Api::There))
        .test("a_node_whose_cable_is_pulled_is_followed", |bed| faults(bed, &[&Cable], Api::There))
        .test("a_speaker_that_is_killed_or_hangs_is_followed", |bed| {
            faults(bed, &[&SpeakerSignal(Signal::SIGKILL), &SpeakerSignal(Signal::SIGSTOP)], Api::There);
        })
        // Last: up to a minute after it the cluster calls its nodes NotReady, and their pods with them.
        .test("so_they_are_when_the_api_server_goes_at_the_same_moment", |bed| {
            faults(bed, &[&PowerOff, &Cable, &SpeakerSignal(Signal::SIGSTOP)], Api::Goes);
        });
    e2e::run(vec![suite])
}

/// Whether there is an API server while a fault lasts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Api {
    There,
    Goes,
}

/// Something that befalls a node, and how it is mended.
trait Fault {
    fn begin(&self, bed: &Bed, node: &str);
    fn mend(&self, bed: &Bed, node: &str);
}

struct PowerOff;

impl Fault for PowerOff {
    fn begin(&self, bed: &Bed, node: &str) {
        bed.power_off(node);
    }

    fn mend(&self, bed: &Bed, node: &str) {
        bed.power_on(node);
    }
}

struct Cable;

impl Cable {
    fn plug(bed: &Bed, node: &str, plugged_in: bool) {
        bed.cluster.node(node).unwrap().cable(plugged_in).unwrap();
    }
}

impl Fault for Cable {
    fn begin(&self, bed: &Bed, node: &str) {
        Self::plug(bed, node, false);
    }

    fn mend(&self, bed: &Bed, node: &str) {
        Self::plug(bed, node, true);
    }
}

/// A signal to the node's speaker; one that was stopped goes on later.
struct SpeakerSignal(Signal);

impl Fault for SpeakerSignal {
    fn begin(&self, bed: &Bed, node: &str) {
        bed.cluster.pod("metallb-system", &bed.pod_of("speaker", node)).unwrap().signal(self.0).unwrap();
    }

    fn mend(&self, bed: &Bed, node: &str) {
        if self.0 == Signal::SIGSTOP {
            SpeakerSignal(Signal::SIGCONT).begin(bed, node);
        }
    }
}

/// Each fault befalls the node that answers; another answers within [`MOVED`], and only that one once it is mended.
fn faults(bed: &Bed, faults: &[&dyn Fault], api: Api) {
    for fault in faults {
        let owner = bed.announcer("default", "failover");
        bed.web_away_from(&owner);
        let pod = bed.pod_of("speaker", &owner);
        let traffic = bed.traffic(ADDRESS);
        std::thread::sleep(Duration::from_millis(300));
        fault.begin(bed, &owner);
        if api == Api::Goes {
            bed.api_server_away_for(WATCHED);
        } else {
            std::thread::sleep(WATCHED);
        }
        let seen = bed.seen(traffic);
        assert!(seen.answered > 0 && seen.longest_silence() < MOVED, "{owner} ({pod}): {seen:?}");
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
