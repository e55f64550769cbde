//! Probing whether an address is in use (RFC 5227 §2.1.1, RFC 4862 §5.4), with the interval between requests
//! as an argument: the RFCs' seconds are for hosts that nobody waits for (docs/reference/layer2.md B1, B5, D11).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Output, Purpose, Responder, ResponderLink};
use crate::cluster::link::{LinkIndex, Scope};
use crate::layer2::arp;
use crate::layer2::ndp::{self, Nonce};

/// The number and interval of the requests of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbePlan {
    /// Number of requests.
    pub count: u32,
    /// How long to wait for an answer to each.
    pub wait: Duration,
}

impl ProbePlan {
    /// Before the address of an owner that is down is taken over.
    pub const TAKEOVER: Self = Self { count: 2, wait: Duration::from_millis(25) };
    /// Before an address is announced for the first time.
    pub const FIRST_CLAIM: Self = Self { count: 3, wait: Duration::from_millis(100) };

    /// The duration of a probe that is not answered.
    pub fn duration(self) -> Duration {
        self.wait.saturating_mul(self.count)
    }
}

/// The shortest wait, so that a probe ends.
const SHORTEST: Duration = Duration::from_millis(1);
/// How many requests may be lost before a probe relies on the links that take them, or fails if no link does.
const LOST: u32 = 3;

#[derive(Debug)]
pub(super) struct Probe {
    pub(super) scope: Scope,
    pub(super) links: Vec<LinkIndex>,
    pub(super) nonce: Nonce,
    left: u32,
    wait: Duration,
    /// The number of links of the last request; none before the first.
    asked: Option<usize>,
    /// How many of them did not take it.
    unsent: usize,
    /// Requests that could not be sent on all links.
    lost: u32,
    /// When to continue; none once it has ended. An ended probe is kept, with its multicast groups, until the
    /// address is announced or the probe is cancelled, so that a group is not left only to be joined again.
    next: Option<Instant>,
}

impl Probe {
    pub(super) fn is_open(&self) -> bool {
        self.next.is_some()
    }

    /// Counts the last request if it was sent; false if no request can be sent.
    fn count(&mut self) -> bool {
        let Some(asked) = self.asked.take() else { return true };
        let sent = asked.saturating_sub(self.unsent);
        if asked > 0 && (sent == asked || sent > 0 && self.lost >= LOST) {
            self.left = self.left.saturating_sub(1);
            return true;
        }
        self.lost = self.lost.saturating_add(1);
        sent > 0 || self.lost <= LOST
    }
}

impl Responder {
    pub(super) fn probe(&mut self, now: Instant, address: IpAddr, scope: Scope, plan: ProbePlan) {
        self.end_probe(address);
        let links = self.links_for(address, &scope);
        // The group is joined first: the answer to duplicate address detection is sent to it (RFC 4862
        // §5.4.2).
        self.change_groups(address, &[], &links);
        let nonce = self.nonce();
        let (left, wait) = (plan.count, plan.wait);
        let probe = Probe { scope, links, nonce, left, wait, asked: None, unsent: 0, lost: 0, next: None };
        self.probes.insert(address, probe);
        self.set_next(address, Some(now));
    }

    /// Sets when to continue a probe.
    pub(super) fn set_next(&mut self, address: IpAddr, next: Option<Instant>) {
        let Some(probe) = self.probes.get_mut(&address) else { return };
        if let Some(before) = std::mem::replace(&mut probe.next, next) {
            self.due.remove(&(before, address));
        }
        self.due.extend(next.map(|at| (at, address)));
    }

    pub(super) fn end_probe(&mut self, address: IpAddr) {
        self.set_next(address, None);
        let Some(probe) = self.probes.remove(&address) else { return };
        self.change_groups(address, &probe.links, &[]);
        // A pending result would be taken for that of the next probe.
        self.outputs.retain(|output| match output {
            Output::ProbeClear(of) | Output::ProbeFailed(of) => *of != address,
            Output::ProbeAnswered(observation) => observation.address != address,
            Output::Transmit { .. } | Output::Join(..) | Output::Leave(..) | Output::Contested(_) => true,
        });
    }

    /// A link did not take a frame.
    pub(super) fn unsent(&mut self, now: Instant, link: LinkIndex, address: IpAddr, purpose: Purpose) {
        match purpose {
            Purpose::Probe => self.request_lost(address),
            Purpose::Gratuitous => {
                if let Some(port) = self.links.get_mut(&link) {
                    port.schedule.congested(now);
                }
            }
            Purpose::Answer | Purpose::Defence => {}
        }
    }

    /// A link did not take a request.
    fn request_lost(&mut self, address: IpAddr) {
        if let Some(probe) = self.probes.get_mut(&address) {
            probe.unsent += 1;
        }
    }

    /// Six bytes that differ with every probe and, by the seed, between nodes (SplitMix64).
    fn nonce(&mut self) -> Nonce {
        self.nonces = self.nonces.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.nonces;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let [a, b, c, d, e, f, ..] = (z ^ (z >> 31)).to_be_bytes();
        [a, b, c, d, e, f]
    }

    /// Sends the requests that are due and ends the probes whose last wait is over.
    pub(super) fn send_probes(&mut self, now: Instant) {
        while let Some((_, address)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            let Some(probe) = self.probes.get_mut(&address) else { return };
            let over = if !probe.count() {
                Some(Output::ProbeFailed(address))
            } else if probe.left == 0 {
                Some(Output::ProbeClear(address))
            } else {
                None
            };
            if let Some(over) = over {
                self.set_next(address, None);
                self.outputs.push_back(over);
                continue;
            }
            let wait = probe.wait.max(SHORTEST);
            let ports: Vec<&ResponderLink> =
                probe.links.iter().filter_map(|index| self.links.get(index)).collect();
            (probe.asked, probe.unsent) = (Some(ports.len()), 0);
            for port in ports {
                let frame = match address {
                    IpAddr::V4(address) => arp::probe(port.link.mac, address),
                    IpAddr::V6(address) => ndp::probe(port.link.mac, address, probe.nonce),
                };
                let (link, purpose) = (port.link.index, Purpose::Probe);
                self.outputs.push_back(Output::Transmit { link, frame, address, purpose });
            }
            self.set_next(address, Some(now.checked_add(wait).unwrap_or(now)));
        }
    }
}
