//! Times that a user waits for, on a real cluster: `cargo xtask bench smoke`.
//!
//! Prints the time from `kubectl apply` of the stack to Available, from a Service to its first answer at a
//! client outside, ARP latency compared with the kernel's for a local address on the same link, and the
//! memory of the processes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure of a benchmark is a panic"
)]

use std::time::{Duration, Instant};

use e2e::Env;
use testbed::Options;

const ROUNDS: u32 = 20;
const REQUESTS: u32 = 2_000;
const SERVED: Duration = Duration::from_secs(60);

fn main() {
    let env = Env::installed(Options::default());
    let start = Instant::now();
    env.stack_up();
    println!("stack applied to Available with every speaker ready: {:.1} s", start.elapsed().as_secs_f64());
    env.pool("bench", "192.168.33.60-192.168.33.60");
    env.web();
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            // A datagram every 5 ms: a TCP client that starts too early would wait for its own
            // retransmission.
            let traffic = env.traffic("192.168.33.60");
            let service = env.service("bench", "bench", "");
            env.served("http://192.168.33.60/", SERVED);
            let report = env.stop_traffic(traffic);
            env.delete(&service);
            report.longest_silence()
        })
        .collect();
    times.sort();
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "Service applied (kubectl included) to first answer, {ROUNDS} rounds: p50 {median:.2?}, max {longest:.2?}"
    );
    env.service("bench", "bench", "");
    env.served("http://192.168.33.60/", SERVED);
    let owner = env.announcer("default", "bench");
    let own = env.cluster.host(&owner).unwrap().v4.into();
    for (who, address) in [("speaker", "192.168.33.60".parse().unwrap()), ("kernel ", own)] {
        let answers = env.cluster.client().arping(address, REQUESTS, 1).unwrap();
        let micros = |value: Option<u64>| value.map_or("-".to_owned(), |us| us.to_string());
        println!("ARP by the {who}: p50 {} µs, p99 {} µs", micros(answers.p50_us), micros(answers.p99_us));
    }
    for command in ["operator", "controller", "speaker"] {
        // The difference is the pages of the binary, which the processes of a node share.
        let (all, own) = (resident(command, "VmRSS"), resident(command, "RssAnon"));
        println!("RSS of {command}: {all:.1} MB, of which its own {own:.1} MB");
    }
}

/// The largest resident set of our processes of this kind, in megabytes, by the kernel's name for a part of
/// it.
fn resident(command: &str, part: &str) -> f64 {
    let of = |entry: std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        if !line.starts_with(format!("/lbstack\0{command}\0").as_bytes()) {
            return None;
        }
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        let kibibytes = status.lines().find_map(|line| line.strip_prefix(part)?.strip_prefix(':'))?;
        kibibytes.split_whitespace().next()?.parse::<f64>().ok()
    };
    let largest = std::fs::read_dir("/proc").unwrap().flatten().filter_map(of).fold(0.0, f64::max);
    largest * 1024.0 / 1e6
}
