//! Community values and their names.

use std::collections::BTreeMap;
use std::fmt;

use crds::Community;

use crate::finding::{ObjectRef, Report};

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
    /// Reads a literal: `65000:100` or `large:1:2:3`.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        match parts.as_slice() {
            [a, b] => Some(Self::Standard(number(a)?, number(b)?)),
            ["large", a, b, c] => Some(Self::Large(number(a)?, number(b)?, number(c)?)),
            _ => None,
        }
    }
}

/// Digits only: Rust's own parser would take a sign.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

pub(crate) const LITERAL: &str = "write two numbers up to 65535 with a colon between (65000:100), or large: and three numbers (large:1:2:3)";

/// The names that `object` gives, if it has no error.
pub(crate) fn judge(
    object: &Community,
    known: &BTreeMap<String, (CommunityValue, ObjectRef)>,
    report: &mut Report<'_>,
) -> BTreeMap<String, CommunityValue> {
    let mut names = BTreeMap::new();
    for (index, alias) in object.spec.communities.iter().flatten().enumerate() {
        let name = alias.name.clone().unwrap_or_default();
        let value = alias.value.clone().unwrap_or_default();
        let Some(parsed) = CommunityValue::parse(&value) else {
            report.error(
                format!("spec.communities[{index}].value"),
                value,
                "this is no BGP community",
                LITERAL,
            );
            continue;
        };
        let field = format!("spec.communities[{index}].name");
        if let Some((_, other)) = known.get(&name) {
            report.clash(
                field,
                &name,
                format!("the older {other} has this name already"),
                "choose another name",
                other.clone(),
            );
        } else if names.insert(name.clone(), parsed).is_some() {
            report.error(field, name, "the same name stands here twice", "remove one of them");
        }
    }
    names
}
