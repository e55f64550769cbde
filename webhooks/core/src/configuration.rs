//! The validated configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use rangemap::RangeInclusiveMap;

use crate::advertisement::{self, L2Advertisement, PartialL2Advertisement};
use crate::bgp::{self, BfdProfile, BgpAdvertisement, BgpContext, BgpPeer, CommunityValue};
use crate::finding::{Finding, ObjectRef, Reporter};
use crate::objects::{ConfigKind as _, Objects};
use crate::policy;
use crate::pool::{self, ConflictRank, Pool};
use crate::precedence::{Precedence, by_precedence};
use crate::range::{Family, IpRange, bits};
use crate::references;

/// The configuration that all valid objects make up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Configuration {
    /// The valid pools by name. No two of them have an address in common.
    pub pools: BTreeMap<String, Pool>,
    /// The layer-2 advertisements, by age of their objects.
    pub l2_advertisements: Vec<L2Advertisement>,
    /// The BGP advertisements, by age of their objects.
    pub bgp_advertisements: Vec<BgpAdvertisement>,
    /// The BGP peers, by age of their objects.
    pub bgp_peers: Vec<BgpPeer>,
    /// The BFD profiles by name.
    pub bfd_profiles: BTreeMap<String, BfdProfile>,
    /// BGP communities by alias.
    pub communities: BTreeMap<String, CommunityValue>,
    /// Rejected pools, with their readable addresses. No address is assigned from them, and no Service loses
    /// an address of them.
    pub rejected_pools: BTreeMap<String, Vec<IpRange>>,
    /// The labels of rejected pools, by which advertisements select them.
    rejected_pool_labels: BTreeMap<String, BTreeMap<String, String>>,
    /// The readable parts of rejected layer-2 advertisements.
    pub partial_l2_advertisements: Vec<PartialL2Advertisement>,
    index: Index,
}

/// Which pool has which addresses, by family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Index {
    v4: RangeInclusiveMap<u128, Arc<str>>,
    v6: RangeInclusiveMap<u128, Arc<str>>,
}

impl Index {
    fn of(&self, family: Family) -> &RangeInclusiveMap<u128, Arc<str>> {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn of_mut(&mut self, family: Family) -> &mut RangeInclusiveMap<u128, Arc<str>> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

impl Configuration {
    /// Validates `objects`: invalid ones are rejected, and of two conflicting ones the newer.
    pub fn from_objects(objects: &Objects) -> (Self, Vec<Finding>) {
        Self::with_precedence(objects, &Precedence::default())
    }

    /// The same with `precedence`. A pool that is replaced by its earlier version loses the addresses of
    /// pools that precede it.
    pub(crate) fn with_precedence(objects: &Objects, precedence: &Precedence) -> (Self, Vec<Finding>) {
        let mut findings = Vec::new();
        let mut configuration = Self::default();
        let mut ranks: BTreeMap<String, ConflictRank> = BTreeMap::new();
        let mut pools = by_precedence::<crds::IPAddressPool>(objects, precedence);
        pools.sort_by_cached_key(|(this, object)| (precedence.rank(this), ConflictRank::of(object)));
        for (this, object) in pools {
            ranks.insert(this.name.clone(), ConflictRank::of(&object));
            let substituted = precedence.substituted.contains(&this);
            let mut report = Reporter::new(this, &mut findings);
            references::warn_unresolved(&object.spec, objects, &mut report);
            if let Some(mut pool) = pool::validate(&object, objects, &mut report) {
                if substituted {
                    pool.ranges = configuration.without_used(&pool.ranges);
                }
                configuration.add_pool(pool, &ranks, &mut report);
            }
            if report.failed() {
                let name = object.metadata.name.clone().unwrap_or_default();
                configuration.rejected_pools.insert(name.clone(), pool::readable_ranges(&object));
                let labels = object.metadata.labels.clone().unwrap_or_default();
                configuration.rejected_pool_labels.insert(name, labels);
            }
        }
        for (this, object) in by_precedence::<crds::L2Advertisement>(objects, precedence) {
            let mut report = Reporter::new(this, &mut findings);
            references::warn_unresolved(&object.spec, objects, &mut report);
            match advertisement::validate(&object, &configuration.pools, &mut report) {
                Ok(valid) => configuration.l2_advertisements.push(valid),
                Err(partial) => configuration.partial_l2_advertisements.push(*partial),
            }
        }
        configuration.l2_advertisements = advertisement::dedup(configuration.l2_advertisements);
        for (this, object) in by_precedence::<crds::PoolPolicy>(objects, precedence) {
            let mut report = Reporter::new(this, &mut findings);
            references::warn_unresolved(&object.spec, objects, &mut report);
            policy::apply(&object, &mut configuration.pools, objects, &mut report);
        }
        configuration.validate_bgp(objects, precedence, &mut findings);
        (configuration, findings)
    }

    fn validate_bgp(&mut self, objects: &Objects, precedence: &Precedence, findings: &mut Vec<Finding>) {
        for (this, object) in by_precedence::<crds::BFDProfile>(objects, precedence) {
            let mut report = Reporter::new(this, findings);
            let profile = bgp::validate_bfd_profile(&object, &mut report);
            self.bfd_profiles.extend(profile.map(|profile| (profile.name.clone(), profile)));
        }
        for (this, object) in by_precedence::<crds::BGPPeer>(objects, precedence) {
            let mut report = Reporter::new(this, findings);
            references::warn_unresolved(&object.spec, objects, &mut report);
            if let Some(peer) = bgp::validate_peer(&object, &mut report) {
                bgp::warn_frr_mismatches(&peer, &self.bgp_peers, &mut report);
                self.bgp_peers.push(peer);
            }
        }
        let mut communities = BTreeMap::new();
        for (this, object) in by_precedence::<crds::Community>(objects, precedence) {
            let mut report = Reporter::new(this.clone(), findings);
            let names = bgp::validate_community(&object, &communities, &mut report);
            if !report.failed() {
                communities.extend(names.into_iter().map(|(name, value)| (name, (value, this.clone()))));
            }
        }
        let context = BgpContext { pools: &self.pools, peers: &self.bgp_peers };
        for (this, object) in by_precedence::<crds::BGPAdvertisement>(objects, precedence) {
            let mut report = Reporter::new(this, findings);
            references::warn_unresolved(&object.spec, objects, &mut report);
            let Some(new) = bgp::validate_advertisement(&object, &context, &mut report) else { continue };
            bgp::check_local_pref_conflict(&new, &self.bgp_advertisements, &self.pools, &mut report);
            bgp::check_bfd_echo_ipv6(&new, &context, &self.bfd_profiles, &mut report);
            if !report.failed() {
                self.bgp_advertisements.push(new);
            }
        }
        self.communities = communities.into_iter().map(|(name, (value, _))| (name, value)).collect();
    }

    /// The pool that contains `ip`.
    pub fn pool_of(&self, ip: IpAddr) -> Option<&Pool> {
        let name = self.index.of(Family::of(ip)).get(&bits(ip))?;
        self.pools.get(&**name)
    }

    /// The labels of the pool with this name, valid or rejected; none if it does not exist.
    pub fn pool_labels(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.pools.get(name).map(|pool| &pool.labels).or_else(|| self.rejected_pool_labels.get(name))
    }

    /// `ranges` without the addresses of pools.
    fn without_used(&self, ranges: &[IpRange]) -> Vec<IpRange> {
        let used = || self.pools.values().flat_map(|pool| &pool.ranges);
        ranges.iter().flat_map(|range| range.without_all(used())).collect()
    }

    /// Rejects pools that could not be decoded: Services keep their addresses of them. A pool of which an
    /// earlier version is in use is not affected.
    pub fn reject_undecodable(&mut self, pools: &BTreeSet<String>) {
        for name in pools.iter().filter(|name| !self.pools.contains_key(*name)) {
            self.rejected_pools.entry(name.clone()).or_default();
        }
    }

    /// Copies the rejected pools of `other`.
    pub(crate) fn keep_rejected(&mut self, other: &Self) {
        self.rejected_pools.clone_from(&other.rejected_pools);
        self.rejected_pool_labels.clone_from(&other.rejected_pool_labels);
    }

    /// Adds the advertisements of `other` that are `uncertain`, valid or rejected, as partial ones.
    pub(crate) fn keep_uncertain(&mut self, other: Self, uncertain: &BTreeSet<ObjectRef>) {
        let is_uncertain = |name: &str| {
            uncertain.iter().any(|object| object.kind == crds::L2Advertisement::KIND && object.name == name)
        };
        let valid = other.l2_advertisements.into_iter().map(PartialL2Advertisement::complete);
        let rejected = other.partial_l2_advertisements.into_iter();
        let partial: Vec<PartialL2Advertisement> =
            rejected.chain(valid).filter(|partial| is_uncertain(partial.name())).collect();
        for partial in partial {
            if !self.partial_l2_advertisements.contains(&partial) {
                self.partial_l2_advertisements.push(partial);
            }
        }
    }

    /// Adds `pool` unless it has addresses of a pool that precedes it.
    fn add_pool(&mut self, pool: Pool, ranks: &BTreeMap<String, ConflictRank>, report: &mut Reporter<'_>) {
        let describe = |other: &str| match (ranks.get(other), ranks.get(&pool.name)) {
            (Some(other), Some(this)) => other.describe_to(this),
            _ => format!("the older pool {other:?}"),
        };
        let mut conflicts: Vec<Arc<str>> = Vec::new();
        for range in &pool.ranges {
            let (first, last) = range.bits();
            for (_, pool) in self.index.of(range.family()).overlapping(&(first..=last)) {
                if !conflicts.contains(pool) {
                    conflicts.push(Arc::clone(pool));
                    let other = ObjectRef { name: pool.to_string(), ..report.object().clone() };
                    report.conflict(
                        "spec.addresses",
                        range.to_string(),
                        format!("overlaps with addresses of {}", describe(pool)),
                        "list each address in one pool only; this pool is not used until then",
                        other,
                    );
                }
            }
        }
        if report.failed() {
            return;
        }
        let name: Arc<str> = pool.name.as_str().into();
        for range in &pool.ranges {
            let (first, last) = range.bits();
            self.index.of_mut(range.family()).insert(first..=last, Arc::clone(&name));
        }
        self.pools.insert(pool.name.clone(), pool);
    }
}

#[cfg(test)]
mod bgp_tests;
#[cfg(test)]
mod tests;
