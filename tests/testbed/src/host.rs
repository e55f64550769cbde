//! One machine on the LAN: running programs, opening sockets, querying neighbours.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ipnet::IpNet;

use crate::error::Result;
use crate::plan::{Mac, Machine};
use crate::process::{Namespace, Running};

/// A machine on the LAN: a network namespace with `eth0`.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name: `node1`, `client`, …
    pub name: String,
    /// Its link-layer address.
    pub mac: Mac,
    /// Its IPv4 address; 0.0.0.0 if it has none.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// Its network namespace.
    pub namespace: Namespace,
    /// The directory of the testbed's own tools.
    pub(crate) tools: PathBuf,
}

impl Host {
    pub(crate) fn new(machine: &Machine, namespace: Namespace, tools: &Path) -> Self {
        Self::with(&machine.name, machine.mac, &machine.nets(), namespace, tools)
    }

    pub(crate) fn with(name: &str, mac: Mac, nets: &[IpNet], namespace: Namespace, tools: &Path) -> Self {
        let v4 = nets.iter().find_map(|net| if let IpNet::V4(v4) = net { Some(v4.addr()) } else { None });
        let v6 = nets.iter().find_map(|net| if let IpNet::V6(v6) = net { Some(v6.addr()) } else { None });
        Self {
            name: name.into(),
            mac,
            v4: v4.unwrap_or(Ipv4Addr::UNSPECIFIED),
            v6,
            namespace,
            tools: tools.into(),
        }
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        std::iter::once(IpAddr::V4(self.v4)).chain(self.v6.map(IpAddr::V6)).collect()
    }

    /// Runs a program on the machine and returns its output; its failure is an error. The first word is the
    /// program.
    ///
    /// ```no_run
    /// # fn f(host: &testbed::Host) -> testbed::Result<()> {
    /// let neighbours = host.run(["ip", "neighbour"])?;
    /// # Ok(()) }
    /// ```
    pub fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<String> {
        self.namespace.run(&mut command(words))
    }

    /// Runs a program on the machine and returns its exit status and output.
    pub fn output<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Output> {
        self.namespace.output(&mut command(words))
    }

    /// Starts a program on the machine with piped output. It is killed when the handle is dropped.
    pub fn spawn<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Running> {
        self.namespace
            .spawn(command(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    /// Runs `work` on a thread in the machine's network namespace: sockets opened there belong to the
    /// machine.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace.enter(work)
    }

    /// Fetches a URL from the machine and returns the body. An HTTP error status is an error too.
    pub fn curl(&self, url: &str) -> Result<String> {
        self.run(["curl", "--silent", "--show-error", "--fail", "--globoff", "--max-time", "3", url])
    }

    /// Flushes its neighbour table (ARP and NDP), so that the next packet needs address resolution.
    pub fn flush_neighbours(&self) -> Result<()> {
        self.run(["ip", "neighbour", "flush", "all"]).map(drop)
    }

    /// The link-layer address that its neighbour table has for an address.
    pub fn neighbour(&self, address: IpAddr) -> Result<Option<Mac>> {
        let table = self.run(["ip", "neighbour", "show", "to", &address.to_string()])?;
        let mac = table.split_whitespace().skip_while(|word| *word != "lladdr").nth(1);
        Ok(mac.and_then(|mac| mac.parse().ok()))
    }
}

fn command<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Command {
    let mut words = words.into_iter();
    // An empty list runs a program with an empty name, which fails with an error.
    let mut command = words.next().map_or_else(|| Command::new(""), Command::new);
    command.args(words);
    command
}
