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

/// Events wait until nothing more urgent was done for so long.
const QUIET: Duration = Duration::from_millis(250);

/// An event that waits is sent after this time all the same.
const PATIENCE: Duration = Duration::from_secs(30);

/// An event, what it is about, and when it happened.
type Queued = (Event, ObjectReference, Instant);

/// Where a process puts its events.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Queued>,
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
        let (queue, mut events) = mpsc::channel::<Queued>(QUEUE);
        let urgent = watch::Sender::new(None);
        let last = urgent.subscribe();
        let reporter = Reporter { controller: component.to_owned(), instance };
        // One recorder for the process: its cache is what folds repeats into a series.
        let recorder = Recorder::new(client, reporter);
        tasks.spawn("events", async move {
            let send = async {
                while let Some((event, object, happened)) = events.recv().await {
                    quiet(&last, happened).await;
                    if let Err(error) = bounded(recorder.publish(&event, &object)).await {
                        tracing::debug!(reason = event.reason, %error, "an event could not be sent");
                    }
                }
            };
            shutdown.run_until_cancelled(send).await;
            Ok::<(), std::convert::Infallible>(())
        });
        Self { queue, urgent }
    }

    /// Something more urgent is being done: events wait for a quarter of a second from now, each for half a minute at most.
    /// What the API server can do is for that.
    pub fn hold(&self) {
        self.urgent.send_replace(Some(Instant::now()));
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

/// Waits until an event that happened then may be sent.
async fn quiet(last: &watch::Receiver<Option<Instant>>, happened: Instant) {
    loop {
        let until = last.borrow().map(|urgent| (urgent + QUIET).min(happened + PATIENCE));
        match until.filter(|until| *until > Instant::now()) {
            Some(until) => tokio::time::sleep_until(until).await,
            None => return,
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

    #[tokio::test(start_paused = true)]
    async fn an_event_waits_while_something_more_urgent_is_done_but_for_half_a_minute_at_most() {
        let (urgent, last) = watch::channel(None);
        let start = Instant::now();
        quiet(&last, start).await;
        assert_eq!(start.elapsed().as_millis(), 0, "nothing is more urgent");
        // Every 100 ms for a minute.
        let busy = tokio::spawn(async move {
            for _ in 0..600 {
                urgent.send_replace(Some(Instant::now()));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        tokio::task::yield_now().await;
        quiet(&last, start).await;
        assert_eq!(start.elapsed().as_millis(), 30_000, "one that waits too long is sent");
        let late = start + Duration::from_secs(45);
        quiet(&last, late).await;
        let over = 59_900 + 250;
        assert!(
            (over..over + 10).contains(&start.elapsed().as_millis()),
            "{:?}: when it is quiet",
            start.elapsed()
        );
        busy.await.unwrap();
    }

    #[test]
    fn a_note_is_cut_at_a_character_within_the_limit_of_the_api() {
        let cut = truncated("ä".repeat(600));
        assert!(cut.len() <= 1024 && cut.ends_with("ä…"));
        assert_eq!(truncated("short".into()), "short");
    }
}
