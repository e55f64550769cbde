//! Sends ARP or NDP requests for an address, and prints every link-layer address that answers.
//!
//! Each round sends one request and listens for a time. With `--first true` the round ends at the first
//! answer, to measure latency. With `--burst N` it sends N requests at once, and ends at the Nth answer, to
//! measure throughput. The kernel's handling of the answers is not affected.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use serde_json::json;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv6Packet,
    Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr, RawHardwareAddress,
};
use testbed_tools::ethernet::{self, frame};
use testbed_tools::flags::Flags;
use testbed_tools::sys::PacketSocket;

struct Query {
    own_mac: EthernetAddress,
    source: IpAddr,
    target: IpAddr,
}

fn main() -> io::Result<()> {
    let mut flags = Flags::read(
        "probe",
        "--interface eth0 --mac MAC --source ADDR --target ADDR [--window-ms 100] [--rounds 1] [--every-ms 0] [--first false] [--burst 1]",
    );
    let interface: String = flags.required("interface");
    let own_mac = ethernet::parse_mac(&flags.required::<String>("mac"))?;
    if let Some(address) = flags.optional("announce") {
        flags.end();
        return PacketSocket::open(&interface)?.send(&announcement(own_mac, address));
    }
    let query = Query { own_mac, source: flags.required("source"), target: flags.required("target") };
    let window = Duration::from_millis(flags.get("window-ms", 100));
    let rounds: u32 = flags.get("rounds", 1);
    let every = Duration::from_millis(flags.get("every-ms", 0));
    let first: bool = flags.get("first", false);
    let burst: u32 = flags.get("burst", 1);
    flags.end();

    let request = query.request().map_err(io::Error::other)?;
    let socket = PacketSocket::open(&interface)?;
    let mut answers: BTreeMap<String, u32> = BTreeMap::new();
    let mut latencies: Vec<u64> = Vec::new();
    let mut unanswered = 0;
    for _ in 0..rounds {
        let sent = Instant::now();
        for _ in 0..burst {
            socket.send(&request)?;
        }
        let mut answered = 0;
        let mut buffer = [0; 2048];
        while let Some(left) = window.checked_sub(sent.elapsed()) {
            let Some(frame) = socket.receive(&mut buffer, left)? else { continue };
            let Some(mac) = query.answer(frame) else { continue };
            if answered == 0 {
                latencies.push(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
            }
            answered += 1;
            *answers.entry(mac.to_string().to_lowercase().replace('-', ":")).or_default() += 1;
            if first && answered >= burst {
                break;
            }
        }
        unanswered += burst.saturating_sub(answered);
        std::thread::sleep(every);
    }
    latencies.sort_unstable();
    let quantile =
        |part: usize| latencies.get((latencies.len() * part / 100).min(latencies.len().saturating_sub(1)));
    println!(
        "{}",
        json!({
            "answers": answers.iter().map(|(mac, count)| json!({ "mac": mac, "count": count })).collect::<Vec<_>>(),
            "rounds": rounds,
            "unanswered": unanswered,
            "p50_us": quantile(50),
            "p99_us": quantile(99),
            "max_us": latencies.last(),
        })
    );
    Ok(())
}

impl Query {
    /// The request frame.
    fn request(&self) -> Result<Vec<u8>, String> {
        match (self.source, self.target) {
            (IpAddr::V4(source), IpAddr::V4(target)) => Ok(self.arp(source, target)),
            (IpAddr::V6(source), IpAddr::V6(target)) => Ok(self.ndp(source, target)),
            _ => Err("--source and --target are of different families".into()),
        }
    }

    fn arp(&self, source: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        let arp = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: self.own_mac,
            source_protocol_addr: source,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: target,
        };
        frame(self.own_mac, EthernetAddress::BROADCAST, EthernetProtocol::Arp, arp.buffer_len(), |payload| {
            arp.emit(&mut ArpPacket::new_unchecked(payload));
        })
    }

    fn ndp(&self, source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
        let solicit = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
            target_addr: target,
            lladdr: Some(RawHardwareAddress::from(self.own_mac)),
        });
        let [.., x, y, z] = target.octets();
        // RFC 4291, section 2.7.1, and RFC 2464, section 7.
        let group =
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(x), u16::from(y) << 8 | u16::from(z));
        let to = EthernetAddress([0x33, 0x33, 0xff, x, y, z]);
        neighbour_discovery(self.own_mac, to, source, group, &solicit)
    }

    /// The link-layer address that this frame announces, if it is an answer to the request.
    fn answer(&self, frame: &[u8]) -> Option<EthernetAddress> {
        let frame = EthernetFrame::new_checked(frame).ok()?;
        if frame.src_addr() == self.own_mac {
            return None;
        }
        match (frame.ethertype(), self.target) {
            (EthernetProtocol::Arp, IpAddr::V4(target)) => {
                let packet = ArpPacket::new_checked(frame.payload()).ok()?;
                let ArpRepr::EthernetIpv4 { operation, source_hardware_addr, source_protocol_addr, .. } =
                    ArpRepr::parse(&packet).ok()?
                else {
                    return None;
                };
                let ours = operation == ArpOperation::Reply
                    && source_protocol_addr == target
                    && frame.dst_addr() == self.own_mac;
                ours.then_some(source_hardware_addr)
            }
            (EthernetProtocol::Ipv6, IpAddr::V6(target)) => {
                let ip = Ipv6Packet::new_checked(frame.payload()).ok()?;
                if ip.next_header() != IpProtocol::Icmpv6 {
                    return None;
                }
                let icmp = Icmpv6Packet::new_checked(ip.payload()).ok()?;
                let parsed = Icmpv6Repr::parse(
                    &ip.src_addr(),
                    &ip.dst_addr(),
                    &icmp,
                    &ChecksumCapabilities::default(),
                )
                .ok()?;
                let Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { target_addr, lladdr, .. }) = parsed else {
                    return None;
                };
                // Without the option it is the frame's sender.
                let mac = lladdr.and_then(|mac| Some(EthernetAddress(mac.as_bytes().try_into().ok()?)));
                (target_addr == target).then(|| mac.unwrap_or(frame.src_addr()))
            }
            _ => None,
        }
    }
}

/// An announcement of an own address: a gratuitous ARP request (RFC 5227, section 3), or an unsolicited
/// neighbour advertisement to all nodes (RFC 4861, section 7.2.6).
fn announcement(own_mac: EthernetAddress, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => {
            let arp = ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Request,
                source_hardware_addr: own_mac,
                source_protocol_addr: address,
                target_hardware_addr: EthernetAddress([0; 6]),
                target_protocol_addr: address,
            };
            frame(own_mac, EthernetAddress::BROADCAST, EthernetProtocol::Arp, arp.buffer_len(), |payload| {
                arp.emit(&mut ArpPacket::new_unchecked(payload));
            })
        }
        IpAddr::V6(address) => {
            let advert = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
                flags: NdiscNeighborFlags::OVERRIDE,
                target_addr: address,
                lladdr: Some(RawHardwareAddress::from(own_mac)),
            });
            let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            neighbour_discovery(
                own_mac,
                EthernetAddress([0x33, 0x33, 0, 0, 0, 1]),
                address,
                all_nodes,
                &advert,
            )
        }
    }
}

/// The hop limit is 255, or the receiver drops it (RFC 4861, section 7.1).
fn neighbour_discovery(
    own_mac: EthernetAddress,
    to_mac: EthernetAddress,
    source: Ipv6Addr,
    to: Ipv6Addr,
    message: &Icmpv6Repr<'_>,
) -> Vec<u8> {
    let ip = Ipv6Repr {
        src_addr: source,
        dst_addr: to,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit: 255,
    };
    frame(own_mac, to_mac, EthernetProtocol::Ipv6, ip.buffer_len() + message.buffer_len(), |payload| {
        let mut packet = Ipv6Packet::new_unchecked(payload);
        ip.emit(&mut packet);
        let mut icmp = Icmpv6Packet::new_unchecked(packet.payload_mut());
        message.emit(&source, &to, &mut icmp, &ChecksumCapabilities::default());
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
    const THEM: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 2]);

    fn query(source: &str, target: &str) -> Query {
        Query { own_mac: US, source: source.parse().unwrap(), target: target.parse().unwrap() }
    }

    #[test]
    fn an_own_request_is_not_an_answer() {
        for query in [query("10.0.0.1", "10.0.0.9"), query("fd00::1", "fd00::9")] {
            assert_eq!(query.answer(&query.request().unwrap()), None);
        }
    }

    #[test]
    fn an_arp_reply_for_the_address_is_an_answer_and_one_for_another_is_not() {
        let query = query("10.0.0.1", "10.0.0.9");
        let reply = |address: Ipv4Addr| {
            let arp = ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Reply,
                source_hardware_addr: THEM,
                source_protocol_addr: address,
                target_hardware_addr: US,
                target_protocol_addr: Ipv4Addr::new(10, 0, 0, 1),
            };
            frame(THEM, US, EthernetProtocol::Arp, arp.buffer_len(), |payload| {
                arp.emit(&mut ArpPacket::new_unchecked(payload));
            })
        };
        assert_eq!(query.answer(&reply(Ipv4Addr::new(10, 0, 0, 9))), Some(THEM));
        assert_eq!(query.answer(&reply(Ipv4Addr::new(10, 0, 0, 8))), None);
    }

    #[test]
    fn a_solicitation_goes_to_the_solicited_node_group() {
        let request = query("fd00::1", "fd00::12:3456").request().unwrap();
        let frame = EthernetFrame::new_checked(&request).unwrap();
        assert_eq!(frame.dst_addr(), EthernetAddress([0x33, 0x33, 0xff, 0x12, 0x34, 0x56]));
        let ip = Ipv6Packet::new_checked(frame.payload()).unwrap();
        assert_eq!(ip.dst_addr().to_string(), "ff02::1:ff12:3456");
        assert_eq!(ip.hop_limit(), 255);
    }

    #[test]
    fn families_must_agree() {
        assert!(query("10.0.0.1", "fd00::9").request().is_err());
    }

    #[test]
    fn random_bytes_are_not_an_answer() {
        let query = query("fd00::1", "fd00::9");
        for length in 0..80 {
            assert_eq!(query.answer(&vec![0x86; length]), None);
        }
    }
}
