//! The worker task: while this process leads, it reconciles whenever a watched object changes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use runtime::heartbeat::Heartbeat;
use runtime::lease::Leadership;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::reconcile::Reconciler;

/// Events come in bursts (a rollout, an initial list): they are handled together.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// How long a teardown in progress may take after shutdown was requested.
const TEARDOWN_LIMIT: Duration = Duration::from_secs(25);
/// How much of that is spent waiting for pods. If operator and stack are deleted together, no other operator
/// continues.
const POD_TERMINATION_LIMIT: Duration = Duration::from_secs(15);

/// Reconciles until `shutdown_requested`, finishes a teardown that is in progress, then cancels `shutdown`.
pub(crate) async fn run(
    mut reconciler: Reconciler,
    leadership: Leadership,
    heartbeat: Heartbeat,
    changed: Arc<Notify>,
    shutdown_requested: CancellationToken,
    shutdown: CancellationToken,
) -> Result<(), Infallible> {
    let work = reconcile_while_leading(&mut reconciler, leadership, &heartbeat, &changed);
    tokio::select! {
        () = shutdown_requested.cancelled() => {}
        () = shutdown.cancelled() => return Ok(()),
        () = work => {}
    }
    let finish = async {
        // If stack and operator are deleted together, the deletion of the stack may not have reached the
        // watch yet.
        if reconciler.poll_deletion().await {
            reconciler.reconcile().await;
        }
        reconciler.limit_teardown(POD_TERMINATION_LIMIT);
        while reconciler.is_tearing_down() {
            let next = reconciler.reconcile().await;
            let _ = tokio::time::timeout(next, changed.notified()).await;
        }
    };
    if tokio::time::timeout(TEARDOWN_LIMIT, finish).await.is_err() {
        tracing::warn!(
            "stopping before the teardown of the stack is complete; the next operator continues it"
        );
    }
    shutdown.cancel();
    Ok(())
}

async fn reconcile_while_leading(
    reconciler: &mut Reconciler,
    mut leadership: Leadership,
    heartbeat: &Heartbeat,
    changed: &Notify,
) {
    loop {
        leadership.wait_acquired().await;
        reconciler.reset();
        while leadership.is_leading() {
            heartbeat.beat();
            let next = reconciler.reconcile().await;
            heartbeat.rest();
            tokio::select! {
                () = changed.notified() => tokio::time::sleep(DEBOUNCE).await,
                () = tokio::time::sleep(next) => {}
                () = leadership.wait_lost() => {}
            }
        }
    }
}
