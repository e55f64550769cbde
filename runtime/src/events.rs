//! Events of the API (`kubectl describe`), sent by one task, so that nobody waits for them.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::client::bounded;
use crate::tasks::Tasks;

/// Events that wait to be sent; more are dropped, since an event is never worth the memory of a process.
const QUEUE: usize = 16_384;

/// Where a process puts its events.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<(Event, ObjectReference)>,
}

impl Events {
    /// Starts the sending task. `component` is what users see as the event's source; `instance` the pod's name.
    pub fn start(
        tasks: &mut Tasks,
        client: Client,
        component: &str,
        instance: Option<String>,
        shutdown: CancellationToken,
    ) -> Self {
        let (queue, mut events) = mpsc::channel::<(Event, ObjectReference)>(QUEUE);
        let reporter = Reporter { controller: component.to_owned(), instance };
        // One recorder for the process: its cache is what folds repeats into a series.
        let recorder = Recorder::new(client, reporter);
        tasks.spawn("events", async move {
            while let Some(Some((event, object))) = shutdown.run_until_cancelled(events.recv()).await {
                if let Err(error) = bounded(recorder.publish(&event, &object)).await {
                    tracing::debug!(reason = event.reason, %error, "an event could not be sent");
                }
            }
            Ok::<(), std::convert::Infallible>(())
        });
        Self { queue }
    }

    /// A queue without a task behind it, for tests: what is published comes out of the receiver.
    pub fn channel() -> (Self, mpsc::Receiver<(Event, ObjectReference)>) {
        let (queue, events) = mpsc::channel(QUEUE);
        (Self { queue }, events)
    }

    /// Something happened that is as it shall be.
    pub fn normal(&self, object: &ObjectReference, action: &str, reason: &str, note: impl Into<String>) {
        self.publish(object, EventType::Normal, action, reason, note.into());
    }

    /// Something a person should look at.
    pub fn warning(&self, object: &ObjectReference, action: &str, reason: &str, note: impl Into<String>) {
        self.publish(object, EventType::Warning, action, reason, note.into());
    }

    fn publish(&self, object: &ObjectReference, type_: EventType, action: &str, reason: &str, note: String) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(truncated(note)),
            action: action.to_owned(),
            secondary: None,
        };
        if self.queue.try_send((event, object.clone())).is_err() {
            tracing::debug!(reason, "an event was dropped: the queue is full or closed");
        }
    }
}

/// The API refuses notes over 1024 bytes (`events.k8s.io/v1`, field `note`).
fn truncated(mut note: String) -> String {
    const LIMIT: usize = 1024;
    if note.len() > LIMIT {
        let end = note.floor_char_boundary(LIMIT - "…".len());
        note.truncate(end);
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_at_a_character_within_the_limit_of_the_api() {
        let cut = truncated("ä".repeat(600));
        assert!(cut.len() <= 1024 && cut.ends_with("ä…"));
        assert_eq!(truncated("short".into()), "short");
    }
}
