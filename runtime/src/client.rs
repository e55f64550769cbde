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

/// Bound of one ordinary call. Shorter than what is left of a Lease when its holder stops writing (see
/// [`crate::lease`]), so that no write of a former leader is under way when the next one begins.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Bound of the first connection attempt of a call; an API server that is away is noticed after this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// A connection whose other end is silent is probed after this time, so often, and then given up: one to a machine that
/// lost power or is cut off ends after 11 s, and a machine that is back resets it within two. Without that, a watch at
/// rest hears of it only when it should have ended by itself, after five minutes. Through a proxy, see
/// [`limits::THROUGH_PROXY`].
const SILENT: Duration = Duration::from_secs(5);
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
const PROBES: u32 = 3;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a service account.
    #[error("no way to the Kubernetes API: set KUBECONFIG, or run in a pod with a service account: {0}")]
    Config(InferConfigError),
    /// A kubeconfig that cannot be parsed. It has credentials, and nothing of it is repeated.
    #[error(
        "the kubeconfig (KUBECONFIG, or ~/.kube/config) cannot be parsed: it is not valid YAML of a kubeconfig"
    )]
    Kubeconfig,
    /// The configuration cannot be used.
    #[error("the configuration for the Kubernetes API cannot be used: {0}")]
    Client(#[from] kube::Error),
    /// The token of the service account cannot be read.
    #[error("cannot read the token for the Kubernetes API in {path}: {source}")]
    Token {
        /// The file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A proxy is set that cannot be used. Its address may have a password, and is not repeated.
    #[error(
        "the proxy for the Kubernetes API (HTTPS_PROXY, or proxy-url in the kubeconfig) cannot be used: its scheme is \
         {scheme:?}, and http and https are supported; set NO_PROXY to the API server's host to connect without it"
    )]
    Proxy {
        /// The scheme of its address.
        scheme: String,
    },
}

impl ConnectError {
    fn of(error: InferConfigError) -> Self {
        let source = std::error::Error::source(&error);
        let kubeconfig = source.and_then(|source| source.downcast_ref::<KubeconfigError>());
        if matches!(kubeconfig, Some(KubeconfigError::Parse(_))) {
            Self::Kubeconfig
        } else {
            Self::Config(error)
        }
    }
}

/// A client from KUBECONFIG, the user's kubeconfig or the pod's service account. No call is made.
///
/// Nothing is repeated by the client: who calls knows whether and when to. Each call but a watch is limited in time.
///
/// # Errors
///
/// There is no configuration, or it cannot be used.
pub async fn connect() -> Result<Client, ConnectError> {
    let mut config = Config::infer().await.map_err(ConnectError::of)?;
    choose_proxy(&mut config, &variable("HTTPS_PROXY"), &variable("NO_PROXY"))?;
    build(config)
}

/// The environment variable `name`, in capitals or not.
fn variable(name: &str) -> String {
    let mut values =
        [name.to_owned(), name.to_lowercase()].into_iter().filter_map(|name| std::env::var(name).ok());
    values.find(|value| !value.is_empty()).unwrap_or_default()
}

/// Goes by NO_PROXY where the proxy is that of the environment: kube matches that with the proxy's own address.
fn choose_proxy(config: &mut Config, https_proxy: &str, no_proxy: &str) -> Result<(), ConnectError> {
    let Some(proxy) = &config.proxy_url else { return Ok(()) };
    let from_environment = https_proxy.parse().is_ok_and(|uri: Uri| uri == *proxy);
    let is_excepted = || {
        let proxies = Matcher::builder().all("http://proxy").no(no_proxy).build();
        no_proxy.trim() == "*" || proxies.intercept(&config.cluster_url).is_none()
    };
    if from_environment && is_excepted() {
        config.proxy_url = None;
        return Ok(());
    }
    match proxy.scheme_str() {
        Some("http" | "https") => Ok(()),
        // As curl and Go take `host:port`.
        None if proxy.authority().is_some() => {
            config.proxy_url = format!("http://{proxy}").parse().ok();
            Ok(())
        }
        scheme => Err(ConnectError::Proxy { scheme: scheme.unwrap_or_default().to_owned() }),
    }
}

/// The client of `config`.
fn build(mut config: Config) -> Result<Client, ConnectError> {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // An attempt that waits for minutes, unseen, before it is made hides that the server is back.
    config.default_retry = false;
    let token = TokenFile::of(&mut config.auth_info)?;
    let namespace = config.default_namespace.clone();
    // The connection is to the proxy: what is behind it, only the proxy can tell.
    let (client, watches) = if config.proxy_url.is_some() {
        (Client::try_from(config)?, Some(limits::THROUGH_PROXY))
    } else {
        (over(connector(), config)?, None)
    };
    Ok(limits::limited(client, token, namespace, watches))
}

/// TCP that notices when its other end is gone.
fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_keepalive(Some(SILENT));
    connector.set_keepalive_interval(Some(PROBE_INTERVAL));
    connector.set_keepalive_retries(Some(PROBES));
    connector.set_tcp_user_timeout(Some(SILENT + PROBE_INTERVAL * PROBES));
    connector
}

/// kube's own client over this TCP, which kube's builder does not take.
fn over(connector: HttpConnector, config: Config) -> Result<Client, kube::Error> {
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

    /// 429, 503, 504: the server, or what is in front of it, cannot answer now, and may soon.
    pub fn is_temporary(&self) -> bool {
        matches!(self.code(), Some(429 | 503 | 504))
    }

    /// The server can be reached and has answered: another object may fare better.
    pub fn concerns_one_object(&self) -> bool {
        self.code().is_some() && !self.is_temporary()
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
