//! The speaker: announces the addresses of Services on layer 2.
//!
//! ```text
//! API ──watches──► view ──watch channel──► driver thread (Ownership, Responder) ◄──► packet sockets, beacons
//! netlink ─links─────────────────────────►      │
//!                                               └──watch channel──► status (ServiceL2Status, events)
//! ```
//!
//! Announced addresses stay announced while the API server is unavailable: the driver uses the last view.

mod api;
mod args;
#[cfg(test)]
mod fixtures;
mod layer2;
mod log_limit;
mod mac;
mod metrics;
mod pace;
mod priority;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use announce::cluster::NodeName;
use announce::layer2::view::View;
use anyhow::Context as _;
use futures::TryFutureExt as _;
use prometheus_client::registry::Registry;
use runtime::admin::{self, Gate, Readiness};
use runtime::events::Events;
use runtime::heartbeat::Heartbeat;
use runtime::memory;
use runtime::tasks::Tasks;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use api::snapshot::{self, Snapshot};
use api::status;
use api::watches::Caches;
pub use args::Args;
use layer2::driver::{Driver, Published};
use layer2::link_sockets::UnavailableProtocols;
use layer2::view_task::{self, ViewOutputs};
use layer2::{interfaces, keys};
use log_limit::Chain;
use metrics::Metrics;

/// How long tasks have to stop after a shutdown was requested.
const GRACE: Duration = Duration::from_secs(5);
/// How long one iteration of the driver may take before `/healthz` fails; the kubelet waits another minute.
const DRIVER_LIMIT: Duration = Duration::from_secs(10);
/// The source of our events.
const COMPONENT: &str = "lbstack-speaker";

/// Runs the speaker until shutdown.
pub async fn run(args: Args) -> anyhow::Result<()> {
    runtime::telemetry::init(&args.common)?;
    let shutdown = runtime::shutdown::token()?;
    let me: NodeName = args.node_name.as_str().into();
    let excluded = args.excluded().context("--exclude-interfaces has an invalid regular expression")?;
    let client = runtime::client::connect().await?;

    let mut tasks = Tasks::new();
    let mut registry = Registry::default();
    let metrics = Metrics::default();
    metrics.register(&mut registry);
    let readiness = Readiness::new();
    let first_view = readiness.gate("the first lists");
    tasks.watches().register(&mut registry);
    let heartbeat = Heartbeat::new("driver", DRIVER_LIMIT);
    readiness.supervise(heartbeat.clone());
    tasks.spawn("admin", admin::serve(args.common.admin_address, registry, readiness, shutdown.clone()));

    let (links, other_addresses) = interfaces::start(&mut tasks, excluded, shutdown.clone()).await?;
    let changed = Arc::new(Notify::new());
    let snapshot = Snapshot::read(&args.state_dir);
    let before = snapshot.as_ref().map(Snapshot::inputs);
    let caches = Caches::start(&mut tasks, &client, args.watches(), before, &changed, &shutdown);
    let (unavailable, sockets) = watch::channel(UnavailableProtocols::new());
    let usable = interfaces::usable(&mut tasks, links.clone(), sockets, shutdown.clone());
    let (views, view) = watch::channel(None);
    let (findings, current_findings) = watch::channel(Vec::new());
    let view_builder = view_task::run_view_builder(
        caches.clone(),
        args.view(),
        snapshot,
        usable.clone(),
        ViewOutputs { views, findings },
        changed,
        shutdown.clone(),
    );
    tasks.spawn("view", view_builder);

    tasks.spawn("memory", memory::trim_after_changes(view.clone(), shutdown.clone()));

    let keys = keys::start(&mut tasks, &args.key_dirs, shutdown.clone());
    let (published, publications) = watch::channel(Published::default());
    let driver = Driver {
        ownership: args.ownership(seed()),
        beacons: args.beacon_address(),
        keys,
        views: view.clone(),
        links,
        published,
        unavailable,
        metrics: metrics.clone(),
        heartbeat,
        shutdown: shutdown.clone(),
    };
    tasks.spawn("driver", driver.run().map_err(Chain));

    let snapshot_writer = snapshot::run_writer(
        args.state_dir.clone(),
        caches.clone(),
        publications.clone(),
        view.clone(),
        shutdown.clone(),
    );
    tasks.spawn("snapshot", snapshot_writer);

    let pod = args.pod_name.clone();
    let events = Events::start(&mut tasks, client.clone(), COMPONENT, pod, shutdown.clone());
    let status_settings = status::StatusSettings {
        namespace: args.namespace.clone(),
        beacon_port: args.beacon_address().port(),
        metrics,
    };
    let status = status::StatusWriter::new(&client, &me, caches, events, status_settings);
    let status = status.run(publications, usable, other_addresses, current_findings, shutdown.clone());
    tasks.spawn("status", status);

    tasks.spawn("readiness", open_with_first_view(first_view, view, shutdown.clone()));
    Ok(tasks.run(shutdown, GRACE).await?)
}

/// Opens the readiness gate when there is a view.
async fn open_with_first_view(
    gate: Gate,
    mut view: watch::Receiver<Option<Arc<View>>>,
    shutdown: CancellationToken,
) -> Result<(), Infallible> {
    if let Some(Ok(_)) = shutdown.run_until_cancelled(view.wait_for(Option::is_some)).await {
        gate.open();
        tracing::info!("all caches are synchronised");
    }
    shutdown.cancelled().await;
    Ok(())
}

/// A seed that differs with each start: the standard library seeds its hasher from the system.
fn seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    RandomState::new().build_hasher().finish().max(1)
}
