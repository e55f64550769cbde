//! Sends requests to a server at a fixed rate, and reports at the end how long there was no answer.
//!
//! Each request uses a new source port, and is sent on schedule whether or not earlier ones were answered. It
//! ends on SIGTERM or SIGINT, or after `--for-ms`, and prints one JSON object.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use testbed_tools::flags::Flags;
use testbed_tools::neighbour;
use testbed_tools::silence::{Answered, Silence};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http,
    Udp,
}

impl std::str::FromStr for Protocol {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "http" => Ok(Self::Http),
            "udp" => Ok(Self::Udp),
            _ => Err(()),
        }
    }
}

enum Event {
    Outcome { sent: Instant, outcome: io::Result<String> },
    Stop,
}

/// How long a cold client waits for an ARP or NDP answer before it flushes the neighbour entry again.
const RESOLUTION_TIMEOUT: Duration = Duration::from_millis(100);

fn main() -> io::Result<()> {
    let mut flags = Flags::read(
        "client",
        "--protocol http|udp --to ADDR:PORT [--every-ms 5] [--timeout-ms 1000] [--for-ms N] [--cold INTERFACE]",
    );
    let protocol: Protocol = flags.required("protocol");
    let to: SocketAddr = flags.required("to");
    let every = Duration::from_millis(flags.get("every-ms", 5));
    let timeout = Duration::from_millis(flags.get("timeout-ms", 1000));
    let duration = flags.optional("for-ms").map(Duration::from_millis);
    let cold: Option<String> = flags.optional("cold");
    flags.end();

    // Before any thread starts, so that all inherit the mask and the signal is delivered to the thread that
    // waits for it.
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTERM);
    stop.add(Signal::SIGINT);
    stop.thread_block()?;
    let (events, inbox) = mpsc::channel();
    let stopper = events.clone();
    thread::spawn(move || {
        let _ = stop.wait();
        let _ = stopper.send(Event::Stop);
    });

    let flusher = cold.map(|interface| neighbour::NeighbourFlusher::new(&interface, to.ip())).transpose()?;
    let start = Instant::now();
    let mut silence = Silence::new(start);
    let mut names: BTreeMap<String, u64> = BTreeMap::new();
    let mut errors: BTreeMap<String, u64> = BTreeMap::new();
    let mut sent = 0_u64;
    // The times at which outstanding requests were sent.
    let mut open: BTreeSet<Instant> = BTreeSet::new();
    let mut next = start;
    let mut stopping = false;
    loop {
        let now = Instant::now();
        let over = stopping || duration.is_some_and(|duration| now - start >= duration);
        if over && open.is_empty() {
            break;
        }
        if !over && now >= next {
            // Requests that were missed on a busy machine are not sent in a burst later.
            next += every;
            if next <= now {
                next = now + every;
            }
            // Flushing drops packets that wait for the resolution, so it gets this time to complete.
            let is_resolving = open.first().is_some_and(|first| now - *first < RESOLUTION_TIMEOUT);
            if let Some(flusher) = flusher.as_ref().filter(|_| !is_resolving) {
                flusher.flush()?;
            }
            let events = events.clone();
            sent += 1;
            open.insert(now);
            let ask = move || {
                let outcome = match protocol {
                    Protocol::Http => http(to, timeout),
                    Protocol::Udp => udp(to, timeout),
                };
                let _ = events.send(Event::Outcome { sent: now, outcome });
            };
            thread::Builder::new().stack_size(64 * 1024).spawn(ask)?;
            continue;
        }
        let wait = if over { timeout } else { next.saturating_duration_since(now) };
        match inbox.recv_timeout(wait) {
            Ok(Event::Outcome { sent, outcome }) => {
                open.remove(&sent);
                match outcome {
                    Ok(name) => {
                        silence.answered(Answered { sent, received: Instant::now() });
                        *names.entry(name).or_default() += 1;
                    }
                    Err(error) => *errors.entry(error.kind().to_string()).or_default() += 1,
                }
            }
            Ok(Event::Stop) => stopping = true,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
    let report = silence.report(sent, &names, &errors);
    println!("{report}");
    Ok(())
}

/// The name in the answer's first line, `name NAME`.
fn name_in(answer: &str) -> String {
    let line = answer.lines().find_map(|line| line.strip_prefix("name "));
    line.unwrap_or_default().to_owned()
}

fn udp(to: SocketAddr, timeout: Duration) -> io::Result<String> {
    let any = match to.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.send(b"hello")?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    Ok(name_in(&String::from_utf8_lossy(&buffer[..length])))
}

fn http(to: SocketAddr, timeout: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    if answer.starts_with("HTTP/1.1 200") {
        return Ok(name_in(&answer));
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the response is not 200 OK"))
}
