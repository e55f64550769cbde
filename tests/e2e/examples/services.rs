//! How long it takes until thousands of Services that are created at once have an address: `cargo xtask bench services`.
//!
//! Beside it, on an API server of its own and with as many requests at a time: the time to create as many that nobody handles,
//! plus a bare loop of as many status patches. The ratio is the figure, since the API server's share is in both.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of this is tests: what is not as expected is a panic"
)]

use std::time::{Duration, Instant};

use clap::Parser;
use e2e::Bed;
use e2e::controllers::{Bench, Controller, names};

/// A controller's own, as it is installed.
const LEASE: Duration = Duration::from_secs(15);
const LIMIT: Duration = Duration::from_mins(20);

/// How long it takes until thousands of Services that are created at once have an address.
#[derive(Parser)]
struct Args {
    /// How many Services, one run for each.
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

/// A new API server for each: to delete thousands of Services takes longer than to make it.
fn bed() -> Bed {
    e2e::controllers::bed("bench-services")
}

/// What the API server takes by itself.
struct Bare {
    create: Duration,
    patches: Duration,
}

fn bare(list: &[String]) -> Bare {
    let bed = bed();
    let bench = Bench::new(&bed, &[]);
    let start = Instant::now();
    bench.create_of_class(list, Some("example.com/nobody"));
    let create = start.elapsed();
    bench.patch_statuses(list);
    Bare { create, patches: start.elapsed().saturating_sub(create) }
}

/// What it takes with a controller, and the controller's memory before and after, in megabytes.
struct Served {
    took: Duration,
    before: f64,
    after: f64,
}

fn served(list: &[String]) -> Served {
    let bed = bed();
    let bench = Bench::new(&bed, &[("lan", &["10.1.0.0/16"])]);
    let controller = Controller::start_with(&bed, "bench", LEASE, &[]);
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
