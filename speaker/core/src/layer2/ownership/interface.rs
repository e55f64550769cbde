//! Settings, inputs and outputs of [`Ownership`](super::Ownership).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::NodeId;
use crate::cluster::link::Scope;
use crate::cluster::{GroupId, NodeName};
use crate::layer2::beacon::{KeyId, Message};
use crate::layer2::responder::{Observation, ProbePlan};
use crate::layer2::view::View;

/// Settings of the process.
#[derive(Clone, Debug)]
pub struct OwnershipSettings {
    /// The node that this speaker runs on.
    pub me: NodeName,
    /// Time between two beacons.
    pub interval: Duration,
    /// A peer is down after this number of intervals without a beacon.
    pub detect_multiplier: u32,
    /// What to do about foreign hosts that use an address of a group.
    pub detection: Detection,
    /// Random, secret, different with each start: seeds the tokens for other speakers.
    pub session: u64,
}

/// What to do when a foreign host, which is no speaker, uses an address of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detection {
    /// Do not announce the address (or defend it, if it is announced already), and report the conflict.
    #[default]
    Enforce,
    /// Announce it all the same, and report the conflict.
    Warn,
    /// Do not detect conflicts.
    Off,
}

/// An input from the driver.
#[derive(Debug)]
pub enum Input {
    /// A new view of the API.
    View(Arc<View>),
    /// The hardware addresses of this node.
    Macs(BTreeSet<[u8; 6]>),
    /// The keys that this speaker accepts.
    Keys(Vec<KeyId>),
    /// A message from this address.
    Message(IpAddr, Message),
    /// A host answered a probe, or probes for the same address.
    ProbeAnswered(Observation),
    /// No host answered a probe.
    ProbeClear(IpAddr),
    /// The requests of a probe could not be sent.
    ProbeFailed(IpAddr),
    /// The node or its virtual machine was suspended: time has passed that the clock did not count.
    Suspended,
    /// Another host claims, on the link, an address that is announced.
    Contested(Observation),
    /// The process is to stop: hand over all groups.
    Shutdown,
    /// A deadline has passed.
    Deadline,
}

/// An action for the driver.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send a message.
    Send {
        /// The destination.
        address: IpAddr,
        /// Keys that the receiver has said that it accepts; the message is signed with one of them.
        keys: Vec<KeyId>,
        /// The message.
        message: Message,
    },
    /// Probe an address on the link.
    Probe(IpAddr, Scope, ProbePlan),
    /// Cancel the probe of an address.
    CancelProbe(IpAddr),
    /// This node owns the group from now on: answer for and announce those of its addresses for which
    /// [`Ownership::is_announced`] holds.
    Announce(GroupId),
    /// The announced addresses of an owned group have changed: see [`Ownership::is_announced`].
    Update(GroupId),
    /// Stop answering for the group's addresses.
    Withdraw(GroupId),
    /// Announce an address once more, to defend it.
    Defend(IpAddr),
    /// Announce the group's addresses as if they were new: another speaker has announced them meanwhile, and
    /// neighbours may keep its entry until they are announced again.
    Reannounce(GroupId),
}

/// Counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Groups taken because they had no owner.
    pub claims: u64,
    /// Groups taken from an owner that was down.
    pub takeovers: u64,
    /// Groups handed over by their owner.
    pub handovers: u64,
    /// Groups lost to a better claim.
    pub superseded: u64,
    /// Times that a peer went down.
    pub suspicions: u64,
    /// Times that a peer objected to a claim.
    pub nacks: u64,
    /// Times that an owner that seemed to be down answered a probe.
    pub vetoes: u64,
    /// Times that this speaker was stalled and had to probe its groups again.
    pub stalls: u64,
    /// Messages that did not echo our token.
    pub stale: u64,
    /// Messages that were received before.
    pub replayed: u64,
}

/// Why a peer is known to be alive although it is not heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// It answers on the link.
    AnswersOnLink,
    /// This other speaker hears it.
    HeardBy(NodeId),
    /// Its pod is ready, and it has never been heard.
    NeverHeard,
}
