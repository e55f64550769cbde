//! Neighbour discovery (RFC 4861, 4862, 7527, 9131): parsing of received packets, and the packets that are
//! sent.

use std::net::Ipv6Addr;

use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv6Message, Icmpv6Packet, IpProtocol,
    Ipv6Packet, Ipv6Repr,
};

use crate::layer2::frame::{DropReason, Frame};

const ETHERNET: usize = 14;
const IPV6: usize = 40;
/// Type, code, checksum, flags and target of a solicitation or an advertisement.
const MESSAGE: usize = 24;
/// A link-layer address or a nonce of six bytes.
const OPTION: usize = 8;
/// The hop limit of every neighbour discovery packet; one that came through a router has a lower one (RFC
/// 4861 §7.1).
const HOP_LIMIT: u8 = 255;

const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
/// RFC 7527 §4.1, referring to RFC 3971 §5.3.2.
const NONCE: u8 = 14;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Distinguishes our own duplicate-address probe, looped back, from that of another host (RFC 7527).
pub type Nonce = [u8; 6];

/// A received neighbour discovery packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ndp {
    /// A request for the link-layer address of `target`.
    Solicitation {
        /// The frame's source: the answer is sent there, with or without an option (docs/reference/layer2.md D5).
        frame_source: EthernetAddress,
        /// The sender; unspecified during duplicate address detection.
        source: Ipv6Addr,
        /// The requested address.
        target: Ipv6Addr,
        /// The sender's link-layer address, if the packet has the option.
        source_mac: Option<EthernetAddress>,
        /// RFC 7527's nonce.
        nonce: Option<Nonce>,
    },
    /// The link-layer address of `target`.
    Advertisement {
        /// The frame's source.
        frame_source: EthernetAddress,
        /// The advertised address.
        target: Ipv6Addr,
        /// Its link-layer address, if the packet has the option.
        target_mac: Option<EthernetAddress>,
    },
}

impl Ndp {
    /// Validates a frame by RFC 4861 §7.1.1 and §7.1.2 and parses it (docs/reference/layer2.md D4).
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        let frame = EthernetFrame::new_checked(bytes).map_err(|_| DropReason::Truncated)?;
        if frame.ethertype() != EthernetProtocol::Ipv6 {
            return Err(DropReason::EtherType);
        }
        let ip = Ipv6Packet::new_checked(frame.payload()).map_err(|_| DropReason::Truncated)?;
        if ip.version() != 6 {
            return Err(DropReason::Malformed);
        }
        if ip.next_header() != IpProtocol::Icmpv6 {
            return Err(DropReason::NotNeighbour);
        }
        if ip.hop_limit() != HOP_LIMIT {
            return Err(DropReason::HopLimit);
        }
        let body = ip.payload();
        let is_neighbour = body.first().is_some_and(|kind| {
            let kind = Icmpv6Message::from(*kind);
            matches!(kind, Icmpv6Message::NeighborSolicit | Icmpv6Message::NeighborAdvert)
        });
        if !is_neighbour {
            return Err(DropReason::NotNeighbour);
        }
        if body.len() < MESSAGE {
            return Err(DropReason::Truncated);
        }
        let icmp = Icmpv6Packet::new_checked(body).map_err(|_| DropReason::Truncated)?;
        let (source, destination) = (ip.src_addr(), ip.dst_addr());
        if !icmp.verify_checksum(&source, &destination) {
            return Err(DropReason::Checksum);
        }
        let target = icmp.target_addr();
        if icmp.msg_code() != 0 || target.is_multicast() || target.is_unspecified() {
            return Err(DropReason::Malformed);
        }
        let frame_source = frame.src_addr();
        if !frame_source.is_unicast() {
            return Err(DropReason::SenderMac);
        }
        let options = Options::parse(&body[MESSAGE..])?;
        if icmp.msg_type() == Icmpv6Message::NeighborAdvert {
            return Ok(Self::Advertisement { frame_source, target, target_mac: options.target_mac });
        }
        if source.is_unspecified() && (!is_solicited_node(destination) || options.source_mac.is_some()) {
            return Err(DropReason::Malformed);
        }
        Ok(Self::Solicitation {
            frame_source,
            source,
            target,
            source_mac: options.source_mac,
            nonce: options.nonce,
        })
    }
}

#[derive(Default)]
struct Options {
    source_mac: Option<EthernetAddress>,
    target_mac: Option<EthernetAddress>,
    nonce: Option<Nonce>,
}

impl Options {
    /// Type, length in units of eight bytes (never zero), value (RFC 4861 §4.6). Unknown options are skipped.
    fn parse(mut bytes: &[u8]) -> Result<Self, DropReason> {
        let mut options = Self::default();
        while let [kind, units, ..] = *bytes {
            let len = usize::from(units) * 8;
            if len == 0 || len > bytes.len() {
                return Err(DropReason::Malformed);
            }
            let (option, rest) = bytes.split_at(len);
            let value: Option<[u8; 6]> = option[2..].try_into().ok();
            match kind {
                SOURCE_LINK_LAYER => options.source_mac = value.map(EthernetAddress),
                TARGET_LINK_LAYER => options.target_mac = value.map(EthernetAddress),
                NONCE => options.nonce = value,
                _ => {}
            }
            bytes = rest;
        }
        if bytes.is_empty() { Ok(options) } else { Err(DropReason::Malformed) }
    }
}

/// The multicast group of a host with `address` (RFC 4291 §2.7.1): the last 24 bits of the address.
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

fn is_solicited_node(address: Ipv6Addr) -> bool {
    solicited_node(address) == address
}

/// RFC 2464 §7: the last 32 bits of the group.
fn multicast_mac(group: Ipv6Addr) -> EthernetAddress {
    let [.., a, b, c, d] = group.octets();
    EthernetAddress([0x33, 0x33, a, b, c, d])
}

/// The answer to a solicitation from an address: solicited, override (docs/reference/layer2.md D5, D7).
pub fn solicited_advertisement(
    mac: EthernetAddress,
    link_local: Ipv6Addr,
    target: Ipv6Addr,
    asker: Ipv6Addr,
    asker_mac: EthernetAddress,
) -> Frame {
    let message = NeighborMessage { kind: ADVERTISEMENT, flags: SOLICITED | OVERRIDE, target };
    message.emit(mac, link_local, asker, asker_mac, (TARGET_LINK_LAYER, mac.0))
}

/// An advertisement to all nodes: after a claim, or to defend the address against the duplicate address
/// detection of another host (docs/reference/layer2.md D6, D9).
pub fn unsolicited_advertisement(mac: EthernetAddress, link_local: Ipv6Addr, target: Ipv6Addr) -> Frame {
    let message = NeighborMessage { kind: ADVERTISEMENT, flags: OVERRIDE, target };
    message.emit(mac, link_local, ALL_NODES, multicast_mac(ALL_NODES), (TARGET_LINK_LAYER, mac.0))
}

/// A neighbor advertisement to all routers, which create an entry from it in advance; it must not have the
/// override flag (RFC 9131 §6.1.2; docs/reference/layer2.md D10).
pub fn neighbor_advertisement_to_routers(
    mac: EthernetAddress,
    link_local: Ipv6Addr,
    target: Ipv6Addr,
) -> Frame {
    let message = NeighborMessage { kind: ADVERTISEMENT, flags: 0, target };
    message.emit(mac, link_local, ALL_ROUTERS, multicast_mac(ALL_ROUTERS), (TARGET_LINK_LAYER, mac.0))
}

/// A duplicate address detection probe: without a source address, with a nonce (docs/reference/layer2.md D11).
pub fn probe(mac: EthernetAddress, target: Ipv6Addr, nonce: Nonce) -> Frame {
    let group = solicited_node(target);
    let message = NeighborMessage { kind: SOLICITATION, flags: 0, target };
    message.emit(mac, Ipv6Addr::UNSPECIFIED, group, multicast_mac(group), (NONCE, nonce))
}

const SOLICITATION: Icmpv6Message = Icmpv6Message::NeighborSolicit;
const ADVERTISEMENT: Icmpv6Message = Icmpv6Message::NeighborAdvert;

struct NeighborMessage {
    kind: Icmpv6Message,
    flags: u8,
    target: Ipv6Addr,
}

impl NeighborMessage {
    fn emit(
        &self,
        mac: EthernetAddress,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        destination_mac: EthernetAddress,
        (option, value): (u8, [u8; 6]),
    ) -> Frame {
        let mut frame = Frame::zeroed(ETHERNET + IPV6 + MESSAGE + OPTION);
        let mut ethernet = EthernetFrame::new_unchecked(frame.as_mut());
        EthernetRepr { src_addr: mac, dst_addr: destination_mac, ethertype: EthernetProtocol::Ipv6 }
            .emit(&mut ethernet);
        let mut ip = Ipv6Packet::new_unchecked(ethernet.payload_mut());
        Ipv6Repr {
            src_addr: source,
            dst_addr: destination,
            next_header: IpProtocol::Icmpv6,
            payload_len: MESSAGE + OPTION,
            hop_limit: HOP_LIMIT,
        }
        .emit(&mut ip);
        let body = ip.payload_mut();
        body[0] = self.kind.into();
        body[4] = self.flags;
        body[8..MESSAGE].copy_from_slice(&self.target.octets());
        body[MESSAGE] = option;
        body[MESSAGE + 1] = 1;
        body[MESSAGE + 2..].copy_from_slice(&value);
        Icmpv6Packet::new_unchecked(body).fill_checksum(&source, &destination);
        frame
    }
}

#[cfg(test)]
mod tests;
