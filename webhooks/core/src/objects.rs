//! The input of validation.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;

use crds::Resource;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::NamespaceResourceScope;
use kube::core::object::HasSpec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config_kinds;

/// A kind of configuration objects, in the namespace of the stack.
pub trait ConfigKind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + HasSpec
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// The name of the kind.
    const KIND: &'static str;

    /// The objects of this kind.
    fn of(objects: &Objects) -> &Vec<Arc<Self>>;

    /// The objects of this kind.
    fn of_mut(objects: &mut Objects) -> &mut Vec<Arc<Self>>;

    /// The conditions in the status.
    fn conditions(&self) -> &[Condition];
}

macro_rules! objects {
    ($($(#[$doc:meta])* $list:ident: $kind:ident,)*) => {
        /// API objects in the namespace of the stack. Shared, since they come from caches.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Objects {
            $($(#[$doc])* pub $list: Vec<Arc<crds::$kind>>,)*
            /// All namespaces of the cluster, which pools select by label. May be empty in a component that
            /// does not allocate.
            pub namespaces: Vec<Arc<Namespace>>,
            /// The nodes' own addresses, with the node's name. May be empty in a component that does not
            /// allocate.
            pub node_addresses: BTreeMap<IpAddr, String>,
        }

        /// The names of all configuration kinds.
        pub const CONFIG_KINDS: &[&str] = &[$(stringify!($kind)),*];

        $(impl ConfigKind for crds::$kind {
            const KIND: &'static str = stringify!($kind);

            fn of(objects: &Objects) -> &Vec<Arc<Self>> {
                &objects.$list
            }

            fn of_mut(objects: &mut Objects) -> &mut Vec<Arc<Self>> {
                &mut objects.$list
            }

            fn conditions(&self) -> &[Condition] {
                self.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
            }
        })*
    };
}

config_kinds!(objects);
