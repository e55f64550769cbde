//! How long a client is not served when the node that answers for its address goes: `cargo xtask bench failover`.
//!
//! Real speakers in network namespaces, a client that asks every 5 ms. Prints p50, p99, the maximum and a histogram per
//! kind of fault and family, and how many requests were lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of this is tests: what is not as expected is a panic"
)]

use std::net::IpAddr;
use std::time::Duration;

use clap::Parser;
use e2e::speakers::{Rig, Round};
use testbed::{LanOptions, Signal};

/// Longer than any takeover; a longer silence is as long as this.
const WATCHED: Duration = Duration::from_millis(1_200);
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// A kind of fault: its name, whether the client asks anew who has the address before each request, what happens, and how
/// it is mended.
struct Kind {
    name: &'static str,
    cold: bool,
    fault: fn(&mut Rig, usize),
    mend: fn(&mut Rig, usize),
}

const KINDS: [Kind; 6] = [
    Kind { name: "power-off", cold: false, fault: Rig::power_off, mend: Rig::power_on },
    Kind { name: "cable", cold: false, fault: pull, mend: plug },
    Kind { name: "sigkill", cold: false, fault: Rig::kill, mend: Rig::start },
    Kind { name: "sigstop", cold: false, fault: stop, mend: go_on },
    Kind { name: "sigterm", cold: true, fault: terminate, mend: Rig::start },
    Kind { name: "label", cold: true, fault: exclude, mend: include },
];

fn pull(rig: &mut Rig, node: usize) {
    rig.nodes[node].guest.cable(false).expect("the cable is pulled");
}

fn plug(rig: &mut Rig, node: usize) {
    rig.nodes[node].guest.cable(true).expect("the cable is plugged in");
}

fn stop(rig: &mut Rig, node: usize) {
    rig.signal(node, Signal::SIGSTOP);
}

fn go_on(rig: &mut Rig, node: usize) {
    rig.signal(node, Signal::SIGCONT);
}

fn terminate(rig: &mut Rig, node: usize) {
    rig.terminate(node);
}

fn label(rig: &Rig, node: usize, change: &str) {
    let name = rig.nodes[node].name.as_str();
    rig.cluster
        .kubectl(["label", "node", name, &format!("{EXCLUDE}{change}")])
        .expect("the node is labelled");
}

fn exclude(rig: &mut Rig, node: usize) {
    label(rig, node, "=");
}

fn include(rig: &mut Rig, node: usize) {
    label(rig, node, "-");
}

/// How long a client is not served when the node that answers for its address goes.
#[derive(Parser)]
struct Args {
    /// Rounds for each kind of fault, each for both families.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Only these kinds: power-off, cable, sigkill, sigstop, sigterm, label.
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<String>,
}

fn main() {
    let Args { rounds, kinds } = Args::parse();
    let addresses: [IpAddr; 2] =
        ["192.168.33.200", "fd00:33::200"].map(|text| text.parse().expect("an address"));
    let mut rig = Rig::up("bench-failover", 3, LanOptions::default(), &[]);
    rig.service("web", &addresses);
    println!("| fault | family | rounds | p50 ms | p99 ms | max ms | requests lost |");
    println!("|---|---|---|---|---|---|---|");
    for kind in KINDS.iter().filter(|kind| kinds.is_empty() || kinds.iter().any(|name| name == kind.name)) {
        let results: Vec<[Round; 2]> = (0..rounds).map(|_| one(&mut rig, kind, addresses)).collect();
        for (n, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
            report(kind, family, &results.iter().map(|rounds| rounds[n]).collect::<Vec<_>>());
        }
    }
}

/// Both addresses are of one Service, so on one node.
fn one(rig: &mut Rig, kind: &Kind, addresses: [IpAddr; 2]) -> [Round; 2] {
    rig.all_ready();
    let owner = rig.owner(addresses[0]);
    let rounds = rig.rounds(addresses, kind.cold, WATCHED, |rig| (kind.fault)(rig, owner));
    assert_ne!(rig.owner(addresses[0]), owner, "{} did not move the address", kind.name);
    (kind.mend)(rig, owner);
    rounds
}

fn report(kind: &Kind, family: &str, results: &[Round]) {
    let mut silences: Vec<u128> = results.iter().map(|round| round.silence.as_millis()).collect();
    silences.sort_unstable();
    let at = |percent: usize| {
        let index = (silences.len() * percent).div_ceil(100).saturating_sub(1);
        silences.get(index).copied().unwrap_or(0)
    };
    let lost: u64 = results.iter().map(|round| round.lost).sum();
    println!(
        "| {} | {family} | {} | {} | {} | {} | {lost} |",
        kind.name,
        silences.len(),
        at(50),
        at(99),
        at(100)
    );
    // Classes of 50 ms.
    let classes = silences.iter().map(|ms| ms / 50).max().unwrap_or(0);
    for class in 0..=classes {
        let count = silences.iter().filter(|ms| **ms / 50 == class).count();
        if count > 0 {
            eprintln!("  {:>5} ms {}", class * 50, "#".repeat(count));
        }
    }
}
