//! `BGPAdvertisement`.

use std::collections::{BTreeMap, BTreeSet};

use crds::{BGPAdvertisement, Selector};

use super::community::{CommunityValue, LITERAL};
use super::peer::{BfdProfile, BgpPeer};
use crate::advertisement::advertised_pools;
use crate::finding::{ObjectRef, Report};
use crate::pool::Pool;
use crate::range::Family;
use crate::selectors::{names, selectors};

/// Announces pools to BGP peers.
#[derive(Clone, Debug, PartialEq)]
pub struct BgpAdvertisement {
    /// Name of the object.
    pub name: String,
    /// The pools that it announces, resolved.
    pub pools: BTreeSet<String>,
    /// Lengths of the announced prefixes, IPv4 and IPv6.
    pub aggregation: (i32, i32),
    /// The LOCAL_PREF attribute.
    pub local_pref: i64,
    /// Peers by name; empty means all.
    pub peers: Vec<String>,
    /// Nodes that announce, any one selector is enough; empty means all.
    pub node_selectors: Vec<Selector>,
    /// Services to announce, any one selector is enough; empty means all.
    pub service_selectors: Vec<Selector>,
}

/// What an advertisement refers to.
pub(crate) struct BgpContext<'a> {
    pub(crate) pools: &'a BTreeMap<String, Pool>,
    pub(crate) peers: &'a [BgpPeer],
}

const WHOLE: (i32, i32) = (32, 128);

/// The advertisement that `object` describes; none if it has an error.
pub(crate) fn judge(
    object: &BGPAdvertisement,
    context: &BgpContext<'_>,
    report: &mut Report<'_>,
) -> Option<BgpAdvertisement> {
    let spec = &object.spec;
    let pools = advertised_pools(
        spec.ip_address_pools.as_ref(),
        spec.ip_address_pool_selectors.as_ref(),
        context.pools,
        report,
    );
    let node_selectors = selectors(report, "spec.nodeSelectors", spec.node_selectors.as_ref());
    let service_selectors = selectors(report, "spec.serviceSelectors", spec.service_selectors.as_ref());
    let peers = names(report, "spec.peers", spec.peers.as_ref());
    communities(spec.communities.as_ref(), report);
    let aggregation =
        (spec.aggregation_length.unwrap_or(WHOLE.0), spec.aggregation_length_v6.unwrap_or(WHOLE.1));
    lengths(aggregation, &pools, context, report);
    if !service_selectors.is_empty() && aggregation != WHOLE {
        report.error(
            "spec.serviceSelectors",
            "",
            "a prefix of several addresses cannot be announced for some Services only",
            "set aggregationLength to 32 and aggregationLengthV6 to 128, or remove serviceSelectors",
        );
    }
    (!report.failed()).then(|| BgpAdvertisement {
        name: object.metadata.name.clone().unwrap_or_default(),
        pools,
        aggregation,
        local_pref: spec.local_pref.unwrap_or_default(),
        peers,
        node_selectors,
        service_selectors,
    })
}

fn communities(list: Option<&Vec<String>>, report: &mut Report<'_>) {
    for community in names(report, "spec.communities", list) {
        if community.contains(':') && CommunityValue::parse(&community).is_none() {
            report.error("spec.communities", community, "this is no BGP community", LITERAL);
        }
    }
}

fn lengths(
    aggregation: (i32, i32),
    pools: &BTreeSet<String>,
    context: &BgpContext<'_>,
    report: &mut Report<'_>,
) {
    for (field, family, length, most) in [
        ("spec.aggregationLength", Family::V4, aggregation.0, WHOLE.0),
        ("spec.aggregationLengthV6", Family::V6, aggregation.1, WHOLE.1),
    ] {
        let value = length.to_string();
        let Ok(wanted) = u32::try_from(length) else {
            report.error(
                field,
                value,
                "a prefix has no negative length",
                format!("use a number from 1 to {most}"),
            );
            continue;
        };
        if length > most {
            report.error(
                field,
                value,
                format!("{family} has no prefix so long"),
                format!("use a number from 1 to {most}"),
            );
            continue;
        }
        let named = pools.iter().filter_map(|pool| context.pools.get(pool));
        let ranges = named.flat_map(|pool| pool.ranges.iter().map(move |range| (pool, range)));
        let too_small = ranges
            .filter(|(_, range)| range.family() == family)
            .find(|(_, range)| wanted < range.shortest_prefix());
        if let Some((pool, range)) = too_small {
            report.error(
                field,
                value,
                format!("a prefix of this length is larger than {range} of pool {}", pool.name),
                format!("use {} or more", range.shortest_prefix()),
            );
        }
    }
}

/// Of two that give one prefix different preferences towards one peer, the younger is at fault.
pub(crate) fn local_pref_clash(
    new: &BgpAdvertisement,
    elders: &[BgpAdvertisement],
    pools: &BTreeMap<String, Pool>,
    report: &mut Report<'_>,
) {
    let clashes = |other: &&BgpAdvertisement| {
        let common_peer = new.peers.is_empty()
            || other.peers.is_empty()
            || new.peers.iter().any(|peer| other.peers.contains(peer));
        // Without the nodes at hand only what is sure: a list that names all, or a selector in both.
        let common_node = new.node_selectors.is_empty()
            || other.node_selectors.is_empty()
            || new.node_selectors.iter().any(|selector| other.node_selectors.contains(selector));
        let common_prefix =
            new.pools.intersection(&other.pools).filter_map(|pool| pools.get(pool)).any(|pool| {
                (pool.has(Family::V4) && new.aggregation.0 == other.aggregation.0)
                    || (pool.has(Family::V6) && new.aggregation.1 == other.aggregation.1)
            });
        let for_all = new.service_selectors.is_empty() && other.service_selectors.is_empty();
        new.local_pref != other.local_pref && common_peer && common_node && common_prefix && for_all
    };
    if let Some(other) = elders.iter().find(clashes) {
        let elder = ObjectRef { name: other.name.clone(), ..report.object().clone() };
        report.clash(
            "spec.localPref",
            new.local_pref.to_string(),
            format!("the older BGPAdvertisement {} gives the same prefixes {}", other.name, other.local_pref),
            "use one value, or separate them by peers, nodeSelectors or pools",
            elder,
        );
    }
}

/// MetalLB refuses IPv6 pools towards peers whose BFD profile has echo mode.
pub(crate) fn echo_with_ipv6(
    new: &BgpAdvertisement,
    context: &BgpContext<'_>,
    profiles: &BTreeMap<String, BfdProfile>,
    report: &mut Report<'_>,
) {
    let Some(pool) =
        new.pools.iter().find(|name| context.pools.get(*name).is_some_and(|p| p.has(Family::V6)))
    else {
        return;
    };
    let reached = context.peers.iter().filter(|peer| new.peers.is_empty() || new.peers.contains(&peer.name));
    for peer in reached {
        let profile = peer.bfd_profile.as_ref().and_then(|name| profiles.get(name));
        if let Some(profile) = profile.filter(|profile| profile.echo_mode) {
            let other =
                ObjectRef { kind: "BFDProfile", name: profile.name.clone(), ..report.object().clone() };
            report.clash(
                "spec.ipAddressPools",
                pool,
                format!("BFD echo mode, which BGPPeer {} uses, does not exist for IPv6", peer.name),
                format!(
                    "turn echoMode off in BFDProfile {}, or announce IPv4 pools only to that peer",
                    profile.name
                ),
                other,
            );
        }
    }
}
