//! Packet sockets: whole Ethernet frames, one socket per link and protocol. Socket addresses need unsafe
//! code.

#![allow(unsafe_code)]

use std::fmt;
use std::io::{self, Read as _};
use std::mem::{size_of, size_of_val};
use std::os::fd::AsRawFd;

use announce::cluster::link::LinkIndex;
use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The frames that a socket receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Protocol {
    /// ARP requests and replies.
    Arp,
    /// Neighbour solicitations and advertisements.
    Ndp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Arp => "ARP",
            Self::Ndp => "NDP",
        })
    }
}

impl Protocol {
    fn ethertype(self) -> u16 {
        match self {
            Self::Arp => 0x0806,
            Self::Ndp => 0x86dd,
        }
    }

    /// The filter of the socket of a link. A frame for a VLAN device also reaches the sockets of the device
    /// below it, without its tag; the device index tells them apart.
    fn filter(self, link: LinkIndex) -> Vec<SockFilter> {
        let mut filter = vec![op(LOAD_WORD, 0, 0, DEVICE), op(JUMP_EQUAL, 1, 0, link), op(RETURN, 0, 0, 0)];
        match self {
            Self::Arp => filter.extend(ARP),
            Self::Ndp => filter.extend(NDP),
        }
        filter
    }
}

/// `SKF_AD_OFF + SKF_AD_PKTTYPE`: offset of the kernel's classification of the packet's direction.
const PACKET_TYPE: u32 = 0xffff_f004;
/// `SKF_AD_OFF + SKF_AD_IFINDEX`: offset of the index of the device.
const DEVICE: u32 = 0xffff_f008;
/// For another host; also frames with the tag of a VLAN that has no device here, including broadcasts.
const OTHER_HOST: u32 = 3;
/// Sent by this host.
const OUTGOING: u32 = 4;

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const WHOLE: u32 = 0x4_0000;

const fn op(code: u16, jt: u8, jf: u8, k: u32) -> SockFilter {
    SockFilter::new(code, jt, jf, k)
}

/// Classic BPF; jumps are relative to the next instruction, offsets to the Ethernet header.
const ARP: [SockFilter; 7] = [
    op(LOAD_BYTE, 0, 0, PACKET_TYPE),
    op(JUMP_EQUAL, 4, 0, OTHER_HOST),
    op(JUMP_EQUAL, 3, 0, OUTGOING),
    op(LOAD_HALF, 0, 0, 12),
    op(JUMP_EQUAL, 0, 1, 0x0806),
    op(RETURN, 0, 0, WHOLE),
    op(RETURN, 0, 0, 0),
];

/// Next header ICMPv6, hop limit 255, type 135 or 136. All other IPv6 traffic stays in the kernel.
const NDP: [SockFilter; 14] = [
    op(LOAD_BYTE, 0, 0, PACKET_TYPE),
    op(JUMP_EQUAL, 11, 0, OTHER_HOST),
    op(JUMP_EQUAL, 10, 0, OUTGOING),
    op(LOAD_HALF, 0, 0, 12),
    op(JUMP_EQUAL, 0, 8, 0x86dd),
    op(LOAD_BYTE, 0, 0, 20),
    op(JUMP_EQUAL, 0, 6, 58),
    op(LOAD_BYTE, 0, 0, 21),
    op(JUMP_EQUAL, 0, 4, 255),
    op(LOAD_BYTE, 0, 0, 54),
    op(JUMP_EQUAL, 1, 0, 135),
    op(JUMP_EQUAL, 0, 1, 136),
    op(RETURN, 0, 0, WHOLE),
    op(RETURN, 0, 0, 0),
];

/// Receive buffer of the sockets for frames and beacons, in bytes.
pub(crate) const RECEIVE_BUFFER: usize = 4 << 20;

/// How many frames or datagrams the kernel has dropped because the receive buffer of `socket` was full.
pub(crate) fn kernel_drops(socket: &impl AsRawFd) -> u64 {
    /// `SK_MEMINFO_DROPS` of linux/sock_diag.h: the last of nine numbers.
    const DROPS: usize = 8;
    let mut numbers = [0_u32; DROPS + 1];
    let Ok(mut len) = libc::socklen_t::try_from(size_of_val(&numbers)) else { return 0 };
    // SAFETY: the kernel writes at most `len` bytes to the array, and how many to `len`.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            numbers.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if failed == 0 { u64::from(numbers[DROPS]) } else { 0 }
}

/// A packet socket on one link.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    socket: AsyncFd<Socket>,
}

impl PacketSocket {
    /// Opens a socket. It has no protocol at first, then the filter is attached, then it is bound to the link
    /// and the protocol: no unfiltered frame is received.
    pub(crate) fn open(link: LinkIndex, protocol: Protocol) -> io::Result<Self> {
        let kind = Type::RAW.cloexec().nonblocking();
        let socket = Socket::new(Domain::PACKET, kind, Some(socket2::Protocol::from(0)))?;
        // As much as net.core.rmem_max allows: frames that arrive while the driver is busy wait and are not
        // dropped.
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        socket.attach_filter(&protocol.filter(link))?;
        socket.bind(&address(link, protocol)?)?;
        // SAFETY: `Socket` owns its descriptor and gives out the same one for as long as it lives.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self { socket })
    }

    /// Waits for a frame and returns its length; a longer frame is truncated.
    pub(crate) async fn receive(&self, frame: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut guard = self.socket.readable().await?;
            if let Ok(result) = guard.try_io(|socket| socket.get_ref().read(frame)) {
                return result;
            }
        }
    }

    /// How many frames the kernel has dropped.
    pub(crate) fn kernel_drops(&self) -> u64 {
        kernel_drops(self.socket.get_ref())
    }

    /// Receives a frame if one is waiting.
    pub(crate) fn receive_now(&self, frame: &mut [u8]) -> Option<usize> {
        self.socket.get_ref().read(frame).ok()
    }

    /// Sends a frame without blocking.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.get_ref().send(frame).map(|_| ())
    }
}

fn address(link: LinkIndex, protocol: Protocol) -> io::Result<SockAddr> {
    let index = i32::try_from(link).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let family = u16::try_from(libc::AF_PACKET).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let len = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is the address type of `AF_PACKET`, and all zeros are a valid one.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = family;
    link.sll_protocol = protocol.ethertype().to_be();
    link.sll_ifindex = index;
    // SAFETY: the storage holds a `sockaddr_ll`, which is `len` bytes long.
    Ok(unsafe { SockAddr::new(storage, len) })
}
