//! The client of the Kubernetes API.

use std::future::Future;
use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt as _;
use kube::client::retry::RetryPolicy;
use kube::{Client, Config};
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

/// Bound of one ordinary call, retries included. Shorter than what is left of a Lease when its holder stops
/// writing (see [`crate::lease`]), so that no write of a former leader is under way when the next one begins.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Bound of the first connection attempt of a call; an API server that is away is noticed after this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// A connection whose other end does not answer is asked after this time, so often, and then given up: one to a machine
/// that lost power or is cut off ends after 30 s, as client-go's does after 45 s. Without that, a watch at rest hears of
/// it only when it should have ended by itself, after five minutes.
const SILENT: Duration = Duration::from_secs(15);
const ASK_EVERY: Duration = Duration::from_secs(5);
const ASKED: u32 = 3;

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
    if config.proxy_url.is_some() {
        // The connection is to the proxy: what is behind it, only the proxy can tell.
        return Ok(Client::try_from(config)?);
    }
    Ok(over(connector(), config)?)
}

/// TCP that notices when its other end is gone.
fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_keepalive(Some(SILENT));
    connector.set_keepalive_interval(Some(ASK_EVERY));
    connector.set_keepalive_retries(Some(ASKED));
    connector.set_tcp_user_timeout(Some(SILENT + ASK_EVERY * ASKED));
    connector
}

/// kube's own client over this TCP, which kube's builder does not take.
fn over(connector: HttpConnector, config: Config) -> Result<Client, kube::Error> {
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(connector)?);
    connector.set_connect_timeout(config.connect_timeout);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then_some(RetryLayer::new(RetryPolicy::server_retry())))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build(connector));
    Ok(Client::new(service, config.default_namespace))
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
