//! What this node says on the wire for the addresses that it owns.
//!
//! The responder answers ARP and NDP, announces unasked, asks who has an address, and tells what it heard of
//! others that claim one. It owns no socket and no clock: the driver feeds it [`Input`]s with the time, takes
//! [`Output`]s until there are none, and calls again at [`Responder::next_deadline`] at the latest.
//! It does not decide who owns what; that is [`ownership`](crate::ownership).

mod announced;
mod probe;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use smoltcp::wire::EthernetAddress;

use crate::arp::{self, Arp};
use crate::frame::{Dropped, Frame};
use crate::link::{Link, LinkIndex, Scope};
use crate::ndp::{self, Ndp};
use crate::schedule::{Due, Form, Schedule};
use announced::Announced;
pub use probe::Plan;
use probe::Probe;

/// RFC 5227 §2.4: never two defences of an address within this time (checklist B7).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// What the driver feeds.
#[derive(Debug)]
pub enum Input<'a> {
    /// All links that may be announced on, whenever that changed.
    Links(Vec<Link>),
    /// Answer for this address from now on, and announce it.
    Announce(IpAddr, Scope),
    /// Answer for this address no more.
    Withdraw(IpAddr),
    /// Ask the link who has this address; ends with [`Output::Answered`], [`Output::Unanswered`] or [`Output::Unasked`], to
    /// which the driver replies by `Announce` or `CancelProbe`.
    Probe(IpAddr, Scope, Plan),
    /// Ask no more.
    CancelProbe(IpAddr),
    /// Say once more that the address is ours, unless that was said in the last ten seconds.
    Defend(IpAddr),
    /// Announce this address as if it were new; nothing if it is not announced.
    Remind(IpAddr),
    /// A link did not take a frame of [`Output::Transmit`] about this address.
    Unsent(LinkIndex, IpAddr, Purpose),
    /// A frame came in.
    Frame(LinkIndex, &'a [u8]),
    /// Nothing but time has passed.
    Deadline,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a frame.
    Transmit {
        /// On which link.
        link: LinkIndex,
        /// What.
        frame: Frame,
        /// For which address.
        address: IpAddr,
        /// Why.
        purpose: Purpose,
    },
    /// Listen to a solicited-node group on a link.
    Join(LinkIndex, Ipv6Addr),
    /// Listen to it no more.
    Leave(LinkIndex, Ipv6Addr),
    /// Somebody else claims an address that we answer for.
    Contested(Sighting),
    /// Somebody answered a probe, which is over then; or probes for the same address, and it goes on.
    Answered(Sighting),
    /// Nobody answered a probe.
    Unanswered(IpAddr),
    /// No link took the questions of a probe.
    Unasked(IpAddr),
}

/// Why a frame is sent; the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Somebody asked.
    Answer,
    /// By the schedule.
    Gratuitous,
    /// To ask who has it.
    Probe,
    /// Against somebody else's claim.
    Defence,
}

/// Somebody with an address that is or shall be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sighting {
    /// The address.
    pub address: IpAddr,
    /// Whose hardware address.
    pub mac: EthernetAddress,
    /// Our own hardware address there.
    pub ours: EthernetAddress,
    /// Where it was seen.
    pub link: LinkIndex,
    /// It only probes for the address at the same time as we do (checklist B3, D12).
    pub probing: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Responder {
    ports: BTreeMap<LinkIndex, Port>,
    /// Hardware addresses of all our links: with two on one segment we hear ourselves.
    own: Vec<EthernetAddress>,
    announced: HashMap<IpAddr, Announced>,
    probes: BTreeMap<IpAddr, Probe>,
    /// When to go on with which of them.
    due: BTreeSet<(Instant, IpAddr)>,
    /// Counts starts of schedules, so that a schedule knows what is void.
    generation: u32,
    nonces: u64,
    /// Answers, which go before everything else.
    answers: VecDeque<Output>,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
struct Port {
    link: Link,
    schedule: Schedule,
    /// Solicited-node groups with the number of addresses that need them: addresses that end in the same
    /// 24 bits share one (checklist D2).
    groups: BTreeMap<Ipv6Addr, u32>,
}

impl Responder {
    /// With nothing to announce. `seed` makes the nonces of duplicate address detection (RFC 7527) differ from
    /// those of other nodes.
    pub fn new(seed: u64) -> Self {
        Self {
            ports: BTreeMap::new(),
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

    /// Takes an input; what is to be done then is in [`Self::poll_output`]. An error is about a frame that was
    /// dropped, for a counter.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) -> Result<(), Dropped> {
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
            Input::Remind(address) => {
                self.remind(now, address);
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

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.poll_answer().or_else(|| self.outputs.pop_front())
    }

    /// The next answer to a question of somebody else.
    pub fn poll_answer(&mut self) -> Option<Output> {
        self.answers.pop_front()
    }

    /// When to call [`Self::handle`] again at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        let schedules = self.ports.values().filter_map(|port| port.schedule.next_deadline());
        schedules.chain(self.due.first().map(|(at, _)| *at)).min()
    }

    /// Whether it answers for `address`.
    pub fn announces(&self, address: IpAddr) -> bool {
        self.announced.contains_key(&address)
    }

    fn set_links(&mut self, now: Instant, links: Vec<Link>) {
        self.own = links.iter().map(|link| link.mac).collect();
        let mut old = std::mem::take(&mut self.ports);
        let mut renewed = Vec::new();
        for link in links {
            let index = link.index;
            let port = match old.remove(&index) {
                Some(port) if port.link.announces_as(&link) => Port { link, ..port },
                Some(port) => {
                    renewed.push(index);
                    Port { link, ..port }
                }
                None => {
                    renewed.push(index);
                    Port { link, schedule: Schedule::new(), groups: BTreeMap::new() }
                }
            };
            self.ports.insert(index, port);
        }
        // Where a link went, its sockets went with it, and the groups with those: nothing to leave.
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

    /// The links that `scope` covers and that can speak for the address.
    fn links_for(&self, address: IpAddr, scope: &Scope) -> Vec<LinkIndex> {
        let fit = |port: &&Port| scope.covers(&port.link.name) && port.link.speaks_for(address);
        self.ports.values().filter(fit).map(|port| port.link.index).collect()
    }

    /// Puts an announced address on the links that its scope covers now, and announces it on those that are new
    /// to it or `renewed`.
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

    /// Begins anew with the waves of an address on these links. What is still to come of earlier ones there is void:
    /// else each start would add a refresh that never ends.
    fn start(&mut self, now: Instant, address: IpAddr, links: &[LinkIndex]) {
        let Some(announced) = self.announced.get_mut(&address) else { return };
        for index in links {
            let Some(port) = self.ports.get_mut(index) else { continue };
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

    fn remind(&mut self, now: Instant, address: IpAddr) {
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

    /// Counts the solicited-node group of an IPv6 address up on links that are new to it and down on links that
    /// it left; joins and leaves where the count begins and ends.
    fn change_groups(&mut self, address: IpAddr, before: &[LinkIndex], after: &[LinkIndex]) {
        let IpAddr::V6(address) = address else { return };
        let group = ndp::solicited_node(address);
        for index in after.iter().filter(|index| !before.contains(index)) {
            let Some(port) = self.ports.get_mut(index) else { continue };
            let count = port.groups.entry(group).or_default();
            *count += 1;
            if *count == 1 {
                self.outputs.push_back(Output::Join(*index, group));
            }
        }
        for index in before.iter().filter(|index| !after.contains(index)) {
            let Some(port) = self.ports.get_mut(index) else { continue };
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
            if let Some(port) = self.ports.get(&index)
                && let Some(frame) = port.unasked(address, Form::First)
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

    fn frame(&mut self, index: LinkIndex, bytes: &[u8]) -> Result<(), Dropped> {
        if !self.ports.contains_key(&index) {
            return Err(Dropped::UnknownLink);
        }
        match bytes {
            [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x06, ..] => self.arp(index, &Arp::parse(bytes)?),
            [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xdd, ..] => self.ndp(index, Ndp::parse(bytes)?),
            [_, _, _, _, _, _, _, _, _, _, _, _, _, _, ..] => Err(Dropped::EtherType),
            _ => Err(Dropped::Truncated),
        }
    }

    fn arp(&mut self, index: LinkIndex, arp: &Arp) -> Result<(), Dropped> {
        if self.own.contains(&arp.sender_mac) {
            return Err(Dropped::Own);
        }
        // Any packet whose sender has the address is a claim to it (RFC 5227 §2.4).
        self.sighted(index, arp.sender_mac, arp.sender.into(), false);
        if arp.is_probe() {
            self.sighted(index, arp.sender_mac, arp.target.into(), true);
        }
        let Some(port) = self.ports.get(&index) else { return Err(Dropped::UnknownLink) };
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

    fn ndp(&mut self, index: LinkIndex, ndp: Ndp) -> Result<(), Dropped> {
        match ndp {
            Ndp::Advertisement { frame_source, target, target_mac } => {
                let mac = target_mac.unwrap_or(frame_source);
                if self.own.contains(&mac) {
                    return Err(Dropped::Own);
                }
                self.sighted(index, mac, target.into(), false);
            }
            Ndp::Solicitation { frame_source, source, target, source_mac, nonce } => {
                let looped = self.probes.get(&target.into()).is_some_and(|p| nonce == Some(p.nonce));
                if looped || self.own.contains(&frame_source) {
                    return Err(Dropped::Own);
                }
                if source.is_unspecified() {
                    self.sighted(index, frame_source, target.into(), true);
                }
                let Some(port) = self.ports.get(&index) else { return Err(Dropped::UnknownLink) };
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

    /// Somebody with another hardware address has, or probes for, this address.
    fn sighted(&mut self, link: LinkIndex, mac: EthernetAddress, address: IpAddr, probing: bool) {
        let Some(ours) = self.ports.get(&link).map(|port| port.link.mac) else { return };
        let sighting = Sighting { address, mac, ours, link, probing };
        let open = |probe: &&Probe| probe.is_open() && probe.links.contains(&sighting.link);
        if self.probes.get(&sighting.address).as_ref().is_some_and(open) {
            // Who only asks as well has not answered: somebody else still may.
            if !sighting.probing {
                self.set_next(sighting.address, None);
            }
            self.outputs.push_back(Output::Answered(sighting));
        } else if !sighting.probing && self.answers(sighting.link, sighting.address) {
            self.outputs.push_back(Output::Contested(sighting));
        }
    }

    /// Sends what the schedules and probes have due.
    fn send_due(&mut self, now: Instant) {
        for (index, port) in &mut self.ports {
            let generation = |address: &IpAddr| self.announced.get(address)?.generation(*index);
            while let Some(Due { address, form, .. }) = port.schedule.pop(now, generation) {
                if let Some(frame) = port.unasked(address, form) {
                    let purpose = Purpose::Gratuitous;
                    self.outputs.push_back(Output::Transmit { link: *index, frame, address, purpose });
                }
            }
        }
        self.send_probes(now);
    }
}

impl Port {
    /// A frame that nobody asked for.
    fn unasked(&self, address: IpAddr, form: Form) -> Option<Frame> {
        let mac = self.link.mac;
        Some(match (address, form) {
            (IpAddr::V4(address), Form::First) => arp::gratuitous_request(mac, address),
            (IpAddr::V4(address), Form::Second) => arp::gratuitous_reply(mac, address),
            (IpAddr::V6(address), Form::First) => {
                ndp::unsolicited_advertisement(mac, self.link.link_local?, address)
            }
            (IpAddr::V6(address), Form::Second) => {
                ndp::router_advertisement(mac, self.link.link_local?, address)
            }
        })
    }
}

#[cfg(test)]
mod tests;
