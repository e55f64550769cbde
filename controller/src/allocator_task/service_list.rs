//! The list of all Services at the start of a term.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use crds::ServiceKey;
use ipam::{ExistingService, Request};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::ObjectRef;
use runtime::client::CallError;
use runtime::decode::{Lenient, Undecoded};
use serde_json::Value;

use super::context::Context;
use crate::list;
use crate::service::{self, has_leftovers, is_ours, version};

/// The part of a list of all Services that restoring needs, which is much less than the objects.
#[derive(Default)]
pub(super) struct ServiceList {
    /// All Services.
    pub(super) keys: HashSet<ServiceKey>,
    /// Services of ours, with their versions.
    pub(super) existing: Vec<(ExistingService, u64)>,
    /// Other Services, with the addresses in their status: of another class, or being deleted.
    pub(super) others: Vec<(ServiceKey, Vec<IpAddr>, u64)>,
    /// Services that the store does not have, or only in an older version.
    pub(super) newer: Vec<Service>,
    /// The version of the list.
    pub(super) version: u64,
}

impl ServiceList {
    /// Lists all Services from the API server, page by page.
    pub(super) async fn from_api(context: &Context) -> Result<Self, CallError> {
        let mut listed = Self::default();
        let store = &context.watches.services;
        let version = list::for_each(&context.client, None, |Lenient(service): Lenient<Service>| {
            // Each object is progress, however many there are.
            context.heartbeat.beat();
            let service = match service {
                Ok(service) => service,
                Err(undecoded) => return listed.add_undecodable(&undecoded),
            };
            let behind = |stored: Arc<Service>| version(&stored) < version(&service);
            let known = store.get(&ObjectRef::from_obj(&service));
            let newer = known.is_none_or(behind);
            listed.add(&service, &context.class);
            if newer {
                listed.newer.push(service);
            }
        });
        listed.version = version.await?;
        Ok(listed)
    }

    fn add(&mut self, service: &Service, class: &str) {
        let key = ServiceKey::of(service);
        let (version, stored) = (version(service), service::stored_addresses(service));
        self.keys.insert(key.clone());
        if is_ours(service, class) {
            let existing = ExistingService {
                service: key,
                request: Request::from_service(service),
                current: stored,
                pool: service::annotated_pool(service).map(str::to_owned),
                waiting_since: service::waiting_since(service),
            };
            self.existing.push((existing, version));
        } else if !stored.is_empty() || has_leftovers(service) {
            self.others.push((key, stored, version));
        }
    }

    /// The addresses in its status are assigned to no other Service.
    fn add_undecodable(&mut self, service: &Undecoded) {
        let entries = service.status.pointer("/loadBalancer/ingress").and_then(Value::as_array);
        let address = |entry: &Value| entry.get("ip")?.as_str()?.parse().ok();
        let stored: Vec<IpAddr> = entries.into_iter().flatten().filter_map(address).collect();
        let ObjectMeta { namespace, name, .. } = service.metadata.clone();
        let key = ServiceKey::new(namespace.unwrap_or_default(), name.unwrap_or_default());
        self.keys.insert(key.clone());
        if !stored.is_empty() {
            self.others.push((key, stored, 0));
        }
    }

    /// A list of these Services.
    #[cfg(test)]
    pub(super) fn of(services: Vec<Service>, version: u64, class: &str) -> Self {
        let mut listed = Self { version, ..Self::default() };
        for service in services {
            listed.add(&service, class);
            listed.newer.push(service);
        }
        listed
    }
}
