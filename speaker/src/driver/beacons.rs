//! The socket on which speakers talk.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use announce::beacon::{self, KeyId, Keyring, Message};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::metrics::Metrics;

/// A message that was accepted.
pub(crate) struct Heard {
    pub(crate) from: IpAddr,
    pub(crate) message: Message,
}

pub(crate) struct Beacons {
    socket: Rc<UdpSocket>,
    port: u16,
    keys: watch::Receiver<Keyring>,
    metrics: Metrics,
    receiver: AbortHandle,
}

impl Drop for Beacons {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

impl Beacons {
    pub(crate) fn open(
        address: SocketAddr,
        keys: watch::Receiver<Keyring>,
        messages: mpsc::Sender<Heard>,
        metrics: Metrics,
    ) -> std::io::Result<Self> {
        // Where IPv6 is off there is no unspecified address of it.
        let socket = std::net::UdpSocket::bind(address).or_else(|error| {
            if address.ip().is_unspecified() && address.is_ipv6() {
                std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, address.port()))
            } else {
                Err(error)
            }
        })?;
        socket.set_nonblocking(true)?;
        let socket = Rc::new(UdpSocket::from_std(socket)?);
        let task = receive(Rc::clone(&socket), keys.clone(), messages, metrics.clone());
        let receiver = tokio::task::spawn_local(task).abort_handle();
        Ok(Self { socket, port: address.port(), keys, metrics, receiver })
    }

    /// Signs and sends now or not at all; the next beacon is never far.
    pub(crate) fn send(&self, to: IpAddr, known: &[KeyId], message: &Message) {
        for key in self.keys.borrow().for_peer(known) {
            let sealed = message.seal(key);
            if self.socket.try_send_to(&sealed, SocketAddr::new(to, self.port)).is_err() {
                self.metrics.beacon_errors.inc();
            }
        }
    }
}

async fn receive(
    socket: Rc<UdpSocket>,
    keys: watch::Receiver<Keyring>,
    messages: mpsc::Sender<Heard>,
    metrics: Metrics,
) {
    let mut bytes = [0; beacon::LONGEST + 1];
    loop {
        // An error here is the report of an earlier message that did not arrive (ICMP): nothing to do.
        let Ok((len, from)) = socket.recv_from(&mut bytes).await else { continue };
        match Message::open(&bytes[..len], &keys.borrow()) {
            Ok(message) => {
                if messages.try_send(Heard { from: from.ip().to_canonical(), message }).is_err() {
                    metrics.overrun.inc();
                }
            }
            Err(reason) => metrics.rejected(reason),
        }
    }
}
