//! The LAN: a bridge in a network namespace of its own, and machines on it, each a network namespace too.
//! Further segments are further bridges in the same namespace, which routes between them.
//!
//! None of it is in the machine's own network namespace, so that tests can use any addresses and nothing
//! leaks out.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ipnet::IpNet;

use crate::error::{Attempt, Error, Result};
use crate::host::Host;
use crate::options::LanOptions;
use crate::paths::Paths;
use crate::plan::{LanPlan, Mac, Machine};
use crate::process::{Namespace, run};

/// The interface that each machine has on the LAN.
pub const INTERFACE: &str = "eth0";

/// The bridge in the LAN's namespace.
pub const BRIDGE: &str = "br0";

/// A bridge with machines on it. The faults of a network are methods of this.
#[derive(Clone, Debug)]
pub struct Lan {
    pub(crate) paths: Paths,
    pub(crate) plan: LanPlan,
    /// The directory of the testbed's own tools.
    pub(crate) tools: PathBuf,
    gateway: Host,
    bridge: String,
}

impl Lan {
    /// The LAN of this plan, whether it exists already or not.
    pub(crate) fn of(paths: &Paths, plan: &LanPlan, tools: &Path) -> Self {
        let gateway = Host::new(&plan.gateway, Namespace::new(paths.namespace("lan")), tools);
        Self { paths: paths.clone(), plan: plan.clone(), tools: tools.into(), gateway, bridge: BRIDGE.into() }
    }

    /// A machine on it.
    pub(crate) fn host(&self, machine: &Machine) -> Host {
        Host::new(machine, Namespace::new(self.paths.namespace(&machine.name)), &self.tools)
    }

    /// Makes the namespace and the bridge.
    pub(crate) fn create(&self) -> Result<()> {
        let name = self.paths.namespace_name("lan");
        run(Command::new("ip").args(["netns", "add", &name]))?;
        ip_batch(&self.gateway.namespace, "link set dev lo up\n")?;
        self.create_bridge()
    }

    /// Makes a second LAN behind the same gateway, which routes between the two. Machines of both have
    /// different names.
    ///
    /// ```no_run
    /// # fn f(cluster: &testbed::Cluster) -> testbed::Result<()> {
    /// use testbed::LanOptions;
    /// let options = LanOptions { v4: "192.168.34.0/24".parse().unwrap(), v6: None, ..LanOptions::default() };
    /// let segment = cluster.lan().segment("br1", &options)?;
    /// let far = segment.guest("far", 20)?;
    /// # Ok(()) }
    /// ```
    pub fn segment(&self, bridge: &str, options: &LanOptions) -> Result<Self> {
        let segment =
            Self { bridge: bridge.into(), ..Self::of(&self.paths, &LanPlan::new(options)?, &self.tools) };
        segment.create_bridge()?;
        Ok(segment)
    }

    fn create_bridge(&self) -> Result<()> {
        let bridge = &self.bridge;
        let multicast = self.plan.options.multicast;
        let flag = |on: bool| if on { "1" } else { "0" };
        let mut batch = format!(
            "link add name {bridge} address {} type bridge mcast_snooping {} mcast_querier {}\n",
            self.plan.gateway.mac,
            flag(multicast.snooping),
            flag(multicast.querier),
        );
        batch += &addresses(&self.plan.gateway.nets(), bridge);
        batch += &format!("link set dev {bridge} up\n");
        ip_batch(&self.gateway.namespace, &batch)?;
        // The bridge is a switch: no firewall of any family but our own fault rules sees its frames.
        let sysctls = [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.conf.all.send_redirects", "0"),
            (&format!("net.ipv4.conf.{bridge}.send_redirects"), "0"),
            ("net.bridge.bridge-nf-call-iptables", "0"),
            ("net.bridge.bridge-nf-call-ip6tables", "0"),
            ("net.bridge.bridge-nf-call-arptables", "0"),
        ];
        set_sysctls(&self.gateway.namespace, &sysctls)
    }

    /// Creates a machine's namespace, connects it, and sets its default route to the gateway: without one,
    /// pods in the host's network cannot reach cluster addresses.
    pub(crate) fn plug_in(&self, machine: &Machine) -> Result<Host> {
        let nets = machine.nets();
        let host = self.plug(&machine.name, machine.mac, &nets)?;
        let mut batch = format!("route add default via {}\n", self.plan.gateway.v4.addr());
        if let (Some(gateway), Some(_)) = (self.plan.gateway.v6, machine.v6) {
            batch += &format!("route add ::/0 via {}\n", gateway.addr());
        }
        ip_batch(&host.namespace, &batch)?;
        Ok(host)
    }

    /// Makes a namespace with these addresses and plugs it in.
    pub(crate) fn plug(&self, name: &str, mac: Mac, nets: &[IpNet]) -> Result<Host> {
        let namespace_name = self.paths.namespace_name(name);
        run(Command::new("ip").args(["netns", "add", &namespace_name]))?;
        let namespace = Namespace::new(self.paths.namespace(name));
        ip_batch(&namespace, "link set dev lo up\n")?;
        self.connect(name, INTERFACE, mac, nets, namespace)
    }

    /// Connects an interface of a machine, new and with these addresses, to the port `name` of the bridge.
    pub(crate) fn connect(
        &self,
        name: &str,
        interface: &str,
        mac: Mac,
        nets: &[IpNet],
        namespace: Namespace,
    ) -> Result<Host> {
        let (port, bridge, there) = (port(name), &self.bridge, namespace.path().display());
        ip_batch(
            &self.gateway.namespace,
            &format!(
                "link add name {port} type veth peer name {interface} address {mac} netns {there}\n\
                 link set dev {port} master {bridge} up\n"
            ),
        )?;
        ip_batch(&namespace, &format!("{}link set dev {interface} up\n", addresses(nets, interface)))?;
        Ok(Host::with(name, mac, nets, namespace, &self.tools))
    }

    /// Disconnects a machine and removes its namespace.
    pub(crate) fn unplug(&self, machine: &str) -> Result<()> {
        let port = port(machine);
        if self.gateway.run(["ip", "link", "show", "dev", &port]).is_ok() {
            self.gateway.run(["ip", "link", "delete", "dev", &port])?;
        }
        let namespace = self.paths.namespace(machine);
        if namespace.exists() {
            run(Command::new("ip").args(["netns", "delete", &self.paths.namespace_name(machine)]))?;
        }
        Ok(())
    }

    /// Plugs in or unplugs the cable of a machine, which sees its link go down as with a real cable.
    pub(crate) fn cable(&self, machine: &str, plugged_in: bool) -> Result<()> {
        let state = if plugged_in { "up" } else { "down" };
        self.gateway.run(["ip", "link", "set", "dev", &port(machine), state]).map(drop)
    }

    /// The bridge's own addresses and namespace: the gateway of every machine.
    pub fn gateway(&self) -> &Host {
        &self.gateway
    }
}

/// The bridge's end of a machine's cable. Interface names end at 15 letters.
pub(crate) fn port(machine: &str) -> String {
    machine.chars().take(15).collect()
}

fn addresses(nets: &[IpNet], interface: &str) -> String {
    let line = |net: &IpNet| match net {
        IpNet::V4(v4) => format!("address add {v4} dev {interface}\n"),
        IpNet::V6(v6) => format!("address add {v6} dev {interface} nodad\n"),
    };
    nets.iter().map(line).collect()
}

/// Runs a batch of `ip` commands in a namespace; the first that fails ends it.
pub(crate) fn ip_batch(namespace: &Namespace, batch: &str) -> Result<()> {
    feed(namespace, Command::new("ip").args(["-batch", "-"]), batch)
}

/// Runs a command in a namespace with `input` as its standard input.
pub(crate) fn feed(namespace: &Namespace, command: &mut Command, input: &str) -> Result<()> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = namespace.enter(|| command.spawn())?.attempt(|| format!("starting {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).attempt(|| format!("writing to {program}"))?;
    }
    let output = child.wait_with_output().attempt(|| format!("waiting for {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: format!("{program}, given\n{input}"),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Sets kernel parameters of a namespace, except for those that this kernel does not have.
pub(crate) fn set_sysctls(namespace: &Namespace, values: &[(&str, &str)]) -> Result<()> {
    for (name, value) in values {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let outcome = namespace.enter(|| std::fs::write(&path, value))?;
        match outcome {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            outcome => outcome.attempt(|| format!("setting {name} to {value}"))?,
        }
    }
    Ok(())
}
