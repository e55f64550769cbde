//! Writes statuses of configuration objects, at most once a second each.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use runtime::client::{CallError, with_timeout};
use runtime::lease::Leadership;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Write;
use crate::COMPONENT;
use crate::contention::{Contention, Verdict};
use crate::list::version;
use crate::other_writer::{other_writer, report};

/// Between two rounds of writes: a burst of Services costs one write a second for a pool, not one each.
const PAUSE: Duration = Duration::from_secs(1);

/// After a write that failed; doubled each time.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Which object: kind and name.
type Target = (String, String);

/// An object whose status another writer insists on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contested {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) text: String,
}

/// What a task brings back.
#[derive(Debug)]
enum Ended {
    /// The version of the object after the write; none if it was not begun.
    Write {
        target: Target,
        said: Value,
        result: Option<Result<u64, CallError>>,
    },
    Identified(Contested),
}

/// What was written, and the version of the object after that.
#[derive(Debug)]
struct Written {
    said: Value,
    version: u64,
}

/// Which writes are due: pure.
#[derive(Debug, Default)]
pub(super) struct Memory {
    contention: Contention<Target, Written>,
    /// How often a write failed, and not before when the next is tried.
    failed: HashMap<Target, (u32, Instant)>,
}

/// Whether to write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Now,
    /// Not before then.
    Later(Instant),
    /// Not as long as nothing changes.
    No,
    /// Another writer insists on the status: to be reported.
    Contested,
}

impl Memory {
    /// Whether `write` is due. What the API server did not store, as a definition of an older version has no such field,
    /// is not written again: nobody has changed the object since.
    pub(super) fn due(&mut self, target: &Target, write: &Write, now: Instant) -> Due {
        if let Some((_, not_before)) = self.failed.get(target).filter(|(_, not_before)| now < *not_before) {
            return Due::Later(*not_before);
        }
        let written =
            self.contention.established(target).filter(|written| written.said == said(&write.patch));
        if written.is_some_and(|written| write.create.is_none() && write.version <= written.version) {
            return Due::No;
        }
        let restores = written.is_some();
        match self.contention.judge(target, restores, now) {
            Verdict::Write => Due::Now,
            Verdict::LeaveAlone { first: true } => Due::Contested,
            Verdict::Wait | Verdict::LeaveAlone { first: false } => {
                self.contention.answer(target).map_or(Due::No, Due::Later)
            }
        }
    }

    /// The write succeeded; the object has this version now.
    pub(super) fn wrote(&mut self, target: &Target, said: Value, version: u64, now: Instant) {
        self.failed.remove(target);
        self.contention.wrote(target, Written { said, version }, now);
    }

    pub(super) fn failed(&mut self, target: Target, now: Instant) {
        let (times, _) = self.failed.get(&target).copied().unwrap_or((0, now));
        let pause = PAUSE.saturating_mul(1 << times.min(16)).min(LONGEST_PAUSE);
        self.failed.insert(target, (times + 1, now + pause));
    }
}

/// What a patch says, whenever it says it: transition times do not count.
pub(super) fn said(patch: &Value) -> Value {
    let mut said = patch.clone();
    let conditions = said.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        condition.remove("lastTransitionTime");
    }
    said
}

/// Writes statuses of configuration objects.
pub(crate) struct StatusWriter {
    client: Client,
    leadership: Leadership,
    /// No write lasts longer.
    bound: Duration,
    tasks: JoinSet<Ended>,
    writing: HashSet<Target>,
    memory: Memory,
    next: Instant,
}

impl StatusWriter {
    pub(crate) fn new(client: Client, leadership: Leadership, bound: Duration) -> Self {
        Self {
            client,
            leadership,
            bound,
            tasks: JoinSet::new(),
            writing: HashSet::new(),
            memory: Memory::default(),
            next: Instant::now(),
        }
    }

    /// Waits until a write ended, or it is known who else writes a status. Cancel-safe.
    pub(crate) async fn written(&mut self) -> Option<Contested> {
        match self.tasks.join_next().await {
            Some(Ok(Ended::Identified(contested))) => return Some(contested),
            Some(Ok(Ended::Write { target, said, result })) => {
                self.writing.remove(&target);
                let now = Instant::now();
                match result {
                    Some(Ok(version)) => self.memory.wrote(&target, said, version, now),
                    Some(Err(error)) => {
                        let (kind, name) = &target;
                        tracing::warn!(kind, name, %error, "a status could not be written, trying again");
                        self.memory.failed(target, now);
                    }
                    None => {}
                }
            }
            Some(Err(_)) => self.writing.clear(),
            None => std::future::pending().await,
        }
        None
    }

    /// Whether a round may begin; else when.
    pub(crate) fn wait(&self) -> Option<Instant> {
        (Instant::now() < self.next).then_some(self.next)
    }

    /// Begins the writes. Returns when to look again, if some are still due then.
    pub(crate) fn write(&mut self, due: Vec<Write>) -> Option<Instant> {
        let now = Instant::now();
        let mut again: Option<Instant> = None;
        for write in due {
            let target = (write.resource.kind.clone(), write.name.clone());
            if self.writing.contains(&target) {
                again = Some(now + PAUSE);
                continue;
            }
            match self.memory.due(&target, &write, now) {
                Due::No => {}
                Due::Later(at) => again = Some(again.map_or(at, |again| again.min(at))),
                Due::Contested => self.identify(write),
                Due::Now => {
                    self.next = now + PAUSE;
                    again = Some(self.next);
                    self.begin(target, write);
                }
            }
        }
        again.map(|again| again.max(self.next))
    }

    fn begin(&mut self, target: Target, write: Write) {
        self.writing.insert(target.clone());
        let (client, leadership, bound) = (self.client.clone(), self.leadership.clone(), self.bound);
        self.tasks.spawn(async move {
            let written = leadership.while_leading(carry_out(&client, &write));
            let result = tokio::time::timeout(bound, written).await;
            let result = result.unwrap_or(Some(Err(CallError::Timeout)));
            Ended::Write { target, said: said(&write.patch), result }
        });
    }

    fn identify(&mut self, write: Write) {
        let client = self.client.clone();
        self.tasks.spawn(async move {
            let Write { resource, namespace, name, .. } = write;
            let manager = other_writer(&client, &resource, &namespace, &name).await;
            let text = report(manager.as_deref(), false);
            Ended::Identified(Contested { kind: resource.kind, name, text })
        });
    }
}

/// Returns the version of the object after the write.
async fn carry_out(client: &Client, write: &Write) -> Result<u64, CallError> {
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
    let parameters = PatchParams { field_manager: Some(COMPONENT.into()), ..PatchParams::default() };
    let written =
        with_timeout(api.patch_status(&write.name, &parameters, &Patch::Merge(&write.patch))).await?;
    Ok(version(&written.metadata))
}
