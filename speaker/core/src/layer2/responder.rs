//! ARP and NDP on the links of this node, for the addresses that it owns.
//!
//! The responder answers requests, sends gratuitous announcements and probes, and reports other hosts that
//! use an address. It has no sockets and no clock: the driver feeds it [`Input`]s with the time, takes
//! [`Output`]s until there are none, and calls again at [`Responder::next_deadline`] at the latest. It does
//! not decide which node owns an address; that is [`ownership`](crate::layer2::ownership).

mod announced;
mod probe;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use smoltcp::wire::EthernetAddress;

use crate::cluster::link::{Link, LinkIndex, Scope};
use crate::layer2::arp::{self, Arp};
use crate::layer2::frame::{DropReason, Frame};
use crate::layer2::ndp::{self, Ndp};
use crate::layer2::schedule::{Due, Form, Schedule};
use announced::Announced;
use probe::Probe;
pub use probe::ProbePlan;

/// RFC 5227 §2.4: never two defences of an address within this time (docs/reference/layer2.md B7).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// An input from the driver.
#[derive(Debug)]
pub enum Input<'a> {
    /// All links that may be announced on, after any change of them.
    Links(Vec<Link>),
    /// Answer for this address from now on, and announce it.
    Announce(IpAddr, Scope),
    /// Stop answering for this address.
    Withdraw(IpAddr),
    /// Probe an address on the link; ends with [`Output::ProbeAnswered`], [`Output::ProbeClear`] or
    /// [`Output::ProbeFailed`], to which the driver responds by `Announce` or `CancelProbe`.
    Probe(IpAddr, Scope, ProbePlan),
    /// Cancel the probe of an address.
    CancelProbe(IpAddr),
    /// Announce an address once more to defend it, unless that was done in the last ten seconds.
    Defend(IpAddr),
    /// Announce this address as if it were new; ignored if it is not announced.
    Reannounce(IpAddr),
    /// A frame of [`Output::Transmit`] about this address could not be sent on a link.
    Unsent(LinkIndex, IpAddr, Purpose),
    /// A received frame.
    Frame(LinkIndex, &'a [u8]),
    /// A deadline has passed.
    Deadline,
}

/// An action for the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a frame.
    Transmit {
        /// The link.
        link: LinkIndex,
        /// The frame.
        frame: Frame,
        /// The address that the frame is about.
        address: IpAddr,
        /// The purpose of the frame.
        purpose: Purpose,
    },
    /// Join a solicited-node multicast group on a link.
    Join(LinkIndex, Ipv6Addr),
    /// Leave it.
    Leave(LinkIndex, Ipv6Addr),
    /// Another host claims an address that this node answers for.
    Contested(Observation),
    /// Another host answered a probe, which ends it; or it probes for the same address, and the probe goes
    /// on.
    ProbeAnswered(Observation),
    /// No host answered a probe.
    ProbeClear(IpAddr),
    /// The requests of a probe could not be sent on any link.
    ProbeFailed(IpAddr),
}

/// The purpose of a frame; the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The answer to a request.
    Answer,
    /// A gratuitous announcement, by the schedule.
    Gratuitous,
    /// A request of a probe.
    Probe,
    /// The defence against the claim of another host.
    Defence,
}

/// Another host that uses an address which this node owns or probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Observation {
    /// The address.
    pub address: IpAddr,
    /// The hardware address of the host.
    pub mac: EthernetAddress,
    /// This node's hardware address on that link.
    pub ours: EthernetAddress,
    /// The link on which it was seen.
    pub link: LinkIndex,
    /// It only probes for the address at the same time as this node (docs/reference/layer2.md B3, D12).
    pub probing: bool,
}

/// The ARP and NDP state of one node.
#[derive(Debug)]
pub struct Responder {
    links: BTreeMap<LinkIndex, ResponderLink>,
    /// Hardware addresses of all our links: with two links on one segment we receive our own frames.
    own: Vec<EthernetAddress>,
    announced: HashMap<IpAddr, Announced>,
    probes: BTreeMap<IpAddr, Probe>,
    /// When to continue which probe.
    due: BTreeSet<(Instant, IpAddr)>,
    /// Counts starts of schedules, so that a schedule recognises void entries.
    generation: u32,
    nonces: u64,
    /// Answers, which take precedence over all other outputs.
    answers: VecDeque<Output>,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
struct ResponderLink {
    link: Link,
    schedule: Schedule,
    /// Solicited-node groups with the number of addresses that need them: addresses with the same last 24
    /// bits share one (docs/reference/layer2.md D2).
    groups: BTreeMap<Ipv6Addr, u32>,
}

impl Responder {
    /// A responder that announces nothing. `seed` makes the nonces of duplicate address detection (RFC 7527)
    /// differ from those of other nodes.
    pub fn new(seed: u64) -> Self {
        Self {
            links: BTreeMap::new(),
            own: Vec::new(),
            announced: HashMap::new(),
            probes: BTreeMap::new(),
            due: BTreeSet::new(),
            generation: 0,
            nonces: seed,
            answers: VecDeque::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Handles an input; the results are returned by [`Self::poll_output`]. The error says why a frame was
    /// dropped.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) -> Result<(), DropReason> {
        let result = match input {
            Input::Links(links) => {
                self.set_links(now, links);
                Ok(())
            }
            Input::Announce(address, scope) => {
                self.announce(now, address, scope);
                Ok(())
            }
            Input::Withdraw(address) => {
                self.withdraw(address);
                Ok(())
            }
            Input::Probe(address, scope, plan) => {
                self.probe(now, address, scope, plan);
                Ok(())
            }
            Input::CancelProbe(address) => {
                self.end_probe(address);
                Ok(())
            }
            Input::Defend(address) => {
                self.defend(now, address);
                Ok(())
            }
            Input::Reannounce(address) => {
                self.reannounce(now, address);
                Ok(())
            }
            Input::Unsent(link, address, purpose) => {
                self.unsent(now, link, address, purpose);
                Ok(())
            }
            Input::Frame(link, bytes) => self.frame(link, bytes),
            Input::Deadline => Ok(()),
        };
        self.send_due(now);
        result
    }

    /// The next action for the driver.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.poll_answer().or_else(|| self.outputs.pop_front())
    }

    /// The next answer to a request.
    pub fn poll_answer(&mut self) -> Option<Output> {
        self.answers.pop_front()
    }

    /// The latest time to call [`Self::handle`] again.
    pub fn next_deadline(&self) -> Option<Instant> {
        let schedules = self.links.values().filter_map(|port| port.schedule.next_deadline());
        schedules.chain(self.due.first().map(|(at, _)| *at)).min()
    }

    /// Whether it answers for `address`.
    pub fn announces(&self, address: IpAddr) -> bool {
        self.announced.contains_key(&address)
    }

    fn set_links(&mut self, now: Instant, links: Vec<Link>) {
        self.own = links.iter().map(|link| link.mac).collect();
        let mut old = std::mem::take(&mut self.links);
        let mut renewed = Vec::new();
        for link in links {
            let index = link.index;
            let port = match old.remove(&index) {
                Some(port) if port.link.announces_same_as(&link) => ResponderLink { link, ..port },
                Some(port) => {
                    renewed.push(index);
                    ResponderLink { link, ..port }
                }
                None => {
                    renewed.push(index);
                    ResponderLink { link, schedule: Schedule::new(), groups: BTreeMap::new() }
                }
            };
            self.links.insert(index, port);
        }
        // When a link goes away, so do its sockets and their multicast groups: there is nothing to leave.
        let addresses: Vec<IpAddr> = self.announced.keys().copied().collect();
        for address in addresses {
            self.relink(now, address, &renewed);
        }
        let probed: Vec<(IpAddr, Scope)> = self.probes.iter().map(|(a, p)| (*a, p.scope.clone())).collect();
        for (address, scope) in probed {
            let links = self.links_for(address, &scope);
            let before =
                self.probes.get_mut(&address).map(|p| std::mem::replace(&mut p.links, links.clone()));
            self.change_groups(address, &before.unwrap_or_default(), &links);
        }
    }

    /// The links in `scope` on which the protocol of the address works.
    fn links_for(&self, address: IpAddr, scope: &Scope) -> Vec<LinkIndex> {
        let fit = |port: &&ResponderLink| scope.covers(&port.link.name) && port.link.supports_family(address);
        self.links.values().filter(fit).map(|port| port.link.index).collect()
    }

    /// Assigns an announced address to the links that its scope covers now, and announces it on those that
    /// are new to it or `renewed`.
    fn relink(&mut self, now: Instant, address: IpAddr, renewed: &[LinkIndex]) {
        let Some(announced) = self.announced.get(&address) else { return };
        let links = self.links_for(address, &announced.scope);
        let before: Vec<LinkIndex> = announced.indices().collect();
        let start: Vec<LinkIndex> = links
            .iter()
            .filter(|index| renewed.contains(index) || !before.contains(index))
            .copied()
            .collect();
        if let Some(announced) = self.announced.get_mut(&address) {
            announced.links.retain(|(index, _)| links.contains(index));
            announced.links.reserve_exact(start.len());
        }
        self.start(now, address, &start);
        self.change_groups(address, &before, &links);
    }

    /// Restarts the announcement waves of an address on these links. Pending entries of earlier ones there
    /// become void: otherwise each start would add another endless refresh.
    fn start(&mut self, now: Instant, address: IpAddr, links: &[LinkIndex]) {
        let Some(announced) = self.announced.get_mut(&address) else { return };
        for index in links {
            let Some(port) = self.links.get_mut(index) else { continue };
            self.generation = self.generation.wrapping_add(1);
            match announced.links.iter_mut().find(|(link, _)| link == index) {
                Some((_, generation)) => *generation = self.generation,
                None => announced.links.push((*index, self.generation)),
            }
            port.schedule.start(now, address, self.generation);
        }
    }

    fn announce(&mut self, now: Instant, address: IpAddr, scope: Scope) {
        if let Some(announced) = self.announced.get_mut(&address) {
            announced.scope = scope;
            return self.relink(now, address, &[]);
        }
        let announced = Announced { scope, links: Vec::new(), defended: None };
        self.announced.insert(address, announced);
        self.relink(now, address, &[]);
        self.end_probe(address);
    }

    fn reannounce(&mut self, now: Instant, address: IpAddr) {
        let Some(announced) = self.announced.get(&address) else { return };
        let links: Vec<LinkIndex> = announced.indices().collect();
        self.start(now, address, &links);
    }

    fn withdraw(&mut self, address: IpAddr) {
        if let Some(announced) = self.announced.remove(&address) {
            let links: Vec<LinkIndex> = announced.indices().collect();
            self.change_groups(address, &links, &[]);
        }
    }

    /// Updates the reference counts of the solicited-node group of an IPv6 address; joins and leaves it where
    /// the count becomes one or zero.
    fn change_groups(&mut self, address: IpAddr, before: &[LinkIndex], after: &[LinkIndex]) {
        let IpAddr::V6(address) = address else { return };
        let group = ndp::solicited_node(address);
        for index in after.iter().filter(|index| !before.contains(index)) {
            let Some(port) = self.links.get_mut(index) else { continue };
            let count = port.groups.entry(group).or_default();
            *count += 1;
            if *count == 1 {
                self.outputs.push_back(Output::Join(*index, group));
            }
        }
        for index in before.iter().filter(|index| !after.contains(index)) {
            let Some(port) = self.links.get_mut(index) else { continue };
            let Some(count) = port.groups.get_mut(&group) else { continue };
            *count = count.saturating_sub(1);
            if *count == 0 {
                port.groups.remove(&group);
                self.outputs.push_back(Output::Leave(*index, group));
            }
        }
    }

    fn defend(&mut self, now: Instant, address: IpAddr) {
        let Some(announced) = self.announced.get_mut(&address) else { return };
        if announced.defended.is_some_and(|last| now.saturating_duration_since(last) < DEFEND_INTERVAL) {
            return;
        }
        announced.defended = Some(now);
        for index in announced.indices() {
            if let Some(port) = self.links.get(&index)
                && let Some(frame) = port.gratuitous_frame(address, Form::First)
            {
                self.outputs.push_back(Output::Transmit {
                    link: index,
                    frame,
                    address,
                    purpose: Purpose::Defence,
                });
            }
        }
    }

    fn frame(&mut self, index: LinkIndex, bytes: &[u8]) -> Result<(), DropReason> {
        if !self.links.contains_key(&index) {
            return Err(DropReason::UnknownLink);
        }
        match bytes {
            [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x06, ..] => self.arp(index, &Arp::parse(bytes)?),
            [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xdd, ..] => self.ndp(index, Ndp::parse(bytes)?),
            [_, _, _, _, _, _, _, _, _, _, _, _, _, _, ..] => Err(DropReason::EtherType),
            _ => Err(DropReason::Truncated),
        }
    }

    fn arp(&mut self, index: LinkIndex, arp: &Arp) -> Result<(), DropReason> {
        if self.own.contains(&arp.sender_mac) {
            return Err(DropReason::Own);
        }
        // Any packet with the address as sender is a claim to it (RFC 5227 §2.4).
        self.observe(index, arp.sender_mac, arp.sender.into(), false);
        if arp.is_probe() {
            self.observe(index, arp.sender_mac, arp.target.into(), true);
        }
        let Some(port) = self.links.get(&index) else { return Err(DropReason::UnknownLink) };
        let for_us = arp.destination.is_broadcast() || arp.destination == port.link.mac;
        let announcement = arp.sender == arp.target;
        if arp.request && for_us && !announcement && self.answers(index, arp.target.into()) {
            self.answers.push_back(Output::Transmit {
                link: index,
                frame: arp::reply(port.link.mac, arp),
                address: arp.target.into(),
                purpose: Purpose::Answer,
            });
        }
        Ok(())
    }

    fn ndp(&mut self, index: LinkIndex, ndp: Ndp) -> Result<(), DropReason> {
        match ndp {
            Ndp::Advertisement { frame_source, target, target_mac } => {
                let mac = target_mac.unwrap_or(frame_source);
                if self.own.contains(&mac) {
                    return Err(DropReason::Own);
                }
                self.observe(index, mac, target.into(), false);
            }
            Ndp::Solicitation { frame_source, source, target, source_mac, nonce } => {
                let looped = self.probes.get(&target.into()).is_some_and(|p| nonce == Some(p.nonce));
                if looped || self.own.contains(&frame_source) {
                    return Err(DropReason::Own);
                }
                if source.is_unspecified() {
                    self.observe(index, frame_source, target.into(), true);
                }
                let Some(port) = self.links.get(&index) else { return Err(DropReason::UnknownLink) };
                let Some(link_local) = port.link.link_local else { return Ok(()) };
                if !self.answers(index, target.into()) {
                    return Ok(());
                }
                let mac = port.link.mac;
                let frame = if source.is_unspecified() {
                    ndp::unsolicited_advertisement(mac, link_local, target)
                } else {
                    let to = source_mac.unwrap_or(frame_source);
                    ndp::solicited_advertisement(mac, link_local, target, source, to)
                };
                let address = target.into();
                self.answers.push_back(Output::Transmit {
                    link: index,
                    frame,
                    address,
                    purpose: Purpose::Answer,
                });
            }
        }
        Ok(())
    }

    fn answers(&self, index: LinkIndex, address: IpAddr) -> bool {
        self.announced.get(&address).is_some_and(|announced| announced.generation(index).is_some())
    }

    /// Another host uses, or probes for, this address.
    fn observe(&mut self, link: LinkIndex, mac: EthernetAddress, address: IpAddr, probing: bool) {
        let Some(ours) = self.links.get(&link).map(|port| port.link.mac) else { return };
        let observation = Observation { address, mac, ours, link, probing };
        let open = |probe: &&Probe| probe.is_open() && probe.links.contains(&observation.link);
        if self.probes.get(&observation.address).as_ref().is_some_and(open) {
            // Another prober is not an answer: the host that has the address may still answer.
            if !observation.probing {
                self.set_next(observation.address, None);
            }
            self.outputs.push_back(Output::ProbeAnswered(observation));
        } else if !observation.probing && self.answers(observation.link, observation.address) {
            self.outputs.push_back(Output::Contested(observation));
        }
    }

    /// Sends what is due by the schedules and probes.
    fn send_due(&mut self, now: Instant) {
        for (index, port) in &mut self.links {
            let generation = |address: &IpAddr| self.announced.get(address)?.generation(*index);
            while let Some(Due { address, form, .. }) = port.schedule.pop(now, generation) {
                if let Some(frame) = port.gratuitous_frame(address, form) {
                    let purpose = Purpose::Gratuitous;
                    self.outputs.push_back(Output::Transmit { link: *index, frame, address, purpose });
                }
            }
        }
        self.send_probes(now);
    }
}

impl ResponderLink {
    /// A gratuitous frame.
    fn gratuitous_frame(&self, address: IpAddr, form: Form) -> Option<Frame> {
        let mac = self.link.mac;
        Some(match (address, form) {
            (IpAddr::V4(address), Form::First) => arp::gratuitous_request(mac, address),
            (IpAddr::V4(address), Form::Second) => arp::gratuitous_reply(mac, address),
            (IpAddr::V6(address), Form::First) => {
                ndp::unsolicited_advertisement(mac, self.link.link_local?, address)
            }
            (IpAddr::V6(address), Form::Second) => {
                ndp::neighbor_advertisement_to_routers(mac, self.link.link_local?, address)
            }
        })
    }
}

#[cfg(test)]
mod tests;
