//! Which nodes may own a group. That is worked out once for all groups that are alike.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use rules::L2Advertisement;

use super::advertised::{Advertised, SetId};
use super::candidates::{self, Eligible, Serving, Subnets};
use super::ranking::Sets;
use super::{Addresses, Candidate, Idle, NodeName, Tier};
use crate::facts::ServiceFacts;
use crate::link::Scope;
use crate::placement::Placement;

/// A Service, and what is decided about it alone.
pub(super) struct Entry<'a> {
    pub(super) service: &'a ServiceFacts,
    pub(super) verdict: Result<SetId, Idle>,
}

/// Why nobody may own a group, with what there is to say beyond [`Idle::message`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nobody {
    pub(super) idle: Idle,
    pub(super) detail: Option<Arc<str>>,
}

/// What decides which nodes may own a group, and in which tier each is.
#[derive(PartialEq, Eq, Hash)]
struct Class<'a> {
    members: Vec<Member<'a>>,
    subnets: Vec<Vec<(IpAddr, u8)>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Member<'a> {
    verdict: Result<SetId, Idle>,
    /// Whether it has addresses of each family.
    families: [bool; 2],
    /// Whether there is an endpoint that can serve.
    serving: bool,
    /// With a local traffic policy: the nodes that have one.
    on: Option<&'a [&'a NodeName]>,
}

/// See the module.
pub(super) struct Nominator<'a> {
    pub(super) eligible: &'a [Eligible<'a>],
    pub(super) serving: &'a Serving<'a>,
    pub(super) subnets: Subnets,
    pub(super) advertised: &'a Advertised<'a>,
    pub(super) placement: Placement,
    classes: HashMap<Class<'a>, Result<usize, Nobody>>,
    scopes: HashMap<(SetId, usize), Option<Arc<Scope>>>,
}

impl<'a> Nominator<'a> {
    pub(super) fn new(
        eligible: &'a [Eligible<'a>],
        serving: &'a Serving<'a>,
        subnets: Subnets,
        advertised: &'a Advertised<'a>,
        placement: Placement,
    ) -> Self {
        let (classes, scopes) = (HashMap::new(), HashMap::new());
        Self { eligible, serving, subnets, advertised, placement, classes, scopes }
    }

    /// The number of the set of nodes that may announce all of `members` that have endpoints.
    pub(super) fn nominate(
        &mut self,
        members: &[&Entry<'a>],
        addresses: &Addresses,
        sets: &mut Sets,
    ) -> Result<usize, Nobody> {
        let class = self.class(members, addresses);
        if let Some(known) = self.classes.get(&class) {
            return known.clone();
        }
        let result = self.nodes(&class, members).map(|nodes| {
            let candidates = self.candidates(&nodes, members, addresses);
            sets.number(candidates)
        });
        self.classes.insert(class, result.clone());
        result
    }

    fn class(&self, members: &[&Entry<'a>], addresses: &Addresses) -> Class<'a> {
        let member = |entry: &&Entry<'a>| {
            let service = entry.service;
            let nodes = self.serving.get(&*service.key);
            Member {
                verdict: entry.verdict,
                families: [true, false].map(|v4| service.addresses.iter().any(|ip| ip.is_ipv4() == v4)),
                serving: nodes.is_some(),
                on: nodes.filter(|_| service.local).map(Vec::as_slice),
            }
        };
        let subnets = |ip: IpAddr| self.subnets.containing(ip).collect();
        Class {
            members: members.iter().map(member).collect(),
            subnets: addresses.keys().map(subnets).collect(),
        }
    }

    /// The nodes, by their places among the eligible ones.
    fn nodes(&mut self, class: &Class<'a>, members: &[&Entry<'a>]) -> Result<Vec<usize>, Nobody> {
        let mut common: Option<Vec<usize>> = None;
        let mut refused = None;
        for (member, entry) in class.members.iter().zip(members) {
            let set = match member.verdict {
                Ok(set) => set,
                // Shared addresses stand and fall together: a Service that must not be announced holds the others.
                Err(Idle::SharedWithServiceSelector) => return Err(Idle::SharedWithServiceSelector.into()),
                Err(idle) => {
                    refused = Some(idle);
                    continue;
                }
            };
            if !member.serving {
                continue;
            }
            let alone = self.alone(set, member, &entry.service.addresses)?;
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
    fn alone(&mut self, set: SetId, member: &Member<'_>, addresses: &[IpAddr]) -> Result<Vec<usize>, Nobody> {
        let eligible = self.eligible;
        if eligible.is_empty() {
            return Err(Idle::NoCandidate.into());
        }
        let nodes: Vec<usize> = match member.on {
            None => (0..eligible.len()).collect(),
            Some(on) => {
                let place = |name: &&NodeName| eligible.binary_search_by(|node| node.name.cmp(name)).ok();
                on.iter().filter_map(place).collect()
            }
        };
        let mut left = some_of(nodes, || Nobody {
            idle: Idle::NoLocalEndpoint,
            detail: member.on.and_then(|on| listed("its endpoints are on", on.iter().map(|name| &***name))),
        })?;
        left.retain(|node| self.scope(set, *node).is_some());
        let mut left = some_of(left, || Idle::NoMatchingNode.into())?;
        let matching = left.clone();
        let on_link = |this: &mut Self, node: usize, fits: &dyn Fn(&Eligible<'_>, &Scope) -> bool| {
            this.scope(set, node).is_some_and(|scope| fits(&eligible[node], &scope))
        };
        left.retain(|node| on_link(self, *node, &|node, scope| node.has_link_of(scope)));
        let mut left = some_of(left, || self.no_interface(set, &matching))?;
        let with_link = left.clone();
        left.retain(|node| on_link(self, *node, &|node, scope| node.speaks_for(scope, addresses)));
        some_of(left, || {
            let family = if addresses.iter().any(IpAddr::is_ipv6) { Idle::NoIpv6 } else { Idle::NoIpv4 };
            let names = with_link.iter().map(|node| &*eligible[*node].name);
            Nobody { idle: family, detail: listed("considered:", names) }
        })
    }

    fn no_interface(&self, set: SetId, nodes: &[usize]) -> Nobody {
        let mut interfaces: Vec<&str> =
            self.advertised.set(set).iter().flat_map(|a| &a.interfaces).map(String::as_str).collect();
        interfaces.sort_unstable();
        interfaces.dedup();
        let names = nodes.iter().map(|node| &*self.eligible[*node].name);
        let what = match interfaces[..] {
            [] => "considered:".to_owned(),
            _ => format!("{} is missing or down on", interfaces.join(", ")),
        };
        Nobody { idle: Idle::NoInterface, detail: listed(&what, names) }
    }

    /// The links of a node that a set of advertisements covers.
    fn scope(&mut self, set: SetId, node: usize) -> Option<Arc<Scope>> {
        let advertised = self.advertised;
        let labels = self.eligible[node].labels;
        let found = || candidates::scope_on(advertised.set(set), labels).map(Arc::new);
        self.scopes.entry((set, node)).or_insert_with(found).clone()
    }

    fn candidates(&self, nodes: &[usize], members: &[&Entry<'_>], addresses: &Addresses) -> Vec<Candidate> {
        let all: Vec<&[Arc<L2Advertisement>]> =
            members.iter().filter_map(|entry| Some(self.advertised.set(entry.verdict.ok()?))).collect();
        let addresses: Vec<IpAddr> = addresses.keys().collect();
        let reach = |node: &Eligible<'_>| {
            let scopes = all.iter().filter_map(|set| candidates::scope_on(set, node.labels));
            node.reaches(&scopes.reduce(Scope::union)?, &addresses)
        };
        let eligible = || nodes.iter().map(|node| &self.eligible[*node]);
        let reaching: Vec<Option<bool>> = eligible().map(reach).collect();
        let somebody = reaching.contains(&Some(true));
        let candidate = |(node, reaches): (&Eligible<'_>, &Option<bool>)| {
            let preferred = all.iter().map(|set| candidates::preference(set, node.labels));
            let tier = Tier {
                remote: somebody && *reaches == Some(false),
                // MetalLB's function knows no cordon.
                cordoned: node.cordoned && self.placement != Placement::Hash,
                preference: -preferred.sum::<i64>(),
            };
            Candidate { node: node.name.clone(), id: node.id, tier }
        };
        eligible().zip(&reaching).map(candidate).collect()
    }
}

impl From<Idle> for Nobody {
    fn from(idle: Idle) -> Self {
        Self { idle, detail: None }
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
