//! `lbstack`: operator, controller and speaker in one binary.

use std::io::Write as _;
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
    runtime::memory::tune_allocator();
    let cli = Cli::parse();
    let result = run(cli.command);
    runtime::telemetry::flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = format!("lbstack: {error:#}");
            report_termination(&error);
            // The last line of a pod's log is what `kubectl describe` users look for: plain, whatever the log format.
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Tells the kubelet why this container ends, and so the status of the pod and of the stack. Elsewhere there is no such file.
fn report_termination(error: &str) {
    if let Ok(mut file) = std::fs::OpenOptions::new().write(true).open("/dev/termination-log") {
        // Nothing is lost: the log has it too.
        let _ = file.write_all(error.as_bytes());
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
