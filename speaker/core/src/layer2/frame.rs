//! A frame to send, without a heap allocation, and why a received frame was dropped.

use std::fmt;

/// Ethernet's minimum length without the check sequence (docs/reference/layer2.md A5): shorter frames are padded with zeros.
const MINIMUM: usize = 60;
/// The longest frame that we send: Ethernet 14, IPv6 40, advertisement or solicitation 24, one option 8.
const MAXIMUM: usize = 86;

/// An Ethernet frame to send.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    len: usize,
    bytes: [u8; MAXIMUM],
}

impl Frame {
    /// A frame of `len` bytes, padded to the minimum and truncated to [`MAXIMUM`], which no caller exceeds.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self { len: len.clamp(MINIMUM, MAXIMUM), bytes: [0; MAXIMUM] }
    }

    /// The bytes of the frame, from the destination address on.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame(")?;
        for byte in self.as_bytes() {
            write!(f, "{byte:02x}")?;
        }
        write!(f, ")")
    }
}

/// Why a received frame was dropped; the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum DropReason {
    /// Shorter than its headers say.
    #[error("the frame is shorter than its headers say")]
    Truncated,
    /// Neither ARP nor IPv6.
    #[error("the frame is neither ARP nor IPv6")]
    EtherType,
    /// ARP, but not for Ethernet and IPv4, or with other address lengths (RFC 826; docs/reference/layer2.md A1).
    #[error("the ARP packet is not for Ethernet and IPv4")]
    NotEthernetIpv4,
    /// ARP with another operation than request and reply.
    #[error("the ARP operation is neither request nor reply")]
    Operation,
    /// The sender's hardware address is not a unicast address.
    #[error("the sender's hardware address is not unicast")]
    SenderMac,
    /// The hop limit is not 255: the packet came through a router (RFC 4861 §7.1).
    #[error("the hop limit is not 255")]
    HopLimit,
    /// Wrong ICMPv6 checksum.
    #[error("the ICMPv6 checksum is wrong")]
    Checksum,
    /// ICMPv6, but neither a neighbour solicitation nor an advertisement.
    #[error("the packet is neither a neighbour solicitation nor an advertisement")]
    NotNeighbour,
    /// A rule of RFC 4861 §7.1.1 or §7.1.2 is broken: code, target, source, destination or options.
    #[error("the neighbour-discovery packet breaks a rule of RFC 4861 §7.1")]
    Malformed,
    /// A frame that this node has sent, received on another of its links or looped back.
    #[error("the frame is our own")]
    Own,
    /// Addresses are not announced on the link.
    #[error("the link is not one to announce on")]
    UnknownLink,
}

impl DropReason {
    /// The label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::EtherType => "ether_type",
            Self::NotEthernetIpv4 => "not_ethernet_ipv4",
            Self::Operation => "operation",
            Self::SenderMac => "sender_mac",
            Self::HopLimit => "hop_limit",
            Self::Checksum => "checksum",
            Self::NotNeighbour => "not_neighbour",
            Self::Malformed => "malformed",
            Self::Own => "own",
            Self::UnknownLink => "unknown_link",
        }
    }
}
