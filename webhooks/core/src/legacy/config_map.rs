//! The ConfigMap format of MetalLB v0.8 to v0.12.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::bgp_peer::Password;
use crds::{
    BFDProfile, BFDProfileSpec, BGPAdvertisement, BGPAdvertisementSpec, BGPPeer, BGPPeerSpec, Community,
    CommunityAlias, CommunitySpec, IPAddressPool, IPAddressPoolSpec, L2Advertisement, L2AdvertisementSpec,
    Resource,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::names::sanitize_name;
use super::yaml::{Entry, LineReporter, Reader, parse};
use super::{Converted, ParseError, advertisement_name};
use crate::bgp::CommunityValue;
use crate::duration;
use crate::finding::{Finding, ObjectRef};
use crate::range::parse_addresses;

/// The default hold time of a peer, in seconds.
const DEFAULT_HOLD_TIME: i64 = 90;

/// Converts `text`, a value in the ConfigMap with this name, to objects in `namespace`. The findings are in the
/// order of the lines, and their fields start with `line N`.
///
/// # Errors
///
/// The text is not valid YAML, or is empty.
pub fn convert(
    text: &str,
    config_map: &str,
    namespace: &str,
) -> Result<(Converted, Vec<Finding>), ParseError> {
    let mut report = LineReporter::new(ObjectRef {
        kind: "ConfigMap",
        namespace: Some(namespace.to_owned()),
        name: config_map.to_owned(),
    });
    let mut converted = Converted::default();
    let mut top = Reader::new(String::new(), parse(text)?, &mut report);
    if let Some(line) = top.blank_line() {
        return Err(ParseError { empty: true, line, problem: "the text is empty".to_owned() });
    }
    bfd_profiles(&mut top, &mut converted);
    peers(&mut top, &mut converted);
    communities(&mut top, &mut converted);
    pools(&mut top, &mut converted);
    top.finish();
    // The references have no namespace yet.
    let invalid = std::mem::take(&mut converted.invalid).into_iter();
    converted.invalid =
        invalid.map(|object| ObjectRef { namespace: Some(namespace.to_owned()), ..object }).collect();
    converted.set_namespace(namespace);
    Ok((converted, report.into_findings()))
}

fn bfd_profiles(top: &mut Reader<'_>, converted: &mut Converted) {
    for Entry { value: (profile, line), invalid } in top.entries("bfd-profiles", bfd_profile) {
        let duplicate =
            converted.objects.bfd_profiles.iter().any(|other| other.metadata.name == profile.metadata.name);
        if invalid || duplicate {
            converted.mark_invalid(&profile);
        }
        if duplicate {
            duplicate_name(top, line, "bfd-profiles", "BFD profiles", profile.metadata.name);
        } else {
            converted.add(profile);
        }
    }
}

/// Peers have no names, so they are named after their addresses. Several peers of one address are numbered.
fn peers(top: &mut Reader<'_>, converted: &mut Converted) {
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    for Entry { value: spec, invalid } in top.entries("peers", peer) {
        let address = spec.peer_address.as_deref().unwrap_or_default().to_ascii_lowercase();
        let name = format!("peer-{}", address.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
        let name = name.trim_end_matches('-').to_owned();
        let number = numbers.entry(name.clone()).or_default();
        *number += 1;
        let name = if *number == 1 { name } else { format!("{name}-{number}") };
        let peer = BGPPeer::new(&name, spec);
        if invalid {
            converted.mark_invalid(&peer);
        }
        converted.add(peer);
    }
}

/// Of two pools with the same name either may be intended: both are marked as invalid.
fn pools(top: &mut Reader<'_>, converted: &mut Converted) {
    let read = top.entries("address-pools", pool);
    let name = |pool: &IPAddressPool| pool.metadata.name.clone().unwrap_or_default();
    let names: BTreeSet<String> = read.iter().map(|entry| name(&entry.value.0)).collect();
    for Entry { value: (pool, announcement), invalid } in read {
        let duplicate = converted.objects.pools.iter().any(|other| other.metadata.name == pool.metadata.name);
        let mut own = Converted::default();
        if duplicate {
            duplicate_name(top, announcement.line, "address-pools", "pools", pool.metadata.name.clone());
            own.objects.l2_advertisements = named_after(&converted.objects.l2_advertisements, &pool);
            own.objects.bgp_advertisements = named_after(&converted.objects.bgp_advertisements, &pool);
            own.add(pool);
            own.mark_all_invalid();
            converted.invalid.append(&mut own.invalid);
            continue;
        }
        announce(&mut own, &pool, announcement, &names);
        own.add(pool);
        if invalid {
            own.mark_all_invalid();
        }
        converted.append(&mut own);
    }
}

/// The advertisements with the name of `pool`.
fn named_after<K: Resource>(advertisements: &[Arc<K>], pool: &IPAddressPool) -> Vec<Arc<K>> {
    advertisements.iter().filter(|object| object.meta().name == pool.metadata.name).cloned().collect()
}

fn duplicate_name(top: &mut Reader<'_>, line: u64, field: &str, what: &str, name: Option<String>) {
    let problem = format!("there are two {what} with the name {:?}", name.unwrap_or_default());
    top.error(line, field, problem, "give one of them another name");
}

/// The part of a pool entry that says how the pool is announced.
struct Announcement {
    layer2: bool,
    bgp: Vec<BGPAdvertisementSpec>,
    line: u64,
}

fn announce(
    converted: &mut Converted,
    pool: &IPAddressPool,
    announcement: Announcement,
    names: &BTreeSet<String>,
) {
    let pool = pool.metadata.name.clone().unwrap_or_default();
    let pools = Some(vec![pool.clone()]);
    for (spec, number) in announcement.bgp.into_iter().zip(1..) {
        let spec = BGPAdvertisementSpec { ip_address_pools: pools.clone(), ..spec };
        let name = advertisement_name(&pool, number, names);
        converted.add(BGPAdvertisement::new(&name, spec));
    }
    if announcement.layer2 {
        let spec = L2AdvertisementSpec { ip_address_pools: pools, ..L2AdvertisementSpec::default() };
        converted.add(L2Advertisement::new(&pool, spec));
    }
}

fn boolean(text: &str) -> Option<bool> {
    // MetalLB read YAML 1.1, which has more spellings of booleans than YAML 1.2.
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" => Some(true),
        "false" | "no" | "off" | "n" => Some(false),
        _ => None,
    }
}

fn number_in(low: i64, high: i64) -> impl Fn(&str) -> Option<i64> {
    move |text| text.parse().ok().filter(|number| (low..=high).contains(number))
}

fn small_number_in(low: i32, high: i32) -> impl Fn(&str) -> Option<i32> {
    move |text| text.parse().ok().filter(|number| (low..=high).contains(number))
}

fn name(reader: &mut Reader<'_>, what: &str) -> Option<String> {
    let Some((given, line)) = reader.text("name") else {
        reader.error_here(format!("the {what} has no name"), "add a name");
        return None;
    };
    let Some(name) = sanitize_name(&given) else {
        reader.error(
            line,
            "name",
            format!("{given:?} cannot be converted to a valid object name"),
            "use lower-case letters, digits and dashes, starting with a letter",
        );
        return None;
    };
    if name != given {
        reader.warning(
            line,
            "name",
            format!("{given:?} is not a valid object name and is converted to {name:?}"),
            "use the new name instead of the old one, for example in the address-pool annotation of Services",
        );
    }
    Some(name)
}

fn pool(reader: &mut Reader<'_>) -> Option<(IPAddressPool, Announcement)> {
    let name = name(reader, "pool")?;
    let addresses = reader.texts("addresses");
    if addresses.is_empty() {
        reader.error_here(format!("pool {name:?} has no addresses"), "list at least one prefix or range");
    }
    for (index, (text, line)) in addresses.iter().enumerate() {
        if let Err(error) = parse_addresses(text) {
            reader.error(*line, &format!("addresses[{index}]"), format!("{text:?}: {error}"), error.hint());
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
                let hint = "remove them, or set the protocol to bgp";
                reader.warning(
                    line,
                    "bgp-advertisements",
                    "a pool of protocol layer2 is not announced by BGP",
                    hint,
                );
            }
            true
        }
        Some(("bgp", _)) => {
            if bgp.is_empty() {
                bgp.push(default_advertisement());
            }
            false
        }
        Some((other, line)) => {
            let problem = format!("{other:?} is not a valid protocol, so the pool is not announced");
            reader.error(line, "protocol", problem, "use layer2 or bgp");
            false
        }
        None => {
            let hint = "add `protocol: layer2` or `protocol: bgp`";
            reader.error_here("the pool has no protocol, so it is not announced", hint);
            false
        }
    };
    Some((IPAddressPool::new(&name, spec), Announcement { layer2, bgp, line }))
}

/// An advertisement of single addresses, the default of the BGPAdvertisement schema.
fn default_advertisement() -> BGPAdvertisementSpec {
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
            reader.read("aggregation-length", "a number from 1 to 32", small_number_in(1, 32)).unwrap_or(32),
        ),
        aggregation_length_v6: Some(
            reader
                .read("aggregation-length-v6", "a number from 1 to 128", small_number_in(1, 128))
                .unwrap_or(128),
        ),
        local_pref: reader.read("localpref", "a number from 0 to 4294967295", number_in(0, u32::MAX.into())),
        communities: (!communities.is_empty()).then_some(communities),
        ..BGPAdvertisementSpec::default()
    }
}

fn peer(reader: &mut Reader<'_>) -> Option<BGPPeerSpec> {
    let asn = "an AS number from 1 to 4294967295";
    let my_asn = reader.read("my-asn", asn, number_in(1, u32::MAX.into()));
    let peer_asn = reader.read("peer-asn", asn, number_in(1, u32::MAX.into()));
    let peer_address = reader.text("peer-address").map(|(text, _)| text);
    let seconds = |text: &str| duration::parse(text).map(duration::whole_seconds);
    let time = "a number with its unit, such as 90s";
    let hold = reader.read("hold-time", time, seconds).unwrap_or(DEFAULT_HOLD_TIME);
    let keepalive = reader.read("keepalive-time", time, seconds);
    let selectors = reader.maps("node-selectors", |reader| Some(node_selector(reader)));
    let spec = BGPPeerSpec {
        my_asn: my_asn.unwrap_or_default(),
        peer_asn,
        peer_address,
        source_address: reader.text("source-address").map(|(text, _)| text),
        peer_port: Some(
            reader.read("peer-port", "a port from 1 to 16384", small_number_in(1, 16_384)).unwrap_or(179),
        ),
        hold_time: Some(format!("{hold}s")),
        keepalive_time: keepalive.map(|seconds| format!("{seconds}s")),
        router_id: reader.text("router-id").map(|(text, _)| text),
        node_selectors: (!selectors.is_empty()).then_some(selectors),
        password: reader.text("password").map(|(text, _)| Password(text)),
        bfd_profile: reader.text("bfd-profile").map(|(text, _)| sanitize_name(&text).unwrap_or(text)),
        ebgp_multi_hop: reader.read("ebgp-multihop", "true or false", boolean),
        ..BGPPeerSpec::default()
    };
    if my_asn.is_none() || peer_asn.is_none() || spec.peer_address.is_none() {
        reader.error_here(
            "a peer needs my-asn, peer-asn and peer-address, so this one is ignored",
            "add the missing fields",
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
            let hint = "write two numbers up to 65535 separated by a colon, in quotes";
            top.error(
                line,
                &format!("bgp-communities.{name}"),
                format!("{value:?} is not a valid BGP community"),
                hint,
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
        converted.mark_invalid(&community);
    }
    converted.add(community);
}

fn bfd_profile(reader: &mut Reader<'_>) -> Option<(BFDProfile, u64)> {
    let name = name(reader, "BFD profile")?;
    let interval = "a number from 10 to 60000";
    let spec = BFDProfileSpec {
        receive_interval: reader.read("receive-interval", interval, small_number_in(10, 60_000)),
        transmit_interval: reader.read("transmit-interval", interval, small_number_in(10, 60_000)),
        echo_interval: reader.read("echo-interval", interval, small_number_in(10, 60_000)),
        detect_multiplier: reader.read(
            "detect-multiplier",
            "a number from 2 to 255",
            small_number_in(2, 255),
        ),
        minimum_ttl: reader.read("minimum-ttl", "a number from 1 to 254", small_number_in(1, 254)),
        echo_mode: reader.read("echo-mode", "true or false", boolean),
        passive_mode: reader.read("passive-mode", "true or false", boolean),
    };
    Some((BFDProfile::new(&name, spec), reader.line()))
}
