//! Sockets on all addresses of the host, of whichever families it has.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// Sockets bound to `address`: one, or for the unspecified IPv6 address one for each family that the host
/// has.
///
/// Whether an IPv6 socket accepts IPv4 too depends on `net.ipv6.bindv6only`, and a kernel without IPv6 has no
/// such socket. So each family has a socket of its own, and a family that the host does not have is skipped.
///
/// # Errors
///
/// The address cannot be bound, or the host has neither family.
pub fn sockets(address: SocketAddr, kind: Type) -> io::Result<Vec<Socket>> {
    if !(address.is_ipv6() && address.ip().is_unspecified()) {
        return Ok(vec![socket(address, kind)?]);
    }
    let v6 = socket(address, kind);
    // Port 0: the same port for both families.
    let bound = v6.as_ref().ok().and_then(|socket| socket.local_addr().ok()?.as_socket());
    let port = bound.map_or(address.port(), |address| address.port());
    let v4 = socket((Ipv4Addr::UNSPECIFIED, port).into(), kind);
    match (v6, v4) {
        (Ok(v6), Ok(v4)) => Ok(vec![v6, v4]),
        (Ok(one), Err(error)) | (Err(error), Ok(one)) if is_absent(&error) => Ok(vec![one]),
        (Err(absent), Err(error)) | (Err(error), Err(absent)) if is_absent(&absent) => Err(error),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

/// Whether the error means that the host does not have the address family.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn socket(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        // A restarted process need not wait until the connections of its predecessor have left TIME_WAIT.
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if kind == Type::STREAM {
        socket.listen(1024)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn families(sockets: &[Socket]) -> Vec<bool> {
        sockets.iter().map(|socket| socket.local_addr().unwrap().is_ipv6()).collect()
    }

    #[test]
    fn the_unspecified_address_is_bound_by_one_socket_for_each_family() {
        for kind in [Type::STREAM, Type::DGRAM] {
            let bound = sockets((Ipv6Addr::UNSPECIFIED, 0).into(), kind).unwrap();
            assert_eq!(families(&bound), [true, false]);
            assert!(bound[0].only_v6().unwrap(), "independent of net.ipv6.bindv6only");
            let port = |socket: &Socket| socket.local_addr().unwrap().as_socket().unwrap().port();
            assert_eq!(port(&bound[0]), port(&bound[1]));
        }
    }

    #[test]
    fn a_port_that_another_process_uses_in_one_family_is_an_error() {
        let other = sockets((Ipv4Addr::UNSPECIFIED, 0).into(), Type::STREAM).unwrap();
        let port = other[0].local_addr().unwrap().as_socket().unwrap().port();
        let error = sockets((Ipv6Addr::UNSPECIFIED, port).into(), Type::STREAM).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    /// Binds in a thread in which `socket(2)` of one family fails as in a kernel without it.
    fn families_without(family: libc::c_int) -> io::Result<Vec<bool>> {
        std::thread::spawn(move || {
            deny(family);
            sockets((Ipv6Addr::UNSPECIFIED, 0).into(), Type::STREAM).map(|sockets| families(&sockets))
        })
        .join()
        .unwrap()
    }

    /// Makes `socket(2)` fail for `family` with `EAFNOSUPPORT` in this thread.
    #[allow(unsafe_code)]
    fn deny(family: libc::c_int) {
        let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
        let number = |value: libc::c_long| u32::try_from(value).unwrap();
        let mut program = [
            op(0x20, 0, 0, 0),
            op(0x15, 0, 3, number(libc::SYS_socket)),
            op(0x20, 0, 0, 16),
            op(0x15, 0, 1, u32::try_from(family).unwrap()),
            op(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EAFNOSUPPORT).unwrap()),
            op(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let filter = libc::sock_fprog { len: 6, filter: program.as_mut_ptr() };
        // SAFETY: the program is valid for the call, which copies it; both affect only this thread.
        unsafe {
            assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
            assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter), 0);
        }
    }

    #[test]
    fn requirement_8_a_host_without_ipv6_is_served_by_ipv4_and_one_without_ipv4_by_ipv6() {
        assert_eq!(families_without(libc::AF_INET6).unwrap(), [false]);
        assert_eq!(families_without(libc::AF_INET).unwrap(), [true]);
    }
}
