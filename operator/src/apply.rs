//! Brings one object of the cluster to what is rendered, if it is ours, and only if it is not so already.

use std::time::Instant;

use crds::InventoryEntry;
use crds::names::{LABEL_MANAGED_BY, OPERATOR};
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::drift::{Drift, drift, mended};
use render::health::{Applied, Outcome, Workload, entry};
use render::{Key, Kind, Manifests, Object, POD_SECURITY, Prepared};
use serde_json::{Map, Value, json};

use crate::api::{Api, Error};
use crate::memory::{Memory, Record, Verdict};
use crate::metrics::Metrics;
use crate::watch::{Caches, Seen};

/// What it takes to bring objects to what is rendered.
pub(crate) struct Applier<'a> {
    pub(crate) api: &'a Api,
    pub(crate) caches: &'a Caches,
    pub(crate) memory: &'a mut Memory,
    pub(crate) metrics: &'a Metrics,
    pub(crate) inventory: &'a [InventoryEntry],
    /// What was done, for events.
    pub(crate) deeds: Vec<Deed>,
}

/// Something that was done to an object.
pub(crate) enum Deed {
    Made(Key),
    Changed(Key),
    Repaired(Key, String),
}

impl Deed {
    /// The object, if it was made.
    pub(crate) fn made(&self) -> Option<&Key> {
        match self {
            Self::Made(key) => Some(key),
            Self::Changed(_) | Self::Repaired(..) => None,
        }
    }

    /// The object, if it was changed because something else is wanted.
    pub(crate) fn changed(&self) -> Option<&Key> {
        match self {
            Self::Changed(key) => Some(key),
            Self::Made(_) | Self::Repaired(..) => None,
        }
    }
}

/// What happened to one object: its outcome, and the object as it is now if it is ours.
type Result<T> = std::result::Result<T, Error>;

impl Applier<'_> {
    /// Applies all, in order. What fails holds up nothing that does not need it.
    pub(crate) async fn all(&mut self, manifests: Manifests<Prepared>) -> Manifests<Applied> {
        let mut applied: Vec<Applied> = Vec::new();
        let mut controller = None;
        for object in manifests.0 {
            let key = object.key();
            let homeless = key.kind.is_namespaced().then(|| no_home(&applied)).flatten();
            let (outcome, live) = match homeless {
                Some(why) => (Outcome::Waiting(why), None),
                None => self.one(&object, controller.as_ref()).await,
            };
            if key.kind == Kind::Deployment {
                controller = live.as_ref().map(|live| Workload::deployment(&json_of(live)));
            }
            applied.push(Applied { key, outcome, uid: live.and_then(|live| live.uid()) });
        }
        Manifests(applied)
    }

    async fn one(
        &mut self,
        object: &Object,
        controller: Option<&Workload>,
    ) -> (Outcome, Option<DynamicObject>) {
        let key = object.key();
        let mut record = self.memory.remove(&key).unwrap_or_default();
        let done = self.bring(object, &key, &mut record, controller).await;
        let outcome = match done {
            Ok(done) => done,
            Err(error) => {
                let text = error.explain();
                tracing::warn!(object = %key, error = text, "cannot be applied");
                record.failed(text.clone(), Instant::now(), jitter());
                (Outcome::Failed(text), None)
            }
        };
        self.memory.insert(key, record);
        outcome
    }

    async fn bring(
        &mut self,
        object: &Object,
        key: &Key,
        record: &mut Record,
        controller: Option<&Workload>,
    ) -> Result<(Outcome, Option<DynamicObject>)> {
        let desired = object.to_json()?;
        record.want(&desired);
        if let Some((error, _)) = record.is_held(Instant::now()) {
            return Ok((Outcome::Failed(error.to_owned()), self.live(key, record).await.ok().flatten()));
        }
        let Some(live) = self.live(key, record).await? else {
            let made = self.api.apply(key, &desired, true).await?;
            self.deeds.push(Deed::Made(key.clone()));
            record.wrote(made.clone());
            return Ok((Outcome::AsRendered, Some(made)));
        };
        if live.metadata.deletion_timestamp.is_some() {
            return Ok((Outcome::Waiting("it is being deleted, and will be made anew".to_owned()), None));
        }
        if !self.is_ours(key, &live) {
            return self.foreign(key, &live).await;
        }
        let seen = json_of(&live);
        let drift = drift(&desired, &seen, key.kind.extent());
        if drift.is_none() {
            record.settled();
            return Ok((Outcome::AsRendered, Some(live)));
        }
        if waits_for_controller(key, &desired, &seen, controller) {
            let why = "the controller is brought up to date first".to_owned();
            return Ok((Outcome::Waiting(why), Some(live)));
        }
        self.mend(key, record, &desired, &live, &drift).await
    }

    /// Changes what differs, unless somebody else insists on it.
    async fn mend(
        &mut self,
        key: &Key,
        record: &mut Record,
        desired: &Value,
        live: &DynamicObject,
        drift: &Drift,
    ) -> Result<(Outcome, Option<DynamicObject>)> {
        let seen = json_of(live);
        let culprits = culprits(drift);
        let fields =
            drift.differs.iter().chain(&drift.foreign).map(String::as_str).collect::<Vec<_>>().join(", ");
        let tampered = record.is_achieved();
        if tampered && record.judge(Instant::now()) == Verdict::Yield {
            let text = format!(
                "{culprits} changes it again and again ({fields}); it is left alone until it is as the stack \
                 wants it or the spec changes: stop what changes it"
            );
            return Ok((Outcome::Contested(text), Some(live.clone())));
        }
        tracing::info!(object = %key, fields, by = culprits, "differs from what is rendered");
        if !drift.foreign.is_empty() {
            // One change brings everything right, what an apply would leave included; the apply that follows
            // changes nothing more but makes the fields ours again.
            match self.api.change(key, &seen, &mended(desired, &seen)).await {
                Ok(_) => {}
                Err(error) if error.is_outdated() => {
                    return Ok((Outcome::Waiting("it is changing right now".to_owned()), Some(live.clone())));
                }
                Err(error) => return Err(error),
            }
        }
        let written = self.api.apply(key, desired, true).await?;
        record.wrote(written.clone());
        if tampered {
            record.repaired(Instant::now());
            self.metrics.repaired(key.kind);
            self.deeds.push(Deed::Repaired(key.clone(), culprits));
        } else {
            self.deeds.push(Deed::Changed(key.clone()));
        }
        Ok((Outcome::AsRendered, Some(written)))
    }

    /// The object as it is now. Asked for only if the mirror does not have it.
    async fn live(&self, key: &Key, record: &mut Record) -> Result<Option<DynamicObject>> {
        let seen = match self.caches.get(key) {
            Seen::There(object) => Some((*object).clone()),
            Seen::NotThere => self.api.get(key).await?,
        };
        Ok(record.newest(seen))
    }

    /// Made by us: it says so, or the inventory knows it and only the label was taken off.
    fn is_ours(&self, key: &Key, live: &DynamicObject) -> bool {
        let labelled = live.labels().get(LABEL_MANAGED_BY).is_some_and(|manager| manager == OPERATOR);
        labelled || live.uid().is_some_and(|uid| self.inventory.contains(&entry(key, &uid)))
    }

    /// An object that somebody else made is not touched. The namespace is a guest's: it only gets the labels
    /// without which no speaker could run, where it has none.
    async fn foreign(&self, key: &Key, live: &DynamicObject) -> Result<(Outcome, Option<DynamicObject>)> {
        if key.kind != Kind::Namespace {
            let text = format!(
                "exists, made by {}, and is not touched: remove or rename it, and the stack's own takes its place",
                maker(live)
            );
            return Ok((Outcome::Foreign(text), None));
        }
        let ours = owned_labels(live);
        let wanted = |(label, value): (&'static str, &'static str)| {
            let free = !live.labels().contains_key(label) || ours.contains(&label.to_owned());
            free.then(|| (label.to_owned(), Value::from(value)))
        };
        let labels: Map<String, Value> = POD_SECURITY.into_iter().filter_map(wanted).collect();
        let missing = labels
            .iter()
            .any(|(label, value)| live.labels().get(label).map(String::as_str) != value.as_str());
        if missing {
            self.api.apply(key, &namespace_labels(&key.name, &labels), false).await?;
        }
        let enforce = live.labels().get(ENFORCE).map(String::as_str);
        match enforce {
            None | Some("privileged") => Ok((Outcome::AsRendered, None)),
            Some(level) => {
                let text = format!(
                    "enforces pod security level {level:?}, under which no speaker can run: \
                     kubectl label namespace {} {ENFORCE}=privileged --overwrite",
                    key.name
                );
                Ok((Outcome::Foreign(text), None))
            }
        }
    }
}

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// What is applied to a namespace that is not ours.
pub(crate) fn namespace_labels(name: &str, labels: &Map<String, Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// Labels of `live` that the operator applied.
pub(crate) fn owned_labels(live: &DynamicObject) -> Vec<String> {
    let entries = live.managed_fields().iter().filter(|entry| {
        entry.manager.as_deref() == Some(OPERATOR) && entry.operation.as_deref() == Some("Apply")
    });
    let labels =
        entries.filter_map(|entry| entry.fields_v1.as_ref()?.0["f:metadata"]["f:labels"].as_object());
    labels.flat_map(Map::keys).filter_map(|key| Some(key.strip_prefix("f:")?.to_owned())).collect()
}

/// Why nothing can be made in the namespace now, if so.
fn no_home(applied: &[Applied]) -> Option<String> {
    let namespace = applied.iter().find(|applied| applied.key.kind == Kind::Namespace)?;
    match &namespace.outcome {
        Outcome::Waiting(_) => Some(format!("namespace {} is being deleted", namespace.key.name)),
        Outcome::Failed(error) if namespace.uid.is_none() => {
            Some(format!("namespace {} cannot be made: {error}", namespace.key.name))
        }
        _ => None,
    }
}

/// Speakers get a new image only once the controller runs with it: an image that does not work stops there.
fn waits_for_controller(key: &Key, desired: &Value, live: &Value, controller: Option<&Workload>) -> bool {
    let image = "/spec/template/spec/containers/0/image";
    key.kind == Kind::DaemonSet
        && desired.pointer(image) != live.pointer(image)
        && controller.is_some_and(|controller| !controller.is_rolled_out(true) || controller.ready == 0)
}

/// Who changed the object, as far as the managed fields tell.
fn culprits(drift: &Drift) -> String {
    if drift.by.is_empty() {
        return "something that the managed fields do not name (an admission webhook?)".to_owned();
    }
    drift.by.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn maker(live: &DynamicObject) -> String {
    let label = live.labels().get(LABEL_MANAGED_BY).cloned();
    let manager = || live.managed_fields().iter().find_map(|entry| entry.manager.clone());
    label.or_else(manager).unwrap_or_else(|| "somebody else".to_owned())
}

/// The object as JSON; what cannot be put into JSON is as good as empty.
pub(crate) fn json_of(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// From 0 to 1.
fn jitter() -> f64 {
    use ring::rand::SecureRandom as _;
    let mut byte = [0; 1];
    // Without chance, everything waits equally long: harmless.
    let _ = ring::rand::SystemRandom::new().fill(&mut byte);
    f64::from(byte[0]) / 255.0
}
