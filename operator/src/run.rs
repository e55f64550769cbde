//! The worker task: while this process leads, it reconciles whenever a watched object changes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use runtime::heartbeat::Heartbeat;
use runtime::lease::Leadership;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::reconcile::{Reconciler, Term};

/// Events come in bursts (a rollout, an initial list): they are handled together.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// How long a teardown in progress may take after shutdown was requested.
const TEARDOWN_LIMIT: Duration = Duration::from_secs(25);
/// How much of that is spent waiting for pods. If operator and stack are deleted together, no other operator
/// continues.
const POD_TERMINATION_LIMIT: Duration = Duration::from_secs(15);

/// Reconciles while this process leads, until `shutdown_requested`. Then finishes a teardown that is in
/// progress, and cancels `shutdown`.
pub(crate) async fn run(
    mut reconciler: Reconciler,
    mut leadership: Leadership,
    heartbeat: Heartbeat,
    changed: Arc<Notify>,
    shutdown_requested: CancellationToken,
    shutdown: CancellationToken,
) -> Result<(), Infallible> {
    loop {
        tokio::select! {
            () = shutdown_requested.cancelled() => break,
            () = shutdown.cancelled() => return Ok(()),
            () = leadership.wait_acquired() => {}
        }
        let mut term = Term::new();
        tokio::select! {
            () = shutdown_requested.cancelled() => {
                finish_teardown(&mut reconciler, &mut term, &changed).await;
                break;
            }
            () = shutdown.cancelled() => return Ok(()),
            () = reconcile_while_leading(
                &mut reconciler,
                &mut term,
                &mut leadership,
                &heartbeat,
                &changed,
            ) => {}
        }
    }
    shutdown.cancel();
    Ok(())
}

async fn reconcile_while_leading(
    reconciler: &mut Reconciler,
    term: &mut Term,
    leadership: &mut Leadership,
    heartbeat: &Heartbeat,
    changed: &Notify,
) {
    while leadership.is_leading() {
        heartbeat.beat();
        let next = reconciler.reconcile(term).await;
        heartbeat.rest();
        tokio::select! {
            () = changed.notified() => tokio::time::sleep(DEBOUNCE).await,
            () = tokio::time::sleep(next) => {}
            () = leadership.wait_lost() => {}
        }
    }
}

/// Finishes a teardown that is in progress, within [`TEARDOWN_LIMIT`].
async fn finish_teardown(reconciler: &mut Reconciler, term: &mut Term, changed: &Notify) {
    let finish = async {
        // If stack and operator are deleted together, the deletion of the stack may not have reached the
        // watch yet.
        if reconciler.poll_deletion(term).await {
            reconciler.reconcile(term).await;
        }
        term.limit_teardown(POD_TERMINATION_LIMIT);
        while term.is_tearing_down() {
            let next = reconciler.reconcile(term).await;
            let _ = tokio::time::timeout(next, changed.notified()).await;
        }
    };
    if tokio::time::timeout(TEARDOWN_LIMIT, finish).await.is_err() {
        tracing::warn!(
            "stopping before the teardown of the stack is complete; the next operator continues it"
        );
    }
}
