//! Events of the API (`kubectl describe`), sent by one task, so that nobody waits for them.

mod recorder;

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;
use recorder::{Occurrence, Recorder};

/// Events that wait to be sent; more are dropped, since an event is never worth the memory of a process.
const QUEUE: usize = 16_384;

/// Between two events while something more urgent is done.
const PACE: Duration = Duration::from_millis(250);

/// Where a process puts its events.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Occurrence>,
    /// When something more urgent was last done.
    urgent: watch::Sender<Option<Instant>>,
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
        let (queue, mut events) = mpsc::channel::<Occurrence>(QUEUE);
        let urgent = watch::Sender::new(None);
        let last = urgent.subscribe();
        let mut recorder = Recorder::new(client, component, instance);
        tasks.spawn("events", async move {
            let send = async {
                while let Some(occurrence) = events.recv().await {
                    give_way(&last).await;
                    let reason = occurrence.reason.clone();
                    if let Err(error) = recorder.publish(occurrence).await {
                        tracing::debug!(reason, %error, "an event could not be sent");
                    }
                }
            };
            shutdown.run_until_cancelled(send).await;
            Ok::<(), std::convert::Infallible>(())
        });
        Self { queue, urgent }
    }

    /// Something more urgent is being done: for the next quarter of a second at most one event is sent, so that what the API
    /// server can do is for that.
    pub fn hold(&self) {
        self.urgent.send_replace(Some(Instant::now()));
    }

    /// Something happened that is as it shall be.
    pub fn normal(&self, object: &ObjectReference, action: &str, reason: &str, note: impl Into<String>) {
        self.publish(occurrence(object, "Normal", action, reason, note.into()));
    }

    /// Something a person should look at.
    pub fn warning(&self, object: &ObjectReference, action: &str, reason: &str, note: impl Into<String>) {
        self.publish(occurrence(object, "Warning", action, reason, note.into()));
    }

    /// The state of an object has changed. Each change is an event of its own: it is never counted up on an earlier one,
    /// since another process may have reported another change of the same kind in between.
    pub fn transition(&self, object: &ObjectReference, action: &str, reason: &str, note: impl Into<String>) {
        let occurrence = occurrence(object, "Normal", action, reason, note.into());
        self.publish(Occurrence { repeatable: false, ..occurrence });
    }

    fn publish(&self, occurrence: Occurrence) {
        let reason = occurrence.reason.clone();
        if self.queue.try_send(occurrence).is_err() {
            tracing::debug!(reason, "an event was dropped: the queue is full or closed");
        }
    }
}

fn occurrence(
    object: &ObjectReference,
    type_: &'static str,
    action: &str,
    reason: &str,
    note: String,
) -> Occurrence {
    Occurrence {
        object: object.clone(),
        type_,
        action: action.to_owned(),
        reason: reason.to_owned(),
        note: truncated(note),
        repeatable: true,
    }
}

/// Waits if something more urgent was done a moment ago.
async fn give_way(last: &watch::Receiver<Option<Instant>>) {
    let recent = last.borrow().is_some_and(|urgent| urgent.elapsed() < PACE);
    if recent {
        tokio::time::sleep(PACE).await;
    }
}

/// The API refuses notes over 1024 bytes (field `message`).
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
    async fn four_events_a_second_are_sent_while_something_more_urgent_is_done() {
        let (urgent, last) = watch::channel(None);
        let start = Instant::now();
        give_way(&last).await;
        assert_eq!(start.elapsed(), Duration::ZERO, "nothing is more urgent");
        for _ in 0..4 {
            urgent.send_replace(Some(Instant::now()));
            give_way(&last).await;
        }
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        give_way(&last).await;
        assert_eq!(start.elapsed(), Duration::from_secs(1), "that is over");
    }

    #[test]
    fn a_note_is_cut_at_a_character_within_the_limit_of_the_api() {
        let cut = truncated("ä".repeat(600));
        assert!(cut.len() <= 1024 && cut.ends_with("ä…"));
        assert_eq!(truncated("short".into()), "short");
    }
}
