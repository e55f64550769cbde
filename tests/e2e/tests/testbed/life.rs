//! Creation and removal of clusters.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use libtest_mimic::Failed;
use testbed::{Cluster, Options, until};

use crate::traces::{no_traces_of, traces_of};
use crate::{Outcome, SOON, check};

/// With this variable the process runs no tests, but creates a cluster and waits to be killed.
pub(crate) const VICTIM: &str = "LBSTACK_TESTBED_VICTIM";

pub(crate) fn a_port_in_use_is_reported() -> Outcome {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port();
    let options = Options {
        id: "self-port".into(),
        api_port: Some(port),
        control_plane_only: true,
        ..Options::default()
    };
    let error = Cluster::up(options).err().ok_or("the port was not rejected")?.to_string();
    check(error.contains(&port.to_string()) && error.contains("--api-port"), error)?;
    no_traces_of("self-port")
}

/// Creates a cluster, prints the result, and waits to be killed.
pub(crate) fn victim(id: String) -> ExitCode {
    let keep = id.ends_with("kept");
    match Cluster::up(Options { id, nodes: 1, keep, ..Options::default() }) {
        Ok(cluster) => {
            let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},"spec":{"containers":[{"name":"web","image":"testbed/web:1"}]}}"#;
            let ready = cluster
                .apply(pod)
                .and_then(|_| cluster.kubectl(["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]));
            println!("{}", ready.map_or_else(|error| error.to_string(), |_| "up".into()));
            if !keep {
                std::thread::sleep(Duration::from_secs(600));
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts a victim and waits until its cluster is up.
fn start_victim(id: &str) -> Result<std::process::Child, Failed> {
    let mut child = Command::new(std::env::current_exe()?).env(VICTIM, id).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    if line.trim() != "up" {
        child.kill()?;
        child.wait()?;
        return Err(format!("the cluster of {id} did not come up: {line}").into());
    }
    Ok(child)
}

pub(crate) fn a_cluster_is_removed_with_its_process() -> Outcome {
    let mut victim = start_victim("self-killed")?;
    check(!traces_of("self-killed").is_empty(), "a running cluster has traces")?;
    victim.kill()?;
    victim.wait()?;
    until(SOON, "the removal of the cluster of the killed process", || {
        let traces = traces_of("self-killed");
        if traces.is_empty() { Ok(()) } else { Err(traces.join("\n")) }
    })?;
    Ok(())
}

pub(crate) fn a_kept_cluster_is_attached() -> Outcome {
    let mut victim = start_victim("self-kept")?;
    victim.wait()?;
    let cluster = Cluster::attach("self-kept")?;
    check(cluster.processes().iter().all(|(_, running)| *running), format!("{:?}", cluster.processes()))?;
    cluster.kubectl(["get", "pod", "web"])?;
    check(cluster.client().run(["hostname"]).is_ok(), "programs run on the client")?;
    drop(cluster);
    check(!traces_of("self-kept").is_empty(), "a process that attached to it does not remove it")?;
    check(testbed::down("self-kept")?, "there was something to remove")?;
    no_traces_of("self-kept")?;
    check(!testbed::down("self-kept")?, "there is nothing to remove any more")
}
