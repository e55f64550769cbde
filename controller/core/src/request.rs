//! What a Service asks for, read from its object once (`reference/metallb.md` §2, §3.3, §3.4).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crds::annotations::{self, ADDRESS_POOL, ALLOW_SHARED_IP, LOAD_BALANCER_IPS};
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::jiff::Timestamp;
use rules::Family;

use crate::refusal::Shown;

/// What a Service asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Which families.
    pub families: Result<Families, RequestFault>,
    /// Which addresses.
    pub wanted: Result<Wanted, RequestFault>,
    /// With whom it may share an address.
    pub sharing: Sharing,
    /// The Service's labels, which pools select by.
    pub labels: BTreeMap<String, String>,
    /// How old it is: in a clash the elder keeps the address.
    pub age: Age,
}

/// The families of a Service, from its cluster addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// One address of this family.
    Single(Family),
    /// One of each.
    Dual {
        /// The family that counts if only one can be had.
        primary: Family,
        /// Whether one alone is not enough.
        required: bool,
    },
}

impl Families {
    /// Whether addresses of `family` are wanted.
    pub fn wants(self, family: Family) -> bool {
        match self {
            Self::Single(only) => only == family,
            Self::Dual { .. } => true,
        }
    }
}

/// Which addresses a Service asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Whatever is free.
    Any,
    /// Whatever is free in this pool.
    Pool(String),
    /// Exactly these, in this order.
    Addresses {
        /// One for each family.
        addresses: Vec<IpAddr>,
        /// The pool that must have them.
        pool: Option<String>,
    },
}

/// A port of a Service: protocol and number.
pub type Port = (Protocol, u16);

/// Protocols of Service ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Also what an absent protocol means.
    Tcp,
    /// Datagrams.
    Udp,
    /// Messages.
    Sctp,
}

/// With whom a Service may share an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// The value of the annotation and the backend key; none means with nobody.
    pub pair: Option<SharingPair>,
    /// The ports that it needs for itself.
    pub ports: BTreeSet<Port>,
}

/// Services with equal pairs may share an address if their ports differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharingPair {
    /// The annotation's value.
    pub key: String,
    /// The pod selector if only local endpoints are served, else empty: pods behind one address must then be the same.
    pub backend: String,
}

/// How old a Service is; the elder is less.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Age {
    /// When the object was created.
    pub created: Option<Timestamp>,
    /// Its UID, to tell apart what was created in one second.
    pub uid: String,
}

/// A request that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestFault {
    /// The Service has no cluster address, so nothing could forward to it.
    #[error("the Service has no clusterIP, so no traffic could reach it: give it one")]
    NoClusterIp,
    /// `RequireDualStack` without two cluster addresses.
    #[error("ipFamilyPolicy is RequireDualStack, but the Service has fewer than two clusterIPs")]
    NotEnoughClusterIps,
    /// An address that is none.
    #[error(
        "{field} has {}, which is not a valid IP address: write one address per family, separated by a comma",
        Shown(.value)
    )]
    NoAddress {
        /// Where it stands.
        field: &'static str,
        /// What stands there.
        value: String,
    },
    /// More than one address of one family.
    #[error("{field} asks for more than one {family} address: a Service gets at most one of each family")]
    TwoOfOneFamily {
        /// Where they stand.
        field: &'static str,
        /// The family.
        family: Family,
    },
    /// The addresses are not of the families that the Service has.
    #[error(
        "{field} asks for {asked}, but the Service is {service}: ask for exactly one address of each family that it has"
    )]
    FamilyMismatch {
        /// Where they stand.
        field: &'static str,
        /// The families asked for.
        asked: String,
        /// The families of the Service.
        service: String,
    },
    /// Both ways to ask for an address at once.
    #[error(
        "both spec.loadBalancerIP and the annotation metallb.io/loadBalancerIPs are set: remove spec.loadBalancerIP"
    )]
    BothWays,
}

const FIELD: &str = "spec.loadBalancerIP";
const ANNOTATION: &str = "the annotation metallb.io/loadBalancerIPs";

impl Request {
    /// What `service` asks for.
    pub fn from_service(service: &Service) -> Self {
        let spec = service.spec.clone().unwrap_or_default();
        let annotations = service.metadata.annotations.as_ref();
        let families = families(&spec);
        let key = annotations::get(annotations, ALLOW_SHARED_IP).filter(|key| !key.is_empty());
        Self {
            wanted: wanted(&spec, annotations, families.as_ref().ok()),
            families,
            sharing: Sharing {
                pair: key.map(|key| SharingPair { key: key.to_owned(), backend: backend(&spec) }),
                ports: ports(&spec),
            },
            labels: service.metadata.labels.clone().unwrap_or_default(),
            age: Age {
                created: service.metadata.creation_timestamp.as_ref().map(|time| time.0),
                uid: service.metadata.uid.clone().unwrap_or_default(),
            },
        }
    }
}

impl Sharing {
    /// Whether the two may have one address.
    pub fn may_share(&self, other: &Self) -> bool {
        self.pair.is_some() && self.pair == other.pair && self.ports.is_disjoint(&other.ports)
    }
}

/// From the cluster addresses, as MetalLB: the policy alone does not say what the cluster offers.
fn families(spec: &ServiceSpec) -> Result<Families, RequestFault> {
    let listed = spec.cluster_ips.clone().unwrap_or_default();
    let texts = if listed.is_empty() { spec.cluster_ip.clone().into_iter().collect() } else { listed };
    let cluster: Vec<Family> = texts.iter().filter_map(|text| text.parse().ok()).map(Family::of).collect();
    let required = spec.ip_family_policy.as_deref() == Some("RequireDualStack");
    match cluster.as_slice() {
        [] => Err(RequestFault::NoClusterIp),
        [_] if required => Err(RequestFault::NotEnoughClusterIps),
        [first, second, ..] if first != second => {
            let named = spec.ip_families.as_ref().and_then(|families| families.first());
            let primary = match named.map(String::as_str) {
                Some("IPv6") => Family::V6,
                Some(_) => Family::V4,
                None => *first,
            };
            Ok(Families::Dual { primary, required })
        }
        [first, ..] => Ok(Families::Single(*first)),
    }
}

fn wanted(
    spec: &ServiceSpec,
    annotations: Option<&BTreeMap<String, String>>,
    families: Option<&Families>,
) -> Result<Wanted, RequestFault> {
    let pool = annotations::get(annotations, ADDRESS_POOL).filter(|name| !name.is_empty()).map(str::to_owned);
    let list = annotations::get(annotations, LOAD_BALANCER_IPS).filter(|list| !list.is_empty());
    let single = spec.load_balancer_ip.as_deref().filter(|ip| !ip.is_empty());
    let (field, texts): (_, Vec<&str>) = match (list, single) {
        (Some(_), Some(_)) => return Err(RequestFault::BothWays),
        (Some(list), None) => (ANNOTATION, list.split(',').map(str::trim).collect()),
        (None, Some(ip)) => (FIELD, vec![ip]),
        (None, None) => return Ok(pool.map_or(Wanted::Any, Wanted::Pool)),
    };
    let mut addresses: Vec<IpAddr> = Vec::with_capacity(2);
    for text in texts {
        let ip: IpAddr =
            text.parse().map_err(|_| RequestFault::NoAddress { field, value: text.to_owned() })?;
        let ip = ip.to_canonical();
        let family = Family::of(ip);
        if addresses.iter().any(|other| Family::of(*other) == family) {
            return Err(RequestFault::TwoOfOneFamily { field, family });
        }
        addresses.push(ip);
    }
    if let Some(families) = families {
        let exact = Family::ALL
            .iter()
            .all(|f| families.wants(*f) == addresses.iter().any(|ip| Family::of(*ip) == *f));
        if !exact {
            let asked = addresses.iter().map(|ip| Family::of(*ip).to_string()).collect::<Vec<_>>();
            let service = match families {
                Families::Single(family) => format!("{family} only"),
                Families::Dual { .. } => "dual-stack".to_owned(),
            };
            return Err(RequestFault::FamilyMismatch { field, asked: asked.join(" and "), service });
        }
    }
    Ok(Wanted::Addresses { addresses, pool })
}

/// The selector as text, sorted by key, if only local endpoints are served.
fn backend(spec: &ServiceSpec) -> String {
    if spec.external_traffic_policy.as_deref() != Some("Local") {
        return String::new();
    }
    let selector = spec.selector.iter().flatten();
    selector.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn ports(spec: &ServiceSpec) -> BTreeSet<Port> {
    let ports = spec.ports.iter().flatten();
    ports
        .filter_map(|port| {
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            };
            Some((protocol, u16::try_from(port.port).ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests;
