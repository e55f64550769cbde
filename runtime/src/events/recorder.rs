//! Writes events into the API, and folds repeats into a series (`events.k8s.io/v1`, field `series`).
//!
//! The recorder of kube 5.0 folds events of one reason whatever their notes say, and goes on showing the first note: a
//! Service that waits for a second cause would be shown the first. It also holds every event for six minutes, some
//! kilobytes each, and looks through all of them for each one; here a print of each is enough.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
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

/// Something that happened to an object.
#[derive(Clone, Debug)]
pub(super) struct Occurrence {
    pub(super) object: ObjectReference,
    pub(super) type_: &'static str,
    pub(super) action: String,
    pub(super) reason: String,
    pub(super) note: String,
}

impl Occurrence {
    /// The same for what is a repeat, different for everything else.
    fn print(&self) -> u64 {
        let Self { object, type_, action, reason, note } = self;
        let ObjectReference { kind, namespace, name, uid, .. } = object;
        let mut hasher = DefaultHasher::new();
        (kind, namespace, name, uid, type_, action, reason, note).hash(&mut hasher);
        hasher.finish()
    }
}

pub(super) struct Recorder {
    client: Client,
    controller: String,
    instance: String,
    recent: Recent,
}

/// The last occurrences, the latest at the end.
#[derive(Default)]
struct Recent(VecDeque<Known>);

struct Known {
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
            instance: instance.unwrap_or_else(|| controller.to_owned()),
            recent: Recent::default(),
        }
    }

    /// Tells of it, as another one of a series if it happened a moment ago.
    pub(super) async fn publish(&mut self, occurrence: Occurrence) -> Result<(), CallError> {
        let namespace = occurrence.object.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let (now, print) = (Instant::now(), occurrence.print());
        if let Some(known) = self.recent.take(now, print) {
            let count = known.count.saturating_add(1);
            let series = json!({"series": {"count": count, "lastObservedTime": MicroTime(Timestamp::now())}});
            match bounded(api.patch(&known.name, &PatchParams::default(), &Patch::Merge(series))).await {
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
        self.recent.note(Known { print, name, count: 1, last: now });
        Ok(())
    }

    fn event(&self, occurrence: Occurrence) -> Event {
        let Occurrence { object, type_, action, reason, note } = occurrence;
        let now = Timestamp::now();
        Event {
            metadata: ObjectMeta {
                namespace: Some(object.namespace.clone().unwrap_or_else(|| "default".to_owned())),
                name: Some(name(object.name.as_deref().unwrap_or(&self.controller), now)),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(self.controller.clone()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(type_.to_owned()),
            action: Some(action),
            reason: Some(reason),
            note: Some(note),
            regarding: Some(object),
            ..Event::default()
        }
    }
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
    /// Takes out what is the same and happened a moment ago.
    fn take(&mut self, now: Instant, print: u64) -> Option<Known> {
        let at = self.0.iter().rposition(|known| known.print == print)?;
        self.0.remove(at).filter(|known| now.saturating_duration_since(known.last) < REPEATS)
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
    use super::*;

    fn occurrence(name: &str, note: &str) -> Occurrence {
        Occurrence {
            object: ObjectReference { name: Some(name.into()), ..ObjectReference::default() },
            type_: "Warning",
            action: "Allocate".into(),
            reason: "AllocationFailed".into(),
            note: note.into(),
        }
    }

    fn known(name: &str, note: &str, last: Instant) -> Known {
        Known { print: occurrence(name, note).print(), name: note.into(), count: 1, last }
    }

    #[test]
    fn only_the_same_about_the_same_object_a_moment_ago_is_a_repeat() {
        let (mut recent, start) = (Recent::default(), Instant::now());
        recent.note(known("web", "the pool is full", start));
        recent.note(known("web", "no such pool", start));
        let mut again = |name, note, after| {
            let print = occurrence(name, note).print();
            recent.take(start + Duration::from_secs(after), print).map(|known| known.name)
        };
        assert_eq!(again("other", "the pool is full", 1), None);
        assert_eq!(again("web", "a third cause", 1), None);
        assert_eq!(again("web", "the pool is full", 1).as_deref(), Some("the pool is full"));
        assert_eq!(again("web", "no such pool", 360), None, "that was long ago");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        for number in 0..=REMEMBERED {
            recent.note(known(&number.to_string(), "note", now));
        }
        assert_eq!(recent.0.len(), REMEMBERED);
        assert!(recent.take(now, occurrence("0", "note").print()).is_none(), "the first is forgotten");
        assert!(recent.take(now, occurrence("1", "note").print()).is_some());
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
}
