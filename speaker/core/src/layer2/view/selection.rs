//! Selects the nodes that may own a group, once for each equivalence class of groups.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use rules::L2Advertisement;

use super::advertised::{AdvertisementIndex, SetId, preference, scope_on};
use super::partition::{GroupMember, SharedGroup};
use super::ranking::{CandidateSet, CandidateSets};
use super::subnets::Subnets;
use super::{Candidate, NotAnnounced, Tier};
use crate::cluster::link::Scope;
use crate::cluster::{Eligible, NodeName};
use crate::layer2::placement::Placement;

/// The number of an equivalence class, see [`EquivalenceClasses`].
pub(super) type ClassId = usize;

/// Why no node may own a group, with details in addition to [`NotAnnounced::message`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NoCandidates {
    pub(super) not_announced: NotAnnounced,
    pub(super) detail: Option<Arc<str>>,
    /// See [`Group::retainable`](super::Group::retainable).
    pub(super) retainable: bool,
}

/// Everything that determines which nodes may own a group, and their tiers.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ClassKey {
    members: Box<[MemberKey]>,
    subnets: Box<[Vec<(IpAddr, u8)>]>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct MemberKey {
    advertisements: Result<SetId, NotAnnounced>,
    /// Whether it has addresses of each family.
    families: [bool; 2],
    /// Whether an endpoint can serve.
    serving: bool,
    /// With a local traffic policy: the nodes with such an endpoint.
    on: Option<Arc<[NodeName]>>,
}

/// The known equivalence classes, and the nodes that may own the groups of each.
#[derive(Debug, Default)]
pub(super) struct EquivalenceClasses {
    numbers: HashMap<ClassKey, ClassId>,
    /// As far as they were requested since the nodes last changed.
    selected: Vec<Option<Result<Arc<CandidateSet>, NoCandidates>>>,
}

impl EquivalenceClasses {
    /// The class of a group.
    pub(super) fn class_of(&mut self, members: &[GroupMember], subnets: &Subnets) -> ClassId {
        let member = |member: &GroupMember| MemberKey {
            advertisements: member.advertisements,
            families: [true, false].map(|v4| member.service.addresses.iter().any(|ip| ip.is_ipv4() == v4)),
            serving: member.serving.is_some(),
            on: member.serving.clone().filter(|_| member.service.local),
        };
        let subnets_of = |ip: IpAddr| subnets.containing(ip).collect();
        let class = ClassKey {
            members: members.iter().map(member).collect(),
            subnets: addresses_of(members).into_iter().map(subnets_of).collect(),
        };
        let next = self.numbers.len();
        let number = *self.numbers.entry(class).or_insert(next);
        self.selected.resize(self.numbers.len(), None);
        number
    }

    /// The number of known classes.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The nodes have changed: discards all selections.
    pub(super) fn nodes_changed(&mut self) {
        self.selected.fill(None);
    }

    /// The nodes that may own the group of `shared_group`.
    pub(super) fn select(
        &mut self,
        shared_group: &SharedGroup,
        selector: &mut CandidateSelector<'_>,
        sets: &mut CandidateSets,
    ) -> Result<Arc<CandidateSet>, NoCandidates> {
        if let Some(Some(known)) = self.selected.get(shared_group.class) {
            return known.clone();
        }
        let result = match selector.nodes(&shared_group.members) {
            Ok(nodes) => Ok(sets.of_nodes(selector.candidates(&nodes, &shared_group.members))),
            Err(reason) => {
                Err(NoCandidates { retainable: selector.may_retain(&shared_group.members), ..reason })
            }
        };
        if let Some(selected) = self.selected.get_mut(shared_group.class) {
            *selected = Some(result.clone());
        }
        result
    }
}

/// The addresses of a group, in order.
fn addresses_of(members: &[GroupMember]) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> =
        members.iter().flat_map(|member| member.service.addresses.iter().copied()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Determines which nodes may own a group.
pub(super) struct CandidateSelector<'a> {
    eligible: &'a [Eligible],
    /// See [`crate::cluster::unready`].
    unready: Option<&'a Eligible>,
    advertised: &'a AdvertisementIndex,
    placement: Placement,
    scopes: HashMap<(SetId, usize), Option<Arc<Scope>>>,
}

impl<'a> CandidateSelector<'a> {
    pub(super) fn new(
        eligible: &'a [Eligible],
        unready: Option<&'a Eligible>,
        advertised: &'a AdvertisementIndex,
        placement: Placement,
    ) -> Self {
        Self { eligible, unready, advertised, placement, scopes: HashMap::new() }
    }

    /// Whether this node could own the group if it and its speaker's pod were ready.
    fn may_retain(&self, members: &[GroupMember]) -> bool {
        self.unready.is_some_and(|unready| {
            Self::new(std::slice::from_ref(unready), None, self.advertised, self.placement)
                .nodes(members)
                .is_ok()
        })
    }

    /// The nodes, as indices into the eligible ones.
    fn nodes(&mut self, members: &[GroupMember]) -> Result<Vec<usize>, NoCandidates> {
        let mut common: Option<Vec<usize>> = None;
        let mut refused = None;
        for member in members {
            let set = match member.advertisements {
                Ok(set) => set,
                // A shared address is announced for all its Services or for none.
                Err(NotAnnounced::SharedWithServiceSelector) => {
                    return Err(NotAnnounced::SharedWithServiceSelector.into());
                }
                Err(not_announced) => {
                    refused = Some(not_announced);
                    continue;
                }
            };
            let Some(serving) = &member.serving else { continue };
            let on = member.service.local.then_some(&**serving);
            let nodes = self.nodes_for_service(set, on, &member.service.addresses)?;
            common = Some(match common {
                None => nodes,
                Some(mut common) => {
                    let nodes: HashSet<usize> = nodes.into_iter().collect();
                    common.retain(|node| nodes.contains(node));
                    common
                }
            });
        }
        match common {
            Some(common) if common.is_empty() => Err(NotAnnounced::NoCommonCandidate.into()),
            Some(common) => Ok(common),
            None => Err(refused.unwrap_or(NotAnnounced::NoEndpoints).into()),
        }
    }

    /// The nodes that may announce one Service. The conditions are applied one after the other, so that the
    /// first one that leaves no node is the reason.
    fn nodes_for_service(
        &mut self,
        set: SetId,
        on: Option<&[NodeName]>,
        addresses: &[IpAddr],
    ) -> Result<Vec<usize>, NoCandidates> {
        let eligible = self.eligible;
        if eligible.is_empty() {
            return Err(NotAnnounced::NoCandidate.into());
        }
        let nodes: Vec<usize> = match on {
            None => (0..eligible.len()).collect(),
            Some(on) => {
                let place = |name: &NodeName| eligible.binary_search_by(|node| node.info.name.cmp(name)).ok();
                on.iter().filter_map(place).collect()
            }
        };
        let mut left = non_empty_or(nodes, || NoCandidates {
            not_announced: NotAnnounced::NoLocalEndpoint,
            detail: on.and_then(|on| list_names("its endpoints are on", on.iter().map(|name| &**name))),
            retainable: false,
        })?;
        left.retain(|node| self.scope(set, *node).is_some());
        let mut left = non_empty_or(left, || NotAnnounced::NoMatchingNode.into())?;
        let matching = left.clone();
        let on_link = |this: &mut Self, node: usize, fits: &dyn Fn(&Eligible, &Scope) -> bool| {
            this.scope(set, node).is_some_and(|scope| fits(&eligible[node], &scope))
        };
        left.retain(|node| on_link(self, *node, &|node, scope| node.has_link_of(scope)));
        let mut left = non_empty_or(left, || self.no_interface(set, &matching))?;
        let with_link = left.clone();
        left.retain(|node| on_link(self, *node, &|node, scope| node.supports_family(scope, addresses)));
        non_empty_or(left, || {
            let family = if addresses.iter().any(IpAddr::is_ipv6) {
                NotAnnounced::NoIpv6
            } else {
                NotAnnounced::NoIpv4
            };
            let names = with_link.iter().map(|node| &*eligible[*node].info.name);
            NoCandidates {
                not_announced: family,
                detail: list_names("considered:", names),
                retainable: false,
            }
        })
    }

    fn no_interface(&self, set: SetId, nodes: &[usize]) -> NoCandidates {
        let mut interfaces: Vec<&str> =
            self.advertised.set(set).iter().flat_map(|a| &a.interfaces).map(String::as_str).collect();
        interfaces.sort_unstable();
        interfaces.dedup();
        let names = nodes.iter().map(|node| &*self.eligible[*node].info.name);
        let what = match interfaces[..] {
            [] => "considered:".to_owned(),
            _ => format!("{} is missing or down on", interfaces.join(", ")),
        };
        NoCandidates {
            not_announced: NotAnnounced::NoInterface,
            detail: list_names(&what, names),
            retainable: false,
        }
    }

    /// The links of a node that a set of advertisements covers.
    fn scope(&mut self, set: SetId, node: usize) -> Option<Arc<Scope>> {
        let advertised = self.advertised;
        let labels = &self.eligible[node].info.labels;
        let found = || scope_on(advertised.set(set), labels).map(Arc::new);
        self.scopes.entry((set, node)).or_insert_with(found).clone()
    }

    fn candidates(&self, nodes: &[usize], members: &[GroupMember]) -> Vec<Candidate> {
        let all: Vec<&[Arc<L2Advertisement>]> = members
            .iter()
            .filter_map(|member| Some(self.advertised.set(member.advertisements.ok()?)))
            .collect();
        let addresses = addresses_of(members);
        let reach = |node: &Eligible| {
            let scopes = all.iter().filter_map(|set| scope_on(set, &node.info.labels));
            node.reaches(&scopes.reduce(Scope::union)?, &addresses)
        };
        let eligible = || nodes.iter().map(|node| &self.eligible[*node]);
        let reaching: Vec<Option<bool>> = eligible().map(reach).collect();
        let any_reaches = reaching.contains(&Some(true));
        let candidate = |(node, reaches): (&Eligible, &Option<bool>)| {
            let preferred = all.iter().map(|set| preference(set, &node.info.labels));
            let tier = Tier {
                remote: any_reaches && *reaches == Some(false),
                // MetalLB's function ignores cordons.
                cordoned: node.info.cordoned && self.placement != Placement::Hash,
                preference: -preferred.sum::<i64>(),
            };
            Candidate { node: node.info.name.clone(), id: node.id, tier }
        };
        eligible().zip(&reaching).map(candidate).collect()
    }
}

impl From<NotAnnounced> for NoCandidates {
    fn from(not_announced: NotAnnounced) -> Self {
        Self { not_announced, detail: None, retainable: false }
    }
}

fn non_empty_or(
    nodes: Vec<usize>,
    otherwise: impl FnOnce() -> NoCandidates,
) -> Result<Vec<usize>, NoCandidates> {
    if nodes.is_empty() { Err(otherwise()) } else { Ok(nodes) }
}

/// The first few names, after a prefix.
fn list_names<'n>(words: &str, names: impl ExactSizeIterator<Item = &'n str>) -> Option<Arc<str>> {
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
