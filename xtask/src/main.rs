//! `cargo xtask …`: commands for developers.

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

mod bench;
mod bench_ipam;
mod bench_view;
mod cluster;
mod demo;
mod generate;
mod image;
#[cfg(test)]
mod layout;
mod test;

/// Commands for developers of lbstack.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Demonstrate lbstack on a throwaway cluster, or (with --kubeconfig) on your own.
    Demo(demo::Args),
    /// Run all checks and tests, on real clusters.
    Test(test::Args),
    /// Run a benchmark.
    Bench(bench::Args),
    /// Write all generated files (or, with --check, list those that differ).
    Generate(generate::Args),
    /// Manage throwaway clusters on this machine.
    Cluster(cluster::Args),
    /// Build the container image as an archive that `crane push` and `ctr image import` take.
    Image(image::Args),
}

/// The root of the workspace.
fn top() -> PathBuf {
    // Cargo runs this program from the tree in which it was built.
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Image(args) => image::run(&args),
    }
}
