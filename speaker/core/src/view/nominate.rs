//! Which nodes may own a group. That is worked out once for all groups that are alike.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use rules::L2Advertisement;

use super::advertised::{Advertised, SetId};
use super::candidates::{self, Eligible, Subnets};
use super::partition::{Cell, Part};
use super::ranking::{Set, Sets};
use super::{Candidate, Idle, NodeName, Tier};
use crate::link::Scope;
use crate::placement::Placement;

/// The number of a class of groups that are alike, see [`Classes`].
pub(super) type ClassId = usize;

/// Why nobody may own a group, with what there is to say beyond [`Idle::message`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nobody {
    pub(super) idle: Idle,
    pub(super) detail: Option<Arc<str>>,
    /// See [`Group::retainable`](super::Group::retainable).
    pub(super) retainable: bool,
}

/// What decides which nodes may own a group, and in which tier each is.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Class {
    members: Box<[Member]>,
    subnets: Box<[Vec<(IpAddr, u8)>]>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Member {
    verdict: Result<SetId, Idle>,
    /// Whether it has addresses of each family.
    families: [bool; 2],
    /// Whether there is an endpoint that can serve.
    serving: bool,
    /// With a local traffic policy: the nodes that have one.
    on: Option<Arc<[NodeName]>>,
}

/// The classes that there are or have been, and of each the nodes that may own its groups.
#[derive(Debug, Default)]
pub(super) struct Classes {
    numbers: HashMap<Class, ClassId>,
    /// As far as they were asked for since the nodes have changed.
    nominated: Vec<Option<Result<Arc<Set>, Nobody>>>,
}

impl Classes {
    /// The class of a group.
    pub(super) fn of(&mut self, parts: &[Part], subnets: &Subnets) -> ClassId {
        let member = |part: &Part| Member {
            verdict: part.verdict,
            families: [true, false].map(|v4| part.service.addresses.iter().any(|ip| ip.is_ipv4() == v4)),
            serving: part.serving.is_some(),
            on: part.serving.clone().filter(|_| part.service.local),
        };
        let subnets_of = |ip: IpAddr| subnets.containing(ip).collect();
        let class = Class {
            members: parts.iter().map(member).collect(),
            subnets: addresses_of(parts).into_iter().map(subnets_of).collect(),
        };
        let next = self.numbers.len();
        let number = *self.numbers.entry(class).or_insert(next);
        self.nominated.resize(self.numbers.len(), None);
        number
    }

    /// How many there are or have been.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Other nodes may own groups from now on.
    pub(super) fn nodes_changed(&mut self) {
        self.nominated.fill(None);
    }

    /// The nodes that may own the group of `cell`.
    pub(super) fn nominate(
        &mut self,
        cell: &Cell,
        nominator: &mut Nominator<'_>,
        sets: &mut Sets,
    ) -> Result<Arc<Set>, Nobody> {
        if let Some(Some(known)) = self.nominated.get(cell.class) {
            return known.clone();
        }
        let result = match nominator.nodes(&cell.parts) {
            Ok(nodes) => Ok(sets.of_nodes(nominator.candidates(&nodes, &cell.parts))),
            Err(nobody) => Err(Nobody { retainable: nominator.may_retain(&cell.parts), ..nobody }),
        };
        if let Some(nominated) = self.nominated.get_mut(cell.class) {
            *nominated = Some(result.clone());
        }
        result
    }
}

/// The addresses of a group, in order.
fn addresses_of(parts: &[Part]) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> =
        parts.iter().flat_map(|part| part.service.addresses.iter().copied()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Works out which nodes may own a group.
pub(super) struct Nominator<'a> {
    eligible: &'a [Eligible],
    /// See [`candidates::unready`].
    unready: Option<&'a Eligible>,
    advertised: &'a Advertised,
    placement: Placement,
    scopes: HashMap<(SetId, usize), Option<Arc<Scope>>>,
}

impl<'a> Nominator<'a> {
    pub(super) fn new(
        eligible: &'a [Eligible],
        unready: Option<&'a Eligible>,
        advertised: &'a Advertised,
        placement: Placement,
    ) -> Self {
        Self { eligible, unready, advertised, placement, scopes: HashMap::new() }
    }

    /// Whether this node could own the group if it and its speaker's pod were ready.
    fn may_retain(&self, parts: &[Part]) -> bool {
        self.unready.is_some_and(|unready| {
            Self::new(std::slice::from_ref(unready), None, self.advertised, self.placement)
                .nodes(parts)
                .is_ok()
        })
    }

    /// The nodes, by their places among the eligible ones.
    fn nodes(&mut self, parts: &[Part]) -> Result<Vec<usize>, Nobody> {
        let mut common: Option<Vec<usize>> = None;
        let mut refused = None;
        for part in parts {
            let set = match part.verdict {
                Ok(set) => set,
                // Shared addresses stand and fall together: a Service that must not be announced holds the others.
                Err(Idle::SharedWithServiceSelector) => return Err(Idle::SharedWithServiceSelector.into()),
                Err(idle) => {
                    refused = Some(idle);
                    continue;
                }
            };
            let Some(serving) = &part.serving else { continue };
            let on = part.service.local.then_some(&**serving);
            let alone = self.alone(set, on, &part.service.addresses)?;
            common = Some(match common {
                None => alone,
                Some(mut common) => {
                    let alone: HashSet<usize> = alone.into_iter().collect();
                    common.retain(|node| alone.contains(node));
                    common
                }
            });
        }
        match common {
            Some(common) if common.is_empty() => Err(Idle::NoCommonCandidate.into()),
            Some(common) => Ok(common),
            None => Err(refused.unwrap_or(Idle::NoEndpoints).into()),
        }
    }

    /// The nodes that may announce one Service. The conditions come one after the other, so that the first that leaves
    /// nobody is the reason.
    fn alone(
        &mut self,
        set: SetId,
        on: Option<&[NodeName]>,
        addresses: &[IpAddr],
    ) -> Result<Vec<usize>, Nobody> {
        let eligible = self.eligible;
        if eligible.is_empty() {
            return Err(Idle::NoCandidate.into());
        }
        let nodes: Vec<usize> = match on {
            None => (0..eligible.len()).collect(),
            Some(on) => {
                let place =
                    |name: &NodeName| eligible.binary_search_by(|node| node.facts.name.cmp(name)).ok();
                on.iter().filter_map(place).collect()
            }
        };
        let mut left = some_of(nodes, || Nobody {
            idle: Idle::NoLocalEndpoint,
            detail: on.and_then(|on| listed("its endpoints are on", on.iter().map(|name| &**name))),
            retainable: false,
        })?;
        left.retain(|node| self.scope(set, *node).is_some());
        let mut left = some_of(left, || Idle::NoMatchingNode.into())?;
        let matching = left.clone();
        let on_link = |this: &mut Self, node: usize, fits: &dyn Fn(&Eligible, &Scope) -> bool| {
            this.scope(set, node).is_some_and(|scope| fits(&eligible[node], &scope))
        };
        left.retain(|node| on_link(self, *node, &|node, scope| node.has_link_of(scope)));
        let mut left = some_of(left, || self.no_interface(set, &matching))?;
        let with_link = left.clone();
        left.retain(|node| on_link(self, *node, &|node, scope| node.speaks_for(scope, addresses)));
        some_of(left, || {
            let family = if addresses.iter().any(IpAddr::is_ipv6) { Idle::NoIpv6 } else { Idle::NoIpv4 };
            let names = with_link.iter().map(|node| &*eligible[*node].facts.name);
            Nobody { idle: family, detail: listed("considered:", names), retainable: false }
        })
    }

    fn no_interface(&self, set: SetId, nodes: &[usize]) -> Nobody {
        let mut interfaces: Vec<&str> =
            self.advertised.set(set).iter().flat_map(|a| &a.interfaces).map(String::as_str).collect();
        interfaces.sort_unstable();
        interfaces.dedup();
        let names = nodes.iter().map(|node| &*self.eligible[*node].facts.name);
        let what = match interfaces[..] {
            [] => "considered:".to_owned(),
            _ => format!("{} is missing or down on", interfaces.join(", ")),
        };
        Nobody { idle: Idle::NoInterface, detail: listed(&what, names), retainable: false }
    }

    /// The links of a node that a set of advertisements covers.
    fn scope(&mut self, set: SetId, node: usize) -> Option<Arc<Scope>> {
        let advertised = self.advertised;
        let labels = &self.eligible[node].facts.labels;
        let found = || candidates::scope_on(advertised.set(set), labels).map(Arc::new);
        self.scopes.entry((set, node)).or_insert_with(found).clone()
    }

    fn candidates(&self, nodes: &[usize], parts: &[Part]) -> Vec<Candidate> {
        let all: Vec<&[Arc<L2Advertisement>]> =
            parts.iter().filter_map(|part| Some(self.advertised.set(part.verdict.ok()?))).collect();
        let addresses = addresses_of(parts);
        let reach = |node: &Eligible| {
            let scopes = all.iter().filter_map(|set| candidates::scope_on(set, &node.facts.labels));
            node.reaches(&scopes.reduce(Scope::union)?, &addresses)
        };
        let eligible = || nodes.iter().map(|node| &self.eligible[*node]);
        let reaching: Vec<Option<bool>> = eligible().map(reach).collect();
        let somebody = reaching.contains(&Some(true));
        let candidate = |(node, reaches): (&Eligible, &Option<bool>)| {
            let preferred = all.iter().map(|set| candidates::preference(set, &node.facts.labels));
            let tier = Tier {
                remote: somebody && *reaches == Some(false),
                // MetalLB's function knows no cordon.
                cordoned: node.facts.cordoned && self.placement != Placement::Hash,
                preference: -preferred.sum::<i64>(),
            };
            Candidate { node: node.facts.name.clone(), id: node.id, tier }
        };
        eligible().zip(&reaching).map(candidate).collect()
    }
}

impl From<Idle> for Nobody {
    fn from(idle: Idle) -> Self {
        Self { idle, detail: None, retainable: false }
    }
}

fn some_of(nodes: Vec<usize>, otherwise: impl FnOnce() -> Nobody) -> Result<Vec<usize>, Nobody> {
    if nodes.is_empty() { Err(otherwise()) } else { Ok(nodes) }
}

/// The first few names, after some words.
fn listed<'n>(words: &str, names: impl ExactSizeIterator<Item = &'n str>) -> Option<Arc<str>> {
    const SHOWN: usize = 5;
    let more = names.len().saturating_sub(SHOWN);
    let mut text = words.to_owned();
    for (index, name) in names.take(SHOWN).enumerate() {
        let _ = write!(text, "{} {name}", if index == 0 { "" } else { "," });
    }
    if more > 0 {
        let _ = write!(text, " and {more} more");
    }
    (text.len() > words.len()).then(|| text.into())
}
