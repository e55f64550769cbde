//! How the watches of a process do: which of them fail, and which objects they cannot decode.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use kube::ResourceExt;
use kube::runtime::watcher::{self, Event};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use crate::decode::Lenient;

/// How often it is logged that a watch still fails.
const REPEAT: Duration = Duration::from_secs(60);

/// What all watches of a process report, shared. Kept by [`Tasks`](crate::tasks::Tasks).
#[derive(Clone, Debug, Default)]
pub struct WatchStatus {
    watches: Arc<watch::Sender<Vec<OneWatch>>>,
}

/// What one watch reports.
#[derive(Clone, Debug)]
pub struct OneWatch {
    /// What it watches.
    pub kind: String,
    /// Since when it fails, and the last error; none while it works.
    pub failure: Option<Failure>,
    /// The objects that it cannot decode, and why not. They count as they were before, if they could be decoded then.
    pub undecodable: BTreeMap<ObjectName, String>,
    /// Whether it is over. The next watch of the kind takes its place.
    ended: bool,
}

/// A watch that fails.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Since when.
    pub since: Instant,
    /// The last error.
    pub error: String,
    logged: bool,
}

/// `namespace/name`, or the name alone where there is no namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectName {
    /// The namespace of the object.
    pub namespace: Option<String>,
    /// The name of the object.
    pub name: String,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl WatchStatus {
    /// What each watch reports, in the order in which they were started; one that is over reports nothing. The receiver is notified of changes.
    pub fn subscribe(&self) -> watch::Receiver<Vec<OneWatch>> {
        self.watches.subscribe()
    }

    /// The objects that cannot be decoded, one a line: kind, name, and why not.
    pub fn undecodable(&self) -> Vec<String> {
        let watches = self.watches.borrow();
        let of = |watch: &OneWatch| -> Vec<String> {
            let kind = &watch.kind;
            watch.undecodable.iter().map(|(name, why)| format!("{kind} {name}: {why}")).collect()
        };
        let mut lines: Vec<String> = watches.iter().flat_map(of).collect();
        lines.sort();
        lines.dedup();
        lines
    }

    /// The names of the objects of `kind` that cannot be decoded.
    pub fn undecodable_of(&self, kind: &str) -> BTreeSet<String> {
        let watches = self.watches.borrow();
        let of_kind = watches.iter().filter(|watch| watch.kind == kind);
        of_kind.flat_map(|watch| watch.undecodable.keys().map(|object| object.name.clone())).collect()
    }

    /// Adds metrics of all watches to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    /// A further watch.
    pub(crate) fn add(&self, kind: &str) -> Observer {
        let watch =
            OneWatch { kind: kind.to_owned(), failure: None, undecodable: BTreeMap::new(), ended: false };
        let mut index = 0;
        self.watches.send_modify(|watches| {
            let over = watches.iter().position(|old| old.ended && old.kind == kind);
            index = over.unwrap_or(watches.len());
            if let Some(over) = watches.get_mut(index) {
                *over = watch;
            } else {
                watches.push(watch);
            }
        });
        let place = Arc::new(Place { index, status: self.clone() });
        Observer { kind: kind.to_owned(), place, logged: None, arriving: BTreeMap::new() }
    }

    /// Changes what the watch at `index` reports; `change` says whether it did.
    fn change(&self, index: usize, change: impl FnOnce(&mut OneWatch) -> bool) {
        self.watches.send_if_modified(|watches| watches.get_mut(index).is_some_and(change));
    }
}

impl Collector for WatchStatus {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (mut failing, mut undecodable) = (BTreeMap::new(), BTreeMap::new());
        for watch in self.watches.borrow().iter() {
            *failing.entry(watch.kind.clone()).or_insert(0) += i64::from(watch.failure.is_some());
            let count = i64::try_from(watch.undecodable.len()).unwrap_or(i64::MAX);
            *undecodable.entry(watch.kind.clone()).or_insert(0) += count;
        }
        for (name, help, values) in [
            ("lbstack_watches_failing", "Watches that fail at the moment", failing),
            ("lbstack_undecodable_objects", "Objects that cannot be decoded and are left out", undecodable),
        ] {
            let gauge = ConstGauge::new(0_i64);
            let mut family = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            for (kind, value) in values {
                let labels = [("kind", kind.as_str())];
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// Where one watch reports to, until it is over.
#[derive(Debug)]
struct Place {
    index: usize,
    status: WatchStatus,
}

impl Place {
    fn change(&self, change: impl FnOnce(&mut OneWatch) -> bool) {
        self.status.change(self.index, change);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.change(|watch| {
            watch.failure = None;
            watch.undecodable.clear();
            watch.ended = true;
            true
        });
    }
}

/// Reports of one watch.
#[derive(Clone, Debug)]
pub(crate) struct Observer {
    kind: String,
    place: Arc<Place>,
    /// When a failure was logged last.
    logged: Option<Instant>,
    /// What a list that is not complete has that cannot be decoded.
    arriving: BTreeMap<ObjectName, String>,
}

impl Observer {
    /// The API server has answered a list, or has begun a watch.
    pub(crate) fn answered(&self) {
        self.place.change(|watch| {
            let failure = watch.failure.take();
            if let Some(Failure { since, .. }) = failure.as_ref().filter(|failure| failure.logged) {
                tracing::info!(
                    kind = self.kind,
                    after_s = since.elapsed().as_secs(),
                    "the watch works again"
                );
            }
            failure.is_some()
        });
    }

    /// An attempt to list or to watch has failed.
    pub(crate) fn failed(&mut self, error: &watcher::Error) {
        let now = Instant::now();
        self.place.change(|watch| {
            let before = watch.failure.take();
            let since = before.as_ref().map_or(now, |failure| failure.since);
            let mut logged = before.as_ref().is_some_and(|failure| failure.logged);
            if self.logged.is_none_or(|last| now >= last + REPEAT) {
                (self.logged, logged) = (Some(now), true);
                let failing_s = (now - since).as_secs();
                tracing::warn!(kind = self.kind, failing_s, %error, "watch failed, trying again");
            }
            let error = error.to_string();
            let changed = before.is_none_or(|failure| failure.error != error);
            watch.failure = Some(Failure { since, error, logged });
            changed
        });
    }

    /// Follows which objects cannot be decoded.
    pub(crate) fn saw<K: kube::Resource, const WHOLE: bool>(&mut self, event: &Event<Lenient<K, WHOLE>>) {
        match event {
            Event::Init => self.arriving.clear(),
            Event::InitApply(object) => {
                if let Err(undecoded) = &object.0 {
                    self.arriving.insert(name(object), undecoded.reason.clone());
                }
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.arriving);
                self.change(|known| *known = listed);
            }
            Event::Apply(object) => {
                let reason = object.0.as_ref().err().map(|undecoded| undecoded.reason.clone());
                self.set(name(object), reason);
            }
            Event::Delete(object) => self.set(name(object), None),
        }
    }

    fn set(&self, name: ObjectName, reason: Option<String>) {
        self.change(|known| match reason {
            Some(reason) => {
                known.insert(name, reason);
            }
            None => {
                known.remove(&name);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<ObjectName, String>)) {
        self.place.change(|watch| {
            let before = watch.undecodable.clone();
            change(&mut watch.undecodable);
            for (name, reason) in watch.undecodable.iter().filter(|(name, why)| before.get(name) != Some(why))
            {
                let kind = &self.kind;
                tracing::warn!(kind, %name, reason, "cannot decode an object: this change of it is left out");
            }
            before != watch.undecodable
        });
    }
}

fn name(object: &impl ResourceExt) -> ObjectName {
    ObjectName { namespace: object.namespace(), name: object.name_any() }
}
