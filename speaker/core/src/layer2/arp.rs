//! ARP (RFC 826, RFC 5227): parsing of received packets, and the four packets that are sent.

use std::net::Ipv4Addr;

use smoltcp::wire::{
    ArpHardware, ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr,
};

use crate::layer2::frame::{DropReason, Frame};

/// Length of an Ethernet header and an ARP packet for IPv4.
const LEN: usize = 14 + 28;
const NO_MAC: EthernetAddress = EthernetAddress([0; 6]);

/// A received ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Whether it is a request (else it is a reply).
    pub request: bool,
    /// The frame's destination.
    pub destination: EthernetAddress,
    /// The sender's hardware address.
    pub sender_mac: EthernetAddress,
    /// The sender's address; unspecified in a probe (RFC 5227 §1.1).
    pub sender: Ipv4Addr,
    /// The requested address.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Validates and parses a frame.
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        let frame = EthernetFrame::new_checked(bytes).map_err(|_| DropReason::Truncated)?;
        if frame.ethertype() != EthernetProtocol::Arp {
            return Err(DropReason::EtherType);
        }
        let packet = ArpPacket::new_checked(frame.payload()).map_err(|_| DropReason::Truncated)?;
        if packet.hardware_type() != ArpHardware::Ethernet
            || packet.protocol_type() != EthernetProtocol::Ipv4
            || packet.hardware_len() != 6
            || packet.protocol_len() != 4
        {
            return Err(DropReason::NotEthernetIpv4);
        }
        let request = match packet.operation() {
            ArpOperation::Request => true,
            ArpOperation::Reply => false,
            ArpOperation::Unknown(_) => return Err(DropReason::Operation),
        };
        let sender_mac = EthernetAddress::from_bytes(packet.source_hardware_addr());
        if !sender_mac.is_unicast() || sender_mac == NO_MAC {
            return Err(DropReason::SenderMac);
        }
        Ok(Self {
            request,
            destination: frame.dst_addr(),
            sender_mac,
            sender: ipv4(packet.source_protocol_addr()),
            target: ipv4(packet.target_protocol_addr()),
        })
    }

    /// Whether this is a probe: a request by a host that does not use the address yet.
    pub fn is_probe(&self) -> bool {
        self.request && self.sender.is_unspecified()
    }
}

/// The reply to `request`: unicast to the sender, also if it is a probe (docs/reference/layer2.md A2, A3).
pub fn reply(mac: EthernetAddress, request: &Arp) -> Frame {
    emit(ArpOperation::Reply, mac, request.target, request.sender_mac, request.sender, request.sender_mac)
}

/// The gratuitous request, the announcement of RFC 5227: sender and target are the address (docs/reference/layer2.md B4,
/// C1).
pub fn gratuitous_request(mac: EthernetAddress, address: Ipv4Addr) -> Frame {
    emit(ArpOperation::Request, mac, address, NO_MAC, address, EthernetAddress::BROADCAST)
}

/// The gratuitous reply, broadcast: some devices learn only from replies (docs/reference/layer2.md C1).
pub fn gratuitous_reply(mac: EthernetAddress, address: Ipv4Addr) -> Frame {
    emit(ArpOperation::Reply, mac, address, mac, address, EthernetAddress::BROADCAST)
}

/// A probe: a request for `address` without a sender address (docs/reference/layer2.md B2).
pub fn probe(mac: EthernetAddress, address: Ipv4Addr) -> Frame {
    emit(ArpOperation::Request, mac, Ipv4Addr::UNSPECIFIED, NO_MAC, address, EthernetAddress::BROADCAST)
}

/// The source of the frame is always the sender's hardware address: port security drops other frames
/// (docs/reference/layer2.md A4).
fn emit(
    operation: ArpOperation,
    mac: EthernetAddress,
    sender: Ipv4Addr,
    target_mac: EthernetAddress,
    target: Ipv4Addr,
    destination: EthernetAddress,
) -> Frame {
    let mut frame = Frame::zeroed(LEN);
    let mut ethernet = EthernetFrame::new_unchecked(frame.as_mut());
    EthernetRepr { src_addr: mac, dst_addr: destination, ethertype: EthernetProtocol::Arp }
        .emit(&mut ethernet);
    ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: mac,
        source_protocol_addr: sender,
        target_hardware_addr: target_mac,
        target_protocol_addr: target,
    }
    .emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
    frame
}

fn ipv4(bytes: &[u8]) -> Ipv4Addr {
    bytes.try_into().map_or(Ipv4Addr::UNSPECIFIED, |octets: [u8; 4]| Ipv4Addr::from(octets))
}

#[cfg(test)]
mod tests;
