//! The tasks of a process. When one ends, the process ends with its result.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::watch_status::WatchStatus;

/// Why a process ended although it was not asked to stop, or did not stop in time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A task returned an error.
    #[error("task {task}: {error}")]
    Failed {
        /// The task's name.
        task: &'static str,
        /// The error's text.
        error: String,
    },
    /// A task returned although the process was not asked to stop.
    #[error("task {task} ended unexpectedly")]
    Ended {
        /// The task's name.
        task: &'static str,
    },
    /// A task panicked.
    #[error("a task panicked: {0}")]
    Panicked(tokio::task::JoinError),
    /// Tasks were still running after the grace period.
    #[error("stopped after {} s with {left} tasks still running", .grace.as_secs())]
    Overdue {
        /// How long they had.
        grace: Duration,
        /// How many were left; they are aborted.
        left: usize,
    },
}

/// The tasks of a process.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<(&'static str, Result<(), String>)>,
    watches: WatchStatus,
}

impl Tasks {
    /// Without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// The state of the watches among the tasks.
    pub fn watches(&self) -> &WatchStatus {
        &self.watches
    }

    /// Spawns `future` under `name`. It must return soon after the process's token is cancelled.
    pub fn spawn<E: Display>(
        &mut self,
        name: &'static str,
        future: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.set.spawn(async move { (name, future.await.map_err(|error| error.to_string())) });
    }

    /// Waits until `shutdown` is cancelled or a task ends, then cancels `shutdown` and waits up to `grace`
    /// for the others.
    ///
    /// # Errors
    ///
    /// A task ended before `shutdown` was cancelled, failed, panicked, or was still running after `grace`.
    pub async fn run(mut self, shutdown: CancellationToken, grace: Duration) -> Result<(), Error> {
        let first = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            Some(ended) = self.set.join_next() => match ended {
                Ok((task, Ok(()))) if shutdown.is_cancelled() => { tracing::debug!(task, "ended"); Ok(()) }
                Ok((task, Ok(()))) => Err(Error::Ended { task }),
                Ok((task, Err(error))) => Err(Error::Failed { task, error }),
                Err(error) => Err(Error::Panicked(error)),
            },
        };
        shutdown.cancel();
        let rest = async {
            let mut outcome = Ok(());
            while let Some(ended) = self.set.join_next().await {
                match ended {
                    Ok((_, Ok(()))) => {}
                    Ok((task, Err(error))) => outcome = Err(Error::Failed { task, error }),
                    Err(error) => outcome = Err(Error::Panicked(error)),
                }
            }
            outcome
        };
        let rest = tokio::time::timeout(grace, rest).await;
        let rest = rest.unwrap_or_else(|_| Err(Error::Overdue { grace, left: self.set.len() }));
        first.and(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn the_first_task_that_fails_ends_the_process_and_stops_the_others() {
        let (mut tasks, token) = (Tasks::new(), CancellationToken::new());
        let waits = token.clone();
        tasks.spawn("waits", async move {
            waits.cancelled().await;
            Ok::<(), String>(())
        });
        tasks.spawn("fails", async { Err("no luck") });
        let error = tasks.run(token, GRACE).await.unwrap_err();
        assert_eq!(error.to_string(), "task fails: no luck");
    }

    #[tokio::test]
    async fn a_task_that_returns_before_shutdown_is_a_failure() {
        let mut tasks = Tasks::new();
        tasks.spawn("returns", async { Ok::<(), String>(()) });
        let error = tasks.run(CancellationToken::new(), GRACE).await.unwrap_err();
        assert!(matches!(error, Error::Ended { task: "returns" }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_stop_within_the_grace_period_is_reported() {
        let (mut tasks, token) = (Tasks::new(), CancellationToken::new());
        tasks.spawn("stuck", std::future::pending::<Result<(), String>>());
        token.cancel();
        assert!(matches!(tasks.run(token, GRACE).await, Err(Error::Overdue { left: 1, .. })));
    }
}
