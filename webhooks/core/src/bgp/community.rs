//! BGP community values, and validation of `Community`, which defines aliases of them.

use std::collections::BTreeMap;
use std::fmt;

use crds::Community;

use crate::finding::{ObjectRef, Reporter};

/// A BGP community.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommunityValue {
    /// Two numbers of 16 bits (RFC 1997).
    Standard(u16, u16),
    /// Three numbers of 32 bits (RFC 8092).
    Large(u32, u32, u32),
}

impl fmt::Display for CommunityValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(a, b) => write!(f, "{a}:{b}"),
            Self::Large(a, b, c) => write!(f, "large:{a}:{b}:{c}"),
        }
    }
}

impl CommunityValue {
    /// Parses a literal: `65000:100` or `large:1:2:3`.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        match parts.as_slice() {
            [a, b] => Some(Self::Standard(number(a)?, number(b)?)),
            ["large", a, b, c] => Some(Self::Large(number(a)?, number(b)?, number(c)?)),
            _ => None,
        }
    }
}

/// Digits only: Rust's parser would accept a sign.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

pub(crate) const COMMUNITY_HINT: &str = "write two numbers up to 65535 separated by a colon (65000:100), or large: \
                                         and three numbers (large:1:2:3)";

/// The aliases that `object` defines.
pub(crate) fn validate(
    object: &Community,
    older: &BTreeMap<String, (CommunityValue, ObjectRef)>,
    report: &mut Reporter<'_>,
) -> BTreeMap<String, CommunityValue> {
    let mut names = BTreeMap::new();
    for (index, alias) in object.spec.communities.iter().flatten().enumerate() {
        let name = alias.name.clone().unwrap_or_default();
        let value = alias.value.clone().unwrap_or_default();
        let Some(parsed) = CommunityValue::parse(&value) else {
            report.error(
                format!("spec.communities[{index}].value"),
                value,
                "is not a valid BGP community",
                COMMUNITY_HINT,
            );
            continue;
        };
        let field = format!("spec.communities[{index}].name");
        if let Some((_, other)) = older.get(&name) {
            report.conflict(
                field,
                &name,
                format!("the older {other} defines the same alias"),
                "choose another name",
                other.clone(),
            );
        } else if names.insert(name.clone(), parsed).is_some() {
            report.error(field, name, "duplicate name", "remove one of the two");
        }
    }
    names
}
