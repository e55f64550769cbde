//! A raw Ethernet socket on one interface.

#![allow(
    clippy::cast_possible_truncation,
    reason = "constants of the C library, in the types that its structures have"
)]

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// An `AF_PACKET` socket bound to an interface, which receives all frames and sends any frame.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
}

impl PacketSocket {
    /// Opens it for frames of all kinds. Needs `CAP_NET_RAW`.
    pub fn open(interface: &str) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(
            CString::new(interface).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?.as_c_str(),
        )?;
        let every_protocol = (libc::ETH_P_ALL as u16).to_be();
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(every_protocol))))?;
        socket.bind(&link_address(index, every_protocol)?)?;
        Ok(Self { socket })
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send(frame).map(drop)
    }

    /// Waits at most `at_most` for a frame.
    pub fn receive<'a>(&self, buffer: &'a mut [u8], at_most: Duration) -> io::Result<Option<&'a [u8]>> {
        // Zero would mean no timeout.
        self.socket.set_read_timeout(Some(at_most.max(Duration::from_micros(1))))?;
        match io::Read::read(&mut &self.socket, buffer) {
            Ok(length) => Ok(Some(&buffer[..length])),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

#[allow(unsafe_code, reason = "socket2 has no constructor for link-layer addresses")]
fn link_address(index: u32, protocol: u16) -> io::Result<SockAddr> {
    let interface = i32::try_from(index).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the closure writes a whole `sockaddr_ll` into storage that is large enough for any address, and
    // sets the length to its size.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let mut link: libc::sockaddr_ll = MaybeUninit::zeroed().assume_init();
            link.sll_family = libc::AF_PACKET as u16;
            link.sll_protocol = protocol;
            link.sll_ifindex = interface;
            storage.cast::<libc::sockaddr_ll>().write(link);
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    Ok(address)
}
