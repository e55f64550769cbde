//! The stores of the configuration kinds.

use std::sync::Arc;

use kube::api::Api;
use kube::core::NamespaceResourceScope;
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use rules::{Objects, config_kinds};
use runtime::reflect::{reflect, wait_synced};
use runtime::tasks::Tasks;
use tokio_util::sync::CancellationToken;

use crate::work_queue::WorkQueue;

/// Starts watches in one namespace, each event of which queues the configuration.
pub(crate) struct WatchStarter<'a> {
    pub(crate) tasks: &'a mut Tasks,
    pub(crate) client: &'a Client,
    pub(crate) namespace: &'a str,
    pub(crate) shutdown: &'a CancellationToken,
    pub(crate) work_queue: &'a WorkQueue,
}

impl WatchStarter<'_> {
    /// Starts the watch of a kind.
    pub(crate) fn start<K>(&mut self) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + serde::de::DeserializeOwned
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let queue = self.work_queue.clone();
        let api = Api::namespaced(self.client.clone(), self.namespace);
        reflect(self.tasks, api, watcher::Config::default(), self.shutdown.clone(), move |_| {
            queue.add_configuration();
        })
    }
}

macro_rules! config_stores {
    ($($(#[$doc:meta])* $list:ident: $kind:ident,)*) => {
        /// A store for each configuration kind.
        #[derive(Clone)]
        pub(crate) struct ConfigStores {
            $(pub(crate) $list: Store<crds::$kind>,)*
        }

        impl ConfigStores {
            /// Starts their watches.
            pub(crate) fn start(starter: &mut WatchStarter<'_>) -> Self {
                Self { $($list: starter.start(),)* }
            }

            /// Waits until all have their first lists.
            pub(crate) async fn wait_synced(&self) {
                // An error means that the task of the watch ended, which ends the process.
                $(let _ = wait_synced(&self.$list).await;)*
            }

            /// The configuration objects.
            pub(crate) fn objects(&self) -> Objects {
                Objects { $($list: self.$list.state(),)* ..Objects::default() }
            }

            /// The UID of an object of the kind with this name.
            pub(crate) fn uid(&self, kind: &str, name: &str) -> Option<String> {
                match kind {
                    $(stringify!($kind) => uid(&self.$list.state(), name),)*
                    _ => None,
                }
            }

            /// Stores without writers.
            #[cfg(test)]
            pub(crate) fn unfilled() -> Self {
                Self { $($list: kube::runtime::reflector::store().0,)* }
            }
        }
    };
}

config_kinds!(config_stores);

fn uid<K: ResourceExt>(objects: &[Arc<K>], name: &str) -> Option<String> {
    objects.iter().find(|object| object.name_any() == name)?.uid()
}
