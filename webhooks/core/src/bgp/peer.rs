//! `BGPPeer` and `BFDProfile`.

use std::net::IpAddr;

use crds::{BFDProfile, BGPPeer, BGPPeerSpec, Selector};

use crate::duration;
use crate::finding::Report;
use crate::selectors::selectors;

/// A router to speak BGP with.
#[derive(Clone, Debug, PartialEq)]
pub struct BgpPeer {
    /// Name of the object.
    pub name: String,
    /// Our AS number towards it.
    pub my_asn: i64,
    /// Its address or our interface to it, with the VRF.
    pub endpoint: (String, String),
    /// Our router ID towards it.
    pub router_id: Option<String>,
    /// Nodes that speak with it, any one selector is enough; empty means all.
    pub node_selectors: Vec<Selector>,
    /// The BFD profile of the session.
    pub bfd_profile: Option<String>,
}

/// Settings of BFD sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BfdProfile {
    /// Name of the object.
    pub name: String,
    /// Whether echo packets are sent.
    pub echo_mode: bool,
}

/// The profile that `object` describes; none if it has an error.
pub(crate) fn judge_bfd_profile(object: &BFDProfile, report: &mut Report<'_>) -> Option<BfdProfile> {
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
                "the number is out of bounds",
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
pub(crate) fn judge(object: &BGPPeer, report: &mut Report<'_>) -> Option<BgpPeer> {
    let spec = &object.spec;
    as_numbers(spec, report);
    let endpoint = endpoint(spec, report);
    for (field, value) in [("spec.routerID", &spec.router_id), ("spec.sourceAddress", &spec.source_address)] {
        if let Some(value) = given(value.as_ref()).filter(|value| value.parse::<IpAddr>().is_err()) {
            report.error(field, value, "this is no IP address", "write an address such as 10.0.0.1");
        }
    }
    times(spec, report);
    let secret = spec.password_secret.as_ref().and_then(|secret| given(secret.name.as_ref()));
    if spec.password.as_ref().is_some_and(|password| !password.0.is_empty()) && secret.is_some() {
        report.error(
            "spec.passwordSecret",
            secret.unwrap_or_default(),
            "the password is given twice",
            "keep password or passwordSecret",
        );
    }
    let bfd_profile = given(spec.bfd_profile.as_ref()).map(str::to_owned);
    if spec.disable_mp == Some(true) {
        report.warning("spec.disableMP", "true", "the field is deprecated and has no effect", "remove it");
    }
    let node_selectors = selectors(report, "spec.nodeSelectors", spec.node_selectors.as_ref());
    (!report.failed()).then(|| BgpPeer {
        name: object.metadata.name.clone().unwrap_or_default(),
        my_asn: spec.my_asn,
        endpoint,
        router_id: given(spec.router_id.as_ref()).map(str::to_owned),
        node_selectors,
        bfd_profile,
    })
}

fn given(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

fn as_numbers(spec: &BGPPeerSpec, report: &mut Report<'_>) {
    if spec.my_asn == 0 {
        report.error("spec.myASN", "0", "0 is no AS number", "use a number from 1 to 4294967295");
    }
    let peer_asn = spec.peer_asn.filter(|asn| *asn != 0);
    let dynamic = given(spec.dynamic_asn.as_ref());
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
            "this is neither internal nor external",
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

fn endpoint(spec: &BGPPeerSpec, report: &mut Report<'_>) -> (String, String) {
    let vrf = spec.vrf.clone().unwrap_or_default();
    match (given(spec.peer_address.as_ref()), given(spec.interface.as_ref())) {
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
            "this is no IP address",
            "write an address such as 10.0.0.1",
        ),
        (Some(one), None) | (None, Some(one)) => return (one.to_owned(), vrf),
    }
    (String::new(), vrf)
}

fn times(spec: &BGPPeerSpec, report: &mut Report<'_>) {
    let mut read = |field: &str, text: &Option<String>| {
        let text = given(text.as_ref())?;
        let parsed = duration::parse(text);
        if parsed.is_none() {
            report.error(
                field,
                text,
                "this is no duration",
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
            "it is longer than holdTime, so the session would be dropped between two messages",
            "use a third of holdTime",
        );
    }
}

/// What one of MetalLB's modes refuses in two peers, if a node may speak with both.
pub(crate) fn warn_of_differences(peer: &BgpPeer, elders: &[BgpPeer], report: &mut Report<'_>) {
    let meets = |other: &&BgpPeer| {
        peer.node_selectors.is_empty()
            || other.node_selectors.is_empty()
            || peer.node_selectors.iter().any(|selector| other.node_selectors.contains(selector))
    };
    for other in elders.iter().filter(meets) {
        let name = &other.name;
        let remedy = "FRR refuses this where one node speaks with both: make them equal, or separate them by nodeSelectors";
        if peer.router_id != other.router_id {
            let value = peer.router_id.clone().unwrap_or_default();
            report.warning("spec.routerID", value, format!("BGPPeer {name} has another router ID"), remedy);
        }
        if peer.endpoint == other.endpoint {
            report.warning(
                "spec.peerAddress",
                &peer.endpoint.0,
                format!("BGPPeer {name} has the same"),
                "FRR refuses two peers with one address: remove one of them",
            );
        }
        if peer.my_asn != other.my_asn && peer.endpoint.1 == other.endpoint.1 {
            report.warning(
                "spec.myASN",
                peer.my_asn.to_string(),
                format!("BGPPeer {name} has another in the same VRF"),
                remedy,
            );
        }
    }
}
