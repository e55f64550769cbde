//! `cargo xtask …`: everything that a developer runs by hand.

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

#[cfg(test)]
mod arrows;
mod bench;
mod bench_ipam;
mod bench_view;
mod cluster;
mod demo;
mod generate;
mod image;
mod test;

/// Developer's commands of lbstack.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// See lbstack work: on a throwaway cluster, or (with --kubeconfig) on your own.
    Demo(demo::Args),
    /// Test everything that is promised, on real clusters.
    Test(test::Args),
    /// Measure what things cost.
    Bench(bench::Args),
    /// Write every generated file of the tree (or, with --check, say which differ).
    Generate(generate::Args),
    /// A throwaway real cluster on this machine.
    Cluster(cluster::Args),
    /// Build the container image as an archive that `crane push` and `ctr image import` take.
    Image(image::Args),
}

/// The top of the tree.
fn top() -> PathBuf {
    // Where this program was built is where it is used: cargo runs it from the tree.
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
