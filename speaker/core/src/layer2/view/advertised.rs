//! Which L2Advertisements apply to a Service.
//!
//! An address in a Service's status stays announced whatever happens to its pool, and an advertisement with
//! an error stays in effect as far as it can be parsed. All of this depends only on the objects of the API,
//! so that a restarted speaker comes to the same result as one that kept running.

use std::cell::LazyCell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use rules::{Configuration, L2Advertisement, PartialL2Advertisement};

use super::NotAnnounced;
use crate::cluster::link::Scope;
use crate::cluster::objects::ServiceInfo;

/// The number of a set of advertisements, see [`AdvertisementIndex::set`].
pub(super) type SetId = usize;

/// The advertisements, by pool.
#[derive(Debug, Default)]
pub(super) struct AdvertisementIndex {
    valid: Vec<Arc<L2Advertisement>>,
    /// Advertisements with an error, without the selectors that cannot be parsed.
    narrow: Vec<Arc<L2Advertisement>>,
    /// Advertisements with an error, without the lists that cannot be parsed completely.
    wide: Vec<Arc<L2Advertisement>>,
    by_pool: HashMap<PoolOf, [Matching; 2]>,
    sets: Vec<Vec<Arc<L2Advertisement>>>,
    /// The number of each set, by the addresses in memory of its members, which `valid`, `narrow` and `wide`
    /// keep alive.
    numbers: HashMap<Vec<usize>, SetId>,
}

/// The pool that an address comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum PoolOf {
    /// The pool of this name, whether or not it is valid or still exists.
    Named(Box<str>),
    /// A pool that cannot be parsed.
    Unreadable,
}

/// The advertisements that select a pool, or for which that cannot be decided.
#[derive(Debug, Default)]
struct Matching {
    valid: Vec<Arc<L2Advertisement>>,
    narrow: Vec<Arc<L2Advertisement>>,
    wide: Vec<Arc<L2Advertisement>>,
}

impl AdvertisementIndex {
    pub(super) fn new(configuration: &Configuration) -> Self {
        let partial = || configuration.partial_l2_advertisements.iter();
        Self {
            valid: configuration.l2_advertisements.iter().cloned().map(Arc::new).collect(),
            narrow: partial().filter_map(PartialL2Advertisement::narrow).map(Arc::new).collect(),
            wide: partial().map(|partial| Arc::new(partial.wide())).collect(),
            by_pool: HashMap::new(),
            sets: Vec::new(),
            numbers: HashMap::new(),
        }
    }

    /// The number of cached entries.
    pub(super) fn len(&self) -> usize {
        self.sets.len() + self.by_pool.len()
    }

    /// The advertisements of a set.
    pub(super) fn set(&self, id: SetId) -> &[Arc<L2Advertisement>] {
        self.sets.get(id).map(Vec::as_slice).unwrap_or_default()
    }

    /// The advertisements that apply to `service`: those that select its pool, else those for which that
    /// cannot be decided. One with an error counts without the selectors that cannot be parsed; if no valid
    /// one applies to the Service, it counts without its constraints that cannot be parsed.
    ///
    /// The last resort for a Service that `was_announced`, according to its status objects: the last valid
    /// version of an advertisement with an error may have applied to it.
    ///
    /// `configuration` is the one from which this was created.
    pub(super) fn applicable(
        &mut self,
        configuration: &Configuration,
        service: &ServiceInfo,
        was_announced: bool,
    ) -> Result<SetId, NotAnnounced> {
        let pool = pool_of(configuration, service).ok_or(NotAnnounced::NoPool)?;
        if !self.by_pool.contains_key(&pool) {
            let matching = self.matching(configuration, &pool);
            self.by_pool.insert(pool.clone(), matching);
        }
        let matching = self.by_pool.get(&pool).into_iter().flatten();
        let labels = LazyCell::new(|| {
            let owned = |(key, value): &(Box<str>, Box<str>)| (key.to_string(), value.to_string());
            service.labels.iter().map(owned).collect::<BTreeMap<String, String>>()
        });
        // Most advertisements have no service selectors, and then the labels are not needed.
        let admits = |a: &L2Advertisement| a.service_selectors.is_empty() || a.admits_service(&labels);
        let about = |list: &[Arc<L2Advertisement>]| -> Vec<Arc<L2Advertisement>> {
            list.iter().filter(|a| admits(a)).cloned().collect()
        };
        for Matching { valid, narrow, wide } in matching {
            let mut set = about(valid);
            if service.shared && set.iter().any(|a| !a.service_selectors.is_empty()) {
                return Err(NotAnnounced::SharedWithServiceSelector);
            }
            set.extend(if set.is_empty() { about(wide) } else { about(narrow) });
            if !set.is_empty() {
                return Ok(self.number(set));
            }
        }
        if was_announced && !self.wide.is_empty() {
            return Ok(self.number(self.wide.clone()));
        }
        Err(NotAnnounced::NotAdvertised)
    }

    fn matching(&self, configuration: &Configuration, pool: &PoolOf) -> [Matching; 2] {
        let selects = |a: &L2Advertisement| match pool {
            PoolOf::Named(name) => a.selection.selects(name, configuration.pool_labels(name)),
            PoolOf::Unreadable => Some(true),
        };
        [Some(true), None].map(|wanted| {
            let list = |all: &[Arc<L2Advertisement>]| -> Vec<Arc<L2Advertisement>> {
                all.iter().filter(|a| selects(a) == wanted).cloned().collect()
            };
            Matching { valid: list(&self.valid), narrow: list(&self.narrow), wide: list(&self.wide) }
        })
    }

    fn number(&mut self, set: Vec<Arc<L2Advertisement>>) -> SetId {
        let key = set.iter().map(|one| Arc::as_ptr(one).addr()).collect();
        *self.numbers.entry(key).or_insert_with(|| {
            self.sets.push(set);
            self.sets.len() - 1
        })
    }
}

/// The pool that the Service's annotation names, else a pool that contains one of its addresses, else
/// possibly a pool that cannot be parsed.
fn pool_of(configuration: &Configuration, service: &ServiceInfo) -> Option<PoolOf> {
    let has = |ip: &IpAddr, name: &str| configuration.pools.get(name).is_some_and(|p| p.contains(*ip));
    let named = service.pool.as_deref();
    let holds = |name: &&str| {
        configuration.rejected_pools.contains_key(*name) || service.addresses.iter().any(|ip| has(ip, name))
    };
    let valid = || service.addresses.iter().find_map(|ip| configuration.pool_of(*ip));
    let rejected = || {
        let readable = |(_, ranges): &(&String, &Vec<rules::IpRange>)| {
            service.addresses.iter().any(|ip| ranges.iter().any(|range| range.contains(*ip)))
        };
        configuration.rejected_pools.iter().find(readable).map(|(name, _)| name.as_str())
    };
    let name =
        named.filter(holds).or_else(|| valid().map(|pool| pool.name.as_str())).or_else(rejected).or(named);
    let unreadable = || (!configuration.rejected_pools.is_empty()).then_some(PoolOf::Unreadable);
    name.map(|name| PoolOf::Named(name.into())).or_else(unreadable)
}

/// The links that `advertisements` cover on a node; none if no advertisement covers the node.
pub(super) fn scope_on(
    advertisements: &[Arc<L2Advertisement>],
    labels: &BTreeMap<String, String>,
) -> Option<Scope> {
    let covering = advertisements.iter().filter(|advertisement| advertisement.admits_node(labels));
    covering.map(|advertisement| scope_of(advertisement)).reduce(Scope::union)
}

fn scope_of(advertisement: &L2Advertisement) -> Scope {
    if advertisement.interfaces.is_empty() {
        Scope::All
    } else {
        Scope::Named(advertisement.interfaces.iter().cloned().collect())
    }
}

/// The sum of the weights with which `advertisements` prefer a node.
pub(super) fn preference(advertisements: &[Arc<L2Advertisement>], labels: &BTreeMap<String, String>) -> i64 {
    use crds::SelectorExt as _;
    let preferred = advertisements.iter().flat_map(|advertisement| &advertisement.preferred);
    preferred.filter(|p| p.selector.matches(labels)).map(|p| i64::from(p.weight)).sum()
}
