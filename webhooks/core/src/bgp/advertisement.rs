//! Validation of `BGPAdvertisement`.

use std::collections::{BTreeMap, BTreeSet};

use crds::{BGPAdvertisement, Selector};

use super::community::{COMMUNITY_HINT, CommunityValue};
use super::peer::{BfdProfile, BgpPeer};
use crate::advertisement::advertised_pools;
use crate::finding::{ObjectRef, Reporter};
use crate::objects::ConfigKind as _;
use crate::pool::Pool;
use crate::range::Family;
use crate::selectors::{names, selectors};

/// A valid advertisement of pools to BGP peers.
#[derive(Clone, Debug, PartialEq)]
pub struct BgpAdvertisement {
    /// Name of the object.
    pub name: String,
    /// The valid pools that it announces.
    pub pools: BTreeSet<String>,
    /// Lengths of the announced prefixes, IPv4 and IPv6.
    pub aggregation: (i32, i32),
    /// The LOCAL_PREF attribute.
    pub local_pref: i64,
    /// Peers by name; empty means all.
    pub peers: Vec<String>,
    /// Selectors of the nodes that announce, any one is enough; empty means all.
    pub node_selectors: Vec<Selector>,
    /// Selectors of the Services to announce, any one is enough; empty means all.
    pub service_selectors: Vec<Selector>,
}

/// The valid objects that an advertisement may refer to.
pub(crate) struct BgpContext<'a> {
    pub(crate) pools: &'a BTreeMap<String, Pool>,
    pub(crate) peers: &'a [BgpPeer],
}

/// The lengths that announce single addresses, IPv4 and IPv6.
const HOST_PREFIX: (i32, i32) = (32, 128);

/// The advertisement that `object` describes; none if it has an error.
pub(crate) fn validate(
    object: &BGPAdvertisement,
    context: &BgpContext<'_>,
    report: &mut Reporter<'_>,
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
    validate_communities(spec.communities.as_ref(), report);
    let aggregation = (
        spec.aggregation_length.unwrap_or(HOST_PREFIX.0),
        spec.aggregation_length_v6.unwrap_or(HOST_PREFIX.1),
    );
    validate_aggregation(aggregation, &pools, context, report);
    if !service_selectors.is_empty() && aggregation != HOST_PREFIX {
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

fn validate_communities(list: Option<&Vec<String>>, report: &mut Reporter<'_>) {
    for community in names(report, "spec.communities", list) {
        if community.contains(':') && CommunityValue::parse(&community).is_none() {
            report.error("spec.communities", community, "is not a valid BGP community", COMMUNITY_HINT);
        }
    }
}

fn validate_aggregation(
    aggregation: (i32, i32),
    pools: &BTreeSet<String>,
    context: &BgpContext<'_>,
    report: &mut Reporter<'_>,
) {
    for (field, family, length, most) in [
        ("spec.aggregationLength", Family::V4, aggregation.0, HOST_PREFIX.0),
        ("spec.aggregationLengthV6", Family::V6, aggregation.1, HOST_PREFIX.1),
    ] {
        let value = length.to_string();
        let Ok(wanted) = u32::try_from(length) else {
            report.error(
                field,
                value,
                "a prefix length cannot be negative",
                format!("use a number from 1 to {most}"),
            );
            continue;
        };
        if length > most {
            report.error(
                field,
                value,
                format!("{family} prefixes are not that long"),
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
                format!("a prefix of this length is larger than {range} in pool {}", pool.name),
                format!("use {} or more", range.shortest_prefix()),
            );
        }
    }
}

/// Reports an error if an older advertisement announces a prefix to the same peer with another local
/// preference.
pub(crate) fn check_local_pref_conflict(
    new: &BgpAdvertisement,
    older: &[BgpAdvertisement],
    pools: &BTreeMap<String, Pool>,
    report: &mut Reporter<'_>,
) {
    let conflicts = |other: &&BgpAdvertisement| {
        let common_peer = new.peers.is_empty()
            || other.peers.is_empty()
            || new.peers.iter().any(|peer| other.peers.contains(peer));
        // The nodes are not known here, so only certain conflicts count: an empty list, or a selector in
        // both.
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
    if let Some(other) = older.iter().find(conflicts) {
        let related = ObjectRef { name: other.name.clone(), ..report.object().clone() };
        report.conflict(
            "spec.localPref",
            new.local_pref.to_string(),
            format!(
                "the older BGPAdvertisement {} sets {} for the same prefixes",
                other.name, other.local_pref
            ),
            "use one value, or separate them by peers, nodeSelectors or pools",
            related,
        );
    }
}

/// MetalLB rejects IPv6 pools for peers whose BFD profile enables echo mode.
pub(crate) fn check_bfd_echo_ipv6(
    new: &BgpAdvertisement,
    context: &BgpContext<'_>,
    profiles: &BTreeMap<String, BfdProfile>,
    report: &mut Reporter<'_>,
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
            let other = ObjectRef {
                kind: crds::BFDProfile::KIND,
                name: profile.name.clone(),
                ..report.object().clone()
            };
            report.conflict(
                "spec.ipAddressPools",
                pool,
                format!("BGPPeer {} uses BFD echo mode, which IPv6 does not support", peer.name),
                format!(
                    "disable echoMode in BFDProfile {}, or announce only IPv4 pools to that peer",
                    profile.name
                ),
                other,
            );
        }
    }
}
