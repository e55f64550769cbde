//! Kubernetes Events (`kubectl describe`), sent by one task in the background, so that no caller waits for
//! the API server.

mod recorder;

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;
use recorder::{PendingEvent, Recorder};

/// Capacity of the queue. Events beyond it are dropped, since none is worth unbounded memory.
const QUEUE_CAPACITY: usize = 16_384;

/// Delay before each event while throttled.
const THROTTLE_DELAY: Duration = Duration::from_millis(250);

/// A handle to the queue of events of a process.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<PendingEvent>,
    /// When [`throttle`](Self::throttle) was last called.
    throttled_at: watch::Sender<Option<Instant>>,
}

impl Events {
    /// Starts the sending task. `component` is what users see as the event's source; `instance` the pod's
    /// name.
    pub fn start(
        tasks: &mut Tasks,
        client: Client,
        component: &str,
        instance: Option<String>,
        shutdown: CancellationToken,
    ) -> Self {
        let (queue, mut events) = mpsc::channel::<PendingEvent>(QUEUE_CAPACITY);
        let throttled_at = watch::Sender::new(None);
        let throttle = throttled_at.subscribe();
        let mut recorder = Recorder::new(client, component, instance);
        tasks.spawn("events", async move {
            let send = async {
                while let Some(event) = events.recv().await {
                    wait_if_throttled(&throttle).await;
                    let reason = event.reason.clone();
                    if let Err(error) = recorder.publish(event).await {
                        tracing::debug!(reason, %error, "an event could not be sent");
                    }
                }
            };
            shutdown.run_until_cancelled(send).await;
            Ok::<(), std::convert::Infallible>(())
        });
        Self { queue, throttled_at }
    }

    /// For the next quarter of a second at most one event is sent: more urgent requests get the capacity of
    /// the API server.
    pub fn throttle(&self) {
        self.throttled_at.send_replace(Some(Instant::now()));
    }

    /// Queues an event of type Normal.
    pub fn normal(&self, object: &ObjectReference, action: &str, reason: &str, note: impl Into<String>) {
        self.publish(pending(object, "Normal", action, reason, note.into()));
    }

    /// Queues an event of type Warning.
    pub fn warning(&self, object: &ObjectReference, action: &str, reason: &str, note: impl Into<String>) {
        self.publish(pending(object, "Warning", action, reason, note.into()));
    }

    /// Queues an event of type Normal for a change of an object's state. It is never counted as a repeat of
    /// an earlier event, since another process may have reported a different change in between.
    pub fn transition(&self, object: &ObjectReference, action: &str, reason: &str, note: impl Into<String>) {
        let event = pending(object, "Normal", action, reason, note.into());
        self.publish(PendingEvent { repeatable: false, ..event });
    }

    fn publish(&self, event: PendingEvent) {
        let reason = event.reason.clone();
        if self.queue.try_send(event).is_err() {
            tracing::debug!(reason, "an event was dropped: the queue is full or closed");
        }
    }
}

fn pending(
    object: &ObjectReference,
    type_: &'static str,
    action: &str,
    reason: &str,
    note: String,
) -> PendingEvent {
    PendingEvent {
        object: object.clone(),
        type_,
        action: action.to_owned(),
        reason: reason.to_owned(),
        note: truncated(note),
        repeatable: true,
    }
}

/// Waits if [`Events::throttle`] was called a moment ago.
async fn wait_if_throttled(throttled_at: &watch::Receiver<Option<Instant>>) {
    let recent = throttled_at.borrow().is_some_and(|at| at.elapsed() < THROTTLE_DELAY);
    if recent {
        tokio::time::sleep(THROTTLE_DELAY).await;
    }
}

/// The API rejects a `message` of more than 1024 bytes.
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
    async fn four_events_a_second_are_sent_while_throttled() {
        let (throttled_at, throttle) = watch::channel(None);
        let start = Instant::now();
        wait_if_throttled(&throttle).await;
        assert_eq!(start.elapsed(), Duration::ZERO, "not throttled");
        for _ in 0..4 {
            throttled_at.send_replace(Some(Instant::now()));
            wait_if_throttled(&throttle).await;
        }
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        wait_if_throttled(&throttle).await;
        assert_eq!(start.elapsed(), Duration::from_secs(1), "not throttled any more");
    }

    #[test]
    fn a_note_is_cut_at_a_character_within_the_limit_of_the_api() {
        let cut = truncated("ä".repeat(600));
        assert!(cut.len() <= 1024 && cut.ends_with("ä…"));
        assert_eq!(truncated("short".into()), "short");
    }
}
