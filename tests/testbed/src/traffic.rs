//! Measurements of a client: who answers for an address, how fast, and how long there was no answer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Deserialize;

use crate::error::{Attempt, Error, Result};
use crate::host::Host;
use crate::plan::Mac;
use crate::process::Running;
use crate::topology::INTERFACE;

/// The answers to a number of ARP or NDP requests.
#[derive(Clone, Debug, Deserialize)]
pub struct Answers {
    /// Who answered, and how often.
    pub answers: Vec<Answer>,
    /// How many requests were sent.
    pub rounds: u32,
    /// How many of them got no answer.
    pub unanswered: u32,
    /// Median time from the request to its first answer, in microseconds.
    pub p50_us: Option<u64>,
    /// The 99th percentile of it.
    pub p99_us: Option<u64>,
    /// The longest.
    pub max_us: Option<u64>,
}

/// A host that answered.
#[derive(Clone, Debug, Deserialize)]
pub struct Answer {
    /// Its link-layer address.
    pub mac: Mac,
    /// The number of its answers.
    pub count: u32,
}

/// The protocol of a client's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A TCP connection for each request.
    Http,
    /// A datagram from a new port for each request, so that no connection tracking entry applies to it.
    Udp,
}

/// A client that sends requests at a fixed rate.
#[derive(Debug)]
pub struct Traffic(Running);

/// The results of a client's requests.
#[derive(Clone, Debug, Deserialize)]
pub struct TrafficReport {
    /// How many were sent.
    pub sent: u64,
    /// How many were answered in time (1 s).
    pub answered: u64,
    /// How many were not.
    pub lost: u64,
    /// The longest time without an answer, in microseconds.
    pub longest_silence_us: u64,
    /// Every time without an answer of 50 ms or more.
    pub silences: Vec<SilenceReport>,
    /// A histogram of the times between answers.
    pub gaps: Vec<GapClass>,
    /// Median time from request to answer, in microseconds.
    pub latency_p50_us: Option<u64>,
    /// The 99th percentile of it.
    pub latency_p99_us: Option<u64>,
    /// The number of answers by server name.
    pub names: BTreeMap<String, u64>,
    /// The number of failed requests by error.
    pub errors: BTreeMap<String, u64>,
}

/// A time without an answer.
#[derive(Clone, Debug, Deserialize)]
pub struct SilenceReport {
    /// When it began, in microseconds from the first request.
    pub at_us: u64,
    /// How long it was.
    pub for_us: u64,
}

/// A class of times between answers.
#[derive(Clone, Debug, Deserialize)]
pub struct GapClass {
    /// Its upper bound in milliseconds; none for the last class.
    pub to_ms: Option<u64>,
    /// The number of times in the class.
    pub count: u64,
}

impl TrafficReport {
    /// The longest time without an answer.
    pub fn longest_silence(&self) -> Duration {
        Duration::from_micros(self.longest_silence_us)
    }
}

impl Traffic {
    /// Stops the client after its outstanding requests, and returns the results.
    pub fn stop(self) -> Result<TrafficReport> {
        parse(&self.0.end(Signal::SIGTERM)?, "client")
    }
}

impl Host {
    /// The link-layer addresses of all hosts that answer an ARP or NDP request for an address within
    /// `window`, sorted.
    pub fn who_has(&self, address: IpAddr, window: Duration) -> Result<Vec<Mac>> {
        let answers = self.probe(address, &["--window-ms", &window.as_millis().to_string()])?;
        Ok(answers.answers.into_iter().map(|answer| answer.mac).collect())
    }

    /// Sends `rounds` bursts of `burst` ARP or NDP requests, one after the other, and measures the time to
    /// the first answer of each.
    pub fn arping(&self, address: IpAddr, rounds: u32, burst: u32) -> Result<Answers> {
        let (rounds, burst) = (rounds.to_string(), burst.to_string());
        self.probe(
            address,
            &["--rounds", &rounds, "--burst", &burst, "--first", "true", "--window-ms", "500"],
        )
    }

    fn probe(&self, address: IpAddr, arguments: &[&str]) -> Result<Answers> {
        let source =
            match address {
                IpAddr::V4(_) => IpAddr::V4(self.v4),
                IpAddr::V6(_) => IpAddr::V6(self.v6.ok_or_else(|| {
                    Error::Options(format!("{} has no IPv6 address to ask from", self.name))
                })?),
            };
        let program = self.tools.join("probe").display().to_string();
        let (mac, source, target) = (self.mac.to_string(), source.to_string(), address.to_string());
        let mut words = vec![program.as_str(), "--interface", INTERFACE, "--mac", &mac, "--source", &source];
        words.extend(["--target", &target]);
        words.extend(arguments);
        parse(&self.run(words)?, "probe")
    }

    /// Starts a client that sends a request at each interval. With `cold`, it removes its neighbour entry for
    /// the address before each request, so that each needs an ARP or NDP answer.
    pub fn traffic(
        &self,
        protocol: Protocol,
        to: SocketAddr,
        every: Duration,
        cold: bool,
    ) -> Result<Traffic> {
        let protocol = match protocol {
            Protocol::Http => "http",
            Protocol::Udp => "udp",
        };
        let program = self.tools.join("client").display().to_string();
        let (to, every) = (to.to_string(), every.as_millis().to_string());
        let mut words = vec![program.as_str(), "--protocol", protocol, "--to", &to, "--every-ms", &every];
        if cold {
            words.extend(["--cold", INTERFACE]);
        }
        self.spawn(words).map(Traffic)
    }

    /// Starts a process that only answers ARP requests for an address, until the handle is dropped.
    pub fn answer(&self, address: Ipv4Addr) -> Result<Running> {
        let program = self.tools.join("answer").display().to_string();
        let (mac, address) = (self.mac.to_string(), address.to_string());
        self.spawn([&program, "--interface", INTERFACE, "--mac", &mac, "--address", &address])
    }

    /// Sends a gratuitous ARP or an unsolicited neighbour advertisement for an address of this machine.
    pub fn announce(&self, address: IpAddr) -> Result<()> {
        let program = self.tools.join("probe").display().to_string();
        let (mac, address) = (self.mac.to_string(), address.to_string());
        self.run([&program, "--interface", INTERFACE, "--mac", &mac, "--announce", &address]).map(drop)
    }
}

fn parse<T: for<'de> Deserialize<'de>>(text: &str, program: &str) -> Result<T> {
    serde_json::from_str(text).attempt(|| format!("parsing the output of {program}: {text:?}"))
}
