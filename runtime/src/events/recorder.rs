//! Writes events into the API, and folds repeats into a series (field `series`).
//!
//! They are written as core/v1 events: that version alone lets a writer set `firstTimestamp`, `lastTimestamp`, `count`
//! and `source` as well, which `kubectl get events --sort-by=.lastTimestamp`, `kubectl describe` and most dashboards go
//! by. events.k8s.io/v1 refuses them, and refuses to advance them on a repeat.
//!
//! The recorder of kube 5.0 folds events of one reason whatever their notes say, and goes on showing the first note: a
//! Service that waits for a second cause would be shown the first. It also holds every event for six minutes, some
//! kilobytes each, and looks through all of them for each one; here a print of each is enough.

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

use crate::client::{CallError, bounded};

/// How many events are remembered, in about a hundred bytes each.
const REMEMBERED: usize = 4_096;
/// A repeat after this time is an event of its own, as in client-go.
const REPEATS: Duration = Duration::from_secs(360);
/// The longest name that the API takes (RFC 1123 subdomain).
const LONGEST_NAME: usize = 253;
/// The longest `reportingInstance` that the API takes.
const LONGEST_INSTANCE: usize = 128;

/// Something that happened to an object.
#[derive(Clone, Debug)]
pub(super) struct Occurrence {
    pub(super) object: ObjectReference,
    pub(super) type_: &'static str,
    pub(super) action: String,
    pub(super) reason: String,
    pub(super) note: String,
    /// Whether the same once more is counted up on the first event.
    pub(super) repeatable: bool,
}

impl Occurrence {
    /// The same for what is about the same object and has the same reason.
    fn subject(&self) -> u64 {
        let ObjectReference { kind, namespace, name, uid, .. } = &self.object;
        hash(&(kind, namespace, name, uid, &self.reason))
    }

    /// Of one subject the same for what is a repeat, different for everything else.
    fn print(&self) -> u64 {
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
    recent: Recent,
}

/// The last occurrence about each subject, the latest at the end.
#[derive(Default)]
struct Recent(VecDeque<Known>);

struct Known {
    subject: u64,
    print: u64,
    /// Of the object that tells of it.
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
            instance: shortened(instance.unwrap_or_else(|| controller.to_owned())),
            recent: Recent::default(),
        }
    }

    /// Tells of it, as another one of a series if it happened a moment ago.
    pub(super) async fn publish(&mut self, occurrence: Occurrence) -> Result<(), CallError> {
        let namespace = occurrence.object.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let (now, subject, print) = (Instant::now(), occurrence.subject(), occurrence.print());
        let earlier = self.recent.take(now, &occurrence);
        if let Some(known) = earlier {
            let count = known.count.saturating_add(1);
            let repeat = repeat(count, Timestamp::now());
            match bounded(api.patch(&known.name, &PatchParams::default(), &Patch::Merge(repeat))).await {
                Ok(_) => {
                    self.recent.note(Known { count, last: now, ..known });
                    return Ok(());
                }
                // It has expired: this one begins anew.
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    self.recent.note(known);
                    return Err(error);
                }
            }
        }
        let event = self.event(occurrence);
        bounded(api.create(&PostParams::default(), &event)).await?;
        let name = event.metadata.name.unwrap_or_default();
        self.recent.note(Known { subject, print, name, count: 1, last: now });
        Ok(())
    }

    fn event(&self, occurrence: Occurrence) -> Event {
        let Occurrence { object, type_, action, reason, note, repeatable: _ } = occurrence;
        let now = Timestamp::now();
        Event {
            metadata: ObjectMeta {
                namespace: Some(object.namespace.clone().unwrap_or_else(|| "default".to_owned())),
                name: Some(name(object.name.as_deref().unwrap_or(&self.controller), now)),
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

/// What changes of an event that has happened `count` times by now.
fn repeat(count: i32, now: Timestamp) -> serde_json::Value {
    json!({
        "count": count,
        "lastTimestamp": Time(now),
        "series": {"count": count, "lastObservedTime": MicroTime(now)},
    })
}

fn shortened(mut instance: String) -> String {
    instance.truncate(instance.floor_char_boundary(LONGEST_INSTANCE));
    instance
}

/// As client-go names events: after the object, with the time. The object's name alone may be as long as is allowed.
fn name(object: &str, now: Timestamp) -> String {
    let time = format!(".{:x}", now.as_nanosecond());
    let end = object.floor_char_boundary(LONGEST_NAME.saturating_sub(time.len()));
    // No part of a name may end in these.
    let object = object[..end].trim_end_matches(['-', '.']);
    format!("{object}{time}")
}

impl Recent {
    /// Takes out the last occurrence about the same subject; none unless this one is its repeat, a moment later. What
    /// happened before another one with the same reason is not repeated: the newest event is to tell how things are.
    fn take(&mut self, now: Instant, occurrence: &Occurrence) -> Option<Known> {
        let subject = occurrence.subject();
        let at = self.0.iter().rposition(|known| known.subject == subject)?;
        let known = self.0.remove(at)?;
        let recent = now.saturating_duration_since(known.last) < REPEATS;
        (occurrence.repeatable && recent && known.print == occurrence.print()).then_some(known)
    }

    fn note(&mut self, known: Known) {
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(known);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use kube::client::Body;
    use serde_json::Value;

    use super::*;

    fn occurrence(name: &str, note: &str) -> Occurrence {
        Occurrence {
            object: ObjectReference { name: Some(name.into()), ..ObjectReference::default() },
            type_: "Warning",
            action: "Allocate".into(),
            reason: "AllocationFailed".into(),
            note: note.into(),
            repeatable: true,
        }
    }

    fn known(name: &str, note: &str, last: Instant) -> Known {
        let occurrence = occurrence(name, note);
        let (subject, print) = (occurrence.subject(), occurrence.print());
        Known { subject, print, name: note.into(), count: 1, last }
    }

    #[test]
    fn only_the_same_about_the_same_object_a_moment_ago_is_a_repeat() {
        let start = Instant::now();
        let again = |name, note, after| {
            let mut recent = Recent::default();
            recent.note(known("web", "the pool is full", start));
            let now = start + Duration::from_secs(after);
            recent.take(now, &occurrence(name, note)).map(|known| known.name)
        };
        assert_eq!(again("other", "the pool is full", 1), None);
        assert_eq!(again("web", "another cause", 1), None);
        assert_eq!(again("web", "the pool is full", 1).as_deref(), Some("the pool is full"));
        assert_eq!(again("web", "the pool is full", 360), None, "that was long ago");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        for number in 0..=REMEMBERED {
            recent.note(known(&number.to_string(), "note", now));
        }
        assert_eq!(recent.0.len(), REMEMBERED);
        assert!(recent.take(now, &occurrence("0", "note")).is_none(), "the first is forgotten");
        assert!(recent.take(now, &occurrence("1", "note")).is_some());
    }

    #[test]
    fn an_event_has_a_valid_name_whatever_the_objects_is() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        assert_eq!(name("web", now), "web.18fae27693b40000");
        for object in ["a".repeat(253), format!("{}-.-{}", "a".repeat(234), "b".repeat(16)), "ä".repeat(200)]
        {
            let name = name(&object, now);
            assert!(name.len() <= LONGEST_NAME && name.ends_with(".18fae27693b40000"), "{name}");
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
        let mut occurrence = occurrence("web", "the pool is full");
        occurrence.object.uid = Some("3d0e".into());
        recorder.publish(occurrence.clone()).await.unwrap();
        recorder.publish(occurrence).await.unwrap();
        let requests = requests.lock().unwrap();
        let (method, path, event) = &requests[0];
        assert_eq!((&**method, &**path), ("POST", "/api/v1/namespaces/default/events"));
        assert_eq!(event["involvedObject"]["uid"], "3d0e");
        assert_eq!(event["source"]["component"], "lbstack-speaker");
        assert_eq!((&event["count"], &event["firstTimestamp"]), (&json!(1), &event["lastTimestamp"]));
        assert!(event["eventTime"].is_string() && event["lastTimestamp"].is_string());
        assert_eq!(event["reportingInstance"].as_str().unwrap().len(), LONGEST_INSTANCE);
        let (method, _, repeat) = &requests[1];
        assert_eq!(&**method, "PATCH");
        assert_eq!((&repeat["count"], &repeat["series"]["count"]), (&json!(2), &json!(2)));
        let observed = repeat["series"]["lastObservedTime"].as_str().unwrap();
        let last = repeat["lastTimestamp"].as_str().unwrap();
        assert_eq!(observed[..19], last[..19]);
        assert!(last >= event["lastTimestamp"].as_str().unwrap());
    }

    #[tokio::test]
    async fn after_a_then_b_then_a_the_newest_event_is_a_new_one_about_a() {
        let (mut recorder, requests) = recorder();
        for note in ["a", "b", "a"] {
            recorder.publish(occurrence("web", note)).await.unwrap();
        }
        // Here another process has reported what was in between.
        for _ in 0..2 {
            let assigned = Occurrence { repeatable: false, ..occurrence("db", "announcing from node1") };
            recorder.publish(assigned).await.unwrap();
        }
        let requests = requests.lock().unwrap();
        assert!(requests.iter().all(|(method, ..)| method == "POST"), "{requests:?}");
        assert_eq!(requests.len(), 5);
    }
}
