//! `cargo xtask demo`: from a clone to an address that responds, on a throwaway cluster or on the user's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use testbed::{Cluster, Options};

use crate::{cluster, image};

/// Arguments of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Remove the demo's cluster.
    #[arg(long, conflicts_with_all = ["kubeconfig", "image"])]
    down: bool,

    /// Install into the cluster of this kubeconfig instead. Needs kubectl, and an image that its nodes can
    /// pull.
    #[arg(long, requires = "image")]
    kubeconfig: Option<PathBuf>,

    /// The image's name, where the nodes of `--kubeconfig` find it.
    #[arg(long, requires = "kubeconfig")]
    image: Option<String>,

    /// Nodes of the throwaway cluster.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
}

/// The id of the demo's cluster.
const ID: &str = "demo";
/// The manifests of the demo: the README's first example, and a web server.
const STACK: &str = include_str!("../demo/stack.yaml");
const WEB: &str = include_str!("../demo/nginx.yaml");
/// Timeout of the first response: images have to be pulled and processes started.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs the demo.
///
/// # Errors
///
/// A step failed; the error says which, and what to do.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.down {
        return down();
    }
    match (&args.kubeconfig, &args.image) {
        (Some(kubeconfig), Some(image)) => on_own_cluster(kubeconfig, image),
        _ => on_testbed(args.nodes),
    }
}

fn down() -> anyhow::Result<()> {
    if !Cluster::list().iter().any(|id| id == ID) {
        println!("There is no demo cluster on this machine.");
        return Ok(());
    }
    Cluster::attach(ID)?.down()?;
    println!("The demo cluster was removed.");
    Ok(())
}

fn on_testbed(nodes: usize) -> anyhow::Result<()> {
    let start = Instant::now();
    if Cluster::list().iter().any(|id| id == ID) {
        bail!("the demo's cluster exists already: use it, or remove it with `cargo xtask demo --down` first");
    }
    step(
        1,
        "Build lbstack's image: one static binary, nothing else. The first time this takes some minutes.",
    );
    let image = image::build(image::TEST_TAG)?;
    step(
        2,
        "Bring up a real Kubernetes cluster in network namespaces. The first time it is built from source.",
    );
    let options =
        Options { id: ID.into(), nodes, keep: true, progress: cluster::progress(), ..Options::default() };
    let cluster = Cluster::up(options)?;
    show(&cluster, &["get", "nodes"])?;
    step(3, "Install lbstack: push its image to the cluster's registry and apply deploy/install.yaml.");
    cluster.push(&image.archive, render::install::IMAGE)?;
    run_quietly(&cluster, &["apply", "--filename", &install_manifest().to_string_lossy()])?;
    let operator = "deployment/lbstack-operator";
    run_quietly(
        &cluster,
        &["rollout", "status", operator, "--namespace", "lbstack-system", "--timeout=120s"],
    )?;
    step(4, "Apply one LoadBalancerStack with the free addresses of the network.");
    indented(STACK);
    let applied = Instant::now();
    cluster.apply(STACK)?;
    run_quietly(&cluster, &["wait", "--for=condition=Available", "lbs/default", "--timeout=120s"])?;
    println!("   Available after {:.1} s.", applied.elapsed().as_secs_f64());
    show(&cluster, &["get", "lbs"])?;
    step(5, "Run nginx, and expose it by a Service of type LoadBalancer.");
    cluster.apply(WEB)?;
    run_quietly(&cluster, &["rollout", "status", "deployment/nginx", "--timeout=120s"])?;
    let address = address(&cluster)?;
    show(&cluster, &["get", "service", "nginx"])?;
    show(&cluster, &["get", "servicel2statuses", "--namespace", "metallb-system"])?;
    step(6, "Send a request from a client outside of the cluster.");
    let answer = answer(&cluster, &address)?;
    println!("   $ curl http://{address}/");
    indented(answer.lines().next().unwrap_or_default());
    println!("\nDone in {:.0} s. What to try next:\n", start.elapsed().as_secs_f64());
    next_steps(&cluster, &address);
    Ok(())
}

fn next_steps(cluster: &Cluster, address: &str) {
    println!("  export KUBECONFIG={}", cluster.kubeconfig().display());
    println!(
        "  kubectl get lbs,services,servicel2statuses -A     (or: cargo xtask cluster kubectl --id {ID} …)"
    );
    println!(
        "  kubectl describe service nginx                    # events: the assignment, the announcing node"
    );
    println!(
        "  cargo xtask cluster shell --id {ID}               # a shell on the client, outside of the cluster:"
    );
    println!(
        "      curl http://{address}/ ; ip neighbour           # the response, and the announcing node's MAC"
    );
    println!("  cargo xtask demo --down                           # removes all of it");
}

/// The first address of the demo's Service, once it has one.
fn address(cluster: &Cluster) -> anyhow::Result<String> {
    let path = "{.status.loadBalancer.ingress[0].ip}";
    let has_one = format!("--for=jsonpath={path}");
    run_quietly(cluster, &["wait", &has_one, "service/nginx", "--timeout=60s"])?;
    Ok(cluster.kubectl(["get", "service", "nginx", "--output", &format!("jsonpath={path}")])?)
}

/// The client's first response. The data path of a new Service takes a moment on each node.
fn answer(cluster: &Cluster, address: &str) -> anyhow::Result<String> {
    let (client, url, start) = (cluster.client(), format!("http://{address}/"), Instant::now());
    loop {
        match client.curl(&url) {
            Ok(answer) => return Ok(answer),
            Err(error) if start.elapsed() > RESPONSE_TIMEOUT => {
                return Err(error).with_context(|| format!("the client got no response from {url}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn on_own_cluster(kubeconfig: &Path, image: &str) -> anyhow::Result<()> {
    step(1, &format!("Apply deploy/install.yaml with the image {image}."));
    let manifest = std::fs::read_to_string(install_manifest())?.replace(render::install::IMAGE, image);
    kubectl(kubeconfig, &["apply", "--filename", "-"], &manifest)?;
    step(2, "Wait until the operator runs.");
    let operator = "deployment/lbstack-operator";
    kubectl(
        kubeconfig,
        &["rollout", "status", operator, "--namespace", "lbstack-system", "--timeout=120s"],
        "",
    )
    .with_context(|| {
        format!(
            "the operator did not start; can your nodes pull {image}? see `kubectl describe pods -n \
                 lbstack-system`"
        )
    })?;
    println!("\nNow enter the free addresses of your network in this manifest, and apply it:\n");
    indented(STACK);
    println!("\n  kubectl wait --for=condition=Available lbs/default");
    Ok(())
}

fn kubectl(kubeconfig: &Path, arguments: &[&str], input: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(kubeconfig).args(arguments).stdin(Stdio::piped());
    let mut child = command.spawn().context("cannot run kubectl: install it, or put it in the PATH")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("kubectl {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}

fn install_manifest() -> PathBuf {
    crate::top().join("deploy/install.yaml")
}

fn step(number: usize, what: &str) {
    println!("\n{number}. {what}");
}

fn indented(text: &str) {
    for line in text.lines() {
        println!("   {line}");
    }
}

/// Runs kubectl, and prints the command and its output.
fn show(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<()> {
    println!("   $ kubectl {}", arguments.join(" "));
    indented(&cluster.kubectl(arguments)?);
    Ok(())
}

/// Runs kubectl, and prints only the command.
fn run_quietly(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<()> {
    println!("   $ kubectl {}", arguments.join(" "));
    cluster.kubectl(arguments)?;
    Ok(())
}
