//! Logging.
//!
//! Lines are written by a separate thread. Logging never blocks on the reader of standard error, which may be
//! unavailable (a container runtime that restarts): lines that do not fit into the queue are dropped and
//! counted.

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

/// Capacity of the queue; lines beyond it are dropped.
const QUEUE_CAPACITY: usize = 8_192;

/// An invalid argument for logging.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The value is neither a level nor a filter.
    #[error(
        "--log-level {value:?} is neither a level (error, warn, info, debug, trace) nor a tracing filter: \
         {source}"
    )]
    Level {
        /// The value of the argument.
        value: String,
        /// The cause.
        source: ParseError,
    },
}

/// The guard that flushes the writer on drop, and the number of lines that it dropped.
static WRITER: Mutex<Option<(WorkerGuard, ErrorCounter)>> = Mutex::new(None);

/// Starts logging to standard error. A second call changes nothing.
///
/// # Errors
///
/// `--log-level` is not a valid filter.
pub fn init(args: &Common) -> Result<(), Error> {
    let filter = EnvFilter::builder()
        .parse(&args.log_level)
        .map_err(|source| Error::Level { value: args.log_level.clone(), source })?;
    let (writer, guard) = non_blocking(std::io::stderr());
    let dropped = writer.error_counter();
    // Only the first of several calls in one process (tests) takes effect.
    if Subscriber::default().with(layer(args.log_format, filter, writer)).try_init().is_ok() {
        *WRITER.lock().unwrap_or_else(PoisonError::into_inner) = Some((guard, dropped));
    }
    Ok(())
}

/// Writes the queued lines, for a second at most. To be called once, at the end of the process.
pub fn flush() {
    drop(WRITER.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// Adds the metric of dropped lines to `registry`.
pub(crate) fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(DroppedLines));
}

fn non_blocking(writer: impl std::io::Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUE_CAPACITY)
        .thread_name("log")
        .finish(writer)
}

fn layer(format: LogFormat, filter: EnvFilter, writer: NonBlocking) -> impl Layer<Subscriber> + Send + Sync {
    let lines = fmt::layer().with_writer(writer);
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.boxed(),
    };
    lines.with_filter(filter.and(filter_fn(is_safe_target)))
}

/// Excludes kube, which logs complete responses of the API server, Secrets and passwords included. Its errors
/// are returned to our code, which logs them without such values.
fn is_safe_target(metadata: &Metadata<'_>) -> bool {
    !["kube_client", "kube_runtime", "kube_core"].iter().any(|library| metadata.target().starts_with(library))
}

#[derive(Debug)]
struct DroppedLines;

impl Collector for DroppedLines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = writer.as_ref().map_or(0, |(_, dropped)| dropped.dropped_lines());
        let counter = ConstCounter::new(u64::try_from(lines).unwrap_or(u64::MAX));
        let help = "Log lines that were dropped because the queue was full";
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

    /// Blocks until its channel is closed.
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
    fn logging_does_not_block_on_the_reader_of_the_log() {
        let (open, gate) = mpsc::channel();
        let (writer, guard) = non_blocking(Stuck(gate));
        let dropped = writer.error_counter();
        let filter = EnvFilter::new("info");
        let subscriber = Subscriber::default().with(layer(LogFormat::Json, filter, writer));
        // This must return although the writer accepts no line before `open` is dropped.
        tracing::subscriber::with_default(subscriber, || {
            for line in 0..2 * QUEUE_CAPACITY {
                tracing::info!(line, "logged");
            }
        });
        assert!(dropped.dropped_lines() >= QUEUE_CAPACITY - 1, "{} dropped", dropped.dropped_lines());
        drop(open);
        drop(guard);
    }

    /// A shared buffer.
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
    fn no_response_of_the_api_server_is_logged_whatever_the_filter() {
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
