//! The links of this node, from netlink: listed at the start, and again whenever the kernel reports a change
//! of links or addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use announce::EthernetAddress;
use announce::cluster::link::{Link, LinkIndex};
use futures::{StreamExt as _, TryStreamExt as _};
use regex::RegexSet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, State};
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use runtime::tasks::Tasks;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::layer2::link_sockets::UnavailableProtocols;
use crate::layer2::packet_socket::Protocol;
use crate::log_limit::{Chain, first_few, limited};
use crate::mac::format_mac;
use crate::pace::{Pace, SETTLE};

/// Interval of retries when the kernel does not list the links.
const RETRY: Duration = Duration::from_secs(1);

/// Why the links are not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The netlink socket could not be opened.
    #[error("cannot open a netlink socket")]
    Socket(#[source] std::io::Error),
    /// The kernel did not list links or addresses.
    #[error("cannot list this node's links")]
    List(#[from] rtnetlink::Error),
    /// The netlink connection was unavailable.
    #[error("the netlink connection has ended")]
    WatchEnded,
}

/// Addresses of this node on interfaces that are not announced on, with the names of the interfaces.
pub(crate) type OtherAddresses = BTreeMap<IpAddr, String>;

/// The interface on which kube-proxy in ipvs mode puts the addresses of all Services, on every node.
const IPVS: &str = "kube-ipvs0";

/// Lists the links and starts the task that updates the list.
pub(crate) async fn start(
    tasks: &mut Tasks,
    excluded: RegexSet,
    shutdown: CancellationToken,
) -> Result<(watch::Receiver<Vec<Link>>, watch::Receiver<OtherAddresses>), Error> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, handle, mut events) = new_multicast_connection(&groups).map_err(Error::Socket)?;
    let end = shutdown.clone();
    tasks.spawn("netlink", async move {
        end.run_until_cancelled(connection).await;
        Ok::<(), std::convert::Infallible>(())
    });
    let first = list_with_retries(&handle, &excluded, &shutdown).await;
    let (links, others) = first.unwrap_or_default();
    let (sender, receiver) = watch::channel(links);
    let (other_sender, other_receiver) = watch::channel(others);
    log(&[], &receiver.borrow());
    tasks.spawn("links", async move {
        let mut pace = Pace::new(Instant::now());
        let mut pause = SETTLE;
        while let Some(event) = shutdown.run_until_cancelled(events.next()).await {
            if event.is_none() {
                // The task of the connection may have ended first at shutdown.
                return if shutdown.is_cancelled() { Ok(()) } else { Err(Error::WatchEnded) };
            }
            // Events come in bursts, and any host on a link can cause them continuously.
            tokio::time::sleep(pause).await;
            while events.try_recv().is_ok() {}
            let begun = Instant::now();
            let listed = list_with_retries(&handle, &excluded, &shutdown).await;
            pause = pace.spent(begun, Instant::now());
            let Some((links, others)) = listed else { return Ok(()) };
            other_sender.send_if_modified(|known| {
                let changed = *known != others;
                *known = others;
                changed
            });
            sender.send_if_modified(|known| {
                let changed = *known != links;
                if changed {
                    log(known, &links);
                    *known = links;
                }
                changed
            });
        }
        Ok::<(), Error>(())
    });
    Ok((receiver, other_receiver))
}

/// Lists the links, retrying until the kernel does; none at shutdown. Meanwhile the previous list stays in
/// effect: ending the process would withdraw everything.
async fn list_with_retries(
    handle: &Handle,
    excluded: &RegexSet,
    shutdown: &CancellationToken,
) -> Option<(Vec<Link>, OtherAddresses)> {
    let listed = async {
        loop {
            match list(handle, excluded).await {
                Ok(listed) => return listed,
                Err(error) => {
                    limited!(5, warn, error = %Chain(error), "cannot list this node's links, retrying");
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    shutdown.run_until_cancelled(listed).await
}

/// The links without the protocols for which no packet socket could be opened.
pub(crate) fn usable(
    tasks: &mut Tasks,
    mut links: watch::Receiver<Vec<Link>>,
    mut unavailable: watch::Receiver<UnavailableProtocols>,
    shutdown: CancellationToken,
) -> watch::Receiver<Vec<Link>> {
    let (sender, receiver) =
        watch::channel(without_unavailable(&links.borrow_and_update(), &unavailable.borrow_and_update()));
    tasks.spawn("usable links", async move {
        loop {
            let changed = async {
                tokio::select! {
                    Ok(()) = links.changed() => {}
                    Ok(()) = unavailable.changed() => {}
                    else => std::future::pending().await,
                }
            };
            if shutdown.run_until_cancelled(changed).await.is_none() {
                return Ok::<(), std::convert::Infallible>(());
            }
            let now = without_unavailable(&links.borrow_and_update(), &unavailable.borrow_and_update());
            sender.send_if_modified(|known| {
                let changed = *known != now;
                *known = now;
                changed
            });
        }
    });
    receiver
}

fn without_unavailable(links: &[Link], unavailable: &UnavailableProtocols) -> Vec<Link> {
    let usable = |link: &Link| Link {
        broadcast: link.broadcast && !unavailable.contains(&(link.index, Protocol::Arp)),
        link_local: link.link_local.filter(|_| !unavailable.contains(&(link.index, Protocol::Ndp))),
        ..link.clone()
    };
    links.iter().map(usable).collect()
}

fn log(old: &[Link], new: &[Link]) {
    for link in new.iter().filter(|link| !old.contains(link)) {
        limited!(
            100,
            info,
            interface = %link.name,
            mac = %format_mac(link.mac.0),
            subnets = %first_few(link.subnets.iter().map(|(ip, length)| format!("{ip}/{length}"))),
            link_local = link.link_local.map(display),
            "announcing on this interface is possible"
        );
    }
    for link in old.iter().filter(|link| new.iter().all(|other| other.index != link.index)) {
        limited!(100, info, interface = %link.name, "no longer announces on this interface");
    }
}

async fn list(handle: &Handle, excluded: &RegexSet) -> Result<(Vec<Link>, OtherAddresses), Error> {
    let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    let addresses: Vec<AddressMessage> = handle.address().get().execute().try_collect().await?;
    let undecodable = undecodable(&links);
    if !undecodable.is_empty() {
        // Messages that cannot be decoded are dropped by the netlink library.
        limited!(
            1,
            warn,
            interfaces = %first_few(undecodable),
            "the kernel's messages about these interfaces cannot be decoded"
        );
    }
    let mut addresses_of: BTreeMap<LinkIndex, Vec<AddressMessage>> = BTreeMap::new();
    for address in addresses {
        addresses_of.entry(address.header.index).or_default().push(address);
    }
    let (none, mut usable, mut unusable) = (Vec::new(), Vec::new(), Vec::new());
    for link in &links {
        let addresses = addresses_of.get(&link.header.index).unwrap_or(&none);
        match parse_link(link, addresses, excluded) {
            Some(link) => usable.push(link),
            None => unusable.push((link, addresses)),
        }
    }
    usable.sort_by_key(|link: &Link| link.index);
    let answers = usable.iter().any(|link: &Link| answers_for_other_interfaces(&link.name));
    let others = unusable.into_iter().flat_map(|(link, addresses)| other_addresses(link, addresses, answers));
    let others = others.collect();
    Ok((usable, others))
}

/// The addresses of an interface that is not announced on, but for which the kernel answers: a kernel answers
/// for its addresses on any link. Without those of kube-proxy, which puts addresses of Services on every node,
/// and without those of `lo` unless the kernel `answers` ARP requests for them: setups with direct server
/// return put addresses there and prevent that. IPv6 addresses of `lo` are never answered for.
fn other_addresses(message: &LinkMessage, addresses: &[AddressMessage], answers: bool) -> OtherAddresses {
    let flags = message.header.flags;
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    });
    match name {
        Some(name) if flags.contains(LinkFlags::Up) && name != IPVS => {
            let loopback = flags.contains(LinkFlags::Loopback);
            let addresses = addresses.iter().filter_map(parse_address).map(|(address, _)| address);
            let addresses =
                addresses.filter(|ip| !loopback || (answers && ip.is_ipv4() && !ip.is_loopback()));
            addresses.map(|address| (address, name.to_owned())).collect()
        }
        _ => OtherAddresses::new(),
    }
}

/// Whether the kernel answers ARP requests on this interface for addresses of others: `arp_ignore` is 0 for all
/// interfaces and for this one (`ip-sysctl` of the kernel's documentation).
fn answers_for_other_interfaces(interface: &str) -> bool {
    let setting = |name: &str| -> Option<u8> {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/arp_ignore");
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    ["all", interface].into_iter().filter_map(setting).max() == Some(0)
}

/// Converts a link that can be announced on: up with carrier, not excluded, not part of a bond or bridge,
/// with a hardware address (`docs/reference/metallb.md` §5.4).
fn parse_link(message: &LinkMessage, addresses: &[AddressMessage], excluded: &RegexSet) -> Option<Link> {
    let flags = message.header.flags;
    let (mut name, mut mac, mut carrier_ups, mut enslaved, mut operational) = (None, None, 0, false, true);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(bytes) => {
                mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(EthernetAddress);
            }
            LinkAttribute::CarrierUpCount(count) => carrier_ups = *count,
            LinkAttribute::Controller(index) => enslaved = *index != 0,
            LinkAttribute::OperState(state) => {
                operational = matches!(state, State::Up | State::Unknown);
            }
            _ => {}
        }
    }
    let name = name?;
    let usable = flags.contains(LinkFlags::Up)
        && flags.contains(LinkFlags::LowerUp)
        && !flags.contains(LinkFlags::Noarp)
        && !flags.contains(LinkFlags::Loopback)
        && operational
        && !enslaved
        && !excluded.is_match(&name);
    if !usable {
        return None;
    }
    let (mut subnets, mut link_local) = (BTreeSet::new(), None);
    for address in addresses {
        let Some((ip, length)) = parse_address(address) else { continue };
        match ip {
            IpAddr::V6(v6) if is_link_local(v6) => link_local = link_local.or(Some(v6)),
            _ => {
                subnets.insert((ip, length));
            }
        }
    }
    Some(Link {
        index: message.header.index,
        name,
        mac: mac.filter(EthernetAddress::is_unicast)?,
        broadcast: flags.contains(LinkFlags::Broadcast),
        link_local,
        subnets,
        carrier_ups,
    })
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

/// An address that is in use: its duplicate address detection has succeeded.
fn parse_address(message: &AddressMessage) -> Option<(IpAddr, u8)> {
    let (mut local, mut address, mut tentative) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(flags) => {
                tentative |= flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed);
            }
            _ => {}
        }
    }
    tentative |= message.header.flags.contains(AddressHeaderFlags::Tentative);
    let ip = local.or(address)?;
    (!tentative).then_some((ip, message.header.prefix_len))
}

/// The interfaces that exist but were not listed in a form that can be decoded.
fn undecodable(listed: &[LinkMessage]) -> Vec<String> {
    let is_listed = |name: &str| {
        let named =
            |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(own) if own == name);
        listed.iter().any(|link| link.attributes.iter().any(named))
    };
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    // Besides interfaces there are files such as `bonding_masters`.
    let interfaces = entries.filter(|entry| entry.path().join("ifindex").exists());
    let names = interfaces.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !is_listed(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_whose_packet_socket_could_not_be_opened_is_not_usable() {
        let link = |index| Link {
            index,
            name: format!("eth{index}"),
            mac: EthernetAddress([2, 0, 0, 0, 0, 1]),
            broadcast: true,
            link_local: Some("fe80::1".parse().unwrap()),
            subnets: BTreeSet::new(),
            carrier_ups: 0,
        };
        let unavailable = UnavailableProtocols::from([(1, Protocol::Arp), (2, Protocol::Ndp)]);
        let spoken: Vec<(bool, bool)> = without_unavailable(&[link(1), link(2), link(3)], &unavailable)
            .iter()
            .map(|link| (link.broadcast, link.link_local.is_some()))
            .collect();
        assert_eq!(spoken, [(false, true), (true, false), (true, true)]);
    }

    #[tokio::test]
    async fn a_packet_socket_that_cannot_be_opened_changes_the_usable_links_at_once() {
        let mut tasks = Tasks::new();
        let shutdown = CancellationToken::new();
        let link = Link {
            index: 1,
            name: "eth0".into(),
            mac: EthernetAddress([2, 0, 0, 0, 0, 1]),
            broadcast: true,
            link_local: None,
            subnets: BTreeSet::new(),
            carrier_ups: 0,
        };
        let (links, (unavailable, sockets)) =
            (watch::channel(vec![link]), watch::channel(UnavailableProtocols::new()));
        let mut usable = usable(&mut tasks, links.1, sockets, shutdown.clone());
        assert!(usable.borrow_and_update()[0].broadcast);
        unavailable.send_replace([(1, Protocol::Arp)].into());
        usable.changed().await.unwrap();
        assert!(!usable.borrow()[0].broadcast);
        shutdown.cancel();
    }

    #[test]
    fn requirement_3_an_address_on_lo_is_the_nodes_own_where_its_kernel_answers_for_it() {
        let mut link = LinkMessage::default();
        link.header.flags = LinkFlags::Up | LinkFlags::Loopback;
        link.attributes.push(LinkAttribute::IfName("lo".into()));
        let addresses = ["127.0.0.1", "192.0.2.7", "::1", "2001:db8::7"].map(|text| {
            let mut message = AddressMessage::default();
            message.header.prefix_len = 32;
            message.attributes.push(AddressAttribute::Address(text.parse().unwrap()));
            message
        });
        let own = other_addresses(&link, &addresses, true);
        assert_eq!(own, [("192.0.2.7".parse().unwrap(), "lo".to_owned())].into());
        assert!(other_addresses(&link, &addresses, false).is_empty());
    }
}
