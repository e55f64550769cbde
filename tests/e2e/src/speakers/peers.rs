//! Simulated speakers that own nothing and only send beacons: one machine simulates all of them, so that a
//! real speaker has as many peers as in a large cluster.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use announce::cluster::NodeId;
use announce::layer2::beacon::{Body, Flags, Key, Keyring, Message};
use testbed::Guest;
use tokio::runtime::Runtime;

use super::objects::{self, ServiceSpec};
use super::{KEY, Rig};

/// The default port and interval of beacons.
const BEACON_PORT: u16 = 7946;
const BEACON_INTERVAL: Duration = Duration::from_millis(100);
/// Host number of the first; one more for each that follows.
const FIRST: u32 = 101;

/// The simulated peers, which stop when this is dropped.
pub struct Peers {
    received: Arc<AtomicU64>,
    _guest: Guest,
    _runtime: Runtime,
}

impl Peers {
    /// Adds `count` nodes, each with a Service that only it and the rig's first node may announce: so the
    /// speaker there exchanges beacons with all of them.
    pub fn start(rig: &Rig, count: u32) -> Self {
        let guest = rig.cluster.lan().guest("peers", FIRST).unwrap();
        let host = &guest.host;
        let address = |n: u32| Ipv4Addr::from(u32::from(host.v4) + n);
        for n in 1..count {
            host.run(["ip", "address", "add", &format!("{}/24", address(n)), "dev", "eth0"]).unwrap();
        }
        let name = |n: u32| format!("peer{n}");
        let nodes: Vec<(String, Ipv4Addr)> = (0..count).map(|n| (name(n), address(n))).collect();
        objects::nodes(&rig.cluster, &nodes);
        let wanted = |n: u32| ServiceSpec {
            name: format!("shared{n}"),
            addresses: vec![Ipv4Addr::from(0x0a02_0000 + n).into()],
            only: vec![rig.nodes[0].name.clone(), name(n)],
        };
        rig.write_services(&(0..count).map(wanted).collect::<Vec<_>>());

        // A socket stays in the network namespace that it was opened in.
        let bind = |n: u32| {
            let socket = UdpSocket::bind(SocketAddr::new(IpAddr::V4(address(n)), BEACON_PORT)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let sockets = host.enter(|| (0..count).map(bind).collect::<Vec<_>>()).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let speaker = SocketAddr::new(rig.nodes[0].guest.host.v4.into(), BEACON_PORT);
        let received = Arc::<AtomicU64>::default();
        for (n, socket) in (0..).zip(sockets) {
            runtime.spawn(simulate(NodeId::from_name(&name(n)), socket, speaker, Arc::clone(&received)));
        }
        Self { received, _guest: guest, _runtime: runtime }
    }

    /// The number of beacons received from the speaker so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// Simulates one speaker.
async fn simulate(sender: NodeId, socket: UdpSocket, speaker: SocketAddr, received: Arc<AtomicU64>) {
    let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
    let key = Key::from_secret(KEY.as_bytes());
    let keys = Keyring::new([key.clone()]);
    let hello = || Body::Hello { macs: Vec::new(), keys: keys.ids() };
    let mut every = tokio::time::interval(BEACON_INTERVAL);
    let mut bytes = [0; announce::layer2::beacon::LONGEST];
    let (mut echo, mut sequence) = (0, 0);
    loop {
        let body = tokio::select! {
            _ = every.tick() => if echo == 0 { hello() } else { Body::Alive { digest: 0 } },
            arrived = socket.recv_from(&mut bytes) => {
                let Ok((len, _)) = arrived else { continue };
                let Ok(message) = Message::open(&bytes[..len], &keys) else { continue };
                received.fetch_add(1, Ordering::Relaxed);
                echo = message.session;
                match message.body {
                    Body::Hello { .. } => hello(),
                    Body::Request => Body::Claims { digest: 0, part: 0, parts: 1, claims: Vec::new() },
                    _ => continue,
                }
            }
        };
        sequence += 1;
        let flags = Flags { wanted: true, ..Flags::default() };
        let message = Message { sender, session: sender.0, echo, sequence, flags, body };
        let _ = socket.send_to(&message.seal(&key), speaker).await;
    }
}
