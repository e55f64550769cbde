//! The one task that works: while this process leads, it looks whenever something happened.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use runtime::heartbeat::Heartbeat;
use runtime::lease::Leadership;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::reconcile::Reconciler;

/// Events come in bursts (a rollout, a first list): they are looked at together.
const SETTLE: Duration = Duration::from_millis(100);
/// How long a deletion under way is given when the process is asked to stop.
const LAST_WORK: Duration = Duration::from_secs(25);
/// How long of it pods are waited for. If operator and stack are deleted together, nobody goes on after this one.
const LAST_PATIENCE: Duration = Duration::from_secs(15);

/// Works until `asked_to_stop`, finishes a deletion that is under way, then cancels `shutdown`.
pub(crate) async fn run(
    mut reconciler: Reconciler,
    leadership: Leadership,
    heartbeat: Heartbeat,
    changed: Arc<Notify>,
    asked_to_stop: CancellationToken,
    shutdown: CancellationToken,
) -> Result<(), Infallible> {
    let work = work(&mut reconciler, leadership, &heartbeat, &changed);
    tokio::select! {
        () = asked_to_stop.cancelled() => {}
        () = shutdown.cancelled() => return Ok(()),
        () = work => {}
    }
    let finish = async {
        // Who deletes stack and operator together may have asked for the one before this process heard of the other.
        if reconciler.learns_of_deletion().await {
            reconciler.reconcile().await;
        }
        reconciler.hurry(LAST_PATIENCE);
        while reconciler.is_tearing_down() {
            let next = reconciler.reconcile().await;
            let _ = tokio::time::timeout(next, changed.notified()).await;
        }
    };
    if tokio::time::timeout(LAST_WORK, finish).await.is_err() {
        tracing::warn!("stopping although the stack is not gone yet; the next operator goes on with it");
    }
    shutdown.cancel();
    Ok(())
}

async fn work(
    reconciler: &mut Reconciler,
    mut leadership: Leadership,
    heartbeat: &Heartbeat,
    changed: &Notify,
) {
    loop {
        leadership.wait_acquired().await;
        reconciler.begin();
        while leadership.is_leading() {
            heartbeat.beat();
            let next = reconciler.reconcile().await;
            heartbeat.rest();
            tokio::select! {
                () = changed.notified() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(next) => {}
                () = leadership.wait_lost() => {}
            }
        }
    }
}
