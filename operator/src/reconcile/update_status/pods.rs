//! The pods of the stack that are not ready.

use std::time::Duration;

use crds::names::{APP, LABEL_APP, SPEAKER};
use render::status::{PodIssue, Workload, pod_issue};
use tokio::time::Instant;

use crate::api::Api;

/// The minimum interval of listing pods after a change, and the maximum interval while nothing changes: a
/// node may be down for weeks, and a list of pods is large.
const MIN_LIST_INTERVAL: Duration = Duration::from_secs(1);
const MAX_LIST_INTERVAL: Duration = Duration::from_secs(30);
/// A rollout without progress for this long is stalled.
const PROGRESS_DEADLINE: Duration = Duration::from_mins(10);

/// The pods of the stack that are not ready, or cannot be created, as last listed.
#[derive(Debug, Default)]
pub(crate) struct PodIssues {
    found: Vec<PodIssue>,
    /// Why pods of the speaker cannot be created.
    creation_failure: Option<PodIssue>,
    /// The last state of the workloads, and since when it has been unchanged.
    last_seen: Option<(Vec<Workload>, Instant)>,
    /// When to list again, and the current interval.
    next_listing: Option<(Instant, Duration)>,
}

impl PodIssues {
    /// The pods that are not ready. They are listed only while the workloads are not complete. If a call
    /// fails, the previous result is kept.
    pub(crate) async fn refresh(
        &mut self,
        api: &Api,
        namespace: &str,
        controller: Option<Workload>,
        speaker: Option<Workload>,
    ) -> Vec<PodIssue> {
        let workloads: Vec<Workload> = [controller, speaker].into_iter().flatten().collect();
        if workloads.iter().all(Workload::is_complete) {
            *self = Self::default();
            return Vec::new();
        }
        let now = Instant::now();
        if self.last_seen.as_ref().is_none_or(|(seen, _)| *seen != workloads) {
            self.last_seen = Some((workloads, now));
            // A rollout changes the workloads many times per second.
            let due = self.next_listing.map_or(now, |(due, _)| due.min(now + MIN_LIST_INTERVAL));
            self.next_listing = Some((due, MIN_LIST_INTERVAL));
        }
        let (due, wait) = self.next_listing.unwrap_or((now, MIN_LIST_INTERVAL));
        if now >= due {
            let before = (self.found.clone(), self.creation_failure.clone());
            match api.pods(namespace, &format!("{LABEL_APP}={APP}"), pod_issue).await {
                Ok(found) => self.found = found,
                Err(error) => {
                    tracing::warn!(%error, "pods cannot be listed; the last result is kept");
                }
            }
            let incomplete =
                speaker.is_some_and(|speaker| speaker.observed && speaker.total < speaker.desired);
            let failure =
                if incomplete { api.last_creation_failure(namespace, SPEAKER).await } else { Ok(None) };
            match failure {
                Ok(why) => self.creation_failure = why.map(|why| PodIssue::creation_failed(SPEAKER, &why)),
                Err(error) => {
                    tracing::warn!(%error, "events cannot be listed; the last result is kept");
                }
            }
            self.found.sort();
            let same = before == (self.found.clone(), self.creation_failure.clone());
            let wait = if same { (2 * wait).min(MAX_LIST_INTERVAL) } else { MIN_LIST_INTERVAL };
            self.next_listing = Some((now + wait, wait));
        }
        let mut all: Vec<PodIssue> = self.found.iter().chain(&self.creation_failure).cloned().collect();
        all.sort();
        all
    }

    /// Whether the workloads are incomplete and have not changed for too long.
    pub(crate) fn is_stalled(&self) -> bool {
        self.last_seen.as_ref().is_some_and(|(_, since)| since.elapsed() >= PROGRESS_DEADLINE)
    }

    /// How long until the next listing; none if there is no need.
    pub(crate) fn next_listing(&self) -> Option<Duration> {
        self.next_listing.map(|(due, _)| due.saturating_duration_since(Instant::now()))
    }
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

    /// An API server with 1 201 pods of speakers, of which the last is not ready, and an event about a pod
    /// that was rejected.
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
    async fn a_pod_that_is_not_ready_is_found_on_any_page_of_the_list() {
        let asked = Arc::default();
        let (api, mut pods) = (api(&asked), PodIssues::default());
        for _ in 0..600 {
            let found = pods.refresh(&api, "n", None, Some(speaker(1201, 1201))).await;
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].node.as_deref(), Some("node1200"));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let lists = asked.lock().unwrap().len() / 3;
        assert!(lists <= 600 / 30 + 6, "{lists} lists in ten minutes in which nothing changes");
        assert!(pods.is_stalled(), "for ten minutes");
        pods.refresh(&api, "n", None, Some(speaker(1201, 1200))).await;
        assert!(!pods.is_stalled(), "the workloads have changed");
        let ready = Some(Workload { desired: 1, ready: 1, updated: 1, total: 1, observed: true });
        assert!(pods.refresh(&api, "n", None, ready).await.is_empty());
        assert_eq!(pods.next_listing(), None, "all pods are ready");
    }

    #[tokio::test(start_paused = true)]
    async fn the_creation_failure_of_speaker_pods_is_read_from_the_newest_event() {
        let asked = Arc::default();
        let (api, mut pods) = (api(&asked), PodIssues::default());
        let found = pods.refresh(&api, "n", None, Some(speaker(1202, 1201))).await;
        let refused = found.iter().find(|pod| pod.node.is_none()).unwrap();
        assert!(refused.stuck && refused.reason.contains("exceeded quota: compute"), "{refused:?}");
    }
}
