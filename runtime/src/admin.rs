//! `/healthz`, `/readyz` and `/metrics` over plain HTTP.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::heartbeat::Heartbeat;
use crate::{bind, telemetry};

/// Readiness and liveness of a process: a set of named gates that must open before it is ready, and the
/// heartbeats of its workers.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    closed: Arc<Mutex<Vec<&'static str>>>,
    heartbeats: Arc<Mutex<Vec<Heartbeat>>>,
}

/// One condition of readiness.
#[derive(Clone, Debug)]
pub struct Gate {
    name: &'static str,
    closed: Arc<Mutex<Vec<&'static str>>>,
}

impl Readiness {
    /// Without gates: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a closed gate. `name` completes "waiting for …".
    pub fn gate(&self, name: &'static str) -> Gate {
        let gate = Gate { name, closed: Arc::clone(&self.closed) };
        gate.set(false);
        gate
    }

    /// Makes `/healthz` fail while `heartbeat` is not alive, so that the kubelet restarts the container.
    pub fn supervise(&self, heartbeat: Heartbeat) {
        self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner).push(heartbeat);
    }

    /// Names of the supervised workers that make no progress; empty means alive.
    pub fn stuck(&self, now: Instant) -> Vec<&'static str> {
        let heartbeats = self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner);
        heartbeats.iter().filter(|heartbeat| !heartbeat.is_alive(now)).map(Heartbeat::name).collect()
    }

    /// Names of the closed gates; empty means ready.
    pub fn waiting_for(&self) -> Vec<&'static str> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Gate {
    /// Opens the gate.
    pub fn open(&self) {
        self.set(true);
    }

    /// Opens or closes the gate.
    pub fn set(&self, open: bool) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.retain(|name| *name != self.name);
        if !open {
            closed.push(self.name);
        }
    }
}

/// The endpoint cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve health and metrics on {address} (--admin-address): {source}{}", hint(source))]
pub struct Error {
    address: SocketAddr,
    source: std::io::Error,
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "; another process of this node uses the port: stop it, or give the speakers another one by \
             spec.speaker.adminPort of the LoadBalancerStack"
        }
        _ => "",
    }
}

/// The maximum number of connections; the oldest is closed for a further one.
const MAX_CONNECTIONS: usize = 64;
/// Timeout of the headers of a request, and of a connection.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves until `shutdown` is cancelled. Any host that reaches the node can connect, so connections are
/// limited in number and time.
///
/// # Errors
///
/// The address cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    mut registry: Registry,
    readiness: Readiness,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let failed = |source| Error { address, source };
    telemetry::register(&mut registry);
    let mut listeners = Vec::new();
    for socket in bind::sockets(address, socket2::Type::STREAM).map_err(failed)? {
        listeners.push(TcpListener::from_std(socket.into()).map_err(failed)?);
    }
    let router = router(registry, readiness);
    let accept =
        futures::future::join_all(listeners.into_iter().map(|listener| accept(listener, router.clone())));
    shutdown.run_until_cancelled(accept).await;
    Ok(())
}

/// Serves the connections of `listener`. Dropping the future closes them.
async fn accept(listener: TcpListener, router: Router) {
    let mut running = JoinSet::new();
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for health and metrics");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        while running.try_join_next().is_some() {}
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= MAX_CONNECTIONS
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        let router = router.clone();
        connections.push_back(running.spawn(async move {
            // An error or timeout affects only this client.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, serve_connection(stream, router)).await;
        }));
    }
}

async fn serve_connection(stream: TcpStream, router: Router) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT);
    let service = TowerToHyperService::new(router);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection for health and metrics failed");
    }
}

fn router(registry: Registry, readiness: Readiness) -> Router {
    let registry = Arc::new(registry);
    let liveness = readiness.clone();
    Router::new()
        .route("/healthz", get(move || std::future::ready(alive(&liveness))))
        .route("/readyz", get(move || std::future::ready(ready(&readiness))))
        .route("/metrics", get(move || std::future::ready(metrics(&registry))))
}

fn alive(readiness: &Readiness) -> Response {
    status_response("no progress: ", &readiness.stuck(Instant::now()))
}

fn ready(readiness: &Readiness) -> Response {
    status_response("waiting for ", &readiness.waiting_for())
}

/// 200 without `reasons`, else 503 that lists them after `prefix`.
fn status_response(prefix: &str, reasons: &[&str]) -> Response {
    match reasons {
        [] => "ok\n".into_response(),
        reasons => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{prefix}{}\n", reasons.join(", "))).into_response()
        }
    }
}

fn metrics(registry: &Registry) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn a_process_is_ready_when_its_last_gate_opens_and_lists_the_closed_ones() {
        let readiness = Readiness::new();
        assert_eq!(ready(&readiness).status(), StatusCode::OK);
        let (stores, adoption) = (readiness.gate("the first lists"), readiness.gate("adoption"));
        stores.open();
        assert_eq!(readiness.waiting_for(), ["adoption"]);
        assert_eq!(ready(&readiness).status(), StatusCode::SERVICE_UNAVAILABLE);
        adoption.open();
        assert_eq!(ready(&readiness).status(), StatusCode::OK);
        adoption.set(false);
        assert_eq!(ready(&readiness).status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_is_not_healthy_while_a_supervised_worker_makes_no_progress() {
        let readiness = Readiness::new();
        let worker = Heartbeat::new("driver", Duration::from_secs(10));
        readiness.supervise(worker.clone());
        assert_eq!(alive(&readiness).status(), StatusCode::OK);
        worker.beat();
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(alive(&readiness).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(readiness.stuck(Instant::now()), ["driver"]);
        worker.beat();
        assert_eq!(alive(&readiness).status(), StatusCode::OK);
    }

    /// A free port, served in the background.
    fn served() -> u16 {
        let socket = bind::sockets("[::]:0".parse().unwrap(), socket2::Type::STREAM).unwrap().remove(0);
        let listener = TcpListener::from_std(socket.into()).unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(accept(listener, router(Registry::default(), Readiness::new())));
        port
    }

    async fn get(port: u16) -> String {
        let mut stream = TcpStream::connect(("::1", port)).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn connections_that_send_nothing_do_not_block_others_and_are_limited_in_number() {
        let port = served();
        let mut silent = Vec::new();
        for _ in 0..2 * MAX_CONNECTIONS {
            silent.push(TcpStream::connect(("::1", port)).await.unwrap());
        }
        assert!(get(port).await.starts_with("HTTP/1.1 200"));
        // The oldest connections were closed.
        for stream in &mut silent[..MAX_CONNECTIONS] {
            assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
        }
    }

    #[tokio::test]
    async fn a_port_that_another_process_uses_is_an_error_that_names_the_setting() {
        let other = bind::sockets("[::]:0".parse().unwrap(), socket2::Type::STREAM).unwrap();
        let address = other[0].local_addr().unwrap().as_socket().unwrap();
        let served = serve(address, Registry::default(), Readiness::new(), CancellationToken::new()).await;
        let error = served.unwrap_err().to_string();
        assert!(error.contains("--admin-address") && error.contains("spec.speaker.adminPort"), "{error}");
    }
}
