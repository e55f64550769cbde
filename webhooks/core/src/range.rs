//! Address ranges of pools, parsed exactly as MetalLB parses them (`docs/reference/metallb.md` §4.1).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The family of an address. IPv4-mapped IPv6 addresses count as IPv4, as in MetalLB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// 32 bits.
    V4,
    /// 128 bits.
    V6,
}

impl Family {
    /// Both families, in the order in which addresses are listed.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of `ip`.
    pub fn of(ip: IpAddr) -> Self {
        if ip.to_canonical().is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The other family.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    /// The address of this family with the given bits.
    #[expect(clippy::cast_possible_truncation, reason = "the bits of an IPv4 address are the low 32")]
    pub fn address(self, bits: u128) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
            Self::V6 => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        }
    }

    const fn width(self) -> u32 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The highest bits of the family.
    const fn max(self) -> u128 {
        match self {
            Self::V4 => u32::MAX as u128,
            Self::V6 => u128::MAX,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The bits of `ip` in its family.
pub fn bits(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Consecutive addresses of one family, first and last included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpRange {
    family: Family,
    first: u128,
    last: u128,
}

impl IpRange {
    /// The range from `first` to `last`; none if they differ in family or are in the wrong order.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        let (family, first_bits, last_bits) = (Family::of(first), bits(first), bits(last));
        (family == Family::of(last) && first_bits <= last_bits).then_some(Self {
            family,
            first: first_bits,
            last: last_bits,
        })
    }

    /// The range of one address.
    pub fn single(ip: IpAddr) -> Self {
        Self { family: Family::of(ip), first: bits(ip), last: bits(ip) }
    }

    /// The family of all its addresses.
    pub const fn family(&self) -> Family {
        self.family
    }

    /// The lowest address.
    pub fn first(&self) -> IpAddr {
        self.family.address(self.first)
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        self.family.address(self.last)
    }

    /// The bits of the lowest and of the highest address.
    pub const fn bits(&self) -> (u128, u128) {
        (self.first, self.last)
    }

    /// The number of addresses, saturating.
    pub const fn count(&self) -> u128 {
        (self.last - self.first).saturating_add(1)
    }

    /// Whether `ip` is one of them.
    pub fn contains(&self, ip: IpAddr) -> bool {
        Family::of(ip) == self.family && (self.first..=self.last).contains(&bits(ip))
    }

    /// Whether the two have an address in common.
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.family as u8 == other.family as u8 && self.first <= other.last && other.first <= self.last
    }

    /// The range without the addresses of `other`, lower part first.
    pub(crate) fn without(&self, other: &Self) -> impl Iterator<Item = Self> + use<> {
        let part = |first, last| Self { family: self.family, first, last };
        let parts = if self.overlaps(other) {
            let below = other.first.checked_sub(1).filter(|last| *last >= self.first);
            let above = other.last.checked_add(1).filter(|first| *first <= self.last);
            [below.map(|last| part(self.first, last)), above.map(|first| part(first, self.last))]
        } else {
            [Some(*self), None]
        };
        parts.into_iter().flatten()
    }

    /// The range without the addresses of all `others`.
    pub(crate) fn without_all<'a>(&self, others: impl IntoIterator<Item = &'a Self>) -> Vec<Self> {
        others
            .into_iter()
            .fold(vec![*self], |parts, other| parts.iter().flat_map(|part| part.without(other)).collect())
    }

    /// The length of the shortest prefix in the minimal list of prefixes that covers the range.
    pub fn shortest_prefix(&self) -> u32 {
        let width = self.family.width();
        let (mut first, mut shortest) = (self.first, width);
        loop {
            let span = (self.last - first).saturating_add(1);
            let whole_family = first == 0 && self.last == self.family.max();
            let host_bits =
                if whole_family { width } else { first.trailing_zeros().min(span.ilog2()).min(width) };
            shortest = shortest.min(width - host_bits);
            let step = 1_u128.checked_shl(host_bits);
            match step.and_then(|step| first.checked_add(step)) {
                Some(next) if next <= self.last => first = next,
                _ => return shortest,
            }
        }
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first())
        } else {
            write!(f, "{}-{}", self.first(), self.last())
        }
    }
}

impl fmt::Debug for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address string that is neither a prefix nor a range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither a slash nor a dash, nor an address.
    #[error("neither a prefix nor a range")]
    Syntax,
    /// An address of its own.
    #[error("an address without a prefix length")]
    NoPrefixLength(IpAddr),
    /// The address of a prefix cannot be parsed.
    #[error("{address:?} is not a valid IP address")]
    PrefixAddress {
        /// The text before the slash.
        address: String,
        /// The whole text without surrounding white space, if white space is all that is wrong.
        trimmed: Option<String>,
    },
    /// The length of a prefix is not a number, or too large.
    #[error("the prefix length {length:?} is not a number from 0 to {width}")]
    PrefixLength {
        /// The text after the slash.
        length: String,
        /// The number of bits of an address of the family.
        width: u32,
    },
    /// The first or last address of a range cannot be parsed.
    #[error("the {which} address of the range, {address:?}, is not a valid IP address")]
    RangeEnd {
        /// `first` or `last`.
        which: &'static str,
        /// The text of the address.
        address: String,
    },
    /// The last address of a range is lower than the first.
    #[error("the range starts at {first}, after its end {last}")]
    ReversedRange {
        /// The address before the dash.
        first: IpAddr,
        /// The address after it.
        last: IpAddr,
    },
}

impl AddressError {
    /// How to fix it.
    pub fn hint(&self) -> String {
        match self {
            Self::Syntax => {
                "write a prefix (192.168.10.0/24) or a range (192.168.10.20-192.168.10.40)".to_owned()
            }
            Self::NoPrefixLength(ip) => format!("write {ip}/{} for this one address", width(*ip)),
            Self::PrefixAddress { trimmed: None, .. } => {
                "write a prefix as ADDRESS/LENGTH, for example 192.168.10.0/24".to_owned()
            }
            Self::PrefixAddress { trimmed: Some(text), .. } => format!("write it without spaces: {text}"),
            Self::PrefixLength { width, .. } => {
                format!("write a length from 0 to {width} after the slash")
            }
            Self::RangeEnd { .. } => {
                "write the range as FIRST-LAST, for example 192.168.10.20-192.168.10.40".to_owned()
            }
            Self::ReversedRange { first, last } => format!("write the lower address first: {last}-{first}"),
        }
    }
}

/// The number of bits of an address as it is written.
fn width(ip: IpAddr) -> u32 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The addresses of `text`; none for a range from one family to the other, which MetalLB accepts as empty.
pub fn parse_addresses(text: &str) -> Result<Option<IpRange>, AddressError> {
    match text.split_once('-') {
        Some((first, last)) => parse_range(first, last),
        None => parse_prefix(text).map(Some),
    }
}

/// Spaces around the dash are ignored, those around a prefix are not.
fn parse_range(first: &str, last: &str) -> Result<Option<IpRange>, AddressError> {
    let address = |text: &str, which| {
        let text = text.trim();
        text.parse::<IpAddr>().map_err(|_| AddressError::RangeEnd { which, address: text.to_owned() })
    };
    let (first, last) = (address(first, "first")?, address(last, "last")?);
    // Across the families they are compared as 128-bit numbers, IPv4 being ::ffff:0:0/96.
    if mapped(first) > mapped(last) {
        return Err(AddressError::ReversedRange { first, last });
    }
    Ok(IpRange::new(first, last))
}

fn mapped(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Host bits are ignored; a prefix of IPv4-mapped addresses is one of IPv4.
fn parse_prefix(text: &str) -> Result<IpRange, AddressError> {
    let Some((address, length)) = text.split_once('/') else {
        return Err(text.trim().parse().map_or(AddressError::Syntax, AddressError::NoPrefixLength));
    };
    let ip: IpAddr = address.parse().map_err(|_| {
        let has_spaces = address.trim() != address || length.trim() != length;
        let trimmed = has_spaces.then(|| text.trim().to_owned());
        AddressError::PrefixAddress { address: address.to_owned(), trimmed }
    })?;
    let width = width(ip);
    let length: u32 = (!length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()))
        .then(|| length.parse().ok())
        .flatten()
        .filter(|length| *length <= width)
        .ok_or_else(|| AddressError::PrefixLength { length: length.to_owned(), width })?;
    let host_bits = width - length;
    let host_mask = if host_bits == 128 { u128::MAX } else { (1_u128 << host_bits) - 1 };
    let network = match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    } & !host_mask;
    if ip.is_ipv4() {
        return Ok(IpRange { family: Family::V4, first: network, last: network | host_mask });
    }
    let (first, last) = (Family::V6.address(network), Family::V6.address(network | host_mask));
    // Both ends are IPv4 only if the masked address itself is IPv4-mapped (a length of 96 or more).
    Ok(IpRange::new(first, last).unwrap_or(IpRange {
        family: Family::V6,
        first: network,
        last: network | host_mask,
    }))
}

#[cfg(test)]
mod tests;
