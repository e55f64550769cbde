//! The text of the ConfigMap of v0.8 to v0.12.

use std::collections::{BTreeMap, BTreeSet};

use crds::bgp_peer::Password;
use crds::{
    BFDProfile, BFDProfileSpec, BGPAdvertisement, BGPAdvertisementSpec, BGPPeer, BGPPeerSpec, Community,
    CommunityAlias, CommunitySpec, IPAddressPool, IPAddressPoolSpec, L2Advertisement, L2AdvertisementSpec,
    Resource,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::names::legal;
use super::yaml::{Entry, Reader, parse};
use super::{Converted, LineFinding, Unreadable, advertisement_name};
use crate::bgp::CommunityValue;
use crate::duration;
use crate::finding::ObjectRef;
use crate::range::parse_addresses;

/// The hold time of a peer that gives none, in seconds.
const HOLD_TIME: i64 = 90;

/// Converts `text`, the value of the key `config`.
///
/// # Errors
///
/// The text cannot be read as YAML, or is empty.
pub fn convert(text: &str, namespace: &str) -> Result<(Converted, Vec<LineFinding>), Unreadable> {
    let mut findings = Vec::new();
    let mut converted = Converted::default();
    let mut top = Reader::new(String::new(), parse(text)?, &mut findings);
    if let Some(line) = top.says_nothing() {
        return Err(Unreadable { empty: true, line, problem: "the text is empty".to_owned() });
    }
    bfd_profiles(&mut top, &mut converted);
    peers(&mut top, &mut converted);
    communities(&mut top, &mut converted);
    pools(&mut top, &mut converted);
    top.finish();
    // Marked by name so far.
    let faulty = std::mem::take(&mut converted.faulty).into_iter();
    converted.faulty =
        faulty.map(|object| ObjectRef { namespace: Some(namespace.to_owned()), ..object }).collect();
    converted.settle_in(namespace);
    findings.sort_by_key(|finding| finding.line);
    Ok((converted, findings))
}

fn bfd_profiles(top: &mut Reader<'_>, converted: &mut Converted) {
    for Entry { value: (profile, line), faulty } in top.entries("bfd-profiles", bfd_profile) {
        let twice = converted.bfd_profiles.iter().any(|other| other.metadata.name == profile.metadata.name);
        if faulty || twice {
            converted.spoil("BFDProfile", &profile);
        }
        if twice {
            same_name(top, line, "bfd-profiles", "BFD profiles", profile.metadata.name);
        } else {
            converted.bfd_profiles.push(profile);
        }
    }
}

/// Peers have no names; they are told apart by address. Several of one address are numbered.
fn peers(top: &mut Reader<'_>, converted: &mut Converted) {
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    for Entry { value: spec, faulty } in top.entries("peers", peer) {
        let address = spec.peer_address.as_deref().unwrap_or_default().to_ascii_lowercase();
        let name = format!("peer-{}", address.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
        let name = name.trim_end_matches('-').to_owned();
        let number = numbers.entry(name.clone()).or_default();
        *number += 1;
        let name = if *number == 1 { name } else { format!("{name}-{number}") };
        let peer = BGPPeer::new(&name, spec);
        if faulty {
            converted.spoil("BGPPeer", &peer);
        }
        converted.bgp_peers.push(peer);
    }
}

/// Of two pools of one name it is not known which one is meant: both are marked as faulty.
fn pools(top: &mut Reader<'_>, converted: &mut Converted) {
    let read = top.entries("address-pools", pool);
    let name = |pool: &IPAddressPool| pool.metadata.name.clone().unwrap_or_default();
    let names: BTreeSet<String> = read.iter().map(|entry| name(&entry.value.0)).collect();
    for Entry { value: (pool, announced), faulty } in read {
        let twice = converted.pools.iter().any(|other| other.metadata.name == pool.metadata.name);
        let mut own = Converted::default();
        if twice {
            same_name(top, announced.line, "address-pools", "pools", pool.metadata.name.clone());
            own.pools.push(pool);
            own.l2_advertisements = of_pool(&converted.l2_advertisements, &own.pools[0]);
            own.bgp_advertisements = of_pool(&converted.bgp_advertisements, &own.pools[0]);
            own.spoil_all();
            converted.faulty.append(&mut own.faulty);
            continue;
        }
        announce(&mut own, &pool, announced, &names);
        own.pools.push(pool);
        if faulty {
            own.spoil_all();
        }
        converted.pools.append(&mut own.pools);
        converted.l2_advertisements.append(&mut own.l2_advertisements);
        converted.bgp_advertisements.append(&mut own.bgp_advertisements);
        converted.faulty.append(&mut own.faulty);
    }
}

/// Those of `advertisements` that have the name of `pool`.
fn of_pool<K: Resource + Clone>(advertisements: &[K], pool: &IPAddressPool) -> Vec<K> {
    advertisements.iter().filter(|object| object.meta().name == pool.metadata.name).cloned().collect()
}

fn same_name(top: &mut Reader<'_>, line: u64, field: &str, what: &str, name: Option<String>) {
    let problem = format!("there are two {what} of the name {:?}", name.unwrap_or_default());
    top.error(line, field, problem, "give one of them another name");
}

impl Converted {
    pub(super) fn settle_in(&mut self, namespace: &str) {
        let settle = |slot: &mut Option<String>| *slot = Some(namespace.to_owned());
        self.pools.iter_mut().for_each(|object| settle(&mut object.metadata.namespace));
        self.l2_advertisements.iter_mut().for_each(|object| settle(&mut object.metadata.namespace));
        self.bgp_advertisements.iter_mut().for_each(|object| settle(&mut object.metadata.namespace));
        self.bgp_peers.iter_mut().for_each(|object| settle(&mut object.metadata.namespace));
        self.bfd_profiles.iter_mut().for_each(|object| settle(&mut object.metadata.namespace));
        self.communities.iter_mut().for_each(|object| settle(&mut object.metadata.namespace));
    }

    /// Marks every pool and advertisement as one of an entry with an error.
    pub(super) fn spoil_all(&mut self) {
        let pools = self.pools.iter().map(|object| ObjectRef::of("IPAddressPool", object));
        let layer2 = self.l2_advertisements.iter().map(|object| ObjectRef::of("L2Advertisement", object));
        let bgp = self.bgp_advertisements.iter().map(|object| ObjectRef::of("BGPAdvertisement", object));
        self.faulty.extend(pools.chain(layer2).chain(bgp));
    }
}

/// How a pool is announced.
struct Announced {
    layer2: bool,
    bgp: Vec<BGPAdvertisementSpec>,
    line: u64,
}

fn announce(converted: &mut Converted, pool: &IPAddressPool, announced: Announced, names: &BTreeSet<String>) {
    let pool = pool.metadata.name.clone().unwrap_or_default();
    let pools = Some(vec![pool.clone()]);
    for (spec, number) in announced.bgp.into_iter().zip(1..) {
        let spec = BGPAdvertisementSpec { ip_address_pools: pools.clone(), ..spec };
        let name = advertisement_name(&pool, number, names);
        converted.bgp_advertisements.push(BGPAdvertisement::new(&name, spec));
    }
    if announced.layer2 {
        let spec = L2AdvertisementSpec { ip_address_pools: pools, ..L2AdvertisementSpec::default() };
        converted.l2_advertisements.push(L2Advertisement::new(&pool, spec));
    }
}

fn boolean(text: &str) -> Option<bool> {
    // YAML 1.1, which the old MetalLB read, has more words for it than today's.
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" => Some(true),
        "false" | "no" | "off" | "n" => Some(false),
        _ => None,
    }
}

fn number(low: i64, high: i64) -> impl Fn(&str) -> Option<i64> {
    move |text| text.parse().ok().filter(|number| (low..=high).contains(number))
}

fn small(low: i32, high: i32) -> impl Fn(&str) -> Option<i32> {
    move |text| text.parse().ok().filter(|number| (low..=high).contains(number))
}

fn name(reader: &mut Reader<'_>, what: &str) -> Option<String> {
    let Some((given, line)) = reader.text("name") else {
        reader.error_here(format!("the {what} has no name"), "give it one");
        return None;
    };
    let Some(name) = legal(&given) else {
        reader.error(
            line,
            "name",
            format!("{given:?} cannot be made the name of an object"),
            "use lower-case letters, digits and dashes, beginning with a letter",
        );
        return None;
    };
    if name != given {
        reader.warning(
            line,
            "name",
            format!("{given:?} is no name of an object: it becomes {name:?}"),
            "write the new name wherever the old one is asked for, such as in Services' address-pool",
        );
    }
    Some(name)
}

fn pool(reader: &mut Reader<'_>) -> Option<(IPAddressPool, Announced)> {
    let name = name(reader, "pool")?;
    let addresses = reader.texts("addresses");
    if addresses.is_empty() {
        reader.error_here(format!("pool {name:?} has no addresses"), "list at least one prefix or range");
    }
    for (index, (text, line)) in addresses.iter().enumerate() {
        if let Err(fault) = parse_addresses(text) {
            let problem = format!("{text:?}: {}", fault.problem);
            reader.error(*line, &format!("addresses[{index}]"), problem, fault.remedy);
        }
    }
    let spec = IPAddressPoolSpec {
        addresses: addresses.into_iter().map(|(text, _)| text).collect(),
        auto_assign: reader.read("auto-assign", "true or false", boolean).unwrap_or(true),
        avoid_buggy_ips: reader.read("avoid-buggy-ips", "true or false", boolean).unwrap_or(false),
        service_allocation: None,
    };
    let line = reader.line();
    let mut bgp = reader.maps("bgp-advertisements", |reader| Some(bgp_advertisement(reader)));
    let protocol = reader.text("protocol");
    let layer2 = match protocol.as_ref().map(|(text, line)| (text.as_str(), *line)) {
        Some(("layer2", line)) => {
            if !bgp.is_empty() {
                let remedy = "remove them, or make the protocol bgp";
                reader.warning(line, "bgp-advertisements", "a layer2 pool announces nothing by BGP", remedy);
            }
            true
        }
        Some(("bgp", _)) => {
            if bgp.is_empty() {
                bgp.push(whole());
            }
            false
        }
        Some((other, line)) => {
            let problem = format!("{other:?} is not a valid protocol, so the pool is announced to nobody");
            reader.error(line, "protocol", problem, "use layer2 or bgp");
            false
        }
        None => {
            let remedy = "add `protocol: layer2` or `protocol: bgp`";
            reader.error_here("the pool has no protocol, so it is announced to nobody", remedy);
            false
        }
    };
    Some((IPAddressPool::new(&name, spec), Announced { layer2, bgp, line }))
}

/// An advertisement of single addresses, as today's schema fills it in.
fn whole() -> BGPAdvertisementSpec {
    BGPAdvertisementSpec {
        aggregation_length: Some(32),
        aggregation_length_v6: Some(128),
        ..BGPAdvertisementSpec::default()
    }
}

fn bgp_advertisement(reader: &mut Reader<'_>) -> BGPAdvertisementSpec {
    let communities: Vec<String> = reader.texts("communities").into_iter().map(|(text, _)| text).collect();
    BGPAdvertisementSpec {
        aggregation_length: Some(
            reader.read("aggregation-length", "a number from 1 to 32", small(1, 32)).unwrap_or(32),
        ),
        aggregation_length_v6: Some(
            reader.read("aggregation-length-v6", "a number from 1 to 128", small(1, 128)).unwrap_or(128),
        ),
        local_pref: reader.read("localpref", "a number from 0 to 4294967295", number(0, u32::MAX.into())),
        communities: (!communities.is_empty()).then_some(communities),
        ..BGPAdvertisementSpec::default()
    }
}

fn peer(reader: &mut Reader<'_>) -> Option<BGPPeerSpec> {
    let asn = "an AS number from 1 to 4294967295";
    let my_asn = reader.read("my-asn", asn, number(1, u32::MAX.into()));
    let peer_asn = reader.read("peer-asn", asn, number(1, u32::MAX.into()));
    let peer_address = reader.text("peer-address").map(|(text, _)| text);
    let seconds = |text: &str| duration::parse(text).map(duration::whole_seconds);
    let time = "a number with its unit, such as 90s";
    let hold = reader.read("hold-time", time, seconds).unwrap_or(HOLD_TIME);
    let keepalive = reader.read("keepalive-time", time, seconds);
    let selectors = reader.maps("node-selectors", |reader| Some(node_selector(reader)));
    let spec = BGPPeerSpec {
        my_asn: my_asn.unwrap_or_default(),
        peer_asn,
        peer_address,
        source_address: reader.text("source-address").map(|(text, _)| text),
        peer_port: Some(reader.read("peer-port", "a port from 1 to 16384", small(1, 16_384)).unwrap_or(179)),
        hold_time: Some(format!("{hold}s")),
        keepalive_time: keepalive.map(|seconds| format!("{seconds}s")),
        router_id: reader.text("router-id").map(|(text, _)| text),
        node_selectors: (!selectors.is_empty()).then_some(selectors),
        password: reader.text("password").map(|(text, _)| Password(text)),
        bfd_profile: reader.text("bfd-profile").map(|(text, _)| legal(&text).unwrap_or(text)),
        ebgp_multi_hop: reader.read("ebgp-multihop", "true or false", boolean),
        ..BGPPeerSpec::default()
    };
    if my_asn.is_none() || peer_asn.is_none() || spec.peer_address.is_none() {
        reader.error_here(
            "a peer needs my-asn, peer-asn and peer-address, so this one is left out",
            "add what is missing",
        );
        return None;
    }
    Some(spec)
}

fn node_selector(reader: &mut Reader<'_>) -> LabelSelector {
    let labels = reader.text_map("match-labels");
    let expressions = reader.maps("match-expressions", |reader| {
        let values: Vec<String> = reader.texts("values").into_iter().map(|(text, _)| text).collect();
        Some(LabelSelectorRequirement {
            key: reader.text("key").map(|(text, _)| text).unwrap_or_default(),
            operator: reader.text("operator").map(|(text, _)| text).unwrap_or_default(),
            values: (!values.is_empty()).then_some(values),
        })
    });
    LabelSelector {
        match_labels: (!labels.is_empty())
            .then(|| labels.into_iter().map(|(key, value, _)| (key, value)).collect()),
        match_expressions: (!expressions.is_empty()).then_some(expressions),
    }
}

fn communities(top: &mut Reader<'_>, converted: &mut Converted) {
    let mut aliases: Vec<CommunityAlias> = Vec::new();
    let errors = top.errors();
    for (name, value, line) in top.text_map("bgp-communities") {
        if CommunityValue::parse(&value).is_none() {
            let remedy = "write two numbers up to 65535 with a colon between, in quotes";
            top.error(
                line,
                &format!("bgp-communities.{name}"),
                format!("{value:?} is not a valid BGP community"),
                remedy,
            );
        }
        aliases.push(CommunityAlias { name: Some(name), value: Some(value) });
    }
    aliases.sort_by(|a, b| a.name.cmp(&b.name));
    if aliases.is_empty() {
        return;
    }
    let community = Community::new("communities", CommunitySpec { communities: Some(aliases) });
    if top.errors() > errors {
        converted.spoil("Community", &community);
    }
    converted.communities.push(community);
}

fn bfd_profile(reader: &mut Reader<'_>) -> Option<(BFDProfile, u64)> {
    let name = name(reader, "BFD profile")?;
    let interval = "a number from 10 to 60000";
    let spec = BFDProfileSpec {
        receive_interval: reader.read("receive-interval", interval, small(10, 60_000)),
        transmit_interval: reader.read("transmit-interval", interval, small(10, 60_000)),
        echo_interval: reader.read("echo-interval", interval, small(10, 60_000)),
        detect_multiplier: reader.read("detect-multiplier", "a number from 2 to 255", small(2, 255)),
        minimum_ttl: reader.read("minimum-ttl", "a number from 1 to 254", small(1, 254)),
        echo_mode: reader.read("echo-mode", "true or false", boolean),
        passive_mode: reader.read("passive-mode", "true or false", boolean),
    };
    Some((BFDProfile::new(&name, spec), reader.line()))
}
