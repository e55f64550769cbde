//! The text of the ConfigMap of v0.8 to v0.12.

use crds::bgp_peer::Password;
use crds::{
    BFDProfile, BFDProfileSpec, BGPAdvertisement, BGPAdvertisementSpec, BGPPeer, BGPPeerSpec, Community,
    CommunityAlias, CommunitySpec, IPAddressPool, IPAddressPoolSpec, L2Advertisement, L2AdvertisementSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::names::legal;
use super::yaml::{Reader, parse};
use super::{Converted, LineFinding, Unreadable};
use crate::bgp::CommunityValue;
use crate::duration;
use crate::range::parse_addresses;

/// The hold time of a peer that gives none, in seconds.
const HOLD_TIME: i64 = 90;

/// Converts `text`, the value of the key `config`.
///
/// # Errors
///
/// The text is no YAML.
pub fn convert(text: &str, namespace: &str) -> Result<(Converted, Vec<LineFinding>), Unreadable> {
    let mut findings = Vec::new();
    let mut converted = Converted::default();
    let mut top = Reader::new(String::new(), parse(text)?, &mut findings);

    converted.bfd_profiles = top.maps("bfd-profiles", bfd_profile);
    let peers = top.maps("peers", peer);
    converted.bgp_peers =
        peers.into_iter().zip(1..).map(|(spec, n)| BGPPeer::new(&format!("peer{n}"), spec)).collect();
    converted.communities = communities(&mut top);
    let pools = top.maps("address-pools", pool);
    for (pool, announced) in pools {
        if converted.pools.iter().any(|other| other.metadata.name == pool.metadata.name) {
            let name = pool.metadata.name.unwrap_or_default();
            top.error(
                announced.line,
                "address-pools",
                format!("there are two pools of the name {name:?}"),
                "give one of them another name",
            );
            continue;
        }
        announce(&mut converted, &pool, announced);
        converted.pools.push(pool);
    }
    top.finish();
    converted.settle_in(namespace);
    findings.sort_by_key(|finding| finding.line);
    Ok((converted, findings))
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
}

/// How a pool is announced.
struct Announced {
    layer2: bool,
    bgp: Vec<BGPAdvertisementSpec>,
    line: u64,
}

fn announce(converted: &mut Converted, pool: &IPAddressPool, announced: Announced) {
    let pools = Some(vec![pool.metadata.name.clone().unwrap_or_default()]);
    for spec in announced.bgp {
        let name = format!("bgpadvertisement{}", converted.bgp_advertisements.len() + 1);
        let spec = BGPAdvertisementSpec { ip_address_pools: pools.clone(), ..spec };
        converted.bgp_advertisements.push(BGPAdvertisement::new(&name, spec));
    }
    if announced.layer2 {
        let name = format!("l2advertisement{}", converted.l2_advertisements.len() + 1);
        let spec = L2AdvertisementSpec { ip_address_pools: pools, ..L2AdvertisementSpec::default() };
        converted.l2_advertisements.push(L2Advertisement::new(&name, spec));
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
            let problem = format!("{other:?} is no protocol, so the pool is announced to nobody");
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

fn communities(top: &mut Reader<'_>) -> Vec<Community> {
    let mut aliases: Vec<CommunityAlias> = Vec::new();
    for (name, value, line) in top.text_map("bgp-communities") {
        if CommunityValue::parse(&value).is_none() {
            let remedy = "write two numbers up to 65535 with a colon between, in quotes";
            top.error(
                line,
                &format!("bgp-communities.{name}"),
                format!("{value:?} is no BGP community"),
                remedy,
            );
        }
        aliases.push(CommunityAlias { name: Some(name), value: Some(value) });
    }
    aliases.sort_by(|a, b| a.name.cmp(&b.name));
    if aliases.is_empty() {
        return Vec::new();
    }
    vec![Community::new("communities", CommunitySpec { communities: Some(aliases) })]
}

fn bfd_profile(reader: &mut Reader<'_>) -> Option<BFDProfile> {
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
    Some(BFDProfile::new(&name, spec))
}
