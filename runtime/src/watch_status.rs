//! The state of the watches of a process: which of them fail, and which objects they cannot decode.

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
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The state of all watches of a process, shared. Owned by [`Tasks`](crate::tasks::Tasks).
#[derive(Clone, Debug, Default)]
pub struct WatchStatus {
    watches: Arc<watch::Sender<Vec<WatchState>>>,
}

/// The state of one watch.
#[derive(Clone, Debug)]
pub struct WatchState {
    /// The kind that it watches.
    pub kind: String,
    /// Set while it fails.
    pub failure: Option<Failure>,
    /// The objects that it cannot decode, with the reasons. Their previous versions, if any, stay in use.
    pub undecodable: BTreeMap<ObjectName, String>,
    /// Whether it has ended. The next watch of the kind replaces it.
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
    /// The state of each watch, in the order in which they were started, and a notification of each change.
    pub fn subscribe(&self) -> watch::Receiver<Vec<WatchState>> {
        self.watches.subscribe()
    }

    /// One line for each object that cannot be decoded: kind, name and reason.
    pub fn undecodable(&self) -> Vec<String> {
        let watches = self.watches.borrow();
        let of = |watch: &WatchState| -> Vec<String> {
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

    /// Adds a watch.
    pub(crate) fn add(&self, kind: &str) -> Observer {
        let watch =
            WatchState { kind: kind.to_owned(), failure: None, undecodable: BTreeMap::new(), ended: false };
        let mut index = 0;
        self.watches.send_modify(|watches| {
            let ended = watches.iter().position(|old| old.ended && old.kind == kind);
            index = ended.unwrap_or(watches.len());
            if let Some(ended) = watches.get_mut(index) {
                *ended = watch;
            } else {
                watches.push(watch);
            }
        });
        let slot = Arc::new(Slot { index, status: self.clone() });
        Observer { kind: kind.to_owned(), slot, last_logged: None, listing: BTreeMap::new() }
    }

    /// Changes the state of the watch at `index`; `change` returns whether it changed anything.
    fn change(&self, index: usize, change: impl FnOnce(&mut WatchState) -> bool) {
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
            ("lbstack_undecodable_objects", "Objects that cannot be decoded and are ignored", undecodable),
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

/// The entry of one watch in [`WatchStatus`], which is marked as ended on drop.
#[derive(Debug)]
struct Slot {
    index: usize,
    status: WatchStatus,
}

impl Slot {
    fn change(&self, change: impl FnOnce(&mut WatchState) -> bool) {
        self.status.change(self.index, change);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.change(|watch| {
            watch.failure = None;
            watch.undecodable.clear();
            watch.ended = true;
            true
        });
    }
}

/// Records the state of one watch.
#[derive(Clone, Debug)]
pub(crate) struct Observer {
    kind: String,
    slot: Arc<Slot>,
    /// When a failure was last logged.
    last_logged: Option<Instant>,
    /// Objects of an incomplete list that cannot be decoded.
    listing: BTreeMap<ObjectName, String>,
}

impl Observer {
    /// A request to list or to watch succeeded.
    pub(crate) fn succeeded(&self) {
        self.slot.change(|watch| {
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

    /// A request to list or to watch failed.
    pub(crate) fn failed(&mut self, error: &watcher::Error) {
        let now = Instant::now();
        self.slot.change(|watch| {
            let before = watch.failure.take();
            let since = before.as_ref().map_or(now, |failure| failure.since);
            let mut logged = before.as_ref().is_some_and(|failure| failure.logged);
            if self.last_logged.is_none_or(|last| now >= last + LOG_INTERVAL) {
                (self.last_logged, logged) = (Some(now), true);
                let failing_s = (now - since).as_secs();
                tracing::warn!(kind = self.kind, failing_s, %error, "the watch failed and is retried");
            }
            let error = error.to_string();
            let changed = before.is_none_or(|failure| failure.error != error);
            watch.failure = Some(Failure { since, error, logged });
            changed
        });
    }

    /// Records which objects cannot be decoded.
    pub(crate) fn observe<K: kube::Resource, const FULL: bool>(&mut self, event: &Event<Lenient<K, FULL>>) {
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(object) => {
                if let Err(undecoded) = &object.0 {
                    self.listing.insert(name(object), undecoded.reason.clone());
                }
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listing);
                self.change(|undecodable| *undecodable = listed);
            }
            Event::Apply(object) => {
                let reason = object.0.as_ref().err().map(|undecoded| undecoded.reason.clone());
                self.set(name(object), reason);
            }
            Event::Delete(object) => self.set(name(object), None),
        }
    }

    fn set(&self, name: ObjectName, reason: Option<String>) {
        self.change(|undecodable| match reason {
            Some(reason) => {
                undecodable.insert(name, reason);
            }
            None => {
                undecodable.remove(&name);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<ObjectName, String>)) {
        self.slot.change(|watch| {
            let before = watch.undecodable.clone();
            change(&mut watch.undecodable);
            for (name, reason) in watch.undecodable.iter().filter(|(name, why)| before.get(name) != Some(why))
            {
                let kind = &self.kind;
                tracing::warn!(kind, %name, reason, "cannot decode an object: the old version stays in use");
            }
            before != watch.undecodable
        });
    }
}

fn name(object: &impl ResourceExt) -> ObjectName {
    ObjectName { namespace: object.namespace(), name: object.name_any() }
}
