//! The request of a Service for addresses, read from its object: annotations, families, ports and sharing
//! key.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crds::annotations::{self, ADDRESS_POOL, ALLOW_SHARED_IP, LOAD_BALANCER_IPS};
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::jiff::Timestamp;
use rules::Family;

use crate::text::Quoted;

/// The request of a Service for addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The families of the addresses.
    pub families: Result<Families, RequestError>,
    /// The addresses or the pool that it asks for.
    pub wanted: Result<Wanted, RequestError>,
    /// With which Services it may share an address.
    pub sharing: Sharing,
    /// The Service's labels, which pools select by.
    pub labels: BTreeMap<String, String>,
    /// Its age: if two Services have one address, the older one keeps it.
    pub age: Age,
}

/// The families of a Service, from its cluster IPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// One address of this family.
    Single(Family),
    /// One address of each family.
    Dual {
        /// The preferred family if only one is available.
        primary: Family,
        /// Whether one address alone is not sufficient (`RequireDualStack`).
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
    /// Any free address.
    Any,
    /// Any free address of this pool.
    Pool(String),
    /// Exactly these addresses, in this order.
    Addresses {
        /// One for each family.
        addresses: Vec<IpAddr>,
        /// The pool that must contain them, if one is named.
        pool: Option<String>,
    },
}

/// A port of a Service: protocol and number.
pub type ProtocolPort = (Protocol, u16);

/// Protocols of Service ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, also the default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// With which Services a Service may share an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// The sharing key; without it the Service shares with no other.
    pub key: Option<SharingKey>,
    /// Its ports, which no Service on the same address may use.
    pub ports: BTreeSet<ProtocolPort>,
}

/// Services with equal sharing keys may share an address if their ports differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharingKey {
    /// The value of the annotation.
    pub value: String,
    /// The pod selector with `externalTrafficPolicy: Local`, else empty: all Services on one address must
    /// then select the same pods.
    pub backend: String,
}

/// The age of a Service; the older Service is less.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Age {
    /// When the object was created.
    pub created: Option<Timestamp>,
    /// Its UID, to order Services that were created in the same second.
    pub uid: String,
}

/// Why a request is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The Service has no cluster IP, so no traffic could be forwarded to it.
    #[error("the Service has no clusterIP, so no traffic could reach it: give it one")]
    NoClusterIp,
    /// `RequireDualStack` without two cluster IPs.
    #[error("ipFamilyPolicy is RequireDualStack, but the Service has fewer than two clusterIPs")]
    NotEnoughClusterIps,
    /// A value that is not a valid IP address.
    #[error(
        "{field} has {}, which is not a valid IP address: write one address per family, separated by a comma",
        Quoted(.value)
    )]
    InvalidAddress {
        /// The field or annotation.
        field: &'static str,
        /// The invalid value.
        value: String,
    },
    /// More than one address of one family.
    #[error("{field} asks for more than one {family} address: a Service gets at most one of each family")]
    DuplicateFamily {
        /// The field or annotation.
        field: &'static str,
        /// The family.
        family: Family,
    },
    /// The families of the addresses are not those of the Service.
    #[error(
        "{field} asks for {asked}, but the Service is {service}: ask for exactly one address of each family \
         that it has"
    )]
    FamilyMismatch {
        /// The field or annotation.
        field: &'static str,
        /// The families asked for.
        asked: String,
        /// The families of the Service.
        service: String,
    },
    /// An address is requested by the field and by the annotation.
    #[error(
        "both spec.loadBalancerIP and the annotation metallb.io/loadBalancerIPs are set: remove \
         spec.loadBalancerIP"
    )]
    ConflictingFields,
}

const LOAD_BALANCER_IP_FIELD: &str = "spec.loadBalancerIP";
const LOAD_BALANCER_IPS_ANNOTATION: &str = "the annotation metallb.io/loadBalancerIPs";

impl Request {
    /// Reads the request of `service`.
    pub fn from_service(service: &Service) -> Self {
        let spec = service.spec.clone().unwrap_or_default();
        let annotations = service.metadata.annotations.as_ref();
        let families = families(&spec);
        let key = annotations::get(annotations, ALLOW_SHARED_IP).filter(|key| !key.is_empty());
        Self {
            wanted: wanted(&spec, annotations, families.as_ref().ok()),
            families,
            sharing: Sharing {
                key: key.map(|key| SharingKey { value: key.to_owned(), backend: backend(&spec) }),
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
    /// Whether two Services may share an address.
    pub fn may_share(&self, other: &Self) -> bool {
        self.key.is_some() && self.key == other.key && self.ports.is_disjoint(&other.ports)
    }
}

/// Read from the cluster IPs, like MetalLB does: `ipFamilyPolicy` alone does not say which families the
/// cluster has.
fn families(spec: &ServiceSpec) -> Result<Families, RequestError> {
    let listed = spec.cluster_ips.clone().unwrap_or_default();
    let texts = if listed.is_empty() { spec.cluster_ip.clone().into_iter().collect() } else { listed };
    let cluster_families: Vec<Family> =
        texts.iter().filter_map(|text| text.parse().ok()).map(Family::of).collect();
    let required = spec.ip_family_policy.as_deref() == Some("RequireDualStack");
    match cluster_families.as_slice() {
        [] => Err(RequestError::NoClusterIp),
        [_] if required => Err(RequestError::NotEnoughClusterIps),
        [first, second, ..] if first != second => {
            let first_listed = spec.ip_families.as_ref().and_then(|families| families.first());
            let primary = match first_listed.map(String::as_str) {
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
) -> Result<Wanted, RequestError> {
    let pool = annotations::get(annotations, ADDRESS_POOL).filter(|name| !name.is_empty()).map(str::to_owned);
    let list = annotations::get(annotations, LOAD_BALANCER_IPS).filter(|list| !list.is_empty());
    let single = spec.load_balancer_ip.as_deref().filter(|ip| !ip.is_empty());
    let (field, texts): (_, Vec<&str>) = match (list, single) {
        (Some(_), Some(_)) => return Err(RequestError::ConflictingFields),
        (Some(list), None) => (LOAD_BALANCER_IPS_ANNOTATION, list.split(',').map(str::trim).collect()),
        (None, Some(ip)) => (LOAD_BALANCER_IP_FIELD, vec![ip]),
        (None, None) => return Ok(pool.map_or(Wanted::Any, Wanted::Pool)),
    };
    let mut addresses: Vec<IpAddr> = Vec::with_capacity(2);
    for text in texts {
        let ip: IpAddr =
            text.parse().map_err(|_| RequestError::InvalidAddress { field, value: text.to_owned() })?;
        let ip = ip.to_canonical();
        let family = Family::of(ip);
        if addresses.iter().any(|other| Family::of(*other) == family) {
            return Err(RequestError::DuplicateFamily { field, family });
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
            return Err(RequestError::FamilyMismatch { field, asked: asked.join(" and "), service });
        }
    }
    Ok(Wanted::Addresses { addresses, pool })
}

/// The selector as text, sorted by key, with `externalTrafficPolicy: Local`; else empty.
fn backend(spec: &ServiceSpec) -> String {
    if spec.external_traffic_policy.as_deref() != Some("Local") {
        return String::new();
    }
    let selector = spec.selector.iter().flatten();
    selector.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn ports(spec: &ServiceSpec) -> BTreeSet<ProtocolPort> {
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
