//! Deletion of a neighbour entry (ARP or NDP) by netlink, fast enough to do it before every request.

use std::ffi::CString;
use std::io::{self, Read};
use std::net::IpAddr;

use socket2::{Domain, Protocol, Socket, Type};

/// Deletes the neighbour entry of one address.
#[derive(Debug)]
pub struct NeighbourFlusher {
    socket: Socket,
    request: Vec<u8>,
}

impl NeighbourFlusher {
    /// A flusher for an address on an interface.
    pub fn new(interface: &str, address: IpAddr) -> io::Result<Self> {
        let name = CString::new(interface).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let index = nix::net::if_::if_nametoindex(name.as_c_str())?;
        let socket = Socket::new(
            Domain::from(libc::AF_NETLINK),
            Type::RAW,
            Some(Protocol::from(libc::NETLINK_ROUTE)),
        )?;
        Ok(Self { socket, request: request(index, address) })
    }

    /// Deletes the entry, if it exists.
    pub fn flush(&self) -> io::Result<()> {
        self.socket.send(&self.request)?;
        let mut answer = [0; 1024];
        let length = (&self.socket).read(&mut answer)?;
        match acknowledged(&answer[..length]) {
            0 => Ok(()),
            error if -error == libc::ENOENT => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }
}

/// `RTM_DELNEIGH` with acknowledgement: a header of 16 bytes, an ndmsg of 12, the attribute `NDA_DST`.
fn request(index: u32, address: IpAddr) -> Vec<u8> {
    let (family, bytes) = match address {
        IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
    };
    let attribute_length = 4 + bytes.len();
    let mut message = Vec::new();
    message.extend_from_slice(&u32::try_from(28 + attribute_length).unwrap_or_default().to_ne_bytes());
    message.extend_from_slice(&libc::RTM_DELNEIGH.to_ne_bytes());
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK).unwrap_or_default();
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&[0; 8]); // sequence and port
    message.extend_from_slice(&[u8::try_from(family).unwrap_or_default(), 0, 0, 0]);
    message.extend_from_slice(&index.to_ne_bytes());
    message.extend_from_slice(&[0; 4]); // state, flags, type
    message.extend_from_slice(&u16::try_from(attribute_length).unwrap_or_default().to_ne_bytes());
    message.extend_from_slice(&libc::NDA_DST.to_ne_bytes());
    message.extend_from_slice(&bytes);
    message
}

/// The error number in an acknowledgement, 0 for success.
fn acknowledged(answer: &[u8]) -> i32 {
    let number = answer.get(16..20).and_then(|bytes| bytes.try_into().ok());
    number.map_or(-libc::EPROTO, i32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_states_its_own_length() {
        for (address, length) in [("10.0.0.1", 36), ("fd00::1", 48)] {
            let request = request(2, address.parse().unwrap());
            assert_eq!(request.len(), length);
            assert_eq!(request[..4], u32::try_from(length).unwrap().to_ne_bytes());
        }
    }

    #[test]
    fn a_truncated_response_is_an_error() {
        assert_eq!(acknowledged(&[0; 10]), -libc::EPROTO);
        assert_eq!(acknowledged(&[0; 36]), 0);
    }
}
