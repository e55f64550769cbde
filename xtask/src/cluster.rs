//! `cargo xtask cluster`: manages throwaway clusters on this machine.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use ipnet::{Ipv4Net, Ipv6Net};
use testbed::{Cluster, KubeProxy, LanOptions, Options, Progress};

/// Arguments of `cargo xtask cluster`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which testbed; several can run at once.
    #[arg(long, global = true, default_value = "default")]
    id: String,
    #[command(subcommand)]
    command: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Create a cluster and keep it until `down`.
    Up(Up),
    /// Show the clusters, their machines and processes.
    Status,
    /// Run kubectl on the cluster.
    Kubectl(Kubectl),
    /// Open a shell on a machine of the cluster's LAN, the client outside of the cluster by default.
    Shell(Shell),
    /// Remove a cluster, also one whose creator has crashed.
    Down,
}

#[derive(clap::Args)]
struct Up {
    /// How many nodes.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// IPv4 prefix of the LAN.
    #[arg(long, default_value = "192.168.33.0/24")]
    lan: Ipv4Net,
    /// IPv6 prefix of the LAN.
    #[arg(long, default_value = "fd00:33::/64")]
    lan6: Ipv6Net,
    /// Host number of the first node on the LAN.
    #[arg(long, default_value_t = 11)]
    first_node: u32,
    /// Host number of the client on the LAN.
    #[arg(long, default_value_t = 100)]
    client: u32,
    /// Mode of kube-proxy: nftables, iptables or none.
    #[arg(long, default_value = "nftables")]
    kube_proxy: KubeProxy,
    /// Port of the API server on 127.0.0.1; a free one if not given.
    #[arg(long)]
    api_port: Option<u16>,
}

#[derive(clap::Args)]
struct Kubectl {
    /// Arguments of kubectl.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

#[derive(clap::Args)]
struct Shell {
    /// client, cp, gateway, node1, node2, …
    #[arg(long, default_value = "client")]
    on: String,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let id = args.id.as_str();
    match &args.command {
        Action::Up(up) => make(id, up),
        Action::Status => status(id),
        Action::Kubectl(kubectl) => {
            let cluster = Cluster::attach(id)?;
            // Replaces this process, so that the exit code, the terminal and Ctrl-C are kubectl's own.
            Err(cluster.kubectl_command().args(&kubectl.arguments).exec()).context("starting kubectl")
        }
        Action::Shell(shell) => open_shell(id, shell),
        Action::Down => {
            let existed = testbed::down(id)?;
            eprintln!("{}", if existed { "The cluster was removed." } else { "There is no such cluster." });
            Ok(())
        }
    }
}

/// Progress messages on standard error, separate from the results on standard output.
pub(crate) fn progress() -> Progress {
    Progress::to(|line| eprintln!("  {line}"))
}

fn make(id: &str, up: &Up) -> anyhow::Result<()> {
    let cluster = Cluster::up(Options {
        id: id.into(),
        nodes: up.nodes,
        lan: LanOptions {
            v4: up.lan,
            v6: Some(up.lan6),
            first_node: up.first_node,
            client: up.client,
            ..LanOptions::default()
        },
        kube_proxy: up.kube_proxy,
        api_port: up.api_port,
        keep: true,
        progress: progress(),
        ..Options::default()
    })?;
    describe(&cluster);
    Ok(())
}

fn status(id: &str) -> anyhow::Result<()> {
    let all = Cluster::list();
    if all.is_empty() {
        println!("There is no cluster. `cargo xtask cluster up` creates one.");
        return Ok(());
    }
    println!("On this machine: {}\n", all.join(", "));
    let cluster = Cluster::attach(id)?;
    describe(&cluster);
    for (process, running) in cluster.processes() {
        println!("  {process}: {}", if running { "running" } else { "not running" });
    }
    print!("\n{}", cluster.kubectl(["get", "nodes", "-o", "wide"])?);
    Ok(())
}

fn describe(cluster: &Cluster) {
    let id = cluster.id();
    let option = if id == "default" { String::new() } else { format!(" --id {id}") };
    println!("Cluster {id}: API server at {}", cluster.api_url());
    for machine in cluster.plan().machines() {
        let addresses: Vec<String> = machine.addresses().iter().map(ToString::to_string).collect();
        println!("  {:8} {}  {}", machine.name, machine.mac, addresses.join("  "));
    }
    println!(
        "\n  export KUBECONFIG={}\n  cargo xtask cluster kubectl{option} get nodes\n  cargo xtask cluster shell{option}   \
         # on the client outside of the cluster\n  cargo xtask cluster down{option}",
        cluster.kubeconfig().display()
    );
}

fn open_shell(id: &str, shell: &Shell) -> anyhow::Result<()> {
    let cluster = Cluster::attach(id)?;
    let host = cluster.host(&shell.on)?;
    eprintln!("Shell on {} ({}). Leave with `exit`.", host.name, host.v4);
    let program = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", host.namespace.path().display())).arg("--").arg(program);
    // kubectl works inside too, where the API server is reached on the LAN.
    let kubectl = cluster.kubectl_command();
    let directory = Path::new(kubectl.get_program()).parent().unwrap_or(Path::new("/"));
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:{}", directory.display()));
    command.env("KUBECONFIG", cluster.kubeconfig_inside()?).env("PS1", format!("[{}] \\w # ", host.name));
    Err(command.exec()).context("starting a shell by nsenter (Debian package util-linux)")
}
