//! How long a client is not served when the node that answers for its address fails: `cargo xtask bench
//! failover`.
//!
//! Real speakers in network namespaces, or (`--cluster`) a whole cluster, and clients that send a request
//! every 5 ms. Prints p50, p99, the maximum and a histogram of the longest silence per kind of fault, and how
//! many requests were lost. With `--groups`: how long a takeover of so many groups takes, and its effect on
//! the addresses that the successor announced before.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure of a benchmark is a panic"
)]

use std::net::IpAddr;
use std::time::Duration;

use clap::Parser;
use e2e::Env;
use e2e::faults::{self, Fault, clients};
use e2e::speakers::{Rig, Round, Takeover};
use testbed::{LanOptions, Options, Signal};

/// Longer than any takeover; the maximum of the measured outage.
const WATCHED: Duration = Duration::from_millis(1_200);
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// A kind of fault: its name, whether the client resolves the address before each request, and functions that
/// inject and clear the fault.
struct Kind {
    name: &'static str,
    cold: bool,
    fault: fn(&mut Rig, usize),
    clear: fn(&mut Rig, usize),
}

const KINDS: [Kind; 6] = [
    Kind { name: "power-off", cold: false, fault: Rig::power_off, clear: Rig::power_on },
    Kind { name: "cable", cold: false, fault: unplug, clear: plug },
    Kind { name: "sigkill", cold: false, fault: Rig::kill, clear: Rig::start },
    Kind { name: "sigstop", cold: false, fault: stop, clear: resume },
    Kind { name: "sigterm", cold: true, fault: terminate, clear: Rig::start },
    Kind { name: "label", cold: true, fault: exclude, clear: include },
];

fn unplug(rig: &mut Rig, node: usize) {
    rig.nodes[node].guest.cable(false).expect("the cable is unplugged");
}

fn plug(rig: &mut Rig, node: usize) {
    rig.nodes[node].guest.cable(true).expect("the cable is plugged in");
}

fn stop(rig: &mut Rig, node: usize) {
    rig.signal(node, Signal::SIGSTOP);
}

fn resume(rig: &mut Rig, node: usize) {
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

/// Measures how long a client is not served when the node that answers for its address fails.
#[derive(Parser)]
struct Args {
    /// Rounds for each kind of fault, each for both families.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Only these kinds: power-off, cable, sigkill, sigstop, and, without --cluster, sigterm, label.
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<String>,
    /// Use a whole cluster with lbstack instead of speakers in network namespaces.
    #[arg(long)]
    cluster: bool,
    /// Instead: a node with so many addresses loses power, and one other node takes them all over.
    #[arg(long, conflicts_with_all = ["rounds", "kinds", "cluster"])]
    groups: Option<u32>,
}

impl Args {
    fn wants(&self, name: &str) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|kind| kind == name)
    }
}

fn main() {
    let args = Args::parse();
    if let Some(groups) = args.groups {
        return take_over(groups);
    }
    println!("| fault | client | rounds | p50 ms | p99 ms | max ms | requests lost |");
    println!("|---|---|---|---|---|---|---|");
    if args.cluster { on_cluster(&args) } else { in_namespaces(&args) }
}

fn take_over(groups: u32) {
    let Takeover { took, own, stalls, taken, least } = Takeover::of("bench-takeover", groups);
    println!(
        "| groups | all owned after | own address not served | requests lost | stalls | taken over | minimum owned |"
    );
    println!("|---|---|---|---|---|---|---|");
    let (took, silence) = (took.as_secs_f64(), own.silence.as_millis());
    println!("| {groups} | {took:.2} s | {silence} ms | {} | {stalls} | {taken} | {least} |", own.lost);
}

fn in_namespaces(args: &Args) {
    let addresses: [IpAddr; 2] =
        ["192.168.33.200", "fd00:33::200"].map(|text| text.parse().expect("an address"));
    let mut rig = Rig::up("bench-failover", 3, LanOptions::default(), &[]);
    rig.service("web", &addresses);
    for kind in KINDS.iter().filter(|kind| args.wants(kind.name)) {
        rounds(kind.name, ["IPv4", "IPv6"], args.rounds, || one(&mut rig, kind, addresses));
    }
}

/// Both addresses belong to one Service, so one node announces both.
fn one(rig: &mut Rig, kind: &Kind, addresses: [IpAddr; 2]) -> [Round; 2] {
    rig.all_ready();
    let owner = rig.owner(addresses[0]);
    let rounds = rig.rounds(addresses, kind.cold, WATCHED, |rig| (kind.fault)(rig, owner));
    assert_ne!(rig.owner(addresses[0]), owner, "{} did not move the address", kind.name);
    (kind.clear)(rig, owner);
    rounds
}

fn on_cluster(args: &Args) {
    let env = faults::served(Options { id: "bench-failover".into(), ..Options::default() });
    for fault in Fault::ALL.into_iter().filter(|fault| args.wants(fault.name())) {
        rounds(fault.name(), faults::CLIENTS, args.rounds, || one_on_cluster(&env, fault));
    }
}

fn one_on_cluster(env: &Env, fault: Fault) -> [Round; 4] {
    let owner = env.announcer("default", faults::SERVICE);
    faults::web_away_from(env, &owner);
    let reports = clients(env, || {
        fault.inject(env, &owner);
        std::thread::sleep(faults::WATCHED);
    });
    fault.clear(env, &owner);
    env.announcer_after("default", faults::SERVICE, &owner);
    env.stack_available();
    reports.map(|report| Round { silence: report.longest_silence(), lost: report.lost })
}

/// Runs many rounds of one fault. Intermediate results are printed, since many rounds take an hour.
fn rounds<const CLIENTS: usize>(
    fault: &str,
    clients: [&str; CLIENTS],
    count: usize,
    mut one: impl FnMut() -> [Round; CLIENTS],
) {
    let mut results = [const { Vec::new() }; CLIENTS];
    for number in 1..=count {
        for (results, round) in results.iter_mut().zip(one()) {
            results.push(round);
        }
        for (client, results) in clients.into_iter().zip(&results) {
            let summary = Summary::of(results);
            if number == count {
                println!("| {fault} | {client} | {summary} |");
                summary.draw();
            } else if number % 50 == 0 {
                eprintln!("  {fault}, {client}, so far: {summary}");
            }
        }
    }
}

/// The longest outages of many rounds, in milliseconds, sorted.
struct Summary {
    silences: Vec<u128>,
    lost: u64,
}

impl Summary {
    fn of(rounds: &[Round]) -> Self {
        let mut silences: Vec<u128> = rounds.iter().map(|round| round.silence.as_millis()).collect();
        silences.sort_unstable();
        Self { silences, lost: rounds.iter().map(|round| round.lost).sum() }
    }

    fn at(&self, percent: usize) -> u128 {
        let index = (self.silences.len() * percent).div_ceil(100).saturating_sub(1);
        self.silences.get(index).copied().unwrap_or(0)
    }

    /// Prints a histogram with classes of 50 ms.
    fn draw(&self) {
        for class in 0..=self.at(100) / 50 {
            let count = self.silences.iter().filter(|ms| **ms / 50 == class).count();
            if count > 0 {
                eprintln!("  {:>5} ms {count:>5} {}", class * 50, "#".repeat(count.min(100)));
            }
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (p50, p99, max) = (self.at(50), self.at(99), self.at(100));
        write!(f, "{} | {p50} | {p99} | {max} | {}", self.silences.len(), self.lost)
    }
}
