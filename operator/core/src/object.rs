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

/// Which fields of an object the operator owns. Labels and annotations of others are never removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All fields but labels and annotations: what others add is removed.
    Whole,
    /// Only the rendered fields: others are written by other parts of Kubernetes.
    Rendered,
}

macro_rules! kinds {
    ($($kind:ident: $type:ty, $extent:ident;)*) => {
        /// A kind of object that a stack consists of. The order is the one in which to apply: later kinds
        /// depend on earlier ones. Deletion goes in reverse ([`Kind::deletion_order`]).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(#[doc = stringify!($type)] $kind,)*
        }

        impl Kind {
            /// Every kind, in the order to apply.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The API resource of the kind.
            pub fn api_resource(self) -> ApiResource {
                match self {
                    $(Self::$kind => ApiResource::erase::<$type>(&()),)*
                }
            }

            /// Which fields of an object of this kind the operator owns.
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

        /// A rendered object of the stack.
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

            /// The kind, namespace and name.
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

            /// The object as JSON, as it is sent to the API server.
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
    /// The kind with this `apiVersion` and `kind`; none if a stack has no such objects.
    pub fn from_api(api_version: &str, kind: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|candidate| {
            let resource = candidate.api_resource();
            resource.api_version == api_version && resource.kind == kind
        })
    }

    /// Whether its objects are namespaced.
    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::ClusterRole | Self::ClusterRoleBinding)
    }

    /// Whether its objects are rendered from an inline pool, under the pool's name.
    pub const fn is_pool_object(self) -> bool {
        matches!(self, Self::IpAddressPool | Self::L2Advertisement | Self::PoolPolicy)
    }

    /// Whether it is configuration that controller and speakers read, which a user may write as well.
    pub fn is_configuration(self) -> bool {
        CONFIG_KINDS.contains(&self.to_string().as_str())
    }

    /// The sort key of the kind for deletion: the reverse of the order in which kinds are applied. The
    /// exception is a pool, which is deleted before its advertisements: if another pool replaces it, its
    /// addresses must be advertised until it is gone.
    pub fn deletion_order(self) -> impl Ord {
        let is_pool = self == Self::IpAddressPool;
        (std::cmp::Reverse(if is_pool { Self::BgpAdvertisement } else { self }), !is_pool)
    }

    /// Whether it is a workload: it runs pods.
    pub const fn is_workload(self) -> bool {
        matches!(self, Self::Deployment | Self::DaemonSet)
    }
}

/// Identifies an object of the stack by kind, namespace and name.
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
    /// The key of the object that a finding is about; none if a stack has no such objects.
    pub(crate) fn of(object: &ObjectRef) -> Option<Self> {
        let kind = Kind::ALL.iter().copied().find(|kind| kind.to_string() == object.kind)?;
        Some(Self { kind, namespace: object.namespace.clone(), name: object.name.clone() })
    }
}

impl Object {
    /// The name of the pool that this object is, advertises or limits.
    pub fn pool(&self) -> Option<&str> {
        match self {
            Self::IpAddressPool(pool) => pool.metadata.name.as_deref(),
            Self::L2Advertisement(object) => first(object.spec.ip_address_pools.as_ref()),
            Self::BgpAdvertisement(object) => first(object.spec.ip_address_pools.as_ref()),
            Self::PoolPolicy(policy) => Some(&policy.spec.pool),
            _ => None,
        }
    }

    /// The legacy source from which the object was imported, if it was imported.
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

/// The label selector, for watches, of the objects that the operator created.
pub fn selector() -> String {
    format!("{LABEL_MANAGED_BY}={OPERATOR}")
}

/// The objects of a stack, in the order to apply: [`Object`]s as rendered, or the outcome of applying each.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifests<T>(pub Vec<T>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_api_version_and_kind() {
        for kind in Kind::ALL {
            let resource = kind.api_resource();
            assert_eq!(Kind::from_api(&resource.api_version, &resource.kind), Some(*kind));
            assert_eq!(resource.kind, kind.to_string());
        }
        assert_eq!(Kind::from_api("v1", "Pod"), None);
    }

    #[test]
    fn dependencies_are_applied_first() {
        assert!(Kind::Namespace < Kind::ServiceAccount);
        assert!(Kind::ClusterRole < Kind::ClusterRoleBinding && Kind::Role < Kind::RoleBinding);
        assert!(Kind::Secret < Kind::Deployment && Kind::RoleBinding < Kind::Deployment);
        // As soon as a pool exists, a waiting Service gets an address of it.
        assert!(Kind::PoolPolicy < Kind::IpAddressPool);
    }

    #[test]
    fn a_pool_is_deleted_before_its_advertisements_and_everything_else_in_reverse_apply_order() {
        let mut kinds = Kind::ALL.to_vec();
        kinds.sort_by_key(|kind| kind.deletion_order());
        let mut expected: Vec<Kind> = Kind::ALL.iter().rev().copied().collect();
        expected.retain(|kind| *kind != Kind::IpAddressPool);
        let position = expected.iter().position(|kind| *kind == Kind::BgpAdvertisement).unwrap();
        expected.insert(position, Kind::IpAddressPool);
        assert_eq!(kinds, expected);
    }
}
