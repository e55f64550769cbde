//! Answers ARP requests for one address until it is ended: the lower bound of the latency of a process that
//! the kernel wakes for each request, for comparison.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol};
use testbed_tools::ethernet::{self, frame};
use testbed_tools::flags::Flags;
use testbed_tools::sys::PacketSocket;

fn main() -> io::Result<()> {
    let mut flags = Flags::read("answer", "--interface eth0 --mac MAC --address ADDR");
    let interface: String = flags.required("interface");
    let mac = ethernet::parse_mac(&flags.required::<String>("mac"))?;
    let address: Ipv4Addr = flags.required("address");
    flags.end();
    let socket = PacketSocket::open(&interface)?;
    let mut buffer = [0; 2048];
    loop {
        let Some(request) = socket.receive(&mut buffer, Duration::from_secs(1))? else { continue };
        if let Some(answer) = answer(mac, address, request) {
            socket.send(&answer)?;
        }
    }
}

/// The answer to a frame, if it asks for the address.
fn answer(mac: EthernetAddress, address: Ipv4Addr, request: &[u8]) -> Option<Vec<u8>> {
    let request = EthernetFrame::new_checked(request).ok()?;
    if request.ethertype() != EthernetProtocol::Arp {
        return None;
    }
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&ArpPacket::new_checked(request.payload()).ok()?).ok()?
    else {
        return None;
    };
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: mac,
        source_protocol_addr: address,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    (target_protocol_addr == address).then(|| {
        frame(mac, source_hardware_addr, EthernetProtocol::Arp, reply.buffer_len(), |payload| {
            reply.emit(&mut ArpPacket::new_unchecked(payload));
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
    const THEM: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 2]);

    fn arp(operation: ArpOperation, target: Ipv4Addr) -> Vec<u8> {
        let arp = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: THEM,
            source_protocol_addr: Ipv4Addr::new(10, 0, 0, 2),
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: target,
        };
        frame(THEM, EthernetAddress::BROADCAST, EthernetProtocol::Arp, arp.buffer_len(), |payload| {
            arp.emit(&mut ArpPacket::new_unchecked(payload));
        })
    }

    #[test]
    fn only_requests_for_the_address_are_answered() {
        let ours = Ipv4Addr::new(10, 0, 0, 9);
        let reply = answer(US, ours, &arp(ArpOperation::Request, ours)).unwrap();
        let reply = EthernetFrame::new_checked(&reply).unwrap();
        assert_eq!((reply.src_addr(), reply.dst_addr()), (US, THEM));
        assert_eq!(answer(US, ours, &arp(ArpOperation::Request, Ipv4Addr::new(10, 0, 0, 8))), None);
        assert_eq!(answer(US, ours, &arp(ArpOperation::Reply, ours)), None);
        assert_eq!(answer(US, ours, &[0; 60]), None);
    }
}
