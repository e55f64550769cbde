//! The operator: renders the one `LoadBalancerStack` into the objects of the stack, applies them, and repairs
//! drift.
//!
//! Data flows one way. Watches ([`watch`]) cache the stack and all of its objects, and notify the one worker
//! task ([`run`]). While this process is the leader, the worker reconciles ([`reconcile`]): dereference,
//! validate, render, apply, prune, update the status. Decisions are pure functions in the crate `render`;
//! this crate talks to the API server. When nothing changes, the only calls are the renewals of the Lease.

mod api;
#[cfg(test)]
mod fake_api;
mod metrics;
mod object_state;
mod other_installation;
mod reconcile;
mod rewrite_limit;
mod run;
mod stack;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use crds::names::{OPERATOR, OPERATOR_LEASE, OPERATOR_LEASE_NAMESPACE};
use prometheus_client::registry::Registry;
use runtime::admin::{self, Readiness};
use runtime::events::Events;
use runtime::heartbeat::Heartbeat;
use runtime::lease::{self, Candidate, ElectionSettings, Leadership};
use runtime::tasks::Tasks;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::metrics::Metrics;
use crate::reconcile::Reconciler;
use crate::watch::Caches;

/// What is left of a pod's termination grace period after the teardown of a stack ([`run`]).
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);
/// Limit for one reconciliation, given that every call is answered or times out: it waits up to 15 s for
/// initial lists, and applying the largest stack takes a minute. A worker that exceeds it loses the Lease and
/// the process is restarted.
const RECONCILE_LIMIT: Duration = Duration::from_secs(300);

/// Arguments of `lbstack operator`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    common: runtime::args::Common,

    /// The operator's own namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = render::install::NAMESPACE)]
    namespace: String,

    /// The image of controller and speaker where the stack names none.
    #[arg(long, env = render::install::RELATED_IMAGE)]
    image: Option<String>,

    /// The operator's own pod, for events and for the Lease.
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,
}

/// Runs the operator until a signal requests shutdown.
///
/// # Errors
///
/// The process cannot start, or one of its tasks failed.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let Args { common, namespace, image, pod_name } = args;
    runtime::telemetry::init(&common)?;
    let client = runtime::client::connect().await?;
    let shutdown_requested = runtime::shutdown::token().context("cannot listen for signals")?;
    // Cancelled only after the worker has stopped, so that a teardown in progress can be finished while this
    // process still leads.
    let shutdown = CancellationToken::new();
    let mut registry = Registry::default();
    let metrics = Metrics::register(registry.sub_registry_with_prefix("lbstack_operator"));
    let mut tasks = Tasks::new();

    let changed = Arc::new(Notify::new());
    let caches = Caches::start(&mut tasks, &client, &shutdown, &changed);
    tasks.watches().register(&mut registry);
    let lease = lease(&namespace, pod_name.as_deref());
    let heartbeat = Heartbeat::new("reconcile", RECONCILE_LIMIT);
    // A standby replica is ready as well: it has nothing to wait for.
    let readiness = Readiness::new();
    readiness.supervise(heartbeat.clone());
    let candidate = Candidate::new(caches.wait_synced(), heartbeat.clone());
    let leadership = Leadership::campaign(&mut tasks, &client, lease, candidate, shutdown.clone());
    let events = Events::start(&mut tasks, client.clone(), OPERATOR, pod_name, shutdown.clone());
    let report = other_installation::report(client.clone(), leadership.clone(), events.clone(), namespace);
    let stop = shutdown.clone();
    tasks.spawn("other-installation", async move {
        stop.run_until_cancelled(report).await;
        Ok::<(), std::convert::Infallible>(())
    });
    let api = Api::new(client, leadership.clone());
    let reconciler = Reconciler::new(api, caches, events, metrics, image);
    tasks.spawn(
        "reconcile",
        run::run(reconciler, leadership, heartbeat, changed, shutdown_requested, shutdown.clone()),
    );
    tasks.spawn("admin", admin::serve(common.admin_address, registry, readiness, shutdown.clone()));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "started");
    Ok(tasks.run(shutdown, SHUTDOWN_GRACE).await?)
}

/// The settings of the cluster-wide Lease; the holder identity contains the operator's namespace.
fn lease(namespace: &str, pod_name: Option<&str>) -> ElectionSettings {
    let identity = lease::unique_identity(pod_name.unwrap_or(OPERATOR));
    ElectionSettings::new(
        OPERATOR_LEASE_NAMESPACE,
        OPERATOR_LEASE,
        other_installation::identity(namespace, &identity),
    )
}
