//! A `ServiceL2Status` per Service and owner, an event when the owner changes, a metric.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use announce::cluster::NodeName;
use announce::cluster::link::Scope;
use announce::cluster::objects::AnnouncementInfo;
use crds::ServiceL2StatusStatus;
use crds::annotations::{EPOCH, NODE};
use crds::names::{LABEL_NODE, LABEL_SERVICE_NAME, LABEL_SERVICE_NAMESPACE};
use crds::{AnnouncingInterface, ObjectMeta, ServiceKey, ServiceL2Status, ServiceL2StatusSpec};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use runtime::client::{CallError, with_timeout};
use runtime::events::Events;
use serde_json::json;

use super::assignments::Assignments;
use super::last_announced::LastAnnounced;
use super::unannounced::Unannounced;
use super::{FIELD_MANAGER, gc_nodes, reporter};
use crate::api::watches::Caches;
use crate::layer2::driver::Published;
use crate::metrics::Metrics;

/// Number of concurrent writes: a node that takes over thousands of Services should report them soon.
const WRITES: usize = 8;

/// The desired content of a Service's object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DesiredStatus {
    /// Sorted; empty means all.
    interfaces: Box<[String]>,
    epoch: u64,
    /// Sorted.
    addresses: Box<[IpAddr]>,
}

/// A write that may be necessary.
enum Write<'a> {
    Create(&'a ServiceKey, &'a DesiredStatus),
    Update(&'a ServiceKey, &'a DesiredStatus, &'a AnnouncementInfo),
    Delete(&'a str),
}

/// Maintains the objects, events and metrics of announced Services.
pub(super) struct Announcements {
    api: Api<ServiceL2Status>,
    namespace: String,
    me: NodeName,
    caches: Caches,
    events: Events,
    metrics: Metrics,
    /// The announced Services as of the last publication.
    announced: BTreeMap<Arc<ServiceKey>, DesiredStatus>,
    /// The Services that no node can announce.
    unannounced: BTreeMap<Arc<ServiceKey>, Unannounced>,
    assignments: Assignments,
    last: LastAnnounced,
}

impl Announcements {
    pub(super) fn new(
        client: Client,
        namespace: &str,
        me: NodeName,
        caches: Caches,
        events: Events,
        metrics: Metrics,
    ) -> Self {
        let api = Api::namespaced(client, namespace);
        Self {
            api,
            namespace: namespace.to_owned(),
            me,
            caches,
            events,
            metrics,
            announced: BTreeMap::new(),
            unannounced: BTreeMap::new(),
            assignments: Assignments::default(),
            last: LastAnnounced::default(),
        }
    }

    /// Reports changes by events and metrics, and updates the record of Services that no node announces any
    /// more.
    pub(super) fn report(&mut self, now: Instant, published: &Published) -> &LastAnnounced {
        let (statuses, remembered) = (self.caches.statuses.all(), self.caches.remembered());
        let services = self.caches.services.all();
        let uids: LazyCell<BTreeMap<&ServiceKey, &str>, _> =
            LazyCell::new(|| services.iter().map(|service| (&*service.key, &*service.uid)).collect());
        let uid = |service: &ServiceKey| uids.get(service).copied().unwrap_or_default();
        if self.caches.reports_listed() {
            self.last.load(self.caches.report(&self.me).map(|report| report.last_announced));
        }
        let mut claims = Claims::from_statuses(&self.me, statuses.iter());
        claims.others.extend(Claims::from_statuses(&self.me, remembered.iter()).others);
        self.forget_lost_assignments(published);
        self.report_announced(desired(published), &claims, &uid);
        self.report_unannounced(now, published, &uid);
        let mut known = services_of(published);
        known.extend(statuses.iter().map(|status| &status.service));
        self.assignments.forget(|service| !known.contains(service));
        let announced = |service: &ServiceKey| self.announced.contains_key(service);
        self.last.update(now, published, &self.me, announced, &statuses);
        &self.last
    }

    /// Writes the objects. Objects about announcements that have ended are deleted only if that is `recorded`
    /// by now.
    pub(super) async fn write(
        &self,
        published: &Published,
        owner: Option<&OwnerReference>,
        recorded: bool,
    ) -> Result<(), CallError> {
        self.reconcile(published, owner, recorded).await
    }

    /// When to write again, if nothing changes.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        self.unannounced.values().filter_map(|service| service.next(now)).chain(self.last.next()).min()
    }

    /// Forgets the assignment of each Service that has moved to a group which this node does not own: if it returns,
    /// that is another change of owner, although the claim is the same.
    fn forget_lost_assignments(&mut self, published: &Published) {
        let groups = published.view.groups.values();
        let others =
            groups.filter(|group| !published.owned.contains_key(&group.id) && group.not_announced.is_none());
        let lost: BTreeSet<&ServiceKey> = others
            .flat_map(|group| group.services.iter().map(|service| &**service))
            .filter(|service| self.announced.contains_key(*service))
            .collect();
        self.assignments.forget(|service| lost.contains(service));
    }

    /// Reports changes by events and metrics.
    fn report_announced<'a>(
        &mut self,
        desired: BTreeMap<Arc<ServiceKey>, DesiredStatus>,
        claims: &Claims<'_>,
        uid: &impl Fn(&ServiceKey) -> &'a str,
    ) {
        for (service, what) in &self.announced {
            let stays = desired.get(service).map(|w| &w.addresses);
            for ip in what.addresses.iter().filter(|ip| stays.is_none_or(|stays| !stays.contains(ip))) {
                self.metrics.announced(service, &self.me, *ip, false);
            }
        }
        for (service, what) in &desired {
            for ip in &what.addresses {
                self.metrics.announced(service, &self.me, *ip, true);
            }
            let known = self.announced.get(service);
            if known.is_some_and(|known| known.epoch == what.epoch || !claims.others.contains(&**service)) {
                self.assignments.continues(service, what.epoch);
                continue;
            }
            let uid = uid(service);
            let before = || claims.mine.get(&**service).copied();
            if self.assignments.is_new(service, uid, what.epoch, before) {
                let note = format!("announcing from node \"{}\" with protocol \"layer2\"", self.me);
                self.events.transition(&reference(service, uid), "Announce", "nodeAssigned", note);
            }
        }
        self.announced = desired;
    }

    /// One event on each Service that no node can announce, by the reporter.
    fn report_unannounced<'a>(
        &mut self,
        now: Instant,
        published: &Published,
        uid: &impl Fn(&ServiceKey) -> &'a str,
    ) {
        let reporter = reporter(published);
        let statuses = LazyCell::new(|| self.caches.statuses.all());
        let announced = LazyCell::new(|| announced(&statuses, published));
        let mut unannounced = BTreeMap::new();
        for group in published.view.groups.values() {
            let (Some(why), Some(message)) = (group.not_announced, published.view.why_not_announced(group))
            else {
                continue;
            };
            for service in &group.services {
                let announced = announced.contains(&**service);
                let mut state = Unannounced::update(self.unannounced.get(service), now, why, announced);
                if state.should_report(now) && reporter.is_some() {
                    state.reported = true;
                    // The next node that announces it reports that, even if it is the previous one.
                    self.assignments.announcement_failed(service);
                    if reporter == Some(&self.me) {
                        let note = format!("no node announces the Service's addresses: {message}");
                        let service = reference(service, uid(service));
                        state.report(&self.events, &service, note);
                    }
                }
                unannounced.insert(Arc::clone(service), state);
            }
        }
        self.unannounced = unannounced;
    }

    /// Reconciles the objects of this node, and deletes those that other nodes left for its Services.
    async fn reconcile(
        &self,
        published: &Published,
        owner: Option<&OwnerReference>,
        recorded: bool,
    ) -> Result<(), CallError> {
        let objects = self.caches.statuses.all();
        let known = LazyCell::new(|| services_of(published));
        let may_go = |object: &AnnouncementInfo| recorded && self.last.is_void(object);
        let stays = |object: &AnnouncementInfo| {
            !published.settled || (known.contains(&object.service) && !may_go(object))
        };
        let nodes = LazyCell::new(|| gc_nodes(published, &self.me, &self.caches));
        let is_orphan = |object: &AnnouncementInfo| {
            let gone = || nodes.as_ref().is_some_and(|nodes| !nodes.contains(&*object.node));
            may_go(object) || (!known.contains(&object.service) && gone())
        };
        let (mine, stale) = classify(&objects, &self.me, &self.announced, stays, is_orphan);
        let writes = self.announced.iter().map(|(service, what)| match mine.get(&**service) {
            Some(object) => Write::Update(service, what, object),
            None => Write::Create(service, what),
        });
        let written = self.perform_all(writes, owner).await;
        if written.as_ref().is_err_and(|error| !error.concerns_one_object()) {
            return written;
        }
        // Only now: until our own objects are written, those of other nodes are the record of the last
        // owners.
        let removed = stale.into_iter().map(|object| Write::Delete(&object.name));
        written.and(self.perform_all(removed, owner).await)
    }

    /// Performs a few writes at a time. A failure that concerns one object does not affect the others. After
    /// a failure that concerns all, no write is started, and those in progress are awaited.
    async fn perform_all<'a>(
        &self,
        writes: impl Iterator<Item = Write<'a>>,
        owner: Option<&OwnerReference>,
    ) -> Result<(), CallError> {
        let (mut in_progress, mut result) = (FuturesUnordered::new(), Ok(()));
        for write in writes {
            if in_progress.len() >= WRITES {
                result = result.and(in_progress.next().await.unwrap_or(Ok(())));
            }
            if result.as_ref().is_err_and(|error: &CallError| !error.concerns_one_object()) {
                break;
            }
            in_progress.push(self.perform(write, owner));
        }
        while let Some(ended) = in_progress.next().await {
            result = result.and(ended);
        }
        result
    }

    async fn perform(&self, write: Write<'_>, owner: Option<&OwnerReference>) -> Result<(), CallError> {
        match write {
            Write::Create(service, what) => self.create(service, what, owner).await,
            Write::Update(service, what, object) => self.update(service, what, object).await,
            Write::Delete(name) => {
                match with_timeout(self.api.delete(name, &DeleteParams::default())).await {
                    Err(error) if !error.is_not_found() => Err(error),
                    _ => Ok(()),
                }
            }
        }
    }

    async fn create(
        &self,
        service: &ServiceKey,
        what: &DesiredStatus,
        owner: Option<&OwnerReference>,
    ) -> Result<(), CallError> {
        let name = name(service, &self.me);
        let mut object = ServiceL2Status::new(&name, ServiceL2StatusSpec {});
        object.metadata = ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(self.namespace.clone()),
            labels: Some(BTreeMap::from([
                (LABEL_NODE.into(), announce::label_value(&self.me).into_owned()),
                (LABEL_SERVICE_NAME.into(), service.name.clone()),
                (LABEL_SERVICE_NAMESPACE.into(), service.namespace.clone()),
            ])),
            annotations: Some(BTreeMap::from([
                (EPOCH.into(), what.epoch.to_string()),
                (NODE.into(), self.me.to_string()),
            ])),
            owner_references: owner.map(|owner| vec![owner.clone()]),
            ..ObjectMeta::default()
        };
        match with_timeout(self.api.create(&PostParams::default(), &object)).await {
            Ok(_) => {}
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
        self.patch_status(&name, service, what).await
    }

    async fn update(
        &self,
        service: &ServiceKey,
        what: &DesiredStatus,
        object: &AnnouncementInfo,
    ) -> Result<(), CallError> {
        let name = &object.name;
        if object.epoch != what.epoch {
            let patch = json!({"metadata": {"annotations": {EPOCH: what.epoch.to_string()}}});
            with_timeout(self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await?;
        }
        if object.interfaces.as_ref().is_none_or(|known| known[..] != what.interfaces[..]) {
            self.patch_status(name, service, what).await?;
        }
        Ok(())
    }

    async fn patch_status(
        &self,
        name: &str,
        service: &ServiceKey,
        what: &DesiredStatus,
    ) -> Result<(), CallError> {
        let patch = json!({
            "apiVersion": "metallb.io/v1beta1",
            "kind": "ServiceL2Status",
            "status": self.status(service, what),
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        with_timeout(self.api.patch_status(name, &params, &Patch::Apply(patch))).await.map(|_| ())
    }

    fn status(&self, service: &ServiceKey, what: &DesiredStatus) -> ServiceL2StatusStatus {
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

/// The nodes that have announced Services, as far as the API shows.
struct Claims<'a> {
    /// The epochs of this node's statuses, which go soon after the end of an announcement.
    mine: BTreeMap<&'a ServiceKey, u64>,
    /// The Services that other nodes have announced.
    others: BTreeSet<&'a ServiceKey>,
}

impl<'a> Claims<'a> {
    fn from_statuses(me: &NodeName, statuses: impl Iterator<Item = &'a Arc<AnnouncementInfo>>) -> Self {
        let mut claims = Self { mine: BTreeMap::new(), others: BTreeSet::new() };
        for status in statuses {
            if status.node == *me {
                let epoch = claims.mine.entry(&status.service).or_default();
                *epoch = status.epoch.max(*epoch);
            } else {
                claims.others.insert(&status.service);
            }
        }
        claims
    }
}

/// The objects of announced Services, and those to be deleted.
fn classify<'a>(
    objects: &'a [Arc<AnnouncementInfo>],
    me: &NodeName,
    announced: &BTreeMap<Arc<ServiceKey>, DesiredStatus>,
    stays: impl Fn(&AnnouncementInfo) -> bool,
    is_orphan: impl Fn(&AnnouncementInfo) -> bool,
) -> (BTreeMap<&'a ServiceKey, &'a AnnouncementInfo>, Vec<&'a AnnouncementInfo>) {
    let mut mine: BTreeMap<&ServiceKey, &AnnouncementInfo> = BTreeMap::new();
    let mut stale: Vec<&AnnouncementInfo> = Vec::new();
    for object in objects.iter().map(|object| &**object) {
        let service = &object.service;
        match (object.node == *me, announced.contains_key(service)) {
            // One is enough, preferably the one with our own name rather than one of another implementation.
            (true, true) => match mine.get(service) {
                Some(_) if *object.name != *name(service, me) => stale.push(object),
                _ => stale.extend(mine.insert(service, object)),
            },
            (true, false) if stays(object) => {}
            (false, false) if !is_orphan(object) => {}
            _ => stale.push(object),
        }
    }
    (mine, stale)
}

/// The Services that some node announces, as its speaker has reported. A speaker that is not ready keeps
/// announcing what no other node can.
fn announced<'a>(statuses: &'a [Arc<AnnouncementInfo>], published: &Published) -> HashSet<&'a ServiceKey> {
    let runs = |node: &str| published.view.speakers.get(node).is_some_and(|speaker| speaker.running);
    statuses.iter().filter(|status| runs(&status.node)).map(|status| &status.service).collect()
}

/// All Services that have addresses.
fn services_of(published: &Published) -> BTreeSet<&ServiceKey> {
    let groups = published.view.groups.values();
    groups.flat_map(|group| group.services.iter().map(|service| &**service)).collect()
}

/// What this node announces. A Service whose addresses are all withheld is not announced, although this node
/// owns them.
fn desired(published: &Published) -> BTreeMap<Arc<ServiceKey>, DesiredStatus> {
    let mut desired = BTreeMap::new();
    for (id, epoch) in published.owned.iter() {
        let Some(group) = published.view.groups.get(id) else { continue };
        let scopes = group.addresses.iter().map(|(_, scope)| scope.clone());
        let interfaces: Box<[String]> = match scopes.reduce(Scope::union) {
            Some(Scope::Named(names)) => names.into_iter().collect(),
            Some(Scope::All) | None => Box::default(),
        };
        let announced = |address: &IpAddr| published.is_announced(*address);
        let addresses: Box<[IpAddr]> = group.addresses.keys().filter(announced).collect();
        if addresses.is_empty() {
            continue;
        }
        for service in &group.services {
            let (interfaces, addresses) = (interfaces.clone(), addresses.clone());
            desired.insert(Arc::clone(service), DesiredStatus { interfaces, epoch: *epoch, addresses });
        }
    }
    desired
}

/// One name per Service and node, so that a write is idempotent.
fn name(service: &ServiceKey, node: &str) -> String {
    let digest = announce::digest(&[service.namespace.as_bytes(), service.name.as_bytes(), node.as_bytes()]);
    format!("l2-{}", announce::hex(&digest[..8]))
}

/// A reference with the UID, by which `kubectl describe` selects events.
fn reference(service: &ServiceKey, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Service".into()),
        namespace: Some(service.namespace.clone()),
        name: Some(service.name.clone()),
        uid: (!uid.is_empty()).then(|| uid.to_owned()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests;
