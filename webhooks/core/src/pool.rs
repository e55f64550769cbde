//! `IPAddressPool` (`reference/metallb.md` §1.1, §4.2).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crds::{IPAddressPool, IPAddressPoolStatus, Selector, SelectorExt as _, ServiceAllocation};
use k8s_openapi::jiff::Timestamp;

use crate::finding::Report;
use crate::objects::Objects;
use crate::range::{Family, IpRange, parse_addresses};
use crate::selectors::{names, selectors};

/// Addresses that Services may get.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its addresses in listed order, which is the order in which they are tried. They do not overlap.
    pub ranges: Vec<IpRange>,
    /// Whether Services that ask for no pool and no address may get one from here.
    pub auto_assign: bool,
    /// Whether IPv4 addresses ending in .0 and .255 are kept back.
    pub avoid_buggy_ips: bool,
    /// Which Services may use it; none means every Service.
    pub allocation: Option<Allocation>,
    /// Labels of the object, which advertisements select by.
    pub labels: BTreeMap<String, String>,
    /// Addresses that only a Service gets which asks for them.
    pub reserved: Vec<IpRange>,
    /// How many addresses a namespace may have.
    pub quotas: Vec<Quota>,
}

/// A limit of addresses per namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The namespaces that it binds; none means every namespace.
    pub namespaces: Option<BTreeSet<String>>,
    /// How many distinct addresses of the pool each of them may have.
    pub max_addresses: u32,
}

/// Which Services may use a pool, and how early it is tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// Lower positive numbers are tried first, 0 last.
    pub priority: i64,
    /// Whether namespaces restrict the pool at all.
    pub by_namespace: bool,
    /// The namespaces given by name and those that the selectors match now.
    pub namespaces: BTreeSet<String>,
    /// Whether a namespace is named that does not exist, or none at all is selected: possibly a slip, so what was
    /// assigned stays, as in MetalLB where nothing is selected.
    pub unresolved: bool,
    /// Services by label, any one is enough; empty means all.
    pub service_selectors: Vec<Selector>,
}

impl Pool {
    /// Whether `ip` is one of its addresses.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(ip))
    }

    /// Whether the pool keeps `ip` back although it is one of its addresses.
    pub fn avoids(&self, ip: IpAddr) -> bool {
        self.avoid_buggy_ips
            && matches!(ip.to_canonical(), IpAddr::V4(v4) if matches!(v4.octets()[3], 0 | 255))
    }

    /// Whether only a Service gets `ip` that asks for it, or none at all.
    pub fn keeps_back(&self, ip: IpAddr) -> bool {
        self.avoids(ip) || self.reserved.iter().any(|range| range.contains(ip))
    }

    /// How many addresses of the pool the namespace may have; none means any number.
    pub fn quota(&self, namespace: &str) -> Option<u32> {
        let binds = |quota: &&Quota| quota.namespaces.as_ref().is_none_or(|names| names.contains(namespace));
        self.quotas.iter().filter(binds).map(|quota| quota.max_addresses).min()
    }

    /// How many addresses of `family` the pool can give, saturating.
    pub fn capacity(&self, family: Family) -> u128 {
        let ranges = self.ranges.iter().filter(|range| range.family() == family);
        ranges.map(|range| range.count() - self.avoided_in(range)).fold(0, u128::saturating_add)
    }

    /// How many addresses of `range` are kept back because of their last octet.
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

/// What decides which of two pools that overlap is left out: the greater. The older one stays; of two that were created
/// in the same second the one that is in use, then the one that was applied first as far as its version tells, then the
/// first by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seniority {
    created: (bool, Option<Timestamp>),
    standing: Standing,
    applied: u64,
    name: String,
}

/// Whether a pool was in use, as its own status has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    InUse,
    NotJudged,
    LeftOut,
}

impl Seniority {
    pub(crate) fn of(pool: &IPAddressPool) -> Self {
        let created = pool.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let standing = Standing::of(pool);
        // With each write of a status the version grows, so it tells of the order only before the first.
        let version = pool.metadata.resource_version.as_deref().and_then(|version| version.parse().ok());
        let applied = version.filter(|_| standing == Standing::NotJudged).unwrap_or_default();
        let name = pool.metadata.name.clone().unwrap_or_default();
        Self { created: (created.is_none(), created), standing, applied, name }
    }

    /// How it was decided that this one stays.
    pub(crate) fn why(&self, younger: &Self) -> String {
        let name = &self.name;
        if self.created != younger.created || self.created.1.is_none() {
            return format!("the older pool {name:?}");
        }
        let how = if self.standing != younger.standing {
            "is in use already"
        } else if self.applied != younger.applied {
            "was applied first"
        } else {
            "comes first by name"
        };
        format!("pool {name:?}, which was created in the same second and {how}")
    }
}

impl Standing {
    fn of(pool: &IPAddressPool) -> Self {
        let Some(status) = &pool.status else { return Self::NotJudged };
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
        match ready.map(|condition| condition.status.as_str()) {
            Some("True") => Self::InUse,
            Some(_) => Self::LeftOut,
            // A definition of an older version stores no conditions. A pool that is left out has no addresses at all.
            None => {
                let counts = [
                    status.assigned_ipv4,
                    status.assigned_ipv6,
                    status.available_ipv4,
                    status.available_ipv6,
                ];
                if counts.iter().any(|count| *count > 0) { Self::InUse } else { Self::LeftOut }
            }
        }
    }
}

/// The object without what changes with each assignment, and with all that it is judged by.
pub fn without_usage(mut object: IPAddressPool) -> IPAddressPool {
    let standing = Standing::of(&object);
    if standing != Standing::NotJudged {
        let available_ipv4 = i64::from(standing == Standing::InUse);
        object.status = Some(IPAddressPoolStatus { available_ipv4, ..IPAddressPoolStatus::default() });
        object.metadata.resource_version = None;
    }
    object
}

/// The pool that `object` describes, overlaps with others left aside; none if it has an error.
pub(crate) fn judge(object: &IPAddressPool, objects: &Objects, report: &mut Report<'_>) -> Option<Pool> {
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
    node_addresses(&ranges, &objects.node_addresses, report);
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

/// What can be read of the addresses of `object`, whatever else is wrong with it.
pub(crate) fn readable_ranges(object: &IPAddressPool) -> Vec<IpRange> {
    object.spec.addresses.iter().filter_map(|text| parse_addresses(text.trim()).ok().flatten()).collect()
}

/// The addresses of a pool, each in one range only. What is listed twice, or written with white space around it, has
/// only one possible interpretation and is a warning, although MetalLB refuses it.
fn ranges(addresses: &[String], report: &mut Report<'_>) -> Vec<IpRange> {
    let mut ranges: Vec<IpRange> = Vec::new();
    let mut read: Vec<(IpRange, &String)> = Vec::new();
    for (index, text) in addresses.iter().enumerate() {
        let field = format!("spec.addresses[{index}]");
        if text.trim().is_empty() {
            report.warning(field, text, "an empty entry is ignored", "remove it");
            continue;
        }
        match parse_addresses(text.trim()) {
            Err(fault) => report.error(field, text, fault.problem, fault.remedy),
            Ok(None) => report.warning(
                field,
                text,
                "a range from IPv4 to IPv6 holds no addresses",
                "write one range for each family",
            ),
            Ok(Some(range)) => {
                // White space around the dash of a range is as good as none, in MetalLB too.
                if text.trim() != text && !text.contains('-') {
                    let remedy = format!("write {:?}", text.trim());
                    report.warning(&field, text, "surrounding white space is ignored", remedy);
                }
                if let Some((_, earlier)) = read.iter().find(|(other, _)| other.overlaps(&range)) {
                    report.warning(
                        field,
                        text,
                        format!("overlaps with {earlier:?} in the same pool"),
                        "list each address once",
                    );
                }
                ranges.extend(range.without_all(read.iter().map(|(other, _)| other)));
                read.push((range, text));
            }
        }
    }
    ranges
}

/// Warns of nodes whose own addresses are among those of the pool: nobody gets them.
fn node_addresses(ranges: &[IpRange], nodes: &BTreeMap<IpAddr, String>, report: &mut Report<'_>) {
    const SHOWN: usize = 5;
    for range in ranges {
        let within: Vec<(&IpAddr, &String)> = nodes.range(range.first()..=range.last()).collect();
        if within.is_empty() {
            continue;
        }
        let shown: Vec<String> =
            within.iter().take(SHOWN).map(|(ip, node)| format!("{ip} of node {node}")).collect();
        let more = match within.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        report.warning(
            "spec.addresses",
            range.to_string(),
            format!("contains addresses of nodes: {}{more}", shown.join(", ")),
            "they are assigned to no Service; leave them out of the pool",
        );
    }
}

fn allocation(spec: &ServiceAllocation, objects: &Objects, report: &mut Report<'_>) -> Allocation {
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
            "use a number from 1 on, or 0 for last",
        );
    }
    let empty = BTreeMap::new();
    let selected = objects.namespaces.iter().filter(|namespace| {
        let labels = namespace.metadata.labels.as_ref().unwrap_or(&empty);
        by_label.iter().any(|selector| selector.matches(labels))
    });
    let by_namespace = !named.is_empty() || !by_label.is_empty();
    // Who does not allocate knows no namespaces.
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
    fn the_capacity_leaves_out_what_is_kept_back() {
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
