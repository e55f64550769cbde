//! The kinds of object that make up a stack, in one table.

use std::fmt;

use crds::names::{LABEL_IMPORTED_FROM, LABEL_MANAGED_BY, OPERATOR};
use crds::{
    BFDProfile, BGPAdvertisement, BGPPeer, Community, IPAddressPool, L2Advertisement, ObjectMeta, PoolPolicy,
    Resource,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::core::ApiResource;
use rules::{CONFIG_KINDS, ObjectRef};
use serde_json::Value;

/// How much of an object is the operator's. Labels and annotations of others always stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Everything but labels and annotations: what others add is taken out again.
    Whole,
    /// What is rendered: other fields are written by other parts of Kubernetes.
    Rendered,
}

macro_rules! kinds {
    ($($kind:ident: $type:ty, $extent:ident;)*) => {
        /// A kind of object of the stack. The order is the one to apply in: what comes later needs what comes
        /// earlier. Removal goes the other way.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(#[doc = stringify!($type)] $kind,)*
        }

        impl Kind {
            /// Every kind, in the order to apply.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// How the API calls it.
            pub fn api_resource(self) -> ApiResource {
                match self {
                    $(Self::$kind => ApiResource::erase::<$type>(&()),)*
                }
            }

            /// How much of an object of this kind is the operator's.
            pub const fn extent(self) -> Extent {
                match self {
                    $(Self::$kind => Extent::$extent,)*
                }
            }
        }

        impl fmt::Display for Kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$kind => stringify!($type),)*
                })
            }
        }

        /// An object of the stack, as it shall be.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object {
            $(#[doc = stringify!($type)] $kind($type),)*
        }

        impl Object {
            /// Its metadata.
            pub(crate) fn meta(&self) -> &ObjectMeta {
                match self {
                    $(Self::$kind(object) => object.meta(),)*
                }
            }

            /// What it is and what it is called.
            pub fn key(&self) -> Key {
                let (kind, meta) = match self {
                    $(Self::$kind(object) => (Kind::$kind, object.meta()),)*
                };
                Key {
                    kind,
                    namespace: meta.namespace.clone(),
                    name: meta.name.clone().unwrap_or_default(),
                }
            }

            /// The object as it goes to the API.
            ///
            /// # Errors
            ///
            /// The object cannot be serialised.
            pub fn to_json(&self) -> Result<Value, serde_json::Error> {
                match self {
                    $(Self::$kind(object) => serde_json::to_value(object),)*
                }
            }
        }

        $(
            impl<'a> TryFrom<&'a Object> for &'a $type {
                type Error = OtherKind;

                fn try_from(object: &'a Object) -> Result<Self, OtherKind> {
                    if let Object::$kind(object) = object { Ok(object) } else { Err(OtherKind) }
                }
            }

            impl From<$type> for Object {
                fn from(object: $type) -> Self {
                    Self::$kind(object)
                }
            }
        )*
    };
}

/// The object is of another kind.
#[derive(Clone, Copy, Debug)]
pub struct OtherKind;

kinds! {
    Namespace: Namespace, Rendered;
    ServiceAccount: ServiceAccount, Rendered;
    ClusterRole: ClusterRole, Whole;
    ClusterRoleBinding: ClusterRoleBinding, Whole;
    Role: Role, Whole;
    RoleBinding: RoleBinding, Whole;
    Secret: Secret, Whole;
    PoolPolicy: PoolPolicy, Whole;
    IpAddressPool: IPAddressPool, Whole;
    L2Advertisement: L2Advertisement, Whole;
    BfdProfile: BFDProfile, Whole;
    Community: Community, Whole;
    BgpPeer: BGPPeer, Whole;
    BgpAdvertisement: BGPAdvertisement, Whole;
    PodDisruptionBudget: PodDisruptionBudget, Whole;
    Deployment: Deployment, Whole;
    DaemonSet: DaemonSet, Whole;
}

impl Kind {
    /// The kind that the API calls `kind` of `api_version`; none if a stack has no such objects.
    pub fn find(api_version: &str, kind: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|candidate| {
            let resource = candidate.api_resource();
            resource.api_version == api_version && resource.kind == kind
        })
    }

    /// Whether its objects live in a namespace.
    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::ClusterRole | Self::ClusterRoleBinding)
    }

    /// Whether it is made of an inline pool, under the pool's name.
    pub const fn is_of_pool(self) -> bool {
        matches!(self, Self::IpAddressPool | Self::L2Advertisement | Self::PoolPolicy)
    }

    /// Whether it is configuration that controller and speakers read, which a user may write as well.
    pub fn is_configuration(self) -> bool {
        CONFIG_KINDS.contains(&self.to_string().as_str())
    }

    /// Its place among the kinds when objects are removed: what is applied last goes first. But a pool goes before its
    /// advertisements: one that another pool has taken the place of is advertised until it is gone.
    pub fn removal_order(self) -> impl Ord {
        let is_pool = self == Self::IpAddressPool;
        (std::cmp::Reverse(if is_pool { Self::BgpAdvertisement } else { self }), !is_pool)
    }

    /// Whether it runs pods.
    pub const fn is_workload(self) -> bool {
        matches!(self, Self::Deployment | Self::DaemonSet)
    }
}

/// An object of the stack by kind and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; none if it is cluster-scoped.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl Key {
    /// The key of an object that a finding is about; none if a stack has no such objects.
    pub(crate) fn of(object: &ObjectRef) -> Option<Self> {
        let kind = Kind::ALL.iter().copied().find(|kind| kind.to_string() == object.kind)?;
        Some(Self { kind, namespace: object.namespace.clone(), name: object.name.clone() })
    }
}

impl Object {
    /// The pool that it is, advertises or limits.
    pub fn pool(&self) -> Option<&str> {
        match self {
            Self::IpAddressPool(pool) => pool.metadata.name.as_deref(),
            Self::L2Advertisement(object) => first(object.spec.ip_address_pools.as_ref()),
            Self::BgpAdvertisement(object) => first(object.spec.ip_address_pools.as_ref()),
            Self::PoolPolicy(policy) => Some(&policy.spec.pool),
            _ => None,
        }
    }

    /// What it was imported from, if it was.
    pub fn imported_from(&self) -> Option<&str> {
        self.meta().labels.as_ref()?.get(LABEL_IMPORTED_FROM).map(String::as_str)
    }
}

fn first(names: Option<&Vec<String>>) -> Option<&str> {
    names?.first().map(String::as_str)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// Selects what the operator made, for watches.
pub fn selector() -> String {
    format!("{LABEL_MANAGED_BY}={OPERATOR}")
}

/// The objects of a stack on their way: [`Object`]s as rendered, or what became of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifests<T>(pub Vec<T>);

/// Rendered, not applied.
pub type Prepared = Object;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_what_the_api_calls_it() {
        for kind in Kind::ALL {
            let resource = kind.api_resource();
            assert_eq!(Kind::find(&resource.api_version, &resource.kind), Some(*kind));
            assert_eq!(resource.kind, kind.to_string());
        }
        assert_eq!(Kind::find("v1", "Pod"), None);
    }

    #[test]
    fn whatever_an_object_needs_is_applied_before_it() {
        assert!(Kind::Namespace < Kind::ServiceAccount);
        assert!(Kind::ClusterRole < Kind::ClusterRoleBinding && Kind::Role < Kind::RoleBinding);
        assert!(Kind::Secret < Kind::Deployment && Kind::RoleBinding < Kind::Deployment);
        // As soon as there is a pool, a Service that waits gets an address of it.
        assert!(Kind::PoolPolicy < Kind::IpAddressPool);
    }

    #[test]
    fn a_pool_is_removed_before_its_advertisements_and_everything_else_in_the_reverse_of_its_making() {
        let mut kinds = Kind::ALL.to_vec();
        kinds.sort_by_key(|kind| kind.removal_order());
        let mut expected: Vec<Kind> = Kind::ALL.iter().rev().copied().collect();
        expected.retain(|kind| *kind != Kind::IpAddressPool);
        let place = expected.iter().position(|kind| *kind == Kind::BgpAdvertisement).unwrap();
        expected.insert(place, Kind::IpAddressPool);
        assert_eq!(kinds, expected);
    }
}
