//! The cost of answering ARP and NDP: `cargo xtask bench arp`.
//!
//! Latency of the speaker's answers, compared with those of the kernel for its own address on the same link
//! and of a process that only answers, with one address and with thousands; memory and processor time of the
//! speaker.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure of a benchmark is a panic"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use clap::Parser;
use e2e::speakers::Rig;
use testbed::LanOptions;

const REQUESTS: u32 = 5_000;
/// Requests that are sent at once, to measure the throughput.
const BURST: u32 = 64;

/// Measures the cost of answering ARP and NDP.
#[derive(Parser)]
struct Args {
    /// The number of Services beside the first.
    #[arg(long, default_value_t = 10_000)]
    services: u32,
}

fn main() {
    let Args { services } = Args::parse();
    let rig = Rig::up("bench-arp", 1, LanOptions::default(), &[]);
    println!("speaker without Services: {:.1} MB", rig.memory(0));
    let own: [IpAddr; 2] =
        [rig.nodes[0].guest.host.v4.into(), rig.nodes[0].guest.host.v6.expect("the LAN has IPv6").into()];
    let announced: [IpAddr; 2] =
        ["192.168.33.200", "fd00:33::200"].map(|text| text.parse().expect("an address"));
    rig.service("web", &announced);
    rig.owner(announced[0]);
    println!("| responder | address | p50 µs | p99 µs | answers per second, sequential | {BURST} at once |");
    println!("|---|---|---|---|---|---|");
    let bare = Ipv4Addr::new(192, 168, 33, 210);
    let process = rig.nodes[0].guest.host.answer(bare).expect("a process that answers");
    testbed::until(Duration::from_secs(5), "the process to answer", || {
        let answers = rig.cluster.client().who_has(bare.into(), Duration::from_millis(50));
        if answers.is_ok_and(|answers| answers.len() == 1) { Ok(()) } else { Err("it does not".to_owned()) }
    })
    .expect("the process answers");
    measure(&rig, "a process that only answers", bare.into());
    drop(process);
    compare(&rig, &own, &announced, 1);
    println!("speaker with 1 Service: {:.1} MB", rig.memory(0));
    rig.services(services, "10.1.0.0".parse().expect("an address"));
    let groups = f64::from(services + 1);
    testbed::until(Duration::from_secs(600), "all Services to be announced", || {
        let owned = rig.metric(0, "lbstack_speaker_owned_groups");
        if owned >= groups { Ok(()) } else { Err(format!("{owned} are")) }
    })
    .expect("all Services are announced");
    compare(&rig, &own, &announced, services + 1);
    println!("speaker with {} Services: {:.1} MB", services + 1, rig.memory(0));
    // Events and statuses of so many Services are still being written.
    rig.at_rest(0);
    let (before, start) = (rig.processor_time(0), Instant::now());
    std::thread::sleep(Duration::from_secs(40));
    let used = rig.processor_time(0).saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64();
    println!("speaker at rest with {} Services: {:.2} % of a processor", services + 1, used * 100.0);
    // By now it has released the memory of the burst.
    println!("speaker at rest with {} Services: {:.1} MB", services + 1, rig.memory(0));
}

fn compare(rig: &Rig, own: &[IpAddr], announced: &[IpAddr], count: u32) {
    for address in own {
        measure(rig, "kernel", *address);
    }
    for address in announced {
        measure(rig, &format!("speaker, {count} Services"), *address);
    }
}

fn measure(rig: &Rig, who: &str, address: IpAddr) {
    let ask = |rounds: u32, burst: u32| {
        let start = Instant::now();
        let answers = rig.cluster.client().arping(address, rounds, burst).expect("the client asks");
        let answered = f64::from(rounds * burst - answers.unanswered);
        (answers, answered / start.elapsed().as_secs_f64())
    };
    let (answers, one_by_one) = ask(REQUESTS, 1);
    let (_, at_once) = ask(REQUESTS / 5, BURST);
    let (p50, p99) = (answers.p50_us.unwrap_or(0), answers.p99_us.unwrap_or(0));
    println!("| {who} | {address} | {p50} | {p99} | {one_by_one:.0} | {at_once:.0} |");
}
