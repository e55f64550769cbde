//! Validation of `BGPPeer` and `BFDProfile`.

use std::net::IpAddr;

use crds::{BFDProfile, BGPPeer, BGPPeerSpec, Selector};

use crate::duration;
use crate::finding::Reporter;
use crate::selectors::selectors;

/// A valid BGP peer.
#[derive(Clone, Debug, PartialEq)]
pub struct BgpPeer {
    /// Name of the object.
    pub name: String,
    /// The local AS number.
    pub my_asn: i64,
    /// Its address, or the local interface of an unnumbered session, and the VRF.
    pub endpoint: (String, String),
    /// The local router ID.
    pub router_id: Option<String>,
    /// Selectors of the nodes that connect to it, any one is enough; empty means all.
    pub node_selectors: Vec<Selector>,
    /// The BFD profile of the session.
    pub bfd_profile: Option<String>,
}

/// A valid BFD profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BfdProfile {
    /// Name of the object.
    pub name: String,
    /// Whether echo packets are sent.
    pub echo_mode: bool,
}

/// The profile that `object` describes; none if it has an error.
pub(crate) fn validate_bfd_profile(object: &BFDProfile, report: &mut Reporter<'_>) -> Option<BfdProfile> {
    let spec = &object.spec;
    for (field, value, low, high) in [
        ("receiveInterval", spec.receive_interval, 10, 60_000),
        ("transmitInterval", spec.transmit_interval, 10, 60_000),
        ("echoInterval", spec.echo_interval, 10, 60_000),
        ("detectMultiplier", spec.detect_multiplier, 2, 255),
        ("minimumTtl", spec.minimum_ttl, 1, 254),
    ] {
        if let Some(value) = value.filter(|value| !(low..=high).contains(value)) {
            report.error(
                format!("spec.{field}"),
                value.to_string(),
                "is out of range",
                format!("use a number from {low} to {high}"),
            );
        }
    }
    (!report.failed()).then(|| BfdProfile {
        name: object.metadata.name.clone().unwrap_or_default(),
        echo_mode: spec.echo_mode.unwrap_or_default(),
    })
}

/// The peer that `object` describes; none if it has an error.
pub(crate) fn validate(object: &BGPPeer, report: &mut Reporter<'_>) -> Option<BgpPeer> {
    let spec = &object.spec;
    validate_as_numbers(spec, report);
    let endpoint = validate_endpoint(spec, report);
    for (field, value) in [("spec.routerID", &spec.router_id), ("spec.sourceAddress", &spec.source_address)] {
        if let Some(value) = non_empty(value.as_ref()).filter(|value| value.parse::<IpAddr>().is_err()) {
            report.error(field, value, "is not a valid IP address", "write an address such as 10.0.0.1");
        }
    }
    validate_timers(spec, report);
    let secret = spec.password_secret.as_ref().and_then(|secret| non_empty(secret.name.as_ref()));
    if spec.password.as_ref().is_some_and(|password| !password.0.is_empty()) && secret.is_some() {
        report.error(
            "spec.passwordSecret",
            secret.unwrap_or_default(),
            "password and passwordSecret are both set",
            "keep one of the two",
        );
    }
    let bfd_profile = non_empty(spec.bfd_profile.as_ref()).map(str::to_owned);
    if spec.disable_mp == Some(true) {
        report.warning("spec.disableMP", "true", "the field is deprecated and has no effect", "remove it");
    }
    let node_selectors = selectors(report, "spec.nodeSelectors", spec.node_selectors.as_ref());
    (!report.failed()).then(|| BgpPeer {
        name: object.metadata.name.clone().unwrap_or_default(),
        my_asn: spec.my_asn,
        endpoint,
        router_id: non_empty(spec.router_id.as_ref()).map(str::to_owned),
        node_selectors,
        bfd_profile,
    })
}

fn non_empty(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

fn validate_as_numbers(spec: &BGPPeerSpec, report: &mut Reporter<'_>) {
    if spec.my_asn == 0 {
        report.error("spec.myASN", "0", "0 is not a valid AS number", "use a number from 1 to 4294967295");
    }
    let peer_asn = spec.peer_asn.filter(|asn| *asn != 0);
    let dynamic = non_empty(spec.dynamic_asn.as_ref());
    match (peer_asn, dynamic) {
        (None, None) => {
            report.error("spec.peerASN", "", "the peer has no AS number", "set peerASN or dynamicASN");
        }
        (Some(asn), Some(_)) => report.error(
            "spec.peerASN",
            asn.to_string(),
            "peerASN and dynamicASN are both set",
            "keep one of the two",
        ),
        (None, Some(dynamic)) if !["internal", "external"].contains(&dynamic) => report.error(
            "spec.dynamicASN",
            dynamic,
            "is neither internal nor external",
            "use internal or external",
        ),
        _ => {}
    }
    if spec.ebgp_multi_hop == Some(true) && peer_asn == Some(spec.my_asn) {
        report.error(
            "spec.ebgpMultiHop",
            "true",
            "peerASN equals myASN, so the session is internal and has no eBGP hops",
            "remove ebgpMultiHop",
        );
    }
}

fn validate_endpoint(spec: &BGPPeerSpec, report: &mut Reporter<'_>) -> (String, String) {
    let vrf = spec.vrf.clone().unwrap_or_default();
    match (non_empty(spec.peer_address.as_ref()), non_empty(spec.interface.as_ref())) {
        (None, None) => report.error(
            "spec.peerAddress",
            "",
            "the peer has neither an address nor an interface",
            "set peerAddress or interface",
        ),
        (Some(address), Some(_)) => report.error(
            "spec.peerAddress",
            address,
            "peerAddress and interface are both set",
            "keep one of the two",
        ),
        (Some(address), None) if address.parse::<IpAddr>().is_err() => report.error(
            "spec.peerAddress",
            address,
            "is not a valid IP address",
            "write an address such as 10.0.0.1",
        ),
        (Some(one), None) | (None, Some(one)) => return (one.to_owned(), vrf),
    }
    (String::new(), vrf)
}

fn validate_timers(spec: &BGPPeerSpec, report: &mut Reporter<'_>) {
    let mut read = |field: &str, text: &Option<String>| {
        let text = non_empty(text.as_ref())?;
        let parsed = duration::parse(text);
        if parsed.is_none() {
            report.error(
                field,
                text,
                "is not a valid duration",
                "write a number with its unit, such as 90s or 1m30s",
            );
        }
        parsed.map(duration::whole_seconds)
    };
    let hold = read("spec.holdTime", &spec.hold_time);
    let keepalive = read("spec.keepaliveTime", &spec.keepalive_time);
    read("spec.connectTime", &spec.connect_time);
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    if hold.is_some_and(|hold| hold != 0 && hold < 3) {
        report.error(
            "spec.holdTime",
            text(&spec.hold_time),
            "a hold time is 0 or at least 3 seconds (RFC 4271 §4.2)",
            "use 0s, or 3s or more",
        );
    }
    if let (Some(hold), Some(keepalive)) = (hold, keepalive)
        && keepalive > hold
    {
        report.error(
            "spec.keepaliveTime",
            text(&spec.keepalive_time),
            "is longer than holdTime, so the session would expire between two messages",
            "use a third of holdTime",
        );
    }
}

/// Warns of combinations of two peers that MetalLB's FRR mode rejects if a node connects to both.
pub(crate) fn warn_frr_mismatches(peer: &BgpPeer, older: &[BgpPeer], report: &mut Reporter<'_>) {
    let may_share_node = |other: &&BgpPeer| {
        peer.node_selectors.is_empty()
            || other.node_selectors.is_empty()
            || peer.node_selectors.iter().any(|selector| other.node_selectors.contains(selector))
    };
    for other in older.iter().filter(may_share_node) {
        let name = &other.name;
        let hint = "FRR rejects this if a node connects to both peers: make them equal, or separate them by \
                    nodeSelectors";
        if peer.router_id != other.router_id {
            let value = peer.router_id.clone().unwrap_or_default();
            report.warning("spec.routerID", value, format!("BGPPeer {name} has a different router ID"), hint);
        }
        if peer.endpoint == other.endpoint {
            report.warning(
                "spec.peerAddress",
                &peer.endpoint.0,
                format!("BGPPeer {name} has the same address"),
                "FRR rejects two peers with the same address: remove one of them",
            );
        }
        if peer.my_asn != other.my_asn && peer.endpoint.1 == other.endpoint.1 {
            report.warning(
                "spec.myASN",
                peer.my_asn.to_string(),
                format!("BGPPeer {name} has a different one in the same VRF"),
                hint,
            );
        }
    }
}
