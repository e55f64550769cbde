//! Logs.
//!
//! Lines are written by a thread of their own. Who logs never waits for the reader of standard error, which may be away
//! (a container runtime that restarts): what does not fit into the queue is dropped and counted.

use std::sync::{Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Registry;
use tracing::Metadata;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{FilterExt as _, ParseError, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry as Subscriber, fmt};

use crate::args::{Common, LogFormat};

/// How many lines wait to be written; more are dropped.
const QUEUE: usize = 8_192;

/// What can be wrong with the arguments for logging.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The value is neither a level nor a filter.
    #[error(
        "--log-level {value:?} is neither a level (error, warn, info, debug, trace) nor a tracing filter: {source}"
    )]
    Level {
        /// What was given.
        value: String,
        /// Why it is none.
        source: ParseError,
    },
}

/// The writer of the process: what ends it, and how many lines it dropped.
static WRITER: Mutex<Option<(WorkerGuard, ErrorCounter)>> = Mutex::new(None);

/// Starts logging to standard error. A second call changes nothing.
///
/// # Errors
///
/// `--log-level` is no filter.
pub fn init(args: &Common) -> Result<(), Error> {
    let filter = EnvFilter::builder()
        .parse(&args.log_level)
        .map_err(|source| Error::Level { value: args.log_level.clone(), source })?;
    let (writer, guard) = non_blocking(std::io::stderr());
    let dropped = writer.error_counter();
    // Only the first of several in one process (tests) takes effect, which is what is wanted.
    if Subscriber::default().with(layer(args.log_format, filter, writer)).try_init().is_ok() {
        *WRITER.lock().unwrap_or_else(PoisonError::into_inner) = Some((guard, dropped));
    }
    Ok(())
}

/// Writes what waits to be written, for a second at most. To be called once, at the end of the process.
pub fn flush() {
    drop(WRITER.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// Adds how many lines were dropped to `registry`.
pub(crate) fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(Dropped));
}

fn non_blocking(writer: impl std::io::Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE).thread_name("log").finish(writer)
}

fn layer(format: LogFormat, filter: EnvFilter, writer: NonBlocking) -> impl Layer<Subscriber> + Send + Sync {
    let lines = fmt::layer().with_writer(writer);
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.boxed(),
    };
    lines.with_filter(filter.and(filter_fn(is_ours_to_log)))
}

/// kube logs whole answers of the API server, Secrets and passwords included, and errors that have parts of them. Its
/// errors come to us, who log what they say.
fn is_ours_to_log(metadata: &Metadata<'_>) -> bool {
    !["kube_client", "kube_runtime", "kube_core"].iter().any(|library| metadata.target().starts_with(library))
}

#[derive(Debug)]
struct Dropped;

impl Collector for Dropped {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = writer.as_ref().map_or(0, |(_, dropped)| dropped.dropped_lines());
        let counter = ConstCounter::new(u64::try_from(lines).unwrap_or(u64::MAX));
        let help = "Log lines that were dropped because nobody read them in time";
        let metric =
            encoder.encode_descriptor("lbstack_log_lines_dropped", help, None, counter.metric_type())?;
        counter.encode(metric)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc;

    use super::*;

    /// Takes nothing until it may.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_logs_does_not_wait_for_whoever_reads_the_log() {
        let (open, gate) = mpsc::channel();
        let (writer, guard) = non_blocking(Stuck(gate));
        let dropped = writer.error_counter();
        let filter = EnvFilter::new("info");
        let subscriber = Subscriber::default().with(layer(LogFormat::Json, filter, writer));
        // Returns at all: nothing takes a line before the end.
        tracing::subscriber::with_default(subscriber, || {
            for line in 0..2 * QUEUE {
                tracing::info!(line, "logged");
            }
        });
        assert!(dropped.dropped_lines() >= QUEUE - 1, "{} dropped", dropped.dropped_lines());
        drop(open);
        drop(guard);
    }

    /// Shares what is written.
    #[derive(Clone, Default)]
    struct Shared(std::sync::Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_answer_of_the_api_server_is_logged_whatever_the_filter() {
        let written = Shared::default();
        let (writer, guard) = non_blocking(written.clone());
        let filter = EnvFilter::new("trace,kube_client=trace,kube_client::client=trace,kube_runtime=trace");
        let subscriber = Subscriber::default().with(layer(LogFormat::Text, filter, writer));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "kube_client::client", "{{\"password\": \"s3cr3t\"}}");
            tracing::debug!(target: "kube_runtime::watcher", "s3cr3t");
            tracing::trace!("ours");
        });
        drop(guard);
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("ours") && !text.contains("s3cr3t"), "{text}");
    }
}
