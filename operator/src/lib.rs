//! The operator: from the one `LoadBalancerStack` to everything that it stands for, kept in repair.
//!
//! Data flows one way. Watches ([`watch`]) mirror the stack and every object of it, and wake the one task that
//! works ([`work`]). While this process leads, that task reconciles ([`reconcile`]): dereference, validate,
//! render, apply, prune, status. Everything that judges is pure and lives in the crate `render`; here is what
//! talks to the API. At rest there is no call but the renewal of the Lease.

mod api;
mod apply;
mod definitions;
mod dereference;
#[cfg(test)]
mod fake;
mod guest;
mod memory;
mod metrics;
mod pacing;
mod prune;
mod reconcile;
mod release;
mod rivals;
mod stack;
mod status;
mod teardown;
#[cfg(test)]
mod tests;
mod watch;
mod work;

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

/// What is left of the grace period of a pod once the deletion of a stack was given its share.
const GRACE: Duration = Duration::from_secs(3);
/// No reconciliation takes longer while calls are answered or end by their limit: one waits up to 15 s for first lists, and the
/// objects of the largest stack take a minute. After that the process gives the Lease up and is started again.
const LONGEST_RECONCILIATION: Duration = Duration::from_secs(300);

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

/// Runs the operator until it is told to stop.
///
/// # Errors
///
/// The process cannot start, or one of its tasks failed.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let Args { common, namespace, image, pod_name } = args;
    runtime::telemetry::init(&common)?;
    let client = runtime::client::connect().await?;
    let asked_to_stop = runtime::shutdown::token().context("cannot listen for signals")?;
    // Stopped later than the work, so that a deletion under way can be finished while this process still leads.
    let shutdown = CancellationToken::new();
    let mut registry = Registry::default();
    let metrics = Metrics::register(registry.sub_registry_with_prefix("lbstack_operator"));
    let mut tasks = Tasks::new();

    let changed = Arc::new(Notify::new());
    let caches = Caches::start(&mut tasks, &client, &shutdown, &changed);
    tasks.watches().register(&mut registry);
    let lease = lease(&namespace, pod_name.as_deref());
    let heartbeat = Heartbeat::new("work", LONGEST_RECONCILIATION);
    // One that stands by is ready too: there is nothing that it would have to wait for.
    let readiness = Readiness::new();
    readiness.supervise(heartbeat.clone());
    let candidate = Candidate::new(caches.ready(), heartbeat.clone());
    let leadership = Leadership::campaign(&mut tasks, &client, lease, candidate, shutdown.clone());
    let events = Events::start(&mut tasks, client.clone(), OPERATOR, pod_name, shutdown.clone());
    let rivals = rivals::report(client.clone(), leadership.clone(), events.clone(), namespace);
    let stop = shutdown.clone();
    tasks.spawn("rivals", async move {
        stop.run_until_cancelled(rivals).await;
        Ok::<(), std::convert::Infallible>(())
    });
    let api = Api::new(client, leadership.clone());
    let reconciler = Reconciler::new(api, caches, events, metrics, image);
    tasks.spawn(
        "work",
        work::run(reconciler, leadership, heartbeat, changed, asked_to_stop, shutdown.clone()),
    );
    tasks.spawn("admin", admin::serve(common.admin_address, registry, readiness, shutdown.clone()));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "started");
    Ok(tasks.run(shutdown, GRACE).await?)
}

/// One Lease for the whole cluster, whose holder says where it runs.
fn lease(namespace: &str, pod_name: Option<&str>) -> ElectionSettings {
    let identity = lease::unique_identity(pod_name.unwrap_or(OPERATOR));
    ElectionSettings::new(OPERATOR_LEASE_NAMESPACE, OPERATOR_LEASE, rivals::identity(namespace, &identity))
}
