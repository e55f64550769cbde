//! `cargo xtask bench ipam`: time and memory of the allocator. Run it in a release build.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use crds::{IPAddressPool, IPAddressPoolSpec, ServiceKey};
use ipam::{Age, Allocator, ExistingService, Families, Request, Sharing, Wanted};
use k8s_openapi::jiff::Timestamp;
use rules::{Configuration, Family, Objects};

use crate::bench::resident;

/// Prints the table.
///
/// # Errors
///
/// The allocator did not behave as expected.
pub(crate) fn run() -> anyhow::Result<()> {
    println!("{:<46} {:>14} {:>16}", "what", "total", "each");
    for length in [24, 20, 16] {
        let services = 1_u32 << (32 - length);
        let (took, mut full) = fill(length)?;
        row(&format!("fill a /{length}"), took, services);
        if length == 16 {
            refusals(&mut full)?;
            last_free(&mut full)?;
        }
    }
    restore(100_000)?;
    memory()
}

fn row(what: &str, took: Duration, times: u32) {
    let each = took / times;
    println!("{what:<46} {:>14} {:>16}", format!("{took:.2?}"), format!("{each:.2?}"));
}

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

/// An allocator with the one pool 10.0.0.0/`length`.
fn allocator(length: u32) -> Allocator {
    let spec = IPAddressPoolSpec {
        addresses: vec![format!("10.0.0.0/{length}")],
        auto_assign: true,
        ..IPAddressPoolSpec::default()
    };
    let objects = Objects { pools: vec![Arc::new(IPAddressPool::new("lan", spec))], ..Objects::default() };
    let mut allocator = Allocator::new();
    allocator.set_configuration(Arc::new(Configuration::from_objects(&objects).0), now());
    allocator
}

fn key(number: u32) -> ServiceKey {
    ServiceKey::new(format!("namespace-{}", number % 100), format!("service-{number}"))
}

fn request(number: u32) -> Request {
    Request {
        families: Ok(Families::Single(Family::V4)),
        wanted: Ok(Wanted::Any),
        sharing: Sharing { key: None, ports: [(ipam::Protocol::Tcp, 80), (ipam::Protocol::Tcp, 443)].into() },
        labels: [("app".to_owned(), format!("service-{number}"))].into(),
        age: Age { created: Some(now()), uid: format!("00000000-0000-0000-0000-{number:012}") },
    }
}

/// Fills the pool; each address is written before the next Service is created.
fn fill(length: u32) -> anyhow::Result<(Duration, Allocator)> {
    let mut allocator = allocator(length);
    let requests: Vec<_> = (0..1 << (32 - length)).map(|n| (key(n), request(n))).collect();
    let start = Instant::now();
    for (service, request) in requests {
        let assigned = allocator.assign(&service, request, &[], now()).addresses.to_vec();
        ensure!(assigned.len() == 1, "{service} got nothing of a /{length} that has room");
        allocator.observed(&service, &assigned, now());
    }
    Ok((start.elapsed(), allocator))
}

/// Refusals by a full pool, each of a Service that is deleted again.
fn refusals(full: &mut Allocator) -> anyhow::Result<()> {
    const TIMES: u32 = 10_000;
    let requests: Vec<_> = (0..TIMES).map(|n| (key(1_000_000 + n), request(1_000_000 + n))).collect();
    let mut took = Duration::ZERO;
    for (service, request) in requests {
        let start = Instant::now();
        let refused = full.assign(&service, request, &[], now()).refusal.is_some();
        took += start.elapsed();
        ensure!(refused, "{service} got an address of a full pool");
        full.remove(&service, now());
    }
    row("a refusal on a full /16", took, TIMES);
    Ok(())
}

/// Assignment of the only free address of a pool, a different one each time.
fn last_free(full: &mut Allocator) -> anyhow::Result<()> {
    const TIMES: u32 = 10_000;
    let mut took = Duration::ZERO;
    for n in 0..TIMES {
        full.remove(&key((n * 7919) % 65_536), now());
        let (service, request) = (key(2_000_000 + n), request(2_000_000 + n));
        let start = Instant::now();
        let assigned = full.assign(&service, request, &[], now()).addresses.to_vec();
        took += start.elapsed();
        full.observed(&service, &assigned, now());
        ensure!(assigned.len() == 1, "{service} did not get the last free address");
    }
    row("the last free address of a /16", took, TIMES);
    Ok(())
}

/// Services that all have an address already.
fn existing_services(count: u32) -> Vec<ExistingService> {
    let address = |n: u32| IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + n));
    let existing = (0..count).map(|n| ExistingService {
        service: key(n),
        request: request(n),
        current: vec![address(n)],
        pool: Some("lan".into()),
        waiting_since: None,
    });
    existing.collect()
}

fn restore(count: u32) -> anyhow::Result<()> {
    let existing = existing_services(count);
    let mut allocator = allocator(8);
    let start = Instant::now();
    allocator.restore(existing, now());
    row(&format!("restore {count} Services"), start.elapsed(), count);
    let used = allocator.usage("lan", Family::V4).context("the pool is gone")?.in_use;
    ensure!(used == u128::from(count), "{used} of {count} addresses were restored");
    Ok(())
}

/// Resident memory before and after, per Service with its one address, of the allocator alone.
fn memory() -> anyhow::Result<()> {
    const COUNT: u32 = 100_000;
    let existing = existing_services(COUNT);
    let before = resident()?;
    let mut allocator = allocator(8);
    // Cloned, so that the input is in both figures.
    allocator.restore(existing.clone(), now());
    let after = resident()?;
    black_box((&existing, &allocator));
    let each = after.saturating_sub(before) / COUNT as usize;
    println!(
        "{:<46} {:>14} {:>16}",
        "memory of 100000 Services with an address",
        format!("{} KiB", (after.saturating_sub(before)) / 1024),
        format!("{each} B")
    );
    Ok(())
}
