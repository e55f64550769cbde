//! Brings one object of the cluster to what is rendered, if it is ours, and only if it is not so already.

use std::collections::{BTreeMap, BTreeSet};

use crds::InventoryEntry;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::drift::{Drift, drift, is_field_removed, mended, rewritten};
use render::health::{Applied, Outcome, Workload, entry};
use render::ownership::{is_labelled, is_marked, is_operators, maker, taken_over_by};
use render::{Key, Kind, Manifests, Object, ValidatedStack};
use serde_json::Value;

use crate::api::{Api, Error};
use crate::memory::{Found, Memory, Record, Verdict};
use crate::metrics::Metrics;
use crate::release::{Release, Released, release_one};
use crate::watch::{Caches, Seen};
use tokio::time::Instant;

/// What it takes to bring objects to what is rendered.
pub(crate) struct Applier<'a> {
    pub(crate) api: &'a Api,
    pub(crate) caches: &'a Caches,
    pub(crate) memory: &'a mut Memory,
    pub(crate) metrics: &'a Metrics,
    pub(crate) inventory: &'a [InventoryEntry],
    pub(crate) validated: &'a ValidatedStack,
    /// The UID of the stack.
    pub(crate) stack: &'a str,
    /// What is remembered of objects that are their users'.
    pub(crate) released: &'a mut Memory,
    /// What was done, for events.
    pub(crate) deeds: Vec<Deed>,
}

/// Something that was done to an object.
pub(crate) enum Deed {
    Made(Key),
    Changed(Key),
    Repaired(Key, String),
    Released(Released),
}

impl Deed {
    /// The object, if it was made.
    pub(crate) fn made(&self) -> Option<&Key> {
        match self {
            Self::Made(key) => Some(key),
            Self::Changed(_) | Self::Repaired(..) | Self::Released(_) => None,
        }
    }

    /// The object, if it was changed because something else is wanted.
    pub(crate) fn changed(&self) -> Option<&Key> {
        match self {
            Self::Changed(key) => Some(key),
            Self::Made(_) | Self::Repaired(..) | Self::Released(_) => None,
        }
    }
}

/// What happened to one object: its outcome, and the object as it is now if it is ours.
type Result<T> = std::result::Result<T, Error>;

impl Applier<'_> {
    /// Applies all, in order. What fails holds up nothing that does not need it.
    pub(crate) async fn all(&mut self, objects: &[Object]) -> Manifests<Applied> {
        let mut applied: Vec<Applied> = Vec::new();
        let mut controller = None;
        let taken = self.taken(objects).await;
        for object in objects {
            let key = object.key();
            let homeless = key.kind.is_namespaced().then(|| no_home(&applied)).flatten();
            let (outcome, live) = match homeless {
                Some(why) => (Outcome::Waiting(why), None),
                None => self.one(object, &taken, controller.as_ref()).await,
            };
            if key.kind == Kind::Deployment {
                controller = live.as_ref().map(|live| Workload::deployment(&json_of(live)));
            }
            applied.push(Applied { key, outcome, uid: live.and_then(|live| live.uid()) });
        }
        Manifests(applied)
    }

    /// Pools whose name is taken: by a pool of somebody else or, where there is no pool yet, by an advertisement or a policy.
    /// Nothing is made under such a name: it would act on what is somebody else's. A pool that is in place costs no call,
    /// nor does a name of which it is known that it is taken.
    async fn taken(&mut self, objects: &[Object]) -> BTreeMap<String, Key> {
        let mut names = Names::default();
        for object in objects {
            let (Some(pool), key) = (object.pool(), object.key()) else { continue };
            let mut record = self.memory.remove(&key).unwrap_or_default();
            let live = self.mirrored(&key, &mut record);
            let live = live.or_else(|| record.foreign_object(Instant::now()).cloned());
            if let Some(live) = live {
                names.add(pool, &key, self.is_ours(object, &key, &live));
            }
            self.memory.insert(key, record);
        }
        for object in objects {
            let (Some(pool), key) = (object.pool(), object.key()) else { continue };
            let mut record = self.memory.remove(&key).unwrap_or_default();
            // What fails here fails again when the object is applied, and is reported then.
            if !names.is_known(pool)
                && record.is_held(Instant::now()).is_none()
                && let Ok(live) = self.live(&key, &mut record).await
            {
                if let Some(live) = &live {
                    names.add(pool, &key, self.is_ours(object, &key, live));
                }
                record.found(live);
            }
            self.memory.insert(key, record);
        }
        names.taken.retain(|pool, _| !names.in_place.contains(pool));
        names.taken
    }

    async fn one(
        &mut self,
        object: &Object,
        taken: &BTreeMap<String, Key>,
        controller: Option<&Workload>,
    ) -> (Outcome, Option<DynamicObject>) {
        let key = object.key();
        let mut record = self.memory.remove(&key).unwrap_or_default();
        let taken = object.pool().and_then(|pool| taken.get(pool));
        let done = self.bring(object, &mut record, taken, controller).await;
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
        record: &mut Record,
        taken: Option<&Key>,
        controller: Option<&Workload>,
    ) -> Result<(Outcome, Option<DynamicObject>)> {
        let (desired, key) = (object.to_json()?, &object.key());
        record.want(&desired);
        if let Some((error, _)) = record.is_held(Instant::now()) {
            return Ok((Outcome::Failed(error.to_owned()), self.mirrored(key, record)));
        }
        if let Some(other) = taken.filter(|other| *other != key) {
            let why =
                format!("is left as it is: {other}, which has the name of its pool, is not the operator's");
            let ours = self.mirrored(key, record).filter(|live| self.is_ours(object, key, live));
            return Ok((Outcome::Retained(why), ours));
        }
        let live = self.live(key, record).await?;
        let Some(live) = live else { return self.make(key, record, &desired).await };
        if live.metadata.deletion_timestamp.is_some() {
            return Ok((Outcome::Waiting("it is being deleted, and will be made anew".to_owned()), None));
        }
        if !self.is_ours(object, key, &live) {
            let outcome = self.foreign(object, record, &live, taken.is_some()).await?;
            return Ok((outcome, None));
        }
        let seen = json_of(&live);
        let drift = drift(&desired, &seen, key.kind.extent()).without(&record.rewritten, &seen);
        if drift.is_none() {
            record.settled();
            return Ok((Outcome::AsRendered, Some(live)));
        }
        let is_taken_over = object.imported_from().is_some() && record.is_achieved();
        if is_taken_over && is_field_removed(&drift, &seen) {
            return Ok((self.foreign(object, record, &live, taken.is_some()).await?, None));
        }
        if self.validated.is_frozen(key) {
            let why = "stays as it is until the error in what it is made of is corrected".to_owned();
            return Ok((Outcome::Retained(why), Some(live)));
        }
        if waits_for_controller(key, &desired, &seen, controller) {
            let why = "the controller is brought up to date first".to_owned();
            return Ok((Outcome::Waiting(why), Some(live)));
        }
        self.mend(key, record, &desired, &live, &drift).await
    }

    /// Makes what is missing, unless somebody deletes it again and again.
    async fn make(
        &mut self,
        key: &Key,
        record: &mut Record,
        desired: &Value,
    ) -> Result<(Outcome, Option<DynamicObject>)> {
        let (deleted, now) = (record.has_existed(), Instant::now());
        if deleted && record.judge_deletion(now) == Verdict::Yield {
            let text = "somebody deletes it again and again; it is made anew ten minutes after that: stop what deletes \
                        it (who does is in the audit log of the API server only)";
            return Ok((Outcome::Contested(text.to_owned()), None));
        }
        // Without force: what a user has just made under this name keeps its values.
        let made = match self.api.apply(key, desired, false).await {
            Err(error) if error.is_outdated() => {
                return Ok((Outcome::Waiting("somebody has just made it".to_owned()), None));
            }
            result => result?,
        };
        self.deeds.push(Deed::Made(key.clone()));
        record.rewritten = rewritten(desired, &json_of(&made));
        record.wrote(made.clone());
        if deleted {
            record.remade(now);
        }
        Ok((Outcome::AsRendered, Some(made)))
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
        let patched = !drift.foreign.is_empty();
        let mut version = live.resource_version();
        if patched {
            // One change brings everything right, what an apply would leave included; the apply that follows
            // changes nothing more but makes the fields ours again.
            match self.api.change(key, &seen, &mended(desired, &seen)).await {
                Ok(patched) => version = patched.resource_version(),
                Err(error) if error.is_outdated() => return Ok(changing(live)),
                Err(error) => return Err(error),
            }
            // It counts also if the apply fails.
            if tampered { record.repaired(Instant::now()) } else { record.brought_about() }
        }
        // Nobody's edit that came in between is overwritten.
        let mut body = desired.clone();
        body["metadata"]["resourceVersion"] = version.into();
        let written = match self.api.apply(key, &body, true).await {
            Err(error) if error.is_outdated() => return Ok(changing(live)),
            result => result?,
        };
        record.rewritten = rewritten(desired, &json_of(&written));
        let changed = written.resource_version() != live.resource_version();
        record.wrote(written.clone());
        if !changed {
            tracing::info!(object = %key, fields, "is as an admission webhook makes it of what is rendered");
        } else if tampered {
            if !patched {
                record.repaired(Instant::now());
            }
            self.metrics.repaired(key.kind);
            self.deeds.push(Deed::Repaired(key.clone(), culprits));
        } else {
            self.deeds.push(Deed::Changed(key.clone()));
        }
        Ok((Outcome::AsRendered, Some(written)))
    }

    /// The object as it is now. Asked for only if the mirror does not have it.
    async fn live(&self, key: &Key, record: &mut Record) -> Result<Option<DynamicObject>> {
        if let Seen::There(_) = self.caches.get(key) {
            return Ok(self.mirrored(key, record));
        }
        if let Some(Found(found)) = record.take_found() {
            return Ok(found);
        }
        if let Some(foreign) = record.foreign_object(Instant::now()) {
            return Ok(Some(foreign.clone()));
        }
        let found = self.api.get(key).await?;
        Ok(record.newest(found))
    }

    /// The object as far as it can be known without a call.
    fn mirrored(&self, key: &Key, record: &mut Record) -> Option<DynamicObject> {
        match self.caches.get(key) {
            Seen::There(object) => record.newest(Some((*object).clone())),
            Seen::NotThere => None,
        }
    }

    /// Made by us, and not taken over by anybody.
    fn is_ours(&self, object: &Object, key: &Key, live: &DynamicObject) -> bool {
        let known = live.uid().is_some_and(|uid| self.inventory.contains(&entry(key, &uid)));
        let live = json_of(live);
        let imported = object.imported_from().is_some();
        // Who takes our label off an imported object has taken it over.
        let is_users = imported && (!is_labelled(&live) || taken_over_by(&live).is_some());
        is_operators(&live, known) && !is_users
    }

    /// An object that somebody else made, or has taken over, is not touched; only the namespace gets labels.
    /// `blocks`: for its sake its pool is not made.
    async fn foreign(
        &mut self,
        object: &Object,
        record: &mut Record,
        live: &DynamicObject,
        blocks: bool,
    ) -> Result<Outcome> {
        let (key, now) = (object.key(), Instant::now());
        let is_of_import = object.imported_from().is_some();
        let (seen, mut unmarked) = (json_of(live), None);
        if is_of_import && is_marked(&seen, self.stack) {
            let by = maker(&seen).to_owned();
            let marks = self.released.entry(key.clone()).or_default();
            match release_one(self.api, &key, &seen, (self.stack, &by), marks, now).await? {
                Release::Done(written) => {
                    unmarked = Some(written);
                    self.deeds.push(Deed::Released(Released { key: key.clone(), by }));
                }
                Release::Outdated => return Ok(changing(live).0),
                Release::Refused(outcome) => return Ok(outcome),
            }
        }
        record.is_of_another(unmarked.as_deref().unwrap_or(live), now);
        if is_of_import && (key.kind == Kind::IpAddressPool || !blocks) {
            let text = format!(
                "is managed by {} and is its user's: what the old configuration says of it has no effect any more; \
                 take its entry out there",
                maker(&json_of(live))
            );
            return Ok(Outcome::Retained(text));
        }
        if key.kind == Kind::Namespace {
            return self.label_namespace(&key, record, live).await;
        }
        Ok(Outcome::Foreign(format!(
            "exists, made by {}, and is not touched: remove or rename it, and the stack's own takes its place",
            maker(&json_of(live))
        )))
    }
}

/// What is known of the names of pools.
#[derive(Default)]
struct Names {
    /// Those under which there is something of somebody else's.
    taken: BTreeMap<String, Key>,
    /// Those whose pool is the operator's.
    in_place: BTreeSet<String>,
}

impl Names {
    /// The object `key`, which exists, belongs to `pool`.
    fn add(&mut self, pool: &str, key: &Key, is_ours: bool) {
        if !is_ours {
            self.taken.entry(pool.to_owned()).or_insert_with(|| key.clone());
        } else if key.kind == Kind::IpAddressPool {
            self.in_place.insert(pool.to_owned());
        }
    }

    fn is_known(&self, pool: &str) -> bool {
        self.taken.contains_key(pool) || self.in_place.contains(pool)
    }
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

/// What is said of an object that has changed since it was seen: the next reconciliation goes by what it is then.
fn changing(live: &DynamicObject) -> (Outcome, Option<DynamicObject>) {
    (Outcome::Waiting("it is changing right now".to_owned()), Some(live.clone()))
}

/// Who changed the object, as far as the managed fields tell.
fn culprits(drift: &Drift) -> String {
    if drift.by.is_empty() {
        return "something that the managed fields do not name (an admission webhook?)".to_owned();
    }
    drift.by.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// The object as JSON; what cannot be put into JSON is as good as empty.
pub(crate) fn json_of(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// From 0 to 1.
pub(crate) fn jitter() -> f64 {
    use ring::rand::SecureRandom as _;
    let mut byte = [0; 1];
    // Without chance, everything waits equally long: harmless.
    let _ = ring::rand::SystemRandom::new().fill(&mut byte);
    f64::from(byte[0]) / 255.0
}
