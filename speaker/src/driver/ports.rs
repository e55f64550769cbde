//! The sockets of the driver: per link one for ARP, one for NDP, and one that holds multicast groups.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use announce::frame::Frame;
use announce::link::{Link, LinkIndex};
use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::Received;
use crate::log_limit::limited;
use crate::metrics::Metrics;
use crate::packet::{PacketSocket, Protocol};

/// As much of a received frame as is read: neighbour discovery with all the options that anybody sends.
pub(crate) const LONGEST: usize = 256;
/// How many frames are read at once.
const AT_ONCE: usize = 256;
/// A socket that cannot be opened is tried again after this time: links come before their addresses do.
const RETRY: Duration = Duration::from_secs(1);

/// Links on which no packet socket could be opened for a protocol, though the link speaks it.
pub(crate) type Closed = BTreeSet<(LinkIndex, Protocol)>;

pub(crate) struct Ports {
    ports: BTreeMap<LinkIndex, Port>,
    frames: mpsc::Sender<Received>,
    metrics: Metrics,
}

struct Port {
    link: Link,
    sockets: BTreeMap<Protocol, Open>,
    groups: Groups,
    retry: Option<Instant>,
}

struct Open {
    socket: Rc<PacketSocket>,
    receiver: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

impl Ports {
    pub(crate) fn new(frames: mpsc::Sender<Received>, metrics: Metrics) -> Self {
        Self { ports: BTreeMap::new(), frames, metrics }
    }

    /// Opens sockets on links that are new and closes those of links that are gone.
    pub(crate) fn set(&mut self, now: Instant, links: &[Link]) {
        self.ports.retain(|index, _| links.iter().any(|link| link.index == *index));
        for link in links {
            let port = self.ports.entry(link.index).or_insert_with(|| Port {
                link: link.clone(),
                sockets: BTreeMap::new(),
                groups: Groups::default(),
                retry: None,
            });
            port.link = link.clone();
            port.open(now, &self.frames, &self.metrics);
        }
    }

    /// Tries again what could not be opened, and opens anew what has failed.
    pub(crate) fn retry(&mut self, now: Instant) {
        let due = |port: &&mut Port| {
            let failed = port.sockets.values().any(|open| open.receiver.is_finished());
            port.retry.map_or(failed, |at| at <= now)
        };
        for port in self.ports.values_mut().filter(due) {
            port.open(now, &self.frames, &self.metrics);
        }
    }

    /// What cannot be announced for want of a packet socket.
    pub(crate) fn closed(&self) -> Closed {
        let closed = |(index, port): (&LinkIndex, &Port)| {
            let missing = port.wanted().filter(|protocol| !port.sockets.contains_key(protocol));
            missing.map(|protocol| (*index, protocol)).collect::<Vec<_>>()
        };
        self.ports.iter().flat_map(closed).collect()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.ports.values().filter_map(|port| port.retry).min()
    }

    /// Frames that have come and that nobody has read yet, not too many.
    pub(crate) fn unread(&self) -> Vec<Received> {
        let mut frames = Vec::new();
        for (link, port) in &self.ports {
            for open in port.sockets.values() {
                let mut bytes = [0; LONGEST];
                while frames.len() < AT_ONCE
                    && let Some(len) = open.socket.receive_now(&mut bytes)
                {
                    frames.push(Received { at: Instant::now(), link: *link, len, bytes });
                }
            }
        }
        frames
    }

    /// Whether the link has taken the frame.
    pub(crate) fn send(&self, link: LinkIndex, frame: &Frame) -> bool {
        let bytes = frame.as_bytes();
        let protocol = if bytes.get(12..14) == Some(&[0x08, 0x06]) { Protocol::Arp } else { Protocol::Ndp };
        let open = self.ports.get(&link).and_then(|port| port.sockets.get(&protocol));
        // A full send queue and a link that is just going down are alike: it is sent again.
        let sent = open.is_some_and(|open| open.socket.send(bytes).is_ok());
        if !sent {
            self.metrics.send_errors.inc();
        }
        sent
    }

    /// How many frames the kernel has dropped on the sockets that are open.
    pub(crate) fn kernel_drops(&self) -> u64 {
        let sockets = self.ports.values().flat_map(|port| port.sockets.values());
        sockets.map(|open| open.socket.kernel_drops()).sum()
    }

    pub(crate) fn join(&mut self, link: LinkIndex, group: Ipv6Addr) {
        if let Some(port) = self.ports.get_mut(&link)
            && let Err(error) = port.groups.join(link, group)
        {
            limited!(5, warn, interface = port.link.name, %group, %error, "cannot join a multicast group");
        }
    }

    pub(crate) fn leave(&mut self, link: LinkIndex, group: Ipv6Addr) {
        if let Some(port) = self.ports.get_mut(&link) {
            port.groups.leave(link, group);
        }
    }
}

impl Port {
    /// The protocols that the link speaks.
    fn wanted(&self) -> impl Iterator<Item = Protocol> + use<> {
        let Link { broadcast, link_local, .. } = self.link;
        let arp = broadcast.then_some(Protocol::Arp);
        let ndp = link_local.is_some().then_some(Protocol::Ndp);
        [arp, ndp].into_iter().flatten()
    }

    /// Opens the sockets that the link needs and that are not open.
    fn open(&mut self, now: Instant, frames: &mpsc::Sender<Received>, metrics: &Metrics) {
        self.retry = None;
        self.sockets.retain(|_, open| !open.receiver.is_finished());
        for protocol in self.wanted() {
            if self.sockets.contains_key(&protocol) {
                continue;
            }
            match PacketSocket::open(self.link.index, protocol) {
                Ok(socket) => {
                    let socket = Rc::new(socket);
                    let task = receive(self.link.index, Rc::clone(&socket), frames.clone(), metrics.clone());
                    let receiver = tokio::task::spawn_local(task).abort_handle();
                    self.sockets.insert(protocol, Open { socket, receiver });
                }
                Err(error) => {
                    let interface = &self.link.name;
                    limited!(5, warn, interface, ?protocol, %error, "cannot open a packet socket, trying again");
                    self.retry = now.checked_add(RETRY);
                }
            }
        }
    }
}

/// Reads frames until the socket fails; a link that goes down fails its sockets once, and they live on.
async fn receive(
    link: LinkIndex,
    socket: Rc<PacketSocket>,
    frames: mpsc::Sender<Received>,
    metrics: Metrics,
) {
    loop {
        let mut bytes = [0; LONGEST];
        match socket.receive(&mut bytes).await {
            Ok(len) => {
                if frames.try_send(Received { at: Instant::now(), link, len, bytes }).is_err() {
                    metrics.overrun.inc();
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
            Err(error) => {
                limited!(5, warn, link, %error, "a packet socket has failed");
                return;
            }
        }
    }
}

/// Multicast groups held by sockets: the kernel opens the link's filter and reports by MLD, which snooping
/// switches need (checklist D1). A socket holds only so many groups, as `net.core.optmem_max` says; then there
/// is another one.
#[derive(Default)]
struct Groups {
    sockets: Vec<(Socket, BTreeSet<Ipv6Addr>)>,
}

impl Groups {
    fn join(&mut self, link: LinkIndex, group: Ipv6Addr) -> std::io::Result<()> {
        if let Some((socket, held)) = self.sockets.last_mut()
            && socket.join_multicast_v6(&group, link).is_ok()
        {
            held.insert(group);
            return Ok(());
        }
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
        socket.join_multicast_v6(&group, link)?;
        self.sockets.push((socket, BTreeSet::from([group])));
        Ok(())
    }

    fn leave(&mut self, link: LinkIndex, group: Ipv6Addr) {
        for (socket, held) in self.sockets.iter_mut().filter(|(_, held)| held.contains(&group)) {
            // Fails only where the link is gone, and the membership with it.
            let _ = socket.leave_multicast_v6(&group, link);
            held.remove(&group);
        }
        self.sockets.retain(|(_, held)| !held.is_empty());
    }
}
