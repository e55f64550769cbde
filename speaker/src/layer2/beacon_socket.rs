//! The sockets for beacons.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use announce::layer2::beacon::{self, KeyId, Keyring, Message};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::layer2::packet_socket::{RECEIVE_BUFFER, kernel_drops};
use crate::log_limit::limited;
use crate::metrics::Metrics;

/// How often failures to send beacons are logged.
const REPEAT: Duration = Duration::from_secs(60);

/// A verified message.
pub(crate) struct ReceivedBeacon {
    pub(crate) from: IpAddr,
    pub(crate) message: Message,
}

/// Sends and receives beacons.
pub(crate) struct Beacons {
    /// The configured address.
    address: SocketAddr,
    /// The bound address: unspecified while the host does not have the configured one.
    bound: SocketAddr,
    sockets: Vec<Bound>,
    keys: watch::Receiver<Keyring>,
    messages: mpsc::Sender<ReceivedBeacon>,
    metrics: Metrics,
    failures: Failures,
}

struct Bound {
    socket: Rc<UdpSocket>,
    is_ipv6: bool,
    receiver: JoinHandle<()>,
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

/// Beacons that could not be sent since the last log line.
#[derive(Default)]
struct Failures {
    count: Cell<u64>,
    last: RefCell<Option<(IpAddr, io::Error)>>,
    logged: Option<Instant>,
}

impl Beacons {
    pub(crate) fn open(
        address: SocketAddr,
        keys: watch::Receiver<Keyring>,
        messages: mpsc::Sender<ReceivedBeacon>,
        metrics: Metrics,
    ) -> io::Result<Self> {
        let bound = reachable(address);
        let failures = Failures::default();
        let mut beacons = Self { address, bound, sockets: Vec::new(), keys, messages, metrics, failures };
        beacons.bind(bound)?;
        Ok(beacons)
    }

    fn bind(&mut self, to: SocketAddr) -> io::Result<()> {
        for socket in runtime::bind::sockets(to, socket2::Type::DGRAM)? {
            // As much as net.core.rmem_max allows.
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
            let socket = Rc::new(UdpSocket::from_std(socket.into())?);
            let is_ipv6 = socket.local_addr()?.is_ipv6();
            let task =
                receive(Rc::clone(&socket), self.keys.clone(), self.messages.clone(), self.metrics.clone());
            let receiver = tokio::task::spawn_local(task);
            self.sockets.push(Bound { socket, is_ipv6, receiver });
        }
        self.bound = to;
        if to != self.address {
            limited!(
                5,
                error,
                address = %self.address.ip(),
               "this node does not have the address of its speaker's pod (any more): beacons are received \
                on every address, but other speakers send them to this one until the pod is deleted and \
                recreated"
            );
        }
        Ok(())
    }

    /// Rebinds when the node's addresses have changed, and logs failures. To be called regularly.
    pub(crate) async fn check(&mut self, now: Instant) {
        let reachable = reachable(self.address);
        if reachable != self.bound || self.sockets.is_empty() {
            self.close().await;
            if let Err(error) = self.bind(reachable) {
                self.failures.add(reachable.ip(), error);
            }
        }
        self.failures.log(now);
    }

    /// Closes the sockets. A receiver holds its socket, and with it the port, until its task has ended.
    async fn close(&mut self) {
        for mut bound in self.sockets.drain(..) {
            bound.receiver.abort();
            // The error says that it was aborted.
            let _ = (&mut bound.receiver).await;
        }
    }

    /// How many beacons the kernel has dropped on the sockets that are open.
    pub(crate) fn kernel_drops(&self) -> u64 {
        self.sockets.iter().map(|bound| kernel_drops(&*bound.socket)).sum()
    }

    /// Signs a message and sends it without blocking; the next beacon follows soon.
    pub(crate) fn send(&self, to: IpAddr, known: &[KeyId], message: &Message) {
        for key in self.keys.borrow().for_peer(known) {
            if let Err(error) = self.send_to(to, &message.seal(key)) {
                self.metrics.beacon_errors.inc();
                self.failures.add(to, error);
            }
        }
    }

    fn send_to(&self, to: IpAddr, sealed: &[u8]) -> io::Result<()> {
        let bound = self.sockets.iter().find(|bound| bound.is_ipv6 == to.is_ipv6());
        let bound = bound.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        bound.socket.try_send_to(sealed, SocketAddr::new(to, self.address.port())).map(|_| ())
    }
}

/// `address`, or the unspecified address while the host does not have it.
fn reachable(address: SocketAddr) -> SocketAddr {
    let probe = std::net::UdpSocket::bind((address.ip(), 0));
    let is_absent = probe.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable);
    if is_absent { (Ipv6Addr::UNSPECIFIED, address.port()).into() } else { address }
}

impl Failures {
    fn add(&self, to: IpAddr, error: io::Error) {
        self.count.set(self.count.get().saturating_add(1));
        self.last.replace(Some((to, error)));
    }

    fn log(&mut self, now: Instant) {
        if self.logged.is_some_and(|logged| now.saturating_duration_since(logged) < REPEAT) {
            return;
        }
        if let Some((to, error)) = self.last.take() {
            let count = self.count.take();
            tracing::warn!(count, %to, %error, "beacons could not be sent; this is the last error");
            self.logged = Some(now);
        }
    }
}

async fn receive(
    socket: Rc<UdpSocket>,
    keys: watch::Receiver<Keyring>,
    messages: mpsc::Sender<ReceivedBeacon>,
    metrics: Metrics,
) {
    let mut bytes = [0; beacon::LONGEST + 1];
    loop {
        // An error is an ICMP report about an earlier message.
        let Ok((len, from)) = socket.recv_from(&mut bytes).await else { continue };
        match Message::open(&bytes[..len], &keys.borrow()) {
            Ok(message) => {
                if messages.try_send(ReceivedBeacon { from: from.ip().to_canonical(), message }).is_err() {
                    metrics.overrun.inc();
                }
            }
            Err(reason) => metrics.rejected(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;

    fn open(address: &str) -> io::Result<Beacons> {
        let (keys, messages) = (watch::channel(Keyring::default()).1, mpsc::channel(1).0);
        Beacons::open(address.parse().unwrap(), keys, messages, Metrics::default())
    }

    #[tokio::test]
    async fn beacons_follow_the_address_of_the_pod_at_once_though_the_port_stays_the_same() {
        LocalSet::new()
            .run_until(async {
                // A port that is free at the moment.
                let port = std::net::UdpSocket::bind("[::]:0").unwrap().local_addr().unwrap().port();
                // The first is reserved for documentation (RFC 5737): no node has it.
                let [absent, present] =
                    ["192.0.2.1", "127.0.0.1"].map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
                let mut beacons = open(&absent.to_string()).unwrap();
                assert!(beacons.bound.ip().is_unspecified());
                for address in [present, absent, present] {
                    beacons.address = address;
                    // The receivers run, and hold their sockets.
                    tokio::task::yield_now().await;
                    beacons.check(Instant::now()).await;
                    assert_eq!(beacons.bound.ip().is_unspecified(), address == absent);
                    let local = beacons.sockets.first().map(|bound| bound.socket.local_addr().unwrap());
                    assert_eq!(local.map(|local| local.port()), Some(port), "it is bound without a retry");
                }
            })
            .await;
    }

    #[test]
    fn beacons_that_cannot_be_sent_are_logged_once_a_minute_however_many_they_are() {
        let mut failures = Failures::default();
        let start = Instant::now();
        let mut logged = 0;
        for tenth in 0..10 * 180 {
            let now = start + Duration::from_millis(tenth * 100);
            failures.add(Ipv6Addr::LOCALHOST.into(), io::Error::from(io::ErrorKind::NetworkUnreachable));
            let before = failures.logged;
            failures.log(now);
            logged += usize::from(failures.logged != before);
        }
        assert_eq!(logged, 3);
    }
}
