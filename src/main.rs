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
    /// Reconcile the `LoadBalancerStack`: create, repair and remove the objects of the stack.
    Operator(operator::Args),
    /// Assign addresses to Services.
    Controller(controller::Args),
    /// Announce addresses on the networks of this node.
    Speaker(speaker::Args),
    /// Show how changed objects would affect the Services of a cluster, without writing anything.
    Plan(controller::plan::Args),
}

/// These processes mostly wait; more workers would only cost memory on large machines.
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
            // The last line of a pod's log, readable in either log format.
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes the reason of the exit for the kubelet, which copies it to the status of the pod; the operator
/// copies it to the status of the stack. Outside of a pod there is no such file.
fn report_termination(error: &str) {
    if let Ok(mut file) = std::fs::OpenOptions::new().write(true).open("/dev/termination-log") {
        // An error is ignored: the log has the message too.
        let _ = file.write_all(error.as_bytes());
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    // kube uses the TLS provider of the process. It is set here, so that no dependency can choose another.
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
