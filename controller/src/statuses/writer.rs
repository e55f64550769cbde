//! Writes the statuses of configuration objects, in rounds of at most one per second.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use runtime::client::{CallError, with_timeout};
use runtime::lease::Leadership;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::build::StatusWrite;
use crate::api::{COMPONENT, merge_parameters};
use crate::contention::{Contention, Decision};
use crate::list::version;
use crate::other_writer::{contested_message, other_writer};

/// Interval between two rounds of writes: a burst of changed Services causes one write per second for a pool.
const ROUND_INTERVAL: Duration = Duration::from_secs(1);

/// The longest delay after a failed write; it starts with [`ROUND_INTERVAL`] and is doubled each time.
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// An object: kind and name.
type ObjectKey = (String, String);

/// An object whose status another writer repeatedly overwrites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contested {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) message: String,
}

/// The result of a task.
#[derive(Debug)]
enum TaskResult {
    /// Of a write: the version of the object after it; no result if it was not sent.
    Write { key: ObjectKey, content: Value, result: Option<Result<u64, CallError>> },
    /// The other writer of a status.
    Identified(Contested),
}

/// The content of a write, and the version of the object after it.
#[derive(Debug)]
struct Written {
    content: Value,
    version: u64,
}

/// Decides which writes are due. Without I/O.
#[derive(Debug, Default)]
pub(super) struct WriteHistory {
    contention: Contention<ObjectKey, Written>,
    /// How often the write of an object failed, and the earliest time of the next attempt.
    failed: HashMap<ObjectKey, (u32, Instant)>,
}

/// Whether a write is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Now,
    /// Not before this time.
    Later(Instant),
    /// Not until something changes.
    No,
    /// Another writer repeatedly overwrites the status, which is to be reported.
    Contested,
}

impl WriteHistory {
    /// Whether `write` is due. A field that the API server does not store (because of an older definition) is
    /// not written again while the version of the object is that of the last write.
    pub(super) fn due(&mut self, key: &ObjectKey, write: &StatusWrite, now: Instant) -> Due {
        if let Some((_, not_before)) = self.failed.get(key).filter(|(_, not_before)| now < *not_before) {
            return Due::Later(*not_before);
        }
        let written = self
            .contention
            .last_written(key)
            .filter(|written| written.content == without_transition_times(&write.patch));
        if written.is_some_and(|written| write.create.is_none() && write.version <= written.version) {
            return Due::No;
        }
        let restores = written.is_some();
        match self.contention.decide(key, restores, now) {
            Decision::Write => Due::Now,
            Decision::BackOff { first: true } => Due::Contested,
            Decision::Wait | Decision::BackOff { first: false } => {
                self.contention.retry_at(key).map_or(Due::No, Due::Later)
            }
        }
    }

    /// The write succeeded, and the object has this version now.
    pub(super) fn record_write(&mut self, key: &ObjectKey, content: Value, version: u64, now: Instant) {
        self.failed.remove(key);
        self.contention.record_write(key, Written { content, version }, now);
    }

    pub(super) fn record_failure(&mut self, key: ObjectKey, now: Instant) {
        let (times, _) = self.failed.get(&key).copied().unwrap_or((0, now));
        let pause = ROUND_INTERVAL.saturating_mul(1 << times.min(16)).min(MAX_BACKOFF);
        self.failed.insert(key, (times + 1, now + pause));
    }
}

/// The content of a patch, without transition times.
pub(super) fn without_transition_times(patch: &Value) -> Value {
    let mut content = patch.clone();
    let conditions = content.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        condition.remove("lastTransitionTime");
    }
    content
}

/// Writes the statuses of configuration objects.
pub(crate) struct StatusWriter {
    client: Client,
    leadership: Leadership,
    /// Timeout of a write.
    timeout: Duration,
    tasks: JoinSet<TaskResult>,
    writing: HashSet<ObjectKey>,
    history: WriteHistory,
    next: Instant,
}

impl StatusWriter {
    pub(crate) fn new(client: Client, leadership: Leadership, timeout: Duration) -> Self {
        Self {
            client,
            leadership,
            timeout,
            tasks: JoinSet::new(),
            writing: HashSet::new(),
            history: WriteHistory::default(),
            next: Instant::now(),
        }
    }

    /// Waits for the next completed task; returns an object with another writer, if one was found.
    /// Cancel-safe.
    pub(crate) async fn next_completion(&mut self) -> Option<Contested> {
        match self.tasks.join_next().await {
            Some(Ok(TaskResult::Identified(contested))) => return Some(contested),
            Some(Ok(TaskResult::Write { key, content, result })) => {
                self.writing.remove(&key);
                let now = Instant::now();
                match result {
                    Some(Ok(version)) => self.history.record_write(&key, content, version, now),
                    Some(Err(error)) => {
                        let (kind, name) = &key;
                        tracing::warn!(kind, name, %error, "a status could not be written, will retry");
                        self.history.record_failure(key, now);
                    }
                    None => {}
                }
            }
            Some(Err(_)) => self.writing.clear(),
            None => std::future::pending().await,
        }
        None
    }

    /// When the next round may begin; `None` if it may begin now.
    pub(crate) fn next_round(&self) -> Option<Instant> {
        (Instant::now() < self.next).then_some(self.next)
    }

    /// Starts the writes that are due. Returns when to call this again, if some are due later.
    pub(crate) fn start_round(&mut self, due: Vec<StatusWrite>) -> Option<Instant> {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        for write in due {
            let key = (write.resource.kind.clone(), write.name.clone());
            if self.writing.contains(&key) {
                next = Some(now + ROUND_INTERVAL);
                continue;
            }
            match self.history.due(&key, &write, now) {
                Due::No => {}
                Due::Later(at) => next = Some(next.map_or(at, |next| next.min(at))),
                Due::Contested => self.identify_other_writer(write),
                Due::Now => {
                    self.next = now + ROUND_INTERVAL;
                    next = Some(self.next);
                    self.start_write(key, write);
                }
            }
        }
        next.map(|next| next.max(self.next))
    }

    fn start_write(&mut self, key: ObjectKey, write: StatusWrite) {
        self.writing.insert(key.clone());
        let (client, leadership, timeout) = (self.client.clone(), self.leadership.clone(), self.timeout);
        self.tasks.spawn(async move {
            let written = leadership.while_leading(write_status(&client, &write));
            let result = tokio::time::timeout(timeout, written).await;
            let result = result.unwrap_or(Some(Err(CallError::Timeout)));
            TaskResult::Write { key, content: without_transition_times(&write.patch), result }
        });
    }

    fn identify_other_writer(&mut self, write: StatusWrite) {
        let client = self.client.clone();
        self.tasks.spawn(async move {
            let StatusWrite { resource, namespace, name, .. } = write;
            let manager = other_writer(&client, &resource, &namespace, &name).await;
            let message = contested_message(manager.as_deref(), false);
            TaskResult::Identified(Contested { kind: resource.kind, name, message })
        });
    }
}

/// Writes the status. Returns the version of the object after the write.
async fn write_status(client: &Client, write: &StatusWrite) -> Result<u64, CallError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &write.namespace, &write.resource);
    if let Some(labels) = &write.create {
        let object = json!({
            "apiVersion": write.resource.api_version,
            "kind": write.resource.kind,
            "metadata": { "name": write.name, "labels": labels },
        });
        with_timeout(api.patch(&write.name, &PatchParams::apply(COMPONENT).force(), &Patch::Apply(object)))
            .await?;
    }
    let patch = Patch::Merge(&write.patch);
    let written = with_timeout(api.patch_status(&write.name, &merge_parameters(), &patch)).await?;
    Ok(version(&written.metadata))
}
