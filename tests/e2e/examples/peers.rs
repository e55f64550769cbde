//! What a hundred peers cost a speaker at rest: `cargo xtask bench peers`.
//!
//! One machine plays the peers, each of which shares a Service with the speaker; beacons go both ways ten times a second.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of this is tests: what is not as expected is a panic"
)]

use std::time::{Duration, Instant};

use e2e::speakers::{Peers, Rig};
use testbed::LanOptions;

const PEERS: u32 = 100;
/// How long rest is watched.
const REST: Duration = Duration::from_secs(30);

fn main() {
    let rig = Rig::up("bench-peers", 1, LanOptions::default(), &[]);
    println!("| peers | beacons a second, each way | processor | memory |");
    println!("|---|---|---|---|");
    report(&rig, None);
    let peers = Peers::start(&rig, PEERS);
    testbed::until(Duration::from_secs(60), "all peers to be heard and all Services to be announced", || {
        let heard = rig.metric(0, "lbstack_speaker_peers{state=\"heard\"}");
        let owned = rig.metric(0, "lbstack_speaker_owned_groups");
        if heard >= f64::from(PEERS) && owned >= f64::from(PEERS) {
            Ok(())
        } else {
            Err(format!("{heard} are heard, {owned} groups are owned"))
        }
    })
    .expect("they are");
    report(&rig, Some(&peers));
}

/// One line: what is exchanged and used in a while at rest.
fn report(rig: &Rig, peers: Option<&Peers>) {
    let received = || peers.map_or(0, Peers::received);
    let (beacons, processor, begun) = (received(), rig.processor_time(0), Instant::now());
    std::thread::sleep(REST);
    let took = begun.elapsed();
    let share = rig.processor_time(0).saturating_sub(processor).as_secs_f64() / took.as_secs_f64();
    let rate = u128::from(received() - beacons) * 1_000 / took.as_millis();
    let count = peers.map_or(0, |_| PEERS);
    println!("| {count} | {rate} | {:.2} % | {:.1} MB |", share * 100.0, rig.memory(0));
}
