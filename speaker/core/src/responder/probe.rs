//! Asking the wire who has an address (RFC 5227 §2.1.1, RFC 4862 §5.4), with the time between questions as an
//! argument: the RFCs' seconds are for hosts that nobody waits for (checklist B1, B5, D11).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Output, Purpose, Responder};
use crate::arp;
use crate::link::{LinkIndex, Scope};
use crate::ndp::{self, Nonce};

/// How often and how patiently to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How many questions.
    pub count: u32,
    /// How long to wait for an answer to each.
    pub wait: Duration,
}

impl Plan {
    /// Before the address of a silent owner is taken over.
    pub const TAKEOVER: Self = Self { count: 2, wait: Duration::from_millis(25) };
    /// Before an address is announced for the first time.
    pub const FIRST_CLAIM: Self = Self { count: 3, wait: Duration::from_millis(100) };

    /// How long all of it takes when nobody answers.
    pub fn duration(self) -> Duration {
        self.wait.saturating_mul(self.count)
    }
}

#[derive(Debug)]
pub(super) struct Probe {
    pub(super) scope: Scope,
    pub(super) links: Vec<LinkIndex>,
    pub(super) nonce: Nonce,
    left: u32,
    wait: Duration,
    /// When to go on; none once it is over. It then stays, with its groups, until the address is announced or
    /// the probe is cancelled, so that a group is not left only to be joined again.
    pub(super) next: Option<Instant>,
}

impl Responder {
    pub(super) fn probe(&mut self, now: Instant, address: IpAddr, scope: Scope, plan: Plan) {
        self.end_probe(address);
        let links = self.links_for(address, &scope);
        // The group first: the answer to duplicate address detection goes to it (RFC 4862 §5.4.2).
        self.change_groups(address, &[], &links);
        let nonce = self.nonce();
        let probe = Probe { scope, links, nonce, left: plan.count, wait: plan.wait, next: Some(now) };
        self.probes.insert(address, probe);
    }

    pub(super) fn end_probe(&mut self, address: IpAddr) {
        let Some(probe) = self.probes.remove(&address) else { return };
        self.change_groups(address, &probe.links, &[]);
        if probe.next.is_none() {
            // Its result may not have been taken yet, and would pass for that of the next one.
            self.outputs.retain(|output| match output {
                Output::Unanswered(of) => *of != address,
                Output::Answered(sighting) => sighting.address != address,
                Output::Transmit { .. } | Output::Join(..) | Output::Leave(..) | Output::Contested(_) => true,
            });
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

    /// Sends the questions that are due and ends the probes whose last wait is over.
    pub(super) fn send_probes(&mut self, now: Instant) {
        let is_due = |probe: &Probe| probe.next.is_some_and(|at| at <= now);
        let due: Vec<IpAddr> = self.probes.iter().filter(|(_, p)| is_due(p)).map(|(a, _)| *a).collect();
        for address in due {
            let Some(probe) = self.probes.get_mut(&address) else { continue };
            if probe.left == 0 {
                probe.next = None;
                self.outputs.push_back(Output::Unanswered(address));
                continue;
            }
            probe.left -= 1;
            probe.next = Some(now.checked_add(probe.wait).unwrap_or(now));
            for index in &probe.links {
                let Some(port) = self.ports.get(index) else { continue };
                let frame = match address {
                    IpAddr::V4(address) => arp::probe(port.link.mac, address),
                    IpAddr::V6(address) => ndp::probe(port.link.mac, address, probe.nonce),
                };
                self.outputs.push_back(Output::Transmit {
                    link: *index,
                    frame,
                    address,
                    purpose: Purpose::Probe,
                });
            }
        }
    }
}
