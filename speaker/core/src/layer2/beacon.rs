//! The messages between speakers: content, encoding and signature.
//!
//! ```text
//!  0      1      2      3      4              8                16               24               32
//! +------+------+------+------+--------------+----------------+----------------+----------------+
//! | ver. | for  | kind | flags| key          | sender         | sender's       | receiver's     |
//! |      | ver. |      |      |              |                | session        | session (echo) |
//! +------+------+------+------+--------------+----------------+----------------+----------------+
//! | sequence number           | body …                                | HMAC-SHA256, 16 bytes  |
//! +---------------------------+---------------------------------------+------------------------+
//! ```
//!
//! *for version* is the oldest version that can read the message: every release writes what the release
//! before it can read, and ignores what follows the part of the body that it knows. So ownership survives a
//! rolling upgrade.
//!
//! A message that is not signed with a known key, or is malformed, is [`Rejected`] as a whole.

mod key;

use std::net::IpAddr;

use crate::cluster::{GroupId, NodeId};
pub use key::{Key, KeyId, Keyring};

/// The version that this release writes.
const VERSION: u8 = 1;
const HEADER: usize = 40;
const TAG: usize = 16;
/// The longest message; chosen so that none is fragmented.
pub const LONGEST: usize = 1_200;
/// Entries of a list in one message, of at most 1 + 16 + 8 + 1 bytes each.
pub const ENTRIES: usize = 40;
/// Hardware addresses in a hello; a node with more publishes the others through the API.
const MACS: usize = 16;
const KEYS: usize = 4;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sending node.
    pub sender: NodeId,
    /// The sender's session: a token that it generated for this receiver, never 0.
    pub session: u64,
    /// The receiver's session as the sender last received it; 0 if there is none.
    pub echo: u64,
    /// Increases with each message of a session.
    pub sequence: u64,
    /// The state of the sender.
    pub flags: Flags,
    /// The content.
    pub body: Body,
}

/// The state of a sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// It is about to stop: no group should be handed over to it.
    pub leaving: bool,
    /// It was stalled for a while and does not answer for its groups yet.
    pub stalled: bool,
    /// It shares a group with the receiver and wants beacons from it.
    pub wanted: bool,
}

/// A claim: a group with the epoch of its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The group.
    pub group: GroupId,
    /// The epoch.
    pub epoch: u64,
}

/// The content of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The sender introduces itself: its hardware addresses and the keys that it knows.
    Hello {
        /// Hardware addresses of the sender.
        macs: Vec<[u8; 6]>,
        /// Keys that it accepts.
        keys: Vec<KeyId>,
    },
    /// The sender is alive; a digest of all that it owns.
    Alive {
        /// [`digest`] of all that the sender owns.
        digest: u64,
    },
    /// Changes of what the sender owns: whether it owns the group now.
    Update(Vec<(Claim, bool)>),
    /// The receiver is to send all its claims.
    Request,
    /// All claims of the sender, in parts.
    Claims {
        /// [`digest`] of the whole.
        digest: u64,
        /// The index of this part, from 0.
        part: u16,
        /// The number of parts.
        parts: u16,
        /// The claims of this part.
        claims: Vec<Claim>,
    },
    /// The sender is about to claim these groups.
    Intent(Vec<Claim>),
    /// The receiver must not claim these groups: the sender owns them or hears their owner. Or: the sender
    /// declines a handover.
    Nack(Vec<Claim>),
    /// The sender hands these groups over to the receiver.
    Leave(Vec<Claim>),
    /// A kind that this release does not know. It still shows that the sender is alive.
    Unknown,
}

/// Why a message was rejected; the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Rejected {
    /// Too short, too long, or a list that does not fit.
    #[error("the message is not well-formed")]
    Malformed,
    /// Only readable by later releases.
    #[error("the message is of a later version")]
    Version,
    /// Signed with an unknown key.
    #[error("the message is signed with an unknown key")]
    UnknownKey,
    /// The signature is wrong.
    #[error("the signature is wrong")]
    Signature,
}

impl Rejected {
    /// The label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
        }
    }
}

/// A digest of a set of claims, the same for equal sets and different for others with high probability. It
/// can be updated incrementally by exclusive or.
pub fn digest(claims: impl IntoIterator<Item = Claim>) -> u64 {
    claims.into_iter().map(digest_of).fold(0, |sum, one| sum ^ one)
}

/// The contribution of one claim to [`digest`]: SplitMix64 over its parts.
pub fn digest_of(claim: Claim) -> u64 {
    fn mix(state: u64, word: u64) -> u64 {
        let mut z = (state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    let octets = match claim.group {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let words = octets.chunks_exact(8).map(|word| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(word);
        u64::from_be_bytes(bytes)
    });
    mix(words.fold(1, mix), claim.epoch)
}

impl Message {
    /// Encodes and signs.
    pub fn seal(&self, key: &Key) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend([VERSION, VERSION, self.body.kind(), self.flags.bits()]);
        out.extend(key.id().0);
        for word in [self.sender.0, self.session, self.echo, self.sequence] {
            out.extend(word.to_be_bytes());
        }
        self.body.write(&mut out);
        let tag = key.sign(&out);
        out.extend(&tag.as_ref()[..TAG]);
        out
    }

    /// Signs arbitrary bytes, for a fuzzer, with the id of the key where [`Self::seal`] would write it.
    pub(crate) fn seal_bytes(unsigned: &[u8], key: &Key) -> Option<Vec<u8>> {
        let mut out = unsigned.to_vec();
        out.get_mut(4..8)?.copy_from_slice(&key.id().0);
        let tag = key.sign(&out);
        out.extend(&tag.as_ref()[..TAG]);
        Some(out)
    }

    /// Verifies and decodes.
    pub fn open(bytes: &[u8], keys: &Keyring) -> Result<Self, Rejected> {
        if bytes.len() < HEADER + TAG || bytes.len() > LONGEST {
            return Err(Rejected::Malformed);
        }
        let (signed, tag) = bytes.split_at(bytes.len() - TAG);
        let mut reader = Reader(signed);
        let [_version, readable_by, kind, flags] = reader.take()?;
        let key = keys.get(KeyId(reader.take()?)).ok_or(Rejected::UnknownKey)?;
        if !key.verifies(signed, tag) {
            return Err(Rejected::Signature);
        }
        if readable_by > VERSION {
            return Err(Rejected::Version);
        }
        Ok(Self {
            sender: NodeId(reader.word()?),
            session: reader.word()?,
            echo: reader.word()?,
            sequence: reader.word()?,
            flags: Flags::from_bits(flags),
            body: Body::read(kind, &mut reader)?,
        })
    }
}

impl Flags {
    fn bits(self) -> u8 {
        u8::from(self.leaving) | u8::from(self.stalled) << 1 | u8::from(self.wanted) << 2
    }

    fn from_bits(bits: u8) -> Self {
        Self { leaving: bits & 1 != 0, stalled: bits & 2 != 0, wanted: bits & 4 != 0 }
    }
}

impl Body {
    fn kind(&self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Hello { .. } => 1,
            Self::Alive { .. } => 2,
            Self::Update(_) => 3,
            Self::Request => 4,
            Self::Claims { .. } => 5,
            Self::Intent(_) => 6,
            Self::Nack(_) => 7,
            Self::Leave(_) => 8,
        }
    }

    /// The name in metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Hello { .. } => "hello",
            Self::Alive { .. } => "alive",
            Self::Update(_) => "update",
            Self::Request => "request",
            Self::Claims { .. } => "claims",
            Self::Intent(_) => "intent",
            Self::Nack(_) => "nack",
            Self::Leave(_) => "leave",
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Unknown | Self::Request => {}
            Self::Hello { macs, keys } => {
                list(out, macs, MACS, |out, mac| out.extend(mac));
                list(out, keys, KEYS, |out, key| out.extend(key.0));
            }
            Self::Alive { digest } => out.extend(digest.to_be_bytes()),
            Self::Update(changes) => list(out, changes, ENTRIES, |out, (claim, owned)| {
                claim.write(out);
                out.push(u8::from(*owned));
            }),
            Self::Claims { digest, part, parts, claims } => {
                out.extend(digest.to_be_bytes());
                out.extend(part.to_be_bytes());
                out.extend(parts.to_be_bytes());
                list(out, claims, ENTRIES, |out, claim| claim.write(out));
            }
            Self::Intent(claims) | Self::Nack(claims) | Self::Leave(claims) => {
                list(out, claims, ENTRIES, |out, claim| claim.write(out));
            }
        }
    }

    fn read(kind: u8, reader: &mut Reader<'_>) -> Result<Self, Rejected> {
        Ok(match kind {
            1 => {
                let macs = reader.list(MACS, Reader::take)?;
                let keys = reader.list(KEYS, |reader| reader.take().map(KeyId))?;
                Self::Hello { macs, keys }
            }
            2 => Self::Alive { digest: reader.word()? },
            3 => Self::Update(reader.list(ENTRIES, |reader| {
                let claim = Claim::read(reader)?;
                let [owned] = reader.take()?;
                Ok((claim, owned != 0))
            })?),
            4 => Self::Request,
            5 => Self::Claims {
                digest: reader.word()?,
                part: u16::from_be_bytes(reader.take()?),
                parts: u16::from_be_bytes(reader.take()?),
                claims: reader.list(ENTRIES, Claim::read)?,
            },
            6 => Self::Intent(reader.list(ENTRIES, Claim::read)?),
            7 => Self::Nack(reader.list(ENTRIES, Claim::read)?),
            8 => Self::Leave(reader.list(ENTRIES, Claim::read)?),
            _ => Self::Unknown,
        })
    }
}

impl Claim {
    fn write(&self, out: &mut Vec<u8>) {
        match self.group {
            IpAddr::V4(v4) => {
                out.push(4);
                out.extend(v4.octets());
            }
            IpAddr::V6(v6) => {
                out.push(6);
                out.extend(v6.octets());
            }
        }
        out.extend(self.epoch.to_be_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Rejected> {
        let group = match reader.take()? {
            [4] => IpAddr::from(reader.take::<4>()?),
            [6] => IpAddr::from(reader.take::<16>()?),
            _ => return Err(Rejected::Malformed),
        };
        Ok(Self { group, epoch: reader.word()? })
    }
}

/// Writes a count in one byte, then the entries; entries beyond `most`, which no caller has, are omitted.
fn list<T>(out: &mut Vec<u8>, items: &[T], most: usize, write: impl Fn(&mut Vec<u8>, &T)) {
    let items = &items[..items.len().min(most)];
    out.push(u8::try_from(items.len()).unwrap_or(u8::MAX));
    for item in items {
        write(out, item);
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Rejected> {
        let (first, rest) = self.0.split_first_chunk().ok_or(Rejected::Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    fn word(&mut self) -> Result<u64, Rejected> {
        self.take().map(u64::from_be_bytes)
    }

    fn list<T>(
        &mut self,
        most: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, Rejected>,
    ) -> Result<Vec<T>, Rejected> {
        let [count] = self.take()?;
        if usize::from(count) > most {
            return Err(Rejected::Malformed);
        }
        (0..count).map(|_| read(self)).collect()
    }
}

#[cfg(test)]
mod tests;
