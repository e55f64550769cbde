//! `lbstack`: operator, controller and speaker in one binary.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Load balancing for bare-metal Kubernetes.
#[derive(Parser)]
#[command(name = "lbstack", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Turn the one `LoadBalancerStack` into everything that it stands for, and keep it so.
    Operator(operator::Args),
    /// Give Services their addresses.
    Controller(controller::Args),
    /// Announce addresses on this node's networks.
    Speaker(speaker::Args),
    /// Tell what changed objects would do to the Services of a cluster, and write nothing.
    Plan(controller::plan::Args),
}

/// Enough for what these processes wait for; more workers cost memory on large machines and gain nothing.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    runtime::memory::spare();
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The last line of a pod's log is what `kubectl describe` users look for: plain, whatever the log format.
            eprintln!("lbstack: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    // kube's TLS takes the process's provider; set by us, so that no dependency can choose another.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        anyhow::bail!("the TLS provider was set before main");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Operator(args) => operator::run(args).await,
            Command::Controller(args) => controller::run(args).await,
            Command::Speaker(args) => speaker::run(args).await,
            Command::Plan(args) => controller::plan::run(args).await,
        }
    })
}
