//! What a client sees: who answers for an address, how fast, and for how long nobody does.

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
    /// How many of them nobody answered.
    pub unanswered: u32,
    /// Median time from the request to its first answer, in microseconds.
    pub p50_us: Option<u64>,
    /// The 99th percentile of it.
    pub p99_us: Option<u64>,
    /// The longest.
    pub max_us: Option<u64>,
}

/// Somebody who answered.
#[derive(Clone, Debug, Deserialize)]
pub struct Answer {
    /// Their link-layer address.
    pub mac: Mac,
    /// How many answers came from there.
    pub count: u32,
}

/// How a client asks a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A TCP connection for each request.
    Http,
    /// A datagram from a new port for each request, so that no connection tracking binds it to what was before.
    Udp,
}

/// Requests at a steady pace, under way.
#[derive(Debug)]
pub struct Traffic(Running);

/// What became of the requests.
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
    /// How many times between answers were how long.
    pub gaps: Vec<GapClass>,
    /// Median time from request to answer, in microseconds.
    pub latency_p50_us: Option<u64>,
    /// The 99th percentile of it.
    pub latency_p99_us: Option<u64>,
    /// How often which server answered.
    pub names: BTreeMap<String, u64>,
    /// How often which error came instead of an answer.
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

/// Times between answers of a class.
#[derive(Clone, Debug, Deserialize)]
pub struct GapClass {
    /// The longest that belongs to it, in milliseconds; none for all that are longer than the class before.
    pub to_ms: Option<u64>,
    /// How many.
    pub count: u64,
}

impl TrafficReport {
    /// The longest time without an answer.
    pub fn longest_silence(&self) -> Duration {
        Duration::from_micros(self.longest_silence_us)
    }
}

impl Traffic {
    /// Ends it and tells what became of the requests; those under way are waited for.
    pub fn stop(self) -> Result<TrafficReport> {
        parse(&self.0.end(Signal::SIGTERM)?, "client")
    }
}

impl Host {
    /// Everybody who answers within `window` that an address is theirs, by ARP or NDP, in order of address.
    pub fn who_has(&self, address: IpAddr, window: Duration) -> Result<Vec<Mac>> {
        let answers = self.probe(address, &["--window-ms", &window.as_millis().to_string()])?;
        Ok(answers.answers.into_iter().map(|answer| answer.mac).collect())
    }

    /// Asks so many times, one after the other, `burst` times at once each, and tells how long the first answer took each time.
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

    /// Starts asking a server every so often. With `cold`, the client forgets who has the address before each request, so
    /// that each needs an ARP or NDP answer.
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

    /// Starts a process that answers ARP for an address, and does nothing else, until the handle is dropped.
    pub fn answer(&self, address: Ipv4Addr) -> Result<Running> {
        let program = self.tools.join("answer").display().to_string();
        let (mac, address) = (self.mac.to_string(), address.to_string());
        self.spawn([&program, "--interface", INTERFACE, "--mac", &mac, "--address", &address])
    }

    /// Says by gratuitous ARP or unsolicited neighbour advertisement that an address is this machine's.
    pub fn announce(&self, address: IpAddr) -> Result<()> {
        let program = self.tools.join("probe").display().to_string();
        let (mac, address) = (self.mac.to_string(), address.to_string());
        self.run([&program, "--interface", INTERFACE, "--mac", &mac, "--announce", &address]).map(drop)
    }
}

fn parse<T: for<'de> Deserialize<'de>>(text: &str, program: &str) -> Result<T> {
    serde_json::from_str(text).attempt(|| format!("reading what {program} has printed: {text:?}"))
}
