//! Forwards connections from an address in its network namespace to one in another network namespace.
//!
//! It listens first and then enters the other namespace: the listening socket stays in the first one, and
//! later connections are opened in the second.

use std::fs::File;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use nix::sched::{CloneFlags, setns};
use testbed_tools::flags::Flags;

fn main() -> io::Result<()> {
    let mut flags = Flags::read("forward", "--listen ADDR:PORT --namespace FILE --connect ADDR:PORT");
    let listen: SocketAddr = flags.required("listen");
    let namespace: String = flags.required("namespace");
    let connect: SocketAddr = flags.required("connect");
    flags.end();

    let listener = TcpListener::bind(listen)?;
    setns(File::open(namespace)?, CloneFlags::CLONE_NEWNET)?;
    for outside in listener.incoming() {
        let Ok(outside) = outside else { continue };
        thread::spawn(move || {
            // If the connection is refused, the client's is closed.
            let _ = TcpStream::connect(connect).and_then(|inside| forward(outside, inside));
        });
    }
    Ok(())
}

/// Copies both directions until both have ended.
fn forward(outside: TcpStream, inside: TcpStream) -> io::Result<()> {
    outside.set_nodelay(true)?;
    inside.set_nodelay(true)?;
    let (mut from, mut to) = (outside.try_clone()?, inside.try_clone()?);
    let outward = thread::spawn(move || {
        let outcome = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
        outcome
    });
    let (mut from, mut to) = (inside, outside);
    let outcome = io::copy(&mut from, &mut to);
    // The server has closed the connection, so the client's side is closed too.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
    let _ = outward.join();
    outcome.map(drop)
}
