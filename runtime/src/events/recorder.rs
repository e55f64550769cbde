//! Writes Events to the API server, and merges repeats into a series (field `series`).
//!
//! They are written as core/v1 Events: only that version lets a client set `firstTimestamp`, `lastTimestamp`,
//! `count` and `source`, which `kubectl get events --sort-by=.lastTimestamp`, `kubectl describe` and most
//! dashboards use. events.k8s.io/v1 rejects these fields, also when they are updated for a repeat.
//!
//! The recorder of kube 5.0 merges events of one reason whatever their notes say, and keeps the first note: a
//! Service that waits for a second cause would still show the first. It also holds every event for six
//! minutes, some kilobytes each, and searches all of them for each new event; here two hashes of each are
//! kept.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher as _};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::Instant;

use crate::client::{CallError, with_timeout};

/// Capacity of the [`SeriesCache`]; an entry takes about a hundred bytes.
const CACHE_CAPACITY: usize = 4_096;
/// After this time without a repeat a series ends, as in client-go.
const SERIES_TIMEOUT: Duration = Duration::from_secs(360);
/// The longest name that the API accepts (RFC 1123 subdomain).
const MAX_NAME: usize = 253;
/// The longest `reportingInstance` that the API accepts.
const MAX_INSTANCE: usize = 128;

/// An event that is not written yet.
#[derive(Clone, Debug)]
pub(super) struct PendingEvent {
    pub(super) object: ObjectReference,
    pub(super) type_: &'static str,
    pub(super) action: String,
    pub(super) reason: String,
    pub(super) note: String,
    /// Whether a repeat of it is counted on the first event instead of being an event of its own.
    pub(super) repeatable: bool,
}

impl PendingEvent {
    /// Identifies the object and the reason.
    fn subject(&self) -> u64 {
        let ObjectReference { kind, namespace, name, uid, .. } = &self.object;
        hash(&(kind, namespace, name, uid, &self.reason))
    }

    /// Equal for two events of one subject of which the second repeats the first.
    fn dedup_key(&self) -> u64 {
        hash(&(self.type_, &self.action, &self.note))
    }
}

fn hash(value: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

pub(super) struct Recorder {
    client: Client,
    controller: String,
    instance: String,
    series: SeriesCache,
}

/// The last series of each subject, the latest at the end.
#[derive(Default)]
struct SeriesCache(VecDeque<Series>);

struct Series {
    subject: u64,
    dedup_key: u64,
    /// Name of the Event object.
    name: String,
    count: i32,
    last: Instant,
}

impl Recorder {
    /// `controller` is what users see as the event's source; `instance` the pod's name.
    pub(super) fn new(client: Client, controller: &str, instance: Option<String>) -> Self {
        Self {
            client,
            controller: controller.to_owned(),
            instance: truncated(instance.unwrap_or_else(|| controller.to_owned())),
            series: SeriesCache::default(),
        }
    }

    /// Writes the event: as a repeat of a series if there is one, else as a new object.
    pub(super) async fn publish(&mut self, event: PendingEvent) -> Result<(), CallError> {
        let namespace = event.object.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let (now, subject, dedup_key) = (Instant::now(), event.subject(), event.dedup_key());
        if let Some(series) = self.series.take(now, &event) {
            let count = series.count.saturating_add(1);
            let patch = repeat_patch(count, Timestamp::now());
            match with_timeout(api.patch(&series.name, &PatchParams::default(), &Patch::Merge(patch))).await {
                Ok(_) => {
                    self.series.insert(Series { count, last: now, ..series });
                    return Ok(());
                }
                // The object has expired: this event begins a new series.
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    self.series.insert(series);
                    return Err(error);
                }
            }
        }
        let event = self.object(event);
        with_timeout(api.create(&PostParams::default(), &event)).await?;
        let name = event.metadata.name.unwrap_or_default();
        self.series.insert(Series { subject, dedup_key, name, count: 1, last: now });
        Ok(())
    }

    fn object(&self, event: PendingEvent) -> Event {
        let PendingEvent { object, type_, action, reason, note, repeatable: _ } = event;
        let now = Timestamp::now();
        Event {
            metadata: ObjectMeta {
                namespace: Some(object.namespace.clone().unwrap_or_else(|| "default".to_owned())),
                name: Some(event_name(object.name.as_deref().unwrap_or(&self.controller), now)),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            source: Some(EventSource { component: Some(self.controller.clone()), host: None }),
            reporting_component: Some(self.controller.clone()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(type_.to_owned()),
            action: Some(action),
            reason: Some(reason),
            message: Some(note),
            involved_object: object,
            ..Event::default()
        }
    }
}

/// The patch for an event that has happened `count` times.
fn repeat_patch(count: i32, now: Timestamp) -> serde_json::Value {
    json!({
        "count": count,
        "lastTimestamp": Time(now),
        "series": {"count": count, "lastObservedTime": MicroTime(now)},
    })
}

fn truncated(mut instance: String) -> String {
    instance.truncate(instance.floor_char_boundary(MAX_INSTANCE));
    instance
}

/// The object's name, shortened if necessary, and the time, as client-go names Events.
fn event_name(object: &str, now: Timestamp) -> String {
    let time = format!(".{:x}", now.as_nanosecond());
    let end = object.floor_char_boundary(MAX_NAME.saturating_sub(time.len()));
    // No label of a name may end with these characters.
    let object = object[..end].trim_end_matches(['-', '.']);
    format!("{object}{time}")
}

impl SeriesCache {
    /// Removes the series of the event's subject, and returns it if the event continues it. A series ends
    /// with the first event of its subject that differs, so that the newest Event always describes the
    /// present state.
    fn take(&mut self, now: Instant, event: &PendingEvent) -> Option<Series> {
        let subject = event.subject();
        let at = self.0.iter().rposition(|series| series.subject == subject)?;
        let series = self.0.remove(at)?;
        let recent = now.saturating_duration_since(series.last) < SERIES_TIMEOUT;
        (event.repeatable && recent && series.dedup_key == event.dedup_key()).then_some(series)
    }

    fn insert(&mut self, series: Series) {
        if self.0.len() >= CACHE_CAPACITY {
            self.0.pop_front();
        }
        self.0.push_back(series);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use kube::client::Body;
    use serde_json::Value;

    use super::*;

    fn pending(name: &str, note: &str) -> PendingEvent {
        PendingEvent {
            object: ObjectReference { name: Some(name.into()), ..ObjectReference::default() },
            type_: "Warning",
            action: "Allocate".into(),
            reason: "AllocationFailed".into(),
            note: note.into(),
            repeatable: true,
        }
    }

    fn series(name: &str, note: &str, last: Instant) -> Series {
        let event = pending(name, note);
        let (subject, dedup_key) = (event.subject(), event.dedup_key());
        Series { subject, dedup_key, name: note.into(), count: 1, last }
    }

    #[test]
    fn only_an_equal_recent_event_of_the_same_object_is_repeated() {
        let start = Instant::now();
        let again = |name, note, after| {
            let mut cache = SeriesCache::default();
            cache.insert(series("web", "the pool is full", start));
            let now = start + Duration::from_secs(after);
            cache.take(now, &pending(name, note)).map(|series| series.name)
        };
        assert_eq!(again("other", "the pool is full", 1), None);
        assert_eq!(again("web", "another cause", 1), None);
        assert_eq!(again("web", "the pool is full", 1).as_deref(), Some("the pool is full"));
        assert_eq!(again("web", "the pool is full", 360), None, "that was long ago");
    }

    #[test]
    fn the_cache_is_bounded() {
        let (mut cache, now) = (SeriesCache::default(), Instant::now());
        for number in 0..=CACHE_CAPACITY {
            cache.insert(series(&number.to_string(), "note", now));
        }
        assert_eq!(cache.0.len(), CACHE_CAPACITY);
        assert!(cache.take(now, &pending("0", "note")).is_none(), "the oldest was evicted");
        assert!(cache.take(now, &pending("1", "note")).is_some());
    }

    #[test]
    fn an_event_has_a_valid_name_whatever_the_name_of_its_object() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        assert_eq!(event_name("web", now), "web.18fae27693b40000");
        for object in ["a".repeat(253), format!("{}-.-{}", "a".repeat(234), "b".repeat(16)), "ä".repeat(200)]
        {
            let name = event_name(&object, now);
            assert!(name.len() <= MAX_NAME && name.ends_with(".18fae27693b40000"), "{name}");
            assert!(!name.contains("-.1") && !name.contains("..1"), "{name}");
        }
    }

    /// A recorder, and what it writes: method, path and body of each request.
    fn recorder() -> (Recorder, Arc<Mutex<Vec<(String, String, Value)>>>) {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&requests);
        let answer = move |request: axum::http::Request<Body>| {
            let written = Arc::clone(&written);
            async move {
                let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
                let body = request.into_body().collect_bytes().await.unwrap();
                written.lock().unwrap().push((method, path, serde_json::from_slice(&body).unwrap()));
                let event = json!({"metadata": {}, "involvedObject": {}}).to_string().into_bytes();
                axum::http::Response::builder().status(200).body(Body::from(event))
            }
        };
        let client = Client::new(tower::service_fn(answer), "default");
        (Recorder::new(client, "lbstack-speaker", Some("p".repeat(300))), requests)
    }

    #[tokio::test]
    async fn an_event_has_the_uid_of_its_object_and_both_old_and_new_times_and_a_repeat_advances_them() {
        let (mut recorder, requests) = recorder();
        let mut event = pending("web", "the pool is full");
        event.object.uid = Some("3d0e".into());
        recorder.publish(event.clone()).await.unwrap();
        recorder.publish(event).await.unwrap();
        let requests = requests.lock().unwrap();
        let (method, path, event) = &requests[0];
        assert_eq!((&**method, &**path), ("POST", "/api/v1/namespaces/default/events"));
        assert_eq!(event["involvedObject"]["uid"], "3d0e");
        assert_eq!(event["source"]["component"], "lbstack-speaker");
        assert_eq!((&event["count"], &event["firstTimestamp"]), (&json!(1), &event["lastTimestamp"]));
        assert!(event["eventTime"].is_string() && event["lastTimestamp"].is_string());
        assert_eq!(event["reportingInstance"].as_str().unwrap().len(), MAX_INSTANCE);
        let (method, _, repeat) = &requests[1];
        assert_eq!(&**method, "PATCH");
        assert_eq!((&repeat["count"], &repeat["series"]["count"]), (&json!(2), &json!(2)));
        let observed = repeat["series"]["lastObservedTime"].as_str().unwrap();
        let last = repeat["lastTimestamp"].as_str().unwrap();
        assert_eq!(observed[..19], last[..19]);
        assert!(last >= event["lastTimestamp"].as_str().unwrap());
    }

    #[tokio::test]
    async fn an_event_that_recurs_after_a_different_one_is_written_anew() {
        let (mut recorder, requests) = recorder();
        for note in ["a", "b", "a"] {
            recorder.publish(pending("web", note)).await.unwrap();
        }
        // Another process has reported a different change in between.
        for _ in 0..2 {
            let assigned = PendingEvent { repeatable: false, ..pending("db", "announcing from node1") };
            recorder.publish(assigned).await.unwrap();
        }
        let requests = requests.lock().unwrap();
        assert!(requests.iter().all(|(method, ..)| method == "POST"), "{requests:?}");
        assert_eq!(requests.len(), 5);
    }
}
