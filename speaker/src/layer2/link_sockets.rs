//! The packet sockets of the driver: per link one for ARP, one for NDP, and sockets that hold multicast
//! memberships.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use announce::cluster::link::{Link, LinkIndex};
use announce::layer2::frame::Frame;
use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::layer2::packet_socket::{PacketSocket, Protocol};
use crate::log_limit::limited;
use crate::metrics::Metrics;

/// Maximum length of a received frame: neighbour discovery with all common options.
pub(crate) const LONGEST: usize = 256;
/// How many frames are read at once.
const BATCH: usize = 256;
/// Interval of retries for a socket that cannot be opened: links appear before their addresses.
const RETRY: Duration = Duration::from_secs(1);

/// Protocols that a link supports, but for which no packet socket could be opened.
pub(crate) type UnavailableProtocols = BTreeSet<(LinkIndex, Protocol)>;

/// A received frame, truncated to the part that matters.
pub(crate) struct ReceivedFrame {
    pub(crate) at: Instant,
    pub(crate) link: LinkIndex,
    pub(crate) len: usize,
    pub(crate) bytes: [u8; LONGEST],
}

/// The sockets of all links.
pub(crate) struct PacketSockets {
    sockets: BTreeMap<LinkIndex, LinkSockets>,
    frames: mpsc::Sender<ReceivedFrame>,
    metrics: Metrics,
}

struct LinkSockets {
    link: Link,
    sockets: BTreeMap<Protocol, OpenSocket>,
    groups: MulticastMemberships,
    retry: Option<Instant>,
}

struct OpenSocket {
    socket: Rc<PacketSocket>,
    receiver: AbortHandle,
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

impl PacketSockets {
    pub(crate) fn new(frames: mpsc::Sender<ReceivedFrame>, metrics: Metrics) -> Self {
        Self { sockets: BTreeMap::new(), frames, metrics }
    }

    /// Opens sockets on new links and closes those of removed links.
    pub(crate) fn set(&mut self, now: Instant, links: &[Link]) {
        self.sockets.retain(|index, _| links.iter().any(|link| link.index == *index));
        for link in links {
            let link_sockets = self.sockets.entry(link.index).or_insert_with(|| LinkSockets {
                link: link.clone(),
                sockets: BTreeMap::new(),
                groups: MulticastMemberships::default(),
                retry: None,
            });
            link_sockets.link = link.clone();
            link_sockets.open(now, &self.frames, &self.metrics);
        }
    }

    /// Retries sockets that could not be opened, and reopens those that have failed.
    pub(crate) fn retry(&mut self, now: Instant) {
        let due = |link_sockets: &&mut LinkSockets| {
            let failed = link_sockets.sockets.values().any(|open| open.receiver.is_finished());
            link_sockets.retry.map_or(failed, |at| at <= now)
        };
        for link_sockets in self.sockets.values_mut().filter(due) {
            link_sockets.open(now, &self.frames, &self.metrics);
        }
    }

    /// The protocols without a packet socket.
    pub(crate) fn unavailable(&self) -> UnavailableProtocols {
        let closed = |(index, link_sockets): (&LinkIndex, &LinkSockets)| {
            let missing =
                link_sockets.wanted().filter(|protocol| !link_sockets.sockets.contains_key(protocol));
            missing.map(|protocol| (*index, protocol)).collect::<Vec<_>>()
        };
        self.sockets.iter().flat_map(closed).collect()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.sockets.values().filter_map(|link_sockets| link_sockets.retry).min()
    }

    /// Frames that are waiting in the sockets, up to a limit.
    pub(crate) fn receive_waiting(&self) -> Vec<ReceivedFrame> {
        let mut frames = Vec::new();
        for (link, link_sockets) in &self.sockets {
            for open in link_sockets.sockets.values() {
                let mut bytes = [0; LONGEST];
                while frames.len() < BATCH
                    && let Some(len) = open.socket.receive_now(&mut bytes)
                {
                    frames.push(ReceivedFrame { at: Instant::now(), link: *link, len, bytes });
                }
            }
        }
        frames
    }

    /// Whether the frame was sent.
    pub(crate) fn send(&self, link: LinkIndex, frame: &Frame) -> bool {
        let bytes = frame.as_bytes();
        let protocol = if bytes.get(12..14) == Some(&[0x08, 0x06]) { Protocol::Arp } else { Protocol::Ndp };
        let open = self.sockets.get(&link).and_then(|link_sockets| link_sockets.sockets.get(&protocol));
        // A full send queue and a link that is going down are treated alike: the frame is sent again later.
        let sent = open.is_some_and(|open| open.socket.send(bytes).is_ok());
        if !sent {
            self.metrics.send_errors.inc();
        }
        sent
    }

    /// How many frames the kernel has dropped on the sockets that are open.
    pub(crate) fn kernel_drops(&self) -> u64 {
        let sockets = self.sockets.values().flat_map(|link_sockets| link_sockets.sockets.values());
        sockets.map(|open| open.socket.kernel_drops()).sum()
    }

    pub(crate) fn join(&mut self, link: LinkIndex, group: Ipv6Addr) {
        if let Some(link_sockets) = self.sockets.get_mut(&link)
            && let Err(error) = link_sockets.groups.join(link, group)
        {
            let interface = &link_sockets.link.name;
            limited!(5, warn, %interface, %group, %error, "cannot join a multicast group");
        }
    }

    pub(crate) fn leave(&mut self, link: LinkIndex, group: Ipv6Addr) {
        if let Some(link_sockets) = self.sockets.get_mut(&link) {
            link_sockets.groups.leave(link, group);
        }
    }
}

impl LinkSockets {
    /// The protocols that the link supports.
    fn wanted(&self) -> impl Iterator<Item = Protocol> + use<> {
        let Link { broadcast, link_local, .. } = self.link;
        let arp = broadcast.then_some(Protocol::Arp);
        let ndp = link_local.is_some().then_some(Protocol::Ndp);
        [arp, ndp].into_iter().flatten()
    }

    /// Opens the sockets that the link needs and that are not open.
    fn open(&mut self, now: Instant, frames: &mpsc::Sender<ReceivedFrame>, metrics: &Metrics) {
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
                    self.sockets.insert(protocol, OpenSocket { socket, receiver });
                }
                Err(error) => {
                    let interface = &self.link.name;
                    limited!(5, warn, %interface, %protocol, %error, "cannot open a packet socket, retrying");
                    self.retry = now.checked_add(RETRY);
                }
            }
        }
    }
}

/// Receives frames until the socket fails; when a link goes down, its sockets return one error and stay
/// usable.
async fn receive(
    link: LinkIndex,
    socket: Rc<PacketSocket>,
    frames: mpsc::Sender<ReceivedFrame>,
    metrics: Metrics,
) {
    loop {
        let mut bytes = [0; LONGEST];
        match socket.receive(&mut bytes).await {
            Ok(len) => {
                if frames.try_send(ReceivedFrame { at: Instant::now(), link, len, bytes }).is_err() {
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

/// Multicast memberships: the kernel opens the link's filter and sends MLD reports, which snooping switches
/// need (docs/reference/layer2.md D1). The memberships of a socket are limited by `net.core.optmem_max`; then another socket
/// is opened.
#[derive(Default)]
struct MulticastMemberships {
    sockets: Vec<(Socket, BTreeSet<Ipv6Addr>)>,
}

impl MulticastMemberships {
    fn join(&mut self, link: LinkIndex, group: Ipv6Addr) -> std::io::Result<()> {
        if let Some((socket, groups)) = self.sockets.last_mut()
            && socket.join_multicast_v6(&group, link).is_ok()
        {
            groups.insert(group);
            return Ok(());
        }
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
        socket.join_multicast_v6(&group, link)?;
        self.sockets.push((socket, BTreeSet::from([group])));
        Ok(())
    }

    fn leave(&mut self, link: LinkIndex, group: Ipv6Addr) {
        for (socket, groups) in self.sockets.iter_mut().filter(|(_, groups)| groups.contains(&group)) {
            // Fails only if the link is gone, and the membership with it.
            let _ = socket.leave_multicast_v6(&group, link);
            groups.remove(&group);
        }
        self.sockets.retain(|(_, groups)| !groups.is_empty());
    }
}
