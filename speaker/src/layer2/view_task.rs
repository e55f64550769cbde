//! The task that builds the view whenever the API objects or the links of this node change.

use std::sync::Arc;
use std::time::{Duration, Instant};

use announce::cluster::link::Link;
use announce::layer2::view::{View, ViewBuilder, ViewSettings};
use rules::Finding;
use runtime::reflect::WatchEnded;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::api::inputs::Validated;
use crate::api::snapshot::Snapshot;
use crate::api::watches::Caches;
use crate::pace::Pace;

/// How long a starting speaker waits for the API server if it has a snapshot.
const API_TIMEOUT: Duration = Duration::from_secs(2);

/// Receivers of views and findings.
pub(crate) struct ViewOutputs {
    pub(crate) views: watch::Sender<Option<Arc<View>>>,
    pub(crate) findings: watch::Sender<Vec<Finding>>,
}

/// Rebuilds the view whenever something has changed, and publishes it if it differs.
pub(crate) async fn run_view_builder(
    caches: Caches,
    settings: ViewSettings,
    snapshot: Option<Snapshot>,
    mut links: watch::Receiver<Vec<Link>>,
    outputs: ViewOutputs,
    changed: Arc<Notify>,
    shutdown: CancellationToken,
) -> Result<(), WatchEnded> {
    let ViewOutputs { views, findings } = outputs;
    if let Some(snapshot) = &snapshot {
        *caches.last_valid() = snapshot.last_valid();
    }
    let ready = async {
        let patience = if snapshot.is_some() { API_TIMEOUT } else { Duration::MAX };
        if let Ok(ready) = tokio::time::timeout(patience, caches.ready()).await {
            return ready;
        }
        if let Some(snapshot) = snapshot {
            tracing::warn!(
                "the API server does not respond: continuing with the snapshot from before the restart"
            );
            views.send_replace(Some(Arc::new(snapshot.view(&settings, &links.borrow()))));
        }
        caches.ready().await
    };
    match shutdown.run_until_cancelled(ready).await {
        Some(ready) => ready?,
        None => return Ok(()),
    }
    let (mut pace, mut validated) = (Pace::new(Instant::now()), Validated::default());
    let mut builder = ViewBuilder::new(settings, views.borrow().clone());
    loop {
        let begun = Instant::now();
        let now_links = links.borrow_and_update().clone();
        let view = tokio::task::block_in_place(|| {
            let inputs = caches.inputs();
            validated.update(&mut caches.last_valid(), &inputs);
            inputs.build_view(&mut builder, &now_links, &validated.configuration)
        });
        findings.send_if_modified(|known| {
            let changed = *known != validated.findings;
            known.clone_from(&validated.findings);
            changed
        });
        views.send_if_modified(|known| {
            let changed = known.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &view));
            *known = Some(view);
            changed
        });
        let pause = pace.spent(begun, Instant::now());
        if shutdown.run_until_cancelled(next_change(&changed, &mut links, pause)).await.is_none() {
            return Ok(());
        }
    }
}

/// Waits for a change, and gathers further ones for the duration of `pause`. Changes of links are delayed
/// like others: any host on a link can cause them by router advertisements.
async fn next_change(changed: &Notify, links: &mut watch::Receiver<Vec<Link>>, pause: Duration) {
    tokio::select! {
        () = changed.notified() => {}
        Ok(()) = links.changed() => {}
    }
    tokio::time::sleep(pause).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requirement_6_links_that_change_continuously_cause_no_more_views_than_objects_that_do() {
        let (links, mut receiver) = watch::channel(Vec::new());
        let changed = Notify::new();
        let (begun, pause) = (tokio::time::Instant::now(), Duration::from_secs(3));
        for change in 1..=5 {
            links.send_replace(Vec::new());
            if change % 2 == 0 {
                changed.notify_one();
            }
            next_change(&changed, &mut receiver, pause).await;
            receiver.mark_unchanged();
            assert_eq!(begun.elapsed(), pause * change);
        }
    }
}
