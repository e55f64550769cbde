//! What answering costs: `cargo xtask bench arp`.
//!
//! Latency of the speaker's answers beside those of the kernel for its own address on the same link, with one address
//! and with thousands; memory and processor time of the speaker.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of this is tests: what is not as expected is a panic"
)]

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use e2e::speakers::Rig;
use testbed::LanOptions;

const QUESTIONS: u32 = 5_000;

fn main() {
    let (mut services, mut binary) = (10_000_u32, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().unwrap_or_default();
        match flag.as_str() {
            "--services" => services = value.parse().expect("--services is a number"),
            "--binary" => binary = Some(PathBuf::from(value)),
            _ => panic!("{flag}: there are --services N and --binary FILE"),
        }
    }
    let binary = binary.unwrap_or_else(|| testbed::target_directory().join("debug/lbstack"));
    let rig = Rig::up("bench-arp", 1, LanOptions::default(), &binary, &[]);
    println!("speaker without Services: {:.1} MB", rig.memory(0));
    let own: [IpAddr; 2] =
        [rig.nodes[0].guest.host.v4.into(), rig.nodes[0].guest.host.v6.expect("the LAN has IPv6").into()];
    let announced: [IpAddr; 2] =
        ["192.168.33.200", "fd00:33::200"].map(|text| text.parse().expect("an address"));
    rig.service("web", &announced);
    rig.owner(announced[0]);
    println!("| who | address | p50 µs | p99 µs | answers per second, one after the other |");
    println!("|---|---|---|---|---|");
    compare(&rig, &own, &announced, 1);
    println!("speaker with 1 Service: {:.1} MB", rig.memory(0));
    rig.services(services, "10.1.0.0".parse().expect("an address"));
    let groups = f64::from(services + 1);
    testbed::until(Duration::from_secs(600), "all Services to be announced", || {
        let owned = rig.metric(0, "lbstack_speaker_owned_groups");
        if owned >= groups { Ok(()) } else { Err(format!("{owned} are")) }
    })
    .expect("all are announced");
    compare(&rig, &own, &announced, services + 1);
    println!("speaker with {} Services: {:.1} MB", services + 1, rig.memory(0));
    let (before, begun) = (rig.processor_time(0), Instant::now());
    std::thread::sleep(Duration::from_secs(20));
    let used = rig.processor_time(0).saturating_sub(before).as_secs_f64() / begun.elapsed().as_secs_f64();
    println!("speaker at rest with {} Services: {:.2} % of a processor", services + 1, used * 100.0);
}

fn compare(rig: &Rig, own: &[IpAddr], announced: &[IpAddr], count: u32) {
    for (who, addresses) in [("kernel".to_owned(), own), (format!("speaker, {count} Services"), announced)] {
        for address in addresses {
            let begun = Instant::now();
            let answers = rig.cluster.client().arping(*address, QUESTIONS).expect("the client asks");
            let per_second = f64::from(QUESTIONS - answers.unanswered) / begun.elapsed().as_secs_f64();
            let (p50, p99) = (answers.p50_us.unwrap_or(0), answers.p99_us.unwrap_or(0));
            println!("| {who} | {address} | {p50} | {p99} | {per_second:.0} |");
        }
    }
}
