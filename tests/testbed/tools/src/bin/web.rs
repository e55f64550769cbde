//! A server that responds with its own name and the client's address, by HTTP and by UDP.
//!
//! The response has two lines, `name NAME` and `client ADDRESS`; by UDP also the request. It listens on all
//! addresses of both families.

use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt, sockopt,
};
use testbed_tools::flags::Flags;

fn main() -> io::Result<()> {
    let mut flags = Flags::read("web", "[--http-port 8080] [--udp-port 8080] [--name NAME]");
    let http: u16 = flags.get("http-port", 8080);
    let udp: u16 = flags.get("udp-port", 8080);
    let name: String = flags.optional("name").unwrap_or_else(own_name);
    flags.end();

    let socket = UdpSocket::bind(any(udp))?;
    let listener = TcpListener::bind(any(http))?;
    let echoing = name.clone();
    thread::spawn(move || {
        if let Err(error) = echo(&socket, &echoing) {
            eprintln!("web: the UDP server failed: {error}");
        }
    });
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let name = name.clone();
        // Errors of a connection affect only its client.
        thread::spawn(move || drop(serve(stream, &name)));
    }
    Ok(())
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
}

/// The pod's name: the host name, or an environment variable in a pod in the host's network.
fn own_name() -> String {
    std::env::var("POD_NAME")
        .or_else(|_| std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()))
        .unwrap_or_else(|_| "unknown".into())
}

/// The address of a client, with IPv4-mapped addresses as IPv4.
fn canonical(address: SocketAddr) -> IpAddr {
    address.ip().to_canonical()
}

/// Responds from the address to which the request was sent.
fn echo(socket: &UdpSocket, name: &str) -> nix::Result<()> {
    setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    let descriptor = socket.as_raw_fd();
    let mut buffer = [0; 2048];
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    loop {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<SockaddrIn6>(descriptor, &mut parts, Some(&mut control), MsgFlags::empty())?;
        let (length, client) = (message.bytes, message.address);
        let asked = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(info),
            _ => None,
        });
        let (Some(client), Some(asked)) = (client, asked) else { continue };
        // The interface is left to the routing table.
        let from = libc::in6_pktinfo { ipi6_ifindex: 0, ..asked };
        let shown = canonical(SocketAddr::from((client.ip(), client.port())));
        let mut answer = format!("name {name}\nclient {shown}\n").into_bytes();
        answer.extend_from_slice(buffer.get(..length).unwrap_or_default());
        let (parts, control) = ([IoSlice::new(&answer)], [ControlMessage::Ipv6PacketInfo(&from)]);
        // The client may be unreachable by now.
        let _ = sendmsg(descriptor, &parts, &control, MsgFlags::empty(), Some(&client));
    }
}

fn serve(stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_nodelay(true)?;
    let client = canonical(stream.peer_addr()?);
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut close = false;
        let mut line = String::new();
        // The request line, then headers up to the empty line. A body is not supported.
        while line != "\r\n" && line != "\n" {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            close |= line.to_ascii_lowercase().starts_with("connection: close");
        }
        let body = format!("name {name}\nclient {client}\n");
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {}\r\n\r\n{body}",
            body.len(),
            if close { "close" } else { "keep-alive" },
        );
        writer.write_all(answer.as_bytes())?;
        if close {
            return Ok(());
        }
    }
}
