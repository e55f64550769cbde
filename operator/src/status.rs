//! What is observed for the status of the stack, and how it is stored: only if it differs, and never against another
//! writer for long.

use std::time::Duration;

use crds::LoadBalancerStackStatus;
use crds::names::{APP, LABEL_APP, OPERATOR, SPEAKER};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use render::health::{PodTrouble, Workload, trouble};
use tokio::time::Instant;

use crate::api::{Api, Error};
use crate::pacing::Reversals;
use crate::stack::Stack;

/// How soon pods are listed again after something has changed, and at most while nothing does: a node may be down for
/// weeks, and a list of pods is large.
const LISTED_AGAIN: Duration = Duration::from_secs(1);
const LISTED_AT_LEAST: Duration = Duration::from_secs(30);
/// A rollout that has come no further for so long is stuck.
const PROGRESS_DEADLINE: Duration = Duration::from_mins(10);

/// The pods of the stack that are not ready, or cannot be created, as last listed.
#[derive(Debug, Default)]
pub(crate) struct TroubledPods {
    found: Vec<PodTrouble>,
    /// Why pods of the speaker cannot be created.
    refused: Option<PodTrouble>,
    /// The workloads as last seen, and since when they have been like that.
    seen: Option<(Vec<Workload>, Instant)>,
    /// When to list again, and how long after that.
    next: Option<(Instant, Duration)>,
}

impl TroubledPods {
    /// The pods that are not ready; asked for only if the workloads say that there are some. What cannot be read is taken to
    /// be as it was.
    pub(crate) async fn look(
        &mut self,
        api: &Api,
        namespace: &str,
        controller: Option<Workload>,
        speaker: Option<Workload>,
    ) -> Vec<PodTrouble> {
        let workloads: Vec<Workload> = [controller, speaker].into_iter().flatten().collect();
        if workloads.iter().all(Workload::is_complete) {
            *self = Self::default();
            return Vec::new();
        }
        let now = Instant::now();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != workloads) {
            self.seen = Some((workloads, now));
            // A rollout changes the workloads many times a second.
            let due = self.next.map_or(now, |(due, _)| due.min(now + LISTED_AGAIN));
            self.next = Some((due, LISTED_AGAIN));
        }
        let (due, wait) = self.next.unwrap_or((now, LISTED_AGAIN));
        if now >= due {
            let before = (self.found.clone(), self.refused.clone());
            match api.pods(namespace, &format!("{LABEL_APP}={APP}"), trouble).await {
                Ok(found) => self.found = found,
                Err(error) => {
                    tracing::warn!(%error, "pods cannot be listed, and are taken to be as they were");
                }
            }
            let lacks = speaker.is_some_and(|speaker| speaker.observed && speaker.total < speaker.desired);
            let refused = if lacks { api.creation_refused(namespace, SPEAKER).await } else { Ok(None) };
            match refused {
                Ok(why) => self.refused = why.map(|why| PodTrouble::refused(SPEAKER, &why)),
                Err(error) => {
                    tracing::warn!(%error, "why pods are missing cannot be read, and is taken to be as it was");
                }
            }
            self.found.sort();
            let same = before == (self.found.clone(), self.refused.clone());
            let wait = if same { (2 * wait).min(LISTED_AT_LEAST) } else { LISTED_AGAIN };
            self.next = Some((now + wait, wait));
        }
        let mut all: Vec<PodTrouble> = self.found.iter().chain(&self.refused).cloned().collect();
        all.sort();
        all
    }

    /// Whether the workloads are not complete and have come no further for too long.
    pub(crate) fn is_stalled(&self) -> bool {
        self.seen.as_ref().is_some_and(|(_, since)| since.elapsed() >= PROGRESS_DEADLINE)
    }

    /// When to list again; none while there is no need.
    pub(crate) fn next_listing(&self) -> Option<Duration> {
        self.next.map(|(due, _)| due.saturating_duration_since(Instant::now()))
    }
}

/// Two writes of the status are this far apart, whatever changes meanwhile.
const APART: Duration = Duration::from_millis(500);

/// Stores the status of the stack.
#[derive(Debug, Default)]
pub(crate) struct StatusWriter {
    last: Option<Write>,
    reversals: Reversals,
    reported: bool,
}

/// A status that was written, both without times.
#[derive(Debug)]
struct Write {
    content: LoadBalancerStackStatus,
    /// What the API server made of it: an older definition has no place for some fields.
    stored: LoadBalancerStackStatus,
    at: Instant,
}

/// What became of a status.
#[derive(Debug)]
pub(crate) enum Stored {
    /// It was stored already.
    Unchanged,
    /// It was written; the stack as it is now.
    Written(Box<DynamicObject>),
    /// It is too early to write again.
    Later(Duration),
    /// Somebody else writes it again and again, so it is left alone for so long.
    Contested { by: String, first: bool, until: Duration },
}

impl StatusWriter {
    /// Stores `status` unless it is stored already, has been written just now, or is fought over.
    pub(crate) async fn store(
        &mut self,
        api: &Api,
        stack: &Stack,
        status: &LoadBalancerStackStatus,
    ) -> Result<Stored, Error> {
        if *status == stack.status {
            return Ok(Stored::Unchanged);
        }
        let now = Instant::now();
        let content = without_times(status);
        let reversed = self.last.as_ref().is_some_and(|last| last.content == content);
        if reversed && self.last.as_ref().is_some_and(|last| last.stored == without_times(&stack.status)) {
            return Ok(Stored::Unchanged);
        }
        if let Some(until) = self.reversals.left_alone(now) {
            let first = !std::mem::replace(&mut self.reported, true);
            return Ok(Stored::Contested { by: other_writer(&stack.object), first, until });
        }
        self.reported = false;
        let early = self.last.as_ref().map(|last| (last.at + APART).saturating_duration_since(now));
        if let Some(wait) = early.filter(|wait| !wait.is_zero()) {
            return Ok(Stored::Later(wait));
        }
        let body = serde_json::to_value(status)?;
        let written = api.set_status(&stack.object.name_any(), &body).await?;
        if reversed {
            self.reversals.answered(now);
        }
        let stored = without_times(&Stack::read(written.clone()).status);
        self.last = Some(Write { content, stored, at: now });
        Ok(Stored::Written(Box::new(written)))
    }
}

/// The status as far as it is not about when: who reverses a condition also moves its transition time.
fn without_times(status: &LoadBalancerStackStatus) -> LoadBalancerStackStatus {
    let mut status = status.clone();
    for condition in &mut status.conditions {
        condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
    }
    status
}

/// The field managers of the status other than this operator.
fn other_writer(stack: &DynamicObject) -> String {
    let others = stack.managed_fields().iter().filter(|entry| {
        entry.subresource.as_deref() == Some("status") && entry.manager.as_deref() != Some(OPERATOR)
    });
    let names: Vec<&str> = others.filter_map(|entry| entry.manager.as_deref()).collect();
    if names.is_empty() { "another operator of this version".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::http::{Request, Response};
    use kube::Client;
    use kube::client::Body;
    use runtime::lease::Leadership;
    use serde_json::{Value, json};

    use super::*;

    /// An API with 1 201 pods of speakers, of which the last is in trouble, and with an event about a refused one.
    fn api(asked: &Arc<Mutex<Vec<String>>>) -> Api {
        let asked = Arc::clone(asked);
        let answer = move |request: Request<Body>| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let is_pods = request.uri().path().ends_with("/pods");
            asked.lock().unwrap().push(request.uri().path().to_owned());
            let body = if is_pods { page(&query) } else { events(&query) };
            async move { Response::builder().status(200).body(Body::from(body.to_string().into_bytes())) }
        };
        Api::new(Client::new(tower::service_fn(answer), "n"), Leadership::fixed(true))
    }

    fn page(query: &str) -> Value {
        let number = |key: &str| {
            let value = query.split('&').find_map(|pair| pair.strip_prefix(key))?;
            value.parse::<usize>().ok()
        };
        let (first, limit) = (number("continue=").unwrap_or(0), number("limit=").unwrap());
        let last = (first + limit).min(1201);
        let pod = |n: usize| {
            let ready = if n == 1200 { "False" } else { "True" };
            json!({"metadata": {"name": format!("speaker-{n}"), "labels": {"component": "speaker"}},
                "spec": {"nodeName": format!("node{n}"), "containers": []},
                "status": {"conditions": [{"type": "Ready", "status": ready}],
                    "containerStatuses": [{"name": "speaker", "image": "i", "imageID": "", "ready": false,
                        "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}})
        };
        let next = if last < 1201 { last.to_string() } else { String::new() };
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"continue": next},
            "items": (first..last).map(pod).collect::<Vec<_>>()})
    }

    fn events(query: &str) -> Value {
        assert!(
            query.contains("involvedObject.kind%3DDaemonSet") && query.contains("reason%3DFailedCreate"),
            "{query}"
        );
        let event = |second: u32, message: &str| {
            json!({"metadata": {"name": format!("e{second}")}, "involvedObject": {}, "message": message,
                "lastTimestamp": format!("2026-01-01T00:00:{second:02}Z")})
        };
        // The newest one is on the last page.
        let (next, items) = if query.contains("continue=") {
            (
                "",
                json!([
                    event(7, "pods \"speaker-a\" is forbidden: exceeded quota: compute"),
                    event(2, "old")
                ]),
            )
        } else {
            ("500", json!([event(6, "old"), event(1, "old")]))
        };
        json!({"kind": "EventList", "apiVersion": "v1", "metadata": {"continue": next}, "items": items})
    }

    fn speaker(desired: i32, total: i32) -> Workload {
        Workload { desired, ready: total - 1, updated: total, total, observed: true }
    }

    #[tokio::test(start_paused = true)]
    async fn requirement_5_a_pod_in_trouble_is_seen_wherever_it_is_in_the_list() {
        let asked = Arc::default();
        let (api, mut pods) = (api(&asked), TroubledPods::default());
        for _ in 0..600 {
            let found = pods.look(&api, "n", None, Some(speaker(1201, 1201))).await;
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].node.as_deref(), Some("node1200"));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let lists = asked.lock().unwrap().len() / 3;
        assert!(lists <= 600 / 30 + 6, "{lists} lists in ten minutes in which nothing changes");
        assert!(pods.is_stalled(), "for ten minutes");
        pods.look(&api, "n", None, Some(speaker(1201, 1200))).await;
        assert!(!pods.is_stalled(), "something has changed");
        let ready = Some(Workload { desired: 1, ready: 1, updated: 1, total: 1, observed: true });
        assert!(pods.look(&api, "n", None, ready).await.is_empty());
        assert_eq!(pods.next_listing(), None, "there is no need");
    }

    #[tokio::test(start_paused = true)]
    async fn requirement_5_why_pods_of_the_speaker_cannot_be_created_is_read_from_the_last_of_all_events() {
        let asked = Arc::default();
        let (api, mut pods) = (api(&asked), TroubledPods::default());
        let found = pods.look(&api, "n", None, Some(speaker(1202, 1201))).await;
        let refused = found.iter().find(|pod| pod.node.is_none()).unwrap();
        assert!(refused.stuck && refused.reason.contains("exceeded quota: compute"), "{refused:?}");
    }
}
