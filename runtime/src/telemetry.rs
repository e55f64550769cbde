//! Logs.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::args::{Common, LogFormat};

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

/// Starts logging to standard error. A second call changes nothing.
///
/// # Errors
///
/// `--log-level` is no filter.
pub fn init(args: &Common) -> Result<(), Error> {
    let filter = EnvFilter::builder()
        .parse(&args.log_level)
        .map_err(|source| Error::Level { value: args.log_level.clone(), source })?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Only the first of several in one process (tests) takes effect, which is what is wanted.
    let _ = match args.log_format {
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
        LogFormat::Text => logs.try_init(),
    };
    Ok(())
}
