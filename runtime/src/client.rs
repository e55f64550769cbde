//! The client of the Kubernetes API.

pub(crate) mod limits;
#[cfg(test)]
mod tests;
mod token;

use std::future::Future;
use std::time::Duration;

use axum::http::Uri;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt as _;
use kube::config::{InferConfigError, KubeconfigError};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

use token::TokenFile;

/// Timeout of one call other than a watch. Shorter than the time from the renew deadline of a Lease to its
/// expiry (see [`crate::lease`]), so that no write of a former leader is in flight when the next one starts.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Timeout of a connection attempt; an API server that is unreachable is detected after this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// TCP keepalive: an idle connection is probed after this time, and closed after three unanswered probes. A
/// connection to a machine that lost power or is cut off ends after 11 s, and a machine that is back resets
/// it within two. Without keepalive, an idle watch notices only after five minutes, when it should have ended
/// by itself. For connections through a proxy, see [`limits::THROUGH_PROXY`].
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_PROBES: u32 = 3;

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a service account.
    #[error(
        "no configuration for the Kubernetes API: set KUBECONFIG, or run in a pod with a service account: {0}"
    )]
    Config(InferConfigError),
    /// A kubeconfig that cannot be parsed. The error quotes nothing of it, since it contains credentials.
    #[error("the kubeconfig (KUBECONFIG, or ~/.kube/config) cannot be parsed: it is not a valid kubeconfig")]
    Kubeconfig,
    /// The configuration cannot be used.
    #[error("the configuration for the Kubernetes API cannot be used: {0}")]
    Client(#[from] kube::Error),
    /// The token of the service account cannot be read.
    #[error("cannot read the token for the Kubernetes API in {path}: {source}")]
    Token {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A proxy that cannot be used. The error does not quote its address, which may contain a password.
    #[error(
        "the proxy for the Kubernetes API (HTTPS_PROXY, or proxy-url in the kubeconfig) cannot be used: its \
         scheme is {scheme:?}, and http and https are supported; set NO_PROXY to the API server's host to connect \
         without it"
    )]
    Proxy {
        /// The scheme of its URL.
        scheme: String,
    },
}

impl ConnectError {
    fn from_infer(error: InferConfigError) -> Self {
        let source = std::error::Error::source(&error);
        let kubeconfig = source.and_then(|source| source.downcast_ref::<KubeconfigError>());
        if matches!(kubeconfig, Some(KubeconfigError::Parse(_))) {
            Self::Kubeconfig
        } else {
            Self::Config(error)
        }
    }
}

/// A client from KUBECONFIG, the user's kubeconfig or the pod's service account. No request is sent yet.
///
/// The client does not retry: the caller decides whether and when to. Every call except a watch has a
/// timeout.
///
/// # Errors
///
/// There is no configuration, or it is not usable.
pub async fn connect() -> Result<Client, ConnectError> {
    let mut config = Config::infer().await.map_err(ConnectError::from_infer)?;
    apply_proxy_rules(&mut config, &env_var("HTTPS_PROXY"), &env_var("NO_PROXY"))?;
    build(config)
}

/// The environment variable `name`, in upper or lower case.
fn env_var(name: &str) -> String {
    let mut values =
        [name.to_owned(), name.to_lowercase()].into_iter().filter_map(|name| std::env::var(name).ok());
    values.find(|value| !value.is_empty()).unwrap_or_default()
}

/// Honours NO_PROXY for a proxy of the environment, which kube compares with the proxy's own address instead
/// of the API server's; and rejects schemes that are not supported.
fn apply_proxy_rules(config: &mut Config, https_proxy: &str, no_proxy: &str) -> Result<(), ConnectError> {
    let Some(proxy) = &config.proxy_url else { return Ok(()) };
    let from_environment = https_proxy.parse().is_ok_and(|uri: Uri| uri == *proxy);
    let is_exempt = || {
        let proxies = Matcher::builder().all("http://proxy").no(no_proxy).build();
        no_proxy.trim() == "*" || proxies.intercept(&config.cluster_url).is_none()
    };
    if from_environment && is_exempt() {
        config.proxy_url = None;
        return Ok(());
    }
    match proxy.scheme_str() {
        Some("http" | "https") => Ok(()),
        // `host:port`, which curl and Go accept.
        None if proxy.authority().is_some() => {
            config.proxy_url = format!("http://{proxy}").parse().ok();
            Ok(())
        }
        scheme => Err(ConnectError::Proxy { scheme: scheme.unwrap_or_default().to_owned() }),
    }
}

/// Makes the client for `config`.
fn build(mut config: Config) -> Result<Client, ConnectError> {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // kube's retries back off for minutes without a log line, which would delay noticing that the server is
    // back.
    config.default_retry = false;
    let token = TokenFile::take_from(&mut config.auth_info)?;
    let namespace = config.default_namespace.clone();
    // TCP keepalive reaches only as far as the proxy, so watches are limited in time instead.
    let (client, watches) = if config.proxy_url.is_some() {
        (Client::try_from(config)?, Some(limits::THROUGH_PROXY))
    } else {
        (build_with(connector(), config)?, None)
    };
    Ok(limits::with_limits(client, token, namespace, watches))
}

/// A TCP connector with keepalive, which detects a peer that is gone.
fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_keepalive(Some(KEEPALIVE_IDLE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    connector.set_tcp_user_timeout(Some(KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_PROBES));
    connector
}

/// kube's client over this connector, which kube's own builder does not accept.
fn build_with(connector: HttpConnector, config: Config) -> Result<Client, kube::Error> {
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(connector)?);
    connector.set_connect_timeout(config.connect_timeout);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build(connector));
    Ok(Client::new(service, config.default_namespace))
}

/// How a call with a timeout failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server responded with an error, or could not be reached.
    #[error(transparent)]
    Kube(#[from] kube::Error),
    /// No response within [`CALL_TIMEOUT`]. The server may have processed the request.
    #[error("the API server did not answer within {} s", CALL_TIMEOUT.as_secs())]
    Timeout,
}

impl CallError {
    /// The HTTP status code of the response, if there was one.
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

    /// 429, 503, 504: the server, or a proxy in front of it, cannot respond at the moment.
    pub fn is_temporary(&self) -> bool {
        matches!(self.code(), Some(429 | 503 | 504))
    }

    /// The server responded: requests for other objects may succeed.
    pub fn concerns_one_object(&self) -> bool {
        self.code().is_some() && !self.is_temporary()
    }

    /// 409: the object was modified since it was read, or exists already.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }
}

/// Awaits `call` for at most [`CALL_TIMEOUT`]. kube's calls have no timeout of their own.
///
/// # Errors
///
/// The call's own error, or [`CallError::Timeout`].
pub async fn with_timeout<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(result) => result.map_err(CallError::Kube),
        Err(_) => Err(CallError::Timeout),
    }
}
