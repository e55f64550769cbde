//! What can go wrong while a testbed is built, and what to do about it.

use std::io;
use std::time::Duration;

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the testbed could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine lacks something; `remedy` says how to get it.
    #[error("{problem}\n  what to do: {remedy}")]
    Prerequisite {
        /// What is missing or in the way.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// The options contradict themselves or each other.
    #[error("{0}")]
    Options(String),
    /// A system call or file operation failed.
    #[error("{attempted}")]
    Io {
        /// What was attempted, on what.
        attempted: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program ended without success.
    #[error("`{command}` {status}\n{output}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// What it printed, standard output and error.
        output: String,
    },
    /// Something awaited did not happen in time.
    #[error("{awaited}: not after {}.{:01} s\n{detail}", after.as_secs(), after.subsec_millis() / 100)]
    Timeout {
        /// What was awaited.
        awaited: String,
        /// How long.
        after: Duration,
        /// What was seen instead.
        detail: String,
    },
    /// A testbed could not be built; nothing is left of it.
    #[error("the testbed did not come up: {cause}\n{hint}")]
    Up {
        /// Why.
        cause: Box<Error>,
        /// Where to look.
        hint: String,
    },
    /// A certificate could not be made.
    #[error("making a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A file or an answer was not what it should be.
    #[error("{attempted}")]
    Json {
        /// What was read or written.
        attempted: String,
        /// Where it went wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// Says what was attempted when an operation fails.
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
