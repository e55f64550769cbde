//! The cost of a hundred peers for an idle speaker: `cargo xtask bench peers`.
//!
//! One machine simulates the peers, each of which shares a Service with the speaker; beacons go both ways ten
//! times a second.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure of a benchmark is a panic"
)]

use std::time::{Duration, Instant};

use e2e::speakers::{Peers, Rig};
use testbed::LanOptions;

const PEERS: u32 = 100;
/// The duration of the measurement.
const MEASURED: Duration = Duration::from_secs(30);

fn main() {
    let rig = Rig::up("bench-peers", 1, LanOptions::default(), &[]);
    println!("| peers | beacons a second, each way | processor | memory |");
    println!("|---|---|---|---|");
    report(&rig, None);
    let peers = Peers::start(&rig, PEERS);
    testbed::until(Duration::from_secs(60), "all peers to be up and all Services to be announced", || {
        let heard = rig.metric(0, "lbstack_speaker_peers{state=\"heard\"}");
        let owned = rig.metric(0, "lbstack_speaker_owned_groups");
        if heard >= f64::from(PEERS) && owned >= f64::from(PEERS) {
            Ok(())
        } else {
            Err(format!("{heard} peers are up, {owned} groups are owned"))
        }
    })
    .expect("all are up");
    report(&rig, Some(&peers));
}

/// Prints one line: beacons and resources of an idle speaker.
fn report(rig: &Rig, peers: Option<&Peers>) {
    let received = || peers.map_or(0, Peers::received);
    let (beacons, processor, start) = (received(), rig.processor_time(0), Instant::now());
    std::thread::sleep(MEASURED);
    let took = start.elapsed();
    let share = rig.processor_time(0).saturating_sub(processor).as_secs_f64() / took.as_secs_f64();
    let rate = u128::from(received() - beacons) * 1_000 / took.as_millis();
    let count = peers.map_or(0, |_| PEERS);
    println!("| {count} | {rate} | {:.2} % | {:.1} MB |", share * 100.0, rig.memory(0));
}
