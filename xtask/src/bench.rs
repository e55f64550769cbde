//! `cargo xtask bench`: what things cost, as tables. Ratios count, since machines differ.

use anyhow::Context as _;

use crate::{bench_ipam, bench_view, image, test};

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// The allocator: filling pools, the last free address, refusals, restoring, memory.
    Ipam,
    /// What a speaker makes of the cluster, from three nodes to five thousand.
    View(Size),
    /// On a real cluster: from the stack to Available, from a Service to the first answer, memory, image size.
    Smoke,
    /// On a real API server: thousands of Services at once, beside what the server alone takes for as many.
    Services(Passed),
    /// ARP answers beside the kernel's own, with one address and with thousands.
    Arp(Passed),
    /// A speaker at rest with a hundred peers.
    Peers,
    /// The longest silence of a client, for each kind of fault, on real speakers in network namespaces; or, with --groups
    /// 8000, a takeover of so many addresses at once.
    Failover(Passed),
}

#[derive(clap::Args)]
struct Size {
    /// Nodes and Services, as 100x1000; without it, a table of several.
    size: Option<String>,
}

#[derive(clap::Args)]
struct Passed {
    /// Passed to the benchmark.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs a benchmark.
///
/// # Errors
///
/// It could not be run.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.what {
        // Figures of an unoptimised build would be worth nothing.
        What::Ipam if cfg!(debug_assertions) => optimised("ipam"),
        What::View(_) if cfg!(debug_assertions) => optimised("view"),
        What::Ipam => bench_ipam::run(),
        What::View(Size { size }) => bench_view::run(size.as_deref()),
        What::Smoke => example("smoke", &[]),
        What::Services(Passed { arguments }) => example("services", arguments),
        What::Arp(Passed { arguments }) => example("arp", arguments),
        What::Peers => example("peers", &[]),
        What::Failover(Passed { arguments }) => example("failover", arguments),
    }
}

/// The same benchmark in an optimised build.
fn optimised(name: &str) -> anyhow::Result<()> {
    test::cargo(&["run", "--release", "--package", "xtask", "--", "bench", name], &[])
}

/// Resident memory of this process in bytes.
pub(crate) fn resident() -> anyhow::Result<usize> {
    const PAGE: usize = 4096;
    let text = std::fs::read_to_string("/proc/self/statm").context("cannot read /proc/self/statm")?;
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    Ok(pages.context("/proc/self/statm has no second number")? * PAGE)
}

/// Builds the image, and runs an example of `tests/e2e` with it.
fn example(name: &str, arguments: &[String]) -> anyhow::Result<()> {
    let image = image::build(image::TEST_TAG)?;
    println!("image: {:.1} MB compressed", image::megabytes(image.written.compressed));
    let mut words = vec!["run", "--release", "--package", "e2e", "--example", name, "--"];
    words.extend(arguments.iter().map(String::as_str));
    test::cargo(&words, &image.environment())
}
