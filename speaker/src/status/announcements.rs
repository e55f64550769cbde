//! A `ServiceL2Status` per Service and owner, an event when the owner changes, a metric.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use announce::facts::StatusFacts;
use announce::link::Scope;
use announce::view::NodeName;
use crds::ServiceL2StatusStatus;
use crds::annotations::EPOCH;
use crds::names::{LABEL_NODE, LABEL_SERVICE_NAME, LABEL_SERVICE_NAMESPACE};
use crds::{AnnouncingInterface, ObjectMeta, ServiceKey, ServiceL2Status, ServiceL2StatusSpec};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use runtime::client::{CallError, bounded};
use runtime::events::Events;
use serde_json::json;

use super::unannounced::Unannounced;
use super::{FIELD_MANAGER, nodes_to_tidy, spokesman};
use crate::driver::Published;
use crate::metrics::Metrics;
use crate::watches::Stores;

/// How many writes are under way at once: a node that takes over thousands of Services is to have told of them soon.
const WRITES: usize = 8;

/// What a Service's object is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// In order; none means all.
    interfaces: Box<[String]>,
    epoch: u64,
    /// In order.
    addresses: Box<[IpAddr]>,
}

/// What may have to be written.
enum Write<'a> {
    Create(&'a ServiceKey, &'a Wanted),
    Correct(&'a ServiceKey, &'a Wanted, &'a StatusFacts),
    Remove(&'a str),
}

/// Keeps the objects, events and metrics about announced Services.
pub(super) struct Announcements {
    api: Api<ServiceL2Status>,
    namespace: String,
    me: NodeName,
    stores: Stores,
    events: Events,
    metrics: Metrics,
    /// What was announced when last looked, for events and metrics.
    told: BTreeMap<Arc<ServiceKey>, Wanted>,
    /// The Services that nobody can announce.
    unannounced: BTreeMap<Arc<ServiceKey>, Unannounced>,
}

impl Announcements {
    pub(super) fn new(
        client: Client,
        namespace: &str,
        me: NodeName,
        stores: Stores,
        events: Events,
        metrics: Metrics,
    ) -> Self {
        let api = Api::namespaced(client, namespace);
        Self {
            api,
            namespace: namespace.to_owned(),
            me,
            stores,
            events,
            metrics,
            told: BTreeMap::new(),
            unannounced: BTreeMap::new(),
        }
    }

    /// Tells and writes what has changed.
    pub(super) async fn write(
        &mut self,
        now: Instant,
        published: &Published,
        owner: Option<&OwnerReference>,
    ) -> Result<(), CallError> {
        self.tell(wanted(published));
        self.tell_unannounced(now, published);
        self.correct_all(now, published, owner).await
    }

    /// When to write again, if nothing changes.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        self.unannounced.values().filter_map(|service| service.next(now)).min()
    }

    /// Events and metrics of what has changed.
    fn tell(&mut self, wanted: BTreeMap<Arc<ServiceKey>, Wanted>) {
        for (service, what) in &self.told {
            let stays = wanted.get(service).map(|w| &w.addresses);
            for ip in what.addresses.iter().filter(|ip| stays.is_none_or(|stays| !stays.contains(ip))) {
                self.metrics.announced(service, &self.me, *ip, false);
            }
        }
        for (service, what) in &wanted {
            for ip in &what.addresses {
                self.metrics.announced(service, &self.me, *ip, true);
            }
            if is_new(self.told.get(service), what) {
                let note = format!("announcing from node \"{}\" with protocol \"layer2\"", self.me);
                self.events.normal(&reference(service), "Announce", "nodeAssigned", note);
            }
        }
        self.told = wanted;
    }

    /// One warning on each Service that nobody can announce, by the first of all ready speakers.
    fn tell_unannounced(&mut self, now: Instant, published: &Published) {
        let spokesman = spokesman(published);
        let mut unannounced = BTreeMap::new();
        for group in published.view.groups.values() {
            let (Some(why), Some(message)) = (group.idle, published.view.why_idle(group)) else { continue };
            for service in &group.services {
                let mut state = Unannounced::go_on(self.unannounced.get(service), now, why);
                if state.is_news(now) && spokesman.is_some() {
                    state.told = true;
                    if spokesman == Some(&self.me) {
                        let note = format!("no node announces the Service's addresses: {message}");
                        self.events.warning(&reference(service), "Announce", "announceFailed", note);
                    }
                }
                unannounced.insert(Arc::clone(service), state);
            }
        }
        self.unannounced = unannounced;
    }

    /// Brings the objects of this node in line with what was told, and removes what other nodes left of its Services.
    async fn correct_all(
        &self,
        now: Instant,
        published: &Published,
        owner: Option<&OwnerReference>,
    ) -> Result<(), CallError> {
        let objects = self.stores.statuses.all();
        let known: LazyCell<BTreeSet<&ServiceKey>, _> = LazyCell::new(|| {
            let groups = published.view.groups.values();
            groups.flat_map(|group| group.services.iter().map(|service| &**service)).collect()
        });
        // Who announced a Service last is remembered as long as somebody may announce it again; the next one removes that.
        let is_remembered = |service: &ServiceKey| {
            let past = self.unannounced.get(service).is_some_and(|service| service.is_past(now));
            !published.settled || (!past && known.contains(service))
        };
        let nodes = LazyCell::new(|| nodes_to_tidy(published, &self.me, &self.stores));
        let is_orphan = |object: &StatusFacts| {
            let gone = || nodes.as_ref().is_some_and(|nodes| !nodes.contains(&*object.node));
            !known.contains(&object.service) && gone()
        };
        let (mine, stale) = sort(&objects, &self.me, &self.told, is_remembered, is_orphan);
        let writes = self.told.iter().map(|(service, what)| match mine.get(&**service) {
            Some(object) => Write::Correct(service, what, object),
            None => Write::Create(service, what),
        });
        self.carry_out_all(writes, owner).await?;
        // Only now: until our own objects are written, those of others tell who had an address last.
        self.carry_out_all(stale.into_iter().map(|object| Write::Remove(&object.name)), owner).await
    }

    /// A few at a time. After the first failure none is begun any more, and those under way are waited for.
    async fn carry_out_all<'a>(
        &self,
        writes: impl Iterator<Item = Write<'a>>,
        owner: Option<&OwnerReference>,
    ) -> Result<(), CallError> {
        let (mut under_way, mut result) = (FuturesUnordered::new(), Ok(()));
        for write in writes {
            if under_way.len() >= WRITES {
                result = under_way.next().await.unwrap_or(Ok(()));
            }
            if result.is_err() {
                break;
            }
            under_way.push(self.carry_out(write, owner));
        }
        while let Some(ended) = under_way.next().await {
            result = result.and(ended);
        }
        result
    }

    async fn carry_out(&self, write: Write<'_>, owner: Option<&OwnerReference>) -> Result<(), CallError> {
        match write {
            Write::Create(service, what) => self.create(service, what, owner).await,
            Write::Correct(service, what, object) => self.correct(service, what, object).await,
            Write::Remove(name) => match bounded(self.api.delete(name, &DeleteParams::default())).await {
                Err(error) if !error.is_not_found() => Err(error),
                _ => Ok(()),
            },
        }
    }

    async fn create(
        &self,
        service: &ServiceKey,
        what: &Wanted,
        owner: Option<&OwnerReference>,
    ) -> Result<(), CallError> {
        let name = name(service, &self.me);
        let mut object = ServiceL2Status::new(&name, ServiceL2StatusSpec {});
        object.metadata = ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(self.namespace.clone()),
            labels: Some(BTreeMap::from([
                (LABEL_NODE.into(), self.me.to_string()),
                (LABEL_SERVICE_NAME.into(), service.name.clone()),
                (LABEL_SERVICE_NAMESPACE.into(), service.namespace.clone()),
            ])),
            annotations: Some(BTreeMap::from([(EPOCH.into(), what.epoch.to_string())])),
            owner_references: owner.map(|owner| vec![owner.clone()]),
            ..ObjectMeta::default()
        };
        match bounded(self.api.create(&PostParams::default(), &object)).await {
            Ok(_) => {}
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
        self.patch_status(&name, service, what).await
    }

    async fn correct(
        &self,
        service: &ServiceKey,
        what: &Wanted,
        object: &StatusFacts,
    ) -> Result<(), CallError> {
        let name = &object.name;
        if object.epoch != what.epoch {
            let patch = json!({"metadata": {"annotations": {EPOCH: what.epoch.to_string()}}});
            bounded(self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await?;
        }
        if object.interfaces.as_ref().is_none_or(|known| known[..] != what.interfaces[..]) {
            self.patch_status(name, service, what).await?;
        }
        Ok(())
    }

    async fn patch_status(&self, name: &str, service: &ServiceKey, what: &Wanted) -> Result<(), CallError> {
        let patch = json!({
            "apiVersion": "metallb.io/v1beta1",
            "kind": "ServiceL2Status",
            "status": self.status(service, what),
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        bounded(self.api.patch_status(name, &params, &Patch::Apply(patch))).await.map(|_| ())
    }

    fn status(&self, service: &ServiceKey, what: &Wanted) -> ServiceL2StatusStatus {
        let interfaces: Vec<AnnouncingInterface> =
            what.interfaces.iter().map(|name| AnnouncingInterface { name: Some(name.clone()) }).collect();
        ServiceL2StatusStatus {
            node: Some(self.me.to_string()),
            service_name: Some(service.name.clone()),
            service_namespace: Some(service.namespace.clone()),
            interfaces: (!interfaces.is_empty()).then_some(interfaces),
        }
    }
}

/// Whether a Service begins to be announced. One whose addresses are all withheld is owned and not announced.
fn is_new(told: Option<&Wanted>, what: &Wanted) -> bool {
    !what.addresses.is_empty() && told.is_none_or(|told| told.addresses.is_empty())
}

/// The objects that say what was told, and those that are to go.
fn sort<'a>(
    objects: &'a [Arc<StatusFacts>],
    me: &NodeName,
    told: &BTreeMap<Arc<ServiceKey>, Wanted>,
    is_remembered: impl Fn(&ServiceKey) -> bool,
    is_orphan: impl Fn(&StatusFacts) -> bool,
) -> (BTreeMap<&'a ServiceKey, &'a StatusFacts>, Vec<&'a StatusFacts>) {
    let mut mine: BTreeMap<&ServiceKey, &StatusFacts> = BTreeMap::new();
    let mut stale: Vec<&StatusFacts> = Vec::new();
    for object in objects.iter().map(|object| &**object) {
        let service = &object.service;
        match (object.node == *me, told.contains_key(service)) {
            // One is enough: rather the one with our own name than what another implementation left.
            (true, true) => match mine.get(service) {
                Some(_) if *object.name != *name(service, me) => stale.push(object),
                _ => stale.extend(mine.insert(service, object)),
            },
            (true, false) if is_remembered(service) => {}
            (false, false) if !is_orphan(object) => {}
            _ => stale.push(object),
        }
    }
    (mine, stale)
}

fn wanted(published: &Published) -> BTreeMap<Arc<ServiceKey>, Wanted> {
    let mut wanted = BTreeMap::new();
    for (id, epoch) in &published.owned {
        let Some(group) = published.view.groups.get(id) else { continue };
        let scopes = group.addresses.iter().map(|(_, scope)| scope.clone());
        let interfaces: Box<[String]> = match scopes.reduce(Scope::union) {
            Some(Scope::Named(names)) => names.into_iter().collect(),
            Some(Scope::All) | None => Box::default(),
        };
        let withheld =
            |address: &IpAddr| published.conflicts.get(address).is_some_and(|conflict| conflict.withheld);
        let announced = |address: &IpAddr| !withheld(address) && !published.added.contains(address);
        let addresses: Box<[IpAddr]> = group.addresses.keys().filter(announced).collect();
        for service in &group.services {
            let (interfaces, addresses) = (interfaces.clone(), addresses.clone());
            wanted.insert(Arc::clone(service), Wanted { interfaces, epoch: *epoch, addresses });
        }
    }
    wanted
}

/// One name per Service and node, so that a write can be repeated.
fn name(service: &ServiceKey, node: &str) -> String {
    use std::fmt::Write as _;
    let print = announce::digest(&[service.namespace.as_bytes(), service.name.as_bytes(), node.as_bytes()]);
    let mut name = String::from("l2-");
    for byte in &print[..8] {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

fn reference(service: &ServiceKey) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Service".into()),
        namespace: Some(service.namespace.clone()),
        name: Some(service.name.clone()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(addresses: &[&str]) -> Wanted {
        Wanted {
            interfaces: Box::default(),
            epoch: 1,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_service_is_told_of_once_it_has_an_address_that_is_not_withheld() {
        assert!(!is_new(None, &what(&[])));
        assert!(is_new(None, &what(&["10.0.0.1"])));
        assert!(is_new(Some(&what(&[])), &what(&["10.0.0.1"])));
        assert!(!is_new(Some(&what(&["10.0.0.1"])), &what(&["10.0.0.1", "10.0.0.2"])));
    }

    fn service(name: &str) -> ServiceKey {
        ServiceKey { namespace: "default".into(), name: name.into() }
    }

    /// Names of the objects that are to go.
    fn stale(objects: &[(&str, &str, &str)], told: &[&str], remembered: &[&str]) -> Vec<String> {
        let object = |(name, name_of_service, node): &(&str, &str, &str)| {
            let (name, service) = ((*name).into(), service(name_of_service));
            Arc::new(StatusFacts { name, service, node: (*node).into(), epoch: 1, interfaces: None })
        };
        let objects: Vec<_> = objects.iter().map(object).collect();
        let told = told.iter().map(|name| (Arc::new(service(name)), what(&[]))).collect();
        let is_remembered = |service: &ServiceKey| remembered.contains(&&*service.name);
        let is_orphan = |status: &StatusFacts| *status.node == *"gone";
        let (_, stale) = sort(&objects, &"node1".into(), &told, is_remembered, is_orphan);
        stale.into_iter().map(|object| object.name.to_string()).collect()
    }

    #[test]
    fn what_other_nodes_left_of_a_service_goes_once_this_one_announces_it() {
        let objects = [("a", "web", "node1"), ("b", "web", "node2"), ("c", "db", "node2")];
        assert_eq!(stale(&objects, &["web"], &[]), ["b"]);
    }

    #[test]
    fn one_object_of_this_node_is_kept_for_a_service_and_that_with_its_own_name() {
        let ours = name(&service("web"), "node1");
        for objects in [
            [("l2-abcde", "web", "node1"), (&ours, "web", "node1")],
            [(&ours, "web", "node1"), ("l2-abcde", "web", "node1")],
        ] {
            assert_eq!(stale(&objects, &["web"], &[]), ["l2-abcde"]);
        }
    }

    #[test]
    fn what_a_node_left_that_is_gone_too_goes_with_the_service() {
        let objects = [("a", "web", "gone"), ("b", "web", "node2")];
        assert_eq!(stale(&objects, &[], &[]), ["a"]);
    }

    #[test]
    fn who_announced_a_service_last_is_remembered_while_that_matters() {
        let objects = [("a", "web", "node1"), ("b", "db", "node1")];
        assert_eq!(stale(&objects, &[], &["web"]), ["b"]);
    }
}
