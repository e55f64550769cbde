//! The judged configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use rangemap::RangeInclusiveMap;

use crate::advertisement::{self, L2Advertisement, PartialL2Advertisement};
use crate::bgp::{self, BfdProfile, BgpAdvertisement, BgpContext, BgpPeer, CommunityValue};
use crate::finding::{Finding, ObjectRef, Report};
use crate::objects::{Objects, Precedence, oldest_first};
use crate::policy;
use crate::pool::{self, Pool, Seniority};
use crate::range::{Family, IpRange, bits};
use crate::references;

/// What all valid objects together mean.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Configuration {
    /// The pools by name. No two have an address in common.
    pub pools: BTreeMap<String, Pool>,
    /// The layer-2 advertisements, by age of their objects.
    pub l2_advertisements: Vec<L2Advertisement>,
    /// The BGP advertisements, by age of their objects.
    pub bgp_advertisements: Vec<BgpAdvertisement>,
    /// The BGP peers, by age of their objects.
    pub bgp_peers: Vec<BgpPeer>,
    /// The BFD profiles by name.
    pub bfd_profiles: BTreeMap<String, BfdProfile>,
    /// Names of BGP communities.
    pub communities: BTreeMap<String, CommunityValue>,
    /// Pools that were left out because of an error, with what can be read of their addresses. Nobody gets an
    /// address from them; nobody who has one loses it because of the error.
    pub left_out: BTreeMap<String, Vec<IpRange>>,
    /// The labels of those pools, by which advertisements select them.
    left_out_labels: BTreeMap<String, BTreeMap<String, String>>,
    /// What can be read of layer-2 advertisements that were left out because of an error.
    pub partial_l2_advertisements: Vec<PartialL2Advertisement>,
    index: Index,
}

/// Which pool has which addresses, per family.
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
    /// Judges `objects`: of two that clash the younger is left out, an invalid one is left out, the rest works.
    pub fn from_objects(objects: &Objects) -> (Self, Vec<Finding>) {
        Self::with_precedence(objects, &Precedence::default())
    }

    /// The same, but some objects come after others; and a pool of which an earlier version stands in is left without the
    /// addresses that pools before it have.
    pub(crate) fn with_precedence(objects: &Objects, precedence: &Precedence) -> (Self, Vec<Finding>) {
        let mut findings = Vec::new();
        let mut configuration = Self::default();
        let mut seniorities: BTreeMap<String, Seniority> = BTreeMap::new();
        let mut pools = oldest_first("IPAddressPool", &objects.pools, precedence);
        pools.sort_by_cached_key(|(this, object)| (precedence.rank(this), Seniority::of(object)));
        for (this, object) in pools {
            seniorities.insert(this.name.clone(), Seniority::of(&object));
            let trimmed = precedence.last.contains(&this);
            let mut report = Report::new(this, &mut findings);
            references::warn(&object.spec, objects, &mut report);
            if let Some(mut pool) = pool::judge(&object, objects, &mut report) {
                if trimmed {
                    pool.ranges = configuration.without_taken(&pool.ranges);
                }
                configuration.admit_pool(pool, &seniorities, &mut report);
            }
            if report.failed() {
                let name = object.metadata.name.clone().unwrap_or_default();
                configuration.left_out.insert(name.clone(), pool::readable_ranges(&object));
                let labels = object.metadata.labels.clone().unwrap_or_default();
                configuration.left_out_labels.insert(name, labels);
            }
        }
        for (this, object) in oldest_first("L2Advertisement", &objects.l2_advertisements, precedence) {
            let mut report = Report::new(this, &mut findings);
            references::warn(&object.spec, objects, &mut report);
            match advertisement::judge(&object, &configuration.pools, &mut report) {
                Ok(valid) => configuration.l2_advertisements.push(valid),
                Err(partial) => configuration.partial_l2_advertisements.push(*partial),
            }
        }
        configuration.l2_advertisements = advertisement::collapse(configuration.l2_advertisements);
        for (this, object) in oldest_first("PoolPolicy", &objects.pool_policies, precedence) {
            let mut report = Report::new(this, &mut findings);
            references::warn(&object.spec, objects, &mut report);
            policy::apply(&object, &mut configuration.pools, objects, &mut report);
        }
        configuration.judge_bgp(objects, precedence, &mut findings);
        (configuration, findings)
    }

    fn judge_bgp(&mut self, objects: &Objects, precedence: &Precedence, findings: &mut Vec<Finding>) {
        for (this, object) in oldest_first("BFDProfile", &objects.bfd_profiles, precedence) {
            let mut report = Report::new(this, findings);
            let profile = bgp::judge_bfd_profile(&object, &mut report);
            self.bfd_profiles.extend(profile.map(|profile| (profile.name.clone(), profile)));
        }
        for (this, object) in oldest_first("BGPPeer", &objects.bgp_peers, precedence) {
            let mut report = Report::new(this, findings);
            references::warn(&object.spec, objects, &mut report);
            if let Some(peer) = bgp::judge_peer(&object, &mut report) {
                bgp::warn_of_differences(&peer, &self.bgp_peers, &mut report);
                self.bgp_peers.push(peer);
            }
        }
        let mut communities = BTreeMap::new();
        for (this, object) in oldest_first("Community", &objects.communities, precedence) {
            let mut report = Report::new(this.clone(), findings);
            let names = bgp::judge_community(&object, &communities, &mut report);
            if !report.failed() {
                communities.extend(names.into_iter().map(|(name, value)| (name, (value, this.clone()))));
            }
        }
        let context = BgpContext { pools: &self.pools, peers: &self.bgp_peers };
        for (this, object) in oldest_first("BGPAdvertisement", &objects.bgp_advertisements, precedence) {
            let mut report = Report::new(this, findings);
            references::warn(&object.spec, objects, &mut report);
            let Some(new) = bgp::judge_advertisement(&object, &context, &mut report) else { continue };
            bgp::local_pref_clash(&new, &self.bgp_advertisements, &self.pools, &mut report);
            bgp::echo_with_ipv6(&new, &context, &self.bfd_profiles, &mut report);
            if !report.failed() {
                self.bgp_advertisements.push(new);
            }
        }
        self.communities = communities.into_iter().map(|(name, (value, _))| (name, value)).collect();
    }

    /// The pool that has `ip`.
    pub fn pool_of(&self, ip: IpAddr) -> Option<&Pool> {
        let name = self.index.of(Family::of(ip)).get(&bits(ip))?;
        self.pools.get(&**name)
    }

    /// The labels of the pool object of this name, valid or not; none if there is no such object.
    pub fn pool_labels(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.pools.get(name).map(|pool| &pool.labels).or_else(|| self.left_out_labels.get(name))
    }

    /// What is left of `ranges` without the addresses of pools.
    fn without_taken(&self, ranges: &[IpRange]) -> Vec<IpRange> {
        let taken = || self.pools.values().flat_map(|pool| &pool.ranges);
        ranges.iter().flat_map(|range| range.without_all(taken())).collect()
    }

    /// Leaves out pools that exist and of which nothing can be read but their names: what Services have of one stays. A
    /// pool of which an earlier version is known is not affected.
    pub fn leave_out_unreadable(&mut self, pools: &BTreeSet<String>) {
        for name in pools.iter().filter(|name| !self.pools.contains_key(*name)) {
            self.left_out.entry(name.clone()).or_default();
        }
    }

    /// Takes the account of rejected pools from `other`.
    pub(crate) fn keep_rejected(&mut self, other: &Self) {
        self.left_out.clone_from(&other.left_out);
        self.left_out_labels.clone_from(&other.left_out_labels);
    }

    /// Adds what `other` has of the advertisements that are `uncertain`, valid or not.
    pub(crate) fn keep_uncertain(&mut self, other: Self, uncertain: &BTreeSet<ObjectRef>) {
        let is_uncertain = |name: &str| {
            uncertain.iter().any(|object| object.kind == "L2Advertisement" && object.name == name)
        };
        let whole = other.l2_advertisements.into_iter().map(PartialL2Advertisement::whole);
        let rejected = other.partial_l2_advertisements.into_iter();
        let partial: Vec<PartialL2Advertisement> =
            rejected.chain(whole).filter(|partial| is_uncertain(partial.name())).collect();
        for partial in partial {
            if !self.partial_l2_advertisements.contains(&partial) {
                self.partial_l2_advertisements.push(partial);
            }
        }
    }

    /// Takes `pool` in unless it has addresses of an elder pool.
    fn admit_pool(&mut self, pool: Pool, seniorities: &BTreeMap<String, Seniority>, report: &mut Report<'_>) {
        let why = |elder: &str| match (seniorities.get(elder), seniorities.get(&pool.name)) {
            (Some(elder), Some(this)) => elder.why(this),
            _ => format!("the older pool {elder:?}"),
        };
        let mut elders: Vec<Arc<str>> = Vec::new();
        for range in &pool.ranges {
            let (first, last) = range.bits();
            for (_, elder) in self.index.of(range.family()).overlapping(&(first..=last)) {
                if !elders.contains(elder) {
                    elders.push(Arc::clone(elder));
                    let other = ObjectRef { name: elder.to_string(), ..report.object().clone() };
                    report.clash(
                        "spec.addresses",
                        range.to_string(),
                        format!("overlaps with addresses of {}", why(elder)),
                        "give each address to one pool only; this pool is left out until then",
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
