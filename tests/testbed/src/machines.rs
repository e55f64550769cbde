//! Faults of machines and processes: power, cable, and signals.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::cgroup;
use crate::cluster::Cluster;
use crate::error::{Attempt, Error, Result};
use crate::host::Host;
use crate::node::NodeSetup;
use crate::process::{Daemon, ProcessId, recorded};

impl Cluster {
    /// A node by its name.
    pub fn node(&self, name: &str) -> Result<Node<'_>> {
        let setup = self.nodes.iter().find(|setup| setup.plan.machine.name == name);
        let setup = setup.ok_or_else(|| Error::Options(format!("there is no node {name:?}")))?;
        Ok(self.node_of(setup))
    }

    /// Every node.
    pub fn nodes(&self) -> Vec<Node<'_>> {
        self.nodes.iter().map(|setup| self.node_of(setup)).collect()
    }

    fn node_of<'a>(&'a self, setup: &'a NodeSetup) -> Node<'a> {
        Node { cluster: self, setup, host: self.lan().host(&setup.plan.machine) }
    }

    /// The API server.
    pub fn api(&self) -> Server<'_> {
        Server { cluster: self, daemon: &self.control_plane.api_server, awaited: Awaited::Api }
    }

    /// etcd.
    pub fn etcd(&self) -> Server<'_> {
        Server { cluster: self, daemon: &self.control_plane.etcd, awaited: Awaited::Api }
    }

    /// A running pod.
    pub fn pod(&self, namespace: &str, name: &str) -> Result<Pod> {
        let pod = self.get(["pod", "--namespace", namespace, name])?;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let node = text(&pod["spec"]["nodeName"]);
        let setup = self.nodes.iter().find(|setup| setup.plan.machine.name == node);
        let setup =
            setup.ok_or_else(|| Error::Options(format!("pod {namespace}/{name} is on no node yet")))?;
        Ok(Pod {
            name: format!("{namespace}/{name}"),
            uid: text(&pod["metadata"]["uid"]),
            cgroup: setup.cgroup(),
        })
    }
}

/// A node of a cluster.
#[derive(Debug)]
pub struct Node<'a> {
    cluster: &'a Cluster,
    setup: &'a NodeSetup,
    /// The machine.
    pub host: Host,
}

impl Node<'_> {
    /// Cuts the power: the link goes down, and every process on the node ends at once, pods included. Memory
    /// is lost, the disk is kept.
    pub fn power_off(&self) -> Result<()> {
        self.setup.power_off(self.cluster.lan())
    }

    /// Restores the power. Does not wait until it is Ready: see [`Cluster::wait_for_nodes`].
    pub fn power_on(&self) -> Result<()> {
        self.setup.power_on(self.cluster.lan(), self.cluster.plan())?;
        self.setup.join()
    }

    /// Power off and on again.
    pub fn reboot(&self) -> Result<()> {
        self.power_off()?;
        self.power_on()
    }

    /// Unplugs (`false`) or plugs in the cable of `eth0`. The node keeps running and sees the state of the
    /// link.
    pub fn cable(&self, plugged_in: bool) -> Result<()> {
        self.cluster.lan().cable(&self.host.name, plugged_in)
    }

    /// Its kubelet; without it the node becomes NotReady while its pods run on.
    pub fn kubelet(&self) -> Server<'_> {
        Server { cluster: self.cluster, daemon: self.setup.kubelet(), awaited: Awaited::Nothing }
    }

    /// Its kube-proxy, unless the cluster has none.
    pub fn kube_proxy(&self) -> Option<Server<'_>> {
        let daemon = self.setup.kube_proxy()?;
        Some(Server { cluster: self.cluster, daemon, awaited: Awaited::Nothing })
    }
}

/// What to wait for after a server was started.
#[derive(Clone, Copy, Debug)]
enum Awaited {
    /// Until the API server is ready, its RBAC included.
    Api,
    Nothing,
}

/// A process of the cluster that can be stopped and started.
#[derive(Debug)]
pub struct Server<'a> {
    cluster: &'a Cluster,
    daemon: &'a Daemon,
    awaited: Awaited,
}

impl Server<'_> {
    /// Kills it, as a crash would.
    pub fn stop(&self) -> Result<()> {
        self.daemon.kill(&self.cluster.paths)
    }

    /// Starts it again and waits until it serves.
    pub fn start(&self) -> Result<()> {
        self.daemon.start(&self.cluster.paths)?;
        match self.awaited {
            Awaited::Api => self.cluster.wait_for_api(Duration::from_secs(60)),
            Awaited::Nothing => Ok(()),
        }
    }

    /// Sends it a signal: STOP makes it hang with its connections open, CONT ends that.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let record = self.cluster.paths.processes().join(&self.daemon.name);
        let process = recorded(&record).filter(|process| process.is_alive());
        let process = process.ok_or_else(|| Error::Options(format!("{} does not run", self.daemon.name)))?;
        process.signal(signal).attempt(|| format!("sending {signal} to {}", self.daemon.name))
    }
}

/// A pod on a node.
#[derive(Debug)]
pub struct Pod {
    name: String,
    uid: String,
    cgroup: String,
}

impl Pod {
    /// Sends a signal to every process of the pod's containers: STOP makes them hang, CONT ends that, KILL is
    /// a crash, after which the kubelet starts them again.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let mut processes = cgroup::processes_in_groups_named(&self.cgroup, &format!("pod{}", self.uid))?;
        // The process that holds the pod's namespaces is no container's: without it the whole pod would be
        // made anew.
        processes.retain(|process| !is_pause(*process));
        if processes.is_empty() {
            return Err(Error::Options(format!("pod {} has no process: is it running?", self.name)));
        }
        for process in processes {
            process.signal(signal).attempt(|| format!("sending {signal} to pod {}", self.name))?;
        }
        Ok(())
    }
}

fn is_pause(process: ProcessId) -> bool {
    fs::read_link(format!("/proc/{}/exe", process.pid)).is_ok_and(|program| program.ends_with("pause"))
}
