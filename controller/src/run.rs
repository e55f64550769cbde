//! `lbstack controller`: arguments, and the tasks of the process.

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

use crate::allocator_task::{AllocatorTask, Context};
use crate::api::COMPONENT;
use crate::metrics::Metrics;
use crate::watches::Watches;

/// How long tasks have to end after SIGTERM: pending writes end, each of which has a timeout; then the Lease
/// is released.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(8);

/// Arguments of `lbstack controller`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The arguments of every process.
    #[command(flatten)]
    pub common: runtime::args::Common,

    /// Namespace of the configuration and of the Lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = names::DEFAULT_NAMESPACE)]
    pub namespace: String,

    /// Serve the Services of this class. Empty: Services without a class.
    #[arg(long, default_value = "")]
    pub load_balancer_class: String,

    /// Name of this replica, unique among the replicas. The holder of the Lease has a random suffix in
    /// addition.
    #[arg(long, env = "POD_NAME", hide_env_values = true)]
    pub identity: Option<String>,

    /// How long the other replicas wait for a leader that does not renew its Lease before they take over, in
    /// milliseconds. The leader renews at two fifteenths of this and stops writing at two thirds.
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(500..=300_000))]
    pub lease_duration_ms: u64,

    /// How often the warning event of a waiting Service is repeated, in seconds. The API deletes events after
    /// an hour by default.
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

/// Runs the controller until the process receives a signal to stop.
///
/// # Errors
///
/// The arguments are invalid, there is no client for the API, or a task ended unexpectedly.
pub async fn run(args: Args) -> anyhow::Result<()> {
    telemetry::init(&args.common)?;
    let shutdown = shutdown::token().context("cannot install signal handlers")?;
    let client = client::connect().await?;
    let mut tasks = Tasks::new();
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    tasks.watches().register(&mut registry);
    let readiness = admin::Readiness::new();
    let ready = readiness
        .gate("the first lists of Services, pools and namespaces; as leader, to restore current addresses");
    let events =
        Events::start(&mut tasks, client.clone(), COMPONENT, args.identity.clone(), shutdown.clone());
    let watches = Watches::start(&mut tasks, &client, &args.namespace, &shutdown);
    let lease = args.lease();
    let remaining = lease.duration.saturating_sub(lease.renew_deadline);
    let write_timeout = remaining.mul_f32(0.9).min(client::CALL_TIMEOUT);
    let synced = watches.clone();
    let heartbeat = Heartbeat::new("addresses", lease.duration);
    readiness.supervise(heartbeat.clone());
    let candidate = Candidate::new(async move { synced.synced().await }, heartbeat.clone());
    // The Lease is kept until no write is pending: a successor must not begin before.
    let writes_finished = CancellationToken::new();
    let leadership = Leadership::campaign(&mut tasks, &client, lease, candidate, writes_finished.clone());
    let (class, repeat_interval) = (args.load_balancer_class, Duration::from_secs(args.remind_every_s));
    tasks.spawn("admin", admin::serve(args.common.admin_address, registry, readiness, shutdown.clone()));
    let context = Context {
        client,
        class,
        watches,
        leadership,
        events,
        metrics,
        ready,
        write_timeout,
        repeat_interval,
        heartbeat,
        history: Mutex::default(),
    };
    let stop = shutdown.clone();
    tasks.spawn("addresses", async move {
        let _finished = writes_finished.drop_guard();
        AllocatorTask::new(context).run(stop).await
    });
    tasks.run(shutdown, SHUTDOWN_GRACE).await.map_err(Into::into)
}
