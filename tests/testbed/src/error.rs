//! Errors of the testbed.

use std::io;
use std::time::Duration;

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation of the testbed failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A prerequisite is missing; `hint` says how to install it.
    #[error("{problem}\n  hint: {hint}")]
    Prerequisite {
        /// What is missing, or in the way.
        problem: String,
        /// How to fix it.
        hint: String,
    },
    /// The options contradict themselves or each other.
    #[error("{0}")]
    Options(String),
    /// A system call or file operation failed.
    #[error("{attempted}")]
    Io {
        /// What was attempted, on what.
        attempted: String,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A program ended without success.
    #[error("`{command}` {status}\n{output}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// Its standard output and standard error.
        output: String,
    },
    /// A condition was not met in time.
    #[error("{awaited}: not after {}.{:01} s\n{detail}", after.as_secs(), after.subsec_millis() / 100)]
    Timeout {
        /// What was awaited.
        awaited: String,
        /// The timeout.
        after: Duration,
        /// The last observed state.
        detail: String,
    },
    /// A testbed could not be created; it was removed again.
    #[error("the testbed did not come up: {cause}\n{hint}")]
    Up {
        /// The cause.
        cause: Box<Error>,
        /// Where to look.
        hint: String,
    },
    /// A certificate could not be made.
    #[error("making a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A file or a response is not valid JSON of the expected type.
    #[error("{attempted}")]
    Json {
        /// What was read or written.
        attempted: String,
        /// Where it went wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// Adds what was attempted to the error of a failed operation.
pub(crate) trait Attempt<T> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Attempt<T> for io::Result<T> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { attempted: what(), source })
    }
}

impl<T> Attempt<T> for nix::Result<T> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| Error::Io { attempted: what(), source: errno.into() })
    }
}

impl<T> Attempt<T> for serde_json::Result<T> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Json { attempted: what(), source })
    }
}
