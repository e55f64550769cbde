//! How long it takes until thousands of Services that are created at once have an address: `cargo xtask bench
//! services`.
//!
//! For comparison, on a separate API server and with the same concurrency: the time to create as many
//! Services that no controller handles, plus as many status patches. The ratio is what counts, since both
//! include the API server's share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure of a benchmark is a panic"
)]

use std::time::{Duration, Instant};

use clap::Parser;
use e2e::Env;
use e2e::controllers::{Bench, Controller, names};

/// The Lease duration of an installed controller.
const LEASE: Duration = Duration::from_secs(15);
const LIMIT: Duration = Duration::from_mins(20);

/// Measures how long it takes until thousands of Services that are created at once have an address.
#[derive(Parser)]
struct Args {
    /// Numbers of Services, with one run for each.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000])]
    counts: Vec<usize>,
}

fn main() {
    let Args { counts } = Args::parse();
    println!("| Services | create | bare patches | with lbstack | ratio | memory before | memory after |");
    println!("|---|---|---|---|---|---|---|");
    for count in counts {
        let list = names("bench", count);
        let bare = bare(&list);
        let served = served(&list);
        println!(
            "| {count} | {:.2} s | {:.2} s | {:.2} s | {:.2} | {:.1} MB | {:.1} MB |",
            bare.create.as_secs_f64(),
            bare.patches.as_secs_f64(),
            served.took.as_secs_f64(),
            served.took.as_secs_f64() / (bare.create + bare.patches).as_secs_f64(),
            served.before,
            served.after
        );
    }
}

/// A new API server for each run: deleting thousands of Services takes longer.
fn env() -> Env {
    e2e::controllers::env("bench-services")
}

/// The times without a controller.
struct Bare {
    create: Duration,
    patches: Duration,
}

fn bare(list: &[String]) -> Bare {
    let env = env();
    let bench = Bench::new(&env, &[]);
    let start = Instant::now();
    bench.create_of_class(list, Some("example.com/none"));
    let create = start.elapsed();
    bench.patch_statuses(list);
    Bare { create, patches: start.elapsed().saturating_sub(create) }
}

/// The time with a controller, and the controller's memory before and after, in megabytes.
struct Served {
    took: Duration,
    before: f64,
    after: f64,
}

fn served(list: &[String]) -> Served {
    let env = env();
    let bench = Bench::new(&env, &[("lan", &["10.1.0.0/16"])]);
    let controller = Controller::start_with(&env, "bench", LEASE, &[]);
    bench.until_leads("bench");
    let before = controller.memory();
    let start = Instant::now();
    bench.create(list);
    bench.until_all_have_one(list, LIMIT);
    let took = start.elapsed();
    let after = controller.memory();
    controller.end();
    Served { took, before, after }
}
