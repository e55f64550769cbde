//! How long it takes until thousands of Services that are created at once have an address: `cargo xtask bench services`.
//!
//! Beside it, on the same API server and with as many requests at a time: the time to create as many that nobody handles,
//! plus a bare loop of as many status patches. The ratio is the figure, since the API server's share is in both.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of this is tests: what is not as expected is a panic"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use e2e::controllers::{Bench, Controller, names};

/// A controller's own, as it is installed.
const LEASE: Duration = Duration::from_secs(15);
const LIMIT: Duration = Duration::from_mins(10);

fn main() {
    let (mut counts, mut binary) = (vec![1_000, 10_000], None);
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().unwrap_or_default();
        match flag.as_str() {
            "--counts" => {
                counts = value.split(',').map(|n| n.parse().expect("--counts has numbers")).collect();
            }
            "--binary" => binary = Some(PathBuf::from(value)),
            _ => panic!("{flag}: there are --counts N,N,… and --binary FILE"),
        }
    }
    let binary = binary.unwrap_or_else(|| testbed::target_directory().join("debug/lbstack"));
    let bed = e2e::controllers::bed("bench-services");
    println!("| Services | create | bare patches | with lbstack | ratio | RSS before | RSS after |");
    println!("|---|---|---|---|---|---|---|");
    for count in counts {
        let bench = Bench::new(&bed, &[("lan", &["10.1.0.0/16"])]);
        let list = names("bench", count);
        let start = Instant::now();
        bench.create_of_class(&list, Some("example.com/nobody"));
        let create = start.elapsed();
        bench.patch_statuses(&list);
        let bare = start.elapsed();
        bench.clear();

        let controller = Controller::start_binary(&bed, "bench", LEASE, &binary);
        bench.until_leads("bench");
        let before = controller.resident();
        let start = Instant::now();
        bench.create(&list);
        bench.until_all_have_one(&list, LIMIT);
        let served = start.elapsed();
        let after = controller.resident();
        controller.end();
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        println!(
            "| {count} | {} | {} | {} | {:.2} | {before:.1} MB | {after:.1} MB |",
            seconds(create),
            seconds(bare.saturating_sub(create)),
            seconds(served),
            served.as_secs_f64() / bare.as_secs_f64()
        );
    }
}
