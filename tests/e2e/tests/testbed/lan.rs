//! The LAN without Kubernetes: connectivity, answers, faults, and the results of a client.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use libtest_mimic::Failed;
use testbed::{Block, Frames, Host, LanOptions, Mac, Net, NetOptions, Progress, Protocol, until};

use crate::{Outcome, SOON, check, reaches};

fn net(id: &str) -> testbed::Result<Net> {
    Net::up(NetOptions {
        id: id.into(),
        lan: LanOptions::default(),
        machines: vec![("a".into(), 11), ("b".into(), 12)],
        progress: Progress::default(),
    })
}

pub(crate) fn machines_reach_each_other() -> Outcome {
    let net = net("self-net")?;
    let (a, b) = (net.host("a")?, net.host("b")?);
    for address in b.addresses() {
        check(reaches(a, address), format!("a does not reach {address}"))?;
        check(a.neighbour(address)? == Some(b.mac), format!("a has another neighbour for {address}"))?;
    }
    Ok(())
}

pub(crate) fn every_answering_host_is_found() -> Outcome {
    let net = net("self-net")?;
    let (a, b) = (net.host("a")?, net.host("b")?);
    let window = Duration::from_millis(100);
    let mac = Mac([2, 0, 0, 0, 0, 0x66]);
    for address in b.addresses() {
        check(a.who_has(address, window)? == [b.mac], format!("{address} is b's"))?;
        let foreign_host = net.lan().foreign_host(&[address], mac)?;
        let both = a.who_has(address, window)?;
        check(both == [mac, b.mac], format!("both answer for {address}, and {both:?} are found"))?;
        check(reaches(a, address), "one of them is reached")?;
        // A gratuitous announcement moves the traffic to the foreign host.
        foreign_host.announce(address)?;
        check(a.neighbour(address)? == Some(mac), format!("the announcement of {address} is accepted"))?;
        drop(foreign_host);
        check(a.who_has(address, window)? == [b.mac], "the foreign host is gone")?;
    }
    let unused = "192.168.33.77".parse()?;
    check(a.who_has(unused, window)?.is_empty(), "no host answers for an unused address")?;
    let latency = a.arping(b.v4.into(), 20, 1)?;
    check(latency.unanswered == 0 && latency.p50_us.is_some_and(|p50| p50 < 10_000), format!("{latency:?}"))
}

pub(crate) fn frames_are_blocked() -> Outcome {
    let net = net("self-net")?;
    let (a, b) = (net.host("a")?, net.host("b")?);
    let listener = b.enter(|| std::net::UdpSocket::bind("0.0.0.0:7946"))??;
    listener.set_read_timeout(Some(Duration::from_millis(200)))?;
    let arrives = || -> testbed::Result<bool> {
        let sender = a.enter(|| std::net::UdpSocket::bind("0.0.0.0:0"))?;
        let sent = sender.and_then(|socket| socket.send_to(b"x", (b.v4, 7946)));
        Ok(sent.is_ok() && listener.recv(&mut [0; 8]).is_ok())
    };
    check(arrives()?, "a datagram arrives")?;
    let block = Block { from: Some("a"), to: Some("b"), frames: Frames::Udp(7946), one_way: true };
    let fault = net.lan().block(block)?;
    check(!arrives()?, "a datagram to the blocked port does not arrive")?;
    check(reaches(a, b.v4.into()), "other packets pass")?;
    fault.heal()?;
    check(arrives()?, "a datagram arrives once the fault is healed")?;

    let fault = net.lan().block(Block {
        frames: Frames::Udp(7946),
        from: Some("b"),
        to: Some("a"),
        one_way: true,
    })?;
    check(arrives()?, "the other direction is open")?;
    drop(fault);

    for frames in [Frames::Arp, Frames::Ndp] {
        let address =
            if frames == Frames::Arp { IpAddr::from(b.v4) } else { b.v6.ok_or("b has no IPv6")?.into() };
        a.flush_neighbours()?;
        let fault = net.lan().block(Block { from: Some("a"), to: None, frames, one_way: false })?;
        check(a.who_has(address, Duration::from_millis(50))?.is_empty(), format!("{frames:?} is blocked"))?;
        fault.heal()?;
        check(a.who_has(address, Duration::from_millis(100))? == [b.mac], format!("{frames:?} passes"))?;
    }
    let fault = net.lan().loss("b", 100)?;
    check(!reaches(a, b.v4.into()), "all is lost")?;
    net.lan().heal()?;
    std::mem::forget(fault);
    check(reaches(a, b.v4.into()), "all faults are healed")
}

/// Starts the server of the web image on a machine.
fn serve(net: &Net, host: &Host) -> Result<testbed::Running, Failed> {
    let web = net.lan().tool("web");
    let running = host.spawn([web.as_os_str(), "--name".as_ref(), "b".as_ref()])?;
    let client = net.host("a")?;
    until(SOON, "the server", || {
        client.curl(&format!("http://{}:8080/", host.v4)).map_err(|error| error.to_string())
    })?;
    Ok(running)
}

pub(crate) fn an_unplugged_cable_is_an_outage() -> Outcome {
    let net = net("self-net")?;
    let (a, b) = (net.host("a")?, net.host("b")?);
    let _server = serve(&net, b)?;
    for protocol in [Protocol::Udp, Protocol::Http] {
        let traffic = a.traffic(protocol, SocketAddr::from((b.v4, 8080)), Duration::from_millis(5), false)?;
        std::thread::sleep(Duration::from_millis(500));
        net.cable("b", false)?;
        std::thread::sleep(Duration::from_millis(400));
        net.cable("b", true)?;
        std::thread::sleep(Duration::from_millis(1500));
        let report = traffic.stop()?;
        let longest = report.longest_silence();
        check(
            longest > Duration::from_millis(350) && longest < Duration::from_millis(1800),
            format!("400 ms without a cable were an outage of {longest:?} by {protocol:?}: {report:?}"),
        )?;
        check(report.lost > 10 && report.names.keys().eq(["b"]), format!("{report:?}"))?;
    }
    Ok(())
}

pub(crate) fn a_cold_client_resolves_each_time() -> Outcome {
    let net = net("self-net")?;
    let (a, b) = (net.host("a")?, net.host("b")?);
    let _server = serve(&net, b)?;
    let to = SocketAddr::from((b.v4, 8080));
    for cold in [true, false] {
        // The neighbour entry exists and is valid for some time. After the first round, the kernel's next
        // attempt may be a second away.
        until(SOON, "b", || if reaches(a, b.v4.into()) { Ok(()) } else { Err("not reached".into()) })?;
        let fault =
            net.lan().block(Block { from: Some("a"), to: Some("b"), frames: Frames::Arp, one_way: true })?;
        let traffic = a.traffic(Protocol::Udp, to, Duration::from_millis(20), cold)?;
        std::thread::sleep(Duration::from_millis(400));
        let report = traffic.stop()?;
        fault.heal()?;
        check((report.answered == 0) == cold, format!("cold: {cold}, without ARP: {report:?}"))?;
    }
    Ok(())
}

pub(crate) fn two_with_one_id_are_rejected() -> Outcome {
    let first = net("self-net")?;
    let error = net("self-net").err().ok_or("the second was not rejected")?.to_string();
    check(error.contains("exists already") && error.contains("down --id self-net"), error)?;
    // The first is not affected.
    check(reaches(first.host("a")?, first.host("b")?.v4.into()), "the first still works")
}
