//! The controller: gives Services of type LoadBalancer their addresses.
//!
//! ```text
//!  watches ──► stores ──► dirty marks ──► owner ──► ipam::Allocator (pure)
//!                                           │
//!                                           ├──► Service status (bounded, concurrent, with resourceVersion)
//!                                           ├──► statuses of pools and of the configuration
//!                                           ├──► events, after the write that they tell of
//!                                           └──► metrics
//! ```
//!
//! One task owns the allocator. Every replica runs the watches; the one that holds the Lease waits until they have what
//! the API has by then, lists Services anew, adopts what they have, and only then assigns. A replica campaigns once it is
//! able to do that, and releases the Lease if it makes no progress.

mod config_stores;
mod contention;
mod dirty;
mod figures;
#[cfg(test)]
mod fixtures;
mod list;
mod metrics;
mod other_writer;
mod owner;
pub mod plan;
mod service;
mod statuses;
mod watches;

use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context as _;
use crds::names;
use prometheus_client::registry::Registry;
use runtime::events::Events;
use runtime::heartbeat::Heartbeat;
use runtime::lease::{self, Candidate, ElectionSettings, Leadership};
use runtime::tasks::Tasks;
use runtime::{admin, client, shutdown, telemetry};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::owner::Owner;
use crate::watches::Watches;

/// The name under which the controller writes and reports.
pub(crate) const COMPONENT: &str = "lbstack-controller";

/// How long tasks have to end after SIGTERM: the writes under way end, and each is bounded; then the Lease is released.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(8);

/// Arguments of `lbstack controller`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// What every process takes.
    #[command(flatten)]
    pub common: runtime::args::Common,

    /// Namespace of the configuration and of the Lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = names::DEFAULT_NAMESPACE)]
    pub namespace: String,

    /// Serve the Services of this class. Empty: Services without a class.
    #[arg(long, default_value = "")]
    pub load_balancer_class: String,

    /// Who this replica is; unique among the replicas. As the holder of the Lease it has a random suffix besides.
    #[arg(long, env = "POD_NAME", hide_env_values = true)]
    pub identity: Option<String>,

    /// How long the other replicas wait before they take over from a leader that is silent, in milliseconds. The
    /// leader renews at two fifteenths of this and stops writing at two thirds.
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(500..=300_000))]
    pub lease_duration_ms: u64,

    /// How often a Service that waits is told once more why, in seconds. The API forgets events after an hour by default.
    #[arg(long, default_value_t = 1_800, value_parser = clap::value_parser!(u64).range(1..))]
    pub remind_every_s: u64,
}

impl Args {
    fn lease(&self) -> ElectionSettings {
        let identity = lease::unique_identity(self.identity.as_deref().unwrap_or(COMPONENT));
        let duration = Duration::from_millis(self.lease_duration_ms);
        ElectionSettings {
            duration,
            renew_deadline: duration * 2 / 3,
            retry: duration * 2 / 15,
            ..ElectionSettings::new(&self.namespace, names::CONTROLLER_LEASE, identity)
        }
    }
}

/// Runs the controller until it is told to stop.
///
/// # Errors
///
/// The arguments cannot be used, there is no way to the API, or a task ended that should not.
pub async fn run(args: Args) -> anyhow::Result<()> {
    telemetry::init(&args.common)?;
    let shutdown = shutdown::token().context("cannot listen to signals")?;
    let client = client::connect().await?;
    let mut tasks = Tasks::new();
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    tasks.watches().register(&mut registry);
    let readiness = admin::Readiness::new();
    let ready = readiness
        .gate("the first lists of Services, pools and namespaces, and for their adoption if it leads");
    let events =
        Events::start(&mut tasks, client.clone(), COMPONENT, args.identity.clone(), shutdown.clone());
    let watches = Watches::start(&mut tasks, &client, &args.namespace, &shutdown);
    let lease = args.lease();
    let left = lease.duration.saturating_sub(lease.renew_deadline);
    let write_bound = left.mul_f32(0.9).min(client::CALL_TIMEOUT);
    let listed = watches.clone();
    let heartbeat = Heartbeat::new("addresses", lease.duration);
    readiness.supervise(heartbeat.clone());
    let candidate = Candidate::new(async move { listed.ready().await }, heartbeat.clone());
    // The election goes on until no write is under way: a successor must not begin before.
    let written = CancellationToken::new();
    let leadership = Leadership::campaign(&mut tasks, &client, lease, candidate, written.clone());
    let (class, remind_every) = (args.load_balancer_class, Duration::from_secs(args.remind_every_s));
    tasks.spawn("admin", admin::serve(args.common.admin_address, registry, readiness, shutdown.clone()));
    let owner = Owner {
        client,
        class,
        watches,
        leadership,
        events,
        metrics,
        ready,
        write_bound,
        remind_every,
        heartbeat,
        judge: Mutex::default(),
    };
    let stop = shutdown.clone();
    tasks.spawn("addresses", async move {
        let _written = written.drop_guard();
        owner.run(stop).await
    });
    tasks.run(shutdown, SHUTDOWN_GRACE).await.map_err(Into::into)
}
