//! The client of the Kubernetes API.

use std::future::Future;
use std::time::Duration;

use kube::{Client, Config};

/// Bound of one ordinary call, retries included. Shorter than what is left of a Lease when its holder stops
/// writing (see [`crate::lease`]), so that no write of a former leader is under way when the next one begins.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Bound of the first connection attempt of a call; an API server that is away is noticed after this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a service account.
    #[error("no way to the Kubernetes API: set KUBECONFIG, or run in a pod with a service account: {0}")]
    Config(#[from] kube::config::InferConfigError),
    /// The configuration cannot be used.
    #[error("the configuration for the Kubernetes API cannot be used: {0}")]
    Client(#[from] kube::Error),
}

/// A client from KUBECONFIG, the user's kubeconfig or the pod's service account. No call is made.
///
/// # Errors
///
/// There is no configuration, or it cannot be used.
pub async fn connect() -> Result<Client, ConnectError> {
    let mut config = Config::infer().await?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Ok(Client::try_from(config)?)
}

/// How a bounded call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server, or the way to it, answered with an error.
    #[error(transparent)]
    Kube(#[from] kube::Error),
    /// No answer within [`CALL_TIMEOUT`]. The server may have done what was asked.
    #[error("the API server did not answer within {} s", CALL_TIMEOUT.as_secs())]
    Timeout,
}

impl CallError {
    /// The HTTP status code of the server's answer, if it gave one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Kube(kube::Error::Api(status)) => Some(status.code),
            Self::Kube(_) | Self::Timeout => None,
        }
    }

    /// 404: the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// 409: the object is newer than what was read, or exists already.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }
}

/// Awaits `call` for at most [`CALL_TIMEOUT`]. kube's ordinary calls have no bound of their own.
///
/// # Errors
///
/// The call's own error, or [`CallError::Timeout`].
pub async fn bounded<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(result) => result.map_err(CallError::Kube),
        Err(_) => Err(CallError::Timeout),
    }
}
