//! Validation of `IPAddressPool` (`docs/reference/metallb.md` §1.1, §4.2).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crds::{IPAddressPool, IPAddressPoolStatus, Selector, SelectorExt as _, ServiceAllocation};
use k8s_openapi::jiff::Timestamp;

use crate::finding::Reporter;
use crate::objects::Objects;
use crate::range::{Family, IpRange, parse_addresses};
use crate::selectors::{names, selectors};

/// A valid pool of addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its addresses in the listed order, in which they are assigned. The ranges do not overlap.
    pub ranges: Vec<IpRange>,
    /// Whether Services that request neither a pool nor an address may get one from this pool.
    pub auto_assign: bool,
    /// Whether IPv4 addresses that end in .0 or .255 are never assigned.
    pub avoid_buggy_ips: bool,
    /// Which Services may use it; none means all.
    pub allocation: Option<Allocation>,
    /// Labels of the object, by which advertisements select it.
    pub labels: BTreeMap<String, String>,
    /// Addresses that are assigned only to Services that request them.
    pub reserved: Vec<IpRange>,
    /// Limits of addresses per namespace.
    pub quotas: Vec<Quota>,
}

/// A limit of addresses per namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The namespaces that it applies to; none means all.
    pub namespaces: Option<BTreeSet<String>>,
    /// The maximum number of distinct addresses of the pool for each of them.
    pub max_addresses: u32,
}

/// Which Services may use a pool, and its priority.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// Lower positive numbers are tried first, 0 last.
    pub priority: i64,
    /// Whether the pool is restricted to namespaces.
    pub by_namespace: bool,
    /// The namespaces listed by name and those that the selectors match now.
    pub namespaces: BTreeSet<String>,
    /// Whether a listed namespace does not exist, or no namespace is selected: possibly a mistake, so
    /// assigned addresses stay, as in MetalLB if nothing is selected.
    pub unresolved: bool,
    /// Selectors of Services, any one is enough; empty means all.
    pub service_selectors: Vec<Selector>,
}

impl Pool {
    /// Whether `ip` is one of its addresses.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(ip))
    }

    /// Whether `avoidBuggyIPs` excludes `ip`.
    pub fn avoids(&self, ip: IpAddr) -> bool {
        self.avoid_buggy_ips
            && matches!(ip.to_canonical(), IpAddr::V4(v4) if matches!(v4.octets()[3], 0 | 255))
    }

    /// Whether `ip` is not assigned automatically: it is excluded, or only for Services that request it.
    pub fn is_reserved(&self, ip: IpAddr) -> bool {
        self.avoids(ip) || self.reserved.iter().any(|range| range.contains(ip))
    }

    /// The maximum number of addresses of the pool for the namespace; none means unlimited.
    pub fn quota(&self, namespace: &str) -> Option<u32> {
        let applies =
            |quota: &&Quota| quota.namespaces.as_ref().is_none_or(|names| names.contains(namespace));
        self.quotas.iter().filter(applies).map(|quota| quota.max_addresses).min()
    }

    /// The number of assignable addresses of `family`, saturating.
    pub fn capacity(&self, family: Family) -> u128 {
        let ranges = self.ranges.iter().filter(|range| range.family() == family);
        ranges.map(|range| range.count() - self.avoided_in(range)).fold(0, u128::saturating_add)
    }

    /// The number of addresses of `range` that `avoidBuggyIPs` excludes.
    fn avoided_in(&self, range: &IpRange) -> u128 {
        if !self.avoid_buggy_ips || range.family() == Family::V6 {
            return 0;
        }
        // Addresses up to and including `end` whose last octet is 0 or 255.
        let up_to = |end: u128| 2 * (end / 256) + 1 + u128::from(end % 256 == 255);
        let (first, last) = range.bits();
        up_to(last) - first.checked_sub(1).map_or(0, up_to)
    }

    /// Whether it has addresses of `family`.
    pub fn has(&self, family: Family) -> bool {
        self.ranges.iter().any(|range| range.family() == family)
    }
}

impl Allocation {
    /// Whether the namespace may use the pool.
    pub fn admits_namespace(&self, namespace: &str) -> bool {
        !self.by_namespace || self.namespaces.contains(namespace)
    }

    /// Whether a Service with `labels` may use the pool.
    pub fn admits_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.service_selectors.is_empty() || self.service_selectors.iter().any(|s| s.matches(labels))
    }
}

/// The order of pools for conflicts: of two overlapping pools the greater is rejected. The older one stays;
/// of two that were created in the same second the one that is in use, then the one that was applied first
/// according to its resource version, then the first by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConflictRank {
    created: (bool, Option<Timestamp>),
    usage: PriorUse,
    applied: u64,
    name: String,
}

/// Whether a pool was in use, according to its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PriorUse {
    InUse,
    /// It has no status yet.
    Unknown,
    Rejected,
}

impl ConflictRank {
    pub(crate) fn of(pool: &IPAddressPool) -> Self {
        let created = pool.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let usage = PriorUse::of(pool);
        // Each write of the status changes the version, so it shows the order of creation only before the
        // first.
        let version = pool.metadata.resource_version.as_deref().and_then(|version| version.parse().ok());
        let applied = version.filter(|_| usage == PriorUse::Unknown).unwrap_or_default();
        let name = pool.metadata.name.clone().unwrap_or_default();
        Self { created: (created.is_none(), created), usage, applied, name }
    }

    /// Names this pool and says why it takes precedence over `other`.
    pub(crate) fn describe_to(&self, other: &Self) -> String {
        let name = &self.name;
        if self.created != other.created || self.created.1.is_none() {
            return format!("the older pool {name:?}");
        }
        let how = if self.usage != other.usage {
            "is in use already"
        } else if self.applied != other.applied {
            "was applied first"
        } else {
            "comes first by name"
        };
        format!("pool {name:?}, which was created in the same second and {how}")
    }
}

impl PriorUse {
    fn of(pool: &IPAddressPool) -> Self {
        let Some(status) = &pool.status else { return Self::Unknown };
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
        match ready.map(|condition| condition.status.as_str()) {
            Some("True") => Self::InUse,
            Some(_) => Self::Rejected,
            // An older definition stores no conditions. A rejected pool has no addresses at all.
            None => {
                let counts = [
                    status.assigned_ipv4,
                    status.assigned_ipv6,
                    status.available_ipv4,
                    status.available_ipv6,
                ];
                if counts.iter().any(|count| *count > 0) { Self::InUse } else { Self::Rejected }
            }
        }
    }
}

/// The object without the fields that change with each assignment, except for what validation uses of them.
pub fn without_usage(mut object: IPAddressPool) -> IPAddressPool {
    let usage = PriorUse::of(&object);
    if usage != PriorUse::Unknown {
        let available_ipv4 = i64::from(usage == PriorUse::InUse);
        object.status = Some(IPAddressPoolStatus { available_ipv4, ..IPAddressPoolStatus::default() });
        object.metadata.resource_version = None;
    }
    object
}

/// The pool that `object` describes, without regard to conflicts with others; none if it has an error.
pub(crate) fn validate(object: &IPAddressPool, objects: &Objects, report: &mut Reporter<'_>) -> Option<Pool> {
    let spec = &object.spec;
    if spec.addresses.iter().all(|text| text.trim().is_empty()) {
        report.error(
            "spec.addresses",
            "",
            "the pool has no addresses",
            "list at least one prefix (192.168.10.0/24) or range (192.168.10.20-192.168.10.40)",
        );
    }
    let ranges = ranges(&spec.addresses, report);
    warn_node_addresses(&ranges, &objects.node_addresses, report);
    let allocation = spec.service_allocation.as_ref().map(|a| allocation(a, objects, report));
    (!report.failed()).then(|| Pool {
        name: object.metadata.name.clone().unwrap_or_default(),
        ranges,
        auto_assign: spec.auto_assign,
        avoid_buggy_ips: spec.avoid_buggy_ips,
        allocation,
        labels: object.metadata.labels.clone().unwrap_or_default(),
        reserved: Vec::new(),
        quotas: Vec::new(),
    })
}

/// The addresses of `object` that can be parsed.
pub(crate) fn readable_ranges(object: &IPAddressPool) -> Vec<IpRange> {
    object.spec.addresses.iter().filter_map(|text| parse_addresses(text.trim()).ok().flatten()).collect()
}

/// The addresses of a pool, each in one range only. Duplicates and surrounding white space have only one
/// possible interpretation and are warnings, although MetalLB rejects them.
fn ranges(addresses: &[String], report: &mut Reporter<'_>) -> Vec<IpRange> {
    let mut ranges: Vec<IpRange> = Vec::new();
    let mut parsed: Vec<(IpRange, &String)> = Vec::new();
    for (index, text) in addresses.iter().enumerate() {
        let field = format!("spec.addresses[{index}]");
        if text.trim().is_empty() {
            report.warning(field, text, "an empty entry is ignored", "remove it");
            continue;
        }
        match parse_addresses(text.trim()) {
            Err(error) => report.error(field, text, error.to_string(), error.hint()),
            Ok(None) => report.warning(
                field,
                text,
                "a range from IPv4 to IPv6 contains no addresses",
                "write one range for each family",
            ),
            Ok(Some(range)) => {
                // MetalLB too ignores white space around the dash of a range.
                if text.trim() != text && !text.contains('-') {
                    let hint = format!("write {:?}", text.trim());
                    report.warning(&field, text, "surrounding white space is ignored", hint);
                }
                if let Some((_, earlier)) = parsed.iter().find(|(other, _)| other.overlaps(&range)) {
                    report.warning(
                        field,
                        text,
                        format!("overlaps with {earlier:?} in the same pool"),
                        "list each address once",
                    );
                }
                ranges.extend(range.without_all(parsed.iter().map(|(other, _)| other)));
                parsed.push((range, text));
            }
        }
    }
    ranges
}

/// Warns of addresses of nodes in the pool, which are never assigned.
fn warn_node_addresses(ranges: &[IpRange], nodes: &BTreeMap<IpAddr, String>, report: &mut Reporter<'_>) {
    const MAX_SHOWN: usize = 5;
    for range in ranges {
        let within: Vec<(&IpAddr, &String)> = nodes.range(range.first()..=range.last()).collect();
        if within.is_empty() {
            continue;
        }
        let shown: Vec<String> =
            within.iter().take(MAX_SHOWN).map(|(ip, node)| format!("{ip} of node {node}")).collect();
        let more = match within.len().saturating_sub(MAX_SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        report.warning(
            "spec.addresses",
            range.to_string(),
            format!("contains addresses of nodes: {}{more}", shown.join(", ")),
            "they are not assigned to any Service; remove them from the pool",
        );
    }
}

fn allocation(spec: &ServiceAllocation, objects: &Objects, report: &mut Reporter<'_>) -> Allocation {
    let field = "spec.serviceAllocation";
    let named = names(report, &format!("{field}.namespaces"), spec.namespaces.as_ref());
    let by_label =
        selectors(report, &format!("{field}.namespaceSelectors"), spec.namespace_selectors.as_ref());
    let service_selectors =
        selectors(report, &format!("{field}.serviceSelectors"), spec.service_selectors.as_ref());
    if spec.priority.is_some_and(i64::is_negative) {
        report.warning(
            format!("{field}.priority"),
            spec.priority.unwrap_or_default().to_string(),
            "a negative priority is tried before every other",
            "use 1 or more, or 0 for last",
        );
    }
    let empty = BTreeMap::new();
    let selected = objects.namespaces.iter().filter(|namespace| {
        let labels = namespace.metadata.labels.as_ref().unwrap_or(&empty);
        by_label.iter().any(|selector| selector.matches(labels))
    });
    let by_namespace = !named.is_empty() || !by_label.is_empty();
    // A component that does not allocate has no namespaces.
    let is_missing = |name: &String| {
        !objects.namespaces.is_empty()
            && !objects.namespaces.iter().any(|known| known.metadata.name.as_ref() == Some(name))
    };
    let missing = named.iter().any(is_missing);
    let namespaces: BTreeSet<String> =
        named.into_iter().chain(selected.filter_map(|namespace| namespace.metadata.name.clone())).collect();
    Allocation {
        priority: spec.priority.unwrap_or_default(),
        by_namespace,
        unresolved: missing || by_namespace && namespaces.is_empty(),
        namespaces,
        service_selectors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capacity_excludes_avoided_addresses() {
        let mut pool = Pool {
            name: "p".into(),
            ranges: vec![parse_addresses("10.0.0.0/23").unwrap().unwrap()],
            auto_assign: true,
            avoid_buggy_ips: false,
            allocation: None,
            labels: BTreeMap::new(),
            reserved: Vec::new(),
            quotas: Vec::new(),
        };
        assert_eq!(pool.capacity(Family::V4), 512);
        pool.avoid_buggy_ips = true;
        assert_eq!(pool.capacity(Family::V4), 508);
        for (text, left) in
            [("10.0.0.255/32", 0), ("10.0.0.254-10.0.1.1", 2), ("0.0.0.0/32", 0), ("fc00::/120", 256)]
        {
            pool.ranges = vec![parse_addresses(text).unwrap().unwrap()];
            let counted: u128 = Family::ALL.iter().map(|family| pool.capacity(*family)).sum();
            assert_eq!(counted, left, "{text}");
        }
    }
}
