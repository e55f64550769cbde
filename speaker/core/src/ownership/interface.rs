//! What the driver gives to [`Ownership`](super::Ownership), and what it is told.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::beacon::{KeyId, Message, NodeId};
use crate::link::Scope;
use crate::responder::{Plan, Sighting};
use crate::view::{GroupId, NodeName, View};

/// What the speaker was told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node that this speaker runs on.
    pub me: NodeName,
    /// Between two beacons.
    pub interval: Duration,
    /// So many intervals without a beacon, and a speaker is silent.
    pub misses: u32,
    /// What to do about strangers with our addresses.
    pub detection: Detection,
    /// Random, secret, new with each start: what the tokens for other speakers are made of.
    pub session: u64,
}

/// What to do when a stranger, somebody who is no speaker, has an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detection {
    /// Do not announce it (or defend it, if it is announced already), and tell.
    #[default]
    Enforce,
    /// Announce it all the same, and tell.
    Warn,
    /// Do not look.
    Off,
}

/// What the driver feeds.
#[derive(Debug)]
pub enum Input {
    /// The API says something new.
    View(Arc<View>),
    /// The hardware addresses of this node.
    Macs(BTreeSet<[u8; 6]>),
    /// The keys that this speaker accepts.
    Keys(Vec<KeyId>),
    /// A message came from this address.
    Message(IpAddr, Message),
    /// Somebody answered a probe.
    Answered(Sighting),
    /// Nobody answered a probe.
    Unanswered(IpAddr),
    /// The questions of a probe could not be sent.
    Unasked(IpAddr),
    /// The node was suspended, or its virtual machine was: time has passed that the clock did not count.
    Suspended,
    /// Somebody claims, on the wire, an address that is announced.
    Contested(Sighting),
    /// The process is to stop: hand everything over.
    Shutdown,
    /// Nothing but time has passed.
    Deadline,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send a message.
    Send {
        /// To this address.
        address: IpAddr,
        /// Signed with a key that the receiver accepts: it told these.
        keys: Vec<KeyId>,
        /// What.
        message: Message,
    },
    /// Ask the wire who has an address.
    Probe(IpAddr, Scope, Plan),
    /// Ask no more.
    CancelProbe(IpAddr),
    /// This node owns the group from now on: answer for those of its addresses that [`Ownership::is_announced`], and announce
    /// them.
    Announce(GroupId),
    /// Other addresses of an owned group than before may be announced: see [`Ownership::is_announced`].
    Update(GroupId),
    /// Answer for the group's addresses no more.
    Withdraw(GroupId),
    /// Say once more that an address is ours.
    Defend(IpAddr),
    /// Announce the group's addresses as if they were new: another speaker has announced them meanwhile, and
    /// neighbours may believe it for as long as nobody says otherwise.
    Remind(GroupId),
}

/// Something that is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Groups taken because nobody owned them.
    pub claims: u64,
    /// Groups taken from a silent owner.
    pub takeovers: u64,
    /// Groups taken from an owner that handed them over.
    pub handovers: u64,
    /// Groups lost to a better claim.
    pub outbid: u64,
    /// Times that a peer fell silent.
    pub suspicions: u64,
    /// Times that a peer objected to a claim.
    pub nacks: u64,
    /// Times that the wire showed a silent owner to be alive.
    pub vetoes: u64,
    /// Times that this speaker was stopped for so long that it asked anew.
    pub stalls: u64,
    /// Messages that did not echo our token.
    pub stale: u64,
    /// Messages that had been there before.
    pub replayed: u64,
}

/// Why a peer is not heard although it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// It answers on the wire.
    Wire,
    /// This other speaker hears it.
    HeardBy(NodeId),
    /// Its pod is ready, and it has never been heard.
    NeverHeard,
}
