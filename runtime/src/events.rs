//! Events of the API (`kubectl describe`), sent by one task, so that nobody waits for them.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::bounded;
use crate::tasks::Tasks;

/// Events that wait to be sent; more are dropped, since an event is never worth the memory of a process.
const QUEUE: usize = 16_384;

/// An event that is held back is sent after this time all the same.
const PATIENCE: Duration = Duration::from_secs(30);

/// An event, what it is about, and when it happened.
type Queued = (Event, ObjectReference, Instant);

/// Where a process puts its events.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Queued>,
    held: watch::Sender<bool>,
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
        let (queue, mut events) = mpsc::channel::<Queued>(QUEUE);
        let held = watch::Sender::new(false);
        let mut holding = held.subscribe();
        let reporter = Reporter { controller: component.to_owned(), instance };
        // One recorder for the process: its cache is what folds repeats into a series.
        let recorder = Recorder::new(client, reporter);
        tasks.spawn("events", async move {
            let send = async {
                while let Some((event, object, happened)) = events.recv().await {
                    released(&mut holding, happened).await;
                    if let Err(error) = bounded(recorder.publish(&event, &object)).await {
                        tracing::debug!(reason = event.reason, %error, "an event could not be sent");
                    }
                }
            };
            shutdown.run_until_cancelled(send).await;
            Ok::<(), std::convert::Infallible>(())
        });
        Self { queue, held }
    }

    /// While `hold`, events wait, each for [`PATIENCE`] at most: what the API server can do is for calls that matter more.
    pub fn hold(&self, hold: bool) {
        self.held.send_if_modified(|held| std::mem::replace(held, hold) != hold);
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
        if self.queue.try_send((event, object.clone(), Instant::now())).is_err() {
            tracing::debug!(reason, "an event was dropped: the queue is full or closed");
        }
    }
}

/// Waits until nobody holds an event back that happened then.
async fn released(holding: &mut watch::Receiver<bool>, happened: Instant) {
    // When the time is over, or whoever held it is gone, it is sent all the same.
    let _ = tokio::time::timeout_at(happened + PATIENCE, holding.wait_for(|held| !held)).await;
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

    #[tokio::test(start_paused = true)]
    async fn an_event_waits_while_it_is_held_back_but_for_half_a_minute_at_most() {
        let (held, mut holding) = watch::channel(true);
        let happened = Instant::now();
        let (waited, ()) = tokio::join!(
            async {
                released(&mut holding, happened).await;
                happened.elapsed()
            },
            async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                held.send_replace(false);
            }
        );
        assert_eq!(waited.as_secs(), 2, "until it is released");
        held.send_replace(true);
        let happened = Instant::now();
        released(&mut holding, happened).await;
        assert_eq!(happened.elapsed().as_secs(), 30, "it is held for ever, and sent");
        released(&mut holding, happened).await;
        assert_eq!(happened.elapsed().as_secs(), 30, "one that happened long ago is sent at once");
    }

    #[test]
    fn a_note_is_cut_at_a_character_within_the_limit_of_the_api() {
        let cut = truncated("ä".repeat(600));
        assert!(cut.len() <= 1024 && cut.ends_with("ä…"));
        assert_eq!(truncated("short".into()), "short");
    }
}
