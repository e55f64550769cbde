//! Real speakers on one LAN, with a real API server without kubelets: nodes, pods, Services and endpoints are
//! written by the test. So a speaker can be killed, stopped, disconnected and restarted within milliseconds.
//! The effect of its frames is observed in the kernel of a client machine.

mod objects;
mod peers;
mod takeover;

use std::cell::Cell;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use kube::Client;
use testbed::{Cluster, Guest, Host, LanOptions, Mac, Options, Protocol, Running, Signal, Traffic, until};
use tokio::runtime::Runtime;

use crate::client;
pub use objects::NAMESPACE;
use objects::ServiceSpec;
pub use peers::Peers;
pub use takeover::Takeover;

/// Disables the controllers that would remove nodes without kubelets, their pods and the endpoints of the
/// test.
const CONTROLLERS: &str = "--controllers=*,-node-lifecycle-controller,-taint-eviction-controller,\
                       -pod-garbage-collector-controller,-endpointslice-controller";
/// Timeout of the start of a speaker, on a busy machine too.
const UP: Duration = Duration::from_secs(60);
/// The first node's host number; node names are numbered from 1.
const FIRST: u32 = 11;
/// The key of beacons.
const KEY: &str = "the key of a test";
/// The port of the test's web server.
const PORT: u16 = 8080;

/// Speakers on a LAN.
pub struct Rig {
    /// The API server and the LAN.
    pub cluster: Cluster,
    api: (Runtime, Client),
    /// The nodes.
    pub nodes: Vec<Node>,
    directory: PathBuf,
    arguments: Vec<String>,
    /// Whether there is a Service, so that speakers have a common group and exchange beacons.
    has_service: Cell<bool>,
}

/// A node: a machine with a web server, and a speaker if it runs.
pub struct Node {
    /// Its name.
    pub name: String,
    /// The machine.
    pub guest: Guest,
    speaker: Option<Running>,
    _web: Running,
}

/// The result of a client during one fault.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// The longest time that the client was not served.
    pub silence: Duration,
    /// Requests without a response.
    pub lost: u64,
}

impl Rig {
    /// Brings up `nodes` nodes with a running speaker each.
    pub fn up(id: &str, nodes: usize, lan: LanOptions, arguments: &[&str]) -> Self {
        let cluster = Cluster::up(Options {
            id: id.into(),
            nodes: 0,
            control_plane_only: true,
            lan,
            controller_manager_flags: vec![CONTROLLERS.into()],
            ..Options::default()
        })
        .unwrap_or_else(|error| panic!("{error}"));
        let directory = std::env::temp_dir().join(format!("lbstack-rig-{id}"));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(directory.join("keys")).unwrap();
        fs::write(directory.join("keys/secretkey"), KEY).unwrap();
        let server = format!("https://{}:6443", cluster.control_plane().v4);
        let kubeconfig = fs::read_to_string(cluster.kubeconfig()).unwrap();
        let kubeconfig = kubeconfig.replace(&cluster.api_url(), &server);
        fs::write(directory.join("kubeconfig"), kubeconfig).unwrap();
        objects::prepare(&cluster);
        let mut rig = Self {
            api: client::connect(&cluster),
            cluster,
            nodes: Vec::new(),
            directory,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            has_service: Cell::new(false),
        };
        for number in 0..nodes {
            let name = format!("node{}", number + 1);
            let host = FIRST + u32::try_from(number).unwrap();
            let guest = rig.cluster.lan().guest(&name, host).unwrap();
            rig.join(guest);
        }
        for number in 0..nodes {
            rig.start(number);
        }
        rig.all_ready();
        rig
    }

    /// Makes a machine a node of the cluster, without a speaker yet.
    pub fn join(&mut self, guest: Guest) {
        let name = guest.host.name.clone();
        // Instead of kube-proxy's rules, the addresses of Services are on the loopback interface of every
        // node, and the kernel must not answer for them. Requests on one interface may be answered through
        // another.
        for (key, value) in [("arp_ignore", "1"), ("arp_announce", "2"), ("rp_filter", "2")] {
            guest.host.run(["sysctl", "-qw", &format!("net.ipv4.conf.all.{key}={value}")]).unwrap();
        }
        let web = self.cluster.lan().tool("web").display().to_string();
        let mut command = Command::new(&web);
        command.args(["--http-port", &PORT.to_string(), "--name", &name]);
        let web = guest.host.namespace.spawn(command.stdout(Stdio::null()).stderr(Stdio::null())).unwrap();
        objects::nodes(&self.cluster, &[(name.clone(), guest.host.v4)]);
        self.nodes.push(Node { name, guest, speaker: None, _web: web });
    }

    /// Starts the speaker of a node. The readiness of its pod does not change.
    pub fn start(&mut self, number: usize) {
        let log = fs::File::options().create(true).append(true).open(self.log(number)).unwrap();
        let state = self.directory.join(format!("state{number}"));
        fs::create_dir_all(&state).unwrap();
        let node = &mut self.nodes[number];
        let mut command = Command::new(crate::binary());
        command
            .args(["speaker", "--log-format", "text", "--log-level", "info", "--namespace", NAMESPACE])
            .args(["--node-name", &node.name])
            .arg("--state-dir")
            .arg(state)
            .arg("--key-dirs")
            .arg(self.directory.join("keys"))
            .args(&self.arguments)
            .env("KUBECONFIG", self.directory.join("kubeconfig"))
            .env("POD_NAME", format!("speaker-{}", node.name))
            .env("POD_IP", node.guest.host.v4.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        node.speaker = Some(node.guest.host.namespace.spawn(&mut command).unwrap());
    }

    /// The log file of a speaker.
    pub fn log(&self, number: usize) -> PathBuf {
        self.directory.join(format!("speaker{}.log", number + 1))
    }

    /// Writes another key for beacons, as the kubelet does when a Secret has changed.
    pub fn change_key(&self, key: &str) {
        fs::write(self.directory.join("keys/secretkey"), key).unwrap();
    }

    /// Whether the speaker of a node runs.
    pub fn runs(&self, number: usize) -> bool {
        self.nodes[number].speaker.is_some()
    }

    /// Sends a signal to a speaker.
    pub fn signal(&self, number: usize, signal: Signal) {
        self.nodes[number].speaker.as_ref().unwrap().signal(signal).unwrap();
    }

    /// Kills a speaker, as a crash would.
    pub fn kill(&mut self, number: usize) {
        let speaker = self.nodes[number].speaker.take().unwrap();
        // The error that it was ended by a signal is expected.
        let _ = speaker.end(Signal::SIGKILL);
    }

    /// Sends SIGTERM to a speaker, and returns the time until it has ended.
    pub fn terminate(&mut self, number: usize) -> Duration {
        let start = Instant::now();
        self.nodes[number].speaker.take().unwrap().end(Signal::SIGTERM).unwrap();
        start.elapsed()
    }

    /// Power off: the link goes down and the speaker is killed.
    pub fn power_off(&mut self, number: usize) {
        self.nodes[number].guest.cable(false).unwrap();
        self.kill(number);
    }

    /// Power on: the link comes up and the speaker is started.
    pub fn power_on(&mut self, number: usize) {
        self.nodes[number].guest.cable(true).unwrap();
        self.start(number);
    }

    /// Sets the readiness of the pod of a node's speaker.
    pub fn ready(&self, number: usize, yes: bool) {
        let node = &self.nodes[number];
        objects::pod_ready(&self.cluster, &node.name, node.guest.host.v4, yes);
    }

    /// Waits until every running speaker is ready and, if there are Services, receives beacons of all others.
    pub fn all_ready(&self) {
        let running: Vec<usize> = (0..self.nodes.len()).filter(|number| self.runs(*number)).collect();
        for number in &running {
            let others = running.len() - 1;
            let heard = format!("lbstack_speaker_peers{{state=\"heard\"}} {others}\n");
            until(
                UP,
                &format!("{} to be ready and receive beacons of {others} others", self.nodes[*number].name),
                || {
                    let ready = self.admin(*number, "readyz")?;
                    let metrics = self.admin(*number, "metrics")?;
                    // Without a common group speakers send beacons only at their start.
                    if ready == "ok\n" && (metrics.contains(&heard) || !self.has_service.get()) {
                        Ok(())
                    } else {
                        Err(ready)
                    }
                },
            )
            .unwrap();
        }
    }

    /// The response of a speaker's admin endpoint.
    pub fn admin(&self, number: usize, path: &str) -> Result<String, String> {
        let host = &self.nodes[number].guest.host;
        host.curl(&format!("http://{}:7472/{path}", host.v4)).map_err(|error| error.to_string())
    }

    /// The value of a metric of a speaker, labels included in its name.
    pub fn metric(&self, number: usize, name: &str) -> f64 {
        self.value(number, name)
    }

    /// The value of a counter.
    pub fn count(&self, number: usize, name: &str) -> u64 {
        self.value(number, name)
    }

    fn value<T: FromStr + Default>(&self, number: usize, name: &str) -> T {
        let metrics = self.admin(number, "metrics").unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    /// Waits until a speaker is idle: its status writes are done.
    pub fn at_rest(&self, number: usize) {
        until(Duration::from_secs(600), &format!("{} to be idle", self.nodes[number].name), || {
            let before = self.processor_time(number);
            std::thread::sleep(Duration::from_secs(5));
            let used = self.processor_time(number).saturating_sub(before);
            if used < Duration::from_millis(150) { Ok(()) } else { Err(format!("{used:?} of 5 s are used")) }
        })
        .unwrap();
    }

    /// Resident memory of a speaker, in MB.
    pub fn memory(&self, number: usize) -> f64 {
        let status = self.proc(number, "status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kilobytes.unwrap_or(0.0) / 1024.0
    }

    /// Processor time that a speaker has used.
    pub fn processor_time(&self, number: usize) -> Duration {
        // After the name in parentheses; utime and stime in hundredths of a second (proc(5)).
        let stat = self.proc(number, "stat");
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    fn proc(&self, number: usize, file: &str) -> String {
        let pid = self.nodes[number].speaker.as_ref().unwrap().pid();
        fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap()
    }

    /// Creates a Service with these addresses that every node may announce.
    pub fn service(&self, name: &str, addresses: &[IpAddr]) {
        self.write_service(name, addresses, Vec::new());
    }

    /// Creates a Service with these addresses that only one node may announce (`externalTrafficPolicy:
    /// Local`).
    pub fn local_service(&self, name: &str, addresses: &[IpAddr], number: usize) {
        self.write_service(name, addresses, vec![self.nodes[number].name.clone()]);
    }

    fn write_service(&self, name: &str, addresses: &[IpAddr], only: Vec<String>) {
        for node in &self.nodes {
            for address in addresses {
                let bits = if address.is_ipv4() { 32 } else { 128 };
                let address = format!("{address}/{bits}");
                // It may exist already from an earlier Service.
                let _ = node.guest.host.output(["ip", "address", "add", &address, "dev", "lo"]);
            }
        }
        let wanted = ServiceSpec { name: name.to_owned(), addresses: addresses.to_vec(), only };
        self.write_services(&[wanted]);
    }

    /// Creates many Services concurrently, with one IPv4 address each, counted from `first`.
    pub fn services(&self, count: u32, first: Ipv4Addr) {
        let wanted = |n: u32| ServiceSpec {
            name: format!("many{n}"),
            addresses: vec![Ipv4Addr::from(u32::from(first) + n).into()],
            only: Vec::new(),
        };
        self.write_services(&(0..count).map(wanted).collect::<Vec<_>>());
    }

    fn write_services(&self, wanted: &[ServiceSpec]) {
        let (runtime, client) = &self.api;
        objects::services(runtime, client, wanted);
        self.has_service.set(true);
    }

    /// Deletes a Service.
    pub fn remove_service(&self, name: &str) {
        self.cluster.kubectl(["delete", "service,endpointslice", name]).unwrap();
    }

    /// The link-layer addresses of all hosts that answer the client for an address.
    pub fn who_has(&self, address: IpAddr) -> Vec<Mac> {
        answering(&self.cluster.client(), address)
    }

    /// Waits until exactly one node answers for an address, and returns it.
    pub fn owner(&self, address: IpAddr) -> usize {
        let macs: Vec<Mac> = self.nodes.iter().map(|node| node.guest.host.mac).collect();
        one_of(&self.cluster.client(), address, &macs)
    }

    /// Waits until no host answers for an address.
    pub fn unowned(&self, address: IpAddr) {
        until(UP, &format!("no host to answer for {address}"), || match self.who_has(address)[..] {
            [] => Ok(()),
            ref others => Err(format!("{others:?} answer")),
        })
        .unwrap();
    }

    /// Starts a client with a request every 5 ms. A cold client resolves the address before each.
    pub fn traffic(&self, address: IpAddr, cold: bool) -> Traffic {
        let to = SocketAddr::new(address, PORT);
        self.cluster.client().traffic(Protocol::Udp, to, Duration::from_millis(5), cold).unwrap()
    }

    /// The result of a client during `fault` and for the time `after` it.
    pub fn round(
        &mut self,
        address: IpAddr,
        cold: bool,
        after: Duration,
        fault: impl FnOnce(&mut Self),
    ) -> Round {
        let [round] = self.rounds([address], cold, after, fault);
        round
    }

    /// The same for several addresses at once.
    pub fn rounds<const N: usize>(
        &mut self,
        addresses: [IpAddr; N],
        cold: bool,
        after: Duration,
        fault: impl FnOnce(&mut Self),
    ) -> [Round; N] {
        let traffic = addresses.map(|address| self.traffic(address, cold));
        // The client's first requests fill caches on the path.
        std::thread::sleep(Duration::from_millis(300));
        fault(self);
        std::thread::sleep(after);
        traffic.map(|traffic| {
            let report = traffic.stop().unwrap();
            Round { silence: report.longest_silence(), lost: report.lost }
        })
    }

    /// The last lines of every speaker's log.
    pub fn logs(&self) -> String {
        let tail = |number| {
            let text = fs::read_to_string(self.log(number)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let from = lines.len().saturating_sub(25);
            format!("--- {}\n{}\n", self.nodes[number].name, lines[from..].join("\n"))
        };
        (0..self.nodes.len()).map(tail).collect()
    }
}

fn answering(asker: &Host, address: IpAddr) -> Vec<Mac> {
    asker.who_has(address, Duration::from_millis(150)).unwrap()
}

/// Waits until exactly one of these hosts answers `asker` for an address, and returns its index.
pub fn one_of(asker: &Host, address: IpAddr, macs: &[Mac]) -> usize {
    until(UP, &format!("one owner of {address}"), || match answering(asker, address)[..] {
        [mac] => macs.iter().position(|one| *one == mac).ok_or_else(|| format!("{mac} belongs to no node")),
        ref others => Err(format!("{others:?} answer")),
    })
    .unwrap()
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        } else {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}
