//! From the objects of the API to a [`View`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crds::annotations::{self, ALLOW_SHARED_IP};
use crds::names::{LABEL_SERVICE_NAME, LABEL_SERVICE_NAMESPACE};
use crds::{ServiceL2Status, annotations::EPOCH};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rules::{Configuration, L2Advertisement};

use super::candidates::{self, Eligible, Serving};
use super::{Candidate, Group, Idle, NodeName, ServiceKey, Tier, View};
use crate::link::{LinkFacts, Scope};
use crate::placement::{self, Placement};

/// What the API has, out of caches.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Services; those that are not load-balanced here are passed over.
    pub services: Vec<Arc<Service>>,
    /// Their endpoints.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// All nodes.
    pub nodes: Vec<Arc<Node>>,
    /// The pods of the speaker.
    pub speakers: Vec<Arc<Pod>>,
    /// Who announced what.
    pub statuses: Vec<Arc<ServiceL2Status>>,
    /// What each node tells of its links; for this node, what it knows itself.
    pub links: BTreeMap<NodeName, Vec<LinkFacts>>,
}

/// What the speaker was told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node that this speaker runs on.
    pub me: NodeName,
    /// The class of Services that are ours; none means those without a class.
    pub class: Option<String>,
    /// How groups are spread.
    pub placement: Placement,
    /// What the exclude label means.
    pub exclude_label: ExcludeLabel,
}

/// What `node.kubernetes.io/exclude-from-external-load-balancers` on a node means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExcludeLabel {
    /// Honoured, except where every node carries it, as in a cluster of one.
    #[default]
    Auto,
    /// Honoured always.
    Honour,
    /// Ignored.
    Ignore,
}

/// A Service with addresses, read once.
struct Entry<'a> {
    key: ServiceKey,
    service: &'a Service,
    addresses: Vec<IpAddr>,
    /// What is decided about it alone.
    verdict: Result<Vec<Arc<L2Advertisement>>, Idle>,
}

impl View {
    /// What `objects` and `configuration` say. `previous` is the view before: where an address has lost its
    /// pool, the advertisements that held for it go on to hold as long as it stands in the Service's status.
    pub fn build(
        settings: &Settings,
        objects: &Objects,
        configuration: &Configuration,
        previous: Option<&Self>,
    ) -> Self {
        let mut speakers = candidates::speakers(&objects.speakers);
        for (node, links) in &objects.links {
            if let Some(speaker) = speakers.get_mut(node) {
                speaker.macs = links.iter().map(|link| link.mac).collect();
            }
        }
        let eligible = candidates::eligible(objects, &speakers, settings.exclude_label);
        let serving = candidates::serving(&objects.slices);
        let last = last_owners(&objects.statuses);
        let advertisements: Vec<Arc<L2Advertisement>> =
            configuration.l2_advertisements.iter().cloned().map(Arc::new).collect();
        let entries: Vec<Entry<'_>> = objects
            .services
            .iter()
            .filter(|service| is_ours(service, settings.class.as_deref()))
            .filter_map(|service| entry(service, configuration, &advertisements, previous))
            .collect();
        let mut groups = BTreeMap::new();
        for members in tied_together(&entries) {
            let members: Vec<&Entry<'_>> = members.into_iter().map(|index| &entries[index]).collect();
            if let Some(group) = group(settings, &members, &eligible, &serving, &last, previous) {
                groups.insert(group.id, group);
            }
        }
        let advertised =
            entries.into_iter().filter_map(|entry| Some((entry.key, entry.verdict.ok()?))).collect();
        let placed = settings.placement.place(&groups);
        Self { speakers, groups, placed, placement: settings.placement, advertised }
    }
}

fn is_ours(service: &Service, class: Option<&str>) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.as_deref() == class
    })
}

/// The addresses in a Service's status, in its order.
fn addresses(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let parse = |text: &str| text.parse().ok().map(|ip: IpAddr| ip.to_canonical());
    ingress.iter().filter_map(|entry| parse(entry.ip.as_deref()?)).collect()
}

/// Reads one Service and finds the advertisements about it; none if it has no address.
fn entry<'a>(
    service: &'a Service,
    configuration: &Configuration,
    advertisements: &[Arc<L2Advertisement>],
    previous: Option<&View>,
) -> Option<Entry<'a>> {
    let key = ServiceKey::of(service);
    let addresses = addresses(service);
    let first = *addresses.first()?;
    let verdict = match configuration.pool_of(first) {
        Some(pool) => matching(service, &pool.name, advertisements),
        None => previous.and_then(|view| view.advertised.get(&key)).cloned().ok_or(Idle::NoPool),
    };
    Some(Entry { key, service, addresses, verdict })
}

/// The advertisements of the pool that are about the Service.
fn matching(
    service: &Service,
    pool: &str,
    advertisements: &[Arc<L2Advertisement>],
) -> Result<Vec<Arc<L2Advertisement>>, Idle> {
    let none = BTreeMap::new();
    let labels = service.metadata.labels.as_ref().unwrap_or(&none);
    let about = |a: &&Arc<L2Advertisement>| a.pools.contains(pool) && a.admits_service(labels);
    let matching: Vec<Arc<L2Advertisement>> = advertisements.iter().filter(about).cloned().collect();
    let shared = annotations::get(service.metadata.annotations.as_ref(), ALLOW_SHARED_IP).is_some();
    if matching.is_empty() {
        Err(Idle::NotAdvertised)
    } else if shared && matching.iter().any(|a| !a.service_selectors.is_empty()) {
        Err(Idle::SharedWithServiceSelector)
    } else {
        Ok(matching)
    }
}

/// The Services that have an address in common, directly or by way of others.
fn tied_together(entries: &[Entry<'_>]) -> Vec<Vec<usize>> {
    let mut leader: Vec<usize> = (0..entries.len()).collect();
    fn find(leader: &mut [usize], mut index: usize) -> usize {
        while leader[index] != index {
            leader[index] = leader[leader[index]];
            index = leader[index];
        }
        index
    }
    let mut first_with: HashMap<IpAddr, usize> = HashMap::new();
    for (index, entry) in entries.iter().enumerate() {
        for address in &entry.addresses {
            let other = *first_with.entry(*address).or_insert(index);
            let (a, b) = (find(&mut leader, index), find(&mut leader, other));
            leader[a.max(b)] = a.min(b);
        }
    }
    let mut sets: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for index in 0..entries.len() {
        sets.entry(find(&mut leader, index)).or_default().push(index);
    }
    sets.into_values().collect()
}

/// Puts a group together. `members` share addresses.
fn group(
    settings: &Settings,
    members: &[&Entry<'_>],
    eligible: &[Eligible<'_>],
    serving: &BTreeMap<(&str, &str), Serving>,
    last: &HashMap<(&str, &str), (NodeName, u64)>,
    previous: Option<&View>,
) -> Option<Arc<Group>> {
    let services: BTreeSet<ServiceKey> = members.iter().map(|entry| entry.key.clone()).collect();
    let hashed = members.iter().min_by_key(|entry| &entry.key)?.addresses.first().copied()?;
    let mine = eligible.iter().find(|node| node.name == settings.me);
    let mut addresses: BTreeMap<IpAddr, Scope> = BTreeMap::new();
    for entry in members {
        let scope =
            entry.verdict.as_ref().ok().zip(mine).and_then(|(a, me)| candidates::scope_on(a, me.labels));
        let scope = scope.unwrap_or(Scope::Named(BTreeSet::new()));
        for address in &entry.addresses {
            let known = addresses.remove(address).unwrap_or(Scope::Named(BTreeSet::new()));
            addresses.insert(*address, known.union(scope.clone()));
        }
    }
    let id = addresses.keys().next().copied()?;
    let (mut candidates, idle) = match nominate(members, eligible, serving) {
        Ok(nodes) => (candidates_of(&nodes, members, &addresses, settings.placement), None),
        Err(idle) => (Vec::new(), Some(idle)),
    };
    let last = members
        .iter()
        .filter_map(|entry| last.get(&(entry.key.namespace.as_str(), entry.key.name.as_str())))
        .max_by_key(|(node, epoch)| (*epoch, node.clone()))
        .cloned();
    let before = previous.and_then(|view| view.groups.get(&id));
    sort(hashed, &mut candidates, before);
    let group = Group { id, hashed, addresses, services, candidates, idle, last };
    Some(match before {
        Some(before) if **before == group => Arc::clone(before),
        _ => Arc::new(group),
    })
}

/// Sorts by [`placement::order`], or copies the order where nothing about it has changed: hashing every address
/// with every node is what costs most in a large cluster.
fn sort(hashed: IpAddr, candidates: &mut Vec<Candidate>, before: Option<&Arc<Group>>) {
    if let Some(before) = before.filter(|b| b.hashed == hashed && b.candidates.len() == candidates.len()) {
        let mut known: Vec<&Candidate> = before.candidates.iter().collect();
        known.sort_by(|a, b| a.node.cmp(&b.node));
        if known.iter().zip(&*candidates).all(|(a, b)| *a == b) {
            candidates.clone_from(&before.candidates);
            return;
        }
    }
    placement::order(hashed, candidates);
}

/// The nodes that may announce all of `members` that have endpoints, in order of their names.
fn nominate<'a, 'b>(
    members: &[&Entry<'_>],
    eligible: &'a [Eligible<'b>],
    serving: &BTreeMap<(&str, &str), Serving>,
) -> Result<Vec<&'a Eligible<'b>>, Idle> {
    let none = Serving::default();
    let mut common: Option<Vec<&Eligible<'b>>> = None;
    let mut refused = None;
    for entry in members {
        let serving = serving.get(&(entry.key.namespace.as_str(), entry.key.name.as_str())).unwrap_or(&none);
        let advertisements = match &entry.verdict {
            Ok(advertisements) => advertisements,
            // Shared addresses stand and fall together: a Service that must not be announced holds the others.
            Err(Idle::SharedWithServiceSelector) => return Err(Idle::SharedWithServiceSelector),
            Err(idle) => {
                refused = Some(*idle);
                continue;
            }
        };
        if !serving.anywhere {
            continue;
        }
        let spec = entry.service.spec.as_ref();
        let local = spec.and_then(|s| s.external_traffic_policy.as_deref()) == Some("Local");
        let fits = |node: &Eligible<'_>| {
            candidates::scope_on(advertisements, node.labels).is_some_and(|scope| node.has_link_of(&scope))
                && (!local || serving.nodes.contains(&*node.name))
        };
        let alone: Vec<&Eligible<'b>> = eligible.iter().filter(|node| fits(node)).collect();
        if alone.is_empty() {
            return Err(Idle::NoCandidate);
        }
        common = Some(match common {
            None => alone,
            Some(mut common) => {
                common.retain(|node| alone.iter().any(|other| other.name == node.name));
                common
            }
        });
    }
    match common {
        Some(common) if common.is_empty() => Err(Idle::NoCommonCandidate),
        Some(common) => Ok(common),
        None => Err(refused.unwrap_or(Idle::NoEndpoints)),
    }
}

fn candidates_of(
    nodes: &[&Eligible<'_>],
    members: &[&Entry<'_>],
    addresses: &BTreeMap<IpAddr, Scope>,
    placement: Placement,
) -> Vec<Candidate> {
    let preference = |node: &Eligible<'_>| {
        let all = members.iter().filter_map(|entry| entry.verdict.as_ref().ok());
        -all.map(|advertisements| candidates::preference(advertisements, node.labels)).sum::<i64>()
    };
    // As long as somebody has not told of its links, nobody is put behind for his own: all would differ.
    let all_told = nodes.iter().all(|node| node.links.is_some());
    let tier = |node: &Eligible<'_>| match placement {
        Placement::Hash => Tier { preference: preference(node), ..Tier::default() },
        Placement::Balanced => Tier {
            cordoned: node.cordoned,
            remote: all_told && !node.reaches(addresses),
            preference: preference(node),
        },
    };
    nodes.iter().map(|node| Candidate { node: node.name.clone(), id: node.id, tier: tier(node) }).collect()
}

/// Who announced each Service last, by its `ServiceL2Status`; of several the highest epoch counts.
fn last_owners(statuses: &[Arc<ServiceL2Status>]) -> HashMap<(&str, &str), (NodeName, u64)> {
    let mut last: HashMap<(&str, &str), (NodeName, u64)> = HashMap::new();
    for object in statuses {
        let Some(labels) = &object.metadata.labels else { continue };
        let (Some(namespace), Some(name)) =
            (labels.get(LABEL_SERVICE_NAMESPACE), labels.get(LABEL_SERVICE_NAME))
        else {
            continue;
        };
        let Some(node) = object.status.as_ref().and_then(|status| status.node.as_deref()) else { continue };
        let annotation = object.metadata.annotations.as_ref().and_then(|a| a.get(EPOCH));
        let epoch = annotation.and_then(|text| text.parse().ok()).unwrap_or(0);
        let owner = (NodeName::from(node), epoch);
        let entry = last.entry((namespace, name)).or_insert_with(|| owner.clone());
        if (owner.1, &owner.0) > (entry.1, &entry.0) {
            *entry = owner;
        }
    }
    last
}
